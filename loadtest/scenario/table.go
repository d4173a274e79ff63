//go:build linux

package main

import (
	"slices"
	"time"
)

// scenarios in the order of the page.
var scenarios = slices.Concat(answering, connecting)

// answering are failures of an application that does answer.
var answering = []scenario{
	{
		name: "one-fails", title: "One of three fails", services: three(), acts: during(manner{status: 500}, 1),
		what: "One of three endpoints answers 500 to everything.",
	},
	{
		name: "half-fails", title: "One of three fails half of its requests", services: three(), acts: during(manner{status: 500, share: 0.5}, 1),
		what: "One of three endpoints answers 500 to every other request.",
	},
	{
		name: "slow", title: "Slow, ten times", services: three(), acts: during(manner{slower: 9 * usualWork}, 1), latency: true,
		what: "One of three endpoints takes ten times as long: 50 ms.",
	},
	{
		name: "slow-1s", title: "Slow, a second", services: three(), acts: during(manner{slower: time.Second}, 1), latency: true,
		what: "One of three endpoints takes a second longer.",
	},
	{
		name: "hangs", title: "Hangs", services: three(), acts: during(manner{hang: true}, 1),
		what: "One of three endpoints takes requests and never answers.",
	},
}

// connecting are failures of connections.
var connecting = []scenario{
	{
		name: "resets", title: "Resets after accept", services: three(), acts: during(manner{reset: true}, 1),
		what: "One of three applications resets every connection that it accepts.",
	},
	{
		name: "refused", title: "Refused", services: three(), acts: []act{{0, crash(1)}, {usualFault, restart(1)}},
		what: "One of three applications has died: its port refuses connections. Its sidecar, where there is one, lives.",
	},
	{
		name: "black-hole", title: "Host gone, SYNs dropped", services: three(), acts: []act{{0, vanish(1)}},
		what: "The host of one of three endpoints is gone, with its sidecar where there is one, and nobody is told: packets to it are dropped, as by a network that has lost it.",
	},
}
