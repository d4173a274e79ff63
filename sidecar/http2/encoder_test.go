package http2

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http2/hpack"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Whatever is written, however large the peer lets the table be, a decoder reads the same: names that are in the table are still there when a value
// refers to them.
func TestEncoder(t *testing.T) {
	for seed := range uint64(200) {
		random := rand.New(rand.NewPCG(seed, 0))
		c := &conn{}
		c.enc.c, c.enc.size, c.enc.h = c, tableSize, hpack.NewEncoder(&c.enc)
		d := hpack.NewDecoder(tableSize, nil)
		referred := 0
		for block := range 50 {
			if random.IntN(8) == 0 {
				n := []uint32{0, 40, 100, 300, tableSize}[random.IntN(5)]
				c.enc.size = int(n)
				c.enc.h.SetMaxDynamicTableSize(n)
				c.resized = true
			}
			c.out = c.out[:0]
			at := c.beginBlockLocked()
			var want []string
			note := func(name, value string) { want = append(want, name+": "+value) }
			c.putLocked(":status", "200")
			note(":status", "200")
			buf := make([]byte, 0, 64) // its bytes change after the call, as a call's scratch does
			for range random.IntN(12) {
				value := strings.Repeat(fmt.Sprint(block, random.IntN(3)), 1+random.IntN(60))
				switch random.IntN(4) {
				case 0:
					name := fmt.Sprint("x-", random.IntN(30))
					c.putLocked(name, value)
					note(name, value)
				case 1:
					c.putPlainLocked("etag", value)
					note("etag", value)
				default:
					n := named(random.IntN(int(numNamed)))
					name := []string{"traceparent", "x-request-id", "x-tulle-timing", "grpc-timeout"}[n]
					buf = append(buf[:0], value...)
					before := len(c.out)
					c.enc.putNamed(n, name, exchange.Aliased(buf))
					if b := c.out[before]; b > 0 && b < 16 {
						referred++
					}
					note(name, value)
					for i := range buf {
						buf[i] = '!'
					}
				}
			}
			c.endBlockLocked(at, 1, true)
			var raw []byte // of HEADERS and CONTINUATION
			for b := c.out; len(b) > 0; {
				f := parseFrame(b)
				raw = append(raw, b[frameHeader:frameHeader+f.length]...)
				b = b[frameHeader+f.length:]
			}
			fields, err := d.DecodeFull(raw)
			if err != nil {
				t.Fatalf("seed %d, block %d: %v", seed, block, err)
			}
			var got []string
			for _, f := range fields {
				got = append(got, f.Name+": "+f.Value)
			}
			if !slices.Equal(got, want) {
				t.Fatalf("seed %d, block %d:\n got %q\nwant %q", seed, block, got, want)
			}
		}
		if referred == 0 {
			t.Errorf("seed %d: no name was referred to", seed)
		}
	}
}

// A head that is larger than a frame goes on in CONTINUATION frames.
func TestLongBlock(t *testing.T) {
	c := &conn{}
	c.enc.c, c.enc.size, c.enc.h = c, tableSize, hpack.NewEncoder(&c.enc)
	at := c.beginBlockLocked()
	c.putLocked(":status", "200")
	value := strings.Repeat("~", 40_000)
	c.putPlainLocked("etag", value)
	c.endBlockLocked(at, 7, true)
	var raw []byte
	kinds := []uint8{}
	for b := c.out; len(b) > 0; {
		f := parseFrame(b)
		if f.id != 7 || f.length > maxFrame || (f.flags&flagEndHeaders != 0) != (frameHeader+f.length == len(b)) || (f.flags&flagEnd != 0) != (f.kind == frameHeaders) {
			t.Errorf("%+v", f)
		}
		kinds = append(kinds, f.kind)
		raw = append(raw, b[frameHeader:frameHeader+f.length]...)
		b = b[frameHeader+f.length:]
	}
	fields, err := hpack.NewDecoder(tableSize, nil).DecodeFull(raw)
	if err != nil || len(fields) != 2 || fields[1].Value != value || !slices.Equal(kinds, []uint8{frameHeaders, frameContinuation, frameContinuation}) {
		t.Errorf("%v, %d fields, frames %v", err, len(fields), kinds)
	}
}
