// Package sim runs controllers and brokers on a seed: the cores of the product,
// whole, on a simulated network, disk and clock, in one thread. A run is a
// function of its seed. It checks what was promised after every step, and ends
// with everything healed and one more change that must go through.
//
// The shells of the product are not in it; what they do around the cores is done
// here once more, and shorter.
package sim

import (
	"container/heap"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// maxBusy is how many steps a second may have: some hundred times the usual.
// Nodes that answer each other without end get somewhere only by luck.
const maxBusy = 50_000

const (
	ms  = int64(time.Millisecond)
	sec = int64(time.Second)
)

// world is a cluster and its true time.
type world struct {
	t     *testing.T
	seed  uint64
	now   int64 // true time since the beginning, ns
	seq   uint64
	busy  int // steps in this second
	queue events
	trace uint64

	// One source of randomness per purpose: more faults are not other load.
	chance, disk, wire, load, records, members *rand.Rand

	plan        plan
	net         network
	controllers []*controller
	brokers     []*broker
	twins       []*broker              // second processes of nodes of those
	homes       map[image.UUID]*broker // by incarnation
	oracle      *oracle
	truth       *truth
	clients     process // that produce
	producers   []*producer
	groups      []*groupTruth
	consumers   []*consumer
	offsets     int64 // that were committed, all different
	stats       map[string]int
	healed      bool
	still       bool   // nothing is committed any more
	wiped       uint64 // disks
	failure     string
	log         []string // the newest steps, told with a failure
}

// plan is what kinds of faults a run has: not all runs have all.
type plan struct {
	controllers      int
	crash, pause     bool
	brokerFaults     bool
	partitions       bool
	loss             bool
	stalls           bool
	elections        bool
	slow             bool
	deathProofs      bool
	wipes            bool
	fullDisks        bool
	failedSyncs      bool
	flips            bool
	jumps            bool
	twins            bool
	snapshotEvery    int // units
	keepEntries      uint64
	big              bool // topics of 10,000 partitions: such a run takes ten times as long as others
	opsPerSecond     int
	diskMicroseconds int64

	recordTopics     []string // none in runs without records
	recordPartitions int32
	minISR           int
	segmentBytes     int64

	groups          int // none in runs without records, and in some others
	groupPartitions int32
	retention       time.Duration // of committed offsets
}

func newWorld(t *testing.T, seed uint64) *world {
	source := func(n uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, n)) }
	w := &world{
		t: t, seed: seed, trace: fnvOffset, chance: source(1), disk: source(2), wire: source(3), load: source(4), records: source(5), members: source(6),
		homes: map[image.UUID]*broker{}, stats: map[string]int{},
	}
	w.net.world = w
	r := w.chance
	most := func() bool { return r.IntN(4) > 0 }
	w.plan = plan{
		controllers: []int{3, 3, 5}[r.IntN(3)], crash: most(), pause: most(), brokerFaults: most(), partitions: most(),
		loss: most(), stalls: most(), elections: most(), slow: most(), deathProofs: most(), wipes: most(),
		fullDisks: most(), failedSyncs: most(), flips: most(), jumps: most(), twins: most(),
		snapshotEvery: 1 + r.IntN(30), keepEntries: uint64(r.IntN(20)), big: r.IntN(16) == 0,
		opsPerSecond: 3 + r.IntN(20), diskMicroseconds: 100 + r.Int64N(5000),
	}
	if r.IntN(2) == 0 { // a second process would be a second disk, which is another test
		w.plan.twins = false
		w.plan.recordTopics, w.plan.recordPartitions, w.plan.minISR = []string{"records"}, 1+r.Int32N(3), 1+r.IntN(2)
		w.plan.segmentBytes = 1000 << r.IntN(7)
		if g := w.members; g.IntN(5) > 0 {
			w.plan.recordTopics = append(w.plan.recordTopics, groupsTopic)
			w.plan.groups, w.plan.groupPartitions = 1+g.IntN(2), 1+g.Int32N(2)
			w.plan.retention = []time.Duration{2 * time.Second, 5 * time.Second, 7 * 24 * time.Hour, 7 * 24 * time.Hour}[g.IntN(4)]
		}
	}
	w.oracle = newOracle(w)
	w.truth = &truth{w, map[place]*placeTruth{}}
	return w
}

// event is a step that is due. What belongs to a life of a process is dropped
// when that is over.
type event struct {
	at   int64
	seq  uint64
	who  *process
	life int
	what string
	do   func()
}

type events []event

func (q events) Len() int { return len(q) }
func (q events) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].seq < q[j].seq
}
func (q events) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *events) Push(x any)   { *q = append(*q, x.(event)) }
func (q *events) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last] = event{}
	*q = (*q)[:last]
	return e
}

// after lets something happen later by the true time, to nobody in particular.
func (w *world) after(d int64, what string, do func()) {
	w.seq++
	heap.Push(&w.queue, event{at: w.now + max(0, d), seq: w.seq, what: what, do: do})
}

// run lets time pass up to a moment, or to the first broken promise.
func (w *world) run(until int64) {
	for len(w.queue) > 0 && w.queue[0].at <= until && w.failure == "" {
		e := heap.Pop(&w.queue).(event)
		if w.busy++; e.at/sec > w.now/sec {
			w.busy = 0
		}
		if w.busy > maxBusy {
			w.broken("I10: %d steps in a second, and no end: %s", maxBusy, e.what)
		}
		w.now = e.at
		if e.who != nil && (e.who.life != e.life || !e.who.up) {
			continue
		}
		if e.who != nil && w.now < e.who.pausedUntil {
			e.who.missed = append(e.who.missed, e)
			continue
		}
		w.note(e.what, uint64(e.at))
		e.do()
		w.stats["steps"]++
	}
	if w.failure == "" {
		w.now = until
	}
}

const fnvOffset = 14695981039346656037

// note adds to the trace, by which runs are compared.
func (w *world) note(what string, n uint64) {
	h := fnv.New64a()
	h.Write(binary.BigEndian.AppendUint64(nil, w.trace))
	h.Write(binary.BigEndian.AppendUint64([]byte(what), n))
	w.trace = h.Sum64()
}

// tell keeps a line for the story of a failure.
func (w *world) tell(format string, args ...any) {
	if len(w.log) >= 4000 {
		w.log = append(w.log[:0], w.log[2000:]...)
	}
	w.log = append(w.log, fmt.Sprintf("%9.4f  ", float64(w.now)/1e9)+fmt.Sprintf(format, args...))
}

// broken ends the run: a promise was not kept.
func (w *world) broken(format string, args ...any) {
	if w.failure == "" {
		w.failure = fmt.Sprintf(format, args...)
		w.tell("BROKEN: %s", w.failure)
	}
}

func (w *world) story() string {
	lines := slices.Clone(w.log[max(0, len(w.log)-150):])
	for _, c := range w.controllers {
		if !c.up {
			lines = append(lines, c.name+" is down")
			continue
		}
		lines = append(lines, fmt.Sprintf("%s: %+v, active %v, %d waiting, writes %v, image %d",
			c.name, c.core.Status(), c.core.Active(), c.core.Waiting(), c.writing != nil, c.core.Image().Index()))
	}
	for _, b := range w.everyBroker() {
		lines = append(lines, fmt.Sprintf("%s: up %v, image %d, epoch %d, holds a lease %v, last asked controller %d",
			b.name, b.up, b.img.Index(), b.epoch, b.lease.Holds(b.clock()), b.hint+1))
		for _, r := range b.replicas {
			lines = append(lines, "    "+r.String())
		}
	}
	return strings.Join(lines, "\n")
}

// process is what controllers and brokers have in common: it has its own clocks,
// can stop for a while, and can be gone.
type process struct {
	w           *world
	name        string
	rate        float64 // of its clocks
	offset      int64   // of the one of wall time, when all is well
	skew        int64   // what it is wrong by
	up          bool
	life        int
	pausedUntil int64
	missed      []event // while it was paused
}

func (p *process) pause(d int64) {
	p.pausedUntil = max(p.pausedUntil, p.w.now+d)
	p.w.after(d, "resume", p.resume)
}

// resume lets what was missed happen, in the order in which it came due.
func (p *process) resume() {
	if p.paused() {
		return
	}
	for _, e := range p.missed {
		p.w.seq++
		e.at, e.seq = p.w.now, p.w.seq
		heap.Push(&p.w.queue, e)
	}
	p.missed = nil
}

func (w *world) newProcess(name string) process {
	return process{
		w: w, name: name, rate: 0.9 + 0.2*w.chance.Float64(), offset: 1_700_000_000*sec + w.chance.Int64N(1000*sec),
	}
}

// clock is what the process has from time.Now: wall time, which may be any, and
// beside it what the monotonic clock shows.
func (p *process) clock() time.Time { return reading(p.offset+p.skew+p.mono(), p.mono()) }

// mono is the monotonic clock.
func (p *process) mono() int64 { return int64(float64(p.w.now) * p.rate) }

// in lets something happen in this life of the process, later by its own clock.
func (p *process) in(d time.Duration, what string, do func()) {
	p.at(p.w.now+max(0, int64(float64(d)/p.rate)+1), what, do)
}

// when is when a timer goes off that the process sets for a time.
func (p *process) when(t time.Time) int64 {
	return p.w.now + int64(float64(t.Sub(p.clock()))/p.rate) + 1
}

func (p *process) at(when int64, what string, do func()) {
	p.w.seq++
	heap.Push(&p.w.queue, event{max(when, p.w.now), p.w.seq, p, p.life, p.name + " " + what, do})
}

func (p *process) paused() bool { return p.w.now < p.pausedUntil }
