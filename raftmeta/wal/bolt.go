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
	bucketMeta = []byte("meta")
	bucketLog  = []byte("log") // index, 8 bytes big-endian -> entry and checksum
)

// boltLog is a Log in a bbolt file, with snapshots as files beside it.
type boltLog struct {
	dir     string
	file    string
	db      *bolt.DB
	reserve *reserve

	// hs is the newest hard state that is not written: it goes with the next transaction. The caller of Save owns it.
	hs *pb.HardState
	// failed is the first error of a Save. What is on the disk is not known from then on, so there is no second try. A full
	// disk that the reserve has made room on is none: see isFull.
	failed error
}

// Open opens or makes the raft log in a directory, of which the caller holds the lock: bbolt has one too, but takes it
// only after the pages were checked.
func Open(dir string) (_ Log, err error) {
	l := &boltLog{dir: dir, file: filepath.Join(dir, "log.db")}
	defer l.named(&err)
	if err = checkPages(l.file); errors.Is(err, fs.ErrNotExist) {
		err = l.create()
	} else if err == nil {
		err = l.open(l.file)
	}
	if err != nil {
		return nil, err
	}
	if l.reserve, err = openReserve(l.dir); err != nil {
		return nil, errors.Join(err, l.db.Close())
	}
	if err := l.checkFormat(); err != nil {
		return nil, errors.Join(err, l.db.Close())
	}
	return l, nil
}

func (l *boltLog) open(file string) (err error) {
	l.db, err = bolt.Open(file, 0o644, &bolt.Options{
		Timeout:        lockWait,
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("raft log %s is in use by another process: stop it, or use another data directory", l.file)
	}
	if err != nil {
		return fmt.Errorf("raft log %s: %w", l.file, err)
	}
	return nil
}

// create makes the file under another name first. A file under its own name is complete then, and whatever it lacks was
// there once: it is never taken for new.
func (l *boltLog) create() error {
	if err := os.MkdirAll(l.dir, 0o755); err != nil {
		return fmt.Errorf("raft log: %w", err)
	}
	tmp := l.file + ".tmp"
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("raft log: %w", err)
	}
	if err := l.open(tmp); err != nil {
		return err
	}
	err := l.db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucket(bucketMeta)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucket(bucketLog); err != nil {
			return err
		}
		return meta.Put(keyFormat, SealNumber(format))
	})
	if err == nil {
		err = os.Rename(tmp, l.file)
	}
	// The directory may be new itself.
	err = errors.Join(err, syncDir(l.dir), syncDir(filepath.Dir(l.dir)))
	if err != nil {
		return errors.Join(fmt.Errorf("raft log: %w", err), l.db.Close())
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// named turns a panic or a memory fault, which is how bbolt meets a damaged page, into an error that names the file.
// It is deferred.
func (l *boltLog) named(err *error) {
	if r := recover(); r != nil {
		*err = l.damaged("a page has changed since it was checked: %v", r)
	}
}

func (l *boltLog) damaged(format string, args ...any) error { return damaged(l.file, format, args...) }

func (l *boltLog) checkFormat() error {
	return l.db.View(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil || tx.Bucket(bucketLog) == nil {
			return l.damaged("a bucket is missing")
		}
		return l.checkNumber(meta.Get(keyFormat))
	})
}

func (l *boltLog) checkNumber(sealed []byte) error {
	switch found, err := unsealNumber(sealed); {
	case err != nil:
		return l.damaged("the format number: %v", err)
	case found != format:
		return fmt.Errorf("raft log %s has format %d, this release knows %d: start the release that wrote it, or a newer one", l.file, found, format)
	}
	return nil
}

// Load implements Log.
func (l *boltLog) Load() (s State, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer l.named(&err)
	err = l.db.View(func(tx *bolt.Tx) error {
		return l.contents(tx.Bucket(bucketMeta), tx.Bucket(bucketLog)).decode(&s)
	})
	if err != nil {
		return State{}, err
	}
	return s, s.Check(l.file)
}

func (l *boltLog) contents(meta, log bucket) contents {
	return contents{file: l.file, meta: meta, log: log, snapshot: l.readSnapshot}
}

// Draw implements Log.
func (l *boltLog) Draw(raftID uint64) error {
	return l.update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyRaftID, SealNumber(raftID))
	})
}

// Form implements Log.
func (l *boltLog) Form(raftID uint64, hs *pb.HardState, snap *pb.Snapshot) error {
	if err := l.writeSnapshot(snap); err != nil {
		return err
	}
	return l.update(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		return errors.Join(meta.Put(keyRaftID, SealNumber(raftID)), put(meta, keyHardState, hs), put(meta, keySnapshot, snap.GetMetadata()))
	})
}

// Save implements Log. Without sync only the commit index has moved. That is not worth a write, since raft finds it out
// again after a crash; nor may it be one that is not synced, since then the page that points to the others could reach the
// disk before them.
func (l *boltLog) Save(w Write) error {
	if w.HardState != nil {
		l.hs = w.HardState
	}
	if l.failed != nil || !w.Sync && len(w.Entries) == 0 {
		return l.failed
	}
	if w.Snapshot != nil {
		if l.failed = l.writeSnapshot(w.Snapshot); l.failed != nil {
			return l.failed
		}
	}
	l.failed = l.update(func(tx *bolt.Tx) error {
		if w.Snapshot != nil {
			if err := l.replaceBy(tx, w.Snapshot); err != nil {
				return err
			}
		}
		if l.hs != nil {
			if err := put(tx.Bucket(bucketMeta), keyHardState, l.hs); err != nil {
				return err
			}
		}
		return appendEntries(tx.Bucket(bucketLog), w.Entries)
	})
	if l.failed == nil {
		l.hs = nil
	}
	return l.failed
}

func appendEntries(b *bolt.Bucket, entries []*pb.Entry) error {
	if len(entries) == 0 {
		return nil
	}
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
}

// replaceBy makes the log one that begins with a snapshot, whose file is there.
func (l *boltLog) replaceBy(tx *bolt.Tx, snap *pb.Snapshot) error {
	if err := tx.DeleteBucket(bucketLog); err != nil {
		return err
	}
	if _, err := tx.CreateBucket(bucketLog); err != nil {
		return err
	}
	return put(tx.Bucket(bucketMeta), keySnapshot, snap.GetMetadata())
}

// SaveSnapshot implements Log. Two snapshots are kept.
func (l *boltLog) SaveSnapshot(snap *pb.Snapshot) error {
	if err := l.writeSnapshot(snap); err != nil {
		return err
	}
	before := &pb.SnapshotMetadata{}
	newer := true
	err := l.update(func(tx *bolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if err := unseal(meta.Get(keySnapshot), before); err != nil {
			return err
		}
		// The leader may have sent a newer one while this one was written.
		if newer = snap.GetMetadata().GetIndex() > before.GetIndex(); !newer {
			return nil
		}
		return put(meta, keySnapshot, snap.GetMetadata())
	})
	if err != nil || !newer {
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

// Close implements Log. After an orderly end the commit index is where it was.
func (l *boltLog) Close() error {
	return errors.Join(l.Save(Write{Sync: l.hs != nil}), l.db.Close())
}

// Reserve implements Log.
func (l *boltLog) Reserve() (int64, error) {
	err := l.reserve.take()
	if err != nil {
		return 0, err
	}
	return l.reserve.size, nil
}

// update runs a transaction, on a full disk a second time: f says what is to be, not what is to change.
func (l *boltLog) update(f func(tx *bolt.Tx) error) (err error) {
	defer l.named(&err)
	if err := l.reserve.roomy(func() error { return l.db.Update(f) }); err != nil {
		return fmt.Errorf("raft log %s: %w", l.file, err)
	}
	return nil
}

func put(b *bolt.Bucket, key []byte, m proto.Message) error {
	v, err := Seal(m)
	if err != nil {
		return err
	}
	return b.Put(key, v)
}

func (l *boltLog) snapshotName(m *pb.SnapshotMetadata) string {
	return filepath.Join(l.dir, SnapshotName(m))
}

// SnapshotName is that of the file of a snapshot, in the directory of the log.
func SnapshotName(m *pb.SnapshotMetadata) string {
	return fmt.Sprintf("%020d-%020d.snapshot", m.GetIndex(), m.GetTerm())
}

// writeSnapshot makes the file durable under its name.
func (l *boltLog) writeSnapshot(snap *pb.Snapshot) error {
	if err := l.reserve.roomy(func() error { return writeSealed(l.snapshotName(snap.GetMetadata()), snap.GetData()) }); err != nil {
		return fmt.Errorf("snapshot: %w", err)
	}
	return nil
}

// writeSealed makes a file of data and its checksum, durably, or leaves what there was.
func writeSealed(name string, data []byte) error {
	tmp := name + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return err
	}
	if _, err = f.Write(SealBytes(data)); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, name)
	}
	if err != nil {
		os.Remove(tmp) // it takes room
		return err
	}
	return syncDir(filepath.Dir(name))
}

func (l *boltLog) readSnapshot(m *pb.SnapshotMetadata) (*pb.Snapshot, error) {
	data, err := ReadSnapshot(l.snapshotName(m))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &CorruptError{File: l.snapshotName(m), Reason: "the snapshot that the log begins with is missing"}
	}
	return &pb.Snapshot{Data: data, Metadata: m}, err
}

// ReadSnapshot reads the data of a snapshot's file.
func ReadSnapshot(file string) ([]byte, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("snapshot: %w", err)
	}
	if data, err = unsealBytes(data); err != nil {
		return nil, &CorruptError{File: file, Reason: err.Error()}
	}
	return data, nil
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
