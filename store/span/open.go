// Package span maps the name of a span backend to it. Each backend is a folder beside this file; a new one is a folder and one line in
// Backends, and store/storetest runs against it.
//
// The table stands here and not in package store because backends import store for the contract they keep.
package span

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/span/cassandra"
	"github.com/tulle-mesh/tulle/store/span/local"
	"github.com/tulle-mesh/tulle/store/span/opensearch"
)

// Config is what any backend may be told. Zero fields mean the backend's default.
type Config struct {
	Dir         string        // local: where the files live
	RetainAge   time.Duration // how long spans are kept after they arrived; 0: the backend's default
	RetainBytes uint64        // most bytes of sealed spans on disk; 0: the backend's default
	ThinAfter   time.Duration // age at which ordinary traces may be left out to make room; 0: the backend's default
	ThinKeep    int           // of those, one in so many stays; 1: all do; 0: the backend's default
	Engine      Engine        // backends that are not on this machine's disk: where they are
	Log         *slog.Logger
	OnEvent     func(event.Event) // called for damage, disk pressure; must not block; may be nil
}

// Engine says where a backend is that several observers share.
type Engine struct {
	Addresses    []string // HOST:PORT of some of its nodes
	Keyspace     string   // what is ours in it; "": the backend's default
	Username     string   // "": none
	PasswordFile string   // the file that the password is in, alone
	CAFile       string   // PEM of the authorities of its certificates; "": no TLS
	DataCenter   string   // the one that this observer is in; "": any
	Replication  int      // copies of each span; 0: the backend's default
}

// password is read when the backend is opened.
func (e Engine) password() (string, error) {
	if e.PasswordFile == "" {
		return "", nil
	}
	b, err := os.ReadFile(e.PasswordFile)
	if err != nil {
		return "", fmt.Errorf("password of the span store: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

// Backend opens one kind of span store.
type Backend struct {
	Name string
	Open func(Config) (store.Spans, error)
}

// Backends is the only list.
var Backends = []Backend{
	{Name: "local", Open: func(c Config) (store.Spans, error) {
		if len(c.Engine.Addresses) > 0 {
			return nil, errors.New("span store local: it is on this machine's disk and has no address: name an engine with --span-store, or leave out --span-store-address")
		}
		return local.Open(local.Config{
			Dir: c.Dir, RetainAge: c.RetainAge, RetainBytes: c.RetainBytes, ThinAfter: c.ThinAfter, ThinKeep: c.ThinKeep, Log: c.Log, OnEvent: c.OnEvent,
		})
	}},
	{Name: "cassandra", Open: openCassandra},
	{Name: "opensearch", Open: openOpenSearch},
}

// byAge refuses what engines that keep by age alone cannot do.
func byAge(name string, c Config) error {
	if c.RetainBytes != 0 || c.ThinAfter != 0 || c.ThinKeep != 0 {
		return fmt.Errorf("span store %s: it keeps spans by age alone, and leaves none out: leave out --span-retain-bytes, --span-thin-after and --span-thin-keep", name)
	}
	return nil
}

func openOpenSearch(c Config) (store.Spans, error) {
	if err := byAge("opensearch", c); err != nil {
		return nil, err
	}
	if c.Engine.DataCenter != "" {
		return nil, errors.New("span store opensearch: it knows no data centres: leave out --span-store-datacenter, and name the nodes of this one")
	}
	password, err := c.Engine.password()
	if err != nil {
		return nil, err
	}
	db, err := opensearch.Open(context.Background(), opensearch.Config{
		Addresses: c.Engine.Addresses, Prefix: c.Engine.Keyspace, Username: c.Engine.Username, Password: password, CAFile: c.Engine.CAFile,
		Replicas: max(c.Engine.Replication, 1) - 1, RetainAge: c.RetainAge, Log: c.Log,
	})
	if err != nil {
		return nil, err
	}
	return db, nil
}

func openCassandra(c Config) (store.Spans, error) {
	if err := byAge("cassandra", c); err != nil {
		return nil, err
	}
	password, err := c.Engine.password()
	if err != nil {
		return nil, err
	}
	db, err := cassandra.Open(context.Background(), cassandra.Config{
		Addresses: c.Engine.Addresses, Keyspace: c.Engine.Keyspace, Username: c.Engine.Username, Password: password, CAFile: c.Engine.CAFile,
		DataCenter: c.Engine.DataCenter, Replication: c.Engine.Replication, RetainAge: c.RetainAge, Log: c.Log,
	})
	if err != nil {
		return nil, err // not a nil *DB in an interface
	}
	return db, nil
}

// Open opens the backend called name.
func Open(name string, cfg Config) (store.Spans, error) {
	for _, b := range Backends {
		if b.Name == name {
			return b.Open(cfg)
		}
	}
	var names []string
	for _, b := range Backends {
		names = append(names, b.Name)
	}
	slices.Sort(names)
	return nil, fmt.Errorf("span store %q: no such backend; choose one of: %s", name, strings.Join(names, ", "))
}
