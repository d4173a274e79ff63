// Command genproto compiles internal/gen/proto and writes the Go code into internal/gen. It needs no protoc: the compiler is a Go library
// and the two plugins are tools of this module, so that the output depends on nothing but this module's go.sum.
//
// Run it from the folder tools: `go run ./genproto`. With -check it writes nothing and fails when the committed code differs.
package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/bufbuild/protocompile"
	"github.com/bufbuild/protocompile/protoutil"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/pluginpb"
)

const module = "github.com/tulle-mesh/tulle"

var plugins = []string{"protoc-gen-go", "protoc-gen-go-grpc"}

func main() {
	root := flag.String("root", "..", "root of the repository")
	check := flag.Bool("check", false, "compare instead of writing")
	flag.Parse()
	if err := run(*root, *check); err != nil {
		fmt.Fprintln(os.Stderr, "genproto:", err)
		os.Exit(1)
	}
}

func run(root string, check bool) error {
	protos := filepath.Join(root, "internal", "gen", "proto")
	request, err := compile(protos)
	if err != nil {
		return err
	}
	in, err := proto.Marshal(request)
	if err != nil {
		return err
	}
	var stale []string
	for _, plugin := range plugins {
		files, err := generate(plugin, in)
		if err != nil {
			return err
		}
		for _, f := range files {
			path := filepath.Join(root, filepath.FromSlash(f.GetName()))
			content := []byte(stripVersions(f.GetContent()))
			if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
				continue
			}
			stale = append(stale, path)
			if check {
				continue
			}
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, content, 0o644); err != nil {
				return err
			}
		}
	}
	if check && len(stale) > 0 {
		return fmt.Errorf("%s differ from what the .proto files say; run `make generate` and commit the result", strings.Join(stale, ", "))
	}
	return nil
}

// compile reads every .proto file under dir, in sorted order, into one request.
func compile(dir string) (*pluginpb.CodeGeneratorRequest, error) {
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || filepath.Ext(path) != ".proto" {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		names = append(names, filepath.ToSlash(rel))
		return err
	})
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		return nil, errors.New("no .proto file under " + dir)
	}
	slices.Sort(names)
	compiler := protocompile.Compiler{
		Resolver:       protocompile.WithStandardImports(&protocompile.SourceResolver{ImportPaths: []string{dir}}),
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	linked, err := compiler.Compile(context.Background(), names...)
	if err != nil {
		return nil, err
	}
	request := &pluginpb.CodeGeneratorRequest{
		FileToGenerate: names,
		Parameter:      proto.String("module=" + module),
	}
	seen := map[string]bool{}
	var add func(fd protoreflect.FileDescriptor)
	add = func(fd protoreflect.FileDescriptor) { // imports come before their importers, as plugins expect
		if seen[fd.Path()] {
			return
		}
		seen[fd.Path()] = true
		for i := range fd.Imports().Len() {
			add(fd.Imports().Get(i).FileDescriptor)
		}
		request.ProtoFile = append(request.ProtoFile, protoutil.ProtoFromFileDescriptor(fd))
	}
	for _, fd := range linked {
		add(fd)
	}
	return request, nil
}

func generate(plugin string, in []byte) ([]*pluginpb.CodeGeneratorResponse_File, error) {
	cmd := exec.Command("go", "tool", plugin)
	cmd.Stdin = bytes.NewReader(in)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w (run me from the folder tools)", plugin, err)
	}
	var response pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &response); err != nil {
		return nil, fmt.Errorf("%s: %w", plugin, err)
	}
	if response.Error != nil {
		return nil, fmt.Errorf("%s: %s", plugin, response.GetError())
	}
	return response.File, nil
}

var versionLine = regexp.MustCompile(`(?m)^// (?:versions:|[-\t ]*protoc\b.*)\n|^// [-\t ]*protoc-gen-go(?:-grpc)? +v.*\n`)

// stripVersions drops the comment lines that name tool versions; go.sum pins them.
func stripVersions(s string) string { return versionLine.ReplaceAllString(s, "") }
