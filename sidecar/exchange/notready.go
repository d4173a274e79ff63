package exchange

// errNotReady is what a Socket that is held gives when there is nothing to read. It is temporary, so that TLS above it goes on afterwards.
var errNotReady error = notReady{}

type notReady struct{}

// Error implements error.
func (notReady) Error() string { return "nothing to read yet" }

// Timeout implements net.Error.
func (notReady) Timeout() bool { return true }

// Temporary implements net.Error.
func (notReady) Temporary() bool { return true }
