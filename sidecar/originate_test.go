package sidecar

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// outsideHost is an HTTPS server outside the mesh.
type outsideHost struct {
	addr       netip.AddrPort
	handshakes atomic.Int32
	resumed    atomic.Int32
}

// https starts a server of HTTPS that offers protocols by ALPN.
func https(t testing.TB, config *tls.Config, protocols []string, h http.HandlerFunc) *outsideHost {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o := &outsideHost{addr: l.Addr().(*net.TCPAddr).AddrPort()}
	config = config.Clone()
	config.NextProtos = protocols
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		if o.handshakes.Add(1); cs.DidResume {
			o.resumed.Add(1)
		}
		return nil
	}
	srv := &http.Server{Handler: h, TLSConfig: config, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)}
	if len(protocols) == 1 && protocols[0] == "http/1.1" {
		srv.TLSNextProto = map[string]func(*http.Server, *tls.Conn, http.Handler){}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.ServeTLS(l, "", "")
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return o
}

// bank is an external service whose TLS is originated.
func bank(file string, addr ...netip.AddrPort) *policy.Snapshot {
	return clientSnapshot(policy.Service{
		Name: "bank", Protocol: flow.ProtocolHTTP, External: true, TLS: &policy.ClientTLS{ServerName: "api.bank.example", CAFile: file},
	}, addr...)
}

// h2c is a client that speaks HTTP/2 without TLS.
func h2c(t testing.TB) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 30 * time.Second}
}

func fetch(t *testing.T, c *http.Client, url string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp, string(b)
}

// Plain HTTP of the application becomes HTTPS. What came goes on where ALPN allows it; where the host speaks HTTP/1.1 only, HTTP/2 becomes that in the same try.
func TestOriginateByALPN(t *testing.T) {
	ca := testmesh.NewCA(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	ca.WriteRoots(file)
	for _, v := range []struct {
		name      string
		protocols []string
		version   uint16
		client    func(testing.TB) *http.Client
		want      string // what the host saw
	}{
		{"HTTP/1.1 to both", []string{"h2", "http/1.1"}, 0, client, "HTTP/1.1"},
		{"HTTP/2 to both", []string{"h2", "http/1.1"}, 0, h2c, "HTTP/2.0"},
		{"HTTP/2 to HTTP/1.1", []string{"http/1.1"}, 0, h2c, "HTTP/1.1"},
		{"HTTP/1.1, TLS 1.2", []string{"http/1.1"}, tls.VersionTLS12, client, "HTTP/1.1"},
		{"HTTP/2, TLS 1.2", []string{"h2"}, tls.VersionTLS12, h2c, "HTTP/2.0"},
	} {
		t.Run(v.name, func(t *testing.T) {
			config := &tls.Config{Certificates: []tls.Certificate{ca.Web("api.bank.example")}, MaxVersion: v.version}
			o := https(t, config, v.protocols, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("x-tulle-reason", "denied") // who is no sidecar may not say why
				b, _ := io.ReadAll(r.Body)
				fmt.Fprintf(w, "%s %s %s %s %d", r.Proto, r.Host, r.TLS.ServerName, r.URL.RequestURI(), len(b))
			})
			snap := bank(file, o.addr)
			sv := snap.Services["bank"]
			sv.Authority = "api.bank.example"
			snap.Services["bank"] = sv
			r := start(t, snap, &identity.Holder{}, time.Second)
			c := v.client(t)
			url := "http://" + r.addr(t, "outbound").String()
			for i := range 3 {
				resp, body := fetch(t, c, url+"/balance?of=7")
				if want := v.want + " api.bank.example api.bank.example /balance?of=7 0"; resp.StatusCode != 200 || body != want {
					t.Errorf("got %d %q, want %q", resp.StatusCode, body, want)
				}
				if h := resp.Header.Get("x-tulle-reason"); h != "" {
					t.Errorf("x-tulle-reason %q of the host came through", h)
				}
				if i == 0 {
					resp, err := c.Post(url+"/pay", "text/plain", strings.NewReader(strings.Repeat("x", 100_000)))
					if err != nil {
						t.Fatal(err)
					}
					if b, _ := io.ReadAll(resp.Body); !strings.HasSuffix(string(b), "/pay 100000") {
						t.Errorf("got %q", b)
					}
					_ = resp.Body.Close()
				}
			}
			if n := o.handshakes.Load(); n > 2 {
				t.Errorf("%d handshakes for requests one after the other", n)
			}
			r.stop()
			records := r.rec.Closed(flow.KindExchange)
			if len(records) != 4 {
				t.Fatalf("%d Records, want 4", len(records))
			}
			for _, x := range records {
				if x.Destination.Service != "bank" || x.Destination.Identity != "" || x.Reason != flow.ReasonNone || x.Status != 200 || x.Attempts != 1 {
					t.Errorf("Record %+v", x)
				}
			}
			for _, x := range r.rec.Closed(flow.KindAttempt) {
				if l := x.Legs; l.Queued < 0 || l.Connected >= 0 && (l.Connected < l.Queued || l.Secured < l.Connected) || !x.Delivered {
					t.Errorf("legs %+v of an attempt", l)
				}
			}
		})
	}
}

// What goes wrong with a host's certificate is said with the host, what it presented and what to do; nothing was delivered.
func TestOriginateRefuses(t *testing.T) {
	ca, other := testmesh.NewCA(t), testmesh.NewCA(t)
	file := filepath.Join(t.TempDir(), "ca.pem")
	ca.WriteRoots(file)
	plain := app(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) })
	serve := func(c *tls.Config, protocols ...string) netip.AddrPort {
		return https(t, c, protocols, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) }).addr
	}
	with := func(c tls.Certificate) *tls.Config { return &tls.Config{Certificates: []tls.Certificate{c}} }
	demanding := with(ca.Web("api.bank.example"))
	demanding.ClientAuth, demanding.ClientCAs = tls.RequireAndVerifyClientCert, ca.Roots()
	demanding12 := demanding.Clone()
	demanding12.MaxVersion = tls.VersionTLS12
	for _, v := range []struct {
		name   string
		addr   netip.AddrPort
		client func(testing.TB) *http.Client
		change func(*policy.Service)
		reason flow.Reason
		want   []string
	}{
		{"another name", serve(with(ca.Web("shop.example")), "http/1.1"), client, nil, flow.ReasonTLSFailed, []string{"api.bank.example presented a certificate for shop.example", "spec.tls.serverName"}},
		{"another authority", serve(with(other.Web("api.bank.example")), "http/1.1"), client, nil, flow.ReasonTLSFailed, []string{"no authority in " + file}},
		{"no TLS", plain, client, nil, flow.ReasonTLSFailed, []string{"api.bank.example at " + plain.String() + " does not speak TLS"}},
		{"a client certificate is wanted, TLS 1.2", serve(demanding12, "http/1.1"), client, nil, flow.ReasonTLSFailed, []string{"refused the handshake", "spec.tls.certFile"}},
		{"a client certificate is wanted", serve(demanding, "http/1.1"), client, nil, flow.ReasonTLSFailed, []string{"api.bank.example", "wants one", "spec.tls.certFile"}},
		{"a client certificate is wanted, HTTP/2", serve(demanding, "h2"), h2c, nil, flow.ReasonTLSFailed, []string{"api.bank.example", "wants one", "spec.tls.certFile"}},
		{"a client certificate is wanted, bridged to HTTP/2", serve(demanding, "h2"), client, func(s *policy.Service) { s.Protocol = flow.ProtocolHTTP2 }, flow.ReasonTLSFailed, []string{"api.bank.example", "wants one", "spec.tls.certFile"}},
		{
			"HTTP/2 is wanted", serve(with(ca.Web("api.bank.example")), "http/1.1"), client, func(s *policy.Service) { s.Protocol = flow.ProtocolHTTP2 },
			flow.ReasonUpstreamProtocol,
			[]string{"the host does not speak HTTP/2", "spec.protocol"},
		},
	} {
		t.Run(v.name, func(t *testing.T) {
			snap := bank(file, v.addr)
			sv := snap.Services["bank"]
			if v.change != nil {
				v.change(&sv)
			}
			sv.Retry.Attempts = 1
			snap.Services["bank"] = sv
			r := start(t, snap, &identity.Holder{}, time.Second)
			resp, body := fetch(t, v.client(t), "http://"+r.addr(t, "outbound").String()+"/")
			if want := map[bool]int{true: 502, false: 503}[v.reason == flow.ReasonUpstreamProtocol]; resp.StatusCode != want || resp.Header.Get("x-tulle-reason") != v.reason.String() {
				t.Errorf("got %d %q: %s", resp.StatusCode, resp.Header.Get("x-tulle-reason"), body)
			}
			r.stop()
			for _, x := range r.rec.Closed(flow.KindAttempt) {
				if x.Reason != v.reason || x.Delivered {
					t.Errorf("attempt %+v", x)
				}
				for _, part := range v.want {
					if !strings.Contains(x.Detail, part) || !strings.Contains(body, part) {
						t.Errorf("the detail is %q and the answer %q, want …%s…", x.Detail, body, part)
					}
				}
			}
		})
	}
}

// Bytes of a protocol that is relayed get TLS too, with the ALPN that is configured; each connection after the first resumes the session.
func TestOriginateTCP(t *testing.T) {
	ca := testmesh.NewCA(t)
	dir := t.TempDir()
	ca.WriteRoots(dir + "/ca.pem")
	ca.WritePair(ca.Web("web"), dir+"/cert.pem", dir+"/key.pem")
	var resumed atomic.Int32
	config := &tls.Config{
		Certificates: []tls.Certificate{ca.Web("192.0.2.1")}, NextProtos: []string{"imap", "x"}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: ca.Roots(),
		VerifyConnection: func(cs tls.ConnectionState) error {
			if cs.DidResume {
				resumed.Add(1)
			}
			if cs.NegotiatedProtocol != "x" || cs.ServerName != "" || cs.PeerCertificates[0].DNSNames[0] != "web" {
				t.Errorf("the server saw %q, %q, %q", cs.NegotiatedProtocol, cs.ServerName, cs.PeerCertificates[0].DNSNames)
			}
			return nil
		},
	}
	at := scripted(t, func(c net.Conn, _ *bufio.Reader) {
		tc := tls.Server(c, config)
		b, _ := io.ReadAll(tc)
		_, _ = tc.Write(append([]byte("got "), b...))
		_ = tc.Close()
	})
	snap := clientSnapshot(policy.Service{
		Name: "mail", Protocol: flow.ProtocolTCP, External: true,
		TLS: &policy.ClientTLS{ServerName: "192.0.2.1", CAFile: dir + "/ca.pem", CertFile: dir + "/cert.pem", KeyFile: dir + "/key.pem", ALPN: []string{"x"}},
	}, at)
	r := start(t, snap, &identity.Holder{}, time.Second)
	for range 3 {
		if got := raw(t, r.addr(t, "outbound"), "hello"); got != "got hello" {
			t.Errorf("got %q", got)
		}
	}
	if n := resumed.Load(); n != 2 {
		t.Errorf("%d of 3 connections were resumed, want 2", n)
	}
	r.stop()
	if x := r.rec.Closed(flow.KindConnection); len(x) != 3 || x[0].Protocol != flow.ProtocolTCP || x[0].Destination.Service != "mail" || x[0].Reason != flow.ReasonNone || x[0].Legs.Secured < 0 {
		t.Errorf("Records %+v", x)
	}
}
