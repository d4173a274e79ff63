//go:build unix

package rig

import (
	"bufio"
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Process is one descendant of a demo.
type Process struct {
	PID  int
	Name string // controller, observer, server, catalog-2, catalog-2-sidecar, …
	RSS  uint64 // bytes
}

// Descendants lists all processes below pid, by ps, which every Unix has.
func Descendants(pid int) ([]Process, error) {
	out, err := exec.Command("ps", "-A", "-ww", "-o", "pid=", "-o", "ppid=", "-o", "rss=", "-o", "args=").Output()
	if err != nil {
		return nil, fmt.Errorf("ps: %w (Debian: apt-get install procps)", err)
	}
	type row struct {
		Process
		parent int
	}
	var rows []row
	s := bufio.NewScanner(bytes.NewReader(out))
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		f := strings.Fields(s.Text())
		if len(f) < 4 {
			continue
		}
		id, err1 := strconv.Atoi(f[0])
		parent, err2 := strconv.Atoi(f[1])
		kib, err3 := strconv.ParseUint(f[2], 10, 64)
		if err1 != nil || err2 != nil || err3 != nil {
			continue
		}
		rows = append(rows, row{Process{PID: id, Name: nameOf(f[3:]), RSS: kib << 10}, parent})
	}
	below := map[int]bool{pid: true}
	var found []Process
	for grew := true; grew; { // parents may be listed after their children
		grew = false
		for _, r := range rows {
			if below[r.parent] && !below[r.PID] {
				below[r.PID] = true
				found = append(found, r.Process)
				grew = true
			}
		}
	}
	return found, nil
}

// nameOf tells what part of the demo a command line is.
func nameOf(args []string) string {
	base := filepath.Base(args[0])
	flag := func(name string) string {
		for i, a := range args {
			if a == name && i+1 < len(args) {
				return args[i+1]
			}
			if v, ok := strings.CutPrefix(a, name+"="); ok {
				return v
			}
		}
		return ""
	}
	instance := flag("--instance")
	switch {
	case base == "tulle-sidecar":
		return instance + "-sidecar"
	case len(args) > 1 && args[1] == "shop-service":
		return instance
	case len(args) > 1:
		return args[1]
	}
	return base
}

// Descriptors is how many file descriptors a process has open; ok is false where the system does not tell cheaply (no /proc).
func Descriptors(pid int) (n int, ok bool) {
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return 0, false
	}
	return len(entries), true
}

func alive(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return true
	}
	_, after, _ := strings.Cut(string(b), ") ")
	return !strings.HasPrefix(after, "Z") // gone, only not yet collected
}

// Metric reads one unlabelled series of a Prometheus text page; ok is false when it is not there.
func Metric(url, name string) (value float64, ok bool) {
	c := http.Client{Timeout: 5 * time.Second}
	resp, err := c.Get(url)
	if err != nil {
		return 0, false
	}
	defer resp.Body.Close()
	defer c.CloseIdleConnections()
	s := bufio.NewScanner(resp.Body)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		if rest, found := strings.CutPrefix(s.Text(), name+" "); found {
			v, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return v, err == nil
		}
	}
	return 0, false
}
