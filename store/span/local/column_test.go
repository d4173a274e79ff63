package local

import (
	"bytes"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/parquet-go/parquet-go"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/storetest"
)

// without rewrites a block's file as it was before some columns existed: their attributes are among the rest.
func without(t *testing.T, path string, names ...string) {
	t.Helper()
	data, err := os.ReadFile(path) //nolint:gosec // the test's own
	if err != nil {
		t.Fatal(err)
	}
	pf, err := parquet.OpenFile(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	old := parquet.Group{}
	for _, f := range schema().Fields() {
		old[f.Name()] = f
	}
	for _, n := range names {
		delete(old, n)
	}
	to := parquet.NewSchema("span", old)
	conv, err := parquet.Convert(to, pf.Schema())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := parquet.NewGenericWriter[any](&out, to)
	for _, k := range []string{kvFormat, kvMeta, kvResources} {
		v, _ := pf.Lookup(k)
		w.SetKeyValueMetadata(k, v)
	}
	rows := pf.RowGroups()[0].Rows()
	if _, err := parquet.CopyRows(w, parquet.ConvertRowReader(rows, conv)); err != nil {
		t.Fatal(err)
	}
	if err := rows.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil { //nolint:gosec // the test's own
		t.Fatal(err)
	}
}

// A block that is older than a column is read, searched, and merged with blocks that have it.
func TestBlockWithoutNewColumns(t *testing.T) {
	dir := t.TempDir()
	now := time.Now().Add(-time.Minute)
	write := func(db *DB, trace, method uint64) {
		attrs := map[string]any{flow.AttrPath: "/p"}
		if method > 0 {
			attrs[flow.AttrRPCMethod] = "shop.v1.Pricing/Get"
		}
		if err := db.Write(t.Context(), storetest.Batch(storetest.Span{
			Trace: trace, ID: trace, Name: "call", Kind: ptrace.SpanKindServer, Start: now.Add(time.Duration(trace) * time.Second), Duration: time.Millisecond, Attrs: attrs, //nolint:gosec // small
		})); err != nil {
			t.Fatal(err)
		}
	}
	sealing := Config{Dir: dir, SealSpans: 1, SealAge: time.Hour, compaction: never}
	db := open(t, sealing)
	write(db, 1, 0)
	until(t, "the old block", func() bool { return db.Stats().Blocks == 1 })
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	for _, f := range blockFiles(t, dir, parquetSuffix) {
		without(t, f, "rpc_method", "rpc_system_name", "tulle_far_sent", "response_flags")
	}
	for _, f := range blockFiles(t, dir, idxSuffix) { // it holds a checksum of the file's footer
		if err := os.Remove(f); err != nil {
			t.Fatal(err)
		}
	}
	check := func(db *DB) {
		t.Helper()
		for id := range uint64(2) {
			if td, err := db.Trace(t.Context(), storetest.TraceID(id+1)); err != nil || td.SpanCount() != 1 {
				t.Errorf("trace %d: %v, %v", id+1, td, err)
			}
		}
		for key, want := range map[string]int{flow.AttrPath: 2, flow.AttrRPCMethod: 1} {
			p, err := db.Summaries(t.Context(), store.TraceQuery{Attributes: []store.AttributeMatch{{Key: key, Op: "exists"}}})
			if err != nil || len(p.Traces) != want {
				t.Errorf("%d traces have %s, want %d: %v", len(p.Traces), key, want, err)
			}
		}
		if st := db.Stats(); st.Corrupt > 0 {
			t.Error(st.LastError)
		}
	}
	db = open(t, sealing)
	write(db, 2, 1)
	until(t, "the new block", func() bool { return db.Stats().Blocks == 2 })
	check(db)
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	sealing.compaction = eager
	sealing.compaction.fanIn = 2
	db = open(t, sealing)
	until(t, "they are merged", func() bool { return db.Stats().Blocks == 1 })
	check(db)
}

// From where a dictionary would be too long, pages are plain: what is there, and before, and nowhere is found as ever.
func TestLongDictionaries(t *testing.T) {
	const n = 24_000
	db := open(t, Config{Dir: t.TempDir(), SealSpans: n, SealAge: time.Hour, compaction: never})
	now := time.Now().Add(-time.Hour)
	key := func(i uint64) string { return fmt.Sprintf("an attribute that only one span has, %d", i) }
	var batch []storetest.Span
	for i := range uint64(n) {
		s := storetest.Span{
			Trace: i, ID: i + 1, Name: fmt.Sprintf("operation %d", i), Start: now.Add(time.Duration(i) * time.Millisecond), Duration: time.Millisecond,
			Attrs: map[string]any{flow.AttrFarQueued: int64(i) * 1000, flow.AttrEndpoint: fmt.Sprintf("10.1.0.1:%d", i), flow.AttrPath: fmt.Sprintf("/of/%06d/x", i), key(i): "here"}, //nolint:gosec // small
		}
		if batch = append(batch, s); len(batch) == 1000 {
			if err := db.Write(t.Context(), storetest.Batch(batch...)); err != nil {
				t.Fatal(err)
			}
			batch = batch[:0]
		}
	}
	until(t, "a block", func() bool { return db.Stats().Blocks == 1 })
	plain := map[string]bool{}
	db.mu.RLock()
	b := db.blocks[0]
	db.mu.RUnlock()
	if _, err := db.use(b, func(bf *blockFile) error {
		sc := schema()
		for name, leaf := range map[string]int{"operations": sc.name, "integers": sc.cols[columnByAttr[flow.AttrFarQueued]], "endpoints": sc.cols[columnByAttr[flow.AttrEndpoint]], "paths": sc.cols[columnByAttr[flow.AttrPath]], "keys": sc.attrKey} {
			if err := bf.pages(leaf, nil, func(_ int, page parquet.Page) error {
				plain[name] = plain[name] || page.Dictionary() == nil
				return nil
			}); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for _, i := range []uint64{0, 7, n / 2, n - 1} {
		for name, q := range map[string]store.TraceQuery{
			"operations": {Operation: fmt.Sprintf("operation %d", i)},
			"integers":   {Attributes: []store.AttributeMatch{{Key: flow.AttrFarQueued, Value: fmt.Sprint(i * 1000), Op: "="}}},
			"endpoints":  {Attributes: []store.AttributeMatch{{Key: flow.AttrEndpoint, Value: fmt.Sprintf("10.1.0.1:%d", i), Op: "="}}},
			"keys":       {Attributes: []store.AttributeMatch{{Key: key(i), Op: "exists"}}},
			"endpoints ": {Attributes: []store.AttributeMatch{{Key: flow.AttrEndpoint, Value: fmt.Sprintf(`10\.1\..\.1:(%d|x)`, i), Op: "~"}}},
			"integers ":  {Attributes: []store.AttributeMatch{{Key: flow.AttrFarQueued, Value: fmt.Sprintf("%d|x", i*1000), Op: "~"}, {Key: key(i), Op: "!~", Value: "H.*"}}},
			"keys ":      {Attributes: []store.AttributeMatch{{Key: key(i), Op: "~", Value: "h.+"}}},
			"paths ":     {Attributes: []store.AttributeMatch{{Key: flow.AttrPath, Op: "~", Value: fmt.Sprintf("/of/%06d/.*", i)}}},
			"paths  ":    {Attributes: []store.AttributeMatch{{Key: flow.AttrPath, Op: "~", Value: fmt.Sprintf("/of/.*x{9}|/of/%06d/x", i)}}},
		} {
			name = strings.TrimRight(name, " ")
			if !plain[name] {
				t.Errorf("no page of %s is plain", name)
			}
			p, err := db.Summaries(t.Context(), q)
			if err != nil || len(p.Traces) != 1 || p.Traces[0].TraceID != storetest.TraceID(i) {
				t.Errorf("%s, span %d: %d traces, %v", name, i, len(p.Traces), err)
			}
		}
		td, err := db.Trace(t.Context(), storetest.TraceID(i))
		if err != nil || td.SpanCount() != 1 {
			t.Fatal(td.SpanCount(), err)
		}
		s := td.ResourceSpans().At(0).ScopeSpans().At(0).Spans().At(0)
		if v, _ := s.Attributes().Get(flow.AttrFarQueued); s.Name() != fmt.Sprintf("operation %d", i) || v.Int() != int64(i)*1000 { //nolint:gosec // small
			t.Errorf("span %d came back as %s with %d", i, s.Name(), v.Int())
		}
	}
	for name, q := range map[string]store.TraceQuery{
		"operations": {Operation: "operation none"},
		"integers":   {Attributes: []store.AttributeMatch{{Key: flow.AttrFarQueued, Value: "1", Op: "="}}},
		"keys":       {Attributes: []store.AttributeMatch{{Key: key(n), Op: "exists"}}},
		"paths":      {Attributes: []store.AttributeMatch{{Key: flow.AttrPath, Op: "~", Value: "/of/99.*"}}},
	} {
		if p, err := db.Summaries(t.Context(), q); err != nil || len(p.Traces) != 0 {
			t.Errorf("%s that is nowhere: %d traces, %v", name, len(p.Traces), err)
		}
	}
}
