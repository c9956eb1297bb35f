package broker

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// On the real file system: a thousand acknowledgements, each behind a sync
// that began after its record was sent. Nobody else writes.
func TestAcksFollowSyncs(t *testing.T) {
	var syncs atomic.Int64
	fs := vfs.NewFaulty(vfs.OS(), func(op vfs.Op, _ string) error {
		if op == vfs.OpSync || op == vfs.OpSyncAll {
			syncs.Add(1)
		}
		return nil
	})
	n := startNodeAt(t, Disk{FS: fs, RaftLog: OpenRaftLog}, t.TempDir(), "0")
	r := newRaw(t, n.addr())
	createTopic(r, "t")
	for i := range 1000 {
		before := syncs.Load()
		p := ask[*kmsg.ProduceResponse](r, produceRequest("t", 0, -1, batchtest.Values("x").Encode())).Topics[0].Partitions[0]
		if p.ErrorCode != 0 || p.BaseOffset != int64(i) {
			t.Fatalf("record %d: error %d, offset %d", i, p.ErrorCode, p.BaseOffset)
		}
		if syncs.Load() == before {
			t.Fatalf("record %d was acknowledged and nothing was synced since it was sent", i)
		}
	}
	n.stop()
	if err := <-n.done; err != nil {
		t.Error(err)
	}
}

// A flush that fails is not tried again: nothing is acknowledged any more, by
// this broker, whatever the disk says later.
func TestFailedFlushIsFinal(t *testing.T) {
	var fail atomic.Bool
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, _ string) error {
		if (op == vfs.OpSync || op == vfs.OpSyncAll) && fail.Load() {
			return vfs.ErrPowerCut
		}
		return nil
	})
	n := startNodeAt(t, Disk{FS: fs, RaftLog: memoryLog()}, "/data", "0")
	r := newRaw(t, n.addr())
	createTopic(r, "t")
	produce := func() int16 {
		return ask[*kmsg.ProduceResponse](r, produceRequest("t", 0, -1, batchtest.Values("x").Encode())).Topics[0].Partitions[0].ErrorCode
	}
	if code := produce(); code != 0 {
		t.Fatalf("error %d", code)
	}
	for _, disk := range []bool{true, false} {
		fail.Store(disk)
		if code := produce(); code != 56 {
			t.Errorf("disk failing %v: error %d, want KAFKA_STORAGE_ERROR", disk, code)
		}
	}
	n.stop()
	<-n.done
}

// The directory has failed whatever it was that could not be made durable: nobody
// has to produce for that to be noticed.
func TestFailureWithoutAFlush(t *testing.T) {
	var fail atomic.Bool
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, name string) error {
		if op == vfs.OpSyncDir && name == "/data" && fail.Load() {
			return vfs.ErrPowerCut
		}
		return nil
	})
	n := startNodeAt(t, Disk{FS: fs, RaftLog: memoryLog()}, "/data", "0")
	r := newRaw(t, n.addr())
	createTopic(r, "t")
	ask[*kmsg.ProduceResponse](r, produceRequest("t", 0, -1, batchtest.Values("x").Encode()))
	fail.Store(true)
	deleteTopic(r, "t")
	select {
	case <-n.replicas.Failed():
	case <-time.After(10 * time.Second):
		t.Error("nobody has noticed")
	}
	n.stop()
	<-n.done
}
