// Package closedrun proves that the counts are exact: a bounded run through real sidecars with refusals, time-outs, resets, callers that
// leave and one sidecar killed, after which the identities of docs/format/record.md must hold for every edge, to the last request.
// It holds tests only.
package closedrun
