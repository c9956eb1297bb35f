package storage

import (
	"math/rand/v2"
	"strings"
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

// readCounter counts the bytes that are read of segments.
type readCounter struct {
	vfs.FS
	bytes int64
}

func (c *readCounter) Open(name string) (vfs.File, error) {
	f, err := c.FS.Open(name)
	if err == nil && strings.HasSuffix(name, ".log") {
		f = &countedFile{f, c}
	}
	return f, err
}

type countedFile struct {
	vfs.File
	c *readCounter
}

func (f *countedFile) ReadAt(p []byte, off int64) (int, error) {
	n, err := f.File.ReadAt(p, off)
	f.c.bytes += int64(n)
	return n, err
}

// Nothing is read to know when something was written but headers of one index interval,
// however large the batch is and wherever in the segment.
func TestWrittenReadsLittle(t *testing.T) {
	fs := &readCounter{FS: vfs.NewMem()}
	l, _ := openLog(t, openDir(t, fs, "/data"), usual)
	for i := range 3000 {
		n := 1
		if i%100 == 0 {
			n = 256
		}
		appendOne(t, l, batchOf(n))
	}
	d := l.d
	must(t, d.CloseDirty())
	l, _ = openLog(t, openDir(t, fs, "/data"), usual)
	rng := rand.New(rand.NewPCG(3, 3))
	for range 1000 {
		at := rng.Int64N(l.EndOffset())
		before := fs.bytes
		_, ok, err := l.Written(at, l.EndOffset())
		if must(t, err); !ok {
			t.Fatalf("nothing is known of offset %d", at)
		}
		// An entry's batch is looked at, and the batches up to the next one: a walk reads walkBytes at a time.
		if read := fs.bytes - before; read == 0 || read > 4*walkBytes {
			t.Fatalf("offset %d: %d bytes were read", at, read)
		}
	}
}
