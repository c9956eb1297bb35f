// Package memwal is a raft log in memory that can lose power, have no room, fail to sync and change its bytes: for tests that
// crash a whole broker or a whole quorum.
package memwal

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/streambus/streambus/raftmeta/wal"
)

// ErrPowerCut is what a log answers after its Crash.
var ErrPowerCut = errors.New("the power is cut")

// file is what errors call the log.
const file = "in memory"

// Log implements wal.Log. It keeps what a disk would, checksums and all.
type Log struct {
	mu       sync.Mutex // guards the following
	dead     bool
	fault    error // what writes are answered with
	failed   error // the first of those that Save gave: as in a file there is no second try
	durable  wal.Sealed
	at       uint64  // index of the durable snapshot
	unsynced []write // since, in order
}

// write is a wal.Write as it is handed to the disk.
type write struct {
	hardState, pointer, snapshot []byte // nil for as before
	at                           uint64 // of the snapshot
	entries                      []wal.SealedEntry
}

// New is an empty log.
func New() *Log { return &Log{} }

// Crash returns the log as the disk may hold it if the power fails now: of the writes that were not synced, one whose sync
// failed among them, some may be there, the earlier ones first. The old log refuses everything from then on, so that nothing
// later can pass for durable.
func (l *Log) Crash(rng *rand.Rand) *Log {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead = true
	next := &Log{durable: l.durable, at: l.at}
	for _, w := range l.unsynced[:rng.IntN(len(l.unsynced)+1)] {
		next.replay(w)
	}
	return next
}

// Fail lets every write that has to reach the disk end with err from now on, nil for none any more. A Save that did may be
// on the disk or not, which Crash decides; and no later one succeeds, whatever becomes of the disk.
func (l *Log) Fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = err
}

// Flip changes one bit of what is durable, in the log of a process that is gone, and returns the place that Load has to name: file
// and index, and how the reason begins.
func (l *Log) Flip(rng *rand.Rand) *wal.CorruptError {
	l.mu.Lock()
	defer l.mu.Unlock()
	flip := func(b *[]byte) {
		*b = slices.Clone(*b) // logs that crashed share it
		bit := rng.IntN(8 * len(*b))
		(*b)[bit/8] ^= 1 << (bit % 8)
	}
	switch n := rng.IntN(8); {
	case n == 0:
		flip(&l.durable.RaftID)
		return &wal.CorruptError{File: file, Reason: "the raft id: "}
	case n == 1:
		flip(&l.durable.HardState)
		return &wal.CorruptError{File: file, Reason: "the hard state: "}
	case n == 2:
		flip(&l.durable.Pointer)
		return &wal.CorruptError{File: file, Reason: "the snapshot pointer: "}
	case n < 5 || len(l.durable.Entries) == 0:
		s, err := l.durable.Load(file)
		if err != nil {
			panic(fmt.Sprintf("memwal: a log that is damaged already: %v", err))
		}
		flip(&l.durable.Snapshot)
		return &wal.CorruptError{File: wal.SnapshotName(s.Snapshot.GetMetadata()), Reason: "its checksum is "}
	default:
		l.durable.Entries = slices.Clone(l.durable.Entries)
		e := &l.durable.Entries[rng.IntN(len(l.durable.Entries))]
		flip(&e.Value)
		return &wal.CorruptError{File: file, Index: e.Index, Reason: "its checksum is "}
	}
}

// replay makes a write's changes. Logs share entries, so none is changed in place.
func (l *Log) replay(w write) {
	s := &l.durable
	if w.hardState != nil {
		s.HardState = w.hardState
	}
	if w.pointer != nil {
		s.Pointer, s.Snapshot, s.Entries, l.at = w.pointer, w.snapshot, nil, w.at
	}
	if len(w.entries) > 0 {
		keep := s.Entries
		for len(keep) > 0 && keep[len(keep)-1].Index >= w.entries[0].Index {
			keep = keep[:len(keep)-1]
		}
		s.Entries = append(keep[:len(keep):len(keep)], w.entries...)
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
		now := Log{durable: l.durable}
		for _, w := range l.unsynced {
			now.replay(w)
		}
		s, err = now.durable.Load(file)
		return err
	})
	return s, err
}

// Draw implements wal.Log.
func (l *Log) Draw(raftID uint64) error {
	return l.locked(func() error {
		l.durable.RaftID = wal.SealNumber(raftID)
		return nil
	})
}

// Form implements wal.Log.
func (l *Log) Form(raftID uint64, hs *pb.HardState, snap *pb.Snapshot) error {
	return l.locked(func() error {
		w, err := seal(wal.Write{HardState: hs, Snapshot: snap})
		if err == nil {
			l.durable = wal.Sealed{RaftID: wal.SealNumber(raftID)}
			l.replay(w)
		}
		return err
	})
}

func seal(w wal.Write) (sealed write, err error) {
	if w.HardState != nil {
		if sealed.hardState, err = wal.Seal(w.HardState); err != nil {
			return write{}, err
		}
	}
	if w.Snapshot != nil {
		if sealed.pointer, err = wal.Seal(w.Snapshot.GetMetadata()); err != nil {
			return write{}, err
		}
		sealed.snapshot, sealed.at = wal.SealBytes(w.Snapshot.GetData()), w.Snapshot.GetMetadata().GetIndex()
	}
	for _, e := range w.Entries {
		value, err := wal.Seal(e)
		if err != nil {
			return write{}, err
		}
		sealed.entries = append(sealed.entries, wal.SealedEntry{Index: e.GetIndex(), Value: value})
	}
	return sealed, nil
}

// Save implements wal.Log.
func (l *Log) Save(w wal.Write) error {
	return l.locked(func() error {
		if l.failed != nil {
			return l.failed
		}
		sealed, err := seal(w)
		if err != nil {
			return err
		}
		l.unsynced = append(l.unsynced, sealed)
		switch {
		case !w.Sync:
		case l.fault != nil:
			l.failed = l.fault
			return l.failed
		default:
			for _, w := range l.unsynced {
				l.replay(w)
			}
			l.unsynced = nil
		}
		return nil
	})
}

// SaveSnapshot implements wal.Log.
func (l *Log) SaveSnapshot(snap *pb.Snapshot) error {
	return l.locked(func() error {
		if l.fault != nil {
			return l.fault
		}
		w, err := seal(wal.Write{Snapshot: snap})
		if err == nil && w.at > l.at {
			l.durable.Pointer, l.durable.Snapshot, l.at = w.pointer, w.snapshot, w.at
		}
		return err
	})
}

// Compact implements wal.Log.
func (l *Log) Compact(index uint64) error {
	return l.locked(func() error {
		if l.fault != nil {
			return l.fault
		}
		for len(l.durable.Entries) > 0 && l.durable.Entries[0].Index <= index {
			l.durable.Entries = l.durable.Entries[1:]
		}
		return nil
	})
}

// Reserve implements wal.Log. Memory does not run out.
func (l *Log) Reserve() (int64, error) { return 0, nil }

// Close implements wal.Log.
func (l *Log) Close() error { return nil }
