package wal

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
)

const (
	// reserveBytes is the size of the reserve. A unit has at most a few MiB, so it is room for hours of metadata.
	reserveBytes = 64 << 20
	// A reserve is made where it takes at most one part in so many of the free space: on a small disk it would be what fills it.
	reserveShare = 4
)

// ReserveName is the file of a log's directory that keeps room for a full disk.
const ReserveName = "reserve"

// reserve is a file that holds blocks of the disk and nothing else. When the disk is full it is removed, and the raft log
// has its room.
type reserve struct {
	dir  string
	size int64

	making sync.Mutex // one at a time makes the file; taken before mu

	mu   sync.Mutex // guards the following
	held bool
	// given counts how often it was given up. Of two writers that meet a full disk at once only one finds the reserve, and
	// both may try again.
	given int
}

// openReserve looks whether the reserve is there, whole. A start makes none: that may take time.
func openReserve(dir string) (*reserve, error) {
	r := &reserve{dir: dir, size: reserveBytes}
	if err := os.Remove(r.tmp()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("raft log: what is left of an unfinished reserve: %w", err)
	}
	f, err := os.Open(r.file())
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, fmt.Errorf("raft log: %w", err)
	}
	defer f.Close()
	r.held, err = isAllocated(f, r.size)
	return r, err
}

func (r *reserve) file() string { return filepath.Join(r.dir, ReserveName) }

func (r *reserve) tmp() string { return r.file() + ".tmp" }

// times is how often the reserve was given up before a write that may meet a full disk.
func (r *reserve) times() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.given
}

// giveUp makes room for a write that has met a full disk, and tells whether there is more than when it began.
func (r *reserve) giveUp(before int) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.held {
		return r.given > before
	}
	if err := os.Remove(r.file()); err != nil && !errors.Is(err, fs.ErrNotExist) { // somebody may have made room by removing it
		return false
	}
	r.held = false
	r.given++
	return true
}

// take makes the reserve where there is none, if the disk has room for it.
func (r *reserve) take() error {
	r.making.Lock()
	defer r.making.Unlock()
	r.mu.Lock()
	if _, err := os.Stat(r.file()); r.held && errors.Is(err, fs.ErrNotExist) { // somebody has removed it
		r.held = false
	}
	held, given := r.held, r.given
	r.mu.Unlock()
	if held {
		return nil
	}
	lost := "there is none yet"
	if given > 0 {
		lost = "it was given up when the disk was full, and the metadata can change for as long as that lasts"
	}
	free, err := freeBytes(r.dir)
	if err != nil {
		return fmt.Errorf("raft log %s has no reserve for a full disk (%s): free space: %w", r.dir, lost, err)
	}
	if free/reserveShare < r.size {
		return fmt.Errorf("raft log %s has no reserve for a full disk (%s): %d MiB are free, and it takes %d MiB when %d MiB are: make room on the disk",
			r.dir, lost, free>>20, r.size>>20, r.size*reserveShare>>20)
	}
	if err := r.make(); err != nil {
		return fmt.Errorf("raft log %s has no reserve for a full disk (%s): %w", r.dir, lost, errors.Join(err, os.Remove(r.tmp())))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := os.Rename(r.tmp(), r.file()); err != nil {
		return fmt.Errorf("raft log: %w", err)
	}
	r.held = true
	return nil
}

// make writes the file under another name: under its own it is whole. It is not synced, since a machine that fails may lose
// it: then the next start makes it again.
func (r *reserve) make() error {
	f, err := os.OpenFile(r.tmp(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if err = allocate(f, r.size); errors.Is(err, errors.ErrUnsupported) {
		// Not zeros: a file system that compresses would keep no block for them.
		_, err = io.CopyN(f, mathrand.NewChaCha8([32]byte{}), r.size)
	}
	return errors.Join(err, f.Close())
}

// isFull tells whether a write was refused since the disk is full, so that it may be done again once there is room.
//
// That is right for writes alone. A transaction of bbolt writes pages that no tree in force uses, syncs them, and then
// writes the one page that makes them the tree in force. If a write is refused, either that page is as it was, and what was
// written before it counts for nothing; or it was written in part: then its checksum says so, and the other such page
// counts; or its contents were and only what is behind them was not: then the transaction stands, on pages that were
// synced. On each of these the same transaction comes to the same, since it says what stands at which index; and it ends
// with syncs of its own, which cover whatever was written before. A file that could not be made longer, or a snapshot's
// file, which has another name until it is whole, is the same case.
//
// A sync that failed is not, be it for want of space, as on a disk that allots blocks late: the kernel may have marked the
// pages as clean that it could not write, and a second sync would succeed without them. bbolt gives its error as the bare
// number, that of growing the file as text only.
func isFull(err error) bool {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		return e.Op != "sync" && errors.Is(e, syscall.ENOSPC)
	}
	if e, ok := errors.AsType[*os.LinkError](err); ok {
		return errors.Is(e, syscall.ENOSPC)
	}
	text := fmt.Sprint(err)
	return strings.Contains(text, "file resize error: ") && strings.HasSuffix(text, ": "+syscall.ENOSPC.Error())
}

// roomy does something that writes, and does it once more if the disk was full and the reserve has made room.
func (r *reserve) roomy(do func() error) error {
	before := r.times()
	err := do()
	if err == nil || !isFull(err) || !r.giveUp(before) {
		return err
	}
	return do()
}
