//go:build unix

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/tulle-mesh/tulle/internal/process"
)

// application is a service that speaks HTTP/2 over plaintext with prior knowledge: Go's net/http, behind every proxy of this package.
type application struct {
	address string
	server  *http.Server
	served  chan struct{}
}

// answerBody is long enough for the cases that let an answer wait for its window.
const answerBody = "what an application says, a few dozen bytes of it\n"

func startApplication() (*application, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	var speaks http.Protocols
	speaks.SetUnencryptedHTTP2(true)
	a := &application{address: l.Addr().String(), served: make(chan struct{})}
	a.server = &http.Server{
		Protocols: &speaks, ErrorLog: log.New(io.Discard, "", 0),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			w.Header().Set("content-type", "text/plain")
			_, _ = io.WriteString(w, answerBody)
		}),
	}
	go func() {
		defer close(a.served)
		_ = a.server.Serve(l)
	}()
	return a, nil
}

func (a *application) stop() {
	_ = a.server.Close()
	<-a.served
}

// envoy is one that relays plaintext HTTP/2 to an application.
type envoy struct {
	address string
	proc    *process.Process
}

type object = map[string]any

func startEnvoy(ctx context.Context, path, dir, application string) (*envoy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	e := &envoy{address: l.Addr().String()}
	l.Close()
	host, port, err := net.SplitHostPort(e.address)
	if err != nil {
		return nil, err
	}
	to, toPort, err := net.SplitHostPort(application)
	if err != nil {
		return nil, err
	}
	socket := func(host, port string) object {
		return object{"socket_address": object{"address": host, "port_value": json.Number(port)}}
	}
	typed := func(kind string, fields object) object {
		fields["@type"] = "type.googleapis.com/envoy." + kind
		return fields
	}
	text, err := json.Marshal(object{
		"static_resources": object{
			"listeners": []object{{"name": "in", "address": socket(host, port), "filter_chains": []object{{"filters": []object{{
				"name": "http", "typed_config": typed("extensions.filters.network.http_connection_manager.v3.HttpConnectionManager", object{
					"stat_prefix": "in", "codec_type": "HTTP2",
					"route_config": object{"virtual_hosts": []object{{
						"name": "all", "domains": []string{"*"}, "routes": []object{{"match": object{"prefix": "/"}, "route": object{"cluster": "app"}}},
					}}},
					"http_filters": []object{{"name": "envoy.filters.http.router", "typed_config": typed("extensions.filters.http.router.v3.Router", object{})}},
				}),
			}}}}}},
			"clusters": []object{{
				"name": "app", "type": "STATIC",
				"load_assignment": object{"cluster_name": "app", "endpoints": []object{{"lb_endpoints": []object{{"endpoint": object{"address": socket(to, toPort)}}}}}},
				"typed_extension_protocol_options": object{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed("extensions.upstreams.http.v3.HttpProtocolOptions",
					object{"explicit_http_config": object{"http2_protocol_options": object{}}})},
			}},
		},
	})
	if err != nil {
		return nil, err
	}
	file, said := filepath.Join(dir, "envoy.json"), filepath.Join(dir, "envoy.said")
	if err := os.WriteFile(file, text, 0o600); err != nil {
		return nil, err
	}
	says, err := os.Create(said)
	if err != nil {
		return nil, err
	}
	defer says.Close()
	e.proc, err = process.Start(process.Spec{Name: "envoy", Path: path, Args: []string{"-c", file, "--concurrency", "1", "--disable-hot-restart", "--log-level", "error"}, Log: says})
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	err = process.Await(limited, func(ctx context.Context) error {
		c, err := (&net.Dialer{}).DialContext(ctx, "tcp", e.address)
		if err != nil {
			return err
		}
		return c.Close()
	})
	if err != nil {
		text, _ := os.ReadFile(said)
		return nil, errors.Join(fmt.Errorf("envoy does not listen on %s: %w; it said: %s", e.address, err, text), e.proc.Stop())
	}
	return e, nil
}
