package flow

import (
	"encoding/json"
	"os"
	"strconv"
	"strings"
	"testing"
)

// Every status has a name that reads back, an HTTP status as docs/format/record.md says, and the class of that.
func TestGRPCStatus(t *testing.T) {
	page, err := os.ReadFile("../../docs/format/record.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{} // name -> "404 4xx"
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, " | ")
		if len(cells) != 3 || !strings.HasPrefix(line, "| `") {
			continue
		}
		for _, name := range strings.Split(strings.Trim(cells[0], "| "), ", ") {
			documented[strings.Trim(name, "`")] = cells[1] + " " + strings.TrimSuffix(strings.TrimSpace(cells[2]), " |")
		}
	}
	for code := range uint64(17) {
		s := NewGRPCStatus(code)
		if got, ok := s.Code(); !ok || got != int(code) {
			t.Errorf("code %d reads as %d", code, got)
		}
		if got := ReadGRPCStatus(strconv.FormatUint(code, 10)); got != s {
			t.Errorf("grpc-status %d reads as %s", code, got)
		}
		if got, ok := ParseGRPCStatus(s.String()); !ok || got != s {
			t.Errorf("%s reads back as %s", s, got)
		}
		r := Record{Status: 200, GRPC: s}
		if want := strconv.Itoa(s.HTTP()) + " " + r.Class().String(); documented[s.String()] != want {
			t.Errorf("docs/format/record.md says of %s %q, it is %q", s, documented[s.String()], want)
		}
		if r.Failed() != (s.HTTP() >= 500) || r.Failed() != s.Failure() {
			t.Errorf("%s: failed is %v", s, r.Failed())
		}
	}
	if s := NewGRPCStatus(17); s.String() != "UNKNOWN" || !s.Failure() {
		t.Errorf("code 17 is %s", s)
	}
	for _, name := range []string{"", "ok", "17"} {
		if s, ok := ParseGRPCStatus(name); ok {
			t.Errorf("%q reads as %s", name, s)
		}
	}
	var none GRPCStatus
	if _, ok := none.Code(); ok || none.String() != "" || none.HTTP() != 0 || none.Failure() {
		t.Error("the zero value says something")
	}
	for _, c := range []struct {
		r     Record
		class string
		fail  bool
	}{
		{Record{Status: 503}, "5xx", true},
		{Record{Status: 200}, "2xx", false},
		{Record{}, "none", false},
		{Record{Status: 200, GRPC: NewGRPCStatus(0)}, "2xx", false},
		{Record{Status: 200, GRPC: NewGRPCStatus(0), Reason: ReasonUpstreamReset}, "2xx", true},
		{Record{Status: 200, GRPC: NewGRPCStatus(1), Reason: ReasonDownstreamReset}, "4xx", false},
	} {
		if got := c.r.Class().String(); got != c.class || c.r.Failed() != c.fail {
			t.Errorf("%+v: class %s, failed %v", c.r, got, c.r.Failed())
		}
	}
}

func TestRPCMethod(t *testing.T) {
	for path, want := range map[string]string{
		"/shop.v1.Cart/Add": "shop.v1.Cart/Add", "/a/b?x=1": "a/b", "/ns/Cart/Add": "ns/Cart/Add", "": "", "/": "", "//Add": "", "/Cart/": "", "/Cart": "", "Cart/Add": "",
	} {
		r := Record{Kind: KindExchange, Protocol: ProtocolGRPC, Path: path}
		name := want
		if want == "" {
			name = "grpc"
		}
		if got := r.RPCMethod(); got != want || r.SpanName() != name {
			t.Errorf("%q: method %q, span %q; want %q", path, got, r.SpanName(), want)
		}
	}
	if got := (&Record{Protocol: ProtocolHTTP2, Path: "/a/b"}).RPCMethod(); got != "" {
		t.Errorf("HTTP/2 has the method %q", got)
	}
}

// A line says of a gRPC call what docs/format/record.md lists, and of another exchange none of it.
func TestGRPCLine(t *testing.T) {
	r := Record{Kind: KindExchange, Protocol: ProtocolGRPC, Method: "POST", Path: "/shop.v1.Cart/Watch", Status: 200, GRPC: NewGRPCStatus(14), MessagesIn: 1, MessagesOut: 7}
	var got map[string]any
	if err := json.Unmarshal(r.AppendJSON(nil), &got); err != nil {
		t.Fatal(err)
	}
	for k, want := range map[string]any{
		AttrProtocol: "grpc", AttrRPCSystem: "grpc", AttrRPCMethod: "shop.v1.Cart/Watch", AttrGRPC: "UNAVAILABLE", AttrMessagesIn: 1.0, AttrMessagesOut: 7.0, AttrStatus: 200.0,
	} {
		if got[k] != want {
			t.Errorf("%s = %v, want %v", k, got[k], want)
		}
	}
	r.Protocol = ProtocolHTTP2
	if line := string(r.AppendJSON(nil)); strings.Contains(line, "rpc.") || strings.Contains(line, "tulle.messages") {
		t.Errorf("an exchange that is not gRPC says %s", line)
	}
}

// TestReadGRPCStatus: what is no number, or no code that anybody has defined, is UNKNOWN; nothing is nothing.
func TestReadGRPCStatus(t *testing.T) {
	unknown := NewGRPCStatus(2)
	for value, want := range map[string]GRPCStatus{"": 0, "0": NewGRPCStatus(0), "14": NewGRPCStatus(14), "17": unknown, "-1": unknown, "ok": unknown, "99999999999": unknown} {
		if got := ReadGRPCStatus(value); got != want {
			t.Errorf("%q reads as %s, want %s", value, got, want)
		}
	}
}
