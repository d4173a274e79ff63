//go:build linux

package main

import "time"

// service is one that a scenario has.
type service struct {
	name      string
	endpoints int
	zones     []string      // endpoint i is in the i-th of them, again and again; nil: none
	versions  []string      // as zones
	calls     string        // the service that each of its endpoints calls before it answers; "" for none
	patience  time.Duration // how long they wait for that; 0: as long as their caller
	work      time.Duration // how long a request takes; default 5 ms
	capacity  int           // requests that an endpoint works on at a time, the others wait in line; 0 for any number
	body      int           // bytes of an answer; default 64
	grpc      bool
}

// act is one thing that happens in a scenario.
type act struct {
	at time.Duration // after the window's begin, not before the act ahead of it has ended
	do func(s *stage) error
}

// scenario is one failure. The client calls the first service; the last one is that whose attempts are counted.
type scenario struct {
	name, title string
	what        string // for the page: what happens, and what a good answer to it is
	services    []service
	rate        float64       // requests per second; default 300
	deadline    time.Duration // the client's, of each request; default 2 s
	warmup      time.Duration // default 2.5 s
	window      time.Duration // default 9 s
	zone        string        // the client's
	dns         bool          // the last service is found by its name, by those who look names up
	weights     []int         // of the versions of the last service, at the begin; nil: endpoints are all alike
	acts        []act
	not         map[string]string // contenders for which it is not played, and why
}

// With these a scenario's zero values are filled in.
const (
	usualRate     = 300
	usualDeadline = 2 * time.Second
	usualWindow   = 9 * time.Second
	usualWork     = 5 * time.Millisecond
	usualFault    = 7 * time.Second // how long most faults last, from the window's begin
	usualWarmup   = 2500 * time.Millisecond
	maxCell       = 15 * time.Second // warm-up and window
)

// withDefaults is a copy with zero fields filled in.
func (s scenario) withDefaults() scenario {
	def(&s.rate, usualRate)
	def(&s.deadline, usualDeadline)
	def(&s.warmup, usualWarmup)
	def(&s.window, usualWindow)
	services := make([]service, len(s.services))
	for i, v := range s.services {
		def(&v.work, usualWork)
		services[i] = v
	}
	s.services = services
	return s
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}

// three is the service of most scenarios.
func three() []service { return []service{{name: "app", endpoints: 3}} }

// during lets endpoint i of the last service have a manner for most of the window.
func during(m manner, i ...int) []act {
	return []act{{0, behave(m, i...)}, {usualFault, behave(manner{}, i...)}}
}

// behave gives the endpoints i of the last service a manner.
func behave(m manner, i ...int) func(*stage) error {
	return func(s *stage) error {
		for _, n := range i {
			s.last()[n].behave(m)
		}
		return nil
	}
}
