package storage

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// recordTimes lists the records of batches in [start, below), in the plainest way.
func recordTimes(t testing.TB, batches [][]byte, start, below int64) (all []TimeOffset) {
	t.Helper()
	for _, b := range batches {
		h, _ := batch.DecodeHeader(b)
		records, err := batchtest.Records(b)
		must(t, err)
		for i, r := range records {
			at := TimeOffset{h.BaseOffset + int64(i), h.BaseTimestamp + r.TimestampDelta}
			if h.IsLogAppendTime() {
				at.Timestamp = h.MaxTimestamp
			}
			if start <= at.Offset && at.Offset < below {
				all = append(all, at)
			}
		}
	}
	return all
}

// checkTimes compares look-ups by time below an offset, where a batch begins,
// with a walk over all records.
func checkTimes(t testing.TB, l *Log, batches [][]byte, below int64) {
	t.Helper()
	for _, b := range batches {
		if h, _ := batch.DecodeHeader(b); h.BaseOffset < below && below <= h.LastOffset() {
			below = h.BaseOffset
		}
	}
	records := recordTimes(t, batches, l.StartOffset(), below)
	largest, some := TimeOffset{Timestamp: -1}, false
	asked := map[int64]bool{0: true}
	for i, r := range records {
		if r.Timestamp > largest.Timestamp {
			largest, some = r, true
		}
		if i%7 == 0 || i > len(records)-5 {
			asked[r.Timestamp], asked[r.Timestamp+1] = true, true
		}
	}
	for ts := range asked {
		want, ok := TimeOffset{}, false
		for _, r := range records {
			if r.Timestamp >= ts {
				want, ok = r, true
				break
			}
		}
		got, found, err := l.OffsetForTime(ts, below)
		if must(t, err); found != ok || got != want {
			t.Fatalf("%s: time %d below %d: %+v %v, want %+v %v", l.name, ts, below, got, found, want, ok)
		}
	}
	got, found, err := l.MaxTimestamp(below)
	if must(t, err); found != some || some && got != largest {
		t.Fatalf("%s: largest below %d: %+v %v, want %+v %v", l.name, below, got, found, largest, some)
	}
}

// fillTimes appends n batches whose timestamps wander.
func fillTimes(t testing.TB, l *Log, rng *rand.Rand, n int) (all [][]byte) {
	t.Helper()
	w := &world{rng: rng, time: int64(1000 * rng.IntN(3))}
	for range n {
		b := batchtest.Values(make([]string, 1+rng.IntN(4))...)
		w.stamp(&b)
		raw := b.Encode()
		appendOne(t, l, raw)
		all = append(all, raw)
	}
	return all
}

func TestOffsetForTime(t *testing.T) {
	for seed := range uint64(20) {
		rng := rand.New(rand.NewPCG(seed, 8))
		fs := vfs.NewMem()
		d := openDir(t, fs, "/data")
		cfg := small
		cfg.SegmentBytes, cfg.IndexIntervalBytes = 500<<rng.IntN(8), 80<<rng.IntN(4)
		l, _ := openLog(t, d, cfg)
		checkTimes(t, l, nil, 0)
		all := fillTimes(t, l, rng, 400)
		for below := l.EndOffset(); below >= 0; below -= 1 + rng.Int64N(150) {
			checkTimes(t, l, all, below)
		}
		if seed%2 == 0 {
			must(t, d.Close(noon))
		} else {
			must(t, d.CloseDirty())
		}
		d = openDir(t, fs, "/data")
		l, _ = openLog(t, d, cfg)
		all = append(all, fillTimes(t, l, rng, 20)...)
		checkTimes(t, l, all, l.EndOffset())
		if n := d.IndexRebuilds(); n != 0 {
			t.Errorf("seed %d: %d rebuilds", seed, n)
		}
	}
}

// TestTimeIndexLies: whatever a time index says, the answers are right, and
// what is missing or wrong in one is made anew.
func TestTimeIndexLies(t *testing.T) {
	for name, damage := range map[string]func(b []byte) []byte{
		"gone":         func(b []byte) []byte { return nil },
		"cut":          func(b []byte) []byte { return b[:12] },
		"zeros":        func(b []byte) []byte { return make([]byte, len(b)) },
		"ones":         func(b []byte) []byte { return []byte(strings.Repeat("\xff", len(b))) },
		"half zeros":   func(b []byte) []byte { clear(b[len(b)/24*12:]); return b },
		"wrong at end": func(b []byte) []byte { b[len(b)-5] ^= 1; return b },
	} {
		for seed := range uint64(5) {
			rng := rand.New(rand.NewPCG(seed, 9))
			fs := vfs.NewMem()
			d := openDir(t, fs, "/data")
			cfg := small
			cfg.SegmentBytes, cfg.IndexIntervalBytes = 10_000, 80
			l, _ := openLog(t, d, cfg)
			all := fillTimes(t, l, rng, 400)
			must(t, d.Close(noon))
			file := "/data/t-0/00000000000000000000.timeindex"
			b, err := ReadFile(fs, file)
			must(t, err)
			must(t, writeFile(fs, file, damage(b), false))
			d = openDir(t, fs, "/data")
			l, _ = openLog(t, d, cfg)
			checkTimes(t, l, all, l.EndOffset())
			checkTimes(t, l, all, l.EndOffset()/2)
			checkTimes(t, l, all, l.EndOffset()/30)
			if n := d.IndexRebuilds(); n != 1 {
				t.Errorf("%s, seed %d: %d rebuilds", name, seed, n)
			}
		}
	}
}

// TestTimeOfCompressed: the answer is a record, whatever its batch is compressed with.
func TestTimeOfCompressed(t *testing.T) {
	for codec := batch.None; codec <= batch.Zstd; codec++ {
		l, _ := openLog(t, openDir(t, vfs.NewMem(), "/data"), small)
		b := batchtest.Values("a", "b", "c").At(100)
		b.Records[2].TimestampDelta = 5
		c := batch.Compression{Codec: codec, Level: 3}
		for range 3 {
			appendOne(t, l, batchtest.Compressed(b.Encode(), c))
		}
		stamp := batchtest.Any()
		stamp.LogAppendTime = true
		late, err := stamp.Accept(batchtest.Compressed(b.Encode(), c), 200)
		must(t, err)
		appendOne(t, l, late)
		got := fmt.Sprint(l.OffsetForTime(103, 12)) + fmt.Sprint(l.OffsetForTime(150, 12)) + fmt.Sprint(l.MaxTimestamp(12)) + fmt.Sprint(l.MaxTimestamp(9))
		if want := "{2 105} true <nil>{9 200} true <nil>{9 200} true <nil>{2 105} true <nil>"; got != want {
			t.Errorf("%s: found %s, want %s", codec, got, want)
		}
	}
}

// TestTimeReadsLittle: a look-up reads the places it needs, not the log.
func TestTimeReadsLittle(t *testing.T) {
	reads := 0
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, name string) error {
		if op == vfs.OpReadAt {
			reads++
		}
		return nil
	})
	d := openDir(t, fs, "/data")
	cfg := usual
	cfg.SegmentBytes = 1 << 20
	l, _ := openLog(t, d, cfg)
	for i := range int64(10_000) {
		appendOne(t, l, batchtest.Values(strings.Repeat("v", 1000)).At(i).Encode())
	}
	must(t, d.Close(noon))
	d = openDir(t, fs, "/data")
	l, _ = openLog(t, d, cfg)
	for _, budget := range []int{100, 20} { // the segments' largest timestamps are found once
		reads = 0
		if at, ok, err := l.OffsetForTime(7777, l.EndOffset()); !ok || at.Offset != 7777 || reads > budget {
			t.Errorf("%+v, %v, %v, %d reads", at, ok, err, reads)
		}
	}
}
