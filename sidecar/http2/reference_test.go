package http2

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

// TestReference compares docs/reference/http2.md with the code: every text with which a message is refused, every limit, and the statuses of gRPC.
func TestReference(t *testing.T) {
	b, err := os.ReadFile("../../docs/reference/http2.md")
	if err != nil {
		t.Fatal(err)
	}
	page := string(b)
	source, err := os.ReadFile("head.go")
	if err != nil {
		t.Fatal(err)
	}
	faults := regexp.MustCompile(`&exchange\.Fault\{Status: (\d+), Text: "((?:[^"\\]|\\.)*)"\}`).FindAllStringSubmatch(string(source), -1)
	_, refused, _ := strings.Cut(page, "## Refused")
	if rows := strings.Count(refused, "\n| ") - 3; rows != len(faults) { // two heads, and the row for targets
		t.Errorf("the page lists %d texts, the code has %d", rows, len(faults))
	}
	for _, f := range faults {
		text := strings.ReplaceAll(f[2], `\"`, `"`)
		row := "| " + text + " |"
		if f[1] != "400" {
			row = "| " + f[1] + " | " + text + " |"
		}
		if !strings.Contains(refused, row) {
			t.Errorf("the page lacks the row %s", row)
		}
	}
	for _, l := range exchange.Limits() {
		if name := l.String(); strings.HasPrefix(name, "http2.") && !strings.Contains(page, "| `"+name+"` |") {
			t.Errorf("the page lacks the limit %s", name)
		}
	}
	for status, r := range map[int]flow.Reason{
		400: flow.ReasonBadRequest, 403: flow.ReasonDenied, 404: flow.ReasonNoRoute, 429: flow.ReasonRateLimited, 502: flow.ReasonUpstreamReset, 503: flow.ReasonShed,
		504: flow.ReasonIdleTimeout,
	} {
		code, _ := flow.NewGRPCStatus(grpcCode(status, r)).Code()
		row := regexp.MustCompile(`(?m)^\| (.*, )?` + itoa(status) + `(,.*)? \| ` + itoa(code) + ` `)
		if !row.MatchString(page) {
			t.Errorf("the page does not say that %d becomes gRPC's %d", status, code)
		}
	}
	if grpcCode(504, flow.ReasonRequestTimeout) != 4 || grpcCode(504, flow.ReasonTryTimeout) != 4 {
		t.Error("a deadline is not DEADLINE_EXCEEDED")
	}
}

func itoa(n int) string { return statusText(n) }
