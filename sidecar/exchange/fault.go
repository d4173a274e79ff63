package exchange

// Fault is a message that is not valid, with the status that its sender is answered with.
type Fault struct {
	Status int
	Text   string // what is wrong and where that is said, for people
}

func (f *Fault) Error() string { return f.Text }

// Faults of a request's target, in every version of HTTP.
var (
	FaultTarget  = &Fault{Status: 400, Text: "the request target is malformed (RFC 9112, section 3.2)"}
	FaultEscape  = &Fault{Status: 400, Text: "the path has a malformed percent escape, or a %00 (RFC 3986, section 2.1)"}
	FaultRoot    = &Fault{Status: 400, Text: "the path leaves the root with \"..\" (RFC 3986, section 5.2.4)"}
	FaultDots    = &Fault{Status: 400, Text: "the path hides a dot segment behind an encoded slash or a parameter"}
	FaultConnect = &Fault{Status: 400, Text: "the target of CONNECT is not exactly host:port (RFC 9112, section 3.2.3)"}
)
