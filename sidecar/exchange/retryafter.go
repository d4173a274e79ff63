package exchange

import (
	"net/http"
	"strconv"
	"time"
)

// ParseRetryAfter reads a Retry-After field (RFC 9110, section 10.2.3): whole seconds, or a date, which counts from now. 0 for what is neither, or over.
func ParseRetryAfter(value string, now time.Time) time.Duration {
	if n, err := strconv.ParseUint(value, 10, 32); err == nil {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(now), 0)
	}
	return 0
}

// Never is RetryAfter of an endpoint that wants a request not to be sent again, to nobody.
const Never time.Duration = -1

// ParsePushback reads a grpc-retry-pushback-ms field (gRFC A6): milliseconds; Never for what is none, a negative number above all.
func ParsePushback(value string) time.Duration {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return Never
	}
	return time.Duration(n) * time.Millisecond
}
