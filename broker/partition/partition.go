// Package partition decides for one partition on one broker: who leads it in
// which epoch, what may be appended, where the high watermark stands, and which
// waiting produce requests that completes.
//
// It is a pure core. It holds no log, lock or clock; its owner tells it what
// happened (a new state from the metadata image, an append, a flush) and acts
// on the Effects that come back.
//
// # The two ends of a replica
//
// A replica has a log end (written) and a flushed end (known to survive power
// loss). The high watermark is the smallest flushed end over the in-sync
// replicas, so that nothing is visible, and nothing acknowledged, that one of
// them could still lose.
package partition

import (
	"errors"
	"fmt"
	"slices"

	"github.com/streambus/streambus/raftmeta/image"
)

// Errors that refuse a request to a partition.
var (
	ErrNotLeader         = errors.New("this broker does not lead the partition")
	ErrNotEnoughReplicas = errors.New("fewer in-sync replicas than min.insync.replicas")
	ErrFencedEpoch       = errors.New("the request names an older leader epoch")
	ErrUnknownEpoch      = errors.New("the request names a leader epoch this broker has not heard of")
)

// Acks is what a producer waits for.
type Acks int16

// What a producer may wait for.
const (
	AcksAll    Acks = -1 // the high watermark
	AcksNone   Acks = 0
	AcksLeader Acks = 1 // the leader's flushed end
)

// Settings are the topic settings that bear on decisions.
type Settings struct {
	MinISR int // min.insync.replicas
	// FlushOS takes the log end for the flushed end, as Apache Kafka does:
	// what is acknowledged may be lost with power.
	FlushOS bool
}

// Partition is the state of one partition. Its owner's lock guards it.
//
// Invariants while leading: highWatermark <= flushedEnd <= logEnd; waits are in
// the order of their offsets; every wait's offset is above what completes it.
type Partition struct {
	self     int32
	settings Settings

	leading     bool
	leaderEpoch int32
	replicas    []int32
	isr         []int32

	logEnd, flushedEnd, highWatermark int64

	waits []wait
}

type wait struct {
	end   int64 // the offset that the high watermark (or flushed end) must reach
	acks  Acks
	token any
}

// Effects is what the owner must do. Tokens are those given to Await.
type Effects struct {
	Moved  bool  // the high watermark moved: whoever waits for data may look
	Done   []any // these waits are over: what they waited for is durable
	Failed []any // these will never be: the partition is not led here any more
}

// New makes the state of a partition of which nothing is known yet. self is
// this broker's node id.
func New(self int32) *Partition { return &Partition{self: self, leaderEpoch: -1} }

// Update takes over a state of the metadata image. ends are the log's ends as
// recovered: on becoming leader everything in the log is flushed.
func (p *Partition) Update(s *image.Partition, settings Settings, logEnd, flushedEnd int64) Effects {
	led, epoch := p.leading, p.leaderEpoch
	p.settings = settings
	p.leading = s.Leader == p.self
	p.leaderEpoch = s.LeaderEpoch
	p.replicas, p.isr = s.Replicas, s.ISR
	p.logEnd, p.flushedEnd = logEnd, flushedEnd
	var e Effects
	if led && (!p.leading || p.leaderEpoch != epoch) {
		// The next leader may not have what these wait for.
		e.Failed = p.takeWaits(len(p.waits))
	}
	p.advance(&e)
	return e
}

// LeaderEpoch is the epoch to stamp on appends.
func (p *Partition) LeaderEpoch() int32 { return p.leaderEpoch }

// HighWatermark is the offset below which records are visible.
func (p *Partition) HighWatermark() int64 { return p.highWatermark }

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

// CheckAppend refuses what may not be appended here and now. As in Apache Kafka
// min.insync.replicas counts for acks=all only, and never asks for more
// replicas than the partition has.
func (p *Partition) CheckAppend(acks Acks) error {
	if !p.leading {
		return ErrNotLeader
	}
	if need := min(p.settings.MinISR, len(p.replicas)); acks == AcksAll && len(p.isr) < need {
		return fmt.Errorf("%w: %d of %d", ErrNotEnoughReplicas, len(p.isr), need)
	}
	return nil
}

// Appended says that the log now ends at end.
func (p *Partition) Appended(end int64) Effects {
	p.logEnd = end
	var e Effects
	if p.settings.FlushOS {
		p.advance(&e)
	}
	return e
}

// Flushed says that everything below end survives power loss.
func (p *Partition) Flushed(end int64) Effects {
	var e Effects
	if end > p.flushedEnd {
		p.flushedEnd = end
		p.advance(&e)
	}
	return e
}

// Await registers a wait for records below end. It returns false when there is
// nothing to wait for: they are as durable as acks asks already.
func (p *Partition) Await(end int64, acks Acks, token any) bool {
	if acks == AcksNone || p.reached(acks) >= end {
		return false
	}
	// Repeats of a batch that is not yet flushed wait for an older end.
	at, _ := slices.BinarySearchFunc(p.waits, end, func(w wait, end int64) int {
		if w.end <= end {
			return -1
		}
		return 1
	})
	p.waits = slices.Insert(p.waits, at, wait{end, acks, token})
	return true
}

// Fail gives up every wait, for instance since the disk has failed.
func (p *Partition) Fail() []any { return p.takeWaits(len(p.waits)) }

// advance moves the high watermark and collects the waits that are over.
func (p *Partition) advance(e *Effects) {
	if !p.leading {
		return
	}
	if p.settings.FlushOS {
		p.flushedEnd = p.logEnd
	}
	// This broker is the only in-sync replica, so its flushed end decides.
	if p.flushedEnd > p.highWatermark {
		p.highWatermark, e.Moved = p.flushedEnd, true
	}
	n := 0
	for n < len(p.waits) && p.reached(p.waits[n].acks) >= p.waits[n].end {
		n++
	}
	e.Done = p.takeWaits(n)
}

// reached is how far the log is durable in the sense of acks.
func (p *Partition) reached(acks Acks) int64 {
	if acks == AcksLeader {
		return p.flushedEnd
	}
	return p.highWatermark
}

func (p *Partition) takeWaits(n int) []any {
	if n == 0 {
		return nil
	}
	tokens := make([]any, n)
	for i, w := range p.waits[:n] {
		tokens[i] = w.token
	}
	left := copy(p.waits, p.waits[n:])
	clear(p.waits[left:])
	p.waits = p.waits[:left]
	return tokens
}
