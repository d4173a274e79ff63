// h2spec, and the program that runs its cases for loadtest/peer/h2spec. A module of its own, so that Tulle's stays without it.
module github.com/tulle-mesh/tulle/loadtest/peer/h2spec/runner

go 1.26.0

require github.com/summerwind/h2spec v2.2.1+incompatible

require (
	github.com/fatih/color v1.19.0 // indirect
	github.com/mattn/go-colorable v0.1.14 // indirect
	github.com/mattn/go-isatty v0.0.20 // indirect
	golang.org/x/net v0.62.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.43.0 // indirect
)
