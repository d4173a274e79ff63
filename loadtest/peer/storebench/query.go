//go:build linux

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// search is one kind of query on copies of the corpus.
type search struct {
	name  string
	bar   [2]time.Duration // p50, p99 of wall time; 0: none
	query query            // From and To are filled in
	peers bool             // Jaeger's badger can be asked it: it needs a service
}

// searches name values that occur in testdata/shop.otlp.zst. A search of 25 rows a copy is answered by the newest blocks; one for what is nowhere reads all of them.
var searches = []search{
	{"newest 20 of a service, operation, tag and duration", [2]time.Duration{0, 25 * time.Millisecond}, query{
		Service: "catalog", Operation: "GET /products", Key: flow.AttrStatus, Value: "200", Min: 8 * time.Millisecond,
	}, true},
	{"the same with a tag of 2 spans in 26,000", [2]time.Duration{0, 25 * time.Millisecond}, query{
		Service: "catalog", Operation: "GET /products", Key: flow.AttrStatus, Value: "502", Min: time.Millisecond,
	}, true},
	{"newest 20 of a service", [2]time.Duration{}, query{Service: "catalog"}, true},
	{"newest 20 with a rare tag", [2]time.Duration{}, query{Key: flow.AttrReason, Value: "upstream_5xx"}, false},
	{"all: a path that is nowhere", [2]time.Duration{0, 120 * time.Millisecond}, query{Key: flow.AttrPath, Value: "/items/nowhere"}, false},
	{"all: a status that is nowhere", [2]time.Duration{0, 120 * time.Millisecond}, query{Key: flow.AttrStatus, Value: "418"}, false},
	{"all: a user agent that is nowhere", [2]time.Duration{0, 120 * time.Millisecond}, query{Key: flow.AttrUserAgent, Value: "nobody/1"}, false},
	{"all: a size of answers that is nowhere", [2]time.Duration{0, 120 * time.Millisecond}, query{Key: flow.AttrBytesOut, Value: "77777"}, false},
	{"all: a request id that is nowhere", [2]time.Duration{0, 120 * time.Millisecond}, query{Key: flow.AttrRequestID, Value: "00000000-0000-4000-8000-000000000000"}, false},
	{"all: an attribute without a column", [2]time.Duration{0, 120 * time.Millisecond}, query{Key: flow.AttrTLSCipher, Value: "none"}, false},
}

// queryJob asks an existing store. "cold": before each query the store is opened anew and its files' pages are dropped from the system's cache.
func queryJob(j job) (out outcome, err error) {
	c, err := load(j)
	if err != nil {
		return out, err
	}
	out.Spans = c.spans * int(j.Copies) //nolint:gosec // small
	s, err := contenders[j.Contender](j)
	if err != nil {
		return out, err
	}
	if j.Contender == "memory" { // it has nothing on disk
		from, err := newSource(c, false)
		if err != nil {
			return out, err
		}
		if err := from.feed(1, 0, j.Copies, j.Base, sender(s, true)); err != nil {
			return out, err
		}
	}
	rng := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // a seeded choice
	any1 := func() flow.TraceID {
		return freshTrace(c.traces[rng.IntN(len(c.traces))], rng.Uint64N(j.Copies))
	}
	byID := func() (int, error) { return s.trace(any1()) }
	if j.Contender == "tulle" {
		cold := timing{Name: "trace by id, cold"}
		if err := s.close(); err != nil {
			return out, err
		}
		var walls []time.Duration
		var spent []time.Duration
		for range max(20, j.Rounds) {
			if err := forget(j.Dir); err != nil {
				return out, err
			}
			if s, err = contenders[j.Contender](j); err != nil {
				return out, err
			}
			if err := forget(j.Dir); err != nil {
				return out, err
			}
			at, from := time.Now(), cpu()
			n, err := byID()
			if err != nil {
				return out, err
			}
			walls, spent = append(walls, time.Since(at)), append(spent, cpu()-from)
			cold.Found += n
			if err := s.close(); err != nil {
				return out, err
			}
		}
		cold.finish(walls, spent)
		out.Queries = append(out.Queries, cold)
		if s, err = contenders[j.Contender](j); err != nil {
			return out, err
		}
	}
	measure := func(name string, warm, n int, one func() (int, error)) error {
		for range warm {
			if _, err := one(); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		t := timing{Name: name}
		var walls, spent []time.Duration
		for range n {
			at, from := time.Now(), cpu()
			found, err := one()
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			walls, spent = append(walls, time.Since(at)), append(spent, cpu()-from)
			t.Found += found
		}
		t.finish(walls, spent)
		out.Queries = append(out.Queries, t)
		return nil
	}
	if err := measure("trace by id, warm", 50*j.Rounds, 50*j.Rounds, byID); err != nil {
		return out, err
	}
	from := time.Unix(0, int64(j.Base)) //nolint:gosec // a date
	to := from.Add(time.Duration(j.Copies * c.length))
	for _, q := range searches {
		if j.IDs || j.Contender != "tulle" && !q.peers {
			continue
		}
		q.query.From, q.query.To, q.query.Limit = from, to, 20
		if err := measure(q.name, 3, j.Rounds, func() (int, error) { return s.find(q.query) }); err != nil {
			return out, err
		}
	}
	return out, s.close()
}

func (t *timing) finish(walls, spent []time.Duration) {
	slices.Sort(walls)
	slices.Sort(spent)
	t.N = len(walls)
	at := func(p int) int { return min(t.N-1, t.N*p/100) }
	t.P50, t.P99, t.CPU50, t.CPU99 = walls[at(50)], walls[at(99)], spent[at(50)], spent[at(99)]
}

// forget drops the pages of all files below dir from the system's cache. They are clean: nothing has been written for long.
func forget(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		return errors.Join(unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close()) //nolint:gosec // a descriptor fits
	})
}
