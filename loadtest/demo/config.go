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

// writeConfig writes the resources the controller reads.
func (d *demo) writeConfig() error {
	dir := d.dir.join("config")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for name, text := range map[string]string{"shop.yaml": d.workloadsYAML()} {
		if err := os.WriteFile(d.dir.join("config", name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("configuration: %w", err)
		}
	}
	return nil
}

func (d *demo) workloadsYAML() string {
	var b strings.Builder
	return b.String()
}
