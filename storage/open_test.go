package storage

import (
	"errors"
	"fmt"
	"strings"
	"testing"

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
