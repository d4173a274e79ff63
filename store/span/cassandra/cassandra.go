// Package cassandra keeps spans in Apache Cassandra through the storage plugin of Jaeger v1.62, so that several observers share one store which grows by machines.
//
// The plugin writes, and reads whole traces. Which traces are meant is found in its index tables, and decided by store/span/indexed.
package cassandra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gocql/gocql"
	"github.com/jaegertracing/jaeger/model"
	"github.com/jaegertracing/jaeger/pkg/cache"
	"github.com/jaegertracing/jaeger/pkg/metrics"
	"github.com/jaegertracing/jaeger/plugin/storage/cassandra/spanstore"
	"github.com/jaegertracing/jaeger/plugin/storage/cassandra/spanstore/dbmodel"
	api "github.com/jaegertracing/jaeger/storage/spanstore"
	"go.opentelemetry.io/collector/pdata/pcommon"
	"go.opentelemetry.io/collector/pdata/ptrace"
	"go.opentelemetry.io/otel/trace/noop"
	"go.uber.org/zap"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/indexed"
	"github.com/tulle-mesh/tulle/store/span/jaegermodel"
)

const (
	name           = "cassandra"
	defaultAge     = 72 * time.Hour
	requestTimeout = 5 * time.Second // of one statement, tried at most three times
	writePatience  = 2 * time.Second // how long a batch waits for others before it is refused as busy
	inFlight       = 128             // spans that are being written at once, of all batches
	hitPage        = 256             // index entries that are asked for at once, of each partition
	buckets        = 10              // partitions of one service in service_name_index, as the plugin has them
	openers        = 32              // partitions that are asked at once
	longest        = 256             // bytes of a key or value from which on it is not indexed
	longestName    = 32 << 10        // bytes of a service's or operation's name; keys of partitions end at 64 KiB
	namesKnown     = 10_000          // attribute names that need not be written again
)

// Config says where Cassandra is.
type Config struct {
	Addresses   []string      // host or host:port of some nodes; the others are learnt from them
	Keyspace    string        // letters, digits and _; default tulle. Made when it is not there
	Username    string        // "" for none
	Password    string        //
	CAFile      string        // PEM of the authorities that sign the nodes' certificates; "": no TLS
	DataCenter  string        // the one to write to and read from; "": any, for a cluster of one
	Replication int           // copies of each span in a keyspace that is made; default 1
	RetainAge   time.Duration // how long a span is kept after it was written, whole seconds; default 72h
	Log         *slog.Logger
}

var keyspace = regexp.MustCompile(`^[a-z][a-z0-9_]{0,47}$`)

func (c Config) check() (Config, error) {
	if c.Keyspace == "" {
		c.Keyspace = "tulle"
	}
	if c.Replication == 0 {
		c.Replication = 1
	}
	if c.RetainAge == 0 {
		c.RetainAge = defaultAge
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	switch {
	case len(c.Addresses) == 0:
		return c, errors.New("no address: name one node at least with --span-store-address")
	case !keyspace.MatchString(c.Keyspace):
		return c, fmt.Errorf("keyspace %q: it must be a lower-case letter and then at most 47 of a-z, 0-9 and _", c.Keyspace)
	case c.Replication < 1:
		return c, fmt.Errorf("replication %d: there must be one copy at least", c.Replication)
	case c.RetainAge < time.Minute || c.RetainAge > 20*365*24*time.Hour:
		return c, fmt.Errorf("spans are to be kept for %s: from 1m to 20 years is possible", c.RetainAge)
	case c.Password != "" && c.Username == "":
		return c, errors.New("a password without a user name")
	}
	return c, nil
}

func (c Config) cluster() (*gocql.ClusterConfig, error) {
	cl := gocql.NewCluster()
	for _, a := range c.Addresses {
		if host, port, err := net.SplitHostPort(a); err == nil {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil {
				return nil, fmt.Errorf("address %q: the port must be a number up to 65535", a)
			}
			cl.Port = int(n)
			a = host
		}
		cl.Hosts = append(cl.Hosts, a)
	}
	cl.ProtoVersion = 4
	cl.Timeout, cl.ConnectTimeout, cl.WriteTimeout = requestTimeout, requestTimeout, requestTimeout
	cl.Consistency = gocql.LocalQuorum
	cl.RetryPolicy = &gocql.SimpleRetryPolicy{NumRetries: 2}
	cl.Logger = quiet{}
	policy := gocql.RoundRobinHostPolicy()
	if c.DataCenter != "" {
		policy = gocql.DCAwareRoundRobinPolicy(c.DataCenter)
	}
	cl.PoolConfig.HostSelectionPolicy = gocql.TokenAwareHostPolicy(policy, gocql.ShuffleReplicas())
	if c.Username != "" {
		cl.Authenticator = gocql.PasswordAuthenticator{Username: c.Username, Password: c.Password}
	}
	if c.CAFile != "" {
		cl.SslOpts = &gocql.SslOptions{CaPath: c.CAFile, EnableHostVerification: true}
	}
	return cl, nil
}

// quiet: what matters comes back as an error.
type quiet struct{}

func (quiet) Print(...any)          {}
func (quiet) Printf(string, ...any) {}
func (quiet) Println(...any)        {}

// DB is a store.Spans. Safe for concurrent use.
type DB struct {
	cfg     Config
	cql     *gocql.Session
	write   *session
	writer  atomic.Pointer[spanstore.SpanWriter]
	readers sync.Pool // of *reader
	slots   chan struct{}
	names   cache.Cache // attribute names that were written not long ago

	mu     sync.RWMutex // held for reading by every call
	closed bool

	written   atomic.Uint64
	lastError atomic.Pointer[string]
}

var _ store.Spans = (*DB)(nil)

// Open connects and makes the schema where it is missing.
func Open(ctx context.Context, c Config) (*DB, error) {
	fail := func(err error) (*DB, error) {
		return nil, fmt.Errorf("span store %s at %s: %w", name, strings.Join(c.Addresses, ", "), err)
	}
	c, err := c.check()
	if err != nil {
		return fail(err)
	}
	cl, err := c.cluster()
	if err != nil {
		return fail(err)
	}
	first, err := cl.CreateSession()
	if err != nil {
		return fail(fmt.Errorf("connect: %w (is it running, and are the address, the user and its password right?)", err))
	}
	err = createSchema(ctx, first, c)
	first.Close()
	if err != nil {
		return fail(err)
	}
	if cl, err = c.cluster(); err != nil { // its policy is of one session only
		return fail(err)
	}
	cl.Keyspace = c.Keyspace
	cql, err := cl.CreateSession()
	if err != nil {
		return fail(fmt.Errorf("connect to the keyspace %s: %w", c.Keyspace, err))
	}
	db := &DB{cfg: c, cql: cql, write: &session{cql, context.Background()}, slots: make(chan struct{}, inFlight)}
	db.names = cache.NewLRUWithOptions(namesKnown, &cache.Options{TTL: db.again()})
	db.forget()
	return db, nil
}

// again is after what time names are written again: well before they expire.
func (db *DB) again() time.Duration { return min(db.cfg.RetainAge/2, 12*time.Hour) }

// forget makes a writer that does not remember which names it wrote: the plugin remembers them before they are written.
func (db *DB) forget() {
	db.writer.Store(spanstore.NewSpanWriter(db.write, db.again(), metrics.NullFactory, zap.NewNop()))
}

// enter begins a call.
func (db *DB) enter(ctx context.Context, what string) (leave func(), err error) {
	db.mu.RLock()
	if db.closed {
		db.mu.RUnlock()
		return nil, fmt.Errorf("%s: %s: %w", name, what, store.ErrClosed)
	}
	if err := ctx.Err(); err != nil {
		db.mu.RUnlock()
		return nil, fmt.Errorf("%s: %s: %w", name, what, err)
	}
	return db.mu.RUnlock, nil
}

// told is err for callers: what may go away is store.ErrBusy, so that senders keep what they have and try again.
func told(ctx context.Context, what string, err error) error {
	var request gocql.RequestError
	var marshal gocql.MarshalError
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		err = ctx.Err()
	case errors.Is(err, store.ErrBadQuery) || errors.Is(err, store.ErrBusy) || errors.Is(err, store.ErrNotFound):
	case errors.As(err, &marshal):
	case errors.As(err, &request) && request.Code() >= gocql.ErrCodeSyntax: // it was understood, and will not be done
	default:
		err = fmt.Errorf("%w: %w", store.ErrBusy, err)
	}
	return fmt.Errorf("%s: %s: %w", name, what, err)
}

// Write stores a batch; it is durable as Cassandra's commit log is (by default it is synced every 10 s), on a quorum of the replicas. On an error a part of the batch may be
// stored: what is written again replaces itself, so that nothing is there twice.
func (db *DB) Write(ctx context.Context, td ptrace.Traces) error {
	leave, err := db.enter(ctx, "write")
	if err != nil {
		return err
	}
	defer leave()
	spans := jaegermodel.ToModel(td).Spans
	patience := time.NewTimer(writePatience)
	defer patience.Stop()
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex
		failed error
	)
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if failed == nil || errors.Is(failed, store.ErrBusy) { // what cannot be written at all decides
			failed = err
		}
	}
	stop := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return failed != nil
	}
	jaegermodel.Settle(spans, longestName)
send:
	for _, s := range spans {
		if stop() {
			break
		}
		select {
		case db.slots <- struct{}{}:
		case <-ctx.Done():
			note(told(ctx, "write", ctx.Err()))
			break send
		case <-patience.C:
			note(fmt.Errorf("%s: write: %w: %d spans are being written already", name, store.ErrBusy, inFlight))
			break send
		}
		wg.Go(func() {
			defer func() { <-db.slots }()
			if err := db.writeSpan(s); err != nil {
				note(told(ctx, "write a span", err))
			}
		})
	}
	wg.Wait()
	if failed == nil {
		failed = told(ctx, "write names of attributes", db.writeNames(td))
	}
	if failed != nil {
		db.forget()
		text := failed.Error()
		db.lastError.Store(&text)
		return failed
	}
	db.lastError.Store(nil)
	db.written.Add(uint64(len(spans)))
	return nil
}

func (db *DB) writeSpan(s *model.Span) error {
	if err := db.writer.Load().WriteSpan(db.write.ctx, s); err != nil {
		return err
	}
	all := [][]model.KeyValue{s.Process.Tags, s.Tags}
	for _, l := range s.Logs {
		all = append(all, l.Fields)
	}
	for _, tags := range all {
		for i := range tags {
			kv := &tags[i]
			// The plugin indexes no bytes, writes some numbers otherwise than conditions do, and leaves out spans that say they are of a firehose.
			text := jaegermodel.Text(kv)
			if (kv.VType == model.BinaryType || text != kv.AsString() || s.Flags.IsFirehoseEnabled()) && indexable(kv.Key, text) {
				if err := db.write.Query("INSERT INTO tag_index(trace_id, span_id, service_name, start_time, tag_key, tag_value) VALUES (?, ?, ?, ?, ?, ?)",
					dbmodel.TraceIDFromDomain(s.TraceID), int64(s.SpanID), s.Process.ServiceName, model.TimeAsEpochMicroseconds(s.StartTime), kv.Key, text).Exec(); err != nil { //nolint:gosec // a bit pattern
					return err
				}
			}
		}
	}
	return nil
}

// writeNames notes which attributes there are.
func (db *DB) writeNames(td ptrace.Traces) error {
	fresh := map[string]bool{}
	note := func(m pcommon.Map) {
		for k := range m.All() {
			if k != "" && len(k) < longest && k != flow.AttrSequence && k != flow.AttrClock && db.names.Get(k) == nil {
				fresh[strings.ToValidUTF8(k, "\uFFFD")] = true
			}
		}
	}
	for _, rs := range td.ResourceSpans().All() {
		note(rs.Resource().Attributes())
		for _, ss := range rs.ScopeSpans().All() {
			for _, sp := range ss.Spans().All() {
				note(sp.Attributes())
				for _, e := range sp.Events().All() {
					note(e.Attributes())
				}
			}
		}
	}
	for n := range fresh {
		if err := db.write.Query("INSERT INTO attribute_keys(name) VALUES (?)", n).Exec(); err != nil {
			return err
		}
		db.names.Put(n, n)
	}
	return nil
}

// indexable: the plugin indexes it.
func indexable(key, value string) bool {
	return key != "" && len(key) < longest && len(value) < longest && !strings.HasPrefix(value, "{")
}

// reader is the plugin's, on a session that is of one query at a time.
type reader struct {
	session session
	*spanstore.SpanReader
}

// reader makes one ready for a query; done gives it back.
func (db *DB) reader(ctx context.Context) (r *reader, done func()) {
	r, _ = db.readers.Get().(*reader)
	if r == nil {
		r = &reader{session: session{db.cql, ctx}}
		r.SpanReader = spanstore.NewSpanReader(&r.session, metrics.NullFactory, zap.NewNop(), noop.NewTracerProvider().Tracer(name))
	}
	r.session.ctx = ctx
	return r, func() {
		r.session.ctx = context.Background()
		db.readers.Put(r)
	}
}

// Trace returns a whole trace.
func (db *DB) Trace(ctx context.Context, id flow.TraceID) (ptrace.Traces, error) {
	leave, err := db.enter(ctx, "read a trace")
	if err != nil {
		return ptrace.Traces{}, err
	}
	defer leave()
	r, done := db.reader(ctx)
	defer done()
	td, err := engine{db, r}.Read(ctx, id)
	return td, told(ctx, "read the trace "+id.String(), err)
}

// Summaries returns a page of traces.
func (db *DB) Summaries(ctx context.Context, q store.TraceQuery) (page store.TracePage, err error) {
	err = db.search(ctx, "search traces", func(e engine) error {
		page, err = indexed.Summaries(ctx, e, q)
		return err
	})
	return page, err
}

// Spans yields spans.
func (db *DB) Spans(ctx context.Context, q store.TraceQuery, yield func(store.Span) bool) error {
	return db.search(ctx, "search spans", func(e engine) error { return indexed.Spans(ctx, e, q, yield) })
}

// Count counts spans.
func (db *DB) Count(ctx context.Context, q store.TraceQuery, steps store.Steps) (out store.Counts, err error) {
	err = db.search(ctx, "count spans", func(e engine) error {
		out, err = indexed.Count(ctx, e, q, steps)
		return err
	})
	return out, err
}

func (db *DB) search(ctx context.Context, what string, do func(engine) error) error {
	leave, err := db.enter(ctx, what)
	if err != nil {
		return err
	}
	defer leave()
	r, done := db.reader(ctx)
	defer done()
	if err := do(engine{db, r}); err != nil {
		return told(ctx, what, err)
	}
	return nil
}

// Services lists services.
func (db *DB) Services(ctx context.Context) (out []string, err error) {
	err = db.search(ctx, "list services", func(e engine) error {
		out, err = e.services(ctx)
		return err
	})
	return out, err
}

// Operations lists the operations of a service, or of all.
func (db *DB) Operations(ctx context.Context, service string) (out []store.Operation, err error) {
	err = db.search(ctx, "list operations", func(e engine) error {
		of := []string{service}
		if service == "" {
			if of, err = e.services(ctx); err != nil {
				return err
			}
		}
		for _, s := range of {
			list, err := e.r.GetOperations(ctx, api.OperationQueryParameters{ServiceName: s})
			if err != nil {
				return err
			}
			for _, o := range list {
				out = append(out, store.Operation{Name: o.Name, Kind: o.SpanKind})
			}
		}
		slices.SortFunc(out, func(a, b store.Operation) int {
			return strings.Compare(a.Name+"\x00"+a.Kind, b.Name+"\x00"+b.Kind)
		})
		out = slices.Compact(out)
		return nil
	})
	return out, err
}

// AttributeKeys lists names of attributes.
func (db *DB) AttributeKeys(ctx context.Context) (out []string, err error) {
	err = db.search(ctx, "list attributes", func(e engine) error {
		out, err = e.names("SELECT name FROM attribute_keys")
		return err
	})
	return out, err
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
		db.cql.Close()
	}
	return nil
}

// engine is a DB for one query.
type engine struct {
	db *DB
	r  *reader
}

func (e engine) names(stmt string) (out []string, err error) {
	i := e.r.session.Query(stmt).Iter()
	for one := ""; i.Scan(&one); {
		out = append(out, one)
	}
	slices.Sort(out)
	return out, i.Close()
}

func (e engine) services(ctx context.Context) ([]string, error) {
	out, err := e.r.GetServices(ctx)
	slices.Sort(out)
	return out, err
}

// Read gives a whole trace, its spans grouped by resource.
func (e engine) Read(ctx context.Context, id flow.TraceID) (ptrace.Traces, error) {
	t, err := e.r.GetTrace(ctx, jaegermodel.TraceID(pcommon.TraceID(id)))
	if errors.Is(err, api.ErrTraceNotFound) {
		return ptrace.Traces{}, fmt.Errorf("trace %s: %w", id, store.ErrNotFound)
	}
	if err != nil {
		return ptrace.Traces{}, err
	}
	return jaegermodel.FromModel(jaegermodel.Grouped(t.Spans)), nil
}

// partition is one row of an index table: its statement without the time, and its key.
type partition struct {
	where string
	key   []any
}

// partitions are those that together have every span that meets c.
func partitions(c *indexed.Condition, services []string) (out []partition) {
	by := slices.IndexFunc(c.Equal, func(m store.AttributeMatch) bool {
		return indexable(m.Key, m.Value) && m.Key != flow.AttrServiceName
	})
	for _, s := range services {
		switch {
		case by >= 0:
			out = append(out, partition{"tag_index WHERE service_name = ? AND tag_key = ? AND tag_value = ?", []any{s, c.Equal[by].Key, strings.ToValidUTF8(c.Equal[by].Value, "\uFFFD")}})
		case c.Operation != "" && len(c.Operation) <= longestName:
			out = append(out, partition{"service_operation_index WHERE service_name = ? AND operation_name = ?", []any{s, c.Operation}})
		default:
			for b := range buckets {
				out = append(out, partition{"service_name_index WHERE service_name = ? AND bucket = ?", []any{s, b}})
			}
		}
	}
	return out
}

// Hits reads the partitions side by side.
func (e engine) Hits(ctx context.Context, c *indexed.Condition) (indexed.Hits, func(), error) {
	services := []string{c.Service}
	if c.Service == "" {
		var err error
		if services, err = e.services(ctx); err != nil {
			return nil, nil, err
		}
	}
	parts := partitions(c, services)
	iters := make([]*gocql.Iter, len(parts))
	var wg sync.WaitGroup
	room := make(chan struct{}, openers)
	for i, p := range parts {
		room <- struct{}{}
		wg.Go(func() {
			defer func() { <-room }()
			iters[i] = e.db.cql.Query("SELECT start_time, trace_id FROM "+p.where+" AND start_time >= ? AND start_time <= ?", append(p.key, c.From, c.To)...).
				WithContext(ctx).Idempotent(true).PageSize(hitPage).Prefetch(0).Iter()
		})
	}
	wg.Wait()
	all := make([]indexed.Hits, len(parts))
	for i, iter := range iters {
		all[i] = func() (h indexed.Hit, ok bool, err error) {
			var id dbmodel.TraceID
			if !iter.Scan(&h.Start, &id) {
				return h, false, iter.Close()
			}
			h.Trace = flow.TraceID(id)
			return h, true, nil
		}
	}
	return indexed.Merge(all), func() {
		for _, iter := range iters {
			_ = iter.Close() // what mattered was said by its hits
		}
	}, nil
}
