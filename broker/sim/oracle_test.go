package sim

import (
	"fmt"
	"hash/crc32"
	"slices"
	"strings"

	"go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/wal"
)

// oracle sees everything and checks it. The numbers are those of the invariants
// that hold for any run:
//
//	I1  one leader per term                  I8  an operation's outcome is what happened
//	I2  committed entries are the same       I9  reads and refusals are as new as what
//	                                             was answered
//	I3  a leader has all that is committed   I10 healed, it goes on
//	I4  term and vote survive a crash        I11 epochs never go down
//	I5  applied <= committed <= last         I12 leader in ISR in replicas
//	I6  equal state at equal index           I13 who is fenced does not lead, nor enter an ISR
//	                                         I15 broker epochs grow, a node has one lease
//	I7  nothing is vouched for before        I16 a topic is there with all its partitions
//	    it is durable                        I17 brokers only move forward, over committed units
//	                                         I18 topic ids are unique for ever
type oracle struct {
	w        *world
	leaders  map[uint64]uint64 // by term
	entries  map[uint64]entry  // committed
	heard    map[uint64]uint64 // the term of who first said so: they were committed in it or before
	commit   uint64
	votes    map[vote]uint64
	promised map[uint64]uint64 // the highest term a raft id has spoken in

	units   map[uint64]uint64 // hashes by index
	awaited map[uint64]bool
	img     *image.Image // by replaying the units once more
	images  map[uint64]*image.Image
	hashes  map[uint64]uint64
	topics  map[image.UUID]bool
	epochs  map[int32]int64

	registered map[image.UUID]uint64 // index, by incarnation
	unfenced   map[image.UUID]int    // after how many units

	ops      map[opID]*op
	order    []*op
	applied  map[opID][]uint64
	alone    bool   // the unit that is looked at has one operation
	answered uint64 // the highest index of a success
	seenBy   uint64 // the highest index of a success that every broker was to see first
	blocks   map[int64]*op
}

type opID struct {
	node        int32
	incarnation image.UUID
	seq         uint64
}

type vote struct{ raftID, term uint64 }

func newOracle(w *world) *oracle {
	return &oracle{
		w: w, leaders: map[uint64]uint64{}, entries: map[uint64]entry{}, heard: map[uint64]uint64{}, votes: map[vote]uint64{}, promised: map[uint64]uint64{},
		units: map[uint64]uint64{}, awaited: map[uint64]bool{}, images: map[uint64]*image.Image{},
		hashes: map[uint64]uint64{}, topics: map[image.UUID]bool{}, epochs: map[int32]int64{}, registered: map[image.UUID]uint64{}, unfenced: map[image.UUID]int{}, ops: map[opID]*op{},
		applied: map[opID][]uint64{}, blocks: map[int64]*op{},
	}
}

func hashOf(b []byte) uint64 { return uint64(len(b))<<32 | uint64(crc32.Checksum(b, castagnoli)) }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// restarted looks at what a controller's disk kept.
func (o *oracle) restarted(c *controller, s *wal.State) {
	term := s.HardState.GetTerm()
	if term < o.promised[c.raftID] {
		o.w.broken("I4: %s spoke in term %d and comes back in term %d", c, o.promised[c.raftID], term)
	}
	if v, ok := o.votes[vote{c.raftID, term}]; ok && v != s.HardState.GetVote() {
		o.w.broken("I4: %s voted for %d in term %d, its disk says %d", c, v, term, s.HardState.GetVote())
	}
}

// message looks at what a raft message vouches for.
func (o *oracle) message(c *controller, data []byte) {
	m := &raftpb.Message{}
	if err := proto.Unmarshal(data, m); err != nil {
		o.w.broken("%v", err)
		return
	}
	o.w.note("message", hashOf(data))
	o.w.stats["raft messages"]++
	typ, term := m.GetType(), m.GetTerm()
	if typ == raftpb.MsgPreVote || typ == raftpb.MsgPreVoteResp || term == 0 {
		return
	}
	hs := c.mirror.synced
	if hs.GetTerm() < term {
		o.w.broken("I7: %s sends %s in term %d, and term %d is durable", c, typ, term, hs.GetTerm())
	}
	o.promised[c.raftID] = max(o.promised[c.raftID], term)
	switch {
	case typ == raftpb.MsgAppResp && !m.GetReject() && m.GetIndex() > c.mirror.syncedLast:
		o.w.broken("I7: %s vouches for index %d, and %d is durable", c, m.GetIndex(), c.mirror.syncedLast)
	case typ == raftpb.MsgVoteResp && !m.GetReject():
		o.vote(c, term, m.GetTo())
	case typ == raftpb.MsgVote:
		o.vote(c, term, c.raftID)
	}
}

func (o *oracle) vote(c *controller, term, to uint64) {
	if before, ok := o.votes[vote{c.raftID, term}]; ok && before != to {
		o.w.broken("I4: %s votes for %d in term %d, and voted for %d", c, to, term, before)
	}
	o.votes[vote{c.raftID, term}] = to
	if hs := c.mirror.synced; hs.GetTerm() == term && hs.GetVote() != to {
		o.w.broken("I7: %s votes for %d in term %d, and that is not durable", c, to, term)
	}
}

// status looks at a raft node after a step.
func (o *oracle) status(c *controller) {
	s := c.core.Status()
	if s.Applied > s.Commit || s.Commit > s.Last {
		o.w.broken("I5: %s: applied %d, committed %d, last %d", c, s.Applied, s.Commit, s.Last)
	}
	if s.Term < c.seen.Term || s.Commit < c.seen.Commit || s.Applied < c.seen.Applied {
		o.w.broken("I4: %s went from %+v to %+v", c, c.seen, s)
	}
	if s.State == "leader" {
		if l, ok := o.leaders[s.Term]; ok && l != c.raftID {
			o.w.broken("I1: %d and %d lead in term %d", l, c.raftID, s.Term)
		}
		if _, ok := o.leaders[s.Term]; !ok {
			o.w.stats["elections"]++
			o.w.tell("%s leads in term %d", c.name, s.Term)
			o.leads(c)
		}
		o.leaders[s.Term] = c.raftID
	}
	for i := max(c.seen.Commit, c.mirror.base) + 1; i <= s.Commit; i++ {
		e, ok := c.mirror.at(i)
		if !ok {
			continue // it came with a snapshot
		}
		if known, ok := o.entries[i]; ok && known != e {
			o.w.broken("I2: entry %d is committed at %s with term %d, elsewhere with term %d", i, c, e.term, known.term)
		}
		if _, known := o.entries[i]; !known {
			o.heard[i] = s.Term
		}
		o.entries[i] = e
		o.commit = max(o.commit, i)
	}
	c.seen = s
}

// snapshot looks at where one stands: with another term raft would take it for
// another log.
func (o *oracle) snapshot(c *controller, m *raftpb.SnapshotMetadata) {
	if e, ok := o.entries[m.GetIndex()]; ok && e.term != m.GetTerm() {
		o.w.broken("I6: %s makes a snapshot of index %d and term %d, the entry there has term %d", c, m.GetIndex(), m.GetTerm(), e.term)
	}
}

// leads looks at the log of a new leader. What was committed in later terms it
// need not have: its disk may have been slow to let it know that it was elected.
func (o *oracle) leads(c *controller) {
	for i := c.mirror.base + 1; i <= o.commit; i++ {
		want, ok := o.entries[i]
		if !ok || o.heard[i] >= c.core.Status().Term {
			continue
		}
		if e, ok := c.mirror.at(i); !ok || e != want {
			o.w.broken("I3: %s leads without the entry %d that was committed", c, i)
		}
	}
}

// unit looks at a unit that somebody took for committed.
func (o *oracle) unit(who string, index uint64, raw []byte) {
	h := hashOf(raw)
	if known, ok := o.units[index]; ok {
		if known != h {
			o.w.broken("I2: %s has another unit at %d than others", who, index)
		}
		return
	}
	o.units[index] = h
	u, err := image.DecodeUnit(raw, image.ClusterHash(clusterID))
	if err != nil {
		o.w.broken("%s: unit %d: %v", who, index, err)
		return
	}
	if index <= o.img.Index() || u.Base != o.img.Index() {
		o.w.broken("%s: unit %d was decided on %d, and follows %d", who, index, u.Base, o.img.Index())
		return
	}
	o.w.stats["units"]++
	if len(raw) > 256<<10 {
		o.w.stats["units of several entries"]++
	}
	o.awaited[index] = u.Awaited
	o.records(index, u.Records)
}

// records replays a unit, and looks at each record on the way.
func (o *oracle) records(index uint64, records []image.Record) {
	before := o.img
	o.img, _ = image.Apply(before, index, records)
	o.images[index] = o.img
	delete(o.images, index-2000)
	operations := 0
	for _, r := range records {
		if _, ok := r.(*image.OperationRecord); ok {
			operations++
		}
	}
	o.alone = operations == 1
	for _, b := range o.img.Brokers() {
		if n := o.img.Count(b.ID, image.Leads); b.Fenced && n > 0 {
			o.w.broken("I13: broker %d is fenced at index %d and leads %d partitions", b.ID, index, n)
		}
	}
	var current *op
	var cause string
	for _, r := range records {
		switch r := r.(type) {
		case *image.OperationRecord:
			current, cause = nil, r.Cause
			if r.Seq == 0 { // a controller's own
				continue
			}
			id := opID{r.Node, r.Incarnation, r.Seq}
			current = o.ops[id]
			if _, is := command[*control.RegisterBroker](current); is && o.replaced(before, r) {
				delete(o.applied, id) // it had been replaced: what it asks again is another thing
			}
			o.applied[id] = append(o.applied[id], index)
			switch {
			case current == nil:
				o.w.broken("I8: unit %d carries out operation %d of node %d, which nobody asked for", index, r.Seq, r.Node)
			case len(o.applied[id]) > 1:
				o.w.broken("I8: %s was carried out at %v", current, o.applied[id])
			case current.outcome == refused:
				o.w.broken("I8: %s was refused (%v) and is carried out at %d", current, current.refusal, index)
			}
		case *image.TopicRecord:
			if o.topics[r.ID] {
				o.w.broken("I18: topic id %s is used again at %d", r.ID, index)
			}
			o.topics[r.ID] = true
		case *image.BrokerRecord:
			if int64(index) <= o.epochs[r.ID] {
				o.w.broken("I15: broker %d gets epoch %d after %d", r.ID, index, o.epochs[r.ID])
			}
			o.epochs[r.ID] = int64(index)
			if old, ok := before.Broker(r.ID); ok && old.Incarnation != r.Incarnation {
				o.successor(index, old, r)
			}
			o.registered[r.Incarnation] = index
		case *image.BrokerChangeRecord:
			switch old, ok := before.Broker(r.ID); {
			case ok && !r.Fenced && old.Fenced:
				o.unfenced[old.Incarnation] = o.w.stats["units"]
			case ok && r.Fenced && !old.Fenced && strings.HasPrefix(cause, "no heartbeat"):
				o.silence(index, old)
			}
		case *image.PartitionsRecord:
			if create, is := command[*control.CreateTopic](current); is && len(r.Partitions) != int(create.Partitions) {
				o.w.broken("I16: topic %s has %d of %d partitions at %d", create.Name, len(r.Partitions), create.Partitions, index)
			}
			for i := range r.Partitions {
				o.partition(index, nil, &r.Partitions[i])
			}
		case *image.PartitionChangeRecord:
			o.w.stats["partition changes"]++
			if t, ok := before.TopicByID(r.Topic); ok {
				p, _ := t.Partition(r.Index)
				o.partition(index, p, &r.Partition)
			}
		}
	}
}

func command[C control.Command](o *op) (c C, ok bool) {
	if o == nil {
		return c, false
	}
	c, ok = o.cmd.(C)
	return c, ok
}

func (o *oracle) partition(index uint64, before, p *image.Partition) {
	subset := func(ids []int32) bool {
		return !slices.ContainsFunc(ids, func(id int32) bool { return !p.HasReplica(id) })
	}
	switch {
	case p.Leader != image.NoLeader && !slices.Contains(p.ISR, p.Leader), !subset(p.ISR), !subset(p.ELR),
		slices.ContainsFunc(p.ELR, func(id int32) bool { return slices.Contains(p.ISR, id) }):
		o.w.broken("I12: unit %d makes a partition %+v", index, *p)
	}
	if m := p.Moving; m != nil {
		if !subset(m.Adding) || !subset(m.Removing) || slices.ContainsFunc(m.Adding, func(id int32) bool { return slices.Contains(m.Removing, id) }) {
			o.w.broken("I12: unit %d makes a partition %+v that is moving %+v", index, *p, *m)
		}
		o.w.stats["replicas begin to move"]++
	} else if before != nil && before.Moving != nil && slices.Equal(p.Replicas, before.Target()) {
		o.w.stats["replicas have moved"]++
	}
	if before == nil {
		before = &image.Partition{Leader: image.NoLeader}
	} else if o.epochsFell(before, p) {
		o.w.broken("I11: unit %d makes %+v of %+v", index, *p, *before)
	}
	active := func(id int32) bool {
		b, ok := o.img.Broker(id)
		return ok && b.Active()
	}
	// What a command of this unit did an earlier one may have made possible, or a
	// later one may undo, so the brokers are looked at behind all of them.
	if o.alone && p.Leader != before.Leader && p.Leader != image.NoLeader && !active(p.Leader) {
		o.w.broken("I13: unit %d makes broker %d a leader, which is fenced or stops", index, p.Leader)
	}
	for _, id := range p.ISR {
		if o.alone && !slices.Contains(before.ISR, id) && id != p.Leader && !active(id) {
			o.w.broken("I13: unit %d takes broker %d into an ISR, and it is fenced or stops", index, id)
		}
	}
}

func (o *oracle) epochsFell(before, p *image.Partition) bool {
	switch {
	case p.PartitionEpoch <= before.PartitionEpoch || p.LeaderEpoch < before.LeaderEpoch,
		p.Leader != before.Leader && p.LeaderEpoch == before.LeaderEpoch,
		p.LeaderEpoch-before.LeaderEpoch > p.PartitionEpoch-before.PartitionEpoch:
		return true
	}
	return false
}

// image looks at an image that somebody answers from. To encode a large one
// takes longer than all else, so most of those are not.
func (o *oracle) image(who string, img *image.Image, always bool) {
	want, ok := o.images[img.Index()]
	if !ok {
		if img.Index() > o.img.Index() {
			o.w.broken("I17: %s is at index %d, which is no committed unit", who, img.Index())
		}
		return
	}
	if n := img.NumPartitions(); !always && (n > 300 && o.w.wire.IntN(50) > 0 || n > 50 && o.w.wire.IntN(4) > 0) {
		return
	}
	h, ok := o.hashes[img.Index()]
	if !ok {
		h = hashOf(want.Encode())
		o.hashes[img.Index()] = h
	}
	if hashOf(img.Encode()) != h {
		o.w.broken("I6: %s has another state at index %d than follows from the units", who, img.Index())
	}
}

// lease looks at a broker that got a lease: it answers from its image now.
func (o *oracle) lease(b *broker) {
	if b.lease.Holds(b.clock()) && b.img.Index() < o.seenBy {
		o.w.broken("I8: %s holds a lease at index %d, and %d was to be seen everywhere", b.name, b.img.Index(), o.seenBy)
	}
	for _, x := range o.w.everyBroker() {
		if x != b && x.node == b.node && x.up && x.lease.Holds(x.clock()) && b.lease.Holds(b.clock()) {
			o.w.broken("I15: %s gets a lease, and %s has one, of the same node", b.name, x.name)
		}
	}
}

// ended looks at what a client was told.
func (o *oracle) ended(x *op) {
	o.w.note(x.kind, uint64(x.outcome))
	o.w.stats[[]string{"", "successes", "refusals", "unknown to the client"}[x.outcome]]++
	done := o.applied[opID{x.id.Node, x.id.Incarnation, x.id.Seq}]
	switch {
	case x.kind == "read":
		if x.outcome == success && x.index < x.floor {
			o.w.broken("I9: a read gave index %d, and %d had been answered when it began", x.index, x.floor)
		}
		return
	case x.outcome == success && len(done) == 0 && !x.mayBeEmpty:
		o.w.broken("I8: %s was answered with success and is not there", x)
	case x.outcome == refused && len(done) > 0:
		o.w.broken("I8: %s was refused (%v) and was carried out at %d", x, x.refusal, done[0])
	}
	if x.outcome == refused {
		if x.index < x.floor {
			o.w.broken("I9: %s was refused (%v) because of index %d, and %d had been answered when it began", x, x.refusal, x.index, x.floor)
		}
		o.shown(x)
		return
	}
	if x.outcome != success {
		return
	}
	if len(done) > 0 && x.index < done[0] {
		o.w.broken("I8: %s was answered with index %d and carried out at %d", x, x.index, done[0])
	}
	o.answered = max(o.answered, x.index)
	if block, ok := x.reply.(*control.ProducerIDBlock); ok {
		for i := range int64(block.Count) {
			if other := o.blocks[block.First+i]; other != nil {
				o.w.broken("I8: %s and %s got the same producer id", x, other)
			}
			o.blocks[block.First+i] = x
		}
	}
	if created, ok := x.reply.(*control.CreatedTopic); ok && created.ID != x.cmd.(*control.CreateTopic).ID {
		o.w.broken("I8: %s got the answer of another", x)
	}
	o.shown(x)
}

// shown looks at whether every broker that may be asked now shows what an answer
// says.
func (o *oracle) shown(x *op) {
	if !x.awaited {
		return
	}
	o.seenBy = max(o.seenBy, x.index)
	for _, b := range o.w.everyBroker() {
		if b.up && b.lease.Holds(b.clock()) && b.img.Index() < x.index {
			o.w.broken("I8: %s was answered, and %s, which holds a lease, is at %d", x, b.name, b.img.Index())
		}
	}
}

// quiet looks at everything once nothing happens any more.
func (o *oracle) quiet() {
	for _, c := range o.w.controllers {
		if got := c.core.Image().Index(); got != o.img.Index() {
			o.w.broken("I10: healed, %s stays at index %d of %d", c, got, o.img.Index())
			return
		}
		o.image(c.name, c.core.Image(), true)
	}
	for _, b := range o.w.brokers {
		if b.img.Index() != o.img.Index() {
			o.w.broken("I10: healed, %s stays at index %d of %d", b.name, b.img.Index(), o.img.Index())
			return
		}
		o.image(b.name, b.img, true)
	}
	for _, x := range o.order {
		done := len(o.applied[opID{x.id.Node, x.id.Incarnation, x.id.Seq}])
		if x.kind == "read" {
			continue
		}
		if x.outcome == success && done != 1 && !x.mayBeEmpty || x.outcome == refused && done > 0 || done > 1 {
			o.w.broken("I8: %s ended with %d and was carried out %d times", x, x.outcome, done)
		}
	}
}

func (o *op) String() string {
	return fmt.Sprintf("operation %d of %s, %s %s (asked %d times)", o.id.Seq, o.b.name, o.kind, o.name, o.attempts)
}
