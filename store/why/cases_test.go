package why_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/access"
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/internal/testmesh"
	"github.com/tulle-mesh/tulle/store/why"
)

// failure is one of the labelled set: how it is made, and what has to be said of it.
type failure struct {
	name    string
	play    func(m *mesh)
	outcome why.Outcome
	reason  string
	hop     string // "FROM→TO" of the culprit
	by      why.By
	tries   int // of the culprit; 0: not looked at
}

const (
	webApp = "web→app"
	appDB  = "app→db"
)

// failures is the labelled set. Each has a request from web to app, and most of app to db.
var failures = []failure{
	// Applications.
	{"app-500", func(m *mesh) { m.up(answer(500), nil); m.post("/") }, why.Failed, "upstream_5xx", webApp, why.ByApplication, 0},
	{"app-503-retried", func(m *mesh) { m.up(answer(503), nil); m.get("/") }, why.Failed, "upstream_5xx", webApp, why.ByApplication, 0},
	{"app-404", func(m *mesh) { m.up(answer(404), nil); m.get("/nothing") }, why.Refused, "", webApp, why.ByApplication, 0},
	{"app-reset", func(m *mesh) { m.up(cut(""), nil); m.post("/") }, why.Failed, "upstream_reset", webApp, why.ByApplication, 0},
	{"app-body-cut", func(m *mesh) { m.up(cut("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf"), nil); m.post("/") }, why.Failed, "upstream_reset", webApp, why.ByApplication, 0},
	{"app-garbage", func(m *mesh) { m.up(cut("220 mail.example ESMTP\r\n\r\n"), nil); m.post("/") }, why.Failed, "upstream_protocol_error", webApp, why.ByApplication, 0},
	{"app-bad-length", func(m *mesh) { m.up(cut("HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\nhello!"), nil); m.post("/") }, why.Failed, "upstream_protocol_error", webApp, why.ByApplication, 0},
	{"app-hangs", func(m *mesh) { m.timeout = 200 * time.Millisecond; m.up(m.hang(), nil); m.post("/") }, why.Failed, "request_timeout", webApp, why.ByApplication, 0},
	{"app-hangs-in-body", func(m *mesh) { m.timeout = 200 * time.Millisecond; m.up(m.hangInBody(), nil); m.post("/") }, why.Failed, "request_timeout", webApp, why.ByApplication, 0},
	{"app-down", func(m *mesh) { m.up(nil, nil); m.post("/") }, why.Failed, "connect_refused", webApp, why.ByCalledSidecar, 0},
	// What lies behind: app answers for what became of its call to db.
	{"db-500", func(m *mesh) { m.up(m.through(), answer(500)); m.post("/") }, why.Failed, "upstream_5xx", appDB, why.ByApplication, 0},
	{"db-reset", func(m *mesh) { m.up(m.through(), cut("")); m.post("/") }, why.Failed, "upstream_reset", appDB, why.ByApplication, 0},
	{"db-hangs", func(m *mesh) { m.timeout = 300 * time.Millisecond; m.up(m.through(), m.hang()); m.post("/") }, why.Failed, "request_timeout", appDB, why.ByApplication, 0},
	{"db-times-out", func(m *mesh) {
		m.db.service = func(s *policy.Service) { s.RequestTimeout = 150 * time.Millisecond }
		m.up(m.through(), m.hang())
		m.post("/")
	}, why.Failed, "request_timeout", appDB, why.ByApplication, 0},
	{"db-down", func(m *mesh) { m.db.down = true; m.up(m.through(), nil); m.post("/") }, why.Failed, "connect_refused", appDB, why.ByCalledSidecar, 0},
	{"db-gone", func(m *mesh) { m.db.endpoints = nobody(m); m.up(m.through(), answer(200)); m.post("/") }, why.Failed, "connect_refused", appDB, why.ByCallerSidecar, 0},
	{"db-denies", func(m *mesh) { m.db.listener = closed; m.up(m.through(), answer(200)); m.post("/") }, why.Failed, "denied", appDB, why.ByCalledSidecar, 0},
	{"db-no-endpoint", func(m *mesh) { m.db.endpoints = []policy.Endpoint{}; m.up(m.through(), answer(200)); m.post("/") }, why.Failed, "no_endpoint", appDB, why.ByCallerSidecar, 0},
	{"db-500-borne", func(m *mesh) { m.up(m.bears(), answer(500)); m.post("/") }, why.Recovered, "upstream_5xx", appDB, why.ByApplication, 0},
	{"db-slow-and-fine", func(m *mesh) { m.timeout = 250 * time.Millisecond; m.up(m.thenHangs(), answer(200)); m.post("/") }, why.Failed, "request_timeout", webApp, why.ByApplication, 0},
	// Connections.
	{"refused", func(m *mesh) { m.app.endpoints = nobody(m); m.up(answer(200), nil); m.post("/") }, why.Failed, "connect_refused", webApp, why.ByCallerSidecar, 2},
	{"connect-timeout", func(m *mesh) {
		m.app.endpoints = one(m.silent())
		m.app.service = func(s *policy.Service) { s.ConnectTimeout = 150 * time.Millisecond; s.Retry.Attempts = 1 }
		m.up(answer(200), nil)
		m.post("/")
	}, why.Failed, "connect_timeout", webApp, why.ByCallerSidecar, 0},
	{"tls-failed", func(m *mesh) { m.app.endpoints = one(m.plain()); m.up(answer(200), nil); m.post("/") }, why.Failed, "tls_failed", webApp, why.ByCallerSidecar, 0},
	{"tls-other-authority", func(m *mesh) { m.app.foreign = true; m.up(answer(200), nil); m.post("/") }, why.Failed, "tls_failed", webApp, why.ByCallerSidecar, 0},
	{"identity-mismatch", func(m *mesh) { m.app.account = "impostor"; m.up(answer(200), nil); m.post("/") }, why.Failed, "identity_mismatch", webApp, why.ByCallerSidecar, 0},
	// Policy.
	{"denied", func(m *mesh) { m.app.listener = closed; m.up(answer(200), nil); m.post("/") }, why.Refused, "denied", webApp, why.ByCalledSidecar, 0},
	{"rate-limited", func(m *mesh) {
		m.app.rule = func(a *route.Action) {
			a.Limits = []route.RateLimit{{Name: "few", Requests: 1, Per: time.Hour, Burst: 1}}
		}
		m.up(answer(200), nil)
		m.post("/")
		m.post("/")
	}, why.Refused, "rate_limited", webApp, why.ByCallerSidecar, 0},
	{"limiter-away", func(m *mesh) {
		m.app.rule = func(a *route.Action) {
			a.Limits = []route.RateLimit{{Name: "few", Domain: "shop", Service: "db", Keys: []route.Key{{Kind: route.KeyConstant, Name: "all", Value: "x"}}, Timeout: 50 * time.Millisecond}}
		}
		m.webKnowsDB = true
		m.db.endpoints = nobody(m)
		m.up(answer(200), nil)
		m.post("/")
	}, why.Failed, "limiter_failed", webApp, why.ByCallerSidecar, 0},
	{"fault-injected", func(m *mesh) {
		m.app.rule = func(a *route.Action) { a.Faults = []route.Fault{{Status: 503, AbortPPM: 1_000_000}} }
		m.up(answer(200), nil)
		m.post("/")
	}, why.Failed, "fault_injected", webApp, why.ByCallerSidecar, 0},
	{"no-endpoint", func(m *mesh) { m.app.endpoints = []policy.Endpoint{}; m.up(answer(200), nil); m.post("/") }, why.Failed, "no_endpoint", webApp, why.ByCallerSidecar, 0},
	{"no-backend", func(m *mesh) {
		m.app.rule = func(a *route.Action) { a.Backends = []route.Backend{{Weight: 1}} }
		m.up(answer(200), nil)
		m.post("/")
	}, why.Failed, "no_backend", webApp, why.ByCallerSidecar, 0},
	{"shed", func(m *mesh) {
		m.app.service = func(s *policy.Service) { s.MaxRequests = 1 }
		m.up(m.hang(), nil)
		m.behind("/slow")
		m.post("/")
	}, why.Failed, "shed", webApp, why.ByCallerSidecar, 0},
	// Callers.
	{"caller-left", func(m *mesh) { m.up(m.hang(), nil); m.leave("/", 150*time.Millisecond) }, why.CallerLeft, "downstream_reset", webApp, why.ByCaller, 0},
	{"deadline", func(m *mesh) {
		m.up(m.hang(), nil)
		m.request("POST", "/", http.Header{"X-Request-Timeout-Ms": {"120"}}, nil)
	}, why.Failed, "request_timeout", webApp, why.ByApplication, 0},
	{"body-stalls", func(m *mesh) {
		m.web = func(l *policy.Listener) { l.Limits.BodyTimeout = 100 * time.Millisecond }
		m.up(reads, nil)
		m.stall()
	}, why.Refused, "bad_request", webApp, why.ByCaller, 0},
	// Retries.
	{"retries-all-fail", func(m *mesh) {
		m.app.endpoints = append(nobody(m), nobody(m)...)
		m.app.service = func(s *policy.Service) { s.Retry.Attempts = 3 }
		m.up(answer(200), nil)
		m.post("/")
	}, why.Failed, "connect_refused", webApp, why.ByCallerSidecar, 3},
	{"retry-saves", func(m *mesh) {
		m.app.more = nobody(m)
		m.up(answer(200), nil)
		for range 8 { // until the one that nobody serves was drawn
			m.post("/")
			if m.tried(2) {
				break
			}
		}
	}, why.Recovered, "connect_refused", webApp, why.ByCallerSidecar, 2},
	{"retry-saves-from-db", func(m *mesh) {
		m.up(m.throughWith(http.StatusServiceUnavailable), m.firstFails()) // 503 is tried again at the same endpoint
		m.get("/")
	}, why.Recovered, "upstream_5xx", appDB, why.ByApplication, 0},
	{"budget-spent", func(m *mesh) {
		m.app.endpoints = nobody(m)
		m.app.service = func(s *policy.Service) {
			s.Retry = policy.Retry{Attempts: 5, BudgetRatio: 0.000001, BudgetMin: 0.1, BackoffBase: time.Millisecond}
		}
		m.up(answer(200), nil)
		for range 4 {
			m.post("/")
		}
	}, why.Failed, "connect_refused", webApp, why.ByCallerSidecar, 1},
	{"try-timeout", func(m *mesh) {
		m.app.service = func(s *policy.Service) { s.TryTimeout = 80 * time.Millisecond; s.RequestTimeout = 2 * time.Second }
		m.up(m.hang(), nil)
		m.get("/")
	}, why.Failed, "try_timeout", webApp, why.ByApplication, 0},
}

// answer is an application that answers so.
func answer(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, http.StatusText(status)+"\n")
	}
}

func reads(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusOK)
}

// cut is an application that says so much and closes.
func cut(says string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_, _ = io.WriteString(c, says)
			_ = c.Close()
		}
	}
}

// hang answers when the case is over, or its caller has left.
func (m *mesh) hang() http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) {
		m.reached <- struct{}{}
		select {
		case <-m.over:
		case <-r.Context().Done():
		}
	}
}

func (m *mesh) hangInBody() http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusOK)
		_, _ = io.WriteString(w, "begun")
		_ = http.NewResponseController(w).Flush()
		select {
		case <-m.over:
		case <-r.Context().Done():
		}
	}
}

// call is what app does for a request: one to db, as part of the same trace.
func (m *mesh) call(r *http.Request) (int, error) {
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPost, "http://"+m.toDB.String()+"/rows", strings.NewReader("x"))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Traceparent", r.Header.Get("Traceparent"))
	resp, err := m.client.Do(req)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode, errors.Join(err, resp.Body.Close())
}

// through answers 502 when its call went wrong.
func (m *mesh) through() http.HandlerFunc { return m.throughWith(http.StatusBadGateway) }

func (m *mesh) throughWith(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if got, err := m.call(r); err != nil || got/100 != 2 {
			w.WriteHeader(status)
		}
	}
}

// firstFails answers 500 once, and 200 from then on.
func (m *mesh) firstFails() http.HandlerFunc {
	var once sync.Once
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		status := http.StatusOK
		once.Do(func() { status = http.StatusInternalServerError })
		w.WriteHeader(status)
	}
}

// bears answers 200 whatever became of its call.
func (m *mesh) bears() http.HandlerFunc {
	return func(_ http.ResponseWriter, r *http.Request) { _, _ = m.call(r) }
}

// thenHangs takes no notice of a call that went well, and hangs by itself.
func (m *mesh) thenHangs() http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		_, _ = m.call(r)
		m.hang()(w, r)
	}
}

func closed(l *policy.Listener) { l.Access = access.Rules{Closed: true} }

func one(at netip.AddrPort) []policy.Endpoint {
	return []policy.Endpoint{{Address: at, Instance: "app-9", Weight: 100}}
}

// nobody is an endpoint at which nobody listens.
func nobody(m *mesh) []policy.Endpoint {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	at := l.Addr().(*net.TCPAddr).AddrPort()
	_ = l.Close()
	return one(at)
}

// silent accepts connections and says nothing.
func (m *mesh) silent() netip.AddrPort {
	return m.listen(func(c net.Conn) { <-m.over; _ = c.Close() })
}

// plain answers a handshake with HTTP.
func (m *mesh) plain() netip.AddrPort {
	return m.listen(func(c net.Conn) {
		b := make([]byte, 64)
		_, _ = c.Read(b)
		_, _ = io.WriteString(c, "HTTP/1.1 400 Bad Request\r\n\r\n")
		_ = c.Close()
	})
}

func (m *mesh) listen(serve func(net.Conn)) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go serve(c)
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func (m *mesh) get(path string)  { m.request(http.MethodGet, path, nil, nil) }
func (m *mesh) post(path string) { m.request(http.MethodPost, path, nil, strings.NewReader("x")) }

func (m *mesh) request(method, path string, fields http.Header, body io.Reader) {
	m.t.Helper()
	m.do(context.Background(), method, path, fields, body)
}

// behind sends a request that is not waited for, and returns when the application has it.
func (m *mesh) behind(path string) {
	m.others.Go(func() { m.do(context.Background(), http.MethodPost, path, nil, strings.NewReader("x")) })
	<-m.reached
}

// leave goes away when the application has the request, after a while.
func (m *mesh) leave(path string, after time.Duration) {
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-m.reached
		time.AfterFunc(after, cancel)
	}()
	m.do(ctx, http.MethodPost, path, nil, strings.NewReader("x"))
	testmesh.Eventually(m.t, "the sidecar has noticed that its caller left", func() bool { return len(m.recorders["web"].Closed(flow.KindExchange)) > 0 })
}

// stall sends the beginning of a body and no more.
func (m *mesh) stall() {
	c, err := net.Dial("tcp", m.at.String())
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "POST / HTTP/1.1\r\nhost: app\r\ncontent-length: 100\r\n\r\nhalf")
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	_, _ = io.ReadAll(c)
}

// tried reports whether the last request took n tries.
func (m *mesh) tried(n int) bool {
	closed := m.recorders["web"].Closed(flow.KindExchange)
	return len(closed) > 0 && closed[len(closed)-1].Attempts == n
}
