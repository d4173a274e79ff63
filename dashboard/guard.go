package dashboard

import (
	"compress/gzip"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/dashboard/promapi"
)

// guard refuses requests that were addressed to a host we are not (DNS rebinding) and writes or WebSocket upgrades that come from a page
// we did not serve (cross-site requests), even on loopback. An allowed host is compared without its port.
type guard struct {
	hosts []string
	any   bool
	next  http.Handler
}

func newGuard(addr string, extra []string, next http.Handler) *guard {
	g := &guard{hosts: []string{"localhost", "127.0.0.1", "::1"}, next: next}
	if h, _, err := net.SplitHostPort(addr); err == nil && h != "" && h != "0.0.0.0" && h != "::" {
		g.hosts = append(g.hosts, strings.ToLower(h))
	}
	for _, h := range extra {
		if h == "*" {
			g.any = true
			continue
		}
		g.hosts = append(g.hosts, strings.ToLower(strings.Trim(h, "[]")))
	}
	return g
}

// hostOf strips the port and brackets of a Host header.
func hostOf(hostport string) string {
	if h, _, err := net.SplitHostPort(hostport); err == nil {
		return strings.ToLower(h)
	}
	return strings.ToLower(strings.Trim(hostport, "[]"))
}

func (g *guard) allowed(host string) bool { return g.any || slices.Contains(g.hosts, host) }

// originAllowed says whether a browser page at origin may talk to us. No Origin header means that no browser page is involved.
func (g *guard) originAllowed(r *http.Request) bool {
	origin := r.Header.Get("Origin")
	if origin == "" {
		return true
	}
	u, err := url.Parse(origin)
	if err != nil || u.Host == "" {
		return false // includes the opaque origin "null"
	}
	return strings.EqualFold(u.Host, r.Host) || (g.allowed(strings.ToLower(u.Hostname())) && !g.any)
}

func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "same-origin")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "camera=(), microphone=(), geolocation=()")
	h.Set("Content-Security-Policy", contentSecurityPolicy)
	if !g.allowed(hostOf(r.Host)) {
		http.Error(w, "This server does not answer for the host "+clip(r.Host, 80)+
			".\nOpen it as http://localhost or http://127.0.0.1, or allow the name with --dashboard-host.", http.StatusMisdirectedRequest)
		return
	}
	if !g.originAllowed(r) {
		http.Error(w, "Requests from pages of another origin are refused.", http.StatusForbidden)
		return
	}
	if r.Body != nil && r.Body != http.NoBody {
		bound(w, r)
	}
	g.next.ServeHTTP(w, r)
}

// maxBody is the largest body that is read, except of requests that write series: the queries of Grafana, which come as forms.
const maxBody = 1 << 20

// bodyWithin is how long a body may take to come. A variable so that tests need not wait.
var bodyWithin = 10 * time.Second

// bound keeps a sender that stalls from holding a request for ever. The deadline ends with the body: what follows is the handler's time.
func bound(w http.ResponseWriter, r *http.Request) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyWithin)) // a writer without deadlines is a test's
	most := int64(maxBody)
	if promapi.Writes(r.URL.Path) {
		most = promapi.MaxWrite
	}
	r.Body = &boundBody{http.MaxBytesReader(w, r.Body, most), rc}
}

type boundBody struct {
	io.ReadCloser
	rc *http.ResponseController
}

func (b *boundBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		_ = b.rc.SetReadDeadline(time.Time{})
	}
	return n, err
}

// contentSecurityPolicy allows nothing but our own files: no inline script, no inline style, no frame, no foreign host.
const contentSecurityPolicy = "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; " +
	"base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"

func clip(s string, n int) string {
	if len(s) > n {
		return s[:n] + "…"
	}
	return s
}

// compress gzips text answers when the client accepts it. Answers that already carry a Content-Encoding, and upgrades, pass untouched.
func compress(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !acceptsGzip(r) || r.Header.Get("Upgrade") != "" || r.Method == http.MethodHead {
			next.ServeHTTP(w, r)
			return
		}
		gw := &gzipWriter{ResponseWriter: w}
		defer gw.close()
		next.ServeHTTP(gw, r)
	})
}

func acceptsGzip(r *http.Request) bool {
	for part := range strings.SplitSeq(r.Header.Get("Accept-Encoding"), ",") {
		name, q, _ := strings.Cut(strings.TrimSpace(part), ";")
		if strings.EqualFold(strings.TrimSpace(name), "gzip") {
			q = strings.ReplaceAll(q, " ", "")
			return q != "q=0" && q != "q=0.0" && q != "q=0.00" && q != "q=0.000"
		}
	}
	return false
}

var gzipPool = sync.Pool{New: func() any { zw, _ := gzip.NewWriterLevel(io.Discard, gzip.BestSpeed); return zw }}

type gzipWriter struct {
	http.ResponseWriter
	zw    *gzip.Writer
	wrote bool
}

func (g *gzipWriter) WriteHeader(code int) {
	if g.wrote {
		return
	}
	g.wrote = true
	h := g.Header()
	if h.Get("Content-Encoding") == "" && code != http.StatusNoContent && code != http.StatusNotModified && code >= 200 && compressible(h.Get("Content-Type")) {
		h.Del("Content-Length")
		h.Set("Content-Encoding", "gzip")
		h.Add("Vary", "Accept-Encoding")
		if et := h.Get("ETag"); et != "" && !strings.HasPrefix(et, "W/") {
			h.Set("ETag", "W/"+et)
		}
		g.zw = gzipPool.Get().(*gzip.Writer)
		g.zw.Reset(g.ResponseWriter)
	}
	g.ResponseWriter.WriteHeader(code)
}

func (g *gzipWriter) Write(p []byte) (int, error) {
	if !g.wrote {
		if g.Header().Get("Content-Type") == "" {
			g.Header().Set("Content-Type", http.DetectContentType(p))
		}
		g.WriteHeader(http.StatusOK)
	}
	if g.zw != nil {
		return g.zw.Write(p)
	}
	return g.ResponseWriter.Write(p)
}

// Flush sends what was written so far: streams stay streams.
func (g *gzipWriter) Flush() {
	if g.zw != nil {
		_ = g.zw.Flush()
	}
	_ = http.NewResponseController(g.ResponseWriter).Flush()
}

func (g *gzipWriter) close() {
	if g.zw != nil {
		_ = g.zw.Close()
		gzipPool.Put(g.zw)
	}
}

func compressible(contentType string) bool {
	t, _, _ := strings.Cut(contentType, ";")
	switch t = strings.TrimSpace(t); t {
	case "application/json", "application/javascript", "image/svg+xml", "application/x-ndjson":
		return true
	default:
		return strings.HasPrefix(t, "text/")
	}
}
