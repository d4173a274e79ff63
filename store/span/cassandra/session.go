package cassandra

import (
	"context"

	"github.com/gocql/gocql"
	"github.com/jaegertracing/jaeger/pkg/cassandra"

	"github.com/tulle-mesh/tulle/store"
)

// rowHeld is about what one row of a trace takes, in bytes of heap.
const rowHeld = 5 << 10

// checked is what the plugin asks whenever it makes a reader or a writer, to know whether it is on an old schema. It takes any error for a no, so that one made while the engine is away
// would use tables that are not there. Open made the schema: the answer is known.
const checked = "SELECT * from operation_names_v2 limit 1"

// there is the answer to checked.
type there struct{ cassandra.Query }

func (there) Exec() error { return nil }

// session is what Jaeger's plugin works on. Unlike Jaeger's own it has a context, so that what nobody waits for any more is not asked, may be sent again by the driver, and
// counts rows of traces against the budget of the query before they are read.
type session struct {
	cql *gocql.Session
	ctx context.Context //nolint:containedctx // the plugin's interface has none
}

func (s *session) Query(stmt string, values ...any) cassandra.Query {
	if stmt == checked {
		return there{}
	}
	return query{s.cql.Query(stmt, values...).WithContext(s.ctx).Idempotent(true), s.ctx}
}

// Close leaves the session open: it belongs to the DB.
func (*session) Close() {}

type query struct {
	*gocql.Query
	ctx context.Context //nolint:containedctx // see session
}

func (q query) Bind(v ...any) cassandra.Query { return query{q.Query.Bind(v...), q.ctx} }

func (q query) Consistency(level cassandra.Consistency) cassandra.Query {
	return query{q.Query.Consistency(gocql.Consistency(level)), q.ctx}
}

func (q query) PageSize(n int) cassandra.Query { return query{q.Query.PageSize(n), q.ctx} }

func (q query) Iter() cassandra.Iterator {
	return &iterator{iter: q.Query.Iter(), budget: store.BudgetOf(q.ctx)}
}

type iterator struct {
	iter   *gocql.Iter
	budget *store.Budget
	err    error
}

func (i *iterator) Scan(dest ...any) bool {
	if len(dest) > 2 { // a span, not a name
		if i.err = i.budget.Hold(rowHeld); i.err != nil {
			return false
		}
	}
	return i.iter.Scan(dest...)
}

func (i *iterator) Close() error {
	if err := i.iter.Close(); i.err == nil {
		return err
	}
	return i.err
}
