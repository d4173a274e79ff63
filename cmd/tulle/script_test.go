//go:build unix

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/tulle-mesh/tulle/store/span/local"
	"github.com/tulle-mesh/tulle/store/storetest"
)

var rewrite = flag.Bool("rewrite", false, "rewrite what scripts expect with cmp")

// TestMain lets the scripts run this very binary as tulle.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"tulle": func() { os.Exit(run()) }})
}

// TestScripts runs testdata/script/*.txtar. Besides testscript's own commands there are:
//
//	exits CODE PROGRAM ARGS…   run it; it must exit with CODE
//	occupy VAR                 listen on a free loopback port until the script ends and put the port in $VAR
//	free VAR                   put a loopback port that nobody listens on in $VAR
//	observer VAR               serve the files below api/ as an observer would its API and put host:port in $VAR
//	spans DIR                  make a span store in DIR with one block of six spans and one batch in its log
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		RequireExplicitExec: true,
		UpdateScripts:       *rewrite,
		Setup: func(e *testscript.Env) error {
			e.Setenv("XDG_CACHE_HOME", filepath.Join(e.WorkDir, "cache"))
			e.Setenv("HOME", e.WorkDir)
			e.Setenv("TZ", "UTC")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":    cmdExits,
			"occupy":   cmdOccupy,
			"free":     cmdFree,
			"observer": cmdObserver,
			"spans":    cmdSpans,
		},
	})
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS…")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
}

func port(ts *testscript.TestScript, l net.Listener) string {
	_, p, err := net.SplitHostPort(l.Addr().String())
	ts.Check(err)
	return p
}

func cmdOccupy(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	ts.Setenv(args[0], port(ts, l))
}

func cmdFree(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], port(ts, l))
	l.Close()
}

// cmdObserver answers GET /a/b with the file api/a/b.json, or 404 as the real one does; a query of Prometheus' API with the file below api/api/v1/query with the longest
// name that is part of the expression, or with no series.
func cmdObserver(ts *testscript.TestScript, _ bool, args []string) {
	root := ts.MkAbs("api")
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		file := filepath.Join(root, filepath.Clean(r.URL.Path))
		if expr := r.URL.Query().Get("query"); expr != "" {
			longest := "nothing"
			answers, _ := filepath.Glob(filepath.Join(file, "*.json"))
			for _, a := range answers {
				if name := strings.TrimSuffix(filepath.Base(a), ".json"); strings.Contains(expr, name) && (longest == "nothing" || len(name) > len(longest)) {
					longest = name
				}
			}
			if file = filepath.Join(file, longest); longest == "nothing" {
				_, _ = io.WriteString(w, `{"status":"success","data":{"resultType":"vector","result":[]}}`)
				return
			}
		}
		b, err := os.ReadFile(file + ".json")
		w.Header().Set("Content-Type", "application/json")
		if err != nil {
			w.WriteHeader(http.StatusNotFound)
			_, _ = fmt.Fprintf(w, `{"error":"there is no %s"}`, r.URL.Path)
			return
		}
		_, _ = w.Write(b)
	}))
	ts.Defer(s.Close)
	ts.Setenv(args[0], s.Listener.Addr().String())
}

func cmdSpans(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: spans DIR")
	}
	dir := ts.MkAbs(args[0])
	begin := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	write := func(seal int, from, to uint64) {
		db, err := local.Open(local.Config{Dir: dir, SealSpans: seal, SealAge: time.Hour})
		ts.Check(err)
		for n := from; n < to; n++ {
			ts.Check(db.Write(context.Background(), storetest.Batch(
				storetest.Span{Trace: n, ID: 2 * n, Service: "web", Name: "GET /", Start: begin.Add(time.Duration(n) * time.Second)},                             //nolint:gosec // small
				storetest.Span{Trace: n, ID: 2*n + 1, Parent: 2 * n, Service: "catalog", Name: "GET /items", Start: begin.Add(time.Duration(n) * time.Second)}))) //nolint:gosec // small
		}
		for deadline := time.Now().Add(30 * time.Second); seal < 100 && db.Stats().Blocks == 0; {
			if time.Now().After(deadline) {
				ts.Fatalf("no block was sealed: %s", db.Stats().LastError)
			}
			<-time.NewTimer(time.Millisecond).C
		}
		ts.Check(db.Close())
	}
	write(6, 1, 4)
	write(100, 4, 5)
}
