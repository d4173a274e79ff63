package graph

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// frames are the files of frames: one an hour, to which frames are appended, each behind a header. They are not synced: what a crash takes is drawn
// from series. One goroutine appends; any may read at the same time, because a frame that is not whole is none.
type frames struct {
	dir  string
	most int64 // bytes

	file *os.File // of the newest hour
	name string
}

const (
	frameMagic  = "TGF1"
	frameHeader = 16 // magic, length, end in seconds, CRC-32C of the end and the frame
	frameSuffix = ".frames"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func openFrames(dir string, most int64) (*frames, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("graph: directory of frames: %w (it must be one that can be written)", err)
	}
	return &frames{dir: dir, most: most}, nil
}

// frameFile is the file of the frame that ends at a second.
func frameFile(end int64) string {
	return time.Unix(end-1, 0).UTC().Format("2006010215") + frameSuffix
}

func frameSum(end uint32, frame []byte) uint32 {
	sum := crc32.Update(0, castagnoli, binary.LittleEndian.AppendUint32(nil, end))
	return crc32.Update(sum, castagnoli, frame)
}

// append writes a frame that ends at a second.
func (f *frames) append(end int64, frame []byte) error {
	if name := frameFile(end); name != f.name {
		if err := f.next(name); err != nil {
			return fmt.Errorf("graph: frames of an hour: %w", err)
		}
	}
	head := binary.LittleEndian.AppendUint32([]byte(frameMagic), uint32(len(frame)))
	head = binary.LittleEndian.AppendUint32(head, uint32(end))
	head = binary.LittleEndian.AppendUint32(head, frameSum(uint32(end), frame))
	if _, err := f.file.Write(append(head, frame...)); err != nil {
		_ = f.close() // what is there of it is cut off when the file is opened again
		return fmt.Errorf("graph: append a frame to %s: %w (free some space)", f.name, err)
	}
	return nil
}

// next opens the file of another hour, cuts off what is no whole frame, and makes room.
func (f *frames) next(name string) error {
	if err := f.close(); err != nil {
		return err
	}
	if err := f.makeRoom(name); err != nil {
		return err
	}
	file, err := os.OpenFile(filepath.Join(f.dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	whole := walkFrames(file, func(int64, int64, uint32) bool { return true })
	if err = file.Truncate(whole); err == nil {
		_, err = file.Seek(whole, io.SeekStart)
	}
	if err != nil {
		_ = file.Close()
		return err
	}
	f.file, f.name = file, name
	return nil
}

// makeRoom deletes the oldest hours beyond the bound; names sort by time.
func (f *frames) makeRoom(current string) error {
	entries, err := os.ReadDir(f.dir)
	if err != nil {
		return err
	}
	sizes, total := map[string]int64{}, int64(0)
	for _, e := range entries {
		if info, err := e.Info(); err == nil && strings.HasSuffix(e.Name(), frameSuffix) {
			sizes[e.Name()] = info.Size()
			total += info.Size()
		}
	}
	names := make([]string, 0, len(sizes))
	for n := range sizes {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if total <= f.most {
			break
		}
		if n == current {
			continue
		}
		if err := os.Remove(filepath.Join(f.dir, n)); err != nil {
			return err
		}
		total -= sizes[n]
	}
	return nil
}

// close lets go of the file; append opens it again. Safe on nil.
func (f *frames) close() error {
	if f == nil || f.file == nil {
		return nil
	}
	err := f.file.Close()
	f.file, f.name = nil, ""
	return err
}

// walkFrames yields where each frame behind its header begins, as far as headers are whole and their frames end within the file, until yield says no. It
// returns where the last whole one ends.
func walkFrames(file *os.File, yield func(end, at int64, length uint32) bool) (whole int64) {
	info, err := file.Stat()
	if err != nil {
		return 0
	}
	var head [frameHeader]byte
	for {
		if _, err := file.ReadAt(head[:], whole); err != nil || string(head[:4]) != frameMagic {
			return whole
		}
		length, end := binary.LittleEndian.Uint32(head[4:]), binary.LittleEndian.Uint32(head[8:])
		next := whole + frameHeader + int64(length)
		if next > info.Size() || !yield(int64(end), whole+frameHeader, length) {
			return whole
		}
		whole = next
	}
}

// read is the newest frame that ends at a second: one that late exports have changed is appended anew. ok is false when there is none that is whole.
func (f *frames) read(end int64) (frame []byte, ok bool) {
	file, err := os.Open(filepath.Join(f.dir, frameFile(end)))
	if err != nil {
		return nil, false
	}
	defer file.Close()
	type found struct {
		at     int64
		length uint32
	}
	var all []found
	walkFrames(file, func(e, at int64, length uint32) bool {
		if e == end && length <= maxFrame {
			all = append(all, found{at, length})
		}
		return true
	})
	for _, f := range slices.Backward(all) {
		b := make([]byte, 4+f.length) // the sum is before it
		if _, err := file.ReadAt(b, f.at-4); err == nil && frameSum(uint32(end), b[4:]) == binary.LittleEndian.Uint32(b) {
			return b[4:], true
		}
	}
	return nil, false
}

// at is the window of pastWindow before the last multiple of frameSeconds that is not after t; nil when a frame of it is missing. Safe on nil.
func (f *frames) at(t time.Time) *window {
	if f == nil {
		return nil
	}
	end := frameBefore(t.Unix())
	w := newWindow(time.Time{}, 0)
	edges := map[edgeKey]*windowEdge{}
	for n := int64(pastWindow/time.Second)/frameSeconds - 1; n >= 0; n-- {
		frame, ok := f.read(end - n*frameSeconds)
		if !ok || w.addFrame(edges, frame) != nil || w.end.Unix() != end-n*frameSeconds {
			return nil
		}
	}
	if w.length != pastWindow {
		return nil
	}
	order := make([]*windowEdge, 0, len(edges))
	for _, e := range edges {
		slices.Sort(e.missing)
		order = append(order, e)
	}
	slices.SortFunc(order, func(a, b *windowEdge) int { return compareEdges(a.edgeKey, b.edgeKey) })
	w.edges = make([]windowEdge, len(order))
	for i, e := range order {
		w.edges[i] = *e
	}
	return w
}
