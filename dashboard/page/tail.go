package page

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/part"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/match"
	"github.com/tulle-mesh/tulle/store/requests"
)

// RequestsTail is the name of the live feed's watch of requests as they end.
const RequestsTail = "requests"

const (
	tailEvery = 500 * time.Millisecond // a browser gets new rows so often
	tailRows  = 25                     // and at most so many each time; no person reads more
)

// tailCell is a value of a row: its text, and what it is sorted by, for a number.
type tailCell struct {
	Text   string `json:"t"`
	Number bool   `json:"n,omitempty"`
	Sort   string `json:"v,omitempty"`
}

// tailRow is a request as the page's script shows it.
type tailRow struct {
	Time  string     `json:"time"`
	ISO   string     `json:"iso"`
	Link  string     `json:"link"`
	Level part.Level `json:"level"`
	Cells []tailCell `json:"cells"`
}

// TailRequests answers what a page of requests watches: a question is its form's match, side and columns as in its address. Each half second it shows the newest
// requests that are meant, and says how many it left out because there were too many.
func TailRequests(d *Deps) func(ctx context.Context, question string, show func(lines []json.RawMessage, dropped uint64)) error {
	return func(ctx context.Context, question string, show func(lines []json.RawMessage, dropped uint64)) error {
		q, err := url.ParseQuery(question)
		if err != nil {
			return fmt.Errorf("question %q: %w", part.Ellipsis(question, 80), err)
		}
		form := requestsForm(q)
		values, err := columnValues(fieldList(form.Columns))
		if err != nil {
			return err
		}
		e, err := match.Parse(form.Match)
		if err == nil {
			e, err = requests.Restrict(e, requests.Side(form.Side))
		}
		if err != nil {
			return err
		}
		if d.Tap == nil {
			return errors.New("live requests cannot be watched here")
		}
		watcher, err := d.Tap.Watch(ctx)
		if err != nil {
			return err
		}
		every := time.NewTicker(tailEvery)
		defer every.Stop()
		columns := fieldList(form.Columns)
		var rows []json.RawMessage
		var dropped uint64
		for {
			select {
			case batch, ok := <-watcher.Batches():
				if !ok {
					return ctx.Err()
				}
				for i := range batch {
					switch {
					case !e.Match(&batch[i]):
					case len(rows) == tailRows:
						dropped++
					default:
						b, err := json.Marshal(newTailRow(d.Clock(), columns, values, &batch[i]))
						if err != nil {
							return fmt.Errorf("a request cannot be shown: %w", err)
						}
						rows = append(rows, b)
					}
				}
			case <-every.C:
				// What did not fit into the tap's queue was not judged: it may have been anything.
				if dropped += watcher.Dropped(); len(rows) > 0 || dropped > 0 {
					show(rows, dropped)
				}
				rows, dropped = nil, 0
			}
		}
	}
}

func newTailRow(now time.Time, columns []string, values []func(*store.Span) string, s *store.Span) tailRow {
	r := requestRow(columns, values, s)
	out := tailRow{Time: part.Clock(now, r.Time), ISO: part.ISO(r.Time), Link: r.Link, Level: r.Level}
	for _, c := range r.Values {
		out.Cells = append(out.Cells, tailCell(c))
	}
	return out
}
