//go:build unix

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
	"github.com/tulle-mesh/tulle/store/graph"
)

func topCommand() *cobra.Command {
	var (
		at    observerAt
		out   output
		once  bool
		every time.Duration
		sort  string
	)
	c := &cobra.Command{
		Use: "top", GroupID: "see", Args: noArgs,
		Short: "Services and edges, live",
		Long: `Services and edges, live. At a terminal keys change what is seen: r, e, l and n sort by rate, errors, latency (p99) and name; tab goes from everything to services to edges; arrows, page
keys, j and k scroll; space holds the picture; q ends.`,
		RunE: func(c *cobra.Command, _ []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if every < 200*time.Millisecond {
				return usageError{errors.New("--every: at least 200ms")}
			}
			if sort != "" && !slices.Contains(show.Orders(), sort) {
				return usageError{fmt.Errorf("--sort %q: must be %s", sort, choice(show.Orders()))}
			}
			w := c.OutOrStdout()
			style := show.Style{Color: colored(w), Wide: out.format == "wide"}
			cl := at.client()
			if once || out.data() || !terminal(w) {
				g, err := ask(c, "drawing the graph", cl.Graph)
				if err != nil {
					return err
				}
				return out.print(c, g, func(w io.Writer, s show.Style) error { return s.Top(w, g, show.Order(sort), show.All) })
			}
			v := &topView{style: style, order: show.Order(sort)}
			return live(c.Context(), w, every, v, func(ctx context.Context) error {
				g, err := cl.Graph(ctx)
				if err == nil && !v.held {
					v.graph = g
				}
				return err
			})
		},
	}
	at.flag(c)
	out.flag(c)
	c.Flags().BoolVar(&once, "once", false, "print once and end (the default when the output is not a terminal)")
	c.Flags().DurationVar(&every, "every", time.Second, "how often the picture is drawn again")
	c.Flags().StringVar(&sort, "sort", "", "by name, rate, errors or p99 (default: services by name, edges by rate)")
	complete(c, "sort", fixed(show.Orders()...))
	return c
}

// topView is what a person at the terminal has chosen to see.
type topView struct {
	style show.Style
	graph *graph.Snapshot // nil until the first has come
	order show.Order
	of    show.Of
	held  bool
	top   int // first line that is seen below the head
}

// head is how many lines of show.Top stay when the rest is scrolled.
const head = 2

// key changes the view; false ends it.
func (v *topView) key(k string) bool {
	switch k {
	case "q", "\x03", "\x04", "\x1b":
		return false
	case "r":
		v.order, v.top = show.ByRate, 0
	case "e":
		v.order, v.top = show.ByErrors, 0
	case "l":
		v.order, v.top = show.ByP99, 0
	case "n":
		v.order, v.top = show.ByName, 0
	case "\t":
		v.of, v.top = (v.of+1)%3, 0
	case " ":
		v.held = !v.held
	case "j", "\x1b[B":
		v.top++
	case "k", "\x1b[A":
		v.top--
	case "\x1b[6~":
		v.top += 20
	case "\x1b[5~":
		v.top -= 20
	}
	return true
}

// frame draws the view into so many lines and columns.
func (v *topView) frame(width, height int) ([]string, error) {
	if v.graph == nil {
		return []string{"waiting for the observer"}, nil
	}
	var b bytes.Buffer
	if err := v.style.Top(&b, v.graph, v.order, v.of); err != nil {
		return nil, err
	}
	lines := slices.Collect(lines(b.String()))
	body := lines[min(head, len(lines)):]
	room := max(height-head-1, 1)
	v.top = max(min(v.top, len(body)-room), 0)
	out := slices.Clone(lines[:min(head, len(lines))])
	out = append(out, body[v.top:min(v.top+room, len(body))]...)
	out = out[:min(len(out), max(height-1, 1))]
	for i := range out {
		out[i] = show.Crop(out[i], width)
	}
	for len(out) < height-1 {
		out = append(out, "")
	}
	foot := "r rate  e errors  l latency  n name  tab services/edges  space hold  q quit"
	if v.held {
		foot = "HELD  " + foot
	}
	if more := len(body) - room; more > 0 {
		foot = fmt.Sprintf("%d of %d lines  ", v.top+min(room, len(body)), len(body)) + foot
	}
	return append(out, show.Crop(foot, width)), nil
}

// redraw draws until ctx ends, each time over the last picture. A picture that cannot be had ends it.
func redraw(ctx context.Context, w io.Writer, every time.Duration, draw func(context.Context, io.Writer) error) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		var b bytes.Buffer
		b.WriteString("\x1b[H\x1b[J") // home, clear to the end
		if err := draw(ctx, &b); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
		if _, err := w.Write(b.Bytes()); err != nil {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
}
