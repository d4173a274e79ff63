//go:build linux

package main

// contender is one way to call services.
type contender struct {
	name, title string
	what        string // for the page
	needs       []string
	carrier     func(*stage) carrier
}

// contenders in the order of the tables.
var contenders = []contender{
	{"tulle", "Tulle", "`tulle-sidecar` beside the caller and beside each endpoint, mTLS between them, a controller and an observer, everything at its defaults", []string{"tulle"}, newTulle},
	{"bare", "bare", "Go's net/http and the endpoints in turn (round robin), no proxy; a list that has changed is noticed within a second, as with DNS", nil, newBare},
	{"envoy", "Envoy", "Envoy beside the caller, straight to the endpoints, at its defaults: no retries, no outlier detection; endpoints from a file that it watches", []string{"envoy"}, newEnvoy},
	{"envoy-tuned", "Envoy, tuned", "the same with what an expert would set ([below](#envoy-tuned))", []string{"envoy"}, newTunedEnvoy},
}
