// Package span maps the name of a span backend to it. Each backend is a folder beside this file; a new one is a folder and one line in
// Backends, and store/storetest runs against it.
//
// The table stands here and not in package store because backends import store for the contract they keep.
package span

import (
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/tulle-mesh/tulle/store"
	"github.com/tulle-mesh/tulle/store/event"
	"github.com/tulle-mesh/tulle/store/span/local"
)

// Config is what any backend may be told. Zero fields mean the backend's default.
type Config struct {
	Dir         string        // local: where the files live
	RetainAge   time.Duration // how long spans are kept after they arrived; 0: the backend's default
	RetainBytes uint64        // most bytes of sealed spans on disk; 0: the backend's default
	ThinAfter   time.Duration // age at which ordinary traces may be left out to make room; 0: the backend's default
	ThinKeep    int           // of those, one in so many stays; 1: all do; 0: the backend's default
	Log         *slog.Logger
	OnEvent     func(event.Event) // called for damage, disk pressure; must not block; may be nil
}

// Backend opens one kind of span store.
type Backend struct {
	Name string
	Open func(Config) (store.Spans, error)
}

// Backends is the only list.
var Backends = []Backend{
	{Name: "local", Open: func(c Config) (store.Spans, error) {
		return local.Open(local.Config{
			Dir: c.Dir, RetainAge: c.RetainAge, RetainBytes: c.RetainBytes, ThinAfter: c.ThinAfter, ThinKeep: c.ThinKeep, Log: c.Log, OnEvent: c.OnEvent,
		})
	}},
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
