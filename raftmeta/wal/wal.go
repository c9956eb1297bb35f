// Package wal keeps the raft log of one node: entries, hard state, raft id and snapshots. The metadata itself is not
// here: it lives in memory and in snapshots, since a key per partition would multiply every write.
//
// # Duties of the caller
//
//  1. Load once before anything else; on a log that is not formed, Draw and Form.
//  2. Save what a Ready holds, before sending its messages and before Advance.
//  3. After an error of Save, stop: what is on the disk is not known any more.
//  4. Ask for the Reserve, and tell whoever looks after the node when there is none.
package wal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"

	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// Log is the raft log. There are two: [Open] on a bbolt file, and one in memory that can lose what was not synced.
type Log interface {
	// Load reads everything.
	Load() (State, error)
	// Draw gives an empty log its raft id, by which the others know it before there is a cluster.
	Draw(raftID uint64) error
	// Form makes an empty log that of a raft node, with its id if one was drawn.
	Form(raftID uint64, hs *pb.HardState, snap *pb.Snapshot) error
	// Save does what Write says, all of it or nothing.
	Save(w Write) error
	// SaveSnapshot makes a snapshot durable and then the newest. It may run beside Save.
	SaveSnapshot(snap *pb.Snapshot) error
	// Compact forgets the entries up to index, which a snapshot must cover.
	Compact(index uint64) error
	// Reserve sees to it that there is room for what the others write on a disk that becomes full, and tells how many bytes.
	// They give it up then and go on, and it is to be called again every now and then. An error says why there is none and
	// what to do. It may take a while, and run beside the others but Close.
	Reserve() (int64, error)
	Close() error
}

// Write is what one Ready asks to be made durable.
type Write struct {
	HardState *pb.HardState // nil for the one there is
	// Entries are appended; one replaces all that stand at its index or behind.
	Entries []*pb.Entry
	// Snapshot replaces the whole log, before the entries are appended. It is nil but where a leader has sent one.
	Snapshot *pb.Snapshot
	Sync     bool // whether it has to be durable; without, only the commit index has moved
}

// State is what a node finds at its start.
type State struct {
	RaftID    uint64 // 0 in a log that has none yet
	HardState *pb.HardState
	Snapshot  *pb.Snapshot
	Entries   []*pb.Entry // dense, the first one at most one behind the snapshot
}

// Formed tells whether the log is that of a raft node.
func (s *State) Formed() bool { return s.Snapshot != nil }

// CorruptError is damage that a crash does not explain: the log cannot be used.
type CorruptError struct {
	File   string
	Index  uint64 // of the entry, 0 for something else
	Reason string
}

func (e *CorruptError) Error() string {
	where := ""
	if e.Index > 0 {
		where = fmt.Sprintf(", entry %d", e.Index)
	}
	return fmt.Sprintf("raft log %s%s: %s; the disk has lost or changed data that was synced: restore the directory, or remove it and let the node join again as a new one", e.File, where, e.Reason)
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Seal is a message with its checksum behind it.
func Seal(m proto.Message) ([]byte, error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("raft log: encoding %T: %w", m, err)
	}
	return SealBytes(b), nil
}

// unseal reads what Seal wrote. The bytes are not kept.
func unseal(b []byte, m proto.Message) error {
	body, err := unsealBytes(b)
	if err != nil {
		return err
	}
	return proto.Unmarshal(body, m)
}

// SealNumber is a number with its checksum behind it.
func SealNumber(n uint64) []byte { return SealBytes(number(n)) }

func unsealNumber(b []byte) (uint64, error) {
	body, err := unsealBytes(b)
	if err != nil {
		return 0, err
	}
	if len(body) != 8 {
		return 0, fmt.Errorf("%d bytes are not a number", len(body))
	}
	return binary.BigEndian.Uint64(body), nil
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

// SealBytes is b with its checksum behind it.
func SealBytes(b []byte) []byte {
	return binary.BigEndian.AppendUint32(b[:len(b):len(b)], crc32.Checksum(b, castagnoli))
}

func unsealBytes(b []byte) ([]byte, error) {
	if len(b) < 4 {
		return nil, fmt.Errorf("%d bytes are too few for a checksum", len(b))
	}
	body, sum := b[:len(b)-4], binary.BigEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, fmt.Errorf("its checksum is %08x, its contents have %08x", sum, got)
	}
	return body, nil
}

// Check says what is wrong with a loaded state: entries must be dense and follow the snapshot, and nothing committed
// may be missing.
func (s *State) Check(file string) error {
	if !s.Formed() {
		return nil
	}
	at := s.Snapshot.GetMetadata().GetIndex()
	if len(s.Entries) > 0 && s.Entries[0].GetIndex() > at+1 {
		return &CorruptError{File: file, Index: at + 1, Reason: "it is missing behind the snapshot"}
	}
	for i, e := range s.Entries {
		if want := s.Entries[0].GetIndex() + uint64(i); e.GetIndex() != want {
			return &CorruptError{File: file, Index: want, Reason: "it is missing"}
		}
	}
	last := at
	if n := len(s.Entries); n > 0 {
		last = max(at, s.Entries[n-1].GetIndex())
	}
	if c := s.HardState.GetCommit(); c > last {
		return &CorruptError{File: file, Index: last + 1, Reason: fmt.Sprintf("it is missing, and entries up to %d are committed", c)}
	}
	return nil
}
