package main

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/parquet-go/parquet-go"
)

// columnSizes is what each column of all blocks below dir takes on disk, its filters apart; "(bloom)", "(footers)" and the sections of the sidecars are what is beside them.
func columnSizes(dir string) (map[string]int64, error) {
	out := map[string]int64{}
	files, err := filepath.Glob(filepath.Join(dir, "blocks", "*", "*"))
	if err != nil {
		return nil, err
	}
	for _, path := range files {
		st, err := os.Stat(path)
		if err != nil {
			return nil, err
		}
		if !strings.HasSuffix(path, ".parquet") {
			if err := sidecarSizes(path, out); err != nil {
				return nil, err
			}
			continue
		}
		f, err := os.Open(path)
		if err != nil {
			return nil, err
		}
		pf, err := parquet.OpenFile(f, st.Size(), parquet.SkipBloomFilters(true))
		if err != nil {
			_ = f.Close()
			return nil, err
		}
		rest := st.Size()
		for _, rg := range pf.Metadata().RowGroups {
			for _, c := range rg.Columns {
				out[strings.Join(c.MetaData.PathInSchema, ".")] += c.MetaData.TotalCompressedSize
				rest -= c.MetaData.TotalCompressedSize
				out["(bloom)"] += int64(c.MetaData.BloomFilterLength)
				rest -= int64(c.MetaData.BloomFilterLength)
			}
		}
		out["(footers)"] += rest
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// sidecarSizes adds the sections of a sidecar (docs/format/spans.md).
func sidecarSizes(path string, to map[string]int64) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	sections := []string{"description", "filter", "trace ids", "directory of summaries", "summaries"}
	if len(data) < 12+8*len(sections) {
		return fmt.Errorf("%s is %d bytes long", path, len(data))
	}
	for i, s := range sections {
		to["(sidecar: "+s+")"] += int64(binary.LittleEndian.Uint32(data[12+8*i:]))
	}
	return nil
}
