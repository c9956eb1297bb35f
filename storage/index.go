package storage

import (
	"encoding/binary"
	"errors"
	"io"
	iofs "io/fs"
	"sort"
	"sync"

	"github.com/streambus/streambus/storage/batch"
)

const (
	entryBytes     = 8
	timeEntryBytes = 12
	// spillEntries is how many entries wait in memory for their files: few, as
	// each active segment has some, and enough that appends seldom write them.
	spillEntries = 64
	// searchEntries are read at once when a search has come that far.
	searchEntries = 128
)

// entry says that the batch at pos ends with offset last.
type entry struct{ last, pos int64 }

// timeEntry says that no batch up to the one that ends with offset last has a
// larger timestamp than that one.
type timeEntry struct{ timestamp, last int64 }

// indexTail is what the indexes of an active segment hold beyond their files.
type indexTail struct {
	offsets  []entry     // appended to in place: readers keep a slice of it
	times    []timeEntry // as well
	onDisk   int64       // entries in the time index's file
	lastTime int64       // of the newest time entry
	since    int64       // bytes since the newest entry
	max      timeEntry
}

const noTimestamp = -1

func newIndexTail() *indexTail {
	return &indexTail{lastTime: noTimestamp, max: timeEntry{noTimestamp, 0}}
}

// add takes note of a batch at pos.
func (t *indexTail) add(h batch.Header, pos, interval int64) {
	if h.MaxTimestamp > t.max.timestamp {
		t.max = timeEntry{h.MaxTimestamp, h.LastOffset()}
	}
	if t.since > interval {
		t.offsets = append(t.offsets, entry{h.LastOffset(), pos})
		t.addTime()
		t.since = 0
	}
	t.since += h.Length
}

// addTime adds the largest timestamp so far, unless an entry has it.
func (t *indexTail) addTime() {
	if t.max.timestamp > t.lastTime {
		t.times = append(t.times, t.max)
		t.lastTime = t.max.timestamp
	}
}

// addTime adds the largest timestamp to a segment's time index. Log.appendMu is held.
func (l *Log) addTime(seg *segment) {
	l.mu.Lock()
	defer l.mu.Unlock()
	seg.tail.addTime()
}

// sealTail drops the tail of a segment whose index files are complete. Log.mu is held.
func (s *segment) sealTail() {
	s.max, s.maxKnown, s.tail = s.tail.max, true, nil
}

// spill writes the entries in memory to the index files. Log.appendMu is held.
func (l *Log) spill(seg *segment) error {
	tail := seg.tail
	offsets := make([]byte, 0, entryBytes*len(tail.offsets))
	for _, e := range tail.offsets {
		offsets = binary.BigEndian.AppendUint32(offsets, uint32(e.last-seg.base))
		offsets = binary.BigEndian.AppendUint32(offsets, uint32(e.pos))
	}
	if err := l.extend(seg, indexFile, seg.entries*entryBytes, offsets); err != nil {
		return err
	}
	l.mu.Lock()
	seg.entries += int64(len(tail.offsets))
	tail.offsets = nil // not [:0]: a reader may still look at them
	l.mu.Unlock()

	times := make([]byte, 0, timeEntryBytes*len(tail.times))
	for _, e := range tail.times {
		times = binary.BigEndian.AppendUint64(times, uint64(e.timestamp))
		times = binary.BigEndian.AppendUint32(times, uint32(e.last-seg.base))
	}
	if err := l.extend(seg, timeIndexFile, tail.onDisk*timeEntryBytes, times); err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	tail.onDisk += int64(len(tail.times))
	tail.times = nil
	return nil
}

// extend makes b the end of an index file, from position at on.
func (l *Log) extend(seg *segment, kind fileKind, at int64, b []byte) error {
	f, err := l.d.files.acquire(seg.key(l, kind), true)
	if err != nil {
		return err
	}
	defer l.d.files.release(f)
	size, err := f.Size()
	if err == nil && size > at {
		err = f.Truncate(at)
	}
	if err == nil && len(b) > 0 {
		_, err = f.WriteAt(b, at)
	}
	return err
}

// indexView is a segment's offset index at one moment.
type indexView struct {
	log     *Log
	base    int64
	version int64 // of the segment
	entries int64 // in the file
	tail    []entry
}

func (v indexView) key(kind fileKind) fileKey { return fileKey{v.log, v.base, kind, v.version} }

// search returns the last entry for which want holds, and which one it is,
// counted from 1. want must hold for the first few entries and no other. The
// entry is a hint, to be checked.
func (v indexView) search(want func(entry) bool) (e entry, n int64, err error) {
	if len(v.tail) > 0 && want(v.tail[0]) {
		i := sort.Search(len(v.tail), func(i int) bool { return !want(v.tail[i]) })
		return v.tail[i-1], v.entries + int64(i), nil
	}
	if v.entries == 0 {
		return entry{}, 0, nil
	}
	f, err := v.log.d.files.acquire(v.key(indexFile), false)
	if errors.Is(err, iofs.ErrNotExist) {
		return entry{}, 0, errStaleIndex
	}
	if err != nil {
		return entry{}, 0, err
	}
	defer v.log.d.files.release(f)
	return v.searchFile(f, want)
}

// searchFile halves until a block is left, and reads that at once.
func (v indexView) searchFile(f *handle, want func(entry) bool) (entry, int64, error) {
	block := entryBlocks.Get().(*entryBlock)
	defer entryBlocks.Put(block)
	at := func(i int64) entry { return decodeEntry(v.base, block[i*entryBytes:]) }
	lo, hi := int64(0), v.entries // the answer is the one before lo, or one of [lo, hi)
	// Most look for something near the end, and a start for nothing else.
	if last := hi - searchEntries; last > 0 {
		if err := readEntries(f, block[:entryBytes], last*entryBytes); err != nil {
			return entry{}, 0, err
		}
		if want(at(0)) {
			lo = last
		} else {
			hi = last
		}
	}
	for hi-lo > searchEntries {
		mid := lo + (hi-lo)/2
		if err := readEntries(f, block[:entryBytes], mid*entryBytes); err != nil {
			return entry{}, 0, err
		}
		if want(at(0)) {
			lo = mid
		} else {
			hi = mid
		}
	}
	if err := readEntries(f, block[:(hi-lo)*entryBytes], lo*entryBytes); err != nil {
		return entry{}, 0, err
	}
	n := sort.Search(int(hi-lo), func(i int) bool { return !want(at(int64(i))) })
	if n == 0 {
		return entry{}, 0, nil
	}
	return at(int64(n - 1)), lo + int64(n), nil
}

type entryBlock [searchEntries * entryBytes]byte

var entryBlocks = sync.Pool{New: func() any { return new(entryBlock) }}

func decodeEntry(base int64, b []byte) entry {
	return entry{
		last: base + int64(int32(binary.BigEndian.Uint32(b))),
		pos:  int64(int32(binary.BigEndian.Uint32(b[4:]))),
	}
}

func decodeTimeEntry(base int64, b []byte) timeEntry {
	return timeEntry{int64(binary.BigEndian.Uint64(b)), base + int64(int32(binary.BigEndian.Uint32(b[8:])))}
}

// errStaleIndex says that an index does not fit its segment, or is being rebuilt.
var errStaleIndex = errors.New("the index does not fit its segment")

func readEntries(f *handle, b []byte, at int64) error {
	n, err := f.ReadAt(b, at)
	if n == len(b) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		return errStaleIndex
	}
	return err
}

// entriesOnDisk counts the entries in an index file; one that is missing has none.
func (l *Log) entriesOnDisk(base int64, kind fileKind, size int64) (int64, error) {
	info, err := l.d.fs.Stat(fileKey{log: l, base: base, kind: kind}.path())
	if errors.Is(err, iofs.ErrNotExist) {
		return 0, nil
	}
	return info.Size / size, err
}
