//go:build unix

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/local"
)

func TestMissingEnginesSayHowToGetThem(t *testing.T) {
	if err := findEngines(t.Context(), "no-such-python"); err == nil || !strings.Contains(err.Error(), "apt-get install python3") || !strings.Contains(err.Error(), "-python PATH") {
		t.Errorf("%v", err)
	}
	python := filepath.Join(t.TempDir(), "python")
	if err := os.WriteFile(python, []byte("#!/bin/sh\necho Traceback >&2\necho \"No module named 'duckdb'\" >&2\nexit 1\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := findEngines(t.Context(), python); err == nil || !strings.Contains(err.Error(), "pip install duckdb chdb") || !strings.Contains(err.Error(), "(No module named 'duckdb')") {
		t.Errorf("%v", err)
	}
}

func TestWhere(t *testing.T) {
	q := question{query: store.TraceQuery{
		Service: "it's", Start: time.Unix(0, 5), MinDuration: 2, Errors: true, Reason: "deadline",
		Attributes: []store.AttributeMatch{{Key: flow.AttrStatus, Value: "503", Op: "="}, {Key: "app.x", Value: "1", Op: "="}, {Key: "app.y", Op: "exists"}},
	}}
	want := "true AND service = 'it''s' AND tulle_reason = 'deadline' AND start_unix_nano >= 5 AND duration_nano BETWEEN 2 AND 9223372036854775807" +
		" AND (status = 'error' OR coalesce(tulle_reason, '') <> '') AND http_response_status_code = 503"
	if got := duckdb.where(&q); got != want+" AND map_contains(attributes, 'app.x') AND attributes['app.x'].value = '1' AND map_contains(attributes, 'app.y')" {
		t.Error(got)
	}
	if got := clickhouse.where(&q); got != want+" AND mapContains(attributes, 'app.x') AND tupleElement(attributes['app.x'], 'value') = '1' AND mapContains(attributes, 'app.y')" {
		t.Error(got)
	}
	q = question{trace: flow.TraceID{1, 2}}
	if got := duckdb.where(&q); got != "trace_id = from_hex('01020000000000000000000000000000')" {
		t.Error(got)
	}
}

// The verdict is about every engine, every question and every way of skipping; the store itself is the truth.
func TestJudge(t *testing.T) {
	dir := t.TempDir()
	if err := makeCorpus(t.Context(), dir, 300); err != nil {
		t.Fatal(err)
	}
	db, err := local.Open(local.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	qs, err := questions(t.Context(), db)
	if err != nil {
		t.Fatal(err)
	}
	truth := make([]answer, len(qs))
	for i := range qs {
		if truth[i], err = qs[i].ask(t.Context(), db); err != nil {
			t.Fatal(err)
		}
	}
	if truth[0].Spans != 300*perTrace {
		t.Errorf("%d spans, want all %d", truth[0].Spans, 300*perTrace)
	}
	none := 0
	for i := range truth {
		if truth[i].Spans == 0 {
			none++
		}
	}
	if none != 2 {
		t.Errorf("%d questions find nothing, want the two that ask for what is not there: the others prove nothing", none)
	}
	good := func() report {
		return report{
			Answers: map[string][]answer{"duckdb": append([]answer(nil), truth...), "clickhouse": append([]answer(nil), truth...)},
			Skips:   []skip{{"read", 1}, {"read of nothing (none)", 0}},
		}
	}
	var out bytes.Buffer
	if err := judge(t.Context(), &out, db, qs, good()); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	for name, spoil := range map[string]func(*report){
		"one span less":     func(r *report) { r.Answers["duckdb"][4].Spans-- },
		"another span":      func(r *report) { r.Answers["clickhouse"][4].Duration++ },
		"too few answers":   func(r *report) { r.Answers["clickhouse"] = r.Answers["clickhouse"][:3] },
		"an engine missing": func(r *report) { delete(r.Answers, "duckdb") },
		"nothing skipped":   func(r *report) { r.Skips[1].Count = 1 },
		"nothing read":      func(r *report) { r.Skips[0].Count = 0 },
	} {
		r := good()
		spoil(&r)
		if err := judge(t.Context(), &out, db, qs, r); err == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
}
