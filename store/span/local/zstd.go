package local

import (
	"sync"

	"github.com/klauspost/compress/zstd"
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
