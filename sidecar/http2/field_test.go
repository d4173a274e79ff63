package http2

import (
	"math/rand/v2"
	"testing"
	"time"
)

// What goes on as a grpc-timeout is what is left, rounded up by less than one unit of eight digits, and can be read again.
func TestTimeouts(t *testing.T) {
	for d, want := range map[time.Duration]string{
		1: "1n", 99_999_999: "99999999n", 100_000_000: "100000u", 100_000_001: "100001u", 3 * time.Hour: "10800000m", 1<<63 - 1: "2562048H",
		99_999_999 * time.Minute: "99999999M",
	} {
		if got := string(appendTimeout(nil, d)); got != want {
			t.Errorf("%d is written %s, want %s", d, got, want)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		d := time.Duration(r.Int64()>>r.IntN(62)) | 1
		s := string(appendTimeout(nil, d))
		if got := parseTimeout(s); got < d || got-d > max(d/1000, time.Hour) || len(s) > 9 {
			t.Fatalf("%s is written %s, which is %s", d, s, got)
		}
	}
	for _, s := range []string{"", "1", "S", "123456789S", "1s", "-1S", "1.5S", "1 S"} {
		if got := parseTimeout(s); got != 0 {
			t.Errorf("%q is read as %s", s, got)
		}
	}
}
