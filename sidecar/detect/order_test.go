package detect

import (
	"net/netip"
	"sync"
	"testing"
)

func TestServerFirst(t *testing.T) {
	at := func(i int) Silent {
		return Silent{To: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), 25)}
	}
	var s ServerFirst
	if s.Has(at(1)) {
		t.Error("known before it was seen")
	}
	s.Set(at(1), false)
	s.Set(at(1), true)
	by := at(1)
	by.From = netip.MustParseAddr("10.1.1.1")
	if !s.Has(at(1)) || s.Has(at(2)) || s.Has(by) {
		t.Error("not that one alone is known")
	}
	s.Set(at(1), false)
	if s.Has(at(1)) {
		t.Error("not forgotten")
	}
	var wg sync.WaitGroup
	for g := range 4 { // bounded, whoever adds
		wg.Go(func() {
			for i := range maxServerFirst {
				s.Set(at(g*maxServerFirst/2+i), true)
			}
		})
	}
	wg.Wait()
	if n := len(s.m); n != maxServerFirst {
		t.Errorf("%d are remembered, at most %d should be", n, maxServerFirst)
	}
}
