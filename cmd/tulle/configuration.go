//go:build unix

package main

import (
	"github.com/tulle-mesh/tulle/controller"
	"github.com/tulle-mesh/tulle/controller/discovery"
	"github.com/tulle-mesh/tulle/controller/resource"
	"github.com/tulle-mesh/tulle/controller/source/file"
)

// configuration is what files say, as a controller that starts with them takes it.
type configuration struct {
	set       *resource.Set
	problems  []resource.Problem
	endpoints []discovery.Endpoint
}

func readConfiguration(paths []string) (*configuration, error) {
	documents, err := file.Read(paths...)
	if err != nil {
		return nil, err
	}
	c := &configuration{}
	c.set, c.problems = resource.Resolve(documents, resource.EmptySet())
	c.endpoints, err = discovery.FromSet(c.set, controller.DefaultTrustDomain)
	return c, err
}

// refused is how many documents are not in force.
func (c *configuration) refused() (n int) {
	for _, p := range c.problems {
		if p.Severity == resource.Refused {
			n++
		}
	}
	return n
}
