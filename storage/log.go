package storage

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"math"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/streambus/streambus/storage/batch"
)

// writebackBytes is how much a log that nobody waits for may leave to the
// kernel before its write-back is started: a sync of other logs must not find
// gigabytes of it in its way.
const writebackBytes = 8 << 20

// LogConfig is what a log needs to know of its topic.
type LogConfig struct {
	SegmentBytes       int64 // of the largest segment
	IndexIntervalBytes int64 // between two index entries
	SegmentIndexBytes  int64 // of the largest index
	// FlushOS leaves flushing to the kernel: appends are not made durable by
	// flush rounds, sealed segments are.
	FlushOS            bool
	ProducerExpiration time.Duration // a producer silent for that long is forgotten; 0: never
	DeleteDelay        time.Duration // between a file's deletion and its removal
	// A batch that comes SegmentAge after the first one of a segment goes to the
	// next one, or up to SegmentJitter earlier; 0: never.
	SegmentAge, SegmentJitter time.Duration
	// TopicID is the topic's, at OpenLog: a directory of another one is not opened
	// for it. Zero: whoever's it is.
	TopicID [16]byte
}

// Log is one partition's log. All methods may be called from any goroutine.
//
// A log without records has no files and no directory; its first append makes
// them.
type Log struct {
	d         *Dir
	name      string
	topicID   [16]byte
	cleaned   atomic.Int64           // compaction may have left gaps below it
	watermark atomic.Int64           // how far the log is acknowledged, as far as is known
	cuts      atomic.Int64           // grows, under mu, when the log is cut: what was seen or opened before says nothing of it
	swaps     atomic.Int64           // grows, under mu, when segments are replaced: what was seen before is still true
	gone      atomic.Bool            // deleted
	moved     atomic.Pointer[string] // where its directory is, once it is gone

	scrubMu sync.Mutex // one Scrub at a time; taken before mu
	scrub   scrubCursor

	compactMu sync.Mutex // one Compact at a time; taken before swapMu
	// swapMu is held by who replaces the files of sealed segments, takes them away or
	// makes their indexes anew: by one at a time, while appends go on.
	swapMu sync.Mutex

	// appendMu lets one append at a time in, and an index be rebuilt in between.
	// It guards the following, and may be held during I/O. Locks are taken in
	// the order swapMu, appendMu, mu, Dir.mu.
	appendMu  sync.Mutex
	producers producers
	snapshots []int64 // offsets of the producer snapshots on disk, rising
	writeback int64   // write-back of the active segment was started up to here
	made      bool    // there is a directory, and it is the log's
	tagged    bool    // and it says whose it is

	// mu guards the following and the segments' fields, and is never held
	// during I/O: a read waits for no write. What changes under both locks may
	// be read under either.
	mu       sync.Mutex
	cfg      LogConfig  // mu only
	segments []*segment // the last one is active; changes under both
	start    int64      // below it nothing is read; changes under both
	end      int64      // changes under both
	epochs   epochs     // changes under both
	hint     position   // mu only: where the latest read ended
	flushed  int64      // mu only, as all below
	// compacted is the end of what Compact has dealt with. It may be less than that
	// on disk, then it deals with some again.
	compacted int64
	unsynced  []*segment // with writes no round has taken up yet
	names     unsyncedNames
	named     bool // the names of the log's directory and first segment are durable
	queued    bool // in Dir.dirty
}

// segment is a file of batches.
type segment struct {
	base    int64
	version int64 // differs from those that it replaces; never changes
	next    int64 // offset after the last batch, or later where compaction took that
	size    int64 // of whole batches
	entries int64 // in the offset index's file; -1: not looked at yet
	rebuilt int   // times the index was
	tail    *indexTail
	// max is the largest timestamp, and the first batch that has it, of a sealed
	// segment; looked for when first needed if it was not sealed in this life.
	max      timeEntry
	maxKnown bool
	pin      *handle // keeps the file open while it has unsynced writes
	cut      bool    // a failed write was cut back and that is not synced; appendMu
	// Of the active segment, guarded by appendMu: the first batch's timestamp, once
	// looked at, and when the segment was opened.
	first      int64
	firstKnown bool
	opened     time.Time
}

// key is the key of one of the segment's files.
func (s *segment) key(l *Log, kind fileKind) fileKey { return fileKey{l, s.base, kind, s.version} }

// unsyncedNames are names made since the last round took them up.
type unsyncedNames struct {
	log   bool // the log's directory in the data directory
	files bool // files in the log's directory
	epoch bool // and the epoch file's content
	meta  bool // and that of the file that says whose log it is
}

// position is where in a segment an offset is.
type position struct {
	base, offset, pos int64
}

// Appended tells where a batch is. A duplicate was there before.
type Appended struct {
	Base, Last int64
	Duplicate  bool
}

// Name is the name of the log's directory.
func (l *Log) Name() string { return l.name }

func (l *Log) path() string {
	if moved := l.moved.Load(); moved != nil {
		return filepath.Join(l.d.path, *moved)
	}
	return filepath.Join(l.d.path, l.name)
}

// StartOffset is the first offset in the log.
func (l *Log) StartOffset() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.start
}

// EndOffset is the offset of the next record.
func (l *Log) EndOffset() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.end
}

// FlushedOffset is the end of what survives a power cut. With FlushOS it is
// that too, and follows far behind.
func (l *Log) FlushedOffset() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.flushed
}

// EpochAt returns the leader epoch of an offset, -1 if none is known. For the
// end of the log it is that of the last record.
func (l *Log) EpochAt(offset int64) int32 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epochs.at(offset)
}

// EndOffsetForEpoch answers a replica or a consumer that has records of a leader
// epoch: the largest epoch here that is not larger, and the offset after its last
// record. Both are -1 if no epoch is known. Unlike Kafka's, a log knows an epoch
// by its records only, and so a larger one than it knows has the answer of the
// latest: what the leader that has not written yet would say.
func (l *Log) EndOffsetForEpoch(epoch int32) (found int32, end int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epochs.endOf(epoch, l.end)
}

// Size is what the log's segments hold, in bytes, and how many there are.
func (l *Log) Size() (bytes int64, segments int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, seg := range l.segments {
		bytes += seg.size
	}
	return bytes, len(l.segments)
}

// SetConfig takes effect with the next append.
func (l *Log) SetConfig(cfg LogConfig) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.cfg = cfg
	l.queue()
}

func (l *Log) config() LogConfig {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cfg
}

// Append writes a batch that batch.Rules have accepted at the end of the log. It
// stamps the offset and the leader epoch into b. A batch that the log has
// already from this producer is not written again.
//
// When Append fails nothing has been appended; unless the error is a latched
// FailedError, the log goes on.
func (l *Log) Append(b []byte, leaderEpoch int32, now time.Time) (Appended, error) {
	h, err := batch.DecodeHeader(b)
	if err != nil {
		return Appended{}, err
	}
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	if err := l.usable(); err != nil {
		return Appended{}, err
	}
	cfg := l.config()
	if h.Length > cfg.SegmentBytes {
		return Appended{}, fmt.Errorf("%w: %d bytes, segments of %s have %d", ErrTooLarge, h.Length, l.name, cfg.SegmentBytes)
	}
	if h.HasProducer() {
		repeated, err := l.producers.check(h)
		if err != nil {
			return Appended{}, err
		}
		if repeated != nil {
			return Appended{repeated.baseOffset(), repeated.lastOffset, true}, nil
		}
	}
	if leaderEpoch < l.epochs.latest() {
		return Appended{}, fmt.Errorf("append to %s with leader epoch %d after %d", l.name, leaderEpoch, l.epochs.latest())
	}

	if err := l.d.admit(h.Length); err != nil {
		return Appended{}, err
	}

	batch.Stamp(b, l.end, leaderEpoch)
	h.BaseOffset, h.LeaderEpoch = l.end, leaderEpoch
	if err := l.write(b, []batch.Header{h}, cfg, now); err != nil {
		return Appended{}, err
	}
	l.producers.appended(h, now)
	return Appended{Base: h.BaseOffset, Last: h.LastOffset()}, nil
}

// usable tells why nothing can be written to the log any more.
func (l *Log) usable() error {
	if l.gone.Load() {
		return fmt.Errorf("%w: %s", ErrDeleted, l.name)
	}
	return l.d.Failed()
}

// write puts stamped batches of one epoch at the end, all in the segment that has
// room for the first. appendMu is held.
func (l *Log) write(b []byte, run []batch.Header, cfg LogConfig, now time.Time) error {
	h := run[0]
	seg, err := l.room(h, cfg, now)
	if err != nil {
		return l.d.refused(err)
	}
	history := l.epochs.with(h.LeaderEpoch, h.BaseOffset)
	newEpoch := h.LeaderEpoch > l.epochs.latest()
	if newEpoch {
		// Before the batch: an epoch without records is dropped in recovery,
		// records without their epoch would have to be looked for. Where none may
		// be left to look at, the history must not get lost.
		lone := l.start > 0 && l.FlushedOffset() <= l.start
		if err := replaceEpochs(l.d.fs, l.path(), history, lone); err != nil {
			return l.d.refused(err)
		}
	}
	f, err := l.d.files.acquire(seg.key(l, logFile), false)
	if err != nil {
		return l.d.refused(err)
	}
	defer l.d.files.release(f)
	if cfg.FlushOS {
		defer l.startWriteback(f, seg)
	}
	if _, err := f.WriteAt(b, seg.size); err != nil {
		// What follows a half-written batch would be cut with it in recovery.
		if cut := f.Truncate(seg.size); cut != nil {
			return l.d.fail(errors.Join(err, cut))
		}
		seg.cut = true
		return l.d.refused(err)
	}

	if seg.size == 0 {
		seg.first, seg.firstKnown = h.MaxTimestamp, true
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if newEpoch {
		l.epochs = history
		l.names.files, l.names.epoch = true, true
	}
	if seg.pin == nil {
		seg.pin = l.d.files.retain(f)
		l.unsynced = append(l.unsynced, seg)
	}
	for _, h := range run {
		seg.tail.add(h, seg.size, cfg.IndexIntervalBytes)
		seg.size += h.Length
		seg.next = h.LastOffset() + 1
	}
	l.end = seg.next
	l.queue()
	return nil
}

// startWriteback gets the active segment of a log that no round syncs on its
// way to the disk. An error is left to the sync that will meet it.
func (l *Log) startWriteback(f *handle, seg *segment) {
	if n := seg.size - l.writeback; n >= writebackBytes {
		f.StartWriteback(l.writeback, n)
		l.writeback = seg.size
	}
}

// room returns the active segment if the batch fits, otherwise a new one.
// appendMu is held.
func (l *Log) room(h batch.Header, cfg LogConfig, now time.Time) (*segment, error) {
	if len(l.segments) == 0 {
		if err := l.makeDir(); err != nil {
			return nil, err
		}
		if err := l.first(now); err != nil {
			return nil, err
		}
	}
	seg := l.active()
	if len(seg.tail.offsets) >= spillEntries {
		if err := l.spill(seg); err != nil {
			return nil, err
		}
	}
	aged, err := l.aged(seg, h, cfg, now)
	if err != nil || !aged && seg.fits(h, cfg) {
		return seg, err
	}
	if err := l.seal(seg, cfg, now); err != nil {
		return nil, err
	}
	return l.roll(l.nextBase(h), now)
}

// nextBase is the offset of a segment that begins with a batch: where the log ends.
// After a gap so large that an index could not tell the batch's offset, it is that.
func (l *Log) nextBase(h batch.Header) int64 {
	if h.LastOffset()-l.end > math.MaxInt32 {
		return h.BaseOffset
	}
	return l.end
}

// makeDir makes the directory of a log that has none. What somebody has put in
// its place since the data directory was opened is not the log's: nobody has
// looked whose it is, and its records would be among those that are written now.
func (l *Log) makeDir() error {
	if l.made {
		return nil
	}
	err := l.d.fs.Mkdir(l.path())
	if errors.Is(err, iofs.ErrExist) {
		return fmt.Errorf("%s was put there while the broker ran, which was to make it: move it away, or restart the broker to have it looked at: %w", l.path(), err)
	}
	l.made = err == nil
	return err
}

// first makes the first segment. The directory says whose it is before there is
// anything in it, as far as a round syncs both together.
func (l *Log) first(now time.Time) error {
	if err := l.tag(); err != nil {
		return err
	}
	_, err := l.roll(l.end, now)
	return err
}

// tag has the log's directory say whose it is, where it does not yet.
func (l *Log) tag() error {
	if l.tagged || l.topicID == ([16]byte{}) {
		return nil
	}
	err := writeFile(l.d.fs, filepath.Join(l.path(), metadataName), encodeMetadata(l.topicID), false)
	if err != nil {
		return err
	}
	l.tagged = true
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names.meta = true
	return nil
}

// active is the segment that is appended to, nil if there is none yet.
func (l *Log) active() *segment {
	if len(l.segments) == 0 {
		return nil
	}
	return l.segments[len(l.segments)-1]
}

// fits tells whether a batch may go into the segment. Positions and offsets in
// its indexes are int32.
func (s *segment) fits(h batch.Header, cfg LogConfig) bool {
	switch {
	case h.LastOffset()-s.base > math.MaxInt32:
		return false
	case s.size == 0:
		return true
	case s.size+h.Length > min(cfg.SegmentBytes, math.MaxInt32):
		return false
	case s.tail.since <= cfg.IndexIntervalBytes:
		return true
	}
	// This batch adds an entry to each index, and sealing one for the time.
	offsets := s.entries + int64(len(s.tail.offsets)) + 1
	times := s.tail.onDisk + int64(len(s.tail.times)) + 2
	return max(offsets*entryBytes, times*timeEntryBytes) <= cfg.SegmentIndexBytes
}

// seal completes what belongs to the active segment before the next one exists.
// Done twice it changes nothing, should the next one not come to be.
func (l *Log) seal(seg *segment, cfg LogConfig, now time.Time) error {
	l.addTime(seg)
	if err := l.spill(seg); err != nil {
		return err
	}
	// Segments that could be read instead may be gone.
	if err := l.snapshot(cfg, now, l.segments[0].base > 0); err != nil {
		return err
	}
	if err := l.syncCut(seg); err != nil {
		return err
	}
	if l.FlushedOffset() < l.cleaned.Load() {
		return l.syncSegments(l.segments)
	}
	return l.nameFirst()
}

// syncCut makes the cut of a failed write durable. Recovery finds the remains of
// one at the end of the active segment, and nowhere else.
func (l *Log) syncCut(seg *segment) error {
	if !seg.cut {
		return nil
	}
	f, err := l.d.files.acquire(seg.key(l, logFile), false)
	if err != nil {
		return err
	}
	defer l.d.files.release(f)
	if err := f.Sync(); err != nil {
		return l.d.fail(err)
	}
	seg.cut = false
	return nil
}

// nameFirst makes the name of the log's first segment durable before there is a
// second one. A crash that kept the second name and not the first would leave
// what looks like a log whose start was moved, and recovery would believe it.
// Holes further on it can see.
func (l *Log) nameFirst() error {
	l.mu.Lock()
	needed := len(l.segments) == 1 && !l.named
	l.mu.Unlock()
	if !needed {
		return nil
	}
	if err := l.d.fs.SyncDir(l.path()); err != nil {
		return l.d.fail(err)
	}
	return nil
}

// roll makes a new active segment.
func (l *Log) roll(base int64, now time.Time) (*segment, error) {
	seg := &segment{base: base, next: base, tail: newIndexTail(), opened: now}
	f, err := l.d.files.acquire(seg.key(l, logFile), true)
	if err != nil {
		return nil, err
	}
	l.d.files.release(f)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.names.log = l.names.log || len(l.segments) == 0
	l.names.files = true
	if len(l.segments) > 0 {
		l.active().sealTail()
	}
	l.segments = append(l.segments, seg)
	l.writeback = 0
	return seg, nil
}

// snapshot writes the producers' state at the end of the log and removes older
// snapshots that nothing can need: recovery cuts nothing below the flushed end,
// and a leader nothing below the watermark, so the newest one there will do, and
// one more in case it is damaged.
func (l *Log) snapshot(cfg LogConfig, now time.Time, sync bool) error {
	if n := len(l.snapshots); n > 0 && l.snapshots[n-1] == l.end {
		return nil
	}
	l.producers.expire(now, cfg.ProducerExpiration)
	if err := writeFile(l.d.fs, l.snapshotName(l.end), l.producers.encode(), sync); err != nil {
		return err
	}
	l.snapshots = append(l.snapshots, l.end)
	stays := min(l.FlushedOffset(), l.HighWatermark())
	for len(l.snapshots) > 2 && l.snapshots[2] <= stays {
		if err := l.d.fs.Remove(l.snapshotName(l.snapshots[0])); err != nil {
			return err
		}
		l.snapshots = l.snapshots[1:]
	}
	return nil
}

func (l *Log) snapshotName(offset int64) string {
	return filepath.Join(l.path(), fmt.Sprintf("%020d.snapshot", offset))
}
