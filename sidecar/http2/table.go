package http2

// table finds a connection's streams by their ids. Streams come and go in order, mostly, so that the buckets stay short.
type table struct {
	buckets []*stream
	n       int
}

func (t *table) init() { t.buckets = make([]*stream, 16) }

func (t *table) bucket(id uint32) *(*stream) { return &t.buckets[int(id>>1)&(len(t.buckets)-1)] }

func (t *table) get(id uint32) *stream {
	s := *t.bucket(id)
	for s != nil && s.id != id {
		s = s.next
	}
	return s
}

func (t *table) add(s *stream) {
	if t.n++; t.n > len(t.buckets) {
		old := t.buckets
		t.buckets = make([]*stream, 2*len(old))
		for _, s := range old {
			for s != nil {
				next := s.next
				b := t.bucket(s.id)
				s.next, *b = *b, s
				s = next
			}
		}
	}
	b := t.bucket(s.id)
	s.next, *b = *b, s
}

// remove reports whether s was there.
func (t *table) remove(s *stream) bool {
	for at := t.bucket(s.id); *at != nil; at = &(*at).next {
		if *at == s {
			*at, s.next = s.next, nil
			t.n--
			return true
		}
	}
	return false
}

func (t *table) each(f func(*stream)) {
	for _, s := range t.buckets {
		for s != nil {
			next := s.next
			f(s)
			s = next
		}
	}
}
