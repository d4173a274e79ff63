package shop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// FaultKind is how an instance misbehaves on demand.
type FaultKind string

const (
	// FaultNone is healthy.
	FaultNone FaultKind = ""
	// FaultSlow adds Latency before the answer.
	FaultSlow FaultKind = "slow"
	// FaultError answers Status instead of doing the work.
	FaultError FaultKind = "error"
)

// Fault is what one instance is told to do wrong. The zero value is healthy.
type Fault struct {
	Kind    FaultKind     `json:"kind"`
	Latency time.Duration `json:"latencyNs,omitempty"` // slow: > 0, at most 1 min; default 800 ms
	Status  int           `json:"status,omitempty"`    // error: 500 to 599; default 503
	Ratio   float64       `json:"ratio,omitempty"`     // share of requests hit, 0 < r ≤ 1; default 1
}

// normal fills in the defaults and refuses what makes no sense.
func (f Fault) normal() (Fault, error) {
	if f.Ratio == 0 {
		f.Ratio = 1
	}
	if f.Ratio < 0 || f.Ratio > 1 {
		return f, fmt.Errorf("ratio %g: must be above 0 and at most 1", f.Ratio)
	}
	switch f.Kind {
	case FaultNone:
		return Fault{}, nil
	case FaultSlow:
		if f.Latency == 0 {
			f.Latency = 800 * time.Millisecond
		}
		if f.Latency < 0 || f.Latency > time.Minute {
			return f, fmt.Errorf("latency %s: must be above 0 and at most 1m", f.Latency)
		}
		f.Status = 0
	case FaultError:
		if f.Status == 0 {
			f.Status = http.StatusServiceUnavailable
		}
		if f.Status < 500 || f.Status > 599 {
			return f, fmt.Errorf("status %d: must be 500 to 599", f.Status)
		}
		f.Latency = 0
	default:
		return f, fmt.Errorf("kind %q: must be \"slow\", \"error\" or empty", f.Kind)
	}
	return f, nil
}

// faults is the fault in force in one process. Safe for concurrent use.
type faults struct{ current atomic.Pointer[Fault] }

func (f *faults) get() Fault {
	if p := f.current.Load(); p != nil {
		return *p
	}
	return Fault{}
}

func (f *faults) set(v Fault) { f.current.Store(&v) }

// hit draws whether this request is to suffer, and from what.
func (f *faults) hit() Fault {
	v := f.get()
	if v.Kind == FaultNone || v.Ratio < 1 && rand.Float64() >= v.Ratio {
		return Fault{}
	}
	return v
}

// controlHandler serves GET, PUT and DELETE /fault and GET /healthz. It refuses requests whose Host is not a loopback address, so that a
// web page in a browser on this machine cannot reach it by a name of its own.
func (f *faults) controlHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") })
	mux.HandleFunc("GET /fault", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, http.StatusOK, f.get()) })
	mux.HandleFunc("DELETE /fault", func(w http.ResponseWriter, _ *http.Request) {
		f.set(Fault{})
		w.WriteHeader(http.StatusNoContent)
	})
	mux.HandleFunc("PUT /fault", func(w http.ResponseWriter, r *http.Request) {
		var v Fault
		dec := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096))
		dec.DisallowUnknownFields()
		err := dec.Decode(&v)
		if err == nil {
			v, err = v.normal()
		}
		if err != nil {
			http.Error(w, "fault: "+err.Error(), http.StatusBadRequest)
			return
		}
		f.set(v)
		writeJSON(w, http.StatusOK, v)
	})
	return LoopbackOnly(mux)
}

// LoopbackOnly answers 403 unless the Host is a loopback address or "localhost", and Origin, when sent, is one too: the defence against
// DNS rebinding and cross-site requests for ports that need no login.
func LoopbackOnly(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		origin := r.Header.Get("Origin")
		if !loopback(r.Host) || origin != "" && !loopback(trimScheme(origin)) {
			http.Error(w, "this port answers only to loopback addresses: use http://127.0.0.1:PORT", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

func trimScheme(origin string) string {
	for _, p := range []string{"http://", "https://"} {
		if len(origin) > len(p) && origin[:len(p)] == p {
			return origin[len(p):]
		}
	}
	return origin
}

func loopback(hostport string) bool {
	host, _, err := net.SplitHostPort(hostport)
	if err != nil {
		host = hostport
	}
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// Control reaches the control port of one instance.
type Control struct {
	Address string       // ip:port
	Client  *http.Client // nil means one with a 2 s time-out
}

var controlClient = &http.Client{Timeout: 2 * time.Second}

// Set puts v in force; the zero Fault heals.
func (c Control) Set(ctx context.Context, v Fault) error {
	body, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPut, "/fault", body)
}

// Heal lifts whatever fault is in force.
func (c Control) Heal(ctx context.Context) error { return c.do(ctx, http.MethodDelete, "/fault", nil) }

// Ready returns nil once the instance serves.
func (c Control) Ready(ctx context.Context) error { return c.do(ctx, http.MethodGet, "/healthz", nil) }

func (c Control) do(ctx context.Context, method, path string, body []byte) error {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+c.Address+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	client := c.Client
	if client == nil {
		client = controlClient
	}
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("control port %s: %w", c.Address, err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 4096))
	if resp.StatusCode >= 300 {
		return errors.New("control port " + c.Address + ": " + resp.Status + ": " + string(bytes.TrimSpace(text)))
	}
	return nil
}
