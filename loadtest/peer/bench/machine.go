//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// machine describes this one: cores, processor, memory, kernel.
func machine() string {
	model := "unknown processor"
	if b, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(b)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	var info unix.Sysinfo_t
	var uts unix.Utsname
	_ = unix.Sysinfo(&info)
	_ = unix.Uname(&uts)
	release, _, _ := strings.Cut(unix.ByteSliceToString(uts.Release[:]), "-")
	return fmt.Sprintf("%d cores (%s), %d GiB, Linux %s", runtime.NumCPU(), model, (uint64(info.Totalram)*uint64(info.Unit)+1<<29)>>30, release)
}
