package storage

import (
	"math/rand/v2"
	"testing"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/vfs"
)

// When something was written is what its batch says, in any segment, with indexes in
// memory, in files, or missing.
func TestWritten(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	cfg := small
	cfg.SegmentBytes, cfg.IndexIntervalBytes = 4096, 256
	l, _ := openLog(t, d, cfg)
	all := fillTimes(t, l, rand.New(rand.NewPCG(7, 7)), 300)
	check := func() {
		t.Helper()
		for _, b := range all {
			h, _ := batch.DecodeHeader(b)
			want := h.BaseTimestamp
			if h.IsLogAppendTime() {
				want = h.MaxTimestamp
			}
			for at := h.BaseOffset; at <= h.LastOffset(); at++ {
				got, ok, err := l.Written(at, l.EndOffset())
				if must(t, err); ok != (want >= 0) || got != want {
					t.Fatalf("offset %d: %d %v, want %d", at, got, ok, want)
				}
				if _, ok, err := l.Written(at, h.BaseOffset); ok || err != nil {
					t.Fatalf("offset %d is above the high watermark: %v %v", at, ok, err)
				}
			}
		}
		if _, ok, err := l.Written(l.EndOffset(), l.EndOffset()); ok || err != nil {
			t.Fatalf("the end: %v %v", ok, err)
		}
	}
	check()
	must(t, d.CloseDirty())
	l, _ = openLog(t, openDir(t, fs, "/data"), cfg)
	check()
}
