package replica

import (
	"log/slog"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// A request over several partitions wakes the flusher once, when all are
// appended; an append that belongs to no request wakes it at once. What is
// acknowledged waits for the round in both cases.
func TestOneFlushForARequest(t *testing.T) {
	dir, err := storage.OpenDir(vfs.NewMem(), "/data")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.CloseDirty() })
	m := New(Config{NodeID: 1}, dir, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	img := image.Empty()
	for _, cmd := range []control.Command{
		&control.RegisterBroker{ID: 1, Incarnation: image.UUID{1}, Dirs: []image.UUID{{9}}},
		&control.CreateTopic{Name: "t", ID: image.UUID{7}, Partitions: 2, ReplicationFactor: 1},
	} {
		res, err := cmd.Eval(img, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		next, delta := image.Apply(img, img.Index()+1, res.Records)
		m.Apply(delta)
		img = next
	}
	topic, _ := img.Topic("t")
	write := func(index int32, item *WaitItem) {
		r, err := m.Find(topic.ID, index)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := r.Append(batchtest.Values("x").Encode(), partition.AcksAll, item, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	woken := func(want int, when string) {
		t.Helper()
		if got := len(m.dirty); got != want {
			t.Fatalf("%s: %d tokens for the flusher, want %d", when, got, want)
		}
	}

	w := NewWait(2)
	write(0, &w.Items[0])
	write(1, &w.Items[1])
	woken(0, "while the request appends")
	over := false
	w.Begin(time.Hour, func() { over = true })
	woken(1, "once it has")
	if over {
		t.Fatal("acknowledged before a flush")
	}
	<-m.dirty
	m.flush()
	if !over {
		t.Fatal("one round did not end the request")
	}

	write(0, nil)
	woken(1, "after an append of no request")
}
