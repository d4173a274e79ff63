//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// outcome is one case of h2spec as it went; the runner writes it.
type outcome struct {
	ID          string   // generic/3.1/1: set of cases, section, number
	Section     string   // its title
	Title       string   // what the case does
	Requirement string   // what the specification says
	Result      string   // passed, failed, skipped
	Want        []string // failed: one of these
	Got         string   // failed: what happened
}

// expected is how many cases the pinned h2spec has: fewer would mean that some were not run.
const expected = 146

// runner is the executable that has h2spec in it.
type runner string

// build compiles the runner, a module of its own, into a folder.
func build(ctx context.Context, dir string) (runner, error) {
	_, here, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(here) {
		return "", errors.New("the sources are not where this program was compiled from: run it with 'go run', without -trimpath")
	}
	path := filepath.Join(dir, "runner")
	cmd := exec.CommandContext(ctx, "go", "build", "-o", path, ".")
	cmd.Dir = filepath.Join(filepath.Dir(here), "runner")
	if text, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building h2spec in %s: %w; it is fetched as a Go module when it is not in the cache: %s", cmd.Dir, err, bytes.TrimSpace(text))
	}
	return runner(path), nil
}

// cases runs them all against the server at ip:port; with a pair (a file with certificate and key) over TLS.
func (r runner) cases(ctx context.Context, address, pair string) ([]outcome, error) {
	args := []string{"-address", address}
	if pair != "" {
		args = append(args, "-pair", pair)
	}
	cmd := exec.CommandContext(ctx, string(r), args...)
	var said bytes.Buffer
	cmd.Stderr = &said
	text, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("h2spec against %s: %w: %s", address, err, bytes.TrimSpace(said.Bytes()))
	}
	var out []outcome
	for dec := json.NewDecoder(bytes.NewReader(text)); ; {
		var o outcome
		if err := dec.Decode(&o); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("what h2spec said of %s: %w", address, err)
		}
		out = append(out, o)
	}
	if len(out) != expected {
		return nil, fmt.Errorf("h2spec ran %d cases against %s, not %d", len(out), address, expected)
	}
	return out, nil
}

// with lists the ids of the cases with a result.
func with(cases []outcome, result string) (ids []string) {
	for _, o := range cases {
		if o.Result == result {
			ids = append(ids, o.ID)
		}
	}
	return ids
}

// summary counts, and describes what failed by section.
func summary(cases []outcome) string {
	var b strings.Builder
	failed, skipped := with(cases, "failed"), with(cases, "skipped")
	fmt.Fprintf(&b, "%d cases, %d passed, %d skipped, %d failed", len(cases), len(cases)-len(failed)-len(skipped), len(skipped), len(failed))
	section := ""
	for _, o := range cases {
		if !slices.Contains(failed, o.ID) {
			continue
		}
		set, _, _ := strings.Cut(o.ID, "/")
		if at := set + " " + o.Section; at != section {
			section = at
			fmt.Fprintf(&b, "\n  %s", section)
		}
		fmt.Fprintf(&b, "\n    %s %s\n      %s", o.ID, o.Title, o.Requirement)
		if len(o.Want) > 0 {
			fmt.Fprintf(&b, "\n      want %s", strings.Join(o.Want, "\n        or "))
		}
		fmt.Fprintf(&b, "\n      got  %s", o.Got)
	}
	return b.String()
}
