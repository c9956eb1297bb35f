package storage

import (
	"errors"
	"fmt"

	"github.com/streambus/streambus/storage/vfs"
)

// ErrDiskFull refuses a write for which there is no room. Nothing has changed,
// and the same call succeeds once there is.
var ErrDiskFull = errors.New("the disk is full")

// Space is how full the disk is: how many bytes it has, how many are free, and
// how many of these are not for appends.
type Space struct {
	vfs.Space
	Reserved int64
}

// defaultReserve is what FreeGuard reserves of a large disk; of a small one it
// is a twentieth.
const defaultReserve = 1 << 30

// FreeGuard has appends refused while less than minFree bytes are free, so that
// what makes room has the room it needs itself; 0 ends that, and less than 0
// chooses by the size of the disk. It measures what is free. Others write to the
// disk too: call it now and then.
func (d *Dir) FreeGuard(minFree int64) (Space, error) {
	space, err := d.fs.Space(d.path)
	if err != nil {
		return Space{}, d.refused(err)
	}
	if minFree < 0 {
		minFree = min(defaultReserve, space.Total/20)
	}
	d.minFree.Store(minFree)
	d.room.Store(space.Free - minFree)
	return Space{space, minFree}, nil
}

// Space measures.
func (d *Dir) Space() (Space, error) {
	space, err := d.fs.Space(d.path)
	if err != nil {
		return Space{}, d.refused(err)
	}
	return Space{space, d.minFree.Load()}, nil
}

// admit decides whether n bytes may be appended. What is free is measured again
// only when it would not do for what was appended since.
func (d *Dir) admit(n int64) error {
	minFree := d.minFree.Load()
	if minFree <= 0 || d.room.Add(-n) >= 0 {
		return nil
	}
	space, err := d.fs.Space(d.path)
	if err != nil {
		return d.refused(err)
	}
	free := space.Free
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
