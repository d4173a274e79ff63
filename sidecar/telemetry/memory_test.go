package telemetry

import "testing"

func TestMemory(t *testing.T) {
	m := newMemory()
	held := make([]byte, 64<<20)
	for i := range held {
		held[i] = 1
	}
	if n := m.bytes(); n < 64<<20 || n > 4<<30 {
		t.Errorf("%d bytes with 64 MiB held", n)
	}
	m.close()
	m.statm = nil // where there is no proc(5)
	if n := m.bytes(); n < 64<<20 || n > 4<<30 {
		t.Errorf("the runtime says %d bytes with 64 MiB held", n)
	}
	if held[len(held)-1] != 1 {
		t.Error("gone")
	}
}
