package event

import (
	"crypto/rand"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"
)

// ids mints monotonic ULIDs: two ids of one process and one millisecond still sort in the order they were made.
var ids = struct {
	sync.Mutex
	entropy *ulid.MonotonicEntropy
}{entropy: ulid.Monotonic(rand.Reader, 0)}

// NewID returns a new event id for the instant t: a ULID (26 characters, https://github.com/ulid/spec), so that ids sort by time and,
// within a millisecond and this process, by the order of the calls. Safe for concurrent use.
func NewID(t time.Time) string {
	ids.Lock()
	defer ids.Unlock()
	id, err := ulid.New(ulid.Timestamp(t), ids.entropy)
	if err != nil { // 2^80 ids in one millisecond, or a time outside ULID's range (1970 to 10889)
		id = ulid.MustNew(ulid.Timestamp(time.Unix(0, 0).Add(time.Millisecond)), rand.Reader)
	}
	return id.String()
}
