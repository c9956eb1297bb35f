package storage

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
)

// staleWalkBytes is how far a reader steps from batch to batch before it
// decides that the index lacks entries, if the interval between them is small.
const staleWalkBytes = 256 << 10

// Region is a part of a segment: whole batches. It holds no file open.
type Region struct {
	log    *Log
	seg    *segment
	pos, n int64
	cuts   int64 // of the log, when this was what is there
}

// errCut says that a log was cut, or a segment replaced, since somebody looked at
// it: they are to look again.
var errCut = errors.New("the log was cut or compacted meanwhile")

func (r Region) key() fileKey { return r.seg.key(r.log, logFile) }

func (r Region) uncut() error {
	if r.log.cuts.Load() != r.cuts {
		return r.log.d.refused(fmt.Errorf("%w: %s", errCut, r.log.name))
	}
	return nil
}

// Len is the region's size in bytes.
func (r Region) Len() int64 { return r.n }

// WriteTo sends the region to w.
func (r Region) WriteTo(w io.Writer) (int64, error) {
	if r.n == 0 {
		return 0, nil
	}
	f, err := r.log.d.files.acquire(r.key(), false)
	if err != nil {
		return 0, err
	}
	defer r.log.d.files.release(f)
	if err := r.uncut(); err != nil {
		return 0, err
	}
	return f.SendTo(w, r.pos, r.n)
}

// Bytes reads the region into memory.
func (r Region) Bytes() ([]byte, error) {
	if r.n == 0 {
		return nil, nil
	}
	f, err := r.log.d.files.acquire(r.key(), false)
	if err != nil {
		return nil, err
	}
	defer r.log.d.files.release(f)
	b := make([]byte, r.n)
	n, err := f.ReadAt(b, r.pos)
	if err := r.uncut(); err != nil {
		return nil, err
	}
	switch {
	case n == len(b):
		return b, nil
	case errors.Is(err, io.EOF):
		return nil, &CorruptError{f.key.path(), r.pos + int64(n), "the file ends inside a batch"}
	}
	return nil, r.log.d.refused(err)
}

// Read returns batches, beginning with the one that holds offset and ending
// before upTo, which is where a batch begins or the end of the log. They are
// all of one segment and have at most maxBytes; with atLeastOne the first is
// there whatever its size. The region is empty at the end of the log, at upTo,
// and if nothing fits.
func (l *Log) Read(offset, upTo, maxBytes int64, atLeastOne bool) (Region, error) {
	for rebuilt := false; ; {
		v, err := l.look(offset)
		if err != nil {
			return Region{}, err
		}
		upTo := min(upTo, v.end)
		if offset >= upTo {
			return Region{}, nil
		}
		r, err := l.read(v, offset, upTo, maxBytes, atLeastOne)
		if l.cuts.Load() != v.cuts || errors.Is(err, errCut) {
			rebuilt = false
			continue
		}
		if err == errGap {
			return l.Read(l.after(v.base), upTo, maxBytes, atLeastOne)
		}
		if err != errStaleIndex {
			return r, l.d.readError(err)
		}
		if rebuilt {
			return r, &CorruptError{v.key(indexFile).path(), 0, "it was rebuilt and reads differently"}
		}
		if err := l.rebuild(v.seg, v.rebuilt); err != nil && err != errCut {
			return r, l.d.readError(err)
		}
		rebuilt = l.changes() == v.changes
	}
}

// after is where the segment after the one with a base begins, or the log ends.
func (l *Log) after(base int64) int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].base > base })
	if i == len(l.segments) {
		return l.end
	}
	return l.segments[i].base
}

// view is a segment at one moment.
type view struct {
	indexView
	seg        *segment
	cuts       int64 // of the log
	changes    int64 // likewise
	rebuilt    int
	size, next int64
	end        int64 // of the log
	hint       position
	interval   int64

	sealed      bool
	times       []timeEntry // of the time index, beyond its file
	timeEntries int64       // in the file; -1: not looked at yet
	max         timeEntry   // the largest timestamp and whose it is
	maxKnown    bool
}

// look finds the segment of an offset.
func (l *Log) look(offset int64) (view, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if offset < l.start || offset > l.end {
		return view{}, fmt.Errorf("%w: %d, %s has %d to %d", ErrOffsetOutOfRange, offset, l.name, l.start, l.end)
	}
	if offset == l.end {
		return view{end: l.end}, nil
	}
	i := sort.Search(len(l.segments), func(i int) bool { return l.segments[i].base > offset }) - 1
	return l.view(l.segments[i]), nil
}

// view is taken with mu held.
func (l *Log) view(seg *segment) view {
	v := view{
		indexView: indexView{log: l, base: seg.base, version: seg.version, entries: seg.entries},
		seg:       seg, cuts: l.cuts.Load(), changes: l.changes(), rebuilt: seg.rebuilt, size: seg.size, next: seg.next,
		end: l.end, hint: l.hint, interval: l.cfg.IndexIntervalBytes,
	}
	v.sealed, v.timeEntries, v.max, v.maxKnown = seg != l.active(), -1, seg.max, seg.maxKnown
	if t := seg.tail; t != nil {
		v.tail = t.offsets
		v.times, v.timeEntries = t.times, t.onDisk
		v.max, v.maxKnown = t.max, true
	}
	return v
}

// read finds a region in a segment that holds offset.
func (l *Log) read(v view, offset, upTo, maxBytes int64, atLeastOne bool) (Region, error) {
	f, err := l.d.files.acquire(v.key(logFile), false)
	if err != nil {
		return Region{}, err
	}
	defer l.d.files.release(f)
	if v.entries < 0 {
		if v.entries, err = l.countEntries(v.seg); err != nil {
			return Region{}, err
		}
	}
	w := newWalker(f, v.size)
	defer w.free()

	if err := v.seekOffset(w, offset); err != nil {
		return Region{}, err
	}
	if !w.more() {
		return Region{}, errGap
	}
	start := w.pos
	limit := start + max(0, min(maxBytes, v.size-start))
	if err := v.seekEnd(w, limit, upTo); err != nil {
		return Region{}, err
	}
	if w.pos == start && atLeastOne {
		h, err := w.header()
		if err != nil {
			return Region{}, err
		}
		if h.LastOffset() < upTo {
			w.step(h)
		}
	}
	l.mu.Lock()
	if l.changes() == v.changes {
		l.hint = position{v.base, w.next, w.pos}
	}
	l.mu.Unlock()
	return Region{l, v.seg, start, w.pos - start, v.cuts}, nil
}

func (l *Log) countEntries(seg *segment) (int64, error) {
	n, err := l.entriesOnDisk(seg.base, indexFile, entryBytes)
	if err != nil {
		return 0, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if seg.entries < 0 {
		seg.entries = n
	}
	return seg.entries, nil
}

// errGap says that what a segment held from an offset on was compacted away.
var errGap = errors.New("nothing is left there")

// seekOffset moves w to the batch that holds offset, or to the next one after a
// gap: to the segment's end, if that is in the next segment.
func (v view) seekOffset(w *walker, offset int64) error {
	if v.hint.base == v.base && v.hint.offset == offset {
		w.seek(v.hint.pos, offset)
		return nil
	}
	if offset == v.base && w.more() {
		return nil
	}
	if _, err := v.seekEntry(w, func(e entry) bool { return e.last <= offset }); err != nil {
		return err
	}
	from := w.pos
	for w.more() {
		h, err := w.header()
		if err != nil || h.LastOffset() >= offset {
			return err
		}
		if v.tooFar(w.pos - from) {
			return errStaleIndex
		}
		w.step(h)
	}
	if offset < v.log.cleaned.Load() {
		return nil
	}
	return w.corrupt("no batch holds offset %d, the next segment begins at %d", offset, v.next)
}

// seekEnd moves w forward to the end of the last batch that ends within limit
// and before upTo.
func (v view) seekEnd(w *walker, limit, upTo int64) error {
	if limit == v.size && upTo >= v.next {
		w.seek(v.size, v.next)
		return nil
	}
	start, next := w.pos, w.next
	if limit-start > v.interval {
		_, err := v.seekEntry(w, func(e entry) bool { return e.pos <= limit && e.last < upTo })
		if err != nil {
			return err
		}
		if w.pos < start {
			w.seek(start, next)
		}
	}
	from := w.pos
	for w.more() {
		h, err := w.header()
		if err != nil {
			return err
		}
		if w.pos+h.Length > limit || h.LastOffset() >= upTo {
			break
		}
		if v.tooFar(w.pos - from) {
			return errStaleIndex
		}
		w.step(h)
	}
	return nil
}

// seekEntry moves w to the last batch with an entry that want holds for, the
// nth, or to the beginning of the segment, with n = 0. An entry is believed if
// such a batch is where it points.
func (v view) seekEntry(w *walker, want func(entry) bool) (n int64, err error) {
	e, n, err := v.search(want)
	if err != nil {
		return 0, err
	}
	if n == 0 {
		w.seek(0, v.base)
		return 0, nil
	}
	if e.pos < 0 || e.pos >= v.size || e.last < v.base {
		return 0, errStaleIndex
	}
	w.seek(e.pos, v.base)
	h, err := w.header()
	if _, damaged := errors.AsType[*CorruptError](err); damaged || err == nil && h.LastOffset() != e.last {
		return 0, errStaleIndex
	}
	w.next = h.BaseOffset
	return n, err
}

// tooFar notices an index that lacks entries, as one lost in a crash does. A
// batch that a search was to pass, so many bytes after the nearest entry, has an
// entry of its own, and the search would have found it.
func (v view) tooFar(walked int64) bool { return walked > max(4*v.interval, staleWalkBytes) }

// rebuild makes a segment's indexes anew, unless that was done since the caller
// looked. Damage in the segment itself shows as a CorruptError.
func (l *Log) rebuild(seg *segment, seen int) error {
	l.swapMu.Lock()
	defer l.swapMu.Unlock()
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	return l.rebuildLocked(seg, seen)
}

// rebuildLocked is called with swapMu and appendMu held.
func (l *Log) rebuildLocked(seg *segment, seen int) error {
	l.mu.Lock()
	rebuilt, sealed, size, interval := seg.rebuilt, seg != l.active(), seg.size, l.cfg.IndexIntervalBytes
	l.mu.Unlock()
	if rebuilt != seen {
		return nil
	}
	if !slices.Contains(l.segments, seg) {
		return cmp.Or(l.missing(seg.base), errCut)
	}
	f, err := l.d.files.acquire(seg.key(l, logFile), false)
	if err != nil {
		return err
	}
	defer l.d.files.release(f)
	tail := newIndexTail()
	for w := newScanner(f, seg.base, size); w.more(); {
		h, err := w.header()
		if err != nil {
			return err
		}
		tail.add(h, w.pos, interval)
		w.step(h)
	}
	if sealed {
		tail.addTime()
	}
	l.mu.Lock()
	seg.tail, seg.entries = tail, 0
	seg.rebuilt++
	l.mu.Unlock()
	l.d.rebuilds.Add(1)
	if err := l.spill(seg); err != nil {
		return err
	}
	if sealed {
		l.mu.Lock()
		seg.sealTail()
		l.mu.Unlock()
	}
	return nil
}
