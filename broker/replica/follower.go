package replica

import (
	"errors"
	"fmt"
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage/batch"
)

// id is the partition as nodes name it to each other.
func (r *Replica) id() peer.PartitionID {
	return peer.PartitionID{Topic: r.key.topic, Index: r.key.partition}
}

// follows is the leader that the replica follows, if it does.
func (r *Replica) follows() (leader int32, follows bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	leader = r.part.Leader()
	return leader, r.broken == nil && leader != image.NoLeader && leader != r.m.cfg.NodeID
}

// position is where a follower of a leader goes on, and what it vouches for.
func (r *Replica) position(leader int32) (peer.FetchPartition, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil || r.part.Leader() != leader {
		return peer.FetchPartition{}, false
	}
	end := r.log.EndOffset()
	return peer.FetchPartition{
		PartitionID: r.id(), LeaderEpoch: r.part.LeaderEpoch(),
		Offset: end, LastEpoch: r.log.EpochAt(end), LogStart: r.log.StartOffset(),
		FollowerState: protocol.FollowerState{FlushedEnd: r.part.FlushedEnd()},
	}, true
}

// fetched takes over what the leader of an epoch answered. again says that there
// may be more: the position has changed. What was asked for an older log comes from
// another source than the replica has now.
func (r *Replica) fetched(s *source, p *peer.FetchedPartition, epoch int32, now time.Time) (again bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.broken != nil {
		return false, r.broken
	}
	if r.source.Load() != s {
		return false, nil
	}
	if p.Code != protocol.None && p.Code != protocol.OffsetOutOfRange {
		return false, fmt.Errorf("the leader answers %s", p.Code)
	}
	a := partition.Answer{LeaderEpoch: epoch, OutOfRange: p.Code != protocol.None, Differs: p.DivergingEpoch >= 0, Base: -1, LogStart: p.LogStart}
	if a.OutOfRange {
		a.Last, a.Ours = r.log.EpochAt(r.log.EndOffset()), r.epochEnd(epoch)
	}
	if a.Differs {
		a.Diverging = partition.EpochEnd{Epoch: p.DivergingEpoch, End: p.DivergingEnd}
		a.Ours = r.epochEnd(p.DivergingEpoch)
	}
	if h, err := batch.DecodeHeader(p.Records); err == nil {
		a.Base, a.Next = h.BaseOffset, h.LastOffset()+1
	}
	do, at, err := r.part.Answered(a, r.log.StartOffset())
	switch {
	case err != nil:
		return false, err
	case do == partition.Cut:
		return true, r.cut(at, now)
	case do == partition.Begin && a.Base != at:
		return true, r.begin(at)
	case do == partition.Begin:
		if err := r.begin(at); err != nil {
			return true, err
		}
		again, err = r.appendFetched(p, epoch, now)
	case do == partition.Append:
		again, err = r.appendFetched(p, epoch, now)
	case r.part.LeaderEpoch() == epoch:
		again, err = r.advance(p, r.log.EndOffset(), now)
	default:
		return false, nil
	}
	return a.Base >= 0 || again, err
}

// appendFetched continues the log, as far as what was answered is whole. r.mu is
// held.
func (r *Replica) appendFetched(p *peer.FetchedPartition, epoch int32, now time.Time) (raised bool, err error) {
	end, err := r.log.AppendFetched(p.Records, epoch, now)
	r.m.wakeFlusher()
	raised, failed := r.advance(p, end, now)
	if err == nil {
		r.m.metrics.replicationIn.Add(float64(len(p.Records)))
	}
	return raised, errors.Join(storageError(err), failed)
}

// advance follows the leader's start, as far as this log goes and that is acknowledged,
// and then its high watermark. Below the leader's start the log may have what was never
// acknowledged, and nobody tells: so it is given up before it could be shown. r.mu is held.
func (r *Replica) advance(p *peer.FetchedPartition, end int64, now time.Time) (raised bool, err error) {
	to := p.HighWatermark
	if p.LogStart > r.log.StartOffset() && p.LogStart <= min(to, end) {
		raised, err = true, storageError(r.log.AdvanceStart(p.LogStart, now))
	}
	if err != nil {
		to = min(to, r.part.HighWatermark())
	}
	r.notify(r.part.Fetched(end, to))
	return raised, err
}

// cut takes away what the leader does not have. r.mu is held.
func (r *Replica) cut(at int64, now time.Time) error {
	before, acknowledged := r.log.EndOffset(), r.part.HighWatermark()
	end, err := r.log.TruncateTo(at, now)
	if err != nil {
		return storageError(err)
	}
	if end < acknowledged {
		r.m.log.Warn("records that had been acknowledged were cut off a log, since the leader does not have them: after an unclean election, or the loss of a disk",
			"partition", r.name, "leader", r.part.Leader(), "from", end, "acknowledged to", acknowledged)
	}
	r.m.log.Info("a log was cut where its leader's differs", "partition", r.name, "leader", r.part.Leader(), "from", end, "records", before-end)
	r.part.Truncated(end, r.log.FlushedOffset())
	return nil
}

// begin empties the log. r.mu is held.
func (r *Replica) begin(offset int64) error {
	r.m.log.Info("a log begins anew, where its leader's can continue it", "partition", r.name, "leader", r.part.Leader(),
		"had", fmt.Sprintf("%d to %d", r.log.StartOffset(), r.log.EndOffset()), "from", offset)
	if err := r.log.Restart(offset); err != nil {
		return storageError(err)
	}
	r.part.Truncated(offset, offset)
	return nil
}
