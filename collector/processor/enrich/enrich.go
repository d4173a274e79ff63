// Package enrich makes telemetry trustworthy before it is stored: it stamps the reporter's identity from the TLS peer over whatever was sent, takes the
// marks of evidence from senders that are not of the mesh, corrects the service a reporter may speak for, and removes private parts of URLs and headers and what else
// Config names.
package enrich

import (
	"context"
	"strings"
	"sync"

	"go.opentelemetry.io/collector/component"
	"go.opentelemetry.io/collector/consumer"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/pmetric"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/collector/processor"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
)

// Type is the processor's name in a configuration.
var Type = component.MustNewType("enrich")

// Registry knows which workload an identity belongs to.
type Registry interface {
	Lookup(identity string) (service, namespace string, ok bool)
}

// Reasons of alterations and drops.
const (
	ReasonIdentity        = "identity_overwritten" // a batch claimed another reporter than its TLS peer
	ReasonService         = "service_overwritten"  // a reporter spoke for another service than its own
	ReasonEvidence        = "evidence_removed"     // tulle.* attributes from a sender outside the mesh
	ReasonPrivate         = "private_removed"      // query strings, cookies, credentials
	ReasonRedacted        = "redacted"             // removed because Config says so
	ReasonHashed          = "hashed"               // replaced by a keyed hash because Config says so
	ReasonUnauthenticated = "unauthenticated_metrics"
)

// Counters count attributes altered and data points dropped, by reason. Safe for concurrent use; the zero value is ready.
type Counters struct {
	mu      sync.Mutex
	altered map[string]uint64
	dropped map[string]uint64
}

// Snapshot returns copies.
func (c *Counters) Snapshot() (altered, dropped map[string]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	altered, dropped = map[string]uint64{}, map[string]uint64{}
	for k, v := range c.altered {
		altered[k] = v
	}
	for k, v := range c.dropped {
		dropped[k] = v
	}
	return altered, dropped
}

// tally collects the counts of one batch, to take the lock once.
type tally struct{ identity, service, evidence, private, redacted, hashed uint64 }

func (c *Counters) add(t tally, droppedPoints int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.altered == nil {
		c.altered, c.dropped = map[string]uint64{}, map[string]uint64{}
	}
	for k, n := range map[string]uint64{
		ReasonIdentity: t.identity, ReasonService: t.service, ReasonEvidence: t.evidence, ReasonPrivate: t.private, ReasonRedacted: t.redacted, ReasonHashed: t.hashed,
	} {
		if n > 0 {
			c.altered[k] += n
		}
	}
	if droppedPoints > 0 {
		c.dropped[ReasonUnauthenticated] += uint64(droppedPoints) //nolint:gosec // a count
	}
}

// NewFactory makes the processor's factory. reg may be nil; key is what values are hashed with, and needed only if some are.
func NewFactory(reg Registry, key []byte, c *Counters) processor.Factory {
	newStep := func(cfg component.Config) (step, error) {
		r, err := newRedaction(cfg.(*Config), key) //nolint:forcetypeassert // the factory made it
		return step{reg: reg, c: c, redaction: r}, err
	}
	return processor.NewFactory(Type, func() component.Config { return &Config{} },
		processor.WithTraces(func(_ context.Context, _ processor.Settings, cfg component.Config, next consumer.Traces) (processor.Traces, error) {
			s, err := newStep(cfg)
			return &traces{step: s, next: next}, err
		}, component.StabilityLevelStable),
		processor.WithMetrics(func(_ context.Context, _ processor.Settings, cfg component.Config, next consumer.Metrics) (processor.Metrics, error) {
			s, err := newStep(cfg)
			return &metrics{step: s, next: next}, err
		}, component.StabilityLevelStable),
	)
}

type step struct {
	component.StartFunc
	component.ShutdownFunc
	reg       Registry
	c         *Counters
	redaction *redaction // nil: nothing beside what always is removed
}

func (step) Capabilities() consumer.Capabilities { return consumer.Capabilities{MutatesData: true} }

type traces struct {
	step
	next consumer.Traces
}

type metrics struct {
	step
	next consumer.Metrics
}

// reporter is the identity at the other end of the connection on which the batch came; zero for plaintext. It is taken from
// the verified TLS state only, never from metadata or content.
func reporter(ctx context.Context) identity.ID {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return identity.ID{}
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return identity.ID{}
	}
	return identity.PeerID(info.State)
}

func (p *traces) ConsumeTraces(ctx context.Context, td ptrace.Traces) error {
	var t tally
	id := reporter(ctx)
	for _, rs := range td.ResourceSpans().All() {
		p.resource(rs.Resource().Attributes(), id, &t)
		for _, ss := range rs.ScopeSpans().All() {
			p.clean(ss.Scope().Attributes(), id, &t)
			for _, sp := range ss.Spans().All() {
				p.clean(sp.Attributes(), id, &t)
				for _, e := range sp.Events().All() {
					p.clean(e.Attributes(), id, &t)
				}
				for _, l := range sp.Links().All() {
					p.clean(l.Attributes(), id, &t)
				}
			}
		}
	}
	p.c.add(t, 0)
	return p.next.ConsumeTraces(ctx, td)
}

func (p *metrics) ConsumeMetrics(ctx context.Context, md pmetric.Metrics) error {
	id := reporter(ctx)
	if id.IsZero() { // counts are evidence: only authenticated reporters' are taken
		p.c.add(tally{}, md.DataPointCount())
		return nil
	}
	var t tally
	for _, rm := range md.ResourceMetrics().All() {
		p.resource(rm.Resource().Attributes(), id, &t)
	}
	p.c.add(t, 0)
	return p.next.ConsumeMetrics(ctx, md)
}

// resource stamps the reporter and holds it to its own service.
func (s *step) resource(m pcommon.Map, id identity.ID, t *tally) {
	if id.IsZero() {
		s.clean(m, id, t)
		return
	}
	m.RemoveIf(func(k string, v pcommon.Value) bool { return s.redacted(k, v, t) })
	if v, ok := m.Get(flow.AttrReporterIdentity); ok && v.AsString() != id.String() {
		t.identity++
	}
	m.PutStr(flow.AttrReporterIdentity, id.String())
	if s.reg == nil {
		return
	}
	service, namespace, ok := s.reg.Lookup(id.String())
	if !ok {
		return
	}
	for k, want := range map[string]string{flow.AttrServiceName: service, flow.AttrServiceNamespace: namespace} {
		if want == "" {
			continue
		}
		if v, ok := m.Get(k); ok && v.AsString() != want {
			t.service++
		}
		m.PutStr(k, want)
	}
}

// clean removes what an attribute map below the resource must not carry.
func (s *step) clean(m pcommon.Map, id identity.ID, t *tally) {
	if m.Len() == 0 {
		return
	}
	m.RemoveIf(func(k string, v pcommon.Value) bool {
		if strings.HasPrefix(k, "tulle.") {
			if id.IsZero() || k == flow.AttrReporterIdentity {
				t.evidence++
				return true
			}
			return false
		}
		return s.redacted(k, v, t)
	})
}

// redacted reports whether the attribute is to be dropped; of one that holds a URL it cuts the value. Keys of each length are few, so that one
// look at the length is enough for nearly all.
func (s *step) redacted(k string, v pcommon.Value, t *tally) bool {
	if s.redaction != nil && s.redaction.apply(k, v, t) {
		return true
	}
	if n := len(k); n >= len(sensitive) || !sensitive[n] {
		return false
	}
	if private[k] || private[strings.ToLower(k)] {
		t.private++
		return true
	}
	if urls[k] && v.Type() == pcommon.ValueTypeStr {
		if u, changed := cutURL(v.Str()); changed {
			v.SetStr(u)
			t.private++
		}
	}
	return false
}

// private are attributes that are dropped whole.
var private = map[string]bool{
	"url.query": true, "cookie": true, "set-cookie": true, "authorization": true, "proxy-authorization": true,
	"http.request.header.cookie": true, "http.response.header.set-cookie": true,
	"http.request.header.authorization": true, "http.request.header.proxy-authorization": true,
	"http.request.header.set_cookie": true, "http.response.header.set_cookie": true, "http.request.header.proxy_authorization": true,
}

// urls are attributes that keep their value but for credentials, query and fragment.
var urls = map[string]bool{"url.full": true, "http.url": true, "http.target": true, "url.path": true}

// sensitive are the lengths of the keys of private and urls.
var sensitive = func() (t [64]bool) {
	for k := range private {
		t[len(k)] = true
	}
	for k := range urls {
		t[len(k)] = true
	}
	return t
}()

// cutURL drops query, fragment and user information. It works on any string: what is no URL loses only what follows "?" or "#".
func cutURL(s string) (out string, changed bool) {
	out = s
	if i := strings.IndexAny(out, "?#"); i >= 0 {
		out = out[:i]
	}
	if i := strings.Index(out, "://"); i >= 0 {
		host := out[i+3:]
		end := strings.IndexByte(host, '/')
		if end < 0 {
			end = len(host)
		}
		if at := strings.LastIndexByte(host[:end], '@'); at >= 0 {
			out = out[:i+3] + host[at+1:]
		}
	}
	return out, out != s
}
