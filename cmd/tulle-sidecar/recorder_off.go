//go:build norecorder

package main

import (
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// recorder throws Records away. This build exists for loadtest/peer/bench, which measures with it what telemetry costs; it is no product.
func recorder(*telemetry.Telemetry) flow.Recorder { return nowhere{} }

type nowhere struct{}

func (nowhere) Record(*flow.Record)          {}
func (nowhere) Active(flow.ActiveKey, int64) {}
func (nowhere) TraceContext(bool)            {}
func (nowhere) Detected(flow.Detection)      {}
