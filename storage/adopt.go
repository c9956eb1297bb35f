package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"path/filepath"
	"slices"
	"time"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/vfs"
)

const (
	// adoptBytes are written at a time.
	adoptBytes = 1 << 20
	// adoptIndexInterval is Kafka's and our default of index.interval.bytes.
	adoptIndexInterval = 4096
	// adoptedEpoch is the leader epoch that adopted batches get. Their own are
	// those of another cluster, and may be larger than the leader's here: it could
	// not append, and consumers would be told that their records are none of its.
	// The epoch is not under a batch's CRC.
	adoptedEpoch = 0
)

// Source is a data directory that logs are adopted from. Nobody writes there.
type Source struct {
	fs                      vfs.FS
	path                    string
	points, starts, cleaned map[string]int64
	clean                   bool
}

// OpenSource reads the checkpoints of a data directory of Apache Kafka.
func OpenSource(fs vfs.FS, path string) (*Source, error) {
	names, err := fs.List(path)
	if err != nil {
		return nil, err
	}
	s := &Source{fs: fs, path: path, clean: slices.Contains(names, cleanName)}
	for name, offsets := range map[string]*map[string]int64{recoveryPointsName: &s.points, startsName: &s.starts, cleanedName: &s.cleaned} {
		if *offsets, err = ReadLogOffsets(fs, filepath.Join(path, name)); err != nil && !errors.Is(err, iofs.ErrNotExist) {
			return nil, err
		}
	}
	return s, nil
}

// Clean tells whether the broker there had been stopped, and not killed.
func (s *Source) Clean() bool { return s.clean }

// Logs lists its log directories, by name.
func (s *Source) Logs() ([]string, error) {
	names, err := s.fs.List(s.path)
	return slices.DeleteFunc(names, func(name string) bool { return !isLogName(name) }), err
}

// Adopt copies a log from another directory into this one, as the log of a topic
// that was never written to here. Every batch is checked on its way. Offsets,
// timestamps, records and the state of producers stay; leader epochs do not, and
// indexes are made anew. A torn end of the log of a broker that was killed is
// left behind.
//
// A crash on the way leaves a directory that says nothing of whose it is, and is
// set aside at the next start. So does an error.
func (d *Dir) Adopt(s *Source, name string, topicID [16]byte, now time.Time) (LogSummary, error) {
	a := &adoption{d: d, s: s, name: name, LogSummary: LogSummary{Name: name, Start: s.starts[name]}}
	summary, err := a.run(topicID, now)
	if err != nil {
		return summary, fmt.Errorf("adopt %s from %s: %w", name, s.path, err)
	}
	return summary, nil
}

type adoption struct {
	LogSummary
	d    *Dir
	s    *Source
	name string
}

func (a *adoption) run(topicID [16]byte, now time.Time) (LogSummary, error) {
	d, to := a.d, filepath.Join(a.d.path, a.name)
	if !isLogName(a.name) {
		return a.LogSummary, fmt.Errorf("%q is not the name of a log", a.name)
	}
	if _, err := d.fs.Stat(to); err == nil {
		return a.LogSummary, fmt.Errorf("%s is there already: a topic must never have been written to", to)
	} else if !errors.Is(err, iofs.ErrNotExist) {
		return a.LogSummary, err
	}
	names, err := a.s.fs.List(filepath.Join(a.s.path, a.name))
	if err != nil {
		return a.LogSummary, err
	}
	if err := d.fs.MkdirAll(to); err != nil {
		return a.LogSummary, err
	}
	var segments, snapshots []int64
	for _, n := range names {
		switch base, ext, numbered := splitFileName(n); {
		case numbered && ext == ".log":
			segments = append(segments, base)
		case numbered && ext == ".snapshot":
			snapshots = append(snapshots, base)
		}
	}
	for i, base := range segments {
		if i == 0 {
			a.Start, a.End = max(a.Start, base), base
		}
		if err := a.segment(base, i == len(segments)-1); err != nil {
			return a.LogSummary, err
		}
	}
	for _, at := range snapshots {
		if err := a.snapshot(at, now); err != nil {
			return a.LogSummary, err
		}
	}
	if point := a.s.points[a.name]; a.End < point {
		return a.LogSummary, fmt.Errorf("it ends at offset %d, and was durable to %d", a.End, point)
	}
	return a.LogSummary, a.settle(topicID)
}

// segment copies a segment and makes its indexes.
func (a *adoption) segment(base int64, last bool) error {
	from := filepath.Join(a.s.path, a.name, fmt.Sprintf("%020d.log", base))
	if base != a.End && a.End >= a.s.cleaned[a.name] {
		return &CorruptError{from, 0, fmt.Sprintf("it begins with offset %d, the log before it ends at %d", base, a.End)}
	}
	to, err := a.d.fs.Create(filepath.Join(a.d.path, a.name, filepath.Base(from)))
	if err != nil {
		return err
	}
	var (
		out  []byte
		pos  int64
		tail = newIndexTail()
	)
	flush := func() error {
		_, err := to.WriteAt(out, pos-int64(len(out)))
		out = out[:0]
		return err
	}
	a.End = base
	err = EachBatch(a.s.fs, from, func(b StoredBatch) error {
		switch {
		case b.Damage != nil:
			return b.Damage
		case b.BaseOffset != a.End && a.End >= a.s.cleaned[a.name]:
			return &CorruptError{from, b.Position, fmt.Sprintf("a batch with offset %d, expected %d; if the topic is compacted and Kafka was killed, start Kafka once more and stop it", b.BaseOffset, a.End)}
		case b.IsTransactional():
			return fmt.Errorf("%s has a batch of a transaction at position %d, and transactions are not supported", from, b.Position)
		}
		at := len(out)
		out = append(out, b.Bytes...)
		batch.Stamp(out[at:], b.BaseOffset, adoptedEpoch)
		tail.add(b.Header, b.Position, adoptIndexInterval)
		a.Batches++
		a.Bytes += b.Length
		a.End = b.LastOffset() + 1
		if pos += b.Length; len(out) >= adoptBytes {
			return flush()
		}
		return nil
	})
	err = errors.Join(a.unlessTorn(from, last, err), flush(), to.Close())
	if err != nil {
		return err
	}
	a.Segments++
	return a.indexes(base, tail)
}

// unlessTorn forgives what a crash leaves: an end of the last segment that was
// not known to be durable.
func (a *adoption) unlessTorn(file string, last bool, err error) error {
	if !IsDamage(err) {
		return err
	}
	if old, oldErr := holdsMessages(a.s.fs, file); oldErr != nil || old {
		return errors.Join(fmt.Errorf("%s has messages of version 0 or 1, written by a Kafka before 0.11 or for such clients, which are not supported", file), oldErr)
	}
	if last && !a.s.clean && a.End >= a.s.points[a.name] {
		return nil
	}
	return err
}

// holdsMessages tells whether a segment holds messages of the formats before
// batches.
func holdsMessages(fs vfs.FS, file string) (bool, error) {
	f, err := fs.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return false, err
	}
	base, _, _ := splitFileName(file)
	w := newScanner(inspected{f, file}, base, size)
	for w.more() {
		h, err := w.header()
		if IsDamage(err) {
			return w.old(), nil
		}
		if err != nil {
			return false, err
		}
		w.step(h)
	}
	return false, nil
}

func (a *adoption) indexes(base int64, tail *indexTail) error {
	tail.addTime()
	var offsets, times []byte
	for _, e := range tail.offsets {
		offsets = binary.BigEndian.AppendUint32(offsets, uint32(e.last-base))
		offsets = binary.BigEndian.AppendUint32(offsets, uint32(e.pos))
	}
	for _, e := range tail.times {
		times = binary.BigEndian.AppendUint64(times, uint64(e.timestamp))
		times = binary.BigEndian.AppendUint32(times, uint32(e.last-base))
	}
	name := filepath.Join(a.d.path, a.name, fmt.Sprintf("%020d", base))
	return errors.Join(writeFile(a.d.fs, name+suffixes[indexFile], offsets, false), writeFile(a.d.fs, name+suffixes[timeIndexFile], times, false))
}

// snapshot copies what is known of producers. What is damaged, or beyond the
// end, is left behind: it can be derived from the batches. Kafka notes the
// batches' timestamps, which may be years old. Here a batch counts as written
// now, as in recovery.
func (a *adoption) snapshot(at int64, now time.Time) error {
	name := fmt.Sprintf("%020d.snapshot", at)
	b, err := ReadFile(a.s.fs, filepath.Join(a.s.path, a.name, name))
	if err != nil {
		return err
	}
	ps, err := decodeProducers(b)
	if err != nil || at > a.End {
		return nil
	}
	for _, p := range ps {
		for i := range p.batches {
			p.batches[i].written = now.UnixMilli()
		}
	}
	return writeFile(a.d.fs, filepath.Join(a.d.path, a.name, name), ps.encode(), false)
}

// settle makes the log durable, and the topic's.
func (a *adoption) settle(topicID [16]byte) error {
	d := a.d
	if err := d.mustSync(d.fs.SyncAll(d.path)); err != nil {
		return err
	}
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	d.mu.Lock()
	points, starts, cleaned := maps.Clone(d.points), maps.Clone(d.starts), maps.Clone(d.cleaned)
	d.mu.Unlock()
	points[a.name] = a.End
	if a.Start > 0 {
		starts[a.name] = a.Start
	}
	if to := a.s.cleaned[a.name]; to > 0 {
		cleaned[a.name] = to
	}
	// A crash before the points are written leaves what is no topic's; after that
	// the log is complete, and the topic claims it.
	err := errors.Join(d.writePoints(points), d.writeStarts(starts), d.writeCleaned(cleaned))
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.starts = starts
	d.mu.Unlock()
	return ReplaceFile(d.fs, filepath.Join(d.path, a.name, metadataName), encodeMetadata(topicID))
}
