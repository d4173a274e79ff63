// Build bundles dashboard/web into dashboard/asset with esbuild's Go API: no Node, no network. The output is a function of the sources
// and of esbuild's version in go.mod, byte for byte; it is committed, and a test compares.
//
//	go run ./dashboard/web/build
package main

import (
	"fmt"
	"os"

	"github.com/tulle-mesh/tulle/dashboard/web/bundle"
)

func main() {
	files, err := bundle.Build("dashboard/web")
	if err == nil {
		err = bundle.Write("dashboard/asset/dist", files)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build:", err)
		os.Exit(1)
	}
	for _, f := range files {
		fmt.Printf("%8d  %s\n", len(f.Content), f.Name)
	}
}
