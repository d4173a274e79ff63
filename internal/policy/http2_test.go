package policy

import (
	"testing"
	"time"
)

func TestHTTP2Check(t *testing.T) {
	for _, c := range []struct {
		name string
		l    HTTP2
		bad  string
	}{
		{"defaults", HTTP2{}, ""},
		{"no end", HTTP2{PingInterval: -1}, ""},
		{"a window above the default of the connection", HTTP2{StreamWindow: 4 << 20}, ""},
		{"connection below stream", HTTP2{StreamWindow: 4 << 20, ConnectionWindow: 1 << 20}, "connection window 1048576: must be from 4194304 to 1073741824"},
		{"streams", HTTP2{Streams: -1}, "streams -1: must be from 1 to 1048576"},
		{"window", HTTP2{StreamWindow: 100}, "stream window 100: must be from 1024 to 16777216"},
		{"age", HTTP2{Age: time.Millisecond}, "age 1ms: must be from 1s to 24h0m0s"},
		{"timeout", HTTP2{PingTimeout: -1}, "ping timeout -1ns: must be from 10ms to 24h0m0s"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ""
			if err := c.l.Check(); err != nil {
				got = err.Error()
			}
			if got != c.bad {
				t.Errorf("Check() = %q, want %q", got, c.bad)
			}
		})
	}
}
