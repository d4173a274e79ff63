// Package cardinality bounds what applications can make lists of. A service that puts ids into span names, a client that invents service names, an attribute key for
// each user: each fills menus, dictionaries and columns without end. What goes beyond a budget is told apart no longer: its name becomes "other" and the real one an
// attribute of the span; attributes with further keys are removed. It is counted, and told once by an event for each service.
//
// What sidecars send is bounded by its schema and passes untouched: spans whose resource has a reporter's identity, which enrich stamped.
//
// A name that was not seen for one to two hours makes room for others.
package cardinality

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/cespare/xxhash/v2"
	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Type is the processor's name in a configuration.
var Type = component.MustNewType("cardinality")

// Other is what stands for names beyond a budget.
const Other = "other"

// Attributes that keep a name which became Other. They are set here, behind enrich, which removes such keys from applications.
const (
	AttrSpanName = "tulle.original.name"
	AttrService  = "tulle.original.service"
)

// Config has the budgets. All must be above 0.
type Config struct {
	Services int `mapstructure:"services"` // names of services outside the mesh; default 500
	Names    int `mapstructure:"names"`    // span names of a service; default 500
	Keys     int `mapstructure:"keys"`     // attribute keys of a service's resources, scopes, spans, events and links; default 256
}

// Default is the default Config.
var Default = Config{Services: 500, Names: 500, Keys: 256}

// Validate is called by the collector.
func (c *Config) Validate() error {
	for name, n := range map[string]int{"services": c.Services, "names": c.Names, "keys": c.Keys} {
		if n < 1 || n > 100_000 {
			return fmt.Errorf("%s is %d; 1 to 100000 is possible", name, n)
		}
	}
	return nil
}

// Reasons.
const (
	ReasonServices = "service_overflow"   // resources whose service became Other
	ReasonNames    = "name_overflow"      // spans whose name became Other
	ReasonKeys     = "attribute_overflow" // attributes removed
)

// Overflow is told the first time that a service is beyond a budget. Service is "" when there are too many services.
type Overflow struct {
	Service string
	Reason  string
	Budget  int
	Example string // the name or key that was one too many, cut to 64 bytes
}

// Hooks say what happened; neither may block, and both are called concurrently.
type Hooks struct {
	Altered  func(reason string, n int)
	Overflow func(Overflow)
}

// NewFactory makes the processor's factory.
func NewFactory(h Hooks, now func() time.Time) processor.Factory {
	return processor.NewFactory(Type, func() component.Config { c := Default; return &c },
		processor.WithTraces(func(_ context.Context, _ processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
			c := cfg.(*Config) //nolint:forcetypeassert // the factory made it
			return &guard{cfg: *c, hooks: h, now: now, next: next, services: newSet(c.Services), known: map[uint64]*service{}}, nil
		}, component.StabilityLevelStable))
}

// generation is how long what was seen is remembered at least, twice that at most.
const generation = time.Hour

// set admits up to max members, by their hash, and forgets those that were not seen for a while.
type set struct {
	max      int
	cur, old map[uint64]struct{}
	lost     bool // something was not admitted
}

func newSet(limit int) *set { return &set{max: limit, cur: map[uint64]struct{}{}} }

func (s *set) admit(h uint64) bool {
	if _, ok := s.cur[h]; ok {
		return true
	}
	if _, ok := s.old[h]; ok {
		delete(s.old, h)
	} else if len(s.cur)+len(s.old) >= s.max {
		return false
	}
	s.cur[h] = struct{}{}
	return true
}

func (s *set) turn() { s.cur, s.old = make(map[uint64]struct{}, len(s.cur)), s.cur }

// service is what was seen of one.
type service struct{ names, keys *set }

type guard struct {
	component.StartFunc
	component.ShutdownFunc
	cfg   Config
	hooks Hooks
	now   func() time.Time
	next  consumer.Traces

	mu       sync.Mutex // guards the rest; held while the names of a batch of an application are looked at
	turned   time.Time
	services *set
	known    map[uint64]*service
}

func (*guard) Capabilities() consumer.Capabilities { return consumer.Capabilities{MutatesData: true} }

func (g *guard) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	for _, rs := range td.ResourceSpans().All() {
		if _, mesh := rs.Resource().Attributes().Get(flow.AttrReporterIdentity); !mesh {
			g.look(rs)
		}
	}
	return g.next.ConsumeTraces(ctx, td)
}

// found collects what to tell when the lock is released.
type found struct {
	services, names, keys int
	first                 []Overflow
}

func (g *guard) look(rs ptrace.ResourceSpans) {
	var f found
	g.mu.Lock()
	g.lookLocked(rs, &f)
	g.mu.Unlock()
	for reason, n := range map[string]int{ReasonServices: f.services, ReasonNames: f.names, ReasonKeys: f.keys} {
		if n > 0 {
			g.hooks.Altered(reason, n)
		}
	}
	for _, o := range f.first {
		g.hooks.Overflow(o)
	}
}

func (g *guard) lookLocked(rs ptrace.ResourceSpans, f *found) {
	if now := g.now(); now.Sub(g.turned) >= generation {
		g.turned = now
		g.turnLocked()
	}
	res := rs.Resource().Attributes()
	name := Other
	if v, ok := res.Get(flow.AttrServiceName); ok {
		name = v.AsString()
	}
	s := g.serviceLocked(name)
	if s == nil {
		f.services++
		f.tell(g.services, Overflow{Reason: ReasonServices, Budget: g.cfg.Services, Example: name})
		res.PutStr(flow.AttrServiceName, Other)
		res.PutStr(AttrService, name)
		s = g.otherLocked()
		name = Other
	}
	keys := func(m pcommon.Map) {
		m.RemoveIf(func(k string, _ pcommon.Value) bool {
			if strings.HasPrefix(k, "tulle.") || k == flow.AttrServiceName || s.keys.admit(xxhash.Sum64String(k)) {
				return false
			}
			f.keys++
			f.tell(s.keys, Overflow{Service: name, Reason: ReasonKeys, Budget: g.cfg.Keys, Example: k})
			return true
		})
	}
	keys(res)
	for _, ss := range rs.ScopeSpans().All() {
		keys(ss.Scope().Attributes())
		for _, sp := range ss.Spans().All() {
			keys(sp.Attributes())
			for _, e := range sp.Events().All() {
				keys(e.Attributes())
			}
			for _, l := range sp.Links().All() {
				keys(l.Attributes())
			}
			if n := sp.Name(); n != Other && !s.names.admit(xxhash.Sum64String(n)) {
				f.names++
				f.tell(s.names, Overflow{Service: name, Reason: ReasonNames, Budget: g.cfg.Names, Example: n})
				sp.Attributes().PutStr(AttrSpanName, n)
				sp.SetName(Other)
			}
		}
	}
}

func (f *found) tell(s *set, o Overflow) {
	if s.lost {
		return
	}
	s.lost = true
	o.Example = strings.ToValidUTF8(strings.Clone(o.Example[:min(len(o.Example), 64)]), "")
	f.first = append(f.first, o)
}

// serviceLocked is nil when there are too many.
func (g *guard) serviceLocked(name string) *service {
	if name == Other {
		return g.otherLocked()
	}
	h := xxhash.Sum64String(name)
	if !g.services.admit(h) {
		return nil
	}
	return g.memberLocked(h)
}

// otherLocked is where all services meet that have no place of their own. It takes none from the others.
func (g *guard) otherLocked() *service { return g.memberLocked(0) }

func (g *guard) memberLocked(h uint64) *service {
	s := g.known[h]
	if s == nil {
		s = &service{names: newSet(g.cfg.Names), keys: newSet(g.cfg.Keys)}
		g.known[h] = s
	}
	return s
}

func (g *guard) turnLocked() {
	g.services.turn()
	for h, s := range g.known {
		if _, ok := g.services.old[h]; !ok && h != 0 {
			delete(g.known, h) // not seen for a whole generation
			continue
		}
		s.names.turn()
		s.keys.turn()
	}
}
