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

// ReadGRPCStatus reads the value of a grpc-status; 0 when it is empty. What is no number is UNKNOWN, as clients take it.
func ReadGRPCStatus(value string) GRPCStatus {
	if value == "" {
		return 0
	}
	code, err := strconv.ParseUint(value, 10, 32)
	if err != nil {
		code = 2
	}
	return NewGRPCStatus(code)
}

// ParseGRPCStatus is the inverse of GRPCStatus.String; false for "" and what is no name of a code.
func ParseGRPCStatus(name string) (GRPCStatus, bool) {
	for code, n := range grpcNames {
		if n == name {
			return GRPCStatus(code + 1), true
		}
	}
	return 0, false
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

// HTTP is the HTTP status that says the same, by the table of google.rpc.Code
// (https://github.com/googleapis/googleapis/blob/master/google/rpc/code.proto); 0 when there is none.
func (s GRPCStatus) HTTP() int {
	if int(s) >= len(grpcHTTP) {
		return 500 // as UNKNOWN
	}
	return grpcHTTP[s]
}

// Failure reports whether s counts against the destination: UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS, of which HTTP
// is a 5xx. They are what OpenTelemetry's conventions call errors of a gRPC server.
func (s GRPCStatus) Failure() bool { return s.HTTP() >= 500 }

// GRPCCodes is how many codes are defined: 0 to 16.
const GRPCCodes = 17

var grpcNames = [GRPCCodes]string{
	"OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS", "PERMISSION_DENIED", "RESOURCE_EXHAUSTED",
	"FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED", "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
}

// grpcHTTP is by GRPCStatus, so that it begins with none.
var grpcHTTP = [...]int{0, 200, 499, 500, 400, 504, 404, 409, 403, 429, 400, 409, 400, 501, 500, 503, 500, 401}
