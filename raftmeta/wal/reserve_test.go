package wal_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/streambus/streambus/raftmeta/wal"
)

const smallReserve = 2 << 20

// smallDisk is a disk of its own, on which a log has a reserve.
func smallDisk(t *testing.T, size string) (dir string, l wal.Log) {
	t.Helper()
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("SKIPPED, nothing is known about full disks: mounting needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	dir = filepath.Join(disk, "raft")
	l = openBolt(t, dir)
	wal.SetReserve(l, smallReserve)
	return dir, l
}

// fill takes what is left of a disk, to the last byte.
func fill(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "fill"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	must(t, err)
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

func hasReserve(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "reserve"))
	return err == nil
}

// A log on a full disk goes on once, is whole, and has its reserve again when there is room.
func TestFullDiskTakesTheReserve(t *testing.T) {
	for _, big := range []int{100, 20_000} { // within the file as it is, and beyond its end
		t.Run(fmt.Sprint(big), func(t *testing.T) {
			dir, l := smallDisk(t, "16m")
			form(t, l)
			n, err := l.Reserve()
			must(t, err)
			if info, err := os.Stat(filepath.Join(dir, "reserve")); err != nil || n != smallReserve || info.Size() != n || info.Sys().(*syscall.Stat_t).Blocks*512 < n {
				t.Fatalf("a reserve of %d bytes: %v, %v", n, info, err)
			}
			must(t, l.Save(write(hard(2, 1), entries(2, 2, 50), true)))
			fill(t, dir)
			at := uint64(51)
			for hasReserve(dir) { // until the free pages of the file are used up
				must(t, l.Save(write(hard(2, at-1), entries(2, at, at+uint64(big)/50), true)))
				at += uint64(big)/50 + 1
			}
			if s := load(t, l); uint64(len(s.Entries)) != at-2 || s.HardState.GetCommit() < 50 {
				t.Fatalf("%d entries, commit %d, after %d", len(s.Entries), s.HardState.GetCommit(), at-1)
			}
			must(t, l.Save(write(nil, entries(2, at, at), true)))
			if n, err := l.Reserve(); n != 0 || err == nil || !strings.Contains(err.Error(), "make room") {
				t.Fatalf("a reserve of %d bytes on a full disk: %v", n, err)
			}
			must(t, os.Remove(filepath.Join(dir, "fill")))
			if n, err := l.Reserve(); n != smallReserve || err != nil {
				t.Fatalf("with room again: %d, %v", n, err)
			}
			fill(t, dir)
			for more := uint64(1); hasReserve(dir); more++ { // it serves again
				must(t, l.Save(write(nil, entries(2, at+more, at+more), true)))
			}
			before := describe(load(t, l))
			must(t, l.Close())
			if after := describe(load(t, openBolt(t, dir))); after != before {
				t.Fatalf("opened again it holds\n  %.200s, was\n  %.200s", after, before)
			}
		})
	}
}

// Who meets a full disk after the reserve is gone gets the error, and what was saved before is there.
func TestFullDiskTwice(t *testing.T) {
	dir, l := smallDisk(t, "16m")
	form(t, l)
	_, err := l.Reserve()
	must(t, err)
	fill(t, dir)
	at := uint64(2)
	for err == nil {
		if err = l.Save(write(nil, entries(2, at, at+20), true)); err == nil {
			at += 21
		}
		if !hasReserve(dir) {
			fill(t, dir)
		}
	}
	if !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "log.db") {
		t.Fatal(err)
	}
	must(t, os.Remove(filepath.Join(dir, "fill")))
	if again := l.Save(write(nil, entries(2, at, at), true)); again != err {
		t.Errorf("after a failed Save the next one gives %v", again)
	}
	l.Close()
	if s := load(t, openBolt(t, dir)); uint64(len(s.Entries)) != at-2 {
		t.Errorf("%d entries of %d", len(s.Entries), at-2)
	}
}

// Snapshots take the reserve too, and two writers at once go on with one.
func TestSnapshotOnAFullDisk(t *testing.T) {
	dir, l := smallDisk(t, "16m")
	form(t, l)
	must(t, l.Save(write(hard(2, 1), entries(2, 2, 2_000), true)))
	_, err := l.Reserve()
	must(t, err)
	fill(t, dir)
	large := snapshot(1_500, 2)
	large.Data = make([]byte, 256<<10)
	var wait sync.WaitGroup
	wait.Go(func() {
		if err := l.SaveSnapshot(large); err != nil {
			t.Error(err)
		}
	})
	for at := uint64(2_001); at < 4_000; at += 100 {
		must(t, l.Save(write(nil, entries(2, at, at+99), true)))
	}
	wait.Wait()
	must(t, l.Compact(1_400))
	if hasReserve(dir) {
		t.Error("the disk was not full")
	}
	must(t, l.Close())
	if s := load(t, openBolt(t, dir)); s.Snapshot.GetMetadata().GetIndex() != 1_500 || len(s.Entries) != 2_600 {
		t.Errorf("snapshot %d, %d entries", s.Snapshot.GetMetadata().GetIndex(), len(s.Entries))
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*.tmp")); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
}

// On a disk with little room there is no reserve, and why is said. One that is there is found again, and one that is not
// whole is made anew.
func TestReserveOfASmallDisk(t *testing.T) {
	dir, l := smallDisk(t, "7m")
	if n, err := l.Reserve(); n != 0 || err == nil || hasReserve(dir) {
		t.Fatalf("a reserve of %d bytes, %v", n, err)
	}
	form(t, l)
	must(t, l.Close())

	dir = t.TempDir()
	l = openBolt(t, dir)
	for range 2 {
		n, err := l.Reserve()
		must(t, err)
		if info, err := os.Stat(filepath.Join(dir, "reserve")); err != nil || info.Size() != n {
			t.Fatalf("%v, %v", info, err)
		}
	}
	must(t, l.Close())
	before, err := os.Stat(filepath.Join(dir, "reserve"))
	must(t, err)
	l = openBolt(t, dir)
	_, err = l.Reserve()
	must(t, err)
	if after, err := os.Stat(filepath.Join(dir, "reserve")); err != nil || !os.SameFile(before, after) {
		t.Errorf("it was made anew: %v", err)
	}
	must(t, l.Close())
	must(t, os.Truncate(filepath.Join(dir, "reserve"), 0))
	must(t, os.Truncate(filepath.Join(dir, "reserve"), before.Size())) // a hole
	must(t, os.WriteFile(filepath.Join(dir, "reserve.tmp"), make([]byte, 100), 0o644))
	l = openBolt(t, dir)
	if _, err := os.Stat(filepath.Join(dir, "reserve.tmp")); err == nil {
		t.Error("an unfinished reserve takes room")
	}
	_, err = l.Reserve()
	must(t, err)
	if info, err := os.Stat(filepath.Join(dir, "reserve")); err != nil || info.Sys().(*syscall.Stat_t).Blocks*512 < info.Size() {
		t.Errorf("a hole passed for a reserve: %v", err)
	}
}

// Who meets a full disk while another gives up the reserve tries again too, and who comes later does not.
func TestTwoMeetAFullDisk(t *testing.T) {
	l := openBolt(t, t.TempDir())
	_, err := l.Reserve()
	must(t, err)
	full := &fs.PathError{Op: "write", Path: "log.db", Err: syscall.ENOSPC}
	tries := map[string]int{}
	fails := func(name string, times int) func() error {
		return func() error {
			if tries[name]++; tries[name] > times {
				return nil
			}
			if name == "slow" {
				must(t, wal.Roomy(l, func() error {
					if tries["fast"]++; tries["fast"] > 1 {
						return nil
					}
					return full
				}))
			}
			return full
		}
	}
	must(t, wal.Roomy(l, fails("slow", 1)))
	if err := wal.Roomy(l, fails("late", 1)); err != full {
		t.Errorf("without a reserve: %v", err)
	}
	if tries["fast"] != 2 || tries["slow"] != 2 || tries["late"] != 1 {
		t.Errorf("tries: %v", tries)
	}
}

// Somebody who removes the reserve to make room has made it for whoever meets the full disk; and there is a reserve again.
func TestReserveIsRemoved(t *testing.T) {
	dir := t.TempDir()
	l := openBolt(t, dir)
	_, err := l.Reserve()
	must(t, err)
	must(t, os.Remove(filepath.Join(dir, wal.ReserveName)))
	tries := 0
	must(t, wal.Roomy(l, func() error {
		if tries++; tries > 1 {
			return nil
		}
		return &fs.PathError{Op: "write", Path: "log.db", Err: syscall.ENOSPC}
	}))
	for range 2 {
		if _, err := l.Reserve(); err != nil || !hasReserve(dir) {
			t.Fatalf("there is a reserve again: %t, %v", hasReserve(dir), err)
		}
		must(t, os.Remove(filepath.Join(dir, wal.ReserveName)))
	}
}

// A reserve that cannot be made leaves nothing that takes room.
func TestReserveThatCannotBeMade(t *testing.T) {
	dir := t.TempDir()
	l := openBolt(t, dir)
	must(t, os.Symlink("/dev/full", filepath.Join(dir, "reserve.tmp")))
	if n, err := l.Reserve(); n != 0 || err == nil {
		t.Fatalf("a reserve of %d bytes: %v", n, err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "reserve*")); len(left) > 0 {
		t.Errorf("left over: %q", left)
	}
	if n, err := l.Reserve(); n == 0 || err != nil {
		t.Errorf("the next time: %d, %v", n, err)
	}
}

// What is done again is a write that was refused, never a sync.
func TestWhatIsTriedAgain(t *testing.T) {
	path := func(op string, err error) error { return &fs.PathError{Op: op, Path: "log.db", Err: err} }
	for _, c := range []struct {
		err  error
		full bool
	}{
		{path("write", syscall.ENOSPC), true},
		{path("open", syscall.ENOSPC), true},
		{fmt.Errorf("raft log: %w", path("write", syscall.ENOSPC)), true},
		{&os.LinkError{Op: "rename", Err: syscall.ENOSPC}, true},
		{fmt.Errorf("file resize error: %s", path("truncate", syscall.ENOSPC)), true}, // as bbolt says it
		{fmt.Errorf("file sync error: %s", path("sync", syscall.ENOSPC)), false},
		{fmt.Errorf("file resize error: %s", path("truncate", syscall.EIO)), false},
		{syscall.ENOSPC, false}, // as bbolt gives what fdatasync said
		{path("sync", syscall.ENOSPC), false},
		{path("write", syscall.EIO), false},
		{path("sync", syscall.EIO), false},
		{syscall.EIO, false},
		{nil, false},
	} {
		if got := wal.IsFull(c.err); got != c.full {
			t.Errorf("%v: %t", c.err, got)
		}
	}
}
