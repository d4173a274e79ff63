package policy

import (
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	inspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
)

// tlsInspector is the listener filter that reads the ClientHello of connections whose TLS is not ended here.
func tlsInspector() ([]*listenerv3.ListenerFilter, error) {
	config, err := pack(&inspectorv3.TlsInspector{})
	return []*listenerv3.ListenerFilter{{
		Name: "envoy.filters.listener.tls_inspector", ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: config},
	}}, err
}

func inspectsTLS(x *listenerv3.Listener) bool {
	for _, f := range x.GetListenerFilters() {
		if f.GetTypedConfig().MessageIs(&inspectorv3.TlsInspector{}) {
			return true
		}
	}
	return false
}
