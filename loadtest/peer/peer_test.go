//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestMissingPromtoolSaysHowToGetIt(t *testing.T) {
	_, err := findPromtool("no-such-promtool")
	if err == nil || !strings.Contains(err.Error(), "apt-get install prometheus") || !strings.Contains(err.Error(), "-promtool PATH") {
		t.Errorf("%v", err)
	}
}

func TestPerformMakesAllChecksAndFails(t *testing.T) {
	var out bytes.Buffer
	err := perform(t.Context(), &out, []check{
		{"first", func(context.Context) (string, error) { return "", errors.New("was\nwrong") }},
		{"second", func(context.Context) (string, error) { return "fine", nil }},
	})
	if err == nil || err.Error() != "1 of 2 checks failed" {
		t.Errorf("%v", err)
	}
	if want := "CHECK   RESULT  DETAIL\nfirst   FAILED  was wrong\nsecond  ok      fine\n"; out.String() != want {
		t.Errorf("got\n%swant\n%s", out.String(), want)
	}
}

func TestLintPassesOnWhatPromtoolMinds(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		fails  bool
	}{
		"clean":       {"exit 0", false},
		"minded":      {"echo tulle_x no help text >&2; exit 3", true},
		"not a page":  {"echo no page >&2; exit 1", true},
		"says no why": {"exit 3", true},
	} {
		tool := filepath.Join(t.TempDir(), "promtool")
		if err := os.WriteFile(tool, []byte("#!/bin/sh\ncat >/dev/null\n"+c.script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := promtool(tool).lint(t.Context(), "page"); (err != nil) != c.fails {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVector(t *testing.T) {
	v, err := vector(`[{"metric":{"destination":"catalog"},"value":[1795185127.5,"12.5"]}]`)
	if err != nil || v["catalog"] != 12.5 {
		t.Errorf("%v %v", v, err)
	}
	if _, err := vector(`{destination="catalog"} => 12.5`); err == nil {
		t.Error("text was taken for JSON")
	}
}

func TestSound(t *testing.T) {
	good := func() jaegerTrace {
		id := strings.Repeat("ab", 16)
		tr := jaegerTrace{TraceID: id, Spans: []jaegerSpan{{
			TraceID: id, SpanID: strings.Repeat("cd", 8), OperationName: "GET /", StartTime: time.Now().UnixMicro(), ProcessID: "p1",
			Tags: []jaegerTag{{Key: "ok", Type: "bool", Value: true}},
		}}}
		tr.Spans[0].References = tr.Spans[0].References[:0:0]
		tr.Spans[0].References = append(tr.Spans[0].References, struct {
			RefType string `json:"refType"`
			TraceID string `json:"traceID"`
			SpanID  string `json:"spanID"`
		}{"CHILD_OF", id, strings.Repeat("ef", 8)})
		tr.Processes = map[string]struct {
			ServiceName string      `json:"serviceName"`
			Tags        []jaegerTag `json:"tags"`
		}{"p1": {ServiceName: "web"}}
		return tr
	}
	if err := good().sound(); err != nil {
		t.Fatal(err)
	}
	for name, spoil := range map[string]func(*jaegerTrace){
		"no span":         func(tr *jaegerTrace) { tr.Spans = nil },
		"short id":        func(tr *jaegerTrace) { tr.Spans[0].SpanID = "1" },
		"no process":      func(tr *jaegerTrace) { tr.Processes = nil },
		"milliseconds":    func(tr *jaegerTrace) { tr.Spans[0].StartTime /= 1000 },
		"null references": func(tr *jaegerTrace) { tr.Spans[0].References = nil },
		"odd tag":         func(tr *jaegerTrace) { tr.Spans[0].Tags[0].Type = "int" },
	} {
		tr := good()
		spoil(&tr)
		if tr.sound() == nil {
			t.Errorf("%s: not noticed", name)
		}
	}
}
