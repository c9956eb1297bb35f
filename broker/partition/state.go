package partition

import (
	"fmt"
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// Standing is what a follower is to the ISR.
type Standing string

// Standings. Enters and Leaves are asked for, and nobody here knows what the
// controller has.
const (
	In     Standing = "in"
	Out    Standing = "out"
	Enters Standing = "enters"
	Leaves Standing = "leaves"
)

// FollowerState is what a leader knows of a follower. Offsets and the broker epoch
// are -1 until it has fetched in this leader epoch, and times are zero.
type FollowerState struct {
	ID          int32 `json:"id"`
	BrokerEpoch int64 `json:"brokerEpoch"` // of the incarnation that fetches
	Eligible    bool  `json:"eligible"`    // the metadata has that incarnation as one that is there, and stays
	LogEnd      int64 `json:"logEnd"`
	FlushedEnd  int64 `json:"flushedEnd"` // -1 also where it fetches and does not say
	// CaughtUp is the last moment for which it is proved that it had flushed all that
	// there was: now, if it has. One that is in sync as an epoch begins is taken to
	// have had it then. LogCaughtUp is that of what it has written.
	CaughtUp    time.Time `json:"caughtUp,omitzero"`
	LogCaughtUp time.Time `json:"logCaughtUp,omitzero"`
	Fetched     time.Time `json:"fetched,omitzero"` // its last fetch that named the partition
	Standing    Standing  `json:"standing"`
	Why         string    `json:"why"` // the standing
}

// Followers is what this leader knows of the others, in the order of the replicas.
// missing says in a word or two why the metadata does not have an incarnation of a
// broker as eligible, and nothing if it has; epoch -1 is any incarnation.
func (p *Partition) Followers(now time.Time, missing func(id int32, epoch int64) string) []FollowerState {
	states := make([]FollowerState, len(p.followers))
	for i := range p.followers {
		f := &p.followers[i]
		s := &states[i]
		*s = FollowerState{
			ID: f.id, BrokerEpoch: f.brokerEpoch, Eligible: f.eligible, LogEnd: f.logEnd, FlushedEnd: f.flushedEnd,
			CaughtUp: f.flushing.caughtUp, LogCaughtUp: f.fetching.caughtUp, Fetched: f.fetched,
		}
		if f.logEnd >= p.logEnd {
			s.LogCaughtUp = now
		}
		if f.flushedEnd >= p.logEnd {
			s.CaughtUp = now
		}
		s.Standing = p.standing(f.id)
		s.Why = p.why(f, s, now, missing(f.id, f.brokerEpoch))
	}
	return states
}

// standing reads the two sets that count while a change is asked for.
func (p *Partition) standing(id int32) Standing {
	in := slices.Contains(p.isr, id)
	next := in
	if p.pending != nil {
		next = slices.Contains(p.pending, id)
	}
	switch {
	case in && next:
		return In
	case in:
		return Leaves
	case next:
		return Enters
	}
	return Out
}

// why is what propose and the controller judge by, in words.
func (p *Partition) why(f *follower, s *FollowerState, now time.Time, missing string) string {
	asked := ""
	if s.Standing == Enters || s.Standing == Leaves {
		asked = fmt.Sprintf("; asked for %s ago", span(now.Sub(p.asked)))
	}
	switch {
	case missing != "":
		return "the controllers have it as " + missing + asked
	case f.brokerEpoch < 0 && !f.fetched.IsZero():
		return "what its log ends with is not in this log: it has to cut it first" + asked
	case f.brokerEpoch < 0:
		return "it has not fetched in this leader epoch" + p.behind(s, now) + asked
	case f.flushedEnd < 0:
		return "it fetches, and does not say what it has flushed" + p.behind(s, now) + asked
	case f.flushedEnd < p.logEnd:
		return p.arithmetic(f, s, now) + asked
	case s.Standing == Out && p.pending != nil:
		return "it has everything; another change of those in sync is asked for, it is next"
	case s.Standing == Out:
		return "it has everything; it is asked for with its next fetch"
	}
	return "it has everything" + asked
}

// arithmetic is about one that has flushed a part.
func (p *Partition) arithmetic(f *follower, s *FollowerState, now time.Time) string {
	done := "flushed"
	if p.settings.FlushOS {
		done = "written"
	}
	text := fmt.Sprintf("%s to %d of %d", done, f.flushedEnd, p.logEnd)
	if f.logEnd > f.flushedEnd {
		text += fmt.Sprintf(", written to %d", f.logEnd)
	}
	text += p.behind(s, now)
	if s.Standing != Out {
		return text
	}
	at, what := p.threshold(), "the high watermark"
	if p.start > p.highWatermark {
		what = "where this leader epoch began"
	}
	if f.flushedEnd < at {
		return fmt.Sprintf("%s; it may enter from %d on, %s", text, at, what)
	}
	return fmt.Sprintf("%s; it has reached %d, %s, and is asked for with its next fetch", text, at, what)
}

// behind compares how long one has been behind with how long it may be.
func (p *Partition) behind(s *FollowerState, now time.Time) string {
	if s.CaughtUp.IsZero() {
		return "; it has not had everything in this leader epoch"
	}
	late, most := now.Sub(s.CaughtUp), p.settings.MaxLag
	if late > most {
		return fmt.Sprintf(", behind for %s, more than replica.lag.time.max.ms (%s)", span(late), span(most))
	}
	return fmt.Sprintf(", behind for %s of the %s that replica.lag.time.max.ms allows", span(late), span(most))
}

// span rounds a duration to what a reader needs.
func span(d time.Duration) time.Duration {
	if d < time.Second {
		return d.Round(time.Millisecond)
	}
	return d.Round(100 * time.Millisecond)
}

// PendingISR is the ISR that was asked for, nil for none.
func (p *Partition) PendingISR() []int32 { return p.pending }

// Lag is how many records the leader said are acknowledged that this follower has
// not written.
func (p *Partition) Lag() int64 {
	if p.leading {
		return 0
	}
	return max(0, p.told-p.logEnd)
}

// Waits says what a follower with a working connection waits for.
func (p *Partition) Waits() string {
	switch {
	case p.leader == image.NoLeader:
		return "an election: nobody leads"
	case p.logEnd < p.told:
		return fmt.Sprintf("records: it has written to %d, and %d is acknowledged", p.logEnd, p.told)
	case p.FlushedEnd() < p.logEnd:
		return fmt.Sprintf("its disk: it has written to %d, and flushed to %d", p.logEnd, p.FlushedEnd())
	}
	return "more: it has all that it was told of"
}

// PartitionEpoch is that of the latest ISR that is known here.
func (p *Partition) PartitionEpoch() int32 { return p.partitionEpoch }

// Replicas are the brokers that have one.
func (p *Partition) Replicas() []int32 { return p.replicas }

// ISR is the latest that is known here, by the image or an answer to a proposal.
func (p *Partition) ISR() []int32 { return p.isr }
