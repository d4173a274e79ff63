//go:build unix

package process

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The test binary is its own child: TestMain plays the part named by PROCESS_TEST_PART.
func TestMain(m *testing.M) {
	part := os.Getenv("PROCESS_TEST_PART")
	if part == "" {
		os.Exit(m.Run())
	}
	os.Unsetenv("PROCESS_TEST_PART")
	ctx := Lifeline(context.Background(), 5*time.Second)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM)
	defer stop()
	switch part {
	case "serve":
		fmt.Println("serving", os.Getpid())
		<-ctx.Done()
		fmt.Println("stopped", os.Getpid())
	case "quit":
		fmt.Println("address already in use")
		os.Exit(3)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("serving", os.Getpid())
		select {}
	case "lifeline": // watches only the lifeline, as on a system without a parent-death signal
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("serving", os.Getpid())
		<-ctx.Done()
	case "parent": // starts a child and waits to be killed
		p, err := Start(child("lifeline", os.Stdout))
		if err != nil {
			panic(err)
		}
		<-p.Done()
	}
	os.Exit(0)
}

func child(part string, log io.Writer) Spec {
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Spec{Name: part, Path: self, Env: []string{"PROCESS_TEST_PART=" + part}, Log: log}
}

// output collects a child's lines.
type output struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{}
}

func newOutput() *output { return &output{more: make(chan struct{}, 1)} }

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	select {
	case o.more <- struct{}{}:
	default:
	}
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// await waits until text was written n times.
func (o *output) await(t *testing.T, text string, n int) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for strings.Count(o.String(), text) < n {
		select {
		case <-o.more:
		case <-deadline:
			t.Fatalf("%q was not written %d times within 20 s:\n%s", text, n, o)
		}
	}
}

// pids are the numbers after word.
func (o *output) pids(word string) []int {
	var out []int
	s := bufio.NewScanner(strings.NewReader(o.String()))
	for s.Scan() {
		if after, ok := strings.CutPrefix(s.Text(), word+" "); ok {
			n, _ := strconv.Atoi(after)
			out = append(out, n)
		}
	}
	return out
}

func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

func awaitGone(t *testing.T, pid int) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !gone(pid) && !zombie(pid) {
		if time.Now().After(deadline) {
			t.Fatalf("process %d is still there", pid)
		}
		<-tick.C
	}
}

// zombie: an orphan whose new parent (in a container perhaps one that never waits) has not collected it is as good as gone.
func zombie(pid int) bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(b), ") ")
	return strings.HasPrefix(after, "Z")
}

func TestStopIsClean(t *testing.T) {
	out := newOutput()
	p, err := Start(child("serve", out))
	if err != nil {
		t.Fatal(err)
	}
	out.await(t, "serving", 1)
	if err := p.Stop(); err != nil {
		t.Error(err)
	}
	if err := p.Stop(); err != nil {
		t.Error("a second Stop:", err)
	}
	if !strings.Contains(out.String(), "stopped") || !gone(p.PID()) {
		t.Errorf("did not stop by itself: %s", out)
	}
}

func TestStubbornChildIsKilled(t *testing.T) {
	out := newOutput()
	spec := child("stubborn", out)
	spec.StopTimeout = 50 * time.Millisecond
	p, err := Start(spec)
	if err != nil {
		t.Fatal(err)
	}
	out.await(t, "serving", 1)
	if err := p.Stop(); !errors.Is(err, ErrKilled) {
		t.Errorf("%v, want ErrKilled", err)
	}
	if !gone(p.PID()) {
		t.Error("still there")
	}
}

// TestChildDiesWithItsParent: the parent is killed without a chance to say so; the child ignores SIGTERM, so only the lifeline tells it.
func TestChildDiesWithItsParent(t *testing.T) {
	out := newOutput()
	parent, err := Start(child("parent", out))
	if err != nil {
		t.Fatal(err)
	}
	out.await(t, "serving", 1)
	grandchild := out.pids("serving")[0]
	if gone(grandchild) {
		t.Fatal("the grandchild is gone too early")
	}
	if err := syscall.Kill(parent.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-parent.Done()
	awaitGone(t, grandchild)
}

func TestSupervisorRestarts(t *testing.T) {
	out := newOutput()
	var told []string
	s := &Supervisor{
		Spec: child("serve", out), MinPause: time.Millisecond,
		Ready:     func(context.Context) error { return nil },
		OnRestart: func(name string, err error, _ time.Duration) { told = append(told, name+": "+err.Error()) },
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	ready := make(chan struct{})
	go func() { done <- s.Run(ctx, func() { close(ready) }) }()
	<-ready
	out.await(t, "serving", 1)
	first := out.pids("serving")[0]
	if err := syscall.Kill(first, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	out.await(t, "serving", 2)
	second := out.pids("serving")[1]
	if second == first || gone(second) {
		t.Errorf("first %d, second %d", first, second)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
	if !gone(second) {
		t.Error("the second child outlived its supervisor")
	}
	if len(told) != 1 || !strings.Contains(told[0], "killed") {
		t.Errorf("told %q", told)
	}
	if s.Restarts() != 1 || s.PID() != 0 {
		t.Errorf("restarts %d, pid %d", s.Restarts(), s.PID())
	}
}

func TestChildThatNeverServedIsAnErrorWithItsLastLine(t *testing.T) {
	s := &Supervisor{Spec: child("quit", nil), Ready: func(context.Context) error { return errors.New("not yet") }}
	err := s.Run(t.Context(), func() { t.Error("ready") })
	if err == nil || !strings.Contains(err.Error(), "exit status 3") || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("%v", err)
	}
}

func TestMissingExecutable(t *testing.T) {
	_, err := Start(Spec{Name: "ghost", Path: filepath.Join(t.TempDir(), "none")})
	if err == nil || !strings.Contains(err.Error(), "cannot start ghost") {
		t.Errorf("%v", err)
	}
}

func TestAwaitReturnsTheLastReason(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	why := errors.New("still loading")
	if err := Await(ctx, func(context.Context) error { return why }); !errors.Is(err, why) {
		t.Errorf("%v", err)
	}
}

func TestLogFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "logs", "x.log")
	l, err := OpenLog(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		fmt.Fprintf(l, "line %02d\n", i)
	}
	l.Close()
	if _, err := l.Write([]byte("late")); err != nil {
		t.Error(err)
	}
	now, _ := os.ReadFile(path)
	before, _ := os.ReadFile(path + ".1")
	if len(now) > 100 || len(before) > 100 || !strings.HasSuffix(string(now), "line 49\n") || !strings.HasSuffix(string(before)+string(now), "line 48\nline 49\n") {
		t.Errorf("%q then %q", before, now)
	}
	l, err = OpenLog(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	if now, _ := os.ReadFile(path); len(now) != 0 {
		t.Errorf("a new run kept %q", now)
	}
}

func TestLastLine(t *testing.T) {
	l := &lastLine{next: io.Discard}
	io.WriteString(l, "one\ntw")
	io.WriteString(l, "o\n\n")
	if l.last() != "two" {
		t.Errorf("%q", l.last())
	}
	io.WriteString(l, "three")
	if l.last() != "three" {
		t.Errorf("%q", l.last())
	}
}
