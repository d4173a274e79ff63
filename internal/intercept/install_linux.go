package intercept

import (
	"errors"
	"fmt"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// Install puts the rules of c in force, in place of what an earlier Install has left, and says who carries them. An error leaves what was in force
// before, or, where the text says so, a part that Remove removes.
func Install(c Config) (Backend, error) {
	c = c.WithDefaults()
	if err := c.Check(); err != nil {
		return "", err
	}
	var used Backend
	err := inside(c.Netns, func() error {
		var err error
		used, err = c.install()
		return err
	})
	if err != nil {
		return "", fmt.Errorf("cannot install interception: %w", err)
	}
	return used, nil
}

func (c Config) install() (Backend, error) {
	backend, err := c.choose()
	if err != nil {
		return "", err
	}
	// Routing policy first: without marks it does nothing. Then the rules; then what only an earlier Config needed.
	if c.routed() {
		for _, f := range families {
			if f.routed() {
				if err := f.addRouting(); err != nil {
					return "", err
				}
				c.reached("routing " + f.String())
			}
		}
	}
	if backend == NFTables {
		if err := setTable(c.chains()); err != nil {
			return "", fmt.Errorf("nftables: %w%s", err, adviceFor(err))
		}
		c.reached("nftables")
		err = removeIPTables()
	} else {
		if err := c.setIPTables(); err != nil {
			return "", err
		}
		err = removeTable()
	}
	if !c.routed() {
		err = errors.Join(err, removeRouting())
	}
	if err != nil {
		return "", fmt.Errorf("the rules are in force (%s), but what an earlier installation has left could not be removed: %w", backend, err)
	}
	return backend, nil
}

// setIPTables puts the rules of both families in force, after a look whether both can be: there is no transaction over two families.
func (c Config) setIPTables() error {
	for _, f := range families {
		if f.present() {
			if err := f.setIPTables(c.chains(), true); err != nil {
				return err
			}
		}
	}
	done := ""
	for _, f := range families {
		if !f.present() {
			continue
		}
		if err := f.setIPTables(c.chains(), false); err != nil {
			return fmt.Errorf("%w\n%sa part of these may be in force: mend it and install again, or undo it with tulle intercept --remove", err, done)
		}
		done += f.String() + " is in force; "
		c.reached("iptables " + f.String())
	}
	return nil
}

// reached lets a test stop the process here.
func (c Config) reached(step string) {
	if c.stop != nil {
		c.stop(step)
	}
}

// choose finds out who carries the rules.
func (c Config) choose() (Backend, error) {
	_, err := hasTable()
	missing := func() error {
		for _, f := range families {
			if f.present() && !f.iptablesThere() {
				return fmt.Errorf("%s and %s are not installed (Debian/Ubuntu: apt-get install iptables)", f.program("restore"), f.program("save"))
			}
		}
		return nil
	}
	switch {
	case c.Backend == IPTables:
		return IPTables, missing()
	case err == nil:
		return NFTables, nil
	case errors.Is(err, unix.EPERM) || c.Backend == NFTables:
		return "", fmt.Errorf("nftables: %w%s", err, adviceFor(err))
	}
	if lacking := missing(); lacking != nil {
		return "", fmt.Errorf("the kernel has no nftables (%w; Linux 5.2 and CONFIG_NF_TABLES_INET), and %w", err, lacking)
	}
	return IPTables, nil
}

func adviceFor(err error) string {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return "; it takes CAP_NET_ADMIN in the user namespace that owns the network namespace"
	case errors.Is(err, unix.ENOBUFS), errors.Is(err, unix.EMSGSIZE):
		return "; the kernel's answer did not fit into a netlink buffer, so the rules may be in force: look with tulle intercept --show, and shorten the lists"
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return "; the kernel lacks a part: it takes Linux 5.2 with NFT_NAT, NFT_REDIR, NFT_FIB_INET and, for TPROXY, NFT_TPROXY and NFT_SOCKET; or use --backend iptables"
	}
	return ""
}

// removeTable removes Tulle's table of nftables. A kernel without nftables has none.
func removeTable() error {
	there, err := hasTable()
	switch {
	case err != nil && noNFTables(err):
		return nil
	case there:
		err = setTable(nil)
	}
	if err != nil {
		return fmt.Errorf("nftables: %w%s", err, adviceFor(err))
	}
	return nil
}

// noNFTables reports whether err, of a list of tables, is how the kernel says that it lacks nftables: no such protocol of netlink, or no such subsystem of it (EINVAL).
func noNFTables(err error) bool {
	return errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EINVAL)
}

// removeIPTables removes Tulle's chains of iptables, of one family also where another's fail.
func removeIPTables() error {
	return eachIPTables(func(f family) error { return f.setIPTables(nil, false) })
}

// eachIPTables does do where iptables has been used, and joins the errors. Elsewhere iptables is not called: it would make tables at the first look, and its older variant may not work at all.
func eachIPTables(do func(f family) error) error {
	var errs []error
	for _, f := range families {
		used := f.present() && f.iptablesUsed()
		switch {
		case !used:
		case !f.iptablesThere():
			chains, err := f.compatChains()
			if len(chains) > 0 {
				err = fmt.Errorf("%s: the chains %s are there, and %s and %s, which show and remove them, are not: install iptables (Debian/Ubuntu: apt-get install iptables), and do it again",
					f, strings.Join(chains, ", "), f.program("save"), f.program("restore"))
			}
			errs = append(errs, err)
		default:
			errs = append(errs, do(f))
		}
	}
	return errors.Join(errs...)
}

func removeRouting() error {
	var errs []error
	for _, f := range families {
		if f.present() {
			errs = append(errs, f.removeRouting())
		}
	}
	return errors.Join(errs...)
}

// Remove removes what Install has left in the network namespace at path netns ("" for that of the process), however far it came; nothing when there is nothing. What one part of it cannot
// do does not keep it from the others.
func Remove(netns string) error {
	err := inside(netns, func() error {
		return errors.Join(removeTable(), removeIPTables(), removeRouting()) // routing last: while packets are marked they must find their way
	})
	if err != nil {
		return fmt.Errorf("cannot remove interception: %w", err)
	}
	return nil
}

// Show reads from the kernel what is installed in the network namespace at path netns ("" for that of the process).
func Show(netns string) (Installed, error) {
	var out Installed
	err := inside(netns, func() error {
		text, err := readTable()
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("nftables: %w%s", err, adviceFor(err))
		}
		if out.Text = text; text != "" {
			out.Backend = NFTables
		}
		if err := eachIPTables(func(f family) error {
			text, err := f.readIPTables()
			if out.Text += text; text != "" && out.Backend == "" {
				out.Backend = IPTables
			}
			return err
		}); err != nil {
			return err
		}
		policy := map[family]bool{}
		for _, f := range families {
			if !f.present() {
				continue
			}
			rules, routes, err := f.ownRouting()
			if err != nil {
				return err
			}
			policy[f] = len(rules) > 0 && len(routes) > 0
		}
		if lines := routingLines(policy[ipv4], policy[ipv6]); len(lines) > 0 {
			out.Text += "# " + strings.Join(lines, "\n# ") + "\n"
		}
		return nil
	})
	if err != nil {
		return Installed{}, fmt.Errorf("cannot show interception: %w", err)
	}
	return out, nil
}

// explicit is what those without privileges can have.
const explicit = "Without privileges use explicit mode: give the workload spec.upstreams and have the application call the sidecar's addresses (docs/reference/interception.md)"

// inside calls f in the network namespace at path, after a look at the privileges. The thread that has entered it dies with f.
func inside(path string, f func() error) error {
	need := []capability{netAdmin}
	if path != "" {
		need = append(need, sysAdmin)
	}
	for _, c := range need {
		if has, err := c.effective(); err == nil && !has {
			return fmt.Errorf("the process lacks %s: run it as root, or give it the capability. %s", c, explicit)
		}
	}
	if path == "" {
		return f()
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for ever: the runtime ends a thread whose goroutine ends locked
		done <- func() error {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return fmt.Errorf("network namespace %s: %w; give a path such as /var/run/netns/NAME or /proc/PID/ns/net", path, err)
			}
			defer unix.Close(fd) //nolint:errcheck // opened for reading
			if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
				return fmt.Errorf("network namespace %s: cannot enter it: %w; is it one, and does the process have CAP_SYS_ADMIN?", path, err)
			}
			return f()
		}()
	}()
	return <-done
}

type capability uint

const (
	netAdmin capability = unix.CAP_NET_ADMIN
	sysAdmin capability = unix.CAP_SYS_ADMIN
)

func (c capability) String() string {
	if c == netAdmin {
		return "CAP_NET_ADMIN"
	}
	return "CAP_SYS_ADMIN"
}

// effective reports whether the thread has c.
func (c capability) effective() (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, err
	}
	return data[c/32].Effective&(1<<(c%32)) != 0, nil
}
