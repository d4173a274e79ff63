package filter

import (
	"encoding/binary"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	ratelimitv3 "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// limiter is a rate limit service at the end of the errands' chain.
func limiter(t *testing.T, answer func(y *exchange.Exchange, q *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, []byte)) *Filters {
	return New(exchange.HandlerFunc(func(y *exchange.Exchange) {
		c := y.Downstream.(exchange.Caller)
		c.Rewind(y)
		b := make([]byte, 1<<16)
		n, _ := c.ReadBody(y, b)
		q := &ratelimitv3.RateLimitRequest{}
		if r := c.Request(y); n < 5 || int(binary.BigEndian.Uint32(b[1:])) != n-5 || proto.Unmarshal(b[5:n], q) != nil || r.Target != limiterMethod || r.Method != "POST" || r.Authority != "limiter" || !r.Trailers {
			t.Errorf("%+v, %q", r, b[:n])
		}
		a, raw := answer(y, q)
		if a != nil {
			raw = make([]byte, 5)
			raw, _ = proto.MarshalOptions{}.MarshalAppend(raw, a)
			binary.BigEndian.PutUint32(raw[1:], uint32(len(raw)-5))
		}
		if y.Outcome.Reason != flow.ReasonNone {
			return
		}
		y.Outcome.GRPC = flow.NewGRPCStatus(0)
		if c.WriteHead(y, &exchange.Response{Status: 200}, false) != nil || c.WriteBody(y, raw) != nil || c.WriteEnd(y, nil) != nil {
			t.Error("it does not take the answer")
		}
	}))
}

// One call asks for all limits of a domain that are for the request; what the service says is done, and what is no answer is none.
func TestLimiter(t *testing.T) {
	keys := func(names ...string) (out []route.Key) {
		for _, n := range names {
			out = append(out, route.Key{Kind: route.KeyHeader, Name: n})
		}
		return out
	}
	global := func(name, domain string, open bool, keys ...route.Key) route.RateLimit {
		return route.RateLimit{Name: name, Domain: domain, Service: "limiter", Keys: keys, FailOpen: open}
	}
	a := &route.Action{Limits: []route.RateLimit{
		{Name: "own", Requests: 4, Per: time.Hour},
		global("user", "shop", true, keys("x-user")...), global("plan", "shop", true, append(keys("x-plan"), route.Key{Kind: route.KeyPath, Name: "where"}, route.Key{Kind: route.KeyMethod})...),
		global("strict", "strict", false, keys("x-strict")...),
	}}
	var asked []string
	f := limiter(t, func(y *exchange.Exchange, q *ratelimitv3.RateLimitRequest) (*ratelimitv3.RateLimitResponse, []byte) {
		text := q.Domain
		r := &ratelimitv3.RateLimitResponse{OverallCode: ratelimitv3.RateLimitResponse_OK}
		for _, d := range q.Descriptors {
			text += " ["
			s := &ratelimitv3.RateLimitResponse_DescriptorStatus{Code: ratelimitv3.RateLimitResponse_OK}
			for _, e := range d.Entries {
				text += e.Key + "=" + e.Value + ";"
				if e.Value == "over" {
					s.Code, r.OverallCode = ratelimitv3.RateLimitResponse_OVER_LIMIT, ratelimitv3.RateLimitResponse_OVER_LIMIT
					s.DurationUntilReset = durationpb.New(41 * time.Second)
				}
			}
			r.Statuses = append(r.Statuses, s)
			text += "]"
		}
		asked = append(asked, text)
		switch {
		case strings.Contains(text, "garbage"):
			return nil, []byte("12345garbage")
		case strings.Contains(text, "late"):
			y.Outcome.Fail(flow.ReasonRequestTimeout, "after 50ms")
			return nil, nil
		}
		for _, h := range [][2]string{{"X-RateLimit-Remaining", "7"}, {"content-length", "1"}, {"bad name", "1"}, {"x-tulle-reason", "shed"}} {
			r.ResponseHeadersToAdd = append(r.ResponseHeadersToAdd, &corev3.HeaderValue{Key: h[0], Value: h[1]})
		}
		return r, nil
	})
	for i, c := range []struct {
		fields map[string][]string
		asked  []string
		on     bool
		reason flow.Reason
		detail string
		after  string
	}{
		{nil, nil, true, flow.ReasonNone, "", ""},
		{map[string][]string{"x-user": {"ann\xff"}, "x-plan": {"a", "b"}}, []string{"shop [x-user=ann\uFFFD;] [x-plan=a,b;where=/a/b;method=GET;]"}, true, flow.ReasonNone, "", ""},
		{map[string][]string{"x-plan": {"over"}, "x-strict": {"1"}}, []string{"shop [x-plan=over;where=/a/b;method=GET;]"}, false, flow.ReasonRateLimited, "limit plan, by rate limit service limiter", "41"},
		{map[string][]string{"x-user": {"garbage"}}, []string{"shop [x-user=garbage;]"}, true, flow.ReasonNone, "", ""},
		{map[string][]string{"x-strict": {"garbage"}}, []string{"strict [x-strict=garbage;]"}, false, flow.ReasonLimiterFailed, "limit strict: rate limit service limiter: its answer of 12 bytes is no message", ""},
		{map[string][]string{"x-strict": {"late"}}, []string{"strict [x-strict=late;]"}, false, flow.ReasonLimiterFailed, "limit strict: rate limit service limiter: request_timeout: after 50ms", ""},
		{nil, nil, true, flow.ReasonNone, "", ""},
		{nil, nil, false, flow.ReasonRateLimited, "limit own: 4 in 1h0m0s", "900"}, // those that were turned away cost nothing of it
	} {
		asked = nil
		x := asking(a, &caller{fields: c.fields})
		x.Binding.Destinations = map[string]*exchange.Destination{"limiter": {Service: policy.Service{Name: "limiter"}}}
		on := passes(f, x)
		if on != c.on || !slices.Equal(asked, c.asked) || x.Outcome.Reason != c.reason || x.Outcome.Detail != c.detail {
			t.Errorf("%d: %v, asked %q, %s %q", i, on, asked, x.Outcome.Reason, x.Outcome.Detail)
		}
		after := ""
		for _, h := range x.Answer {
			switch h.Name {
			case "retry-after":
				after = h.Value
			case "x-ratelimit-remaining":
			default:
				t.Errorf("%d: %+v", i, h)
			}
		}
		if after != c.after {
			t.Errorf("%d: retry-after %q", i, after)
		}
	}
	x := asking(&route.Action{Limits: a.Limits[3:]}, &caller{fields: map[string][]string{"x-strict": {"1"}}})
	if passes(f, x) || x.Outcome.Reason != flow.ReasonLimiterFailed {
		t.Errorf("without the service: %+v", x.Outcome)
	}
}
