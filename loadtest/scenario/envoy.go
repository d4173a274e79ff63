//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"

	"github.com/tulle-mesh/tulle/internal/process"
)

// object is JSON, which is YAML too.
type object = map[string]any

// envoy has an Envoy beside every caller, which goes straight to the endpoints: it sees their failures itself, where a second Envoy would show it answers.
type envoy struct {
	s     *stage
	tuned bool
	doors map[string]string // by caller's instance and service
	procs []*process.Process
	used  []*http.Transport
	rev   int
}

func newEnvoy(s *stage) carrier      { return &envoy{s: s, doors: map[string]string{}} }
func newTunedEnvoy(s *stage) carrier { return &envoy{s: s, tuned: true, doors: map[string]string{}} }

func (v *envoy) start(ctx context.Context) error {
	for i := range v.s.services {
		if err := v.told(v.s.services[i].name); err != nil {
			return err
		}
	}
	if err := v.beside(ctx, nil, v.s.services[0].name); err != nil {
		return err
	}
	for _, e := range v.s.all {
		if err := v.join(e); err != nil {
			return err
		}
	}
	return nil
}

// beside starts the Envoy of one caller.
func (v *envoy) beside(ctx context.Context, from *endpoint, service string) error {
	door, err := v.s.rig.ports.free()
	if err != nil {
		return err
	}
	name := "envoy-" + instanceOf(from)
	text, err := json.MarshalIndent(v.config(door, service), "", " ")
	if err != nil {
		return err
	}
	file := filepath.Join(v.s.dir, name+".json")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return err
	}
	p, err := v.s.rig.launch(ctx, name, v.s.rig.paths["envoy"], []string{"-c", file, "--disable-hot-restart", "--log-level", "error"}, accepts(door))
	if err != nil {
		return err
	}
	v.procs = append(v.procs, p)
	v.doors[instanceOf(from)+"/"+service] = door
	return nil
}

// instanceOf is a caller's name.
func instanceOf(from *endpoint) string {
	if from == nil {
		return "client"
	}
	return from.instance
}

func (v *envoy) caller(from *endpoint, service string) http.RoundTripper {
	t := transport(v.s.isGRPC(service))
	v.used = append(v.used, t)
	return toDoor{v.doors[instanceOf(from)+"/"+service], t}
}

func (v *envoy) join(e *endpoint) error {
	if e.service.calls == "" {
		return nil
	}
	return v.beside(v.s.ctx, e, e.service.calls)
}

func (v *envoy) leave(*endpoint, bool) error { return nil }
func (v *envoy) address(e *endpoint) string  { return e.address }

func (v *envoy) stop() error {
	var errs []error
	for _, t := range v.used {
		t.CloseIdleConnections()
	}
	for _, p := range v.procs {
		errs = append(errs, p.Stop())
	}
	return errors.Join(errs...)
}

// file is where what Envoy watches stands.
func (v *envoy) file(kind, name string) string {
	return filepath.Join(v.s.dir, kind+"-"+name+".json")
}

// clusters are the names of a service's clusters: one, or one for each version that has a weight.
func (v *envoy) clusters(service string) (names, versions []string) {
	last := &v.s.services[len(v.s.services)-1]
	if v.s.weighed() == nil || last.name != service {
		return []string{service}, []string{""}
	}
	for _, version := range last.versions {
		names = append(names, service+"-"+version)
	}
	return names, last.versions
}

// told moves new files of endpoints into place, which is what Envoy watches for, and of routes where versions have weights.
func (v *envoy) told(service string) error {
	v.rev++
	names, versions := v.clusters(service)
	for i, name := range names {
		if err := v.endpoints(service, name, versions[i]); err != nil {
			return err
		}
	}
	if len(names) == 1 {
		return nil
	}
	return replace(v.file("routes", service), object{"version_info": strconv.Itoa(v.rev), "resources": []object{typed("config.route.v3.RouteConfiguration", v.routes(service))}})
}

// endpoints moves the file of one cluster's endpoints into place.
func (v *envoy) endpoints(service, cluster, version string) error {
	var groups []object // by priority
	for _, e := range v.s.endpointsOf(service) {
		if version != "" && e.version != version {
			continue
		}
		priority := 0
		if v.tuned && e.zone != v.s.zone {
			priority = 1
		}
		for len(groups) <= priority {
			groups = append(groups, object{"priority": len(groups), "lb_endpoints": []object{}})
		}
		g := groups[priority]
		g["lb_endpoints"] = append(g["lb_endpoints"].([]object), object{"endpoint": object{"address": socket(e.address)}})
	}
	return replace(v.file("endpoints", cluster), object{"version_info": strconv.Itoa(v.rev), "resources": []object{typed("config.endpoint.v3.ClusterLoadAssignment",
		object{"cluster_name": cluster, "endpoints": groups})}})
}

// replace writes JSON beside a file and moves it into its place.
func replace(file string, content object) error {
	text, err := json.Marshal(content)
	if err != nil {
		return err
	}
	return place(file, text)
}

// place writes text beside a file and moves it into its place, so that who watches it never reads half of it.
func place(file string, text []byte) error {
	beside := file + ".new"
	if err := os.WriteFile(beside, text, 0o600); err != nil {
		return err
	}
	return os.Rename(beside, file)
}

// watched is a source of configuration in a file.
func (v *envoy) watched(kind, name string) object {
	return object{"resource_api_version": "V3", "path_config_source": object{"path": v.file(kind, name)}}
}

// cluster is where the requests to one cluster of a service go.
func (v *envoy) cluster(service, name string) object {
	c := object{"name": name, "type": "EDS", "eds_cluster_config": object{"eds_config": v.watched("endpoints", name)}}
	if v.s.dns {
		c = object{
			"name": name, "type": "STRICT_DNS", "dns_lookup_family": "V4_ONLY",
			"load_assignment": object{"cluster_name": name, "endpoints": []object{{"lb_endpoints": []object{{"endpoint": object{"address": socket(v.s.names.host())}}}}}},
			"typed_dns_resolver_config": object{"name": "envoy.network.dns_resolver.cares", "typed_config": typed("extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig", object{
				"resolvers": []object{socketOf("UDP", v.s.names.server())},
			})},
		}
	}
	if v.s.isGRPC(service) {
		c["typed_extension_protocol_options"] = object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed("extensions.upstreams.http.v3.HttpProtocolOptions",
			object{"explicit_http_config": object{"http2_protocol_options": object{}}})}
	}
	if v.tuned {
		maps.Copy(c, tunedCluster)
	}
	return c
}

// routes send everything to a service's cluster, or to its clusters by their weights.
func (v *envoy) routes(service string) object {
	names, _ := v.clusters(service)
	route := object{"cluster": names[0]}
	if len(names) > 1 {
		var shares []object
		for i, name := range names {
			shares = append(shares, object{"name": name, "weight": v.s.weighed()[i]})
		}
		route = object{"weighted_clusters": object{"clusters": shares}}
	}
	if v.tuned {
		route["retry_policy"] = tunedRetries
	}
	return object{"name": service, "virtual_hosts": []object{{
		"name": "all", "domains": []string{"*"}, "routes": []object{{"match": object{"prefix": "/"}, "route": route}},
	}}}
}

// config is one HTTP connection manager, one router, and a service's clusters.
func (v *envoy) config(door, service string) object {
	manager := object{
		"stat_prefix":  "in",
		"http_filters": []object{{"name": "envoy.filters.http.router", "typed_config": typed("extensions.filters.http.router.v3.Router", nil)}},
	}
	names, _ := v.clusters(service)
	var clusters []object
	for _, name := range names {
		clusters = append(clusters, v.cluster(service, name))
	}
	if len(names) > 1 {
		manager["rds"] = object{"route_config_name": service, "config_source": v.watched("routes", service)}
	} else {
		manager["route_config"] = v.routes(service)
	}
	return object{
		"node": object{"id": "scenario", "cluster": "scenario"},
		"static_resources": object{
			"listeners": []object{{"name": "in", "address": socket(door), "filter_chains": []object{{"filters": []object{{
				"name": "http", "typed_config": typed("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", manager),
			}}}}}},
			"clusters": clusters,
		},
	}
}

// tunedCluster is what an expert adds to a cluster for callers whose requests are idempotent, take milliseconds and have a deadline of two seconds. Retries
// have a budget of 20 %, as Tulle's. Ejections are looked at every second, and half of the endpoints may be out.
var tunedCluster = object{
	"connect_timeout": "0.25s",
	"load_balancing_policy": object{"policies": []object{{"typed_extension_config": object{
		"name": "least_request", "typed_config": typed("extensions.load_balancing_policies.least_request.v3.LeastRequest", object{
			"slow_start_config": object{"slow_start_window": "10s"},
		}),
	}}}},
	"outlier_detection": object{
		"interval": "1s", "base_ejection_time": "5s", "max_ejection_time": "60s", "max_ejection_percent": 50,
		"consecutive_5xx": 5, "consecutive_gateway_failure": 5, "enforcing_consecutive_gateway_failure": 100,
		"split_external_local_origin_errors": true, "consecutive_local_origin_failure": 3, "enforcing_consecutive_local_origin_failure": 100,
		"failure_percentage_threshold": 30, "failure_percentage_minimum_hosts": 3, "failure_percentage_request_volume": 20,
		"enforcing_failure_percentage": 100, "enforcing_failure_percentage_local_origin": 100,
	},
	"circuit_breakers": object{"thresholds": []object{{
		"priority": "DEFAULT", "max_connections": 256, "max_pending_requests": 64, "max_requests": 128,
		"retry_budget": object{"budget_percent": object{"value": 20}, "min_retry_concurrency": 10},
	}}},
}

// tunedRetries is its retry policy: one more try, elsewhere, for whatever failed, a try being given up after half a second.
var tunedRetries = object{
	"retry_on":               "5xx,reset,connect-failure,refused-stream,retriable-status-codes,unavailable",
	"retriable_status_codes": []int{http.StatusTooManyRequests},
	"num_retries":            2,
	"per_try_timeout":        "0.5s",
	"retry_back_off":         object{"base_interval": "0.025s", "max_interval": "0.25s"},
	"retry_host_predicate": []object{{
		"name":         "envoy.retry_host_predicates.previous_hosts",
		"typed_config": typed("extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate", nil),
	}},
	"host_selection_retry_max_attempts": 5,
	"retry_priority": object{
		"name":         "envoy.retry_priorities.previous_priorities",
		"typed_config": typed("extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig", object{"update_frequency": 1}),
	},
}

// typed is a message of Envoy's configuration in an Any.
func typed(kind string, fields object) object {
	o := object{"@type": "type.googleapis.com/envoy." + kind}
	for k, v := range fields {
		o[k] = v
	}
	return o
}

func socket(address string) object { return socketOf("TCP", address) }

func socketOf(protocol, address string) object {
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		panic(fmt.Sprintf("%s is no address: %v", address, err)) // the rig makes them
	}
	n, _ := strconv.Atoi(port)
	return object{"socket_address": object{"protocol": protocol, "address": host, "port_value": n}}
}
