//go:build linux

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// shaker makes a connection, a handshake and one request, over and over, with crypto/tls as it is: here the handshakes are what is measured, and they
// dwarf what the load generator's goroutines cost.
type shaker struct {
	job
	config *tls.Config

	mu      sync.Mutex
	counts  result
	stopped bool
}

// shake carries out a job of handshakes.
func (j job) shake() result {
	s := &shaker{job: j}
	if err := s.all(); err != nil {
		s.counts.Err = err.Error()
	}
	return s.counts
}

func (s *shaker) all() (err error) {
	if s.TLS == nil {
		return errors.New("a job of handshakes without certificates")
	}
	if s.config, err = s.TLS.client(); err != nil {
		return err
	}
	own, err := cpuTime(os.Getpid())
	if err != nil {
		return err
	}
	var workers sync.WaitGroup
	for i := range s.Conns {
		workers.Go(func() { s.work(i) })
	}
	err = s.measure()
	s.mu.Lock()
	s.stopped = true
	s.mu.Unlock()
	workers.Wait()
	end, cerr := cpuTime(os.Getpid())
	s.counts.Own = end - own
	return errors.Join(err, cerr)
}

// measure takes the difference of everything over the window.
func (s *shaker) measure() error {
	snap := func() (result, []time.Duration, time.Time, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		t, err := cpuTimes(s.PIDs)
		return s.counts, t, time.Now(), err
	}
	time.Sleep(s.Warmup)
	a, cpuA, at, err := snap()
	if err != nil {
		return err
	}
	time.Sleep(s.Window)
	b, cpuB, end, err := snap()
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts.Requests, s.counts.Elapsed = b.Total-a.Total, end.Sub(at)
	s.counts.Resumed = b.Resumed - a.Resumed
	for i := range cpuB {
		s.counts.CPU = append(s.counts.CPU, cpuB[i]-cpuA[i])
	}
	return nil
}

// work makes one connection after the other. Sessions are its own, as each is good for one resumption.
func (s *shaker) work(index int) {
	c := s.config.Clone()
	c.CurvePreferences = s.Groups
	if s.Kind == jobResumed {
		c.ClientSessionCache = tls.NewLRUClientSessionCache(1)
	}
	for i := 0; ; i++ {
		resumed, err := s.visit(c, uint64(index)<<32|uint64(i))
		s.mu.Lock()
		switch {
		case err != nil:
			if s.counts.Errors++; s.counts.Failure == "" {
				s.counts.Failure = err.Error()
			}
		default:
			s.counts.Total++
			if resumed {
				s.counts.Resumed++
			}
		}
		done := s.stopped || s.counts.Errors >= maxErrors
		s.mu.Unlock()
		if done {
			return
		}
	}
}

// visit is one connection with one request.
func (s *shaker) visit(c *tls.Config, id uint64) (resumed bool, err error) {
	d := net.Dialer{Timeout: patience, LocalAddr: &net.TCPAddr{IP: source(int(id % 60_000)).AsSlice()}}
	plain, err := d.Dial("tcp", s.Address.String())
	if err != nil {
		return false, err
	}
	defer plain.Close()
	_ = plain.SetDeadline(time.Now().Add(patience))
	conn := tls.Client(plain, c)
	if err := conn.Handshake(); err != nil {
		return false, fmt.Errorf("TLS handshake: %w", err)
	}
	if err := exchange(conn, s.Size, id, true); err != nil {
		return false, err
	}
	return conn.ConnectionState().DidResume, nil
}

// exchange makes one request on a connection and verifies the answer.
func exchange(conn io.ReadWriter, size int, id uint64, last bool) error {
	text, at := newRequest(size, last)
	putID(text[at:], id)
	if _, err := conn.Write(text); err != nil {
		return fmt.Errorf("sending a request: %w", err)
	}
	expect := answer{pattern(size)}
	got := make([]byte, 0, size+4<<10)
	for {
		if len(got) == cap(got) {
			return fmt.Errorf("an answer of more than %d bytes", len(got))
		}
		n, err := conn.Read(got[len(got):cap(got)])
		got = got[:len(got)+n]
		if done, verr := expect.verify(got, id); done || verr != nil {
			return verr
		}
		if err != nil {
			return fmt.Errorf("reading an answer, of which %d bytes had come: %w", len(got), err)
		}
	}
}
