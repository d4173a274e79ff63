package flow

import "time"

// Detection is what became of one connection whose protocol was to be told from its first bytes. Connections whose protocol is declared, or was told by the caller's sidecar,
// have none.
type Detection struct {
	Side        Side
	Destination string // service name; "" for the passthrough
	Port        uint16 // that the caller called
	Protocol    Protocol
	Outcome     DetectionOutcome
	Took        time.Duration // of the look, at most the time-out and what the scheduler adds
}

// DetectionOutcome says how a Detection came to its Protocol.
type DetectionOutcome uint8

const (
	// DetectionTold: the first bytes told.
	DetectionTold DetectionOutcome = iota + 1
	// DetectionTimeout: the time-out passed first. Protocol is what it was taken for, or what the caller has spoken since.
	DetectionTimeout
	// DetectionRemembered: nothing was waited for, because the server is known to speak first.
	DetectionRemembered
	// DetectionLeft: the caller ended or left, or the sidecar drained, before anything was told; Protocol is 0 unless the server spoke all the same.
	DetectionLeft
)

var detectionNames = [...]string{"", "told", "timeout", "remembered", "left"}

// String is the outcome as metrics have it.
func (o DetectionOutcome) String() string { return name(detectionNames[:], o) }
