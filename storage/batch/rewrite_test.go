package batch_test

import (
	"testing"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
)

// What is kept has the offset and the timestamp it had, with a horizon or without.
func TestRewriteKeepsOffsetsAndTimestamps(t *testing.T) {
	in := batchtest.Values("a", "b", "c").From(7, 1, 40).At(1000)
	in.Records[1].TimestampDelta, in.Records[2].TimestampDelta = 5, 3
	plain := in.Encode()
	for codec := batch.None; codec <= batch.Zstd; codec++ {
		b := plain
		if codec != batch.None {
			b = batchtest.Compressed(in.Encode(), batch.Compression{Codec: codec, Level: 1})
		}
		batch.Stamp(b, 100, 2)
		for _, horizon := range []int64{-1, 9_000_000} {
			for kept := range 3 {
				was, err := batch.Verify(b)
				if err != nil {
					t.Fatal(err)
				}
				out, err := batch.Rewrite(b, was, horizon, func(c batch.Content) bool { return int(c.OffsetDelta) >= 3-kept })
				if err != nil {
					t.Fatal(err)
				}
				h, err := batch.Verify(out)
				if err != nil {
					t.Fatal(err)
				}
				if h.BaseOffset != 100 || h.LastOffset() != 102 || h.LastSequence() != 42 || h.LeaderEpoch != 2 || int(h.Count) != kept {
					t.Errorf("%v, %d kept: %+v", codec, kept, h)
				}
				if ms, ok := h.DeleteHorizon(); ok != (horizon >= 0) || ok && ms != horizon {
					t.Errorf("%v: horizon %d, %v, want %d", codec, ms, ok, horizon)
				}
				if err := batch.Contents(out, h, func(c batch.Content) error {
					want := in.Records[c.OffsetDelta]
					if string(c.Value) != string(want.Value) || h.Timestamp(c.Record) != 1000+want.TimestampDelta {
						t.Errorf("%v: %q at %d", codec, c.Value, h.Timestamp(c.Record))
					}
					return nil
				}); err != nil {
					t.Error(err)
				}
			}
		}
	}
}
