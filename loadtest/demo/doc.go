//go:build unix

// Package demo runs the whole mesh with the shop on one machine: `tulle server`, every service of the shop as a process of its own with a
// sidecar process of its own, a webhook receiver, the load and the scripted fault; and it tells in the terminal what happens and what to
// look at. Nothing is simulated: every line it prints about the mesh was read from the observer's API or arrived at the webhook.
//
// How to hold it: fill a Config (Defaults first), call Run until its context ends. Run stops everything in reverse order and leaves no
// process, socket or lock behind; the data directory stays, for Clean.
package demo
