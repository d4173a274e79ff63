//go:build unix

// Command screenshot runs the demo and photographs its dashboard with Chromium: the pictures of the README (make screenshots), or, with
// -all, every page in both themes and three widths, for a person to look through.
//
// Run it in the folder that holds bin/tulle.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/internal/process"
	"github.com/tulle-mesh/tulle/loadtest/rig"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
)

// maxBytes bounds a picture of the README: the repository is cloned by people.
const maxBytes = 300 << 10

// patience is how long the demo may take to show its first ejection.
const patience = 2 * time.Minute

type options struct {
	out, tulle, browser, all string
	offset                   int
}

func main() {
	var o options
	flag.StringVar(&o.out, "out", filepath.Join("docs", "images"), "where the README's pictures go")
	flag.StringVar(&o.all, "all", "", "photograph every page in both themes and three widths into this folder instead")
	flag.StringVar(&o.tulle, "tulle", "", "the tulle executable (default bin/tulle)")
	flag.StringVar(&o.browser, "chromium", "chromium", "the Chromium executable")
	flag.IntVar(&o.offset, "port-offset", 0, "added to every port of the demo, to run beside another one (3000 clears the default ports)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := screenshots(ctx, os.Stdout, o); err != nil {
		fmt.Fprintln(os.Stderr, "screenshot: "+err.Error())
		os.Exit(1)
	}
}

// shot is one picture of a page.
type shot struct {
	file, path    string
	dark          bool
	width, height int
}

func screenshots(ctx context.Context, out io.Writer, o options) (err error) {
	b, err := findBrowser(o.browser)
	if err != nil {
		return err
	}
	dir := o.out
	if o.all != "" {
		dir = o.all
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	r, err := rig.Start(ctx, rig.Options{Tulle: o.tulle, Offset: o.offset, Args: []string{"--fault-after", "15s"}})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	fmt.Fprintln(out, "the graph is live; waiting for the first ejection")
	if err := ejection(ctx, r); err != nil {
		return err
	}
	trace, err := deepest(ctx, r)
	if err != nil {
		return err
	}
	shots := readme(trace)
	if o.all != "" {
		shots = everything(trace)
	}
	for _, s := range shots {
		file := filepath.Join(dir, s.file)
		if err := b.photograph(ctx, r.API.Base()+s.path, file, s); err != nil {
			return err
		}
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s  %d kB\n", file, info.Size()>>10)
		if o.all == "" && info.Size() > maxBytes {
			return fmt.Errorf("%s has %d bytes: a picture of the README may have %d", file, info.Size(), maxBytes)
		}
	}
	return nil
}

// ejection waits until the demo's fault has been answered.
func ejection(ctx context.Context, r *rig.Rig) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return process.Await(ctx, func(ctx context.Context) error {
		events, err := r.API.Events(ctx, client.EventQuery{Kind: string(event.KindEjected), Start: r.Started, Limit: 1})
		if err == nil && len(events) == 0 {
			err = fmt.Errorf("no ejection within %s of the demo's fault", patience)
		}
		return err
	})
}

// deepest is the trace with most spans among the newest of the shop's front page.
func deepest(ctx context.Context, r *rig.Rig) (string, error) {
	page, _, err := r.API.Traces(ctx, store.TraceQuery{Service: "web", Limit: 100}, "", "")
	if err != nil {
		return "", err
	}
	if len(page.Traces) == 0 {
		return "", errors.New("the observer has no trace of web")
	}
	best := slices.MaxFunc(page.Traces, func(a, b store.TraceSummary) int { return a.Spans - b.Spans })
	return best.ID, nil
}

const (
	width  = 1440
	height = 900
)

// readme are the pictures kept in the repository.
func readme(trace string) []shot {
	return []shot{
		{"topology-light.png", "/", false, width, height},
		{"topology-dark.png", "/", true, width, height},
		{"service-light.png", "/service/catalog", false, width, height},
		{"events-light.png", "/events", false, width, height},
		{"trace-light.png", "/trace/" + trace, false, width, height},
	}
}

// everything is every page in both themes and three widths.
func everything(trace string) []shot {
	edge := url.Values{"source": {"web"}, "destination": {"catalog"}, "protocol": {"http/1.1"}}
	var all []shot
	for _, p := range []struct{ name, path string }{
		{"topology", "/"},
		{"service", "/service/catalog"},
		{"edge", "/edge?" + edge.Encode()},
		{"traces", "/traces"},
		{"trace", "/trace/" + trace},
		{"events", "/events"},
		{"alerts", "/alerts"},
		{"proxies", "/proxies"},
		{"absent", "/nothing/here"},
	} {
		for _, w := range []struct{ width, height int }{{390, 1800}, {width, 1400}, {2560, 1440}} {
			for _, dark := range []bool{false, true} {
				theme := "light"
				if dark {
					theme = "dark"
				}
				all = append(all, shot{fmt.Sprintf("%s-%d-%s.png", p.name, w.width, theme), p.path, dark, w.width, w.height})
			}
		}
	}
	return all
}
