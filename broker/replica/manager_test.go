package replica

import (
	"context"
	"log/slog"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// TestTopicsKeepTheirSettings: topics that come in one change are not given one
// another's, be their replicas new or known.
func TestTopicsKeepTheirSettings(t *testing.T) {
	dir, err := storage.OpenDir(vfs.NewMem(), "/data")
	if err != nil {
		t.Fatal(err)
	}
	defer dir.CloseDirty()
	m := New(Config{NodeID: 1, RecoveryThreads: 2}, dir, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	one := image.Partition{Replicas: []int32{1}, ISR: []int32{1}, Dirs: "\x00", Leader: 1}
	a, b := image.UUID{1}, image.UUID{2}
	limit := func(v string) []image.Setting { return []image.Setting{{Key: "max.message.bytes", Value: v}} }
	img, d := image.Apply(image.Empty(), 1, []image.Record{
		&image.TopicRecord{Name: "a", ID: a, Configs: limit("1000")}, &image.PartitionsRecord{Topic: a, Partitions: []image.Partition{one, one}},
		&image.TopicRecord{Name: "b", ID: b, Configs: limit("2000")}, &image.PartitionsRecord{Topic: b, Partitions: []image.Partition{one, one}},
	})
	for range 2 {
		m.Apply(img, d)
		for topic, want := range map[image.UUID]int64{a: 1000, b: 2000} {
			for i := range int32(2) {
				r, err := m.Find(topic, i)
				if err != nil {
					t.Fatal(err)
				}
				if got := r.set.rules.MaxBytes; got != want {
					t.Errorf("%s takes batches of %d bytes, want %d", r.name, got, want)
				}
			}
		}
	}
}

// TestFailureOutsideFlush: a data directory that was closed by something else than a
// flush is found so, and its replicas do not go on as if they could be used.
func TestFailureOutsideFlush(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var broken atomic.Bool
		fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, _ string) error {
			if broken.Load() && (op == vfs.OpWriteAt || op == vfs.OpTruncate) {
				return syscall.EIO
			}
			return nil
		})
		dir, err := storage.OpenDir(fs, "/data")
		if err != nil {
			t.Fatal(err)
		}
		defer dir.CloseDirty()
		m := New(Config{NodeID: 1, RecoveryThreads: 1}, dir, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		a := image.UUID{1}
		m.Apply(image.Apply(image.Empty(), 1, []image.Record{
			&image.TopicRecord{Name: "a", ID: a},
			&image.PartitionsRecord{Topic: a, Partitions: []image.Partition{{Replicas: []int32{1}, ISR: []int32{1}, Dirs: "\x00", Leader: 1}}},
		}))
		r, err := m.Find(a, 0)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		go m.flusher(ctx)
		go m.checkpoints(ctx)
		one := batchtest.Values("one").Encode()
		if _, err := r.Append(one, partition.AcksLeader, nil, time.Now()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // it was flushed
		broken.Store(true)
		if _, err := r.Append(one, partition.AcksLeader, nil, time.Now()); err == nil || dir.Failed() == nil {
			t.Fatalf("a write that could not be taken back: %v, the directory %v", err, dir.Failed())
		}
		select {
		case <-m.Failed():
		case <-time.After(2 * checkpointInterval):
			t.Error("nobody was told that the directory has failed")
		}
		synctest.Wait()
		if err := r.Status().Err; err == nil {
			t.Error("the replica goes on")
		}
		stop()
		synctest.Wait()
	})
}
