package replica

import (
	"log/slog"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
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
