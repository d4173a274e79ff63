package intercept

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func (f family) af() int {
	if f == ipv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// present reports whether the network namespace speaks f.
func (f family) present() bool {
	if f == ipv4 {
		return true
	}
	_, err := os.Stat("/proc/thread-self/net/if_inet6")
	return err == nil
}

// routed reports whether f can have routing policy: where IPv6 is switched off on lo, as it is where it is switched off on all interfaces, no route leads there, and no
// packet of it comes.
func (f family) routed() bool {
	if !f.present() {
		return false
	}
	if f == ipv4 {
		return true
	}
	off, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
	return err != nil || strings.TrimSpace(string(off)) == "0"
}

func (f family) rule() *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Mark, r.Table, r.Priority, r.Protocol = f.af(), mark, routeTable, routePriority, routeProtocol
	return r
}

func (f family) route() (*netlink.Route, error) {
	link, err := netlink.LinkByName("lo")
	if err != nil {
		return nil, fmt.Errorf("interface lo: %w", err)
	}
	all := &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	if f == ipv6 {
		all = &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &netlink.Route{
		LinkIndex: link.Attrs().Index, Family: f.af(), Type: unix.RTN_LOCAL, Scope: netlink.SCOPE_HOST, Dst: all, Table: routeTable, Protocol: routeProtocol,
	}, nil
}

// addRouting makes the policy of f: first the route, so that no marked packet goes astray.
func (f family) addRouting() error {
	r, err := f.route()
	if err != nil {
		return err
	}
	switch err := netlink.RouteReplace(r); {
	case errors.Is(err, unix.ENETDOWN):
		return fmt.Errorf("%s route: interface lo is down; bring it up: ip link set lo up", f)
	case err != nil:
		return fmt.Errorf("%s route: %w", f, err)
	}
	if err := netlink.RuleAdd(f.rule()); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("%s routing rule: %w", f, err)
	}
	return nil
}

// ownRouting lists what bears Tulle's number.
func (f family) ownRouting() (rules []netlink.Rule, routes []netlink.Route, err error) {
	all, err := netlink.RuleList(f.af())
	if err != nil {
		return nil, nil, fmt.Errorf("%s routing rules: %w", f, err)
	}
	for _, r := range all {
		if r.Protocol == routeProtocol && r.Table == routeTable {
			rules = append(rules, r)
		}
	}
	list, err := netlink.RouteListFiltered(f.af(), &netlink.Route{Table: routeTable}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return nil, nil, fmt.Errorf("%s routes: %w", f, err)
	}
	for _, r := range list {
		if r.Protocol == routeProtocol {
			routes = append(routes, r)
		}
	}
	return rules, routes, nil
}

func (f family) removeRouting() error {
	rules, routes, err := f.ownRouting()
	if err != nil {
		return err
	}
	for range rules {
		if err := netlink.RuleDel(f.rule()); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("%s routing rule: %w", f, err)
		}
	}
	for range routes {
		r, err := f.route()
		if err != nil {
			return err
		}
		if err := netlink.RouteDel(r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("%s route: %w", f, err)
		}
	}
	return nil
}
