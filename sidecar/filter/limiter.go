package filter

import (
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	commonv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

const (
	// limiterMethod is the one method of the protocol.
	limiterMethod = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit"
	// maxLimiterAnswer is how many bytes of an answer are read.
	maxLimiterAnswer = 64 << 10
)

// words are what the entry of a key is called that has no name.
var words = map[route.KeyKind]string{
	route.KeyHeader: "header", route.KeySource: "source", route.KeyIdentity: "identity", route.KeyPath: "path", route.KeyMethod: "method", route.KeyConstant: "constant",
}

// askLimiters asks the rate limit services of a rule's global limits: those of one service and domain at once. False: x is turned away.
func (f *Filters) askLimiters(x *exchange.Exchange, limits []route.RateLimit) bool {
	for i := range limits {
		l := &limits[i]
		if l.Domain == "" || asked(limits[:i], l) {
			continue
		}
		var of []*route.RateLimit
		q := &ratelimitv3.RateLimitRequest{Domain: l.Domain}
		timeout := time.Duration(0)
		for k := i; k < len(limits); k++ {
			other := &limits[k]
			if other.Domain != l.Domain || other.Service != l.Service {
				continue
			}
			if d := descriptor(x, other); d != nil {
				of, q.Descriptors = append(of, other), append(q.Descriptors, d)
			}
			t := other.Timeout
			if t == 0 {
				t = route.DefaultLimiterTimeout
			}
			timeout = max(timeout, t)
		}
		if len(of) > 0 && !f.askLimiter(x, of, q, timeout) {
			return false
		}
	}
	return true
}

// asked reports whether l is one of those that were asked for together with one of before.
func asked(before []route.RateLimit, l *route.RateLimit) bool {
	for i := range before {
		if before[i].Domain == l.Domain && before[i].Service == l.Service {
			return true
		}
	}
	return false
}

// descriptor is what a rate limit service judges x by; nil: l is not for x.
func descriptor(x *exchange.Exchange, l *route.RateLimit) *commonv3.RateLimitDescriptor {
	d := &commonv3.RateLimitDescriptor{}
	for i := range l.Keys {
		k := &l.Keys[i]
		v, ok := appendKey(nil, x, k)
		if !ok {
			return nil
		}
		name := k.Name
		if name == "" {
			name = words[k.Kind]
		}
		d.Entries = append(d.Entries, &commonv3.RateLimitDescriptor_Entry{Key: name, Value: strings.ToValidUTF8(string(v), "\uFFFD")})
	}
	return d
}

// askLimiter asks one. It does so as one of the sidecar's own exchanges, by the mesh's mTLS and with a Record, whose time is what the limits say at most.
func (f *Filters) askLimiter(x *exchange.Exchange, of []*route.RateLimit, q *ratelimitv3.RateLimitRequest, timeout time.Duration) bool {
	answer, err := f.callLimiter(x, of[0].Service, q, timeout)
	if err != nil {
		for _, l := range of {
			if !l.FailOpen {
				x.Outcome.Fail(flow.ReasonLimiterFailed, fmt.Sprintf("limit %s: rate limit service %s: %v", l.Name, l.Service, err))
				return false
			}
		}
		x.Note = fmt.Sprintf("rate limit service %s: %v; let pass", of[0].Service, err)
		return true
	}
	over := answer.OverallCode == ratelimitv3.RateLimitResponse_OVER_LIMIT
	for _, h := range answer.ResponseHeadersToAdd {
		field := route.Field{Name: strings.ToLower(h.GetKey()), Value: h.GetValue()}
		if field.Value == "" {
			field.Value = string(h.GetRawValue())
		}
		if route.CheckAnswerField(field) != nil || field.Name == "retry-after" {
			continue
		}
		x.Passed.Append = append(x.Passed.Append, field)
		x.Answer = append(x.Answer, field)
	}
	if !over {
		return true
	}
	name, wait := of[0].Name, time.Second
	for i, s := range answer.Statuses {
		if s.Code == ratelimitv3.RateLimitResponse_OVER_LIMIT && i < len(of) {
			name = of[i].Name
			if d := s.DurationUntilReset; d.IsValid() && d.AsDuration() > 0 {
				wait = d.AsDuration()
			}
			break
		}
	}
	exceeded(x, name+", by rate limit service "+of[0].Service, wait)
	return false
}

// callLimiter is one unary call of gRPC (https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md).
func (f *Filters) callLimiter(x *exchange.Exchange, service string, q *ratelimitv3.RateLimitRequest, timeout time.Duration) (*ratelimitv3.RateLimitResponse, error) {
	d := x.Binding.Destinations[service]
	if d == nil {
		return nil, fmt.Errorf("no service %q is known", service)
	}
	body := make([]byte, 5, 5+proto.Size(q))
	body, err := proto.MarshalOptions{}.MarshalAppend(body, q)
	if err != nil {
		return nil, err
	}
	binary.BigEndian.PutUint32(body[1:], uint32(len(body)-5)) //nolint:gosec // keys of a request's head
	r := &exchange.Request{
		Method: "POST", Target: limiterMethod, Authority: service, Trailers: true,
		Fields: []exchange.Field{{Name: "content-type", Value: "application/grpc"}, {Name: "user-agent", Value: "tulle-sidecar"}, {Name: "grpc-timeout", Value: fmt.Sprintf("%dm", max(timeout.Milliseconds(), 1))}},
	}
	e := exchange.NewErrand(*r, body, maxLimiterAnswer)
	y := errandOf(x, d, r, e)
	y.Protocol, y.Head.Idempotent, y.Head.UserAgent = flow.ProtocolGRPC, true, "tulle-sidecar"
	y.Head.Timeout = timeout
	y.Decision = route.Decision{Service: service}
	f.errand.Handle(y)
	code, known := y.Outcome.GRPC.Code()
	switch o := &y.Outcome; {
	case o.Reason != flow.ReasonNone && o.Reason != flow.ReasonUpstreamStatus:
		return nil, fmt.Errorf("%s: %s", o.Reason, o.Detail)
	case !known || code != 0:
		return nil, fmt.Errorf("it answered %d, %s", e.Status, y.Outcome.GRPC)
	case e.Short || len(e.Body) < 5 || e.Body[0] != 0 || int(binary.BigEndian.Uint32(e.Body[1:])) != len(e.Body)-5:
		return nil, fmt.Errorf("its answer of %d bytes is no message", len(e.Body))
	}
	answer := &ratelimitv3.RateLimitResponse{}
	if err := proto.Unmarshal(e.Body[5:], answer); err != nil {
		return nil, fmt.Errorf("its answer is no message: %w", err)
	}
	return answer, nil
}
