package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"github.com/tulle-mesh/tulle/internal/identity"
	"github.com/tulle-mesh/tulle/internal/policy"
)

// entry is one workload of a node's file. It compares with ==; two that are equal are served alike.
type entry struct {
	Instance       string `yaml:"instance"`       // as --instance; required
	Service        string `yaml:"service"`        // as --service; required
	Namespace      string `yaml:"namespace"`      // as --namespace; default "default"
	Version        string `yaml:"version"`        // as --workload-version
	ServiceAccount string `yaml:"serviceAccount"` // as --service-account; default Service
	Netns          string `yaml:"netns"`          // path or name of the network namespace where it listens and dials; default: the process'
	StateDir       string `yaml:"stateDir"`       // as --state-dir; default: Instance below --state-dir
	TokenFile      string `yaml:"tokenFile"`      // as --token-file
	AccessLogFile  string `yaml:"accessLogFile"`  // as --access-log-file; default: the process'
	Share          int    `yaml:"share"`          // of the node's memory and connections, relative to the others'; 1 to 100; default 1
}

// maxShare bounds entry.Share, maxNode the workloads of a node.
const (
	maxShare = 100
	maxNode  = 256
)

// nodeProblem is what a person must know about a node's file.
type nodeProblem struct {
	Line     int    // 0: of the whole
	Instance string // "": not known
	Message  string
	Kept     bool // the last valid version of the workload stays in force
}

func (p nodeProblem) String() string {
	var b strings.Builder
	if p.Line > 0 {
		fmt.Fprintf(&b, "line %d: ", p.Line)
	}
	if p.Instance != "" {
		fmt.Fprintf(&b, "workload %s: ", p.Instance)
	}
	b.WriteString(p.Message)
	if p.Kept {
		b.WriteString(" (its last valid version stays in force)")
	}
	return b.String()
}

// parseNode reads a node's file. A bad entry is a problem, and the others are not touched; an error means that the file as a whole cannot be read. c is what holds for
// all workloads.
func parseNode(content []byte, c config) (entries []entry, problems []nodeProblem, err error) {
	var root yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(content))
	switch err := d.Decode(&root); {
	case errors.Is(err, io.EOF):
		return nil, nil, errors.New("is empty; write \"workloads: []\" for none")
	case err != nil:
		return nil, nil, errors.New(strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, nil, errors.New("has more than one YAML document; put all workloads into one list")
	}
	doc := root.Content[0]
	if doc.Kind != yaml.MappingNode || len(doc.Content) != 2 || doc.Content[0].Value != "workloads" || doc.Content[1].Kind != yaml.SequenceNode {
		return nil, nil, fmt.Errorf("line %d: must be one field, workloads, with a list of workloads", doc.Line)
	}
	if n := len(doc.Content[1].Content); n > maxNode {
		return nil, nil, fmt.Errorf("workloads: has %d entries, at most %d are served by one process; start another", n, maxNode)
	}
	instances, states := map[string]int{}, map[string]string{}
	for _, n := range doc.Content[1].Content {
		e, err := parseEntry(n, c)
		if err == nil {
			if first, taken := instances[e.Instance]; taken {
				err = fmt.Errorf("is in the file twice, first in line %d; remove one", first)
			} else if other, taken := states[e.StateDir]; taken {
				err = fmt.Errorf("stateDir: %s is that of workload %s too; each needs its own, for it holds its key", e.StateDir, other)
			}
		}
		if err != nil {
			problems = append(problems, nodeProblem{Line: n.Line, Instance: e.Instance, Message: err.Error()})
			continue
		}
		instances[e.Instance], states[e.StateDir] = n.Line, e.Instance
		entries = append(entries, e)
	}
	return entries, problems, nil
}

// entryFields are the names that an entry knows.
var entryFields = []string{"instance", "service", "namespace", "version", "serviceAccount", "netns", "stateDir", "tokenFile", "accessLogFile", "share"}

// parseEntry reads one workload and fills its defaults. Its Instance is set with an error too, where it can be read.
func parseEntry(n *yaml.Node, c config) (e entry, err error) {
	if n.Kind != yaml.MappingNode {
		return e, errors.New("must be a workload with the fields " + strings.Join(entryFields, ", "))
	}
	var wrong error
	seen := map[string]bool{}
	for i := 0; i < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		if key.Value == "instance" {
			e.Instance = value.Value
		}
		switch {
		case wrong != nil:
		case !slices.Contains(entryFields, key.Value):
			wrong = fmt.Errorf("%s: unknown field; known are %s", key.Value, strings.Join(entryFields, ", "))
		case seen[key.Value]:
			wrong = fmt.Errorf("%s: is given twice; remove one", key.Value)
		case value.Kind != yaml.ScalarNode:
			wrong = fmt.Errorf("%s: must be a single value", key.Value)
		}
		seen[key.Value] = true
	}
	if wrong != nil {
		return e, wrong
	}
	instance := e.Instance
	if err := n.Decode(&e); err != nil {
		return entry{Instance: instance}, errors.New("share: must be a whole number") // the only field that is no text
	}
	if e.Namespace == "" {
		e.Namespace = "default"
	}
	if e.ServiceAccount == "" {
		e.ServiceAccount = e.Service
	}
	if e.StateDir == "" && c.stateDir != "" && e.Instance != "" {
		e.StateDir = filepath.Join(c.stateDir, e.Instance)
	}
	if e.StateDir != "" {
		e.StateDir = filepath.Clean(e.StateDir)
	}
	if e.AccessLogFile == "" {
		e.AccessLogFile = c.accessFile
	}
	if e.Share == 0 && !seen["share"] {
		e.Share = 1
	}
	switch {
	case e.Instance == "":
		return e, errors.New("instance: is missing; name the instance, unique in the mesh")
	case strings.ContainsAny(e.Instance, "/\\") || e.Instance == "." || e.Instance == "..":
		return e, fmt.Errorf("instance: %q must not contain slashes", e.Instance)
	case e.Service == "":
		return e, errors.New("service: is missing; name the service")
	case e.StateDir == "":
		return e, errors.New("stateDir: is missing; give a directory for key, certificate and policy, or --state-dir for all")
	case e.Share < 1 || e.Share > maxShare:
		return e, fmt.Errorf("share: %d: must be from 1 to %d", e.Share, maxShare)
	}
	if err := (policy.Workload{Instance: e.Instance, Service: e.Service, Namespace: e.Namespace, Version: e.Version}).Check(); err != nil {
		return e, err
	}
	if c.trustDomain != "" {
		if _, err := identity.Workload(c.trustDomain, e.Namespace, e.ServiceAccount); err != nil {
			return e, fmt.Errorf("namespace or serviceAccount: %w", err)
		}
	}
	return e, nil
}

// config is that of a process that serves e alone.
func (e entry) config(c config) config {
	c.node, c.admin = "", ""
	c.workload = policy.Workload{Instance: e.Instance, Service: e.Service, Namespace: e.Namespace, Version: e.Version}
	c.account, c.stateDir, c.accessFile = e.ServiceAccount, e.StateDir, e.AccessLogFile
	return c
}
