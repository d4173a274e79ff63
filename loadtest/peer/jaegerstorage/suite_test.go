//go:build unix

// Package jaegerstorage runs Jaeger's own suite for storage backends (plugin/storage/integration of v1.62) against a real observer, by the client
// through which a stock Jaeger mounts a remote storage. make test-jaeger builds the observer and names it in TULLE. make test-engines names an engine in CASSANDRA
// or OPENSEARCH too, which the observer then keeps its spans in.
//
// It is a module of its own because the suite needs libraries of the age of Jaeger v1.62, which Tulle's module has left behind.
package jaegerstorage

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jaegertracing/jaeger/pkg/config"
	"github.com/jaegertracing/jaeger/pkg/metrics"
	"github.com/jaegertracing/jaeger/plugin/storage/grpc"
	"github.com/jaegertracing/jaeger/plugin/storage/integration"
	"go.uber.org/zap/zaptest"
)

var keyspaces atomic.Int64

// observer is a running observer with an empty store.
type observer struct {
	addr, log string
	cmd       *exec.Cmd
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func start(t *testing.T, root string) *observer {
	t.Helper()
	tulle := os.Getenv("TULLE")
	if tulle == "" {
		t.Fatal("TULLE does not name the tulle executable: run this by 'make test-jaeger'")
	}
	dir, err := os.MkdirTemp(root, "observer")
	if err != nil {
		t.Fatal(err)
	}
	o := &observer{addr: freeAddr(t), log: filepath.Join(dir, "log")}
	args := []string{
		"observer", "--data-dir", filepath.Join(dir, "data"), "--controller", "", "--http", freeAddr(t), "--otlp-grpc", freeAddr(t),
		"--otlp-http", "off", "--jaeger-query", o.addr,
	}
	for engine, env := range map[string]string{"cassandra": "CASSANDRA", "opensearch": "OPENSEARCH"} { // each observer has a keyspace of its own, so that it begins empty
		if at := os.Getenv(env); at != "" {
			args = append(args, "--span-store", engine, "--span-store-address", at, "--span-store-keyspace", fmt.Sprintf("jaeger_suite_%d_%d", os.Getpid(), keyspaces.Add(1)))
		}
	}
	o.cmd = exec.Command(tulle, args...)
	log, err := os.Create(o.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	o.cmd.Stdout, o.cmd.Stderr = log, log
	if err := o.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(30 * time.Second); ; {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(context.Background(), "tcp", o.addr)
		if err == nil {
			_ = c.Close()
			return o
		}
		if time.Now().After(end) {
			_ = o.cmd.Process.Kill()
			t.Fatalf("the observer does not listen on %s after 30 s: %v\n%s", o.addr, err, said(o.log))
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func (o *observer) stop(t *testing.T) {
	t.Helper()
	_ = o.cmd.Process.Signal(syscall.SIGTERM)
	if err := o.cmd.Wait(); err != nil {
		t.Errorf("the observer ended with %v\n%s", err, said(o.log))
	}
}

// said is what an observer logged.
func said(log string) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

// suite is Jaeger's, on an observer that is replaced by an empty one whenever the suite asks for a clean store.
type suite struct {
	integration.StorageIntegration
	root     string // outlives the tests of the suite, as the observer does that the next one finds
	observer *observer
	factory  *grpc.Factory
}

func (s *suite) open(t *testing.T) {
	s.observer = start(t, s.root)
	f := grpc.NewFactory()
	v, command := config.Viperize(f.AddFlags)
	if err := command.ParseFlags([]string{fmt.Sprintf("--grpc-storage.server=%s", s.observer.addr), "--grpc-storage.tls.enabled=false"}); err != nil {
		t.Fatal(err)
	}
	log := zaptest.NewLogger(t)
	f.InitFromViper(v, log)
	if err := f.Initialize(metrics.NullFactory, log); err != nil {
		t.Fatal(err)
	}
	s.factory = f
	var err error
	if s.SpanWriter, err = f.CreateSpanWriter(); err != nil {
		t.Fatal(err)
	}
	if s.SpanReader, err = f.CreateSpanReader(); err != nil {
		t.Fatal(err)
	}
}

func (s *suite) close(t *testing.T) {
	if err := s.factory.Close(); err != nil {
		t.Error(err)
	}
	s.observer.stop(t)
}

// TestSuite leaves out what a remote storage cannot be asked: throughput and probabilities for adaptive sampling, and writing dependencies, which
// Tulle counts itself. There is no archive beside the store, and the capabilities say so.
func TestSuite(t *testing.T) {
	s := &suite{root: t.TempDir()}
	s.SkipArchiveTest = true
	s.CleanUp = func(t *testing.T) {
		s.close(t)
		s.open(t)
	}
	s.open(t)
	defer func() { s.close(t) }()
	s.RunAll(t)
}
