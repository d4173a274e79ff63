package exchange

import (
	"strconv"
	"time"
)

// What one hop tells the next about the request, beside its trace.
const (
	// AttemptField is what a sidecar tells the sidecar that it calls, over mTLS only, of a request that somebody has sent before: which try of it this is, 2 or more, of all sidecars on its way
	// together. It is absent for a first try.
	AttemptField = "x-tulle-attempt"
	// MirrorField is "1" in a request that is a copy of another one, whose answer nobody sees. Sidecars believe it of each other, and pass it on to the application.
	MirrorField = "x-tulle-mirror"
	// TimeoutField is how many milliseconds the sender will wait for the answer, from when it sent the request. Applications set it, and get what is left.
	TimeoutField = "x-request-timeout-ms"
	// EnvoyTimeoutField is the same in Envoy's words.
	EnvoyTimeoutField = "x-envoy-expected-rq-timeout-ms"
)

// Timed is in what words a caller has said how long it will wait; in these it goes on.
type Timed uint8

// Bits of Timed.
const (
	TimedGRPC  Timed = 1 << iota // grpc-timeout
	TimedHTTP                    // TimeoutField
	TimedEnvoy                   // EnvoyTimeoutField
)

// maxAttempt bounds what is believed of AttemptField.
const maxAttempt = 99

// ParseAttempt reads AttemptField; 0 for what is none.
func ParseAttempt(v string) int {
	n, err := strconv.ParseUint(v, 10, 8)
	if err != nil || n < 2 || n > maxAttempt {
		return 0
	}
	return int(n)
}

// ParseMillis reads TimeoutField; 0 for what is no number of milliseconds above 0 that fits in a day.
func ParseMillis(v string) time.Duration {
	n, err := strconv.ParseUint(v, 10, 32)
	if d := time.Duration(n) * time.Millisecond; err == nil && d <= 24*time.Hour {
		return d
	}
	return 0
}

// AppendMillis appends d as TimeoutField has it, rounded up, for 0 would be none.
func AppendMillis(dst []byte, d time.Duration) []byte {
	return strconv.AppendInt(dst, int64((d+time.Millisecond-1)/time.Millisecond), 10)
}

// TakeTimeout adopts one of the timeout fields of HTTP. False: its value is none, and goes on as it is.
func (h *Head) TakeTimeout(as Timed, value string) bool {
	d := ParseMillis(value)
	if d == 0 {
		return false
	}
	if h.Timed |= as; h.Timeout <= 0 || d < h.Timeout {
		h.Timeout = d
	}
	return true
}

// EachHop calls f for the fields of HTTP that tell the next hop of time and tries, as of a try that is sent at now.
func (x *Exchange) EachHop(now time.Time, f func(name, value string)) {
	if n := x.Attempt(); n > 1 && x.Destination != nil && x.Destination.MTLS {
		f(AttemptField, strconv.Itoa(n))
	}
	if x.Head.Mirror {
		f(MirrorField, "1")
	}
	if x.Head.Timed&(TimedHTTP|TimedEnvoy) == 0 {
		return
	}
	left := Aliased(AppendMillis(nil, x.Left(now)))
	if x.Head.Timed&TimedHTTP != 0 {
		f(TimeoutField, left)
	}
	if x.Head.Timed&TimedEnvoy != 0 {
		f(EnvoyTimeoutField, left)
	}
}

// Hops reports whether EachHop has anything to say.
func (x *Exchange) Hops() bool {
	return x.Head.Timed&(TimedHTTP|TimedEnvoy) != 0 || x.Head.Attempt > 1 || x.Retries > 0 || x.Head.Mirror
}

// Attempt is which try of the request this is, of all sidecars on its way together; 1: the first.
func (x *Exchange) Attempt() int { return min(max(x.Head.Attempt, 1)+x.Retries, maxAttempt) }
