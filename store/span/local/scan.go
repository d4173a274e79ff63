package local

import (
	"bytes"
	"fmt"
	"slices"
	"sort"

	"github.com/parquet-go/parquet-go"
)

// Scans of whole columns, for searches. They read values as the page holds them, typed and without the nulls, and skip pages whose bounds say that nothing there can
// match. What they find goes into sets of rows.

// pages calls each for every page of a leaf column that want accepts, with the row that it begins with. The page is valid until each returns.
func (b *blockFile) pages(leaf int, want func(x parquet.ColumnIndex, page int) bool, each func(row int, page parquet.Page) error) (err error) {
	defer recoverDamage(&err)
	chunk := b.chunk(leaf)
	if chunk == nil {
		return nil // older than the column: nobody has it
	}
	at, err := chunk.OffsetIndex()
	if err != nil {
		return blame(err)
	}
	var bounds parquet.ColumnIndex
	if want != nil {
		if bounds, err = chunk.ColumnIndex(); err != nil {
			return blame(err)
		}
	}
	var pages parquet.Pages
	next := 0 // page that comes without seeking
	for i := range at.NumPages() {
		if want != nil && (bounds.NullPage(i) || !want(bounds, i)) {
			continue
		}
		if pages == nil {
			pages = chunk.Pages()
			defer func() { _ = pages.Close() }()
		}
		row := at.FirstRowIndex(i)
		if i != next {
			if err := pages.SeekToRow(row); err != nil {
				return blame(err)
			}
		}
		if err := b.turn.pass(); err != nil {
			return err
		}
		page, err := pages.ReadPage()
		if err != nil {
			return blame(err)
		}
		if int(row+page.NumRows()) > b.meta.Spans {
			err = fmt.Errorf("%w: a page ends behind the last row", errBlock)
		} else {
			err = each(int(row), page)
		}
		parquet.Release(page)
		if err != nil {
			return err
		}
		next = i + 1
	}
	return nil
}

// rowOf finds the rows of values, which come in ascending order, in a page of an optional column.
type rowOf struct {
	levels []byte
	row    int // of the next level
	value  int // index of the next value
}

func (r *rowOf) find(value int) int {
	if len(r.levels) == 0 {
		return value
	}
	for r.row < len(r.levels) {
		set := r.levels[r.row] > 0
		r.row++
		if set {
			if r.value++; r.value > value {
				break
			}
		}
	}
	return r.row - 1
}

// numbers adds the rows whose integer ok accepts; of a dictionary each is looked at once in a block.
func (b *blockFile) numbers(leaf int, ok func(n int64) bool, to bits) error {
	var hit []bool
	return b.pages(leaf, nil, func(row int, page parquet.Page) error {
		rows := rowOf{levels: page.DefinitionLevels()}
		data := page.Data()
		if d := page.Dictionary(); d != nil {
			if hit == nil {
				hit, _ = matching(d, func(v parquet.Value) bool { return ok(v.Int64()) })
			}
			for i, v := range data.Int32() {
				if hit[v] {
					to.set(row + rows.find(i))
				}
			}
			return nil
		}
		for i, v := range data.Int64() {
			if ok(v) {
				to.set(row + rows.find(i))
			}
		}
		return nil
	})
}

// ints adds the rows whose integer is in [lo, hi].
func (b *blockFile) ints(leaf int, lo, hi int64, to bits) error {
	var hit []bool
	return b.pages(leaf, func(x parquet.ColumnIndex, page int) bool {
		return x.MinValue(page).Int64() <= hi && x.MaxValue(page).Int64() >= lo
	}, func(row int, page parquet.Page) error {
		rows := rowOf{levels: page.DefinitionLevels()}
		data := page.Data()
		if d := page.Dictionary(); d != nil {
			if hit == nil {
				hit, _ = matching(d, func(v parquet.Value) bool { return v.Int64() >= lo && v.Int64() <= hi })
			}
			for i, v := range data.Int32() {
				if hit[v] {
					to.set(row + rows.find(i))
				}
			}
			return nil
		}
		for i, v := range data.Int64() {
			if v >= lo && v <= hi {
				to.set(row + rows.find(i))
			}
		}
		return nil
	})
}

// bools adds the rows whose boolean is want.
func (b *blockFile) bools(leaf int, want bool, to bits) error {
	return b.pages(leaf, nil, func(row int, page parquet.Page) error {
		rows := rowOf{levels: page.DefinitionLevels()}
		data := page.Data()
		set := data.Boolean()
		for i := range int(page.NumValues() - page.NumNulls()) {
			if (set[i/8]>>(i%8)&1 == 1) == want {
				to.set(row + rows.find(i))
			}
		}
		return nil
	})
}

// dictionary adds the rows of a column of texts with a dictionary whose text ok accepts. Each text of the dictionary is looked at once in a block; where the dictionary
// became too long, the pages that follow are plain.
func (b *blockFile) dictionary(leaf int, ok func(text []byte) bool, to bits) error {
	var hit []bool
	some := false
	return stopped(b.pages(leaf, nil, func(row int, page parquet.Page) error {
		rows := rowOf{levels: page.DefinitionLevels()}
		data := page.Data()
		d := page.Dictionary()
		if d == nil {
			texts, at := data.ByteArray()
			for i := range len(at) - 1 {
				if ok(texts[at[i]:at[i+1]]) {
					to.set(row + rows.find(i))
				}
			}
			return nil
		}
		if hit == nil {
			hit, some = matching(d, func(v parquet.Value) bool { return ok(v.ByteArray()) })
		}
		if !some {
			return nothingIn(d)
		}
		for i, v := range data.Int32() {
			if hit[v] {
				to.set(row + rows.find(i))
			}
		}
		return nil
	}))
}

// nothingIn ends a scan when no page refers to another thing than a dictionary in which nothing was found.
func nothingIn(d parquet.Dictionary) error {
	if d.Size() < maxDictionary/2 { // well below what lets plain pages follow
		return errStop
	}
	return nil
}

func matching(d parquet.Dictionary, ok func(parquet.Value) bool) (hit []bool, some bool) {
	hit = make([]bool, d.Len())
	for i := range hit {
		hit[i] = ok(d.Index(int32(i))) //nolint:gosec // bounded by the block
		some = some || hit[i]
	}
	return hit, some
}

// indexes adds the rows of a column of 32-bit integers with a dictionary whose value ok accepts.
func (b *blockFile) indexes(leaf int, ok func(v int32) bool, to bits) error {
	var hit []bool
	return b.pages(leaf, nil, func(row int, page parquet.Page) error {
		d, data := page.Dictionary(), page.Data()
		if d == nil {
			for i, v := range data.Int32() {
				if ok(v) {
					to.set(row + i)
				}
			}
			return nil
		}
		if hit == nil {
			hit, _ = matching(d, func(v parquet.Value) bool { return ok(v.Int32()) })
		}
		for i, v := range data.Int32() {
			if hit[v] {
				to.set(row + i)
			}
		}
		return nil
	})
}

// within says that the bounds of a page allow a text. Bounds of long texts are cut, which makes either one smaller.
func within(x parquet.ColumnIndex, page int, text []byte) bool {
	hi := x.MaxValue(page).ByteArray()
	return bytes.Compare(x.MinValue(page).ByteArray(), text) <= 0 && bytes.Compare(hi, text[:min(len(text), len(hi))]) >= 0
}

// texts adds the rows of a plain column whose text is want.
func (b *blockFile) texts(leaf int, want string, to bits) error {
	text := []byte(want)
	return b.pages(leaf, func(x parquet.ColumnIndex, page int) bool {
		return within(x, page, text)
	}, func(row int, page parquet.Page) error {
		rows := rowOf{levels: page.DefinitionLevels()}
		values := page.Data()
		data, at := values.ByteArray()
		if len(text) == 0 {
			for i := range len(at) - 1 {
				if at[i] == at[i+1] {
					to.set(row + rows.find(i))
				}
			}
			return nil
		}
		// The texts lie one behind the other: look for it in all of them at once, then for where it begins.
		for from, i := 0, 0; ; {
			k := bytes.Index(data[from:], text)
			if k < 0 {
				return nil
			}
			k += from
			i += sort.Search(len(at)-1-i, func(n int) bool { return int(at[i+n+1]) > k })
			if i < len(at)-1 && int(at[i]) == k && int(at[i+1]) == k+len(text) {
				to.set(row + rows.find(i))
			}
			from = k + 1
		}
	})
}

// beginsWithin says that the bounds of a page allow a text that begins with prefix.
func beginsWithin(x parquet.ColumnIndex, page int, prefix []byte) bool {
	lo, hi := x.MinValue(page).ByteArray(), x.MaxValue(page).ByteArray()
	return bytes.Compare(lo[:min(len(lo), len(prefix))], prefix) <= 0 && bytes.Compare(hi, prefix[:min(len(prefix), len(hi))]) >= 0
}

// like adds the rows of a column whose value, as text, a pattern means. Each text of a dictionary is looked at once in a block, and of plain ones those that come again.
func (b *blockFile) like(leaf int, t colType, j *judge, to bits) error {
	switch t {
	case colBool:
		for _, want := range []bool{true, false} {
			if j.truth(want) {
				if err := b.bools(leaf, want, to); err != nil {
					return err
				}
			}
		}
		return nil
	case colInt:
		return b.numbers(leaf, j.number, to)
	case colText:
		text, _ := j.like.Prefix()
		prefix := []byte(text)
		return b.pages(leaf, func(x parquet.ColumnIndex, page int) bool { return beginsWithin(x, page, prefix) }, func(row int, page parquet.Page) error {
			rows := rowOf{levels: page.DefinitionLevels()}
			values := page.Data()
			texts, at := values.ByteArray()
			for i := range len(at) - 1 {
				if s := texts[at[i]:at[i+1]]; bytes.HasPrefix(s, prefix) && j.bytes(s) {
					to.set(row + rows.find(i))
				}
			}
			return nil
		})
	default:
		return b.dictionary(leaf, j.bytes, to)
	}
}

// present adds the rows that have a value in an optional column.
func (b *blockFile) present(leaf int, to bits) error {
	return b.pages(leaf, func(parquet.ColumnIndex, int) bool { return true }, func(row int, page parquet.Page) error {
		for i, l := range page.DefinitionLevels() {
			if l > 0 {
				to.set(row + i)
			}
		}
		return nil
	})
}

// errStop ends a scan that has nothing more to find.
var errStop = fmt.Errorf("nothing more to find")

func stopped(err error) error {
	if err == errStop { //nolint:errorlint // it is not wrapped
		return nil
	}
	return err
}

// place is one attribute without a column: the at-th of its row.
type place struct{ row, at int32 }

// rest finds the places at which the attributes without a column have the key.
func (b *blockFile) rest(key string) (out []place, err error) {
	var hit []bool
	some := false
	err = stopped(b.pages(schema().attrKey, func(x parquet.ColumnIndex, page int) bool {
		return within(x, page, []byte(key))
	}, func(row int, page parquet.Page) error {
		d, data := page.Dictionary(), page.Data()
		var is func(v int) bool // by the number of a value in the page
		if d == nil {
			texts, at := data.ByteArray()
			is = func(v int) bool { return string(texts[at[v]:at[v+1]]) == key }
		} else {
			if hit == nil {
				hit, some = matching(d, func(v parquet.Value) bool { return string(v.ByteArray()) == key })
			}
			if !some {
				return nothingIn(d)
			}
			vals := data.Int32()
			if !slices.ContainsFunc(vals, func(v int32) bool { return hit[v] }) {
				return nil
			}
			is = func(v int) bool { return hit[vals[v]] }
		}
		defs, reps := page.DefinitionLevels(), page.RepetitionLevels()
		at, v := 0, 0
		row--
		for i := range defs {
			if at++; reps[i] == 0 {
				row, at = row+1, 0
			}
			if defs[i] == 0 {
				continue
			}
			if is(v) {
				out = append(out, place{int32(row), int32(at)}) //nolint:gosec // bounded by the block
			}
			v++
		}
		return nil
	}))
	return out, err
}
