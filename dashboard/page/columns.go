package page

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strings"

	"github.com/tulle-mesh/tulle/store"
)

// columnsHead comes before the columns of a trace. Columns hold numbers only; texts are here, once each.
type columnsHead struct {
	Spans    int      `json:"spans"`
	Duration float64  `json:"duration"` // ns
	Services []string `json:"services"`
	Names    []string `json:"names"`
	Ends     []string `json:"ends"` // how spans ended; the first is "": well
}

// spanKinds is the order in which a column numbers kinds; web/src/fall.ts has the same one.
var spanKinds = []string{"client", "attempt", "server", "connection", "app"}

// Flags of a row; web/src/fall.ts has the same ones.
const (
	flagError = 1 << iota
	flagOrphan
	flagClock
	flagReason // the end is a reason, not only a status
)

// words numbers texts in the order in which they come.
type words struct {
	list []string
	at   map[string]uint32
}

func (w *words) number(s string) uint32 {
	if n, ok := w.at[s]; ok {
		return n
	}
	if w.at == nil {
		w.at = map[string]uint32{}
	}
	n := uint32(len(w.list))
	w.at[s], w.list = n, append(w.list, s)
	return n
}

// columns writes a trace for typed arrays: the length of the head in bytes (uint32), the head (JSON, padded with spaces to a multiple of 8 with those four bytes), and, one after
// the other and little-endian, of n spans in the order of the waterfall:
//
//	start (from the trace's), duration float64[n] · id byte[8n] · network before, after, waited for float32[n] · service, name, end uint32[n] ·
//	depth uint16[n] · kind, flags byte[n]
//
// Times are nanoseconds.
func columns(v *TraceView) ([]byte, error) {
	n := len(v.Rows)
	var services, names, ends words
	ends.number("")
	b := make([]byte, 0, 52*n)
	le := binary.LittleEndian
	f64 := func(f float64) { b = le.AppendUint64(b, math.Float64bits(f)) }
	for i := range v.Rows {
		f64(float64(v.Rows[i].Start))
	}
	for i := range v.Rows {
		f64(float64(v.Rows[i].Duration))
	}
	for i := range v.Rows {
		id, err := hex.DecodeString(v.Rows[i].ID)
		if err != nil || len(id) != 8 {
			id = make([]byte, 8) // a span without an ID
		}
		b = append(b, id...)
	}
	scale := float64(v.Duration) / 1000
	for i := range v.Rows {
		b = le.AppendUint32(b, math.Float32bits(float32(v.Rows[i].NetW1*scale)))
	}
	for i := range v.Rows {
		b = le.AppendUint32(b, math.Float32bits(float32(v.Rows[i].NetW2*scale)))
	}
	for i := range v.Rows {
		b = le.AppendUint32(b, math.Float32bits(float32(v.Rows[i].Waited)))
	}
	for i := range v.Rows {
		b = le.AppendUint32(b, services.number(v.Rows[i].Service))
	}
	for i := range v.Rows {
		b = le.AppendUint32(b, names.number(v.Rows[i].Name))
	}
	for i := range v.Rows {
		b = le.AppendUint32(b, ends.number(v.Rows[i].Ended()))
	}
	for i := range v.Rows {
		b = le.AppendUint16(b, uint16(min(v.Rows[i].depth, math.MaxUint16)))
	}
	for i := range v.Rows {
		kind := len(spanKinds) - 1
		for k, name := range spanKinds {
			if name == v.Rows[i].Kind {
				kind = k
			}
		}
		b = append(b, byte(kind))
	}
	for i := range v.Rows {
		r, f := &v.Rows[i], byte(0)
		if r.Error {
			f |= flagError
		}
		if r.orphan {
			f |= flagOrphan
		}
		if r.clock {
			f |= flagClock
		}
		if r.Reason != "" {
			f |= flagReason
		}
		b = append(b, f)
	}
	head, err := json.Marshal(columnsHead{n, float64(v.Duration), services.list, names.list, ends.list})
	if err != nil {
		return nil, err
	}
	head = append(head, strings.Repeat(" ", (8-(4+len(head))%8)%8)...)
	return append(append(le.AppendUint32(nil, uint32(len(head))), head...), b...), nil
}

// readTrace reads the trace that the path names, or answers why not.
func readTrace(d *Deps, w http.ResponseWriter, r *http.Request) (TraceView, bool) {
	ctx, cancel := context.WithTimeout(r.Context(), queryTime)
	defer cancel()
	id, err := parseTraceID(r.PathValue("id"))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return TraceView{}, false
	}
	td, err := d.Spans.Trace(ctx, id)
	if errors.Is(err, store.ErrNotFound) {
		http.Error(w, "nothing is stored of trace "+id.String(), http.StatusNotFound)
		return TraceView{}, false
	}
	if err != nil {
		http.Error(w, err.Error(), statusOf(err))
		return TraceView{}, false
	}
	return NewTraceView(td, d.live()), true
}

// TraceColumns answers a trace as columns, for the drawing in the browser.
func TraceColumns(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, ok := readTrace(d, w, r)
		if !ok {
			return
		}
		b, err := columns(&v)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("Cache-Control", "no-store")
		_, _ = w.Write(b)
	}
}

// TraceSpan answers the details of one span, as a piece of the page.
func TraceSpan(d *Deps) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		v, ok := readTrace(d, w, r)
		if !ok {
			return
		}
		for i := range v.Rows {
			if v.Rows[i].ID == r.PathValue("span") {
				render(w, r, http.StatusOK, spanDetail(&v.Rows[i]))
				return
			}
		}
		http.Error(w, "the trace has no span "+r.PathValue("span"), http.StatusNotFound)
	}
}
