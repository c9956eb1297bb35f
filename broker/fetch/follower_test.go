package fetch

import (
	"context"
	"errors"
	"math"
	"testing"
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// newLed is a topic of one partition that this broker leads and broker 2 follows.
func newLed(t *testing.T) *disk {
	t.Helper()
	d := newDisk(t, vfs.NewMem(), 1, nil)
	d.do(&control.RegisterBroker{ID: 2, Incarnation: image.UUID{2}, Levels: image.OwnLevels, Dirs: []image.UUID{{8}}})
	b, _ := d.img.Broker(2)
	d.do(&control.UnfenceBroker{ID: 2, Epoch: b.Epoch})
	d.do(&control.DeleteTopic{Name: "t"})
	d.do(&control.CreateTopic{Name: "t", ID: image.UUID{8}, Assignments: [][]int32{{1, 2}}, ReplicationFactor: -1, Partitions: -1})
	return d
}

// follower fetches as broker 2 does.
type follower struct {
	client
	epochOf int64
}

func newFollower(d *disk, f *Fetcher) *follower {
	b, _ := d.img.Broker(2)
	c := newClient(d, f)
	c.byID, c.wait = true, never
	return &follower{*c, b.Epoch}
}

// at names the partition: what the follower has, and whether it wants more.
func (c *follower) at(end, flushed int64, read bool) []Partition {
	return []Partition{{
		Name:  c.name(0),
		Ask:   Ask{Offset: end, LeaderEpoch: 0, LastEpoch: -1, MaxBytes: math.MaxInt32},
		State: protocol.FollowerState{FlushedEnd: flushed, Read: read},
	}}
}

func (c *follower) send(named []Partition) chan Answer {
	in := &Incoming{
		Session: c.id, Epoch: c.epoch, ByID: true, Partitions: named, MinBytes: 1, MaxBytes: math.MaxInt32, MaxWait: c.wait, Resolve: c.resolve,
		Follower: &Follower{ID: 2, Epoch: c.epochOf},
	}
	if c.epoch == 0 {
		in.MaxWait = 0
	}
	c.epoch++
	answer := make(chan Answer, 1)
	c.f.Fetch(context.Background(), in, func(a Answer) { answer <- a })
	return answer
}

func (c *follower) open(t *testing.T, end, flushed int64) Answer {
	t.Helper()
	a := <-c.send(c.at(end, flushed, true))
	if a.Err != nil || a.Session == 0 {
		t.Fatalf("the session is not opened: %+v", a)
	}
	c.id = a.Session
	return a
}

func (d *disk) appendAll(item *replica.WaitItem, value string) {
	d.t.Helper()
	if _, err := d.replica(0).Append(batchtest.Values(value).Encode(), partition.AcksAll, item, time.Now()); err != nil {
		d.t.Fatal(err)
	}
}

func recordsOf(a Answer) (bytes int64) {
	for i := range a.Rows {
		bytes += a.Rows[i].Records.Len()
	}
	return bytes
}

func waits(t *testing.T, answer chan Answer) {
	t.Helper()
	select {
	case a := <-answer:
		t.Fatalf("it is answered: %+v", a)
	default:
	}
}

// A follower is given what nobody else sees, and what it reports makes it seen.
func TestFollowerIsServedToTheEnd(t *testing.T) {
	d := newLed(t)
	c := newFollower(d, New(math.MaxInt32, 10, false))
	w := replica.NewWait(1)
	d.appendAll(&w.Items[0], "x")
	acked := make(chan struct{})
	w.Begin(time.Minute, func() { close(acked) })
	if v, err := d.replica(0).Read(replica.Consumer, 0, -1, math.MaxInt32, true); err != nil || v.Records.Len() != 0 || v.HighWatermark != 0 {
		t.Fatalf("a consumer sees %d bytes to %d, %v", v.Records.Len(), v.HighWatermark, err)
	}
	if a := c.open(t, 0, 0); recordsOf(a) == 0 {
		t.Fatalf("the follower gets nothing: %+v", a)
	}
	waiting := c.send(c.at(1, 0, true))
	waits(t, waiting)
	c.send(c.at(1, 1, false)) // it has flushed
	<-acked
	if w.Items[0].Err != nil {
		t.Error(w.Items[0].Err)
	}
	if a := <-waiting; len(a.Rows) != 0 || a.Err != nil {
		t.Errorf("the request that waited is answered with %+v, want nothing", a)
	}
}

// A report ends the request that waits, with nothing, and does not get what is on its
// way already; when the follower has it, it gets what came since, at once.
func TestFollowerReports(t *testing.T) {
	d := newLed(t)
	c := newFollower(d, New(math.MaxInt32, 10, false))
	c.open(t, 0, 0)
	first := c.send(nil)
	waits(t, first)
	d.appendAll(nil, "x")
	if a := <-first; recordsOf(a) == 0 {
		t.Fatalf("an append does not wake the request: %+v", a)
	}
	report := c.send(c.at(0, 0, false)) // sent before that answer came
	waits(t, report)
	d.appendAll(nil, "y")
	waits(t, report)
	more := c.send(c.at(1, 0, true))
	if a := <-report; len(a.Rows) != 0 {
		t.Errorf("the report is answered with %+v, want nothing", a)
	}
	if a := <-more; recordsOf(a) == 0 || a.Rows[0].Limit != 2 {
		t.Errorf("the second record does not come: %+v", a)
	}
}

// One session per follower, whatever the limit is; the one before ends.
func TestFollowerHasOneSession(t *testing.T) {
	d := newLed(t)
	f := New(math.MaxInt32, 0, false)
	c, again := newFollower(d, f), newFollower(d, f)
	c.open(t, 0, 0)
	again.open(t, 0, 0)
	if a := <-c.send(nil); !errors.Is(a.Err, ErrNoSession) {
		t.Errorf("the session before goes on: %+v", a)
	}
	waits(t, again.send(nil))
}

// A former incarnation is refused, and told so.
func TestFollowerOfAnEarlierLife(t *testing.T) {
	d := newLed(t)
	f := New(math.MaxInt32, 10, false)
	newFollower(d, f).open(t, 0, 0)
	former := newFollower(d, f)
	former.epochOf--
	if a := <-former.send(former.at(0, 0, true)); len(a.Rows) != 1 || !errors.Is(a.Rows[0].Err, partition.ErrNotReplica) {
		t.Errorf("it is answered %+v", a)
	}
}
