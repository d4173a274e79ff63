package flow

import "fmt"

var (
	kindNames     = [...]string{"", "exchange", "attempt", "connection"}
	phaseNames    = [...]string{"close", "progress"}
	endedNames    = [numEnded]string{"", "downstream_fin", "upstream_fin", "downstream_reset", "upstream_reset", "idle", "drained", "error"}
	sideNames     = [...]string{"", "client", "server"}
	protocolNames = [...]string{"", "tcp", "tls", "http/1.1", "h2", "grpc", "http", "auto"}
	classNames    = [...]string{"none", "1xx", "2xx", "3xx", "4xx", "5xx"}
)

func name[T ~uint8](names []string, v T) string {
	if int(v) >= len(names) {
		return "invalid"
	}
	return names[v]
}

func parse[T ~uint8](names []string, s string) (T, bool) {
	for i, n := range names {
		if n == s && n != "" {
			return T(i), true
		}
	}
	return 0, false
}

func unmarshal[T ~uint8](v *T, what string, names []string, text []byte) error {
	for i, n := range names {
		if n == string(text) {
			*v = T(i)
			return nil
		}
	}
	return fmt.Errorf("flow: %q is not a %s; known are %q", text, what, names)
}

// String is the wire name, "" for the zero value and "invalid" outside the set; likewise for the other closed sets below. Parse
// functions are its inverse and report false for "" and anything unknown. The text form (JSON) is the wire name, "" being the zero value.
func (k Kind) String() string                { return name(kindNames[:], k) }
func (k Kind) MarshalText() ([]byte, error)  { return []byte(k.String()), nil }
func (k *Kind) UnmarshalText(b []byte) error { return unmarshal(k, "kind", kindNames[:], b) }

// ParseKind is the inverse of Kind.String.
func ParseKind(s string) (Kind, bool) { return parse[Kind](kindNames[:], s) }

func (p Phase) String() string                { return name(phaseNames[:], p) }
func (p Phase) MarshalText() ([]byte, error)  { return []byte(p.String()), nil }
func (p *Phase) UnmarshalText(b []byte) error { return unmarshal(p, "phase", phaseNames[:], b) }

// ParsePhase is the inverse of Phase.String.
func ParsePhase(s string) (Phase, bool) { return parse[Phase](phaseNames[:], s) }

func (s Side) String() string                { return name(sideNames[:], s) }
func (s Side) MarshalText() ([]byte, error)  { return []byte(s.String()), nil }
func (s *Side) UnmarshalText(b []byte) error { return unmarshal(s, "side", sideNames[:], b) }

// ParseSide is the inverse of Side.String.
func ParseSide(s string) (Side, bool) { return parse[Side](sideNames[:], s) }

func (e Ended) String() string                { return name(endedNames[:], e) }
func (e Ended) MarshalText() ([]byte, error)  { return []byte(e.String()), nil }
func (e *Ended) UnmarshalText(b []byte) error { return unmarshal(e, "ended", endedNames[:], b) }

// ParseEnded is the inverse of Ended.String.
func ParseEnded(s string) (Ended, bool) { return parse[Ended](endedNames[:], s) }

func (p Protocol) String() string               { return name(protocolNames[:], p) }
func (p Protocol) MarshalText() ([]byte, error) { return []byte(p.String()), nil }
func (p *Protocol) UnmarshalText(b []byte) error {
	return unmarshal(p, "protocol", protocolNames[:], b)
}

// ParseProtocol is the inverse of Protocol.String.
func ParseProtocol(s string) (Protocol, bool) { return parse[Protocol](protocolNames[:], s) }

func (r Reason) MarshalText() ([]byte, error)  { return []byte(r.String()), nil }
func (r *Reason) UnmarshalText(b []byte) error { return unmarshal(r, "reason", reasonNames[:], b) }

// CodeClass is the first digit of an HTTP status, as counters carry it. Record.Class says which status.
type CodeClass uint8

// ClassNone stands for no response head; 1 to 5 stand for themselves.
const ClassNone CodeClass = 0

// Class of a status; ClassNone for 0 and anything outside 100 to 599.
func Class(status int) CodeClass {
	if status < 100 || status > 599 {
		return ClassNone
	}
	return CodeClass(status / 100)
}

// String is "2xx" and so on, "none" without a response head.
func (c CodeClass) String() string { return name(classNames[:], c) }

// ParseCodeClass is the inverse of CodeClass.String.
func ParseCodeClass(s string) (CodeClass, bool) { return parse[CodeClass](classNames[:], s) }
