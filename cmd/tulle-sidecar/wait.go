package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// How often --wait asks.
const (
	waitFirst   = 10 * time.Millisecond
	waitLongest = 500 * time.Millisecond
)

// wait returns nil when the sidecar at the admin address is ready.
func wait(ctx context.Context, admin string, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for pause := waitFirst; ; pause = min(2*pause, waitLongest) {
		err := ask(ctx, http.MethodGet, admin, "/readyz")
		if err == nil {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("--wait: after %s %w", limit, err)
		}
	}
}

// quit tells the sidecar that its application has ended.
func quit(ctx context.Context, admin string) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if err := ask(ctx, http.MethodPost, admin, "/quit"); err != nil {
		return fmt.Errorf("--quit: %w", err)
	}
	return nil
}

// ask is one request of the admin page.
func ask(ctx context.Context, method, admin, path string) error {
	host, port, err := net.SplitHostPort(admin)
	if err != nil {
		return err
	}
	if ip, err := netip.ParseAddr(host); host == "" || err == nil && ip.IsUnspecified() {
		host = "127.0.0.1"
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+net.JoinHostPort(host, port)+path, nil)
	if err != nil {
		return err
	}
	// Never by a proxy of the application's environment.
	res, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return fmt.Errorf("no sidecar answers at %s: %w (is it running, and is that its --admin?)", admin, errors.Unwrap(err))
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
	if res.StatusCode/100 != 2 {
		return fmt.Errorf("the sidecar at %s says: %s (its log says more)", admin, strings.TrimSpace(string(body)))
	}
	return nil
}

// beside is what the program does that is not the data plane itself. It returns the exit status.
func beside(c config) int {
	var err error
	switch {
	case c.quit:
		err = quit(context.Background(), c.admin)
	case c.wait:
		if err = wait(context.Background(), c.admin, c.waitTimeout); err == nil && len(c.command) > 0 {
			return replace(c.command)
		}
	default:
		return launch(c)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "tulle-sidecar:", err)
		return 1
	}
	return 0
}

// Exit statuses of a COMMAND that cannot be run, as shells have them (POSIX, Shell Command Language, 2.8.2).
const (
	cannotRun = 126
	notFound  = 127
)

// unrunnable says why COMMAND cannot be run, and with which status to end.
func unrunnable(command string, err error) int {
	fmt.Fprintf(os.Stderr, "tulle-sidecar: cannot run %s: %v\n", command, err)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, os.ErrNotExist) {
		return notFound
	}
	return cannotRun
}

// replace runs command in place of this process; it returns only when it cannot.
func replace(command []string) int {
	path, err := exec.LookPath(command[0])
	if err == nil {
		err = syscall.Exec(path, command, os.Environ())
	}
	return unrunnable(command[0], err)
}
