package partition_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// A model is one partition on three brokers: the cores of all replicas and the
// controller's decisions, around logs that are slices. Messages are late and get
// lost, images come at their own pace to each broker, processes and machines crash,
// in any order that a seed gives. What holds whatever happens is checked at every
// step.
type model struct {
	t    *testing.T
	seed uint64
	rng  *rand.Rand
	now  time.Time

	images   []*image.Image // all there were, in order
	deltas   []*image.Delta
	topic    image.UUID
	replicas []*modelReplica
	flight   []modelMessage
	values   int64

	acked  map[int64]modelRecord // by offset
	ackIn  map[int64]int32       // the epoch it was acknowledged in
	shown  map[int64]modelRecord // below a leader's high watermark, at any time
	counts map[string]int
	story  []string
}

type modelRecord struct {
	epoch int32
	value int64
}

type modelReplica struct {
	id       int32
	up       bool
	life     int
	epoch    int64 // of the broker's registration, 0 while it does not know
	applied  int   // images
	log      []modelRecord
	flushed  int
	core     *partition.Partition
	watch    int64 // high watermark at the leader epoch below
	watchIn  int32
	asking   int  // fetches under way
	altering bool // one request under way
}

// modelMessage happens at a replica of a life, or at the controller.
type modelMessage struct {
	lane int32         // 10 times from, and to: a connection keeps the order; 0 for none
	to   *modelReplica // nil for the controller
	life int
	do   func()
	lost func()
}

func (m *model) tell(format string, args ...any) {
	m.story = append(m.story, fmt.Sprintf(format, args...))
}

func (m *model) broken(format string, args ...any) {
	m.t.Helper()
	for _, line := range m.story[max(0, len(m.story)-60):] {
		m.t.Log(line)
	}
	m.t.Fatalf("seed %d: %s", m.seed, fmt.Sprintf(format, args...))
}

func (m *model) image() *image.Image { return m.images[len(m.images)-1] }

// decide has the controller carry out a command.
func (m *model) decide(c control.Command) any {
	res, err := c.Eval(m.image(), m.now)
	if err != nil {
		return err
	}
	if len(res.Records) > 0 {
		img, d := image.Apply(m.image(), m.image().Index()+1, res.Records)
		m.images, m.deltas = append(m.images, img), append(m.deltas, d)
	}
	return res.Reply
}

func newModel(t *testing.T, seed uint64) *model {
	m := &model{
		t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), now: time.Unix(0, 0), images: []*image.Image{image.Empty()}, deltas: []*image.Delta{nil},
		topic: image.UUID{7}, acked: map[int64]modelRecord{}, ackIn: map[int64]int32{}, shown: map[int64]modelRecord{}, counts: map[string]int{},
	}
	m.decide(&control.FormCluster{ClusterID: "c", Voters: []image.Voter{{RaftID: 1, NodeID: 1}}})
	for id := int32(1); id <= 3; id++ {
		r := &modelReplica{id: id}
		m.replicas = append(m.replicas, r)
		m.start(r)
		m.decide(&control.UnfenceBroker{ID: id, Epoch: m.registered(id).Epoch})
	}
	minISR := strconv.Itoa(1 + m.rng.IntN(2))
	m.decide(&control.CreateTopic{Name: "t", ID: m.topic, Partitions: 1, ReplicationFactor: 3, Configs: map[string]string{"min.insync.replicas": minISR}})
	return m
}

func (m *model) registered(id int32) *image.Broker {
	b, _ := m.image().Broker(id)
	return b
}

func (m *model) minISR() int {
	t, ok := m.image().TopicByID(m.topic)
	if !ok {
		return 1
	}
	v, _ := t.Config("min.insync.replicas")
	n, _ := strconv.Atoi(v)
	return n
}

// start registers a new incarnation, which knows the metadata as it is then.
func (m *model) start(r *modelReplica) {
	r.up, r.asking, r.altering = true, 0, false
	r.life++
	r.core = partition.New(r.id, int64(m.rng.IntN(min(r.flushed, int(r.lastWatermark()))+1)))
	m.decide(&control.RegisterBroker{
		ID: r.id, Incarnation: image.UUID{byte(r.id), byte(r.life), byte(r.life >> 8)}, Levels: image.OwnLevels, Dirs: []image.UUID{{9, byte(r.id)}},
		Listeners: []image.Endpoint{{Name: "PLAINTEXT", Host: "h", Port: 1}}, PreviousBrokerEpoch: -1,
	})
	r.applied, r.epoch = len(m.images)-1, m.registered(r.id).Epoch
	m.update(r)
}

func (r *modelReplica) lastWatermark() int64 {
	if r.core == nil {
		return 0
	}
	return r.core.HighWatermark()
}

// crash ends a process. With the power goes what was not flushed, or a part of it.
func (m *model) crash(r *modelReplica) {
	if !r.up {
		return
	}
	r.up = false
	r.core.Fail()
	if m.rng.IntN(2) == 0 {
		keep := r.flushed + m.rng.IntN(len(r.log)-r.flushed+1)
		m.counts["records lost with power"] += len(r.log) - keep
		r.log = r.log[:keep]
	}
	r.flushed = len(r.log) // a start syncs what it finds
	m.tell("%d crashes with %d records", r.id, len(r.log))
}

// update gives a replica the state of its image.
func (m *model) update(r *modelReplica) {
	t, ok := m.images[r.applied].TopicByID(m.topic)
	if !ok {
		return
	}
	p, _ := t.Partition(0)
	led, epoch := r.core.Leader() == r.id, r.core.LeaderEpoch()
	m.effects(r, r.core.Update(p, partition.Settings{MinISR: m.minISR(), MaxLag: 10 * time.Second}, int64(len(r.log)), int64(r.flushed), m.now))
	if leads := r.core.Leader() == r.id; leads && (!led || epoch != r.core.LeaderEpoch()) {
		m.counts["leaders"]++
		m.tell("%d leads in epoch %d with %d records, ISR %v", r.id, r.core.LeaderEpoch(), len(r.log), p.ISR)
		for offset, x := range m.acked {
			if m.ackIn[offset] < r.core.LeaderEpoch() && (offset >= int64(len(r.log)) || r.log[offset] != x) {
				m.broken("I19: %d leads in epoch %d without record %d, which was acknowledged in epoch %d", r.id, r.core.LeaderEpoch(), offset, m.ackIn[offset])
			}
		}
	}
	m.tick(r)
}

func (m *model) tick(r *modelReplica) {
	img := m.images[r.applied]
	m.effects(r, r.core.Tick(m.now, func(id int32, epoch int64) bool {
		b, ok := img.Broker(id)
		return ok && b.Epoch == epoch && b.Active()
	}))
}

// pending is a record that a client waits for.
type pendingRecord struct {
	offset int64
	epoch  int32
	modelRecord
}

func (m *model) effects(r *modelReplica, e partition.Effects) {
	for _, token := range e.Done {
		x := token.(pendingRecord)
		m.acked[x.offset], m.ackIn[x.offset] = x.modelRecord, x.epoch
		m.counts["acknowledged"]++
		have := 0
		for _, s := range m.replicas {
			if int(x.offset) < s.flushed && s.log[x.offset] == x.modelRecord {
				have++
			}
		}
		if have < m.minISR() {
			m.broken("record %d is acknowledged and on %d disks, of %d", x.offset, have, m.minISR())
		}
	}
	m.counts["failed"] += len(e.Failed)
	if r.core.Leader() == r.id {
		hw := r.core.HighWatermark()
		if r.watchIn == r.core.LeaderEpoch() && hw < r.watch {
			m.broken("I20: the high watermark of %d went from %d to %d in epoch %d", r.id, r.watch, hw, r.watchIn)
		}
		r.watch, r.watchIn = hw, r.core.LeaderEpoch()
		for offset := range min(hw, int64(len(r.log))) {
			x, known := m.shown[offset]
			if known && x != r.log[offset] {
				m.broken("I21: %d shows %v at %d, where %v was shown", r.id, r.log[offset], offset, x)
			}
			m.shown[offset] = r.log[offset]
		}
	}
	if e.Propose || !r.altering {
		m.alter(r)
	}
}

// alter asks the controller for what is pending.
func (m *model) alter(r *modelReplica) {
	c, ok := r.core.Proposal()
	if !ok || r.altering {
		return
	}
	r.altering = true
	again := func() { r.altering = false }
	change := control.ISRChange{Topic: m.topic, LeaderEpoch: c.LeaderEpoch, PartitionEpoch: c.PartitionEpoch}
	for _, x := range c.ISR {
		change.ISR = append(change.ISR, control.ISRMember{ID: x.ID, Epoch: x.Epoch})
	}
	life, epoch := r.life, r.epoch
	m.flight = append(m.flight, modelMessage{do: func() {
		reply := m.decide(&control.AlterPartition{BrokerID: r.id, BrokerEpoch: epoch, Partitions: []control.ISRChange{change}})
		m.flight = append(m.flight, modelMessage{to: r, life: life, do: func() {
			r.altering = false
			a, ok := reply.(*control.AlteredPartitions)
			if !ok {
				return
			}
			switch p := a.Partitions[0]; {
			case p.Refusal == nil:
				m.counts["ISR changes"]++
				m.effects(r, r.core.Altered(c, p.PartitionEpoch, p.ISR, m.now))
			case p.Refusal.Code == control.IneligibleReplica:
				m.effects(r, r.core.Declined(c, m.now))
			}
		}, lost: again})
	}, lost: func() {
		if r.life == life {
			again()
		}
	}})
}

func endOf(log []modelRecord, epoch int32) partition.EpochEnd {
	found := partition.EpochEnd{Epoch: -1, End: -1}
	for i, x := range log {
		if x.epoch <= epoch {
			found = partition.EpochEnd{Epoch: x.epoch, End: int64(i + 1)}
		}
	}
	if found.Epoch < 0 && len(log) > 0 && epoch >= 0 {
		return partition.EpochEnd{Epoch: epoch, End: 0}
	}
	return found
}

// fetch sends a follower's request, and what comes back.
func (m *model) fetch(r *modelReplica) {
	leader := r.core.Leader()
	if leader < 1 || leader == r.id || r.asking > 1 {
		return
	}
	r.asking++
	l := m.replicas[leader-1]
	rep := partition.Report{
		Replica: r.id, BrokerEpoch: r.epoch, LeaderEpoch: r.core.LeaderEpoch(), LogEnd: int64(len(r.log)), FlushedEnd: r.core.FlushedEnd(), LastEpoch: -1,
	}
	if n := len(r.log); n > 0 {
		rep.LastEpoch = r.log[n-1].epoch
	}
	life, leaderLife := r.life, l.life
	over := func() {
		if r.life == life {
			r.asking--
		}
	}
	m.flight = append(m.flight, modelMessage{lane: 10*r.id + l.id, to: l, life: leaderLife, lost: over, do: func() {
		b, ok := m.images[l.applied].Broker(r.id)
		rep.Eligible = ok && b.Epoch == rep.BrokerEpoch && b.Active()
		found := endOf(l.log, rep.LastEpoch)
		e, err := l.core.Reported(rep, found, 0, m.now)
		m.effects(l, e)
		if err != nil {
			over()
			return
		}
		a := partition.Answer{LeaderEpoch: rep.LeaderEpoch, Base: -1}
		var records []modelRecord
		if here, differs := l.core.Diverges(rep.LastEpoch, rep.LogEnd, found); differs && rep.LastEpoch >= 0 {
			a.Differs, a.Diverging = true, here
		} else if rep.LogEnd > int64(len(l.log)) {
			a.OutOfRange = true
		} else if rest := l.log[rep.LogEnd:]; len(rest) > 0 {
			records = slices.Clone(rest[:1+m.rng.IntN(len(rest))])
			a.Base = rep.LogEnd
		}
		hw := l.core.HighWatermark()
		m.flight = append(m.flight, modelMessage{lane: 10*l.id + r.id, to: r, life: life, lost: over, do: func() {
			over()
			m.answered(r, a, records, hw)
		}})
	}})
}

func (m *model) answered(r *modelReplica, a partition.Answer, records []modelRecord, hw int64) {
	if a.Differs {
		a.Ours = endOf(r.log, a.Diverging.Epoch)
	}
	do, at, err := r.core.Answered(a, 0)
	switch {
	case err != nil:
		m.broken("%d: %v", r.id, err)
	case do == partition.Begin && len(r.log) > 0 && at > 0:
		m.broken("%d begins anew at %d, and has %d records", r.id, at, len(r.log))
	case at < 0 || at > int64(len(r.log)):
		m.broken("%d has %d records, and is to go on at %d", r.id, len(r.log), at)
	case do == partition.Cut, do == partition.Begin:
		m.counts["cuts"]++
		m.tell("%d cuts %d records to %d", r.id, len(r.log), at)
		r.log = r.log[:at]
		r.flushed = min(r.flushed, len(r.log))
		r.core.Truncated(at, int64(r.flushed))
	case do == partition.Append:
		for _, x := range records {
			if x.epoch > a.LeaderEpoch {
				return // as storage does
			}
			r.log = append(r.log, x)
		}
		m.effects(r, r.core.Fetched(int64(len(r.log)), hw))
	case a.LeaderEpoch == r.core.LeaderEpoch() && r.core.Leader() != r.id:
		m.effects(r, r.core.Fetched(int64(len(r.log)), hw))
	}
}

// step is one thing that happens, at random.
func (m *model) step(faults bool) {
	r := m.replicas[m.rng.IntN(3)]
	m.now = m.now.Add(time.Duration(m.rng.IntN(300)) * time.Millisecond)
	switch n := m.rng.IntN(100); {
	case n < 30 && len(m.flight) > 0:
		i := m.rng.IntN(len(m.flight))
		x := m.flight[i]
		if first := slices.IndexFunc(m.flight, func(y modelMessage) bool { return x.lane > 0 && y.lane == x.lane }); first >= 0 {
			i, x = first, m.flight[first]
		}
		m.flight = slices.Delete(m.flight, i, i+1)
		if gone := x.to != nil && (!x.to.up || x.to.life != x.life); gone || faults && m.rng.IntN(30) == 0 {
			if x.lost != nil {
				x.lost()
			}
			return
		}
		x.do()
	case !r.up:
		if !faults || m.rng.IntN(10) == 0 {
			m.start(r)
		}
	case n < 45:
		if !faults || r.core.CheckAppend(partition.AcksAll) != nil {
			return
		}
		m.values++
		x := modelRecord{r.core.LeaderEpoch(), m.values}
		r.log = append(r.log, x)
		end := int64(len(r.log))
		m.effects(r, r.core.Appended(end, m.now))
		r.core.Await(end, partition.AcksAll, pendingRecord{end - 1, r.core.LeaderEpoch(), x})
	case n < 60:
		r.flushed = len(r.log)
		m.effects(r, r.core.Flushed(int64(r.flushed), m.now))
	case n < 80:
		m.fetch(r)
	case n < 90:
		if r.applied < len(m.images)-1 {
			r.applied++
			m.update(r)
		}
	case n < 93:
		m.tick(r)
	case n < 96:
		if b := m.registered(r.id); b.Fenced && b.Epoch == r.epoch {
			m.decide(&control.UnfenceBroker{ID: r.id, Epoch: b.Epoch})
		}
	case n < 98 && faults:
		if b := m.registered(r.id); !b.Fenced {
			m.counts["fences"]++
			m.decide(&control.FenceBroker{ID: r.id, Epoch: b.Epoch})
		}
	case n == 98 && faults:
		m.decide(&control.ElectLeaders{})
	case n == 99 && faults && m.rng.IntN(3) == 0:
		m.crash(r)
	}
}

// settled is what comes of it when faults are over: all replicas are in sync and
// equal.
func (m *model) settled() bool {
	t, _ := m.image().TopicByID(m.topic)
	p, _ := t.Partition(0)
	if len(p.ISR) != 3 || p.Leader < 1 {
		return false
	}
	first := m.replicas[0]
	for _, r := range m.replicas {
		if !r.up || r.applied != len(m.images)-1 || !slices.Equal(r.log, first.log) || r.flushed != len(r.log) {
			return false
		}
	}
	return true
}

func TestModel(t *testing.T) {
	seeds, first := uint64(400), uint64(1)
	if s := os.Getenv("STREAMBUS_MODEL_SEEDS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds, first = n, uint64(time.Now().UnixNano())
	}
	counts := map[string]int{}
	for seed := first; seed < first+seeds; seed++ {
		m := newModel(t, seed)
		for range 1500 {
			m.step(true)
		}
		steps := 0
		for ; !m.settled(); steps++ {
			if steps == 20_000 {
				m.broken("faults are over, and the replicas do not come together: image %+v", *m.partition())
			}
			m.step(false)
		}
		for offset, x := range m.acked {
			if int(offset) >= len(m.replicas[0].log) || m.replicas[0].log[offset] != x {
				m.broken("I19: record %d was acknowledged and is not there in the end", offset)
			}
		}
		for what, n := range m.counts {
			counts[what] += n
		}
	}
	t.Log(counts)
	for _, what := range []string{"acknowledged", "leaders", "cuts", "ISR changes", "fences", "failed", "records lost with power"} {
		if counts[what] == 0 {
			t.Errorf("no %s in %d seeds: they show less than it looks like", what, seeds)
		}
	}
}

func (m *model) partition() *image.Partition {
	t, _ := m.image().TopicByID(m.topic)
	p, _ := t.Partition(0)
	return p
}
