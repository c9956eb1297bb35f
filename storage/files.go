package storage

import (
	"cmp"
	"container/list"
	"errors"
	"fmt"
	iofs "io/fs"
	"path/filepath"
	"slices"
	"sync"

	"github.com/streambus/streambus/storage/vfs"
)

// maxOpenFiles bounds the files a data directory keeps open for nobody, so that
// it can hold more logs than a process may have descriptors. Those of segments that
// compaction has replaced count, files in use or with unsynced writes do not.
const maxOpenFiles = 4096

type fileKind uint8

const (
	logFile fileKind = iota
	indexFile
	timeIndexFile
)

var suffixes = [...]string{".log", ".index", ".timeindex"}

type fileKey struct {
	log     *Log
	base    int64
	kind    fileKind
	version int64 // of the segment
}

func (k fileKey) path() string {
	return filepath.Join(k.log.path(), fmt.Sprintf("%020d%s", k.base, suffixes[k.kind]))
}

// files are the open files of a directory. A file that nobody uses stays open
// until others push it out.
type files struct {
	fs    vfs.FS
	limit int

	mu   sync.Mutex // guards the following, and the handles' fields
	open map[fileKey]*handle
	idle *list.List // of *handle without users, the longest idle first
	held int        // handles that are held for who has looked at a replaced segment
	shut bool
}

// handle is an open file with users.
type handle struct {
	vfs.File
	key   fileKey
	users int
	held  bool          // one of them is nobody yet
	elem  *list.Element // in files.idle while users is 0
}

// LimitOpenFiles has the directory keep at most n files open for nobody.
func (d *Dir) LimitOpenFiles(n int) {
	d.files.mu.Lock()
	defer d.files.mu.Unlock()
	d.files.limit = min(n, maxOpenFiles)
	d.files.evict()
}

// OpenFiles counts the open files of logs.
func (d *Dir) OpenFiles() int {
	d.files.mu.Lock()
	defer d.files.mu.Unlock()
	return len(d.files.open)
}

func (h *handle) path() string { return h.key.path() }

func newFiles(fs vfs.FS) *files {
	return &files{fs: fs, limit: maxOpenFiles, open: make(map[fileKey]*handle), idle: list.New()}
}

// acquire opens a file, or makes it with create. The caller releases it.
func (c *files) acquire(key fileKey, create bool) (*handle, error) {
	for {
		changes := key.log.changes()
		c.mu.Lock()
		h, err := c.cached(key)
		c.mu.Unlock()
		if h != nil || err != nil {
			return h, err
		}
		there, current := key.log.current(key)
		if there && !current { // its name is another's now
			return nil, errCut
		}
		f, err := c.openFile(key, create, there) // not under mu: it may wait for the disk
		if err != nil {
			return nil, err
		}
		if h, err := c.opened(key, f, changes); h != nil || err != nil {
			return h, err
		}
	}
}

// opened takes up a file that was opened when the log had changed so many times,
// or returns nil if it did since: it may be one that is removed, and another may
// have its name by now.
func (c *files) opened(key fileKey, f vfs.File, changes int64) (*handle, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h, err := c.cached(key); h != nil || err != nil { // another was faster
		return h, errors.Join(err, f.Close())
	}
	if key.log.changes() != changes {
		return nil, f.Close()
	}
	h := &handle{File: f, key: key, users: 1}
	c.open[key] = h
	c.evict()
	return h, nil
}

func (c *files) openFile(key fileKey, create, there bool) (vfs.File, error) {
	for {
		dir := key.log.path()
		f, err := c.openNamed(key, create, there)
		if key.log.path() == dir {
			return f, err
		}
		// The log has been deleted meanwhile, and this may be a file of the next one.
		if err == nil {
			f.Close()
		}
	}
}

// openNamed opens a file by its name, or the one that it has once the segment was
// deleted. The first is only for one that is the log's: where there is no segment with
// that offset, a file may be the half of another that is being split.
func (c *files) openNamed(key fileKey, create, there bool) (f vfs.File, err error) {
	if err = iofs.ErrNotExist; there || create {
		f, err = c.fs.Open(key.path())
	}
	switch {
	case !errors.Is(err, iofs.ErrNotExist):
		return f, err
	case create:
		return c.fs.Create(key.path())
	}
	if !key.log.d.buriedOther(key) {
		if f, err := c.fs.Open(key.path() + deletedSuffix); !errors.Is(err, iofs.ErrNotExist) {
			return f, err
		}
	}
	if key.log.gone.Load() {
		return nil, fmt.Errorf("%w: %s", ErrDeleted, key.log.name)
	}
	if key.kind == logFile {
		if missing := key.log.missing(key.base); missing != nil {
			return nil, missing
		}
		if !there { // it is one since, of another segment
			return nil, errCut
		}
	}
	return nil, err
}

// missing is why a segment is not one of the log's any more, nil if one with its
// offset is. Only those at the log's start are deleted; others are put together or cut,
// and who looks again finds what there is now.
func (l *Log) missing(base int64) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case slices.ContainsFunc(l.segments, func(s *segment) bool { return s.base == base }):
		return nil
	case len(l.segments) > 0 && l.segments[0].base < base:
		return errCut
	}
	return fmt.Errorf("%w: the segment of %s with offset %d has been deleted", ErrOffsetOutOfRange, l.name, base)
}

// current tells whether a file's segment is one of the log's, and if so in that version.
func (l *Log) current(key fileKey) (there, current bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, there := slices.BinarySearchFunc(l.segments, key.base, func(s *segment, base int64) int { return cmp.Compare(s.base, base) })
	return there, there && l.segments[i].version == key.version
}

// changes counts the times when what a name in the log's directory stands for
// may have changed.
func (l *Log) changes() int64 { return l.cuts.Load() + l.swaps.Load() }

// cached counts one more user of an open file. mu is held.
func (c *files) cached(key fileKey) (*handle, error) {
	if c.shut {
		return nil, errClosed
	}
	h := c.open[key]
	if h == nil {
		return nil, nil
	}
	if h.users++; h.elem != nil {
		c.idle.Remove(h.elem)
		h.elem = nil
	}
	return h, nil
}

// retain counts one more user of a file in use.
func (c *files) retain(h *handle) *handle {
	c.mu.Lock()
	defer c.mu.Unlock()
	h.users++
	return h
}

// hold counts files in use among those that nobody uses.
func (c *files) hold(held []*handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range held {
		h.held = true
	}
	c.held += len(held)
	c.evict()
}

// mayHold is how many files may be held: there has to be room for idle ones too.
func (c *files) mayHold() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.limit / 2
}

func (c *files) release(h *handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if h.users--; h.users > 0 {
		return
	}
	if h.held {
		h.held = false
		c.held--
	}
	if c.open[h.key] != h { // forgotten meanwhile
		h.Close()
		return
	}
	h.elem = c.idle.PushBack(h)
	c.evict()
}

// evict closes idle files down to the limit. Their errors say nothing about
// data: a log with unsynced writes has a user, and indexes are hints. mu is held.
func (c *files) evict() {
	limit := c.limit
	if c.shut {
		limit = 0
	}
	for c.idle.Len() > max(limit-c.held, 0) {
		c.drop(c.idle.Front().Value.(*handle))
	}
}

func (c *files) drop(h *handle) {
	c.idle.Remove(h.elem)
	delete(c.open, h.key)
	h.Close()
}

// forget closes a file that is about to be removed. Its users, if there are any,
// keep it.
func (c *files) forget(key fileKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.forgetLocked(key)
}

// forgetLog does so for all files of a log.
func (c *files) forgetLog(l *Log) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.open {
		if key.log == l {
			c.forgetLocked(key)
		}
	}
}

func (c *files) forgetLocked(key fileKey) {
	switch h := c.open[key]; {
	case h == nil:
	case h.users == 0:
		c.drop(h)
	default:
		delete(c.open, key)
	}
}

// close closes what nobody uses, and the rest when it is released.
func (c *files) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.shut = true
	c.evict()
}
