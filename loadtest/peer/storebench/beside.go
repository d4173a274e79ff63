//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// window is what came of spans that were sent for a while.
type window struct {
	rate    float64         // spans acknowledged in a second
	acks    []time.Duration // sorted: from when a batch was due (with a rate) or sent, to its acknowledgement
	refused int64
	asked   int64 // searches that were answered meanwhile
}

const (
	askers    = 8 // that ask one heavy search after the other
	fill      = 1_500_000
	besideFor = 3 // windows of each kind
)

// heavy are searches that read every span that is kept, or all of a column of them.
var heavy = []string{
	"/api/tulle/v1/traces?lookback=24h&tags=" + url.QueryEscape(flow.AttrPath+"=/items/nowhere"),
	"/api/tulle/v1/traces?lookback=24h&tags=" + url.QueryEscape(flow.AttrTLSCipher+"=none"),
	"/api/tulle/v1/traces?lookback=24h&tags=" + url.QueryEscape(flow.AttrPath+"=~.*nowhere.*"),
	"/api/tulle/v1/requests/count?last=24h&by=path&budget=500000",
}

// reportBeside sends spans to an observer while people search: at a rate, and as fast as it takes them, in turn without and with searches.
func reportBeside(b *strings.Builder, o options, dir string, c *corpus) (err error) {
	bin, err := filepath.Abs(o.observer)
	if err != nil {
		return err
	}
	c.merge(512)
	from, err := newSource(c, true)
	if err != nil {
		return err
	}
	ob, err := startObserver(bin, filepath.Join(dir, "observer"), "")
	if err != nil {
		return fmt.Errorf("%w: make build makes it, or name it with -observer", err)
	}
	defer func() { err = errors.Join(err, ob.stop()) }()
	at := &sending{ob: ob, from: from, base: uint64(time.Now().UnixNano()) - c.length} //nolint:gosec // a date
	if _, err := at.send(0, fill, time.Hour); err != nil {
		return err
	}
	fmt.Fprintf(b, "\n### Spans that come while %d searches are always under way\n\nEach search reads all that is kept: %d spans at the beginning. Medians of %d windows of %s with searches and as many without, in turn.\n\n"+
		"| | spans/s alone | beside | ratio | acknowledged after, median: alone | beside | ratio | p99 alone | beside | told to come again alone | beside | searches answered in a window | bar |\n|---|---|---|---|---|---|---|---|---|---|---|---|---|\n",
		askers, fill, besideFor, o.window)
	for _, rate := range []int{o.rate, 0} {
		var alone, beside []window
		for range besideFor {
			w, err := at.send(rate, 0, o.window)
			if err != nil {
				return err
			}
			alone = append(alone, w)
			if w, err = at.searched(rate, o.window); err != nil {
				return err
			}
			beside = append(beside, w)
		}
		rates := [2]float64{median(each(alone, func(w window) float64 { return w.rate })), median(each(beside, func(w window) float64 { return w.rate }))}
		ms := func(ws []window, q float64) float64 {
			return median(each(ws, func(w window) float64 { return w.acks[int(float64(len(w.acks)-1)*q)].Seconds() * 1e3 }))
		}
		sum := func(ws []window) (n int64) {
			for _, w := range ws {
				n += w.refused
			}
			return n
		}
		title := fmt.Sprintf("%d spans/s", rate)
		bar := fmt.Sprintf("≥ 0.95 × the spans/s %s; ≤ 1.05 × the median %s", verdict(rates[1] >= 0.95*rates[0]), verdict(ms(beside, .5) <= 1.05*ms(alone, .5)))
		if rate == 0 {
			title, bar = "as fast as it takes them", ""
		}
		fmt.Fprintf(b, "| %s | %.0f | %.0f | %.3f | %.2f ms | %.2f ms | %.2f | %.1f ms | %.1f ms | %d | %d | %.0f | %s |\n", title, rates[0], rates[1], rates[1]/rates[0],
			ms(alone, .5), ms(beside, .5), ms(beside, .5)/ms(alone, .5), ms(alone, .99), ms(beside, .99), sum(alone), sum(beside),
			median(each(beside, func(w window) float64 { return float64(w.asked) })), bar)
	}
	return nil
}

func each(ws []window, of func(window) float64) []float64 {
	out := make([]float64, len(ws))
	for i, w := range ws {
		out[i] = of(w)
	}
	return out
}

// sending is a stream of copies of the corpus to an observer, which goes on where it stopped.
type sending struct {
	ob   *observed
	from *source
	base uint64
	next uint64 // copy
}

// send sends spans at a rate, or as fast as they are taken for 0, for a time or until there are enough; 0 for no end.
func (s *sending) send(rate, enough int, last time.Duration) (w window, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), last)
	defer cancel()
	var (
		mu                 sync.Mutex
		begin              = time.Now()
		sent, acknowledged atomic.Int64
		refused            = s.ob.refused.Load()
		copies             = s.next
	)
	err = s.from.feed(writers, s.next, s.next+1_000_000, s.base, func(b batch) error {
		n := int64(b.spans)
		due := time.Now()
		if all := sent.Add(n); rate > 0 {
			due = begin.Add(time.Duration(float64(all) / float64(rate) * float64(time.Second)))
			time.Sleep(time.Until(due))
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := s.ob.post(ctx, b.raw); err != nil {
			return err
		}
		took := time.Since(due)
		mu.Lock()
		w.acks = append(w.acks, took)
		mu.Unlock()
		if acknowledged.Add(n) >= int64(enough) && enough > 0 {
			cancel()
		}
		return nil
	})
	if ctx.Err() != nil {
		err = nil // its time is over, or there are enough
	}
	perCopy := 0
	for i := range s.from.slots {
		perCopy += s.from.slots[i].spans
	}
	s.next = copies + uint64(sent.Load())/uint64(perCopy) + 2 //nolint:gosec // positive; none is sent twice
	if len(w.acks) == 0 && err == nil {
		return w, errors.New("the observer acknowledged nothing")
	}
	slices.Sort(w.acks)
	w.rate, w.refused = float64(acknowledged.Load())/time.Since(begin).Seconds(), s.ob.refused.Load()-refused
	return w, err
}

// searched is send beside searches.
func (s *sending) searched(rate int, last time.Duration) (w window, err error) {
	ctx, cancel := context.WithCancel(context.Background())
	var (
		wg    sync.WaitGroup
		asked atomic.Int64
		errs  = make([]error, askers)
	)
	for i := range askers {
		wg.Go(func() {
			for n := i; ctx.Err() == nil; n++ {
				if err := s.ob.ask(ctx, heavy[n%len(heavy)]); err != nil && ctx.Err() == nil {
					errs[i] = err
					return
				}
				asked.Add(1)
			}
		})
	}
	w, err = s.send(rate, 0, last)
	cancel()
	wg.Wait()
	w.asked = asked.Load()
	return w, errors.Join(append(errs, err)...)
}

// ask asks one search to its end. An answer that says that there is no room now is one too.
func (ob *observed) ask(ctx context.Context, path string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, ob.http+path, nil)
	if err != nil {
		return err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK && res.StatusCode != http.StatusServiceUnavailable {
		err = fmt.Errorf("%s: %s: %s", path, res.Status, body)
	}
	return err
}
