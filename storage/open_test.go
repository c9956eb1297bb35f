package storage

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// TestCleanStartReadsLittle: after an orderly stop a log is opened with a few
// small reads, however large it is, and nothing is written or synced.
func TestCleanStartReadsLittle(t *testing.T) {
	mem := vfs.NewMem()
	calls := make(map[vfs.Op]int)
	fs := vfs.NewFaulty(mem, func(op vfs.Op, name string) error {
		if strings.Contains(name, "t-0") {
			calls[op]++
		}
		return nil
	})
	cfg := usual
	cfg.SegmentBytes, cfg.IndexIntervalBytes = 4<<20, 1000
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, cfg)
	for i := range int64(5000) {
		appendOne(t, l, batchtest.Values(strings.Repeat("v", 1000)).At(i).Encode())
	}
	must(t, d.Close(noon))
	d = openDir(t, fs, "/data")
	clear(calls)
	_, rec := openLog(t, d, cfg)
	if rec.Segments != 2 || rec.ScannedBytes != 0 {
		t.Errorf("%+v", rec)
	}
	// The end of the offset index, its batch, the last time entry and its batch,
	// what follows the indexed batch, the epochs, the producers.
	if n := calls[vfs.OpReadAt]; n > 8 {
		t.Errorf("%d reads", n)
	}
	for _, op := range []vfs.Op{vfs.OpWriteAt, vfs.OpCreate, vfs.OpRename, vfs.OpRemove, vfs.OpTruncate, vfs.OpSync, vfs.OpSyncDir, vfs.OpSyncAll} {
		if calls[op] > 0 {
			t.Errorf("%d calls of %s", calls[op], op)
		}
	}
	t.Log(calls)
}

// A log that could not be opened still has its files, and is opened with them once it can be. A new one has none, and
// they are not looked for.
func TestOpenedAgain(t *testing.T) {
	mem := vfs.NewMem()
	calls, broken := 0, false
	fs := vfs.NewFaulty(mem, func(op vfs.Op, name string) error {
		calls++
		if broken && op == vfs.OpOpen && strings.Contains(name, "t-0") {
			return errors.New("not now")
		}
		return nil
	})
	d := openDir(t, fs, "/data")
	l, _, err := d.OpenLog("t-0", small, noon)
	must(t, err)
	fill(t, l, 3)
	end := l.EndOffset()
	must(t, d.Close(noon))
	d = openDir(t, fs, "/data")
	broken = true
	if _, _, err := d.OpenLog("t-0", small, noon); err == nil {
		t.Fatal("opened though its files could not be")
	}
	if done, _ := d.Recovery(); done != 0 {
		t.Error("what could not be opened counts as open")
	}
	broken, calls = false, 0
	if _, _, err = d.OpenLog("new-0", small, noon); err != nil || calls > 0 {
		t.Errorf("a new log: %d calls, %v", calls, err)
	}
	l, _, err = d.OpenLog("t-0", small, noon)
	must(t, err)
	if l.EndOffset() != end || end == 0 {
		t.Errorf("the log ends at %d, it was written to %d", l.EndOffset(), end)
	}
}

// A directory that somebody puts where a new log is to have its own is not taken
// for the log's: it is neither written into nor removed with the log. The next
// start looks whose it is.
func TestDirectoryPutThereMeanwhile(t *testing.T) {
	own := withTopic(small, 1)
	for name, c := range map[string]struct {
		of  LogConfig
		end int64 // of the log after a restart
	}{"another topic's": {withTopic(small, 2), 0}, "nobody's": {small, 0}, "the topic's": {own, 9}} {
		elsewhere := vfs.NewMem()
		old, _ := openLog(t, openDir(t, elsewhere, "/data"), c.of)
		fill(t, old, 5)
		put := func() (*vfs.Mem, *Dir, *Log) {
			fs := vfs.NewMem()
			d := openDir(t, fs, "/data")
			l, _ := openLog(t, d, own)
			copyTo(t, elsewhere, "/data/t-0", fs)
			for range 2 {
				_, err := l.Append(batchtest.Values("new").Encode(), 1, noon)
				if failed, ok := errors.AsType[*FailedError](err); !ok || failed.Latched || !strings.Contains(err.Error(), "/data/t-0 was put there") {
					t.Errorf("%s: an append: %v", name, err)
				}
			}
			return fs, d, l
		}
		there := func(fs *vfs.Mem, dir string) {
			t.Helper()
			if got, want := filesIn(t, fs, dir), filesIn(t, elsewhere, "/data/t-0"); !maps.Equal(got, want) {
				t.Errorf("%s: %s has %q, not %q", name, dir, got, want)
			}
		}

		fs, _, l := put() // it is moved away
		there(fs, "/data/t-0")
		must(t, fs.Rename("/data/t-0", "/data/mine"))
		fill(t, l, 1)
		there(fs, "/data/mine")

		fs, d, _ := put() // the topic is deleted
		must(t, d.DeleteLogs(noon, "t-0"))
		_, err := d.Sweep(noon.Add(time.Hour))
		must(t, err)
		there(fs, "/data/t-0")

		fs, d, _ = put() // the broker is started anew
		must(t, d.Close(noon))
		l, rec := openLog(t, openDir(t, fs, "/data"), own)
		if (rec.SetAside == "") != (c.end > 0) || l.EndOffset() != c.end {
			t.Errorf("%s: %+v, the log ends at %d", name, rec, l.EndOffset())
		}
		if rec.SetAside != "" {
			there(fs, "/data/"+rec.SetAside)
		}
		fill(t, l, 1)
		if got := l.EndOffset(); got != c.end+1 {
			t.Errorf("%s: the log ends at %d", name, got)
		}
	}
}

// filesIn is the content of the files in a directory, by name.
func filesIn(t *testing.T, fs vfs.FS, dir string) map[string]string {
	t.Helper()
	names, err := fs.List(dir)
	must(t, err)
	files := make(map[string]string)
	for _, name := range names {
		b, err := ReadFile(fs, dir+"/"+name)
		must(t, err)
		files[name] = string(b)
	}
	return files
}

func TestRecoveryProgress(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	for i := range 4 {
		l, _, err := d.OpenLog(fmt.Sprint("t-", i), small, noon)
		must(t, err)
		fill(t, l, 1)
	}
	if done, total := d.Recovery(); done != 0 || total != 0 {
		t.Errorf("of a new directory: %d of %d", done, total)
	}
	must(t, d.Close(noon))
	d = openDir(t, fs, "/data")
	for i, step := range []func() error{
		func() error { return nil },
		func() error { _, _, err := d.OpenLog("t-1", small, noon); return err },
		func() error { _, err := d.SetAside("t-0"); return err },
		func() error { return d.DeleteLogs(noon, "t-2") },
		func() error { _, _, err := d.OpenLog("t-3", small, noon); return err },
	} {
		must(t, step())
		if done, total := d.Recovery(); done != i || total != 4 {
			t.Errorf("%d of %d are done, want %d of 4", done, total, i)
		}
	}
	if _, _, err := d.OpenLog("new-0", small, noon); err != nil {
		t.Error(err)
	}
	if done, total := d.Recovery(); done != 4 || total != 4 {
		t.Errorf("%d of %d", done, total)
	}
}
