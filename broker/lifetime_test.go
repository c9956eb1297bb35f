package broker

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// until asks again and again; what it waits for comes on its own.
func until(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !holds(); {
		if time.Now().After(end) {
			t.Fatalf("%s did not happen", what)
		}
	}
}

func TestRetention(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, map[string]string{"log.retention.check.interval.ms": "1"})
	r := newRaw(t, n.addr())
	createTopic(r, "t")
	for range 3 {
		if at := produceBatch(r, batchtest.Values("a").At(time.Now().Add(-time.Hour).UnixMilli()).Encode()); at.ErrorCode != 0 {
			t.Fatal(at.ErrorCode)
		}
	}
	if at := offsetAt(r, 4, -2); at.Offset != 0 {
		t.Fatalf("the log starts at %d", at.Offset)
	}
	if code := alter(r, 1, topicResource, "t", change("retention.ms", kmsg.IncrementalAlterConfigOpSet, "1000")); code != 0 {
		t.Fatal(code)
	}
	until(t, "retention", func() bool { return offsetAt(r, 4, -2).Offset == 3 })
	if at := produceBatch(r, batchtest.Values("b").At(time.Now().UnixMilli()).Encode()); at.BaseOffset != 3 || at.LogStartOffset != 3 {
		t.Fatalf("%+v", at)
	}
}

// logDirs are the directories of logs, in whatever state.
func logDirs(t *testing.T, fs vfs.FS) string {
	t.Helper()
	names, err := fs.List("/data")
	if err != nil {
		t.Fatal(err)
	}
	var logs []string
	for _, name := range names {
		if info, err := fs.Stat(filepath.Join("/data", name)); err == nil && info.IsDir && name != "raftmeta" {
			logs = append(logs, name)
		}
	}
	return strings.Join(logs, " ")
}

// A deleted topic is gone from the disk after file.delete.delay.ms, or with the next start, whatever happens in between.
func TestDeletedTopicLeavesTheDisk(t *testing.T) {
	fs := vfs.NewMem()
	disk := Disk{FS: fs, RaftLog: memoryLog()}
	n := startNodeWith(t, disk, nil)
	r := newRaw(t, n.addr())
	for _, name := range []string{"quick", "slow"} {
		createTopic(r, name)
		if at := produceTo(r, name, 0); at.ErrorCode != 0 {
			t.Fatal(at.ErrorCode)
		}
	}
	if code := alter(r, 1, topicResource, "quick", change("file.delete.delay.ms", kmsg.IncrementalAlterConfigOpSet, "0")); code != 0 {
		t.Fatal(code)
	}
	for _, name := range []string{"quick", "slow"} {
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.Version, req.TimeoutMillis, req.TopicNames = 1, 5000, []string{name}
		if code := ask[*kmsg.DeleteTopicsResponse](r, req).Topics[0].ErrorCode; code != 0 {
			t.Fatal(code)
		}
	}
	until(t, "removal", func() bool { return !strings.Contains(logDirs(t, fs), "quick") })
	if dirs := logDirs(t, fs); !strings.Contains(dirs, "slow-0.") || !strings.Contains(dirs, "-delete") {
		t.Fatalf("directories %q", dirs)
	}
	n.stop()
	if err := <-n.done; err != nil {
		t.Fatal(err)
	}
	startNodeWith(t, disk, nil)
	until(t, "removal after a start", func() bool { return logDirs(t, fs) == "" })
}

// What nobody claims is neither served nor removed.
func TestStrays(t *testing.T) {
	fs := vfs.NewMem()
	disk := Disk{FS: fs, RaftLog: memoryLog()}
	n := startNodeWith(t, disk, nil)
	r := newRaw(t, n.addr())
	createTopic(r, "t")
	if at := produceTo(r, "t", 0); at.ErrorCode != 0 {
		t.Fatal(at.ErrorCode)
	}
	n.stop()
	if err := <-n.done; err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"alien-0", "t-1"} {
		if err := fs.MkdirAll(filepath.Join("/data", name)); err != nil {
			t.Fatal(err)
		}
	}
	n = startNodeWith(t, disk, nil)
	dirs := strings.Fields(logDirs(t, fs))
	if len(dirs) != 3 || !strings.HasPrefix(dirs[0], "alien-0.") || dirs[1] != "t-0" || !strings.HasPrefix(dirs[2], "t-1.") || !strings.HasSuffix(dirs[2], "-stray") {
		t.Fatalf("directories %q", dirs)
	}
	if at := offsetAt(newRaw(t, n.addr()), 4, -1); at.Offset != 1 {
		t.Fatalf("the log ends at %d", at.Offset)
	}
}

// A disk that is nearly full refuses records and nothing else, and takes them again once there is room.
func TestDiskFull(t *testing.T) {
	fs := vfs.NewMem()
	n := startNodeWith(t, Disk{FS: fs, RaftLog: memoryLog()}, map[string]string{"streambus.disk.min.free.bytes": "1000000"})
	r := newRaw(t, n.addr())
	createTopic(r, "t")
	if at := produceBatch(r, batchtest.Values("a").Encode()); at.ErrorCode != 0 {
		t.Fatal(at.ErrorCode)
	}
	fs.SetFree(1000)
	until(t, "refusal", func() bool { return produceBatch(r, batchtest.Values("b").Encode()).ErrorCode == 56 })
	end := offsetAt(r, 4, -1).Offset
	if at := produceBatch(r, batchtest.Values("c").Encode()); at.ErrorCode != 56 {
		t.Fatalf("error %d", at.ErrorCode)
	}
	if records := ask[*kmsg.FetchResponse](r, fetchRequest("t", 0, 0)).Topics[0].Partitions[0].RecordBatches; len(records) == 0 {
		t.Error("nothing can be read")
	}
	createTopic(r, "u")
	if low, code := deleteRecords(r, 2, "t", 0, -1); low != end || code != 0 {
		t.Errorf("deleting records: %d, error %d", low, code)
	}
	fs.SetFree(1 << 30)
	until(t, "room", func() bool { return produceBatch(r, batchtest.Values("d").Encode()).ErrorCode == 0 })
	if at := offsetAt(r, 4, -1); at.Offset != end+1 {
		t.Errorf("the log ends at %d, want %d", at.Offset, end+1)
	}
}

// Damage in a sealed segment is found although nobody reads it.
func TestScrub(t *testing.T) {
	fs := vfs.NewMem()
	n := startDamaged(t, Disk{FS: fs, RaftLog: memoryLog()}, nil)
	r := newRaw(t, n.addr())
	createTopic(r, "t")
	large := batchtest.Values(string(make([]byte, 600_000))).Encode()
	for range 3 {
		if at := produceBatch(r, large); at.ErrorCode != 0 {
			t.Fatal(at.ErrorCode)
		}
	}
	f, err := fs.Open("/data/t-0/00000000000000000000.log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{1}, 1000); err != nil {
		t.Fatal(err)
	}
	until(t, "discovery", func() bool { return counted(t, n, "streambus_scrub_damage_total") > 0 })
}

// What a topic sets and nobody acts on is said, once.
func TestInertSettingsAreNamed(t *testing.T) {
	cfg := config.New()
	set(t, cfg, "log.dirs", "/data")
	set(t, cfg, "streambus.admin.listen", "127.0.0.1:0")
	set(t, cfg, "listeners", "PLAINTEXT://127.0.0.1:0")
	var text syncBuffer
	b, err := New(cfg, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, slog.New(slog.NewTextHandler(&text, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	<-b.Ready()
	r := newRaw(t, fmt.Sprintf("127.0.0.1:%d", b.Endpoints()[0].Port))
	createTopic(r, "t")
	for _, value := range []string{"1000", "1000", "2000"} {
		if code := alter(r, 1, topicResource, "t", change("flush.ms", kmsg.IncrementalAlterConfigOpSet, value), change("retention.ms", kmsg.IncrementalAlterConfigOpSet, value)); code != 0 {
			t.Fatal(code)
		}
	}
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := text.String(); strings.Count(got, "setting=flush.ms") != 2 || strings.Contains(got, "retention.ms") {
		t.Errorf("logged:\n%s", got)
	}
}

// A start that takes long tells how far it is, in the log and to whoever asks.
func TestStartTellsProgress(t *testing.T) {
	fs := vfs.NewMem()
	disk := Disk{FS: fs, RaftLog: memoryLog()}
	n := startNodeWith(t, disk, map[string]string{"num.recovery.threads.per.data.dir": "1"})
	r := newRaw(t, n.addr())
	for _, name := range []string{"a", "b"} {
		createTopic(r, name)
		if at := produceTo(r, name, 0); at.ErrorCode != 0 {
			t.Fatal(at.ErrorCode)
		}
	}
	n.stop()
	if err := <-n.done; err != nil {
		t.Fatal(err)
	}
	told := make(chan struct{})
	disk.FS = vfs.NewFaulty(fs, func(op vfs.Op, name string) error {
		if op == vfs.OpStat && strings.HasSuffix(name, "/b-0") {
			<-told
		}
		return nil
	})
	cfg := config.New()
	for key, value := range map[string]string{"log.dirs": "/data", "streambus.admin.listen": "127.0.0.1:0", "listeners": "PLAINTEXT://127.0.0.1:0", "num.recovery.threads.per.data.dir": "1"} {
		set(t, cfg, key, value)
	}
	text := &syncBuffer{holds: "still starting", told: told}
	b, err := New(cfg, disk, slog.New(slog.NewTextHandler(text, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	<-told
	<-b.Ready()
	stop()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := text.String(); !strings.Contains(got, "of=2") {
		t.Errorf("logged:\n%s", got)
	}
}

// syncBuffer may be written to by many. told is closed once it holds a text.
type syncBuffer struct {
	holds string
	told  chan struct{}

	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, err := s.b.Write(p)
	if s.told != nil && strings.Contains(s.b.String(), s.holds) {
		close(s.told)
		s.told = nil
	}
	return n, err
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}
