// Command runner runs the cases of github.com/summerwind/h2spec against a server of HTTP/2 and writes one JSON object per case to standard
// output: its section, what it does, what it wants and what it saw. loadtest/peer/h2spec builds and reads it; that program's own
// command line prints text only and gives up at the first connection that is refused.
//
// Cases have connections of their own, so that several run at a time.
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"
)

// outcome is one case as it went. The type of the same name one folder up reads it; the two modules share nothing else.
type outcome struct {
	ID          string   // generic/3.1/1: set of cases, section, number
	Section     string   // its title
	Title       string   // what the case does
	Requirement string   // what the specification says
	Result      string   // passed, failed, skipped
	Want        []string // failed: one of these
	Got         string   // failed: what happened
}

func main() {
	address := flag.String("address", "", "the server's `ip:port`")
	pair := flag.String("pair", "", "`file` with a client's certificate and key: speak TLS, and do not check the server's certificate")
	timeout := flag.Duration("timeout", 3*time.Second, "how long a case waits for what must come, and for what must not")
	workers := flag.Int("workers", 8, "cases at a time")
	flag.Parse()
	if err := run(*address, *pair, *timeout, *workers); err != nil {
		fmt.Fprintln(os.Stderr, "runner: "+err.Error())
		os.Exit(1)
	}
}

// job is a case to run.
type job struct {
	id    string
	group *spec.TestGroup
	test  *spec.TestCase
}

func run(address, pair string, timeout time.Duration, workers int) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("-address: %w", err)
	}
	c := config.Config{
		Host: at.Addr().String(), Port: int(at.Port()), Path: "/", Timeout: timeout, MaxHeaderLen: 4000, Strict: true,
		TLS: pair != "", Insecure: true, CertFile: pair, CertKeyFile: pair,
	}
	var jobs []job
	for _, g := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		jobs = collect(jobs, g)
	}
	outcomes := make([]outcome, len(jobs))
	var next sync.Mutex
	var taken int
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for {
				next.Lock()
				i := taken
				taken++
				next.Unlock()
				if i >= len(jobs) {
					return
				}
				outcomes[i] = jobs[i].run(c)
			}
		})
	}
	all.Wait()
	out := json.NewEncoder(os.Stdout)
	for _, o := range outcomes {
		if err := out.Encode(o); err != nil {
			return err
		}
	}
	return nil
}

func collect(jobs []job, g *spec.TestGroup) []job {
	for i, t := range append(append([]*spec.TestCase{}, g.Tests...), g.StrictTests...) {
		jobs = append(jobs, job{fmt.Sprintf("%s/%d", g.ID(), i+1), g, t})
	}
	for _, sub := range g.Groups {
		jobs = collect(jobs, sub)
	}
	return jobs
}

// closed says whether what h2spec saw is an end of the connection that it does not know for one: a reset, because bytes of the case were still unread
// (it means to count that as closed, but compares in a way that has not been true since Go 1.4), and an answer of HTTP/1.1 before the end, from
// a listener that takes both versions.
func closed(got string) bool {
	return strings.HasSuffix(got, ": connection reset by peer") || strings.HasSuffix(got, ": unexpected EOF, note that the frame header looked like an HTTP/1.1 header")
}

// run makes a connection and carries out the case on it.
func (j job) run(c config.Config) outcome { // by value: a Config caches what it was asked for
	o := outcome{ID: j.id, Section: j.group.Title(), Title: j.test.Desc, Requirement: j.test.Requirement, Result: "passed"}
	conn, err := spec.Dial(&c)
	if err == nil {
		err = j.test.Run(&c, conn)
		conn.Close()
	}
	var failed *spec.TestError
	switch {
	case err == nil:
	case errors.Is(err, spec.ErrSkipped):
		o.Result = "skipped"
	case errors.As(err, &failed) && slices.Contains(failed.Expected, spec.ConnectionClosedEvent{}.String()) && closed(failed.Actual):
	case errors.As(err, &failed):
		o.Result, o.Want, o.Got = "failed", failed.Expected, failed.Actual
	default:
		o.Result, o.Got = "failed", err.Error()
	}
	return o
}
