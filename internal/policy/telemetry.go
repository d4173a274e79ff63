package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

// Telemetry is what a sidecar is told about what it may write down, and how it passes trace context on. The zero value is the default: no header
// field leaves the sidecar but those that every Record has.
type Telemetry struct {
	// Headers names the header fields, in lower case, whose values become attributes of exchanges; at most flow.MaxHeaderNames.
	Headers []string
	// Accept lists the kinds of trace context that are read, the first valid one wins. Empty: PropagateW3C, then PropagateB3.
	Accept []string
	// Emit lists the kinds that are written; it must hold PropagateW3C, by which sidecars link their spans. Empty: PropagateW3C, and B3 in the form
	// in which it arrived, if it did.
	Emit []string
}

// Kinds of trace context. In Accept PropagateB3 means both of its forms.
const (
	PropagateW3C     = "w3c"      // traceparent, tracestate
	PropagateB3      = "b3"       // one field, b3
	PropagateB3Multi = "b3-multi" // X-B3-TraceId and its siblings; only in Emit
)

// secretNames are fields that carry credentials; secretParts are parts of names that say so.
var (
	secretNames = []string{"cookie2", "x-forwarded-client-cert", "x-amz-security-token", "x-csrf", "x-xsrf"}
	secretParts = []string{"authoriz", "authenticat", "cookie", "token", "secret", "passw", "api-key", "apikey", "credential", "session", "signature", "private"}
)

// Check refuses names that are no field names or carry credentials, and unknown kinds of trace context. Errors begin with the field.
func (t Telemetry) Check() error {
	if n := len(t.Headers); n > flow.MaxHeaderNames {
		return fmt.Errorf("headers: has %d names, at most %d are kept; remove some", n, flow.MaxHeaderNames)
	}
	for i, name := range t.Headers {
		field := fmt.Sprintf("headers[%d]", i)
		if len(name) == 0 || len(name) > 64 || strings.Trim(name, "abcdefghijklmnopqrstuvwxyz0123456789-_.") != "" {
			return fmt.Errorf("%s: %q is not a header name: want 1 to 64 of a-z, 0-9, dash, underscore and dot", field, name)
		}
		part := slices.IndexFunc(secretParts, func(p string) bool { return strings.Contains(name, p) })
		if part >= 0 || slices.Contains(secretNames, name) {
			return fmt.Errorf("%s: %q is refused: a field of that name carries credentials, which never leave a sidecar; remove it", field, name)
		}
		if slices.Contains(t.Headers[:i], name) {
			return fmt.Errorf("%s: %q is listed twice; remove one", field, name)
		}
	}
	for _, l := range []struct {
		field  string
		values []string
		known  []string
	}{
		{"propagation.accept", t.Accept, []string{PropagateW3C, PropagateB3}},
		{"propagation.emit", t.Emit, []string{PropagateW3C, PropagateB3, PropagateB3Multi}},
	} {
		for i, v := range l.values {
			if !slices.Contains(l.known, v) {
				return fmt.Errorf("%s[%d]: %q is not one of %s", l.field, i, v, strings.Join(l.known, ", "))
			}
			if slices.Contains(l.values[:i], v) {
				return fmt.Errorf("%s[%d]: %q is listed twice; remove one", l.field, i, v)
			}
		}
	}
	if len(t.Emit) > 0 && !slices.Contains(t.Emit, PropagateW3C) {
		return fmt.Errorf("propagation.emit: %s is missing; sidecars link their spans by it, so add it", PropagateW3C)
	}
	return nil
}

// IsZero reports whether t is the default.
func (t Telemetry) IsZero() bool { return len(t.Headers)+len(t.Accept)+len(t.Emit) == 0 }

func (t Telemetry) toXDS() *tullev1.Telemetry {
	if t.IsZero() {
		return nil
	}
	return &tullev1.Telemetry{Headers: t.Headers, Accept: t.Accept, Emit: t.Emit}
}

func telemetryFromXDS(x *tullev1.Telemetry) (Telemetry, error) {
	t := Telemetry{Headers: x.GetHeaders(), Accept: x.GetAccept(), Emit: x.GetEmit()}
	if err := t.Check(); err != nil {
		return Telemetry{}, fmt.Errorf("telemetry: %w", err)
	}
	return t, nil
}
