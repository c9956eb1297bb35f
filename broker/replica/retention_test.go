package replica

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// slowDisk takes its time for each read, and counts them.
type slowDisk struct {
	vfs.FS
	reads atomic.Int64
}

type slowFile struct {
	vfs.File
	disk *slowDisk
}

func (d *slowDisk) Open(name string) (vfs.File, error) {
	f, err := d.FS.Open(name)
	return slowFile{f, d}, err
}

func (d *slowDisk) Create(name string) (vfs.File, error) {
	f, err := d.FS.Create(name)
	return slowFile{f, d}, err
}

func (f slowFile) ReadAt(p []byte, at int64) (int, error) {
	f.disk.reads.Add(1)
	time.Sleep(10 * time.Millisecond)
	return f.File.ReadAt(p, at)
}

// The time that reading takes does not put off the next pass: with a terabyte it
// would come months after the last one.
func TestScrubComesAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := &slowDisk{FS: vfs.NewMem()}
		dir, err := storage.OpenDir(disk, "/data")
		if err != nil {
			t.Fatal(err)
		}
		defer dir.CloseDirty()
		m := New(Config{NodeID: 1, ScrubRate: 1 << 20}, dir, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
		img, id := image.Empty(), image.UUID{2}
		for _, cmd := range []control.Command{
			&control.FormCluster{ClusterID: "c", Voters: []image.Voter{{RaftID: 1, NodeID: 1}}},
			&control.RegisterBroker{ID: 1, Incarnation: image.UUID{1}, Levels: image.OwnLevels, Dirs: []image.UUID{{9}}, Listeners: []image.Endpoint{{Name: "PLAINTEXT", Host: "h", Port: 1}}},
			&control.UnfenceBroker{ID: 1, Epoch: 2},
			&control.CreateTopic{Name: "t", ID: id, Partitions: 1, ReplicationFactor: 1, Configs: map[string]string{"segment.bytes": "1048576"}},
		} {
			res, err := cmd.Eval(img, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			var d *image.Delta
			img, d = image.Apply(img, img.Index()+1, res.Records)
			m.Apply(img, d)
		}
		r, err := m.Find(id, 0)
		if err != nil {
			t.Fatal(err)
		}
		large := batchtest.Values(string(make([]byte, 600_000)))
		for range 4 {
			if _, err := r.Append(large.Encode(), partition.AcksLeader, nil, time.Now()); err != nil {
				t.Fatal(err)
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		go m.scrub(ctx)
		time.Sleep(10 * time.Second)
		first := disk.reads.Load()
		time.Sleep(10 * time.Second)
		if again := disk.reads.Load(); first == 0 || again == first {
			t.Errorf("%d reads in the first ten seconds, %d in the next", first, again-first)
		}
		stop()
		synctest.Wait()
	})
}
