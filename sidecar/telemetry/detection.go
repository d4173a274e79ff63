package telemetry

import (
	"strconv"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// portKey names the connections whose protocol is detected in one place.
type portKey struct {
	side        flow.Side
	destination string
	port        uint16 // 0 of a Unix socket
	other       bool
}

func (k portKey) fold() portKey { return portKey{side: k.side, destination: other, other: true} }

func (k portKey) attrs(more int) []flow.Attr {
	port := ""
	switch {
	case k.other:
		port = other
	case k.port != 0:
		port = strconv.Itoa(int(k.port))
	}
	return append(make([]flow.Attr, 0, 3+more), flow.Text(flow.AttrSide, k.side.String()), flow.Text(flow.AttrDestService, k.destination), flow.Text(flow.AttrPort, port))
}

type detectionKey struct {
	portKey
	protocol flow.Protocol
	outcome  flow.DetectionOutcome
}

func (k detectionKey) fold() detectionKey { k.portKey = k.portKey.fold(); return k }

// Detected implements flow.Recorder.
func (t *Telemetry) Detected(d flow.Detection) {
	c := t.counters
	c.cut.RLock()
	defer c.cut.RUnlock()
	k := portKey{side: d.Side, destination: d.Destination, port: d.Port}
	c.detections.get(detectionKey{k, d.Protocol, d.Outcome}).Add(1)
	c.detectionDuration.get(k).histogram(d.Took)
}

// detected is the families of Detected.
func (r *reading) detected() []flow.Family {
	return []flow.Family{
		family(flow.MetricDetections, "{connection}", flow.MetricSum, r.detections, func(k detectionKey, n uint64) flow.Point {
			return flow.Point{Value: int64(n), Attrs: append(k.attrs(2), flow.Text(flow.AttrProtocol, k.protocol.String()), flow.Text(flow.AttrOutcome, k.outcome.String()))}
		}),
		family(flow.MetricDetectionDuration, "s", flow.MetricHistogram, r.detectionDuration, func(k portKey, l latencyRead) flow.Point {
			return flow.Point{Histogram: &l.h, Attrs: k.attrs(0)}
		}),
	}
}
