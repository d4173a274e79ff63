// Package http1 speaks HTTP/1.1 (RFC 9112) on both sides of an exchange: Server turns a downstream connection into Exchanges, Sender sends
// an Exchange over an upstream connection and relays the response.
//
// Shape. One goroutine carries a downstream connection and everything that happens to its exchanges, upstream I/O included. A head is
// parsed once, in place, into offsets; it is written once, with the trace context spliced in; body bytes pass through pooled buffers, and
// chunked framing is checked and passed on as it came. A second goroutine exists only while a request body that had not arrived with its
// head is being uploaded, or while an upgraded connection is relayed. Buffers are taken when bytes arrive and given back when a connection
// is idle.
//
// Bridges. Where the other side of an exchange speaks another version of HTTP, a connection is an exchange.Caller for that version's sender (caller.go), and Sender makes a
// try for that version's exchange.Caller (foreign.go). Both use what parses, frames and judges here as ever; an exchange that is HTTP/1.1 on both sides touches nothing of them.
//
// What must stay true:
//  1. A request whose head was parsed becomes exactly one Exchange and gets exactly one answer as long as the caller is there.
//  2. Every byte that is passed on was checked first: no peer sees framing that we did not agree with.
//  3. A head's bytes do not move until its exchange has ended, because Exchange.Head aliases them.
//  4. The uploading goroutine has ended before Sender.Handle returns.
//  5. A connection that was not left in a known state is never used again.
//  6. What is decided on is what the service sees: a path has one form (normalPath), the target's authority is the Host that is sent, and
//     fields that frame or route are sent without white space that peers read differently.
package http1
