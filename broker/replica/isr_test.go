package replica

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// led is a partition that node 1 leads, with a replica on node 2 too, and what the
// controllers answer.
type led struct {
	t   *testing.T
	m   *Manager
	r   *Replica
	reg *prometheus.Registry
	img *image.Image

	changes []ISRChange // that were asked for
	verdict Verdict
	before  func() // the answer
	asked   context.CancelFunc
}

var ledTopic = image.UUID{1}

const epochOf2 = 1

func newLed(t *testing.T) *led {
	dir, err := storage.OpenDir(vfs.NewMem(), "/data")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.CloseDirty() })
	l := &led{t: t, reg: prometheus.NewRegistry(), before: func() {}}
	l.m = New(Config{NodeID: 1, RecoveryThreads: 1, MaxLag: time.Nanosecond, AlterISR: l.alter}, dir, slog.New(slog.DiscardHandler), l.reg)
	// A change of the brokers has all followers looked at.
	l.apply(image.Apply(image.Empty(), epochOf2, []image.Record{&image.BrokerRecord{ID: 1}, &image.BrokerRecord{ID: 2}}))
	img, d := image.Apply(l.img, 2, []image.Record{
		&image.TopicRecord{Name: "t-t", ID: ledTopic},
		&image.PartitionsRecord{Topic: ledTopic, Partitions: []image.Partition{partitionOf(0, 1, 2)}},
	})
	l.apply(img, d)
	if l.r, err = l.m.Find(ledTopic, 0); err != nil {
		t.Fatal(err)
	}
	return l
}

func partitionOf(epoch int32, isr ...int32) image.Partition {
	return image.Partition{Replicas: []int32{1, 2}, ISR: isr, Dirs: "\x00\x00", Leader: 1, PartitionEpoch: epoch}
}

func (l *led) apply(img *image.Image, d *image.Delta) {
	l.img = img
	l.m.Apply(img, d)
}

// changed is the image's next state of the partition.
func (l *led) changed(p image.Partition) {
	img, d := image.Apply(l.img, l.img.Index()+1, []image.Record{&image.PartitionChangeRecord{Topic: ledTopic, Partition: p}})
	l.apply(img, d)
}

// alter answers one request, and has nothing more asked for.
func (l *led) alter(_ context.Context, changes []ISRChange) []ISRAnswer {
	l.changes = append(l.changes, changes...)
	l.before()
	l.asked()
	var isr []int32
	for _, m := range changes[0].ISR {
		isr = append(isr, m.ID)
	}
	return []ISRAnswer{{Verdict: l.verdict, PartitionEpoch: changes[0].PartitionEpoch + 1, ISR: isr}}
}

// answers has what is proposed asked for, and answered.
func (l *led) answers(v Verdict, before func()) {
	l.t.Helper()
	n := len(l.changes)
	ctx, cancel := context.WithTimeout(l.t.Context(), 10*time.Second)
	defer cancel()
	l.verdict, l.before, l.asked = v, before, cancel
	l.m.alterISRs(ctx)
	if len(l.changes) != n+1 {
		l.t.Fatalf("%d changes were asked for, want one", len(l.changes)-n)
	}
}

// counted is shrinks, expands and failures.
func (l *led) counted(want string) {
	l.t.Helper()
	got := map[string]float64{}
	families, err := l.reg.Gather()
	if err != nil {
		l.t.Fatal(err)
	}
	for _, f := range families {
		if name, ok := strings.CutPrefix(f.GetName(), "kafka_server_replicamanager_"); ok {
			got[name] = f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	if text := fmt.Sprint(got["isrshrinks_total"], got["isrexpands_total"], got["failedisrupdates_total"]); text != want {
		l.t.Errorf("shrinks, expands and failures are %s, want %s", text, want)
	}
}

func (l *led) append(values ...string) {
	l.t.Helper()
	if _, err := l.r.Append(batchtest.Values(values...).Encode(), partition.AcksLeader, nil, time.Now()); err != nil {
		l.t.Fatal(err)
	}
	l.m.flush()
}

func (l *led) reported(end, flushed int64) {
	l.t.Helper()
	err := l.r.Reported(partition.Report{Replica: 2, BrokerEpoch: epochOf2, LogEnd: end, FlushedEnd: flushed, LastEpoch: -1}, time.Now())
	if err != nil {
		l.t.Fatal(err)
	}
}

// A change of the ISR counts once, by what came of it, whatever comes first: the
// answer or the image.
func TestISRChangesAreCounted(t *testing.T) {
	nothing := func() {}
	l := newLed(t)
	l.append("a", "b")
	l.m.judge(l.img) // node 2 has nothing, and may not be behind at all
	l.answers(Unanswered, nothing)
	l.counted("0 0 0")
	l.answers(Declined, nothing)
	l.counted("0 0 1")
	l.m.judge(l.img)
	l.answers(Superseded, nothing)
	l.counted("0 0 2")
	l.changed(partitionOf(1, 1, 2))
	l.m.judge(l.img)
	l.answers(Made, nothing)
	l.counted("1 0 2")
	l.changed(partitionOf(2, 1)) // the image tells the same
	l.counted("1 0 2")

	l.reported(2, 2)
	l.answers(Made, func() { l.changed(partitionOf(3, 1, 2)) })
	l.counted("1 1 2")
	l.m.judge(l.img)
	if c, ok := l.r.proposal(); ok {
		t.Errorf("%+v is proposed while all have everything", c)
	}
}

// The state has what the leader counts by, and says when the metadata is the reason.
func TestState(t *testing.T) {
	l := newLed(t)
	l.append("a", "b")
	l.append("c")
	l.reported(2, 1)
	s := l.r.State(time.Now())
	if s.Topic != "t-t" || s.Partition != 0 || s.Leader != 1 || s.LogEnd != 3 || s.FlushedEnd != 3 || s.HighWatermark != 1 || s.MinISR != 1 ||
		s.Bytes == 0 || s.Segments != 1 || fmt.Sprint(s.Replicas, s.ISR, s.PendingISR) != "[1 2] [1 2] []" || s.Following != nil || len(s.Followers) != 1 {
		t.Fatalf("%+v", s)
	}
	if l.m.LastFlush() <= 0 {
		t.Error("no flush took any time")
	}
	why := func(standing partition.Standing, says string) {
		t.Helper()
		if f := l.r.State(time.Now()).Followers[0]; f.Standing != standing || !strings.Contains(f.Why, says) {
			t.Errorf("%s: %s; want %s: %s", f.Standing, f.Why, standing, says)
		}
	}
	why(partition.In, "flushed to 1 of 3, written to 2, behind for")
	l.m.judge(l.img)
	why(partition.Leaves, "asked for 0s ago")
	if s := l.r.State(time.Now()); fmt.Sprint(s.PendingISR) != "[1]" {
		t.Errorf("%v is asked for", s.PendingISR)
	}
	l.answers(Made, func() {})
	why(partition.Out, "it may enter from 3 on, the high watermark")
	for says, record := range map[string]image.Record{
		"fenced":         &image.BrokerChangeRecord{ID: 2, Epoch: epochOf2, Fenced: true},
		"shutting down":  &image.BrokerChangeRecord{ID: 2, Epoch: epochOf2, InControlledShutdown: true},
		"not registered": &image.BrokerRemovalRecord{ID: 2, Epoch: epochOf2},
		"started anew":   &image.BrokerRecord{ID: 2},
	} {
		l.m.Apply(image.Apply(l.img, 9, []image.Record{record}))
		why(partition.Out, "the controllers have it as "+says)
	}
	l.r.fail(fmt.Errorf("the disk is gone"))
	if s := l.r.State(time.Now()); s.Error != "the disk is gone" || s.Leader != 1 || len(s.Replicas) != 2 {
		t.Errorf("%+v", s)
	}
}

// A follower says what it waits for: its leader first.
func TestStateOfAFollower(t *testing.T) {
	l := newLed(t)
	p := partitionOf(1, 1, 2)
	p.Leader, p.LeaderEpoch = 2, 1
	l.changed(p)
	waits := func(says, failure string) {
		t.Helper()
		s := l.r.State(time.Now())
		if s.Leader != 2 || s.Followers != nil || s.Following == nil || s.Following.Waits != says || s.Following.Error != failure {
			t.Errorf("%+v, %+v; want %q, %q", s, s.Following, says, failure)
		}
	}
	waits("a connection to node 2", "")
	f := l.r.source.Load().f
	f.fell(fmt.Errorf("refused"))
	waits("a connection to node 2", "refused")
	f.restart()
	waits("more: it has all that it was told of", "")
	l.r.part.Fetched(0, 5)
	waits("records: it has written to 0, and 5 is acknowledged", "")
	if s := l.r.State(time.Now()); s.Following.Lag != 5 || l.r.Status().Lag != 5 {
		t.Errorf("it lacks %d, %d records", s.Following.Lag, l.r.Status().Lag)
	}
	l.r.source.Load().trouble = fmt.Errorf("odd")
	waits("to ask node 2 again after an error", "odd")
	l.r.source.Load().trouble = nil
	f.underWay, f.answered = 1, time.Now().Add(-time.Hour)
	if s := l.r.State(time.Now()); !strings.HasPrefix(s.Following.Waits, "an answer of node 2, which has said nothing for 1h0m0") || s.Following.UnderWay != 1 {
		t.Errorf("%+v", s.Following)
	}
}
