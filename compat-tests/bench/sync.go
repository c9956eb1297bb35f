package main

import (
	"os"
	"runtime"
	"syscall"
)

// numberSyncfs is a system call that package syscall does not know by name.
var numberSyncfs = map[string]uintptr{"amd64": 306, "arm64": 267}[runtime.GOARCH]

// syncfs syncs the file system that f is on.
func syncfs(f *os.File) error {
	if _, _, errno := syscall.Syscall(numberSyncfs, f.Fd(), 0, 0); errno != 0 {
		return os.NewSyscallError("syncfs", errno)
	}
	return nil
}

func datasync(f *os.File) error {
	return os.NewSyscallError("fdatasync", syscall.Fdatasync(int(f.Fd())))
}
