package exchange

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tulle-mesh/tulle/internal/route"
)

// naive makes edits of a head field by field, as they are written down.
func naive(head []route.Field, e *route.Edits) []route.Field {
	without := func(name string) {
		head = slices.DeleteFunc(slices.Clone(head), func(f route.Field) bool { return f.Name == name })
	}
	for _, f := range e.Set {
		without(f.Name)
		head = append(head, f)
	}
	head = append(slices.Clone(head), e.Add...)
	for _, name := range e.Remove {
		without(name)
	}
	return head
}

// Edits are what a naive model makes of a head, however many are made one after the other.
func TestEditsAgainstModel(t *testing.T) {
	for seed := range uint64(20_000) {
		r := rand.New(rand.NewPCG(seed, 29))
		fields := func() (out []route.Field) {
			for range r.IntN(4) {
				out = append(out, route.Field{Name: fmt.Sprint("x-", r.IntN(5)), Value: fmt.Sprint(r.IntN(100))})
			}
			return out
		}
		came := fields()
		want := came
		var e Edits
		for range r.IntN(4) {
			by := route.Edits{Set: fields(), Add: fields()}
			for range r.IntN(3) {
				by.Remove = append(by.Remove, fmt.Sprint("x-", r.IntN(5)))
			}
			want = naive(want, &by)
			e.Apply(&by)
		}
		got := slices.DeleteFunc(slices.Clone(came), func(f route.Field) bool { return e.Drops(f.Name) })
		if got = append(got, e.Append...); !slices.Equal(got, want) {
			t.Fatalf("seed %d: %v, want %v (%+v)", seed, got, want, e)
		}
	}
}

func BenchmarkEdits(b *testing.B) {
	by := route.Edits{Set: []route.Field{{Name: "x-a", Value: "1"}}, Add: []route.Field{{Name: "x-b", Value: "2"}}, Remove: []string{"x-c"}}
	var e Edits
	b.ReportAllocs()
	for b.Loop() {
		e.Reset()
		e.Apply(&by)
	}
}
