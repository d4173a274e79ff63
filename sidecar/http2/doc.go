// Package http2 speaks HTTP/2 (RFC 9113) on both sides of a sidecar: Server serves callers, Client keeps the connections to endpoints, and Sender is
// the last handler of the path between them.
//
// # Who does what
//
// Every connection has one goroutine that reads it. It handles all frames that are there and then writes, once, what they have made it append to
// any connection. A stream's bytes never cross a channel: whoever reads them appends them to the buffer of the connection they leave by. The steps
// of a sidecar are synchronous, so each stream of a caller is carried by a worker, a goroutine that is kept for the next stream when its own has
// ended. The worker wakes to run the steps and send the head, sleeps in the Sender while frames pass beside it, and wakes again when the try has ended.
//
// A call is one stream of a caller with the stream of its current try. It has two lanes, one for each direction. What arrives on a lane goes on at
// once as far as the windows of the leaving connection allow; the rest waits in the lane.
//
// Where the other side of an exchange speaks HTTP/1.1, goroutines move what frames cannot: a call whose endpoint does is an exchange.Caller (caller.go),
// and a guest (guest.go) is a call whose caller does. Both leave the lanes, and all that frames do to them, as they are.
//
// # What stays true
//
//  1. Locks: a call's before a connection's, never two connections' at a time, and none across a read, a write or a step.
//  2. A peer gets credit for its stream when its bytes have moved to the buffer of the connection they leave by, which holds at most maxOut bytes of
//     bodies. A stream that stalls therefore holds at most its own window, and stops nobody but its own sender.
//  3. A peer gets credit for its connection at once, so that a stalled stream does not starve its siblings, unless the sidecar's Room is tight:
//     then as for the stream. What waits is bounded by streams × window, and taken from the Room.
//  4. While a worker sleeps in the Sender, its Exchange belongs to whoever holds the call's lock. At all other times it belongs to the worker. On a bridge
//     it belongs to the goroutine of the exchange throughout, but for its counters.
//  5. One goroutine writes to a connection at a time: the one that has set conn.writing. A reader never waits for the writing of another connection:
//     what a socket does not take at once is left to the connection's own writer.
//  6. Each end of a lane is moved by frames, or by the one goroutine that its mover tells.
//  7. A stream is told apart from an earlier user of the same memory by its id, which is looked at again under the call's lock.
package http2
