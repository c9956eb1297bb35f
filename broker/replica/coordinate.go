package replica

import (
	"fmt"
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/storage/batch"
)

// What a coordinator asks of the partition that its state is in. It leads in one
// epoch: what it knows is of no use in another.

// Write appends one batch in a leader epoch, for all in-sync replicas. An error that
// is not ErrStorage says that nothing was appended.
func (r *Replica) Write(leaderEpoch int32, records []batch.Pair, now time.Time) (end int64, err error) {
	raw := batch.Build(records, now.UnixMilli())
	r.mu.Lock()
	var a Appended
	var e partition.Effects
	err = r.checkLeader(leaderEpoch)
	if most := r.set.rules; err == nil && int64(len(raw)) > most.MaxBytes {
		err = fmt.Errorf("%w: %d bytes, max.message.bytes is %d", ErrSegmentTooSmall, len(raw), most.MaxBytes)
	}
	if err == nil {
		a, e, err = r.append(raw, partition.AcksAll, nil, now)
	}
	r.notify(e)
	if err == nil {
		r.grown()
	}
	r.mu.Unlock()
	r.finish(e)
	if err != nil {
		return 0, err
	}
	r.m.countAppend(r, a.Last-a.Base+1, int64(len(raw)))
	return a.Last + 1, nil
}

// AwaitCommit has an item pending until the high watermark covers an offset, while the
// partition is led here in an epoch. The item has the error if it is not: of one that
// is pending the error is not the caller's to write.
func (r *Replica) AwaitCommit(leaderEpoch int32, end int64, item *WaitItem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if item.Err = r.checkLeader(leaderEpoch); item.Err != nil {
		return
	}
	if r.part.Await(end, partition.AcksAll, item) {
		item.register()
	}
}

// Leads is the epoch in which the partition is led here, false if it is not.
func (r *Replica) Leads() (epoch int32, leads bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.part.LeaderEpoch(), r.broken == nil && r.part.Leader() == r.m.cfg.NodeID
}
