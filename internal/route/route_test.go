package route

import "testing"

func prefixes(t testing.TB, fallback string, to ...string) Table {
	t.Helper()
	var rules []Rule
	for i := 0; i < len(to); i += 2 {
		rules = append(rules, Rule{
			Name: to[i+1], Matches: []Match{{Path: Path{PathPrefix, to[i]}}}, Action: Action{Backends: []Backend{{Service: to[i+1], Weight: 1}}},
		})
	}
	table, err := New(fallback, rules...)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestMatch(t *testing.T) {
	table := prefixes(t, "shop", "/cart", "cart", "/pay/", "payment")
	for _, c := range []struct{ path, service, route string }{
		{"/", "shop", ""},
		{"/cart", "cart", "cart"},
		{"/cart/7", "cart", "cart"},
		{"/cartoon", "shop", ""},
		{"/pay", "payment", "payment"},
		{"/pay/now", "payment", "payment"},
		{"*", "shop", ""},
	} {
		if got := table.Match(Head{Method: "GET", Path: c.path}); got.Service != c.service || got.Route != c.route {
			t.Errorf("Match(%q) = %+v, want service %q by route %q", c.path, got, c.service, c.route)
		}
	}
	if d := (Table{}).Match(Head{Path: "/"}); d.Matched() {
		t.Errorf("the zero table matched: %+v", d)
	}
	if d := prefixes(t, "", "/", "all").Match(Head{Path: "/x"}); d.Route != "all" {
		t.Errorf("prefix / must match everything, got %+v", d)
	}
}

func TestMatchAllocatesNothing(t *testing.T) {
	table := prefixes(t, "shop", "/cart", "cart")
	h := Head{Method: "GET", Path: "/cart/7", Authority: "shop"}
	if n := testing.AllocsPerRun(100, func() { table.Match(h) }); n != 0 {
		t.Errorf("Match allocates %v times, want 0", n)
	}
}

func BenchmarkMatch(b *testing.B) {
	table := prefixes(b, "shop", "/cart", "cart", "/pay", "payment")
	h := Head{Method: "GET", Path: "/catalog/items/9", Authority: "shop"}
	b.ReportAllocs()
	for b.Loop() {
		table.Match(h)
	}
}

// The authority is the field host, whichever version of HTTP it came by.
func TestHostIsAField(t *testing.T) {
	table, err := New("s", Rule{Name: "shop", Matches: []Match{{Headers: []Value{{"host", ValueExact, "shop.example"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []Fields{nil, &request{}, &request{fields: []Field{{"host", "other"}}}} {
		if d := table.Match(Head{Path: "/", Authority: "shop.example", Fields: f}); d.Route != "shop" {
			t.Errorf("%+v: %+v", f, d)
		}
	}
	if d := table.Match(Head{Path: "/", Fields: &request{}}); d.Route != "" {
		t.Errorf("without an authority: %+v", d)
	}
}
