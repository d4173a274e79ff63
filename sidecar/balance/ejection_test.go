package balance

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the outputs in testdata/*.txt")

// The scripts in testdata drive a Picker under virtual time. A command is a line; its output, if any, follows the line "----" and ends at an empty line. Commands:
//
//	endpoints N [overridden=M]          begin: endpoints 0 to N-1, of which the controller has the last M out
//	rule [errors=N] [failing=N] [slow=N] [base=D] [max=D]
//	try I RESULT [took=D] [times=N]     tries of endpoint I end: ok, failed, unreachable, overloaded, abandoned, unknown
//	traffic D RPS [I=RESULT:TOOK…]      requests come, by chance to all who may be chosen; ok after 5ms unless it says otherwise. Prints who got how many, in percent, and how many probes
//	wait D
//	show                                who is out, why, for what term, and what was told of since
func TestEjection(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txt")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts in testdata: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txt"), func(t *testing.T) {
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			got := (&stage{t: t, now: start}).script(string(want))
			if *rewrite {
				if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
				return
			}
			if string(want) != got {
				t.Errorf("%s differs (-rewrite accepts it); got:\n%s", file, got)
			}
		})
	}
}

// stage is where a script plays.
type stage struct {
	t      *testing.T
	now    time.Time
	states *States
	set    *Picker
	random func() uint64
	told   []Ejection
}

func (s *stage) script(text string) string {
	var out strings.Builder
	skip := false
	for line := range strings.Lines(text) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case line == "----":
			skip = true
		case skip && line != "":
		case skip:
			skip = false
		case line == "" || strings.HasPrefix(line, "#"):
			out.WriteString(line + "\n")
		default:
			out.WriteString(line + "\n")
			if printed := s.run(strings.Fields(line)); printed != "" {
				out.WriteString("----\n" + printed + "\n")
			}
		}
	}
	return out.String()
}

var results = map[string]exchange.Result{
	"ok": exchange.ResultOK, "failed": exchange.ResultFailed, "unreachable": exchange.ResultUnreachable, "overloaded": exchange.ResultOverloaded,
	"abandoned": exchange.ResultAbandoned, "unknown": exchange.ResultUnknown,
}

func (s *stage) run(words []string) string {
	options := map[string]string{}
	args := words[1:1:1]
	for _, w := range words[1:] {
		if k, v, ok := strings.Cut(w, "="); ok {
			options[k] = v
		} else {
			args = append(args, w)
		}
	}
	number := func(text string, otherwise int) int {
		if text == "" {
			return otherwise
		}
		n, err := strconv.Atoi(text)
		if err != nil {
			s.t.Fatal(words, err)
		}
		return n
	}
	span := func(text string, otherwise time.Duration) time.Duration {
		if text == "" {
			return otherwise
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			s.t.Fatal(words, err)
		}
		return d
	}
	switch words[0] {
	case "endpoints":
		eps := endpoints(number(args[0], 0))
		for i := range number(options["overridden"], 0) {
			eject(&eps[len(eps)-1-i], "ov", s.now, s.now.Add(time.Hour), 0.01)
		}
		s.random, s.states, s.told = seeded(7), new(States), nil
		s.settle(policy.Ejection{})
		s.set = New(of(policy.BalanceRandom), eps, s.states, s.random)
	case "rule":
		s.settle(policy.Ejection{
			Errors: number(options["errors"], 0), Failing: number(options["failing"], 0), Slow: number(options["slow"], 0), Base: span(options["base"], 0), Max: span(options["max"], 0),
		})
	case "try":
		e := &s.set.entries[number(args[0], 0)]
		for range number(options["times"], 1) {
			e.inFlight.Add(1)
			(*plainLoad)(e.state).End(nil, s.now, span(options["took"], 5*time.Millisecond), results[args[1]], 0)
		}
	case "wait":
		s.now = s.now.Add(span(args[0], 0))
	case "traffic":
		return s.traffic(span(args[0], 0), number(args[1], 0), options)
	case "show":
		return s.show()
	default:
		s.t.Fatalf("no command %q", words[0])
	}
	return ""
}

func (s *stage) settle(e policy.Ejection) {
	s.states.Settle(e.WithDefaults(), func(e Ejection) { s.told = append(s.told, e) })
}

func (s *stage) traffic(d time.Duration, rps int, how map[string]string) string {
	picked, probes := make([]int, len(s.set.entries)), make([]int, len(s.set.entries))
	n := int(d.Seconds() * float64(rps))
	for range n {
		s.now = s.now.Add(d / time.Duration(n))
		c, reason := s.set.Pick(s.now, exchange.Want{})
		if reason != flow.ReasonNone {
			s.t.Fatal(reason)
		}
		i := int(c.Endpoint.Address.Port()) - 1000
		if picked[i]++; c.Probe {
			probes[i]++
		}
		result, took := exchange.ResultOK, 5*time.Millisecond
		if text := how[strconv.Itoa(i)]; text != "" {
			word, after, _ := strings.Cut(text, ":")
			if share, name, ok := strings.Cut(word, "%"); ok {
				percent, _ := strconv.Atoi(share)
				if word = "ok"; below(s.random, 100) < percent {
					word = name
				}
			}
			result = results[word]
			if after != "" {
				took, _ = time.ParseDuration(after)
			}
		}
		c.Load.End(nil, s.now, took, result, 0)
	}
	var out strings.Builder
	for i := range picked {
		fmt.Fprintf(&out, "%d: %d %%", i, (100*picked[i]+n/2)/n)
		if probes[i] > 0 {
			fmt.Fprintf(&out, ", %d probes", probes[i])
		}
		out.WriteByte('\n')
	}
	return out.String()
}

func (s *stage) show() string {
	var out strings.Builder
	for i := range s.set.entries {
		if e := &s.set.entries[i]; e.openUntil.Load() != 0 {
			fmt.Fprintf(&out, "%d is out: %s, term %v, %d in a row\n", i, e.why, e.penalty, e.times)
		}
	}
	for _, e := range s.told {
		fmt.Fprintf(&out, "told: %d %s: %s\n", e.Endpoint.Port()-1000, e.Why, e.Evidence)
		if term, longest := e.Until.Sub(e.At), s.states.rule().Max; term <= 0 || term > longest {
			fmt.Fprintf(&out, "for %v, which is more than %v\n", term, longest)
		}
	}
	s.told = nil
	now, counts, spared := s.states.Count()
	fmt.Fprintf(&out, "out now %d, spared %d; since the boot", now, spared)
	for why, n := range counts {
		if why > 0 {
			fmt.Fprintf(&out, " %s %d", Why(why), n)
		}
	}
	return out.String() + "\n"
}

// Comparing a thousand endpoints once a second makes no garbage.
func TestJudgingAllocatesNothing(t *testing.T) {
	var states States
	New(policy.Balancer{}, endpoints(1000), &states, nil)
	now := start
	if allocs := testing.AllocsPerRun(100, func() {
		now = now.Add(judgeEvery)
		states.judge(now.UnixNano())
	}); allocs > 0 {
		t.Errorf("%v allocations", allocs)
	}
}
