//go:build unix

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

func good() round {
	t0 := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	at := func(s float64) time.Time { return t0.Add(time.Duration(s * float64(time.Second))) }
	return round{
		instance: "catalog-2", kind: "error", began: t0, healed: at(40), ejected: at(3.2), shown: at(4), alert: at(25), readmitted: at(90), resolved: at(120),
		looks: []look{{at(-1), 0.5}, {at(1), 0.02}, {at(6), 0.011}, {at(7), 0.003}, {at(41), 0.5}},
	}
}

func TestErrorWindow(t *testing.T) {
	until, worst := good().errorsUntil()
	if until != 6*time.Second || worst != 0.02 {
		t.Errorf("until %s, worst %g", until, worst)
	}
}

func TestReport(t *testing.T) {
	var b strings.Builder
	if err := report(&b, []round{good()}, 1); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"catalog-2 error", "3.2 s", "6.0 s", "2.00 %", "25.0 s", "50.0 s", "80.0 s"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
	for want, spoil := range map[string]func(*round){
		"ejected after 9.0 s":          func(r *round) { r.ejected = r.began.Add(9 * time.Second) },
		"not ejected":                  func(r *round) { r.ejected = time.Time{} },
		"alerted after":                func(r *round) { r.alert = r.began.Add(70 * time.Second) },
		"readmitted after":             func(r *round) { r.readmitted = r.healed.Add(3 * time.Minute) },
		"did not resolve":              func(r *round) { r.resolved = time.Time{} },
		"or more for 20.0 s":           func(r *round) { r.looks = append(r.looks, look{r.began.Add(20 * time.Second), 0.01}) },
		"healthy endpoints were eject": func(r *round) { r.ejectedOthers = 1 },
	} {
		r := good()
		spoil(&r)
		if err := report(&b, []round{r}, 1); !strings.Contains(fmt.Sprint(err), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	if err := report(&b, nil, 1); err == nil {
		t.Error("no fault at all is a problem")
	}
}
