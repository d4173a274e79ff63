package policy

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"

	"github.com/tulle-mesh/tulle/internal/flow"
)

// Unix is a Unix socket (unix(7)) between a sidecar and its application, and who may be at its other end. It never leads to another host.
type Unix struct {
	Path string // absolute and clean; or "@name": an abstract one, of Linux, which belongs to a network namespace
	Mode uint32 // outbound: permissions of the file; default 0660; 0 for an abstract one, which has none
	Attest
}

// Attest says which process the application is, by what the kernel says of the process at the other end of a Unix socket (SO_PEERCRED): the
// effective ids with which it connected, or began to listen. The zero value takes any.
type Attest struct {
	UIDs []uint32 // ascending; none: any
	GIDs []uint32 // ascending; none: any; supplementary groups do not count
}

const (
	// DefaultSocketMode lets the sidecar's own user and group connect.
	DefaultSocketMode = 0o660

	maxSocketPath  = 107 // sockaddr_un has 108 bytes, the last of which is 0
	maxAttestedIDs = 64
)

// ParseUnix reads "unix:/path" or "unix:@name"; ok is false for what begins otherwise.
func ParseUnix(s string) (path string, ok bool) { return strings.CutPrefix(s, flow.UnixPrefix) }

// CheckUnixPath refuses what cannot be a socket.
func CheckUnixPath(p string) error {
	name, abstract := strings.CutPrefix(p, "@")
	switch {
	case len(p) > maxSocketPath:
		return fmt.Errorf("%q: has %d bytes, a socket's path has at most %d; use a shorter directory", p, len(p), maxSocketPath)
	case strings.ContainsFunc(p, func(c rune) bool { return c < ' ' || c == 0x7f || c == 0xfffd }):
		return fmt.Errorf("%q: must be UTF-8 without control characters", p)
	case abstract && name == "":
		return errors.New("\"@\": has no name; write @name")
	case !abstract && (!path.IsAbs(p) || path.Clean(p) != p || p == "/"):
		return fmt.Errorf("%q: must be an absolute path without . and .., or @name", p)
	}
	return nil
}

// Abstract reports whether u is no file.
func (u *Unix) Abstract() bool { return strings.HasPrefix(u.Path, "@") }

// Same reports whether both say the same.
func (u *Unix) Same(o *Unix) bool {
	return u.Path == o.Path && u.Mode == o.Mode && slices.Equal(u.UIDs, o.UIDs) && slices.Equal(u.GIDs, o.GIDs)
}

// String is as it is written in configuration: "unix:/path".
func (u *Unix) String() string { return flow.UnixPrefix + u.Path }

func (u *Unix) withDefaults(side flow.Side) *Unix {
	if u == nil || u.Mode != 0 || side != flow.SideClient || u.Abstract() {
		return u
	}
	c := *u
	c.Mode = DefaultSocketMode
	return &c
}

// check refuses what a sidecar could not act on.
func (u *Unix) check(side flow.Side) error {
	if err := CheckUnixPath(u.Path); err != nil {
		return err
	}
	switch {
	case u.Mode != 0 && side == flow.SideServer:
		return fmt.Errorf("mode %#o: the application makes the file; remove it", u.Mode)
	case u.Mode != 0 && u.Abstract():
		return fmt.Errorf("mode %#o: an abstract socket has no file, and whoever is in its network namespace may connect; remove it", u.Mode)
	case u.Mode > 0o777:
		return fmt.Errorf("mode %#o: must be from 0 to 0777", u.Mode)
	}
	return u.Attest.Check()
}

// Check refuses what a sidecar could not act on.
func (a Attest) Check() error {
	for _, ids := range []struct {
		name string
		list []uint32
	}{{"uids", a.UIDs}, {"gids", a.GIDs}} {
		if len(ids.list) > maxAttestedIDs {
			return fmt.Errorf("%s: has %d entries, at most %d are allowed", ids.name, len(ids.list), maxAttestedIDs)
		}
		for i := 1; i < len(ids.list); i++ {
			if ids.list[i-1] >= ids.list[i] {
				return fmt.Errorf("%s %v: must be in ascending order, each once", ids.name, ids.list)
			}
		}
	}
	return nil
}

// Any reports whether every process will do.
func (a *Attest) Any() bool { return len(a.UIDs) == 0 && len(a.GIDs) == 0 }

// Refuses says why app may not be at the other end; "" when it may.
func (a *Attest) Refuses(app flow.Application) string {
	switch {
	case a.Any():
		return ""
	case !app.Known:
		return "the kernel does not say which process is at the other end of the Unix socket; spec.attest asks for " + a.String()
	case len(a.UIDs) > 0 && !has(a.UIDs, app.UID), len(a.GIDs) > 0 && !has(a.GIDs, app.GID):
		return fmt.Sprintf("pid %d at the other end of the Unix socket has uid %d and gid %d; spec.attest asks for %s", app.PID, app.UID, app.GID, a)
	}
	return ""
}

// String is "uid 1000 or 1001 and gid 1000".
func (a *Attest) String() string {
	var parts []string
	for _, ids := range []struct {
		name string
		list []uint32
	}{{"uid ", a.UIDs}, {"gid ", a.GIDs}} {
		if len(ids.list) > 0 {
			parts = append(parts, ids.name+strings.Join(decimals(ids.list), " or "))
		}
	}
	return strings.Join(parts, " and ")
}

func has(ids []uint32, id uint32) bool {
	_, found := slices.BinarySearch(ids, id)
	return found
}

func decimals(ids []uint32) []string {
	var out []string
	for _, id := range ids {
		out = append(out, strconv.FormatUint(uint64(id), 10))
	}
	return out
}

// pipe is u in Envoy's terms.
func (u *Unix) pipe() *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: u.Path, Mode: u.Mode}}}
}

func (a Attest) toXDS(e extras) {
	e.strs("attest_uids", decimals(a.UIDs))
	e.strs("attest_gids", decimals(a.GIDs))
}

func attestFromXDS(r *reader) (a Attest) {
	for _, ids := range []struct {
		key  string
		list *[]uint32
	}{{"attest_uids", &a.UIDs}, {"attest_gids", &a.GIDs}} {
		for _, word := range r.strs(ids.key) {
			id, err := strconv.ParseUint(word, 10, 32)
			if err != nil {
				r.fail(ids.key, "%q must be the number of a user or a group", word)
			}
			*ids.list = append(*ids.list, uint32(id))
		}
	}
	return a
}
