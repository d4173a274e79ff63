package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Copied is what Backup has copied.
type Copied struct {
	Blocks   int   `json:"blocks"`
	Linked   int   `json:"linked"` // of them, by hard links: they take no space while the store keeps them too
	Bytes    int64 `json:"bytes"`  // of blocks
	Segments int   `json:"walSegments"`
	Batches  int   `json:"walBatches"`
}

// Backup copies the store in from to the directory to, which must be empty or absent, while the store is used or not. Every batch that was acknowledged
// before the call is in the copy. The names in to are durable only once its caller has synced the folders.
//
// The log is copied first, up to its last whole batch, and the blocks after it: a segment that goes away meanwhile has become a block by then, and a batch
// that is in both is recognised when the copy is opened. Blocks never change, so hard links do where the file system can. They are listed until two
// listings are the same and all of it is copied: a merge that comes in between leaves either the old blocks in the copy, or the new one, or
// both, of which the copy's first start takes the new one.
func Backup(ctx context.Context, from, to string) (Copied, error) {
	var c Copied
	for _, d := range []string{"wal", "blocks"} {
		if err := os.MkdirAll(filepath.Join(to, d), 0o700); err != nil {
			return c, err
		}
	}
	segments, err := listSegments(from)
	if err != nil {
		return c, err
	}
	for _, s := range segments {
		if err := c.segment(s, filepath.Join(to, "wal", filepath.Base(s))); err != nil {
			return c, fmt.Errorf("copy the log %s: %w", s, err)
		}
	}
	done := map[string]bool{}
	var before []string
	for {
		if err := ctx.Err(); err != nil {
			return c, err
		}
		names, err := listBlocks(from)
		if err != nil {
			return c, err
		}
		names = slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, parquetSuffix) })
		all := true
		for _, n := range names {
			if done[n] {
				continue
			}
			switch err := c.block(n, filepath.Join(to, "blocks", filepath.Base(filepath.Dir(n)))); {
			case err == nil:
				done[n] = true
			case errors.Is(err, fs.ErrNotExist): // merged or expired meanwhile
				all = false
			default:
				return c, fmt.Errorf("copy the block %s: %w", n, err)
			}
		}
		if all && before != nil && slices.Equal(names, before) {
			break
		}
		if before = names; before == nil {
			before = []string{}
		}
	}
	return c, nil
}

func (c *Copied) segment(from, to string) error {
	data, err := os.ReadFile(from) //nolint:gosec // a file of the store
	if errors.Is(err, fs.ErrNotExist) {
		return nil // its block is complete
	}
	if err != nil {
		return err
	}
	batches := 0
	_, bad, err := readSegment(data, func(walRecord) error { batches++; return nil })
	if err != nil {
		return err
	}
	if n := len(bad); n > 0 && bad[n-1].torn {
		data = data[:bad[n-1].from]
	}
	if err := copyFile(to, bytes.NewReader(data)); err != nil {
		return err
	}
	c.Segments++
	c.Batches += batches
	return nil
}

func (c *Copied) block(from, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	to := filepath.Join(dir, filepath.Base(from))
	linked, err := linkFile(from, to)
	if err != nil {
		return err
	}
	st, err := os.Stat(to)
	if err != nil {
		return err
	}
	b, copied := &block{path: from}, &block{path: to}
	if _, err := linkFile(b.idx(), copied.idx()); err != nil && !errors.Is(err, fs.ErrNotExist) { // it can be made anew
		return err
	}
	c.Blocks++
	c.Bytes += st.Size()
	if linked {
		c.Linked++
	}
	return nil
}

// linkFile makes a hard link where it can be, a copy where not.
func linkFile(from, to string) (linked bool, err error) {
	err = os.Link(from, to)
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		return true, err
	}
	f, err := os.Open(from) //nolint:gosec // a file of the store
	if err != nil {
		return false, err
	}
	defer f.Close()
	return false, copyFile(to, f)
}

func copyFile(to string, r io.Reader) error {
	f, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600) //nolint:gosec // a file of the copy
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}
