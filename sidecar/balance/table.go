package balance

import (
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// Algorithm chooses between candidates that may be used. It is a pure function of its inputs.
type Algorithm func(v View, now int64, random func() uint64) int

// Default is used when a policy names none.
const Default = "p2c-ewma"

// Algorithms by the name that a policy uses.
var Algorithms = map[string]Algorithm{
	"p2c-ewma": P2C,
	"random":   Random,
}

// NewPicker builds a Picker with the default algorithm.
func NewPicker(endpoints []policy.Endpoint, states *States) exchange.Picker {
	return New(Algorithms[Default], endpoints, states, nil)
}
