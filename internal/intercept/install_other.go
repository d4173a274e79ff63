//go:build !linux

package intercept

import "errors"

// errNotHere is what other systems than Linux have.
var errNotHere = errors.New("interception is a matter of Linux's netfilter; here use explicit mode: give the workload spec.upstreams and have the application call the sidecar's addresses")

// Install needs Linux.
func Install(Config) (Backend, error) { return "", errNotHere }

// Remove needs Linux.
func Remove(string) error { return errNotHere }

// Show needs Linux.
func Show(string) (Installed, error) { return Installed{}, errNotHere }
