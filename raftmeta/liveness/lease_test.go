package liveness

import (
	"container/heap"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

func TestLease(t *testing.T) {
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	var l Lease
	if l.Holds(at(0)) {
		t.Error("a new lease is held")
	}
	l.Sent(at(0), 5)
	if got := l.Next(); got != at(300) {
		t.Errorf("renewed at %s", got)
	}
	l.Granted(at(0), time.Second)
	if !l.Holds(at(999)) || l.Holds(at(1000)) {
		t.Error("a lease of a second, counted from when it was asked for, does not last a second")
	}
	l.Granted(at(100), 0)
	l.Granted(at(-100), time.Second) // late
	if !l.Holds(at(999)) {
		t.Error("a lease that was not granted, or is older, ended another")
	}
	l.Applied(5)
	if got := l.Next(); got != at(300) {
		t.Errorf("what was reported is reported again at %s", got)
	}
	l.Applied(6)
	if got := l.Next(); !got.IsZero() {
		t.Errorf("what somebody waits for is reported at %s", got)
	}
	l.Sent(at(10), 6)
	if got := l.Next(); got != at(310) {
		t.Errorf("renewed at %s", got)
	}
}

// clock is a node's: it runs at rate tenths of the true one.
type clock struct{ rate, offset int64 }

func (c clock) at(now int64) time.Time { return time.Unix(0, now*c.rate/10+c.offset) }
func (c clock) when(t time.Time) int64 { return ((t.UnixNano()-c.offset)*10 + c.rate - 1) / c.rate }

// world is two controllers, one after the other, and brokers. It knows the true time.
type world struct {
	t         *testing.T
	rng       *rand.Rand
	now       int64
	seq       int
	events    queue
	index     uint64
	brokers   []*process
	offices   []*office
	deposed   int64 // when the first office ended in truth
	released  uint64
	waits     map[uint64]int64 // when by truth the answer must have left at the latest
	outwaited int              // answers that some broker could not have given: its lease was out
}

type process struct {
	clock
	Heartbeat
	fenced, dead bool
	lease        Lease
	slow         int // of so many events it applies at one
}

type office struct {
	clock
	*Tracker
	ended bool
	wake  int64
}

type event struct {
	at  int64
	seq int
	do  func()
}

type queue []event

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(event)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	*q = (*q)[:last]
	return e
}

const ms = int64(time.Millisecond)

func (w *world) in(d int64, do func()) {
	w.seq++
	heap.Push(&w.events, event{w.now + d, w.seq, do})
}

func (w *world) clock() clock {
	return clock{[]int64{9, 10, 11}[w.rng.IntN(3)], w.rng.Int64N(1000 * ms)}
}

func (w *world) image() *image.Image {
	var bs []registration
	for _, b := range w.brokers {
		bs = append(bs, registration{b.Node, b.Incarnation[0], b.Epoch, b.fenced})
	}
	return imageOf(w.index, bs...)
}

func (w *world) active() *office { return w.offices[len(w.offices)-1] }

// commit moves the metadata on. The office that ended hears of it no more.
func (w *world) commit() {
	w.index++
	o := w.active()
	o.Image(o.at(w.now), w.image())
}

func (w *world) await() {
	w.commit()
	o := w.active()
	w.waits[w.index] = o.when(o.at(w.now).Add(longest(time.Second)))
	o.Await(w.index, w.index)
}

func (w *world) tick(o *office) {
	if o.ended {
		return
	}
	e := o.Tick(o.at(w.now))
	for _, token := range e.Released {
		index := token.(uint64)
		if o == w.active() && w.now > w.waits[index] {
			w.t.Fatalf("index %d was waited for %d ms longer than a lease lasts", index, (w.now-w.waits[index])/ms)
		}
		if slices.ContainsFunc(w.brokers, func(b *process) bool { return !b.dead && b.Applied < index }) {
			w.outwaited++
		}
		w.released = max(w.released, index)
	}
	w.check()
	if !e.Wake.IsZero() {
		o.wake = o.when(e.Wake)
		w.in(max(0, o.wake-w.now), func() { w.tick(o) })
	}
	for _, p := range e.Probe {
		if b := w.brokers[p.Node]; b.dead {
			o.Probed(p.Node, p.Incarnation, Refused, image.UUID{})
		}
	}
}

// check is the promise: whoever asks a broker that holds a lease sees what was answered.
func (w *world) check() {
	for _, b := range w.brokers {
		if !b.dead && b.lease.Holds(b.at(w.now)) && b.Applied < w.released {
			w.t.Fatalf("the change %d was answered, and broker %d answers from %d", w.released, b.Node, b.Applied)
		}
	}
}

// beat sends a heartbeat to one of the offices; it and its answer take their time, or are lost.
func (w *world) beat(b *process) {
	if b.dead {
		return
	}
	sent, h := b.at(w.now), b.Heartbeat
	b.lease.Sent(sent, b.Applied)
	o := w.offices[w.rng.IntN(len(w.offices))]
	if w.rng.IntN(10) > 0 {
		w.in(w.delay(), func() { w.receive(o, b, h, sent) })
	}
	w.in(b.when(b.lease.Next())-w.now, func() { w.beat(b) })
}

func (w *world) delay() int64 {
	if w.rng.IntN(5) == 0 {
		return w.rng.Int64N(1500 * ms)
	}
	return w.rng.Int64N(20 * ms)
}

func (w *world) receive(o *office, b *process, h Heartbeat, sent time.Time) {
	received := o.at(w.now)
	answer := func() {
		if o.ended {
			return
		}
		r, err := o.Heartbeat(received, h)
		w.tick(o)
		if err == nil && w.rng.IntN(10) > 0 {
			w.in(w.delay(), func() {
				b.lease.Granted(sent, r.Lease)
				w.check()
			})
		}
	}
	if w.rng.IntN(3) > 0 { // the answer waits for a majority, which has a new leader when the office has ended
		if o == w.active() || w.now < w.deposed {
			w.in(w.rng.Int64N(10*ms), func() { o.Confirmed(received); answer() })
		}
		return
	}
	answer()
}

// Brokers whose clocks run at 0.9 and 1.1, heartbeats that are late and lost, an office that ended and does not know:
// nobody who holds a lease is ever behind what was answered, and no answer waits longer than a lease lasts.
func TestNobodyWithALeaseIsBehind(t *testing.T) {
	outwaited := 0
	for seed := range uint64(120) {
		w := &world{t: t, rng: rand.New(rand.NewPCG(seed, 1)), index: 100, waits: map[uint64]int64{}, deposed: 1 << 62}
		w.now = 1000 * ms
		for i := range 3 {
			b := &process{clock: w.clock(), slow: 1 + w.rng.IntN(30)}
			b.Heartbeat = Heartbeat{Node: int32(i), Incarnation: image.UUID{byte(i + 1)}, Epoch: int64(10 + i), Applied: 90}
			w.brokers = append(w.brokers, b)
			w.in(w.rng.Int64N(300*ms), func() { w.beat(b) })
		}
		take := func() {
			c := w.clock()
			w.offices = append(w.offices, &office{clock: c, Tracker: New(c.at(w.now), Config{}, w.image())})
			w.tick(w.active())
		}
		take()
		for range 400 {
			w.in(w.rng.Int64N(6000*ms), func() { w.act() })
		}
		w.in(2000*ms+w.rng.Int64N(2000*ms), func() {
			w.deposed = w.now
			w.in(w.rng.Int64N(100*ms), take)
			w.in(w.rng.Int64N(2000*ms), func() { w.offices[0].ended = true })
		})
		for len(w.events) > 0 && w.events[0].at < 7000*ms {
			e := heap.Pop(&w.events).(event)
			w.now = e.at
			e.do()
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
		outwaited += w.outwaited
	}
	if t.Logf("%d answers went ahead of a broker without a lease", outwaited); outwaited < 500 {
		t.Fatal("too few: this proves nothing")
	}
}

func (w *world) act() {
	b := w.brokers[w.rng.IntN(len(w.brokers))]
	switch n := w.rng.IntN(40); {
	case w.now >= w.deposed && len(w.offices) == 1: // nobody is in office
	case n < 20:
		if w.rng.IntN(b.slow) == 0 {
			b.Applied = max(b.Applied, w.index-min(w.index, uint64(w.rng.IntN(2))))
		}
	case n < 30:
		w.await()
	case n < 36:
		w.commit()
	case n < 39:
		b.fenced = !b.fenced
		w.commit()
	case w.rng.IntN(8) == 0:
		b.dead = true
		w.active().Closed(b.Node, b.Incarnation)
	}
	for _, o := range w.offices {
		w.tick(o)
	}
}
