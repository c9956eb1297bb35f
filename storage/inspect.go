package storage

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/vfs"
)

// The functions here read single files, for tools and tests. They need no open
// directory and no lock, and write nothing, so that they may be used beside a
// broker. What a file must not hold is a CorruptError.

// StoredBatch is a batch as it lies in a segment.
type StoredBatch struct {
	batch.Header
	Position int64
	Bytes    []byte // valid until the next one
	Damage   error  // a *CorruptError, if the content is not what the CRC says
}

// inspected is a file that is only looked at.
type inspected struct {
	vfs.File
	name string
}

func (f inspected) path() string { return f.name }

// EachBatch calls do for each batch of a segment, until it fails. A batch whose
// content is damaged comes with the damage, and is passed over; where there is
// none any more that could be passed over, the CorruptError is returned.
func EachBatch(fs vfs.FS, file string, do func(StoredBatch) error) error {
	f, err := fs.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return err
	}
	base, _, _ := splitFileName(file) // of a file that was renamed, any offset will do
	for w := newScanner(inspected{f, file}, base, size); w.more(); {
		b := StoredBatch{Position: w.pos}
		if b.Header, err = w.header(); err != nil {
			return err
		}
		if b.Bytes, err = w.bytes(b.Length); err != nil {
			return err
		}
		if _, err := batch.Verify(b.Bytes); err != nil {
			b.Damage = w.corrupt("%v", err)
		}
		if err := do(b); err != nil {
			return err
		}
		w.step(b.Header)
	}
	return nil
}

// splitFileName takes apart the name of a log's file, an offset in 20 digits and
// an extension.
func splitFileName(name string) (base int64, ext string, ok bool) {
	name = filepath.Base(name)
	ext = filepath.Ext(name)
	base, err := strconv.ParseInt(strings.TrimSuffix(name, ext), 10, 64)
	return max(base, 0), ext, err == nil && base >= 0 && len(name) == 20+len(ext)
}

// IndexEntry says that the batch at Position ends with Offset.
type IndexEntry struct{ Offset, Position int64 }

// TimeIndexEntry says that no batch up to the one that ends with Offset has a
// larger timestamp than that one.
type TimeIndexEntry struct{ Timestamp, Offset int64 }

// ReadIndex reads an offset index. Whole entries before damage are returned too.
func ReadIndex(fs vfs.FS, file string) ([]IndexEntry, error) {
	var all []IndexEntry
	base, _, _ := splitFileName(file)
	err := eachEntry(fs, file, entryBytes, func(b []byte) {
		e := decodeEntry(base, b)
		all = append(all, IndexEntry{e.last, e.pos})
	})
	return all, err
}

// ReadTimeIndex reads a time index, as ReadIndex does.
func ReadTimeIndex(fs vfs.FS, file string) ([]TimeIndexEntry, error) {
	var all []TimeIndexEntry
	base, _, _ := splitFileName(file)
	err := eachEntry(fs, file, timeEntryBytes, func(b []byte) {
		e := decodeTimeEntry(base, b)
		all = append(all, TimeIndexEntry{e.timestamp, e.last})
	})
	return all, err
}

func eachEntry(fs vfs.FS, file string, size int, do func([]byte)) error {
	b, err := ReadFile(fs, file)
	if err != nil {
		return err
	}
	n := len(b)
	for ; len(b) >= size; b = b[size:] {
		do(b)
	}
	if len(b) > 0 {
		return &CorruptError{file, int64(n - len(b)), fmt.Sprintf("%d bytes are left, an entry has %d", len(b), size)}
	}
	return nil
}

// VerifyIndexes compares the indexes of a segment with it, as far as there are
// any. What does not fit them is a *CorruptError each.
func VerifyIndexes(fs vfs.FS, segment string) ([]error, error) {
	var c indexCheck
	if err := c.load(fs, segment); err != nil {
		return nil, err
	}
	err := EachBatch(fs, segment, func(b StoredBatch) error { c.add(b); return nil })
	if err != nil && !IsDamage(err) {
		return nil, err
	}
	return c.misfits(), err
}

// indexCheck holds the indexes of a segment against its batches. What an index
// lacks is not missed: it is a hint.
type indexCheck struct {
	files   [2]string
	missing [2]bool
	entries []IndexEntry
	times   []TimeIndexEntry
	broken  []error // files that are no index

	at     map[int64]int64     // from position to last offset
	newest map[int64]timeEntry // of the batches with a timestamp larger than all before, by last offset
	max    timeEntry
}

func (c *indexCheck) load(fs vfs.FS, segment string) error {
	name := strings.TrimSuffix(segment, filepath.Ext(segment))
	c.files = [2]string{name + suffixes[indexFile], name + suffixes[timeIndexFile]}
	c.at, c.newest, c.max = make(map[int64]int64), make(map[int64]timeEntry), timeEntry{timestamp: noTimestamp}
	var errs [2]error
	c.entries, errs[0] = ReadIndex(fs, c.files[0])
	c.times, errs[1] = ReadTimeIndex(fs, c.files[1])
	for i, err := range errs {
		switch {
		case err == nil:
		case errors.Is(err, iofs.ErrNotExist):
			c.missing[i] = true
		case IsDamage(err):
			c.broken = append(c.broken, err)
		default:
			return err
		}
	}
	return nil
}

func (c *indexCheck) add(b StoredBatch) {
	c.at[b.Position] = b.LastOffset()
	if b.MaxTimestamp > c.max.timestamp {
		c.max = timeEntry{b.MaxTimestamp, b.LastOffset()}
		c.newest[b.LastOffset()] = c.max
	}
}

func (c *indexCheck) misfits() []error {
	all := c.broken
	misfit := func(file, n int, size int, format string, args ...any) {
		all = append(all, &CorruptError{c.files[file], int64(n * size), fmt.Sprintf(format, args...)})
	}
	for i, e := range c.entries {
		switch last, ok := c.at[e.Position]; {
		case !ok:
			misfit(0, i, entryBytes, "offset %d at position %d: no batch begins there", e.Offset, e.Position)
		case last != e.Offset:
			misfit(0, i, entryBytes, "offset %d at position %d: the batch there ends with offset %d", e.Offset, e.Position, last)
		case i > 0 && e.Offset <= c.entries[i-1].Offset:
			misfit(0, i, entryBytes, "offset %d follows %d", e.Offset, c.entries[i-1].Offset)
		}
	}
	for i, e := range c.times {
		switch t, ok := c.newest[e.Offset]; {
		case !ok || t.timestamp != e.Timestamp:
			misfit(1, i, timeEntryBytes, "timestamp %d of offset %d: no batch that ends there has it as the first", e.Timestamp, e.Offset)
		case i > 0 && e.Offset <= c.times[i-1].Offset:
			misfit(1, i, timeEntryBytes, "offset %d follows %d", e.Offset, c.times[i-1].Offset)
		}
	}
	return all
}

// incomplete is what the indexes of a sealed segment lack.
func (c *indexCheck) incomplete() []error {
	var all []error
	for i, missing := range c.missing {
		if missing && len(c.at) > 0 {
			all = append(all, &CorruptError{c.files[i], 0, "it is missing beside its segment"})
		}
	}
	if n := len(c.times); !c.missing[1] && c.max.timestamp >= 0 && (n == 0 || c.times[n-1].Timestamp != c.max.timestamp) {
		all = append(all, &CorruptError{c.files[1], int64(n * timeEntryBytes), fmt.Sprintf("an entry for the largest timestamp, %d of offset %d, is missing", c.max.timestamp, c.max.last)})
	}
	return all
}

// ReadLogOffsets reads a checkpoint of the data directory: an offset of each
// log, by its name.
func ReadLogOffsets(fs vfs.FS, file string) (map[string]int64, error) {
	return readAs(fs, file, func(b []byte) (map[string]int64, error) {
		offsets, err := decodeLogOffsets(b)
		return offsets, err
	})
}

// EpochStart says from which offset on a leader epoch wrote.
type EpochStart struct {
	Epoch  int32
	Offset int64
}

// ReadEpochs reads the history of leaders of a log.
func ReadEpochs(fs vfs.FS, file string) ([]EpochStart, error) {
	es, err := readAs(fs, file, decodeEpochs)
	var all []EpochStart
	for _, e := range es {
		all = append(all, EpochStart{e.epoch, e.offset})
	}
	return all, err
}

// ProducerBatch is a batch that a log remembers of a producer.
type ProducerBatch struct {
	ProducerState
	FirstSequence           int32
	FirstOffset, LastOffset int64
}

// ReadProducers reads a snapshot of a log's producers: their remembered batches,
// by producer and from old to new.
func ReadProducers(fs vfs.FS, file string) ([]ProducerBatch, error) {
	ps, err := readAs(fs, file, decodeProducers)
	var all []ProducerBatch
	for _, id := range slices.Sorted(maps.Keys(ps)) {
		p := ps[id]
		for _, b := range p.batches {
			all = append(all, ProducerBatch{
				ProducerState{id, p.epoch, b.last, time.UnixMilli(b.written), p.coordinatorEpoch, p.transaction},
				b.first, b.baseOffset(), b.lastOffset,
			})
		}
	}
	return all, err
}

// ReadTopicID reads whose partition a log's directory is.
func ReadTopicID(fs vfs.FS, file string) ([16]byte, error) { return readAs(fs, file, decodeMetadata) }

// ReadIdentity reads whose a data directory is.
func ReadIdentity(fs vfs.FS, file string) (Identity, error) {
	return readAs(fs, file, decodeIdentity)
}

func readAs[T any](fs vfs.FS, file string, decode func([]byte) (T, error)) (v T, err error) {
	b, err := ReadFile(fs, file)
	if err != nil {
		return v, err
	}
	if v, err = decode(b); err != nil && !IsDamage(err) {
		return v, fmt.Errorf("%s: %w", file, err)
	}
	return v, in(file, err)
}
