//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// crash ends applications of the last service as SIGKILL would. A sidecar beside them lives.
func crash(i ...int) func(*stage) error {
	return func(s *stage) error {
		for _, n := range i {
			s.last()[n].down()
		}
		return nil
	}
}

// restart starts applications that had crashed.
func restart(i ...int) func(*stage) error {
	return func(s *stage) error {
		for _, n := range i {
			if err := s.last()[n].up(); err != nil {
				return err
			}
		}
		return nil
	}
}

// vanish takes endpoints away with their hosts: application and sidecar end at once, and SYNs to where callers reach them are dropped.
func vanish(i ...int) func(*stage) error {
	return func(s *stage) error {
		for _, n := range i {
			e := s.last()[n]
			e.down()
			if err := s.carrier.leave(e, false); err != nil {
				return err
			}
			end, err := blackHole(s.carrier.address(e))
			if err != nil {
				return err
			}
			s.atEnd(end)
		}
		return nil
	}
}

// arrive adds an endpoint to the last service that behaves so.
func arrive(m manner) func(*stage) error {
	return func(s *stage) error {
		_, err := s.arrive(m)
		return err
	}
}

// arrive starts and lists another endpoint of the last service.
func (s *stage) arrive(m manner) (*endpoint, error) {
	name := s.services[len(s.services)-1].name
	e, err := s.add(name)
	if err != nil {
		return nil, err
	}
	e.behave(m)
	if err := e.up(); err != nil {
		return nil, err
	}
	if err := s.carrier.join(e); err != nil {
		return nil, err
	}
	return e, s.list(name, append(s.endpointsOf(name), e))
}

// How a rollout goes on: a new endpoint has this long before an old one is taken away, and that one before the next is begun.
const (
	rollNew = time.Second
	rollOld = 500 * time.Millisecond
)

// roll replaces all endpoints of the last service, one after the other. Each old one leaves the list in the moment in which it ends: in order (the application gets SIGTERM,
// and the sidecar when that has ended, as on Kubernetes), or by SIGKILL, both at once.
func roll(inOrder bool) func(*stage) error {
	return func(s *stage) error {
		name := s.services[len(s.services)-1].name
		for _, old := range s.last() {
			if _, err := s.arrive(manner{}); err != nil {
				return err
			}
			if !pause(s.ctx, rollNew) {
				return nil
			}
			if err := s.list(name, slices.DeleteFunc(s.endpointsOf(name), func(e *endpoint) bool { return e == old })); err != nil {
				return err
			}
			if inOrder {
				old.drain()
			} else {
				old.down()
			}
			if err := s.carrier.leave(old, inOrder); err != nil {
				return err
			}
			pause(s.ctx, rollOld)
		}
		return nil
	}
}

// weighed are the weights of the last service's versions; nil when they have none.
func (s *stage) weighed() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.weight
}

// weigh changes the weights.
func weigh(weights ...int) func(*stage) error {
	return func(s *stage) error {
		s.mu.Lock()
		s.weight = weights
		s.mu.Unlock()
		return s.carrier.told(s.services[len(s.services)-1].name)
	}
}

// unasked fails the cell when endpoints of a version are still asked.
func unasked(version string) func(*stage) error {
	return func(s *stage) error {
		count := func() (n int64) {
			for _, e := range s.last() {
				if e.version == version {
					n += e.attempts.Load()
				}
			}
			return n
		}
		before := count()
		pause(s.ctx, 500*time.Millisecond)
		if n := count() - before; n > 0 {
			return fmt.Errorf("version %s was asked %d times in half a second, with no weight", version, n)
		}
		return nil
	}
}

// controllerGone ends the mesh's controller as SIGKILL would, and starts it again when the cell is over or after a time. Contenders without one have nothing to lose.
func controllerGone(until time.Duration) func(*stage) error {
	return func(s *stage) error {
		if _, ok := s.carrier.(*tulle); !ok {
			return nil
		}
		m := s.rig.mesh
		if err := m.kill(); err != nil {
			return err
		}
		if until > 0 {
			pause(s.ctx, until)
			return m.startController(s.ctx)
		}
		s.after = append(s.after, func() error { return m.startController(context.WithoutCancel(s.ctx)) })
		return nil
	}
}

// silence stops the stage's DNS server from answering.
func silence() func(*stage) error {
	return func(s *stage) error {
		if s.names == nil {
			return errors.New("the scenario has no DNS")
		}
		s.names.silent.Store(true)
		return nil
	}
}
