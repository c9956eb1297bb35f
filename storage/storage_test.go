package storage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	iofs "io/fs"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

var (
	noon  = time.UnixMilli(1_800_000_000_000)
	small = LogConfig{SegmentBytes: 1000, IndexIntervalBytes: 150, SegmentIndexBytes: 10 << 20, ProducerExpiration: 24 * time.Hour}
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func openDir(t testing.TB, fs vfs.FS, path string) *Dir {
	t.Helper()
	d, err := OpenDir(fs, path)
	must(t, err)
	return d
}

func openLog(t testing.TB, d *Dir, cfg LogConfig) (*Log, Recovery) {
	t.Helper()
	l, rec, err := d.OpenLog("t-0", cfg, noon)
	must(t, err)
	return l, rec
}

func appendOne(t testing.TB, l *Log, b []byte) Appended {
	t.Helper()
	h, err := batch.DecodeHeader(b)
	must(t, err)
	if !h.IsLogAppendTime() { // which a broker has stamped
		_, err = batchtest.Any().Accept(b, h.MaxTimestamp)
		must(t, err)
	}
	a, err := l.Append(b, 1, noon)
	must(t, err)
	return a
}

// fill appends n batches of 1 to 3 records and returns them as stored.
func fill(t testing.TB, l *Log, n int) [][]byte {
	t.Helper()
	var all [][]byte
	for i := range n {
		b := batchtest.Values(slices.Repeat([]string{fmt.Sprint("value ", i)}, i%3+1)...).At(int64(1000 + i)).Encode()
		appendOne(t, l, b)
		all = append(all, b)
	}
	return all
}

// flush runs rounds until nothing is dirty.
func flush(t testing.TB, d *Dir) {
	t.Helper()
	for r := d.BeginFlush(); r != nil; r = d.BeginFlush() {
		var err error
		for _, sync := range r.Syncs() {
			err = errors.Join(err, sync())
		}
		r.Done(time.Millisecond, err)
		must(t, err)
	}
}

// readAll reads a log from its start, in regions of about max bytes.
func readAll(t testing.TB, l *Log, max int64) [][]byte {
	t.Helper()
	var all [][]byte
	for offset := l.StartOffset(); offset < l.EndOffset(); {
		r, err := l.Read(offset, math.MaxInt64, max, true)
		must(t, err)
		b, err := r.Bytes()
		must(t, err)
		batches, err := batchtest.Split(b)
		must(t, err)
		if len(batches) == 0 && offset < l.cleaned.Load() {
			break // the log ends with a gap
		}
		if len(batches) == 0 {
			t.Fatalf("nothing at offset %d of %d", offset, l.EndOffset())
		}
		for _, b := range batches {
			h, _ := batch.DecodeHeader(b)
			gap := h.BaseOffset > offset && offset < l.cleaned.Load()
			if h.BaseOffset != offset && !gap && !(offset == l.StartOffset() && h.BaseOffset < offset && offset <= h.LastOffset()) {
				t.Fatalf("a batch with offset %d, expected %d", h.BaseOffset, offset)
			}
			offset = h.LastOffset() + 1
		}
		all = append(all, batches...)
	}
	return all
}

func wantBatches(t testing.TB, got, want [][]byte) {
	t.Helper()
	if !slices.EqualFunc(got, want, bytes.Equal) {
		t.Fatalf("read %d batches that are not the %d appended", len(got), len(want))
	}
}

func exists(fs vfs.FS, name string) bool {
	_, err := fs.Stat(name)
	return err == nil
}

func TestAppendAndReadBack(t *testing.T) {
	for name, fs := range map[string]vfs.FS{"os": vfs.OS(), "mem": vfs.NewMem()} {
		t.Run(name, func(t *testing.T) {
			path := t.TempDir()
			d := openDir(t, fs, path)
			l, _ := openLog(t, d, small)
			if exists(fs, filepath.Join(path, "t-0")) {
				t.Error("a log without records has a directory")
			}
			if l.StartOffset() != 0 || l.EndOffset() != 0 || l.EpochAt(0) != -1 {
				t.Errorf("an empty log: %d to %d, epoch %d", l.StartOffset(), l.EndOffset(), l.EpochAt(0))
			}
			want := fill(t, l, 100)
			for _, max := range []int64{1, 300, math.MaxInt64} {
				wantBatches(t, readAll(t, l, max), want)
			}
			if l.FlushedOffset() != 0 {
				t.Errorf("flushed to %d without a flush", l.FlushedOffset())
			}
			flush(t, d)
			if l.FlushedOffset() != l.EndOffset() {
				t.Errorf("flushed to %d of %d", l.FlushedOffset(), l.EndOffset())
			}
			if d.BeginFlush() != nil {
				t.Error("a clean directory has something to flush")
			}
			must(t, d.Close(noon))

			d = openDir(t, fs, path)
			defer d.CloseDirty()
			l, rec := openLog(t, d, small)
			if !d.Clean() || rec.ScannedBytes != 0 || rec.Segments < 5 || d.IndexRebuilds() != 0 {
				t.Errorf("after Close: clean %v, %+v, %d rebuilds", d.Clean(), rec, d.IndexRebuilds())
			}
			want = append(want, again(t, l, 20, l.EndOffset())...)
			wantBatches(t, readAll(t, l, 700), want)
		})
	}
}

// again appends n more and checks their offsets.
func again(t *testing.T, l *Log, n int, from int64) [][]byte {
	t.Helper()
	more := fill(t, l, n)
	if h, _ := batch.DecodeHeader(more[0]); h.BaseOffset != from || h.LeaderEpoch != 1 {
		t.Fatalf("appended at %d in epoch %d", h.BaseOffset, h.LeaderEpoch)
	}
	return more
}

// TestReadLimits compares every read with a walk over a slice of batches.
func TestReadLimits(t *testing.T) {
	d := openDir(t, vfs.NewMem(), "/data")
	l, _ := openLog(t, d, small)
	all := fill(t, l, 60)
	headers := make([]batch.Header, len(all))
	segment := func(i int) int64 { // of a batch: the base of its segment
		l.mu.Lock()
		defer l.mu.Unlock()
		base := int64(0)
		for _, s := range l.segments {
			if s.base <= headers[i].BaseOffset {
				base = s.base
			}
		}
		return base
	}
	for i, b := range all {
		headers[i], _ = batch.DecodeHeader(b)
	}
	end := l.EndOffset()
	for offset := range end {
		for _, to := range []int{0, 20, 21, 47, len(all)} {
			for _, max := range []int64{0, 50, 100, 333, 1 << 40} {
				for _, atLeastOne := range []bool{false, true} {
					upTo := end
					if to < len(all) {
						upTo = headers[to].BaseOffset
					}
					first := slices.IndexFunc(headers, func(h batch.Header) bool { return h.LastOffset() >= offset })
					var want []byte
					for i := first; i < to && segment(i) == segment(first); i++ {
						if int64(len(want)+len(all[i])) > max && !(atLeastOne && i == first) {
							break
						}
						want = append(want, all[i]...)
					}
					r, err := l.Read(offset, upTo, max, atLeastOne)
					must(t, err)
					got, err := r.Bytes()
					must(t, err)
					if !bytes.Equal(got, want) || r.Len() != int64(len(want)) {
						t.Fatalf("read %d to %d, %d bytes, at least one %v: got %d bytes, want %d", offset, upTo, max, atLeastOne, len(got), len(want))
					}
				}
			}
		}
	}
	if r, err := l.Read(end, end, 100, true); err != nil || r.Len() != 0 {
		t.Errorf("at the end: %d bytes, %v", r.Len(), err)
	}
	for _, offset := range []int64{-1, end + 1} {
		if _, err := l.Read(offset, end, 100, true); !errors.Is(err, ErrOffsetOutOfRange) {
			t.Errorf("read at %d: %v", offset, err)
		}
	}
}

// TestFormats reads the files as their bytes.
func TestFormats(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	cfg := small
	cfg.IndexIntervalBytes = 100
	l, _ := openLog(t, d, cfg)
	// Batches of one record, 70 bytes each; the timestamps do not rise steadily.
	stamps := []int64{500, 900, 100, 200, 901, 300, 300, 300, 300, 300, 300, 300, 300, 300, 300}
	for i, s := range stamps {
		epoch := int32(i / 6)
		b := batchtest.Values("v").From(9, 0, int32(i)).At(s).Encode()
		if len(b) != 69 {
			t.Fatalf("batch of %d bytes", len(b))
		}
		_, err := l.Append(b, epoch, noon)
		must(t, err)
	}
	must(t, d.Close(noon))
	read := func(name string) []byte {
		b, err := ReadFile(fs, filepath.Join("/data/t-0", name))
		must(t, err)
		return b
	}
	u32 := func(b []byte) (list []uint32) {
		for ; len(b) >= 4; b = b[4:] {
			list = append(list, binary.BigEndian.Uint32(b))
		}
		return list
	}
	// An entry where more than 100 bytes came since the last one: batches 2, 4, ...
	if got, want := u32(read("00000000000000000000.index")), []uint32{2, 138, 4, 276, 6, 414, 8, 552, 10, 690, 12, 828}; !slices.Equal(got, want) {
		t.Errorf("offset index %v, want %v", got, want)
	}
	// The largest timestamp so far and whose it is, where that has changed.
	if got, want := u32(read("00000000000000000000.timeindex")), []uint32{0, 900, 1, 0, 901, 4}; !slices.Equal(got, want) {
		t.Errorf("time index %v, want %v", got, want)
	}
	if got, want := string(read("leader-epoch-checkpoint")), "0\n3\n0 0\n1 6\n2 12\n"; got != want {
		t.Errorf("epochs %q, want %q", got, want)
	}
	snapshot := read("00000000000000000015.snapshot")
	if got := snapshot[:2]; !bytes.Equal(got, []byte{0, 1}) {
		t.Errorf("snapshot version %v", got)
	}
	if n := len(snapshot) - 10; n != 5*46 {
		t.Errorf("snapshot has %d bytes of entries", n)
	}
	var entry bytes.Buffer
	for _, v := range []any{int64(9), int16(0), int32(14), int64(14), int32(0), noon.UnixMilli(), int32(-1), int64(-1)} {
		must(t, binary.Write(&entry, binary.BigEndian, v))
	}
	if !bytes.HasSuffix(snapshot, entry.Bytes()) {
		t.Errorf("the last entry of the snapshot is % x, want % x", snapshot[len(snapshot)-46:], entry.Bytes())
	}
	points, err := ReadFile(fs, "/data/recovery-point-offset-checkpoint")
	if err != nil || string(points) != "0\n1\nt 0 15\n" {
		t.Errorf("recovery points %q, %v", points, err)
	}
	if !exists(fs, "/data/.kafka_cleanshutdown") {
		t.Error("no clean marker")
	}
}

func TestIdentity(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	if _, ok, err := d.Identity(); ok || err != nil {
		t.Fatalf("a new directory has an identity: %v", err)
	}
	id := Identity{ClusterID: "5L6g3nShT-eMCtK--X86sw", NodeID: 3, DirectoryID: [16]byte{0xff, 0xfe, 15: 1}}
	must(t, d.Format(id))
	must(t, d.Format(id))
	must(t, fs.SyncDir("/"))
	for seed := range uint64(50) {
		d := openDir(t, fs.Crash(rand.New(rand.NewPCG(seed, 5))), "/data")
		if got, ok, err := d.Identity(); got != id || !ok || err != nil {
			t.Fatalf("after a crash: %+v, %v, %v", got, ok, err)
		}
	}
	other := id
	other.NodeID = 4
	if d.Format(other) == nil {
		t.Error("a directory changed its node")
	}
	if got, ok, err := d.Identity(); got != id || !ok || err != nil {
		t.Errorf("read %+v, %v, %v", got, ok, err)
	}
	text, _ := ReadFile(fs, "/data/meta.properties")
	if !strings.Contains(string(text), "directory.id=__4AAAAAAAAAAAAAAAAAAQ\n") {
		t.Errorf("meta.properties is %q", text)
	}
	must(t, writeFile(fs, "/data/meta.properties", []byte("#comment\nversion=2\n"), false))
	if _, _, err := d.Identity(); err == nil || !strings.Contains(err.Error(), `version "2"`) {
		t.Errorf("a newer version: %v", err)
	}
}

func TestDirIsExclusive(t *testing.T) {
	fs, path := vfs.OS(), t.TempDir()
	d := openDir(t, fs, path)
	if _, err := OpenDir(fs, path); !errors.Is(err, vfs.ErrLocked) {
		t.Errorf("opened twice: %v", err)
	}
	must(t, d.CloseDirty())
	must(t, openDir(t, fs, path).CloseDirty())
}

func TestPartitions(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	for _, name := range []string{"a-b-12", "t-0", "t-01", "t-x", "t-+1", "-3", "t-0.abc-delete", "t-99999999999"} {
		must(t, fs.MkdirAll("/data/"+name))
	}
	must(t, writeFile(fs, "/data/file-1", nil, false))
	if got, err := d.Partitions(); err != nil || !slices.Equal(got, []string{"a-b-12", "t-0"}) {
		t.Errorf("partitions %q, %v", got, err)
	}
}

func TestSequences(t *testing.T) {
	type step struct {
		epoch    int16
		sequence int32
		records  int
		want     string
	}
	run := func(t *testing.T, l *Log, steps []step) {
		for i, s := range steps {
			b := batchtest.Values(slices.Repeat([]string{"v"}, s.records)...).From(5, s.epoch, s.sequence).Encode()
			a, err := l.Append(b, 1, noon)
			got := fmt.Sprint(a.Base)
			_, order := errors.AsType[*OutOfOrderSequenceError](err)
			_, epoch := errors.AsType[*InvalidProducerEpochError](err)
			switch {
			case order:
				got = "order"
			case epoch:
				got = "epoch"
			case err != nil:
				t.Fatal(err)
			case a.Duplicate:
				got = fmt.Sprint("dup ", a.Base, "-", a.Last)
			}
			if got != s.want {
				t.Errorf("step %d %+v: %s (%v)", i, s, got, err)
			}
		}
	}
	first := []step{
		{0, 7, 2, "0"}, // unknown: any
		{0, 9, 1, "2"},
		{0, 9, 1, "dup 2-2"},
		{0, 7, 2, "dup 0-1"},
		{0, 7, 1, "order"},  // same first, other last
		{0, 11, 1, "order"}, // a gap
		{0, 10, 1, "3"}, {0, 11, 1, "4"}, {0, 12, 1, "5"},
		{0, 7, 2, "dup 0-1"}, // the fifth
		{0, 13, 1, "6"},
		{0, 7, 2, "order"}, // the sixth is forgotten
		{1, 14, 1, "order"},
		{1, 0, 3, "7"}, // a new epoch begins at 0
		{0, 14, 1, "epoch"},
		{1, 0, 3, "dup 7-9"},
	}
	then := []step{{1, 0, 3, "dup 7-9"}, {0, 14, 1, "epoch"}, {1, 4, 1, "order"}, {1, 3, 1, "10"}}
	for name, stop := range map[string]func(*Dir) error{
		"clean": func(d *Dir) error { return d.Close(noon) },
		"crash": func(d *Dir) error { return d.CloseDirty() },
	} {
		t.Run(name, func(t *testing.T) {
			fs := vfs.NewMem()
			d := openDir(t, fs, "/data")
			l, _ := openLog(t, d, small)
			run(t, l, first)
			must(t, stop(d))
			d = openDir(t, fs, "/data")
			l, _ = openLog(t, d, small)
			run(t, l, then)
		})
	}
	t.Run("wrap", func(t *testing.T) {
		d := openDir(t, vfs.NewMem(), "/data")
		l, _ := openLog(t, d, small)
		run(t, l, []step{
			{0, math.MaxInt32 - 1, 4, "0"}, {0, math.MaxInt32 - 1, 4, "dup 0-3"}, {0, 2, 1, "order"}, {0, 3, 1, "order"},
		}[:2])
		run(t, l, []step{{0, 3, 1, "order"}, {0, 2, 1, "4"}})
	})
}

// TestFiveBatchesSurvive: all remembered batches, not only the last, are known
// again after a clean stop, when there is nothing to replay.
func TestFiveBatchesSurvive(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	for i := range int32(8) {
		appendOne(t, l, batchtest.Values("v").From(5, 2, i).Encode())
	}
	must(t, d.Close(noon))
	d = openDir(t, fs, "/data")
	l, _ = openLog(t, d, small)
	for i := range int32(5) {
		a := appendOne(t, l, batchtest.Values("v").From(5, 2, 3+i).Encode())
		if !a.Duplicate || a.Base != int64(3+i) {
			t.Errorf("sequence %d: %+v", 3+i, a)
		}
	}
	if _, err := l.Append(batchtest.Values("v").From(5, 2, 2).Encode(), 1, noon); err == nil {
		t.Error("the sixth is remembered")
	}
}

func TestProducersExpire(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	appendOne(t, l, batchtest.Values("v").From(5, 0, 0).At(1).Encode())
	must(t, d.Close(noon))
	for _, c := range []struct {
		after time.Duration
		ok    bool
	}{{24*time.Hour - 1, false}, {24 * time.Hour, true}} {
		d := openDir(t, fs, "/data")
		l, _, err := d.OpenLog("t-0", small, noon.Add(c.after))
		must(t, err)
		_, err = l.Append(batchtest.Values("v").From(5, 0, 77).Encode(), 1, noon)
		if (err == nil) != c.ok {
			t.Errorf("after %v: %v", c.after, err)
		}
		must(t, d.CloseDirty())
	}
}

func TestEpochHistory(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	for i := range 40 {
		_, err := l.Append(batchtest.Values("value").Encode(), int32(3*(i/10)), noon)
		must(t, err)
	}
	if _, err := l.Append(batchtest.Values("value").Encode(), 8, noon); err == nil {
		t.Error("an older leader appended")
	}
	check := func(when string, l *Log) {
		for offset, want := range map[int64]int32{0: 0, 9: 0, 10: 3, 29: 6, 30: 9, 40: 9} {
			if got := l.EpochAt(offset); got != want {
				t.Errorf("%s: epoch at %d is %d, want %d", when, offset, got, want)
			}
		}
	}
	check("live", l)
	flush(t, d)
	must(t, d.Checkpoint())
	must(t, d.CloseDirty())
	name := "/data/t-0/" + epochsName
	for when, content := range map[string]string{
		"as left": "", "torn": "0\n4\n0 0\n3 10\n6 20\n9 3", "stale": "0\n2\n0 0\n3 10\n",
		"of the future": "0\n5\n0 0\n3 10\n6 20\n9 30\n12 40\n", "zeros": "\x00\x00\x00", "missing": "missing",
	} {
		switch content {
		case "":
		case "missing":
			must(t, fs.Remove(name))
		default:
			must(t, writeFile(fs, name, []byte(content), true))
		}
		d := openDir(t, fs, "/data")
		l, _ := openLog(t, d, small)
		check(when, l)
		must(t, d.CloseDirty())
		if got, _ := ReadFile(fs, name); string(got) != "0\n4\n0 0\n3 10\n6 20\n9 30\n" {
			t.Errorf("%s: the file is now %q", when, got)
		}
	}
}

// TestIndexDamage writes nonsense into index files of a sealed and of the active
// segment: every read is right nevertheless, and the damage is counted.
func TestIndexDamage(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	cfg := small
	cfg.SegmentBytes = 20_000
	l, _ := openLog(t, d, cfg)
	want := fill(t, l, 400)
	must(t, d.Close(noon))
	indexes := func() []string {
		names, err := fs.List("/data/t-0")
		must(t, err)
		return slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".index") })
	}()
	for _, c := range []struct {
		name    string
		counted bool
		damage  func(b []byte) []byte
	}{
		{"ones", true, func(b []byte) []byte { return bytes.Repeat([]byte{0xff}, len(b)) }},
		{"zeros", false, func(b []byte) []byte { return make([]byte, len(b)) }}, // "offset 0 is at 0" is no lie, and the segment small
		{"longer", true, func(b []byte) []byte { return append(b, bytes.Repeat([]byte{0xff}, len(b))...) }},
		{"two offsets", true, func(b []byte) []byte { b[3]++; b[len(b)/2&^7+3]++; return b }},
		{"all positions", true, func(b []byte) []byte {
			for i := 7; i < len(b); i += 8 {
				b[i]++
			}
			return b
		}},
	} {
		for _, index := range []string{indexes[0], indexes[len(indexes)-1]} {
			d := openDir(t, fs, "/data")
			file := filepath.Join("/data/t-0", index)
			b, err := ReadFile(fs, file)
			must(t, err)
			must(t, writeFile(fs, file, c.damage(bytes.Clone(b)), false))
			l, _ := openLog(t, d, cfg)
			for offset := l.EndOffset() - 1; offset >= 0; offset-- {
				r, err := l.Read(offset, math.MaxInt64, 500, true)
				must(t, err)
				got, err := r.Bytes()
				must(t, err)
				if h, _ := batch.DecodeHeader(got); h.BaseOffset > offset || h.LastOffset() < offset {
					t.Fatalf("read at %d gave %d", offset, h.BaseOffset)
				}
			}
			wantBatches(t, readAll(t, l, 2000), want)
			if c.counted && d.IndexRebuilds() != 1 {
				t.Errorf("%s in %s: %d rebuilds", c.name, index, d.IndexRebuilds())
			}
			must(t, d.Close(noon))
			if after, err := ReadFile(fs, file); c.counted && !bytes.Equal(after, b) {
				t.Errorf("%s in %s: not as it was, %v", c.name, index, err)
			}
			must(t, writeFile(fs, file, b, false))
		}
	}
}

// TestTimeIndexDamage: what a restart goes on from must be true, or the largest
// timestamp so far would be made up.
func TestTimeIndexDamage(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	cfg := small
	cfg.SegmentBytes = 20_000
	l, _ := openLog(t, d, cfg)
	fill(t, l, 100)
	must(t, d.Close(noon))
	file := "/data/t-0/00000000000000000000.timeindex"
	whole, err := ReadFile(fs, file)
	must(t, err)
	for name, damage := range map[string]func(b []byte) []byte{
		"ones":  func(b []byte) []byte { return bytes.Repeat([]byte{0xff}, len(b)) },
		"zeros": func(b []byte) []byte { return make([]byte, len(b)) },
		"timestamps": func(b []byte) []byte {
			for i := 7; i < len(b); i += 12 {
				b[i]++
			}
			return b
		},
		"short": func(b []byte) []byte { return b[:5] },
	} {
		must(t, writeFile(fs, file, damage(bytes.Clone(whole)), false))
		d := openDir(t, fs, "/data")
		openLog(t, d, cfg)
		must(t, d.Close(noon))
		if after, err := ReadFile(fs, file); d.IndexRebuilds() != 1 || !bytes.Equal(after, whole) {
			t.Errorf("%s: %d rebuilds, %v, as it was: %v", name, d.IndexRebuilds(), err, bytes.Equal(after, whole))
		}
	}
}

// TestIndexLost: a sealed segment whose index is gone gets it back once a read
// would have to walk far.
func TestIndexLost(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	cfg := small
	cfg.SegmentBytes, cfg.IndexIntervalBytes = 2<<20, 4096
	l, _ := openLog(t, d, cfg)
	value := strings.Repeat("x", 1000)
	for range 3000 {
		appendOne(t, l, batchtest.Values(value).Encode())
	}
	must(t, d.Close(noon))
	must(t, fs.Remove("/data/t-0/00000000000000000000.index"))
	d = openDir(t, fs, "/data")
	l, _ = openLog(t, d, cfg)
	for _, offset := range []int64{1500, 1501, 20} {
		r, err := l.Read(offset, math.MaxInt64, 100_000, true)
		must(t, err)
		b, err := r.Bytes()
		must(t, err)
		if h, _ := batch.DecodeHeader(b); h.BaseOffset != offset {
			t.Errorf("read at %d gave %d", offset, h.BaseOffset)
		}
	}
	if d.IndexRebuilds() != 1 || !exists(fs, "/data/t-0/00000000000000000000.index") {
		t.Errorf("%d rebuilds", d.IndexRebuilds())
	}
}

// TestHole: damage below the recovery point is an error that says where.
func TestHole(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	all := fill(t, l, 100)
	must(t, d.Close(noon))
	file := "/data/t-0/00000000000000000000.log"
	b, err := ReadFile(fs, file)
	must(t, err)
	position := int64(len(all[0]) + len(all[1]))
	copy(b[position:], make([]byte, 20))
	must(t, writeFile(fs, file, b, true))

	d = openDir(t, fs, "/data")
	l, _ = openLog(t, d, small)
	_, err = l.Read(3, math.MaxInt64, 1, true)
	hole, ok := errors.AsType[*CorruptError](err)
	if !ok || hole.File != file || hole.Position != position {
		t.Errorf("read of a hole: %v", err)
	}
	if _, err := l.Read(l.EndOffset()-1, math.MaxInt64, 1, true); err != nil {
		t.Errorf("read elsewhere: %v", err)
	}
}

// TestDurableLoss: a log that ends below its recovery point has lost what was
// acknowledged, and is not opened as if it had not.
func TestDurableLoss(t *testing.T) {
	for name, damage := range map[string]func(fs vfs.FS, dir string){
		"cut":       func(fs vfs.FS, dir string) { truncate(t, fs, dir, -10) },
		"cut whole": func(fs vfs.FS, dir string) { truncate(t, fs, dir, -1<<40) },
		"gone": func(fs vfs.FS, dir string) {
			names, _ := fs.List(dir)
			for _, n := range names {
				must(t, fs.Remove(filepath.Join(dir, n)))
			}
		},
	} {
		fs := vfs.NewMem()
		d := openDir(t, fs, "/data")
		l, _ := openLog(t, d, small)
		fill(t, l, 50)
		must(t, d.Close(noon))
		damage(fs, "/data/t-0")
		d = openDir(t, fs, "/data")
		for range 2 {
			_, _, err := d.OpenLog("t-0", small, noon)
			if _, ok := errors.AsType[*CorruptError](err); !ok {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

// truncate cuts the active segment by some bytes.
func truncate(t *testing.T, fs vfs.FS, dir string, by int64) {
	t.Helper()
	names, err := fs.List(dir)
	must(t, err)
	for _, n := range slices.Backward(names) {
		if strings.HasSuffix(n, ".log") {
			f, err := fs.Open(filepath.Join(dir, n))
			must(t, err)
			size, err := f.Size()
			must(t, err)
			must(t, f.Truncate(max(0, size+by)))
			must(t, f.Close())
			return
		}
	}
}

// TestRemovedDirectory: whoever removes a log's directory gets an empty log,
// also after the next crash.
func TestRemovedDirectory(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	fill(t, l, 5)
	must(t, d.Close(noon))
	names, _ := fs.List("/data/t-0")
	for _, n := range names {
		must(t, fs.Remove("/data/t-0/"+n))
	}
	must(t, fs.Remove("/data/t-0"))
	d = openDir(t, fs, "/data")
	l, _ = openLog(t, d, small)
	fill(t, l, 1)
	must(t, d.CloseDirty())
	d = openDir(t, fs, "/data")
	l, _ = openLog(t, d, small)
	if l.EndOffset() != 1 {
		t.Errorf("end %d", l.EndOffset())
	}
}

func TestOldFormatIsRefused(t *testing.T) {
	fs := vfs.NewMem()
	must(t, fs.MkdirAll("/data/t-0"))
	// A message of version 1: offset, size, CRC of the rest, magic, attributes,
	// timestamp, null key, value "v".
	body := []byte{1, 0, 0, 0, 0, 0, 0, 0, 0, 9, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 1, 'v'}
	b := binary.BigEndian.AppendUint64(nil, 0)
	b = binary.BigEndian.AppendUint32(b, uint32(4+len(body)))
	b = binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(body))
	b = append(b, body...)
	name := "/data/t-0/00000000000000000000.log"
	must(t, writeFile(fs, name, slices.Repeat(b, 4), true))
	d := openDir(t, fs, "/data")
	_, _, err := d.OpenLog("t-0", small, noon)
	if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), "version 0 or 1") {
		t.Errorf("opened: %v", err)
	}
	if after, _ := ReadFile(fs, name); len(after) != 4*len(b) {
		t.Error("the old messages were cut")
	}
}

func TestTooLarge(t *testing.T) {
	d := openDir(t, vfs.NewMem(), "/data")
	l, _ := openLog(t, d, small)
	if _, err := l.Append(batchtest.Values(strings.Repeat("x", 1000)).Encode(), 1, noon); !errors.Is(err, ErrTooLarge) {
		t.Errorf("appended: %v", err)
	}
}

// TestRollsOnFullIndex: segments end where their index does.
func TestRollsOnFullIndex(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	cfg := small
	cfg.SegmentBytes, cfg.SegmentIndexBytes = 1<<20, 200
	l, _ := openLog(t, d, cfg)
	want := fill(t, l, 300)
	must(t, d.Close(noon))
	names, _ := fs.List("/data/t-0")
	for _, n := range names {
		info, err := fs.Stat("/data/t-0/" + n)
		must(t, err)
		if strings.HasSuffix(n, "index") && info.Size > 200 {
			t.Errorf("%s has %d bytes", n, info.Size)
		}
	}
	if len(l.segments) < 5 {
		t.Errorf("%d segments", len(l.segments))
	}
	d = openDir(t, fs, "/data")
	l, _ = openLog(t, d, cfg)
	wantBatches(t, readAll(t, l, 400), want)
}

// TestSnapshotsAreFew: rolling leaves no more snapshots than recovery may need.
func TestSnapshotsAreFew(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	for range 20 {
		fill(t, l, 20)
		flush(t, d)
		l.SetHighWatermark(l.EndOffset())
	}
	names, _ := fs.List("/data/t-0")
	snapshots := slices.DeleteFunc(names, func(n string) bool { return !strings.HasSuffix(n, ".snapshot") })
	if len(snapshots) < 2 || len(snapshots) > 5 {
		t.Errorf("snapshots %q of %d segments", snapshots, len(l.segments))
	}
}

// TestManyFiles: with few descriptors a log of many segments reads the same.
func TestManyFiles(t *testing.T) {
	d := openDir(t, vfs.NewMem(), "/data")
	d.files.limit = 2
	l, _ := openLog(t, d, small)
	want := fill(t, l, 200)
	flush(t, d)
	wantBatches(t, readAll(t, l, 300), want)
	if n := len(d.files.open); n > 2 {
		t.Errorf("%d files are open", n)
	}
}

// TestConcurrentReaders reads while another goroutine appends and flushes.
func TestConcurrentReaders(t *testing.T) {
	d := openDir(t, vfs.OS(), t.TempDir())
	cfg := small
	cfg.SegmentBytes, cfg.IndexIntervalBytes = 30_000, 60 // entries are spilled often
	l, _ := openLog(t, d, cfg)
	const n = 3000
	var wg sync.WaitGroup
	for reader := range int64(3) {
		wg.Go(func() {
			for offset := int64(0); offset < n; {
				r, err := l.Read(offset, l.EndOffset(), 100+reader*700, true)
				if err != nil {
					t.Error(err)
					return
				}
				var got bytes.Buffer
				if _, err := r.WriteTo(&got); err != nil {
					t.Error(err)
					return
				}
				batches, err := batchtest.Split(got.Bytes())
				if err != nil {
					t.Error(err)
					return
				}
				for _, b := range batches {
					h, _ := batch.DecodeHeader(b)
					if h.BaseOffset != offset {
						t.Errorf("offset %d, expected %d", h.BaseOffset, offset)
						return
					}
					offset = h.LastOffset() + 1
				}
			}
		})
	}
	for i := range n {
		if _, err := l.Append(batchtest.Values("value").Encode(), 1, noon); err != nil {
			t.Error(err)
			break
		}
		if i%100 == 0 {
			flush(t, d)
		}
	}
	wg.Wait()
	must(t, d.Close(noon))
}

func TestFailedWrites(t *testing.T) {
	boom := errors.New("boom")
	var fail func(op vfs.Op, name string) error
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, name string) error {
		if fail == nil {
			return nil
		}
		return fail(op, name)
	})
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	want := fill(t, l, 3)
	short := func(op vfs.Op, name string) error {
		if op == vfs.OpWriteAt && strings.HasSuffix(name, ".log") {
			return &vfs.ShortWrite{Bytes: 30, Err: boom}
		}
		return nil
	}
	b := batchtest.Values("value").From(5, 0, 0).Encode()

	fail = short
	_, err := l.Append(bytes.Clone(b), 2, noon)
	if e, ok := errors.AsType[*FailedError](err); !ok || e.Latched || !errors.Is(err, boom) {
		t.Fatalf("a short write: %v", err)
	}
	if info, _ := fs.Stat("/data/t-0/00000000000000000000.log"); info.Size != int64(len(bytes.Join(want, nil))) {
		t.Errorf("%d bytes are left of a short write", info.Size)
	}
	fail = nil
	appendOne(t, l, b) // neither its sequence nor the epoch was taken note of
	want = append(want, b)
	if l.EpochAt(l.EndOffset()-1) != 1 {
		t.Errorf("the epoch of a failed write stayed")
	}
	wantBatches(t, readAll(t, l, 1000), want)

	fail = func(op vfs.Op, name string) error {
		if op == vfs.OpTruncate {
			return boom
		}
		return short(op, name)
	}
	for range 2 {
		_, err = l.Append(batchtest.Values("value").Encode(), 1, noon)
		if e, ok := errors.AsType[*FailedError](err); !ok || !e.Latched {
			t.Errorf("a short write that could not be cut: %v", err)
		}
		fail = nil
	}
	wantBatches(t, readAll(t, l, 1000), want)
	if d.BeginFlush() != nil {
		t.Error("a failed directory is flushed")
	}
	if err := d.Close(noon); err == nil {
		t.Error("a failed directory was closed cleanly")
	}
}

// TestFailedRoll: nothing changes while the next segment cannot be made, and
// the log goes on when it can.
func TestFailedRoll(t *testing.T) {
	boom := errors.New("disk full")
	for _, op := range []vfs.Op{vfs.OpCreate, vfs.OpWriteAt} {
		for _, suffix := range []string{".log", ".index", ".timeindex", ".snapshot"} {
			failing := false
			mem := vfs.NewMem()
			fs := vfs.NewFaulty(mem, func(o vfs.Op, name string) error {
				if failing && o == op && strings.HasSuffix(name, suffix) {
					return boom
				}
				return nil
			})
			d := openDir(t, fs, "/data")
			l, _ := openLog(t, d, small)
			want := fill(t, l, 10)
			failing = true
			for range 12 {
				b := batchtest.Values("value").Encode()
				if _, err := l.Append(b, 1, noon); err == nil {
					want = append(want, b)
				} else if !errors.Is(err, boom) {
					t.Fatal(err)
				}
			}
			failing = false
			want = append(want, fill(t, l, 30)...)
			wantBatches(t, readAll(t, l, 500), want)
			flush(t, d)
			must(t, d.CloseDirty())
			d = openDir(t, mem, "/data")
			l, _ = openLog(t, d, small)
			wantBatches(t, readAll(t, l, 500), want)
		}
	}
}

// TestFailedSyncOutsideARound is as final as one in a round.
func TestFailedSyncOutsideARound(t *testing.T) {
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, name string) error {
		if op == vfs.OpSyncDir && strings.HasSuffix(name, "t-0") {
			return errors.New("boom")
		}
		return nil
	})
	l, _ := openLog(t, openDir(t, fs, "/data"), small)
	for range 100 {
		_, err := l.Append(batchtest.Values("value").Encode(), 1, noon)
		if e, ok := errors.AsType[*FailedError](err); ok && e.Latched {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
	t.Error("a second segment was made after its directory could not be synced")
}

func TestFailedFlush(t *testing.T) {
	d := openDir(t, vfs.NewMem(), "/data")
	l, _ := openLog(t, d, small)
	fill(t, l, 3)
	r := d.BeginFlush()
	if got := r.Done(time.Millisecond, errors.New("boom")); got != nil {
		t.Errorf("flushed %v", got)
	}
	if l.FlushedOffset() != 0 {
		t.Errorf("flushed to %d", l.FlushedOffset())
	}
	_, err := l.Append(batchtest.Values("v").Encode(), 1, noon)
	if e, ok := errors.AsType[*FailedError](err); !ok || !e.Latched {
		t.Errorf("append after a failed flush: %v", err)
	}
	if err := d.Checkpoint(); err == nil {
		t.Error("checkpoint after a failed flush")
	}
}

// TestFlushOS: rounds sync the sealed segments of such a log, and all of it
// once it is not one any more.
func TestFlushOS(t *testing.T) {
	d := openDir(t, vfs.NewMem(), "/data")
	cfg := small
	cfg.FlushOS = true
	l, _ := openLog(t, d, cfg)
	fill(t, l, 3)
	if d.BeginFlush() != nil {
		t.Error("the active segment is flushed")
	}
	fill(t, l, 30)
	flush(t, d)
	if l.FlushedOffset() != l.active().base {
		t.Errorf("flushed to %d, sealed to %d", l.FlushedOffset(), l.active().base)
	}
	l.SetConfig(small)
	flush(t, d)
	if l.FlushedOffset() != l.EndOffset() {
		t.Errorf("flushed to %d of %d", l.FlushedOffset(), l.EndOffset())
	}
}

// TestRoundCoversNames: the first round of new logs syncs their names too.
func TestRoundCoversNames(t *testing.T) {
	var synced []string
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, name string) error {
		if op == vfs.OpSync || op == vfs.OpSyncDir || op == vfs.OpSyncAll {
			synced = append(synced, op.String()+" "+name)
		}
		return nil
	})
	d := openDir(t, fs, "/data")
	var logs []*Log
	for i := range 4 {
		l, _, err := d.OpenLog(fmt.Sprint("t-", i), small, noon)
		must(t, err)
		logs = append(logs, l)
	}
	d.cost = syncCost{each: 1, all: 100}
	synced = nil
	fill(t, logs[0], 1)
	flush(t, d)
	want := []string{
		"syncdir /data", "syncdir /data/t-0", "sync /data/t-0/leader-epoch-checkpoint", "sync /data/t-0/00000000000000000000.log",
	}
	if !slices.Equal(synced, want) {
		t.Errorf("first round: %q", synced)
	}
	synced = nil
	fill(t, logs[0], 1)
	flush(t, d)
	if !slices.Equal(synced, want[3:]) {
		t.Errorf("second round: %q", synced)
	}
	d.cost = syncCost{}
	synced = nil
	for _, l := range logs {
		fill(t, l, 1)
	}
	flush(t, d)
	if !slices.Equal(synced, []string{"syncall /data"}) {
		t.Errorf("a round of many: %q", synced)
	}
}

func TestSyncCost(t *testing.T) {
	var c syncCost
	for n, want := range map[int]bool{1: false, 3: false, 4: true, 100: true} {
		if c.useAll(n) != want {
			t.Errorf("%d files unmeasured: %v", n, !want)
		}
	}
	c = syncCost{each: 0.001, all: 0.008}
	for n, want := range map[int]bool{1: false, 8: false, 9: true} {
		if c.useAll(n) != want {
			t.Errorf("%d files at a ratio of 8: %v", n, !want)
		}
	}
	other := 0
	for range 1000 {
		if c.useAll(5) {
			other++
		}
	}
	if other < 10 || other > 20 {
		t.Errorf("the dearer way was taken %d times of 1000", other)
	}
	for range 50 {
		c.observe(10, true, time.Millisecond)
		c.observe(10, false, 10*time.Millisecond)
	}
	if !c.useAll(3) {
		t.Error("a cheap syncfs is not preferred")
	}
}

func TestCheckpointOnlyWhenMoved(t *testing.T) {
	writes := 0
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, name string) error {
		if op == vfs.OpRename && strings.Contains(name, recoveryPointsName) {
			writes++
		}
		return nil
	})
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	fill(t, l, 3)
	must(t, d.Checkpoint())
	flush(t, d)
	must(t, d.Checkpoint())
	must(t, d.Checkpoint())
	if writes != 1 {
		t.Errorf("%d checkpoints written", writes)
	}
}

// TestScanStartsAtTheRecoveryPoint: what is known to be durable is not read again.
func TestScanStartsAtTheRecoveryPoint(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	cfg := small
	cfg.SegmentBytes = 1 << 20
	l, _ := openLog(t, d, cfg)
	fill(t, l, 500)
	flush(t, d)
	must(t, d.Checkpoint())
	tail := fill(t, l, 5)
	must(t, d.CloseDirty())
	d = openDir(t, fs, "/data")
	l, rec := openLog(t, d, cfg)
	if d.Clean() || rec.ScannedBytes != int64(len(bytes.Join(tail, nil))) {
		t.Errorf("clean %v, %+v, 5 batches have %d bytes", d.Clean(), rec, len(bytes.Join(tail, nil)))
	}
	if l.FlushedOffset() != l.EndOffset() {
		t.Errorf("flushed to %d of %d", l.FlushedOffset(), l.EndOffset())
	}
	if _, err := fs.Stat("/data/.kafka_cleanshutdown"); !errors.Is(err, iofs.ErrNotExist) {
		t.Errorf("clean marker: %v", err)
	}
}
