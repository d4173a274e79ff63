package cassandra

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gocql/gocql"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/span/indexed"
)

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		cfg  Config
		want string // part of the error
	}{
		{Config{}, "--span-store-address"},
		{Config{Addresses: []string{"a"}, Keyspace: "x; DROP KEYSPACE y"}, "keyspace"},
		{Config{Addresses: []string{"a"}, Keyspace: "Big"}, "keyspace"},
		{Config{Addresses: []string{"a"}, Replication: -1}, "replication -1"},
		{Config{Addresses: []string{"a"}, RetainAge: time.Second}, "1s"},
		{Config{Addresses: []string{"a"}, Password: "secret"}, "without a user"},
	} {
		_, err := c.cfg.check()
		if err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%+v: %v, want %q", c.cfg, err, c.want)
		}
	}
	c, err := Config{Addresses: []string{"10.0.0.1:9999", "10.0.0.2"}, DataCenter: "o'hare", Replication: 3}.check()
	if err != nil {
		t.Fatal(err)
	}
	cl, err := c.cluster()
	if err != nil || cl.Port != 9999 || len(cl.Hosts) != 2 || cl.Hosts[0] != "10.0.0.1" {
		t.Errorf("cluster %+v, %v", cl, err)
	}
	if s := statements(c)[0]; s != "CREATE KEYSPACE IF NOT EXISTS tulle WITH replication = {'class': 'NetworkTopologyStrategy', 'o''hare': '3'}" {
		t.Error(s)
	}
	c.Addresses = []string{"a:http"}
	if _, err := c.cluster(); err == nil {
		t.Error("a port that is no number was taken")
	}
}

type refusal struct{ code int }

func (r refusal) Code() int       { return r.code }
func (r refusal) Message() string { return "no" }
func (r refusal) Error() string   { return "no" }

// What may go away is to be tried again; what never will be taken is not.
func TestErrorsSayWhetherToTryAgain(t *testing.T) {
	for _, c := range []struct {
		err  error
		busy bool
	}{
		{gocql.ErrTimeoutNoResponse, true},
		{gocql.ErrNoConnections, true},
		{fmt.Errorf("insert: %w", &gocql.RequestErrWriteTimeout{}), true},
		{refusal{gocql.ErrCodeOverloaded}, true},
		{refusal{gocql.ErrCodeUnavailable}, true},
		{refusal{gocql.ErrCodeInvalid}, false},
		{refusal{gocql.ErrCodeUnauthorized}, false},
		{gocql.MarshalError("no"), false},
		{store.ErrTooLarge, false},
	} {
		err := told(t.Context(), "write", c.err)
		if errors.Is(err, store.ErrBusy) != c.busy || !strings.Contains(err.Error(), "cassandra: write: ") {
			t.Errorf("%v: %v, to be tried again: %v", c.err, err, c.busy)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := told(ctx, "write", gocql.ErrTimeoutNoResponse); !errors.Is(err, context.Canceled) || errors.Is(err, store.ErrBusy) {
		t.Errorf("of a caller who left: %v", err)
	}
}

// The narrowest partitions that have all are read.
func TestPartitions(t *testing.T) {
	for _, c := range []struct {
		q    store.TraceQuery
		want string
		n    int
	}{
		{store.TraceQuery{}, "service_name_index", 2 * buckets},
		{store.TraceQuery{Operation: "op"}, "service_operation_index", 2},
		{store.TraceQuery{Operation: "op", Reason: "shed"}, "tag_index", 2},
		{store.TraceQuery{Attributes: []store.AttributeMatch{{Key: "a", Value: "b", Op: "!="}, {Key: "c", Value: "d|e", Op: "~"}, {Key: "c", Op: "exists"}}}, "service_name_index", 2 * buckets},
		{store.TraceQuery{Attributes: []store.AttributeMatch{{Key: "a", Value: "b", Op: "~"}}}, "tag_index", 2},
		{store.TraceQuery{Attributes: []store.AttributeMatch{{Key: "a", Value: strings.Repeat("x", longest)}}}, "service_name_index", 2 * buckets}, // not indexed
		{store.TraceQuery{Attributes: []store.AttributeMatch{{Key: "a", Value: `{"json":true}`}}}, "service_name_index", 2 * buckets},
		{store.TraceQuery{Attributes: []store.AttributeMatch{{Key: flow.AttrServiceName, Value: "web"}}}, "service_name_index", 2 * buckets},
	} {
		cond, err := indexed.Compile(c.q, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		got := partitions(cond, []string{"web", "cart"})
		if len(got) != c.n || !strings.HasPrefix(got[0].where, c.want+" ") {
			t.Errorf("%+v: %d of %v, want %d of %s", c.q, len(got), got[0], c.n, c.want)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	if _, err := Open(t.Context(), Config{Addresses: []string{"127.0.0.1:1"}}); err == nil || !strings.Contains(err.Error(), "span store cassandra at 127.0.0.1:1") || !strings.Contains(err.Error(), "is it running") {
		t.Error(err)
	}
}
