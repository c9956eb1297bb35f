package wal

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"

	pb "go.etcd.io/raft/v3/raftpb"
)

var (
	keyFormat    = []byte("format")
	keyRaftID    = []byte("raft-id")
	keyHardState = []byte("hard-state")
	keySnapshot  = []byte("snapshot") // metadata of the newest snapshot; its data is a file
)

// bucket is bbolt's, or one that Inspect has read.
type bucket interface {
	Get(key []byte) []byte
	ForEach(func(k, v []byte) error) error
}

// contents is what a log is decoded from: its values as they are on the disk, each with its checksum behind it.
type contents struct {
	file      string // for errors
	meta, log bucket
	snapshot  func(*pb.SnapshotMetadata) (*pb.Snapshot, error)
}

func damaged(file, format string, args ...any) error {
	return &CorruptError{File: file, Reason: fmt.Sprintf(format, args...)}
}

func (c contents) damaged(format string, args ...any) error { return damaged(c.file, format, args...) }

// decode fills s as far as it comes.
func (c contents) decode(s *State) error {
	formed, err := c.decodeMeta(s)
	if err != nil {
		return err
	}
	return c.log.ForEach(func(k, v []byte) error {
		if !formed {
			return c.damaged("it has entries and was never formed")
		}
		if len(k) != 8 {
			return c.damaged("an entry has %x for its index", k)
		}
		e := &pb.Entry{}
		index := binary.BigEndian.Uint64(k)
		if err := unseal(v, e); err != nil {
			return &CorruptError{File: c.file, Index: index, Reason: err.Error()}
		}
		if e.GetIndex() != index {
			return &CorruptError{File: c.file, Index: index, Reason: fmt.Sprintf("entry %d stands there", e.GetIndex())}
		}
		s.Entries = append(s.Entries, e)
		return nil
	})
}

// decodeMeta reads all keys or, in a log that was never formed, at most the raft id. Anything in between is damage: to take it for a new
// log would forget the cluster.
func (c contents) decodeMeta(s *State) (formed bool, err error) {
	var keys [][]byte
	err = c.meta.ForEach(func(k, _ []byte) error {
		keys = append(keys, k)
		return nil
	})
	s.HardState = &pb.HardState{}
	switch known := [][]byte{keyFormat, keyHardState, keyRaftID, keySnapshot}; {
	case err != nil:
		return false, err
	case slices.EqualFunc(keys, known[:1], bytes.Equal):
		return false, nil
	case slices.EqualFunc(keys, [][]byte{keyFormat, keyRaftID}, bytes.Equal):
		if s.RaftID, err = unsealNumber(c.meta.Get(keyRaftID)); err != nil {
			return false, c.damaged("the raft id: %v", err)
		}
		return false, nil
	case !slices.EqualFunc(keys, known, bytes.Equal):
		return false, c.damaged("bucket meta: it has keys %q where %q belong", keys, known)
	}
	if s.RaftID, err = unsealNumber(c.meta.Get(keyRaftID)); err != nil {
		return false, c.damaged("the raft id: %v", err)
	}
	if err := unseal(c.meta.Get(keyHardState), s.HardState); err != nil {
		return false, c.damaged("the hard state: %v", err)
	}
	m := &pb.SnapshotMetadata{}
	if err := unseal(c.meta.Get(keySnapshot), m); err != nil {
		return false, c.damaged("the snapshot pointer: %v", err)
	}
	s.Snapshot, err = c.snapshot(m)
	return true, err
}

// pairs are the keys and values of a bucket, in order.
type pairs struct{ keys, values [][]byte }

func (p *pairs) add(k, v []byte) {
	p.keys, p.values = append(p.keys, k), append(p.values, v)
}

func (p *pairs) Get(key []byte) []byte {
	for i, k := range p.keys {
		if bytes.Equal(k, key) {
			return p.values[i]
		}
	}
	return nil
}

func (p *pairs) ForEach(do func(k, v []byte) error) error {
	for i, k := range p.keys {
		if err := do(k, p.values[i]); err != nil {
			return err
		}
	}
	return nil
}

// Sealed is a log as a disk has it, without the file around it: every value with its checksum behind it. The log in memory
// keeps this, so that what a disk does to its bytes is met by the code that reads the file. Values are not changed in place.
type Sealed struct {
	RaftID    []byte // nil until one was drawn
	HardState []byte // this and the following are nil in a log that is not formed
	Pointer   []byte // metadata of the snapshot
	Snapshot  []byte // its data
	Entries   []SealedEntry
}

// SealedEntry is one entry and where it stands.
type SealedEntry struct {
	Index uint64
	Value []byte
}

// Load decodes and checks the log; errors name it as a file, and its snapshot as one beside it.
func (s *Sealed) Load(file string) (State, error) {
	meta, log := &pairs{}, &pairs{}
	meta.add(keyFormat, SealNumber(format))
	for _, kv := range []struct{ key, value []byte }{{keyHardState, s.HardState}, {keyRaftID, s.RaftID}, {keySnapshot, s.Pointer}} {
		if kv.value != nil {
			meta.add(kv.key, kv.value)
		}
	}
	for _, e := range s.Entries {
		log.add(number(e.Index), e.Value)
	}
	c := contents{file: file, meta: meta, log: log, snapshot: func(m *pb.SnapshotMetadata) (*pb.Snapshot, error) {
		data, err := unsealBytes(s.Snapshot)
		if err != nil {
			return nil, damaged(filepath.Join(filepath.Dir(file), SnapshotName(m)), "%v", err)
		}
		return &pb.Snapshot{Data: data, Metadata: m}, nil
	}}
	var state State
	if err := c.decode(&state); err != nil {
		return State{}, err
	}
	return state, state.Check(file)
}
