package storage

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/streambus/streambus/storage/vfs"
)

const (
	lockName  = ".lock"
	cleanName = ".kafka_cleanshutdown"
	// noBrokerEpoch says that no broker epoch is known.
	noBrokerEpoch = -1
)

// cleanMarker is the content of cleanName, as in Kafka's CleanShutdownFileHandler.
type cleanMarker struct {
	Version     int   `json:"version"`
	BrokerEpoch int64 `json:"brokerEpoch"`
}

// Dir is an open data directory.
type Dir struct {
	fs       vfs.FS
	path     string
	lock     io.Closer
	clean    bool
	epoch    int64        // of the broker that closed the directory last
	next     atomic.Int64 // what Close will say of it
	files    *files
	cost     syncCost
	rebuilds atomic.Int64
	moved    atomic.Bool                 // a log became more durable since the last checkpoint
	failed   atomic.Pointer[FailedError] // latched
	told     atomic.Pointer[func()]      // who is told of that
	serial   atomic.Uint64               // of names made in this life
	minFree  atomic.Int64                // what appends leave free
	room     atomic.Int64                // what they may take until it is measured again

	checkpointMu sync.Mutex // one checkpoint at a time; taken before mu

	mu           sync.Mutex // guards the following
	logs         map[string]*Log
	points       logOffsets // below which logs are durable; as on disk
	starts       logOffsets // of logs whose files begin before them
	startsOnDisk logOffsets
	cleaned      logOffsets // below which logs may have gaps; as on disk
	watermarks   logOffsets // below which logs are acknowledged; as on disk
	compacted    logOffsets // below which logs are compacted; as on disk
	due          []removal
	buried       map[string]bool // deleted logs that the checkpoints may still know
	found        int             // log directories when the directory was opened
	left         map[string]bool // those of them not opened yet
	dirty        []*Log          // what the next round flushes, in the order of becoming so
}

// OpenDir opens a data directory, which it makes if need be, and keeps others
// out of it until it is closed.
func OpenDir(fs vfs.FS, path string) (*Dir, error) {
	if err := makeDir(fs, path); err != nil {
		return nil, fmt.Errorf("data directory %s cannot be made: %w", path, err)
	}
	lock, err := fs.Lock(filepath.Join(path, lockName))
	if errors.Is(err, vfs.ErrLocked) {
		return nil, fmt.Errorf("data directory %s is in use: stop the broker that runs in it, or use another directory: %w", path, err)
	}
	if err != nil { // the lock is a file, opened for writing
		return nil, fmt.Errorf("data directory %s cannot be written to: check its owner and that the file system is not read-only: %w", path, err)
	}
	d := &Dir{fs: fs, path: path, lock: lock, epoch: noBrokerEpoch, files: newFiles(fs), logs: make(map[string]*Log), buried: make(map[string]bool), left: make(map[string]bool)}
	if err := d.load(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return d, nil
}

// makeDir makes a directory and those it is in, durably: a round of syncs begins
// with the names inside.
func makeDir(fs vfs.FS, path string) error {
	_, err := fs.Stat(path)
	if err == nil {
		return fs.MkdirAll(path) // it may be a file
	}
	if !errors.Is(err, iofs.ErrNotExist) {
		return err
	}
	parent := filepath.Dir(path)
	if err := makeDir(fs, parent); err != nil {
		return err
	}
	if err := fs.MkdirAll(path); err != nil {
		return err
	}
	return fs.SyncDir(parent)
}

func (d *Dir) load() error {
	names, err := d.fs.List(d.path)
	if err != nil {
		return err
	}
	if slices.Contains(names, cleanName) {
		d.epoch = d.readEpoch()
	}
	d.next.Store(d.epoch)
	if err := d.removeLeftovers(names); err != nil {
		return err
	}
	if d.points, err = d.readOffsets(recoveryPointsName, "all logs are then verified from their start"); err != nil {
		return err
	}
	if d.starts, err = d.readOffsets(startsName, "deleted records may then be back"); err != nil {
		return err
	}
	d.startsOnDisk = maps.Clone(d.starts)
	if d.watermarks, err = d.readOffsets(watermarksName, "what is acknowledged is then learned from the leaders again"); err != nil {
		return err
	}
	if d.cleaned, err = d.readOffsets(cleanedName, "gaps that compaction left are then taken for losses"); err != nil {
		return err
	}
	if d.compacted, err = d.readOffsets(compactedName, "logs are then compacted from their start"); err != nil {
		return err
	}
	for _, name := range names {
		if isDeletedDir(name) {
			d.due = append(d.due, removal{dir: name})
		}
		if isLogName(name) {
			d.left[name] = true
		}
	}
	d.found = len(d.left)
	if d.clean || !slices.ContainsFunc(names, func(name string) bool { return isLogName(name) || isDeletedDir(name) }) {
		return nil
	}
	// A process that died, unlike a machine, leaves its last writes in the page
	// cache. Recovery will take them for what is in the log, so they must be on
	// the disk, and the name of a log that was deleted before Sweep removes what is
	// in it. One call here saves one for each log.
	return d.fs.SyncAll(d.path)
}

func (d *Dir) readOffsets(name, without string) (offsets logOffsets, err error) {
	name = filepath.Join(d.path, name)
	b, err := ReadFile(d.fs, name)
	if err == nil {
		offsets, err = decodeLogOffsets(b)
	}
	if errors.Is(err, iofs.ErrNotExist) {
		return make(logOffsets), nil
	}
	if err != nil {
		return nil, fmt.Errorf("%w; if it cannot be restored, remove it: %s", in(name, err), without)
	}
	return offsets, nil
}

// removeLeftovers removes unfinished files and the clean marker, durably, for
// from here on the directory is not clean.
func (d *Dir) removeLeftovers(names []string) error {
	removed := false
	for _, name := range names {
		if name != cleanName && !strings.HasSuffix(name, tmpSuffix) {
			continue
		}
		if err := d.fs.Remove(filepath.Join(d.path, name)); err != nil {
			return err
		}
		removed = true
		d.clean = d.clean || name == cleanName
	}
	if !removed {
		return nil
	}
	return d.fs.SyncDir(d.path)
}

// Recovery tells how many of the log directories that were found at OpenDir have
// been opened since, or deleted or set aside.
func (d *Dir) Recovery() (done, total int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.found - len(d.left), d.found
}

// readEpoch takes the broker epoch from the marker of a clean stop. Like Kafka it takes a marker that says nothing, which
// its oldest versions wrote, for one without an epoch: the next registration is then one after a crash.
func (d *Dir) readEpoch() int64 {
	m := cleanMarker{BrokerEpoch: noBrokerEpoch}
	b, err := ReadFile(d.fs, filepath.Join(d.path, cleanName))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	if err != nil || m.BrokerEpoch < 0 {
		return noBrokerEpoch
	}
	return m.BrokerEpoch
}

// BrokerEpoch is the epoch of the broker that closed the directory last, -1 if it is not known or it did not close it.
func (d *Dir) BrokerEpoch() int64 { return d.epoch }

// SetBrokerEpoch tells under which epoch the directory is used: Close keeps it. Until then it is that of BrokerEpoch, since
// nothing that a broker vouches for has changed.
func (d *Dir) SetBrokerEpoch(epoch int64) { d.next.Store(epoch) }

// Clean tells whether the directory had been closed, and not left by a crash.
func (d *Dir) Clean() bool { return d.clean }

// IndexRebuilds counts the indexes that did not fit their segments.
func (d *Dir) IndexRebuilds() int64 { return d.rebuilds.Load() }

// Partitions lists the log directories that exist, by name.
func (d *Dir) Partitions() ([]string, error) {
	names, err := d.fs.List(d.path)
	if err != nil {
		return nil, err
	}
	var logs []string
	for _, name := range names {
		if !isLogName(name) {
			continue
		}
		info, err := d.fs.Stat(filepath.Join(d.path, name))
		if err != nil {
			return nil, err
		}
		if info.IsDir {
			logs = append(logs, name)
		}
	}
	return logs, nil
}

// OpenLog opens a log and recovers it if it has a directory. Different logs may
// be opened at the same time.
func (d *Dir) OpenLog(name string, cfg LogConfig, now time.Time) (*Log, Recovery, error) {
	if !isLogName(name) {
		return nil, Recovery{}, fmt.Errorf("%q cannot be the name of a log: it must end in a hyphen and a number", name)
	}
	l := &Log{d: d, name: name, topicID: cfg.TopicID, cfg: cfg}
	d.mu.Lock()
	known, found := d.logs[name] != nil, d.left[name]
	limits := offsetLimits{point: d.points[name], start: d.starts[name], cleaned: d.cleaned[name]}
	stale := limits.point > 0 || d.startsOnDisk[name] > 0 || limits.cleaned > 0 || d.watermarks[name] > 0
	if !known {
		d.logs[name] = l // before it is open: no other must recover the same files
	}
	d.mu.Unlock()
	if known {
		return nil, Recovery{}, fmt.Errorf("log %s is open already", name)
	}
	l.cleaned.Store(limits.cleaned)
	if !found && !stale {
		// If somebody else makes directories here, the first append meets that: see
		// makeDir. Of ten thousand new logs the calls that find nothing would be half
		// of the work.
		return l, Recovery{}, nil
	}
	rec, err := l.open(limits, stale, now)
	if err == nil {
		err = d.opened(l)
	}
	if err != nil {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.logs, name)
		return nil, rec, fmt.Errorf("open log %s: %w", name, err)
	}
	return l, rec, nil
}

// opened gives an open log its watermark, and how far it is compacted. One above the
// log's end, which a cut that the power ended leaves, must not come again once the log
// is longer.
func (d *Dir) opened(l *Log) error {
	d.mu.Lock()
	compacted := d.compacted[l.name]
	d.mu.Unlock()
	l.mu.Lock()
	l.compacted = min(compacted, l.end)
	l.mu.Unlock()
	d.mu.Lock()
	delete(d.left, l.name)
	known := d.watermarks[l.name]
	l.watermark.Store(min(known, l.end))
	d.mu.Unlock()
	if known <= l.end && compacted <= l.end {
		return nil
	}
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	return errors.Join(d.writeWatermarks(), d.writeCompacted())
}

// offsetLimits is what the checkpoints say of a log: it is durable below point,
// begins at start at the earliest, and may have gaps below cleaned.
type offsetLimits struct{ point, start, cleaned int64 }

func (l *Log) open(limits offsetLimits, stale bool, now time.Time) (Recovery, error) {
	_, err := l.d.fs.Stat(l.path())
	switch {
	case errors.Is(err, iofs.ErrNotExist) && !stale:
		return Recovery{}, nil
	case errors.Is(err, iofs.ErrNotExist):
		// Somebody removed the directory, to begin anew. If its point were still
		// on disk once there are new records, they would look like a loss, and
		// those below its start like deleted ones.
		return Recovery{}, l.d.forget(l.name)
	case err != nil:
		return Recovery{}, err
	}
	if aside, err := l.claim(limits.point); err != nil || aside != "" {
		return Recovery{SetAside: aside}, err
	}
	l.made, l.tagged = true, true
	return l.recover(limits, now)
}

// Failed returns the *FailedError that ended writing to the directory, or nil.
func (d *Dir) Failed() error {
	if failed := d.failed.Load(); failed != nil {
		return failed
	}
	return nil
}

// OnFailure has do called when Failed is not nil any more, once or twice, by whoever
// wrote: it must be quick.
func (d *Dir) OnFailure(do func()) {
	d.told.Store(&do)
	if d.Failed() != nil {
		do()
	}
}

// mustSync latches the directory if a sync has failed.
func (d *Dir) mustSync(err error) error {
	if err != nil {
		return d.fail(err)
	}
	return nil
}

// fail latches the directory. The first reason stays.
func (d *Dir) fail(err error) error {
	if d.failed.CompareAndSwap(nil, &FailedError{Dir: d.path, Latched: true, Err: err}) {
		if do := d.told.Load(); do != nil {
			(*do)()
		}
	}
	return d.failed.Load()
}

// refused makes an error of the file system that changed nothing a FailedError.
func (d *Dir) refused(err error) error {
	if failed, ok := errors.AsType[*FailedError](err); ok {
		return failed
	}
	return &FailedError{Dir: d.path, Err: noRoom(err)}
}

// readError does so for a read, unless the file could be read and is damaged.
func (d *Dir) readError(err error) error {
	if err == nil {
		return nil
	}
	if _, damaged := errors.AsType[*CorruptError](err); damaged {
		return err
	}
	return d.refused(err)
}

// Checkpoint writes how far each log is durable, if that has changed.
func (d *Dir) Checkpoint() error {
	if err := d.Failed(); err != nil {
		return err
	}
	if !d.moved.Swap(false) {
		return nil
	}
	err := d.checkpoint()
	if err != nil {
		d.moved.Store(true)
	}
	return err
}

func (d *Dir) checkpoint() error {
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	d.mu.Lock()
	points := maps.Clone(d.points)
	logs := maps.Clone(d.logs)
	cleaned := maps.Clone(d.cleaned)
	for name := range d.buried {
		delete(points, name)
		delete(cleaned, name)
	}
	clear(d.buried)
	d.mu.Unlock()
	for name, l := range logs { // one may have the name of a deleted log
		if offset := l.cleaned.Load(); offset > 0 {
			cleaned[name] = offset
		}
	}
	if err := d.writeCleaned(cleaned); err != nil {
		return err
	}
	for name, l := range logs {
		if offset := l.FlushedOffset(); offset > 0 {
			points[name] = offset
		}
	}
	if err := d.writePoints(points); err != nil {
		return err
	}
	return errors.Join(d.writeCompacted(), d.writeWatermarks())
}

// writeWatermarks writes how far logs are acknowledged. It is called with
// checkpointMu held.
func (d *Dir) writeWatermarks() error {
	return d.writeProgress(watermarksName, &d.watermarks, (*Log).HighWatermark)
}

// writeCompacted writes how far logs are compacted. It is called with checkpointMu
// held.
func (d *Dir) writeCompacted() error {
	return d.writeProgress(compactedName, &d.compacted, (*Log).Compacted)
}

// writeCompactedBut does so with no more than an offset for one log, in which a pass
// may be about to end.
func (d *Dir) writeCompactedBut(l *Log, offset int64) error {
	return d.writeProgress(compactedName, &d.compacted, func(of *Log) int64 {
		if of == l {
			return min(of.Compacted(), offset)
		}
		return of.Compacted()
	})
}

// writeProgress writes an offset of each log, if one has changed; of those that are
// not open yet, what was known.
func (d *Dir) writeProgress(name string, onDisk *logOffsets, of func(*Log) int64) error {
	now := make(logOffsets)
	d.mu.Lock()
	same := *onDisk
	for name, offset := range same {
		if d.left[name] {
			now[name] = offset
		}
	}
	logs := maps.Clone(d.logs)
	d.mu.Unlock()
	for name, l := range logs {
		if offset := of(l); offset > 0 {
			now[name] = offset
		}
	}
	if maps.Equal(now, same) {
		return nil
	}
	if err := ReplaceFile(d.fs, filepath.Join(d.path, name), now.encode()); err != nil {
		return d.refused(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	*onDisk = now
	return nil
}

// forget removes a log from the checkpoints.
func (d *Dir) forget(name string) error {
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	d.mu.Lock()
	if l := d.logs[name]; l != nil {
		l.cleaned.Store(0)
	}
	delete(d.starts, name)
	points, starts := maps.Clone(d.points), maps.Clone(d.starts)
	cleaned := maps.Clone(d.cleaned)
	delete(cleaned, name)
	_, known := d.startsOnDisk[name]
	d.mu.Unlock()
	if known {
		if err := d.writeStarts(starts); err != nil {
			return err
		}
	}
	if err := d.writeCleaned(cleaned); err != nil {
		return err
	}
	if _, known := points[name]; !known {
		return nil
	}
	delete(points, name)
	return d.writePoints(points)
}

// writePoints is called with checkpointMu held.
func (d *Dir) writePoints(points logOffsets) error {
	if err := ReplaceFile(d.fs, filepath.Join(d.path, recoveryPointsName), points.encode()); err != nil {
		return d.refused(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.points = points
	return nil
}

// writeCleaned writes which logs may have gaps, if that has changed. It is called
// with checkpointMu held.
func (d *Dir) writeCleaned(cleaned logOffsets) error {
	d.mu.Lock()
	same := maps.Equal(cleaned, d.cleaned)
	d.mu.Unlock()
	if same {
		return nil
	}
	if err := ReplaceFile(d.fs, filepath.Join(d.path, cleanedName), cleaned.encode()); err != nil {
		return d.refused(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cleaned = cleaned
	return nil
}

// Close makes everything durable and leaves the directory so that the next
// start has nothing to recover. No round is under way, and none begins.
func (d *Dir) Close(now time.Time) error {
	err := d.Failed()
	if err == nil {
		err = d.finish(now)
	}
	return errors.Join(err, d.CloseDirty())
}

// finish is a last flush of everything. The marker comes last: it vouches for
// all the rest.
func (d *Dir) finish(now time.Time) error {
	d.mu.Lock()
	logs := slices.SortedFunc(maps.Values(d.logs), func(a, b *Log) int { return strings.Compare(a.name, b.name) })
	d.mu.Unlock()
	ends := make([]int64, len(logs))
	for i, l := range logs {
		var err error
		if ends[i], err = l.complete(now); err != nil {
			return d.refused(err)
		}
	}
	if err := d.fs.SyncAll(d.path); err != nil {
		return d.fail(err)
	}
	for i, l := range logs {
		l.durable(ends[i])
	}
	if err := d.checkpoint(); err != nil {
		return err
	}
	epoch, vouched := d.vouched()
	if !vouched {
		return nil
	}
	marker, err := json.Marshal(cleanMarker{BrokerEpoch: epoch})
	if err != nil {
		return err
	}
	return ReplaceFile(d.fs, filepath.Join(d.path, cleanName), marker)
}

// vouched is what the marker may say. A log that was found and never opened is as
// it was: what a crash left of it nobody has recovered, and then there is no
// marker. After an orderly stop it is what the broker of that stop had, and no
// other epoch vouches for it.
func (d *Dir) vouched() (epoch int64, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	switch epoch = d.next.Load(); {
	case len(d.left) == 0 || d.clean && epoch == d.epoch:
		return epoch, true
	default:
		return noBrokerEpoch, d.clean
	}
}

// complete writes what the log holds in memory only, and returns its end.
func (l *Log) complete(now time.Time) (int64, error) {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	if len(l.segments) == 0 {
		return l.end, nil
	}
	seg := l.active()
	l.addTime(seg)
	if len(seg.tail.offsets) > 0 || len(seg.tail.times) > 0 {
		if err := l.spill(seg); err != nil {
			return 0, err
		}
	}
	return l.end, l.snapshot(l.config(), now, false)
}

// CloseDirty lets go of the files and the lock and writes nothing, as a crash
// of the process would.
func (d *Dir) CloseDirty() error {
	d.fail(errClosed)
	d.mu.Lock()
	logs, due := d.logs, d.due
	d.logs, d.dirty, d.due = make(map[string]*Log), nil, nil
	d.mu.Unlock()
	for _, l := range logs {
		l.unpin()
	}
	for _, r := range due {
		if r.held != nil {
			r.log.let(r.held)
		}
	}
	d.files.close()
	return d.lock.Close()
}

// unpin gives up the files with unsynced writes.
func (l *Log) unpin() {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	p := l.take()
	for _, f := range p.files {
		l.d.files.release(f)
	}
}
