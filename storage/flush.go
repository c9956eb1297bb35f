package storage

import (
	"path/filepath"
	"time"
)

// FlushRound makes everything durable that was appended before BeginFlush.
type FlushRound struct {
	d     *Dir
	parts []flushPart
	count int  // of syncs, one by one
	all   bool // one sync of the file system instead
}

// flushPart is what a round does for one log.
type flushPart struct {
	log   *Log
	cuts  int64 // as the round began
	end   int64
	files []*handle
	names unsyncedNames
}

// Flushed says that a log is durable below Offset.
type Flushed struct {
	Log    *Log
	Offset int64
}

// queue puts the log among those of the next round, if a round has something
// to do for it. mu is held.
func (l *Log) queue() {
	if l.queued || len(l.due()) == 0 {
		return
	}
	l.queued = true
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	l.d.dirty = append(l.d.dirty, l)
}

// due is what a round would sync: all unsynced segments, or the sealed ones if
// nobody waits for the active one. mu is held.
func (l *Log) due() []*segment {
	n := len(l.unsynced)
	if n > 0 && l.cfg.FlushOS && l.unsynced[n-1] == l.active() {
		n--
	}
	return l.unsynced[:n]
}

// take hands over to a round what is due. What is appended from here on is the
// next round's.
func (l *Log) take() flushPart {
	l.mu.Lock()
	defer l.mu.Unlock()
	p := flushPart{log: l, cuts: l.cuts.Load(), end: l.flushed, names: l.names}
	due := l.due()
	for _, seg := range due {
		p.files = append(p.files, seg.pin)
		p.end = seg.next
		seg.pin = nil
	}
	l.unsynced = append([]*segment(nil), l.unsynced[len(due):]...)
	l.names = unsyncedNames{}
	l.queued = false
	return p
}

// Dirty tells whether a round has something to do. It is true from when a log
// becomes dirty until the round that flushes it has begun.
func (d *Dir) Dirty() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.dirty) > 0
}

// BeginFlush begins a round. It returns nil if nothing is dirty, or nothing can
// become durable any more. There is one round at a time.
func (d *Dir) BeginFlush() *FlushRound {
	if d.Failed() != nil {
		return nil
	}
	d.mu.Lock()
	dirty := d.dirty
	d.dirty = nil
	d.mu.Unlock()
	if len(dirty) == 0 {
		return nil
	}
	r := &FlushRound{d: d}
	for _, l := range dirty {
		p := l.take()
		r.parts = append(r.parts, p)
		r.count += p.count()
	}
	if r.newLogs() {
		r.count++
	}
	r.all = d.cost.useAll(r.count)
	return r
}

func (p flushPart) count() int {
	n := len(p.files)
	if p.names.files {
		n++
	}
	if p.names.epoch {
		n++
	}
	if p.names.meta {
		n++
	}
	return n
}

func (r *FlushRound) newLogs() bool {
	for _, p := range r.parts {
		if p.names.log {
			return true
		}
	}
	return false
}

// Syncs returns the calls that make up the round, in no order. The caller runs
// all of them, at the same time if it likes, and passes the first error to Done.
func (r *FlushRound) Syncs() []func() error {
	fs := r.d.fs
	if r.all {
		return []func() error{func() error { return fs.SyncAll(r.d.path) }}
	}
	calls := make([]func() error, 0, r.count)
	if r.newLogs() {
		calls = append(calls, func() error { return fs.SyncDir(r.d.path) })
	}
	for _, p := range r.parts {
		l := p.log
		if p.names.files {
			calls = append(calls, func() error { return l.unlessGone(fs.SyncDir(l.path())) })
		}
		if p.names.epoch {
			calls = append(calls, func() error { return l.unlessGone(syncFile(fs, filepath.Join(l.path(), epochsName))) })
		}
		if p.names.meta {
			calls = append(calls, func() error { return l.unlessGone(syncFile(fs, filepath.Join(l.path(), metadataName))) })
		}
		for _, f := range p.files {
			calls = append(calls, f.Sync)
		}
	}
	return calls
}

// Done ends the round. It returns how far the logs are durable now or, after an
// error, nothing, and the directory takes no more writes.
func (r *FlushRound) Done(elapsed time.Duration, err error) []Flushed {
	for _, p := range r.parts {
		for _, f := range p.files {
			r.d.files.release(f)
		}
	}
	if err != nil {
		r.d.fail(err)
		return nil
	}
	r.d.cost.observe(r.count, r.all, elapsed)
	flushed := make([]Flushed, 0, len(r.parts))
	for _, p := range r.parts {
		if p.log.gone.Load() {
			continue
		}
		if p.log.synced(p) {
			flushed = append(flushed, Flushed{p.log, p.end})
		}
	}
	r.d.moved.Store(true)
	return flushed
}

func (l *Log) durable(end int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushed = max(l.flushed, end)
}

// synced takes over what a round has done, unless the log was cut meanwhile: what
// it holds now the round has not seen.
func (l *Log) synced(p flushPart) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.cuts.Load() != p.cuts {
		return false
	}
	l.flushed = max(l.flushed, p.end)
	l.named = l.named || p.names.files
	return true
}

const (
	// Until both ways have been measured, up to this many files are synced one by one.
	defaultCrossover = 3
	// Whatever was measured, the choice is between the two in this range only.
	minCrossover, maxCrossover = 2, 16
	// One in so many rounds goes the other way, to measure it.
	remeasureRounds = 64
	// The weight of a new measurement.
	costWeight = 0.2
)

// syncCost chooses between syncing a round's files in parallel and syncing the
// file system. It belongs to the one round at a time.
type syncCost struct {
	each, all float64 // seconds per file, and per file system; 0: not measured
	rounds    int
}

func (c *syncCost) useAll(count int) bool {
	crossover := float64(defaultCrossover)
	if c.each > 0 && c.all > 0 {
		crossover = min(max(c.all/c.each, minCrossover), maxCrossover)
	}
	all := float64(count) > crossover
	if minCrossover <= count && count <= maxCrossover {
		if c.rounds++; c.rounds%remeasureRounds == 0 {
			return !all
		}
	}
	return all
}

// observe learns from a round. One file alone says nothing about many in parallel.
func (c *syncCost) observe(count int, all bool, elapsed time.Duration) {
	switch {
	case all:
		c.all = average(c.all, elapsed.Seconds())
	case count >= minCrossover:
		c.each = average(c.each, elapsed.Seconds()/float64(count))
	}
}

func average(old, measured float64) float64 {
	if old == 0 {
		return measured
	}
	return old + costWeight*(measured-old)
}
