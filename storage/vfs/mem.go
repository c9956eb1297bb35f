package vfs

import (
	"errors"
	"io"
	iofs "io/fs"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
)

const memPageBytes = 4096

// Mem is a file system in memory that knows what is durable: for each page of
// a file the content as last synced, for each directory the names as last
// synced and the operations on them since. Crash turns that into a file system
// as a disk may hold it after a power cut.
type Mem struct {
	mu    sync.Mutex // guards everything reachable from here, open files too
	root  *memNode
	locks map[string]bool
	cut   bool // no sync succeeds any more
	now   time.Time
	free  int64
}

// ErrPowerCut is what a sync answers after CutPower.
var ErrPowerCut = errors.New("the power is cut")

// NewMem returns an empty file system with a root directory, "/".
func NewMem() *Mem {
	return &Mem{root: &memNode{dir: newMemDir()}, locks: make(map[string]bool), free: math.MaxInt64}
}

// SetTime says what time it is: that of writes from here on. Before the first
// call no time is known.
func (m *Mem) SetTime(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = now
}

// SetFree says what Space answers. Writes do not mind it: for a full disk there is
// NewFaulty.
func (m *Mem) SetFree(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.free = n
}

func (m *Mem) Space(string) (Space, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Space{m.free, math.MaxInt64}, nil
}

// memNode is a file or, with dir set, a directory.
type memNode struct {
	dir *memDir

	data     []byte
	modified time.Time
	synced   []byte
	dirty    map[int64]bool // pages written since the last sync
	// The sizes the file had since the last sync: a disk may remember any of them.
	minSize, maxSize int64
}

type memDir struct {
	names   map[string]*memNode
	durable map[string]*memNode
	pending []nameOp // what turned durable into names, in order
}

// nameOp is one change of a directory: with to, a rename; with gone, a removal;
// else a new name.
type nameOp struct {
	name, to string
	node     *memNode
	gone     bool
}

func newMemDir() *memDir {
	return &memDir{names: make(map[string]*memNode), durable: make(map[string]*memNode)}
}

// apply carries an operation out on a set of names. It has no effect if what
// it refers to is not there, which happens once an earlier one was lost.
func (op nameOp) apply(names map[string]*memNode) {
	switch {
	case op.to == "" && !op.gone:
		if names[op.name] == nil {
			names[op.name] = op.node
		}
	case names[op.name] != op.node:
	case op.gone:
		delete(names, op.name)
	default:
		delete(names, op.name)
		names[op.to] = op.node
	}
}

func (d *memDir) do(op nameOp) {
	op.apply(d.names)
	d.pending = append(d.pending, op)
}

func (d *memDir) sync() {
	d.durable, d.pending = maps.Clone(d.names), nil
}

func (n *memNode) sync() {
	for page := range n.dirty {
		from, to := page*memPageBytes, min((page+1)*memPageBytes, int64(len(n.data)))
		if from < to {
			n.synced = resize(n.synced, max(int64(len(n.synced)), to))
			copy(n.synced[from:to], n.data[from:to])
		}
	}
	n.synced = resize(n.synced, int64(len(n.data)))
	n.dirty = nil
	n.minSize, n.maxSize = int64(len(n.data)), int64(len(n.data))
}

// resize cuts b or extends it with zeros.
func resize(b []byte, size int64) []byte {
	if size <= int64(len(b)) {
		return b[:size]
	}
	return append(b, make([]byte, size-int64(len(b)))...)
}

func (n *memNode) resize(size int64) {
	old := int64(len(n.data))
	n.data = resize(n.data, size)
	n.touch(min(old, size), max(old, size))
	n.minSize, n.maxSize = min(n.minSize, size), max(n.maxSize, size)
}

func (n *memNode) touch(from, to int64) {
	if n.dirty == nil {
		n.dirty = make(map[int64]bool)
	}
	for page := from / memPageBytes; page*memPageBytes < to; page++ {
		n.dirty[page] = true
	}
}

func pathError(op, name string, err error) error {
	return &iofs.PathError{Op: op, Path: name, Err: err}
}

// find walks to a node. m.mu is held.
func (m *Mem) find(name string) *memNode {
	n := m.root
	for part := range strings.SplitSeq(filepath.Clean(name), string(filepath.Separator)) {
		if part == "" || part == "." {
			continue
		}
		if n = n.child(part); n == nil {
			return nil
		}
	}
	return n
}

func (n *memNode) child(name string) *memNode {
	if n.dir == nil {
		return nil
	}
	return n.dir.names[name]
}

// parent finds the directory that holds name. m.mu is held.
func (m *Mem) parent(op, name string) (*memDir, string, error) {
	n := m.find(filepath.Dir(name))
	if n == nil || n.dir == nil {
		return nil, "", pathError(op, name, iofs.ErrNotExist)
	}
	return n.dir, filepath.Base(name), nil
}

func (m *Mem) directory(op, name string) (*memDir, error) {
	n := m.find(name)
	if n == nil || n.dir == nil {
		return nil, pathError(op, name, iofs.ErrNotExist)
	}
	return n.dir, nil
}

func (m *Mem) Open(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.find(name)
	if n == nil {
		return nil, pathError("open", name, iofs.ErrNotExist)
	}
	if n.dir != nil {
		return nil, pathError("open", name, errors.New("is a directory"))
	}
	return &memFile{m: m, name: name, node: n}, nil
}

func (m *Mem) Create(name string) (File, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("create", name)
	if err != nil {
		return nil, err
	}
	n := dir.names[base]
	switch {
	case n == nil:
		n = &memNode{}
		dir.do(nameOp{name: base, node: n})
	case n.dir != nil:
		return nil, pathError("create", name, errors.New("is a directory"))
	default:
		n.resize(0)
	}
	return &memFile{m: m, name: name, node: n}, nil
}

func (m *Mem) Rename(from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("rename", from)
	if err != nil {
		return err
	}
	if filepath.Dir(from) != filepath.Dir(to) {
		return pathError("rename", to, errors.New("is in another directory"))
	}
	n := dir.names[base]
	if n == nil {
		return pathError("rename", from, iofs.ErrNotExist)
	}
	dir.do(nameOp{name: base, to: filepath.Base(to), node: n})
	return nil
}

func (m *Mem) Remove(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("remove", name)
	if err != nil {
		return err
	}
	n := dir.names[base]
	if n == nil {
		return pathError("remove", name, iofs.ErrNotExist)
	}
	if n.dir != nil && len(n.dir.names) > 0 {
		return pathError("remove", name, errors.New("directory not empty"))
	}
	dir.do(nameOp{name: base, node: n, gone: true})
	return nil
}

func (m *Mem) List(name string) ([]string, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, err := m.directory("list", name)
	if err != nil {
		return nil, err
	}
	return slices.Sorted(maps.Keys(dir.names)), nil
}

func (m *Mem) Stat(name string) (Info, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.find(name)
	if n == nil {
		return Info{}, pathError("stat", name, iofs.ErrNotExist)
	}
	return Info{Size: int64(len(n.data)), IsDir: n.dir != nil, ModTime: n.modified}, nil
}

func (m *Mem) Mkdir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, base, err := m.parent("mkdir", name)
	if err != nil {
		return err
	}
	if dir.names[base] != nil {
		return pathError("mkdir", name, iofs.ErrExist)
	}
	dir.do(nameOp{name: base, node: &memNode{dir: newMemDir()}})
	return nil
}

func (m *Mem) MkdirAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := m.root
	for part := range strings.SplitSeq(filepath.Clean(name), string(filepath.Separator)) {
		if part == "" || part == "." {
			continue
		}
		if n.dir == nil {
			return pathError("mkdir", name, errors.New("not a directory"))
		}
		if n.dir.names[part] == nil {
			n.dir.do(nameOp{name: part, node: &memNode{dir: newMemDir()}})
		}
		n = n.dir.names[part]
	}
	return nil
}

func (m *Mem) SyncDir(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	dir, err := m.directory("sync", name)
	if err != nil {
		return err
	}
	if m.cut {
		return ErrPowerCut
	}
	dir.sync()
	return nil
}

func (m *Mem) SyncAll(name string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.directory("sync", name); err != nil {
		return err
	}
	if m.cut {
		return ErrPowerCut
	}
	m.root.syncTree()
	return nil
}

func (n *memNode) syncTree() {
	if n.dir == nil {
		n.sync()
		return
	}
	n.dir.sync()
	for _, child := range n.dir.names {
		child.syncTree()
	}
}

func (m *Mem) Lock(name string) (io.Closer, error) {
	f, err := m.Open(name)
	if errors.Is(err, iofs.ErrNotExist) {
		f, err = m.Create(name)
	}
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name = filepath.Clean(name)
	if m.locks[name] {
		return nil, pathError("lock", name, ErrLocked)
	}
	m.locks[name] = true
	return &memLock{File: f, m: m, name: name}, nil
}

type memLock struct {
	File
	m    *Mem
	name string
}

func (l *memLock) Close() error {
	if err := l.File.Close(); err != nil {
		return err
	}
	l.m.mu.Lock()
	defer l.m.mu.Unlock()
	delete(l.m.locks, l.name)
	return nil
}

// memFile is one open file.
type memFile struct {
	m      *Mem
	name   string
	node   *memNode
	closed bool // guarded by m.mu
}

// lock takes m.mu if the file is open.
func (f *memFile) lock(op string) error {
	f.m.mu.Lock()
	if f.closed {
		f.m.mu.Unlock()
		return pathError(op, f.name, iofs.ErrClosed)
	}
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.lock("read"); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	if off >= int64(len(f.node.data)) {
		return 0, io.EOF
	}
	n := copy(p, f.node.data[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	if err := f.lock("write"); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	end := off + int64(len(p))
	if end > int64(len(f.node.data)) {
		f.node.resize(end)
	}
	copy(f.node.data[off:], p)
	f.node.modified = f.m.now
	f.node.touch(off, end)
	return len(p), nil
}

func (f *memFile) Truncate(size int64) error {
	if err := f.lock("truncate"); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	f.node.resize(size)
	return nil
}

func (f *memFile) Sync() error {
	if err := f.lock("sync"); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	if f.m.cut {
		return ErrPowerCut
	}
	f.node.sync()
	return nil
}

func (f *memFile) StartWriteback(off, n int64) error {
	if err := f.lock("writeback"); err != nil {
		return err
	}
	f.m.mu.Unlock()
	return nil
}

func (f *memFile) SendTo(w io.Writer, off, n int64) (int64, error) { return sendCopy(w, f, off, n) }

func (f *memFile) Size() (int64, error) {
	if err := f.lock("stat"); err != nil {
		return 0, err
	}
	defer f.m.mu.Unlock()
	return int64(len(f.node.data)), nil
}

func (f *memFile) Close() error {
	if err := f.lock("close"); err != nil {
		return err
	}
	defer f.m.mu.Unlock()
	f.closed = true
	return nil
}
