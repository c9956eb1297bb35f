package group

import (
	"time"

	"github.com/streambus/streambus/protocol"
)

// Term is a shard for as long as its partition is led in one epoch. It appends what
// the shard decides, and has every answer wait for all that was appended when it was
// given. Its owner's lock guards it.
type Term struct {
	epoch int32
	shard *Shard // nil until it is loaded, and when the term is over
	over  bool
	end   int64    // of what was appended so far
	gone  []string // topics that were deleted while it was loaded, at most maxGone
}

// maxGone bounds the topics that a shard remembers for when it is loaded, as that may be
// tried for long. Offsets of others stay until they expire.
const maxGone = 100_000

// NewTerm begins a term whose shard is still to be loaded.
func NewTerm(epoch int32) *Term { return &Term{epoch: epoch} }

// Epoch is the leader epoch to load, append and wait in.
func (t *Term) Epoch() int32 { return t.epoch }

// Lasts tells whether who led the partition when the term began has led it since.
func (t *Term) Lasts(epoch int32, leads bool) bool { return leads && epoch == t.epoch }

// TermState is where a term is.
type TermState int

// A term is Active from Loaded on.
const (
	Loading TermState = iota
	Active
	Ended
)

// State is where the term is.
func (t *Term) State() TermState {
	switch {
	case t.over:
		return Ended
	case t.shard == nil:
		return Loading
	}
	return Active
}

// Shard is the one that serves, to be looked at; nil unless the term is Active.
func (t *Term) Shard() *Shard { return t.shard }

// Append appends one batch in a term's epoch, and returns where the log ends then.
type Append func(records []Record) (end int64, refusal *Refusal)

// Refusal is why a batch is not in the log.
type Refusal struct {
	Code    protocol.ErrorCode
	Unknown bool // or perhaps is, or a part of it: the term is over
}

// Outcome is what the owner does: it lets answers go.
type Outcome struct {
	Held    []Held
	Replies []Reply   // these at once: they say that the term is over
	Wake    time.Time // when Tick is to be called, zero for never
}

// Held is answers that leave when the log is committed to an offset in the term's
// epoch. Where that does not come to pass an error leaves in their place.
type Held struct {
	End     int64
	Replies []Reply
}

// Loaded begins to serve with a shard to which the log was replayed, up to where it
// ended when the term began: nobody else appends.
func (t *Term) Loaded(now time.Time, shard *Shard, end int64, log Append) Outcome {
	if t.over {
		return Outcome{}
	}
	t.shard, t.end = shard, end
	o := t.carry(now, shard.Loaded(now), log)
	if len(t.gone) > 0 && !t.over {
		deleted := t.TopicsDeleted(now, t.gone, log)
		deleted.Held = append(o.Held, deleted.Held...)
		o, t.gone = deleted, nil
	}
	return o
}

// TopicsDeleted removes the offsets of topics that are gone, once the shard is loaded:
// until then nobody commits any of topics with their names that are made anew.
func (t *Term) TopicsDeleted(now time.Time, topics []string, log Append) Outcome {
	if t.State() == Loading {
		t.gone = append(t.gone, topics[:min(len(topics), maxGone-len(t.gone))]...)
		return Outcome{}
	}
	o, _ := t.Step(now, func(s *Shard) Effects { return s.TopicsDeleted(now, topics) }, log)
	return o
}

// Step has the shard take a step, unless it is not there.
func (t *Term) Step(now time.Time, do func(*Shard) Effects, log Append) (Outcome, protocol.ErrorCode) {
	switch {
	case t.over:
		return Outcome{}, protocol.NotCoordinator
	case t.shard == nil:
		return Outcome{}, protocol.CoordinatorLoadInProgress
	}
	return t.carry(now, do(t.shard), log), protocol.None
}

// carry does what a step asks for, until there is nothing left to append.
func (t *Term) carry(now time.Time, e Effects, log Append) (o Outcome) {
	for {
		t.hold(&o, e.Replies)
		if len(e.Records) == 0 {
			o.Wake = e.Wake
			return o
		}
		end, refusal := log(e.Records)
		if refusal == nil {
			t.end = end
			e = t.shard.Appended(now)
			continue
		}
		e = t.shard.Refused(now, refusal.Code)
		if refusal.Unknown {
			t.hold(&o, e.Replies)
			o.Replies = t.Over(now)
			return o
		}
	}
}

func (t *Term) hold(o *Outcome, replies []Reply) {
	if len(replies) > 0 {
		o.Held = append(o.Held, Held{t.end, replies})
	}
}

// Over ends the term. Who waits for the others of a group is told to look for another
// coordinator.
func (t *Term) Over(now time.Time) (replies []Reply) {
	t.over = true
	if t.shard != nil {
		replies = t.shard.Unload(now).Replies
	}
	t.shard = nil
	return replies
}
