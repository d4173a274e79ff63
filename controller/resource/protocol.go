package resource

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// words are what appProtocol and the names of ports say an application speaks, and the protocol that it is here. Other IANA names (RFC 6335) of appProtocol are bytes; other
// names of ports say nothing.
var words = map[string]string{
	"http": "http", "http1": "http1", "http2": "http2", "h2c": "http2", "grpc": "grpc",
	"grpc-web": "http", // HTTP of any version
	"ws":       "http", // a WebSocket begins as HTTP
	"http-alt": "http", // IANA's name of port 8080

	// What follows is TLS of the application's own.
	"https": "tls", "h2": "tls", "wss": "tls", "tls": "tls",

	"tcp": "tcp", "amqp": "tcp", "cassandra": "tcp", "kafka": "tcp", "ldap": "tcp", "memcached": "tcp", "mongo": "tcp", "mqtt": "tcp", "mysql": "tcp", "nats": "tcp",
	"postgres": "tcp", "postgresql": "tcp", "redis": "tcp", "smtp": "tcp", "ssh": "tcp",
}

// speaks says what a port speaks, one of policy.Protocols. What is said counts in this order: opaque, the protocol itself, appProtocol, the beginning of the port's name;
// if none of them says, it is detected: auto. field is where the port stands, for errors.
func speaks(field, protocol, appProtocol, name string, opaque bool) (string, error) {
	if protocol != "" {
		if err := oneOf(field+".protocol", protocol, policy.Protocols()...); err != nil {
			return "", err
		}
		if opaque && protocol != "tcp" && protocol != "auto" {
			return "", fmt.Errorf("%s.opaque: the port is declared to speak %s; remove one of the two", field, protocol)
		}
	}
	app, err := ofAppProtocol(appProtocol)
	switch {
	case err != nil:
		return "", fmt.Errorf("%s.appProtocol: %w", field, err)
	case opaque:
		return "tcp", nil
	case protocol != "":
		return protocol, nil
	case app != "":
		return app, nil
	}
	return ofPortName(name), nil
}

// SaidProtocols are what appProtocol and the name of a port say, each by itself, of a port that was checked: one of policy.Protocols, "" where it says nothing.
func SaidProtocols(appProtocol, name string) (byApp, byName string) {
	byApp, _ = ofAppProtocol(appProtocol)
	if byName = ofPortName(name); byName == "auto" {
		byName = ""
	}
	return byApp, byName
}

// ofAppProtocol reads the appProtocol of a Service's port as Kubernetes defines it (https://kubernetes.io/docs/concepts/services-networking/service/#application-protocol): an
// IANA name, one of Kubernetes' own with the prefix kubernetes.io/, or a name with another prefix, which says nothing here.
func ofAppProtocol(v string) (string, error) {
	word := strings.ToLower(v)
	prefix, rest, prefixed := strings.Cut(word, "/")
	switch {
	case word == "":
		return "", nil
	case prefixed && prefix != "kubernetes.io":
		if prefix == "" || rest == "" {
			return "", fmt.Errorf("%q: must be a name, or a name behind the domain that defines it, such as kubernetes.io/h2c", v)
		}
		return "", nil
	case prefixed && !slices.Contains([]string{"h2c", "ws", "wss"}, rest):
		return "", fmt.Errorf("%q: Kubernetes defines kubernetes.io/h2c, kubernetes.io/ws and kubernetes.io/wss", v)
	case prefixed:
		word = rest
	case word == "udp" || word == "sctp":
		return "", fmt.Errorf("%q: the mesh carries TCP; leave this port out", v)
	}
	if p, ok := words[word]; ok {
		return p, nil
	}
	if !serviceName(word) {
		return "", fmt.Errorf("%q: must be an IANA service name (1 to 15 of a-z, 0-9 and -, with a letter) or begin with the domain that defines it", v)
	}
	return "tcp", nil
}

// serviceName reports whether word can be registered with IANA (RFC 6335, section 5.1).
func serviceName(word string) bool {
	return len(word) >= 1 && len(word) <= 15 && word[0] != '-' && word[len(word)-1] != '-' && !strings.Contains(word, "--") &&
		strings.ContainsFunc(word, func(c rune) bool { return c >= 'a' && c <= 'z' }) &&
		!strings.ContainsFunc(word, func(c rune) bool { return !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') })
}

// ofPortName reads a port's name by Istio's convention: a known word, alone or followed by a dash and anything. Else auto.
func ofPortName(name string) string {
	name = strings.ToLower(name)
	protocol, longest := "auto", 0
	for word, p := range words { // grpc-web is not grpc
		if rest, ok := strings.CutPrefix(name, word); ok && (rest == "" || rest[0] == '-') && len(word) > longest {
			protocol, longest = p, len(word)
		}
	}
	return protocol
}
