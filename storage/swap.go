package storage

import (
	"cmp"
	"errors"
	"fmt"
	iofs "io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/vfs"
)

// swap says that a file holds what is kept of the segments from one with offset
// base to where offset end is not reached. Once it has that name, durably, it is in
// their place: who finds it does the rest. One whose base no segment has is the second
// half of a segment that is split, and nothing before the first half, which ends
// where it begins, has its name too.
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
	swaps, void := parseSwaps(names)
	for _, s := range void {
		if err := l.d.fs.Remove(filepath.Join(l.path(), s.name())); err != nil {
			return done, err
		}
		done = true
	}
	for _, s := range swaps {
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

// parseSwaps are the swaps among the names in a log's directory, the last one first:
// once the first half of a segment has its place, nothing says any more that the second
// is to have one. A second half without a first is void: the segment is whole.
func parseSwaps(names []string) (swaps, void []swap) {
	var all []swap
	for _, name := range names {
		if s, ok := parseSwap(name); ok {
			all = append(all, s)
		}
	}
	slices.SortFunc(all, func(a, b swap) int { return cmp.Compare(b.base, a.base) })
	for _, s := range all {
		if slices.Contains(names, fmt.Sprintf("%020d%s", s.base, suffixes[logFile])) ||
			slices.ContainsFunc(all, func(first swap) bool { return first.end == s.base }) {
			swaps = append(swaps, s)
		} else {
			void = append(void, s)
		}
	}
	return swaps, void
}

// replacement is a segment in the making that will take the place of some.
type replacement struct {
	swap
	p        *pass
	file     vfs.File // nil as long as it has what the only segment that it replaces has
	buf      []byte   // of the file's end, not written yet
	size     int64
	most     int64 // what size may be, but for a single batch
	unsynced int64
	tail     *indexTail
	rest     *replacement // of the only segment, where it is split
}

// errSegmentFull says that a replacement has no room for another batch.
var errSegmentFull = errors.New("a segment can have no more bytes")

// replacementBytes are written at a time.
const replacementBytes = 1 << 20

func (r *replacement) path() string {
	return filepath.Join(r.p.l.path(), fmt.Sprintf("%020d%s%s", r.base, swapSuffix, tmpSuffix))
}

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
	if r.size > 0 && r.size+h.Length > r.most {
		return errSegmentFull
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
	if err := r.p.l.d.mustSync(r.file.Sync()); err != nil || r.rest == nil {
		return err
	}
	return r.rest.finish()
}

// discard removes a file that replaces nothing.
func (r *replacement) discard() error {
	if r.file == nil {
		return nil
	}
	err := r.file.Close()
	if failed := r.p.l.d.fs.Remove(r.path()); !errors.Is(failed, iofs.ErrNotExist) {
		err = errors.Join(err, failed)
	}
	if r.rest != nil {
		err = errors.Join(err, r.rest.discard())
	}
	return err
}

func (r *replacement) close() error {
	err := r.file.Close()
	if r.rest != nil {
		err = errors.Join(err, r.rest.close())
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
	return errors.Join(err, r.close())
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

// letLater does so in a Sweep, or where there are too many in the meantime.
func (l *Log) letLater(held []*handle, now time.Time) {
	l.d.files.hold(held)
	due := removal{log: l, held: held, at: now.Add(l.config().DeleteDelay)}
	l.d.mu.Lock()
	l.d.due = append(l.d.due, due)
	l.d.mu.Unlock()
	l.d.letOldest()
}

// letOldest gives up the files that are held the longest, as far as there are more than
// may be: who has not read by then gets errCut, as when the delay is over. To have
// compaction wait instead would leave it far behind where segments are small.
func (d *Dir) letOldest() {
	most := d.files.mayHold()
	var early []removal
	d.mu.Lock()
	n := 0
	for _, r := range d.due {
		n += len(r.held)
	}
	d.due = slices.DeleteFunc(d.due, func(r removal) bool {
		if r.held == nil || n <= most {
			return false
		}
		n -= len(r.held)
		early = append(early, r)
		return true
	})
	d.mu.Unlock()
	for _, r := range early {
		r.log.let(r.held)
	}
}

// commit changes the files. Where the first rename fails nothing has changed.
func (l *Log) commit(group []view, r *replacement) error {
	fs := l.d.fs
	if r.rest != nil {
		if err := l.commitRest(r.rest); err != nil {
			return err
		}
	}
	if err := fs.Rename(r.path(), filepath.Join(l.path(), r.name())); err != nil {
		if r.rest != nil { // another split at this offset is not to find it
			if failed := fs.Remove(filepath.Join(l.path(), r.rest.name())); failed != nil {
				return l.d.fail(errors.Join(err, failed))
			}
		}
		return l.d.refused(err)
	}
	err := fs.SyncDir(l.path())
	bases := make([]int64, len(group))
	for i, v := range group {
		bases[i] = v.base
	}
	if err == nil && r.rest != nil {
		err = r.rest.swap.finish(fs, l.path(), []int64{r.rest.base})
	}
	if err == nil {
		err = r.swap.finish(fs, l.path(), bases)
	}
	if err != nil {
		return l.d.fail(err)
	}
	return nil
}

// commitRest gives the second half of a segment that is split its name, durably: the
// first half's says that it is there. Until that is made the name means nothing.
func (l *Log) commitRest(rest *replacement) error {
	if err := l.d.fs.Rename(rest.path(), filepath.Join(l.path(), rest.name())); err != nil {
		return l.d.refused(err)
	}
	if err := l.d.fs.SyncDir(l.path()); err != nil {
		return l.d.fail(err)
	}
	return nil
}

// install has readers see what is new, and writes its indexes.
func (l *Log) install(group []view, r *replacement) error {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	l.mu.Lock()
	i := slices.Index(l.segments, group[0].seg)
	var made []*segment
	for ; r != nil; r = r.rest {
		made = append(made, &segment{base: r.base, next: r.end, size: r.size, tail: r.tail, version: l.swaps.Add(1)})
	}
	l.segments = slices.Concat(l.segments[:i:i], made, l.segments[i+len(group):])
	l.hint = position{}
	l.mu.Unlock()
	for _, v := range group {
		l.d.files.forget(v.key(indexFile))
		l.d.files.forget(v.key(timeIndexFile))
	}
	for _, seg := range made {
		if err := l.spill(seg); err != nil { // they are in memory, then
			return l.d.refused(err)
		}
		l.mu.Lock()
		seg.sealTail()
		l.mu.Unlock()
	}
	return nil
}
