package storage

import (
	"bytes"
	"fmt"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/streambus/streambus/storage/vfs"
)

// answers is all that a log can be asked.
func answers(t testing.TB, l *Log) string {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%d to %d\n%x\n", l.StartOffset(), l.EndOffset(), readAll(t, l, 700))
	for offset := l.StartOffset(); offset < l.EndOffset(); offset++ {
		r, err := l.Read(offset, math.MaxInt64, 1, true)
		must(t, err)
		fmt.Fprintln(&b, r.seg.base, r.pos, r.n, l.EpochAt(offset))
	}
	for ts := int64(1000); ts < 1110; ts++ {
		found, ok, err := l.OffsetForTime(ts, l.EndOffset())
		fmt.Fprintln(&b, found, ok, err)
	}
	found, ok, err := l.MaxTimestamp(l.EndOffset())
	fmt.Fprintln(&b, found, ok, err, describe(l.producers))
	return b.String()
}

// TestFlipsInWhatIsMadeAnew flips bits of all files that can be derived from the
// segments. Every answer is right nevertheless, and what was damaged is told.
func TestFlipsInWhatIsMadeAnew(t *testing.T) {
	fs := lived(t)
	open := func(fs vfs.FS) (*Dir, *Log, Recovery) {
		d := openDir(t, fs, "/data")
		l, rec := openLog(t, d, withTopic(small, 1))
		return d, l, rec
	}
	copied := func() *vfs.Mem {
		disk := vfs.NewMem()
		copyTo(t, fs, "/data", disk)
		return disk
	}
	_, l, _ := open(copied())
	want := answers(t, l)
	names, err := fs.List("/data/t-0")
	must(t, err)
	states, told := map[string]int{}, map[string]int{}
	for _, name := range names {
		ext := filepath.Ext(name)
		if ext == ".log" || name == metadataName || ext == ".snapshot" && name != "00000000000000000080.snapshot" {
			continue // of the snapshots the newest is read, unless that is damaged
		}
		file := filepath.Join("/data/t-0", name)
		whole, err := ReadFile(fs, file)
		must(t, err)
		for bit := len(name) % 5; bit < len(whole)*8; bit += (5 + len(whole)/100) * oneOf {
			b := bytes.Clone(whole)
			b[bit/8] ^= 1 << (bit % 8)
			if _, err := decodeEpochs(b); name == epochsName && err == nil {
				continue // another history is a history: Kafka's file has no checksum, and only Verify finds it
			}
			disk := copied()
			must(t, writeFile(disk, file, b, true))
			d, l, rec := open(disk)
			if got := answers(t, l); got != want {
				t.Fatalf("byte %d bit %d of %s: wrong answers", bit/8, bit%8, name)
			}
			states[ext]++
			if d.IndexRebuilds() > 0 || len(rec.Damaged) > 0 && strings.Contains(rec.Damaged[0].Error(), file) {
				told[ext]++
			}
			must(t, d.Close(noon))
			if ext != ".index" && ext != ".timeindex" { // of these, not every entry was asked for
				verify(t, disk, "/data")
			}
		}
	}
	t.Logf("states %v, told %v", states, told)
	if told[""] != states[""] || told[".snapshot"] != states[".snapshot"] || told[".index"] == 0 || told[".timeindex"] == 0 {
		t.Error("damage was made good and not told")
	}
}
