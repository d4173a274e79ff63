//go:build unix

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tulle-mesh/tulle/internal/process"
)

// service is a real HTTP server that answers every message with what it saw of it (in the field X-Saw), and notes it.
type service struct {
	name string
	addr string
	seen *seen
	stop func()
}

// seen are the messages that a service took for whole, in order.
type seen struct {
	mu   sync.Mutex
	all  []message
	more chan struct{} // closed and replaced when there is more
}

func newSeen() *seen { return &seen{more: make(chan struct{})} }

func (s *seen) add(m message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, m)
	close(s.more)
	s.more = make(chan struct{})
}

// until takes all messages out, waiting for one with the given target to be the last.
func (s *seen) until(ctx context.Context, target string) ([]message, error) {
	for {
		s.mu.Lock()
		more := s.more
		for i, m := range s.all {
			if m.target == target {
				got := s.all[:i:i]
				s.all = s.all[i+1:]
				s.mu.Unlock()
				return got, nil
			}
		}
		got := s.all
		s.mu.Unlock()
		select {
		case <-more:
		case <-ctx.Done():
			return nil, fmt.Errorf("the service did not note %s; it noted %v", target, got)
		}
	}
}

// echo is the Go service.
func echo(s *seen) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			w.WriteHeader(http.StatusBadRequest) // not a whole message
			return
		}
		m := message{r.Method, r.RequestURI, string(body)}
		s.add(m)
		w.Header().Set("X-Saw", strconv.QuoteToASCII(m.String()))
		w.Header()["Date"] = nil
		if r.Method == http.MethodConnect {
			if c, rw, err := http.NewResponseController(w).Hijack(); err == nil {
				fmt.Fprintf(rw, "HTTP/1.1 200 OK\r\nX-Saw: %s\r\nContent-Length: 5\r\n\r\n", strconv.QuoteToASCII(m.String()))
				_ = rw.Flush()
				_, _ = io.Copy(c, rw) // an echo of the tunnel
				_ = c.Close()
			}
			return
		}
		_, _ = io.WriteString(w, "seen\n")
	})
}

// startGo starts a net/http server in this process.
func startGo() (*service, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	s := &service{name: "go", addr: l.Addr().String(), seen: newSeen()}
	srv := &http.Server{Handler: echo(s.seen), ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: time.Minute}
	srv.DisableGeneralOptionsHandler = true
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	s.stop = func() {
		_ = srv.Close()
		<-done
	}
	return s, nil
}

// freeAddr is an address that was free a moment ago.
func freeAddr() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// startNginx starts nginx as a reverse proxy to a Go service of its own: what that sees is what nginx took for messages.
func startNginx(ctx context.Context, dir string) (*service, error) {
	path, err := exec.LookPath("nginx")
	if err != nil {
		if path, err = exec.LookPath("/usr/sbin/nginx"); err != nil {
			return nil, fmt.Errorf("nginx is missing. Debian/Ubuntu: apt-get install nginx-light; others: https://nginx.org/en/download.html")
		}
	}
	inner, err := startGo()
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; master_process off; worker_processes 1; pid %[1]s/nginx.pid; error_log %[1]s/nginx.log;
events { worker_connections 1024; }
http {
  access_log off; client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
  large_client_header_buffers 8 64k; merge_slashes off; keepalive_requests 100000; client_max_body_size 64m;
  server { listen %[2]s; location / { proxy_pass http://%[3]s; proxy_http_version 1.1; } }
}
`, dir, addr, inner.addr)
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		return nil, err
	}
	p, err := process.Start(process.Spec{Name: "nginx", Path: path, Args: []string{"-p", dir, "-c", conf}, Log: os.Stderr})
	if err != nil {
		inner.stop()
		return nil, err
	}
	s := &service{name: "nginx", addr: addr, seen: inner.seen, stop: func() { _ = p.Stop(); inner.stop() }}
	return s, awaitDial(ctx, addr)
}

// nodeProgram prints the messages that it took for whole as lines of JSON, and answers like echo.
const nodeProgram = `
const http = require('http');
const saw = (method, url, body) => {
  console.log(JSON.stringify({method, url, body: body.toString('base64')}));
  let text = method + ' ' + url;
  if (body.length) text += ' ' + JSON.stringify(body.toString('latin1'));
  return JSON.stringify(text);
};
const server = http.createServer({keepAliveTimeout: 60000, requestTimeout: 0}, (req, res) => {
  const parts = [];
  req.on('data', d => parts.push(d));
  req.on('end', () => {
    res.sendDate = false;
    res.setHeader('X-Saw', saw(req.method, req.url, Buffer.concat(parts)));
    res.end('seen\n');
  });
});
server.on('connect', (req, socket, head) => {
  socket.write('HTTP/1.1 200 OK\r\nX-Saw: ' + saw(req.method, req.url, Buffer.alloc(0)) + '\r\nContent-Length: 5\r\n\r\n');
  socket.write(head);
  socket.on('error', () => {});
  socket.pipe(socket);
});
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify({port: server.address().port})));
`

// startNode starts a server of Node's http module.
func startNode(ctx context.Context) (*service, error) {
	path, err := exec.LookPath("node")
	if err != nil {
		return nil, fmt.Errorf("node is missing. Debian/Ubuntu: apt-get install nodejs; others: https://nodejs.org/en/download")
	}
	s := &service{name: "node", seen: newSeen()}
	port := make(chan int, 1)
	p, err := process.Start(process.Spec{Name: "node", Path: path, Args: []string{"-e", nodeProgram}, Log: &lines{take: func(line string) {
		var l struct {
			Port              int
			Method, URL, Body string
		}
		if json.Unmarshal([]byte(line), &l) != nil {
			return
		}
		if l.Port > 0 {
			port <- l.Port
			return
		}
		body, _ := base64.StdEncoding.DecodeString(l.Body)
		s.seen.add(message{l.Method, l.URL, string(body)})
	}}})
	if err != nil {
		return nil, err
	}
	s.stop = func() { _ = p.Stop() }
	select {
	case p := <-port:
		s.addr = net.JoinHostPort("127.0.0.1", strconv.Itoa(p))
		return s, nil
	case <-ctx.Done():
		s.stop()
		return nil, fmt.Errorf("node did not start: %w", ctx.Err())
	}
}

// lines hands whole lines on. One goroutine writes.
type lines struct {
	rest []byte
	take func(string)
}

func (l *lines) Write(b []byte) (int, error) {
	l.rest = append(l.rest, b...)
	for {
		line, rest, ok := bytes.Cut(l.rest, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		l.take(string(line))
		l.rest = append([]byte(nil), rest...)
	}
}

// awaitDial waits until addr accepts connections.
func awaitDial(ctx context.Context, addr string) error {
	for {
		c, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			return c.Close()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not accept connections: %w", addr, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// sawOf reads the field X-Saw of a response.
func sawOf(r *http.Response) string {
	s, err := strconv.Unquote(r.Header.Get("X-Saw"))
	if err != nil {
		return strings.TrimSpace(r.Header.Get("X-Saw"))
	}
	return s
}
