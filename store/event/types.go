// Package event keeps what happened and why: ejections, readmissions, configuration revisions, certificates, alerts, damaged files,
// reporters that vanished. Events are few and kept long; each explains itself.
package event

import "time"

// Kind is the closed vocabulary of events.
type Kind string

const (
	KindEjected      Kind = "endpoint.ejected"
	KindReadmitted   Kind = "endpoint.readmitted"
	KindReflex       Kind = "endpoint.reflex" // a sidecar has ejected an endpoint by itself, for a moment
	KindWeight       Kind = "endpoint.weight"
	KindSaturated    Kind = "service.saturated" // most endpoints are bad: shed, nothing is ejected
	KindConfig       Kind = "config.applied"
	KindConfigBad    Kind = "config.refused"
	KindConnected    Kind = "proxy.connected"
	KindDisconnected Kind = "proxy.disconnected"
	KindNack         Kind = "proxy.nack"
	KindReporterLost Kind = "reporter.missing"
	KindReporterBack Kind = "reporter.back"
	KindCertificate  Kind = "certificate.issued"
	KindAlertFiring  Kind = "alert.firing"
	KindAlertOK      Kind = "alert.resolved"
	KindTraceBreak   Kind = "trace.broken"
	KindClock        Kind = "clock.skew"
	KindStore        Kind = "store.damage"
	KindDisk         Kind = "store.disk"
	KindOverflow     Kind = "collector.overflow" // an application has more names than the collector tells apart
	KindDeploy       Kind = "deploy"
)

// Kinds lists the vocabulary.
func Kinds() []Kind {
	return []Kind{
		KindEjected, KindReadmitted, KindReflex, KindWeight, KindSaturated, KindConfig, KindConfigBad, KindConnected, KindDisconnected, KindNack, KindReporterLost, KindReporterBack, KindCertificate,
		KindAlertFiring, KindAlertOK, KindTraceBreak, KindClock, KindStore, KindDisk, KindOverflow, KindDeploy,
	}
}

// Routine reports whether events of this kind are the ordinary coming and going of a mesh, which summaries leave out so that decisions are seen.
func (k Kind) Routine() bool { return k == KindConnected || k == KindCertificate }

// Event is one thing that happened. Message alone must make sense to a person; the rest lets them check it.
type Event struct {
	ID       string            `json:"id"` // ULID-like: sorts by time; unique
	Time     time.Time         `json:"time"`
	Kind     Kind              `json:"kind"`
	Severity string            `json:"severity"` // info | warning | error
	Service  string            `json:"service,omitempty"`
	Endpoint string            `json:"endpoint,omitempty"`
	Instance string            `json:"instance,omitempty"`
	Message  string            `json:"message"`            // one sentence in plain words
	Reason   string            `json:"reason,omitempty"`   // closed vocabulary of the deciding part
	Evidence map[string]string `json:"evidence,omitempty"` // figure name -> figure with its unit
	Revision string            `json:"revision,omitempty"` // policy revision that judged
	Override string            `json:"override,omitempty"`
	Expires  *time.Time        `json:"expires,omitempty"`
	Traces   []string          `json:"traces,omitempty"` // example trace ids
}

// Query selects events, newest first. Zero fields do not restrict.
type Query struct {
	Kind       Kind
	Service    string
	Start, End time.Time
	Limit      int    // default 100, at most 10,000
	Before     string // keyset: events with ID < Before
}
