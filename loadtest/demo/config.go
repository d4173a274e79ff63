//go:build unix

package demo

import (
	"fmt"
	"os"
	"strings"
)

// serverArgs is the command line of `tulle server`.
func (d *demo) serverArgs() []string {
	return []string{
		"server",
		"--data-dir", d.dir.path,
		"--config", d.dir.join("config"),
		"--http", d.HTTP,
		"--controller", d.Controller,
		"--controller-admin", d.ControllerAdmin,
		"--otlp-grpc", d.OTLPGRPC,
		"--otlp-http", d.OTLPHTTP,
		"--webhook", "http://" + d.Webhook + "/",
	}
}

// sidecarArgs is the command line of one workload's sidecar.
func (d *demo) sidecarArgs(w Workload) []string {
	return []string{
		"--controller", d.Controller,
		"--otlp", d.OTLPGRPC,
		"--bundle", d.bundle,
		"--token-file", d.tokens[w.Instance],
		"--state-dir", d.dir.join("sidecars", w.Instance),
		"--admin", w.Admin,
		"--namespace", Namespace,
		"--service", w.Service,
		"--instance", w.Instance,
		"--workload-version", w.Version,
	}
}

// writeConfig writes the resources the controller reads: one file per kind of thing, as a person would keep them.
func (d *demo) writeConfig() error {
	dir := d.dir.join("config")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"workloads.yaml": workloadsYAML(d.workloads),
		"external.yaml":  externalYAML(d.workloads),
		"policies.yaml":  policiesYAML,
	} {
		if err := os.WriteFile(d.dir.join("config", name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
	}
	return nil
}

const header = `---
apiVersion: tulle.dev/v1alpha1
kind: %s
metadata:
  name: %s
  namespace: ` + Namespace + `
spec:
`

// workloadsYAML is one Workload per process with a sidecar. web alone also takes plaintext, so that callers outside the mesh can be seen.
func workloadsYAML(ws []Workload) string {
	var b strings.Builder
	for _, w := range ws {
		if w.External {
			continue
		}
		fmt.Fprintf(&b, header, "Workload", w.Instance)
		fmt.Fprintf(&b, "  service: %s\n  version: %s\n", w.Service, w.Version)
		if !w.Client {
			mode := "strict"
			if w.Service == "web" {
				mode = "permissive"
			}
			fmt.Fprintf(&b, "  ports:\n    - {listen: %q, target: %q, protocol: %s, mode: %s}\n", w.Inbound, w.App, w.Protocol, mode)
		}
		if len(w.Calls) > 0 {
			b.WriteString("  upstreams:\n")
			for _, dep := range w.Calls {
				fmt.Fprintf(&b, "    - {service: %s, listen: %q}\n", dep, w.Outbound[dep])
			}
		}
	}
	return b.String()
}

// externalYAML is one ExternalService per host outside the mesh.
func externalYAML(ws []Workload) string {
	var b strings.Builder
	for _, w := range ws {
		if w.External {
			fmt.Fprintf(&b, header, "ExternalService", w.Service)
			fmt.Fprintf(&b, "  host: %s.example\n  addresses: [%q]\n  protocol: http\n", w.Service, w.App)
		}
	}
	return b.String()
}

// policiesYAML is how callers treat two of the services; all others have the defaults.
var policiesYAML = fmt.Sprintf(header, "TrafficPolicy", "catalog") + `  targetService: catalog
  requestTimeout: 5s
  retry: {attempts: 2, budgetRatio: 0.2}
` + fmt.Sprintf(header, "TrafficPolicy", "bank") + `  targetService: bank
  requestTimeout: 2s
  retry: {attempts: 1}
`
