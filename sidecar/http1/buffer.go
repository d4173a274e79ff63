package http1

import (
	"io"
	"sync"
)

// buffer is what was read from a connection and not yet passed on: b[r:w]. Its memory comes from pools and is held only while there is
// something in it. Bytes before r stay where they are until compact or grow, because heads are parsed in place.
type buffer struct {
	b    []byte
	r, w int
}

const (
	smallBuffer  = 4 << 10
	mediumBuffer = 16 << 10
	largeBuffer  = MaxHeadBytes + 4<<10
)

var (
	smallPool  = sync.Pool{New: func() any { return new([smallBuffer]byte) }}
	mediumPool = sync.Pool{New: func() any { return new([mediumBuffer]byte) }}
	largePool  = sync.Pool{New: func() any { return new([largeBuffer]byte) }}
)

func getBytes(n int) []byte {
	switch {
	case n <= smallBuffer:
		return smallPool.Get().(*[smallBuffer]byte)[:]
	case n <= mediumBuffer:
		return mediumPool.Get().(*[mediumBuffer]byte)[:]
	case n <= largeBuffer:
		return largePool.Get().(*[largeBuffer]byte)[:]
	}
	return make([]byte, n)
}

func putBytes(b []byte) {
	switch b = b[:cap(b)]; cap(b) {
	case smallBuffer:
		smallPool.Put((*[smallBuffer]byte)(b))
	case mediumBuffer:
		mediumPool.Put((*[mediumBuffer]byte)(b))
	case largeBuffer:
		largePool.Put((*[largeBuffer]byte)(b))
	}
}

func (u *buffer) unread() []byte { return u.b[u.r:u.w] }

// acquire makes sure that there is memory.
func (u *buffer) acquire(n int) {
	if u.b == nil {
		u.b = getBytes(n)
		u.r, u.w = 0, 0
	}
}

// release gives the memory back; what was unread is lost.
func (u *buffer) release() {
	if u.b != nil {
		putBytes(u.b)
		u.b, u.r, u.w = nil, 0, 0
	}
}

// compact moves what is unread to the front. It invalidates heads.
func (u *buffer) compact() {
	if u.r > 0 {
		u.w = copy(u.b, u.b[u.r:u.w])
		u.r = 0
	}
}

// next is the size that grow makes; 0: it is as large as it gets.
func (u *buffer) next() int {
	switch {
	case len(u.b) >= largeBuffer:
		return 0
	case len(u.b) >= mediumBuffer:
		return largeBuffer
	}
	return mediumBuffer
}

// grow moves what is unread to the front of a larger buffer. It invalidates heads. False: it is as large as it gets.
func (u *buffer) grow() bool {
	n := u.next()
	if n == 0 {
		return false
	}
	b := getBytes(n)
	w := copy(b, u.b[u.r:u.w])
	putBytes(u.b)
	u.b, u.r, u.w = b, 0, w
	return true
}

// append adds bytes that were read elsewhere (only as many as fit in the largest buffer ever are). It invalidates heads.
func (u *buffer) append(p []byte) {
	u.acquire(len(p))
	u.compact()
	if need := u.w + len(p); need > len(u.b) {
		b := getBytes(need)
		copy(b, u.b[:u.w])
		putBytes(u.b)
		u.b = b
	}
	u.w += copy(u.b[u.w:], p)
}

// fill reads once.
func (u *buffer) fill(src io.Reader) (int, error) {
	n, err := src.Read(u.b[u.w:])
	u.w += n
	if n > 0 {
		return n, nil // the error, if any, comes again
	}
	if err == nil {
		err = io.ErrNoProgress
	}
	return 0, err
}
