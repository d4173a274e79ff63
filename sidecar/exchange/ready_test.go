package exchange

import (
	"errors"
	"io"
	"net"
	"runtime"
	"testing"
)

func TestReadReady(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // it says never
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	a, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	tcp := a.(*net.TCPConn)
	buf := make([]byte, 8)
	if n, ready, err := ReadReady(tcp, buf); n != 0 || ready || err != nil {
		t.Fatalf("nothing was sent: %d, %v, %v", n, ready, err)
	}
	if _, err := c.Write([]byte("abc")); err != nil {
		t.Fatal(err)
	}
	one := make([]byte, 1)
	if _, err := io.ReadFull(a, one); err != nil { // it has arrived
		t.Fatal(err)
	}
	if n, ready, err := ReadReady(tcp, buf); string(buf[:n]) != "bc" || !ready || err != nil {
		t.Fatalf("got %q, %v, %v", buf[:n], ready, err)
	}
	_ = c.Close()
	if n, err := a.Read(buf); n != 0 || !errors.Is(err, io.EOF) {
		t.Fatalf("got %d, %v", n, err)
	}
	if n, ready, err := ReadReady(tcp, buf); n != 0 || !ready || !errors.Is(err, io.EOF) {
		t.Fatalf("after the end: %d, %v, %v", n, ready, err)
	}
	_ = a.Close()
	if _, ready, err := ReadReady(tcp, buf); !ready || err == nil {
		t.Fatalf("closed: %v, %v", ready, err)
	}
}
