package filter

import (
	"encoding/binary"
	"hash/maphash"
	"strconv"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/route"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// limits turns away what exceeds a rate limit of the rule: one of this sidecar, or else one of a rate limit service. What some limits have let pass and another one has not is given back.
func (f *Filters) limits(x *exchange.Exchange) bool {
	a := x.Decision.Action
	now := time.Now()
	global := false
	for i := range a.Limits {
		l := &a.Limits[i]
		if l.Domain != "" {
			global = true
			continue
		}
		k, ok := f.buckets.key(x, l)
		if !ok {
			continue
		}
		if wait := f.buckets.take(k, l, now); wait > 0 {
			f.giveBack(x, a.Limits[:i])
			exceeded(x, l.Name+": "+strconv.FormatUint(uint64(l.Requests), 10)+" in "+l.Per.String(), wait)
			return false
		}
	}
	if global && !f.askLimiters(x, a.Limits) {
		f.giveBack(x, a.Limits)
		return false
	}
	return true
}

// giveBack gives back what limits of this sidecar have let pass.
func (f *Filters) giveBack(x *exchange.Exchange, limits []route.RateLimit) {
	for i := range limits {
		if l := &limits[i]; l.Domain == "" {
			if k, ok := f.buckets.key(x, l); ok {
				f.buckets.giveBack(k, l)
			}
		}
	}
}

// exceeded turns x away; limit says which one for people.
func exceeded(x *exchange.Exchange, limit string, wait time.Duration) {
	seconds := max(1, int64((wait+time.Second-1)/time.Second))
	x.Answer = append(x.Answer, route.Field{Name: "retry-after", Value: strconv.FormatInt(seconds, 10)})
	x.Outcome.Fail(flow.ReasonRateLimited, "limit "+limit)
}

// bucket keys are hashes with secret seeds: what callers send cannot be made to meet.
type bucketKey [2]uint64

const (
	bucketShards = 16
	maxBuckets   = 32768 // in all; one more replaces the fullest of a few
)

// buckets are token buckets by limit and key. A bucket is the time at which it will be full again, on a clock that starts with the sidecar (the generic cell rate algorithm,
// ITU-T I.371): one that is full says nothing and can be forgotten. Safe for concurrent use.
type buckets struct {
	began  time.Time
	seeds  [2]maphash.Seed
	shards *[bucketShards]bucketShard
}

type bucketShard struct {
	mu sync.Mutex
	m  map[bucketKey]time.Duration // when it is full again
}

func newBuckets() buckets {
	return buckets{began: time.Now(), seeds: [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}, shards: new([bucketShards]bucketShard)}
}

// key is which bucket of l is for x. False: l is not for x.
func (b *buckets) key(x *exchange.Exchange, l *route.RateLimit) (bucketKey, bool) {
	var room [512]byte
	whose := x.Decision.Called // rules of one service share what its policy says of all of them
	if whose == "" {
		whose = x.Decision.Route
	}
	text := append(append(append(room[:0], whose...), 0), l.Name...)
	text = binary.BigEndian.AppendUint32(text, l.Requests) // a limit that is changed begins anew
	text = binary.BigEndian.AppendUint64(text, uint64(l.Per))
	text = binary.BigEndian.AppendUint32(text, l.Burst)
	for i := range l.Keys {
		at := len(text)
		var ok bool
		if text, ok = appendKey(text, x, &l.Keys[i]); !ok {
			return bucketKey{}, false
		}
		text = binary.BigEndian.AppendUint32(text, uint32(len(text)-at)) // no two lists of values are one text
	}
	return bucketKey{maphash.Bytes(b.seeds[0], text), maphash.Bytes(b.seeds[1], text)}, true
}

// appendKey appends what of x a key is made of. False: x has no such field.
func appendKey(dst []byte, x *exchange.Exchange, k *route.Key) ([]byte, bool) {
	switch k.Kind {
	case route.KeyHeader:
		fields, ok := x.Downstream.(exchange.Fields)
		if !ok {
			return dst, false
		}
		for i := 0; ; i++ {
			v, more := fields.Field(k.Name, i)
			switch {
			case !more:
				return dst, i > 0
			case i > 0:
				dst = append(dst, ',')
			}
			dst = append(dst, v...)
		}
	case route.KeySource:
		if at := firstOf(x.Forwarded); len(at) > 0 { // an edge: who is behind the proxies that are trusted
			return append(dst, at...), true
		}
		if x.Peer == nil || !x.Peer.Addr.IsValid() {
			return dst, true
		}
		return x.Peer.Addr.Addr().Unmap().WithZone("").AppendTo(dst), true
	case route.KeyIdentity:
		if x.Side == flow.SideClient && x.Peer.Service == "" && x.Binding.Edge == nil { // the own application
			return append(dst, x.Binding.Workload.Service...), true
		}
		return append(dst, x.Peer.Service...), true
	case route.KeyPath:
		return append(dst, x.Head.Path...), true
	case route.KeyMethod:
		return append(dst, x.Head.Method...), true
	}
	return append(dst, k.Value...), true
}

// firstOf is the first of a list of addresses.
func firstOf(list []byte) []byte {
	for i, c := range list {
		if c == ',' {
			return list[:i]
		}
	}
	return list
}

// rate is how long a token takes to come, and how many tokens a bucket has.
func rate(l *route.RateLimit) (each, whole time.Duration) {
	burst := l.Burst
	if burst == 0 {
		burst = l.Requests
	}
	each = max(l.Per/time.Duration(max(l.Requests, 1)), 1)
	if whole = each * time.Duration(burst); whole/each != time.Duration(burst) {
		whole = 1<<62 - 1
	}
	return each, whole
}

// take takes a token. If there is none it says when there will be one.
func (b *buckets) take(k bucketKey, l *route.RateLimit, now time.Time) (wait time.Duration) {
	each, whole := rate(l)
	at := now.Sub(b.began)
	s := &b.shards[k[0]%bucketShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	full, known := s.m[k]
	full = max(full, at) + each
	if wait = full - whole - at; wait > 0 {
		return wait
	}
	if !known {
		if s.m == nil {
			s.m = make(map[bucketKey]time.Duration)
		}
		if len(s.m) >= maxBuckets/bucketShards {
			s.evictLocked(at)
		}
	}
	s.m[k] = full
	return 0
}

// evictLocked forgets some buckets that are full by now, or the fullest of those it looked at. (Maps are walked from a random place.)
func (s *bucketShard) evictLocked(now time.Duration) {
	looked, fullest, soonest := 0, bucketKey{}, time.Duration(1<<63-1)
	for k, full := range s.m {
		if full <= now {
			delete(s.m, k)
		} else if full < soonest {
			fullest, soonest = k, full
		}
		if looked++; looked == 16 {
			break
		}
	}
	if len(s.m) >= maxBuckets/bucketShards {
		delete(s.m, fullest)
	}
}

// giveBack gives back a token that was taken just now.
func (b *buckets) giveBack(k bucketKey, l *route.RateLimit) {
	each, _ := rate(l)
	s := &b.shards[k[0]%bucketShards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if full, ok := s.m[k]; ok {
		s.m[k] = full - each
	}
}
