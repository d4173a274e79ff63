package file

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tulle-mesh/tulle/controller/resource"
)

const doc = "apiVersion: tulle.dev/v1alpha1\nkind: Workload\nmetadata: {name: NAME}\nspec: {service: web}\n"

func TestYieldsWholeOrderedSets(t *testing.T) {
	dir := t.TempDir()
	modified := time.Unix(1_000_000_000, 0)
	write := func(name, content string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		modified = modified.Add(time.Second)
		if err := os.Chtimes(path, modified, modified); err != nil {
			t.Fatal(err)
		}
	}
	write("b.yaml", strings.ReplaceAll(doc, "NAME", "b1")+"---\n"+strings.ReplaceAll(doc, "NAME", "b2"))
	write("a.yml", strings.ReplaceAll(doc, "NAME", "a"))
	write(".hidden.yaml", doc)
	write("notes.txt", "not configuration")
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var yields [][]resource.Document
		s := &Source{Dir: dir, Yield: func(d []resource.Document) { mu.Lock(); defer mu.Unlock(); yields = append(yields, d) }, Log: slog.New(slog.DiscardHandler)}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- s.Run(ctx, func() {}) }()
		expect := func(what string, n int, names string) {
			t.Helper()
			time.Sleep(Interval) // virtual
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(yields) != n {
				t.Fatalf("%s: %d yields, want %d", what, len(yields), n)
			}
			var got []string
			for _, d := range yields[n-1] {
				if d.Err != nil {
					got = append(got, "error")
					continue
				}
				got = append(got, d.Object.Key().Name)
			}
			if strings.Join(got, " ") != names {
				t.Fatalf("%s: yielded %q, want %q", what, got, names)
			}
		}
		expect("at the start", 1, "a b1 b2")
		expect("nothing changed", 1, "a b1 b2")
		write("b.yaml", strings.ReplaceAll(doc, "NAME", "b3"))
		expect("a file changed", 2, "a b3")
		write("c.yaml", "{")
		expect("a broken file came", 3, "a b3 error")
		if err := os.Remove(filepath.Join(dir, "a.yml")); err != nil {
			t.Fatal(err)
		}
		expect("a file went", 4, "b3 error")
		if err := os.Rename(dir, dir+".away"); err != nil {
			t.Fatal(err)
		}
		expect("the directory went", 4, "b3 error")
		if err := os.Rename(dir+".away", dir); err != nil {
			t.Fatal(err)
		}
		expect("the directory came back", 4, "b3 error")
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}
