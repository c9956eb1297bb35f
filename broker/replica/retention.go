package replica

import (
	"context"
	"maps"
	"slices"
	"time"

	"github.com/streambus/streambus/broker/partition"
)

// sweepInterval is how often deleted files are looked for whose time has come.
const sweepInterval = time.Second

// retention gives up old segments and removes deleted files, until ctx ends.
func (m *Manager) retention(ctx context.Context) error {
	sweep, retain := time.NewTicker(sweepInterval), time.NewTicker(m.cfg.RetentionInterval)
	defer sweep.Stop()
	defer retain.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-sweep.C:
			if _, err := m.dir.Sweep(now); err != nil {
				m.log.Error("deleted files could not be removed; it is tried again", "error", err)
			}
		case now := <-retain.C:
			m.mu.RLock()
			all := slices.Collect(maps.Values(m.parts))
			m.mu.RUnlock()
			for _, r := range all {
				if ctx.Err() != nil {
					return nil
				}
				r.retain(now)
			}
		}
	}
}

// retain gives up segments that are too old, or more than the topic keeps.
func (r *Replica) retain(now time.Time) {
	r.mu.Lock()
	log, set, below, broken := r.log, r.set, r.part.HighWatermark(), r.broken
	r.mu.Unlock()
	if broken != nil || !set.retains {
		return
	}
	n, err := log.Retain(now, set.retention, below)
	if err != nil {
		r.m.log.Error("old segments could not be given up; it is tried again", "partition", r.name, "error", err)
	}
	if n == 0 {
		return
	}
	r.m.log.Info("old segments were given up", "partition", r.name, "segments", n, "start", log.StartOffset())
	r.mu.Lock()
	r.notify(partition.Effects{Moved: true})
	r.mu.Unlock()
}
