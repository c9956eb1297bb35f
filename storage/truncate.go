package storage

import (
	"errors"
	iofs "io/fs"
	"maps"
	"path/filepath"
	"time"
)

// TruncateTo takes away the records from an offset on, and returns the new end: a
// batch that holds the offset goes whole. When it returns, no crash brings back
// what was taken, nor mixes it with what is appended then.
//
// After an error the directory takes no more writes.
func (l *Log) TruncateTo(offset int64, now time.Time) (end int64, err error) {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	if err := l.usable(); err != nil {
		return l.end, err
	}
	if offset >= l.end {
		return l.end, nil
	}
	if offset <= l.start {
		return l.start, l.restart(l.start)
	}
	at, err := l.place(offset)
	if err != nil {
		return l.end, l.d.readError(err)
	}
	flushed, err := l.relyOn(at.offset, at.offset)
	if err != nil {
		return l.end, err
	}
	if err := errors.Join(l.cut(at, flushed), l.reopen(at.offset, now)); err != nil {
		return l.end, l.d.fail(err)
	}
	return l.end, nil
}

// place is where the batch begins that holds an offset, or the next one after a gap.
func (l *Log) place(offset int64) (position, error) {
	for rebuilt := false; ; rebuilt = true {
		v, err := l.look(offset)
		if err != nil {
			return position{}, err
		}
		at, err := l.placeIn(v, offset)
		switch {
		case err == errStaleIndex && rebuilt:
			return at, &CorruptError{fileKey{l, v.base, indexFile}.path(), 0, "it was rebuilt and reads differently"}
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
	f, err := l.d.files.acquire(fileKey{l, v.base, logFile}, false)
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
	if err := v.seekOffset(w, offset); err != nil {
		return position{}, err
	}
	at := position{base: v.base, offset: min(offset, w.next), pos: w.pos}
	if w.more() {
		h, err := w.header()
		if err != nil {
			return position{}, err
		}
		at.offset = min(at.offset, h.BaseOffset)
	}
	return at, nil
}

// relyOn has nobody count on more than what is below an offset: neither a round of
// syncs that is under way, nor the recovery point on disk, below which recovery
// takes what is missing for a loss. It returns what was flushed before.
func (l *Log) relyOn(point, watermark int64) (flushed int64, err error) {
	d := l.d
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	l.mu.Lock()
	flushed = l.flushed
	l.flushed = min(flushed, point)
	l.cuts++
	l.mu.Unlock()
	l.watermark.Store(min(l.watermark.Load(), watermark))
	d.mu.Lock()
	points := maps.Clone(d.points)
	d.mu.Unlock()
	if points[l.name] <= point {
		return flushed, nil
	}
	points[l.name] = point
	return flushed, d.writePoints(points)
}

// cut shortens the files, the last one first: what a crash leaves is a beginning
// of the log. What stays and was not flushed is synced here, with all names.
func (l *Log) cut(at position, flushed int64) error {
	for i := len(l.segments) - 1; l.segments[i].base > at.base; i-- {
		if err := l.removeFiles(l.segments[i].base); err != nil {
			return err
		}
	}
	f, err := l.d.files.acquire(fileKey{l, at.base, logFile}, false)
	if err != nil {
		return err
	}
	err = f.Truncate(at.pos)
	l.d.files.release(f)
	if err != nil {
		return err
	}
	for _, seg := range l.segments {
		if seg.base > at.base || seg.base != at.base && seg.next <= flushed {
			continue
		}
		if err := l.syncSegment(seg); err != nil {
			return err
		}
	}
	return l.syncNames()
}

// removeFiles removes a segment. Its indexes need not be there.
func (l *Log) removeFiles(base int64) error {
	for kind := range suffixes {
		key := fileKey{l, base, fileKind(kind)}
		l.d.files.forget(key)
		if err := l.d.fs.Remove(key.path()); err != nil && !errors.Is(err, iofs.ErrNotExist) {
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
	if _, err := fresh.recover(offsetLimits{point: end, start: l.start, cleaned: fresh.cleaned.Load()}, now); err != nil {
		return err
	}
	l.become(fresh)
	return nil
}

// become takes over the state of a log in the same directory, all of which is
// durable. appendMu is held.
func (l *Log) become(fresh *Log) {
	l.producers, l.snapshots, l.writeback = fresh.producers, fresh.snapshots, 0
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, seg := range l.unsynced {
		l.d.files.release(seg.pin)
	}
	l.segments, l.start, l.end, l.epochs = fresh.segments, fresh.start, fresh.end, fresh.epochs
	l.hint, l.flushed, l.unsynced, l.names, l.named = position{}, fresh.flushed, nil, unsyncedNames{}, fresh.named
}

// Restart empties the log and has it begin at an offset: its leader has nothing
// below, or nothing that the log could continue.
//
// After an error the directory takes no more writes.
func (l *Log) Restart(offset int64) error {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	return l.restart(offset)
}

// restart has the checkpoint of starts say first where the log begins. Whatever a
// crash leaves of the old one then lies below and goes, or is the old one.
// appendMu is held.
func (l *Log) restart(offset int64) error {
	if _, err := l.relyOn(0, offset); err != nil {
		return err
	}
	if err := l.d.resetStart(l.name, offset); err != nil {
		return err
	}
	if l.made {
		if err := l.clear(); err != nil {
			return l.d.fail(err)
		}
	}
	l.become(&Log{start: offset, end: offset, flushed: offset})
	return nil
}

// clear removes all that says something of records.
func (l *Log) clear() error {
	for i := len(l.segments) - 1; i >= 0; i-- {
		if err := l.removeFiles(l.segments[i].base); err != nil {
			return err
		}
	}
	for _, s := range l.snapshots {
		if err := l.d.fs.Remove(l.snapshotName(s)); err != nil {
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
