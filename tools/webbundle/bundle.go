// Webbundle bundles dashboard/web into dashboard/asset/dist with esbuild's Go API: no Node, no network. The output is a function of the sources
// and of the version of esbuild in go.mod, byte for byte; it is committed, and make generate-check compares.
//
//	go -C tools run ./webbundle
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sort"

	"github.com/evanw/esbuild/pkg/api"
)

// File is one built file; Name carries a hash of its content.
type File struct {
	Name    string
	Content []byte
}

// build bundles the sources in dir (the path of dashboard/web).
func build(dir string) ([]File, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	r := api.Build(api.BuildOptions{
		AbsWorkingDir:     abs,
		EntryPoints:       []string{"src/app.ts", "src/boot.ts", "src/charts.ts", "src/app.css", "src/icon.svg"},
		EntryNames:        "[name]-[hash]",
		Outdir:            "dist",
		Bundle:            true,
		MinifyWhitespace:  true,
		MinifyIdentifiers: true,
		MinifySyntax:      true,
		Format:            api.FormatIIFE,
		Target:            api.ES2020,
		Charset:           api.CharsetUTF8,
		LegalComments:     api.LegalCommentsEndOfFile, // licences of others, marked by /*! */
		Loader:            map[string]api.Loader{".svg": api.LoaderCopy},
		TsconfigRaw:       `{"compilerOptions":{"strict":true}}`,
	})
	if len(r.Errors) > 0 {
		var errs []error
		for _, e := range r.Errors {
			at := ""
			if e.Location != nil {
				at = fmt.Sprintf("%s:%d: ", e.Location.File, e.Location.Line)
			}
			errs = append(errs, errors.New(at+e.Text))
		}
		return nil, errors.Join(errs...)
	}
	var files []File
	for _, f := range r.OutputFiles {
		files = append(files, File{filepath.Base(f.Path), f.Contents})
	}
	sort.Slice(files, func(i, j int) bool { return files[i].Name < files[j].Name })
	return files, nil
}

// write replaces the content of dir by files.
func write(dir string, files []File) error {
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for _, f := range files {
		if err := os.WriteFile(filepath.Join(dir, f.Name), f.Content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func main() {
	files, err := build("../dashboard/web")
	if err == nil {
		err = write("../dashboard/asset/dist", files)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "webbundle:", err)
		os.Exit(1)
	}
}
