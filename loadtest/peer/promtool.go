//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// promtool is the path of the executable.
type promtool string

func findPromtool(name string) (promtool, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%s cannot be run: %w. Debian/Ubuntu: apt-get install prometheus; macOS: brew install prometheus; "+
			"others: https://prometheus.io/download/; or say where it is with -promtool PATH", name, err)
	}
	return promtool(path), nil
}

// complaint is what promtool says on standard error, and its exit code.
type complaint struct {
	args []string
	exit int
	said string
}

func (c *complaint) Error() string {
	return fmt.Sprintf("promtool %s: exit code %d: %s", strings.Join(c.args[:min(2, len(c.args))], " "), c.exit, c.said)
}

// run returns what promtool prints; a *complaint when it says anything on standard error or ends with another code than 0.
func (p promtool) run(ctx context.Context, stdin io.Reader, args ...string) (string, error) {
	c := exec.CommandContext(ctx, string(p), args...)
	var stdout, stderr bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = stdin, &stdout, &stderr
	err := c.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		return "", fmt.Errorf("promtool: %w", err)
	}
	if err != nil || stderr.Len() > 0 {
		return "", &complaint{args: args, exit: c.ProcessState.ExitCode(), said: stderr.String()}
	}
	return stdout.String(), nil
}

// lint runs `promtool check metrics` on a page; whatever it minds is an error.
func (p promtool) lint(ctx context.Context, page string) error {
	_, err := p.run(ctx, strings.NewReader(page), "check", "metrics")
	return err
}

// pages are the checks of metrics pages, by what serves them.
func (p promtool) pages(of map[string]string) []check {
	var out []check
	for _, who := range slices.Sorted(maps.Keys(of)) {
		out = append(out, check{"promtool check metrics: " + who, func(ctx context.Context) (string, error) {
			a := api{"http://" + of[who]}
			page, err := a.text(ctx, "/metrics")
			if err != nil {
				return "", err
			}
			if err := p.lint(ctx, page); err != nil {
				return "", err
			}
			families := strings.Count("\n"+page, "\n# TYPE ")
			if families == 0 {
				return "", errors.New("the page has no metric with a TYPE")
			}
			return fmt.Sprintf("%d families, no complaint", families), nil
		}})
	}
	return out
}

// queries are the checks of the query API.
func (p promtool) queries(base string) []check {
	return []check{
		{"promtool query instant: rate per service", func(ctx context.Context) (string, error) {
			var found int
			err := await(ctx, func(ctx context.Context) error { // a rate needs two samples, and they are 5 s apart
				out, err := p.run(ctx, nil, "query", "instant", "-o", "json", base, `sum by (destination) (rate(tulle_requests_total{side="client"}[1m]))`)
				if err != nil {
					return err
				}
				v, err := vector(out)
				if err != nil {
					return err
				}
				if !(v["catalog"] > 0) {
					return fmt.Errorf("no rate for catalog in %s", out)
				}
				found = len(v)
				return nil
			})
			return fmt.Sprintf("%d services, catalog among them", found), err
		}},
		{"promtool query instant: p99 of a native histogram", func(ctx context.Context) (string, error) {
			var seconds float64
			err := await(ctx, func(ctx context.Context) error {
				out, err := p.run(ctx, nil, "query", "instant", "-o", "json", base,
					`histogram_quantile(0.99, sum by (destination) (rate(tulle_request_duration_seconds{destination="catalog"}[1m])))`)
				if err != nil {
					return err
				}
				v, err := vector(out)
				if err != nil {
					return err
				}
				if seconds = v["catalog"]; !(seconds > 0 && seconds < 60) {
					return fmt.Errorf("p99 of catalog is %v s in %s", seconds, out)
				}
				return nil
			})
			return fmt.Sprintf("catalog %.1f ms", 1000*seconds), err
		}},
		{"promtool query instant: an error is told", func(ctx context.Context) (string, error) {
			out, err := p.run(ctx, nil, "query", "instant", base, `sum(`)
			if err == nil {
				return "", fmt.Errorf("a broken query was answered: %s", out)
			}
			if !strings.Contains(err.Error(), "parse error") {
				return "", err
			}
			return "parse error, as from Prometheus", nil
		}},
		{"promtool query labels", func(ctx context.Context) (string, error) {
			out, err := p.run(ctx, nil, "query", "labels", base, "destination")
			if err == nil && !slices.Contains(strings.Fields(out), "catalog") {
				err = fmt.Errorf("catalog is not among %s", out)
			}
			return fmt.Sprintf("%d values of destination", len(strings.Fields(out))), err
		}},
	}
}

// vector reads the JSON of `promtool query instant` into value by the label destination.
func vector(printed string) (map[string]float64, error) {
	var samples []struct {
		Metric map[string]string `json:"metric"`
		Value  []json.RawMessage `json:"value"`
	}
	if err := json.Unmarshal([]byte(printed), &samples); err != nil {
		return nil, fmt.Errorf("promtool printed no JSON vector: %w: %s", err, printed)
	}
	out := map[string]float64{}
	for _, s := range samples {
		if len(s.Value) != 2 {
			return nil, fmt.Errorf("a sample is not [time, value]: %s", printed)
		}
		text, err := strconv.Unquote(string(s.Value[1]))
		if err != nil {
			return nil, fmt.Errorf("value %s is not a string", s.Value[1])
		}
		if out[s.Metric["destination"]], err = strconv.ParseFloat(text, 64); err != nil {
			return nil, err
		}
	}
	return out, nil
}
