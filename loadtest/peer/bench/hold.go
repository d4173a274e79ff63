//go:build linux

package main

import (
	"crypto/tls"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// holder keeps connections open that have made one request and then say nothing.
type holder struct{ fds []int }

// hold opens job.Conns of them, from as many source addresses as that takes.
func (h *holder) hold(j job) (r result) {
	var config *tls.Config
	if j.TLS != nil {
		var err error
		if config, err = j.TLS.client(); err != nil {
			return result{Err: err.Error()}
		}
	}
	for i := range j.Conns {
		fd, err := h.one(j, config, i)
		if err != nil {
			return result{Err: fmt.Sprintf("idle connection %d: %v", i+1, err)}
		}
		h.fds = append(h.fds, fd)
		r.Total++
	}
	return r
}

func (h *holder) one(j job, config *tls.Config, i int) (int, error) {
	fd, err := dial(j.Address, source(i/10_000))
	if err != nil {
		return -1, err
	}
	if config == nil {
		err = exchange(&stream{fd}, j.Size, uint64(i), false)
	} else {
		conn := tls.Client(&blocking{fd: fd}, config)
		if err = conn.Handshake(); err == nil {
			err = exchange(conn, j.Size, uint64(i), false)
		}
	}
	if err != nil {
		shut(fd)
		return -1, err
	}
	return fd, nil
}

// stream is a blocking socket as it is.
type stream struct{ fd int }

func (s *stream) Read(p []byte) (int, error)  { return (&blocking{fd: s.fd}).read(p) }
func (s *stream) Write(p []byte) (int, error) { return (&blocking{fd: s.fd}).Write(p) }

// release closes them all. Total is how many the proxy had not closed meanwhile.
func (h *holder) release() (r result) {
	var b [1]byte
	for _, fd := range h.fds {
		if _, err := receive(fd, b[:]); errors.Is(err, unix.EAGAIN) {
			r.Total++
		}
		shut(fd)
	}
	h.fds = nil
	return r
}
