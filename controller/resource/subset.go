package resource

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// tulleGroup is the API group of Tulle's own kinds.
const tulleGroup = "tulle.dev"

// Subset is the endpoints of a service that have certain labels, so that routes can name them as a backend.
type Subset struct {
	Header `yaml:",inline"`
	Spec   SubsetSpec `yaml:"spec"`
}

// SubsetSpec of a Subset.
type SubsetSpec struct {
	Service string            `yaml:"service"` // of the Subset's namespace
	Labels  map[string]string `yaml:"labels"`  // of its Workloads; all of them; version, region and zone are those of spec
}

func (s *Subset) check() error {
	if err := s.Header.check(); err != nil {
		return err
	}
	if err := checkLabel("spec.service", s.Spec.Service); err != nil {
		return err
	}
	if n := len(s.Spec.Labels); n == 0 || n > 4 {
		return fmt.Errorf("spec.labels: has %d, must have 1 to 4; for all endpoints refer to the Service", n)
	}
	if err := policy.LabelsCheck(s.Spec.Labels); err != nil {
		return fmt.Errorf("spec.%w", err)
	}
	return nil
}

// Keys are the label keys of s, sorted: a selector of policy.Subsets.
func (s *Subset) Keys() []string { return slices.Sorted(maps.Keys(s.Spec.Labels)) }

// selectors are the sets of label keys by which a service's endpoints are told apart: what its policy says, and its Subsets.
func (a *admission) selectors(service string) [][]string {
	var out [][]string
	out = append(out, a.set.Traffic(service).LoadBalancer.Policy().Subsets.Selectors...)
	for _, s := range a.set.Subsets {
		if s.Spec.Service == service && !slices.ContainsFunc(out, func(keys []string) bool { return slices.Equal(keys, s.Keys()) }) {
			out = append(out, s.Keys())
		}
	}
	return out
}
