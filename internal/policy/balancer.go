package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// Names of the algorithms of Balancer; sidecar/balance says what each does.
const (
	BalanceP2C          = "p2c-ewma"
	BalanceLeastRequest = "least-request"
	BalanceRoundRobin   = "round-robin"
	BalanceRandom       = "random"
	BalanceRingHash     = "ring-hash"
	BalanceMaglev       = "maglev"
)

// BalanceAlgorithms are the names, the default first.
var BalanceAlgorithms = []string{BalanceP2C, BalanceLeastRequest, BalanceRoundRobin, BalanceRandom, BalanceRingHash, BalanceMaglev}

// Balancer says how a sidecar chooses among the endpoints of a service. Zero settings mean the default named beside them.
type Balancer struct {
	Algorithm      string  // one of BalanceAlgorithms; default p2c-ewma
	Choices        int     // least-request: candidates that are compared, 2 to 100; default 2
	RequestBias    float64 // least-request, where weights differ: exponent of what is in flight, up to 10; default 1; negative: 0
	RingPoints     int     // ring-hash: points of an endpoint of weight 100, 1 to 1,024; default 128
	TableSize      int     // maglev: slots, a prime up to MaxTableSize; default 65,537
	BoundedLoad    int     // ring-hash, maglev: what an endpoint may have in flight, in percent of its share, 100 to 10,000; default (0): any
	Affinity       []AffinityKey
	SlowStart      SlowStart
	PanicThreshold int // percent of endpoints, 1 to 100, below which all are used; default 50; negative: off
	Overprovision  int // percent of its load that the endpoints of a priority can take, 100 to 1,000; default 140
	// LocalityWeighted: Endpoint.LocalityWeight counts.
	LocalityWeighted bool
	Subsets          Subsets
}

// AffinityKind is where the key of a request comes from.
type AffinityKind uint8

const (
	// AffinityHeader is the value of a header field.
	AffinityHeader AffinityKind = iota + 1
	// AffinityCookie is the value of a cookie, which is made where it is missing if Generate says so.
	AffinityCookie
	// AffinityQuery is the value of a query parameter, as it is written in the target.
	AffinityQuery
	// AffinitySource is the IP address of the sidecar's caller.
	AffinitySource
)

var affinityNames = map[AffinityKind]string{AffinityHeader: "header", AffinityCookie: "cookie", AffinityQuery: "queryParameter", AffinitySource: "source"}

// String is the word for k in configuration.
func (k AffinityKind) String() string { return affinityNames[k] }

// AffinityKey is one place to find the key by which requests are kept together. Of several the first that is there counts.
type AffinityKey struct {
	Kind AffinityKind
	Name string // of the header field (lower case), the cookie or the parameter; "" for AffinitySource

	// Of a cookie:
	Generate   bool              // where it is missing, one is set
	TTL        time.Duration     // of the cookie that is set, whole seconds; 0: until the browser is closed
	Path       string            // of the cookie that is set
	Attributes []CookieAttribute // more of it, at most 8
}

// CookieAttribute is one attribute of a cookie, such as SameSite=Strict, or HttpOnly with an empty value.
type CookieAttribute struct{ Name, Value string }

// SlowStart lets the share of an endpoint grow that is new, or back after it was out. The zero value: off.
type SlowStart struct {
	Window     time.Duration // 1 s to 1 h; 0: off
	Aggression float64       // share grows as (age ÷ window)^(1 ÷ aggression); above 0, up to 100; default 1
	MinWeight  int           // percent of its weight at least, 1 to 100; default 10
}

// SubsetFallback is what becomes of requests to a subset that has no endpoint.
type SubsetFallback uint8

const (
	// FallbackAny lets all endpoints serve.
	FallbackAny SubsetFallback = iota
	// FallbackNone fails the request.
	FallbackNone
	// FallbackDefault lets those of Subsets.Default serve.
	FallbackDefault
)

var fallbackNames = map[SubsetFallback]string{FallbackAny: "any", FallbackNone: "none", FallbackDefault: "default"}

// String is the word for f in configuration.
func (f SubsetFallback) String() string { return fallbackNames[f] }

// ParseSubsetFallback reads a word; "" is any.
func ParseSubsetFallback(s string) (SubsetFallback, error) {
	for f, name := range fallbackNames {
		if s == name || s == "" && f == FallbackAny {
			return f, nil
		}
	}
	return 0, fmt.Errorf("%q is not one of any, none, default", s)
}

// Subsets are groups of endpoints by their labels, which a route.Decision can name (SubsetName).
type Subsets struct {
	Selectors [][]string // label keys, sorted; endpoints that have all of them form a subset for each combination of values; at most MaxSelectors
	Fallback  SubsetFallback
	Default   map[string]string // labels of the subset of requests that name none; only with FallbackDefault
}

// Bounds of a Balancer.
const (
	MaxRingPoints   = 1024
	MaxTableSize    = 5_000_011
	MaxSelectors    = 8
	MaxAffinityKeys = 8
)

// Defaults of a Balancer.
const (
	DefaultChoices        = 2
	DefaultRequestBias    = 1
	DefaultRingPoints     = 128
	DefaultTableSize      = 65537
	DefaultPanicThreshold = 50
	DefaultOverprovision  = 140
	DefaultAggression     = 1
	DefaultMinWeight      = 10
)

// WithDefaults returns b with every zero setting of its algorithm replaced by its default; settings of other algorithms stay as they are.
func (b Balancer) WithDefaults() Balancer {
	def(&b.Algorithm, BalanceP2C)
	switch b.Algorithm {
	case BalanceLeastRequest:
		def(&b.Choices, DefaultChoices)
		def(&b.RequestBias, DefaultRequestBias)
	case BalanceRingHash:
		def(&b.RingPoints, DefaultRingPoints)
	case BalanceMaglev:
		def(&b.TableSize, DefaultTableSize)
	}
	if b.SlowStart.Window != 0 {
		def(&b.SlowStart.Aggression, DefaultAggression)
		def(&b.SlowStart.MinWeight, DefaultMinWeight)
	}
	def(&b.PanicThreshold, DefaultPanicThreshold)
	def(&b.Overprovision, DefaultOverprovision)
	return b
}

// Keyed reports whether the algorithm keeps requests together by a key.
func (b Balancer) Keyed() bool { return b.Algorithm == BalanceRingHash || b.Algorithm == BalanceMaglev }

// Check refuses what a sidecar could not act on. The error begins with the setting in the words of configuration.
func (b Balancer) Check() error {
	b = b.WithDefaults()
	if !slices.Contains(BalanceAlgorithms, b.Algorithm) {
		return fmt.Errorf("algorithm: %q is not one of %s", b.Algorithm, strings.Join(BalanceAlgorithms, ", "))
	}
	only := func(set bool, field string, algorithms ...string) error {
		if set && !slices.Contains(algorithms, b.Algorithm) {
			return fmt.Errorf("%s: has no meaning for %s, only for %s; remove it, or set algorithm", field, b.Algorithm, strings.Join(algorithms, " and "))
		}
		return nil
	}
	for _, err := range []error{
		only(b.Choices != 0, "choices", BalanceLeastRequest),
		only(b.RequestBias != 0, "requestBias", BalanceLeastRequest),
		only(b.RingPoints != 0, "ringPoints", BalanceRingHash),
		only(b.TableSize != 0, "tableSize", BalanceMaglev),
		only(b.BoundedLoad != 0, "boundedLoad", BalanceRingHash, BalanceMaglev),
		only(len(b.Affinity) > 0, "affinity", BalanceRingHash, BalanceMaglev),
		only(b.SlowStart != SlowStart{}, "slowStart", BalanceP2C, BalanceLeastRequest, BalanceRoundRobin, BalanceRandom),
	} {
		if err != nil {
			return err
		}
	}
	switch {
	case b.Keyed() && len(b.Affinity) == 0:
		return fmt.Errorf("affinity: %s needs at least one key: a cookie, a header, a query parameter or the source", b.Algorithm)
	case b.Choices != 0 && (b.Choices < 2 || b.Choices > 100):
		return fmt.Errorf("choices: %d must be from 2 to 100", b.Choices)
	case !(b.RequestBias <= 10):
		return fmt.Errorf("requestBias: %v must be from 0 to 10", b.RequestBias)
	case b.RingPoints < 0 || b.RingPoints > MaxRingPoints:
		return fmt.Errorf("ringPoints: %d must be from 1 to %d", b.RingPoints, MaxRingPoints)
	case b.TableSize != 0 && (b.TableSize < 2 || b.TableSize > MaxTableSize || !prime(b.TableSize)):
		return fmt.Errorf("tableSize: %d must be a prime number up to %d, such as 65537", b.TableSize, MaxTableSize)
	case b.BoundedLoad != 0 && (b.BoundedLoad < 100 || b.BoundedLoad > 10000):
		return fmt.Errorf("boundedLoad: %d must be from 100 to 10000 percent of an endpoint's share", b.BoundedLoad)
	case b.PanicThreshold > 100:
		return fmt.Errorf("panicThreshold: %d must be from 1 to 100 percent, or off", b.PanicThreshold)
	case b.Overprovision < 100 || b.Overprovision > 1000:
		return fmt.Errorf("overprovision: %d must be from 100 to 1000 percent", b.Overprovision)
	case len(b.Affinity) > MaxAffinityKeys:
		return fmt.Errorf("affinity: has %d keys, at most %d are allowed", len(b.Affinity), MaxAffinityKeys)
	}
	for i, k := range b.Affinity {
		if err := k.check(); err != nil {
			return fmt.Errorf("affinity[%d].%w", i, err)
		}
	}
	if err := b.SlowStart.check(); err != nil {
		return fmt.Errorf("slowStart.%w", err)
	}
	if err := b.Subsets.check(); err != nil {
		return fmt.Errorf("subsets.%w", err)
	}
	return nil
}

func prime(n int) bool {
	for d := 2; d*d <= n; d++ {
		if n%d == 0 {
			return false
		}
	}
	return n > 1
}

func (s SlowStart) check() error {
	switch {
	case s == SlowStart{}:
		return nil
	case s.Window < time.Second || s.Window > time.Hour:
		return fmt.Errorf("window: %s must be from 1s to 1h", s.Window)
	case !(s.Aggression > 0 && s.Aggression <= 100):
		return fmt.Errorf("aggression: %v must be above 0 and at most 100", s.Aggression)
	case s.MinWeight < 1 || s.MinWeight > 100:
		return fmt.Errorf("minWeight: %d must be from 1 to 100 percent", s.MinWeight)
	}
	return nil
}

// token reports whether s is a token (RFC 9110, section 5.6.2) of at most MaxName characters.
func token(s string) bool {
	return s != "" && len(s) <= MaxName && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("!#$%&'*+-.^_`|~", c))
	})
}

// attributeValue reports whether s may stand behind the = of a cookie's attribute (RFC 6265, section 4.1.1: av-octets).
func attributeValue(s string) bool {
	return len(s) <= MaxName && !strings.ContainsFunc(s, func(c rune) bool { return c < ' ' || c > '~' || c == ';' })
}

func (k AffinityKey) check() error {
	cookie := k.Generate || k.TTL != 0 || k.Path != "" || len(k.Attributes) > 0
	switch {
	case k.Kind.String() == "":
		return fmt.Errorf("kind: must be exactly one of header, cookie, queryParameter and source")
	case cookie && k.Kind != AffinityCookie:
		return fmt.Errorf("%s: only cookies are generated", k.Kind)
	case k.Kind == AffinitySource:
		if k.Name != "" {
			return fmt.Errorf("source: has no name")
		}
	case k.Kind == AffinityQuery:
		if k.Name == "" || len(k.Name) > MaxName || strings.ContainsFunc(k.Name, func(c rune) bool { return c <= ' ' || c > '~' || strings.ContainsRune("&=#?", c) }) {
			return fmt.Errorf("queryParameter: %q is not a name of a parameter as it is written in a target", k.Name)
		}
	case !token(k.Name):
		return fmt.Errorf("%s: %q is not a name (RFC 9110, section 5.6.2)", k.Kind, k.Name)
	case k.Kind == AffinityHeader && (k.Name != strings.ToLower(k.Name) || k.Name == "host"):
		return fmt.Errorf("header: %q must be in lower case, and not host, by which requests are routed already", k.Name)
	case k.TTL < 0 || k.TTL%time.Second != 0 || k.TTL > 10*365*24*time.Hour:
		return fmt.Errorf("cookie.ttl: %s must be whole seconds, up to ten years", k.TTL)
	case !k.Generate && (k.TTL != 0 || k.Path != "" || len(k.Attributes) > 0):
		return fmt.Errorf("cookie.generate: is off, so ttl, path and attributes have no meaning; remove them")
	case k.Path != "" && (k.Path[0] != '/' || !attributeValue(k.Path)):
		return fmt.Errorf("cookie.path: %q must begin with / and have no ; in it", k.Path)
	case len(k.Attributes) > 8:
		return fmt.Errorf("cookie.attributes: has %d, at most 8 are allowed", len(k.Attributes))
	}
	for i, a := range k.Attributes {
		switch name := strings.ToLower(a.Name); {
		case !token(a.Name) || !attributeValue(a.Value):
			return fmt.Errorf("cookie.attributes: %q=%q is not an attribute (RFC 6265, section 4.1.1)", a.Name, a.Value)
		case name == "path" || name == "max-age" || name == "expires":
			return fmt.Errorf("cookie.attributes: %q is set by path and ttl", a.Name)
		case i > 0 && k.Attributes[i-1].Name >= a.Name:
			return fmt.Errorf("cookie.attributes: must be sorted by name, each once")
		}
	}
	return nil
}

// maxLabelKey is the length of a label's key: a prefix, a slash and a name, as Kubernetes has them.
const maxLabelKey = 253 + 1 + 63

// LabelsCheck refuses labels that cannot select endpoints: keys are 1 to 317 of letters, digits and . _ / -, values 0 to 63 of letters, digits and . _ -.
func LabelsCheck(labels map[string]string) error {
	if len(labels) > MaxLabels {
		return fmt.Errorf("labels: has %d, at most %d are allowed", len(labels), MaxLabels)
	}
	for k, v := range labels {
		if k == "" || !label(k, maxLabelKey, "/") {
			return fmt.Errorf("labels: %q must be 1 to 317 of letters, digits, and . _ - /", k)
		}
		if !label(v, 63, "") {
			return fmt.Errorf("labels.%s: %q must be up to 63 of letters, digits, and . _ -", k, v)
		}
	}
	return nil
}

func label(s string, most int, more string) bool {
	return len(s) <= most && !strings.ContainsFunc(s, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("._-"+more, c))
	})
}

func (s Subsets) check() error {
	if len(s.Selectors) > MaxSelectors {
		return fmt.Errorf("selectors: has %d, at most %d are allowed", len(s.Selectors), MaxSelectors)
	}
	for i, keys := range s.Selectors {
		if len(keys) == 0 || len(keys) > 4 {
			return fmt.Errorf("selectors[%d]: must have 1 to 4 label keys, has %d", i, len(keys))
		}
		for j, k := range keys {
			if k == "" || !label(k, maxLabelKey, "/") {
				return fmt.Errorf("selectors[%d]: %q must be 1 to 317 of letters, digits, and . _ - /", i, k)
			}
			if j > 0 && keys[j-1] >= k {
				return fmt.Errorf("selectors[%d]: must be sorted, each key once", i)
			}
		}
		for j := range i {
			if slices.Equal(s.Selectors[j], keys) {
				return fmt.Errorf("selectors[%d]: is the same as selectors[%d]; remove one", i, j)
			}
		}
	}
	switch {
	case s.Fallback.String() == "":
		return fmt.Errorf("fallback: %d must be any, none or default", s.Fallback)
	case (len(s.Default) > 0) != (s.Fallback == FallbackDefault):
		return fmt.Errorf("default: must be set with fallback default, and only then")
	}
	return prefixed("default.", LabelsCheck(s.Default))
}

func prefixed(at string, err error) error {
	if err != nil {
		return fmt.Errorf("%s%w", at, err)
	}
	return nil
}

// SubsetName is how a route.Decision names the endpoints that have these labels: "key=value,key=value", sorted by key; "" for all.
func SubsetName(labels map[string]string) string {
	var b strings.Builder
	for i, k := range slices.Sorted(maps.Keys(labels)) {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(k + "=" + labels[k])
	}
	return b.String()
}

// runtimeDouble is a setting of Envoy's that can be overridden where it runs.
func runtimeDouble(v float64, key string) *corev3.RuntimeDouble {
	return &corev3.RuntimeDouble{DefaultValue: v, RuntimeKey: "tulle." + key}
}

func (s SlowStart) toXDS() *clusterv3.Cluster_SlowStartConfig {
	if s.Window == 0 {
		return nil
	}
	return &clusterv3.Cluster_SlowStartConfig{
		SlowStartWindow: durationpb.New(s.Window), Aggression: runtimeDouble(s.Aggression, "aggression"),
		MinWeightPercent: &typev3.Percent{Value: float64(s.MinWeight)},
	}
}

func slowStartFromXDS(x *clusterv3.Cluster_SlowStartConfig) SlowStart {
	return SlowStart{
		Window: x.GetSlowStartWindow().AsDuration(), Aggression: x.GetAggression().GetDefaultValue(), MinWeight: int(x.GetMinWeightPercent().GetValue()),
	}
}

// toXDS writes b, with its defaults applied, into the cluster x and the extras of its metadata. What is the default of both is left out.
func (b Balancer) toXDS(x *clusterv3.Cluster, e extras) {
	slow := b.SlowStart.toXDS()
	switch b.Algorithm {
	case BalanceP2C: // the nearest that Envoy has
		x.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		if slow != nil {
			x.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{SlowStartConfig: slow}}
		}
	case BalanceLeastRequest:
		e.str("balancer", b.Algorithm) // without it the policy means p2c-ewma
		x.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		x.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{
			ChoiceCount: wrapperspb.UInt32(uint32(b.Choices)), SlowStartConfig: slow,
			ActiveRequestBias: runtimeDouble(max(b.RequestBias, 0), "active_request_bias"),
		}}
	case BalanceRoundRobin:
		x.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
		if slow != nil {
			x.LbConfig = &clusterv3.Cluster_RoundRobinLbConfig_{RoundRobinLbConfig: &clusterv3.Cluster_RoundRobinLbConfig{SlowStartConfig: slow}}
		}
	case BalanceRandom:
		x.LbPolicy = clusterv3.Cluster_RANDOM
		e.dur("slow_start_window", b.SlowStart.Window) // Envoy has none
		e.num("slow_start_aggression", b.SlowStart.Aggression)
		e.num("slow_start_min_weight", float64(b.SlowStart.MinWeight))
	case BalanceRingHash:
		x.LbPolicy = clusterv3.Cluster_RING_HASH
		x.LbConfig = &clusterv3.Cluster_RingHashLbConfig_{RingHashLbConfig: &clusterv3.Cluster_RingHashLbConfig{
			MinimumRingSize: wrapperspb.UInt64(envoyRingSize), HashFunction: clusterv3.Cluster_RingHashLbConfig_XX_HASH,
		}}
		e.num("ring_points", float64(b.RingPoints)) // Envoy says how many there are in all
	case BalanceMaglev:
		x.LbPolicy = clusterv3.Cluster_MAGLEV
		x.LbConfig = &clusterv3.Cluster_MaglevLbConfig_{MaglevLbConfig: &clusterv3.Cluster_MaglevLbConfig{TableSize: wrapperspb.UInt64(uint64(b.TableSize))}}
	}
	common := &clusterv3.Cluster_CommonLbConfig{}
	if b.BoundedLoad != 0 {
		common.ConsistentHashingLbConfig = &clusterv3.Cluster_CommonLbConfig_ConsistentHashingLbConfig{HashBalanceFactor: wrapperspb.UInt32(uint32(b.BoundedLoad))}
		x.CommonLbConfig = common
	}
	if b.PanicThreshold != DefaultPanicThreshold {
		common.HealthyPanicThreshold = &typev3.Percent{Value: float64(max(b.PanicThreshold, 0))} // 0 is off there
		x.CommonLbConfig = common
	}
	if b.LocalityWeighted {
		common.LocalityConfigSpecifier = &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig_{
			LocalityWeightedLbConfig: &clusterv3.Cluster_CommonLbConfig_LocalityWeightedLbConfig{},
		}
		x.CommonLbConfig = common
	}
	if b.Overprovision != DefaultOverprovision { // Envoy has it beside the endpoints: see endpointsOut
		e.num("overprovision", float64(b.Overprovision))
	}
	x.LbSubsetConfig = b.Subsets.toXDS()
}

// envoyRingSize makes the shares of a hundred endpoints of a stock Envoy as even as a sidecar's.
const envoyRingSize = 16384

func (s Subsets) toXDS() *clusterv3.Cluster_LbSubsetConfig {
	if len(s.Selectors) == 0 && s.Fallback == FallbackAny {
		return nil
	}
	x := &clusterv3.Cluster_LbSubsetConfig{FallbackPolicy: map[SubsetFallback]clusterv3.Cluster_LbSubsetConfig_LbSubsetFallbackPolicy{
		FallbackAny: clusterv3.Cluster_LbSubsetConfig_ANY_ENDPOINT, FallbackNone: clusterv3.Cluster_LbSubsetConfig_NO_FALLBACK,
		FallbackDefault: clusterv3.Cluster_LbSubsetConfig_DEFAULT_SUBSET,
	}[s.Fallback]}
	if len(s.Default) > 0 {
		x.DefaultSubset = labelsToXDS(s.Default)
	}
	for _, keys := range s.Selectors {
		x.SubsetSelectors = append(x.SubsetSelectors, &clusterv3.Cluster_LbSubsetConfig_LbSubsetSelector{Keys: keys})
	}
	return x
}

func subsetsFromXDS(x *clusterv3.Cluster_LbSubsetConfig, r *reader) Subsets {
	var s Subsets
	if x == nil {
		return s
	}
	switch p := x.GetFallbackPolicy(); p {
	case clusterv3.Cluster_LbSubsetConfig_ANY_ENDPOINT:
	case clusterv3.Cluster_LbSubsetConfig_NO_FALLBACK:
		s.Fallback = FallbackNone
	case clusterv3.Cluster_LbSubsetConfig_DEFAULT_SUBSET:
		s.Fallback = FallbackDefault
	default:
		r.fail("lb_subset_config", "fallback policy %s is not known", p)
	}
	s.Default = labelsFromXDS(x.GetDefaultSubset(), r)
	for _, sel := range x.GetSubsetSelectors() {
		s.Selectors = append(s.Selectors, sel.GetKeys())
	}
	return s
}

// labelsToXDS is nil for none.
func labelsToXDS(labels map[string]string) *structpb.Struct {
	if len(labels) == 0 {
		return nil
	}
	x := &structpb.Struct{Fields: make(map[string]*structpb.Value, len(labels))}
	for k, v := range labels {
		x.Fields[k] = structpb.NewStringValue(v)
	}
	return x
}

func labelsFromXDS(x *structpb.Struct, r *reader) map[string]string {
	if len(x.GetFields()) == 0 {
		return nil
	}
	labels := make(map[string]string, len(x.GetFields()))
	for k, v := range x.GetFields() {
		s, ok := v.GetKind().(*structpb.Value_StringValue)
		if !ok {
			r.fail("labels", "%s must be a string, is %v", k, v)
		} else {
			labels[k] = s.StringValue
		}
	}
	return labels
}

// balancerFromXDS is the inverse of toXDS.
func balancerFromXDS(x *clusterv3.Cluster, r *reader) Balancer {
	b := Balancer{Overprovision: int(r.num("overprovision")), Subsets: subsetsFromXDS(x.GetLbSubsetConfig(), r)}
	switch policy := x.GetLbPolicy(); policy {
	case clusterv3.Cluster_LEAST_REQUEST:
		c := x.GetLeastRequestLbConfig()
		b.Algorithm, b.SlowStart = BalanceP2C, slowStartFromXDS(c.GetSlowStartConfig())
		if name := r.str("balancer"); name != "" {
			if b.Algorithm = name; name != BalanceLeastRequest {
				r.fail("balancer", "%q does not go with %s", name, policy)
			}
			b.Choices = int(c.GetChoiceCount().GetValue())
			if b.RequestBias = c.GetActiveRequestBias().GetDefaultValue(); c.GetActiveRequestBias() != nil && b.RequestBias == 0 {
				b.RequestBias = -1
			}
		}
	case clusterv3.Cluster_ROUND_ROBIN:
		b.Algorithm, b.SlowStart = BalanceRoundRobin, slowStartFromXDS(x.GetRoundRobinLbConfig().GetSlowStartConfig())
	case clusterv3.Cluster_RANDOM:
		b.Algorithm = BalanceRandom
		b.SlowStart = SlowStart{
			Window: r.dur("slow_start_window"), Aggression: r.num("slow_start_aggression"), MinWeight: int(r.num("slow_start_min_weight")),
		}
	case clusterv3.Cluster_RING_HASH:
		b.Algorithm, b.RingPoints = BalanceRingHash, int(r.num("ring_points"))
	case clusterv3.Cluster_MAGLEV:
		b.Algorithm, b.TableSize = BalanceMaglev, int(x.GetMaglevLbConfig().GetTableSize().GetValue())
	default:
		r.fail("balancer", "lb_policy %s is not known to this sidecar", policy)
	}
	common := x.GetCommonLbConfig()
	b.BoundedLoad = int(common.GetConsistentHashingLbConfig().GetHashBalanceFactor().GetValue())
	if t := common.GetHealthyPanicThreshold(); t != nil {
		if b.PanicThreshold = int(t.GetValue()); b.PanicThreshold == 0 {
			b.PanicThreshold = -1
		}
	}
	b.LocalityWeighted = common.GetLocalityWeightedLbConfig() != nil
	b.Affinity = affinityFromXDS(x.GetMetadata(), r)
	return b
}

// hashPolicies are keys in Envoy's words, for RouteAction.hash_policy. Each is terminal: of several the first that is there counts.
func hashPolicies(keys []AffinityKey) []*routev3.RouteAction_HashPolicy {
	var out []*routev3.RouteAction_HashPolicy
	for _, k := range keys {
		x := &routev3.RouteAction_HashPolicy{Terminal: true}
		switch k.Kind {
		case AffinityHeader:
			x.PolicySpecifier = &routev3.RouteAction_HashPolicy_Header_{Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: k.Name}}
		case AffinityCookie:
			c := &routev3.RouteAction_HashPolicy_Cookie{Name: k.Name, Path: k.Path}
			if k.Generate {
				c.Ttl = durationpb.New(k.TTL)
			}
			for _, a := range k.Attributes {
				c.Attributes = append(c.Attributes, &routev3.RouteAction_HashPolicy_CookieAttribute{Name: a.Name, Value: a.Value})
			}
			x.PolicySpecifier = &routev3.RouteAction_HashPolicy_Cookie_{Cookie: c}
		case AffinityQuery:
			x.PolicySpecifier = &routev3.RouteAction_HashPolicy_QueryParameter_{QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: k.Name}}
		case AffinitySource:
			x.PolicySpecifier = &routev3.RouteAction_HashPolicy_ConnectionProperties_{
				ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true},
			}
		}
		out = append(out, x)
	}
	return out
}

// affinityToXDS puts the keys into the metadata of a cluster, as a RouteAction that has nothing else: Envoy has them on its routes only, where listenersOut
// puts them, too.
func affinityToXDS(keys []AffinityKey, md *corev3.Metadata) error {
	if len(keys) == 0 {
		return nil
	}
	body, err := pack(&routev3.RouteAction{HashPolicy: hashPolicies(keys)})
	if err != nil {
		return err
	}
	md.TypedFilterMetadata = map[string]*anypb.Any{MetadataNamespace: body}
	return nil
}

func affinityFromXDS(md *corev3.Metadata, r *reader) []AffinityKey {
	body := md.GetTypedFilterMetadata()[MetadataNamespace]
	if body == nil {
		return nil
	}
	x, err := unpack(body, &routev3.RouteAction{})
	if err != nil {
		r.fail("hash_policy", "%v", err)
	}
	var out []AffinityKey
	for _, p := range x.GetHashPolicy() {
		k := AffinityKey{}
		switch s := p.GetPolicySpecifier().(type) {
		case *routev3.RouteAction_HashPolicy_Header_:
			k.Kind, k.Name = AffinityHeader, s.Header.GetHeaderName()
		case *routev3.RouteAction_HashPolicy_Cookie_:
			k = AffinityKey{
				Kind: AffinityCookie, Name: s.Cookie.GetName(), Path: s.Cookie.GetPath(), Generate: s.Cookie.GetTtl() != nil, TTL: s.Cookie.GetTtl().AsDuration(),
			}
			for _, a := range s.Cookie.GetAttributes() {
				k.Attributes = append(k.Attributes, CookieAttribute{Name: a.GetName(), Value: a.GetValue()})
			}
		case *routev3.RouteAction_HashPolicy_QueryParameter_:
			k.Kind, k.Name = AffinityQuery, s.QueryParameter.GetName()
		case *routev3.RouteAction_HashPolicy_ConnectionProperties_:
			if k.Kind = AffinitySource; !s.ConnectionProperties.GetSourceIp() {
				k.Kind = 0
			}
		}
		if !p.GetTerminal() {
			r.fail("hash_policy", "%v: only terminal ones are known to this sidecar", p)
		}
		out = append(out, k)
	}
	return out
}
