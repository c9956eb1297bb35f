package raftmeta_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/wal"
	"github.com/streambus/streambus/raftmeta/wal/memwal"
)

const cluster = "cluster-of-the-test"

func openLog(t *testing.T, dir string) wal.Log {
	t.Helper()
	log, err := wal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	return log
}

func open(t *testing.T, log wal.Log) *raftmeta.Controller { return openWith(t, log, 0) }

// openWith opens a controller that is alone; an empty log becomes that of a new cluster.
func openWith(t *testing.T, log wal.Log, snapshotBytes int) *raftmeta.Controller {
	t.Helper()
	return openRegistered(t, log, snapshotBytes, prometheus.NewRegistry())
}

func openRegistered(t *testing.T, log wal.Log, snapshotBytes int, reg prometheus.Registerer) *raftmeta.Controller {
	t.Helper()
	s, err := log.Load()
	if err != nil {
		t.Fatal(err)
	}
	if !s.Formed() {
		id, err := raftmeta.DrawRaftID(log)
		if err == nil {
			err = raftmeta.Form(log, id, cluster, image.Voter{RaftID: id, NodeID: 1})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	c, err := raftmeta.Open(raftmeta.Config{
		NodeID: 1, ClusterID: cluster, Logger: slog.New(slog.DiscardHandler), Registerer: reg,
		SnapshotBytes: snapshotBytes, Members: func([]image.Voter) {},
		Probe: func(context.Context, *image.Broker) (liveness.Finding, image.UUID) {
			return liveness.NoAnswer, image.UUID{}
		},
		Send: func(m quorum.Message) { t.Errorf("a node that is alone sends %+v", m) },
	}, log)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func submit(ctx context.Context, c *raftmeta.Controller, cmds ...control.Command) []raftmeta.Outcome {
	var requests []control.Request
	for _, cmd := range cmds {
		requests = append(requests, control.Request{Command: cmd})
	}
	return c.Submit(ctx, requests...)
}

// run starts a controller and a view that follows it, and returns what stops both.
func run(t *testing.T, c *raftmeta.Controller) (view *raftmeta.View, stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	view = raftmeta.NewView()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Errorf("the controller ended: %v", err)
		}
	})
	wg.Go(func() {
		if err := view.Follow(ctx, follow.New(cluster), c.Units, func(follow.Change) {}, func(uint64, bool) {}); err != nil {
			t.Errorf("the view ended: %v", err)
		}
	})
	stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	t.Cleanup(stop)
	return view, stop
}

func register() *control.RegisterBroker {
	return &control.RegisterBroker{ID: 1, Incarnation: image.UUID{1}, Levels: image.OwnLevels, Dirs: []image.UUID{{2}}}
}

func topic(i int) *control.CreateTopic {
	return &control.CreateTopic{Name: fmt.Sprintf("topic-%d", i), ID: image.UUID{byte(i >> 8), byte(i), 1}, Partitions: 3, ReplicationFactor: 1}
}

func mustSubmit(t *testing.T, c *raftmeta.Controller, cmds ...control.Command) (index uint64) {
	t.Helper()
	for i, o := range submit(t.Context(), c, cmds...) {
		if o.Err != nil {
			t.Fatalf("command %d: %v", i, o.Err)
		}
		index = max(index, o.Index)
	}
	return index
}

// join registers a broker and unfences it. It returns the index of that.
func join(t *testing.T, c *raftmeta.Controller, b *control.RegisterBroker) (index uint64) {
	t.Helper()
	epoch := mustSubmit(t, c, b)
	return mustSubmit(t, c, &control.UnfenceBroker{ID: b.ID, Epoch: int64(epoch)})
}

func TestThousandTopicsAtOnceAndAfterReopening(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	log := openLog(t, dir)
	c := open(t, log)
	view, stop := run(t, c)
	join(t, c, register())

	const topics = 1000
	var wg sync.WaitGroup
	for i := range topics {
		wg.Go(func() {
			o := submit(t.Context(), c, topic(i))[0]
			if o.Err != nil {
				t.Errorf("topic %d: %v", i, o.Err)
				return
			}
			if err := view.Wait(t.Context(), o.Index); err != nil {
				t.Error(err)
				return
			}
			// Whoever has its answer finds it in a view that has come as far.
			if x, ok := view.Image().Topic(topic(i).Name); !ok || x.NumPartitions() != 3 {
				t.Errorf("topic %d is not in the view at %d, it was made at %d", i, view.Image().Index(), o.Index)
			}
		})
	}
	wg.Wait()
	before := view.Image()
	if before.NumTopics() != topics {
		t.Fatalf("%d topics", before.NumTopics())
	}
	stop()
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}

	log = openLog(t, dir)
	defer log.Close()
	c = open(t, log)
	view, stop = run(t, c)
	defer stop()
	if err := view.Wait(t.Context(), before.Index()); err != nil {
		t.Fatal(err)
	}
	if got := view.Image(); string(got.Encode()) != string(before.Encode()) {
		t.Fatalf("after reopening the image is at %d with %d topics, it was at %d with %d", got.Index(), got.NumTopics(), before.Index(), topics)
	}
	mustSubmit(t, c, topic(topics))
}

// The answers of one Submit belong to its commands, in their order.
func TestOutcomesAreInOrder(t *testing.T) {
	c := open(t, memwal.New())
	run(t, c)
	join(t, c, register())
	outcomes := submit(t.Context(), c, register(), topic(1), topic(1), topic(2))
	for i, code := range []control.Code{0, 0, control.TopicExists, 0} {
		var r *control.Refusal
		if refused := errors.As(outcomes[i].Err, &r); refused != (code != 0) || refused && r.Code != code {
			t.Errorf("command %d: %v", i, outcomes[i].Err)
		}
	}
	if created, ok := outcomes[3].Reply.(*control.CreatedTopic); !ok || created.ID != topic(2).ID {
		t.Errorf("the reply for the last topic is %+v", outcomes[3].Reply)
	}
}

func TestSubmitThatIsNotWaitedForIsUnknown(t *testing.T) {
	c := open(t, memwal.New()) // nobody runs it
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for range 50 { // whether the command is handed over or not
		o := submit(ctx, c, topic(1))[0]
		// Handed over it is unknown, and otherwise surely not done.
		if !errors.Is(o.Err, raftmeta.ErrUnknown) && !errors.Is(o.Err, raftmeta.ErrNotLeader) || !errors.Is(o.Err, context.Canceled) {
			t.Fatalf("outcome %+v", o)
		}
	}
}

func TestStoppedControllerAnswers(t *testing.T) {
	c := open(t, memwal.New())
	view, stop := run(t, c)
	index := join(t, c, register())
	if err := view.Wait(t.Context(), index); err != nil {
		t.Fatal(err)
	}
	stop()
	for range 50 {
		if o := submit(t.Context(), c, topic(1))[0]; !errors.Is(o.Err, raftmeta.ErrUnknown) && !errors.Is(o.Err, raftmeta.ErrNotLeader) {
			t.Fatalf("outcome %+v", o)
		}
	}
	if _, err := c.Units(t.Context(), index, 1); err == nil {
		t.Fatal("units of a controller that has stopped are waited for")
	}
}

// A log that cannot be written ends the controller, and nobody hears of a success.
func TestFailedWriteEndsTheController(t *testing.T) {
	log := memwal.New()
	c := open(t, log)
	ended := make(chan error, 1)
	go func() { ended <- c.Run(t.Context()) }()
	join(t, c, register())
	next := log.Crash(rand.New(rand.NewPCG(1, 1)))
	if o := submit(t.Context(), c, topic(1))[0]; !errors.Is(o.Err, raftmeta.ErrUnknown) {
		t.Fatalf("outcome %+v", o)
	}
	if err := <-ended; !errors.Is(err, memwal.ErrPowerCut) {
		t.Fatalf("the controller ended with %v", err)
	}
	c = open(t, next)
	run(t, c)
	mustSubmit(t, c, topic(1)) // the broker is known
}

// watchedLog calls a function while it saves.
type watchedLog struct {
	wal.Log
	saving func()
}

func (l watchedLog) Save(w wal.Write) error {
	l.saving()
	return l.Log.Save(w)
}

// A command that waits for the disk is seen to wait, while the loop can do nothing.
func TestWaitingIsSeen(t *testing.T) {
	reg := prometheus.NewRegistry()
	waits := func() float64 {
		families, err := reg.Gather()
		if err != nil {
			t.Error(err)
		}
		for _, f := range families {
			if f.GetName() == "streambus_raft_waiting_seconds" {
				return f.GetMetric()[0].GetGauge().GetValue()
			}
		}
		t.Error("there is no such metric")
		return 0
	}
	var seen atomic.Bool
	c := openRegistered(t, watchedLog{memwal.New(), func() { seen.Store(waits() > 0) }}, 0, reg)
	if waits() != 0 {
		t.Error("nothing waits yet")
	}
	run(t, c)
	join(t, c, register())
	seen.Store(false)
	mustSubmit(t, c, topic(1))
	if !seen.Load() {
		t.Error("while the log was written nothing waited")
	}
}

func TestUnitsFromTheFuture(t *testing.T) {
	c := open(t, memwal.New())
	run(t, c)
	index := join(t, c, register())
	if _, err := c.Units(t.Context(), index+1, 1); !errors.Is(err, raftmeta.ErrAhead) {
		t.Fatalf("a follower that is ahead of the controller is not told: %v", err)
	}
}

// A view goes on from an image of its own: that is published and shown, and then what came later, as units.
func TestViewGoesOn(t *testing.T) {
	c := open(t, openLog(t, filepath.Join(t.TempDir(), "raft")))
	view, _ := run(t, c)
	join(t, c, register())
	index := mustSubmit(t, c, topic(1))
	if err := view.Wait(t.Context(), index); err != nil {
		t.Fatal(err)
	}
	own := view.Image().Encode()
	last := mustSubmit(t, c, topic(2))
	state, err := follow.Resume(cluster, own)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	next := raftmeta.NewView()
	var published []follow.Change
	var shown []uint64
	err = next.Follow(ctx, state, c.Units, func(ch follow.Change) {
		if next.Image().Index() >= ch.Image.Index() {
			t.Errorf("image %d was visible before it was published", ch.Image.Index())
		}
		published = append(published, ch)
	}, func(i uint64, _ bool) {
		if shown = append(shown, i); i == last {
			cancel()
		}
	})
	if err != nil || len(published) != 2 || published[0].Image.Index() != index || !published[0].Awaited || published[1].Records == nil || !slices.Equal(shown, []uint64{index, last}) {
		t.Errorf("%v; %d changes, shown %v, want %d and %d", err, len(published), shown, index, last)
	}
	if _, err := follow.Resume("another", own); err == nil {
		t.Error("a view goes on from the image of another cluster")
	}
}

// However little is taken at a time, the units of a follower lead to the same image.
func TestUnitsOneByOne(t *testing.T) {
	c := open(t, memwal.New())
	run(t, c)
	from := join(t, c, register())
	var to uint64
	for i := range 10 {
		to = mustSubmit(t, c, topic(i))
	}
	for at := from; at < to; {
		batch, err := c.Units(t.Context(), at, 1)
		if err != nil || batch.Snapshot != nil || len(batch.Units) != 1 || batch.Units[0].Index <= at {
			t.Fatalf("behind %d came %d units and a snapshot of %d bytes: %v", at, len(batch.Units), len(batch.Snapshot), err)
		}
		at = batch.Units[0].Index
	}
	batch, err := c.Units(t.Context(), from, 1<<20)
	if err != nil || len(batch.Units) != 10 {
		t.Fatalf("%d units at once: %v", len(batch.Units), err)
	}
	batch, err = c.Units(t.Context(), 0, 1<<20)
	if err != nil || len(batch.Units) > 0 || batch.Snapshot == nil {
		t.Fatalf("from nothing: %d units, %v", len(batch.Units), err)
	}
	img, err := image.DecodeImage(batch.Snapshot)
	if err != nil || img.NumTopics() != 10 {
		t.Fatalf("the snapshot: %v", err)
	}
}

// A snapshot is written while commands go on, the log shrinks behind it, and a start goes from it: producer ids that were
// handed out before a power cut are not handed out again.
func TestSnapshotAndCompactionUnderLoad(t *testing.T) {
	log := memwal.New()
	c := openWith(t, log, 128<<10)
	view, stop := run(t, c)
	if err := view.Wait(t.Context(), join(t, c, register())); err != nil {
		t.Fatal(err)
	}
	broker, _ := view.Image().Broker(1)
	block := &control.AllocateProducerIDs{BrokerID: 1, BrokerEpoch: broker.Epoch, Count: 10}
	const blocks = 12_000 // more entries than stay behind a snapshot
	for range blocks {
		mustSubmit(t, c, block)
	}
	stop()
	s, err := log.Load()
	if err != nil {
		t.Fatal(err)
	}
	at, kept := s.Snapshot.GetMetadata().GetIndex(), s.Entries[0].GetIndex()
	if at < 10_000 || kept < 2 || kept > at {
		t.Fatalf("the snapshot stands at %d and the log begins at %d", at, kept)
	}
	c = open(t, log.Crash(rand.New(rand.NewPCG(2, 2))))
	run(t, c)
	if o := submit(t.Context(), c, block)[0]; o.Err != nil || o.Reply.(*control.ProducerIDBlock).First != blocks*10 {
		t.Fatalf("the next block is %+v", o)
	}
}
