//go:build linux

package main

import (
	"slices"
	"time"
)

// scenarios in the order of the page.
var scenarios = slices.Concat(answering, connecting, living, telling)

// answering are failures of an application that does answer, or should.
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
		name: "slow", title: "Slow, ten times", services: three(), acts: during(manner{slower: 9 * usualWork}, 1),
		what: "One of three endpoints takes ten times as long: 50 ms.",
	},
	{
		name: "slow-1s", title: "Slow, a second", services: three(), acts: during(manner{slower: time.Second}, 1),
		what: "One of three endpoints takes a second longer.",
	},
	{
		name: "tail", title: "A long tail", services: three(), acts: during(manner{tail: 0.02}, 0, 1, 2),
		what: "At all endpoints two requests in a hundred take a hundred times as long: half a second.",
	},
	{
		name: "hangs", title: "Hangs", services: three(), acts: during(manner{hang: true}, 1),
		what: "One of three endpoints takes requests and never answers.",
	},
	{
		name: "busy-503", title: "503 with Retry-After", services: three(), acts: during(manner{status: 503, after: "2"}, 1),
		what: "One of three endpoints answers 503 with `Retry-After: 2` to everything.",
	},
	{
		name: "busy-429", title: "429 with Retry-After", services: three(), acts: during(manner{status: 429, after: "2"}, 1),
		what: "One of three endpoints answers 429 with `Retry-After: 2` to everything.",
	},
	{
		name: "grpc-unavailable", title: "gRPC, UNAVAILABLE", services: []service{{name: "app", endpoints: 3, grpc: true}}, acts: during(manner{grpc: 14}, 1),
		what: "Unary calls of gRPC, of which nobody knows whether they are idempotent. One of three endpoints answers `UNAVAILABLE` to everything.",
	},
	{
		name: "retry-storm", title: "Everybody fails half, two hops", rate: 200, acts: during(manner{status: 503, share: 0.5}, 0, 1, 2),
		services: []service{{name: "front", endpoints: 2, calls: "app"}, {name: "app", endpoints: 3}},
		what:     "The client calls *front*, which calls *app*. All endpoints of *app* answer 503 to half of their requests. Success beyond half takes retries; what matters is that they stay bounded when both hops retry.",
	},
	{
		name: "all-fail", title: "Everybody fails, two hops", rate: 200, acts: during(manner{status: 503}, 0, 1, 2),
		services: []service{{name: "front", endpoints: 2, calls: "app"}, {name: "app", endpoints: 3}},
		what:     "The same, but all endpoints of *app* answer 503 to everything, as when a database is gone. No retry can help, and each makes it harder to come back.",
	},
	{
		name: "slow-dependency", title: "A slow dependency behind a deadline", rate: 200, deadline: time.Second, acts: during(manner{slower: 3 * time.Second}, 1),
		services: []service{{name: "front", endpoints: 2, calls: "app", patience: 500 * time.Millisecond}, {name: "app", endpoints: 3}},
		what:     "The client calls *front*, which gives *app* half a second. What one of three endpoints of *app* depends on has become slow: it takes three seconds.",
	},
}

// connecting are failures of connections.
var connecting = []scenario{
	{
		name: "resets", title: "Resets after accept", services: three(), acts: during(manner{reset: true}, 1),
		what: "One of three applications resets every connection that it accepts.",
	},
	{
		name: "cut-body", title: "Large bodies, reset half-way", services: []service{{name: "app", endpoints: 3, body: 512 << 10}}, rate: 60, acts: during(manner{cut: 0.5}, 1),
		what: "Answers of 512 KiB. One of three endpoints resets half of them in the middle. What has begun to arrive cannot be tried again; what can be done is to ask others.",
	},
	{
		name: "half-open", title: "Accepts and does not read", services: three(), acts: during(manner{deaf: true}, 1),
		what: "One of three applications accepts connections and reads nothing from them, nor from those that are open.",
	},
	{
		name: "refused", title: "Refused", services: three(), acts: []act{{0, crash(1)}, {usualFault, restart(1)}},
		what: "One of three applications has died: its port refuses connections. Its sidecar, where there is one, lives.",
	},
	{
		name: "black-hole", title: "Host gone, SYNs dropped", services: three(), acts: []act{{0, vanish(1)}},
		what: "The host of one of three endpoints is gone for good, with its sidecar where there is one, and nobody is told: packets to it are dropped, as by a network that has lost it.",
	},
	{
		name: "connection-limit", title: "Few connections", services: []service{{name: "app", endpoints: 3, work: 40 * time.Millisecond}}, acts: during(manner{most: 2, rotate: 0.2}, 1),
		what: "Requests take 40 ms, so that each of three endpoints needs four connections at a time. One takes two, resets others as soon as it has accepted them, and closes those that it has now and then, after an answer.",
	},
}

// living are endpoints that come and go, and what they can bear.
var living = []scenario{
	{
		name: "flapping", title: "Flapping", services: three(), acts: []act{{0, crash(1)}, {2 * time.Second, restart(1)}, {4 * time.Second, crash(1)}, {6 * time.Second, restart(1)}},
		what: "One of three applications dies, and is back two seconds later, twice. Its port refuses connections meanwhile.",
	},
	{
		name: "rollout", title: "Rollout", services: three(), acts: []act{{0, roll(true)}},
		what: "All three endpoints are replaced, one after the other. A new one is there for a second before an old one leaves the list and gets SIGTERM in the same moment, as on Kubernetes: it stops listening and answers what it has begun.",
	},
	{
		name: "rollout-kill", title: "Rollout by SIGKILL", services: three(), acts: []act{{0, roll(false)}},
		what: "The same, but the old ones get SIGKILL, with their sidecars where there are any. What they were working on is lost; it may be sent again.",
	},
	{
		name: "zone-down", title: "Zone down", services: []service{{name: "app", endpoints: 6, zones: []string{"a", "b", "c"}}}, zone: "a", acts: []act{{0, vanish(0, 3)}},
		what: "Two endpoints in each of three zones. Those of the client's own zone vanish with their hosts, and nobody is told.",
	},
	{
		name: "cold-start", title: "Cold start", services: []service{{name: "app", endpoints: 2}}, acts: []act{{time.Second, arrive(manner{slower: 300 * time.Millisecond})}, {6 * time.Second, warm}},
		what: "A third endpoint joins two. For its first five seconds it takes 300 ms longer for each request, as one that compiles and fills its caches.",
	},
	{
		name: "overload", title: "Overload, three times", services: []service{{name: "app", endpoints: 3, capacity: 2}}, acts: during(manner{slower: 55 * time.Millisecond}, 0, 1, 2),
		what: "Endpoints work on two requests at a time and let the others wait in line, whether or not who has sent them is still there. They become twelve times as slow, so that they can do a third of what comes (nobody can succeed with more than about half of the window's requests). Without somebody who sheds load, lines grow until all answers come too late.",
	},
	{
		name: "weights", title: "Deploy by weight", services: []service{{name: "app", endpoints: 4, versions: []string{"v1", "v2"}}}, weights: []int{100, 0},
		acts: []act{
			{0, weigh(90, 10)},
			{1500 * time.Millisecond, weigh(75, 25)},
			{3 * time.Second, weigh(50, 50)},
			{4500 * time.Millisecond, weigh(10, 90)},
			{6 * time.Second, weigh(0, 100)},
			{8 * time.Second, unasked("v1")},
		},
		not:  map[string]string{"bare": "has no weights"},
		what: "Two endpoints each of two versions. In six seconds the weights move from 100:0 to 0:100 in five steps, Tulle's by an HTTPRoute, Envoy's by a file of routes. Nothing may fail, and the old version must not be asked any more in the end.",
	},
}

// telling are failures of who tells contenders where endpoints are.
var telling = []scenario{
	{
		name: "controller-restart", title: "Controller restarts", services: three(),
		acts: []act{{0, behave(manner{status: 500}, 1)}, {time.Second, controllerGone(time.Second)}, {usualFault, behave(manner{}, 1)}},
		what: "One of three endpoints answers 500 to everything; a second later Tulle's controller is killed, and started again after another second. Who has no controller has the failing endpoint only.",
	},
	{
		name: "controller-gone", title: "Controller gone", services: three(), acts: []act{{0, controllerGone(0)}, {time.Second, crash(1)}, {usualFault, restart(1)}},
		what: "Tulle's controller is killed and stays away; a second later one of three applications dies, and its port refuses connections. Who has no controller has the refusals only.",
	},
	{
		name: "dns-gone", title: "DNS gone", services: three(), dns: true, acts: []act{{0, silence()}, {0, behave(manner{rotate: 0.02}, 0, 1, 2)}},
		what: "The name server stops answering, and endpoints close connections after some of their answers, as they do. The bare client and Envoy (`STRICT_DNS`) know the service by its name; Tulle's controller knows addresses.",
	},
}

// warm heals the endpoint that came last.
func warm(s *stage) error {
	es := s.last()
	es[len(es)-1].behave(manner{})
	return nil
}
