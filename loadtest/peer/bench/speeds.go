//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
)

// Two speeds: 100 MB through two proxies, down and up, alone and beside a reader of 10 KB/s on another stream of the same connection. A proxy that lets the slow
// stream hold the connection's window or its only buffer slows the fast one down as well.
var twoSpeeds = &workload{
	name: "two-speeds", title: "100 MB through two proxies beside a reader of 10 KB/s on the same HTTP/2 connection",
	run: func(r *rig, w *workload) (outcome, error) { return r.speeds(w) },
}

const (
	speedSize = 100_000_000
	speedSlow = 10_000
	speedKept = 0.90 // bar: share of the speed without the slow reader
)

// pace is the outcome: rows by way, download and upload.
type pace struct {
	title string
	rows  []paceRow
}

type paceRow struct {
	name, title, way string
	alone, beside    []float64 // MB/s, one of each per round
	failure          string
}

// kept is the share of the speed that is left, on medians.
func (p paceRow) kept() float64 { return median(p.beside) / median(p.alone) }

// relay is what stands between the two ends.
type relay struct {
	name, title string
	hop         *hop // nil: nothing
	address     netip.AddrPort
}

func (r *rig) speeds(w *workload) (_ outcome, err error) {
	at, err := r.ports.free()
	if err != nil {
		return nil, err
	}
	ends, err := startChild("haul", r.loadCore)
	if err != nil {
		return nil, err
	}
	var relays []relay
	defer func() {
		err = errors.Join(err, ends.stop()) // first, so that the proxies have no connections to drain
		for _, l := range relays {
			if l.hop != nil {
				err = errors.Join(err, l.hop.stop())
			}
		}
	}()
	var started hauled
	if err := ends.ask(haulOrder{at}, &started); err != nil {
		return nil, err
	}
	if started.Err != "" {
		return nil, fmt.Errorf("the server of bodies: %s", started.Err)
	}
	relays = append(relays, relay{name: "none", title: "no proxy", address: at})
	for _, p := range r.o.proxies {
		if p.name != subject && p.name != "envoy" {
			continue
		}
		h := &hop{name: p.name}
		relays = append(relays, relay{name: p.name, title: "2 × " + p.title, hop: h})
		if err := r.chain(h, p, setup{two: true, to: at}); err != nil {
			return nil, err
		}
		relays[len(relays)-1].address = h.address
	}
	out := &pace{title: w.title}
	for _, l := range relays {
		out.rows = append(out.rows, paceRow{name: l.name, title: l.title, way: "download"}, paceRow{name: l.name, title: l.title, way: "upload"})
	}
	for round := range r.o.rounds {
		for i := range out.rows {
			at := (i + 2*round) % len(out.rows)
			if err := r.speed(ends, relays[at/2].address, &out.rows[at], round%2 == 1); err != nil {
				return nil, err
			}
		}
	}
	for _, row := range out.rows {
		if row.failure != "" {
			r.say("%s: %-28s %s %s", w.name, row.title, row.way, row.failure)
			continue
		}
		r.say("%s: %-28s %-8s alone %5.0f MB/s, beside %5.0f MB/s: %.2f", w.name, row.title, row.way, median(row.alone), median(row.beside), row.kept())
	}
	return out, nil
}

// chain starts two proxies of a kind with mTLS between them, before s.to or the backend, and adds them to h.
func (r *rig) chain(h *hop, p *proxy, s setup) error {
	server := s
	server.tlsIn = true
	far, err := p.start(r, p, server)
	if err != nil {
		return err
	}
	h.add("server", far)
	client := s
	client.outbound, client.tlsOut, client.to, client.peer, client.service = true, true, far.address, proxyID(), far.service
	near, err := p.start(r, p, client)
	if err != nil {
		return err
	}
	h.add("client", near)
	h.address = near.address
	return nil
}

// speed makes a pair of hauls, the slow reader first or last.
func (r *rig) speed(ends *child, address netip.AddrPort, row *paceRow, slowFirst bool) error {
	for i := range 2 {
		if r.ctx.Err() != nil {
			return errors.New("stopped before the end")
		}
		if row.failure != "" {
			return nil
		}
		t := haul{Address: address, Upload: row.way == "upload", Size: speedSize}
		to := &row.alone
		if (i == 0) == slowFirst {
			t.Slow, to = speedSlow, &row.beside
		}
		var done hauled
		if err := ends.ask(t, &done); err != nil {
			return err
		}
		switch limit := 2*speedSlow*done.Elapsed.Seconds() + 2*speedSlow; {
		case done.Err != "":
			row.failure = done.Err
		case t.Slow > 0 && float64(done.SlowRead) > limit:
			row.failure = fmt.Sprintf("the slow reader read %d bytes in %s", done.SlowRead, done.Elapsed)
		default:
			*to = append(*to, speedSize/1e6/done.Elapsed.Seconds())
		}
	}
	return nil
}

func (p *pace) problems() (out []string) {
	for _, row := range p.rows {
		switch {
		case row.failure != "":
			out = append(out, fmt.Sprintf("%s: %s, %s: %s", p.title, row.title, row.way, row.failure))
		case row.name == subject && !(row.kept() >= speedKept):
			out = append(out, fmt.Sprintf("%s: %s keeps %.2f of its speed; the bar is %.2f", p.title, row.way, row.kept(), speedKept))
		}
	}
	return out
}

func (p *pace) markdown() string {
	var b strings.Builder
	fmt.Fprintf(&b, "### %s\n\n| | | MB/s alone, median | beside the slow reader | kept |\n|---|---|---|---|---|\n", p.title)
	for _, row := range p.rows {
		if row.failure != "" {
			fmt.Fprintf(&b, "| %s | %s | failed: %s | | |\n", row.title, row.way, row.failure)
			continue
		}
		fmt.Fprintf(&b, "| %s | %s | %.0f | %.0f | %.2f |\n", row.title, row.way, median(row.alone), median(row.beside), row.kept())
	}
	fmt.Fprintf(&b, "\nTulle's bar: %.2f.\n", speedKept)
	return b.String()
}
