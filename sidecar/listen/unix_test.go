//go:build linux

package listen

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tulle-mesh/tulle/internal/flow"
	"github.com/tulle-mesh/tulle/internal/policy"
	"github.com/tulle-mesh/tulle/sidecar/exchange"
)

func unixAt(t *testing.T) *policy.Unix {
	t.Helper()
	dir, err := os.MkdirTemp("", "tulle") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return &policy.Unix{Path: filepath.Join(dir, "s"), Mode: policy.DefaultSocketMode}
}

func openUnix(t *testing.T, u *policy.Unix) net.Listener {
	t.Helper()
	l, err := OpenUnix(u)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l
}

// The file has the permissions that were asked for, whatever the umask is, and follows a change; it goes when the listener closes.
func TestUnixPermissions(t *testing.T) {
	u := unixAt(t)
	u.Mode = 0o666
	old := syscall.Umask(0o077)
	l := openUnix(t, u)
	syscall.Umask(old)
	mode := func() fs.FileMode {
		i, err := os.Stat(u.Path)
		if err != nil {
			t.Fatal(err)
		}
		return i.Mode()
	}
	if m := mode(); m != fs.ModeSocket|0o666 {
		t.Errorf("made with %s", m)
	}
	if err := l.(*socketFile).permit(0o600); err != nil || mode() != fs.ModeSocket|0o600 {
		t.Errorf("changed to %s, %v", mode(), err)
	}
	_ = l.Close()
	if _, err := os.Lstat(u.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the end: %v", err)
	}
}

// Before chmod has made the file what it should be, it permits no more than that: the socket itself has the permissions that bind takes.
func TestUnixPermitsLessAtFirst(t *testing.T) {
	u := unixAt(t)
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	l, err := (&net.ListenConfig{Control: permitBefore(0o640)}).Listen(t.Context(), "unix", u.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if i, err := os.Stat(u.Path); err != nil || i.Mode().Perm() != 0o640 {
		t.Errorf("%v, %v", i.Mode(), err)
	}
}

// What a dead process left is removed; what a living one has, and what is no socket, is not, and the error says who has it and what to do.
func TestUnixFileOfAnother(t *testing.T) {
	u := unixAt(t)
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: u.Path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	_ = dead.Close()
	l := openUnix(t, u)
	_, err = OpenUnix(u)
	want := fmt.Sprintf("is taken by this process, pid %d", os.Getpid())
	if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(adviceUnix(err), "another path") {
		t.Errorf("got %v, want …%s…", err, want)
	}
	if c, err := net.Dial("unix", u.Path); err != nil {
		t.Errorf("who was there first has lost it: %v", err)
	} else {
		_ = c.Close()
	}
	_ = l.Close()

	other := exec.Command(os.Args[0], "-test.run=^TestUnixOther$")
	other.Env = append(os.Environ(), "TULLE_TEST_SOCKET="+u.Path)
	in, _ := other.StdinPipe()
	out, _ := other.StdoutPipe()
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	want = fmt.Sprintf("is taken by the process with pid %d and uid %d", other.Process.Pid, os.Getuid())
	if _, err = OpenUnix(u); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want …%s…", err, want)
	}
	abstract := &policy.Unix{Path: "@" + u.Path}
	openUnix(t, abstract)
	if _, err = OpenUnix(abstract); err == nil || !strings.Contains(err.Error(), "is taken by this process") {
		t.Errorf("abstract: %v", err)
	}
	_ = other.Process.Kill()
	_ = in.Close()
	_ = other.Wait()
	_ = openUnix(t, u).Close() // it was killed

	if err := os.WriteFile(u.Path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err = OpenUnix(u); err == nil || !strings.Contains(err.Error(), "a file that is no socket is there") {
		t.Errorf("a file: %v", err)
	}
	if _, err := os.Stat(u.Path); err != nil {
		t.Errorf("the file is gone: %v", err)
	}
	if _, err = OpenUnix(&policy.Unix{Path: filepath.Dir(u.Path) + "/none/s"}); err == nil || !strings.Contains(adviceUnix(err), "make the directory") {
		t.Errorf("no directory: %v", err)
	}
	unlock, err := lockDirectory(filepath.Dir(u.Path))
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	if _, err = OpenUnix(u); !errors.Is(err, errBusy) {
		t.Errorf("while another makes a socket there: %v", err)
	}
}

// TestUnixOther is the other process of TestUnixFileOfAnother.
func TestUnixOther(t *testing.T) {
	path := os.Getenv("TULLE_TEST_SOCKET")
	if path == "" {
		return
	}
	_, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Print("y")
	_, _ = os.Stdin.Read(make([]byte, 1))
}

// Close removes what it made, and nothing else; and not even that when another process goes on with the socket.
func TestUnixCloseRemovesItsOwn(t *testing.T) {
	u := unixAt(t)
	l := openUnix(t, u)
	if err := os.Rename(u.Path, u.Path+"old"); err != nil {
		t.Fatal(err)
	}
	next := openUnix(t, u)
	_ = l.Close()
	if _, err := os.Lstat(u.Path); err != nil {
		t.Errorf("another's file was removed: %v", err)
	}
	next.(*socketFile).keep()
	_ = next.Close()
	if _, err := os.Lstat(u.Path); err != nil {
		t.Errorf("a socket that was handed over was removed: %v", err)
	}
}

// A path may be called like an address; nobody has that address for it.
func TestUnixPathIsNoAddress(t *testing.T) {
	if a := addrPort(&net.UnixAddr{Name: "10.0.0.1:80", Net: "unix"}); a.IsValid() {
		t.Errorf("got %s", a)
	}
}

// A Unix socket that is handed over stays reachable at its path: also when the process that takes it gives up, and when the one before has left. It goes with the
// last one that has it for its own.
func TestUnixHandedOver(t *testing.T) {
	u := unixAt(t)
	bound := []*exchange.Binding{{Workload: policy.Workload{Limits: policy.SidecarLimits{}.WithDefaults()}, Listener: policy.Listener{Name: "out", Side: flow.SideClient, Protocol: flow.ProtocolTCP, Service: "s", Unix: u}}}
	serve := func(name string) func(c *Conn) {
		return func(c *Conn) { _, _ = c.Write([]byte(name)) }
	}
	set := func(name string, from *Set) *Set {
		c := Config{Serve: serve(name), Log: slog.New(slog.DiscardHandler)}
		if from != nil {
			c.Inherit = func(at string, transparent bool) (net.Listener, error) {
				f, err := from.Socket(at, transparent).(*socketFile).File()
				if err != nil {
					return nil, err
				}
				defer f.Close()
				return net.FileListener(f)
			}
		}
		s := New(c)
		s.Apply(bound)
		if p := s.Problems(); len(p) > 0 {
			t.Fatal(p[0].Err)
		}
		return s
	}
	answered := func() string {
		c, err := net.Dial("unix", u.Path)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		b, err := io.ReadAll(c)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := set("first", nil)
	set("gives up", first).Close(0, 0)
	if got := answered(); got != "first" {
		t.Errorf("after one that gave up: %q", got)
	}
	second := set("second", first)
	first.HandOver(0, 0)
	if got := answered(); got != "second" {
		t.Errorf("after the handover: %q", got)
	}
	second.Close(0, 0)
	if _, err := os.Lstat(u.Path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("after the end: %v", err)
	}
}
