package security

import (
	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Guard judges inbound exchanges by their peer: a strict listener takes nothing without an identity (a connection may be older than the Snapshot that made its listener
// strict), and AccessPolicies say who may do what. It judges each request by the policies in force, also on a connection that is older.
func Guard(next exchange.Handler) exchange.Handler {
	return exchange.HandlerFunc(func(x *exchange.Exchange) {
		if x.Side == flow.SideServer && x.Binding.Listener.Mode == policy.ModeStrict && x.Peer.Identity == "" {
			x.Outcome.Fail(flow.ReasonPlaintextRefused, "")
			return
		}
		if j := x.Binding.Access; j != nil {
			v := judge(j, x)
			if v.Denied {
				x.Outcome.Fail(flow.ReasonDenied, v.Why())
				return
			}
			next.Handle(x)
			if v.Would != nil && x.Outcome.Detail == "" {
				x.Outcome.Detail = v.WhyWould()
			}
			return
		}
		next.Handle(x)
	})
}

func judge(j *access.Judge, x *exchange.Exchange) access.Verdict {
	p := x.Peer
	q := access.Request{Identity: p.Identity, Namespace: p.Namespace, Account: p.Service, Addr: p.Addr.Addr(), Connection: x.Kind == flow.KindConnection}
	if !q.Connection {
		q.Head = route.Head{Method: x.Head.Method, Path: x.Head.Path, Authority: x.Head.Authority}
		if j.Reads() {
			q.Head.Fields, _ = x.Downstream.(route.Fields)
		}
	}
	return j.Judge(&q)
}
