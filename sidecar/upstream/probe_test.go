//go:build unix

package upstream

import (
	"io"
	"net"
	"testing"

	"github.com/tulle-mesh/tulle/internal/testmesh"
)

// TestProbe: a probe sees a byte and an end of stream, takes nothing, and costs no allocation.
func TestProbe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer near.Close()
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var p probe
	p.of(near)
	if n := testing.AllocsPerRun(100, func() {
		if !p.quiet() {
			t.Error("nothing has happened, but it is not quiet")
		}
	}); n != 0 {
		t.Errorf("%v allocations, want 0", n)
	}
	_, _ = io.WriteString(far, "x")
	testmesh.Eventually(t, "the byte to be seen", func() bool { return !p.quiet() })
	if b := make([]byte, 1); p.quiet() {
		t.Error("the byte was forgotten")
	} else if _, err := near.Read(b); err != nil || b[0] != 'x' || !p.quiet() {
		t.Errorf("the byte was taken: %q, %v", b, err)
	}
	_ = far.Close()
	testmesh.Eventually(t, "the end to be seen", func() bool { return !p.quiet() })
	var none probe
	none.of(nil)
	if !none.quiet() {
		t.Error("a connection in memory is not quiet")
	}
}
