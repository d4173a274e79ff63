//go:build linux

package main

import (
	"context"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/controller/resource"
)

func samplesAt(every, window time.Duration, fail func(at time.Duration) string) (out []sample) {
	for at := time.Duration(0); at < window; at += every {
		out = append(out, sample{at, 10 * time.Millisecond, fail(at)})
	}
	return out
}

func TestJudge(t *testing.T) {
	const window = 4 * time.Second
	for name, c := range map[string]struct {
		fail      func(time.Duration) string
		success   float64
		recovered float64
		never     bool
	}{
		"all well":              {func(time.Duration) string { return "" }, 1, 0, false},
		"bad for a second":      {func(at time.Duration) string { return when(at < time.Second) }, 0.75, 1, false},
		"bad, then one stray":   {func(at time.Duration) string { return when(at < 500*time.Millisecond || at == 3*time.Second) }, 0.87475, 0.5, false},
		"bad to the end":        {func(at time.Duration) string { return when(at >= 2*time.Second) }, 0.5, 4, true},
		"bad at the end, again": {func(at time.Duration) string { return when(at >= 3700*time.Millisecond) }, 0.925, 4, true},
	} {
		t.Run(name, func(t *testing.T) {
			s := samplesAt(time.Millisecond, window, c.fail)
			f := judge(s, int64(len(s))*3/2, window)
			if math.Abs(f.Success-c.success) > 1e-9 || f.Recovered != c.recovered || f.Never != c.never || f.Attempts != 1.5 || f.P50 != 10 {
				t.Errorf("%+v", f)
			}
		})
	}
	if f := judge(nil, 3, window); !f.Never || f.Success != 0 {
		t.Errorf("without a request: %+v", f)
	}
}

func when(bad bool) string {
	if bad {
		return "503 Service Unavailable"
	}
	return ""
}

func TestQuantile(t *testing.T) {
	var v []float64
	for i := range 100 {
		v = append(v, float64(i+1))
	}
	if quantile(v, 0.5) != 50 || quantile(v, 0.99) != 99 || quantile(v[:1], 0.99) != 1 {
		t.Error(quantile(v, 0.5), quantile(v, 0.99), quantile(v[:1], 0.99))
	}
}

func TestMiddle(t *testing.T) {
	m := middle([]figures{{Success: 0.9, Attempts: 1, Recovered: 1}, {Success: 0.5, Attempts: 3, Never: true, Recovered: 9}, {Success: 0.7, Attempts: 2, Recovered: 4}})
	if m.Success != 0.7 || m.Attempts != 2 || m.Recovered != 4 || m.Never {
		t.Errorf("%+v", m)
	}
	if m := middle([]figures{{Never: true}, {Never: true}, {}}); !m.Never || m.Recovered != 0 {
		t.Errorf("mostly never: %+v", m)
	}
}

func TestCompare(t *testing.T) {
	v := compare(map[string]figures{
		"tulle":       {Success: 0.998, Attempts: 1.1, P99: 10},
		"bare":        {Success: 0.667, Attempts: 0.67, P99: 12},
		"envoy-tuned": {Success: 1, Attempts: 1.04, P99: 40},
		"envoy":       {Success: 0.667, Attempts: 0.67, P99: 3},
	})
	want := verdict{success: []string{"envoy-tuned", "tulle"}, attempts: []string{"bare", "envoy", "envoy-tuned"}, p99: []string{"tulle"}}
	if !reflect.DeepEqual(v, want) {
		t.Errorf("%+v, want %+v", v, want)
	}
}

// TestTable holds what every scenario must keep to, so that a run ends in time and a page can be made of it.
func TestTable(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range scenarios {
		s = s.withDefaults()
		if seen[s.name] || s.name == "" || s.title == "" || !strings.HasSuffix(s.what, ".") {
			t.Errorf("%s: name twice, or title or text missing", s.name)
		}
		seen[s.name] = true
		if s.warmup+s.window > maxCell {
			t.Errorf("%s takes %s, more than %s", s.name, s.warmup+s.window, maxCell)
		}
		if len(s.services) == 0 || len(s.acts) == 0 {
			t.Errorf("%s has no service, or nothing happens", s.name)
		}
		for i, v := range s.services {
			if last := i == len(s.services)-1; last != (v.calls == "") || !last && v.calls != s.services[i+1].name {
				t.Errorf("%s: service %s must call the one after it", s.name, v.name)
			}
		}
		for i, a := range s.acts {
			if a.at > s.window || i > 0 && a.at < s.acts[i-1].at {
				t.Errorf("%s: act %d is out of order or after the end", s.name, i)
			}
		}
		for c := range s.not {
			if _, err := pick("", c, contenders, func(c contender) string { return c.name }); err != nil {
				t.Errorf("%s: %v", s.name, err)
			}
		}
	}
	if len(scenarios) < 8 {
		t.Errorf("%d scenarios", len(scenarios))
	}
}

func TestChoose(t *testing.T) {
	var o options
	o.rounds = 1
	if err := choose(&o, "refused,slow", "bare"); err != nil || len(o.scenarios) != 2 || o.scenarios[0].name != "slow" || len(o.contenders) != 1 {
		t.Errorf("%v, %d scenarios, %d contenders", err, len(o.scenarios), len(o.contenders))
	}
	if err := choose(&o, "nothing", ""); err == nil || !strings.Contains(err.Error(), "known are one-fails") {
		t.Errorf("an unknown scenario: %v", err)
	}
}

func TestResultsAndPage(t *testing.T) {
	dir := t.TempDir()
	file, page := filepath.Join(dir, "results.json"), filepath.Join(dir, "page.md")
	r, err := openResults(file)
	if err != nil {
		t.Fatal(err)
	}
	r.add("slow", "tulle", 0, figures{Success: 0.1}, "an older run")
	r.add("slow", "tulle", 0, figures{Success: 1, P99: 50, Attempts: 1}, "a run")
	r.add("slow", "tulle", 1, figures{Success: 0.99, P99: 70, Attempts: 1, Failures: map[string]int{"deadline": 3}}, "a run")
	r.add("slow", "bare", 0, figures{Success: 0.5, P99: 50, Attempts: 1, Never: true}, "another run")
	r.amend("another run", "; noisy")
	if err := r.save(); err != nil {
		t.Fatal(err)
	}
	if r, err = openResults(file); err != nil {
		t.Fatal(err)
	}
	text := r.markdown(scenarios)
	for _, want := range []string{
		"_a run; 2 rounds._\n\n_another run; noisy; 1 round._",
		"| Slow, ten times | **99.5 %** · **×1.00** · **60 ms** | 50.0 % · **×1.00** · 50 ms | – | – |",
		"| *best or equal on success* | 1 of 1 | 0 of 1 | 0 of 0 | 0 of 0 |",
		"| bare | 50.00 % | 0.0 | 50.0 | 1.00 | not |  |",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in:\n%s", want, text)
		}
	}
	if strings.Contains(text, "older") {
		t.Error("the older run is still there")
	}
	if err := os.WriteFile(page, []byte("# Page\n"+markBegin+"\nold\n"+markEnd+"\nend\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := rewrite(page, text); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(page)
	if err != nil || strings.Contains(string(got), "old\n") || !strings.HasSuffix(string(got), markEnd+"\nend\n") || !strings.Contains(string(got), "### Slow, ten times") {
		t.Errorf("%v:\n%s", err, got)
	}
	if err := rewrite(file, text); err == nil {
		t.Error("a page without marks was rewritten")
	}
}

// quick is a scenario in this process alone.
func quick(acts []act, services ...service) scenario {
	return scenario{name: "quick", services: services, rate: 200, warmup: 200 * time.Millisecond, window: 600 * time.Millisecond, deadline: 200 * time.Millisecond, acts: acts}
}

// TestBare plays tiny scenarios for the contender that needs no other process: faults are real, and what is counted is right.
func TestBare(t *testing.T) {
	c := contenders[1]
	if c.name != "bare" {
		t.Fatal("the contenders are in another order")
	}
	app := service{name: "app", endpoints: 2, work: time.Millisecond}
	at := ports{next: 20000 + os.Getpid()%3000}
	for name, p := range map[string]struct {
		sc               scenario
		success, attempt [2]float64 // from, to
		fail             string
	}{
		"healthy":  {quick([]act{{0, behave(manner{}, 0)}}, app), [2]float64{1, 1}, [2]float64{0.95, 1.05}, ""},
		"fails":    {quick([]act{{0, behave(manner{status: 500}, 0)}}, app), [2]float64{0.45, 0.55}, [2]float64{0.95, 1.05}, "500 Internal Server Error"},
		"hangs":    {quick([]act{{0, behave(manner{hang: true}, 0)}}, app), [2]float64{0.45, 0.55}, [2]float64{0.95, 1.05}, "deadline"},
		"refused":  {quick([]act{{0, crash(0)}}, app), [2]float64{0.45, 0.6}, [2]float64{0.45, 0.6}, "connection refused"},
		"vanished": {quick([]act{{0, vanish(0)}}, app), [2]float64{0.45, 0.6}, [2]float64{0.45, 0.6}, "deadline"},
		"resets":   {quick([]act{{0, behave(manner{reset: true}, 0)}}, app), [2]float64{0.45, 0.6}, [2]float64{0.95, 1.3}, ""},
		"deaf":     {quick([]act{{0, behave(manner{deaf: true}, 0)}}, app), [2]float64{0.45, 0.6}, [2]float64{0.9, 1.1}, "deadline"},
		"two hops": {quick([]act{{0, behave(manner{status: 503}, 0, 1)}}, service{name: "front", endpoints: 1, calls: "app"}, app), [2]float64{0, 0}, [2]float64{0.95, 1.05}, "503 Service Unavailable"},
		"grpc": {
			quick([]act{{0, behave(manner{grpc: 14}, 0)}}, service{name: "app", endpoints: 2, grpc: true}),
			[2]float64{0.45, 0.55},
			[2]float64{0.95, 1.05},
			"grpc-status 14",
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rig{dir: t.TempDir(), ports: at}
			f, err := cell(context.Background(), r, p.sc, c)
			if err != nil {
				t.Fatal(err)
			}
			at = r.ports
			if f.Success < p.success[0] || f.Success > p.success[1] || f.Attempts < p.attempt[0] || f.Attempts > p.attempt[1] || p.fail != "" && f.Failures[p.fail] == 0 {
				t.Errorf("%s", f.line())
			}
		})
	}
}

// TestNames asks the DNS server as a client does.
func TestNames(t *testing.T) {
	s := &stage{rig: &rig{ports: ports{next: 20000 + os.Getpid()%3000}}, scenario: scenario{services: []service{{name: "app", endpoints: 2}}}}
	if err := s.startNames(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for _, f := range s.ends {
			f()
		}
	}()
	found, err := s.names.resolver().LookupHost(t.Context(), dnsName)
	slices.Sort(found)
	if err != nil || !slices.Equal(found, []string{"127.0.7.1", "127.0.7.2"}) {
		t.Errorf("%v, %v", found, err)
	}
	if _, err := s.names.resolver().LookupHost(t.Context(), "other.test"); err == nil {
		t.Error("another name was found")
	}
	s.names.silent.Store(true)
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if found, err := s.names.resolver().LookupHost(ctx, dnsName); err == nil {
		t.Errorf("a silent server said %v", found)
	}
}

// TestTulleConfiguration holds that what is written for the controller is what it takes, in every scenario.
func TestTulleConfiguration(t *testing.T) {
	dir := t.TempDir()
	r := &rig{dir: dir, ports: ports{next: 20000 + os.Getpid()%3000}, mesh: &mesh{config: dir}}
	for _, sc := range scenarios {
		t.Run(sc.name, func(t *testing.T) {
			s, err := buildStage(t.Context(), r, sc)
			if err != nil {
				t.Fatal(err)
			}
			c := &tulle{s: s, file: filepath.Join(dir, "cell.yaml"), seats: map[string]*seat{}}
			if err := c.add("client", &seat{instance: "client-1", service: "client", calls: s.services[0].name}); err != nil {
				t.Fatal(err)
			}
			for _, e := range s.all {
				if _, err := c.beside(e); err != nil {
					t.Fatal(err)
				}
			}
			if err := c.told(""); err != nil {
				t.Fatal(err)
			}
			text, err := os.ReadFile(c.file)
			if err != nil {
				t.Fatal(err)
			}
			set, problems := resource.Resolve(resource.Decode("cell.yaml", text), resource.EmptySet())
			if len(problems) > 0 || len(set.Entries) < len(s.all)+1 {
				t.Errorf("%d entries, %v, of:\n%s", len(set.Entries), problems, text)
			}
			if err := s.close(); err != nil {
				t.Error(err)
			}
		})
	}
}
