package flow

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"testing"
	"unsafe"
)

// What a view wrote before never shows in what it writes for another Record, also when the memory of a Record's strings is used again, and whichever
// field the two differ in.
func TestMemo(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	var memory [64]byte
	name := func() string {
		n := copy(memory[:], fmt.Sprintf("%s-%d", []string{"a", "bb", ""}[rng.IntN(3)], rng.IntN(3)))
		at := rng.IntN(len(memory) - n)
		copy(memory[at:], memory[:n])
		if rng.IntN(3) == 0 {
			return unsafe.String(&memory[at], n)
		}
		return string(memory[:n])
	}
	addr := func() netip.AddrPort {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(2))}), uint16(rng.IntN(2)))
	}
	// change gives one field, chosen at random, another value.
	var change func(v reflect.Value)
	change = func(v reflect.Value) {
		switch v.Interface().(type) {
		case netip.AddrPort:
			v.Set(reflect.ValueOf(addr()))
			return
		}
		switch v.Kind() {
		case reflect.Struct:
			for {
				if f := v.Field(rng.IntN(v.NumField())); f.CanSet() && f.Type() != reflect.TypeOf(Headers("")) && f.Kind() != reflect.Array {
					change(f)
					return
				}
			}
		case reflect.String:
			v.SetString(name())
		case reflect.Bool:
			v.SetBool(rng.IntN(2) == 0)
		case reflect.Uint8:
			v.SetUint(uint64(rng.IntN(7)))
		case reflect.Int, reflect.Int64, reflect.Int32:
			v.SetInt(int64(rng.IntN(3)))
		case reflect.Uint64, reflect.Uint32:
			v.SetUint(uint64(rng.IntN(3)))
		}
	}
	line, spans := &jsonLine{}, &attributes{num: 9, memo: &memo{}}
	r := Record{Kind: KindExchange, Side: SideServer}
	for range 50_000 {
		for f := reflect.ValueOf(&r).Elem(); ; {
			if i := rng.IntN(f.NumField()); f.Type().Field(i).Name != "Start" {
				change(f.Field(i))
				break
			}
		}
		line.dst, spans.dst = line.dst[:0], spans.dst[:0]
		r.visit(line)
		r.visit(spans)
		newLine, newSpan := &jsonLine{}, &attributes{num: 9, memo: &memo{}}
		r.visit(newLine)
		r.visit(newSpan)
		if !bytes.Equal(line.dst, newLine.dst) || !bytes.Equal(spans.dst, newSpan.dst) {
			t.Fatalf("%+v: wrote %s and %q, want %s and %q", r, line.dst, spans.dst, newLine.dst, newSpan.dst)
		}
		if _, b := line.memo.of(&r); b == nil {
			t.Fatalf("%+v is not known right after it was written", r)
		}
	}
}

func TestMemoAddr(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	m := &memo{}
	for i := range 100_000 {
		a := netip.AddrFrom4([4]byte{10, 0, 0, byte(rng.IntN(4))})
		switch rng.IntN(10) {
		case 1:
			a = netip.AddrFrom16([16]byte{0x20, 1, 15: byte(rng.IntN(4))})
		case 2:
			a = netip.MustParseAddr("fe80::1%eth0")
		}
		if v := netip.AddrPortFrom(a, uint16(rng.IntN(300))); string(m.addr(v)) != v.String() {
			t.Fatalf("%d: got %q, want %s", i, m.addr(v), v)
		}
	}
}
