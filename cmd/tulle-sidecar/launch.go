package main

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/internal/process"
)

// launcher is a process that carries nothing: its children are the sidecar, and the application if there is a COMMAND. It keeps its process id
// while sidecars hand over to one another. One goroutine owns it; it hears of everything by events.
//
//  1. The sidecar starts. When it is ready, the application does.
//  2. SIGUSR2: a further sidecar starts, of the program that is on disk now and with the environment that --env-file holds now; when it is ready
//     it has taken over, and the one before ends when it has drained. If it is not, the one before goes on.
//  3. A sidecar that dies is started again while the application runs.
//  4. The application ends: the sidecar drains, flushes, ends; the launcher ends with the application's status.
//  5. SIGTERM, SIGINT or POST /quit: the sidecar says that it is not ready; after --drain-delay the application gets the signal and has
//     --stop-timeout, while its traffic is carried; then as in 4. A second signal kills everything.
//
// Other signals are the application's; SIGHUP is also the sidecar's, which opens its log files anew.
type launcher struct {
	c      config
	path   string // of the program
	log    *slog.Logger
	events chan event

	sidecars []*launched // that live
	serving  *launched   // that serves, or is to be the first; nil: none lives
	next     *launched   // that takes over; nil: none
	begun    bool        // one has served
	backoff  time.Duration

	app     *exec.Cmd // nil: not started
	appDone bool
	status  int // to end with

	stopping bool // and the application, if it runs, was or will be told
	draining bool // the sidecars were told
	alarm    *time.Timer
	alarmed  func() // when alarm fires
}

// launched is one sidecar.
type launched struct {
	*process.Process
}

// event is what the launcher hears of.
type event struct {
	child *launched // that is the subject; nil: the application, or a signal
	said  byte      // by child; 0: it is gone
	sig   os.Signal
	err   error // how the application ended
}

// Bounds of the pause before a sidecar that died is started again.
const (
	againFirst   = 100 * time.Millisecond
	againLongest = 5 * time.Second
	againCalm    = 10 * time.Second // a sidecar that lives so long has not failed at once
)

// launch runs until all children have ended, and returns the exit status.
func launch(c config) int {
	l := &launcher{c: c, log: logger(c, os.Stderr), events: make(chan event), alarm: time.NewTimer(time.Hour), backoff: againFirst}
	l.alarm.Stop()
	var err error
	if l.path, err = os.Executable(); err != nil {
		fmt.Fprintln(os.Stderr, "tulle-sidecar: its own executable cannot be found:", err)
		return 1
	}
	signals, children := make(chan os.Signal, 16), make(chan os.Signal, 1) // many children must not crowd out a signal, and one word of them is enough
	signal.Notify(signals, syscall.SIGTERM, os.Interrupt, syscall.SIGHUP, syscall.SIGQUIT, syscall.SIGUSR1, syscall.SIGUSR2, syscall.SIGWINCH)
	signal.Notify(children, syscall.SIGCHLD)
	for _, from := range []chan os.Signal{signals, children} {
		go func() { // ends with the process
			for s := range from {
				l.events <- event{sig: s}
			}
		}()
	}
	if l.serving, err = l.start(); err != nil {
		fmt.Fprintln(os.Stderr, "tulle-sidecar:", err)
		return 1
	}
	l.after(c.waitTimeout, func() {
		l.log.Error("the sidecar is not ready in time; giving up", "timeout", c.waitTimeout)
		l.status = 1
		l.drain()
	})
	for len(l.sidecars) > 0 || l.app != nil && !l.appDone {
		select {
		case e := <-l.events:
			l.hear(e)
		case <-l.alarm.C:
			f := l.alarmed
			l.alarmed = nil
			f()
		}
	}
	return l.status
}

// after has f called in d, in place of what was to be called.
func (l *launcher) after(d time.Duration, f func()) {
	l.alarmed = f
	l.alarm.Reset(d)
}

func (l *launcher) calm() {
	l.alarmed = nil
	l.alarm.Stop()
}

// start starts a sidecar.
func (l *launcher) start() (*launched, error) {
	env, err := readEnv(l.c.envFile)
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pipe from the sidecar: %w", err)
	}
	defer w.Close()
	// The pipe is descriptor 4 of the child, behind the lifeline (process.Spec.Files). What makes a launcher is not the child's.
	spec := process.Spec{
		Name: "sidecar", Path: l.path, Args: append(slices.Clone(l.c.flags), "--hot-restart=false", "--wait=false", "--quit=false", "--env-file="),
		Env: append(env, parentEnv+"=4", "NOTIFY_SOCKET="), Log: os.Stderr, Out: os.Stdout, Files: []*os.File{w},
		StopTimeout: l.c.drainDelay + l.c.drainTimeout + 20*time.Second,
	}
	if len(l.c.command) > 0 {
		spec.Args = append(spec.Args, "--drain-delay=0s") // the launcher waits before it stops the application
	}
	p, err := process.Start(spec)
	if err != nil {
		r.Close()
		return nil, err
	}
	ch := &launched{Process: p}
	l.sidecars = append(l.sidecars, ch)
	go func() { // ends with the child
		for b := make([]byte, 1); ; {
			if n, err := r.Read(b); n == 0 || err != nil {
				break
			}
			l.events <- event{child: ch, said: b[0]}
		}
		r.Close()
		<-p.Done()
		l.events <- event{child: ch}
	}()
	return ch, nil
}

// readEnv reads KEY=VALUE lines; empty lines and those that begin with # are none.
func readEnv(file string) ([]string, error) {
	if file == "" {
		return nil, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("--env-file: %w", err)
	}
	defer f.Close()
	var env []string
	s := bufio.NewScanner(f)
	for n := 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		if key, _, ok := strings.Cut(line, "="); !ok || key == "" {
			return nil, fmt.Errorf("--env-file %s, line %d: want KEY=VALUE", file, n)
		}
		env = append(env, line)
	}
	return env, s.Err()
}

// hear takes one event.
func (l *launcher) hear(e event) {
	switch {
	case e.sig != nil:
		l.signalled(e.sig)
	case e.child == nil:
		l.appDone = true
		l.ended(e.err)
	case e.said == parentReady:
		l.ready(e.child)
	case e.said == parentQuit:
		l.log.Info("quit was asked for")
		l.stop(syscall.SIGTERM)
	case e.said == 0:
		l.gone(e.child)
	}
}

// ready: a sidecar serves.
func (l *launcher) ready(ch *launched) {
	if ch == l.next {
		l.log.Info("a new sidecar has taken over", "process", ch.PID())
		l.serving, l.next = ch, nil
	}
	if l.begun {
		return
	}
	l.begun = true
	l.calm()
	if len(l.c.command) > 0 && !l.stopping {
		l.run()
	}
	notify("READY=1")
}

// run starts the application.
func (l *launcher) run() {
	app := exec.Command(l.c.command[0], l.c.command[1:]...)
	app.Stdin, app.Stdout, app.Stderr = os.Stdin, os.Stdout, os.Stderr
	app.SysProcAttr = applicationAttributes()
	app.Env = slices.DeleteFunc(os.Environ(), func(v string) bool { // what is the sidecar's alone
		return strings.HasPrefix(v, "TULLE_JOIN_TOKEN=") || strings.HasPrefix(v, "NOTIFY_SOCKET=")
	})
	if err := app.Start(); err != nil {
		l.status = unrunnable(l.c.command[0], err)
		l.drain()
		return
	}
	l.app = app
	l.log.Info("the application starts", "command", l.c.command[0], "process", app.Process.Pid)
	go func() {
		err := app.Wait()
		l.events <- event{err: err}
	}()
}

// ended: the application has.
func (l *launcher) ended(err error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
	case !errors.As(err, &exit):
		l.log.Error("the application", "err", err)
		l.status = 1
	default:
		if l.status = exit.ExitCode(); l.status < 0 { // by a signal: as shells say it
			if ws, ok := exit.Sys().(syscall.WaitStatus); ok {
				l.status = 128 + int(ws.Signal())
			}
		}
	}
	l.log.Info("the application has ended", "status", l.status)
	l.drain()
}

// gone: a sidecar has ended.
func (l *launcher) gone(ch *launched) {
	l.sidecars = slices.DeleteFunc(l.sidecars, func(x *launched) bool { return x == ch })
	err := ch.Err()
	switch {
	case ch == l.next:
		l.next = nil
		if !l.draining {
			l.log.Error("the new sidecar has not taken over; the one that runs goes on", "err", err)
		}
	case ch != l.serving: // it had handed over
		if err != nil {
			l.log.Error("a sidecar that had handed over ended badly", "err", err)
		}
	case l.next != nil: // it takes what it was given, and is ready soon
		l.log.Error("the sidecar ended while another one was taking over", "err", err)
		l.serving, l.next = l.next, nil
	case l.draining:
		if err != nil {
			l.log.Error("the sidecar did not stop well", "err", err)
			l.fail(1)
		}
	case l.stopping:
		l.log.Error("the sidecar ended before the application", "err", err)
		l.serving = nil
	case l.app != nil && !l.appDone:
		l.log.Error("the sidecar ended while the application runs; it is started again", "err", err, "in", l.backoff)
		l.serving = nil
		l.after(l.backoff, l.again)
		l.backoff = min(2*l.backoff, againLongest)
	default: // whoever started this process knows what to do
		l.calm()
		if l.status = 0; err != nil {
			l.status = exitStatus(err)
		} else if len(l.c.command) > 0 {
			l.log.Error("the application was not started: the sidecar has ended before it was ready")
			l.fail(1)
		}
	}
}

// fail is the status to end with, unless there is one already, or the application has ended: then its own is the answer, whatever becomes of the sidecar.
func (l *launcher) fail(status int) {
	if l.status == 0 && !l.appDone {
		l.status = status
	}
}

// exitStatus of a child.
func exitStatus(err error) int {
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() > 0 {
		return exit.ExitCode()
	}
	return 1
}

// again starts a sidecar in place of one that died.
func (l *launcher) again() {
	ch, err := l.start()
	if err != nil {
		l.log.Error("the sidecar cannot be started", "err", err)
		l.after(l.backoff, l.again)
		return
	}
	l.serving = ch
	l.after(againCalm, func() { l.backoff = againFirst })
}

// signalled: this process was.
func (l *launcher) signalled(s os.Signal) {
	switch s {
	case syscall.SIGCHLD:
		l.reap()
	case syscall.SIGTERM, os.Interrupt:
		if l.stopping {
			l.kill()
			return
		}
		l.stop(s.(syscall.Signal))
	case syscall.SIGUSR2:
		l.restart()
	case syscall.SIGHUP:
		for _, ch := range l.sidecars {
			_ = ch.Signal(s)
		}
		l.tell(s)
	default:
		l.tell(s)
	}
}

// tell passes a signal on to the application.
func (l *launcher) tell(s os.Signal) {
	if l.app != nil && !l.appDone {
		_ = l.app.Process.Signal(s)
	}
}

// restart has a new sidecar take over.
func (l *launcher) restart() {
	switch {
	case l.stopping || l.draining:
		l.log.Warn("no hot restart: it is stopping")
		return
	case l.next != nil:
		l.log.Warn("no hot restart: a new sidecar is taking over already", "process", l.next.PID())
		return
	case l.serving == nil:
		return // one is being started anyway
	}
	ch, err := l.start()
	if err != nil {
		l.log.Error("no hot restart: the new sidecar cannot be started; the one that runs goes on", "err", err)
		return
	}
	l.log.Info("a new sidecar starts", "process", ch.PID())
	l.next = ch
}

// stop begins the end: the application first.
func (l *launcher) stop(s syscall.Signal) {
	if l.stopping {
		return
	}
	l.stopping = true
	notify("STOPPING=1")
	if l.app == nil || l.appDone {
		if len(l.c.command) > 0 && l.app == nil { // a job that was not done is no success
			l.log.Error("the application was not started: told to stop before the sidecar was ready")
			l.fail(128 + int(s))
		}
		l.drain()
		return
	}
	for _, ch := range l.sidecars {
		_ = ch.Signal(syscall.SIGUSR1) // not ready from now on
	}
	l.after(l.c.drainDelay, func() {
		if s != syscall.SIGINT || !foreground() { // a terminal has sent it to the application too
			l.tell(s)
		}
		l.after(l.c.stopTimeout, func() {
			l.log.Error("the application does not end; it is killed", "timeout", l.c.stopTimeout)
			l.tell(syscall.SIGKILL)
		})
	})
}

// drain tells the sidecars to stop.
func (l *launcher) drain() {
	l.stopping, l.draining = true, true
	l.calm()
	for _, ch := range l.sidecars {
		_ = ch.Signal(syscall.SIGTERM)
	}
	l.after(l.c.drainDelay+l.c.drainTimeout+20*time.Second, func() {
		l.log.Error("the sidecar does not stop; it is killed")
		l.kill()
	})
}

// kill ends everything at once.
func (l *launcher) kill() {
	l.draining = true
	l.fail(1)
	for _, ch := range l.sidecars {
		_ = ch.Signal(syscall.SIGKILL)
	}
	l.tell(syscall.SIGKILL)
}

// reap takes orphans off the process table where this process is the first of its namespace, and nobody else would.
func (l *launcher) reap() {
	if os.Getpid() != 1 {
		return
	}
	for _, pid := range children() {
		if l.app != nil && pid == l.app.Process.Pid || slices.ContainsFunc(l.sidecars, func(ch *launched) bool { return ch.PID() == pid }) {
			continue // somebody waits for it
		}
		_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil)
	}
}
