package http1

import (
	"sync"

	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

var workPool = sync.Pool{New: func() any { return &work{uploaded: make(chan upload, 1)} }}

func (c *conn) takeWork() {
	if c.w == nil {
		c.w = workPool.Get().(*work)
		c.w.out = getBytes(smallBuffer)[:0]
	}
}

func (c *conn) dropWork() {
	w := c.w
	if w == nil {
		return
	}
	c.w = nil
	w.up.release()
	putBytes(w.out)
	w.out = nil
	w.body.release()
	w.leftover = w.leftover[:0]
	w.req.buf, w.resp.buf = nil, nil
	x := &w.x
	if x.Aborted() != 0 { // stays in force for this connection, not for the next owner
		return
	}
	x.Reset()
	x.Peer, x.Binding, x.Downstream = nil, nil, nil
	workPool.Put(w)
}

var _ exchange.Downstream = (*conn)(nil)
