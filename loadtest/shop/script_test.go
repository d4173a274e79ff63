package shop

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// recorder stands in for the control ports: it answers every request and keeps what was asked, with the virtual time.
type recorder struct {
	began time.Time
	lines []string
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	body, _ := io.ReadAll(req.Body)
	r.lines = append(r.lines, time.Since(r.began).String()+" "+req.URL.Host+" "+req.Method+" "+string(body))
	return &http.Response{StatusCode: 200, Body: io.NopCloser(strings.NewReader("")), Request: req}, nil
}

func script(rt http.RoundTripper) Script {
	var p Script
	for _, name := range []string{"a", "b", "c"} {
		p.Targets = append(p.Targets, Target{Instance: name, Control: Control{Address: name, Client: &http.Client{Transport: rt}}})
	}
	return p
}

func TestScriptAlternatesEndpointsAndFaults(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rec := &recorder{began: time.Now()}
		ctx, cancel := context.WithTimeout(t.Context(), 9*time.Minute)
		defer cancel()
		var said []string
		if err := script(rec).Run(ctx, func(s Step, err error) {
			if err != nil {
				t.Error(err)
			}
			said = append(said, s.Say())
		}); err != nil {
			t.Fatal(err)
		}
		want := []string{
			`30s b PUT {"kind":"error","status":503,"ratio":1}`,
			`1m10s b DELETE `,
			`4m30s c PUT {"kind":"slow","latencyNs":800000000,"ratio":1}`,
			`5m10s c DELETE `,
			`8m30s a PUT {"kind":"error","status":503,"ratio":1}`,
			`9m0s a DELETE `, // stopped in the middle of the fault: lifted all the same
		}
		if strings.Join(rec.lines, "\n") != strings.Join(want, "\n") {
			t.Errorf("did:\n%s\nwant:\n%s", strings.Join(rec.lines, "\n"), strings.Join(want, "\n"))
		}
		if said[0] != "b answers 503 to every request" || said[1] != "b is healthy again" || said[2] != "c answers 800ms slower" {
			t.Errorf("said %q", said)
		}
	})
}

func TestScriptNoTargets(t *testing.T) {
	if err := (Script{}).Run(t.Context(), nil); err == nil {
		t.Error("accepted")
	}
}
