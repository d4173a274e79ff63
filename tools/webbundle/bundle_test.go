package main

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"regexp"
	"testing"
)

// TestVendoredIsUnchanged holds what others wrote to the sums in its README: a change there is a fork, which nobody would see.
func TestVendoredIsUnchanged(t *testing.T) {
	const dir = "../../dashboard/web/vendor/uplot/"
	readme, err := os.ReadFile(dir + "README.md")
	if err != nil {
		t.Fatal(err)
	}
	sums := regexp.MustCompile(`\| (\S+) \| ([0-9a-f]{64}) \|`).FindAllStringSubmatch(string(readme), -1)
	if len(sums) != 2 {
		t.Fatalf("%d sums in the README, want 2", len(sums))
	}
	for _, s := range sums {
		b, err := os.ReadFile(dir + s[1])
		if err != nil {
			t.Fatal(err)
		}
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != s[2] {
			t.Errorf("%s is not the file of the npm package: its SHA-256 is %x", s[1], sum)
		}
	}
}
