//go:build unix

package main

import (
	"encoding/json"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client"
)

// output is the -o flag of the commands that show something.
type output struct{ format string }

func (o *output) flag(c *cobra.Command) {
	c.Flags().StringVarP(&o.format, "output", "o", "table", "table or json")
}

func (o *output) check() error {
	if o.format != "table" && o.format != "json" {
		return usageError{fmt.Errorf("--output %q: must be table or json", o.format)}
	}
	return nil
}

func (o *output) json() bool { return o.format == "json" }

func printJSON(c *cobra.Command, v any) error {
	e := json.NewEncoder(c.OutOrStdout())
	e.SetIndent("", "  ")
	return e.Encode(v)
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
