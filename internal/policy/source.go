package policy

// Source yields the Snapshot in force. Implemented by sidecar/watch (xDS) and by tests. Safe for concurrent use.
type Source interface {
	// Current is never nil once the source is ready; before that it is nil. It does not block.
	Current() *Snapshot
	// Changed returns a channel that is closed at the next change after the call; take it before reading Current to miss nothing.
	Changed() <-chan struct{}
}

// Static is a Source that never changes.
type Static struct{ Snapshot *Snapshot }

func (s Static) Current() *Snapshot       { return s.Snapshot }
func (s Static) Changed() <-chan struct{} { return nil }
