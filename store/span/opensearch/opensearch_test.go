package opensearch

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/storetest"
)

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string // part of the error
	}{
		{Config{}, "--span-store-address"},
		{Config{Addresses: []string{"a"}, Prefix: "*"}, "keyspace"},
		{Config{Addresses: []string{"a"}, Replicas: -1}, "copies"},
		{Config{Addresses: []string{"a"}, RetainAge: time.Minute}, "1m0s"},
		{Config{Addresses: []string{"a"}, CAFile: "/does/not/exist"}, "/does/not/exist"},
		{Config{Addresses: []string{"127.0.0.1:1"}}, "is it running"},
	} {
		if _, err := Open(t.Context(), c.cfg); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "span store opensearch") {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.want)
		}
	}
}

// scripted is an engine that answers as it is told.
type scripted struct {
	status atomic.Int64
	body   atomic.Pointer[string]
	asked  atomic.Int64
}

func (s *scripted) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.asked.Add(1)
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(int(s.status.Load()))
	_, _ = io.WriteString(w, *s.body.Load())
}

func (s *scripted) say(status int, body string) {
	s.status.Store(int64(status))
	s.body.Store(&body)
}

func open(t *testing.T, more ...string) (*DB, *scripted) {
	t.Helper()
	s := &scripted{}
	s.say(200, "[]")
	at := httptest.NewServer(s)
	t.Cleanup(at.Close)
	db, err := Open(t.Context(), Config{Addresses: append([]string{at.URL}, more...)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db, s
}

// A batch that was not taken whole is refused, and says whether to try again: what will never be taken decides.
func TestWriteSaysWhetherToTryAgain(t *testing.T) {
	db, s := open(t)
	item := func(status int) string {
		return fmt.Sprintf(`{"index": {"status": %d, "error": {"type": "x"}}}`, status)
	}
	bulk := func(items ...string) string {
		return `{"errors": true, "items": [` + strings.Join(items, ",") + `]}`
	}
	for _, c := range []struct {
		status     int
		body       string
		fail, busy bool
	}{
		{200, `{"errors": false}`, false, false},
		{429, "", true, true},
		{503, "", true, true},
		{401, "", true, false},
		{200, bulk(item(201), item(429)), true, true},
		{200, bulk(item(503), item(400), item(429)), true, false},
	} {
		s.say(c.status, c.body)
		err := db.Write(t.Context(), storetest.Batch(storetest.Span{Trace: 1, ID: 1, Service: "a", Name: "n", Start: time.Now()}))
		if (err != nil) != c.fail || errors.Is(err, store.ErrBusy) != c.busy {
			t.Errorf("%d %s: %v", c.status, c.body, err)
		}
		if (db.Stats().LastError != "") != c.fail {
			t.Errorf("%d %s: the stats say %q", c.status, c.body, db.Stats().LastError)
		}
	}
}

// A search of which a part is missing is no answer.
func TestMissingShards(t *testing.T) {
	db, s := open(t)
	for _, body := range []string{`{"timed_out": true, "hits": {"hits": []}}`, `{"_shards": {"failed": 1}, "hits": {"hits": []}}`} {
		s.say(200, body)
		if _, err := db.Summaries(t.Context(), store.TraceQuery{}); !errors.Is(err, store.ErrBusy) {
			t.Errorf("%s: %v, want ErrBusy", body, err)
		}
	}
}

// While one node is away the others are asked.
func TestAnotherNode(t *testing.T) {
	db, s := open(t, "127.0.0.1:1")
	s.say(200, `{"errors": false}`)
	for n := range 4 {
		db.next.Store(uint64(n)) //nolint:gosec // small
		if err := db.Write(t.Context(), storetest.Batch(storetest.Span{Trace: 1, ID: 1, Service: "a", Name: "n", Start: time.Now()})); err != nil {
			t.Error(err)
		}
	}
}

// Who finds all places taken is told to come again, and nothing is asked.
func TestPlacesAreBounded(t *testing.T) {
	db, s := open(t)
	for range inFlight {
		db.slots <- struct{}{}
	}
	asked := s.asked.Load()
	err := db.Write(t.Context(), storetest.Batch(storetest.Span{Trace: 1, ID: 1, Service: "a", Name: "n", Start: time.Now()}))
	if !errors.Is(err, store.ErrBusy) || s.asked.Load() > asked+1 { // the sweep may ask
		t.Errorf("%v, %d requests", err, s.asked.Load()-asked)
	}
}
