package main

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// syncfs syncs the file system that f is on.
func syncfs(f *os.File) error { return os.NewSyscallError("syncfs", unix.Syncfs(int(f.Fd()))) }

func datasync(f *os.File) error {
	return os.NewSyscallError("fdatasync", unix.Fdatasync(int(f.Fd())))
}

// chill takes files out of memory, so that they are read from the disk.
func chill(names []string) error {
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		err = os.NewSyscallError("fdatasync", unix.Fdatasync(int(f.Fd()))) // dirty pages stay
		if err == nil {
			err = os.NewSyscallError("fadvise", unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED))
		}
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// cpu is the processor time that the broker has used, or all nodes of the cluster.
// Its clock is exact, while what /proc tells is in hundredths of a second.
func (b *bench) cpu() (sum time.Duration, err error) {
	for _, s := range b.measured() {
		of, e := cpuOf(s.Pid())
		sum, err = sum+of, errors.Join(err, e)
	}
	return sum, err
}

func cpuOf(pid int) (time.Duration, error) {
	const process = 2 // CPUCLOCK_SCHED of linux/posix-timers.h
	var ts unix.Timespec
	err := unix.ClockGettime(int32(^pid<<3|process), &ts)
	return time.Duration(ts.Nano()), os.NewSyscallError("clock_gettime", err)
}
