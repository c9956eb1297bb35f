// Package partition decides for one partition on one broker: who leads it in
// which epoch, what may be appended, who is in sync, where the high watermark
// stands, which waiting produce requests that completes, and where a follower
// cuts its log.
//
// It is a pure core. It holds no log, lock or clock; its owner tells it what
// happened (a new state from the metadata image, an append, a flush, a report of
// a follower) and acts on the Effects that come back.
//
// # The two ends of a replica
//
// A replica has a log end (written) and a flushed end (known to survive power
// loss). The high watermark is the smallest flushed end over the in-sync
// replicas, so that nothing is visible, and nothing acknowledged, that one of
// them could still lose. A follower fetches from its log end and reports its
// flushed end beside it: writing, flushing and fetching overlap.
//
// # The maximal ISR
//
// While a change of the in-sync replicas is asked for, nobody here knows which
// of the two sets the controller has. So both count: a follower that is to leave
// still holds the high watermark back, and one that is to enter does already.
package partition

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// Errors that refuse a request to a partition, or end a wait.
var (
	ErrNotLeader         = errors.New("this broker does not lead the partition")
	ErrNotEnoughReplicas = errors.New("fewer in-sync replicas than min.insync.replicas")
	ErrNotEnoughAfter    = errors.New("since the records were appended there are fewer in-sync replicas than min.insync.replicas")
	ErrFencedEpoch       = errors.New("the request names an older leader epoch")
	ErrUnknownEpoch      = errors.New("the request names a leader epoch this broker has not heard of")
	ErrNotReplica        = errors.New("the sender is no replica of the partition, or a former incarnation of one")
)

// Acks is what a producer waits for.
type Acks int16

// What a producer may wait for.
const (
	AcksAll    Acks = -1 // the high watermark
	AcksNone   Acks = 0
	AcksLeader Acks = 1 // the leader's flushed end
)

// Settings are the settings that bear on decisions.
type Settings struct {
	MinISR int // min.insync.replicas
	// FlushOS takes the log end for the flushed end, as Apache Kafka does:
	// what is acknowledged may be lost with power.
	FlushOS bool
	// MaxLag is how long a follower may be behind and stay in sync
	// (replica.lag.time.max.ms).
	MaxLag time.Duration
}

// Partition is the state of one partition. Its owner's lock guards it.
//
// Invariants while leading: flushedEnd <= logEnd; the high watermark never falls;
// waits are in the order of their offsets; every wait's offset is above what
// completes it.
type Partition struct {
	self     int32
	settings Settings

	leading        bool
	leader         int32
	leaderEpoch    int32
	partitionEpoch int32
	replicas       []int32
	isr            []int32

	logEnd, flushedEnd, highWatermark int64
	// told is the high watermark that the leader of this epoch told this follower,
	// which may be beyond the log's end.
	told int64

	forFlush, forWatermark queue // acks=1, acks=all

	office // while leading
}

// queue is waits in the order of their offsets.
type queue []wait

type wait struct {
	end   int64 // the offset that the high watermark (or flushed end) must reach
	token any
}

// Effects is what the owner must do. Tokens are those given to Await.
type Effects struct {
	Moved   bool  // the high watermark moved: whoever waits for data may look
	Done    []any // these waits are over: what they waited for is durable
	Failed  []any // these will never be, because of Failure
	Failure error // also without waits: nothing more is read here as before
	Propose bool  // there is a Proposal to be made
}

// New makes the state of a partition of which nothing is known but the high
// watermark of its former life, below which its log is what was acknowledged.
// self is this broker's node id.
func New(self int32, highWatermark int64) *Partition {
	return &Partition{self: self, leader: image.NoLeader, leaderEpoch: -1, partitionEpoch: -1, highWatermark: highWatermark}
}

// Update takes over a state of the metadata image. The ends are the log's. A state
// older than the answer to a proposal changes nothing but the settings.
func (p *Partition) Update(s *image.Partition, settings Settings, logEnd, flushedEnd int64, now time.Time) Effects {
	p.settings = settings
	var e Effects
	if s.LeaderEpoch < p.leaderEpoch || s.LeaderEpoch == p.leaderEpoch && s.PartitionEpoch < p.partitionEpoch {
		p.advance(now, &e)
		return e
	}
	led, epoch := p.leading, p.leaderEpoch
	if s.LeaderEpoch != epoch || s.PartitionEpoch != p.partitionEpoch {
		p.pending = nil
	}
	p.leader, p.leading = s.Leader, s.Leader == p.self
	p.leaderEpoch, p.partitionEpoch = s.LeaderEpoch, s.PartitionEpoch
	p.replicas, p.isr = s.Replicas, s.ISR
	p.logEnd, p.flushedEnd = logEnd, flushedEnd
	if p.leaderEpoch != epoch {
		p.told = 0
	}
	if led && (!p.leading || p.leaderEpoch != epoch) {
		// The next leader may not have what these wait for.
		e.Failed, e.Failure = p.takeAll(), ErrNotLeader
	}
	if !p.leading {
		p.office = office{}
		return e
	}
	if !led || p.leaderEpoch != epoch {
		p.office = office{start: logEnd}
	}
	p.watch(now)
	p.advance(now, &e)
	p.expand(now, &e)
	return e
}

// LeaderEpoch is the epoch to stamp on appends.
func (p *Partition) LeaderEpoch() int32 { return p.leaderEpoch }

// Leader is the broker that leads, or image.NoLeader.
func (p *Partition) Leader() int32 { return p.leader }

// InSync tells whether the metadata has a broker among the in-sync replicas.
func (p *Partition) InSync(broker int32) bool { return slices.Contains(p.isr, broker) }

// HighWatermark is the offset below which records are visible.
func (p *Partition) HighWatermark() int64 { return p.highWatermark }

// FlushedEnd is the end that this replica vouches for.
func (p *Partition) FlushedEnd() int64 {
	if p.settings.FlushOS {
		return p.logEnd
	}
	return p.flushedEnd
}

// CheckLeader refuses a request whose sender knows another leader epoch, or to a
// partition that is not led here; -1 stands for no epoch known. The order is
// Kafka's: a sender that is ahead of this broker must not take it for a former
// leader, but ask again.
func (p *Partition) CheckLeader(epoch int32) error {
	switch {
	case epoch != -1 && epoch < p.leaderEpoch:
		return fmt.Errorf("%w: %d, the partition is in epoch %d", ErrFencedEpoch, epoch, p.leaderEpoch)
	case epoch > p.leaderEpoch:
		return fmt.Errorf("%w: %d, the partition is in epoch %d", ErrUnknownEpoch, epoch, p.leaderEpoch)
	case !p.leading:
		return ErrNotLeader
	}
	return nil
}

// CheckReader is CheckLeader for a consumer that a follower serves as well, up to
// the high watermark that it knows (KIP-392).
func (p *Partition) CheckReader(epoch int32) error {
	err := p.CheckLeader(epoch)
	if errors.Is(err, ErrNotLeader) && p.leader != image.NoLeader {
		return nil
	}
	return err
}

// CheckAppend refuses what may not be appended here and now. As in Apache Kafka
// min.insync.replicas counts for acks=all only, and never asks for more
// replicas than the partition has.
func (p *Partition) CheckAppend(acks Acks) error {
	if !p.leading {
		return ErrNotLeader
	}
	if acks == AcksAll && p.short() {
		return fmt.Errorf("%w: %d of %d", ErrNotEnoughReplicas, len(p.isr), p.needed())
	}
	return nil
}

func (p *Partition) needed() int { return min(p.settings.MinISR, len(p.replicas)) }

// short tells whether too few replicas are in sync for anything to be acknowledged.
func (p *Partition) short() bool { return len(p.isr) < p.needed() }

// Appended says that the log of this leader now ends at end.
func (p *Partition) Appended(end int64, now time.Time) Effects {
	p.leaveBehind(end, now)
	p.logEnd = end
	var e Effects
	if p.settings.FlushOS {
		p.advance(now, &e)
	}
	return e
}

// Flushed says that everything below end survives power loss.
func (p *Partition) Flushed(end int64, now time.Time) Effects {
	var e Effects
	if end > p.flushedEnd {
		p.flushedEnd = end
		p.advance(now, &e)
	}
	return e
}

// Await registers a wait for records below end. It returns false when there is
// nothing to wait for: they are as durable as acks asks already.
func (p *Partition) Await(end int64, acks Acks, token any) bool {
	switch {
	case acks == AcksLeader && p.FlushedEnd() < end:
		p.forFlush.add(end, token)
	case acks == AcksAll && p.highWatermark < end:
		p.forWatermark.add(end, token)
	default:
		return false
	}
	return true
}

// add keeps the order: repeats of a batch that is not yet durable wait for an
// older end.
func (q *queue) add(end int64, token any) {
	at, _ := slices.BinarySearchFunc(*q, end, func(w wait, end int64) int {
		if w.end <= end {
			return -1
		}
		return 1
	})
	*q = slices.Insert(*q, at, wait{end, token})
}

// Fail gives up every wait, for instance since the disk has failed.
func (p *Partition) Fail() []any { return p.takeAll() }

// advance moves the high watermark and collects the waits that are over.
func (p *Partition) advance(now time.Time, e *Effects) {
	if !p.leading {
		return
	}
	if low := p.durable(now); low > p.highWatermark {
		p.highWatermark, e.Moved = low, true
	}
	e.Done = append(p.forFlush.take(p.FlushedEnd()), p.forWatermark.take(p.highWatermark)...)
	e.Done = append(e.Done, p.forStart.take(p.lowestStart())...)
	if p.short() && len(p.forWatermark) > 0 {
		e.Failed, e.Failure = p.forWatermark.take(noOffset), ErrNotEnoughAfter
	}
}

func (p *Partition) takeAll() []any {
	return append(append(p.forFlush.take(noOffset), p.forWatermark.take(noOffset)...), p.forStart.take(noOffset)...)
}

// noOffset is above every offset.
const noOffset = 1<<63 - 1

// take removes the waits up to an offset.
func (q *queue) take(reached int64) []any {
	waits, n := *q, 0
	for n < len(waits) && waits[n].end <= reached {
		n++
	}
	if n == 0 {
		return nil
	}
	tokens := make([]any, n)
	for i, w := range waits[:n] {
		tokens[i] = w.token
	}
	left := copy(waits, waits[n:])
	clear(waits[left:])
	*q = waits[:left]
	return tokens
}
