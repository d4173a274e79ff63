package local

import (
	"maps"
	"slices"

	"github.com/parquet-go/parquet-go"
	"go.opentelemetry.io/collector/pdata/ptrace"
)

// Attributes of a span's events are searched as the span's own are, the event's name under this key: as Jaeger does with the fields of logs. They have no
// column; a block says which keys its events have, and only where the key is among them are they looked into.
const eventName = "event"

// noteEventsLocked remembers the keys of sp's events.
func (m *memtable) noteEventsLocked(sp ptrace.Span) {
	for _, e := range sp.Events().All() {
		if len(m.eventKeys) > maxKeys {
			return
		}
		if e.Name() != "" {
			m.eventKeys[eventName] = struct{}{}
		}
		for k := range e.Attributes().All() {
			m.eventKeys[k] = struct{}{}
		}
	}
}

// blockEvents are the keys of a block's events. The zero value knows nothing, as with blocks from before there was a list.
type blockEvents struct {
	Known bool     `json:"known,omitempty"` // Keys are all of them
	Keys  []string `json:"keys,omitempty"`  // sorted
}

func (m *memtable) blockEventsLocked() blockEvents {
	if len(m.eventKeys) > maxKeys {
		return blockEvents{}
	}
	return blockEvents{Known: true, Keys: slices.Sorted(maps.Keys(m.eventKeys))}
}

// may says whether an event of the block may have the key.
func (e *blockEvents) may(key string) bool {
	if !e.Known {
		return true
	}
	_, ok := slices.BinarySearch(e.Keys, key)
	return ok
}

// joined are the keys of both.
func (e blockEvents) joined(o blockEvents) blockEvents {
	keys := slices.Concat(e.Keys, o.Keys)
	slices.Sort(keys)
	keys = slices.Compact(keys)
	if !e.Known || !o.Known || len(keys) > maxKeys {
		return blockEvents{}
	}
	return blockEvents{Known: true, Keys: keys}
}

// inEvents looks the condition up in a span's extra.
func (a *attrMatch) inEvents(extra string) (present, equal bool) {
	if extra == "" || !a.events {
		return false, false
	}
	td, err := unmarshaler.UnmarshalTraces([]byte(extra))
	if err != nil || td.SpanCount() != 1 {
		return false, false // whoever reads the span is told
	}
	for _, e := range td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0).Events().All() {
		if a.Key == eventName && e.Name() != "" {
			present, equal = true, equal || a.means(e.Name())
		}
		if v, ok := e.Attributes().Get(a.Key); ok {
			present, equal = true, equal || a.means(valueString(v))
		}
	}
	return present, equal
}

// inEvents adds the rows with an event that meets the condition; of "!=" and "!~" those that violate it.
func (b *blockFile) inEvents(a *attrMatch, to bits) error {
	return b.scan(schema().extra, []rowRange{{0, b.meta.Spans}}, func(row int, v []parquet.Value) error {
		if to.has(row) || v[0].IsNull() {
			return nil
		}
		if present, equal := a.inEvents(string(v[0].ByteArray())); equal || present && a.Op == "exists" {
			to.set(row)
		}
		return nil
	})
}
