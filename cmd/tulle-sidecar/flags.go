package main

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar"
)

// config is everything a person can set.
type config struct {
	controller, otlp, admin string
	adminHosts              []string
	workload                policy.Workload
	account, trustDomain    string
	token                   string
	bundle, stateDir        string
	accessLog, accessFile   string
	compression             string
	series                  int
	drainTimeout            time.Duration
	drainDelay              time.Duration
	logLevel                slog.Level
	logJSON                 bool
	node                    string // file of workloads; the fields of one are empty then
	nodeBuffers             int64
	version                 bool

	// How the process lives.
	wait, quit  bool // do that and end
	waitTimeout time.Duration
	hotRestart  bool
	envFile     string
	command     []string // after "--"
	stopTimeout time.Duration
	flags       []string // the arguments before "--"
}

const usage = `Usage: tulle-sidecar --instance NAME --service NAME --bundle FILE --state-dir DIR [flags] [-- COMMAND [ARG…]]
       tulle-sidecar --node FILE --bundle FILE [flags]
       tulle-sidecar --wait [--admin ADDRESS] [--wait-timeout DURATION] [-- COMMAND [ARG…]]
       tulle-sidecar --quit [--admin ADDRESS]

Runs the data plane of one workload, and with COMMAND the workload itself, from when the sidecar is ready until it ends. A sidecar that is started
with the state directory of one that runs takes over its listeners without refusing a connection. Every flag but --version can also be set in the environment: --otlp as TULLE_OTLP, --state-dir as
TULLE_STATE_DIR. The join token is read from --token-file or TULLE_JOIN_TOKEN and is needed the first time only.

Flags:
`

// parse reads flags, then the environment for those not given, then checks. Errors name the flag.
func parse(args []string, env func(string) (string, bool), stderr io.Writer) (config, error) {
	var c config
	var hosts, tokenFile, level, format string
	f := flag.NewFlagSet("tulle-sidecar", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.StringVar(&c.controller, "controller", "127.0.0.1:8641", "controller's gRPC `address` (xDS and identity)")
	f.StringVar(&c.otlp, "otlp", "127.0.0.1:4317", "observer's OTLP gRPC `address`; \"off\" exports nothing")
	f.StringVar(&c.admin, "admin", "127.0.0.1:15000", "`address` of health, metrics, configuration and drain")
	f.StringVar(&hosts, "admin-host", "", "further `names`, comma separated, that the admin page answers to besides this machine's own")
	f.StringVar(&c.workload.Instance, "instance", "", "`name` of this instance, unique in the mesh (required)")
	f.StringVar(&c.workload.Service, "service", "", "`name` of the service this instance belongs to (required)")
	f.StringVar(&c.workload.Namespace, "namespace", "default", "`namespace` of the service")
	f.StringVar(&c.workload.Version, "workload-version", "", "`version` of the workload, shown with everything it does")
	f.StringVar(&c.account, "service-account", "", "`account` of the identity to ask for (default: the service's name)")
	f.StringVar(&c.trustDomain, "trust-domain", "", "`domain` of the mesh (default: the one of --bundle)")
	f.StringVar(&tokenFile, "token-file", "", "`file` with the join token")
	f.StringVar(&c.bundle, "bundle", "", "PEM `file` with the mesh's trust anchors (required)")
	f.StringVar(&c.stateDir, "state-dir", "", "`directory` of this instance alone: key, certificate and last policy, so that a restart needs no controller (required)")
	f.StringVar(&c.accessLog, "access-log", "off", "one line per request: json, text (Envoy's default format) or off")
	f.StringVar(&c.accessFile, "access-log-file", "-", "`file` to append the access log to, opened anew after SIGHUP and when it was renamed or removed; \"-\" is stdout")
	f.StringVar(&c.compression, "otlp-compression", "none", "of exports: none or gzip")
	f.IntVar(&c.series, "max-series", 10_000, "`series` kept of each metric; what is new beyond is counted under \"other\", visibly")
	f.StringVar(&c.node, "node", "", "YAML `file` with the workloads of this node, each of which gets a data plane of its own in this process; changes are noticed")
	f.Int64Var(&c.nodeBuffers, "node-buffer-bytes", 1<<30, "`bytes` of memory for the buffers of all workloads of --node, divided among them")
	f.DurationVar(&c.drainDelay, "drain-delay", 0, "how long after SIGTERM connections are still accepted, while the sidecar says that it is not ready")
	f.BoolVar(&c.wait, "wait", false, "wait until the sidecar at --admin is ready, then run COMMAND in place of this process, or end")
	f.DurationVar(&c.waitTimeout, "wait-timeout", time.Minute, "how long --wait, and COMMAND, wait for the sidecar to be ready")
	f.BoolVar(&c.quit, "quit", false, "tell the sidecar at --admin that the application has ended, and end")
	f.BoolVar(&c.hotRestart, "hot-restart", false, "stay, with a sidecar as child process, and start a new one that takes over at SIGUSR2; as with COMMAND")
	f.StringVar(&c.envFile, "env-file", "", "`file` of KEY=VALUE lines that each sidecar started by --hot-restart gets into its environment")
	f.DurationVar(&c.stopTimeout, "stop-timeout", 10*time.Second, "how long COMMAND may take to end after SIGTERM; then it is killed")
	f.DurationVar(&c.drainTimeout, "drain-timeout", sidecar.DefaultDrainTimeout, "how long requests in flight may take to finish after SIGTERM")
	f.StringVar(&level, "log-level", "info", "debug, info, warn or error")
	f.StringVar(&format, "log-format", "text", "text or json, on stderr")
	f.BoolVar(&c.version, "version", false, "print the version and exit")
	if err := f.Parse(args); errors.Is(err, flag.ErrHelp) {
		f.SetOutput(stderr)
		fmt.Fprint(stderr, usage)
		f.PrintDefaults()
		return c, err
	} else if err != nil {
		return c, fmt.Errorf("%w (see --help)", err)
	}
	c.flags = args
	if at := len(args) - f.NArg() - 1; f.NArg() > 0 && at >= 0 && args[at] == "--" {
		c.flags, c.command = args[:at], f.Args()
	} else if f.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q (flags begin with --; see --help)", f.Arg(0))
	}
	given := map[string]bool{}
	f.Visit(func(fl *flag.Flag) { given[fl.Name] = true })
	var err error
	f.VisitAll(func(fl *flag.Flag) {
		if fl.Name == "version" { // TULLE_VERSION is somebody else's
			return
		}
		name := "TULLE_" + strings.ToUpper(strings.ReplaceAll(fl.Name, "-", "_"))
		if v, ok := env(name); ok && !given[fl.Name] && err == nil {
			if serr := fl.Value.Set(v); serr != nil {
				err = fmt.Errorf("environment %s=%q: %w", name, v, serr)
			}
		}
	})
	if err != nil || c.version {
		return c, err
	}
	if err := c.checkLife(); err != nil || c.wait || c.quit {
		return c, err
	}

	if err := c.checkShape(given, tokenFile); err != nil {
		return c, err
	}
	if c.otlp == "off" {
		c.otlp = ""
	}
	for _, a := range []struct{ flag, value string }{{"--controller", c.controller}, {"--otlp", c.otlp}} {
		if _, _, err := net.SplitHostPort(a.value); err != nil && a.value != "" {
			return c, fmt.Errorf("%s %q: want host:port (%w)", a.flag, a.value, err)
		}
	}
	for _, e := range []struct {
		flag, value string
		known       []string
	}{
		{"--access-log", c.accessLog, []string{"off", "json", "text"}},
		{"--otlp-compression", c.compression, []string{"none", "gzip"}},
		{"--log-format", format, []string{"text", "json"}},
	} {
		if err := oneOf(e.flag, e.value, e.known); err != nil {
			return c, err
		}
	}
	if err := c.logLevel.UnmarshalText([]byte(level)); err != nil {
		return c, fmt.Errorf("--log-level %q: want debug, info, warn or error", level)
	}
	if c.series < 2 || c.series > 1_000_000 {
		return c, fmt.Errorf("--max-series %d: want 2 to 1000000", c.series)
	}
	if c.drainDelay < 0 {
		return c, fmt.Errorf("--drain-delay %s: want 0 or more", c.drainDelay)
	}
	if c.drainTimeout <= 0 {
		return c, fmt.Errorf("--drain-timeout %s: want more than 0", c.drainTimeout)
	}
	c.logJSON = format == "json"
	for h := range strings.SplitSeq(hosts, ",") {
		if h = strings.ToLower(strings.TrimSpace(h)); h != "" {
			c.adminHosts = append(c.adminHosts, h)
		}
	}
	if c.account == "" {
		c.account = c.workload.Service // "" for a node
	}
	if c.trustDomain == "" {
		if c.trustDomain, err = bundleDomain(c.bundle); err != nil {
			return c, err
		}
	}
	if c.node != "" { // each workload has its own
		return c, nil
	}
	c.token, err = readToken(tokenFile, c.stateDir, env)
	return c, err
}

// checkShape checks what one workload must say of itself, or that a node leaves it to its file.
func (c *config) checkShape(given map[string]bool, tokenFile string) error {
	if c.node != "" {
		if len(c.command) > 0 {
			return errors.New("--node: COMMAND is for a sidecar of one workload; start the node's process by itself")
		}
		if c.hotRestart && c.stateDir == "" {
			return errors.New("--hot-restart of a node: --state-dir is missing: its processes find each other there")
		}
		for _, f := range []struct {
			flag string
			set  bool
			in   string
		}{
			{"instance", c.workload.Instance != "", "instance"},
			{"service", c.workload.Service != "", "service"},
			{"namespace", given["namespace"], "namespace"},
			{"workload-version", c.workload.Version != "", "version"},
			{"service-account", c.account != "", "serviceAccount"},
			{"token-file", tokenFile != "", "tokenFile"},
		} {
			if f.set {
				return fmt.Errorf("--%s: is of one workload, and --node has several: write it as %s of the workload in %s", f.flag, f.in, c.node)
			}
		}
		if c.bundle == "" {
			return errors.New("--bundle is missing: give the PEM file with the mesh's trust anchors (see --help)")
		}
		if c.nodeBuffers < 1<<20 || c.nodeBuffers > 1<<40 {
			return fmt.Errorf("--node-buffer-bytes %d: want 1048576 to %d", c.nodeBuffers, int64(1)<<40)
		}
		return nil
	}
	for _, r := range []struct{ flag, value, what string }{
		{"--instance", c.workload.Instance, "name this instance"},
		{"--service", c.workload.Service, "name its service"},
		{"--bundle", c.bundle, "give the PEM file with the mesh's trust anchors"},
		{"--state-dir", c.stateDir, "give a directory for key, certificate and policy"},
	} {
		if r.value == "" {
			return fmt.Errorf("%s is missing: %s (see --help)", r.flag, r.what)
		}
	}
	return c.workload.Check()
}

// checkLife checks what says how the process lives.
func (c *config) checkLife() error {
	switch {
	case c.wait && c.quit:
		return errors.New("--wait and --quit: want one of them")
	case c.quit && len(c.command) > 0:
		return errors.New("--quit runs no COMMAND")
	case (c.wait || c.quit) && c.hotRestart:
		return errors.New("--hot-restart is for a sidecar, --wait and --quit are for whoever waits for one")
	case c.waitTimeout <= 0:
		return fmt.Errorf("--wait-timeout %s: want more than 0", c.waitTimeout)
	case c.stopTimeout <= 0:
		return fmt.Errorf("--stop-timeout %s: want more than 0", c.stopTimeout)
	case c.envFile != "" && !c.hotRestart && len(c.command) == 0:
		return errors.New("--env-file is for --hot-restart")
	}
	if _, _, err := net.SplitHostPort(c.admin); err != nil {
		return fmt.Errorf("--admin %q: want host:port (%w)", c.admin, err)
	}
	return nil
}

func oneOf(flag, value string, known []string) error {
	for _, k := range known {
		if value == k {
			return nil
		}
	}
	return fmt.Errorf("%s %q: want %s", flag, value, strings.Join(known, ", "))
}

// readToken may find none when the state directory has a certificate already: a token is good for joining once.
func readToken(file, stateDir string, env func(string) (string, bool)) (string, error) {
	if file == "" {
		token, _ := env("TULLE_JOIN_TOKEN")
		return strings.TrimSpace(token), nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		if _, joined := os.Stat(filepath.Join(stateDir, "identity.pem")); joined == nil {
			return "", nil
		}
		return "", fmt.Errorf("--token-file: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// bundleDomain is the trust domain that the anchors are of (SPIFFE X509-SVID §2: a signing certificate may carry its trust domain's ID).
func bundleDomain(file string) (string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return "", fmt.Errorf("--bundle: %w (the controller writes it; it is distributed with the join token)", err)
	}
	for block, rest := pem.Decode(b); block != nil; block, rest = pem.Decode(rest) {
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			continue
		}
		for _, u := range cert.URIs {
			if id, err := identity.Parse(u.String()); err == nil {
				return id.TrustDomain(), nil
			}
		}
	}
	return "", fmt.Errorf("--bundle %s: no certificate in it names a trust domain; name it with --trust-domain", file)
}
