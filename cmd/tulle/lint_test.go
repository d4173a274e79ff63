//go:build unix

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/tulle-mesh/tulle/controller/lint"
)

// TestReferenceListsFindings holds docs/reference/cli.md to the table of findings.
func TestReferenceListsFindings(t *testing.T) {
	section := reference(t)["tulle lint"]
	for _, c := range lint.Table {
		if row := fmt.Sprintf("| `%s` | %s | %s | %s |\n", c.Code, c.Severity, c.Meaning, c.Fix); !strings.Contains(section, row) {
			t.Errorf("docs/reference/cli.md: tulle lint lacks the row\n%s", row)
		}
	}
	if n := strings.Count(section, "\n| `") - strings.Count(section, "\n| `-"); n != len(lint.Table) {
		t.Errorf("docs/reference/cli.md: tulle lint has %d findings, there are %d", n, len(lint.Table))
	}
}
