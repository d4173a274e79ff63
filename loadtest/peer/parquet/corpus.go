package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/local"
)

const (
	allTraces = 6_000
	perTrace  = 10 // spans of a trace
	perBatch  = 100
)

// makeCorpus writes traces into a new store in dir and returns when all of them are in sealed blocks.
func makeCorpus(ctx context.Context, dir string, traces int) error {
	db, err := local.Open(local.Config{Dir: dir, SealSpans: 16_384, SealAge: time.Second})
	if err != nil {
		return err
	}
	return errors.Join(fill(ctx, db, traces), db.Close())
}

func fill(ctx context.Context, db *local.DB, traces int) error {
	r := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same corpus each time
	began := time.Now().Add(-time.Hour)
	td := ptrace.NewTraces()
	write := func() error {
		for {
			err := db.Write(ctx, td)
			if !errors.Is(err, store.ErrBusy) {
				td = ptrace.NewTraces()
				return err
			}
			if err := pause(ctx); err != nil { // the disk is slower than this loop
				return err
			}
		}
	}
	for t := range traces {
		trace(r, td, began.Add(time.Duration(t)*400*time.Millisecond))
		if td.SpanCount() >= perBatch {
			if err := write(); err != nil {
				return fmt.Errorf("write the corpus: %w", err)
			}
		}
	}
	if err := write(); err != nil {
		return fmt.Errorf("write the corpus: %w", err)
	}
	for sealed(db.Stats()) < traces*perTrace {
		if err := pause(ctx); err != nil {
			return fmt.Errorf("wait until %d spans are in blocks: %d are: %w", traces*perTrace, sealed(db.Stats()), err)
		}
	}
	return nil
}

// sealed is how many spans are in blocks.
func sealed(s store.SpanStats) int {
	if s.BytesPerSpan == 0 {
		return 0
	}
	return int(float64(s.Bytes)/s.BytesPerSpan + 0.5)
}

func pause(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(20 * time.Millisecond):
		return nil
	}
}

// trace appends one trace: a call from service to service, each with mesh columns, attributes of its own and now and then an error.
func trace(r *rand.Rand, td ptrace.Traces, start time.Time) {
	var id pcommon.TraceID
	binary.BigEndian.PutUint64(id[:8], r.Uint64())
	binary.BigEndian.PutUint64(id[8:], r.Uint64()|1)
	var parent pcommon.SpanID
	for i := range perTrace {
		rs := td.ResourceSpans().AppendEmpty()
		service := fmt.Sprintf("service-%d", r.IntN(12))
		rs.Resource().Attributes().PutStr(flow.AttrServiceName, service)
		sp := rs.ScopeSpans().AppendEmpty().Spans().AppendEmpty()
		sp.SetTraceID(id)
		sp.SetParentSpanID(parent)
		binary.BigEndian.PutUint64(parent[:], r.Uint64()|1)
		sp.SetSpanID(parent)
		sp.SetKind([]ptrace.SpanKind{ptrace.SpanKindServer, ptrace.SpanKindClient, ptrace.SpanKindInternal}[r.IntN(3)])
		sp.SetName([]string{"GET /items", "POST /cart", "shop.v1.Pricing/Quote", "naïve \"name\" with 'quotes'"}[r.IntN(4)])
		from := start.Add(time.Duration(i) * time.Millisecond)
		sp.SetStartTimestamp(pcommon.NewTimestampFromTime(from))
		sp.SetEndTimestamp(pcommon.NewTimestampFromTime(from.Add(time.Duration(r.ExpFloat64() * float64(20*time.Millisecond)))))
		if r.IntN(50) == 0 {
			sp.SetEndTimestamp(0) // never ended
		}
		a := sp.Attributes()
		a.PutStr(flow.AttrDestService, service)
		a.PutStr(flow.AttrSourceService, fmt.Sprintf("service-%d", r.IntN(12)))
		a.PutStr(flow.AttrMethod, "GET")
		a.PutStr(flow.AttrPath, fmt.Sprintf("/items/%d", r.IntN(1000)))
		a.PutInt(flow.AttrStatus, []int64{200, 200, 200, 404, 503}[r.IntN(5)])
		a.PutBool(flow.AttrAnswered, r.IntN(4) != 0)
		a.PutStr(flow.AttrEndpoint, fmt.Sprintf("10.0.0.1:%d", r.Uint32())) // more than a dictionary takes: its later pages are plain
		a.PutInt(flow.AttrFarSent, r.Int64N(1<<30))
		if r.IntN(40) == 0 {
			a.PutStr(flow.AttrReason, []string{"upstream_5xx", "deadline"}[r.IntN(2)])
		}
		if r.IntN(30) == 0 {
			sp.Status().SetCode(ptrace.StatusCodeError)
			sp.Status().SetMessage("it failed")
		}
		switch r.IntN(4) { // some spans have nothing in the map, some several types in it
		case 0:
			a.PutStr("app.tenant", fmt.Sprintf("tenant-%d", r.IntN(5)))
		case 1:
			a.PutStr("app.tenant", fmt.Sprintf("tenant-%d", r.IntN(5)))
			a.PutDouble("app.ratio", float64(r.IntN(8))/8)
			a.PutInt("app.tries", int64(r.IntN(3)))
			a.PutEmptySlice("app.tags").AppendEmpty().SetStr("x")
		case 2:
			e := sp.Events().AppendEmpty()
			e.SetName("note")
			e.Attributes().PutStr("k", "v")
		}
	}
}
