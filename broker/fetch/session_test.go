package fetch

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

var errNoTopic = errors.New("there is no such topic")

// client fetches through a session, as a consumer does.
type client struct {
	d         *disk
	f         *Fetcher
	id, epoch int32
	byID      bool
	topic     image.UUID
	wait      time.Duration
	max, min  int32
}

func newClient(d *disk, f *Fetcher) *client {
	return &client{d: d, f: f, topic: d.topic.ID, max: math.MaxInt32, min: 1}
}

// ask names partitions, each with an offset.
func (c *client) partitions(offsets map[int32]int64) (ps []Partition) {
	for i := range int32(100) {
		if offset, ok := offsets[i]; ok {
			ps = append(ps, Partition{Name: c.name(i), Ask: Ask{Offset: offset, LeaderEpoch: -1, LastEpoch: -1, MaxBytes: c.max}})
		}
	}
	return ps
}

func (c *client) name(i int32) Name {
	if c.byID {
		return Name{ID: c.topic, Index: i}
	}
	return Name{Topic: "t", Index: i}
}

func (c *client) resolve(n Name) (*replica.Replica, error) {
	t, ok := c.d.current.Load().Topic(n.Topic)
	if c.byID {
		t, ok = c.d.current.Load().TopicByID(n.ID)
	}
	if !ok {
		return nil, errNoTopic
	}
	return c.d.replicas.Find(t.ID, n.Index)
}

// send is the next request of the session.
func (c *client) send(named map[int32]int64, forgotten ...int32) chan Answer {
	in := &Incoming{
		Session: c.id, Epoch: c.epoch, ByID: c.byID, Partitions: c.partitions(named),
		MinBytes: c.min, MaxBytes: c.max, MaxWait: c.wait, Resolve: c.resolve,
	}
	for _, i := range forgotten {
		in.Forgotten = append(in.Forgotten, c.name(i))
	}
	c.epoch++
	answers := make(chan Answer, 2)
	c.f.Fetch(context.Background(), in, func(a Answer) { answers <- a })
	return answers
}

// now is the answer to a request that need not wait.
func (c *client) now(named map[int32]int64, forgotten ...int32) Answer {
	c.d.t.Helper()
	select {
	case a := <-c.send(named, forgotten...):
		return a
	default:
		c.d.t.Fatal("the request waits")
		return Answer{}
	}
}

// open opens the session.
func (c *client) open(named map[int32]int64) Answer {
	c.d.t.Helper()
	c.id, c.epoch = 0, 0
	a := c.now(named)
	c.id = a.Session
	return a
}

// describe is an answer in a line: partition, batches or error.
func describe(t *testing.T, a Answer) string {
	t.Helper()
	if a.Err != nil {
		return a.Err.Error()
	}
	text := ""
	for i, n := range batches(t, a.Rows) {
		text += fmt.Sprintf("%d:%d@%d", a.Names[i].Index, n, a.Rows[i].HighWatermark)
		if a.Rows[i].Err != nil {
			text += " " + a.Rows[i].Err.Error()
		}
		text += " "
	}
	return text
}

func expect(t *testing.T, a Answer, want string) {
	t.Helper()
	if got := describe(t, a); got != want {
		t.Fatalf("answered %q, want %q", got, want)
	}
}

func TestSession(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 3, nil)
	d.append(1, "x")
	c := newClient(d, New(math.MaxInt32, 10, false))
	expect(t, c.open(map[int32]int64{0: 0, 1: 0, 2: 0}), "0:0@0 1:1@1 2:0@0 ")
	if c.id == 0 {
		t.Fatal("no session")
	}
	expect(t, c.now(map[int32]int64{1: 1}), "")
	d.append(2, "x")
	d.append(0, "x")
	expect(t, c.now(nil), "2:1@1 0:1@1 ")
	expect(t, c.now(nil), "2:1@1 0:1@1 ") // the client does not go on
	expect(t, c.now(map[int32]int64{2: 1}), "0:1@1 ")
	expect(t, c.now(map[int32]int64{0: 1}), "")
	d.append(0, "x")
	expect(t, c.now(nil, 0), "") // it is forgotten
	d.append(0, "x")
	expect(t, c.now(nil), "")
	expect(t, c.now(map[int32]int64{0: 0}), "0:3@3 ")
	expect(t, c.now(map[int32]int64{0: 9}), "0:0@-1 the offset is not in the log: offset out of range: 9, t-0 has 0 to 3 ")
	expect(t, c.now(map[int32]int64{0: 3}), "0:0@3 ") // that it is right again is news
	expect(t, c.now(nil), "")
}

// A watermark or a start that moves is told, whether there are records or not.
func TestSessionTellsOffsets(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 1, nil)
	d.append(0, "x")
	c := newClient(d, New(math.MaxInt32, 10, false))
	expect(t, c.open(map[int32]int64{0: 1}), "0:0@1 ")
	expect(t, c.now(nil), "")
	if _, err := d.replica(0).DeleteRecords(1, &replica.NewWait(1).Items[0], time.Now()); err != nil {
		t.Fatal(err)
	}
	a := c.now(nil)
	expect(t, a, "0:0@1 ")
	if a.Rows[0].LogStart != 1 {
		t.Errorf("log start %d", a.Rows[0].LogStart)
	}
	expect(t, c.now(nil), "")
}

func TestSessionWaits(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 2, nil)
	c := newClient(d, New(math.MaxInt32, 10, false))
	c.open(map[int32]int64{0: 0, 1: 0})
	expect(t, c.now(nil), "")
	c.wait = never
	first := c.send(nil)
	if c.f.waiting() != 1 {
		t.Fatal("an incremental request without news does not wait")
	}
	d.append(1, "x")
	expect(t, <-first, "1:1@1 ")
	if c.f.waiting() != 0 {
		t.Error("an answered request is kept")
	}
	// The next request of the session ends the one that waits.
	second := c.send(map[int32]int64{1: 1})
	c.wait = 0
	third := c.send(nil)
	expect(t, <-second, "")
	expect(t, <-third, "")
}

func TestSessionLimits(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 3, nil)
	size := int32(len(batchtest.Values("x").Encode()))
	offsets := map[int32]int64{0: 0, 1: 0, 2: 0}
	c := newClient(d, New(size, 10, false)) // one batch in an answer
	c.open(offsets)
	expect(t, c.now(nil), "")
	for i := range int32(3) {
		for range 2 {
			d.append(i, "x")
		}
	}
	// Who was served goes behind the others.
	next := map[int32]int64{}
	for round := range 6 {
		a := c.now(next)
		clear(next)
		for i, n := range batches(t, a.Rows) {
			if n > 0 {
				p := a.Names[i].Index
				if want := int32(round % 3); p != want || n != 1 {
					t.Fatalf("round %d serves %s", round, describe(t, a))
				}
				offsets[p]++
				next[p] = offsets[p]
			}
		}
		if len(next) != 1 {
			t.Fatalf("round %d: %s", round, describe(t, a))
		}
	}
	expect(t, c.now(next), "")
}

func TestSessionErrors(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 1, nil)
	c := newClient(d, New(math.MaxInt32, 10, false))
	c.open(map[int32]int64{0: 0})
	for _, x := range []struct {
		id, epoch int32
		byID      bool
		want      error
	}{
		{c.id, 2, false, ErrSessionEpoch}, {c.id + 1, 1, false, ErrNoSession}, {0, 1, false, ErrNoSession}, {-5, 1, false, ErrNoSession},
		{c.id, 1, true, ErrSessionNames}, {c.id, 1, false, nil}, {c.id, 1, false, ErrSessionEpoch}, {c.id, 2, false, nil},
		{c.id, -7, false, ErrSessionEpoch}, {c.id, closeEpoch, false, nil}, {c.id, 3, false, ErrNoSession},
	} {
		probe := *c
		probe.id, probe.epoch, probe.byID = x.id, x.epoch, x.byID
		if a := probe.now(nil); !errors.Is(a.Err, x.want) || a.Err == nil && x.want != nil {
			t.Fatalf("session %d, epoch %d: %v, want %v", x.id, x.epoch, a.Err, x.want)
		}
	}
	c.open(map[int32]int64{0: 0})
	c.f.sessions[c.id].Value.(*session).epoch, c.epoch = math.MaxInt32, math.MaxInt32
	expect(t, c.now(nil), "")
	c.epoch = 1
	expect(t, c.now(nil), "")
}

func TestSessionsAreBounded(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 1, nil)
	f := New(math.MaxInt32, 2, false)
	var clients []*client
	for i := range 3 {
		c := newClient(d, f)
		if a := c.open(map[int32]int64{0: 0}); (a.Session != 0) != (i < 2) || len(a.Rows) != 1 {
			t.Fatalf("client %d got session %d, %d rows", i, a.Session, len(a.Rows))
		}
		clients = append(clients, c)
	}
	expect(t, clients[0].now(nil), "")
	f.sessions[clients[1].id].Value.(*session).used = time.Now().Add(-evictAfter)
	if a := clients[2].open(map[int32]int64{0: 0}); a.Session == 0 {
		t.Fatal("an idle session makes no room")
	}
	if a := clients[1].now(nil); !errors.Is(a.Err, ErrNoSession) {
		t.Fatalf("the evicted session: %v", a.Err)
	}
	expect(t, clients[0].now(nil), "")
	if f.parts != 2 {
		t.Errorf("%d partitions counted", f.parts)
	}
	// Ending a session and opening another is one request.
	id := clients[0].id
	clients[0].epoch = 0
	if a := clients[0].now(map[int32]int64{0: 0}); a.Session == 0 || a.Session == id || f.recent.Len() != 2 {
		t.Errorf("session %d became %d, there are %d", id, a.Session, f.recent.Len())
	}
}

// A session follows a name to the next topic that has it, and an id never.
func TestSessionOfARecreatedTopic(t *testing.T) {
	for _, byID := range []bool{false, true} {
		d := newDisk(t, vfs.NewMem(), 1, nil)
		d.append(0, "x")
		c := newClient(d, New(math.MaxInt32, 10, false))
		c.byID = byID
		c.open(map[int32]int64{0: 1})
		expect(t, c.now(nil), "")
		c.wait = never
		waits := c.send(nil)
		d.do(&control.DeleteTopic{Name: "t"})
		if a := <-waits; len(a.Rows) != 1 || a.Rows[0].Err == nil {
			t.Fatal(describe(t, a))
		}
		c.wait = 0
		expect(t, c.now(nil), "0:0@-1 "+errNoTopic.Error()+" ")
		d.do(&control.CreateTopic{Name: "t", ID: image.UUID{8}, Partitions: 1, ReplicationFactor: 1, Configs: map[string]string{"streambus.flush": "os"}})
		d.append(0, "y")
		if byID {
			expect(t, c.now(nil), "0:0@-1 "+errNoTopic.Error()+" ")
			continue
		}
		expect(t, c.now(map[int32]int64{0: 0}), "0:1@1 ")
		expect(t, c.now(map[int32]int64{0: 1}), "")
		d.append(0, "z")
		expect(t, c.now(nil), "0:1@2 ")
	}
}

// Whatever the limits, what is named and what is forgotten: every batch comes
// once, in order, and a session with nothing to say waits.
func TestSessionAgainstALog(t *testing.T) {
	for seed := range uint64(30) {
		rng := rand.New(rand.NewPCG(seed, 1))
		const partitions = 6
		d := newDisk(t, vfs.NewMem(), partitions, nil)
		size := int32(len(batchtest.Values("x").Encode()))
		c := newClient(d, New((1+rng.Int32N(5))*size, 10, false))
		written, read, paused := map[int32]int64{}, map[int32]int64{}, map[int32]bool{}
		for i := range int32(partitions) {
			written[i], read[i] = 0, 0
		}
		c.open(read)
		named, forgotten := map[int32]int64{}, []int32(nil)
		for step := range 2000 {
			draining := step > 200
			for range rng.IntN(4) {
				if i := rng.Int32N(partitions); !draining {
					d.append(i, "x")
					written[i]++
				}
			}
			a := c.now(named, forgotten...)
			clear(named)
			forgotten = nil
			for i, n := range batches(t, a.Rows) {
				p := a.Names[i].Index
				if a.Rows[i].Err != nil || paused[p] {
					t.Fatalf("seed %d: partition %d, paused %v: %v", seed, p, paused[p], a.Rows[i].Err)
				}
				if a.Rows[i].HighWatermark != written[p] {
					t.Fatalf("seed %d: watermark %d of %d", seed, a.Rows[i].HighWatermark, written[p])
				}
				if n > 0 && rng.IntN(8) > 0 { // now and then the client drops what it got
					read[p] += int64(n)
					named[p] = read[p]
				}
			}
			if p := rng.Int32N(partitions); rng.IntN(10) == 0 && (!draining || paused[p]) {
				paused[p] = !paused[p]
				delete(named, p)
				if paused[p] {
					forgotten = append(forgotten, p)
				} else {
					named[p] = read[p]
				}
			}
		}
		for p := range written {
			if !paused[p] && read[p] != written[p] {
				t.Fatalf("seed %d: partition %d was read to %d of %d", seed, p, read[p], written[p])
			}
		}
	}
}

// A request that waits for more than what there is looks again at each append, also
// to a partition that it has looked at before.
func TestSessionWaitsForEnough(t *testing.T) {
	d := newDisk(t, vfs.NewMem(), 1, nil)
	size := int32(d.append(0, "x"))
	c := newClient(d, New(math.MaxInt32, 10, false))
	c.open(map[int32]int64{0: 1})
	c.wait, c.min = never, 3*size
	answer := c.send(nil)
	for i := range 3 {
		select {
		case a := <-answer:
			t.Fatalf("with %d of 3 batches it is answered: %+v", i, a)
		default:
		}
		d.append(0, "x")
	}
	expect(t, <-answer, "0:3@4 ")
}
