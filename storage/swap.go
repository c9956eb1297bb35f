package storage

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"math"
	"path/filepath"
	"slices"
	"time"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/vfs"
)

// swap says that a file holds what is kept of the segments from one with offset
// base to where offset end is not reached. Once it has that name, durably, it is in
// their place: who finds it does the rest.
type swap struct{ base, end int64 }

const swapSuffix = ".swap"

func (s swap) name() string { return fmt.Sprintf("%020d.%020d%s", s.base, s.end, swapSuffix) }

func parseSwap(name string) (s swap, ok bool) {
	if n, err := fmt.Sscanf(name, "%020d.%020d.swap", &s.base, &s.end); n != 2 || err != nil {
		return swap{}, false
	}
	return s, s.name() == name && s.base < s.end
}

// finish puts a swap's file in the place of segments with the given offsets, the
// first of which has its base. Done again after a crash it does what is left.
func (s swap) finish(fs vfs.FS, dir string, bases []int64) error {
	for _, base := range bases {
		for kind, suffix := range suffixes {
			if base == s.base && fileKind(kind) == logFile {
				continue
			}
			err := fs.Remove(filepath.Join(dir, fmt.Sprintf("%020d%s", base, suffix)))
			if err != nil && !errors.Is(err, iofs.ErrNotExist) {
				return err
			}
		}
	}
	// Not before they are gone for good: from then on nothing says that they are to go.
	if err := fs.SyncDir(dir); err != nil {
		return err
	}
	to := filepath.Join(dir, fmt.Sprintf("%020d%s", s.base, suffixes[logFile]))
	if err := fs.Rename(filepath.Join(dir, s.name()), to); err != nil {
		return err
	}
	return fs.SyncDir(dir)
}

// finishSwaps does what a crash has left of swaps. names are those in the log's
// directory; with done they have changed.
func (l *Log) finishSwaps(names []string) (done bool, err error) {
	for _, name := range names {
		s, ok := parseSwap(name)
		if !ok {
			continue
		}
		bases := []int64{s.base} // whose segment's indexes may be there
		for _, name := range names {
			if base, ext, numbered := splitFileName(name); numbered && ext == suffixes[logFile] && s.base < base && base < s.end {
				bases = append(bases, base)
			}
		}
		if err := s.finish(l.d.fs, l.path(), bases); err != nil {
			return done, err
		}
		done = true
	}
	return done, nil
}

// replacement is a segment in the making that will take the place of some.
type replacement struct {
	swap
	p        *pass
	file     vfs.File // nil as long as it has what the only segment that it replaces has
	buf      []byte   // of the file's end, not written yet
	size     int64
	unsynced int64
	tail     *indexTail
}

// replacementBytes are written at a time.
const replacementBytes = 1 << 20

func (r *replacement) path() string { return filepath.Join(r.p.l.path(), r.name()+tmpSuffix) }

func (r *replacement) create() (err error) {
	r.file, err = r.p.l.d.fs.Create(r.path())
	r.buf = make([]byte, 0, replacementBytes)
	return err
}

// pass takes a batch as it is in the only segment.
func (r *replacement) pass(h batch.Header) {
	r.tail.add(h, r.size, r.p.log.IndexIntervalBytes)
	r.size += h.Length
}

// begin makes the file, where the first difference to the only segment is.
func (r *replacement) begin(v view) error {
	if err := r.create(); err != nil {
		return err
	}
	f, err := r.p.l.d.files.acquire(v.key(logFile), false)
	if err != nil {
		return err
	}
	defer r.p.l.d.files.release(f)
	same := r.size
	for r.size = 0; r.size < same; {
		n, err := f.ReadAt(r.buf[:min(same-r.size, replacementBytes)], r.size)
		if n == 0 {
			return err
		}
		r.buf = r.buf[:n]
		r.size += int64(n)
		if err := r.write(); err != nil {
			return err
		}
	}
	return nil
}

// add appends a batch.
func (r *replacement) add(b []byte) error {
	h, err := batch.DecodeHeader(b)
	if err != nil {
		return err
	}
	if r.size+h.Length > math.MaxInt32 {
		return fmt.Errorf("the segment of %s with offset %d would become too large: positions in it have 31 bits", r.p.l.name, r.base)
	}
	if len(r.buf)+len(b) > replacementBytes {
		if err := r.write(); err != nil {
			return err
		}
	}
	r.buf = append(r.buf, b...)
	r.pass(h)
	return nil
}

// write writes the buffer, and makes all durable now and then: the sync of other
// logs must not find much of it in its way.
func (r *replacement) write() error {
	n := int64(len(r.buf))
	if n == 0 {
		return nil
	}
	if _, err := r.file.WriteAt(r.buf, r.size-n); err != nil {
		return r.p.l.d.refused(err)
	}
	r.buf = r.buf[:0]
	if r.unsynced += n; r.unsynced >= writebackBytes {
		r.unsynced = 0
		if err := r.p.l.d.mustSync(r.file.Sync()); err != nil {
			return err
		}
	}
	return r.p.pace(n)
}

func (r *replacement) finish() error {
	if err := r.write(); err != nil {
		return err
	}
	r.tail.addTime()
	return r.p.l.d.mustSync(r.file.Sync())
}

// discard removes a file that replaces nothing.
func (r *replacement) discard() error {
	err := r.file.Close()
	if failed := r.p.l.d.fs.Remove(r.path()); !errors.Is(failed, iofs.ErrNotExist) {
		err = errors.Join(err, failed)
	}
	return err
}

// replace puts a finished replacement in the place of a group of segments. Who has
// looked at these goes on with their files, which stay open until a Sweep.
func (l *Log) replace(group []view, r *replacement) error {
	l.swapMu.Lock()
	defer l.swapMu.Unlock()
	if err := l.usable(); err != nil {
		return err
	}
	if l.cuts.Load() != r.p.cuts || !l.still(group) {
		return errCut
	}
	held, err := l.hold(group)
	if err != nil {
		return err
	}
	if err := l.commit(group, r); err != nil {
		if l.d.Failed() != nil { // what has these names now is not known
			l.letLater(held, r.p.now)
		} else {
			l.let(held)
		}
		return err
	}
	err = l.install(group, r)
	l.letLater(held, r.p.now)
	return errors.Join(err, r.file.Close())
}

// hold keeps the files of segments open.
func (l *Log) hold(group []view) (held []*handle, err error) {
	for _, v := range group {
		f, err := l.d.files.acquire(v.key(logFile), false)
		if err != nil {
			l.let(held)
			return nil, err
		}
		held = append(held, f)
	}
	return held, nil
}

// let gives them up.
func (l *Log) let(held []*handle) {
	for _, f := range held {
		l.d.files.forget(f.key)
		l.d.files.release(f)
	}
}

// letLater does so in a Sweep.
func (l *Log) letLater(held []*handle, now time.Time) {
	due := removal{log: l, held: held, at: now.Add(l.config().DeleteDelay)}
	l.d.mu.Lock()
	defer l.d.mu.Unlock()
	l.d.due = append(l.d.due, due)
}

// commit changes the files. Where the first rename fails nothing has changed.
func (l *Log) commit(group []view, r *replacement) error {
	fs := l.d.fs
	if err := fs.Rename(r.path(), filepath.Join(l.path(), r.name())); err != nil {
		return l.d.refused(err)
	}
	err := fs.SyncDir(l.path())
	bases := make([]int64, len(group))
	for i, v := range group {
		bases[i] = v.base
	}
	if err == nil {
		err = r.swap.finish(fs, l.path(), bases)
	}
	if err != nil {
		return l.d.fail(err)
	}
	return nil
}

// install has readers see the new segment, and writes its indexes.
func (l *Log) install(group []view, r *replacement) error {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	l.mu.Lock()
	i := slices.Index(l.segments, group[0].seg)
	seg := &segment{base: r.base, next: r.end, size: r.size, tail: r.tail, version: l.swaps.Add(1)}
	l.segments = slices.Concat(l.segments[:i:i], []*segment{seg}, l.segments[i+len(group):])
	l.hint = position{}
	l.mu.Unlock()
	for _, v := range group {
		l.d.files.forget(v.key(indexFile))
		l.d.files.forget(v.key(timeIndexFile))
	}
	if err := l.spill(seg); err != nil { // they are in memory, then
		return l.d.refused(err)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	seg.sealTail()
	return nil
}
