package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/compat-tests/server"
)

// inSyncTime is what a node may take to be in sync with all there is: it may have to
// get whole logs anew.
const inSyncTime = 2 * time.Minute

// watermarks is the file of a data directory that says how far logs are acknowledged.
const watermarks = "replication-offset-checkpoint"

// damage breaks files of a node that was killed. It is back in sync with all others
// before another node is touched: else what is damaged could be more than a minority.
func damage(ctx context.Context, f *faults, s *server.Server) error {
	ctx = context.WithoutCancel(ctx)
	if err := f.awaitInSync(ctx, s); err != nil {
		return err
	}
	if err := s.Kill(); err != nil {
		f.note("killing %s: %v", s.Name, err)
	}
	for range 1 + f.rng.IntN(3) {
		what, err := f.damageOne(s.Data)
		if err != nil {
			return err
		}
		f.note("damage of %s: %s", s.Name, what)
	}
	if err := s.Start(ctx); err != nil {
		// A file of the whole directory ends the start, with what to do about it.
		file := filepath.Join(s.Data, watermarks)
		if !strings.Contains(s.Output(), file+" is damaged") {
			return err
		}
		f.note("%s does not start: %s", s.Name, strings.TrimSpace(s.Output()))
		if err := errors.Join(os.Remove(file), s.Start(ctx)); err != nil {
			return err
		}
	}
	if err := f.awaitInSync(ctx, s); err != nil {
		return fmt.Errorf("%w\n%s", err, s.Output())
	}
	return f.removeStrays(s)
}

// removeStrays removes what a node has set aside, as who looks after it does.
func (f *faults) removeStrays(s *server.Server) error {
	strays, err := filepath.Glob(filepath.Join(s.Data, f.topic+"-*-stray"))
	for _, dir := range strays {
		f.note("%s had set aside %s", s.Name, filepath.Base(dir))
		err = errors.Join(err, os.RemoveAll(dir))
	}
	return err
}

// damageOne damages a file of the topic's partitions, or that of their watermarks.
func (f *faults) damageOne(data string) (what string, err error) {
	dirs, err := filepath.Glob(filepath.Join(data, f.topic+"-*[0-9]"))
	if err != nil {
		return "", err
	}
	dirs = slices.DeleteFunc(dirs, func(d string) bool { return strings.Contains(filepath.Base(d), ".") }) // was set aside
	if len(dirs) == 0 {
		return "", fmt.Errorf("%s has no partition of %s", data, f.topic)
	}
	dir := dirs[f.rng.IntN(len(dirs))]
	kinds := []string{".log", ".log", ".index", ".timeindex", ".snapshot", "leader-epoch-checkpoint", watermarks}
	kind := kinds[f.rng.IntN(len(kinds))]
	files := []string{filepath.Join(data, kind)}
	if kind != watermarks {
		if files, err = filepath.Glob(filepath.Join(dir, "*"+kind)); err != nil {
			return "", err
		}
	}
	if len(files) == 0 {
		return filepath.Base(dir) + " has no " + kind, nil
	}
	from := int64(0)
	if kind == ".log" {
		point, err := recoveryPoint(data, dir)
		if err != nil {
			return "", err
		}
		for len(files) > 1 && baseOf(files[1]) <= point {
			files = files[1:]
		}
		from = point
	}
	file := files[f.rng.IntN(len(files))]
	b, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	cut, pos := f.rng.IntN(2) == 0, 0
	if kind == ".log" && !cut {
		pos = position(b, from)
	}
	name, _ := filepath.Rel(data, file)
	if pos == len(b) {
		return name + " has nothing to be damaged", nil
	}
	at := pos + f.rng.IntN(len(b)-pos)
	if cut {
		return fmt.Sprintf("%s of %d bytes is cut at %d", name, len(b), at), os.Truncate(file, int64(at))
	}
	bit := f.rng.IntN(8)
	b[at] ^= 1 << bit
	return fmt.Sprintf("%s of %d bytes has bit %d turned over at %d", name, len(b), bit, at), os.WriteFile(file, b, 0o644)
}

// recoveryPoint is the offset from which on a start looks at every batch of a log, and
// below which it misses what is not there. What lies whole before that is found damaged
// by whoever reads there, which is not for a run that expects no reader to fail.
func recoveryPoint(data, dir string) (point int64, err error) {
	text, err := os.ReadFile(filepath.Join(data, "recovery-point-offset-checkpoint"))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	for line := range strings.Lines(string(text)) {
		if w := strings.Fields(line); len(w) == 3 && w[0]+"-"+w[1] == filepath.Base(dir) {
			return strconv.ParseInt(w[2], 10, 64)
		}
	}
	return 0, err
}

func baseOf(segment string) int64 {
	base, _ := strconv.ParseInt(strings.TrimSuffix(filepath.Base(segment), ".log"), 10, 64)
	return base
}

// position is where a segment's batches from an offset on begin.
func position(b []byte, offset int64) (pos int) {
	const head = 12 // base offset and length of the rest
	for pos+head <= len(b) && int64(binary.BigEndian.Uint64(b[pos:])) < offset {
		pos += head + int(binary.BigEndian.Uint32(b[pos+8:]))
	}
	return min(pos, len(b))
}

// errEnded says that a node that is waited for has ended by itself.
var errEnded = errors.New("it has ended")

// awaitInSync waits until all replicas of the topic are in sync. It asks the node
// that was touched: others may not have heard yet that it was out.
func (f *faults) awaitInSync(ctx context.Context, s *server.Server) error {
	ctx, cancel := context.WithTimeout(ctx, inSyncTime)
	defer cancel()
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.Addr), kgo.AlwaysRetryEOF())
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrMetadataRequest()
	req.Topics = []kmsg.MetadataRequestTopic{{Topic: &f.topic}}
	for {
		resp, err := req.RequestWith(ctx, cl.Broker(f.id(s)))
		var behind []string
		if err == nil {
			if behind = outOfSync(resp.Topics[0]); len(behind) == 0 {
				return nil
			}
		}
		if !s.Running() {
			return errEnded
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("not in sync after %s: %v (%v)", inSyncTime, behind, err)
		}
	}
}

func outOfSync(t kmsg.MetadataResponseTopic) (behind []string) {
	if err := kerr.ErrorForCode(t.ErrorCode); err != nil {
		return []string{err.Error()}
	}
	for _, p := range t.Partitions {
		if len(p.ISR) < len(p.Replicas) || p.Leader < 0 {
			behind = append(behind, fmt.Sprintf("%d: leader %d, in sync %v", p.Partition, p.Leader, p.ISR))
		}
	}
	return behind
}
