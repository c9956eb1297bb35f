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

// retention gives up old segments, removes deleted files and watches the room
// on the disk, until ctx ends.
func (m *Manager) retention(ctx context.Context) error {
	m.guard()
	sweep, retain := time.NewTicker(sweepInterval), time.NewTicker(m.cfg.RetentionInterval)
	defer sweep.Stop()
	defer retain.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case now := <-sweep.C:
			m.guard()
			if _, err := m.dir.Sweep(now); err != nil {
				m.log.Error("deleted files could not be removed; it is tried again", "error", err)
			}
		case now := <-retain.C:
			for _, r := range m.all() {
				if ctx.Err() != nil {
					return nil
				}
				r.retain(now)
			}
		}
	}
}

// guard has appends refused while the disk is nearly full, and tells when that
// begins and ends.
func (m *Manager) guard() {
	space, err := m.dir.FreeGuard(m.cfg.MinFree)
	switch full := space.Free < space.Reserved; {
	case err != nil:
		m.log.Error("how full the disk is cannot be told", "error", err)
	case full && !m.full:
		m.full = true
		m.log.Error("the disk is nearly full: records are refused until there is more room; delete topics or records, lower retention, or add space", "free", space.Free, "needed", space.Reserved)
	case !full && m.full:
		m.full = false
		m.log.Info("the disk has room again: records are taken", "free", space.Free)
	}
}

// scrubShare keeps looking for something to read at a thousandth of the time,
// however many partitions there are. Reading has a pace of its own.
const scrubShare = 1000

// scrub reads sealed segments, slowly and for ever, so that damage is found
// while other copies or a backup can still make up for it.
func (m *Manager) scrub(ctx context.Context) error {
	timer := time.NewTimer(0)
	defer timer.Stop()
	pause := func(d time.Duration) (goOn bool) {
		timer.Reset(d)
		select {
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for {
		var looking time.Duration
		for _, r := range m.all() {
			for whole := false; !whole; {
				var read int64
				begun := time.Now()
				read, whole = r.scrub(m.cfg.ScrubRate)
				if read == 0 {
					looking += time.Since(begun)
					break
				}
				if !pause(time.Second) {
					return nil
				}
			}
		}
		if !pause(max(time.Second, looking*scrubShare)) {
			return nil
		}
	}
}

func (m *Manager) all() []*Replica {
	m.mu.RLock()
	defer m.mu.RUnlock()
	return slices.Collect(maps.Values(m.parts))
}

// scrub verifies a second's worth of sealed segments.
func (r *Replica) scrub(budget int64) (read int64, whole bool) {
	r.mu.Lock()
	log, broken := r.log, r.broken
	r.mu.Unlock()
	if broken != nil {
		return 0, true
	}
	read, whole, err := log.Scrub(budget)
	if err != nil {
		r.m.metrics.damaged.Inc()
		r.m.log.Error("a stored segment is damaged; what is damaged cannot be read", "partition", r.name, "error", err)
		r.found(log, err)
	}
	return read, whole
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
