//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// proxy is one that is compared.
type proxy struct {
	name   string // on the command line
	title  string // in the report
	traced bool   // writes a log line and exports a span of every request
	tool   *tool  // the program; nil for Tulle, which is built beside this one
	start  func(*rig, *proxy, setup) (*running, error)
}

// proxies is the table of them, in the order of the report.
func proxies() []*proxy {
	return []*proxy{
		{name: "tulle", title: "Tulle, everything on", traced: true, start: startTulle},
		{name: "envoy", title: "Envoy, telemetry off", tool: envoyTool, start: startEnvoy},
		{name: "envoy-traced", title: "Envoy, log + 100 % traces", traced: true, tool: envoyTool, start: startEnvoy},
		{name: "haproxy", title: "HAProxy", tool: haproxyTool, start: startHAProxy},
		{name: "nginx", title: "nginx", tool: nginxTool, start: startNginx},
	}
}

// tool is a program that must be installed.
type tool struct {
	name    string
	install string
	version []string // arguments that print its version
}

// find looks for a program: where the flag says, where the environment says, on the PATH and where Debian keeps servers.
func (t *tool) find(flag string) (string, error) {
	candidates := []string{flag, os.Getenv(strings.ToUpper(t.name))}
	if candidates[0] == "" && candidates[1] == "" {
		candidates = append(candidates, t.name, filepath.Join("/usr/sbin", t.name))
	}
	for _, c := range candidates {
		if c == "" {
			continue
		}
		if path, err := exec.LookPath(c); err == nil {
			return path, nil
		} else if c == flag {
			return "", fmt.Errorf("-%s: %w", t.name, err)
		}
	}
	return "", fmt.Errorf("%s is missing: %s, or name it with -%s or in the environment as %s", t.name, t.install, t.name, strings.ToUpper(t.name))
}

// versionOf is the first line that the program says of its version, without its path, which is nobody's business in a page.
func (t *tool) versionOf(path string) (string, error) {
	out, err := exec.Command(path, t.version...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w", path, strings.Join(t.version, " "), err)
	}
	for line := range strings.Lines(string(out)) {
		words := strings.Fields(line)
		if len(words) > 1 && filepath.Base(words[0]) == filepath.Base(path) { // a launcher may have run another one of that name
			words = words[1:]
		}
		if len(words) > 0 {
			return strings.Join(words, " "), nil
		}
	}
	return "", fmt.Errorf("%s %s said nothing", path, strings.Join(t.version, " "))
}

// findTools finds what the chosen proxies need, and says everything that is missing at once.
func findTools(chosen []*proxy, flags map[string]*string) (map[string]string, error) {
	paths := map[string]string{}
	var missing []error
	for _, p := range chosen {
		if p.tool == nil || paths[p.tool.name] != "" {
			continue
		}
		path, err := p.tool.find(*flags[p.tool.name])
		if err != nil {
			missing = append(missing, err)
			path = "missing"
		}
		paths[p.tool.name] = path
	}
	return paths, errors.Join(missing...)
}
