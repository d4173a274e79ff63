// Package asset serves the embedded bundle: hashed names, cached for ever by browsers, compressed once at start.
package asset

import (
	"bytes"
	"compress/gzip"
	"embed"
	"fmt"
	"io/fs"
	"net/http"
	"path"
	"strings"
)

//go:embed dist
var dist embed.FS

// Prefix is where Handler must be mounted.
const Prefix = "/assets/"

var kinds = map[string]string{".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}

// Set is the bundle.
type Set struct{ files map[string]file }

type file struct {
	kind         string
	plain, small []byte
}

// Load reads the embedded bundle.
func Load() (*Set, error) {
	s := &Set{files: map[string]file{}}
	err := fs.WalkDir(dist, "dist", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := dist.ReadFile(p)
		if err != nil {
			return err
		}
		var buf bytes.Buffer
		zw, _ := gzip.NewWriterLevel(&buf, gzip.BestCompression)
		if _, err := zw.Write(b); err != nil {
			return err
		}
		if err := zw.Close(); err != nil {
			return err
		}
		s.files[path.Base(p)] = file{kinds[path.Ext(p)], b, buf.Bytes()}
		return nil
	})
	return s, err
}

// URL is the address of the file that was built from NAME.EXT. Two of them are an error: what two changes have built, joined without building again.
func (s *Set) URL(name string) (string, error) {
	stem, ext, _ := strings.Cut(name, ".")
	found := ""
	for f := range s.files {
		if strings.HasPrefix(f, stem+"-") && strings.HasSuffix(f, "."+ext) {
			if found != "" {
				return "", fmt.Errorf("asset %s is in the bundle twice, as %s and %s; run: make generate", name, min(found, f), max(found, f))
			}
			found = f
		}
	}
	if found != "" {
		return Prefix + found, nil
	}
	return "", fmt.Errorf("asset %s is not in the bundle; run: make generate", name)
}

// ServeHTTP serves Prefix + name.
func (s *Set) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, Prefix)
	f, ok := s.files[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	h := w.Header()
	h.Set("Content-Type", f.kind)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("ETag", `"`+name+`"`)
	h.Add("Vary", "Accept-Encoding")
	if strings.Contains(r.Header.Get("If-None-Match"), `"`+name+`"`) {
		w.WriteHeader(http.StatusNotModified)
		return
	}
	body := f.plain
	if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		body = f.small
	}
	_, _ = w.Write(body)
}
