package storage

import (
	"errors"

	"github.com/streambus/streambus/storage/batch"
)

// scrubCursor is where the next Scrub goes on: at a position in the segment with
// offset base or, if that is gone, in the next one.
type scrubCursor struct {
	base, pos, next int64
	changes         int64 // of the log, when the position was that of a batch
}

// Scrub verifies the sealed segments, about budget bytes of them at a call, from
// where the last call ended. It returns how much it read, and with whole that it
// has come to the end and will begin again. Damage is a CorruptError; the next
// call goes on with the next segment. It is for the caller to call it seldom
// enough: it reads from the disk what nobody asked for.
func (l *Log) Scrub(budget int64) (read int64, whole bool, err error) {
	l.scrubMu.Lock()
	defer l.scrubMu.Unlock()
	for read < budget {
		v, ok := l.lookSealed(l.scrub.base)
		if !ok {
			l.scrub = scrubCursor{}
			return read, true, nil
		}
		if v.base != l.scrub.base || v.changes != l.scrub.changes {
			l.scrub = scrubCursor{v.base, 0, v.base, v.changes}
		}
		n, err := v.verify(&l.scrub, budget-read)
		read += n
		if l.changes() != v.changes {
			continue // what was read may be anything
		}
		if err == nil && l.scrub.pos < v.size {
			break
		}
		l.scrub = scrubCursor{base: v.base + 1, next: v.base + 1, changes: v.changes}
		if err != nil && !errors.Is(err, ErrOffsetOutOfRange) && !errors.Is(err, ErrDeleted) { // deleted: nothing to verify
			return read, false, l.d.readError(err)
		}
	}
	return read, false, nil
}

// lookSealed finds the first sealed segment with offset base or a later one.
func (l *Log) lookSealed(base int64) (view, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i := 0; i+1 < len(l.segments); i++ {
		if l.segments[i].base >= base {
			v := l.view(l.segments[i])
			v.next = l.segments[i+1].base
			return v, true
		}
	}
	return view{}, false
}

// verify reads batches from a cursor on and moves it behind them.
func (v view) verify(c *scrubCursor, budget int64) (read int64, err error) {
	f, err := v.log.d.files.acquire(v.key(logFile), false)
	if err != nil {
		return 0, err
	}
	defer v.log.d.files.release(f)
	w := newScanner(f, v.base, v.size)
	w.seek(c.pos, c.next)
	for w.more() && read < budget {
		h, err := w.header()
		if err != nil {
			return read, err
		}
		b, err := w.bytes(h.Length)
		if err != nil {
			return read, err
		}
		if _, err := batch.Verify(b); err != nil {
			return read, w.corrupt("%v", err)
		}
		if h.LastOffset() >= v.next {
			return read, w.corrupt("a batch with offsets to %d, the next segment begins at %d", h.LastOffset(), v.next)
		}
		w.step(h)
		read += h.Length
		c.pos, c.next = w.pos, w.next
	}
	if !w.more() && w.next < v.next && w.next >= v.log.cleaned.Load() {
		return read, w.corrupt("it ends at offset %d, the next segment begins at %d", w.next, v.next)
	}
	return read, nil
}
