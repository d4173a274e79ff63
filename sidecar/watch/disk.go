package watch

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"

	"github.com/tulle-mesh/tulle/internal/policy"
)

// snapshot.pb is: magic (8 bytes), SHA-256 of the rest (32 bytes), then a DeltaDiscoveryResponse with every resource of the Snapshot. It is
// replaced by rename, so that a crash leaves the old or the new one. It is written by a goroutine of its own: what is in force does not wait for the disk.
const magic = "TULLEPB1"

// writeInterval is how long a Snapshot waits for later ones after the last was written. While a sidecar learns services, there is one after another.
const writeInterval = time.Second

// disk is what is to be written; only the latest matters.
type disk struct {
	wake chan struct{}
	next atomic.Pointer[[]policy.Part]
}

func (d *disk) init() { d.wake = make(chan struct{}, 1) }

// put hands over what is in force. It does not block.
func (d *disk) put(parts []policy.Part) {
	d.next.Store(&parts)
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// abandoned is the age from which a file that store has begun is one whose process was killed, and not that of another process beside this one.
const abandoned = time.Minute

// tidy removes what such processes have left.
func (w *Watcher) tidy() {
	left, _ := filepath.Glob(filepath.Join(w.cfg.StateDir, temporary)) // the pattern is well-formed
	for _, name := range left {
		if info, err := os.Lstat(name); err == nil && time.Since(info.ModTime()) > abandoned {
			_ = os.Remove(name)
		}
	}
}

// temporary is what store calls a file that is not whole.
const temporary = ".snapshot-*"

// write writes what put handed over until ctx is done, and then the last of it.
func (w *Watcher) write(ctx context.Context) {
	w.tidy()
	for {
		select {
		case <-w.disk.wake:
		case <-ctx.Done():
		}
		if parts := w.disk.next.Swap(nil); parts != nil {
			if err := store(w.file(), *parts); err != nil {
				w.cfg.Log.Error("policy cannot be stored; after a restart the sidecar would wait for the controller", "file", w.file(), "error", err)
			}
		}
		if ctx.Err() != nil {
			return
		}
		pause := time.NewTimer(writeInterval)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
		}
	}
}

func (w *Watcher) file() string { return filepath.Join(w.cfg.StateDir, "snapshot.pb") }

func store(file string, parts []policy.Part) error {
	resp := &discoveryv3.DeltaDiscoveryResponse{}
	for _, r := range parts {
		resp.Resources = append(resp.Resources, &discoveryv3.Resource{Name: r.Name, Version: r.Version, Resource: r.Body})
	}
	body, err := proto.Marshal(resp)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(body)
	f, err := os.CreateTemp(filepath.Dir(file), temporary) // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	_, err = f.Write(bytes.Join([][]byte{[]byte(magic), sum[:], body}, nil))
	if err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}

var errDamaged = errors.New("it is damaged (checksum differs)")

// load reads what store wrote; anything else, or of another instance, is an error.
func load(file, instance string) (*policy.Snapshot, staged, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, nil, err
	}
	rest, ok := bytes.CutPrefix(content, []byte(magic))
	if !ok || len(rest) < sha256.Size {
		return nil, nil, errDamaged
	}
	body := rest[sha256.Size:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], rest[:sha256.Size]) {
		return nil, nil, errDamaged
	}
	resp := &discoveryv3.DeltaDiscoveryResponse{}
	if err := proto.Unmarshal(body, resp); err != nil {
		return nil, nil, err
	}
	stored := staged{}
	for _, x := range resp.GetResources() {
		r := policy.Resource{TypeURL: x.GetResource().GetTypeUrl(), Name: x.GetName(), Version: x.GetVersion(), Body: x.GetResource()}
		p, err := policy.ReadResource(r)
		if err != nil {
			return nil, nil, fmt.Errorf("it is of another version: %w", err)
		}
		stored.put(p)
	}
	all, _ := stored.all()
	s, err := policy.Assemble(all)
	if err != nil {
		return nil, nil, fmt.Errorf("it is of another version: %w", err)
	}
	if s.Workload.Instance != instance {
		return nil, nil, fmt.Errorf("it belongs to instance %q, this is %q; use a state directory of its own", s.Workload.Instance, instance)
	}
	return s, stored, nil
}
