package storage

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/streambus/streambus/storage/batch"
)

// Recovery tells what OpenLog found and did.
type Recovery struct {
	Segments       int
	ScannedBytes   int64   // verified, for they were not known to be durable
	TruncatedBytes int64   // cut: the torn end, and what came after it
	RemovedFiles   int     // later segments, and files that a crash left behind
	SetAside       string  // the new name of a directory that was another topic's
	Damaged        []error // *CorruptError each: epochs and producer snapshots, made anew from the batches
}

// recovery is the state of one pass over a log's directory.
type recovery struct {
	Recovery
	l *Log
	offsetLimits
	// seen is the history of epochs in what was looked at. Its first entry is
	// where that began and not necessarily where the epoch did.
	seen epochs
}

// recover finds the log's end and brings everything else in line with it. It
// can be cut short anywhere and done again: each step removes only what lies
// beyond an end that the next pass will find as well.
func (l *Log) recover(limits offsetLimits, now time.Time) (Recovery, error) {
	r := &recovery{l: l, offsetLimits: limits}
	if err := r.survey(); err != nil {
		return r.Recovery, err
	}
	if err := r.segments(); err != nil {
		return r.Recovery, err
	}
	if err := r.begin(now); err != nil {
		return r.Recovery, err
	}
	if err := r.epochs(); err != nil {
		return r.Recovery, err
	}
	if err := r.producers(now); err != nil {
		return r.Recovery, err
	}
	if r.RemovedFiles > 0 {
		if err := l.d.fs.SyncDir(l.path()); err != nil {
			return r.Recovery, err
		}
	}
	l.durable(l.end)
	l.named = len(l.segments) > 0
	if err := l.removeBelow(now); err != nil {
		return r.Recovery, err
	}
	if r.start > 0 && len(l.segments) > 0 && l.segments[0].base > r.start { // a Restart was cut short
		if err := l.d.resetStart(l.name, l.start); err != nil {
			return r.Recovery, err
		}
	}
	r.Segments = len(l.segments)
	return r.Recovery, nil
}

// survey lists the segments and snapshots, and removes what belongs to none.
// Files of other names are somebody else's.
func (r *recovery) survey() error {
	l := r.l
	names, err := l.d.fs.List(l.path())
	if err != nil {
		return err
	}
	if swapped, err := l.finishSwaps(names); err != nil {
		return err
	} else if swapped {
		if names, err = l.d.fs.List(l.path()); err != nil {
			return err
		}
	}
	for _, name := range names {
		base, ext, numbered := splitFileName(name)
		var err error
		switch {
		case ext == tmpSuffix || ext == deletedSuffix:
			err = r.remove(name)
		case numbered && ext == ".log":
			err = r.found(base)
		case numbered && ext == ".snapshot":
			l.snapshots = append(l.snapshots, base)
		case numbered && (ext == ".index" || ext == ".timeindex") &&
			!slices.Contains(names, strings.TrimSuffix(name, ext)+".log"):
			err = r.remove(name)
		}
		if err != nil {
			return err
		}
	}
	for i := 1; i < len(l.segments); i++ {
		l.segments[i-1].next = l.segments[i].base
	}
	return nil
}

func (r *recovery) found(base int64) error {
	info, err := r.l.d.fs.Stat(fileKey{log: r.l, base: base}.path())
	if err != nil {
		return err
	}
	r.l.segments = append(r.l.segments, &segment{base: base, next: base, size: info.Size, entries: -1})
	return nil
}

// remove removes a file, unless a Sweep has done so.
func (r *recovery) remove(name string) error {
	err := r.l.d.fs.Remove(filepath.Join(r.l.path(), name))
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err == nil {
		r.RemovedFiles++
	}
	return err
}

// segments verifies what is not known to be durable and cuts the log where that
// is not whole. Appends leave no gaps, so a segment that does not begin where
// the one before it ends has lost what was between, and goes too. Compaction
// leaves gaps, and its checkpoint says how far.
func (r *recovery) segments() error {
	l := r.l
	if len(l.segments) == 0 {
		if r.wanted() {
			return &CorruptError{l.path(), 0, fmt.Sprintf("it has no segments, and was durable to offset %d", r.point)}
		}
		return nil
	}
	first := 0
	// Of the segments below the start a crash may have kept any.
	for first+1 < len(l.segments) && l.segments[first+1].base <= max(r.point, r.start) {
		first++
	}
	for i := first; i < len(l.segments); i++ {
		if i > first && r.gap(l.segments[i-1].next, l.segments[i].base) {
			return r.cutAfter(i - 1)
		}
		whole, err := r.scan(i)
		if err != nil {
			return err
		}
		if !whole {
			return r.cutAfter(i)
		}
	}
	return r.cutAfter(len(l.segments) - 1)
}

// scan walks through a segment from the recovery point on, or from its start if
// that is later, and cuts it at the first batch that is not whole.
func (r *recovery) scan(i int) (whole bool, err error) {
	l, seg := r.l, r.l.segments[i]
	f, err := l.d.files.acquire(seg.key(l, logFile), false)
	if err != nil {
		return false, err
	}
	defer l.d.files.release(f)
	w := newScanner(f, seg.base, seg.size)
	if err := r.resume(w, seg); err != nil {
		return false, err
	}
	var torn error
	for w.more() && torn == nil {
		var h batch.Header
		if h, torn, err = r.next(w); err != nil {
			return false, err
		}
		if torn == nil {
			r.seen = r.seen.with(h.LeaderEpoch, h.BaseOffset)
			seg.tail.add(h, w.pos, l.cfg.IndexIntervalBytes)
			w.step(h)
		}
	}
	seg.next = w.next
	if torn == nil {
		return true, nil
	}
	r.TruncatedBytes += seg.size - w.pos
	seg.size = w.pos
	if err := f.Truncate(seg.size); err != nil {
		return false, err
	}
	return false, f.Sync()
}

// gap tells whether something is missing between an offset and the next one there is.
func (r *recovery) gap(expected, next int64) bool {
	return next != expected && expected >= r.cleaned
}

// wanted tells whether anything of what is known to be durable has not been
// deleted.
func (r *recovery) wanted() bool { return r.point > r.start }

// next reads a batch. torn says why it is none, where that may be: below the
// recovery point a bad batch was good once, and is an error.
func (r *recovery) next(w *walker) (h batch.Header, torn, err error) {
	if w.next < r.point {
		h, err = w.header()
		if _, damaged := errors.AsType[*CorruptError](err); damaged && !r.wanted() {
			return h, err, nil
		}
		return h, nil, err
	}
	h, err = w.verified()
	if err == nil && r.gap(w.next, h.BaseOffset) {
		err = w.corrupt("a batch with offset %d, expected %d", h.BaseOffset, w.next)
	}
	if err == nil && h.LeaderEpoch < r.seen.latest() {
		err = w.corrupt("a batch of leader epoch %d after %d", h.LeaderEpoch, r.seen.latest())
	}
	if _, damaged := errors.AsType[*CorruptError](err); err == nil || !damaged {
		r.ScannedBytes += h.Length
		return h, nil, err
	}
	if w.old() {
		return h, nil, w.corrupt("messages of version 0 or 1, written by a Kafka before 0.11 or for such clients, are not supported")
	}
	return h, err, nil
}

// resume moves w to the last batch below the recovery point that the indexes
// know, and begins the segment's index tail there.
func (r *recovery) resume(w *walker, seg *segment) error {
	seg.tail, seg.entries = newIndexTail(), 0
	entries, err := r.l.entriesOnDisk(seg.base, indexFile, entryBytes)
	if err != nil || entries == 0 {
		return err
	}
	v := r.l.view(seg)
	v.entries = entries
	n, err := v.seekEntry(w, func(e entry) bool { return e.last < r.point })
	if err == nil && n > 0 {
		pos, next := w.pos, w.next
		err = r.resumeTimes(v, w, seg.tail)
		w.seek(pos, next)
		seg.entries = n
	}
	if err == errStaleIndex {
		r.l.d.rebuilds.Add(1)
		seg.tail, seg.entries = newIndexTail(), 0
		w.seek(0, seg.base)
		return nil
	}
	return err
}

// resumeTimes finds the time entries up to the batch at w. There must be one,
// and it must tell the truth. After a crash it may not be the last there was:
// then the batches from its own to the one at w say so.
func (r *recovery) resumeTimes(v view, w *walker, tail *indexTail) error {
	h, err := w.header()
	if err != nil {
		return err
	}
	if v.timeEntries, err = r.l.entriesOnDisk(v.base, timeIndexFile, timeEntryBytes); err != nil {
		return err
	}
	t, n, err := v.searchTimes(func(t timeEntry) bool { return t.last <= h.LastOffset() })
	if err != nil {
		return err
	}
	if n == 0 {
		return errStaleIndex
	}
	end := w.pos
	if err := v.seekEntryTime(w, t); err != nil {
		return err
	}
	for !r.l.d.clean && w.pos < end {
		h, err := w.header()
		if err != nil {
			return err
		}
		if w.step(h); h.MaxTimestamp > t.timestamp {
			return errStaleIndex
		}
	}
	tail.onDisk, tail.lastTime, tail.max = n, t.timestamp, t
	return nil
}

// cutAfter makes a segment the last one.
func (r *recovery) cutAfter(last int) error {
	l := r.l
	active := l.segments[last]
	if active.next < r.point && r.wanted() {
		return &CorruptError{active.key(l, logFile).path(), active.size,
			fmt.Sprintf("the log ends at offset %d, and was durable to %d", active.next, r.point)}
	}
	for _, seg := range l.segments[last+1:] {
		r.TruncatedBytes += seg.size
		if err := r.removeSegment(seg.base); err != nil {
			return err
		}
	}
	l.segments = slices.Clip(l.segments[:last+1])
	l.end = active.next
	for _, seg := range l.segments[:last] {
		if seg.tail == nil {
			continue
		}
		seg.tail.addTime()
		if err := l.spill(seg); err != nil {
			return err
		}
		seg.sealTail()
	}
	return nil
}

func (r *recovery) removeSegment(base int64) error {
	for kind := range suffixes {
		key := fileKey{log: r.l, base: base, kind: fileKind(kind)}
		r.l.d.files.forget(key)
		if err := r.remove(filepath.Base(key.path())); err != nil {
			return err
		}
	}
	return nil
}

// begin settles where the log starts. One that ends before its start has lost,
// in a crash, records that nobody wanted any more and nothing else: whatever was
// known to be durable was not above it. It goes on at the start.
func (r *recovery) begin(now time.Time) error {
	l := r.l
	if len(l.segments) == 0 {
		l.end = max(l.end, r.start)
		l.start = l.end
		return nil
	}
	if l.end >= r.start {
		l.active().opened = now
		l.start = max(l.segments[0].base, r.start)
		return nil
	}
	l.start, l.end = r.start, r.start
	if _, err := l.roll(l.end, now); err != nil {
		return err
	}
	return l.d.fs.SyncDir(l.path())
}

// epochs reads the history of leaders and makes it agree with the batches.
func (r *recovery) epochs() error {
	l := r.l
	name := filepath.Join(l.path(), epochsName)
	var stored epochs
	b, err := ReadFile(l.d.fs, name)
	if err == nil {
		stored, err = decodeEpochs(b)
	}
	usable := err == nil
	if !usable && !errors.Is(err, iofs.ErrNotExist) {
		if !IsDamage(err) {
			return err
		}
		r.Damaged = append(r.Damaged, in(name, err))
	}
	if l.epochs, err = r.history(stored, usable); err != nil {
		return err
	}
	if slices.Equal(stored, l.epochs) {
		return nil
	}
	return ReplaceFile(l.d.fs, name, l.epochs.encode())
}

// history is the stored one, with what was seen in the place of what it says
// of that, or is derived from all batches if the two do not meet.
func (r *recovery) history(stored epochs, usable bool) (epochs, error) {
	start, end := r.l.start, r.l.end
	if start > 0 {
		end = max(end, start+1) // the epoch that reaches to the start from below has no other record
	}
	seen := r.seen.from(start)
	stored = stored.from(start).below(end)
	if usable && len(seen) == 0 {
		return stored, nil
	}
	if usable && stored.at(seen[0].offset) == seen[0].epoch {
		return append(stored.below(seen[0].offset+1), seen[1:]...), nil
	}
	var derived epochs
	err := r.each(0, func(h batch.Header) { derived = derived.with(h.LeaderEpoch, h.BaseOffset) })
	return derived.from(start), err
}

// producers loads the newest snapshot that is whole and not beyond the end, and
// goes on from there. A batch met counts as written now.
func (r *recovery) producers(now time.Time) error {
	l := r.l
	from := int64(0)
	for n := len(l.snapshots); n > 0; n-- {
		b, err := ReadFile(l.d.fs, l.snapshotName(l.snapshots[n-1]))
		if err != nil {
			return err
		}
		l.producers, err = decodeProducers(b)
		if err == nil && l.snapshots[n-1] <= l.end {
			from = l.snapshots[n-1]
			break
		}
		l.producers = nil
		if err != nil {
			r.Damaged = append(r.Damaged, in(l.snapshotName(l.snapshots[n-1]), err))
		}
		if err := r.remove(filepath.Base(l.snapshotName(l.snapshots[n-1]))); err != nil {
			return err
		}
		l.snapshots = l.snapshots[:n-1]
	}
	err := r.each(from, func(h batch.Header) { l.producers.appended(h, now) })
	l.producers.expire(now, l.cfg.ProducerExpiration)
	return err
}

// each calls do for each batch from an offset on.
func (r *recovery) each(from int64, do func(batch.Header)) error {
	for _, seg := range r.l.segments {
		if seg.next <= from {
			continue
		}
		if err := r.eachOf(seg, from, do); err != nil {
			return err
		}
	}
	return nil
}

func (r *recovery) eachOf(seg *segment, from int64, do func(batch.Header)) error {
	l := r.l
	f, err := l.d.files.acquire(seg.key(l, logFile), false)
	if err != nil {
		return err
	}
	defer l.d.files.release(f)
	v := l.view(seg)
	if v.entries < 0 {
		if v.entries, err = l.countEntries(seg); err != nil {
			return err
		}
	}
	w := newWalker(f, seg.size)
	defer w.free()
	if _, err := v.seekEntry(w, func(e entry) bool { return e.last < from }); err == errStaleIndex {
		w.seek(0, seg.base) // who reads there rebuilds it
	} else if err != nil {
		return err
	}
	for w.more() {
		h, err := w.header()
		if err != nil {
			return err
		}
		if h.BaseOffset >= from {
			do(h)
		}
		w.step(h)
	}
	return nil
}
