// Package opensearch keeps spans in OpenSearch 2 or Elasticsearch 7, as documents of Jaeger v1.62's plugin, so that several observers share one store.
//
// Of the plugin only the documents are used: its writer acknowledges what it has not written yet. Which traces are meant is decided by store/span/indexed.
package opensearch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jaegertracing/jaeger/model"
	"github.com/jaegertracing/jaeger/pkg/cache"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/indexed"
	"github.com/tulle-mesh/tulle/store/span/jaegermodel"
)

const (
	name           = "opensearch"
	defaultAge     = 72 * time.Hour
	requestTimeout = 10 * time.Second
	writePatience  = 2 * time.Second // how long a batch waits for others before it is refused as busy
	inFlight       = 4               // batches that are being written at once
	bulkBytes      = 4 << 20         // of one request, about
	hitPage        = 256             // hits that are asked for at once
	tracePage      = 1000            // spans of a trace that are asked for at once
	docHeld        = 8 << 10         // bytes of heap of one of them, with what it is read from
	longestTerm    = 512             // bytes of a key and a value from which on they are not indexed
	longestName    = 8 << 10         // bytes of a service's or operation's name
	namesKnown     = 10_000          // names that need not be written again
	sweepEvery     = time.Hour
	day            = "2006.01.02"
)

// Config says where OpenSearch is.
type Config struct {
	Addresses []string      // URLs of some nodes, or host:port; asked in turn
	Prefix    string        // names of all indices begin with it; default tulle
	Username  string        // "" for none
	Password  string        //
	CAFile    string        // PEM of the authorities of https nodes; "": the system's
	Replicas  int           // further copies of each span
	RetainAge time.Duration // days of spans that are older are removed; default 72h
	Log       *slog.Logger
}

var prefix = regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`)

// DB is a store.Spans. Safe for concurrent use.
type DB struct {
	cfg   Config
	http  *http.Client
	next  atomic.Uint64 // address to ask
	slots chan struct{}
	names cache.Cache
	stop  context.CancelFunc
	swept sync.WaitGroup

	mu     sync.RWMutex // held for reading by every call
	closed bool

	written   atomic.Uint64
	lastError atomic.Pointer[string]
}

var _ store.Spans = (*DB)(nil)

// Open makes the index template where it is missing.
func Open(ctx context.Context, c Config) (*DB, error) {
	fail := func(err error) (*DB, error) {
		return nil, fmt.Errorf("span store %s at %s: %w", name, strings.Join(c.Addresses, ", "), err)
	}
	if c.Prefix == "" {
		c.Prefix = "tulle"
	}
	if c.RetainAge == 0 {
		c.RetainAge = defaultAge
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case len(c.Addresses) == 0:
		return fail(errors.New("no address: name one node at least with --span-store-address"))
	case !prefix.MatchString(c.Prefix):
		return fail(fmt.Errorf("keyspace %q: it must be a lower-case letter and then at most 47 of a-z, 0-9 and _", c.Prefix))
	case c.Replicas < 0:
		return fail(fmt.Errorf("%d copies: there must be one at least", c.Replicas+1))
	case c.RetainAge < time.Hour:
		return fail(fmt.Errorf("spans are to be kept for %s: whole days are removed, so that 1h is the least", c.RetainAge))
	}
	transport := &http.Transport{MaxIdleConnsPerHost: 32, MaxConnsPerHost: 64, IdleConnTimeout: time.Minute}
	if c.CAFile != "" {
		pem, err := os.ReadFile(c.CAFile)
		if err != nil {
			return fail(err)
		}
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(pem) {
			return fail(fmt.Errorf("%s has no certificate in PEM", c.CAFile))
		}
		transport.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	}
	c.Addresses = slices.Clone(c.Addresses)
	for i, a := range c.Addresses {
		if !strings.Contains(a, "://") {
			scheme := "http://"
			if c.CAFile != "" {
				scheme = "https://"
			}
			c.Addresses[i] = scheme + a
		}
		c.Addresses[i] = strings.TrimSuffix(c.Addresses[i], "/")
	}
	db := &DB{cfg: c, http: &http.Client{Transport: transport, Timeout: requestTimeout}, slots: make(chan struct{}, inFlight)}
	db.names = cache.NewLRUWithOptions(namesKnown, &cache.Options{TTL: 12 * time.Hour})
	template := fmt.Sprintf(`{"index_patterns": ["%s-spans-*", "%s-names"], "template": {"settings": {"number_of_shards": 1, "number_of_replicas": %d, "refresh_interval": "1s"}, "mappings": %s}}`,
		c.Prefix, c.Prefix, c.Replicas, mapping)
	if err := db.ask(ctx, http.MethodPut, "/_index_template/"+c.Prefix, []byte(template), nil); err != nil {
		return fail(fmt.Errorf("make the index template: %w (is it running, and are the address, the user and its password right?)", err))
	}
	sweeping, stop := context.WithCancel(context.Background())
	db.stop = stop
	db.swept.Go(func() {
		again := time.NewTicker(sweepEvery)
		defer again.Stop()
		for {
			if err := db.sweep(sweeping, time.Now()); err != nil && sweeping.Err() == nil {
				c.Log.Warn("old spans were not removed; it is tried again within the hour", "err", err)
			}
			select {
			case <-again.C:
			case <-sweeping.Done():
				return
			}
		}
	})
	return db, nil
}

// refused is an answer that is no success.
type refused struct {
	status int
	text   string
}

func (r *refused) Error() string { return fmt.Sprintf("status %d: %s", r.status, r.text) }

// ask sends one request, to the next address when one does not answer. Every request may be sent twice.
func (db *DB) ask(ctx context.Context, method, path string, body []byte, into any) (err error) {
	first := db.next.Load()
	for i := range uint64(len(db.cfg.Addresses)) {
		at := db.cfg.Addresses[(first+i)%uint64(len(db.cfg.Addresses))]
		if err = db.askAt(ctx, at, method, path, body, into); err == nil || ctx.Err() != nil {
			return err
		}
		var r *refused
		if errors.As(err, &r) && r.status < 500 {
			return err
		}
		db.next.CompareAndSwap(first+i, first+i+1)
	}
	return err
}

func (db *DB) askAt(ctx context.Context, at, method, path string, body []byte, into any) error {
	q, err := http.NewRequestWithContext(ctx, method, at+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/json")
	if db.cfg.Username != "" {
		q.SetBasicAuth(db.cfg.Username, db.cfg.Password)
	}
	a, err := db.http.Do(q)
	if err != nil {
		return err
	}
	defer a.Body.Close()
	if a.StatusCode/100 != 2 {
		text, _ := io.ReadAll(io.LimitReader(a.Body, 500)) // the status says enough
		return &refused{a.StatusCode, string(text)}
	}
	if into == nil {
		_, err = io.Copy(io.Discard, a.Body)
		return err
	}
	return json.NewDecoder(a.Body).Decode(into)
}

func sum(text string) []byte {
	s := sha256.Sum256([]byte(text))
	return s[:16]
}

// enter begins a call.
func (db *DB) enter(ctx context.Context, what string) (leave func(), err error) {
	db.mu.RLock()
	if err = ctx.Err(); db.closed {
		err = store.ErrClosed
	}
	if err != nil {
		db.mu.RUnlock()
		return nil, fmt.Errorf("%s: %s: %w", name, what, err)
	}
	return db.mu.RUnlock, nil
}

// told is err for callers: what may go away is store.ErrBusy, so that senders keep what they have and try again.
func told(ctx context.Context, what string, err error) error {
	var r *refused
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, store.ErrBadQuery) || errors.Is(err, store.ErrBusy) || errors.Is(err, store.ErrNotFound):
	case errors.As(err, &r) && r.status/100 == 4 && r.status != http.StatusTooManyRequests && r.status != http.StatusRequestTimeout:
	default:
		err = fmt.Errorf("%w: %w", store.ErrBusy, err)
	}
	return fmt.Errorf("%s: %s: %w", name, what, err)
}

// Write stores a batch by bulk requests; it is durable as OpenSearch's translog is (by default synced before it answers), and found within a second. On an error a part of the batch
// may be stored: what is written again replaces itself.
func (db *DB) Write(ctx context.Context, td ptrace.Traces) (err error) {
	leave, err := db.enter(ctx, "write")
	if err != nil {
		return err
	}
	defer leave()
	spans := jaegermodel.ToModel(td).Spans
	if len(spans) == 0 {
		return nil
	}
	patience := time.NewTimer(writePatience)
	defer patience.Stop()
	select {
	case db.slots <- struct{}{}:
		defer func() { <-db.slots }()
	case <-ctx.Done():
		return told(ctx, "write", ctx.Err())
	case <-patience.C:
		return fmt.Errorf("%s: write: %w: %d batches are being written already", name, store.ErrBusy, inFlight)
	}
	defer func() {
		if err != nil {
			text := err.Error()
			db.lastError.Store(&text)
		}
	}()
	jaegermodel.Settle(spans, longestName)
	index := db.cfg.Prefix + "-spans-" + time.Now().UTC().Format(day)
	var body bytes.Buffer
	send := func(atLeast int) error {
		if body.Len() < atLeast || body.Len() == 0 {
			return nil
		}
		defer body.Reset()
		return db.bulk(ctx, body.Bytes())
	}
	for _, s := range spans {
		d, err := toDocument(s)
		if err != nil {
			return told(ctx, "write", err)
		}
		if err := add(&body, index, d.Key, d); err != nil {
			return fmt.Errorf("%s: write: %w", name, err)
		}
		if err := send(bulkBytes); err != nil {
			return told(ctx, "write spans", err)
		}
	}
	fresh := names(spans)
	for key, n := range fresh {
		if db.names.Get(key) != nil {
			continue
		}
		if err := add(&body, db.cfg.Prefix+"-names", key, n); err != nil {
			return fmt.Errorf("%s: write: %w", name, err)
		}
	}
	if err := send(0); err != nil {
		return told(ctx, "write spans", err)
	}
	for key := range fresh {
		db.names.Put(key, true)
	}
	db.lastError.Store(nil)
	db.written.Add(uint64(len(spans)))
	return nil
}

func add(to *bytes.Buffer, index, id string, doc any) error {
	e := json.NewEncoder(to)
	if err := e.Encode(map[string]any{"index": map[string]string{"_index": index, "_id": id}}); err != nil {
		return err
	}
	return e.Encode(doc)
}

// bulk sends one request; the worst of what its items were refused for is the error.
func (db *DB) bulk(ctx context.Context, body []byte) error {
	var answer struct {
		Errors bool `json:"errors"`
		Items  []map[string]struct {
			Status int             `json:"status"`
			Error  json.RawMessage `json:"error"`
		} `json:"items"`
	}
	if err := db.ask(ctx, http.MethodPost, "/_bulk", body, &answer); err != nil || !answer.Errors {
		return err
	}
	var out *refused
	for _, item := range answer.Items {
		for _, i := range item {
			final := i.Status/100 == 4 && i.Status != http.StatusTooManyRequests
			if i.Status/100 != 2 && (out == nil || final) {
				out = &refused{i.Status, string(i.Error)}
			}
		}
	}
	if out == nil {
		return nil
	}
	return out
}

// query is a search.
type query struct {
	Size   int              `json:"size"`
	Query  map[string]any   `json:"query"`
	Sort   []map[string]any `json:"sort"`
	After  []any            `json:"search_after,omitempty"`
	Source any              `json:"_source,omitempty"`
}

type hit struct {
	Source json.RawMessage `json:"_source"`
	Sort   []any           `json:"sort"`
}

// page gives the next hits of a query, and makes it ready for those after them.
func (db *DB) page(ctx context.Context, index string, q *query) ([]hit, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, err
	}
	var answer struct {
		TimedOut bool `json:"timed_out"`
		Shards   struct {
			Failed int `json:"failed"`
		} `json:"_shards"`
		Hits struct {
			Hits []hit `json:"hits"`
		} `json:"hits"`
	}
	err = db.ask(ctx, http.MethodPost, "/"+index+"/_search?ignore_unavailable=true&allow_no_indices=true", body, &answer)
	switch {
	case err != nil:
		return nil, err
	case answer.TimedOut || answer.Shards.Failed > 0: // a part would pass for the whole
		return nil, fmt.Errorf("%w: %d shards did not answer", store.ErrBusy, answer.Shards.Failed)
	}
	if h := answer.Hits.Hits; len(h) > 0 {
		q.After = h[len(h)-1].Sort
	}
	return answer.Hits.Hits, nil
}

func equals(field string, value any) map[string]any {
	return map[string]any{"term": map[string]any{field: value}}
}

func (db *DB) spans() string { return db.cfg.Prefix + "-spans-*" }

// Read gives a whole trace, its spans grouped by resource.
func (db *DB) Read(ctx context.Context, id flow.TraceID) (ptrace.Traces, error) {
	q := &query{Size: tracePage, Query: equals("traceID", jaegermodel.TraceID(pcommon.TraceID(id)).String()), Sort: []map[string]any{{"startTime": "asc"}, {"key": "asc"}}}
	var all []*model.Span
	last := ""
	for {
		drop := store.BudgetOf(ctx).Mark()
		if err := store.BudgetOf(ctx).Hold(tracePage * docHeld); err != nil {
			return ptrace.Traces{}, err
		}
		hits, err := db.page(ctx, db.spans(), q)
		drop(int64(len(hits)) * docHeld)
		if err != nil {
			return ptrace.Traces{}, err
		}
		for _, h := range hits {
			var d document
			if err := json.Unmarshal(h.Source, &d); err != nil {
				return ptrace.Traces{}, err
			}
			if d.Key == last { // it was sent again on another day
				continue
			}
			last = d.Key
			s, err := fromDocument(d)
			if err != nil {
				return ptrace.Traces{}, err
			}
			all = append(all, s)
		}
		if len(hits) < q.Size {
			break
		}
	}
	if len(all) == 0 {
		return ptrace.Traces{}, fmt.Errorf("trace %s: %w", id, store.ErrNotFound)
	}
	return jaegermodel.FromModel(jaegermodel.Grouped(all)), nil
}

// Hits lists spans of the time that meet those conditions which have a field.
func (db *DB) Hits(ctx context.Context, c *indexed.Condition) (indexed.Hits, func(), error) {
	must := []any{map[string]any{"range": map[string]any{"startTime": map[string]int64{"gte": c.From, "lte": c.To}}}}
	if c.Service != "" && len(c.Service) <= longestName {
		must = append(must, equals("process.serviceName", c.Service))
	}
	if c.Operation != "" && len(c.Operation) <= longestName {
		must = append(must, equals("operationName", c.Operation))
	}
	for _, m := range c.Equal {
		if t, ok := term(m.Key, strings.ToValidUTF8(m.Value, "\uFFFD")); ok && m.Key != flow.AttrServiceName {
			must = append(must, equals("terms", t))
		}
	}
	q := &query{
		Size: hitPage, Query: map[string]any{"bool": map[string]any{"filter": must}}, Sort: []map[string]any{{"startTime": "desc"}, {"key": "desc"}},
		Source: []string{"traceID", "startTime"},
	}
	var hits []hit
	end := false
	return func() (h indexed.Hit, ok bool, err error) {
		if len(hits) == 0 && !end {
			if hits, err = db.page(ctx, db.spans(), q); err != nil {
				return h, false, err
			}
			end = len(hits) < q.Size
		}
		if len(hits) == 0 {
			return h, false, nil
		}
		var d struct {
			TraceID   string `json:"traceID"`
			StartTime int64  `json:"startTime"`
		}
		if err := json.Unmarshal(hits[0].Source, &d); err != nil {
			return h, false, err
		}
		hits = hits[1:]
		id, err := model.TraceIDFromString(d.TraceID)
		return indexed.Hit{Start: d.StartTime, Trace: flow.TraceID(jaegermodel.FromTraceID(id))}, true, err
	}, func() {}, nil
}

// do is a call that reads.
func (db *DB) do(ctx context.Context, what string, read func() error) error {
	leave, err := db.enter(ctx, what)
	if err != nil {
		return err
	}
	defer leave()
	return told(ctx, what, read())
}

// Trace returns a whole trace.
func (db *DB) Trace(ctx context.Context, id flow.TraceID) (td ptrace.Traces, err error) {
	err = db.do(ctx, "read a trace", func() error {
		td, err = db.Read(ctx, id)
		return err
	})
	return td, err
}

// Summaries returns a page of traces.
func (db *DB) Summaries(ctx context.Context, q store.TraceQuery) (page store.TracePage, err error) {
	err = db.do(ctx, "search traces", func() error {
		page, err = indexed.Summaries(ctx, db, q)
		return err
	})
	return page, err
}

// Spans yields spans.
func (db *DB) Spans(ctx context.Context, q store.TraceQuery, yield func(store.Span) bool) error {
	return db.do(ctx, "search spans", func() error { return indexed.Spans(ctx, db, q, yield) })
}

// Count counts spans.
func (db *DB) Count(ctx context.Context, q store.TraceQuery, steps store.Steps) (out store.Counts, err error) {
	leave, err := db.enter(ctx, "count spans")
	if err != nil {
		return out, err
	}
	defer leave()
	out, err = indexed.Count(ctx, db, q, steps)
	return out, told(ctx, "count spans", err)
}

func (db *DB) listed(ctx context.Context, kind, service string, visit func(named)) error {
	must := []any{equals("kind", kind)}
	if service != "" {
		must = append(must, equals("service", service))
	}
	q := &query{Size: 1000, Query: map[string]any{"bool": map[string]any{"filter": must}}, Sort: []map[string]any{{"key": "asc"}}}
	for {
		hits, err := db.page(ctx, db.cfg.Prefix+"-names", q)
		if err != nil {
			return err
		}
		for _, h := range hits {
			var n named
			if err := json.Unmarshal(h.Source, &n); err != nil {
				return err
			}
			visit(n)
		}
		if len(hits) < q.Size {
			return nil
		}
	}
}

// Services lists services.
func (db *DB) Services(ctx context.Context) (out []string, err error) {
	err = db.do(ctx, "list services", func() error {
		return db.listed(ctx, "operation", "", func(n named) { out = append(out, n.Service) })
	})
	slices.Sort(out)
	return slices.Compact(out), err
}

// Operations lists the operations of a service, or of all.
func (db *DB) Operations(ctx context.Context, service string) (out []store.Operation, err error) {
	err = db.do(ctx, "list operations", func() error {
		return db.listed(ctx, "operation", service, func(n named) { out = append(out, store.Operation{Name: n.Operation, Kind: n.SpanKind}) })
	})
	slices.SortFunc(out, func(a, b store.Operation) int { return strings.Compare(a.Name+"\x00"+a.Kind, b.Name+"\x00"+b.Kind) })
	return slices.Compact(out), err
}

// AttributeKeys lists names of attributes.
func (db *DB) AttributeKeys(ctx context.Context) (out []string, err error) {
	err = db.do(ctx, "list attributes", func() error {
		return db.listed(ctx, "attribute", "", func(n named) { out = append(out, n.Attribute) })
	})
	slices.Sort(out)
	return out, err
}

// sweep removes days that are over by more than the age.
func (db *DB) sweep(ctx context.Context, now time.Time) error {
	var all []struct {
		Index string `json:"index"`
	}
	if err := db.ask(ctx, http.MethodGet, "/_cat/indices/"+db.spans()+"?format=json&h=index", nil, &all); err != nil {
		return err
	}
	for _, i := range all {
		at, err := time.Parse(day, strings.TrimPrefix(i.Index, db.cfg.Prefix+"-spans-"))
		if err != nil || now.Sub(at.AddDate(0, 0, 1)) < db.cfg.RetainAge {
			continue
		}
		if err := db.ask(ctx, http.MethodDelete, "/"+i.Index, nil, nil); err != nil {
			return fmt.Errorf("remove %s: %w", i.Index, err)
		}
	}
	return nil
}

// Stats is what this process knows: not how much there is in all.
func (db *DB) Stats() store.SpanStats {
	s := store.SpanStats{Written: db.written.Load()}
	if e := db.lastError.Load(); e != nil {
		s.LastError = *e
	}
	return s
}

// Capabilities says what is otherwise than in the embedded store.
func (*DB) Capabilities() store.Capabilities {
	return store.Capabilities{Name: name, SearchWithoutService: true, AttributeSearch: true, DurationSearch: true, KeysetPaging: true}
}

// Close waits for what is running.
func (db *DB) Close() error {
	db.mu.Lock()
	defer db.mu.Unlock()
	if !db.closed {
		db.closed = true
		db.stop()
		db.swept.Wait()
		db.http.CloseIdleConnections()
	}
	return nil
}
