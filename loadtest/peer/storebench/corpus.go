package main

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// A corpus is what a real mesh sent: zstd of (length u32 little-endian, OTLP TracesData)…, one for each batch as the observer took it. testdata/shop.otlp.zst holds most
// of a `tulle demo` of 50 s with a fault in it. Make another one with `storebench record`.

// corpus is the decoded batches. copy k of it has ids and times of its own.
type corpus struct {
	batches []ptrace.Traces
	spans   int
	traces  []flow.TraceID // distinct, in order of appearance
	first   uint64         // earliest start, ns
	length  uint64         // ns from the first start to the last, and a little
	tags    map[string]int // how many spans have each attribute
}

func readCorpus(path string) (*corpus, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		return nil, err
	}
	defer z.Close()
	data, err := io.ReadAll(z)
	if err != nil {
		return nil, fmt.Errorf("corpus %s: %w", path, err)
	}
	c := &corpus{first: math.MaxUint64, tags: map[string]int{}}
	var um ptrace.ProtoUnmarshaler
	seen := map[flow.TraceID]bool{}
	last := uint64(0)
	for len(data) > 0 {
		if len(data) < 4 || uint64(len(data)-4) < uint64(binary.LittleEndian.Uint32(data)) {
			return nil, fmt.Errorf("corpus %s: it ends in the middle of a batch", path)
		}
		n := binary.LittleEndian.Uint32(data)
		td, err := um.UnmarshalTraces(data[4 : 4+n])
		if err != nil {
			return nil, fmt.Errorf("corpus %s: batch %d: %w", path, len(c.batches), err)
		}
		data = data[4+n:]
		c.batches = append(c.batches, td)
		eachSpan(td, func(_ ptrace.ResourceSpans, s ptrace.Span) {
			c.spans++
			id := flow.TraceID(s.TraceID())
			if !seen[id] {
				seen[id] = true
				c.traces = append(c.traces, id)
			}
			c.first = min(c.first, uint64(s.StartTimestamp()))
			last = max(last, uint64(s.StartTimestamp()))
			for k := range s.Attributes().All() {
				c.tags[k]++
			}
		})
	}
	if c.spans == 0 {
		return nil, fmt.Errorf("corpus %s is empty", path)
	}
	c.length = last - c.first + uint64(time.Millisecond)
	return c, nil
}

func eachSpan(td ptrace.Traces, fn func(ptrace.ResourceSpans, ptrace.Span)) {
	for _, rs := range td.ResourceSpans().All() {
		for _, ss := range rs.ScopeSpans().All() {
			for _, s := range ss.Spans().All() {
				fn(rs, s)
			}
		}
	}
}

// mix is splitmix64's finaliser.
func mix(x uint64) uint64 {
	x ^= x >> 30
	x *= 0xbf58476d1ce4e5b9
	x ^= x >> 27
	x *= 0x94d049bb133111eb
	return x ^ x>>31
}

// fresh8 and freshTrace are what an id becomes in copy k; the same id becomes the same everywhere in it. Ids stay 0 when they are.
func fresh8(id [8]byte, k uint64) (out [8]byte) {
	if id == [8]byte{} {
		return id
	}
	binary.LittleEndian.PutUint64(out[:], mix(binary.LittleEndian.Uint64(id[:])^mix(k+0x9e3779b97f4a7c15))|1)
	return out
}

func freshTrace(id flow.TraceID, k uint64) (out flow.TraceID) {
	lo, hi := binary.LittleEndian.Uint64(id[:8]), binary.LittleEndian.Uint64(id[8:])
	lo = mix(lo ^ mix(k+0x9e3779b97f4a7c15))
	binary.LittleEndian.PutUint64(out[:8], lo)
	binary.LittleEndian.PutUint64(out[8:], mix(hi+lo)|1)
	return out
}

// stamper makes one batch of the corpus that of any copy, in place.
type stamper struct {
	c    *corpus
	td   ptrace.Traces
	orig []original // of every span, in order
	boot []int64    // sequence of every resource, in order
}

type original struct {
	trace         flow.TraceID
	span, parent  [8]byte
	start, end    uint64
	request       pcommon.Value
	requestID     [16]byte
	hasRequest    bool
	model         string // a request id, for its form
	sourceAddress pcommon.Value
	hasSource     bool
	host          string
	port          uint64
}

func newStamper(c *corpus, td ptrace.Traces) *stamper {
	s := &stamper{c: c, td: td}
	eachSpan(td, func(_ ptrace.ResourceSpans, sp ptrace.Span) {
		o := original{
			trace: flow.TraceID(sp.TraceID()), span: sp.SpanID(), parent: sp.ParentSpanID(),
			start: uint64(sp.StartTimestamp()), end: uint64(sp.EndTimestamp()),
		}
		if v, ok := sp.Attributes().Get(flow.AttrRequestID); ok {
			n, err := hex.Decode(o.requestID[:], []byte(strings.ReplaceAll(v.Str(), "-", "")))
			o.hasRequest = err == nil && n == 16
			o.request, o.model = v, v.Str()
		}
		if v, ok := sp.Attributes().Get(flow.AttrSourceAddress); ok {
			if host, port, ok := strings.Cut(v.Str(), ":"); ok {
				n, err := strconv.ParseUint(port, 10, 16)
				o.hasSource, o.host, o.port, o.sourceAddress = err == nil, host, n, v
			}
		}
		s.orig = append(s.orig, o)
	})
	for _, rs := range td.ResourceSpans().All() {
		n := int64(0)
		if v, ok := rs.Resource().Attributes().Get(flow.AttrSequence); ok {
			n = v.Int()
		}
		s.boot = append(s.boot, n)
	}
	return s
}

// merge joins the batches of each sender, in order, until they have at least so many spans: as it sends them when it has more to say within a second.
func (c *corpus) merge(spans int) {
	open := map[string]int{} // by boot id
	var out []ptrace.Traces
	for _, td := range c.batches {
		boot := ""
		if v, ok := td.ResourceSpans().At(0).Resource().Attributes().Get(flow.AttrBootID); ok && td.ResourceSpans().Len() == 1 {
			boot = v.Str()
		}
		i, ok := open[boot]
		if boot == "" || !ok || out[i].SpanCount() >= spans {
			open[boot] = len(out)
			out = append(out, td)
			continue
		}
		to := out[i].ResourceSpans().At(0).ScopeSpans().At(0).Spans()
		for _, ss := range td.ResourceSpans().At(0).ScopeSpans().All() {
			ss.Spans().MoveAndAppendTo(to)
		}
	}
	c.batches = out
}

// batchesPerCopy is more than any sender of a corpus sends in it.
const batchesPerCopy = 1 << 20

// sequence is what the nth batch of a sender has in copy k. All have as many digits to the base of 128, up to copy 32,511.
func sequence(k uint64, n int64) uint64 { return 1<<28 + k*batchesPerCopy + uint64(n) } //nolint:gosec // positive

// port is what a caller's becomes in copy k; all have five digits.
func port(p, k uint64) uint64 { return 32768 + mix(p+k<<16)%28000 }

// to makes the batch that of copy k; copy 0 begins at base, unix ns. Request ids and callers' ports are fresh as well, for they
// are random in life; a port stays the same as long as it did (a kept connection).
func (s *stamper) to(k, base uint64) ptrace.Traces {
	i := 0
	shift := base + k*s.c.length - s.c.first
	eachSpan(s.td, func(_ ptrace.ResourceSpans, sp ptrace.Span) {
		o := &s.orig[i]
		i++
		sp.SetTraceID(pcommon.TraceID(freshTrace(o.trace, k)))
		sp.SetSpanID(fresh8(o.span, k))
		sp.SetParentSpanID(fresh8(o.parent, k))
		sp.SetStartTimestamp(pcommon.Timestamp(o.start + shift))
		if o.end != 0 {
			sp.SetEndTimestamp(pcommon.Timestamp(o.end + shift))
		}
		if o.hasRequest {
			id := freshTrace(o.requestID, k)
			o.request.SetStr(uuidLike(id, o.model))
		}
		if o.hasSource {
			o.sourceAddress.SetStr(o.host + ":" + strconv.FormatUint(port(o.port, k), 10))
		}
	})
	for j, rs := range s.td.ResourceSpans().All() {
		if s.boot[j] > 0 {
			rs.Resource().Attributes().PutInt(flow.AttrSequence, int64(sequence(k, s.boot[j]))) //nolint:gosec // small
		}
	}
	return s.td
}

// uuidLike writes id in the form of the model: with the dashes of a UUID or without.
func uuidLike(id [16]byte, model string) string {
	h := hex.EncodeToString(id[:])
	if strings.Count(model, "-") == 4 {
		return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
	}
	return h
}

// record writes a corpus from the spans' log below an observer's data directory (docs/format/wal.md), at most limit spans.
func record(dir, out string, limit int) error {
	segments, err := filepath.Glob(filepath.Join(dir, "wal", "*.wal"))
	if err != nil {
		return err
	}
	if len(segments) == 0 {
		return fmt.Errorf("there is no log in %s/wal: name the spans' directory of an observer, less than a minute after spans came", dir)
	}
	slices.Sort(segments)
	dec, err := zstd.NewReader(nil)
	if err != nil {
		return err
	}
	defer dec.Close()
	var body bytes.Buffer
	enc, err := zstd.NewWriter(&body, zstd.WithEncoderLevel(zstd.SpeedBestCompression), zstd.WithWindowSize(8<<20))
	if err != nil {
		return err
	}
	var um ptrace.ProtoUnmarshaler
	spans := 0
	for _, path := range segments {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		const segmentHead, recordHead, payloadHead = 24, 12, 17
		for off := segmentHead; off+recordHead+payloadHead <= len(data) && spans < limit; {
			n := int(binary.LittleEndian.Uint32(data[off+4:]))
			if string(data[off:off+4]) != "TWR1" || off+recordHead+n > len(data) {
				return fmt.Errorf("%s: no whole record at %d", path, off)
			}
			payload := data[off+recordHead : off+recordHead+n]
			if crc32.Checksum(payload, crc32.MakeTable(crc32.Castagnoli)) != binary.LittleEndian.Uint32(data[off+8:]) {
				return fmt.Errorf("%s: checksum of the record at %d", path, off)
			}
			off += recordHead + n
			unpack := func(b []byte) ([]byte, error) { return s2.Decode(nil, b) }
			if payload[0] == 1 {
				unpack = func(b []byte) ([]byte, error) { return dec.DecodeAll(b, nil) }
			}
			raw, err := unpack(payload[payloadHead:])
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			td, err := um.UnmarshalTraces(raw)
			if err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
			spans += td.SpanCount()
			if err := errors.Join(binary.Write(enc, binary.LittleEndian, uint32(len(raw))), write(enc, raw)); err != nil { //nolint:gosec // a batch
				return err
			}
		}
	}
	if err := enc.Close(); err != nil {
		return err
	}
	if err := os.WriteFile(out, body.Bytes(), 0o644); err != nil { //nolint:gosec // for everybody
		return err
	}
	fmt.Printf("%d spans, %d bytes in %s\n", spans, body.Len(), out)
	return nil
}

func write(w io.Writer, b []byte) error { _, err := w.Write(b); return err }
