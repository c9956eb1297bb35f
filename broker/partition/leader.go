package partition

import (
	"fmt"
	"slices"
	"time"
)

// office is what a leader keeps beside the state that every replica has. It
// begins anew with each leader epoch: what a follower reported to an earlier
// leader says nothing about this one's log.
type office struct {
	// start is where the log ended when the epoch began. A follower below it may
	// lack records that an earlier leader acknowledged.
	start     int64
	followers []follower // in the order of the replicas
	// forStart waits until the followers that are there have given up records, too.
	forStart queue
	// pending is the ISR that was proposed and of which nobody here knows whether
	// the controller has it, nil for none. Nothing else is proposed meanwhile.
	pending []int32
	asked   time.Time // when it was proposed
}

// follower is a replica elsewhere, as it reported itself.
type follower struct {
	id          int32
	brokerEpoch int64 // of the incarnation that reported, -1 for none
	eligible    bool  // the metadata has that incarnation as one that is there, and stays
	// The offsets are -1 until it reports in this leader epoch.
	logStart, logEnd, flushedEnd int64
	flushing, fetching           pace
	fetched                      time.Time // when it reported last, be it progress or not
}

// pace is how one end of a follower keeps up with the leader's log end. Reaching
// goal will prove that at the moment set it had all that there was.
type pace struct {
	caughtUp time.Time // the last moment for which that is proved
	goal     int64
	set      time.Time
}

func (c *pace) reach(end, logEnd int64, now time.Time) {
	switch {
	case end >= logEnd:
		c.caughtUp = now
	case end >= c.goal:
		c.caughtUp = c.set
	default:
		return
	}
	c.goal, c.set = logEnd, now
}

// Report is what a follower says with each fetch.
type Report struct {
	Replica            int32
	BrokerEpoch        int64
	Eligible           bool  // see Tick
	LeaderEpoch        int32 // in which it follows
	LogStart           int64
	LogEnd, FlushedEnd int64
	LastEpoch          int32 // of its last record, -1 if it has none
}

// Change is a proposal to the controller: a whole ISR, and the epochs that it is
// based on.
type Change struct {
	LeaderEpoch, PartitionEpoch int32
	ISR                         []Member
	Shrinks                     bool // it takes members out; others add some
}

// Member is a broker of a proposed ISR, with the epoch of the incarnation that
// reported: -1 for the leader itself, and for one that has not yet.
type Member struct {
	ID    int32
	Epoch int64
}

// watch keeps a record of each replica elsewhere. One that is in sync as the
// epoch begins is taken to have kept up until now, as in Apache Kafka.
func (p *Partition) watch(now time.Time) {
	if len(p.replicas) == 1 {
		p.followers = nil
		return
	}
	followers := make([]follower, 0, len(p.replicas)-1)
	for _, id := range p.replicas {
		if id == p.self {
			continue
		}
		if f := p.follower(id); f != nil {
			followers = append(followers, *f)
			continue
		}
		c := pace{goal: p.logEnd, set: now}
		if slices.Contains(p.isr, id) {
			c.caughtUp = now
		}
		followers = append(followers, follower{id: id, brokerEpoch: -1, logStart: -1, logEnd: -1, flushedEnd: -1, flushing: c, fetching: c})
	}
	p.followers = followers
}

func (p *Partition) follower(id int32) *follower {
	for i := range p.followers {
		if p.followers[i].id == id {
			return &p.followers[i]
		}
	}
	return nil
}

// Reported takes a follower's progress. found is where LastEpoch ends in this log,
// as storage tells it, and start where the log begins. What is not in this log, or
// differs from it, is no progress: reading there tells the follower. A report may
// take back what the follower said before, or a former incarnation of it, but a
// former incarnation's never what a later one said.
func (p *Partition) Reported(r Report, found EpochEnd, start int64, now time.Time) (Effects, error) {
	var e Effects
	if r.LeaderEpoch < 0 {
		return e, fmt.Errorf("%w: it names no leader epoch", ErrNotReplica)
	}
	if err := p.CheckLeader(r.LeaderEpoch); err != nil {
		return e, err
	}
	f := p.follower(r.Replica)
	switch {
	case f == nil:
		return e, fmt.Errorf("%w: broker %d, the replicas are %v", ErrNotReplica, r.Replica, p.replicas)
	case r.BrokerEpoch < f.brokerEpoch:
		return e, fmt.Errorf("%w: broker %d in epoch %d, it has reported in %d", ErrNotReplica, r.Replica, r.BrokerEpoch, f.brokerEpoch)
	}
	f.fetched = now
	if r.LogEnd < start || r.LogEnd > p.logEnd {
		return e, nil
	}
	if _, differs := p.Diverges(r.LastEpoch, r.LogEnd, found); differs && r.LastEpoch >= 0 {
		return e, nil
	}
	if r.BrokerEpoch > f.brokerEpoch && f.brokerEpoch >= 0 {
		// Another life: that the one before kept up is no reason to wait for this one.
		f.fetching, f.flushing = pace{goal: p.logEnd, set: now}, pace{goal: p.logEnd, set: now}
	}
	f.brokerEpoch, f.eligible = r.BrokerEpoch, r.Eligible
	f.logStart, f.logEnd, f.flushedEnd = r.LogStart, r.LogEnd, min(r.FlushedEnd, r.LogEnd)
	if p.settings.FlushOS {
		f.flushedEnd = r.LogEnd
	}
	f.fetching.reach(f.logEnd, p.logEnd, now)
	f.flushing.reach(f.flushedEnd, p.logEnd, now)
	p.advance(now, &e)
	p.expand(now, &e)
	return e, nil
}

// AwaitStart registers a wait for the followers to give up what lies below an offset,
// as this log has. It returns false if those that are there have.
func (p *Partition) AwaitStart(offset int64, token any) bool {
	if p.lowestStart() >= offset {
		return false
	}
	p.forStart.add(offset, token)
	return true
}

// lowestStart is where the logs of all followers begin that are there.
func (p *Partition) lowestStart() int64 {
	low := int64(noOffset)
	for i := range p.followers {
		if f := &p.followers[i]; f.eligible {
			low = min(low, f.logStart)
		}
	}
	return low
}

// leaveBehind is called before the log grows: who had everything until now is not
// to be judged by when it last said so.
func (p *Partition) leaveBehind(end int64, now time.Time) {
	for i := range p.followers {
		f := &p.followers[i]
		if f.logEnd >= p.logEnd {
			f.fetching = pace{now, end, now}
		}
		if f.flushedEnd >= p.logEnd {
			f.flushing = pace{now, end, now}
		}
	}
}

// durable is the end of what no in-sync replica can lose any more, -1 while that
// is not known, or while too few are in sync for it to count (KIP-966).
//
// A follower that keeps up counts before it is in sync, as in Apache Kafka: under
// load the watermark would otherwise stay ahead of it for ever.
func (p *Partition) durable(now time.Time) int64 {
	if p.short() {
		return -1
	}
	low := p.FlushedEnd()
	for i := range p.followers {
		f := &p.followers[i]
		in := slices.Contains(p.isr, f.id) || slices.Contains(p.pending, f.id)
		if in || f.eligible && p.recent(f.fetching, now) && p.recent(f.flushing, now) {
			low = min(low, f.flushedEnd)
		}
	}
	return low
}

// Current tells whether the high watermark has reached where the epoch began: a
// former leader may have told a higher one until then.
func (p *Partition) Current() bool { return p.highWatermark >= p.start }

func (p *Partition) recent(c pace, now time.Time) bool {
	return now.Sub(c.caughtUp) <= p.settings.MaxLag
}

// Nearest is the in-sync follower to read an offset from, of those that may be
// asked: the one whose log goes furthest. It is false if none has the offset.
func (p *Partition) Nearest(offset int64, may func(id int32) bool) (id int32, ok bool) {
	var best *follower
	for i := range p.followers {
		f := &p.followers[i]
		if f.logEnd >= offset && slices.Contains(p.isr, f.id) && may(f.id) && (best == nil || f.logEnd > best.logEnd) {
			best = f
		}
	}
	if best == nil {
		return -1, false
	}
	return best.id, true
}

// Tick looks at what only time and the metadata change: who is too far behind,
// and who may be in the ISR. eligible tells whether the metadata has an
// incarnation of a broker as one that is there, and stays.
func (p *Partition) Tick(now time.Time, eligible func(id int32, epoch int64) bool) Effects {
	var e Effects
	if !p.leading || len(p.followers) == 0 {
		return e
	}
	for i := range p.followers {
		f := &p.followers[i]
		f.eligible = f.brokerEpoch >= 0 && eligible(f.id, f.brokerEpoch)
	}
	p.shrink(now, &e)
	p.advance(now, &e)
	p.expand(now, &e)
	return e
}

// expand proposes those who have all that may have been acknowledged.
func (p *Partition) expand(now time.Time, e *Effects) {
	p.propose(now, e, func(f *follower, in bool) bool {
		return in || f.eligible && f.flushedEnd >= p.threshold()
	})
}

// threshold is the flushed end from which on a follower may enter the ISR.
func (p *Partition) threshold() int64 { return max(p.start, p.highWatermark) }

// shrink proposes to go on without those who have been behind for too long. One
// that has everything is not, however long ago it said so.
func (p *Partition) shrink(now time.Time, e *Effects) {
	p.propose(now, e, func(f *follower, in bool) bool {
		return in && (f.flushedEnd >= p.logEnd || p.recent(f.flushing, now))
	})
}

func (p *Partition) propose(now time.Time, e *Effects, stays func(f *follower, in bool) bool) {
	if !p.leading || p.pending != nil {
		return
	}
	next := make([]int32, 0, len(p.replicas))
	for _, id := range p.replicas {
		f := p.follower(id)
		if f == nil || stays(f, slices.Contains(p.isr, id)) {
			next = append(next, id)
		}
	}
	if len(next) == len(p.isr) && !slices.ContainsFunc(next, func(id int32) bool { return !slices.Contains(p.isr, id) }) {
		return
	}
	p.pending, p.asked, e.Propose = next, now, true
}

// Proposal is the change to ask the controller for. What comes of it is told by
// Altered, Declined or Update; until then it stays, to be asked for again.
func (p *Partition) Proposal() (Change, bool) {
	if p.pending == nil {
		return Change{}, false
	}
	c := Change{LeaderEpoch: p.leaderEpoch, PartitionEpoch: p.partitionEpoch, Shrinks: len(p.pending) < len(p.isr)}
	for _, id := range p.pending {
		m := Member{id, -1}
		if f := p.follower(id); f != nil {
			m.Epoch = f.brokerEpoch
		}
		c.ISR = append(c.ISR, m)
	}
	return c, true
}

// Altered takes over the ISR that the controller made of a proposal. Where the
// metadata has told something newer, that holds.
func (p *Partition) Altered(c Change, partitionEpoch int32, isr []int32, now time.Time) Effects {
	var e Effects
	if !p.isPending(c) || partitionEpoch < p.partitionEpoch {
		return e
	}
	p.pending, p.partitionEpoch, p.isr = nil, partitionEpoch, isr
	p.advance(now, &e)
	p.expand(now, &e)
	return e
}

// Declined says that the controller has not made the change, and will not.
func (p *Partition) Declined(c Change, now time.Time) Effects {
	var e Effects
	if p.isPending(c) {
		p.pending = nil
		p.advance(now, &e)
	}
	return e
}

// isPending tells whether a change is the one that is pending.
func (p *Partition) isPending(c Change) bool {
	return p.pending != nil && c.LeaderEpoch == p.leaderEpoch && c.PartitionEpoch == p.partitionEpoch
}
