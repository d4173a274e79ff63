package page

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/prometheus/prometheus/promql"

	"github.com/tulle-mesh/tulle/dashboard/part"
)

// VersionRow is one version of a service over the page's time, and what can be said of it against the one that took most.
type VersionRow struct {
	Version  string
	Requests float64 // served in the time
	Errors   float64 // share of them that ended with 5xx, 0 to 1
	Low      float64 // the share is between these, with 95 % confidence
	High     float64
	Verdict  string
	Level    part.Level
}

// z95 is the two-sided 95 % quantile of the normal distribution.
const z95 = 1.959964

// wilson returns the bounds between which the share of failures lies with 95 % confidence when failed of n have failed; 0 and 1 of none.
// E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, JASA 22 (1927) 209–212: unlike the usual approximation it holds for few requests, and for none that failed.
func wilson(failed, n float64) (low, high float64) {
	if n <= 0 {
		return 0, 1
	}
	p, z2 := failed/n, z95*z95
	middle := (p + z2/(2*n)) / (1 + z2/n)
	half := z95 / (1 + z2/n) * math.Sqrt(p*(1-p)/n+z2/(4*n*n))
	return max(0, middle-half), min(1, middle+half)
}

// enough is the widest interval of a difference, as a share of requests, of which "no difference" is said.
const enough = 0.02

// fewest is how many requests a version must have served before anything is said: of fewer a single failure decides.
const fewest = 30

// judge says what v's share of errors is against that of the most used version. The interval of their difference is made of the two Wilson intervals:
// R. G. Newcombe, Interval estimation for the difference between independent proportions, Statistics in Medicine 17 (1998) 873–890, method 10.
func (v *VersionRow) judge(most *VersionRow) {
	diff := v.Errors - most.Errors
	low := diff - math.Hypot(v.Errors-v.Low, most.High-most.Errors)
	high := diff + math.Hypot(v.High-v.Errors, most.Errors-most.Low)
	switch {
	case v.Requests < fewest:
		v.Verdict = "not enough data: fewer than 30 requests"
	case low > 0:
		v.Verdict, v.Level = fmt.Sprintf("fails more than %s: by %.2g to %s", orDash(most.Version), low*100, points(high)), part.Warn
		if low >= part.BadRatio {
			v.Level = part.Bad
		}
	case high < 0:
		v.Verdict = fmt.Sprintf("fails less than %s: by %.2g to %s", orDash(most.Version), -high*100, points(-low))
	case high-low > enough:
		v.Verdict = fmt.Sprintf("not enough data: between %s less and %s more than %s", points(-low), points(high), orDash(most.Version))
	default:
		v.Verdict = fmt.Sprintf("no difference to %s, at most %s", orDash(most.Version), points(max(-low, high)))
	}
}

// points is a difference of shares.
func points(share float64) string { return fmt.Sprintf("%.2g points", share*100) }

// versions compares the versions of a service over the period, the one that took most first; nil when there are no series of them.
func (c *charts) versions(ctx context.Context, service string) []VersionRow {
	if c.Metrics.Engine == nil || c.Metrics.Queryable == nil {
		return nil
	}
	long := int64(c.period.End.Sub(c.period.Start) / time.Second)
	q, err := c.Metrics.Engine.NewInstantQuery(ctx, c.Metrics.Queryable, nil,
		fmt.Sprintf(`sum by (version, code_class) (increase(tulle_version_requests_total{destination=%s,side="server"}[%ds]))`, quote(service), long), c.period.End)
	if err != nil {
		return nil
	}
	defer q.Close()
	v, ok := q.Exec(ctx).Value.(promql.Vector)
	if !ok {
		return nil
	}
	type count struct{ all, failed float64 }
	counts := map[string]*count{}
	for _, s := range v {
		name := s.Metric.Get("version")
		n := counts[name]
		if n == nil {
			n = &count{}
			counts[name] = n
		}
		n.all += s.F
		if s.Metric.Get("code_class") == "5xx" {
			n.failed += s.F
		}
	}
	var out []VersionRow
	for name, n := range counts {
		r := VersionRow{Version: name, Requests: math.Round(n.all), Level: part.OK}
		if n.all > 0 {
			r.Errors = n.failed / n.all
		}
		r.Low, r.High = wilson(n.failed, n.all)
		out = append(out, r)
	}
	slices.SortFunc(out, func(a, b VersionRow) int {
		return cmp.Or(cmp.Compare(b.Requests, a.Requests), cmp.Compare(a.Version, b.Version))
	})
	for i := range out {
		if i > 0 {
			out[i].judge(&out[0])
		}
	}
	return out
}
