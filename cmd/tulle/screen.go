//go:build unix

package main

import (
	"context"
	"errors"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// scene is what live shows: keys change it, frames draw it.
type scene interface {
	key(k string) bool                               // false ends it
	frame(width, height int) (all []string, _ error) // at most height lines of width columns
}

// lines are those of a text, without their ends.
func lines(text string) iter.Seq[string] {
	return strings.SplitSeq(strings.TrimRight(text, "\n"), "\n")
}

// live shows a scene on the whole terminal until a key or ctx ends it; refresh gets what is new, every so often. The terminal is left as it was found. Where no keys can be read,
// only ctx ends it.
func live(ctx context.Context, w io.Writer, every time.Duration, s scene, refresh func(context.Context) error) (err error) {
	ctx, cancel := context.WithCancel(ctx)
	keys := make(chan string)
	done := make(chan struct{})
	if in := int(os.Stdin.Fd()); term.IsTerminal(in) {
		before, err := term.MakeRaw(in)
		if err != nil {
			cancel()
			return err
		}
		defer func() { _ = term.Restore(in, before) }()
		go func() { defer close(done); readKeys(ctx, in, keys) }()
	} else {
		close(done)
	}
	defer func() { cancel(); <-done }()
	if _, err := io.WriteString(w, "\x1b[?1049h\x1b[?25l"); err != nil { // another page, no cursor
		return err
	}
	defer func() {
		_, werr := io.WriteString(w, "\x1b[?25h\x1b[?1049l")
		err = errors.Join(err, werr)
	}()
	tick := time.NewTicker(every)
	defer tick.Stop()
	if err := refresh(ctx); err != nil {
		return err
	}
	for {
		width, height := 140, 40
		if f, ok := w.(*os.File); ok {
			if x, y, err := term.GetSize(int(f.Fd())); err == nil && x > 0 && y > 1 {
				width, height = x, y
			}
		}
		all, err := s.frame(width, height)
		if err != nil {
			return err
		}
		// Each line clears what was there; in raw mode a line end does not go back to the left.
		if _, err := io.WriteString(w, "\x1b[H"+strings.Join(all, "\x1b[K\r\n")+"\x1b[K\x1b[J"); err != nil {
			return err
		}
		select {
		case k := <-keys:
			if !s.key(k) {
				return nil
			}
		case <-tick.C:
			if err := refresh(ctx); err != nil {
				if ctx.Err() != nil {
					return nil
				}
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// readKeys sends what is typed, a key at a time, until ctx ends.
func readKeys(ctx context.Context, in int, keys chan<- string) {
	b := make([]byte, 64)
	for ctx.Err() == nil {
		ready := []unix.PollFd{{Fd: int32(in), Events: unix.POLLIN}} //nolint:gosec // a descriptor
		if n, err := unix.Poll(ready, 100); n <= 0 {
			if err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			continue
		}
		n, err := unix.Read(in, b)
		if n <= 0 || err != nil {
			return
		}
		for k := range splitKeys(string(b[:n])) {
			select {
			case keys <- k:
			case <-ctx.Done():
				return
			}
		}
	}
}

// splitKeys yields single characters and whole escape sequences.
func splitKeys(text string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for text != "" {
			n := 1
			if strings.HasPrefix(text, "\x1b[") {
				n = 2
				for n < len(text) && (text[n] < 0x40 || text[n] > 0x7e) {
					n++
				}
				n = min(n+1, len(text))
			}
			if !yield(text[:n]) {
				return
			}
			text = text[n:]
		}
	}
}
