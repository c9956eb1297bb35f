package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/streambus/streambus/compat-tests/server"
)

// diskBytes is the size of a node's disk that can be full: large enough for the raft
// log to have its reserve.
const diskBytes = 320 << 20

// replicaLagTime is the default of replica.lag.time.max.ms.
const replicaLagTime = 30 * time.Second

// full fills the disk of a node for a while, in which it may be killed and started
// anew. It may end, as it does when its disk fails and others are there; then it is
// started when there is room again.
func full(ctx context.Context, f *faults, s *server.Server) error {
	ballast := filepath.Join(s.Data, "ballast")
	n, err := fill(ballast)
	if err != nil {
		return errors.Join(err, os.Remove(ballast))
	}
	if f.rng.IntN(3) == 0 {
		if err := s.Kill(); err != nil {
			f.note("killing %s: %v", s.Name, err)
		}
		if err := s.Launch(); err != nil {
			return err
		}
		f.note("%s was killed and started with a full disk", s.Name)
	}
	hold := f.between(time.Second, 8*time.Second)
	if f.rng.IntN(5) == 0 {
		hold += replicaLagTime // it is no longer in sync by then
	}
	f.pause(ctx, hold)
	// What became free meanwhile, as by the reserve that was given up, is taken too.
	more, err := fill(ballast + "2")
	f.pause(ctx, f.between(0, 4*time.Second))
	if err := errors.Join(err, os.Remove(ballast), os.Remove(ballast+"2")); err != nil {
		return err
	}
	f.note("the disk of %s was filled with %d and %d KiB", s.Name, n>>10, more>>10)
	ctx = context.WithoutCancel(ctx)
	err = f.awaitInSync(ctx, s)
	if errors.Is(err, errEnded) { // at most once: there is room now
		f.note("%s has ended: %s", s.Name, lastLine(s.Output()))
		if err := s.Start(ctx); err != nil {
			return err
		}
		err = f.awaitInSync(ctx, s)
	}
	if err != nil {
		return fmt.Errorf("%w\n%s", err, s.Output())
	}
	return nil
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	return s[strings.LastIndexByte(s, '\n')+1:]
}

// fill writes a file until the disk is full.
func fill(file string) (n int64, err error) {
	w, err := os.Create(file)
	if errors.Is(err, syscall.ENOSPC) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	for size := 1 << 20; size > 0; {
		wrote, err := w.Write(make([]byte, size))
		n += int64(wrote)
		switch {
		case errors.Is(err, syscall.ENOSPC):
			size /= 2
		case err != nil:
			return n, errors.Join(err, w.Close())
		}
	}
	return n, w.Close()
}

// errNoDisk says why a disk of its own for a node cannot be had.
var errNoDisk = errors.New("a disk that gets full is a tmpfs, which takes root and mount to make")

// mountDisk mounts a disk of its own where a node's data directory will be.
func mountDisk(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", fmt.Sprint("size=", diskBytes), "tmpfs", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %w: %s", errNoDisk, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// unmountDisk takes it away. What is on it is kept in its place, if wanted.
func unmountDisk(dir string, keep bool) error {
	kept := dir + ".kept"
	if keep {
		if err := os.CopyFS(kept, os.DirFS(dir)); err != nil {
			return err
		}
	}
	if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
		return fmt.Errorf("unmounting %s: %w: %s", dir, err, out)
	}
	if err := os.Remove(dir); err != nil || !keep {
		return err
	}
	return os.Rename(kept, dir)
}

// canMount tries whether disks can be mounted.
func canMount(dir string) error {
	dir, err := os.MkdirTemp(dir, "disk")
	if err != nil {
		return err
	}
	if err := mountDisk(dir); err != nil {
		return errors.Join(err, os.Remove(dir))
	}
	return unmountDisk(dir, false)
}
