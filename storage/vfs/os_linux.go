package vfs

import (
	"io"
	"math"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// sendChunkBytes keeps one sendfile call short, so that a deadline or a close
// is noticed in between.
const sendChunkBytes = 4 << 20

func syncData(f *os.File) error {
	return withFD(f, func(fd int) error {
		return retryEINTR(func() error { return unix.Fdatasync(fd) })
	})
}

func syncAll(root *os.File) error {
	return withFD(root, func(fd int) error {
		return retryEINTR(func() error { return unix.Syncfs(fd) })
	})
}

func space(dir string) (Space, error) {
	var s unix.Statfs_t
	err := retryEINTR(func() error { return unix.Statfs(dir, &s) })
	bytes := func(blocks uint64) int64 { return int64(min(blocks*uint64(s.Frsize), math.MaxInt64)) }
	return Space{Free: bytes(s.Bavail), Total: bytes(s.Blocks)}, err
}

func startWriteback(f *os.File, off, n int64) error {
	return withFD(f, func(fd int) error {
		return unix.SyncFileRange(fd, off, n, unix.SYNC_FILE_RANGE_WRITE)
	})
}

// sendFile sends with sendfile(2) at an explicit offset. The ReadFrom of a TCP
// connection would use the file's own position, which all readers of a shared
// segment would move under one another. handled is false if nothing was sent
// and w or the file system cannot do it.
func sendFile(w io.Writer, f *os.File, off, n int64) (sent int64, handled bool, err error) {
	conn, ok := w.(interface {
		net.Conn
		syscall.Conn
	})
	if !ok {
		return 0, false, nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, false, nil
	}
	handled = true
	err = withFD(f, func(src int) error {
		var last error
		err := raw.Write(func(dst uintptr) bool {
			for sent < n {
				pos := off + sent
				k, err := unix.Sendfile(int(dst), src, &pos, int(min(n-sent, sendChunkBytes)))
				sent += int64(max(k, 0))
				switch {
				case err == unix.EINTR:
				case err == unix.EAGAIN:
					return false
				case err != nil:
					last = os.NewSyscallError("sendfile", err)
					handled = sent > 0 || err != unix.EINVAL && err != unix.ENOSYS
					return true
				case k == 0:
					last = io.ErrUnexpectedEOF
					return true
				}
			}
			return true
		})
		if err != nil {
			return err
		}
		return last
	})
	return sent, handled, err
}
