package cassandra

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/gocql/gocql"
)

// window: two days of spans in blocks of an hour, as Jaeger has them.
const window = "{'class': 'TimeWindowCompactionStrategy', 'compaction_window_size': '1', 'compaction_window_unit': 'HOURS'}"

// types and tables are Jaeger's schema v004 (https://github.com/jaegertracing/jaeger, plugin/storage/cassandra/schema), since its plugin writes and reads them and a stock Jaeger
// may, but for two things: service_name_index and service_operation_index have the trace in their keys, because two traces that begin in one microsecond would else have one entry
// between them; and attribute_keys is ours. What only adaptive sampling and dependencies of Jaeger's own need is left out.
var types = []string{
	"keyvalue (key text, value_type text, value_string text, value_bool boolean, value_long bigint, value_double double, value_binary blob)",
	"log (ts bigint, fields frozen<list<frozen<keyvalue>>>)",
	"span_ref (ref_type text, trace_id blob, span_id bigint)",
	"process (service_name text, tags frozen<list<frozen<keyvalue>>>)",
}

type table struct {
	name, columns string
	order         string // of what is in one partition
	byTime        bool   // whole blocks of it expire
}

var tables = []table{
	{"traces", `trace_id blob, span_id bigint, span_hash bigint, parent_id bigint, operation_name text, flags int, start_time bigint, duration bigint,
		tags list<frozen<keyvalue>>, logs list<frozen<log>>, refs list<frozen<span_ref>>, process frozen<process>, PRIMARY KEY (trace_id, span_id, span_hash)`, "", true},
	{"service_names", "service_name text, PRIMARY KEY (service_name)", "", false},
	{"operation_names_v2", "service_name text, span_kind text, operation_name text, PRIMARY KEY ((service_name), span_kind, operation_name)", "", false},
	{"service_operation_index", "service_name text, operation_name text, start_time bigint, trace_id blob, PRIMARY KEY ((service_name, operation_name), start_time, trace_id)", "start_time DESC, trace_id DESC", true},
	{"service_name_index", "service_name text, bucket int, start_time bigint, trace_id blob, PRIMARY KEY ((service_name, bucket), start_time, trace_id)", "start_time DESC, trace_id DESC", true},
	{"duration_index", `service_name text, operation_name text, bucket timestamp, duration bigint, start_time bigint, trace_id blob,
		PRIMARY KEY ((service_name, operation_name, bucket), duration, start_time, trace_id)`, "duration DESC, start_time DESC, trace_id DESC", true},
	{"tag_index", `service_name text, tag_key text, tag_value text, start_time bigint, trace_id blob, span_id bigint,
		PRIMARY KEY ((service_name, tag_key, tag_value), start_time, trace_id, span_id)`, "start_time DESC, trace_id DESC, span_id DESC", true},
	{"attribute_keys", "name text, PRIMARY KEY (name)", "", false},
}

// statements make what is missing, and leave alone what is there.
func statements(c Config) []string {
	replication := fmt.Sprintf("{'class': 'SimpleStrategy', 'replication_factor': '%d'}", c.Replication)
	if c.DataCenter != "" {
		replication = fmt.Sprintf("{'class': 'NetworkTopologyStrategy', '%s': '%d'}", strings.ReplaceAll(c.DataCenter, "'", "''"), c.Replication)
	}
	out := []string{fmt.Sprintf("CREATE KEYSPACE IF NOT EXISTS %s WITH replication = %s", c.Keyspace, replication)}
	for _, t := range types {
		out = append(out, fmt.Sprintf("CREATE TYPE IF NOT EXISTS %s.%s", c.Keyspace, t))
	}
	for _, t := range tables {
		s := fmt.Sprintf("CREATE TABLE IF NOT EXISTS %s.%s (%s) WITH default_time_to_live = %d AND gc_grace_seconds = 10800", c.Keyspace, t.name, t.columns, seconds(c.RetainAge))
		if t.order != "" {
			s += fmt.Sprintf(" AND CLUSTERING ORDER BY (%s)", t.order)
		}
		if t.byTime {
			s += " AND compaction = " + window
		}
		out = append(out, s)
	}
	return out
}

func seconds(d time.Duration) int64 { return int64(d / time.Second) }

// createSchema makes the keyspace and its tables, and gives them the age that is wanted now. It may run in several processes at once.
func createSchema(ctx context.Context, s *gocql.Session, c Config) error {
	for _, stmt := range statements(c) {
		if err := s.Query(stmt).WithContext(ctx).Exec(); err != nil {
			return fmt.Errorf("create the schema: %s: %w", strings.Join(strings.Fields(stmt)[:6], " "), err)
		}
	}
	if err := s.AwaitSchemaAgreement(ctx); err != nil {
		return fmt.Errorf("wait until all nodes have the schema: %w", err)
	}
	for _, t := range tables {
		var age int64
		if err := s.Query("SELECT default_time_to_live FROM system_schema.tables WHERE keyspace_name = ? AND table_name = ?", c.Keyspace, t.name).WithContext(ctx).Scan(&age); err != nil {
			return fmt.Errorf("read how long %s.%s keeps: %w", c.Keyspace, t.name, err)
		}
		if age == seconds(c.RetainAge) {
			continue
		}
		if err := s.Query(fmt.Sprintf("ALTER TABLE %s.%s WITH default_time_to_live = %d", c.Keyspace, t.name, seconds(c.RetainAge))).WithContext(ctx).Exec(); err != nil {
			return fmt.Errorf("change how long %s.%s keeps: %w", c.Keyspace, t.name, err)
		}
	}
	return nil
}
