//go:build unix

package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net/url"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/client"
	"github.com/tulle-mesh/tulle/client/show"
	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/controller/explain"
)

func explainCommand() *cobra.Command {
	var (
		q     explain.Question
		paths []string
		admin string
		all   bool
		out   output
	)
	c := &cobra.Command{
		Use: "explain service/NAME", GroupID: "reason", Args: oneArg("the service, as in service/catalog or service/catalog:admin"),
		Short: "The policy that is in force for a service, and where every value comes from",
		Long: `Prints every field of the TrafficPolicy in force for a service, its value, its unit, and what set it: the default, or an object with file and line, of the mesh, the namespace,
the service, a port, a route or a rule; and what set it, too, and does not count. It asks a running controller, or with --config reads files as one does.
Exit codes: 0 done, 3 no controller answers, 4 there is no such service, rule or workload.`,
		RunE: func(c *cobra.Command, args []string) error {
			if err := out.check(); err != nil {
				return err
			}
			kind, name, ok := strings.Cut(args[0], "/")
			if !ok || kind != "service" || name == "" {
				return usageError{fmt.Errorf("%q: must be service/NAME, as in service/catalog", args[0])}
			}
			q.Service = name
			var a *explain.Answer
			var err error
			if len(paths) > 0 {
				a, err = explainFiles(paths, q)
			} else {
				a = &explain.Answer{}
				err = client.NewController(admin).Get(c.Context(), "/explain", url.Values{"service": {q.Service}, "namespace": {q.Namespace}, "from": {q.From}, "rule": {q.Rule}}, a)
			}
			if err != nil {
				return err
			}
			if !all {
				a.Settings = slices.DeleteFunc(a.Settings, func(s explain.Setting) bool { return s.From.Level == "default" && s.Value == "none" })
			}
			return out.print(c, a, func(w io.Writer, _ show.Style) error { return printAnswer(w, a) })
		},
	}
	f := c.Flags()
	f.StringArrayVar(&paths, "config", nil, "read this folder of *.yaml resources, or file, in place of asking a controller; may be repeated")
	f.StringVar(&admin, "controller-admin", controller.DefaultAdmin, "admin address of the controller")
	f.StringVar(&q.Namespace, "namespace", "", "namespace in which the service must be")
	f.StringVar(&q.From, "from", "", "instance of a caller: how it reaches the service, and which rules its requests go by")
	f.StringVar(&q.Rule, "route", "", "rule of a route, as Records name it (NAMESPACE/ROUTE/RULE or NAMESPACE/ROUTE[0]): what holds for its requests")
	f.BoolVar(&all, "all", false, "also lists that are empty")
	out.flag(c)
	return c
}

// explainFiles answers as a controller that starts with these files would.
func explainFiles(paths []string, q explain.Question) (*explain.Answer, error) {
	conf, err := readConfiguration(paths)
	if err != nil {
		return nil, err
	}
	a, err := explain.Of(conf.set, conf.endpoints, q)
	var absent explain.Missing
	if errors.As(err, &absent) {
		return nil, missing{err}
	}
	return a, err
}

// printAnswer writes a table, and below each value what it counts before.
func printAnswer(w io.Writer, a *explain.Answer) error {
	what := []string{"namespace " + a.Namespace}
	if a.Protocol != "" {
		what = append(what, "protocol "+a.Protocol)
	}
	if a.External {
		what = append(what, "outside the mesh")
	}
	what = append(what, count(a.Endpoints, "endpoint"))
	if a.Rule != "" {
		what = append(what, "requests by rule "+a.Rule)
	}
	if _, err := fmt.Fprintf(w, "service %s: %s\n", a.Service, strings.Join(what, ", ")); err != nil {
		return err
	}
	if c := a.Caller; c != nil {
		_, _ = fmt.Fprintf(w, "%s: %s\n", c.Workload, callerText(c)) // of what follows the last error is told
	}
	_, _ = fmt.Fprintln(w)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "FIELD\tVALUE\tUNIT\tFROM")
	for _, s := range a.Settings {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", s.Field, s.Value, s.Unit, s.From)
		for _, o := range s.Over {
			_, _ = fmt.Fprintf(t, "\t\t\t  before %s\n", o)
		}
	}
	return t.Flush()
}

// callerText says how a caller reaches the service and which rules are for it.
func callerText(c *explain.Caller) string {
	text := cmp.Or(c.Reaches, "has no way to it: add it to spec.upstreams")
	switch {
	case len(c.Rules) == 0:
		return text + "; no rules, the service itself takes its requests"
	case c.Consumer:
		text += "; by rules of its own namespace: "
	default:
		text += "; by rules "
	}
	return text + strings.Join(c.Rules, ", ")
}
