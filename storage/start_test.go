package storage

import (
	"bytes"
	"errors"
	"fmt"
	iofs "io/fs"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

func listed(t testing.TB, fs vfs.FS, dir, suffix string) []string {
	t.Helper()
	names, err := fs.List(dir)
	must(t, err)
	return slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, suffix) })
}

func TestAdvanceStart(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	cfg := small
	cfg.DeleteDelay = time.Minute
	l, _ := openLog(t, d, cfg)
	all := fill(t, l, 60) // two records each, on average
	flush(t, d)
	end, segments := l.EndOffset(), len(l.segments)
	second := l.segments[1].base
	old, err := l.Read(0, end, math.MaxInt64, true)
	must(t, err)

	if err := l.AdvanceStart(end+1, noon); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Errorf("beyond the end: %v", err)
	}
	must(t, l.AdvanceStart(second-1, noon))
	if l.StartOffset() != second-1 || len(l.segments) != segments {
		t.Errorf("begins at %d, %d segments", l.StartOffset(), len(l.segments))
	}
	if b, _ := ReadFile(fs, "/data/log-start-offset-checkpoint"); string(b) != fmt.Sprintf("0\n1\nt 0 %d\n", second-1) {
		t.Errorf("the checkpoint is %q", b)
	}
	if _, err := l.Read(second-2, end, 100, true); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Errorf("read below the start: %v", err)
	}
	must(t, l.AdvanceStart(second-5, noon)) // no way back
	must(t, l.AdvanceStart(l.active().base, noon))
	if l.StartOffset() != l.active().base || len(l.segments) != 1 {
		t.Errorf("begins at %d, %d segments", l.StartOffset(), len(l.segments))
	}
	if n := len(listed(t, fs, "/data/t-0", ".log.deleted")); n != segments-1 {
		t.Errorf("%d files wait for their removal", n)
	}

	// Who read before may go on, until the files are removed, and with an open
	// file after that.
	d.files.forget(fileKey{log: l})
	if b, err := old.Bytes(); err != nil || !bytes.HasPrefix(b, all[0]) {
		t.Errorf("a region of a deleted segment: %d bytes, %v", len(b), err)
	}
	if n, err := d.Sweep(noon.Add(time.Minute - 1)); n != 0 || err != nil {
		t.Errorf("swept %d too early, %v", n, err)
	}
	inUse, err := d.files.acquire(fileKey{log: l}, false)
	must(t, err)
	if n, err := d.Sweep(noon.Add(time.Minute)); n < segments-1 || err != nil {
		t.Errorf("swept %d, %v", n, err)
	}
	b := make([]byte, 61)
	if _, err := inUse.ReadAt(b, 0); err != nil || !bytes.HasPrefix(all[0], b) {
		t.Errorf("an open file of a removed segment: %v", err)
	}
	d.files.release(inUse)
	if _, err := inUse.ReadAt(b, 0); !errors.Is(err, iofs.ErrClosed) {
		t.Errorf("a removed file stays open: %v", err)
	}
	if _, err := old.Bytes(); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Errorf("a region of a removed segment: %v", err)
	}
	if left := listed(t, fs, "/data/t-0", deletedSuffix); len(left) != 0 {
		t.Errorf("left: %q", left)
	}

	must(t, l.AdvanceStart(end, noon)) // all of it: the active segment stays
	if l.StartOffset() != end || len(l.segments) != 1 || l.EpochAt(end) != 1 {
		t.Errorf("begins at %d of %d, %d segments, epoch %d", l.StartOffset(), end, len(l.segments), l.EpochAt(end))
	}
	must(t, d.Close(noon))
	l, _ = openLog(t, openDir(t, fs, "/data"), cfg)
	if l.StartOffset() != end || l.EndOffset() != end || l.EpochAt(end) != 1 {
		t.Errorf("reopened: %d to %d, epoch %d", l.StartOffset(), l.EndOffset(), l.EpochAt(end))
	}
	wantBatches(t, fill(t, l, 3), readAll(t, l, 1000))
}

// TestStartBeyondAnUnflushedEnd: where nobody waits for flushes, a crash may take
// more than was deleted. The log goes on at its start.
func TestStartBeyondAnUnflushedEnd(t *testing.T) {
	resets := 0
	for seed := range seeds(t, 300) {
		rng := rand.New(rand.NewPCG(seed, 11))
		fs := vfs.NewMem()
		d := openDir(t, fs, "/data")
		must(t, fs.SyncDir("/"))
		cfg := small
		cfg.FlushOS = true
		cfg.SegmentBytes = 500 << rng.IntN(6)
		l, _ := openLog(t, d, cfg)
		fill(t, l, 20+rng.IntN(30))
		if rng.IntN(2) == 0 {
			flush(t, d)
			must(t, d.Checkpoint())
		}
		start := rng.Int64N(l.EndOffset() + 1)
		must(t, l.AdvanceStart(start, noon))
		fill(t, l, rng.IntN(3))
		for range 3 {
			fs = fs.Crash(rng)
			d = openDir(t, fs, "/data")
			l, rec, err := d.OpenLog("t-0", cfg, noon)
			if err != nil {
				t.Fatalf("seed %d: %+v, %v", seed, rec, err)
			}
			if l.StartOffset() < start || l.EndOffset() < start {
				t.Fatalf("seed %d: %d to %d, was reported to begin at %d", seed, l.StartOffset(), l.EndOffset(), start)
			}
			if l.EndOffset() == start {
				resets++
			}
			readAll(t, l, 300)
			fill(t, l, rng.IntN(3))
			start = l.StartOffset()
		}
	}
	if resets == 0 {
		t.Error("no crash took more than was deleted")
	}
}

// TestProducersOutliveTheirSegments: a crash right after the records of a
// producer were deleted does not take what is known of it.
func TestProducersOutliveTheirSegments(t *testing.T) {
	for seed := range seeds(t, 300) {
		rng := rand.New(rand.NewPCG(seed, 12))
		fs := vfs.NewMem()
		d := openDir(t, fs, "/data")
		must(t, fs.SyncDir("/"))
		l, _ := openLog(t, d, small)
		write := func(n int) {
			for range n {
				appendOne(t, l, batchtest.Values("v").From(5, 2, int32(l.EndOffset())).Encode())
			}
		}
		write(20 + rng.IntN(40))
		flush(t, d)
		if rng.IntN(2) == 0 {
			must(t, d.Checkpoint())
		}
		write(rng.IntN(40))
		for range 1 + rng.IntN(3) {
			must(t, l.AdvanceStart(l.FlushedOffset()-rng.Int64N(2), noon))
			for range rng.IntN(3) {
				write(rng.IntN(50))
				flush(t, d)
			}
			write(rng.IntN(30))
		}
		l, _ = openLog(t, openDir(t, fs.Crash(rng), "/data"), small)
		for back := range int64(5) {
			at := l.EndOffset() - 1 - back
			a, err := l.Append(batchtest.Values("v").From(5, 2, int32(at)).Encode(), 1, noon)
			if err != nil || !a.Duplicate || a.Base != at {
				t.Fatalf("seed %d: %d of %d: %+v, %v", seed, at, l.EndOffset(), a, err)
			}
		}
	}
}

// TestLossOfDeleted: what is missing below the start is no loss.
func TestLossOfDeleted(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	fill(t, l, 50)
	flush(t, d)
	must(t, d.Checkpoint())
	end := l.EndOffset()
	must(t, l.AdvanceStart(end, noon))
	must(t, d.Close(noon))
	truncate(t, fs, "/data/t-0", -10)
	d = openDir(t, fs, "/data")
	l, _ = openLog(t, d, small)
	if l.StartOffset() != end || l.EndOffset() != end {
		t.Errorf("%d to %d, want %d", l.StartOffset(), l.EndOffset(), end)
	}
}

// TestStartOfAnotherLog: whoever removes a log's directory begins anew, at 0.
func TestStartOfAnotherLog(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	fill(t, l, 5)
	must(t, l.AdvanceStart(3, noon))
	must(t, d.CloseDirty())
	for _, n := range listed(t, fs, "/data/t-0", "") {
		must(t, fs.Remove("/data/t-0/"+n))
	}
	must(t, fs.Remove("/data/t-0"))
	for range 2 {
		d = openDir(t, fs, "/data")
		l, _ = openLog(t, d, small)
		if l.StartOffset() != 0 {
			t.Errorf("begins at %d", l.StartOffset())
		}
		fill(t, l, 3)
		must(t, d.CloseDirty())
	}
}

// TestStartsShareWrites: a start that the file has already costs no write.
func TestStartsShareWrites(t *testing.T) {
	writes := 0
	d := openDir(t, vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, name string) error {
		if op == vfs.OpRename && strings.Contains(name, startsName) {
			writes++
		}
		return nil
	}), "/data")
	l, _ := openLog(t, d, small)
	fill(t, l, 5)
	must(t, l.AdvanceStart(3, noon))
	must(t, l.AdvanceStart(3, noon))
	must(t, l.AdvanceStart(1, noon))
	if writes != 1 {
		t.Errorf("%d writes", writes)
	}
}
