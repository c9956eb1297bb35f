package wal

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// allocate gives a file blocks without writing them. Where the file system cannot, the error is errors.ErrUnsupported.
func allocate(f *os.File, size int64) error {
	for {
		err := unix.Fallocate(int(f.Fd()), 0, 0, size)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// isAllocated tells whether a file has its size and the blocks for it.
func isAllocated(f *os.File, size int64) (bool, error) {
	var s unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &s); err != nil {
		return false, &os.PathError{Op: "stat", Path: f.Name(), Err: err}
	}
	return s.Size == size && s.Blocks*512 >= size, nil
}

func freeBytes(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(min(s.Bavail*uint64(s.Bsize), 1<<62)), nil
}
