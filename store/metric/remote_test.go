package metric

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/snappy"
	"github.com/prometheus/prometheus/model/histogram"
	"github.com/prometheus/prometheus/prompb"
)

// backend takes remote write 1.0, and remembers.
type backend struct {
	*httptest.Server
	mu      sync.Mutex
	status  int            // what it answers; 0: it takes everything
	got     map[string]int // samples by series and value
	refused int            // requests
	bearer  string
	changed chan struct{}
}

func newBackend(t *testing.T) *backend {
	b := &backend{got: map[string]int{}, changed: make(chan struct{}, 1)}
	b.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		plain, err := snappy.Decode(nil, body)
		if err != nil {
			t.Error(err)
		}
		var req prompb.WriteRequest
		if err := req.Unmarshal(plain); err != nil {
			t.Error(err)
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		defer func() {
			select {
			case b.changed <- struct{}{}:
			default:
			}
		}()
		if b.status != 0 {
			b.refused++
			w.WriteHeader(b.status)
			return
		}
		b.bearer = r.Header.Get("Authorization")
		for _, ts := range req.Timeseries {
			var name strings.Builder
			for _, l := range ts.Labels {
				fmt.Fprintf(&name, "%s=%s,", l.Name, l.Value)
			}
			for _, s := range ts.Samples {
				b.got[fmt.Sprintf("%s %v", name.String(), s.Value)]++
			}
			for _, h := range ts.Histograms {
				b.got[fmt.Sprintf("%s histogram of %v", name.String(), h.GetCountFloat())]++
			}
		}
	}))
	t.Cleanup(b.Close)
	return b
}

// await returns once the backend satisfies want, which is called with its lock held.
func (b *backend) await(t *testing.T, what string, want func() bool) {
	t.Helper()
	deadline := time.After(30 * time.Second)
	for {
		b.mu.Lock()
		done := want()
		b.mu.Unlock()
		if done {
			return
		}
		select {
		case <-b.changed:
		case <-deadline:
			b.mu.Lock()
			defer b.mu.Unlock()
			t.Fatalf("%s did not happen within 30 s; got %d series and values, %d requests refused", what, len(b.got), b.refused)
		}
	}
}

func (b *backend) answer(status int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status = status
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// What is written while the backend is away reaches it, each sample once, when it is back; writing does not wait for it.
func TestRemoteWriteSurvivesItsBackendBeingAway(t *testing.T) {
	b := newBackend(t)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "token"), []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(dir, "remote.yaml")
	if err := os.WriteFile(config, []byte(`
global: {external_labels: {mesh: east}}
remote_write:
- url: `+b.URL+`
  authorization: {credentials_file: token}
  send_native_histograms: true
  write_relabel_configs: [{source_labels: [__name__], regex: unwanted, action: drop}]
  queue_config: {batch_send_deadline: 20ms, capacity: 40, max_samples_per_send: 20, min_shards: 1, max_shards: 1, max_backoff: 50ms}
`), 0o600); err != nil {
		t.Fatal(err)
	}
	to, err := ReadRemoteWrite(nil, config)
	if err != nil {
		t.Fatal(err)
	}
	d := open(t, t.TempDir(), Config{RemoteWrite: to})
	w := d.NewWriter()
	start := time.Now().Add(time.Second) // it sends what is newer than its own start
	rounds := 0
	write := func(n int) {
		t.Helper()
		for range n {
			err := w.Write(t.Context(), start.Add(time.Duration(rounds)*time.Second), func(batch *Batch) {
				rounds++
				for k := range 10 {
					batch.Counter("requests_total", float64(rounds), "k", fmt.Sprint(k))
				}
				batch.Counter("unwanted", 1)
				batch.Histogram("latency", &histogram.FloatHistogram{
					Schema: 3, Count: float64(rounds), PositiveSpans: []histogram.Span{{Length: 1}}, PositiveBuckets: []float64{float64(rounds)},
				})
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	whole := func() bool {
		for n := 1; n <= rounds; n++ {
			for k := range 10 {
				if b.got[fmt.Sprintf("__name__=requests_total,k=%d,mesh=east, %d", k, n)] != 1 {
					return false
				}
			}
			if b.got[fmt.Sprintf("__name__=latency,mesh=east, histogram of %d", n)] != 1 {
				return false
			}
		}
		return true
	}
	write(20)
	b.await(t, "all samples at the backend", whole)
	b.answer(http.StatusServiceUnavailable)
	write(100) // 1,100 samples: more than the queue holds
	b.await(t, "another try", func() bool { return b.refused >= 3 })
	if st := d.Remote(); len(st) != 1 || st[0].URL != b.URL || st[0].Pending == 0 || st[0].Pending > 100 || st[0].Failed != 0 {
		t.Errorf("while it is away: %+v", st)
	}
	b.answer(0)
	b.await(t, "all samples at the backend", whole)
	b.mu.Lock()
	for what, n := range b.got {
		if n != 1 || strings.Contains(what, "unwanted") {
			t.Errorf("%s came %d times", what, n)
		}
	}
	if b.bearer != "Bearer secret" {
		t.Errorf("authorization %q", b.bearer)
	}
	b.mu.Unlock()
	// A refusal is not tried again.
	b.mu.Lock()
	b.refused, b.status = 0, http.StatusBadRequest
	b.mu.Unlock()
	write(1)
	b.await(t, "a refusal", func() bool { return b.refused > 0 })
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if b.refused != 1 {
		t.Errorf("what was refused was sent %d times", b.refused)
	}
}

func TestReadRemoteWriteRefuses(t *testing.T) {
	for _, c := range []struct{ name, url, file, want string }{
		{"no URL", "metrics.example.com", "", "is no URL"},
		{"password", "http://u:p@metrics.example.com/write", "", "password_file"},
		{"missing file", "", "no-such-file", "no such file"},
		{"no section", "", file(t, "a", "global: {}\n"), "no remote_write section"},
		{"scrapes", "", file(t, "b", "remote_write: [{url: 'http://a/'}]\nscrape_configs: [{job_name: a}]\n"), "take the rest out"},
		{"unknown field", "", file(t, "c", "remote_write: [{url: 'http://a/', passwort: x}]\n"), "passwort"},
		{"twice", "http://a/", file(t, "d", "remote_write: [{url: 'http://a/'}]\n"), "named twice"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var urls []string
			if c.url != "" {
				urls = []string{c.url}
			}
			if _, err := ReadRemoteWrite(urls, c.file); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), ":p@") {
				t.Errorf("%v", err)
			}
		})
	}
	none, err := ReadRemoteWrite(nil, "")
	if err != nil || len(none.URLs()) > 0 {
		t.Errorf("%v %v", none, err)
	}
}
