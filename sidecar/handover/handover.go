// Package handover gives the listening sockets of a running sidecar to the one that takes its place, so that no connection is refused in
// between: both have the same sockets, whose queues of connections live in the kernel.
//
// A sidecar begins with Open. It returns a Door, on which later sidecars may knock, and, when a sidecar with the same state directory runs
// already, the Taking from that one. What follows:
//
//	new                                   old
//	Open: hello ───────────────────────▶  Config.Begin: from now on another process speaks to the controller
//	Taking.Socket, as each is needed ──▶  Config.Socket: a copy of the descriptor
//	ready: has certificate, policy and
//	every listener, and accepts
//	Taking.Commit ─────────────────────▶  Config.Left: stop accepting, drain; answered when that has begun
//	Door.Run: waits for the next one      (ends when its connections have ended)
//
// Until Commit the old one serves, and goes on if the new one dies or gives up (Config.Cancel). If the old one dies first, the new one keeps what
// it was given and goes on too. One may take over at a time; another is refused with an error that says which process is at it.
//
// The two may be of different versions: hello names the versions of the protocol that the new one speaks, and the old one chooses, or refuses and
// names its own. Messages are JSON, one per packet of a Unix socket in the state directory (SOCK_SEQPACKET, so that a descriptor travels with
// its message; unix(7), SCM_RIGHTS); either side accepts only a process of its own user or of root (SO_PEERCRED). Linux only: elsewhere Open
// returns a Door on which nobody can knock.
package handover

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"syscall"
	"time"
)

// Socket names a listening socket by what it is for. It is a map key, and stays the same from one process to the next.
type Socket struct {
	Workload    string `json:"workload"`              // instance that it belongs to: a process may serve several, each in a network namespace
	Kind        Kind   `json:"kind"`                  // what it is for
	Address     string `json:"address"`               // as configured: ip:port or unix:/path; of a Door empty
	Transparent bool   `json:"transparent,omitempty"` // it takes connections to any address (IP_TRANSPARENT)
}

// Kind is what a Socket is for.
type Kind string

// The kinds there are. An older process has no sockets of kinds that it does not know.
const (
	Listener Kind = "listener" // of the policy
	Admin    Kind = "admin"    // of the admin page
	door     Kind = "door"     // of the next handover
)

// Hello is who one of the two processes is.
type Hello struct {
	PID     int    `json:"pid"`
	Version string `json:"version"` // of the program
	Boot    string `json:"boot"`    // boot id in its telemetry
}

// Config is of a Door. All fields but Log are required; functions are called by one goroutine at a time.
type Config struct {
	Dir      string // state directory, which exists
	Workload string // must be the same in both processes
	Self     Hello
	// Socket returns the listening socket that is asked for, nil when there is none.
	Socket func(Socket) syscall.Conn
	// Begin is called when another process has begun to take over, Cancel when it has given up or died.
	Begin, Cancel func()
	// Left is called when the other process serves: stop accepting, and drain. The sockets of the other process are not affected. It must
	// not wait for connections to end.
	Left func()
	Log  *slog.Logger // default: discard
}

func (c *Config) check() error {
	switch {
	case c.Dir == "":
		return errors.New("handover: Config.Dir is missing")
	case c.Workload == "":
		return errors.New("handover: Config.Workload is missing")
	case c.Socket == nil || c.Begin == nil || c.Cancel == nil || c.Left == nil:
		return errors.New("handover: Config.Socket, Begin, Cancel and Left are required")
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return nil
}

// TakeLimit is how long a new process may take from Open to Commit. The old one waits a little longer.
const TakeLimit = time.Minute

// ErrRefused is in the error of Open when the process that runs does not hand over.
var ErrRefused = errors.New("the sidecar that runs does not hand over")

// ErrLate is Commit's when so much time has passed since Open that the other process has given this one up.
var ErrLate = errors.New("it took too long to take over; the sidecar that runs goes on")

// versions are those of the protocol that this program speaks, the best first.
var versions = []int{1}

// agree chooses the best version that both speak; 0: there is none.
func agree(theirs []int) int {
	for _, v := range versions {
		for _, t := range theirs {
			if v == t {
				return v
			}
		}
	}
	return 0
}

// disagreement says why there is no version.
func disagreement(theirs []int) string {
	said := func(list []int) string { return strings.Trim(strings.ReplaceAll(fmt.Sprint(list), " ", ", "), "[]") }
	return fmt.Sprintf("it speaks version %s of the handover protocol, the new one version %s: stop it and start the new one", said(versions), said(theirs))
}

// request is what the new process says. Exactly one of its pointers is set.
type request struct {
	Hello  *hello    `json:"hello,omitempty"`
	Socket *Socket   `json:"socket,omitempty"`
	Commit *struct{} `json:"commit,omitempty"`
}

type hello struct {
	Hello
	Versions []int  `json:"versions"`
	Workload string `json:"workload"`
}

// reply is what the old process answers. A descriptor comes with it when Found.
type reply struct {
	Error   string `json:"error,omitempty"`
	Version int    `json:"protocol,omitempty"` // that both go on with
	Hello   *Hello `json:"hello,omitempty"`
	Found   bool   `json:"found,omitempty"`
	Left    bool   `json:"left,omitempty"`
}

// packetBytes bounds a message.
const packetBytes = 4 << 10
