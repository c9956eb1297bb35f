package storage

import (
	"errors"
	iofs "io/fs"
	"slices"
	"sort"

	"github.com/streambus/streambus/storage/batch"
)

// TimeOffset is a record and its timestamp.
type TimeOffset struct{ Offset, Timestamp int64 }

// OffsetForTime finds the first record with timestamp ts or a later one, among
// those below an offset, which is the high watermark; ok is false if there is
// none. It is exact: time indexes say where to begin, batches what is there.
func (l *Log) OffsetForTime(ts, below int64) (found TimeOffset, ok bool, err error) {
	err = l.looking(func() error {
		found, ok, err = l.offsetForTime(ts, below)
		return err
	})
	return found, ok, err
}

// looking calls do, and again as long as segments are replaced under its eyes.
func (l *Log) looking(do func() error) error {
	for {
		swaps := l.swaps.Load()
		if err := do(); !errors.Is(err, errCut) || l.swaps.Load() == swaps {
			return err
		}
	}
}

func (l *Log) offsetForTime(ts, below int64) (found TimeOffset, ok bool, err error) {
	start, segments := l.rangeBelow(below)
	for _, seg := range segments {
		err = l.hinted(seg, func(v view) error {
			found, ok, err = v.firstSince(ts, start, below)
			return err
		})
		if ok || err != nil {
			return found, ok, err
		}
	}
	return TimeOffset{}, false, nil
}

// MaxTimestamp finds the record with the largest timestamp among those below an
// offset, the first if there are several; ok is false if no record has one.
func (l *Log) MaxTimestamp(below int64) (found TimeOffset, ok bool, err error) {
	err = l.looking(func() error {
		found, ok, err = l.maxTimestamp(below)
		return err
	})
	return found, ok, err
}

func (l *Log) maxTimestamp(below int64) (found TimeOffset, ok bool, err error) {
	start, segments := l.rangeBelow(below)
	best, in := timeEntry{timestamp: noTimestamp}, (*segment)(nil)
	for _, seg := range segments {
		err = l.hinted(seg, func(v view) error {
			t, err := v.largest(start, below)
			if err == nil && t.timestamp > best.timestamp {
				best, in = t, seg
			}
			return err
		})
		if err != nil {
			return TimeOffset{}, false, err
		}
	}
	if in == nil {
		return TimeOffset{}, false, nil
	}
	err = l.hinted(in, func(v view) error {
		return v.walk(func(w *walker) error {
			if err := v.seekOffset(w, best.last); err != nil {
				return err
			}
			h, err := w.header()
			if err == nil {
				found, ok, err = w.largestRecord(h, start)
			}
			return err
		})
	})
	return found, ok, err
}

// rangeBelow returns the log's start and the segments with records between it
// and an offset.
func (l *Log) rangeBelow(below int64) (start int64, segments []*segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	start = l.start
	for _, seg := range l.segments {
		if seg.next > start && seg.base < below {
			segments = append(segments, seg)
		}
	}
	return start, segments
}

// hinted calls do, which finds something in a segment with the help of its
// indexes, and once more with new ones if they do not fit.
func (l *Log) hinted(seg *segment, do func(view) error) error {
	for rebuilt := false; ; rebuilt = true {
		l.mu.Lock()
		v := l.view(seg)
		l.mu.Unlock()
		err := v.count()
		if err == nil {
			err = do(v)
		}
		if IsDamage(err) && !l.holds(seg) {
			err = errCut
		}
		if err != errStaleIndex {
			return l.d.readError(err)
		}
		if rebuilt {
			return &CorruptError{v.key(timeIndexFile).path(), 0, "it was rebuilt and reads differently"}
		}
		if err := l.rebuild(seg, v.rebuilt); err != nil {
			return l.d.readError(err)
		}
	}
}

// holds tells whether a segment is still one of the log's, as it was.
func (l *Log) holds(seg *segment) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Contains(l.segments, seg)
}

// count looks how many entries the indexes have, where that is not known yet.
func (v *view) count() (err error) {
	if v.entries < 0 {
		if v.entries, err = v.log.countEntries(v.seg); err != nil {
			return err
		}
	}
	if v.timeEntries < 0 {
		v.timeEntries, err = v.log.entriesOnDisk(v.base, timeIndexFile, timeEntryBytes)
	}
	return err
}

// walk calls do with a walker at the beginning of the segment.
func (v view) walk(do func(*walker) error) error {
	f, err := v.log.d.files.acquire(v.key(logFile), false)
	if err != nil {
		return err
	}
	defer v.log.d.files.release(f)
	w := newWalker(f, v.size)
	defer w.free()
	return do(w)
}

// firstSince finds the first record at or after start and below an offset whose
// timestamp is ts or later.
func (v view) firstSince(ts, start, below int64) (found TimeOffset, ok bool, err error) {
	all, err := v.largestOfAll()
	if err != nil || all.timestamp < ts {
		return TimeOffset{}, false, err
	}
	err = v.walk(func(w *walker) error {
		err := v.seekTime(w, start, func(t timeEntry) bool { return t.timestamp < ts })
		for err == nil && !ok && w.more() && w.next < below {
			var h batch.Header
			if h, err = w.header(); err != nil {
				break
			}
			if h.MaxTimestamp >= ts && h.LastOffset() >= start {
				err = w.records(h, func(r TimeOffset) bool {
					found, ok = r, r.Timestamp >= ts && start <= r.Offset && r.Offset < below
					return !ok
				})
			}
			w.step(h)
		}
		return err
	})
	return found, ok, err
}

// largestOfAll is the largest timestamp in the segment. That of a sealed segment
// is looked for once.
func (v view) largestOfAll() (timeEntry, error) {
	if v.maxKnown {
		return v.max, nil
	}
	t, err := v.largest(v.base, v.next)
	if err != nil {
		return t, err
	}
	v.log.mu.Lock()
	defer v.log.mu.Unlock()
	if v.sealed {
		v.seg.max, v.seg.maxKnown = t, true
	}
	return t, nil
}

// largest finds the first batch with the largest timestamp, of those that hold
// offsets from start on and end below an offset. Where a time entry is as it was
// written, nothing before it is larger; what comes after it is looked at. That
// is little, unless an old record has a timestamp far in the future.
func (v view) largest(start, below int64) (timeEntry, error) {
	if v.maxKnown && v.max.last < below && start <= v.base {
		return v.max, nil
	}
	best := timeEntry{timestamp: noTimestamp}
	err := v.walk(func(w *walker) error {
		if err := v.seekTime(w, start, func(t timeEntry) bool { return t.last < below }); err != nil {
			return err
		}
		indexed := w.pos
		for w.more() {
			h, err := w.header()
			if err != nil || h.LastOffset() >= below {
				return err
			}
			timestamp := h.MaxTimestamp
			if h.BaseOffset < start {
				r, _, err := w.largestRecord(h, start)
				if err != nil {
					return err
				}
				timestamp = r.Timestamp
			}
			if timestamp > best.timestamp {
				if v.sealed && v.rebuilt == 0 && w.pos > indexed && start <= v.base && below >= v.next {
					return errStaleIndex // a sealed segment has an entry for it
				}
				best = timeEntry{timestamp, h.LastOffset()}
			}
			w.step(h)
		}
		return nil
	})
	return best, err
}

// seekTime moves w to the batch of the last time entry for which want holds, or
// to the one that holds start if that is later. want must hold for the first few
// entries and no other. The entry is believed if there is such a batch.
func (v view) seekTime(w *walker, start int64, want func(timeEntry) bool) error {
	t, n, err := v.searchTimes(want)
	if err != nil {
		return err
	}
	if n > 0 {
		if err := v.seekEntryTime(w, t); err != nil || w.next >= start {
			return err
		}
	}
	if start <= v.base {
		w.seek(0, v.base)
		return nil
	}
	return v.seekOffset(w, start)
}

// seekEntryTime moves w to the batch of a time entry, which must have told the truth.
func (v view) seekEntryTime(w *walker, t timeEntry) error {
	if t.last < v.base {
		return errStaleIndex
	}
	w.seek(0, v.base)
	err := v.seekOffset(w, t.last)
	var h batch.Header
	if err == nil {
		h, err = w.header()
	}
	if _, damaged := errors.AsType[*CorruptError](err); damaged || err == nil && (h.LastOffset() != t.last || h.MaxTimestamp != t.timestamp) {
		return errStaleIndex
	}
	w.next = h.BaseOffset
	return err
}

// searchTimes returns the last time entry for which want holds, and which one it
// is, counted from 1.
func (v view) searchTimes(want func(timeEntry) bool) (t timeEntry, n int64, err error) {
	if len(v.times) > 0 && want(v.times[0]) {
		i := sort.Search(len(v.times), func(i int) bool { return !want(v.times[i]) })
		return v.times[i-1], v.timeEntries + int64(i), nil
	}
	if v.timeEntries == 0 {
		return timeEntry{}, 0, nil
	}
	f, err := v.log.d.files.acquire(v.key(timeIndexFile), false)
	if errors.Is(err, iofs.ErrNotExist) {
		return timeEntry{}, 0, errStaleIndex
	}
	if err != nil {
		return timeEntry{}, 0, err
	}
	defer v.log.d.files.release(f)
	at := func(i int64) (timeEntry, error) {
		var b [timeEntryBytes]byte
		err := readEntries(f, b[:], i*timeEntryBytes)
		return decodeTimeEntry(v.base, b[:]), err
	}
	// Most ask for the end of the log, and a clean start for nothing else.
	if last, err := at(v.timeEntries - 1); err != nil || want(last) {
		return last, v.timeEntries, err
	}
	for lo, hi := int64(0), v.timeEntries-1; lo < hi; {
		mid := lo + (hi-lo)/2
		e, err := at(mid)
		if err != nil {
			return timeEntry{}, 0, err
		}
		if want(e) {
			t, n, lo = e, mid+1, mid+1
		} else {
			hi = mid
		}
	}
	return t, n, nil
}

// largestRecord finds the first record with the largest timestamp in a batch,
// of those from an offset on.
func (w *walker) largestRecord(h batch.Header, from int64) (best TimeOffset, ok bool, err error) {
	best.Timestamp = noTimestamp
	err = w.records(h, func(r TimeOffset) bool {
		if r.Offset >= from && r.Timestamp > best.Timestamp {
			best, ok = r, true
		}
		return true
	})
	return best, ok, err
}

// records calls do for the records of the next batch until it returns false.
func (w *walker) records(h batch.Header, do func(TimeOffset) bool) error {
	b, err := w.bytes(h.Length)
	if err != nil {
		return err
	}
	if h, err = batch.Verify(b); err != nil {
		return w.corrupt("%v", err)
	}
	err = batch.Walk(b, h, func(_ int32, r batch.Record) error {
		if !do(TimeOffset{h.BaseOffset + int64(r.OffsetDelta), h.Timestamp(r)}) {
			return errFound
		}
		return nil
	})
	if err != nil && err != errFound {
		return w.corrupt("%v", err)
	}
	return nil
}

// errFound ends a walk early.
var errFound = errors.New("found")
