package detect

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// recorded is a connection that plays bytes and keeps what is written to it.
type recorded struct {
	net.Conn
	in  []byte
	out []byte
}

func (r *recorded) Read(p []byte) (int, error) {
	if len(r.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, r.in)
	r.in = r.in[n:]
	return n, nil
}

func (r *recorded) Write(p []byte) (int, error) {
	r.out = append(r.out, p...)
	return len(p), nil
}
func (*recorded) Close() error                     { return nil }
func (*recorded) SetDeadline(time.Time) error      { return nil }
func (*recorded) SetReadDeadline(time.Time) error  { return nil }
func (*recorded) SetWriteDeadline(time.Time) error { return nil }

// helloOf is what crypto/tls sends first.
func helloOf(c *tls.Config) []byte {
	r := &recorded{}
	_ = tls.Client(r, c).Handshake()
	return r.out
}

// fragmented is one record as many of at most n bytes each.
func fragmented(record []byte, n int) (out []byte) {
	for body := record[recordHeader:]; len(body) > 0; {
		m := min(n, len(body))
		out = append(append(out, record[0], record[1], record[2], byte(m>>8), byte(m)), body[:m]...)
		body = body[m:]
	}
	return out
}

func TestReadClientHello(t *testing.T) {
	many := make([]string, 200)
	for i := range many {
		many[i] = strings.Repeat("p", 100) + string(rune('a'+i%26)) + string(rune('a'+i/26))
	}
	for name, c := range map[string]*tls.Config{
		"TLS 1.3, two protocols": {ServerName: "shop.example.com", NextProtos: []string{"h2", "http/1.1"}},
		"TLS 1.2":                {ServerName: "shop.example.com", MaxVersion: tls.VersionTLS12},
		"no name":                {InsecureSkipVerify: true, NextProtos: []string{"x"}},
		"an address":             {ServerName: "192.0.2.1"}, // which is not sent (RFC 6066, section 3)
		"larger than a record":   {ServerName: "shop.example.com", NextProtos: many},
	} {
		t.Run(name, func(t *testing.T) {
			sent := helloOf(c)
			want := ClientHello{ALPN: c.NextProtos, ServerName: c.ServerName}
			if c.ServerName == "192.0.2.1" {
				want.ServerName = ""
			}
			for _, b := range [][]byte{sent, append(slices.Clone(sent), "early data"...)} {
				got, g := ReadClientHello(b)
				if g != Greeted || got.ServerName != want.ServerName || !slices.Equal(got.ALPN, want.ALPN) {
					t.Fatalf("%+v, %d; want %+v", got, g, want)
				}
			}
			if len(sent) > recordHeader+maxRecord {
				return
			}
			for _, n := range []int{1, 3, 4, 5, 100} {
				b := fragmented(sent, n)
				for cut := range b {
					if _, g := ReadClientHello(b[:cut]); g != Unfinished {
						t.Fatalf("%d of %d bytes in records of %d: %d", cut, len(b), n, g)
					}
				}
				if got, g := ReadClientHello(b); g != Greeted || got.ServerName != want.ServerName {
					t.Fatalf("in records of %d: %+v, %d", n, got, g)
				}
			}
		})
	}
	good := helloOf(&tls.Config{ServerName: "a.example"})
	edit := func(f func(b []byte)) []byte {
		b := slices.Clone(good)
		f(b)
		return b
	}
	for name, b := range map[string][]byte{
		"HTTP":                 []byte("GET / HTTP/1.1\r\n"),
		"an alert":             {0x15, 3, 1, 0, 2, 1, 0},
		"SSL 2":                {0x80, 0x2e, 1, 3, 1},
		"another major":        edit(func(b []byte) { b[1] = 4 }),
		"an empty record":      {0x16, 3, 1, 0, 0},
		"a record too large":   {0x16, 3, 1, 0x40, 1},
		"a ServerHello":        edit(func(b []byte) { b[recordHeader] = 2 }),
		"a hello too large":    edit(func(b []byte) { b[recordHeader+1] = 1 }),
		"a length too large":   edit(func(b []byte) { b[recordHeader+4+34] = 255 }),
		"records without end":  []byte(endless()),
		"the name with a dot":  edit(func(b []byte) { b[strings.Index(string(b), "a.example")+8] = '.' }),
		"a record in between":  append(append([]byte{}, fragmented(good, 50)[:55]...), 0x14, 3, 3, 0, 1, 1),
		"extensions cut short": edit(func(b []byte) { b[recordHeader+3]-- }),
	} {
		if h, g := ReadClientHello(b); g != NotTLS {
			t.Errorf("%s: %+v, %d", name, h, g)
		}
	}
}

// endless is a hello of 32 KiB in records of one byte, which is more than is read.
func endless() string {
	var b strings.Builder
	for i := range 11000 {
		c := byte(0)
		switch i {
		case 0:
			c = clientHello
		case 2:
			c = 0x7f
		}
		b.WriteString("\x16\x03\x01\x00\x01")
		b.WriteByte(c)
	}
	return b.String()
}

func TestHello(t *testing.T) {
	sent := string(helloOf(&tls.Config{ServerName: "a.example"}))
	tiny := string(fragmented([]byte(sent), 1))
	for _, c := range []struct {
		name   string
		before string
		pieces []string
		ends   bool
		want   Spoken
		took   time.Duration
	}{
		{name: "at once", pieces: []string{sent}, want: TLS},
		{name: "in pieces", pieces: []string{sent[:1], sent[1:7], sent[7:]}, want: TLS},
		{name: "in records of one byte", pieces: []string{tiny}, want: TLS},
		{name: "read already", before: sent, want: TLS},
		{name: "half read already", before: sent[:50], pieces: []string{sent[50:]}, want: TLS},
		{name: "stops within", pieces: []string{sent[:50]}, want: Bytes, took: time.Minute},
		{name: "leaves within", pieces: []string{sent[:50]}, ends: true, want: Bytes},
		{name: "HTTP", pieces: []string{"GET / HTTP/1.1\r\n"}, want: Bytes},
		{name: "nothing", want: Silence, took: time.Minute},
		{name: "leaves", ends: true, want: Left},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, away := net.Pipe()
				defer near.Close()
				defer away.Close()
				sess := &exchange.Session{Conn: near, Buffered: []byte(c.before)}
				go func() {
					for _, p := range c.pieces {
						_, _ = io.WriteString(away, p)
					}
					if c.ends {
						_ = away.Close()
					}
				}()
				began := time.Now()
				hello, got := Hello(sess, time.Minute)
				if got != c.want || got == TLS && hello.ServerName != "a.example" {
					t.Errorf("got %d, %+v", got, hello)
				}
				if took := time.Since(began); took != c.took {
					t.Errorf("it took %v", took)
				}
				if all := c.before + strings.Join(c.pieces, ""); string(sess.Buffered) != all { // nothing is consumed, nothing is lost
					t.Errorf("%d bytes are there, %d were sent", len(sess.Buffered), len(all))
				}
				synctest.Wait()
			})
		})
	}
}

// A drain ends the waiting of a caller that has sent nothing, also while Hello gets ready to wait.
func TestHelloDrain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, away := net.Pipe()
		defer near.Close()
		defer away.Close()
		h := &hooked{Conn: near}
		sess := &exchange.Session{Conn: h}
		h.deadline = sess.Drain
		began := time.Now()
		if _, got := Hello(sess, time.Hour); got != Left || time.Since(began) != 0 {
			t.Errorf("%d after %v", got, time.Since(began))
		}
	})
}

var errEnough = errors.New("enough")

// FuzzClientHello: whatever crypto/tls takes for a ClientHello is one here and says the same, and no prefix of it says anything else.
func FuzzClientHello(f *testing.F) {
	for _, c := range []*tls.Config{
		{ServerName: "shop.example.com", NextProtos: []string{"h2"}},
		{ServerName: "a.example", MaxVersion: tls.VersionTLS12},
		{InsecureSkipVerify: true},
	} {
		b := helloOf(c)
		f.Add(b)
		f.Add(fragmented(b, 7))
	}
	f.Add([]byte("\x16\x03\x01\x00\x01\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		got, greeting := ReadClientHello(b)
		for _, cut := range []int{len(b) / 2, len(b) - 1} {
			if cut < 0 {
				continue
			}
			h, g := ReadClientHello(b[:cut])
			if g == NotTLS && greeting != NotTLS || g == Greeted && (greeting != Greeted || h.ServerName != got.ServerName || !slices.Equal(h.ALPN, got.ALPN)) {
				t.Fatalf("%d bytes are %d %+v, all %d are %d %+v", cut, g, h, len(b), greeting, got)
			}
		}
		var reader helloReader
		for n, stride := 0, 1+len(b)%7; n < len(b); { // in pieces, each in other memory
			n = min(n+stride, len(b))
			piece := slices.Clone(b[:n])
			h, g := reader.read(piece)
			if want, wantG := ReadClientHello(b[:n]); g != wantG || h.ServerName != want.ServerName || !slices.Equal(h.ALPN, want.ALPN) {
				t.Fatalf("%d bytes in pieces are %d %+v, at once %d %+v", n, g, h, wantG, want)
			}
			if clear(piece); g != Unfinished {
				break
			}
		}
		var theirs *tls.ClientHelloInfo
		r := &recorded{in: slices.Clone(b)}
		_ = tls.Server(r, &tls.Config{MinVersion: tls.VersionTLS10, GetConfigForClient: func(i *tls.ClientHelloInfo) (*tls.Config, error) {
			theirs = i
			return nil, errEnough
		}}).Handshake()
		if theirs == nil || b[1] != 3 { // what has another major version than TLS is no TLS, though crypto/tls does not mind at first
			return
		}
		if greeting != Greeted {
			if len(b) > maxHello {
				return
			}
			t.Fatalf("crypto/tls takes it, we say %d", greeting)
		}
		if got.ServerName != theirs.ServerName || !slices.Equal(got.ALPN, theirs.SupportedProtos) {
			t.Fatalf("%+v, crypto/tls says %q %q", got, theirs.ServerName, theirs.SupportedProtos)
		}
	})
}
