package quorum

import (
	"math"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/streambus/streambus/raftmeta/image"
)

// storage is the log as raft reads it, all in memory. Snapshots for others are of the newest image at the end of a unit:
// images are at hand, and one of them costs nothing before it is encoded.
type storage struct {
	*raft.MemoryStorage
	meta *pb.SnapshotMetadata
	img  *image.Image
}

func newStorage() *storage { return &storage{MemoryStorage: raft.NewMemoryStorage()} }

// Snapshot implements raft.Storage. The data is not in it, see [Message].
func (s *storage) Snapshot() (*pb.Snapshot, error) {
	if s.meta == nil {
		return nil, raft.ErrSnapshotTemporarilyUnavailable
	}
	return &pb.Snapshot{Metadata: proto.Clone(s.meta).(*pb.SnapshotMetadata)}, nil
}

func (s *storage) image(index uint64) *image.Image {
	if s.meta.GetIndex() != index {
		return nil
	}
	return s.img
}

// mark makes what is applied the newest point to take a snapshot of. In the middle of a unit there is none: the snapshot
// would cut it in two.
func (c *Core) mark() {
	if c.assembler.inUnit {
		return
	}
	index, term := c.applied, c.appliedTerm
	c.storage.meta = &pb.SnapshotMetadata{Index: &index, Term: &term, ConfState: c.conf}
	c.storage.img = c.image
}

// Snapshot is the newest point that a snapshot can be of, with its image; the data is for the caller to add.
func (c *Core) Snapshot() (*Snapshot, *image.Image) {
	snap, _ := c.storage.Snapshot()
	return snap, c.storage.img
}

// Compact forgets entries that a durable snapshot covers, but for the last ones: at most keep, and of at most keepBytes. It
// returns up to where, 0 for nothing to forget.
func (c *Core) Compact(snap *Snapshot, keep, keepBytes uint64) (uint64, error) {
	first, err := c.storage.FirstIndex()
	if err != nil {
		return 0, err
	}
	to := snap.GetMetadata().GetIndex()
	for ; to >= first && keep > 0; to, keep = to-1, keep-1 {
		e, err := c.storage.Entries(to, to+1, math.MaxUint64)
		if err != nil {
			return 0, err
		}
		size := uint64(len(e[0].GetData()))
		if size > keepBytes {
			break
		}
		keepBytes -= size
	}
	if to < first {
		return 0, nil
	}
	return to, c.storage.Compact(to)
}
