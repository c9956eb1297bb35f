// Package memwal is a raft log in memory that can lose power: for tests that crash a whole broker or a whole quorum.
package memwal

import (
	"errors"
	"math/rand/v2"
	"sync"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/streambus/streambus/raftmeta/wal"
)

// ErrPowerCut is what a log answers after its Crash.
var ErrPowerCut = errors.New("the power is cut")

// Log implements wal.Log.
type Log struct {
	mu       sync.Mutex // guards the following
	dead     bool
	written  wal.State     // as a reader sees it
	unsynced *pb.HardState // replaces written.HardState when it becomes durable, nil for nothing
}

// New is an empty log.
func New() *Log { return &Log{written: wal.State{HardState: &pb.HardState{}}} }

// Crash returns the log as the disk may hold it if the power fails now: a hard state that was saved without sync may
// be there or not. The old log refuses everything from then on, so that nothing later can pass for durable.
func (l *Log) Crash(rng *rand.Rand) *Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	next := &Log{written: l.written}
	if l.unsynced != nil && rng.IntN(2) == 0 {
		next.written.HardState = l.unsynced
	}
	return next
}

func (l *Log) locked(f func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return ErrPowerCut
	}
	return f()
}

// Load implements wal.Log.
func (l *Log) Load() (s wal.State, err error) {
	err = l.locked(func() error {
		s = l.written
		s.HardState = proto.Clone(s.HardState).(*pb.HardState)
		s.Entries = append([]*pb.Entry(nil), s.Entries...)
		return s.Check("in memory")
	})
	return s, err
}

// Draw implements wal.Log.
func (l *Log) Draw(raftID uint64) error {
	return l.locked(func() error {
		l.written.RaftID = raftID
		return nil
	})
}

// Form implements wal.Log.
func (l *Log) Form(raftID uint64, hs *pb.HardState, snap *pb.Snapshot) error {
	return l.locked(func() error {
		l.written = wal.State{RaftID: raftID, HardState: proto.Clone(hs).(*pb.HardState), Snapshot: snap}
		return nil
	})
}

// Save implements wal.Log.
func (l *Log) Save(w wal.Write) error {
	return l.locked(func() error {
		if w.HardState != nil {
			l.unsynced = proto.Clone(w.HardState).(*pb.HardState)
		}
		if w.Sync && l.unsynced != nil {
			l.written.HardState, l.unsynced = l.unsynced, nil
		}
		if w.Snapshot != nil {
			l.written.Snapshot, l.written.Entries = w.Snapshot, nil
		}
		if len(w.Entries) > 0 {
			keep := l.written.Entries
			for len(keep) > 0 && keep[len(keep)-1].GetIndex() >= w.Entries[0].GetIndex() {
				keep = keep[:len(keep)-1]
			}
			l.written.Entries = append(keep[:len(keep):len(keep)], w.Entries...)
		}
		return nil
	})
}

// SaveSnapshot implements wal.Log.
func (l *Log) SaveSnapshot(snap *pb.Snapshot) error {
	return l.locked(func() error {
		if snap.GetMetadata().GetIndex() > l.written.Snapshot.GetMetadata().GetIndex() {
			l.written.Snapshot = snap
		}
		return nil
	})
}

// Compact implements wal.Log.
func (l *Log) Compact(index uint64) error {
	return l.locked(func() error {
		for len(l.written.Entries) > 0 && l.written.Entries[0].GetIndex() <= index {
			l.written.Entries = l.written.Entries[1:]
		}
		return nil
	})
}

// Close implements wal.Log.
func (l *Log) Close() error { return nil }
