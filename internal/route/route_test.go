package route

import "testing"

func TestMatch(t *testing.T) {
	table := New("shop", Rule{Name: "cart", Prefix: "/cart", Service: "cart"}, Rule{Name: "pay", Prefix: "/pay/", Service: "payment"})
	for _, c := range []struct {
		path string
		want Decision
	}{
		{"/", Decision{Service: "shop"}},
		{"/cart", Decision{Service: "cart", Route: "cart"}},
		{"/cart/7", Decision{Service: "cart", Route: "cart"}},
		{"/cartoon", Decision{Service: "shop"}},
		{"/pay", Decision{Service: "payment", Route: "pay"}},
		{"/pay/now", Decision{Service: "payment", Route: "pay"}},
		{"*", Decision{Service: "shop"}},
	} {
		if got := table.Match(Head{Method: "GET", Path: c.path}); got != c.want {
			t.Errorf("Match(%q) = %+v, want %+v", c.path, got, c.want)
		}
	}
	if d := (Table{}).Match(Head{Path: "/"}); d.Matched() {
		t.Errorf("the zero table matched: %+v", d)
	}
	if d := New("", Rule{Name: "all", Prefix: "/", Service: "a"}).Match(Head{Path: "/x"}); d.Route != "all" {
		t.Errorf("prefix / must match everything, got %+v", d)
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	table := New("shop", Rule{Name: "cart", Prefix: "/cart", Service: "cart"})
	h := Head{Method: "GET", Path: "/cart/7", Authority: "shop"}
	if n := testing.AllocsPerRun(100, func() { table.Match(h) }); n != 0 {
		t.Errorf("Match allocates %v times, want 0", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	table := New("shop", Rule{Name: "cart", Prefix: "/cart", Service: "cart"}, Rule{Name: "pay", Prefix: "/pay", Service: "payment"})
	h := Head{Method: "GET", Path: "/catalog/items/9", Authority: "shop"}
	b.ReportAllocs()
	for b.Loop() {
		table.Match(h)
	}
}
