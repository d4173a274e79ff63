package local

import (
	"sync"

	"github.com/klauspost/compress/zstd"
	pages "github.com/parquet-go/parquet-go/compress/zstd"
)

// One encoder and one decoder for the process; EncodeAll and DecodeAll are safe for concurrent use.
var (
	encoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(1<<20), zstd.WithLowerEncoderMem(true))
		if err != nil {
			panic(err) // constant options
		}
		return e
	})
	zdecoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(2), zstd.WithDecoderMaxMemory(1<<30), zstd.WithDecoderLowmem(true))
		if err != nil {
			panic(err) // constant options
		}
		return d
	})
)

func compress(b []byte) []byte            { return encoder().EncodeAll(b, nil) }
func decompress(b []byte) ([]byte, error) { return zdecoder().DecodeAll(b, nil) }

// pageCodec is parquet-go's zstd with encoders that all writers share, and that have windows of the size of pages: its own are made anew for each file, and take several times the memory.
type pageCodec struct {
	pages.Codec // decodes
	encoder     func() *zstd.Encoder
}

func newPageCodec(level zstd.EncoderLevel) *pageCodec {
	return &pageCodec{encoder: sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(2), zstd.WithWindowSize(pageBytes), zstd.WithLowerEncoderMem(true), zstd.WithZeroFrames(true), zstd.WithEncoderCRC(false))
		if err != nil {
			panic(err) // constant options
		}
		return e
	})}
}

// Of columns, and of texts each of which is like others.
var (
	fastPages   = newPageCodec(zstd.SpeedFastest)
	betterPages = newPageCodec(zstd.SpeedBetterCompression)
)

// Encode overwrites dst.
func (c *pageCodec) Encode(dst, src []byte) ([]byte, error) {
	return c.encoder().EncodeAll(src, dst[:0]), nil
}
