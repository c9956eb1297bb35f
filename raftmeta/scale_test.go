package raftmeta_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/wal"
)

const (
	scaleBrokers = 9
	scaleTopic   = 10_000 // partitions of a topic
)

// BenchmarkScale is a controller with a real log, nine brokers that are no processes, and many partitions of three
// replicas, beside what the disk takes in the same run. Run it once: -benchtime 1x.
func BenchmarkScale(b *testing.B) {
	for _, n := range []int{100_000, 1_000_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) { runScale(b, n) })
	}
}

// scale is one controller and the view that follows it.
type scale struct {
	b       *testing.B
	c       *raftmeta.Controller
	view    *raftmeta.View
	reg     *prometheus.Registry
	opened  time.Duration
	refused atomic.Int32 // the broker whose listener refuses connections, -1 for none
	stop    func()
}

func runScale(b *testing.B, partitions int) {
	dir := b.TempDir()
	report(b, "disk, fdatasync of 4 KiB, p50", millis(disk(b, dir)), "ms")
	log := openScaleLog(b, dir)
	before := heap()
	s := openScale(b, log, 0)
	begun := time.Now()
	for i := range scaleBrokers {
		s.must(&control.RegisterBroker{ID: int32(i), Incarnation: broker(i), Levels: image.OwnLevels, Dirs: []image.UUID{{2, byte(i)}}})
		b, _ := s.c.Image().Broker(int32(i))
		s.must(&control.UnfenceBroker{ID: b.ID, Epoch: b.Epoch})
	}
	for i := range partitions / scaleTopic {
		s.must(&control.CreateTopic{Name: fmt.Sprint("topic-", i), ID: image.UUID{3, byte(i)}, Partitions: scaleTopic, ReplicationFactor: 3})
	}
	report(b, "create 10,000 partitions", millis(time.Since(begun))/float64(partitions/scaleTopic), "ms")
	report(b, "memory, with log and units", float64(heap()-before)/float64(partitions), "B/partition")
	s.alterISRs("durable", 2_000)
	s.fail(0)
	s.close(log)

	log = openScaleLog(b, dir)
	s = openScale(b, log, 1)
	report(b, "start from the log", millis(s.opened), "ms")
	begun = time.Now()
	snapshot := s.c.Image().Encode()
	report(b, "snapshot, encoded", millis(time.Since(begun)), "ms")
	report(b, "snapshot", float64(len(snapshot))/float64(partitions), "B/partition")
	begun = time.Now()
	s.must(&control.CreateTopic{Name: "one-more", ID: image.UUID{4}, Partitions: 1, ReplicationFactor: 3})
	s.stop() // it waits for the snapshot
	report(b, "snapshot, encoded and written", millis(time.Since(begun)), "ms")
	s.close(log)

	log = openScaleLog(b, dir)
	s = openScale(b, unwritten{log}, 0)
	report(b, "start from a snapshot", millis(s.opened), "ms")
	s.alterISRs("not written", 20_000)
	s.close(log)
}

// unwritten is a log that keeps nothing of what is new: what is left then is the controller's own part.
type unwritten struct{ wal.Log }

func (unwritten) Save(wal.Write) error { return nil }

// report makes a line of a figure.
func report(b *testing.B, name string, value float64, unit string) {
	b.Run(name, func(b *testing.B) {
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(value, unit)
	})
}

func broker(i int) image.UUID { return image.UUID{1, byte(i)} }

func micros(d time.Duration) float64 { return d.Seconds() * 1e6 }

func millis(d time.Duration) float64 { return d.Seconds() * 1000 }

// disk is the median time of a durable append.
func disk(b *testing.B, dir string) time.Duration {
	f, err := os.Create(filepath.Join(dir, "disk"))
	if err != nil {
		b.Fatal(err)
	}
	defer f.Close()
	page := make([]byte, 4096)
	var times []time.Duration
	for range 200 {
		begun := time.Now()
		if _, err := f.Write(page); err != nil {
			b.Fatal(err)
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			b.Fatal(err)
		}
		times = append(times, time.Since(begun))
	}
	slices.Sort(times)
	return times[len(times)/2]
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// processorTime is that of this process.
func processorTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func openScaleLog(b *testing.B, dir string) wal.Log {
	log, err := wal.Open(filepath.Join(dir, "raft"))
	if err != nil {
		b.Fatal(err)
	}
	return log
}

// openScale opens a controller that is alone, runs it, and waits until the view has everything.
func openScale(b *testing.B, log wal.Log, snapshotBytes int) *scale {
	s := &scale{b: b, view: raftmeta.NewView(), reg: prometheus.NewRegistry()}
	s.refused.Store(-1)
	state, err := log.Load()
	if err == nil && !state.Formed() {
		var id uint64
		if id, err = raftmeta.DrawRaftID(log); err == nil {
			err = raftmeta.Form(log, id, cluster, image.Voter{RaftID: id, NodeID: 100})
		}
	}
	if err != nil {
		b.Fatal(err)
	}
	state = wal.State{}
	begun := time.Now()
	s.c, err = raftmeta.Open(raftmeta.Config{
		NodeID: 100, ClusterID: cluster, Logger: slog.New(slog.DiscardHandler), Registerer: s.reg,
		SnapshotBytes: snapshotBytes, Session: time.Hour, Members: func([]image.Voter) {},
		Probe: func(_ context.Context, x *image.Broker) (liveness.Finding, image.UUID) {
			if x.ID == s.refused.Load() {
				return liveness.Refused, image.UUID{}
			}
			return liveness.Alive, x.Incarnation
		},
		Send: func(quorum.Message) {},
	}, log)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.c.Run(ctx); err != nil {
			b.Errorf("the controller ended: %v", err)
		}
	})
	wg.Go(func() { // it ends with the controller
		_ = s.view.Follow(ctx, follow.New(cluster), s.c.Units, func(follow.Change) {}, func(uint64, bool) {})
	})
	s.stop = sync.OnceFunc(func() {
		cancel()
		wg.Wait()
	})
	index, err := s.c.ReadIndex(ctx)
	if err == nil {
		err = s.view.Wait(ctx, index)
	}
	if err != nil {
		b.Fatal(err)
	}
	s.opened = time.Since(begun)
	return s
}

func (s *scale) close(log wal.Log) {
	s.stop()
	if err := log.Close(); err != nil {
		s.b.Fatal(err)
	}
	s.c, s.view = nil, nil
}

func (s *scale) must(cmd control.Command) any {
	o := submit(context.Background(), s.c, cmd)[0]
	if o.Err != nil {
		s.b.Fatal(o.Err)
	}
	return o.Reply
}

// alterISRs has leaders drop a follower from an ISR and take it back, one partition at a time.
func (s *scale) alterISRs(how string, isrChanges int) {
	img := s.c.Image()
	topics := slices.Collect(img.Topics())[:img.NumPartitions()/scaleTopic]
	var whole []int32 // the ISR before the last one was dropped
	used := processorTime(s.b)
	begun := time.Now()
	for n := range isrChanges {
		i := int32(n / 2 * 104729 % scaleTopic)
		t, _ := s.c.Image().TopicByID(topics[n/2*7919%len(topics)].ID)
		p, _ := t.Partition(i)
		leader, _ := img.Broker(p.Leader)
		x := control.ISRChange{Topic: t.ID, Partition: i, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
		if n%2 == 0 {
			whole = p.ISR
		}
		for _, r := range whole {
			if n%2 == 1 || r == p.Leader || r != whole[len(whole)-1] {
				x.ISR = append(x.ISR, control.ISRMember{ID: r, Epoch: -1})
			}
		}
		s.must(&control.AlterPartition{BrokerID: leader.ID, BrokerEpoch: leader.Epoch, Partitions: []control.ISRChange{x}})
	}
	report(s.b, "one ISR change, "+how, micros(time.Since(begun))/float64(isrChanges), "us")
	report(s.b, "one ISR change, "+how+", CPU", micros(processorTime(s.b)-used)/float64(isrChanges), "us")
}

// fail ends the process of a broker: the controller finds that, and others lead what it led.
func (s *scale) fail(node int32) {
	x, _ := s.c.Image().Broker(node)
	s.refused.Store(node)
	s.beside("a broker is fenced", func() {
		begun, used := time.Now(), processorTime(s.b)
		s.c.BrokerClosed(node, x.Incarnation)
		s.await(func(img *image.Image) bool { return img.Count(node, image.Leads) == 0 })
		report(s.b, "leaders of a failed broker moved", millis(time.Since(begun)), "ms")
		report(s.b, "leaders of a failed broker moved, CPU", millis(processorTime(s.b)-used), "ms")
		s.await(func(img *image.Image) bool { x, _ := img.Broker(node); return x.Fenced })
		report(s.b, "failed broker fenced", millis(time.Since(begun)), "ms")
		report(s.b, "failed broker fenced, CPU", millis(processorTime(s.b)-used), "ms")
	})
}

// await returns when the view has an image that is as asked.
func (s *scale) await(done func(*image.Image) bool) {
	for !done(s.view.Image()) {
		if err := s.view.Wait(context.Background(), s.view.Image().Index()+1); err != nil {
			s.b.Fatal(err)
		}
	}
}

// beside reports how long others wait for the controller while something is done: a heartbeat every few milliseconds, and
// the turns of its loop without writes of the log, as the powers of two above them. What a goroutine with nothing to do is
// late is the machine's part in that.
func (s *scale) beside(what string, do func()) {
	before := s.turns()
	ctx, cancel := context.WithCancel(context.Background())
	var late, waited time.Duration
	var all sync.WaitGroup
	all.Go(func() {
		every(ctx, func(due time.Time) { late = max(late, time.Since(due)) })
	})
	x, _ := s.c.Image().Broker(1)
	all.Go(func() {
		every(ctx, func(time.Time) {
			begun := time.Now()
			_, err := s.c.Heartbeat(ctx, liveness.Heartbeat{Node: x.ID, Incarnation: x.Incarnation, Epoch: x.Epoch, Applied: s.view.Image().Index()})
			if err == nil { // else the controller has stopped
				waited = max(waited, time.Since(begun))
			}
		})
	})
	do()
	cancel()
	all.Wait()
	report(s.b, "longest delay of an idle goroutine while "+what, millis(late), "ms")
	report(s.b, "longest wait of a heartbeat while "+what, millis(waited), "ms")
	after := s.turns()
	bounds := slices.Sorted(maps.Keys(after))
	total := after[math.Inf(1)] - before[math.Inf(1)]
	for _, of := range []struct {
		name string
		rank uint64
	}{{"p50", (total + 1) / 2}, {"p99", (total*99 + 99) / 100}, {"longest", total}} {
		at := slices.IndexFunc(bounds, func(bound float64) bool { return after[bound]-before[bound] >= of.rank })
		report(s.b, "turns while "+what+", "+of.name, bounds[at]*1000, "ms-or-less")
	}
}

// every calls do every other millisecond until ctx ends, with the time at which the call was due.
func every(ctx context.Context, do func(due time.Time)) {
	const pause = 2 * time.Millisecond
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		due := time.Now().Add(pause)
		timer.Reset(pause)
		select {
		case <-timer.C:
			do(due)
		case <-ctx.Done():
			return
		}
	}
}

// turns counts the turns of the loop that were no longer than a bound in seconds.
func (s *scale) turns() map[float64]uint64 {
	families, err := s.reg.Gather()
	if err != nil {
		s.b.Fatal(err)
	}
	counts := map[float64]uint64{}
	for _, f := range families {
		if f.GetName() == "streambus_raft_turn_seconds" {
			h := f.GetMetric()[0].GetHistogram()
			for _, x := range h.GetBucket() {
				counts[x.GetUpperBound()] = x.GetCumulativeCount()
			}
			counts[math.Inf(1)] = h.GetSampleCount()
		}
	}
	return counts
}
