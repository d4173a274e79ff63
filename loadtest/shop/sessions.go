package shop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// The sessions protocol is one line in, one line out, over a connection that stays open:
//
//	TOUCH user      -> OK n        the n-th visit of the user
//	PUT user item   -> OK n        n items in the user's basket
//	GET user        -> OK a,b,c    the basket
//	DROP user       -> OK          forgets the basket
//	anything else   -> ERR text
//
// Lines are at most 512 bytes. At most maxSessions users are remembered; beyond that the table starts afresh, as a cache may.
const maxSessions = 10_000

type session struct {
	visits int
	basket []string
}

type sessionTable struct {
	mu   sync.Mutex
	byID map[string]*session
}

func (t *sessionTable) answer(line string) string {
	f := strings.Fields(line)
	if len(f) < 2 {
		return "ERR expected: VERB user [item]"
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.byID[f[1]]
	if s == nil {
		if t.byID == nil || len(t.byID) >= maxSessions {
			t.byID = map[string]*session{}
		}
		s = &session{}
		t.byID[f[1]] = s
	}
	switch {
	case f[0] == "TOUCH":
		s.visits++
		return fmt.Sprintf("OK %d", s.visits)
	case f[0] == "PUT" && len(f) == 3:
		if len(s.basket) < 20 {
			s.basket = append(s.basket, f[2])
		}
		return fmt.Sprintf("OK %d", len(s.basket))
	case f[0] == "GET":
		return "OK " + strings.Join(s.basket, ",")
	case f[0] == "DROP":
		s.basket = nil
		return "OK"
	}
	return "ERR unknown verb " + f[0]
}

// serveSessions answers on l until ctx ends; then it finishes the line in hand on every connection and returns.
func serveSessions(ctx context.Context, l net.Listener, pace Pace, f *faults) error {
	table := &sessionTable{}
	var wg sync.WaitGroup
	defer wg.Wait()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		c, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			pause(ctx, 50*time.Millisecond) // out of descriptors: wait for some to close
			continue
		}
		wg.Go(func() {
			defer c.Close()
			// The read deadline ends the wait for the next line; a line that was read is still answered.
			stop := context.AfterFunc(ctx, func() { c.SetReadDeadline(time.Unix(1, 0)) })
			defer stop()
			in := bufio.NewReaderSize(c, 512)
			for {
				line, err := in.ReadSlice('\n')
				if err != nil {
					return
				}
				hit := f.hit()
				pause(ctx, pace.draw()+hit.Latency)
				answer := table.answer(string(line))
				if hit.Kind == FaultError {
					answer = "ERR out of order"
				}
				if _, err := c.Write([]byte(answer + "\n")); err != nil {
					return
				}
			}
		})
	}
}

// errSessions wraps "ERR …" answers.
var errSessions = errors.New("sessions refused")

// sessionClient keeps a few connections to the sessions service. A connection is replaced after sessionConnLife, so that closed
// connections appear in the records too. Safe for concurrent use.
type sessionClient struct {
	address string
	idle    chan *sessionConn
	closed  atomic.Bool
}

type sessionConn struct {
	net.Conn
	in   *bufio.Reader
	born time.Time
}

const (
	sessionConns    = 4
	sessionConnLife = 25 * time.Second
)

func newSessionClient(address string) *sessionClient {
	return &sessionClient{address: address, idle: make(chan *sessionConn, sessionConns)}
}

// ask sends one line and returns the text after "OK".
func (c *sessionClient) ask(ctx context.Context, line string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	answer, fresh, err := c.try(ctx, line, false)
	if err != nil && !fresh && ctx.Err() == nil {
		answer, _, err = c.try(ctx, line, true) // the pooled connection had been closed by the other end
	}
	if err != nil {
		return "", fmt.Errorf("sessions at %s: %w", c.address, err)
	}
	if text, ok := strings.CutPrefix(answer, "OK"); ok {
		return strings.TrimSpace(text), nil
	}
	return "", fmt.Errorf("%w: %s", errSessions, answer)
}

func (c *sessionClient) try(ctx context.Context, line string, mustDial bool) (answer string, fresh bool, err error) {
	var conn *sessionConn
	if !mustDial {
		select {
		case conn = <-c.idle:
			if time.Since(conn.born) > sessionConnLife {
				conn.Close()
				conn = nil
			}
		default:
		}
	}
	if conn == nil {
		fresh = true
		raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", c.address)
		if err != nil {
			return "", true, err
		}
		conn = &sessionConn{Conn: raw, in: bufio.NewReaderSize(raw, 4096), born: time.Now()}
	}
	deadline, _ := ctx.Deadline()
	conn.SetDeadline(deadline)
	if _, err := conn.Write([]byte(line + "\n")); err != nil {
		conn.Close()
		return "", fresh, err
	}
	answer, err = conn.in.ReadString('\n')
	if err != nil {
		conn.Close()
		return "", fresh, err
	}
	if c.closed.Load() {
		conn.Close()
	} else {
		select {
		case c.idle <- conn:
		default:
			conn.Close()
		}
	}
	return strings.TrimSpace(answer), fresh, nil
}

func (c *sessionClient) close() {
	c.closed.Store(true)
	for {
		select {
		case conn := <-c.idle:
			conn.Close()
		default:
			return
		}
	}
}
