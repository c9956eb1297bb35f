package vfs

import (
	"fmt"
	"io"
)

// Op names a call of FS or File.
type Op int

const (
	OpOpen Op = iota
	OpCreate
	OpRename
	OpRemove
	OpList
	OpStat
	OpMkdir
	OpMkdirAll
	OpSyncDir
	OpSyncAll
	OpLock
	OpReadAt
	OpWriteAt
	OpTruncate
	OpSync
	OpStartWriteback
	OpSendTo
	OpSize
	OpClose
	OpSpace
)

var opNames = [...]string{
	"open", "create", "rename", "remove", "list", "stat", "mkdir", "mkdirall", "syncdir", "syncall", "lock",
	"read", "write", "truncate", "sync", "writeback", "send", "size", "close", "free",
}

func (o Op) String() string { return opNames[o] }

// ShortWrite is an error for a hook to return from OpWriteAt: Bytes of the data
// are written, then the write fails with Err.
type ShortWrite struct {
	Bytes int
	Err   error
}

func (e *ShortWrite) Error() string {
	return fmt.Sprintf("short write of %d bytes: %v", e.Bytes, e.Err)
}
func (e *ShortWrite) Unwrap() error { return e.Err }

// NewFaulty returns a file system that asks hook before each call of fs or of
// its files. If hook returns an error the call returns that and does nothing,
// except for Close, which must not leak the file it fails to close.
func NewFaulty(fs FS, hook func(op Op, name string) error) FS { return &faultyFS{fs, hook} }

type faultyFS struct {
	fs   FS
	hook func(op Op, name string) error
}

func (f *faultyFS) Open(name string) (File, error)   { return f.file(OpOpen, name, f.fs.Open) }
func (f *faultyFS) Create(name string) (File, error) { return f.file(OpCreate, name, f.fs.Create) }

func (f *faultyFS) file(op Op, name string, open func(string) (File, error)) (File, error) {
	if err := f.hook(op, name); err != nil {
		return nil, err
	}
	file, err := open(name)
	if err != nil {
		return nil, err
	}
	return &faultyFile{file, name, f.hook}, nil
}

func (f *faultyFS) Rename(from, to string) error {
	if err := f.hook(OpRename, from); err != nil {
		return err
	}
	return f.fs.Rename(from, to)
}

func (f *faultyFS) do(op Op, name string, call func(string) error) error {
	if err := f.hook(op, name); err != nil {
		return err
	}
	return call(name)
}

func (f *faultyFS) Remove(name string) error  { return f.do(OpRemove, name, f.fs.Remove) }
func (f *faultyFS) Mkdir(dir string) error    { return f.do(OpMkdir, dir, f.fs.Mkdir) }
func (f *faultyFS) MkdirAll(dir string) error { return f.do(OpMkdirAll, dir, f.fs.MkdirAll) }
func (f *faultyFS) SyncDir(dir string) error  { return f.do(OpSyncDir, dir, f.fs.SyncDir) }
func (f *faultyFS) SyncAll(dir string) error  { return f.do(OpSyncAll, dir, f.fs.SyncAll) }

func (f *faultyFS) List(dir string) ([]string, error) {
	if err := f.hook(OpList, dir); err != nil {
		return nil, err
	}
	return f.fs.List(dir)
}

func (f *faultyFS) Stat(name string) (Info, error) {
	if err := f.hook(OpStat, name); err != nil {
		return Info{}, err
	}
	return f.fs.Stat(name)
}

func (f *faultyFS) Space(dir string) (Space, error) {
	if err := f.hook(OpSpace, dir); err != nil {
		return Space{}, err
	}
	return f.fs.Space(dir)
}

func (f *faultyFS) Lock(name string) (io.Closer, error) {
	if err := f.hook(OpLock, name); err != nil {
		return nil, err
	}
	return f.fs.Lock(name)
}

type faultyFile struct {
	file File
	name string
	hook func(op Op, name string) error
}

func (f *faultyFile) ReadAt(p []byte, off int64) (int, error) {
	if err := f.hook(OpReadAt, f.name); err != nil {
		return 0, err
	}
	return f.file.ReadAt(p, off)
}

func (f *faultyFile) WriteAt(p []byte, off int64) (int, error) {
	err := f.hook(OpWriteAt, f.name)
	if short, ok := err.(*ShortWrite); ok {
		n, _ := f.file.WriteAt(p[:min(short.Bytes, len(p))], off)
		return n, err
	}
	if err != nil {
		return 0, err
	}
	return f.file.WriteAt(p, off)
}

func (f *faultyFile) Truncate(size int64) error {
	if err := f.hook(OpTruncate, f.name); err != nil {
		return err
	}
	return f.file.Truncate(size)
}

func (f *faultyFile) Sync() error {
	if err := f.hook(OpSync, f.name); err != nil {
		return err
	}
	return f.file.Sync()
}

func (f *faultyFile) StartWriteback(off, n int64) error {
	if err := f.hook(OpStartWriteback, f.name); err != nil {
		return err
	}
	return f.file.StartWriteback(off, n)
}

func (f *faultyFile) SendTo(w io.Writer, off, n int64) (int64, error) {
	if err := f.hook(OpSendTo, f.name); err != nil {
		return 0, err
	}
	return f.file.SendTo(w, off, n)
}

func (f *faultyFile) Size() (int64, error) {
	if err := f.hook(OpSize, f.name); err != nil {
		return 0, err
	}
	return f.file.Size()
}

func (f *faultyFile) Close() error {
	err := f.hook(OpClose, f.name)
	if closed := f.file.Close(); err == nil {
		err = closed
	}
	return err
}
