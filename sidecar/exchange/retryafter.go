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

// ParsePushback reads a grpc-retry-pushback-ms field (gRFC A6): milliseconds. 0 for anything else: a negative number means "never", which says nothing of others.
func ParsePushback(value string) time.Duration {
	n, err := strconv.ParseUint(value, 10, 31)
	if err != nil {
		return 0
	}
	return time.Duration(n) * time.Millisecond
}
