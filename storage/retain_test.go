package storage

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

func at(ms int64) time.Time { return time.UnixMilli(ms) }

// segmentsOf appends three batches of about 300 bytes to each of n segments, with
// timestamps 1000, 1001, ... and returns the segments' bases, and the end.
func segmentsOf(t *testing.T, l *Log, n int) (bases []int64) {
	t.Helper()
	for i := range 3 * n {
		appendOne(t, l, batchtest.Values(fmt.Sprintf("%230d", i)).At(1000+int64(i)).Encode())
	}
	flush(t, l.d)
	for _, seg := range l.segments {
		bases = append(bases, seg.base)
	}
	if len(bases) != n {
		t.Fatalf("segments at %v", bases)
	}
	return append(bases, l.EndOffset())
}

func TestRetain(t *testing.T) {
	const none = -1
	probe, _ := openLog(t, openDir(t, vfs.NewMem(), "/data"), small)
	segmentsOf(t, probe, 5)
	all, _ := probe.Size()
	one := probe.segments[0].size
	for _, c := range []struct {
		what  string
		bytes int64
		age   time.Duration
		now   int64
		below int64
		want  int // segments that go, of 5 with 3 records each
	}{
		{"no limits", none, none, 1 << 40, 15, 0},
		{"as large as allowed", all, none, 0, 15, 0},
		{"a segment too large, less a byte", all - one + 1, none, 0, 15, 0},
		{"a segment too large", all - one, none, 0, 15, 1},
		{"nothing may stay", 0, none, 0, 15, 5},
		{"as old as allowed", none, time.Millisecond, 1003, 15, 0},
		{"the first segment is older", none, time.Millisecond, 1004, 15, 1},
		{"all are older", none, time.Millisecond, 2000, 15, 5},
		{"a watermark in the second segment", none, time.Millisecond, 2000, 5, 1},
		{"a watermark in the active segment", 0, none, 0, 14, 4},
		{"old and then too large", one * 3, time.Millisecond, 1004, 15, 2},
	} {
		fs := vfs.NewMem()
		d := openDir(t, fs, "/data")
		l, _ := openLog(t, d, small)
		bases := segmentsOf(t, l, 5)
		removed, err := l.Retain(at(c.now), RetentionConfig{c.bytes, c.age}, c.below)
		must(t, err)
		if removed != c.want || l.StartOffset() != bases[c.want] || l.EndOffset() != 15 {
			t.Errorf("%s: %d removed, begins at %d, want %d and %d", c.what, removed, l.StartOffset(), c.want, bases[c.want])
		}
		must(t, d.CloseDirty())
		l, _ = openLog(t, openDir(t, fs, "/data"), small)
		if l.StartOffset() != bases[c.want] || l.EndOffset() != 15 {
			t.Errorf("%s: reopened, begins at %d, ends at %d", c.what, l.StartOffset(), l.EndOffset())
		}
		fill(t, l, 1)
	}
}

// TestRetainWithoutTimestamps goes by the files' times, and by nothing where
// those are not known.
func TestRetainWithoutTimestamps(t *testing.T) {
	for _, known := range []bool{false, true} {
		fs := vfs.NewMem()
		d := openDir(t, fs, "/data")
		l, _ := openLog(t, d, small)
		for i := range int64(10) {
			if known {
				fs.SetTime(noon.Add(time.Duration(i) * time.Hour))
			}
			b := batchtest.Values(fmt.Sprintf("%600d", i)).At(-1)
			b.MaxTimestamp = -1
			appendOne(t, l, b.Encode())
		}
		removed, err := l.Retain(noon.Add(10*time.Hour), RetentionConfig{-1, 6 * time.Hour}, 10)
		if want := map[bool]int{true: 4}[known]; err != nil || removed != want {
			t.Errorf("times known %v: %d removed, %v, want %d", known, removed, err, want)
		}
	}
}

// TestRetainAfterAFaultyIndex: age is by the records, not by what an index says.
func TestRetainAfterAFaultyIndex(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	segmentsOf(t, l, 5)
	must(t, d.Close(noon))
	for _, name := range listed(t, fs, "/data/t-0", ".timeindex") {
		must(t, fs.Remove(filepath.Join("/data/t-0", name)))
	}
	d = openDir(t, fs, "/data")
	l, _ = openLog(t, d, small)
	if removed, err := l.Retain(at(1004), RetentionConfig{-1, time.Millisecond}, 15); err != nil || removed != 1 {
		t.Errorf("%d removed, %v", removed, err)
	}
}

func TestRollByTime(t *testing.T) {
	cfg := small
	cfg.SegmentBytes, cfg.SegmentAge = 1<<20, time.Second
	bases := func(cfg LogConfig, reopen bool, steps ...int64) (bases []int64) {
		fs := vfs.NewMem()
		d := openDir(t, fs, "/data")
		l, _ := openLog(t, d, cfg)
		for i, ms := range steps {
			b := batchtest.Values("v").At(ms)
			now := at(ms)
			if ms < 0 { // no timestamp, at that time
				b, now = b.At(-1), at(-ms)
				b.MaxTimestamp = -1
			}
			if reopen && i == 2 {
				must(t, d.Close(now))
				d = openDir(t, fs, "/data")
				var err error
				l, _, err = d.OpenLog("t-0", cfg, now)
				must(t, err)
			}
			_, err := l.Append(b.Encode(), 1, now)
			must(t, err)
		}
		for _, seg := range l.segments {
			bases = append(bases, seg.base)
		}
		return bases
	}
	for _, reopen := range []bool{false, true} {
		if got := bases(cfg, reopen, 500, 1400, 1500, 1501, 2501, 2502); !slices.Equal(got, []int64{0, 3, 5}) {
			t.Errorf("reopened %v: segments at %v", reopen, got)
		}
	}
	if got := bases(cfg, false, -500, -1500, -1501, -2501, -2502); !slices.Equal(got, []int64{0, 2, 4}) {
		t.Errorf("without timestamps: segments at %v", got)
	}
	if got := bases(cfg, false, 5000, 100, 200, 6001); !slices.Equal(got, []int64{0, 3}) {
		t.Errorf("with older ones in between: segments at %v", got)
	}
	cfg.SegmentAge = 0
	if got := bases(cfg, false, 0, 1<<40); !slices.Equal(got, []int64{0}) {
		t.Errorf("without a limit: segments at %v", got)
	}
}

// TestJitter: segments last between the limit less the jitter and the limit, and
// not all as long.
func TestJitter(t *testing.T) {
	l := &Log{name: "t-0"}
	cfg := LogConfig{SegmentAge: time.Hour, SegmentJitter: 10 * time.Minute}
	seen := make(map[time.Duration]bool)
	for i := range int64(100) {
		j := l.jitter(&segment{base: i}, cfg)
		if j < 0 || j >= cfg.SegmentJitter || j != l.jitter(&segment{base: i}, cfg) {
			t.Errorf("segment %d: %v", i, j)
		}
		seen[j/time.Minute] = true
	}
	if len(seen) < 8 {
		t.Errorf("%d minutes drawn of 10", len(seen))
	}
}

// TestRetainBesideReaders deletes what others read. They get their records, or
// hear that the offset is out of range.
func TestRetainBesideReaders(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 13))
	d := openDir(t, vfs.OS(), t.TempDir())
	d.files.limit = 2
	l, _ := openLog(t, d, small)
	done := make(chan error)
	stop := make(chan struct{})
	for range 2 {
		go func() {
			for {
				select {
				case <-stop:
					done <- nil
					return
				default:
				}
				if err := readSome(l); err != nil {
					done <- err
					return
				}
			}
		}()
	}
	for i := range 2000 {
		_, err := l.Append(batchtest.Values("value").At(int64(i)).Encode(), 1, noon)
		must(t, err)
		if i%50 == 0 {
			flush(t, d)
			_, err := l.Retain(noon, RetentionConfig{rng.Int64N(4000), -1}, l.FlushedOffset())
			must(t, err)
			_, err = d.Sweep(noon)
			must(t, err)
		}
	}
	close(stop)
	for range 2 {
		must(t, <-done)
	}
	must(t, d.Close(noon))
}

// readSome reads from the start of a log that may move.
func readSome(l *Log) error {
	start, end := l.StartOffset(), l.EndOffset()
	if _, _, err := l.OffsetForTime(start, end); err != nil && !errors.Is(err, ErrOffsetOutOfRange) {
		return err
	}
	r, err := l.Read(start, end, 500, true)
	var b []byte
	if err == nil {
		b, err = r.Bytes()
	}
	if err != nil {
		if errors.Is(err, ErrOffsetOutOfRange) {
			return nil
		}
		return err
	}
	batches, err := batchtest.Split(b)
	if len(batches) > 0 && err == nil {
		if h, _ := batch.DecodeHeader(batches[0]); h.BaseOffset != start {
			return fmt.Errorf("read at %d gave %d", start, h.BaseOffset)
		}
	}
	return err
}

// TestRollAwayTooLate: what was appended after a look at the active segment keeps
// that segment active.
func TestRollAwayTooLate(t *testing.T) {
	l, _ := openLog(t, openDir(t, vfs.NewMem(), "/data"), small)
	fill(t, l, 1)
	_, seen := l.lookAll()
	fill(t, l, 1)
	if rolled, err := l.rollAway(seen[0], noon); rolled || err != nil {
		t.Errorf("rolled %v, %v", rolled, err)
	}
}

// TestHalfRemoved: a crash may undo the removal of any of the segments below the
// start. They are not what the log begins with.
func TestHalfRemoved(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	bases := segmentsOf(t, l, 5)
	kept := vfs.NewMem()
	copyTo(t, fs, "/data", kept)
	must(t, l.AdvanceStart(bases[3], noon))
	for _, n := range []string{fileName(bases[1]), "/data/recovery-point-offset-checkpoint"} {
		if exists(kept, n) {
			must(t, kept.Remove(n))
		}
	}
	b, err := ReadFile(fs, "/data/log-start-offset-checkpoint")
	must(t, err)
	must(t, writeFile(kept, "/data/log-start-offset-checkpoint", b, false))
	l, _ = openLog(t, openDir(t, kept, "/data"), small)
	if l.StartOffset() != bases[3] || l.EndOffset() != 15 {
		t.Errorf("%d to %d", l.StartOffset(), l.EndOffset())
	}
}
