package observer

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"

	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/gen/tullev1"
)

// Registry holds the newest registry that the controller sent, in memory and in a file, so that an observer that restarts while the controller
// is away still knows whom to believe. It is what the collector (Lookup) and the graph (Current) ask. Safe for concurrent use.
type Registry struct {
	path    string
	log     *slog.Logger
	current atomic.Pointer[known]
}

type known struct {
	message  *tullev1.Registry
	services map[string]owner // by SPIFFE ID
}

type owner struct{ service, namespace string }

// openRegistry reads what was kept in path; a file that cannot be read is said and ignored, because the controller sends all of it again.
func openRegistry(path string, log *slog.Logger) *Registry {
	r := &Registry{path: path, log: log}
	b, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return r
	}
	m := &tullev1.Registry{}
	if err == nil {
		err = proto.Unmarshal(b, m)
	}
	if err != nil {
		log.Warn("the registry kept from the last run cannot be read; reports are not counted until the controller sends it again", "path", path, "err", err)
		return r
	}
	r.current.Store(index(m))
	return r
}

func index(m *tullev1.Registry) *known {
	k := &known{message: m, services: map[string]owner{}}
	for _, w := range m.GetWorkloads() {
		o, ok := k.services[w.GetIdentity()]
		switch {
		case w.GetIdentity() == "":
		case !ok:
			k.services[w.GetIdentity()] = owner{w.GetService(), w.GetNamespace()}
		case o.service != w.GetService():
			k.services[w.GetIdentity()] = owner{"", w.GetNamespace()} // an identity of several services: its word for which
		}
	}
	return k
}

// Set takes a new registry; m must not change afterwards.
func (r *Registry) Set(m *tullev1.Registry) {
	r.current.Store(index(m))
	if err := r.save(m); err != nil {
		r.log.Warn("the registry could not be kept for the next start", "err", err)
	}
}

func (r *Registry) save(m *tullev1.Registry) error {
	b, err := proto.Marshal(m)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	tmp := r.path + ".tmp"
	if err := os.MkdirAll(filepath.Dir(r.path), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(tmp, b, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, r.path)
}

// Current is the newest registry, nil before the first. Do not change it.
func (r *Registry) Current() *tullev1.Registry {
	if k := r.current.Load(); k != nil {
		return k.message
	}
	return nil
}

// Lookup says which service an identity belongs to; service is "" for an identity of several services.
func (r *Registry) Lookup(identity string) (service, namespace string, ok bool) {
	k := r.current.Load()
	if k == nil {
		return "", "", false
	}
	o, ok := k.services[identity]
	return o.service, o.namespace, ok
}
