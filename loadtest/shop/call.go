package shop

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"google.golang.org/grpc"

	"github.com/tulle-mesh/tulle/internal/gen/shopv1"
)

// propagated are the headers that an instrumented application carries from the request it serves to the requests it makes.
var propagated = []string{"Traceparent", "Tracestate", "X-Request-Id"}

type traceKey struct{}

// withTrace keeps the trace context of r for the calls made while serving it.
func withTrace(ctx context.Context, r *http.Request) context.Context {
	kept := make(http.Header, len(propagated))
	for _, h := range propagated {
		if v := r.Header.Values(h); len(v) > 0 {
			kept[h] = v
		}
	}
	return context.WithValue(ctx, traceKey{}, kept)
}

// errNotFound and errRefused are answers of a dependency that are the customer's doing, not a failure.
var (
	errNotFound = errors.New("not found")
	errRefused  = errors.New("refused")
)

// caller makes the calls of one service. Its host table takes the place of a name server: "catalog" is dialled at the address given.
type caller struct {
	client  *http.Client
	forgets bool // does not propagate trace context

	pricing shopv1.PricingClient // nil for a service that does not call it
	ledger  shopv1.LedgerClient
	conns   []*grpc.ClientConn
}

func newCaller(hosts map[string]string, forgets bool) (*caller, error) {
	dialer := &net.Dialer{Timeout: 2 * time.Second}
	c := &caller{forgets: forgets, client: &http.Client{
		Timeout: callTimeout,
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
				host, _, _ := net.SplitHostPort(addr)
				to, ok := hosts[host]
				if !ok {
					return nil, fmt.Errorf("no address known for %q (--host %s=IP:PORT)", host, host)
				}
				return dialer.DialContext(ctx, network, to)
			},
			MaxIdleConnsPerHost: 64,
			IdleConnTimeout:     60 * time.Second,
		},
	}}
	for service, use := range map[string]func(*grpc.ClientConn){
		"pricing": func(cc *grpc.ClientConn) { c.pricing = shopv1.NewPricingClient(cc) },
		"ledger":  func(cc *grpc.ClientConn) { c.ledger = shopv1.NewLedgerClient(cc) },
	} {
		if hosts[service] == "" {
			continue
		}
		cc, err := c.dialGRPC(service, hosts[service])
		if err != nil {
			c.close()
			return nil, fmt.Errorf("%s at %s: %w", service, hosts[service], err)
		}
		c.conns = append(c.conns, cc)
		use(cc)
	}
	return c, nil
}

func (c *caller) close() {
	c.client.CloseIdleConnections()
	for _, cc := range c.conns {
		cc.Close()
	}
}

// get fetches http://service/path into out (which may be nil).
func (c *caller) get(ctx context.Context, service, path string, out any) error {
	return c.do(ctx, http.MethodGet, service, path, nil, out)
}

// post sends in as JSON and reads the answer into out (which may be nil).
func (c *caller) post(ctx context.Context, service, path string, in, out any) error {
	return c.do(ctx, http.MethodPost, service, path, in, out)
}

func (c *caller) do(ctx context.Context, method, service, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+service+path, body)
	if err != nil {
		return err
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if kept, ok := ctx.Value(traceKey{}).(http.Header); ok && !c.forgets {
		for h, v := range kept {
			req.Header[h] = v
		}
	}
	resp, err := c.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return fmt.Errorf("%s %s%s: reading the answer: %w", method, service, path, err)
	}
	switch {
	case resp.StatusCode == http.StatusNotFound:
		return fmt.Errorf("%s%s: %w", service, path, errNotFound)
	case resp.StatusCode >= 500:
		return fmt.Errorf("%s %s%s answered %s", method, service, path, resp.Status)
	case resp.StatusCode >= 400:
		return fmt.Errorf("%s%s: %w (%s)", service, path, errRefused, resp.Status)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(answer, out); err != nil {
		return fmt.Errorf("%s %s%s: answer is not the JSON expected: %w", method, service, path, err)
	}
	return nil
}
