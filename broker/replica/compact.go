package replica

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/streambus/streambus/storage"
)

// Compaction is what compacting partitions may take.
type Compaction struct {
	Memory   int64         // log.cleaner.dedupe.buffer.size
	Rate     int64         // log.cleaner.io.max.bytes.per.second
	Interval time.Duration // log.cleaner.backoff.ms
}

// minCompactionInterval keeps looking for something to do from being all there is to do.
const minCompactionInterval = 100 * time.Millisecond

// failedCompactionPause is how long a partition is left alone that could not be
// compacted. What is wrong with it was said.
const failedCompactionPause = 5 * time.Minute

// cleaner compacts one partition at a time.
type cleaner struct {
	pace *Throttle

	mu       sync.Mutex // guards the following
	memory   int64
	interval time.Duration
}

// SetCompaction takes effect at once on the pace, and with the next pass.
func (m *Manager) SetCompaction(now time.Time, c Compaction) {
	m.cleaner.pace.setRate(now, c.Rate)
	m.cleaner.mu.Lock()
	defer m.cleaner.mu.Unlock()
	m.cleaner.memory, m.cleaner.interval = c.Memory, max(c.Interval, minCompactionInterval)
}

func (c *cleaner) limits() (memory int64, interval time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.memory, max(c.interval, minCompactionInterval)
}

// compaction compacts the partition that is due and has most that is new, and then
// the next, until ctx ends. Leaders and followers do so each for themselves.
func (m *Manager) compaction(ctx context.Context) error {
	timer := time.NewTimer(minCompactionInterval)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		memory, interval := m.cleaner.limits()
		if memory > 0 { // what it may take is known
			if r := m.dirtiest(time.Now()); r != nil && r.compact(ctx, memory) {
				interval = 0
			}
		}
		timer.Reset(interval)
	}
}

// dirtiest is the replica with the largest share of what is new, of those due; nil
// if there is none.
func (m *Manager) dirtiest(now time.Time) (due *Replica) {
	var most, overall float64
	for _, r := range m.all() {
		dirt, ok := r.dirt(now)
		if !ok {
			continue
		}
		overall = max(overall, dirt.Ratio)
		if dirt.Due && (due == nil || dirt.Ratio > most) {
			due, most = r, dirt.Ratio
		}
	}
	m.metrics.dirtiest.Set(overall)
	return due
}

// compacted returns what of the replica may be compacted; ok is false for nothing.
func (r *Replica) compacted(now time.Time) (log *storage.Log, cfg storage.CompactConfig, ok bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.set.compacts || r.log == nil || r.broken != nil || r.damaged || now.Before(r.spared) {
		return nil, cfg, false
	}
	cfg = r.set.compact
	cfg.Below = r.part.HighWatermark()
	return r.log, cfg, true
}

func (r *Replica) dirt(now time.Time) (storage.Dirt, bool) {
	log, cfg, ok := r.compacted(now)
	if !ok {
		return storage.Dirt{}, false
	}
	dirt, err := log.Dirt(now, cfg)
	if err != nil {
		r.spare(now, log, err)
		return storage.Dirt{}, false
	}
	return dirt, true
}

// spare leaves a replica alone for some time, after an error.
func (r *Replica) spare(now time.Time, log *storage.Log, err error) {
	if errors.Is(err, storage.ErrDeleted) {
		return // the replica is gone, or about to be
	}
	r.m.metrics.compactionFailures.Inc()
	r.m.log.Error("a partition cannot be compacted; it is tried again", "partition", r.name, "in", failedCompactionPause, "error", err)
	r.mu.Lock()
	r.spared = now.Add(failedCompactionPause)
	r.mu.Unlock()
	r.found(log, err)
}

// compact is one pass; done is false where it came to nothing.
func (r *Replica) compact(ctx context.Context, memory int64) (done bool) {
	begun := time.Now()
	log, cfg, ok := r.compacted(begun)
	if !ok {
		return false
	}
	pass, err := log.Compact(begun, cfg, memory, func(bytes int64) error { return r.m.cleaner.rest(ctx, bytes) })
	took := time.Since(begun)
	metrics := r.m.metrics
	metrics.compactions.Inc()
	metrics.compactedFrom.Add(float64(pass.Before))
	metrics.compactedTo.Add(float64(pass.After))
	metrics.compactionSeconds.Add(took.Seconds())
	if ctx.Err() != nil {
		return false
	}
	if err != nil {
		r.spare(begun, log, err)
		return false
	}
	r.m.log.Info("a partition was compacted", "partition", r.name, "to", pass.To, "segments", pass.Replaced, "bytes", pass.Before, "kept", pass.After, "seconds", took.Seconds())
	return true
}

// rest waits until the pace allows more, or ctx ends.
func (c *cleaner) rest(ctx context.Context, bytes int64) error {
	now := time.Now()
	c.pace.Take(now, bytes)
	for wait := c.pace.Wait(now); wait > 0; wait = c.pace.Wait(time.Now()) {
		timer := time.NewTimer(min(wait, time.Second)) // the rate may change
		select {
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		case <-timer.C:
		}
	}
	return ctx.Err()
}
