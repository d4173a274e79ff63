package tempoapi

import (
	"bytes"
	"encoding/hex"
	"net/http"
	"strings"

	"go.opentelemetry.io/collector/pdata/ptrace"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tulle-mesh/tulle/internal/flow"
)

func traceID(s string) (id flow.TraceID, err error) {
	if len(s) == 0 || len(s) > 32 {
		return id, bad("trace id", s, "1 to 32 hex digits")
	}
	b, err := hex.DecodeString(strings.Repeat("0", 32-len(s)) + s)
	if err != nil {
		return id, bad("trace id", s, "1 to 32 hex digits")
	}
	copy(id[:], b)
	return id, nil
}

func (a *api) read(r *http.Request) (ptrace.Traces, error) {
	id, err := traceID(r.PathValue("id"))
	if err != nil {
		return ptrace.Traces{}, err
	}
	return a.Spans.Trace(r.Context(), id)
}

// wantsProto says whether the client asks for protobuf, as Grafana does.
func wantsProto(r *http.Request) bool {
	return strings.Contains(r.Header.Get("Accept"), "application/protobuf") || strings.Contains(r.Header.Get("Accept"), "application/x-protobuf")
}

func writeProto(w http.ResponseWriter, b []byte) error {
	w.Header().Set("Content-Type", "application/protobuf")
	_, _ = w.Write(b)
	return nil
}

// trace is a tempopb.Trace, which is OTLP's TracesData but for the name of its only field in JSON.
func (a *api) trace(w http.ResponseWriter, r *http.Request) error {
	td, err := a.read(r)
	if err != nil {
		return err
	}
	if wantsProto(r) {
		b, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
		if err != nil {
			return err
		}
		return writeProto(w, b)
	}
	b, err := new(ptrace.JSONMarshaler).MarshalTraces(td)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(bytes.Replace(b, []byte(`"resourceSpans"`), []byte(`"batches"`), 1))
	return nil
}

// traceV2 is a tempopb.TraceByIDResponse: trace is field 1; status (field 3) is 0, complete.
func (a *api) traceV2(w http.ResponseWriter, r *http.Request) error {
	td, err := a.read(r)
	if err != nil {
		return err
	}
	if wantsProto(r) {
		b, err := new(ptrace.ProtoMarshaler).MarshalTraces(td)
		if err != nil {
			return err
		}
		out := protowire.AppendTag(make([]byte, 0, len(b)+8), 1, protowire.BytesType)
		return writeProto(w, protowire.AppendBytes(out, b))
	}
	b, err := new(ptrace.JSONMarshaler).MarshalTraces(td)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	for _, part := range [][]byte{[]byte(`{"trace":`), b, []byte(`,"status":"COMPLETE"}`)} {
		_, _ = w.Write(part)
	}
	return nil
}
