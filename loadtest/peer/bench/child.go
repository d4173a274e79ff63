//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
)

// role is what a child process of the comparison is: this same program, told by its first argument, so that load and backend do not share a Go scheduler
// or heap with each other or with the parent.
type role struct {
	name string
	run  func(*parent) error
}

// roles is the table of them.
func roles() []role {
	return []role{
		{"load", loadMain},
		{"backend", backendMain},
		{"sink", sinkMain},
		{"haul", haulMain},
		{"attack", attackMain},
	}
}

// parent is the child's end of the conversation: JSON values on standard input and output. When standard input ends, the parent is gone and the child
// leaves.
type parent struct {
	in  *json.Decoder
	out *json.Encoder
}

func (p *parent) next(v any) error { return p.in.Decode(v) }
func (p *parent) say(v any) error  { return p.out.Encode(v) }

// beChild runs the role and ends the process.
func beChild(name string) {
	for _, r := range roles() {
		if r.name != name {
			continue
		}
		err := r.run(&parent{in: json.NewDecoder(os.Stdin), out: json.NewEncoder(os.Stdout)})
		if err != nil && !errors.Is(err, io.EOF) {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", name, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	fmt.Fprintf(os.Stderr, "bench: no role %q\n", name)
	os.Exit(2)
}

// loadMain carries out jobs, one after the other.
func loadMain(p *parent) error {
	h := &holder{}
	for {
		var j job
		if err := p.next(&j); err != nil {
			return err
		}
		var r result
		switch j.Kind {
		case jobRequests:
			r = j.run()
		case jobCalls, jobStreams:
			r = j.call()
		case jobFull, jobResumed:
			r = j.shake()
		case jobIdle:
			r = h.hold(j)
		case jobIdleClose:
			r = h.release()
		default:
			r.Err = fmt.Sprintf("no job is called %q", j.Kind)
		}
		if err := p.say(r); err != nil {
			return err
		}
	}
}

// child is the parent's end. Not for concurrent use.
type child struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	enc  *json.Encoder
	dec  *json.Decoder
}

// childArgument marks a child; it cannot be mistaken for a flag's value.
const childArgument = "=child="

// startChild starts a role pinned to a core.
func startChild(name string, core int) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	c := &child{name: name, cmd: exec.Command(self, childArgument, name)}
	c.cmd.Stderr = os.Stderr
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for the parent, which ends its children by closing their standard input
	if c.in, err = c.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := c.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	c.enc, c.dec = json.NewEncoder(c.in), json.NewDecoder(out)
	if err := onCore(core, c.cmd.Start); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	return c, nil
}

// ask sends a question and waits for the answer.
func (c *child) ask(question, answer any) error {
	if err := c.enc.Encode(question); err != nil {
		return fmt.Errorf("asking %s: %w", c.name, err)
	}
	if err := c.dec.Decode(answer); err != nil {
		return fmt.Errorf("the answer of %s: %w", c.name, err)
	}
	return nil
}

// stop ends the child and waits for it.
func (c *child) stop() error {
	c.in.Close()
	if err := c.cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	return nil
}
