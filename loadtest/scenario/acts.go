//go:build linux

package main

// crash ends applications as SIGKILL would. A sidecar beside it lives.
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
