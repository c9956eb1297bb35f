package partition

import "fmt"

// EpochEnd is where the records of a leader epoch end in a log: that of the latest
// epoch that is not above the one asked for, -1 and -1 if there is none.
type EpochEnd struct {
	Epoch int32
	End   int64
}

// EndOf is where an epoch ends in this leader's log. found is what storage knows,
// which has heard of an epoch by its records only.
func (p *Partition) EndOf(epoch int32, found EpochEnd) EpochEnd {
	switch {
	case epoch == -1 || epoch > p.leaderEpoch:
		return EpochEnd{-1, -1}
	case epoch == p.leaderEpoch: // it may have written nothing yet
		return EpochEnd{epoch, p.logEnd}
	case found.Epoch == -1: // where the first epoch that writes will begin
		return EpochEnd{epoch, p.logEnd}
	}
	return found
}

// Diverges tells whether a log that ends at end with a record of an epoch differs
// from this leader's, and where that epoch ends here (KIP-320).
func (p *Partition) Diverges(epoch int32, end int64, found EpochEnd) (EpochEnd, bool) {
	here := p.EndOf(epoch, found)
	return here, here.Epoch != epoch || here.End < end
}

// Answer is what a leader has told a follower about a partition.
type Answer struct {
	LeaderEpoch int32 // in which it was asked
	// OutOfRange says that the follower's log end is not in the leader's log.
	OutOfRange bool
	// Diverging is where the epoch of the follower's last record ends there, and
	// Ours where Diverging's epoch ends here. Only with Differs; with OutOfRange Ours is
	// where LeaderEpoch ends here.
	Differs         bool
	Diverging, Ours EpochEnd
	Last            int32 // epoch of the follower's last record, -1 for none
	// Base is the offset of the first batch, -1 for none, and Next that of the one
	// behind it.
	Base, Next int64
	LogStart   int64 // the leader's
}

// Action is what a follower does to its log.
type Action int

// Actions.
const (
	Nothing Action = iota
	Append         // what was answered
	Cut            // what is from an offset on
	Begin          // anew at an offset, with what was answered, if that is there
)

// Answered decides what to do with an answer; start is where this log begins.
//
// Where the two differ, the log is cut where the leader's epoch, or the latest
// before it, ends here (Kafka's AbstractFetcherThread). What is left may differ
// still: the next fetch names an earlier epoch then, until nothing does. A high
// watermark is of no use for it: it may be behind what was acknowledged (KIP-101).
func (p *Partition) Answered(a Answer, start int64) (Action, int64, error) {
	switch {
	case p.leading || a.LeaderEpoch != p.leaderEpoch:
		return Nothing, 0, nil // the next request says so
	case a.OutOfRange && a.Last > p.leaderEpoch:
		// Nobody has led in that epoch, so no leader can tell where it ended: what the log
		// says of it is damaged. No CRC covers a batch's epoch.
		return Cut, max(a.Ours.End, start), nil
	case a.OutOfRange:
		if a.LogStart < 0 || p.logEnd >= a.LogStart && start < p.logEnd {
			return Nothing, 0, fmt.Errorf("the leader has no offset %d, and its log begins at %d", p.logEnd, a.LogStart)
		}
		// All that is here lies below what the leader has, or nothing is here.
		return Begin, a.LogStart, nil
	case a.Differs:
		cut := a.Diverging.End
		if a.Ours.Epoch >= 0 {
			cut = min(cut, a.Ours.End)
		}
		switch {
		case cut < start, start == p.logEnd:
			// The two have nothing in common but offsets: what is left here is the end of
			// a former epoch, or nothing.
			return Begin, min(cut, p.logEnd), nil
		case cut >= p.logEnd:
			return Nothing, 0, nil // it has been cut since it was asked for
		}
		return Cut, cut, nil
	case a.Base >= 0 && a.Base < p.logEnd && p.logEnd < a.Next && start == p.logEnd:
		// The leader has given up a part of this batch, and the log began there. Batches
		// are not split: it begins with the whole one (Kafka's Partition.scala).
		return Begin, a.Base, nil
	case a.Base < p.logEnd: // none, or they are here: they were answered twice
		return Nothing, 0, nil
	}
	return Append, a.Base, nil
}

// Fetched says that this replica's log now ends at end, and what its leader's
// high watermark is. Of what lies below that, it need not have everything.
func (p *Partition) Fetched(end, highWatermark int64) Effects {
	p.logEnd, p.told = end, highWatermark
	var e Effects
	if hw := min(highWatermark, end); !p.leading && hw > p.highWatermark {
		p.highWatermark, e.Moved = hw, true
	}
	return e
}

// Truncated says that this replica's log was cut, or begins anew. That is below the
// high watermark only after an unclean election, or where what was acknowledged is
// lost.
func (p *Partition) Truncated(end, flushedEnd int64) {
	p.logEnd, p.flushedEnd = end, flushedEnd
	p.highWatermark = min(p.highWatermark, end)
}
