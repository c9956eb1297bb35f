package storage

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// compacted writes a log by hand, as a cleaner leaves it: of each segment's
// batches some are gone, and of some the records. It returns what is left.
func compacted(t testing.TB, fs vfs.FS, dir string, epoch int32, segments ...[]int64) [][]byte {
	t.Helper()
	must(t, fs.MkdirAll(dir))
	var all [][]byte
	for i, offsets := range segments {
		var content []byte
		for _, at := range offsets {
			b := batchtest.Values("a", "b", "c").At(1000 + at).Encode()
			batch.Stamp(b, at, epoch)
			if at%2 == 0 { // only the first record is left, and the batch reaches as far as before
				short := batchtest.Values("a").At(1000 + at).Encode()
				binary.BigEndian.PutUint32(short[23:], 2)
				binary.BigEndian.PutUint32(short[17:], crc32.Checksum(short[21:], castagnoli))
				batch.Stamp(short, at, epoch)
				b = short
			}
			content = append(content, b...)
			all = append(all, b)
		}
		base := offsets[0]
		if i == 0 {
			base = 0
		}
		must(t, writeFile(fs, fileKey{&Log{d: &Dir{path: filepath.Dir(dir)}, name: filepath.Base(dir)}, base, logFile, 0}.path(), content, true))
	}
	return all
}

// readGaps reads a log from its start, whatever is missing in between.
func readGaps(t testing.TB, l *Log) [][]byte {
	t.Helper()
	var all [][]byte
	for offset := l.StartOffset(); offset < l.EndOffset(); {
		r, err := l.Read(offset, math.MaxInt64, 100, true)
		must(t, err)
		b, err := r.Bytes()
		must(t, err)
		batches, err := batchtest.Split(b)
		must(t, err)
		if len(batches) == 0 {
			t.Fatalf("nothing at offset %d of %d", offset, l.EndOffset())
		}
		for _, b := range batches {
			h, _ := batch.DecodeHeader(b)
			offset = h.LastOffset() + 1
		}
		all = append(all, batches...)
	}
	return all
}

// TestGapsOfCompaction: what compaction has left is no damage, whether it is known
// to be durable or not, and above what was compacted a gap is a loss.
func TestGapsOfCompaction(t *testing.T) {
	for name, c := range map[string]struct {
		points, cleaned logOffsets
		batches         int
		worst           Severity
	}{
		"durable":             {logOffsets{"t-0": 63}, logOffsets{"t-0": 63}, 6, Stale},
		"not durable":         {logOffsets{}, logOffsets{"t-0": 63}, 6, Note},
		"cleaned to the last": {logOffsets{}, logOffsets{"t-0": 60}, 6, Note},
		"cleaned to a gap":    {logOffsets{}, logOffsets{"t-0": 24}, 4, Note},
		"never cleaned":       {logOffsets{}, logOffsets{}, 0, Note},
		"a loss":              {logOffsets{"t-0": 63}, logOffsets{}, -1, Damage},
	} {
		fs := vfs.NewMem()
		want := compacted(t, fs, "/data/t-0", 0, []int64{4, 9}, []int64{20, 23}, []int64{41, 60})
		must(t, writeFile(fs, "/data/"+recoveryPointsName, c.points.encode(), true))
		must(t, writeFile(fs, "/data/"+cleanedName, c.cleaned.encode(), true))
		v, err := Verify(fs, "/data")
		must(t, err)
		if worst := v.Worst(); worst != c.worst && (worst == Damage || c.worst == Damage) {
			t.Errorf("%s: %v", name, v.Findings)
		}
		d := openDir(t, fs, "/data")
		l, _ := openLog(t, d, small)
		if c.batches < 0 {
			if _, err := l.Read(12, math.MaxInt64, 100, true); !IsDamage(err) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		got := readGaps(t, l)
		if len(got) != c.batches {
			t.Errorf("%s: %d batches, want %d", name, len(got), c.batches)
		}
		wantBatches(t, got, want[:min(len(got), len(want))])
		must(t, d.Close(noon))
	}
}

// TestDeletedLogForgetsGaps: a log of the same name that comes after has none.
func TestDeletedLogForgetsGaps(t *testing.T) {
	fs := vfs.NewMem()
	compacted(t, fs, "/data/t-0", 0, []int64{4, 9})
	must(t, writeFile(fs, "/data/"+cleanedName, logOffsets{"t-0": 12, "u-0": 7}.encode(), true))
	d := openDir(t, fs, "/data")
	openLog(t, d, small)
	must(t, d.DeleteLogs(noon, "t-0"))
	must(t, d.Close(noon))
	left, err := ReadLogOffsets(fs, "/data/"+cleanedName)
	must(t, err)
	if len(left) != 1 || left["u-0"] != 7 {
		t.Error(left)
	}
}

// source is a directory of Kafka's, with a compacted log of leader epoch 7.
func source(t testing.TB) (vfs.FS, [][]byte) {
	fs := vfs.NewMem()
	want := compacted(t, fs, "/kafka/t-0", 7, []int64{4, 9}, []int64{20, 23})
	must(t, writeFile(fs, "/kafka/"+recoveryPointsName, logOffsets{"t-0": 20}.encode(), true))
	must(t, writeFile(fs, "/kafka/"+startsName, logOffsets{"t-0": 9}.encode(), true))
	must(t, writeFile(fs, "/kafka/"+cleanedName, logOffsets{"t-0": 23}.encode(), true))
	return fs, want
}

func adoptAll(t testing.TB, fs vfs.FS) (*Dir, LogSummary, error) {
	t.Helper()
	s, err := OpenSource(fs, "/kafka")
	must(t, err)
	d := openDir(t, fs, "/data")
	summary, err := d.Adopt(s, "t-0", topic(1), noon)
	return d, summary, err
}

func TestAdopt(t *testing.T) {
	fs, want := source(t)
	d, s, err := adoptAll(t, fs)
	must(t, err)
	if s.Start != 9 || s.End != 26 || s.Segments != 2 || s.Batches != 4 {
		t.Errorf("%+v", s)
	}
	must(t, d.Close(noon))
	verify(t, fs, "/data")

	d = openDir(t, fs, "/data")
	l, rec, err := d.OpenLog("t-0", withTopic(small, 1), noon)
	must(t, err)
	if rec.SetAside != "" || rec.ScannedBytes > 0 || l.StartOffset() != 9 || l.EndOffset() != 26 {
		t.Errorf("%+v, %d to %d", rec, l.StartOffset(), l.EndOffset())
	}
	for _, b := range want {
		h, _ := batch.DecodeHeader(b)
		batch.Stamp(b, h.BaseOffset, 0)
	}
	wantBatches(t, readGaps(t, l), want[1:])
	// A leader of the first epoch there is goes on.
	appendOne(t, l, batchtest.Values("next").Encode())
	if _, _, err := adoptAgain(fs, d); err == nil || !strings.Contains(err.Error(), "is there already") {
		t.Error(err)
	}
	must(t, d.Close(noon))
	verify(t, fs, "/data")
}

func adoptAgain(fs vfs.FS, d *Dir) (*Dir, LogSummary, error) {
	s, err := OpenSource(fs, "/kafka")
	if err != nil {
		return d, LogSummary{}, err
	}
	summary, err := d.Adopt(s, "t-0", topic(1), noon)
	return d, summary, err
}

// TestAdoptRefuses: what is not whole is named, and not the topic's.
func TestAdoptRefuses(t *testing.T) {
	last := "/kafka/t-0/00000000000000000020.log"
	first := "/kafka/t-0/00000000000000000000.log"
	flip := func(fs vfs.FS, name string) error {
		b, err := ReadFile(fs, name)
		b[len(b)-1] ^= 1
		return errors.Join(err, writeFile(fs, name, b, true))
	}
	for name, c := range map[string]struct {
		damage func(fs vfs.FS) error
		want   string // "" if it is adopted
		end    int64
	}{
		"a torn end":    {func(fs vfs.FS) error { return cutFile(fs, last, 3) }, "", 23},
		"a changed end": {func(fs vfs.FS) error { return flip(fs, last) }, "", 23},
		"a torn clean end": {func(fs vfs.FS) error {
			must(t, cutFile(fs, last, 3))
			return writeFile(fs, "/kafka/"+cleanName, nil, true)
		}, last, 0},
		"a torn middle":     {func(fs vfs.FS) error { return cutFile(fs, first, 3) }, first, 0},
		"a lost segment":    {func(fs vfs.FS) error { return fs.Remove(last) }, "", 12},
		"a gap not cleaned": {func(fs vfs.FS) error { return fs.Remove("/kafka/" + cleanedName) }, "expected 0", 0},
		"a lost durable end": {func(fs vfs.FS) error {
			return writeFile(fs, "/kafka/"+recoveryPointsName, logOffsets{"t-0": 27}.encode(), true)
		}, "was durable to 27", 0},
		"old messages": {func(fs vfs.FS) error { return writeFile(fs, last, oldMessage(), true) }, last + " has messages of version 0 or 1", 0},
	} {
		fs, _ := source(t)
		must(t, c.damage(fs))
		if c.want == "" {
			must(t, writeFile(fs, "/kafka/"+recoveryPointsName, logOffsets{"t-0": c.end}.encode(), true))
		}
		d, s, err := adoptAll(t, fs)
		if c.want == "" {
			if err != nil || s.End != c.end {
				t.Errorf("%s: %+v, %v", name, s, err)
			}
		} else if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		} else if names, _ := fs.List("/data/t-0"); slices.Contains(names, metadataName) {
			t.Errorf("%s: the topic has the directory", name)
		}
		must(t, d.Close(noon))
	}
}

// oldMessage is a message of version 1.
func oldMessage() []byte {
	be := binary.BigEndian
	body := be.AppendUint64([]byte{1, 0}, 1000)
	body = append(be.AppendUint32(be.AppendUint32(body, ^uint32(0)), 1), 'v')
	b := be.AppendUint32(be.AppendUint64(nil, 0), uint32(4+len(body)))
	return append(be.AppendUint32(b, crc32.ChecksumIEEE(body)), body...)
}
