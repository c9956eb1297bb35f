package vfs

import (
	"errors"
	"io"
	"os"
	"sync"
	"syscall"
)

// OS returns the machine's file system.
func OS() FS { return &osFS{roots: make(map[string]*os.File)} }

type osFS struct {
	mu sync.Mutex
	// roots are the directories SyncAll was called for, kept open: the kernel
	// reports a failed write-back once to each descriptor that was open when it
	// failed. One opened anew for each call would miss what another owner of
	// the same file system had been told in between. guarded by mu
	roots map[string]*os.File
}

func (*osFS) Open(name string) (File, error) { return openFile(name, os.O_RDWR) }
func (*osFS) Create(name string) (File, error) {
	return openFile(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}
func (*osFS) Rename(from, to string) error { return os.Rename(from, to) }
func (*osFS) Remove(name string) error     { return os.Remove(name) }
func (*osFS) Mkdir(dir string) error       { return os.Mkdir(dir, 0o755) }
func (*osFS) MkdirAll(dir string) error    { return os.MkdirAll(dir, 0o755) }

func (*osFS) List(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (*osFS) Stat(name string) (Info, error) {
	fi, err := os.Stat(name)
	if err != nil {
		return Info{}, err
	}
	return Info{Size: fi.Size(), IsDir: fi.IsDir(), ModTime: fi.ModTime()}, nil
}

func (*osFS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

func (*osFS) Space(dir string) (Space, error) {
	s, err := space(dir)
	if err != nil {
		return Space{}, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return s, nil
}

func (o *osFS) SyncAll(dir string) error {
	root, err := o.root(dir)
	if err != nil {
		return err
	}
	return syncAll(root)
}

func (o *osFS) root(dir string) (*os.File, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if f := o.roots[dir]; f != nil {
		return f, nil
	}
	f, err := os.Open(dir)
	if err == nil {
		o.roots[dir] = f
	}
	return f, err
}

func (*osFS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	err = withFD(f, func(fd int) error { return syscall.Flock(fd, syscall.LOCK_EX|syscall.LOCK_NB) })
	if err != nil {
		f.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			err = ErrLocked
		}
		return nil, &os.PathError{Op: "lock", Path: name, Err: err}
	}
	return f, nil
}

// osFile is one open file. ReadAt, WriteAt, Truncate and Close are os.File's.
type osFile struct{ *os.File }

func openFile(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o644)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (f osFile) Sync() error {
	if err := syncData(f.File); err != nil {
		return &os.PathError{Op: "sync", Path: f.Name(), Err: err}
	}
	return nil
}

func (f osFile) StartWriteback(off, n int64) error { return startWriteback(f.File, off, n) }

func (f osFile) SendTo(w io.Writer, off, n int64) (int64, error) {
	sent, handled, err := sendFile(w, f.File, off, n)
	if handled {
		return sent, err
	}
	return sendCopy(w, f.File, off, n)
}

func (f osFile) Size() (int64, error) {
	fi, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return fi.Size(), nil
}

// withFD runs do with the descriptor, which stays open meanwhile even if
// another goroutine closes f. f.Fd() gives no such promise.
func withFD(f *os.File, do func(fd int) error) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var done error
	if err := raw.Control(func(fd uintptr) { done = do(int(fd)) }); err != nil {
		return err
	}
	return done
}

func retryEINTR(call func() error) error {
	for {
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}
