package sidecar

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// tlsEcho is a server of TLS that proves names and echoes a line with the name that it was asked for.
func tlsEcho(ca *testmesh.CA, names ...string) func(c net.Conn, in *bufio.Reader) {
	config := &tls.Config{Certificates: []tls.Certificate{ca.Web(names...)}}
	return func(c net.Conn, in *bufio.Reader) {
		tc := tls.Server(&read{c, in}, config)
		defer tc.Close()
		_ = tc.SetDeadline(time.Now().Add(time.Minute))
		if s, err := bufio.NewReader(tc).ReadString('\n'); err == nil {
			_, _ = io.WriteString(tc, tc.ConnectionState().ServerName+" "+s)
			_ = tc.CloseWrite()
			_, _ = io.Copy(io.Discard, tc) // what is left unread would make of the end a reset
		}
	}
}

// read is a connection of which in has read.
type read struct {
	net.Conn
	in *bufio.Reader
}

func (r *read) Read(p []byte) (int, error) { return r.in.Read(p) }

// sayTLS speaks TLS over c as a client of name, and returns what comes back for a line.
func sayTLS(t *testing.T, ca *testmesh.CA, c net.Conn, name, text string) string {
	t.Helper()
	tc := tls.Client(c, &tls.Config{ServerName: name, RootCAs: ca.Roots()})
	defer tc.Close()
	_ = tc.SetDeadline(time.Now().Add(time.Minute))
	if _, err := io.WriteString(tc, text+"\n"); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(tc)
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// A service of protocol tls: what passes is the application's own TLS, also within the mesh's, and Records have its name.
func TestTLSIsPassedOn(t *testing.T) {
	ca := testmesh.NewCA(t)
	target := scripted(t, tlsEcho(ca, "db.example.com"))
	server := start(t, serverSnapshot("db", target, policy.ModeStrict, flow.ProtocolTLS), ca.Holder("db"), time.Second)
	sv := mesh("db")
	sv.Protocol = flow.ProtocolTLS
	client := start(t, clientSnapshot(sv, server.addr(t, "inbound")), ca.Holder("web"), time.Second)
	c, err := net.Dial("tcp", client.addr(t, "outbound").String())
	if err != nil {
		t.Fatal(err)
	}
	if got := sayTLS(t, ca, c, "db.example.com", "hello"); got != "db.example.com hello" {
		t.Errorf("got %q", got)
	}
	// What is no TLS goes on all the same, and is recorded as what it is.
	_ = raw(t, client.addr(t, "outbound"), "SELECT 1\n")
	client.stop()
	server.stop()
	for side, r := range map[string]*running{"client": client, "server": server} {
		records := r.rec.Closed(flow.KindConnection)
		if len(records) != 2 {
			t.Fatalf("%s: %d Records, want 2", side, len(records))
		}
		if records[0].Protocol != flow.ProtocolTLS { // which of the two ends first is open
			records[0], records[1] = records[1], records[0]
		}
		if x := records[0]; x.Protocol != flow.ProtocolTLS || x.ServerName != "db.example.com" || x.Reason != flow.ReasonNone || x.Destination.Service != "db" || x.Source.Service != "web" {
			t.Errorf("%s: %+v", side, x)
		}
		if x := records[1]; x.Protocol != flow.ProtocolTCP || x.ServerName != "" {
			t.Errorf("%s: %+v", side, x)
		}
		if n := r.rec.Live(); n != 0 {
			t.Errorf("%s: %d live counts are left", side, n)
		}
	}
}

// A caller of a service of protocol tls that says nothing is not waited for without end.
func TestTLSWithoutHello(t *testing.T) {
	at := netip.AddrPortFrom(host(0, 1), 15001)
	snap := clientSnapshot(policy.Service{Name: "db", Protocol: flow.ProtocolTLS, External: true}, queue1)
	snap.Listeners[0].Address = at
	withSnapshot(t, snap, func(t *testing.T, r *redirected) {
		begin := time.Now()
		c, in := r.dial(netip.AddrPort{})
		if _, err := in.ReadByte(); err == nil {
			t.Error("it was answered")
		}
		if took := time.Since(begin); took != 10*time.Second {
			t.Errorf("it was waited for for %s", took)
		}
		_ = c.Close()
		synctest.Wait()
		if x := r.rec.Closed(flow.KindConnection); len(x) != 1 || x[0].Reason != flow.ReasonIdleTimeout || x[0].Destination.Service != "db" {
			t.Errorf("Records %+v", x)
		}
	})
}

// namesSnapshot knows two hosts outside the mesh by name, one of which has no address.
func namesSnapshot(i policy.Interception) *policy.Snapshot {
	s := redirectedSnapshot(redirectedAt, i)
	s.Services["bank"] = policy.Service{Name: "bank", Protocol: flow.ProtocolTLS, External: true, Hosts: []string{"api.bank.example"}}
	s.Services["cdn"] = policy.Service{Name: "cdn", Protocol: flow.ProtocolTLS, External: true, Hosts: []string{"*.cdn.example", "shop.example"}}
	return s
}

// Redirected TLS to an address that is no service's is known by its name, and goes to that address all the same.
func TestRedirectedTLSByName(t *testing.T) {
	ca := testmesh.NewCA(t)
	for _, unknown := range []policy.Unknown{policy.UnknownPass, policy.UnknownRefuse} {
		t.Run(unknown.String(), func(t *testing.T) {
			withSnapshot(t, namesSnapshot(policy.Interception{Unknown: unknown}), func(t *testing.T, r *redirected) {
				r.serve(outside, tlsEcho(ca, "api.bank.example", "img.cdn.example", "other.example"))
				r.serve(shop1, tlsEcho(ca, "api.bank.example"))
				for _, v := range []struct {
					to            netip.AddrPort
					name, service string
				}{
					{outside, "api.bank.example", "bank"},
					{outside, "img.cdn.example", "cdn"},
					{outside, "other.example", ""},
					{shop1, "api.bank.example", "shop"}, // an address that is known counts before a name
				} {
					before := len(r.rec.Closed(flow.KindConnection))
					c, _ := r.dial(v.to)
					refused := v.service == "" && unknown == policy.UnknownRefuse
					if refused {
						tc := tls.Client(c, &tls.Config{ServerName: v.name, RootCAs: ca.Roots()})
						if err := tc.Handshake(); err == nil {
							t.Errorf("%s was let through", v.name)
						}
						_ = c.Close()
					} else if got := sayTLS(t, ca, c, v.name, "x"); got != v.name+" x" {
						t.Errorf("%s: got %q", v.name, got)
					}
					synctest.Wait()
					list := r.rec.Closed(flow.KindConnection)
					if len(list) != before+1 {
						t.Fatalf("%s: %d Records, want one more than %d", v.name, len(list), before)
					}
					switch x := list[before]; {
					case refused:
						if x.Reason != flow.ReasonUnknownDest || !strings.Contains(x.Detail, "nor is other.example") {
							t.Errorf("Record %+v", x)
						}
					case x.Destination.Service != v.service || x.ServerName != v.name || x.Protocol != flow.ProtocolTLS || x.Endpoint != v.to || x.Reason != flow.ReasonNone:
						t.Errorf("Record %+v", x)
					case (x.Route == "passthrough") != (v.to == outside):
						t.Errorf("%s has the route %q", v.name, x.Route)
					}
				}
			})
		})
	}
}

// To an address that is no service's a first connection waits a moment for a name where the server speaks first, and no other one.
func TestRedirectedNameTimeout(t *testing.T) {
	withRedirected(t, policy.Interception{}, func(t *testing.T, r *redirected) {
		r.serve(outside, greeter("220 mail"))
		for _, want := range []time.Duration{nameTimeout, 0, 0} {
			begin := time.Now()
			c, in := r.dial(outside)
			if got, took := line(t, in), time.Since(begin); got != "220 mail" || took != want {
				t.Errorf("%q after %s, want it after %s", got, took, want)
			}
			_ = c.Close()
			synctest.Wait()
		}
	})
}
