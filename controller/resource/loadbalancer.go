package resource

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// Locality is where a workload runs.
type Locality struct {
	Region string `yaml:"region,omitempty"`
	Zone   string `yaml:"zone,omitempty"` // of the region
}

// Policy is l as it is handed on.
func (l Locality) Policy() policy.Locality { return policy.Locality{Region: l.Region, Zone: l.Zone} }

// LoadBalancer says how callers' sidecars choose an endpoint. Meanings, defaults and ranges are those of policy.Balancer.
type LoadBalancer struct {
	Algorithm      string             `yaml:"algorithm,omitempty"`
	Choices        int                `yaml:"choices,omitempty"`
	RequestBias    *float64           `yaml:"requestBias,omitempty"`
	RingPoints     int                `yaml:"ringPoints,omitempty"`
	TableSize      int                `yaml:"tableSize,omitempty"`
	BoundedLoad    int                `yaml:"boundedLoad,omitempty"` // percent
	Affinity       []Affinity         `yaml:"affinity,omitempty"`    // the first that is there counts
	SlowStart      SlowStart          `yaml:"slowStart,omitempty"`
	PanicThreshold *int               `yaml:"panicThreshold,omitempty"` // percent; 0: off
	Locality       LocalityPreference `yaml:"locality,omitempty"`
	Subsets        Subsets            `yaml:"subsets,omitempty"`
}

// Affinity is one place where the key of a request may be: exactly one of its fields is set.
type Affinity struct {
	Cookie         AffinityCookie `yaml:"cookie,omitempty"`
	Header         string         `yaml:"header,omitempty"`
	QueryParameter string         `yaml:"queryParameter,omitempty"`
	Source         bool           `yaml:"source,omitempty"` // the caller's IP address
}

// AffinityCookie is a cookie, and how it is set where it is missing.
type AffinityCookie struct {
	Name       string            `yaml:"name"`
	Generate   *bool             `yaml:"generate,omitempty"` // default true
	TTL        Duration          `yaml:"ttl,omitempty"`      // default: until the browser is closed
	Path       string            `yaml:"path,omitempty"`
	Attributes map[string]string `yaml:"attributes,omitempty"`
}

// SlowStart of endpoints that are new, or back.
type SlowStart struct {
	Window     Duration `yaml:"window,omitempty"` // default off
	Aggression float64  `yaml:"aggression,omitempty"`
	MinWeight  int      `yaml:"minWeight,omitempty"` // percent
}

// LocalityPreference says which endpoints a caller asks first.
type LocalityPreference struct {
	Mode          string   `yaml:"mode,omitempty"`          // prefer | proportional | off; default prefer, for algorithms with affinity off
	Failover      []string `yaml:"failover,omitempty"`      // "region" or "region/zone", in order
	Overprovision int      `yaml:"overprovision,omitempty"` // percent
}

// Modes of LocalityPreference.
const (
	LocalityPrefer       = "prefer"
	LocalityProportional = "proportional"
	LocalityOff          = "off"
)

// Subsets by label.
type Subsets struct {
	Selectors [][]string        `yaml:"selectors,omitempty"`
	Fallback  string            `yaml:"fallback,omitempty"` // any (default) | none | default
	Default   map[string]string `yaml:"default,omitempty"`
}

// PreferenceMode is the mode with its default.
func (l LoadBalancer) PreferenceMode() string {
	switch {
	case l.Locality.Mode != "":
		return l.Locality.Mode
	case (policy.Balancer{Algorithm: l.Algorithm}).Keyed(): // a fleet in many zones agrees only if all ask the same endpoints
		return LocalityOff
	}
	return LocalityPrefer
}

// Policy is l as sidecars are told.
func (l LoadBalancer) Policy() policy.Balancer {
	b := policy.Balancer{
		Algorithm: l.Algorithm, Choices: l.Choices, RingPoints: l.RingPoints, TableSize: l.TableSize, BoundedLoad: l.BoundedLoad,
		SlowStart:     policy.SlowStart{Window: time.Duration(l.SlowStart.Window), Aggression: l.SlowStart.Aggression, MinWeight: l.SlowStart.MinWeight},
		Overprovision: l.Locality.Overprovision,
	}
	if v := l.RequestBias; v != nil {
		if b.RequestBias = *v; *v == 0 {
			b.RequestBias = -1
		}
	}
	if v := l.PanicThreshold; v != nil {
		if b.PanicThreshold = *v; *v == 0 {
			b.PanicThreshold = -1
		}
	}
	for _, a := range l.Affinity {
		b.Affinity = append(b.Affinity, a.policy())
	}
	for _, keys := range l.Subsets.Selectors {
		keys = slices.Clone(keys)
		slices.Sort(keys)
		b.Subsets.Selectors = append(b.Subsets.Selectors, keys)
	}
	b.Subsets.Fallback, _ = policy.ParseSubsetFallback(l.Subsets.Fallback)
	b.Subsets.Default = maps.Clone(l.Subsets.Default)
	return b
}

func (a Affinity) policy() policy.AffinityKey {
	switch c := a.Cookie; {
	case c.Name != "":
		k := policy.AffinityKey{Kind: policy.AffinityCookie, Name: c.Name, Generate: c.Generate == nil || *c.Generate, TTL: time.Duration(c.TTL), Path: c.Path}
		for _, name := range slices.Sorted(maps.Keys(c.Attributes)) {
			k.Attributes = append(k.Attributes, policy.CookieAttribute{Name: name, Value: c.Attributes[name]})
		}
		return k
	case a.Header != "":
		return policy.AffinityKey{Kind: policy.AffinityHeader, Name: strings.ToLower(a.Header)} // field names have no case (RFC 9110, section 5.1)
	case a.QueryParameter != "":
		return policy.AffinityKey{Kind: policy.AffinityQuery, Name: a.QueryParameter}
	case a.Source:
		return policy.AffinityKey{Kind: policy.AffinitySource}
	}
	return policy.AffinityKey{}
}

// check says what Policy cannot; the rest is for policy.Balancer.Check.
func (l LoadBalancer) check(field string) error {
	for i, a := range l.Affinity {
		n := 0
		for _, set := range []bool{a.Cookie.Name != "" || a.Cookie.Generate != nil || a.Cookie.TTL != 0 || a.Cookie.Path != "" || a.Cookie.Attributes != nil, a.Header != "", a.QueryParameter != "", a.Source} {
			if set {
				n++
			}
		}
		switch at := fmt.Sprintf("%s.affinity[%d]", field, i); {
		case n != 1:
			return fmt.Errorf("%s: has %d of cookie, header, queryParameter and source; give each an entry of its own", at, n)
		case a.Cookie.Name == "" && a.Header == "" && a.QueryParameter == "" && !a.Source:
			return fmt.Errorf("%s.cookie.name: is required", at)
		case a.Cookie.TTL < 0:
			return fmt.Errorf("%s.cookie.ttl: cannot be off; leave it out for a cookie that lasts until the browser is closed", at)
		}
	}
	if v := l.RequestBias; v != nil && *v < 0 {
		return fmt.Errorf("%s.requestBias: %v must be from 0 to 10", field, *v)
	}
	if v := l.PanicThreshold; v != nil && *v < 0 {
		return fmt.Errorf("%s.panicThreshold: %d must be from 0 (off) to 100 percent", field, *v)
	}
	if l.SlowStart.Window < 0 {
		return fmt.Errorf("%s.slowStart.window: leave it out instead of off", field)
	}
	if m := l.Locality.Mode; m != "" {
		if err := oneOf(field+".locality.mode", m, LocalityPrefer, LocalityProportional, LocalityOff); err != nil {
			return err
		}
	}
	if len(l.Locality.Failover) > 16 {
		return fmt.Errorf("%s.locality.failover: has %d entries, at most 16 are allowed", field, len(l.Locality.Failover))
	}
	for i, f := range l.Locality.Failover {
		region, zone, slash := strings.Cut(f, "/")
		if err := (policy.Locality{Region: region, Zone: zone}).Check(); err != nil || region == "" || slash && zone == "" {
			return fmt.Errorf("%s.locality.failover[%d]: %q must be region or region/zone, such as eu-west or eu-west/a", field, i, f)
		}
		if slices.Contains(l.Locality.Failover[:i], f) {
			return fmt.Errorf("%s.locality.failover[%d]: %q is listed twice; remove one", field, i, f)
		}
	}
	if _, err := policy.ParseSubsetFallback(l.Subsets.Fallback); err != nil {
		return fmt.Errorf("%s.subsets.fallback: %w", field, err)
	}
	return nil
}
