//go:build !linux

// Command bench compares proxies by their CPU clocks, pinned to cores; it runs on Linux only.
package main

import (
	"fmt"
	"os"
)

func main() {
	fmt.Fprintln(os.Stderr, "bench: the comparison pins processes to cores and reads their CPU clocks, which needs Linux")
	os.Exit(1)
}
