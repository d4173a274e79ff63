//go:build unix

package main

import (
	"fmt"
	"net"
)

// listener is an address that a command will listen on: what for, and the flag that moves it.
type listener struct{ what, flag, address string }

// checkPorts returns an error for the first address that cannot be listened on, before anything else is opened or started. It is there for
// the message; what listens later checks again. Empty addresses and "off" are none.
func checkPorts(all ...listener) error {
	seen := map[string]listener{}
	for _, l := range all {
		if l.address == "" || l.address == "off" {
			continue
		}
		_, port, err := net.SplitHostPort(l.address)
		if err != nil {
			return usageError{fmt.Errorf("%s %q is not an address: write it as 127.0.0.1:PORT", l.flag, l.address)}
		}
		if first, twice := seen[l.address]; twice && port != "0" {
			return usageError{fmt.Errorf("%s and %s are both %s: change one", first.flag, l.flag, l.address)}
		}
		seen[l.address] = l
		probe, err := net.Listen("tcp", l.address)
		if err != nil {
			return fmt.Errorf("%s cannot be served: %w. See who has port %s with 'lsof -i :%s', or choose another with %s", l.what, err, port, port, l.flag)
		}
		_ = probe.Close()
	}
	return nil
}
