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
	durable  wal.State
	unsynced []wal.Write // since, in order
}

// New is an empty log.
func New() *Log { return &Log{durable: wal.State{HardState: &pb.HardState{}}} }

// Crash returns the log as the disk may hold it if the power fails now: of the writes that were not synced some may be
// there, the earlier ones first. The old log refuses everything from then on, so that nothing later can pass for durable.
func (l *Log) Crash(rng *rand.Rand) *Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	next := &Log{durable: l.durable}
	for _, w := range l.unsynced[:rng.IntN(len(l.unsynced)+1)] {
		replay(&next.durable, w)
	}
	return next
}

// replay makes a write's changes. States share entries, so none is changed in place.
func replay(s *wal.State, w wal.Write) {
	if w.HardState != nil {
		s.HardState = w.HardState
	}
	if w.Snapshot != nil {
		s.Snapshot, s.Entries = w.Snapshot, nil
	}
	if len(w.Entries) > 0 {
		keep := s.Entries
		for len(keep) > 0 && keep[len(keep)-1].GetIndex() >= w.Entries[0].GetIndex() {
			keep = keep[:len(keep)-1]
		}
		s.Entries = append(keep[:len(keep):len(keep)], w.Entries...)
	}
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
		s = l.durable
		for _, w := range l.unsynced {
			replay(&s, w)
		}
		s.HardState = proto.Clone(s.HardState).(*pb.HardState)
		s.Entries = append([]*pb.Entry(nil), s.Entries...)
		return s.Check("in memory")
	})
	return s, err
}

// Draw implements wal.Log.
func (l *Log) Draw(raftID uint64) error {
	return l.locked(func() error {
		l.durable.RaftID = raftID
		return nil
	})
}

// Form implements wal.Log.
func (l *Log) Form(raftID uint64, hs *pb.HardState, snap *pb.Snapshot) error {
	return l.locked(func() error {
		l.durable = wal.State{RaftID: raftID, HardState: proto.Clone(hs).(*pb.HardState), Snapshot: snap}
		return nil
	})
}

// Save implements wal.Log.
func (l *Log) Save(w wal.Write) error {
	return l.locked(func() error {
		if w.HardState != nil {
			w.HardState = proto.Clone(w.HardState).(*pb.HardState)
		}
		if l.unsynced = append(l.unsynced, w); w.Sync {
			for _, w := range l.unsynced {
				replay(&l.durable, w)
			}
			l.unsynced = nil
		}
		return nil
	})
}

// SaveSnapshot implements wal.Log.
func (l *Log) SaveSnapshot(snap *pb.Snapshot) error {
	return l.locked(func() error {
		if snap.GetMetadata().GetIndex() > l.durable.Snapshot.GetMetadata().GetIndex() {
			l.durable.Snapshot = snap
		}
		return nil
	})
}

// Compact implements wal.Log.
func (l *Log) Compact(index uint64) error {
	return l.locked(func() error {
		for len(l.durable.Entries) > 0 && l.durable.Entries[0].GetIndex() <= index {
			l.durable.Entries = l.durable.Entries[1:]
		}
		return nil
	})
}

// Reserve implements wal.Log. Memory does not run out.
func (l *Log) Reserve() (int64, error) { return 0, nil }

// Close implements wal.Log.
func (l *Log) Close() error { return nil }
