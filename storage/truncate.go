package storage

import (
	"errors"
	iofs "io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"
)

// TruncateTo takes away the records from an offset on, and returns the new end: a
// batch that holds the offset goes whole. When it returns, no crash brings back
// what was taken, nor mixes it with what is appended then.
//
// An error leaves the log as it was, unless it is a latched FailedError.
func (l *Log) TruncateTo(offset int64, now time.Time) (end int64, err error) {
	l.swapMu.Lock()
	defer l.swapMu.Unlock()
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	if err := l.usable(); err != nil {
		return l.end, err
	}
	if offset >= l.end {
		return l.end, nil
	}
	if offset <= l.start {
		err := l.restart(l.start)
		return l.end, err
	}
	at, err := l.place(offset)
	if err != nil {
		return l.end, l.d.readError(err)
	}
	if at.offset <= l.start { // of the epoch at the start nothing is known then
		err := l.restart(l.start)
		return l.end, err
	}
	c, err := l.withdraw(at, at.offset, at.offset)
	if err != nil {
		return l.end, err
	}
	if err := errors.Join(l.cut(c), l.reopen(at.offset, now)); err != nil {
		return l.end, l.d.fail(err)
	}
	return l.end, nil
}

// place is where the last batch ends that is wholly below an offset, as far as the
// segment of that offset has one.
func (l *Log) place(offset int64) (position, error) {
	for rebuilt := false; ; rebuilt = true {
		v, err := l.look(offset)
		if err != nil {
			return position{}, err
		}
		at, err := l.placeIn(v, offset)
		switch {
		case err == errStaleIndex && rebuilt:
			return at, &CorruptError{v.key(indexFile).path(), 0, "it was rebuilt and reads differently"}
		case err == errStaleIndex:
			if err := l.rebuildLocked(v.seg, v.rebuilt); err != nil {
				return at, err
			}
		default:
			return at, err
		}
	}
}

func (l *Log) placeIn(v view, offset int64) (position, error) {
	f, err := l.d.files.acquire(v.key(logFile), false)
	if err != nil {
		return position{}, err
	}
	defer l.d.files.release(f)
	if v.entries < 0 {
		if v.entries, err = l.countEntries(v.seg); err != nil {
			return position{}, err
		}
	}
	w := newWalker(f, v.size)
	defer w.free()
	if _, err := v.seekEntry(w, func(e entry) bool { return e.last < offset }); err != nil {
		return position{}, err
	}
	for from := w.pos; w.more(); {
		h, err := w.header()
		if err != nil {
			return position{}, err
		}
		if h.LastOffset() >= offset {
			break
		}
		if v.tooFar(w.pos - from) {
			return position{}, errStaleIndex
		}
		w.step(h)
	}
	return position{base: v.base, offset: w.next, pos: w.pos}, nil
}

// cut is what is to be done to the files of a log whose records from at.offset on
// nobody sees any more.
type cut struct {
	at      position
	flushed int64   // what had been
	gone    []int64 // base offsets of the segments above
}

// withdraw has nobody see, or count on, more than what is below a place: readers,
// rounds of syncs that are under way, the watermark, how far the log is compacted,
// and the recovery point on disk, below which recovery takes what is missing for a
// loss. appendMu is held.
func (l *Log) withdraw(at position, point, watermark int64) (cut, error) {
	d := l.d
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	l.watermark.Store(min(l.watermark.Load(), watermark))
	d.mu.Lock()
	points := maps.Clone(d.points)
	known, compacted := d.watermarks[l.name], d.compacted[l.name]
	d.mu.Unlock()
	if known > watermark {
		if err := d.writeWatermarks(); err != nil {
			return cut{}, err
		}
	}
	if compacted > at.offset { // what comes instead was not looked at
		if err := d.writeCompactedBut(l, at.offset); err != nil {
			return cut{}, err
		}
	}
	if points[l.name] > point {
		points[l.name] = point
		if err := d.writePoints(points); err != nil {
			return cut{}, err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cuts.Add(1)
	c := cut{at: at, flushed: l.flushed}
	l.flushed = min(l.flushed, point)
	l.compacted = min(l.compacted, at.offset)
	stay := slices.IndexFunc(l.segments, func(s *segment) bool { return s.base == at.base }) + 1
	for _, seg := range l.segments[stay:] {
		c.gone = append(c.gone, seg.base)
	}
	if l.segments = slices.Clip(l.segments[:stay]); stay > 0 {
		seg := l.active()
		seg.size, seg.next, seg.maxKnown = at.pos, at.offset, false
	}
	l.end = max(at.offset, l.start) // a Restart's place is that of a file
	l.epochs = l.epochs.below(max(l.end, l.start+1))
	l.hint = position{}
	for _, seg := range l.unsynced {
		d.files.release(seg.pin)
		seg.pin = nil
	}
	l.unsynced, l.names = nil, unsyncedNames{}
	return c, nil
}

// cut shortens the files, the last one first. Each removal is durable before the
// next, for where compaction may have left gaps recovery would not miss one from
// the middle. What stays and was not flushed is synced here, with all names.
func (l *Log) cut(c cut) error {
	for i := len(c.gone) - 1; i >= 0; i-- {
		if err := l.removeFiles(c.gone[i]); err != nil {
			return err
		}
		if err := l.d.fs.SyncDir(l.path()); err != nil {
			return err
		}
	}
	f, err := l.d.files.acquire(l.active().key(l, logFile), false)
	if err != nil {
		return err
	}
	err = f.Truncate(c.at.pos)
	l.d.files.release(f)
	if err != nil {
		return err
	}
	for _, seg := range l.segments {
		if seg.base != c.at.base && seg.next <= c.flushed {
			continue
		}
		if err := l.syncSegment(seg); err != nil {
			return err
		}
	}
	if err := l.syncNames(); err != nil {
		return err
	}
	if l.cleaned.Load() > c.at.offset {
		return l.gapsBelow(c.at.offset)
	}
	return nil
}

// removeFiles removes a segment. Its indexes need not be there.
func (l *Log) removeFiles(base int64) error {
	for kind := range suffixes {
		err := l.d.fs.Remove(fileKey{log: l, base: base, kind: fileKind(kind)}.path())
		if err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// syncNames makes the names of the log's directory and files durable, and the
// content of the small ones.
func (l *Log) syncNames() error {
	for _, name := range []string{epochsName, metadataName} {
		if err := syncFile(l.d.fs, filepath.Join(l.path(), name)); err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return err
		}
	}
	return errors.Join(l.d.fs.SyncDir(l.path()), l.d.fs.SyncDir(l.d.path))
}

// reopen reads back what the files hold, as the next start would, and goes on from
// there: epochs, producers and indexes follow from the batches.
func (l *Log) reopen(end int64, now time.Time) error {
	fresh := &Log{d: l.d, name: l.name, topicID: l.topicID, cfg: l.config(), made: true}
	fresh.cleaned.Store(l.cleaned.Load())
	defer l.d.files.forgetLog(fresh)
	_, err := fresh.recover(offsetLimits{point: end, start: l.start, cleaned: fresh.cleaned.Load()}, now)
	if err != nil {
		return err
	}
	if err := fresh.spill(fresh.active()); err != nil { // which cuts the indexes
		return err
	}
	l.d.mu.Lock()
	for i := range l.d.due {
		if l.d.due[i].log == fresh {
			l.d.due[i].log = l
		}
	}
	l.d.mu.Unlock()
	l.become(fresh)
	return nil
}

// become takes over the state of a log in the same directory, all of which is
// durable. Files that were opened by somebody until now may be removed ones.
// appendMu is held.
func (l *Log) become(fresh *Log) {
	l.producers, l.snapshots, l.writeback = fresh.producers, fresh.snapshots, 0
	l.mu.Lock()
	l.segments, l.start, l.end, l.epochs = fresh.segments, fresh.start, fresh.end, fresh.epochs
	l.hint, l.flushed, l.named = position{}, fresh.flushed, fresh.named
	l.cuts.Add(1)
	l.mu.Unlock()
	l.d.files.forgetLog(l)
}

// Restart empties the log and has it begin at an offset: its leader has nothing
// below, or nothing that the log could continue.
//
// An error leaves the log as it was, unless it is a latched FailedError.
func (l *Log) Restart(offset int64) error {
	l.swapMu.Lock()
	defer l.swapMu.Unlock()
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	return l.restart(offset)
}

// restart cuts the log to nothing, then has the checkpoint say where it begins,
// and then gives up the name that says where it began. A crash leaves a beginning
// of the old log or an empty one, and of its epochs and producers nothing without
// its records. appendMu is held.
func (l *Log) restart(offset int64) error {
	if err := l.placeDir(offset); err != nil {
		return l.d.refused(err)
	}
	var first position
	if len(l.segments) > 0 {
		first.base = l.segments[0].base
		first.offset = first.base
	}
	c, err := l.withdraw(first, 0, offset)
	if err != nil {
		return err
	}
	if err := l.begin(c, offset); err != nil {
		return l.d.fail(err)
	}
	l.become(&Log{start: offset, end: offset, flushed: offset})
	return nil
}

// placeDir makes the directory of a log that has none, durably: without it a start
// above 0 would be taken for that of a log that somebody has removed.
func (l *Log) placeDir(offset int64) error {
	if l.made && l.tagged || offset == 0 {
		return nil
	}
	if err := l.makeDir(); err != nil {
		return err
	}
	if err := l.tag(); err != nil {
		return err
	}
	return l.d.mustSync(l.syncNames())
}

func (l *Log) begin(c cut, offset int64) error {
	if len(l.segments) > 0 {
		if err := l.cut(c); err != nil {
			return err
		}
	}
	if l.made {
		if err := l.clear(); err != nil {
			return err
		}
	}
	if err := l.d.resetStart(l.name, offset); err != nil {
		return err
	}
	if l.cleaned.Load() > 0 {
		if err := l.gapsBelow(0); err != nil {
			return err
		}
	}
	if len(l.segments) == 0 {
		return nil
	}
	return errors.Join(l.removeFiles(c.at.base), l.d.fs.SyncDir(l.path()))
}

// clear removes what says something of records that are gone.
func (l *Log) clear() error {
	names, err := l.d.fs.List(l.path())
	if err != nil {
		return err
	}
	for _, name := range names { // also one whose write seemed to fail
		if _, ext, numbered := splitFileName(name); !numbered || ext != ".snapshot" {
			continue
		}
		if err := l.d.fs.Remove(filepath.Join(l.path(), name)); err != nil {
			return err
		}
	}
	if err := replaceEpochs(l.d.fs, l.path(), nil, true); err != nil {
		return err
	}
	return l.syncNames()
}

// resetStart writes a log's start to the checkpoint, also one below the present.
func (d *Dir) resetStart(name string, offset int64) error {
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	d.mu.Lock()
	d.starts[name] = offset
	starts := maps.Clone(d.starts)
	d.mu.Unlock()
	return d.writeStarts(starts)
}
