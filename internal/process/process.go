//go:build unix

// Package process runs child processes that never outlive their parent: each in a process group of its own (so that Ctrl-C in a terminal
// reaches the parent alone, which stops them in its order), on a lifeline (a pipe whose end the child sees when the parent is gone,
// however it went), and on Linux with a parent-death signal besides.
//
// How to hold it: Start starts one child, Stop ends it; Supervisor keeps one alive. The child's main calls Lifeline first. Everything here
// is safe for concurrent use.
package process

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"syscall"
	"time"
)

// Spec is a child to be started.
type Spec struct {
	Name string   // for messages and logs: "observer"
	Path string   // the executable
	Args []string // without the executable
	Env  []string // KEY=VALUE, added to this process's environment
	// Log takes standard output and standard error; nil discards them. An *os.File is handed to the child as it is.
	Log io.Writer
	// Out takes standard output in place of Log; nil: Log does.
	Out io.Writer
	// Files are handed to the child from descriptor 4 on; they stay the caller's.
	Files []*os.File
	// StopTimeout is how long the child has between SIGTERM and SIGKILL; default 15 s.
	StopTimeout time.Duration
}

// DefaultStopTimeout is Spec.StopTimeout's default.
const DefaultStopTimeout = 15 * time.Second

// lifelineEnv names the file descriptor of the lifeline in the child's environment.
const lifelineEnv = "TULLE_LIFELINE_FD"

// ErrKilled is in the error of a child that did not stop when asked and was killed.
var ErrKilled = errors.New("did not stop when asked and was killed")

// Process is one running child.
type Process struct {
	spec     Spec
	cmd      *exec.Cmd
	lifeline *os.File // write end; closing it tells the child to stop
	done     chan struct{}
	err      error // set before done is closed
	stop     sync.Once
	killed   chan struct{}
}

// Start starts the child. The caller must wait for Done, or call Stop.
func Start(spec Spec) (*Process, error) {
	if spec.StopTimeout <= 0 {
		spec.StopTimeout = DefaultStopTimeout
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("%s: lifeline: %w", spec.Name, err)
	}
	cmd := exec.Command(spec.Path, spec.Args...)
	cmd.Env = append(os.Environ(), spec.Env...)
	cmd.Env = append(cmd.Env, lifelineEnv+"=3")
	cmd.ExtraFiles = append([]*os.File{r}, spec.Files...)
	cmd.Stdout, cmd.Stderr = spec.Log, spec.Log
	if spec.Out != nil {
		cmd.Stdout = spec.Out
	}
	cmd.WaitDelay = 2 * time.Second // a grandchild that keeps the log open must not keep us
	cmd.SysProcAttr = attributes()
	err = cmd.Start()
	r.Close()
	if err != nil {
		w.Close()
		return nil, fmt.Errorf("cannot start %s: %w", spec.Name, err)
	}
	p := &Process{spec: spec, cmd: cmd, lifeline: w, done: make(chan struct{}), killed: make(chan struct{})}
	go func() {
		err := cmd.Wait()
		w.Close()
		select {
		case <-p.killed:
			err = fmt.Errorf("%s (process %d): %w after %s", spec.Name, cmd.Process.Pid, ErrKilled, spec.StopTimeout)
		default:
			if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
				err = fmt.Errorf("%s (process %d): %w", spec.Name, cmd.Process.Pid, err)
			} else {
				err = nil
			}
		}
		p.err = err
		close(p.done)
	}()
	return p, nil
}

// PID is the child's process id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Signal sends a signal to the child alone; an error means that it is gone.
func (p *Process) Signal(s os.Signal) error { return p.cmd.Process.Signal(s) }

// Done is closed when the child is gone and has been waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err is nil when the child ended with status 0; call it after Done.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

// Stop asks the child to stop (SIGTERM), kills its process group when it has not after StopTimeout, and returns when it is gone. It returns
// nil when the child ended because it was asked, whatever its status said about the signal. It may be called several times.
func (p *Process) Stop() error {
	p.stop.Do(func() {
		_ = p.cmd.Process.Signal(syscall.SIGTERM) // an error means that it is gone already
		select {
		case <-p.done:
		case <-time.After(p.spec.StopTimeout):
			close(p.killed)
			_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		}
	})
	<-p.done
	var exit *exec.ExitError
	if errors.As(p.err, &exit) {
		if ws, ok := exit.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGTERM {
			return nil
		}
	}
	return p.err
}

// Lifeline is for the child: the context it returns ends with ctx, or when the parent that started this process with Start is gone. When the
// process still runs after grace, it exits with status 1. Without such a parent it only returns ctx. Call it once, early, in main.
func Lifeline(ctx context.Context, grace time.Duration) context.Context {
	text, ok := os.LookupEnv(lifelineEnv)
	if !ok {
		return ctx
	}
	_ = os.Unsetenv(lifelineEnv) // it is ours, not our children's
	fd, err := strconv.Atoi(text)
	if err != nil || fd < 3 {
		return ctx
	}
	syscall.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "lifeline")
	if f == nil {
		return ctx
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() { // ends with the process: it waits for the parent's end
		_, _ = f.Read(make([]byte, 1))
		cancel(errors.New("the process that started this one is gone"))
		time.AfterFunc(grace, func() { os.Exit(1) })
	}()
	return ctx
}
