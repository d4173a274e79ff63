package event

import (
	"os"
	"regexp"
	"slices"
	"testing"
)

// Kinds has every constant of the vocabulary, in its order.
func TestKinds(t *testing.T) {
	b, err := os.ReadFile("types.go")
	if err != nil {
		t.Fatal(err)
	}
	var want []Kind
	for _, m := range regexp.MustCompile(`(?m)^\tKind\w+ +Kind = "([^"]+)"`).FindAllSubmatch(b, -1) {
		want = append(want, Kind(m[1]))
	}
	if got := Kinds(); !slices.Equal(got, want) || len(want) == 0 {
		t.Errorf("%q, want %q", got, want)
	}
}
