package storage

import (
	"errors"
	"fmt"
	"slices"
	"syscall"
	"testing"

	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

func TestFreeGuard(t *testing.T) {
	mem, measured := vfs.NewMem(), 0
	fs := vfs.NewFaulty(mem, func(op vfs.Op, name string) error {
		if op == vfs.OpSpace {
			measured++
		}
		return nil
	})
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	b := batchtest.Values("value").From(5, 0, 0).Encode()
	size := int64(len(b))
	mem.SetFree(1000 + 3*size)
	if s, err := d.FreeGuard(-1); s.Reserved != defaultReserve || err != nil {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := d.FreeGuard(1000); s.Free != 1000+3*size || s.Reserved != 1000 || err != nil {
		t.Errorf("%+v, %v", s, err)
	}
	full := func(err error) bool {
		failed, ok := errors.AsType[*FailedError](err)
		return ok && !failed.Latched && errors.Is(err, ErrDiskFull)
	}
	for i := range int32(3) {
		appendOne(t, l, batchtest.Values("value").From(5, 0, i).Encode())
	}
	if measured != 2 {
		t.Errorf("measured %d times", measured)
	}
	mem.SetFree(1000)
	for range 3 {
		if _, err := l.Append(batchtest.Values("value").From(5, 0, 3).Encode(), 1, noon); !full(err) {
			t.Errorf("append to a full disk: %v", err)
		}
	}
	if a, err := l.Append(slices.Clone(b), 1, noon); err != nil || !a.Duplicate {
		t.Errorf("a repeated batch on a full disk: %+v, %v", a, err)
	}
	flush(t, d) // what makes room, or takes none, goes on
	must(t, d.Checkpoint())
	must(t, l.AdvanceStart(2, noon))
	mem.SetFree(1000 + size)
	appendOne(t, l, batchtest.Values("value").From(5, 0, 3).Encode())
	appendOne(t, l, batchtest.Values("value").From(5, 0, 4).Encode()) // others made room meanwhile
	if _, err := d.FreeGuard(0); err != nil {
		t.Error(err)
	}
	mem.SetFree(0)
	appendOne(t, l, batchtest.Values("value").From(5, 0, 5).Encode())
}

// TestFullAtEveryCall has the disk full at each call in turn that could need
// room, for a few calls. Nothing that was acknowledged is lost, nothing latches,
// and everything works once there is room.
func TestFullAtEveryCall(t *testing.T) {
	var refused, calls int
	for at := 1; ; at++ {
		mem, n := vfs.NewMem(), 0
		active := true
		fs := vfs.NewFaulty(mem, func(op vfs.Op, name string) error {
			switch op {
			case vfs.OpCreate, vfs.OpMkdir, vfs.OpWriteAt, vfs.OpRename:
			default:
				return nil
			}
			if n++; !active || n < at || n >= at+1+at%3 {
				return nil
			}
			if op == vfs.OpWriteAt {
				return &vfs.ShortWrite{Bytes: 7, Err: syscall.ENOSPC}
			}
			return syscall.ENOSPC
		})
		active = false
		d := openDir(t, fs, "/data")
		l, _ := openLog(t, d, withTopic(small, 1))
		other, _, err := d.OpenLog("u-0", withTopic(small, 2), noon)
		must(t, err)
		active, n = true, 0
		retry := func(what string, do func() error) {
			t.Helper()
			for range 5 {
				err := do()
				if err == nil {
					return
				}
				refused++
				if failed, ok := errors.AsType[*FailedError](err); !ok || failed.Latched || !errors.Is(err, ErrDiskFull) {
					t.Fatalf("call %d, %s: %v", at, what, err)
				}
			}
			t.Fatalf("call %d: %s never succeeds", at, what)
		}
		var all [][]byte
		write := func(l *Log, epoch int32, value string) {
			t.Helper()
			retry("append", func() error {
				b := batchtest.Values(value).From(5, 0, int32(l.EndOffset())).Encode()
				_, err := l.Append(b, epoch, noon)
				if err == nil && l.name == "t-0" {
					all = append(all, b)
				}
				return err
			})
		}
		for i := range 40 {
			write(l, int32(i/15), fmt.Sprintf("%090d", i))
		}
		write(other, 0, "value")
		flush(t, d)
		retry("checkpoint", d.Checkpoint)
		retry("start", func() error { return l.AdvanceStart(12, noon) })
		retry("retention", func() error { _, err := l.Retain(noon, RetentionConfig{3000, -1}, 40); return err })
		retry("delete", func() error { return d.DeleteLogs(noon, "u-0") })
		_, err = d.Sweep(noon)
		must(t, err)
		write(l, 9, "the last")
		flush(t, d)
		if d.Failed() != nil {
			t.Fatalf("call %d: %v", at, d.Failed())
		}
		start := l.StartOffset()
		wantBatches(t, readAll(t, l, 500), all[start:])
		must(t, d.CloseDirty())
		d = openDir(t, mem, "/data")
		l, rec := openLog(t, d, withTopic(small, 1))
		if l.StartOffset() != start || rec.SetAside != "" {
			t.Fatalf("call %d: reopened, begins at %d, not %d, %+v", at, l.StartOffset(), start, rec)
		}
		wantBatches(t, readAll(t, l, 500), all[start:])
		verify(t, mem, "/data", Note) // a checkpoint may know the deleted log
		if calls = n; at > n {
			break
		}
	}
	if refused < calls {
		t.Errorf("%d refusals in %d calls", refused, calls)
	}
	t.Logf("%d calls", calls)
}
