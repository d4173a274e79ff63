//go:build !norecorder

package main

import (
	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/telemetry"
)

// recorder is where the data path's Records go.
func recorder(t *telemetry.Telemetry) flow.Recorder { return t }
