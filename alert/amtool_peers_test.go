//go:build peers

package alert

import (
	"os/exec"
	"strings"
	"testing"
)

// TestAmtoolPeers: Alertmanager's own command reads alerts, makes silences and takes them back.
func TestAmtoolPeers(t *testing.T) {
	if _, err := exec.LookPath("amtool"); err != nil {
		t.Fatal("amtool is missing. Debian/Ubuntu: apt-get install prometheus-alertmanager; others: https://prometheus.io/download/")
	}
	s := newScene(t)
	s.fault(1)
	a, _ := s.run()
	at := serve(t, a)
	amtool := func(args ...string) string {
		out, err := exec.CommandContext(t.Context(), "amtool", append([]string{"--alertmanager.url", at, "--no-version-check"}, args...)...).CombinedOutput() //nolint:gosec // the test's own
		if err != nil {
			t.Fatalf("amtool %v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	s.hook.next(t)
	if got := amtool("alert", "query", "service=catalog"); !strings.Contains(got, "TestFault") || !strings.Contains(got, "catalog is at fault") || !strings.Contains(got, "active") {
		t.Error(got)
	}
	if got := amtool("alert", "query", "service=nobody"); strings.Contains(got, "TestFault") {
		t.Error(got)
	}
	id := strings.TrimSpace(amtool("silence", "add", "--author", "ana", "--comment", "known", "--duration", "1h", "alertname=TestFault"))
	if got := amtool("silence", "query"); !strings.Contains(got, id) {
		t.Errorf("%q is not in %s", id, got)
	}
	eventually(t, "it is silenced", func() bool { return strings.Contains(amtool("alert", "query", "--silenced"), "TestFault") })
	amtool("silence", "expire", id)
	if got := amtool("silence", "query"); strings.Contains(got, id) {
		t.Errorf("expired, and still in %s", got)
	}
	amtool("alert", "add", "Other", "service=db", "--annotation=summary=else")
	eventually(t, "the alert of others is there", func() bool { return strings.Contains(amtool("alert", "query", "Other"), "Other") })
	if got := amtool("config", "show"); !strings.Contains(got, "webhook_configs") || strings.Contains(got, s.hook.URL) {
		t.Errorf("the configuration, without secrets: %s", got)
	}
}
