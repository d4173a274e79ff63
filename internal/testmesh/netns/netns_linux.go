// Package netns makes network namespaces for tests and joins them with veth pairs. It needs root: what it lacks fails the test and says what to do.
//
// A namespace lives as long as its test. Nothing of it has a name in the file system, so that a test that is killed leaves nothing behind.
package netns

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// NS is one network namespace with a loopback interface that is up.
type NS struct {
	t    testing.TB
	name string
	file *os.File
}

// New makes a namespace; name is for messages.
func New(t testing.TB, name string) *NS {
	t.Helper()
	n := &NS{t: t, name: name}
	err := locked(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot make a network namespace: %w; run the test as root: sudo make test-net", err)
		}
		var err error
		n.file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.file.Close() })
	n.Do(func() error {
		for _, which := range []string{"all", "default"} { // no waiting for IPv6 addresses to be found free
			if err := os.WriteFile("/proc/sys/net/ipv6/conf/"+which+"/accept_dad", []byte("0"), 0); err != nil {
				return err
			}
		}
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		return err
	})
	return n
}

// locked runs f on a thread that dies with it.
func locked(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		done <- f()
	}()
	return <-done
}

// Path is a path of the namespace, for this process and its children.
func (n *NS) Path() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), n.file.Fd()) }

// Try runs f inside the namespace. What it opens stays there; goroutines it starts do not.
func (n *NS) Try(f func() error) error {
	return locked(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("cannot enter namespace %s: %w", n.name, err)
		}
		return f()
	})
}

// Do is Try where an error fails the test.
func (n *NS) Do(f func() error) {
	n.t.Helper()
	if err := n.Try(f); err != nil {
		n.t.Fatalf("in namespace %s: %v", n.name, err)
	}
}

// Start starts cmd inside the namespace.
func (n *NS) Start(cmd *exec.Cmd) error { return n.Try(cmd.Start) }

// Run runs a program inside the namespace as the user and group uid, and returns what it printed.
func (n *NS) Run(uid uint32, name string, args ...string) (string, error) {
	if _, err := exec.LookPath(name); err != nil {
		n.t.Fatalf("%s is missing: %v. Debian/Ubuntu: apt-get install nftables iptables iproute2 curl postgresql-client", name, err)
	}
	cmd := exec.Command(name, args...)
	if uid != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := n.Start(cmd); err != nil {
		return "", err
	}
	err := cmd.Wait()
	return out.String(), err
}

// Must is Run as root where an error fails the test.
func (n *NS) Must(name string, args ...string) string {
	n.t.Helper()
	out, err := n.Run(0, name, args...)
	if err != nil {
		n.t.Fatalf("in namespace %s: %s %v: %v\n%s", n.name, name, args, err, out)
	}
	return out
}

// Listen listens inside the namespace until the test ends.
func (n *NS) Listen(address string) net.Listener {
	n.t.Helper()
	var l net.Listener
	n.Do(func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	n.t.Cleanup(func() { _ = l.Close() })
	return l
}

// Pair joins a and b with a veth pair; the addresses are of its two ends.
func Pair(a, b *NS, atA, atB []netip.Prefix) {
	a.t.Helper()
	const name = "eth0"
	a.Do(func() error {
		attrs := netlink.NewLinkAttrs()
		attrs.Name = name
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name, PeerNamespace: netlink.NsFd(int(b.file.Fd()))})
	})
	each := func(f func(ns *NS, link netlink.Link) error) {
		for _, ns := range []*NS{a, b} {
			ns.Do(func() error {
				link, err := netlink.LinkByName(name)
				if err != nil {
					return err
				}
				return f(ns, link)
			})
		}
	}
	each(func(_ *NS, link netlink.Link) error { return netlink.LinkSetUp(link) })
	// The kernel takes up to a second to find that both ends are up, and does not answer for IPv6 addresses before.
	testmesh.Eventually(a.t, "both ends of the veth pair are up", func() bool {
		up := 0
		each(func(_ *NS, link netlink.Link) error {
			if link.Attrs().OperState == netlink.OperUp {
				up++
			}
			return nil
		})
		return up == 2
	})
	each(func(ns *NS, link netlink.Link) error {
		addresses := atA
		if ns == b {
			addresses = atB
		}
		for _, p := range addresses {
			addr := &netlink.Addr{IPNet: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}, Flags: unix.IFA_F_NODAD}
			if err := netlink.AddrAdd(link, addr); err != nil {
				return fmt.Errorf("address %s: %w", p, err)
			}
		}
		return nil
	})
}
