package exchange

import (
	"strings"
	"testing"
)

func TestTraceparent(t *testing.T) {
	const ok = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for _, c := range []struct {
		in   string
		want bool
	}{
		{ok, true},
		{"cc" + ok[2:], true},
		{"cc" + ok[2:] + "-what", true},
		{ok + "-what", false},
		{"cc" + ok[2:] + ".what", false},
		{"ff" + ok[2:], false},
		{strings.ToUpper(ok), false},
		{ok[:54], false},
		{"00-00000000000000000000000000000000-b7ad6b7169203331-01", false},
		{"00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01", false},
		{strings.Replace(ok, "-01", "_01", 1), false},
		{ok[:53] + "zz", false},
		{"", false},
	} {
		tr, got := ParseTraceparent(c.in)
		if got != c.want {
			t.Errorf("ParseTraceparent(%q) = %v, want %v", c.in, got, c.want)
		}
		if got && !strings.HasPrefix(c.in, "cc") {
			if again := string(AppendTraceparent(nil, tr)); again != c.in {
				t.Errorf("%q comes out as %q", c.in, again)
			}
		}
	}
}

func TestIDs(t *testing.T) {
	trace, span := NewTraceID(), NewSpanID()
	if trace == NewTraceID() || span == NewSpanID() {
		t.Error("ids repeat")
	}
	id := string(AppendRequestID(nil))
	if len(id) != 36 || id[14] != '4' || !strings.ContainsRune("89ab", rune(id[19])) {
		t.Errorf("request id %q is not a version 4 UUID", id)
	}
}
