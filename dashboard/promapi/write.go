package promapi

import (
	"fmt"
	"net/http"
	"strings"

	remoteapi "github.com/prometheus/client_golang/exp/api/remote"
	"go.opentelemetry.io/collector/pdata/pmetric/pmetricotlp"

	"github.com/tulle-mesh/tulle/store/metric"
)

const (
	writePath = "/api/v1/write"
	otlpPath  = "/api/v1/otlp/v1/metrics"
)

// MaxWrite is the largest body of a request that writes, before decompression; Prometheus' own handlers bound it after that, to 32 MiB.
const MaxWrite = 8 << 20

// Writes says whether requests to path write series: their bodies may have MaxWrite.
func Writes(path string) bool { return path == writePath || path == otlpPath }

// writesAtOnce bounds the memory that decompressed bodies take together; further requests wait.
const writesAtOnce = 8

// registerWrites mounts what takes series: remote write 1.0 and 2.0, OTLP metrics over HTTP.
//
// What a request has that is not taken must not cost it the rest, and its sender must learn of it without sending it all again. For remote
// write 1.0 that is status 400 after the rest was kept (its specification allows both), and for OTLP the partial success of its answer. Prometheus'
// handler does it by itself for remote write 2.0, whose answer counts what was kept.
func registerWrites(mux *http.ServeMux, api http.Handler) {
	room := make(chan struct{}, writesAtOnce)
	bounded := func(h http.HandlerFunc) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			select {
			case room <- struct{}{}:
				defer func() { <-room }()
				h(w, r)
			case <-r.Context().Done():
			}
		}
	}
	mux.HandleFunc("POST "+writePath, bounded(func(w http.ResponseWriter, r *http.Request) {
		if v, err := remoteapi.ParseProtoMsg(r.Header.Get("Content-Type")); err == nil && v == remoteapi.WriteV2MessageType {
			api.ServeHTTP(w, r)
			return
		}
		ctx, refused := metric.WithRefusals(r.Context())
		api.ServeHTTP(&partly{ResponseWriter: w, refused: refused, tell: func(w http.ResponseWriter) { http.Error(w, explain(refused), http.StatusBadRequest) }}, r.WithContext(ctx))
	}))
	mux.HandleFunc("POST "+otlpPath, bounded(func(w http.ResponseWriter, r *http.Request) {
		ctx, refused := metric.WithRefusals(r.Context())
		api.ServeHTTP(&partly{ResponseWriter: w, refused: refused, tell: func(w http.ResponseWriter) { partialSuccess(w, r, refused) }}, r.WithContext(ctx))
	}))
}

func explain(r *metric.Refusals) string {
	return fmt.Sprintf("%d samples of this request were not kept, the others were; the first: %v", r.Samples, r.First)
}

// partialSuccess answers in the encoding of the request.
func partialSuccess(w http.ResponseWriter, r *http.Request, refused *metric.Refusals) {
	answer := pmetricotlp.NewExportResponse()
	answer.PartialSuccess().SetRejectedDataPoints(int64(refused.Samples))
	answer.PartialSuccess().SetErrorMessage(explain(refused))
	kind, encode := "application/x-protobuf", answer.MarshalProto
	if strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		kind, encode = "application/json", answer.MarshalJSON
	}
	body, err := encode()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(http.StatusOK)
	_, _ = w.Write(body)
}

// partly puts tell in the place of an answer of success when something was refused.
type partly struct {
	http.ResponseWriter
	refused *metric.Refusals
	tell    func(http.ResponseWriter)
	told    bool
}

func (p *partly) WriteHeader(code int) {
	if code/100 == 2 && p.refused.Samples > 0 {
		if !p.told {
			p.told = true
			p.tell(p.ResponseWriter)
		}
		return
	}
	p.ResponseWriter.WriteHeader(code)
}

func (p *partly) Write(b []byte) (int, error) {
	if p.told {
		return len(b), nil
	}
	return p.ResponseWriter.Write(b)
}
