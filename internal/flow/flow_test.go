package flow

import (
	"encoding/json"
	"math/big"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestClosedSets(t *testing.T) {
	for k := KindExchange; k <= KindConnection; k++ {
		if got, ok := ParseKind(k.String()); !ok || got != k {
			t.Errorf("kind %q reads back as %v", k, got)
		}
	}
	for p := ProtocolTCP; p <= ProtocolHTTP; p++ {
		if want := p != ProtocolTCP && p != ProtocolTLS; p.HTTP() != want {
			t.Errorf("%s is HTTP: %v", p, p.HTTP())
		}
		if got, ok := ParseProtocol(p.String()); !ok || got != p {
			t.Errorf("protocol %q reads back as %v", p, got)
		}
	}
	for _, r := range append(Reasons(), ReasonNone) {
		if got, ok := ParseReason(r.String()); !ok || got != r || r != ReasonNone && r.String() == "" {
			t.Errorf("reason %q reads back as %v", r, got)
		}
	}
	for _, bad := range []string{"", "exchanges", "invalid"} {
		if _, ok := ParseKind(bad); ok {
			t.Errorf("ParseKind(%q) said ok", bad)
		}
	}
	for status, want := range map[int]string{0: "none", 99: "none", 100: "1xx", 204: "2xx", 599: "5xx", 600: "none", -1: "none"} {
		if got := Class(status).String(); got != want {
			t.Errorf("Class(%d) = %s, want %s", status, got, want)
		}
	}
	type set struct {
		K Kind
		S Side
		P Protocol
		R Reason
		F Phase
	}
	in := set{KindAttempt, SideServer, ProtocolHTTP2, ReasonShed, PhaseProgress}
	b, err := json.Marshal(in)
	if err != nil || !strings.Contains(string(b), `"h2"`) {
		t.Fatalf("%s, %v", b, err)
	}
	var out set
	if err := json.Unmarshal(b, &out); err != nil || out != in {
		t.Errorf("%+v, %v", out, err)
	}
	if err := json.Unmarshal([]byte(`{"P":"gopher"}`), &out); err == nil || !strings.Contains(err.Error(), "gopher") {
		t.Errorf("an unknown protocol gave %v", err)
	}
}

// The bound of bucket i is the largest n with n ≤ 10⁹·2^((i+1)/8), that is n⁸ ≤ 10⁷²·2^(i+1): checked in whole numbers for every bucket.
func TestBucketBoundsAreExact(t *testing.T) {
	limit := new(big.Int).Exp(big.NewInt(10), big.NewInt(72), nil)
	eighth := func(n int64) *big.Int { return new(big.Int).Exp(big.NewInt(n), big.NewInt(8), nil) }
	// holds reports n⁸ ≤ 10⁷²·2^(i+1).
	holds := func(n int64, i int) bool {
		left, right := eighth(n), new(big.Int).Set(limit)
		if e := i + 1; e >= 0 {
			right.Lsh(right, uint(e))
		} else {
			left.Lsh(left, uint(-e))
		}
		return left.Cmp(right) <= 0
	}
	for i := minBucket; i < maxBucket; i++ {
		b := int64(BucketBound(int32(i)))
		if !holds(b, i) || holds(b+1, i) {
			t.Fatalf("bucket %d: %d ns is not its exact bound", i, b)
		}
		if got := BucketIndex(time.Duration(b)); int(got) != i {
			// Below 23 ns several bounds share a whole nanosecond; the lowest such bucket is the right one.
			if BucketBound(got) != time.Duration(b) || int(got) > i {
				t.Fatalf("%d ns is in bucket %d, want %d", b, got, i)
			}
		}
	}
	if BucketBound(-1) != time.Second || BucketIndex(time.Second) != -1 || BucketIndex(time.Second+1) != 0 {
		t.Error("one second must be the upper bound of bucket -1")
	}
}

func TestBucketIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	check := func(d time.Duration) {
		t.Helper()
		i := int(BucketIndex(d)) - minBucket
		if uint64(d) > bounds[i] || i > 0 && uint64(d) <= bounds[i-1] {
			t.Fatalf("%d ns is in bucket %d with bound %d", d, i+minBucket, bounds[i])
		}
	}
	for d := time.Duration(1); d < 5000; d++ {
		check(d)
	}
	for range 200_000 {
		check(time.Duration(r.Uint64()>>(1+r.IntN(62))) | 1)
	}
	for i := range bounds[:NumBuckets-1] {
		check(time.Duration(bounds[i]))
		check(time.Duration(bounds[i] + 1))
	}
	check(1<<63 - 1)
}

func TestHistogram(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var h Histogram
	var all []time.Duration
	for range 5000 {
		d := time.Duration(r.Uint64() >> (10 + r.IntN(50)))
		all = append(all, d)
		h.Observe(d)
	}
	h.Observe(-5)
	all = append(all, 0)
	var sum time.Duration
	for _, d := range all {
		sum += d
	}
	if h.Count != uint64(len(all)) || h.Sum != sum || len(h.Buckets) > NumBuckets {
		t.Fatalf("count %d sum %v, want %d %v", h.Count, h.Sum, len(all), sum)
	}
	for i := int32(minBucket); i <= maxBucket; i += 7 {
		var want uint64
		for _, d := range all {
			if d <= BucketBound(i) {
				want++
			}
		}
		if got := h.AtMost(i); got != want {
			t.Fatalf("AtMost(%d) = %d, want %d", i, got, want)
		}
	}
	c := h.Clone()
	c.Observe(time.Second)
	if h.Count == c.Count || h.AtMost(maxBucket) != h.Count {
		t.Error("a clone shares with its original")
	}
}

func TestLines(t *testing.T) {
	r := Record{
		Kind: KindExchange, Side: SideClient, Protocol: ProtocolHTTP1,
		Trace: Trace{TraceID: TraceID{15: 1}, SpanID: SpanID{7: 2}},
		Start: time.Date(2026, 1, 2, 3, 4, 5, 6e6, time.UTC), Duration: 1500 * time.Microsecond,
		Legs:   Legs{HeadParsed: 0, Queued: Unset, Connected: Unset, Secured: Unset, Sent: Unset, FirstByte: 1e6, LastByte: Unset},
		Source: Peer{Service: "web"}, Destination: Peer{Service: "cart"}, Endpoint: netip.MustParseAddrPort("127.0.0.1:80"),
		Method: "GET", Path: "/a\n?q", Authority: `sh"op`, UserAgent: "curl\x1b[31m", Status: 503, Reason: ReasonUpstreamStatus,
		Answered: true, BytesOut: 9, Attempts: 1,
	}
	line := r.AppendJSON(nil)
	if strings.Count(string(line), "\n") != 1 || strings.ContainsAny(string(line), "\x1b") {
		t.Errorf("not one clean line: %q", line)
	}
	var got map[string]any
	if err := json.Unmarshal(line, &got); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	for k, want := range map[string]any{
		"time": "2026-01-02T03:04:05.0075Z", "duration_ns": 1.5e6, "trace_id": "00000000000000000000000000000001",
		AttrKind: "exchange", AttrPath: "/a\n", AttrAuthority: `sh"op`, AttrStatus: 503.0, AttrReason: "upstream_5xx",
		AttrAnswered: true, AttrLegHeadParsed: 0.0, AttrEndpoint: "127.0.0.1:80", AttrBytesOut: 9.0,
	} {
		if got[k] != want {
			t.Errorf("%s = %v, want %v", k, got[k], want)
		}
	}
	if _, ok := got[AttrLegQueued]; ok {
		t.Error("an unset leg must be left out")
	}
	const want = `[2026-01-02T03:04:05.006Z] "GET /a\n HTTP/1.1" 503 - 0 9 1 - "-" "curl\x1b[31m" "-" "sh\"op" "127.0.0.1:80"` + "\n"
	if text := string(r.AppendText(nil)); text != want {
		t.Errorf("got  %swant %s", text, want)
	}
}

// The text line is Envoy's default format, to the byte.
func TestEnvoyText(t *testing.T) {
	start := time.Date(2026, 1, 2, 3, 4, 5, 678_999_999, time.UTC)
	for _, c := range []struct {
		r    Record
		want string
	}{
		{
			Record{
				Kind: KindExchange, Protocol: ProtocolHTTP1, Method: "POST", Path: "/pay", Authority: "shop:80", UserAgent: "curl/8.5.0", RequestID: "id-1",
				Status: 200, BytesIn: 3, BytesOut: 12, Duration: 7900 * time.Microsecond, Legs: Legs{Sent: 1e6, FirstByte: 5_900_000},
				Endpoint: netip.MustParseAddrPort("10.0.0.1:8080"), Headers: "<x-forwarded-for:10.9.9.9, 10.8.8.8\n",
			},
			`[2026-01-02T03:04:05.678Z] "POST /pay HTTP/1.1" 200 - 3 12 7 4 "10.9.9.9, 10.8.8.8" "curl/8.5.0" "id-1" "shop:80" "10.0.0.1:8080"`,
		},
		{
			Record{
				Kind: KindExchange, Protocol: ProtocolHTTP1, Method: "GET", Path: "/", Authority: "shop", Status: 503, Reason: ReasonConnectRefused,
				Attempts: 3, Legs: Legs{Sent: Unset, FirstByte: Unset}, Endpoint: netip.MustParseAddrPort("[::1]:80"),
			},
			`[2026-01-02T03:04:05.678Z] "GET / HTTP/1.1" 503 UF,URX 0 0 0 - "-" "-" "-" "shop" "[::1]:80"`,
		},
		{
			Record{Kind: KindConnection, Protocol: ProtocolTCP, Reason: ReasonDownstreamReset, BytesIn: 5, Legs: Legs{Sent: Unset, FirstByte: Unset}},
			`[2026-01-02T03:04:05.678Z] "- - -" 0 DC 5 0 0 - "-" "-" "-" "-" "-"`,
		},
	} {
		c.r.Start = start
		if got := string(c.r.AppendText(nil)); got != c.want+"\n" {
			t.Errorf("got  %swant %s", got, c.want)
		}
	}
}

// docs/format/record.md has the table of reasons, as it is here.
func TestReasonsAreDocumented(t *testing.T) {
	var want strings.Builder
	want.WriteString("| reason | Envoy's flag | failure | means |\n|---|---|---|---|\n")
	flags := map[string]bool{}
	for _, f := range strings.Fields("UH UF UO NR UC UR UT LH LR DI FI RL UAEX RLSE DC URX SI IH DPE UMSDR RFCF NFCF DT UPE NC OM DF DR") {
		flags[f] = true
	}
	for _, r := range Reasons() {
		failure, flag := "yes", "–"
		if !r.Failure() {
			failure = "no"
		}
		if f := r.Flag(); f != "" {
			flag = "`" + f + "`"
			if !flags[f] {
				t.Errorf("%s: %q is no response flag of Envoy", r, f)
			}
		}
		if r.String() == "" || r.Means() == "" {
			t.Errorf("reason %d has no name or no meaning", r)
		}
		want.WriteString("| `" + r.String() + "` | " + flag + " | " + failure + " | " + r.Means() + " |\n")
	}
	page, err := os.ReadFile("../../docs/format/record.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(page), "\n"+want.String()+"\n") {
		t.Errorf("docs/format/record.md does not have this table:\n%s", want.String())
	}
	if numReasons.String() != "invalid" || numReasons.Flag() != "" || !numReasons.Failure() {
		t.Error("what is outside the vocabulary must read as an invalid failure")
	}
}

func TestHeaders(t *testing.T) {
	var b []byte
	b = AppendHeader(b, false, "x-tenant", []byte("acme: eu"))
	b = AppendHeader(b, true, "x-cache", []byte(strings.Repeat("v", 5000)))
	for range 50 {
		b = AppendHeader(b, true, "x-more", []byte(strings.Repeat("w", 200)))
	}
	h := Headers(b)
	if len(h) > MaxHeaders || h.Get(false, "x-tenant") != "acme: eu" || h.Get(true, "x-tenant") != "" || len(h.Get(true, "x-cache")) != MaxHeaderValue {
		t.Errorf("%d bytes: %q", len(h), h)
	}
	r := Record{Kind: KindExchange, Headers: "<x-from:/a?card=SECRET\n<cut", Legs: Legs{}}
	if line := string(r.AppendJSON(nil)); !strings.Contains(line, `"http.request.header.x-from":["/a"]`) || strings.Contains(line, "SECRET") {
		t.Errorf("%s", line)
	}
}

// The parts of a Split are never negative and add up to the duration, whatever two sidecars say.
func TestSplit(t *testing.T) {
	us := time.Microsecond
	r := Record{
		Kind: KindExchange, Side: SideClient, Duration: 1100 * us,
		Legs: Legs{HeadParsed: 10 * us, Queued: 30 * us, Connected: 130 * us, Secured: 230 * us, Sent: 240 * us, FirstByte: 1000 * us, LastByte: 1100 * us},
		Far:  Far{HeadParsed: 5 * us, Queued: 12 * us, Sent: 20 * us, FirstByte: 600 * us},
	}
	got, ok := r.Split()
	want := Split{Proxy: 23 * us, Queue: 27 * us, Connect: 200 * us, Network: 170 * us, Application: 580 * us, Transfer: 100 * us}
	if !ok || got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	if _, ok := (&Record{Legs: r.Legs}).Split(); ok {
		t.Error("a Split without the far side")
	}
	rnd := rand.New(rand.NewPCG(7, 8))
	for range 100_000 {
		leg := func() time.Duration { return time.Duration(rnd.Int64N(2000)) - 1 }
		r := Record{Duration: leg(), Legs: Legs{leg(), leg(), leg(), leg(), leg(), leg(), leg()}, Far: Far{leg(), leg(), leg(), leg()}}
		r.Duration = max(r.Duration, r.Legs.FirstByte)
		s, ok := r.Split()
		if !ok {
			continue
		}
		sum := s.Proxy + s.Queue + s.Connect + s.Network + s.Application + s.Transfer
		if min(s.Proxy, s.Queue, s.Connect, s.Network, s.Application, s.Transfer) < 0 {
			t.Fatalf("%+v: a part is negative: %+v", r, s)
		}
		if begin := max(r.Legs.Queued, r.Legs.Connected, r.Legs.Secured); begin <= r.Legs.FirstByte && sum != r.Duration {
			t.Fatalf("%+v: %+v adds up to %v, not %v", r, s, sum, r.Duration)
		}
	}
}

func TestParseResponse(t *testing.T) {
	// {partial_success: {rejected: 3, error_message: "no"}}
	if n, m := ParseResponse([]byte{0x0a, 0x06, 0x08, 0x03, 0x12, 0x02, 'n', 'o'}); n != 3 || m != "no" {
		t.Errorf("got %d %q", n, m)
	}
	for _, b := range [][]byte{nil, {0x0a}, {0x0a, 0xff}, {0x0a, 0x02, 0x08}, {0xff, 0xff}} {
		if n, m := ParseResponse(b); n != 0 || m != "" {
			t.Errorf("%x: got %d %q", b, n, m)
		}
	}
}

// BenchmarkViews is what a Record costs as a span and as a line of the access log.
func BenchmarkViews(b *testing.B) {
	recs := make([]Record, 512)
	for i := range recs {
		recs[i] = Record{
			Kind: KindExchange, Side: SideServer, Protocol: ProtocolHTTP1, Start: time.Now(), Duration: time.Millisecond,
			Trace: Trace{TraceID: TraceID{1, byte(i)}, SpanID: SpanID{2, byte(i)}, ParentID: SpanID{3}, Flags: 1},
			Legs:  Legs{HeadParsed: 900, Queued: 4_000, Connected: Unset, Secured: Unset, Sent: 15_000, FirstByte: 800_000, LastByte: 900_000},
			Source: Peer{
				Service: "web", Namespace: "shop", Identity: "spiffe://tulle.local/ns/shop/sa/web", Addr: netip.MustParseAddrPort("10.0.0.7:41822"),
			},
			Destination: Peer{
				Service: "cart", Namespace: "shop", Version: "v1", Instance: "cart-1", Identity: "spiffe://tulle.local/ns/shop/sa/cart",
				Addr: netip.MustParseAddrPort("10.0.0.9:8443"),
			},
			Endpoint: netip.MustParseAddrPort("127.0.0.1:8080"),
			Method:   "GET", Path: "/cart/items", Authority: "cart", UserAgent: "curl/8.5.0", RequestID: "0f6f1b5e-8a52-4f6e-9d3c-1c9f5a3c2b10",
			Status: 200, Answered: true, Attempts: 1, BytesOut: 1024, Revision: "3f1c2a",
		}
	}
	var dst []byte
	for _, c := range []struct {
		name string
		view func()
	}{
		{"span", func() { dst = AppendSpanBody(dst[:0], recs) }},
		{"json", func() {
			dst = dst[:0]
			for i := range recs {
				dst = recs[i].AppendJSON(dst)
			}
		}},
		{"text", func() {
			dst = dst[:0]
			for i := range recs {
				dst = recs[i].AppendText(dst)
			}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				c.view()
			}
			b.ReportMetric(float64(len(dst))/512, "B/record")
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/512, "ns/record")
		})
	}
}

// appendTime agrees with package time, at the ends of months, days and years as anywhere else.
func TestAppendTime(t *testing.T) {
	at := func(c time.Time) {
		if got, want := string(appendTime(nil, c)), c.UTC().Format(time.RFC3339Nano); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	for d := time.Date(1969, 12, 30, 0, 0, 0, 0, time.UTC); d.Year() < 2410; d = d.AddDate(0, 0, 1) {
		at(d)
		at(d.Add(24*time.Hour - 1))
	}
	at(time.Date(9999, 12, 31, 23, 59, 59, 999999999, time.UTC))
	at(time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC))
	r := rand.New(rand.NewPCG(1, 2))
	for range 100_000 {
		at(time.Unix(r.Int64N(1<<33), r.Int64N(1e9)).In(time.FixedZone("", 3600)))
		at(time.Unix(r.Int64N(1<<33), r.Int64N(1000)*1e6))
	}
}

// Merging is observing the same again.
func TestHistogramMerge(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 20))
	for range 300 {
		var a, b, both Histogram
		for range r.IntN(6) {
			d := time.Duration(r.Uint64() >> (1 + r.IntN(62)))
			a.Observe(d)
			both.Observe(d)
		}
		for range r.IntN(6) {
			d := time.Duration(r.Uint64() >> (1 + r.IntN(62)))
			b.Observe(d)
			both.Observe(d)
		}
		before := b.Clone()
		a.Merge(&b)
		if a.Count != both.Count || a.Sum != both.Sum || a.Zero != both.Zero || len(a.Buckets) != len(both.Buckets) || len(a.Buckets) > 0 && a.Offset != both.Offset || !slices.Equal(a.Buckets, both.Buckets) {
			t.Fatalf("merged %+v, want %+v", a, both)
		}
		if len(a.Buckets) > 0 && len(b.Buckets) > 0 {
			a.Buckets[0]++
			if !slices.Equal(b.Buckets, before.Buckets) {
				t.Fatal("the merged one shares its buckets")
			}
		}
	}
}
