// Package flow holds the Record: what a sidecar saw of one exchange, one attempt or one connection.
//
// A Record is the one wide event from which every view is made: the RED counters, the access log line, the span,
// the edge of the graph and the evidence of the outlier advisor. Its fields, units and attribute names are specified
// in docs/format/record.md; that page and this package change together.
//
// The package depends on nothing but the standard library and protobuf's wire helpers, because it is part of the data
// plane. The mapping out (Record to OTLP bytes) lives here; the mapping in (pdata to Record) lives in flow/otlpin, which the
// sidecar does not import.
package flow
