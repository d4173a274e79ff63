package graph

import (
	"encoding/binary"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// A frame is what is known of ten seconds of the graph: what a window holds, but for examples and for what the past does not show of reporters. Frames that
// adjoin add up to longer windows exactly. docs/format/graph.md describes the bytes.

const (
	frameSeconds = 10 // a frame ends at a multiple
	frameDelay   = 10 // seconds after which a frame that late exports have changed is made anew
	frameVersion = 1
)

// frameBefore is the newest end of a frame that is not after sec.
func frameBefore(sec int64) int64 { return floorDiv(sec, frameSeconds) * frameSeconds }

// lateLocked notes that a sealed second has changed. Its frame is made anew when it is there already.
func (g *Graph) lateLocked(sec int64) {
	if end := frameBefore(sec) + frameSeconds; g.frames != nil && end <= g.framed {
		g.frameLate[end] = true
	}
}

// framesLocked are the frames that are due, not compressed yet, by where they end. Seconds whose slots are gone have no frame.
func (g *Graph) framesLocked(now time.Time) map[int64][]byte {
	if g.frames == nil {
		return nil
	}
	oldest := frameBefore(g.sealed-keepSlots) + 2*frameSeconds // of which all slots are there
	var due map[int64][]byte
	add := func(end int64) {
		if due == nil {
			due = map[int64][]byte{}
		}
		due[end] = g.frameLocked(now, end).encode()
	}
	for end := range g.frameLate {
		switch {
		case end < oldest:
			delete(g.frameLate, end)
		case g.sealed >= end+frameDelay:
			delete(g.frameLate, end)
			add(end)
		}
	}
	if g.sealed >= g.framed+frameSeconds {
		g.framed = max(g.framed+frameSeconds, oldest)
		add(g.framed)
	}
	return due
}

// frameLocked is the window of a frame. It is good until the next one, or until something is counted.
func (g *Graph) frameLocked(now time.Time, end int64) *window {
	of := span{end - frameSeconds, end}
	if g.rolling != nil && g.rolled == of {
		return g.windowLocked(now, g.rolling, of)
	}
	g.frameSum.reuse(0)
	for sec := of.from; sec < of.to; sec++ {
		if s := g.slots[sec]; s != nil {
			g.frameSum.add(s)
		}
	}
	return g.windowLocked(now, g.frameSum, of)
}

var (
	frameEncoder, _ = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	frameDecoder, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxFrame))
)

// maxFrame bounds a frame that is read, decoded.
const maxFrame = 64 << 20

type frameWriter struct {
	b     []byte
	texts []byte
	ids   map[string]uint64
}

func (f *frameWriter) count(v uint64) { f.b = binary.AppendUvarint(f.b, v) }
func (f *frameWriter) number(v int64) { f.b = binary.AppendVarint(f.b, v) }
func (f *frameWriter) float(v float64) {
	f.b = binary.LittleEndian.AppendUint64(f.b, math.Float64bits(v))
}

func (f *frameWriter) text(s string) {
	id, ok := f.ids[s]
	if !ok {
		id = uint64(len(f.ids))
		f.ids[s] = id
		f.texts = append(binary.AppendUvarint(f.texts, uint64(len(s))), s...)
	}
	f.count(id)
}

func (f *frameWriter) counts(m map[string]uint64) {
	f.count(uint64(len(m)))
	for k, n := range m {
		f.text(k)
		f.count(n)
	}
}

func (f *frameWriter) hist(h *hist) {
	f.count(h.count)
	if h.count == 0 {
		return
	}
	f.count(h.zero)
	f.float(h.sum)
	n := h.n
	off := h.off
	for len(n) > 0 && n[0] == 0 {
		n, off = n[1:], off+1
	}
	for len(n) > 0 && n[len(n)-1] == 0 {
		n = n[:len(n)-1]
	}
	f.count(uint64(len(n)))
	if len(n) > 0 {
		f.number(int64(off))
	}
	for _, c := range n {
		f.count(c)
	}
}

// numbers are the counts of a cell, in the order of the format.
func (c *cell) numbers() [14]*uint64 {
	return [...]*uint64{
		&c.requests, &c.probes, &c.errors, &c.attempts, &c.delivered, &c.undelivered, &c.answered, &c.unanswered,
		&c.bytesIn, &c.bytesOut, &c.messagesIn, &c.messagesOut, &c.connections, &c.connErrors,
	}
}

func (f *frameWriter) cell(c *cell) {
	for _, n := range c.numbers() {
		f.count(*n)
	}
	f.counts(c.reasons)
	f.counts(c.grpc)
	f.hist(&c.latency)
}

// encode makes a frame of w, not compressed yet.
func (w *window) encode() []byte {
	f := frameWriter{b: make([]byte, 0, 64<<10), ids: map[string]uint64{}}
	f.number(w.end.Unix())
	f.count(uint64(w.length / time.Second))
	f.count(uint64(len(w.edges)))
	for i := range w.edges {
		e := &w.edges[i]
		f.text(e.source)
		f.text(e.destination)
		f.text(e.protocol)
		flags := uint64(0)
		for bit, set := range []bool{e.client != nil, e.server != nil, e.amended, e.known} {
			if set {
				flags |= 1 << bit
			}
		}
		f.count(flags)
		f.number(e.clients)
		f.number(e.servers)
		f.count(uint64(len(e.missing)))
		for _, m := range e.missing {
			f.text(m)
		}
		if e.client != nil {
			f.cell(e.client)
		}
		if e.server != nil {
			f.cell(e.server)
		}
	}
	f.count(uint64(len(w.endpoints)))
	for id, c := range w.endpoints {
		f.text(id.service)
		f.text(id.address)
		for _, n := range []uint64{c.requests, c.failures, c.probes, c.probeFailures} {
			f.count(n)
		}
		f.hist(&c.latency)
	}
	f.count(uint64(len(w.versions)))
	for k, v := range w.versions {
		f.text(k.destination)
		f.text(k.version)
		f.count(uint64(k.side))
		f.count(v.requests)
		f.count(v.errors)
	}
	f.count(uint64(len(w.reporters)))
	for service, rs := range w.reporters {
		f.text(service)
		f.count(uint64(len(rs)))
		for _, r := range rs {
			f.text(r.Instance)
			f.number(w.end.UnixMilli() - r.LastSeen.UnixMilli())
			f.number(int64(r.ClockOffset))
			missing := uint64(0)
			if r.Missing {
				missing = 1
			}
			f.count(missing)
		}
	}
	f.count(uint64(len(w.breaks)))
	for service, share := range w.breaks {
		f.text(service)
		f.float(share)
	}
	f.count(uint64(len(w.states)))
	for id, st := range w.states {
		for _, s := range []string{id.service, id.address, st.state, st.reason, st.override} {
			f.text(s)
		}
	}
	head := append([]byte{frameVersion}, binary.AppendUvarint(nil, uint64(len(f.ids)))...)
	return slices.Concat(head, f.texts, f.b)
}

// compress makes of what encode yields what files have.
func compress(raw []byte) []byte { return frameEncoder.EncodeAll(raw, nil) }

var errFrame = errors.New("graph: not a frame")

// frameReader reads what frameWriter wrote. After the first thing that cannot be it is empty and bad.
type frameReader struct {
	b     []byte
	texts []string
	bad   bool
}

func (f *frameReader) fail() { f.b, f.bad = nil, true }

func (f *frameReader) count() uint64 {
	if len(f.b) > 0 && f.b[0] < 0x80 { // as most are
		v := f.b[0]
		f.b = f.b[1:]
		return uint64(v)
	}
	v, n := binary.Uvarint(f.b)
	if n <= 0 {
		f.fail()
		return 0
	}
	f.b = f.b[n:]
	return v
}

// length is a count of things of which each takes a byte at least.
func (f *frameReader) length() int {
	n := f.count()
	if n > uint64(len(f.b)) {
		f.fail()
		return 0
	}
	return int(n)
}

func (f *frameReader) number() int64 {
	v, n := binary.Varint(f.b)
	if n <= 0 {
		f.fail()
		return 0
	}
	f.b = f.b[n:]
	return v
}

func (f *frameReader) float() float64 {
	if len(f.b) < 8 {
		f.fail()
		return 0
	}
	v := math.Float64frombits(binary.LittleEndian.Uint64(f.b))
	f.b = f.b[8:]
	return v
}

func (f *frameReader) text() string {
	id := f.count()
	if id >= uint64(len(f.texts)) {
		f.fail()
		return ""
	}
	return f.texts[id]
}

func (f *frameReader) counts(into map[string]uint64) map[string]uint64 {
	for range f.length() {
		k := f.text()
		into = addReason(into, k, f.count())
	}
	return into
}

// hist adds a histogram to h; room is for what is read.
func (f *frameReader) hist(h, room *hist) {
	room.reset()
	if room.count = f.count(); room.count == 0 {
		return
	}
	room.zero, room.sum = f.count(), f.float()
	if n := f.length(); n > 0 {
		off := f.number()
		if n > 2*maxBuckets || off < -maxBuckets || off > maxBuckets {
			f.fail()
			return
		}
		room.grow(int32(off), int32(off)+int32(n)-1)
		for i := range n {
			room.n[i] = f.count()
		}
	}
	h.add(room)
}

func (f *frameReader) cell(c *cell, room *hist) {
	for _, n := range c.numbers() {
		*n += f.count()
	}
	c.reasons = f.counts(c.reasons)
	c.grpc = f.counts(c.grpc)
	f.hist(&c.latency, room)
}

// addFrame adds a frame to a window that adjoins it; what is not a count becomes that of the frame.
func (w *window) addFrame(edges map[edgeKey]*windowEdge, frame []byte) error {
	raw, err := frameDecoder.DecodeAll(frame, nil)
	if err != nil || len(raw) == 0 || raw[0] != frameVersion {
		return errors.Join(errFrame, err)
	}
	f := frameReader{b: raw[1:]}
	for range f.length() {
		n := f.length()
		if f.bad {
			break
		}
		f.texts = append(f.texts, string(f.b[:n]))
		f.b = f.b[n:]
	}
	for _, e := range edges {
		e.clients, e.servers = 0, 0
	}
	var room hist
	w.end = time.Unix(f.number(), 0).UTC()
	w.length += time.Duration(f.length()) * time.Second
	n := f.length()
	cells := make([]cell, 0, min(2*n, 1<<16)) // at once, for the first frame; the others find most cells made
	if len(edges) > 0 {
		cells = nil
	}
	made := func() *cell {
		if len(cells) == cap(cells) {
			return &cell{}
		}
		cells = append(cells, cell{})
		return &cells[len(cells)-1]
	}
	for range n {
		k := edgeKey{f.text(), f.text(), f.text()}
		flags := f.count()
		e := edges[k]
		if e == nil {
			e = &windowEdge{edgeKey: k, id: k.id(), known: true}
			edges[k] = e
		}
		e.amended, e.known = e.amended || flags&4 != 0, e.known && flags&8 != 0
		e.clients, e.servers = f.number(), f.number()
		for range f.length() {
			if m := f.text(); !slices.Contains(e.missing, m) {
				e.missing = append(e.missing, m)
			}
		}
		if flags&1 != 0 {
			if e.client == nil {
				e.client = made()
			}
			f.cell(e.client, &room)
		}
		if flags&2 != 0 {
			if e.server == nil {
				e.server = made()
			}
			f.cell(e.server, &room)
		}
	}
	for range f.length() {
		c := w.endpoint(endpointID{f.text(), f.text()})
		for _, n := range []*uint64{&c.requests, &c.failures, &c.probes, &c.probeFailures} {
			*n += f.count()
		}
		f.hist(&c.latency, &room)
	}
	for range f.length() {
		k := versionKey{destination: f.text(), version: f.text(), side: flow.Side(f.count())}
		v := w.versions[k]
		if v == nil {
			v = &versionCell{}
			w.versions[k] = v
		}
		v.requests += f.count()
		v.errors += f.count()
	}
	clear(w.reporters)
	for range f.length() {
		service := f.text()
		for range f.length() {
			r := Reporter{Instance: f.text(), LastSeen: time.UnixMilli(w.end.UnixMilli() - f.number()).UTC()}
			r.ClockOffset, r.Missing = time.Duration(f.number()), f.count() != 0
			w.reporters[service] = append(w.reporters[service], r)
		}
	}
	clear(w.breaks)
	for range f.length() {
		service := f.text()
		w.breaks[service] = f.float()
	}
	clear(w.states)
	for range f.length() {
		id := endpointID{f.text(), f.text()}
		w.states[id] = endpointState{f.text(), f.text(), f.text()}
	}
	if f.bad || len(f.b) > 0 {
		return errFrame
	}
	return nil
}
