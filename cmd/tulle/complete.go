//go:build unix

package main

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/match"
)

// completeIn is how long somebody who pressed the tab key waits for an observer.
const completeIn = 700 * time.Millisecond

type completion = func(c *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective)

// services completes names of services from the running mesh; without an observer there are none.
func services(at *observerAt) completion {
	return func(c *cobra.Command, _ []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		return serviceNames(c, at), cobra.ShellCompDirectiveNoFileComp
	}
}

func serviceNames(c *cobra.Command, at *observerAt) []string {
	ctx := c.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completeIn)
	defer cancel()
	names, err := at.client().Services(ctx)
	if err != nil {
		cobra.CompDebugln(err.Error(), false)
	}
	return names
}

// fixed completes one of words.
func fixed(words ...string) completion {
	return cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp)
}

func reasons() []string {
	var out []string
	for _, r := range flow.Reasons() {
		out = append(out, r.String())
	}
	return out
}

func kinds() []string {
	var out []string
	for _, k := range event.Kinds() {
		out = append(out, string(k))
	}
	return out
}

// expression completes the last word of a match expression: fields, and behind = the values that a field can have.
func expression(at *observerAt) completion {
	return func(c *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		const how = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
		if len(args) > 0 {
			return nil, how
		}
		cut := strings.LastIndexAny(typed, " (!&|") + 1
		before, last := typed[:cut], typed[cut:]
		var out []string
		field, value, ok := strings.Cut(last, "=")
		if !ok {
			for _, w := range match.Words() {
				out = append(out, before+w)
			}
			return out, how
		}
		values := match.Values(field)
		switch field {
		case "src", "dst", "service":
			values = serviceNames(c, at)
		}
		for _, v := range values {
			if strings.HasPrefix(v, value) {
				out = append(out, before+field+"="+v)
			}
		}
		slices.Sort(out)
		return out, how
	}
}

// complete registers fn for a flag that c has; a name that it does not have is a mistake of the caller.
func complete(c *cobra.Command, flag string, fn completion) {
	if err := c.RegisterFlagCompletionFunc(flag, fn); err != nil {
		panic(err)
	}
}
