package storage

import (
	"errors"
	"fmt"

	"github.com/streambus/streambus/storage/vfs"
)

// ErrDiskFull refuses a write for which there is no room. Nothing has changed,
// and the same call succeeds once there is.
var ErrDiskFull = errors.New("the disk is full")

// FreeGuard has appends refused while less than minFree bytes are free, so that
// what makes room has the room it needs itself; 0 ends that. It measures what is
// free and returns it. Others write to the disk too: call it now and then.
func (d *Dir) FreeGuard(minFree int64) (free int64, err error) {
	if free, err = d.fs.Free(d.path); err != nil {
		return 0, d.refused(err)
	}
	d.minFree.Store(minFree)
	d.room.Store(free - minFree)
	return free, nil
}

// admit decides whether n bytes may be appended. What is free is measured again
// only when it would not do for what was appended since.
func (d *Dir) admit(n int64) error {
	minFree := d.minFree.Load()
	if minFree <= 0 || d.room.Add(-n) >= 0 {
		return nil
	}
	free, err := d.fs.Free(d.path)
	if err != nil {
		return d.refused(err)
	}
	d.room.Store(free - minFree - n)
	if free-minFree >= n {
		return nil
	}
	return d.refused(fmt.Errorf("%w: %d bytes are free, and %d are not for appends", ErrDiskFull, free, minFree))
}

// noRoom adds ErrDiskFull to what the file system says in such a case.
func noRoom(err error) error {
	if vfs.IsFull(err) && !errors.Is(err, ErrDiskFull) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}
