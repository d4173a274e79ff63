//go:build unix

// Command engine runs the engines that spans can live in, for real, and the tests that need them: the conformance suite of span stores on each, what happens while it is away, and
// Jaeger v1.62's own suite on an observer that keeps its spans there. make test-engines runs it. It needs a JDK 17 and Maven, and listens on loopback only.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

func main() {
	dir := flag.String("dir", "bin/engines", "where engines are kept that were fetched once")
	only := flag.String("only", "", "cassandra or opensearch; both if empty")
	tulle := flag.String("tulle", "bin/tulle", "the tulle executable")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *dir, *tulle, *only); err != nil {
		fmt.Fprintln(os.Stderr, "engine:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, dir, tulle, only string) error {
	for _, p := range []string{"java", "mvn"} {
		if _, err := exec.LookPath(p); err != nil {
			return fmt.Errorf("%s is missing. Debian/Ubuntu: apt-get install openjdk-17-jdk-headless maven", p)
		}
	}
	var err error
	if dir, err = filepath.Abs(dir); err != nil {
		return err
	}
	if tulle, err = filepath.Abs(tulle); err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "tulle-engines")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }()
	for _, e := range engines {
		if only != "" && only != e.name {
			continue
		}
		if err := e.try(ctx, dir, work, tulle); err != nil {
			return fmt.Errorf("%s: %w", e.name, err)
		}
	}
	return nil
}

// engine is one that spans can live in.
type engine struct {
	name, env string // env names its address to tests
	start     func(ctx context.Context, dir, work string) (*process, error)
}

var engines = []engine{
	{"cassandra", "CASSANDRA", startCassandra},
	{"opensearch", "OPENSEARCH", startOpenSearch},
}

// try runs the tests on it.
func (e engine) try(ctx context.Context, dir, work, tulle string) error {
	p, err := e.start(ctx, dir, work)
	if err != nil {
		return err
	}
	defer p.stop()
	fmt.Printf("%s listens on %s after %s\n", e.name, p.addr, p.took.Round(100*time.Millisecond))
	env := append(os.Environ(), e.env+"="+p.addr, "TULLE="+tulle)
	for _, args := range [][]string{
		{"test", "-count", "1", "-timeout", "15m", "-tags", "engines", "./store/span/" + e.name},
		{"-C", "loadtest/peer/jaegerstorage", "test", "-count", "1", "-timeout", "15m", "./..."},
	} {
		if err := command(ctx, env, "go", args...); err != nil {
			return fmt.Errorf("%w\nthe last of its log:\n%s", err, tail(p.log))
		}
	}
	return nil
}

func command(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return nil
}

// jars fetches Maven artifacts (GROUP:NAME:VERSION) with all they need, once, and gives the folder.
func jars(ctx context.Context, dir string, artifacts ...string) (string, error) {
	part := strings.Split(artifacts[0], ":")
	lib := filepath.Join(dir, part[1]+"-"+part[2])
	var deps strings.Builder
	for _, a := range artifacts {
		part := strings.Split(a, ":")
		fmt.Fprintf(&deps, "<dependency><groupId>%s</groupId><artifactId>%s</artifactId><version>%s</version></dependency>\n", part[0], part[1], part[2])
	}
	if _, err := os.Stat(lib); err == nil {
		return lib, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	fetched, err := os.MkdirTemp(dir, "fetch")
	if err != nil {
		return "", err
	}
	defer func() { _ = os.RemoveAll(fetched) }()
	pom := fmt.Sprintf(`<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion><groupId>tulle</groupId><artifactId>engine</artifactId><version>1</version>
<dependencies>%s</dependencies></project>
`, deps.String())
	if err := os.WriteFile(filepath.Join(fetched, "pom.xml"), []byte(pom), 0o644); err != nil { //nolint:gosec // no secret
		return "", err
	}
	fmt.Println("fetching", strings.Join(artifacts, ", "), "from Maven Central")
	if err := command(ctx, os.Environ(), "mvn", "-q", "-B", "-f", filepath.Join(fetched, "pom.xml"), "dependency:copy-dependencies", "-DoutputDirectory="+filepath.Join(fetched, "lib")); err != nil {
		return "", err
	}
	return lib, os.Rename(filepath.Join(fetched, "lib"), lib)
}

// process is a running engine.
type process struct {
	cmd  *exec.Cmd
	addr string
	log  string
	took time.Duration
	gone chan error
}

// start runs a command until it listens on addr.
func start(ctx context.Context, addr, log string, patience time.Duration, name string, args ...string) (*process, error) {
	out, err := os.Create(log)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	p := &process{cmd: exec.Command(name, args...), addr: addr, log: log, gone: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	begin := time.Now()
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { p.gone <- p.cmd.Wait() }()
	again := time.NewTicker(100 * time.Millisecond)
	defer again.Stop()
	for {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", addr)
		if err == nil {
			p.took = time.Since(begin)
			return p, c.Close()
		}
		select {
		case <-ctx.Done():
			p.stop()
			return nil, ctx.Err()
		case ended := <-p.gone:
			p.gone <- ended
			return nil, fmt.Errorf("%s ended before it listened on %s (%s)\n%s", name, addr, fmt.Sprint(ended), tail(log))
		case <-again.C:
		}
		if time.Since(begin) > patience {
			p.stop()
			return nil, fmt.Errorf("%s does not listen on %s after %s\n%s", name, addr, patience, tail(log))
		}
	}
}

func (p *process) stop() {
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case _ = <-p.gone:
	case <-time.After(20 * time.Second):
		_ = p.cmd.Process.Kill()
		_ = <-p.gone
	}
}

func tail(log string) string {
	b, err := os.ReadFile(log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-4000):])
}

// freePort is one on loopback that nobody listens on now.
func freePort(ctx context.Context) (int, error) {
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	a, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		return 0, errors.New("a TCP listener without a TCP address")
	}
	return a.Port, nil
}
