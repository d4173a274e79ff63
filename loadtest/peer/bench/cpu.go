//go:build linux

package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cpuTime is the CPU time, user and system, that a process has used since it started, threads that have ended included. It reads the process' CPU
// clock (clock_getcpuclockid(3)): nanoseconds, where /proc/PID/stat has ticks of 10 ms.
func cpuTime(pid int) (time.Duration, error) {
	const sched = 2 // CPUCLOCK_SCHED in include/linux/posix-timers_types.h; the clock of a process is its inverted id above three bits of kind
	var t unix.Timespec
	if err := unix.ClockGettime(int32(^pid<<3|sched), &t); err != nil {
		return 0, fmt.Errorf("CPU clock of process %d: %w", pid, err)
	}
	return time.Duration(t.Nano()), nil
}

// cpuTimes is cpuTime of each.
func cpuTimes(pids []int) ([]time.Duration, error) {
	out := make([]time.Duration, len(pids))
	for i, pid := range pids {
		var err error
		if out[i], err = cpuTime(pid); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// onCore runs start on a thread that may use only that core; a process that start starts inherits this.
func onCore(core int, start func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var before, only unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil {
		return fmt.Errorf("reading the CPU affinity: %w", err)
	}
	only.Set(core)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return fmt.Errorf("pinning to core %d: %w", core, err)
	}
	err := start()
	if rerr := unix.SchedSetaffinity(0, &before); err == nil {
		err = rerr
	}
	return err
}

// cores are the two that this process may use: one for load and backend, one for the proxy.
func cores() (load, proxy int, err error) {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return 0, 0, fmt.Errorf("reading the CPU affinity: %w", err)
	}
	var usable []int
	for i := range len(set) * 64 {
		if set.IsSet(i) {
			usable = append(usable, i)
		}
	}
	if len(usable) < 2 {
		return 0, 0, fmt.Errorf("this process may use %d core: the comparison needs two, one for the proxy and one for load and backend", len(usable))
	}
	return usable[0], usable[len(usable)-1], nil
}

// childPIDs are the direct children of a process.
func childPIDs(pid int) []int {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		return nil
	}
	var out []int
	for f := range strings.FieldsSeq(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			out = append(out, n)
		}
	}
	return out
}

// raiseFiles raises the limit of open descriptors as far as the system allows, which children inherit, and returns it.
func raiseFiles() (int, error) {
	const enough = 65_536
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return 0, err
	}
	if unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: enough, Max: max(l.Max, enough)}) == nil {
		return enough, nil
	}
	l.Cur = l.Max
	return int(min(l.Max, enough)), unix.Setrlimit(unix.RLIMIT_NOFILE, &l)
}
