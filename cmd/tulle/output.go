//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/client/show"
)

// output is the -o flag of the commands that show something.
type output struct {
	format string
	more   []string // formats that only this command has
}

var formats = []string{"table", "wide", "json", "yaml"}

func (o *output) flag(c *cobra.Command, more ...string) {
	o.more = more
	all := slices.Concat(formats, more)
	c.Flags().StringVarP(&o.format, "output", "o", "table", choice(all))
	_ = c.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(all, cobra.ShellCompDirectiveNoFileComp))
}

// choice is "a, b or c".
func choice(words []string) string {
	return strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
}

func (o *output) check() error {
	if all := slices.Concat(formats, o.more); !slices.Contains(all, o.format) {
		return usageError{fmt.Errorf("--output %q: must be %s", o.format, choice(all))}
	}
	return nil
}

// data reports whether the output is for programs: the value itself.
func (o *output) data() bool { return o.format == "json" || o.format == "yaml" }

// print writes v as it is, or what table makes of it.
func (o *output) print(c *cobra.Command, v any, table func(w io.Writer, s show.Style) error) error {
	w := c.OutOrStdout()
	switch o.format {
	case "json":
		return printJSON(c, v)
	case "yaml":
		return printYAML(w, v)
	}
	return table(w, show.Style{Color: colored(w), Wide: o.format == "wide"})
}

func printJSON(c *cobra.Command, v any) error {
	e := json.NewEncoder(c.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printYAML writes what JSON says of v, with its names in its order.
func printYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var n yaml.Node // JSON is YAML
	if err := yaml.Unmarshal(b, &n); err != nil {
		return err
	}
	block(&n)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(&n); err != nil {
		return err
	}
	_, err = w.Write(out.Bytes())
	return err
}

// block takes away the braces and quotes that YAML does not need.
func block(n *yaml.Node) {
	n.Style = 0
	for _, c := range n.Content {
		block(c)
	}
}

// observerAt is the --observer flag of the commands that read an observer.
type observerAt struct{ address string }

func (o *observerAt) flag(c *cobra.Command) {
	address := os.Getenv("TULLE_OBSERVER")
	if address == "" {
		address = "http://127.0.0.1:8640"
	}
	c.Flags().StringVar(&o.address, "observer", address, "address of the observer (environment: TULLE_OBSERVER)")
}

func (o *observerAt) client() *client.Client { return client.New(o.address) }

// ask does what may take a while. From a second on a person at a terminal sees that it goes on, and for how long.
func ask[T any](c *cobra.Command, what string, do func(ctx context.Context) (T, error)) (T, error) {
	w := c.ErrOrStderr()
	if !terminal(w) {
		return do(c.Context())
	}
	done, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		begun := time.Now()
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		said := false
		for {
			select {
			case <-tick.C:
				said = true
				_, _ = fmt.Fprintf(w, "\r%s, %s \x1b[K", what, time.Since(begun).Round(time.Second))
			case <-done:
				if said {
					_, _ = fmt.Fprint(w, "\r\x1b[K")
				}
				return
			}
		}
	}()
	v, err := do(c.Context())
	close(done)
	<-gone
	return v, err
}
