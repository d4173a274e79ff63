//go:build linux

package machine

import (
	"testing"
	"time"
)

func TestParseBusy(t *testing.T) {
	got, err := parseBusy("cpu  100 20 30 99999 88888 1 2 3 0 0")
	if want := 1560 * time.Millisecond; err != nil || got != want {
		t.Errorf("%s %v, want %s", got, err, want)
	}
	if _, err := parseBusy("intr 1 2 3 4 5 6 7 8"); err == nil {
		t.Error("another line was read")
	}
}
