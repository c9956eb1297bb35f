package storage

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/streambus/streambus/storage/batch"
)

// deletedSuffix marks a file that belongs to the log no more and is kept for
// those who still read it, until Sweep.
const deletedSuffix = ".deleted"

// AdvanceStart gives up the records below an offset, which may be no more than
// the high watermark. When it returns nil no crash brings them back; segments
// wholly below are gone for readers and are removed by a Sweep after
// LogConfig.DeleteDelay. What they said of producers stays known.
//
// After an error the start may have been moved nevertheless. The call may be
// repeated, and with an offset below the start it finishes what was left.
func (l *Log) AdvanceStart(offset int64, now time.Time) error {
	if err := l.usable(); err != nil {
		return err
	}
	return l.advanceStart(offset, l.cuts.Load(), now)
}

// advanceStart does so for an offset chosen when the log had been cut so many
// times, if it was not cut since.
func (l *Log) advanceStart(offset, cuts int64, now time.Time) error {
	l.mu.Lock()
	start, end := l.start, l.end
	l.mu.Unlock()
	if offset > end {
		return fmt.Errorf("%w: %d, %s ends at %d", ErrOffsetOutOfRange, offset, l.name, end)
	}
	if offset > start { // appends go on meanwhile
		if err := l.d.commitStart(l, offset, cuts); err != nil {
			return err
		}
	}
	l.swapMu.Lock()
	defer l.swapMu.Unlock()
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if offset > l.start && l.cuts.Load() != cuts {
		return errors.Join(l.d.refused(errCut), l.d.resetStart(l.name, l.start))
	}
	l.mu.Lock()
	l.start = max(l.start, offset)
	l.epochs = l.epochs.from(l.start)
	l.mu.Unlock()
	return l.removeBelow(now)
}

// removeBelow takes the segments out of the log that are wholly below its start.
// First it makes durable what would be lost with them: the producers' state, and
// the leader epoch at the start. A crash may undo any of the renames; recovery
// does them again, for the start is in its checkpoint until all are durable.
// appendMu is held.
func (l *Log) removeBelow(now time.Time) error {
	n := l.wholeBelow()
	if n == 0 {
		l.settleStart()
		return nil
	}
	if err := l.keepProducers(l.segments[n].base, now); err != nil {
		return l.d.refused(err)
	}
	if err := replaceEpochs(l.d.fs, l.path(), l.epochs, true); err != nil {
		return l.d.refused(err)
	}
	if err := l.d.fs.SyncDir(l.path()); err != nil {
		return l.d.fail(err)
	}
	due := now.Add(l.config().DeleteDelay)
	for range n {
		if err := l.removeFirst(due); err != nil {
			return l.d.refused(err)
		}
	}
	if err := l.d.fs.SyncDir(l.path()); err != nil {
		return l.d.fail(err)
	}
	l.settleStart()
	return nil
}

// wholeBelow counts the segments that are wholly below the start. The active one
// never is.
func (l *Log) wholeBelow() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := 0
	for n+1 < len(l.segments) && l.segments[n+1].base <= l.start {
		n++
	}
	return n
}

// removeFirst renames the files of the first segment. Indexes that cannot be
// renamed go at the next open, since their segment is missing.
func (l *Log) removeFirst(due time.Time) error {
	key := l.segments[0].key(l, logFile)
	if err := l.d.fs.Rename(key.path(), key.path()+deletedSuffix); err != nil {
		return err
	}
	l.mu.Lock()
	l.segments = slices.Clone(l.segments[1:])
	l.mu.Unlock()
	var errs error
	for _, kind := range []fileKind{indexFile, timeIndexFile} {
		key.kind = kind
		if err := l.d.fs.Rename(key.path(), key.path()+deletedSuffix); err != nil && !errors.Is(err, iofs.ErrNotExist) {
			errs = errors.Join(errs, err)
		}
	}
	l.d.mu.Lock()
	l.d.due = append(l.d.due, removal{log: l, base: key.base, version: key.version, at: due})
	l.d.mu.Unlock()
	return errs
}

// settleStart lets the checkpoint forget a start that the first segment's name
// says too, durably.
func (l *Log) settleStart() {
	l.mu.Lock()
	settled := len(l.segments) > 0 && l.segments[0].base >= l.start && l.named
	l.mu.Unlock()
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	if settled && l.d.logs[l.name] == l {
		delete(l.d.starts, l.name)
	}
}

// keepProducers makes the producers' state durable in a snapshot that recovery
// can go on from with segments from an offset on.
func (l *Log) keepProducers(from int64, now time.Time) error {
	if len(l.producers) == 0 {
		return nil
	}
	flushed := l.FlushedOffset()
	stays := max(from, min(flushed, l.HighWatermark())) // in a crash, and whatever a leader cuts
	for _, s := range slices.Backward(l.snapshots) {
		if from <= s && s <= stays {
			return l.d.mustSync(syncFile(l.d.fs, l.snapshotName(s)))
		}
	}
	before, whole, err := l.producersAt(from, now)
	if whole {
		return l.addSnapshot(from, before)
	}
	if err != nil && !IsDamage(err) {
		return err
	}
	// The state now must do. A snapshot beyond the end that a crash leaves would not
	// count: so no such crash.
	for _, seg := range l.segments {
		if seg.next <= flushed {
			continue
		}
		if err := l.syncSegment(seg); err != nil {
			return err
		}
	}
	l.snapshots = slices.DeleteFunc(l.snapshots, func(s int64) bool { return s == l.end })
	return l.snapshot(l.config(), now, true)
}

// producersAt derives the state at the beginning of a segment from those below it,
// if they have all of it.
func (l *Log) producersAt(base int64, now time.Time) (ps producers, whole bool, err error) {
	from := int64(-1)
	for _, s := range slices.Backward(l.snapshots) {
		if s > base {
			continue
		}
		b, err := ReadFile(l.d.fs, l.snapshotName(s))
		if err != nil {
			return nil, false, err
		}
		if ps, err = decodeProducers(b); err == nil {
			from = s
			break
		}
	}
	if from < l.segments[0].base {
		if from = 0; l.segments[0].base > 0 {
			return nil, false, nil
		}
		ps = nil
	}
	r := recovery{l: l}
	for _, seg := range l.segments {
		if seg.base >= base || seg.next <= from {
			continue
		}
		if err := r.eachOf(seg, from, func(h batch.Header) { ps.appended(h, now) }); err != nil {
			return nil, false, err
		}
	}
	return ps, true, nil
}

func (l *Log) addSnapshot(at int64, ps producers) error {
	if err := writeFile(l.d.fs, l.snapshotName(at), ps.encode(), true); err != nil {
		return err
	}
	if i, known := slices.BinarySearch(l.snapshots, at); !known {
		l.snapshots = slices.Insert(l.snapshots, i, at)
	}
	return nil
}

func (l *Log) syncSegment(seg *segment) error {
	f, err := l.d.files.acquire(seg.key(l, logFile), false)
	if err != nil {
		return err
	}
	defer l.d.files.release(f)
	return l.d.mustSync(f.Sync())
}

// commitStart writes a log's start to the checkpoint, unless the log was cut since
// the start was chosen. Calls that wait for one write share the next.
func (d *Dir) commitStart(l *Log, offset, cuts int64) error {
	l.mu.Lock()
	d.mu.Lock()
	known, cut := d.logs[l.name] == l, l.cuts.Load() != cuts
	if known && !cut {
		d.starts[l.name] = max(d.starts[l.name], offset)
	}
	d.mu.Unlock()
	l.mu.Unlock()
	if !known {
		return fmt.Errorf("%w: %s", ErrDeleted, l.name)
	}
	if cut {
		return d.refused(errCut)
	}
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	d.mu.Lock()
	done := d.startsOnDisk[l.name] >= offset
	starts := maps.Clone(d.starts)
	d.mu.Unlock()
	if done {
		return nil
	}
	return d.writeStarts(starts)
}

// writeStarts is called with checkpointMu held.
func (d *Dir) writeStarts(starts logOffsets) error {
	if err := ReplaceFile(d.fs, filepath.Join(d.path, startsName), starts.encode()); err != nil {
		return d.refused(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.startsOnDisk = starts
	return nil
}

// removal is what a Sweep removes: the files of a segment; with dir, all of a
// deleted log, whose log is nil if it was not open; or files without a name, held
// open for those who still read them.
type removal struct {
	log           *Log
	name          string // of the log, where it is its whole directory
	base, version int64
	dir           string
	held          []*handle
	at            time.Time
}

// buriedOther tells whether it is another version of a segment that was given up.
func (d *Dir) buriedOther(key fileKey) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.ContainsFunc(d.due, func(r removal) bool {
		return r.log == key.log && r.held == nil && r.base == key.base && r.version != key.version
	})
}

// Sweep removes the files whose time has come, and tells how many it removed.
// What it cannot remove it tries again the next time.
func (d *Dir) Sweep(now time.Time) (removed int, err error) {
	d.mu.Lock()
	var due []removal
	d.due = slices.DeleteFunc(d.due, func(r removal) bool {
		if r.at.After(now) {
			return false
		}
		due = append(due, r)
		return true
	})
	d.mu.Unlock()
	var left []removal
	for _, r := range due {
		n, failed := d.remove(r)
		removed += n
		if failed != nil {
			left, err = append(left, r), errors.Join(err, failed)
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.due = append(d.due, left...)
	return removed, err
}

func (d *Dir) remove(r removal) (removed int, err error) {
	if r.dir != "" {
		return d.removeDir(r)
	}
	if r.held != nil {
		r.log.let(r.held)
		return len(r.held), nil
	}
	for kind := range suffixes {
		key := fileKey{r.log, r.base, fileKind(kind), r.version}
		d.files.forget(key)
		switch failed := d.fs.Remove(key.path() + deletedSuffix); {
		case failed == nil:
			removed++
		case !errors.Is(failed, iofs.ErrNotExist):
			err = errors.Join(err, failed)
		}
	}
	return removed, err
}
