//go:build linux && testnet

package intercept

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/testmesh/netns"
)

// ruleset is all that an installation may touch, as the kernel's own tools print it.
func ruleset(n *netns.NS) string {
	var b strings.Builder
	for _, args := range [][]string{
		{"nft", "list", "ruleset"},
		{"ip", "-4", "rule"},
		{"ip", "-6", "rule"},
		{"ip", "-4", "route", "show", "table", "all"},
		{"ip", "-6", "route", "show", "table", "all"},
	} {
		fmt.Fprintf(&b, "$ %s\n%s", strings.Join(args, " "), n.Must(args[0], args[1:]...))
	}
	return b.String()
}

// others puts into n what is not Tulle's, next to what will be.
func others(n *netns.NS) {
	n.Must("nft", "add table inet other; add chain inet other output { type nat hook output priority -100; }; add rule inet other output tcp dport 7 redirect to :8")
	n.Must("ip", "rule", "add", "fwmark", "0x7", "table", "15006", "priority", "15006")
	n.Must("ip", "route", "add", "unreachable", "192.0.2.0/24", "table", "15006")
	n.Must("iptables", "-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "7", "-j", "RETURN")
	for _, program := range []string{"iptables", "ip6tables"} { // iptables makes its own tables at the first look and keeps them
		for _, t := range []string{"nat", "mangle"} {
			n.Must(program, "-t", t, "-N", "X")
			n.Must(program, "-t", t, "-A", "PREROUTING", "-j", "X")
			n.Must(program, "-t", t, "-A", "OUTPUT", "-j", "X")
		}
	}
}

func install(t *testing.T, n *netns.NS, c Config) {
	t.Helper()
	c.Netns = n.Path()
	if _, err := Install(c); err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, n *netns.NS) {
	t.Helper()
	if err := Remove(n.Path()); err != nil {
		t.Fatal(err)
	}
}

// What --dry-run prints, what nft makes of it, what was installed through netlink and what --show reads back are one and the same.
func TestTextIsWhatIsInstalled(t *testing.T) {
	for name, c := range configs(t) {
		t.Run(name, func(t *testing.T) {
			ours, nfts := netns.New(t, "ours"), netns.New(t, "nft's")
			file := t.TempDir() + "/rules"
			if err := os.WriteFile(file, []byte(c.Text()), 0o600); err != nil {
				t.Fatal(err)
			}
			nfts.Must("nft", "-f", file)
			install(t, ours, c)
			got, want := ours.Must("nft", "list", "ruleset"), nfts.Must("nft", "list", "ruleset")
			if got != want {
				t.Errorf("installed:\n%s\nof the text:\n%s", got, want)
			}
			shown, err := Show(ours.Path())
			if err != nil || shown.Backend != NFTables || shown.Text != c.Text() {
				t.Errorf("shown: %v %q\n%s\nwant\n%s", err, shown.Backend, shown.Text, c.Text())
			}
			for _, line := range routingLines(c.routed(), c.routed()) {
				family, words := strings.Fields(line)[1], strings.Fields(line)
				if words[2] == "rule" && !strings.Contains(ours.Must("ip", family, "rule"), "fwmark 0x74756c6c lookup 15006") ||
					words[2] == "route" && !strings.Contains(ours.Must("ip", family, "route", "show", "table", "15006"), "local default dev lo") {
					t.Errorf("not installed: %s", line)
				}
			}
		})
	}
}

// Whatever was installed, removing it leaves what was there before, a hundred times; installing it twice is installing it once.
func TestRemovedExactly(t *testing.T) {
	for _, backend := range []Backend{NFTables, IPTables} {
		t.Run(string(backend), func(t *testing.T) {
			n := netns.New(t, "n")
			others(n)
			before := ruleset(n)
			all := configs(t)
			names := []string{"pod", "full", "host", "picked", "outbound", "inbound"}
			for i := range 100 {
				c := all[names[i%len(names)]]
				c.Backend = backend
				install(t, n, c)
				if i < len(names) {
					once := ruleset(n)
					if once == before {
						t.Fatal("nothing was installed")
					}
					install(t, n, all[names[(i+1)%len(names)]]) // of the default backend
					install(t, n, c)
					if twice := ruleset(n); twice != once {
						t.Fatalf("%d: installed once:\n%s\nand again:\n%s", i, once, twice)
					}
				}
				remove(t, n)
				if after := ruleset(n); after != before {
					t.Fatalf("%d: before:\n%s\nafter:\n%s", i, before, after)
				}
			}
			remove(t, n) // nothing
			if shown, err := Show(n.Path()); err != nil || shown != (Installed{}) {
				t.Errorf("shown after removal: %+v, %v", shown, err)
			}
		})
	}
}

// Long lists fit, into the kernel's answer too.
func TestLongLists(t *testing.T) {
	for _, backend := range []Backend{NFTables, IPTables} {
		t.Run(string(backend), func(t *testing.T) {
			n := netns.New(t, "n")
			c := configs(t)["pod"]
			c.Backend = backend
			for i := range maxRules - 16 {
				c.ExcludeOutboundCIDRs = append(c.ExcludeOutboundCIDRs, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
			}
			install(t, n, c)
			shown, err := Show(n.Path())
			if got := strings.Count(shown.Text, "/24"); err != nil || got != maxRules-16 {
				t.Errorf("%d of %d prefixes are in force, %v", got, maxRules-16, err)
			}
			remove(t, n)
			if c.ExcludeOutboundCIDRs = append(c.ExcludeOutboundCIDRs, c.ExcludeOutboundCIDRs...); c.Check() == nil {
				t.Error("too many rules are allowed")
			}
		})
	}
}

// Where one family cannot have its rules, the other does not get them.
func TestIPTablesOneFamily(t *testing.T) {
	n := netns.New(t, "n")
	installed, err := exec.LookPath("ip6tables-restore")
	if err != nil {
		t.Fatalf("%v: Debian/Ubuntu: apt-get install iptables", err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, filepath.Base(installed)), []byte("#!/bin/sh\necho no ip6table_nat >&2; exit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	c := configs(t)["full"]
	c.Backend, c.Netns = IPTables, n.Path()
	if _, err := Install(c); err == nil || !strings.Contains(err.Error(), "no ip6table_nat") {
		t.Errorf("installed: %v", err)
	}
	if got := n.Must("iptables-save"); strings.Contains(got, "TULLE") {
		t.Errorf("IPv4 has rules:\n%s", got)
	}
}

// An installation that is killed anywhere is removed like a whole one.
func TestRemovedAfterKill(t *testing.T) {
	steps := map[Backend][]string{
		NFTables: {"routing IPv4", "routing IPv6", "nftables"},
		IPTables: {"routing IPv4", "routing IPv6", "iptables IPv4", "iptables IPv6"},
	}
	for backend, list := range steps {
		for _, step := range list {
			t.Run(string(backend)+", "+step, func(t *testing.T) {
				n := netns.New(t, "n")
				others(n)
				before := ruleset(n)
				cmd := exec.Command("/proc/self/exe", "-test.run", "^TestInstallAndStop$")
				cmd.Env = append(os.Environ(), "TULLE_TEST_NETNS="+n.Path(), "TULLE_TEST_STEP="+step, "TULLE_TEST_BACKEND="+string(backend))
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				if line, err := bufio.NewReader(out).ReadString('\n'); line != "reached\n" {
					t.Fatalf("the process did not come so far: %q, %v", line, err)
				}
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
				_ = cmd.Wait()
				if ruleset(n) == before {
					t.Fatal("nothing was left behind: the test tests nothing")
				}
				remove(t, n)
				if after := ruleset(n); after != before {
					t.Errorf("before:\n%s\nafter:\n%s", before, after)
				}
			})
		}
	}
}

// TestInstallAndStop is the process that TestRemovedAfterKill kills.
func TestInstallAndStop(t *testing.T) {
	step := os.Getenv("TULLE_TEST_STEP")
	if step == "" {
		return // it is a part of the other
	}
	c := configs(t)["full"]
	c.Netns, c.Backend = os.Getenv("TULLE_TEST_NETNS"), Backend(os.Getenv("TULLE_TEST_BACKEND"))
	c.stop = func(at string) {
		if at == step {
			fmt.Println("reached")
			select {}
		}
	}
	_, err := Install(c)
	t.Fatalf("came to the end: %v", err)
}

// TestUnprivileged is also the process that it starts without privileges.
func TestUnprivileged(t *testing.T) {
	if os.Geteuid() != 0 {
		_, err := Install(configs(t)["pod"])
		fmt.Println(err)
		fmt.Println(Remove(""))
		return
	}
	n := netns.New(t, "n")
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestUnprivileged$")
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	var out strings.Builder
	cmd.Stdout, cmd.Dir = &out, "/"
	if err := n.Start(cmd); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for _, want := range []string{"cannot install interception: ", "cannot remove interception: ", "CAP_NET_ADMIN", "explicit mode"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is missing in %q", want, out.String())
		}
	}
}

func TestNetnsErrors(t *testing.T) {
	c := configs(t)["pod"]
	for path, want := range map[string]string{"/var/run/netns/no-such": "/proc/PID/ns/net", "/dev/null": "cannot enter it"} {
		c.Netns = path
		if _, err := Install(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}

// A world of two namespaces: the application's, whose traffic is taken, and the peer's.
type world struct {
	t         *testing.T
	app, peer *netns.NS
}

var (
	app4, peer4 = netip.MustParsePrefix("10.71.0.1/24"), netip.MustParsePrefix("10.71.0.2/24")
	app6, peer6 = netip.MustParsePrefix("fd71::1/64"), netip.MustParsePrefix("fd71::2/64")
)

func newWorld(t *testing.T) world {
	w := world{t, netns.New(t, "app"), netns.New(t, "peer")}
	netns.Pair(w.app, w.peer, []netip.Prefix{app4, app6}, []netip.Prefix{peer4, peer6})
	return w
}

// say accepts connections and tells each who it has met; of a transparent or redirected one also where it was to go.
func say(l net.Listener, name string) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			local, remote := c.LocalAddr().(*net.TCPAddr), c.RemoteAddr().(*net.TCPAddr)
			fmt.Fprintf(c, "%s at port %d for %s", name, local.Port, remote.IP)
			_ = c.Close()
		}
	}()
}

// call asks as uid who answers at address.
func (w world) call(from *netns.NS, uid uint32, address string) string {
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestCall$")
	cmd.Env, cmd.Dir = append(os.Environ(), "TULLE_TEST_CALL="+address), "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	var out strings.Builder
	cmd.Stdout = &out
	if err := from.Start(cmd); err != nil {
		w.t.Fatal(err)
	}
	_ = cmd.Wait()
	line, _, _ := strings.Cut(out.String(), "\n")
	return line
}

// TestCall is the process that call starts.
func TestCall(t *testing.T) {
	address := os.Getenv("TULLE_TEST_CALL")
	if address == "" {
		return // it is a part of others
	}
	c, err := net.DialTimeout("tcp", address, time.Second)
	if err != nil {
		var ne net.Error
		fmt.Println(map[bool]string{true: "time-out", false: "refused"}[errors.As(err, &ne) && ne.Timeout()])
		return
	}
	b, _ := io.ReadAll(c)
	fmt.Println(string(b))
}

func TestTaken(t *testing.T) {
	for _, backend := range []Backend{NFTables, IPTables} {
		for _, mode := range []Mode{Redirect, TPROXY} {
			t.Run(fmt.Sprintf("%s, %s", backend, mode), func(t *testing.T) {
				w := newWorld(t)
				say(w.app.Listen(":15001"), "outbound")
				say(w.app.Listen(":8080"), "application")
				say(w.app.Listen(":22"), "application")
				say(w.app.Listen(":8082"), "application")
				for _, port := range []string{":80", ":25", ":9050"} {
					say(w.peer.Listen(port), "peer")
				}
				if mode == Redirect {
					say(w.app.Listen(":15006"), "inbound")
				}
				c := Config{
					Backend: backend, OutboundPort: 15001, InboundPort: 15006, InboundMode: mode, SidecarUID: 1337,
					ExcludeUIDs: []Range{{500, 599}}, ExcludeGIDs: []Range{{600, 600}},
					ExcludeOutboundPorts: []Range{{25, 25}, {9000, 9100}}, ExcludeInboundPorts: []Range{{22, 22}},
				}
				install(t, w.app, c)
				for _, host := range []struct{ app, peer netip.Addr }{{app4.Addr(), peer4.Addr()}, {app6.Addr(), peer6.Addr()}} {
					at := func(a netip.Addr, port uint16) string { return netip.AddrPortFrom(a, port).String() }
					local := "for " + host.app.String()
					for _, x := range []struct {
						uid  uint32
						to   string
						want string
					}{
						{1000, at(host.peer, 80), "outbound at port 15001 " + local},
						{0, at(host.peer, 80), "outbound at port 15001 " + local},
						{1000, at(host.peer, 7777), "outbound at port 15001 " + local}, // nobody is there; the sidecar finds out
						{1337, at(host.peer, 80), "peer at port 80 " + local},
						{550, at(host.peer, 80), "peer at port 80 " + local},
						{600, at(host.peer, 80), "peer at port 80 " + local},
						{1000, at(host.peer, 25), "peer at port 25 " + local},
						{1000, at(host.peer, 9050), "peer at port 9050 " + local},
						{1000, at(host.app, 8080), "application at port 8080 " + local},
						{1000, net.JoinHostPort("localhost", "8080"), "application at port 8080 for 127.0.0.1"},
					} {
						if got := w.call(w.app, x.uid, x.to); got != x.want && !(strings.HasPrefix(x.to, "localhost") && strings.HasPrefix(got, "application at port 8080")) {
							t.Errorf("out to %s as %d: %q, want %q", x.to, x.uid, got, x.want)
						}
					}
				}
				if mode == TPROXY { // without a sidecar nothing comes through
					for _, host := range []netip.Addr{app4.Addr(), app6.Addr()} {
						if got := w.call(w.peer, 0, netip.AddrPortFrom(host, 8080).String()); got != "time-out" {
							t.Errorf("in to %s without a sidecar: %q", host, got)
						}
					}
					say(transparent(t, w.app, "[::]:15006"), "inbound")
				}
				port := map[Mode]int{Redirect: 15006, TPROXY: 8080}[mode] // the original one stays with TPROXY
				for _, host := range []struct{ app, peer netip.Addr }{{app4.Addr(), peer4.Addr()}, {app6.Addr(), peer6.Addr()}} {
					caller := " for " + host.peer.String()
					for to, want := range map[uint16]string{
						8080: fmt.Sprintf("inbound at port %d%s", port, caller),
						22:   "application at port 22" + caller,
					} {
						if got := w.call(w.peer, 0, netip.AddrPortFrom(host.app, to).String()); got != want {
							t.Errorf("in to %s:%d: %q, want %q", host.app, to, got, want)
						}
					}
				}
				remove(t, w.app)
				if got, want := w.call(w.peer, 0, netip.AddrPortFrom(app4.Addr(), 8080).String()), "application at port 8080 for "+peer4.Addr().String(); got != want {
					t.Errorf("after removal: %q, want %q", got, want)
				}
			})
		}
	}
}

// transparent listens for connections to any address.
func transparent(t *testing.T, n *netns.NS, address string) net.Listener {
	t.Helper()
	lc := net.ListenConfig{Control: func(_, _ string, raw syscall.RawConn) error {
		var err error
		if e := raw.Control(func(fd uintptr) {
			err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
			if err == nil {
				err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
			}
		}); e != nil {
			return e
		}
		return err
	}}
	var l net.Listener
	n.Do(func() (err error) {
		l, err = lc.Listen(t.Context(), "tcp", address)
		return err
	})
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// What the sidecar says to its application in a caller's name is answered to the sidecar.
func TestAnswersComeBack(t *testing.T) {
	for _, backend := range []Backend{NFTables, IPTables} {
		t.Run(string(backend), func(t *testing.T) {
			w := newWorld(t)
			say(w.app.Listen(":8080"), "application")
			install(t, w.app, Config{Backend: backend, InboundPort: 15006, InboundMode: TPROXY, SidecarUID: 0}) // the dial below is of root
			for _, a := range []struct{ caller, app netip.Addr }{{peer4.Addr(), app4.Addr()}, {peer6.Addr(), app6.Addr()}} {
				d := net.Dialer{
					Timeout: time.Second, LocalAddr: &net.TCPAddr{IP: a.caller.AsSlice()},
					Control: func(_, _ string, raw syscall.RawConn) error {
						var err error
						if e := raw.Control(func(fd uintptr) {
							if a.caller.Is4() {
								err = unix.SetsockoptInt(int(fd), unix.SOL_IP, unix.IP_TRANSPARENT, 1)
							} else {
								err = unix.SetsockoptInt(int(fd), unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1)
							}
						}); e != nil {
							return e
						}
						return err
					},
				}
				w.app.Do(func() error {
					c, err := d.DialContext(t.Context(), "tcp", netip.AddrPortFrom(a.app, 8080).String())
					if err != nil {
						return err
					}
					defer c.Close()
					b, err := io.ReadAll(c)
					if want := "application at port 8080 for " + a.caller.String(); string(b) != want {
						t.Errorf("%q, want %q", b, want)
					}
					return err
				})
			}
		})
	}
}

// Connections that were open before the rules go on, whoever speaks first after them. Conntrack, which the rules bring into a fresh namespace, has never met them.
func TestOpenBefore(t *testing.T) {
	for _, backend := range []Backend{NFTables, IPTables} {
		for _, mode := range []Mode{Redirect, TPROXY} {
			t.Run(fmt.Sprintf("%s, %s", backend, mode), func(t *testing.T) {
				w := newWorld(t)
				type ends struct {
					name        string
					first, then net.Conn // who speaks first
				}
				var open []ends
				connect := func(from, at *netns.NS, host netip.Addr) (out, in net.Conn) {
					l := at.Listen(netip.AddrPortFrom(host, 8080).String())
					defer l.Close()
					from.Do(func() (err error) {
						out, err = net.DialTimeout("tcp", l.Addr().String(), 10*time.Second) // the first SYN may be ahead of the link
						return err
					})
					in, err := l.Accept()
					if err != nil {
						t.Fatal(err)
					}
					t.Cleanup(func() { _, _ = out.Close(), in.Close() })
					return out, in
				}
				for _, host := range []struct{ app, peer netip.Addr }{{app4.Addr(), peer4.Addr()}, {app6.Addr(), peer6.Addr()}} {
					out, in := connect(w.app, w.peer, host.peer)
					open = append(open, ends{"out, the application first", out, in})
					out, in = connect(w.app, w.peer, host.peer)
					open = append(open, ends{"out, the peer first", in, out})
					out, in = connect(w.peer, w.app, host.app)
					open = append(open, ends{"in, the peer first", out, in})
					out, in = connect(w.peer, w.app, host.app)
					open = append(open, ends{"in, the application first", in, out})
				}
				install(t, w.app, Config{Backend: backend, OutboundPort: 15001, InboundPort: 15006, InboundMode: mode, SidecarUID: 1337})
				for _, e := range open {
					for i, c := range []struct{ from, to net.Conn }{{e.first, e.then}, {e.then, e.first}, {e.first, e.then}} {
						b := make([]byte, 5)
						_ = c.to.SetReadDeadline(time.Now().Add(3 * time.Second))
						if _, err := io.WriteString(c.from, "hello"); err != nil {
							t.Errorf("%s: write %d: %v", e.name, i, err)
							break
						}
						if _, err := io.ReadFull(c.to, b); err != nil || string(b) != "hello" {
							t.Errorf("%s: read %d: %q, %v", e.name, i, b, err)
							break
						}
					}
				}
			})
		}
	}
}

// programs puts scripts in place of iptables' programs, ahead of the path.
func programs(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	for _, f := range families {
		for _, verb := range []string{"save", "restore"} {
			if err := os.WriteFile(dir+"/"+f.program(verb), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

// routed reports whether there is routing policy of Tulle in n.
func routed(n *netns.NS) bool {
	return strings.Contains(n.Must("ip", "rule")+n.Must("ip", "-6", "rule"), "0x74756c6c") || n.Must("ip", "route", "show", "table", "15006") != ""
}

// Where iptables fails, what is nftables' is installed and removed all the same.
func TestIPTablesFails(t *testing.T) {
	tproxy, plain := configs(t)["inbound"], configs(t)["pod"]
	fresh, used := netns.New(t, "fresh"), netns.New(t, "used")
	for _, program := range []string{"iptables", "ip6tables"} {
		used.Must(program, "-t", "nat", "-A", "OUTPUT", "-j", "RETURN")
	}
	programs(t, "echo broken >&2; exit 1")

	// It is not asked where it has never been.
	install(t, fresh, tproxy)
	if shown, err := Show(fresh.Path()); err != nil || shown.Text != tproxy.Text() {
		t.Errorf("shown: %v\n%s", err, shown.Text)
	}
	install(t, fresh, plain)
	remove(t, fresh)
	if got := fresh.Must("nft", "list", "ruleset"); got != "" || routed(fresh) {
		t.Errorf("left: %s", got)
	}

	for i, c := range []Config{tproxy, plain} { // the second needs no routing policy
		c.Netns = used.Path()
		if _, err := Install(c); err == nil || !strings.Contains(err.Error(), "in force") || !strings.Contains(err.Error(), "iptables-save") || !strings.Contains(err.Error(), "ip6tables-save") {
			t.Errorf("installed: %v", err)
		}
		if !strings.Contains(used.Must("nft", "list", "tables"), "table inet tulle") || routed(used) != (i == 0) {
			t.Errorf("%d: not in force, or routing policy is wrong", i)
		}
	}
	install := tproxy
	install.Netns = used.Path()
	_, _ = Install(install)
	if err := Remove(used.Path()); err == nil || !strings.Contains(err.Error(), "iptables-save") {
		t.Errorf("removed: %v", err)
	}
	if got := used.Must("nft", "list", "tables"); strings.Contains(got, "tulle") || routed(used) {
		t.Errorf("left: %s", got)
	}
}

// Chains that it cannot remove are no success.
func TestIPTablesGone(t *testing.T) {
	n := netns.New(t, "n")
	c := configs(t)["full"]
	c.Backend = IPTables
	install(t, n, c)
	path := os.Getenv("PATH")
	t.Setenv("PATH", t.TempDir())
	err := Remove(n.Path())
	t.Setenv("PATH", path)
	if err == nil || !strings.Contains(err.Error(), "TULLE_OUTBOUND") || !strings.Contains(err.Error(), "ip6tables-restore") || !strings.Contains(err.Error(), "apt-get install iptables") {
		t.Errorf("removed without iptables: %v", err)
	}
	if routed(n) {
		t.Error("routing policy is left")
	}
	remove(t, n)
	if got := n.Must("nft", "list", "ruleset"); strings.Contains(got, "TULLE") {
		t.Errorf("left: %s", got)
	}
}

// Where IPv6 is switched off, IPv4 is taken all the same, and all is removed.
func TestIPv6Off(t *testing.T) {
	for _, backend := range []Backend{NFTables, IPTables} {
		t.Run(string(backend), func(t *testing.T) {
			n := netns.New(t, "n")
			n.Do(func() error { return os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0o644) })
			c := configs(t)["full"]
			c.Backend = backend
			install(t, n, c)
			if !routed(n) || strings.Contains(n.Must("ip", "-6", "rule"), "15006") {
				t.Error("routing policy is not IPv4's alone")
			}
			remove(t, n)
			if routed(n) {
				t.Error("routing policy is left")
			}
		})
	}
}
