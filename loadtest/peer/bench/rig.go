//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/process"
)

// rig is everything around the proxies: load, backend and span sink on one core, the mesh's controller, and certificates. One goroutine uses it.
type rig struct {
	ctx context.Context
	out io.Writer // progress, for people
	o   options

	dir       string // of this run alone
	logs      string // of access logs: in memory, where the system has such a place
	loadCore  int
	proxyCore int
	files     int // descriptors that a process may have
	ports     ports
	pki       pki

	load, back, sink      *child
	plain, secure         netip.AddrPort // the backend's
	local                 string         // path of its Unix socket
	sinkSecure, sinkPlain netip.AddrPort
	mesh                  *mesh
	paths                 map[string]string // of tools, by name
	started               int
}

// ports hands out loopback addresses that nothing listens on, below the range from which the kernel takes its own, so that no outgoing connection
// of the run gets one of them.
type ports struct{ next uint16 }

func (p *ports) free() (netip.AddrPort, error) {
	for range 2000 {
		p.next++
		at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), p.next)
		ln, err := net.Listen("tcp", at.String())
		if err != nil {
			continue
		}
		ln.Close()
		return at, nil
	}
	return netip.AddrPort{}, errors.New("no free port on loopback")
}

// newRig starts it all. Close it, also after an error.
func newRig(ctx context.Context, o options, out io.Writer) (r *rig, err error) {
	r = &rig{ctx: ctx, out: out, o: o, ports: ports{next: uint16(20000 + os.Getpid()%5000)}}
	if r.loadCore, r.proxyCore, err = cores(); err != nil {
		return r, err
	}
	if r.files, err = raiseFiles(); err != nil {
		return r, fmt.Errorf("raising the limit of open files: %w", err)
	}
	if r.dir, err = os.MkdirTemp("", "tulle-bench-"); err != nil {
		return r, err
	}
	if r.logs, err = os.MkdirTemp("/dev/shm", "tulle-bench-"); err != nil {
		r.logs = r.dir
	}
	for _, at := range []*netip.AddrPort{&r.plain, &r.secure, &r.sinkSecure, &r.sinkPlain} {
		if *at, err = r.ports.free(); err != nil {
			return r, err
		}
	}
	if r.mesh, err = newMesh(r); err != nil {
		return r, err
	}
	for _, c := range []struct {
		role string
		to   **child
	}{{"load", &r.load}, {"backend", &r.back}, {"sink", &r.sink}} {
		if *c.to, err = startChild(c.role, r.loadCore); err != nil {
			return r, err
		}
	}
	r.local = filepath.Join(r.dir, "backend.sock")
	var served backendReport
	if err := r.back.ask(backendOrder{Plain: r.plain, TLS: r.secure, Unix: r.local, PKI: r.pki}, &served); err != nil {
		return r, err
	}
	if served.Err != "" {
		return r, fmt.Errorf("backend: %s", served.Err)
	}
	var count sinkCount
	if err := r.sink.ask(sinkOrder{TLS: r.sinkSecure.String(), Plain: r.sinkPlain.String(), PKI: r.pki}, &count); err != nil {
		return r, err
	}
	if count.Err != "" {
		return r, fmt.Errorf("span sink: %s", count.Err)
	}
	return r, nil
}

// close stops everything and removes what it wrote.
func (r *rig) close() error {
	var errs []error
	for _, c := range []*child{r.load, r.sink, r.back} {
		if c != nil {
			errs = append(errs, c.stop())
		}
	}
	if r.mesh != nil {
		errs = append(errs, r.mesh.stop())
	}
	for _, d := range []string{r.dir, r.logs} {
		if d != "" {
			errs = append(errs, os.RemoveAll(d))
		}
	}
	return errors.Join(errs...)
}

// do lets the load generator carry out a job.
func (r *rig) do(j job) (result, error) {
	if err := r.ctx.Err(); err != nil {
		return result{}, errors.New("stopped before the end")
	}
	if j.Kind == "" {
		j.Kind = jobRequests
	}
	var res result
	if err := r.load.ask(j, &res); err != nil {
		return res, err
	}
	if res.Err != "" {
		return res, fmt.Errorf("load on %s: %s", j.Address, res.Err)
	}
	return res, nil
}

// spans is how many the sink has counted.
func (r *rig) spans() (int64, error) {
	var c sinkCount
	err := r.sink.ask(struct{}{}, &c)
	return c.Spans, err
}

// setup is what a workload needs of a proxy.
type setup struct {
	outbound bool // the application's side of a mesh: plaintext in. Only Tulle tells the sides apart
	tlsIn    bool // take connections over mTLS only
	tlsOut   bool // speak mTLS to the backend
	two      bool // HTTP/2 at both sides
	tcp      bool // relay bytes
	unix     bool // Tulle, inbound: the backend is at its Unix socket
	many     bool // more connections than by default

	// In the place of backend and sink, where set:
	service string         // Tulle: the service that outbound calls go to
	to      netip.AddrPort // where calls go to; not for Tulle's outbound side, which has service
	peer    string         // Envoy: the identity to be found there
	spans   netip.AddrPort // Envoy: where spans go to
}

// running is a proxy that serves.
type running struct {
	*proxy
	address netip.AddrPort
	admin   string // Tulle: its admin address
	service string // Tulle: what it is in the mesh
	log     string // access log; "" for none
	proc    *process.Process
	cleanup func() error
}

// launch starts a program pinned to the proxy's core and waits until ready says nil.
func (r *rig) launch(name, path string, args []string, ready func(context.Context) error, env ...string) (*process.Process, error) {
	return r.launchOn(r.proxyCore, name, path, args, ready, env...)
}

func (r *rig) launchOn(core int, name, path string, args []string, ready func(context.Context) error, env ...string) (*process.Process, error) {
	r.started++
	said, err := os.Create(filepath.Join(r.dir, fmt.Sprintf("%s-%d.said", name, r.started)))
	if err != nil {
		return nil, err
	}
	defer said.Close()
	var p *process.Process
	err = onCore(core, func() (err error) {
		p, err = process.Start(process.Spec{Name: name, Path: path, Args: args, Env: env, Log: said, StopTimeout: patience})
		return err
	})
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(r.ctx, 2*patience)
	defer cancel()
	err = process.Await(limited, func(ctx context.Context) error {
		select {
		case <-p.Done():
			cancel()
			return errors.Join(errors.New("it ended"), p.Err())
		default:
			return ready(ctx)
		}
	})
	if err != nil {
		text, _ := os.ReadFile(said.Name())
		return nil, errors.Join(fmt.Errorf("%s did not come to life: %w; it said last: %s", name, err, lastLines(text, 5)), p.Stop())
	}
	return p, nil
}

func lastLines(text []byte, n int) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n\t")
}

// accepts says nil when something listens.
func accepts(at netip.AddrPort) func(context.Context) error {
	return func(ctx context.Context) error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", at.String())
		if err != nil {
			return err
		}
		return c.Close()
	}
}

// page reads a page of an admin address.
func page(ctx context.Context, address, path string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, nil)
	if err != nil {
		return "", err
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s%s answered %s: %s", address, path, res.Status, bytes.TrimSpace(b))
	}
	return string(b), err
}

// pids are the processes whose CPU time counts: the proxy's and all below it.
func (p *running) pids() []int {
	all := []int{p.proc.PID()}
	for i := 0; i < len(all); i++ {
		all = append(all, childPIDs(all[i])...)
	}
	return all
}

func (p *running) stop() error {
	err := p.proc.Stop()
	if p.cleanup != nil {
		err = errors.Join(err, p.cleanup())
	}
	return err
}

// evidence is what a traced proxy had delivered before a run.
type evidence struct {
	spans   int64
	dropped float64
}

func (r *rig) before(p *running) (e evidence, err error) {
	if !p.traced {
		return e, nil
	}
	if e.spans, err = r.spans(); err != nil {
		return e, err
	}
	if p.admin != "" {
		e.dropped, err = dropped(r.ctx, p.admin)
	}
	return e, err
}

// after waits until a span and a log line of every request has arrived, and says what is missing. Then it empties the access log.
func (r *rig) after(p *running, e evidence, requests int) (flags []string, err error) {
	if !p.traced {
		return nil, nil
	}
	var spans int64
	var lines int
	limited, cancel := context.WithTimeout(r.ctx, patience)
	defer cancel()
	werr := process.Await(limited, func(context.Context) error {
		if spans, err = r.spans(); err != nil {
			return err
		}
		if lines, err = countLines(p.log); err != nil {
			return err
		}
		if spans-e.spans < int64(requests) || lines < requests {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if werr != nil {
		flags = append(flags, fmt.Sprintf("%d requests, but %d spans delivered and %d log lines", requests, spans-e.spans, lines))
	}
	if p.admin != "" {
		now, err := dropped(r.ctx, p.admin)
		if err != nil {
			return flags, err
		}
		if now > e.dropped {
			flags = append(flags, fmt.Sprintf("%.0f records dropped", now-e.dropped))
		}
	}
	return flags, os.Truncate(p.log, 0)
}

// dropped is the records that a sidecar's page says it dropped, for whatever reason.
func dropped(ctx context.Context, admin string) (float64, error) {
	const name = "tulle_records_dropped_total"
	text, err := page(ctx, admin, "/metrics")
	if err == nil && !strings.Contains(text, "\n"+name) {
		err = fmt.Errorf("%s/metrics has no %s", admin, name)
	}
	if err != nil {
		return 0, err
	}
	return sumOf(text, name, "")
}

// sum adds up the series of a metric whose labels contain a text. A metric with labels may have no series yet.
func sum(ctx context.Context, address, name, with string) (total float64, err error) {
	text, err := page(ctx, address, "/metrics")
	if err != nil {
		return 0, err
	}
	total, err = sumOf(text, name, with)
	if err != nil {
		return 0, fmt.Errorf("%s/metrics: %w", address, err)
	}
	return total, nil
}

func sumOf(text, name, with string) (total float64, err error) {
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		rest, ok := strings.CutPrefix(line, name)
		if !ok || rest == "" || rest[0] != '{' && rest[0] != ' ' || !strings.Contains(rest, with) {
			continue
		}
		v, err := strconv.ParseFloat(rest[strings.LastIndexByte(rest, ' ')+1:], 64)
		if err != nil {
			return 0, fmt.Errorf("%q: %w", line, err)
		}
		total += v
	}
	return total, nil
}

// countLines counts the lines of a file.
func countLines(file string) (n int, err error) {
	f, err := os.Open(file)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	buffer := make([]byte, 256<<10)
	for {
		k, err := f.Read(buffer)
		n += bytes.Count(buffer[:k], []byte{'\n'})
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}

// say tells the person what goes on.
func (r *rig) say(format string, args ...any) {
	fmt.Fprintf(r.out, "%s  %s\n", time.Now().Format(time.TimeOnly), fmt.Sprintf(format, args...))
}
