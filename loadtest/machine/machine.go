//go:build linux

// Package machine says on what machine figures were made, and how much other work it did meanwhile.
package machine

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// String describes this one: cores, processor, memory, kernel.
func String() string {
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
	return fmt.Sprintf("%d cores (%s), %.0f GiB, Linux %s", runtime.NumCPU(), model, float64(info.Totalram)*float64(info.Unit)/(1<<30), release)
}

// Bystander watches how much other work the machine does meanwhile.
type Bystander struct {
	begin     time.Time
	busy, own time.Duration
}

// Watch begins to.
func Watch() (b Bystander, err error) {
	b.begin = time.Now()
	if b.busy, err = busyTime(); err == nil {
		b.own, err = ownTime()
	}
	return b, err
}

// Share is what others used since then, in cores. Call it when all children have been waited for.
func (b Bystander) Share() (float64, error) {
	busy, err := busyTime()
	if err != nil {
		return 0, err
	}
	own, err := ownTime()
	if err != nil {
		return 0, err
	}
	return max(0, float64((busy-b.busy)-(own-b.own))/float64(time.Since(b.begin))), nil
}

// ownTime is the CPU time of this process and of all below it that are gone.
func ownTime() (time.Duration, error) {
	var sum time.Duration
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			return 0, fmt.Errorf("getrusage: %w", err)
		}
		sum += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return sum, nil
}

// busyTime is how long all cores of the machine together have not been idle since boot, in ticks of 10 ms; time that the hypervisor took counts.
func busyTime() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	return parseBusy(line)
}

func parseBusy(line string) (time.Duration, error) {
	f := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal …, proc_stat(5)
	if len(f) < 9 || f[0] != "cpu" {
		return 0, fmt.Errorf("/proc/stat begins with %q", line)
	}
	var ticks int64
	for _, i := range []int{1, 2, 3, 6, 7, 8} {
		n, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		ticks += n
	}
	return time.Duration(ticks) * 10 * time.Millisecond, nil
}
