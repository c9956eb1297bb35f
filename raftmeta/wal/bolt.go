package wal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"
)

// format is that of the file and of the snapshots beside it.
const format = 1

const (
	// compactStep entries are removed in one transaction, so that none holds up the log for long.
	compactStep = 5000
	lockWait    = time.Second
)

var (
	bucketMeta   = []byte("meta")
	bucketLog    = []byte("log") // index, 8 bytes big-endian -> entry and checksum
	keyFormat    = []byte("format")
	keyRaftID    = []byte("raft-id")
	keyHardState = []byte("hard-state")
	keySnapshot  = []byte("snapshot") // metadata of the newest snapshot; its data is a file
)

// boltLog is a Log in a bbolt file, with snapshots as files beside it.
type boltLog struct {
	dir  string
	file string
	db   *bolt.DB
}

// Open opens or makes the raft log in a directory.
func Open(dir string) (_ Log, err error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("raft log: %w", err)
	}
	l := &boltLog{dir: dir, file: filepath.Join(dir, "log.db")}
	defer l.named(&err)
	l.db, err = bolt.Open(l.file, 0o644, &bolt.Options{
		Timeout:        lockWait,
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("raft log %s is in use by another process: stop it, or use another data directory", l.file)
	}
	if err != nil {
		return nil, fmt.Errorf("raft log %s: %w", l.file, err)
	}
	return l, l.prepare()
}

// named turns a panic or a memory fault, which is how bbolt meets a damaged page, into an error that names the file.
// It is deferred.
func (l *boltLog) named(err *error) {
	if r := recover(); r != nil {
		*err = &CorruptError{File: l.file, Reason: fmt.Sprintf("a page is damaged: %v", r)}
	}
}

func (l *boltLog) prepare() error {
	var found uint64
	err := l.db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(bucketLog); err != nil {
			return err
		}
		v := meta.Get(keyFormat)
		if v == nil {
			return meta.Put(keyFormat, number(format))
		}
		if len(v) != 8 {
			return &CorruptError{File: l.file, Reason: "its format number is damaged"}
		}
		found = binary.BigEndian.Uint64(v)
		return nil
	})
	if err == nil && found > format {
		err = fmt.Errorf("raft log %s has format %d, this release knows %d: start the release that wrote it, or a newer one", l.file, found, format)
	}
	return err
}

// Load implements Log.
func (l *boltLog) Load() (s State, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer l.named(&err)
	s.HardState = &pb.HardState{}
	err = l.db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		id := meta.Get(keyRaftID)
		if id == nil {
			return nil
		}
		s.RaftID = binary.BigEndian.Uint64(id)
		if err := unseal(meta.Get(keyHardState), s.HardState); err != nil {
			return &CorruptError{File: l.file, Reason: "the hard state: " + err.Error()}
		}
		m := &pb.SnapshotMetadata{}
		if err := unseal(meta.Get(keySnapshot), m); err != nil {
			return &CorruptError{File: l.file, Reason: "the snapshot pointer: " + err.Error()}
		}
		var err error
		if s.Snapshot, err = l.readSnapshot(m); err != nil {
			return err
		}
		return tx.Bucket(bucketLog).ForEach(func(k, v []byte) error {
			e := &pb.Entry{}
			index := binary.BigEndian.Uint64(k)
			if err := unseal(v, e); err != nil {
				return &CorruptError{File: l.file, Index: index, Reason: err.Error()}
			}
			if e.GetIndex() != index {
				return &CorruptError{File: l.file, Index: index, Reason: fmt.Sprintf("entry %d stands there", e.GetIndex())}
			}
			s.Entries = append(s.Entries, e)
			return nil
		})
	})
	if err != nil {
		return State{}, err
	}
	return s, s.Check(l.file)
}

// Form implements Log.
func (l *boltLog) Form(raftID uint64, hs *pb.HardState, snap *pb.Snapshot) error {
	if err := l.writeSnapshot(snap); err != nil {
		return err
	}
	return l.update(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		return errors.Join(meta.Put(keyRaftID, number(raftID)), put(meta, keyHardState, hs), put(meta, keySnapshot, snap.GetMetadata()))
	})
}

// Save implements Log. Without sync only the commit index has moved: raft finds it out again after a crash, so that is
// not worth a write at all.
func (l *boltLog) Save(hs *pb.HardState, entries []*pb.Entry, sync bool) error {
	if !sync && len(entries) == 0 {
		return nil
	}
	return l.update(func(tx *bolt.Tx) error {
		if hs != nil {
			if err := put(tx.Bucket(bucketMeta), keyHardState, hs); err != nil {
				return err
			}
		}
		if len(entries) == 0 {
			return nil
		}
		b := tx.Bucket(bucketLog)
		b.FillPercent = 1 // keys only ever grow
		c := b.Cursor()
		for k, _ := c.Seek(number(entries[0].GetIndex())); k != nil; k, _ = c.Next() {
			if err := c.Delete(); err != nil {
				return err
			}
		}
		for _, e := range entries {
			if err := put(b, number(e.GetIndex()), e); err != nil {
				return err
			}
		}
		return nil
	})
}

// SaveSnapshot implements Log. Two snapshots are kept.
func (l *boltLog) SaveSnapshot(snap *pb.Snapshot) error {
	if err := l.writeSnapshot(snap); err != nil {
		return err
	}
	before := &pb.SnapshotMetadata{}
	err := l.update(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if err := unseal(meta.Get(keySnapshot), before); err != nil {
			return err
		}
		return put(meta, keySnapshot, snap.GetMetadata())
	})
	if err != nil {
		return err
	}
	return l.removeSnapshots(l.snapshotName(before), l.snapshotName(snap.GetMetadata()))
}

// Compact implements Log.
func (l *boltLog) Compact(index uint64) error {
	for more := true; more; {
		err := l.update(func(tx *bolt.Tx) error {
			n := 0
			c := tx.Bucket(bucketLog).Cursor()
			for k, _ := c.First(); k != nil && n < compactStep && binary.BigEndian.Uint64(k) <= index; k, _ = c.Next() {
				if err := c.Delete(); err != nil {
					return err
				}
				n++
			}
			more = n == compactStep
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Close implements Log.
func (l *boltLog) Close() error { return l.db.Close() }

func (l *boltLog) update(f func(tx *bolt.Tx) error) (err error) {
	defer l.named(&err)
	if err := l.db.Update(f); err != nil {
		return fmt.Errorf("raft log %s: %w", l.file, err)
	}
	return nil
}

func put(b *bolt.Bucket, key []byte, m proto.Message) error {
	v, err := seal(m)
	if err != nil {
		return err
	}
	return b.Put(key, v)
}

func number(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }

func (l *boltLog) snapshotName(m *pb.SnapshotMetadata) string {
	return filepath.Join(l.dir, fmt.Sprintf("%020d-%020d.snapshot", m.GetIndex(), m.GetTerm()))
}

// writeSnapshot makes the file durable under its name. The data has a checksum of its own.
func (l *boltLog) writeSnapshot(snap *pb.Snapshot) error {
	name := l.snapshotName(snap.GetMetadata())
	tmp := name + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	_, err = f.Write(snap.GetData())
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("snapshot %s: %w", tmp, err)
	}
	if err := os.Rename(tmp, name); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	d, err := os.Open(l.dir)
	if err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return errors.Join(d.Sync(), d.Close())
}

func (l *boltLog) readSnapshot(m *pb.SnapshotMetadata) (*pb.Snapshot, error) {
	data, err := os.ReadFile(l.snapshotName(m))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &CorruptError{File: l.snapshotName(m), Reason: "the snapshot that the log begins with is missing"}
	}
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	return &pb.Snapshot{Data: data, Metadata: m}, nil
}

func (l *boltLog) removeSnapshots(keep ...string) error {
	names, err := filepath.Glob(filepath.Join(l.dir, "*.snapshot*"))
	for _, name := range names {
		if name != keep[0] && name != keep[1] {
			err = errors.Join(err, os.Remove(name))
		}
	}
	return err
}
