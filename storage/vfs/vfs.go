// Package vfs is the set of file calls that storage makes, and nothing more.
//
// There are three of them: OS, the machine's file system; Mem, which lives in
// memory and can show what a disk may look like after a power cut; and the one
// NewFaulty returns, which injects errors into another.
//
// A name is an ordinary path of the operating system. What a write, a new name
// or a removal is worth after a crash is the same everywhere: content survives
// once the file's Sync has returned, a name once SyncDir of its directory has,
// and both once SyncAll has.
package vfs

import (
	"errors"
	"io"
	"syscall"
	"time"
)

// ErrLocked is returned by Lock when another process, or another owner in this
// one, holds the lock.
var ErrLocked = errors.New("locked by another owner")

// IsFull tells whether an error says that a disk, or somebody's share of it, is full.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}

// Space is how many bytes a file system has, and how many of them may still be
// written.
type Space struct{ Free, Total int64 }

// FS is a file system. Its methods may be called by many goroutines.
type FS interface {
	// Open opens an existing file for reading and writing; fs.ErrNotExist otherwise.
	Open(name string) (File, error)
	// Create opens a new file, or an existing one emptied.
	Create(name string) (File, error)
	// Rename replaces to, within one directory.
	Rename(from, to string) error
	// Remove removes a file or an empty directory.
	Remove(name string) error
	// List returns the sorted names in a directory.
	List(dir string) ([]string, error)
	Stat(name string) (Info, error)
	// Mkdir makes a directory in one that exists; fs.ErrExist if the name is taken.
	Mkdir(dir string) error
	MkdirAll(dir string) error
	// SyncDir makes the names in dir durable, not what they name.
	SyncDir(dir string) error
	// SyncAll makes everything on the file system that holds dir durable.
	SyncAll(dir string) error
	// Space tells how full the file system is that holds dir.
	Space(dir string) (Space, error)
	// Lock takes an exclusive advisory lock on a file, which it creates if need
	// be, until the result is closed or the process ends.
	Lock(name string) (io.Closer, error)
}

// Info is what Stat tells.
type Info struct {
	Size    int64
	IsDir   bool
	ModTime time.Time // of the latest write; zero: not known
}

// File is an open file. It has no position: every call says where. Its methods
// may be called by many goroutines.
type File interface {
	io.ReaderAt
	io.WriterAt
	Truncate(size int64) error
	// Sync makes the content and the size durable, not the name.
	Sync() error
	// StartWriteback asks that n bytes at off be on their way to the disk. It
	// promises nothing; it keeps a later Sync short.
	StartWriteback(off, n int64) error
	// SendTo writes n bytes at off to w, without a copy where w is a socket and
	// the system can.
	SendTo(w io.Writer, off, n int64) (int64, error)
	Size() (int64, error)
	Close() error
}
