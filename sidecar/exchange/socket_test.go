package exchange

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// pair is two ends of a TCP connection, the first one a Socket.
func pair(t testing.TB) (s net.Conn, peer *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), a.Close() })
	return NewSocket(a), c.(*net.TCPConn)
}

// unixPair is pair with a Unix socket.
func unixPair(t testing.TB) (s net.Conn, peer *net.UnixConn) {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = c.Close(), a.Close() })
	return NewSocket(a), c.(*net.UnixConn)
}

// A Unix socket is as good as a TCP one: it can be tried, half-closed, and its errors say what it is.
func TestSocketUnix(t *testing.T) {
	c, peer := unixPair(t)
	s, ok := c.(*Socket)
	if !ok {
		return // this system has none
	}
	if n, ready, err := s.ReadReady(make([]byte, 8)); n != 0 || ready || err != nil {
		t.Fatalf("nothing was sent: %d, %v, %v", n, ready, err)
	}
	sent := bytes.Repeat([]byte("0123456789"), 200_000) // more than the kernel keeps
	go func() {
		_, _ = s.Write(sent)
		_ = CloseWrite(s)
	}()
	if got, err := io.ReadAll(peer); err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("%d of %d bytes, %v", len(got), len(sent), err)
	}
	if _, err := peer.Write([]byte("abc")); err != nil {
		t.Fatalf("after the end of the other direction: %v", err)
	}
	buf := make([]byte, 8)
	if n, err := s.Read(buf); string(buf[:n]) != "abc" || err != nil {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	_ = s.SetReadDeadline(time.Now().Add(time.Millisecond))
	var oe *net.OpError
	if _, err := s.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &oe) || oe.Net != "unix" {
		t.Errorf("got %v", err)
	}
}

func TestSocketReadReady(t *testing.T) {
	c, peer := pair(t)
	s, ok := c.(*Socket)
	if !ok {
		return // this system has none
	}
	buf := make([]byte, 8)
	if n, ready, err := s.ReadReady(buf); n != 0 || ready || err != nil {
		t.Fatalf("nothing was sent: %d, %v, %v", n, ready, err)
	}
	if _, err := peer.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(s, make([]byte, 1)); err != nil { // it has arrived
		t.Fatal(err)
	}
	if n, ready, err := s.ReadReady(buf); string(buf[:n]) != "bc" || !ready || err != nil {
		t.Fatalf("got %q, %v, %v", buf[:n], ready, err)
	}
	_ = peer.Close()
	if n, err := s.Read(buf); n != 0 || err != io.EOF { //nolint:errorlint // callers compare
		t.Fatalf("got %d, %v", n, err)
	}
	if n, ready, err := s.ReadReady(buf); n != 0 || !ready || !errors.Is(err, io.EOF) {
		t.Fatalf("after the end: %d, %v, %v", n, ready, err)
	}
	_ = s.Close()
	if _, ready, err := s.ReadReady(buf); !ready || !errors.Is(err, net.ErrClosed) {
		t.Fatalf("closed: %v, %v", ready, err)
	}
}

// What is larger than the kernel's buffers goes over whole, in both directions at once, and a deadline ends a wait.
func TestSocketTransfer(t *testing.T) {
	s, peer := pair(t)
	big := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	results := make(chan error, 2)
	echo := func(c net.Conn) {
		got := make([]byte, len(big))
		_, err := io.ReadFull(c, got)
		if err == nil && !bytes.Equal(got, big) {
			err = errors.New("other bytes arrived than were sent")
		}
		results <- err
	}
	go echo(peer)
	go echo(s)
	go func() { _, _ = peer.Write(big) }()
	if n, err := s.Write(big); n != len(big) || err != nil {
		t.Fatalf("wrote %d, %v", n, err)
	}
	for range 2 {
		if err := <-results; err != nil {
			t.Fatal(err)
		}
	}
	if err := s.SetReadDeadline(time.Unix(1, 0)); err != nil {
		t.Fatal(err)
	}
	var ne net.Error
	if n, err := s.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) || !errors.As(err, &ne) || !ne.Timeout() {
		t.Errorf("after the deadline: %d, %v", n, err)
	}
	_ = s.SetDeadline(time.Now().Add(50 * time.Millisecond))
	for {
		if _, err := s.Write(big); err != nil {
			if !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a full connection: %v", err)
			}
			break
		}
	}
}

// Errors read like those of package net.
func TestSocketErrors(t *testing.T) {
	s, peer := pair(t)
	_ = peer.SetLinger(0)
	_ = peer.Close()
	_, err := s.Read(make([]byte, 1))
	var oe *net.OpError
	if !errors.Is(err, syscall.ECONNRESET) || !errors.As(err, &oe) || !strings.HasPrefix(err.Error(), "read tcp 127.0.0.1:") {
		t.Errorf("reset: %v", err)
	}
	_ = s.Close()
	if _, err := s.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

// What is called before a Read waits may close the connection, or bring what is waited for.
func TestSocketBeforeWait(t *testing.T) {
	c, peer := pair(t)
	s, ok := c.(*Socket)
	if !ok {
		return // this system has none
	}
	calls := 0
	s.BeforeWait(func() {
		calls++
		_, _ = peer.Write([]byte("ab"))
	})
	buf := make([]byte, 1)
	for _, want := range []string{"a", "b"} {
		if n, err := s.Read(buf); string(buf[:n]) != want || err != nil {
			t.Fatalf("got %q, %v", buf[:n], err)
		}
	}
	if calls != 1 {
		t.Errorf("it was called %d times", calls)
	}
	s.BeforeWait(func() { _ = s.Close() })
	read := make(chan error, 1)
	go func() {
		_, err := s.Read(buf)
		read <- err
	}()
	late := time.NewTimer(10 * time.Second)
	defer late.Stop()
	select {
	case err := <-read:
		if !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	case <-late.C:
		t.Fatal("it waits for itself")
	}
}
