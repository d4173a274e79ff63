//go:build unix

package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client/show"
	"github.com/tulle-mesh/tulle/store/requests"
)

func tapCommand() *cobra.Command {
	var (
		at    observerAt
		out   output
		side  string
		rate  int
		limit int
	)
	c := &cobra.Command{
		Use: "tap [EXPRESSION]", GroupID: "see",
		Short: "Live requests by a match expression",
		Long: `Shows requests as they come in, about a second after they ended, until Ctrl-C. What is too much for --rate, or for a slow terminal, is not shown, and how many that
were is told on standard error. The mesh never waits for it. With -o json every request is one line of JSON.`,
		Example: `  tulle tap 'dst=payments and failed'
  tulle tap --limit 10 -o json 'path~"^/cart" and duration>200ms' | jq .traceId`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			if rate < 1 || limit < 0 {
				return usageError{errors.New("--rate must be at least 1, --limit at least 0")}
			}
			expr, err := matchArg(c, args)
			if err != nil {
				return err
			}
			w := c.OutOrStdout()
			line := show.Style{Color: colored(w), Wide: out.format == "wide"}.Live(w)
			data := json.NewEncoder(w)
			shown := 0
			var failed error
			err = at.client().Tap(c.Context(), expr, side, rate, func(r *requests.Request, dropped uint64) bool {
				if dropped > 0 {
					_, _ = fmt.Fprintf(c.ErrOrStderr(), "tulle: %d more came in that are not shown; ask for fewer with a match expression, or raise --rate\n", dropped)
				}
				if r == nil {
					if !out.data() {
						failed = line(nil)
					}
					return failed == nil
				}
				switch out.format {
				case "json":
					failed = data.Encode(r)
				case "yaml":
					if _, failed = fmt.Fprintln(w, "---"); failed == nil {
						failed = printYAML(w, r)
					}
				default:
					failed = line(r)
				}
				shown++
				return failed == nil && (limit == 0 || shown < limit)
			})
			return errors.Join(err, failed)
		},
	}
	at.flag(c)
	out.flag(c)
	c.ValidArgsFunction = expression(&at)
	c.Flags().StringVar(&side, "side", "client", "seen by client, server or both (both: with every try)")
	c.Flags().IntVar(&rate, "rate", 500, "at most so many per second, 1 to 10000")
	c.Flags().IntVar(&limit, "limit", 0, "end after so many (default: never)")
	complete(c, "side", fixed("client", "server", "both"))
	return c
}
