package storage

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

func topic(n byte) [16]byte { return [16]byte{n, 15: 0xff} }

func withTopic(cfg LogConfig, n byte) LogConfig {
	cfg.TopicID = topic(n)
	return cfg
}

func TestDeleteLogs(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	must(t, fs.SyncDir("/"))
	cfg := withTopic(small, 1)
	cfg.DeleteDelay = time.Minute
	openLog(t, d, cfg)
	if err := d.DeleteLogs(noon, "t-0"); err != nil {
		t.Errorf("delete a log without files: %v", err)
	}
	l, _ := openLog(t, d, cfg)
	all := fill(t, l, 50)
	flush(t, d)
	must(t, d.Checkpoint())
	must(t, l.AdvanceStart(2, noon))
	old, err := l.Read(l.StartOffset(), 100, math.MaxInt64, true)
	must(t, err)
	fill(t, l, 1)
	round := d.BeginFlush() // under way while the log is deleted
	fill(t, l, 1)
	must(t, d.DeleteLogs(noon, "t-0"))
	for _, sync := range round.Syncs() {
		must(t, sync())
	}
	if got := round.Done(time.Millisecond, nil); len(got) != 0 {
		t.Errorf("a round says of a deleted log: %v", got)
	}
	if d.BeginFlush() != nil {
		t.Error("a deleted log is flushed")
	}
	for what, err := range map[string]error{
		"append": func() error { _, err := l.Append(batchtest.Values("v").Encode(), 1, noon); return err }(),
		"start":  l.AdvanceStart(10, noon),
		"retain": func() error { _, err := l.Retain(noon, RetentionConfig{0, 0}, 10); return err }(),
	} {
		if !errors.Is(err, ErrDeleted) {
			t.Errorf("%s: %v", what, err)
		}
	}
	dirs := listed(t, fs, "/data", "-delete")
	if len(dirs) != 1 || !strings.HasPrefix(dirs[0], "t-0.") || len(dirs[0]) != len("t-0.")+32+len("-delete") {
		t.Fatalf("deleted directories %q", dirs)
	}

	cfg2 := withTopic(small, 2)
	next, rec := openLog(t, d, cfg2)
	if next.EndOffset() != 0 || next.StartOffset() != 0 || rec.SetAside != "" {
		t.Errorf("the next log of the name: %d to %d, %+v", next.StartOffset(), next.EndOffset(), rec)
	}
	fill(t, next, 2)
	flush(t, d)
	must(t, d.Checkpoint())
	for seed := range uint64(30) {
		d := openDir(t, fs.Crash(rand.New(rand.NewPCG(seed, 14))), "/data")
		l, rec := openLog(t, d, cfg2)
		if l.EndOffset() != next.EndOffset() || rec.SetAside != "" {
			t.Fatalf("seed %d: the next log ends at %d, %+v", seed, l.EndOffset(), rec)
		}
		if _, err := d.Sweep(noon); err != nil || len(listed(t, d.fs, "/data", "-delete")) != 0 {
			t.Fatalf("seed %d: left %q, %v", seed, listed(t, d.fs, "/data", "-delete"), err)
		}
	}

	d.files.forgetLog(l) // a reader would open the file again: not the next log's
	if b, err := old.Bytes(); err != nil || !bytes.HasPrefix(b, all[0]) && !bytes.HasPrefix(b, all[1]) {
		t.Errorf("a region of a deleted log: %d bytes, %v", len(b), err)
	}
	if n, err := d.Sweep(noon.Add(time.Minute - 1)); n != 0 || err != nil {
		t.Errorf("swept %d too early, %v", n, err)
	}
	if n, err := d.Sweep(noon.Add(time.Minute)); n == 0 || err != nil || len(listed(t, fs, "/data", "-delete")) != 0 {
		t.Errorf("swept %d, %v", n, err)
	}
	if _, err := old.Bytes(); !errors.Is(err, ErrDeleted) {
		t.Errorf("a region of a removed log: %v", err)
	}
	if len(d.files.open) == 0 {
		t.Error("the next log's files were closed")
	}
	for key := range d.files.open {
		if key.log == l {
			t.Errorf("%s is open", key.path())
		}
	}
}

// TestDeleteSeveral deletes logs together, one of which cannot be moved: there is
// one sync for the others, none of which a crash brings back, and that one is as it
// was.
func TestDeleteSeveral(t *testing.T) {
	mem := vfs.NewMem()
	refused, syncs := errors.New("refused"), 0
	armed := false
	fs := vfs.NewFaulty(mem, func(op vfs.Op, name string) error {
		switch {
		case armed && op == vfs.OpSyncDir && name == "/data":
			syncs++
		case armed && op == vfs.OpRename && strings.HasPrefix(name, "/data/t-1"):
			return refused
		}
		return nil
	})
	d := openDir(t, fs, "/data")
	must(t, mem.SyncDir("/"))
	names := []string{"t-0", "t-1", "t-2", "t-3", "t-4"}
	logs := map[string]*Log{}
	for _, name := range names[:4] { // the last one has no directory
		l, _, err := d.OpenLog(name, withTopic(small, 1), noon)
		must(t, err)
		fill(t, l, 3)
		logs[name] = l
	}
	flush(t, d)
	must(t, d.Checkpoint())
	armed = true
	if err := d.DeleteLogs(noon, append(names, "t-0")...); !errors.Is(err, refused) || !strings.Contains(err.Error(), "log t-1: ") {
		t.Errorf("deleted with %v", err)
	}
	armed = false
	if syncs != 1 {
		t.Errorf("%d syncs of the directory", syncs)
	}
	for name, l := range logs {
		_, err := l.Append(batchtest.Values("v").Encode(), 1, noon)
		if (name == "t-1") != (err == nil) || err != nil && !errors.Is(err, ErrDeleted) {
			t.Errorf("append to %s: %v", name, err)
		}
	}
	flush(t, d)
	for seed := range uint64(10) {
		left := openDir(t, mem.CutPower(rand.New(rand.NewPCG(seed, 0))), "/data")
		dirs, err := left.Partitions()
		if err != nil || !slices.Equal(dirs, []string{"t-1"}) {
			t.Errorf("after a crash there are %q, %v", dirs, err)
		}
		must(t, left.CloseDirty())
	}
}

// TestDeleteDuringARound: what a round finds gone was not lost.
func TestDeleteDuringARound(t *testing.T) {
	d := openDir(t, vfs.NewMem(), "/data")
	d.cost = syncCost{each: 1, all: 100}
	l, _ := openLog(t, d, withTopic(small, 1))
	fill(t, l, 1)
	round := d.BeginFlush()
	must(t, d.DeleteLogs(noon, "t-0"))
	_, err := d.Sweep(noon)
	must(t, err)
	for _, sync := range round.Syncs() {
		must(t, sync())
	}
}

// TestDeleteDuringAnOpen: a reader that opens its file while the log is deleted
// and another of its name is made does not get that one's.
func TestDeleteDuringAnOpen(t *testing.T) {
	var d *Dir
	armed := false
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, name string) error {
		if armed && op == vfs.OpOpen {
			armed = false
			must(t, d.DeleteLogs(noon, "t-0"))
			l, _ := openLog(t, d, small)
			appendOne(t, l, batchtest.Values("another").Encode())
		}
		return nil
	})
	d = openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	all := fill(t, l, 1)
	r, err := l.Read(0, 1, 1000, true)
	must(t, err)
	flush(t, d)
	d.files.forgetLog(l)
	armed = true
	if b, err := r.Bytes(); err != nil || !bytes.Equal(b, all[0]) {
		t.Errorf("read %q, %v", b, err)
	}
}

// TestDeleteUnopened deletes a log that could not be opened.
func TestDeleteUnopened(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	fill(t, l, 50)
	must(t, d.Close(noon))
	truncate(t, fs, "/data/t-0", -10)
	d = openDir(t, fs, "/data")
	if _, _, err := d.OpenLog("t-0", small, noon); err == nil {
		t.Fatal("opened")
	}
	must(t, d.DeleteLogs(noon, "t-0"))
	l, _ = openLog(t, d, small)
	fill(t, l, 1)
	must(t, d.CloseDirty())
	l, _ = openLog(t, openDir(t, fs, "/data"), small)
	if l.EndOffset() != 1 {
		t.Errorf("ends at %d", l.EndOffset())
	}
}

// TestLongNames: what is added to a name cuts the topic's.
func TestLongNames(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	name := strings.Repeat("t", 249) + "-12345"
	must(t, fs.MkdirAll("/data/"+name))
	must(t, d.DeleteLogs(noon, name))
	must(t, fs.MkdirAll("/data/"+name))
	to, err := d.SetAside(name)
	must(t, err)
	for _, n := range append(listed(t, fs, "/data", "-delete"), to) {
		if len(n) != 255 || !strings.HasPrefix(n, "ttt") || !strings.Contains(n, "t-12345.") {
			t.Errorf("%q", n)
		}
	}
	if names := listed(t, fs, "/data", "-stray"); !slices.Equal(names, []string{to}) {
		t.Errorf("set aside: %q", names)
	}
	if dirs, err := d.Partitions(); len(dirs) != 0 || err != nil {
		t.Errorf("partitions %q, %v", dirs, err)
	}
}

func TestTopicID(t *testing.T) {
	fs := vfs.NewMem()
	must(t, fs.MkdirAll("/data"))
	must(t, fs.SyncDir("/"))
	open := func(fs vfs.FS, n byte) (*Dir, *Log, Recovery) {
		d := openDir(t, fs, "/data")
		l, rec := openLog(t, d, withTopic(small, n))
		return d, l, rec
	}
	d, l, _ := open(fs, 1)
	fill(t, l, 5)
	flush(t, d)
	if b, err := ReadFile(fs, "/data/t-0/partition.metadata"); err != nil || string(b) != "version: 0\ntopic_id: AQAAAAAAAAAAAAAAAAAA_w" {
		t.Errorf("partition.metadata is %q, %v", b, err)
	}
	must(t, d.Checkpoint())
	must(t, l.AdvanceStart(3, noon))
	must(t, d.CloseDirty())
	for seed := range uint64(30) {
		disk := fs.Crash(rand.New(rand.NewPCG(seed, 15)))
		d, l, rec := open(disk, 1)
		if l.EndOffset() == 0 || rec.SetAside != "" {
			t.Fatalf("seed %d: ends at %d, %+v", seed, l.EndOffset(), rec)
		}
		must(t, d.CloseDirty())
		d, l, rec = open(disk, 2)
		if l.EndOffset() != 0 || l.StartOffset() != 0 || !exists(disk, "/data/"+rec.SetAside+"/partition.metadata") {
			t.Fatalf("another topic's: %d to %d, %+v", l.StartOffset(), l.EndOffset(), rec)
		}
		fill(t, l, 1)
		must(t, d.CloseDirty())
		if _, l, rec = open(disk, 2); l.EndOffset() != 1 || rec.SetAside != "" {
			t.Fatalf("seed %d: reopened, ends at %d, %+v", seed, l.EndOffset(), rec)
		}
	}

	// Before the first flush the file that says whose it is may be lost alone.
	fs = vfs.NewMem()
	must(t, fs.MkdirAll("/data"))
	must(t, fs.SyncDir("/"))
	d, l, _ = open(fs, 1)
	fill(t, l, 5)
	for seed := range uint64(200) {
		if _, l, _ := open(fs.Crash(rand.New(rand.NewPCG(seed, 15))), 2); l.EndOffset() != 0 {
			t.Fatalf("seed %d: another topic's, ends at %d", seed, l.EndOffset())
		}
	}
	flush(t, d)
	must(t, d.Checkpoint())

	// Without an id a directory is whoever's asks, if it is durable.
	for content, want := range map[string]string{"": "claimed", "version: 0\ntopic_id: x": "refused"} {
		disk := vfs.NewMem()
		copyTo(t, fs, "/data", disk)
		must(t, disk.Remove("/data/t-0/partition.metadata"))
		if content != "" {
			must(t, writeFile(disk, "/data/t-0/partition.metadata", []byte(content), true))
		}
		d := openDir(t, disk, "/data")
		l, _, err := d.OpenLog("t-0", withTopic(small, 3), noon)
		_, corrupt := errors.AsType[*CorruptError](err)
		switch {
		case want == "refused" && corrupt:
		case want == "claimed" && err == nil && l.EndOffset() > 0:
			must(t, d.CloseDirty())
			if _, l, rec := open(disk, 4); l.EndOffset() != 0 || rec.SetAside == "" {
				t.Errorf("a claimed directory is another's: %+v", rec)
			}
		default:
			t.Errorf("%q: %v", content, err)
		}
	}
}

// A log that is in use is set aside too, if it is asked to: what was read can be sent, a
// new one has its name at once, and neither a Sweep nor a crash changes that.
func TestSetAsideInUse(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	must(t, fs.SyncDir("/"))
	l, _ := openLog(t, d, small)
	all := fill(t, l, 5)
	flush(t, d)
	region, err := l.Read(0, l.EndOffset(), 1<<20, true)
	must(t, err)
	fill(t, l, 1) // nobody will flush it
	to, err := l.SetAside(noon)
	must(t, err)
	if b, err := region.Bytes(); err != nil || !bytes.HasPrefix(slices.Concat(all...), b) || len(b) == 0 {
		t.Errorf("%d bytes of what was read: %v", len(b), err)
	}
	if _, err := l.Append(all[0], 0, noon); err == nil {
		t.Error("a log that was set aside takes records")
	}
	l, _ = openLog(t, d, small)
	if l.EndOffset() != 0 || l.HighWatermark() != 0 {
		t.Fatalf("the new log ends at %d", l.EndOffset())
	}
	all = fill(t, l, 2)
	flush(t, d)
	must(t, d.Checkpoint())
	_, err = d.Sweep(noon.Add(1000 * time.Hour))
	must(t, err)
	for seed := range uint64(20) {
		disk := fs.Crash(rand.New(rand.NewPCG(seed, 16)))
		if !exists(disk, "/data/"+to+"/00000000000000000000.log") {
			t.Fatalf("seed %d: what was set aside is gone", seed)
		}
		l, _ := openLog(t, openDir(t, disk, "/data"), small)
		wantBatches(t, readAll(t, l, 1000), all)
	}
}

func TestSetAside(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	must(t, fs.SyncDir("/"))
	l, _ := openLog(t, d, small)
	fill(t, l, 5)
	if _, err := d.SetAside("t-0"); err == nil {
		t.Error("an open log was set aside")
	}
	must(t, d.Close(noon))
	d = openDir(t, fs, "/data")
	to, err := d.SetAside("t-0")
	must(t, err)
	for seed := range uint64(20) {
		disk := fs.Crash(rand.New(rand.NewPCG(seed, 16)))
		d := openDir(t, disk, "/data")
		_, err := d.Sweep(noon.Add(1000 * time.Hour))
		must(t, err)
		if !exists(disk, "/data/"+to+"/00000000000000000000.log") {
			t.Fatalf("seed %d: what was set aside is gone", seed)
		}
		l, _ := openLog(t, d, small)
		if l.EndOffset() != 0 {
			t.Fatalf("seed %d: ends at %d", seed, l.EndOffset())
		}
	}
	if to, err := d.SetAside("t-0"); to != "" || err != nil {
		t.Errorf("what is not there: %q, %v", to, err)
	}
}

// TestDeletedByAProcessThatDied: the name of a log that was deleted is on the disk before
// what is in it goes, also where the process that gave it the name could not sync it.
func TestDeletedByAProcessThatDied(t *testing.T) {
	for seed := range uint64(30) {
		mem, failing := vfs.NewMem(), false
		d := openDir(t, vfs.NewFaulty(mem, func(op vfs.Op, name string) error {
			if failing && op == vfs.OpSyncDir {
				return errFault
			}
			return nil
		}), "/data")
		must(t, mem.SyncDir("/"))
		l, _ := openLog(t, d, withTopic(small, 1))
		fill(t, l, 50)
		flush(t, d)
		must(t, d.Checkpoint())
		failing = true
		if err := d.DeleteLogs(noon, "t-0"); err == nil {
			t.Fatal("a deletion that is not synced succeeds")
		}
		must(t, d.CloseDirty())

		d = openDir(t, mem, "/data")
		_, err := d.Sweep(noon.Add(time.Hour))
		must(t, err)
		must(t, d.CloseDirty())
		again, _ := openLog(t, openDir(t, mem.Crash(rand.New(rand.NewPCG(seed, 15))), "/data"), withTopic(small, 2)) // reports damage
		if again.EndOffset() != 0 {
			t.Fatalf("seed %d: the log ends at %d", seed, again.EndOffset())
		}
	}
}
