package flow

import "strconv"

// GRPCStatus is the status of a gRPC call (https://github.com/grpc/grpc/blob/master/doc/statuscodes.md) plus one, so that its zero value means
// that there was none: the call was not gRPC, or ended without saying how.
type GRPCStatus uint8

// NewGRPCStatus is the status with a code; codes that nobody has defined are UNKNOWN (2), as clients take them.
func NewGRPCStatus(code uint64) GRPCStatus {
	if code >= uint64(len(grpcNames)) {
		code = 2
	}
	return GRPCStatus(code + 1)
}

// Code is 0 (OK) to 16; false when there is none.
func (s GRPCStatus) Code() (code int, ok bool) { return int(s) - 1, s != 0 && int(s) <= len(grpcNames) }

// String is the code's name ("UNAVAILABLE"), or "" when there is none.
func (s GRPCStatus) String() string {
	code, ok := s.Code()
	switch {
	case ok:
		return grpcNames[code]
	case s == 0:
		return ""
	}
	return strconv.Itoa(code)
}

var grpcNames = [...]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
	"FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}
