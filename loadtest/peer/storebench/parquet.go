package main

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/parquet-go/parquet-go"
)

// columnSizes is what each column of all blocks below dir takes on disk, its filters apart; "(sidecars)", "(bloom)" and "(footers)" are what is beside them.
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
			out["(sidecars)"] += st.Size()
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
