package replica

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch"
)

// Replica is one partition on this broker: its log, and the core that decides.
type Replica struct {
	m       *Manager
	key     key
	name    string
	traffic atomic.Pointer[traffic] // its topic's, once it was used
	source  atomic.Pointer[source]  // of a follower; the goroutine of Apply stores it

	proposes bool // waits for the controller to be asked; Manager.isrMu

	mu       sync.Mutex // guards the following; order: Manager.mu before it, storage's locks after it
	part     *partition.Partition
	log      *storage.Log // nil when broken at opening
	broken   error        // why nothing can be read or written here any more
	damaged  bool         // its files are; it may be read and written still
	spared   time.Time    // until when it is not compacted
	watchers []*Watcher
	set      settings
}

// Appended tells where a batch stands in the log.
type Appended struct {
	Base, Last, LogStart int64
	Duplicate            bool
}

// Append writes one batch that Rules have accepted as the leader. Where item is given and the
// batch is not yet as durable as acks asks, item is pending when Append
// returns. A repeated batch is not written again: it gets its first offset and
// waits for that.
func (r *Replica) Append(records []byte, acks partition.Acks, item *WaitItem, now time.Time) (Appended, error) {
	r.mu.Lock()
	a, e, err := r.append(records, acks, item, now)
	r.notify(e)
	if err == nil && !a.Duplicate {
		r.grown()
	}
	r.mu.Unlock()
	r.finish(e)
	if err == nil && !a.Duplicate {
		r.m.countAppend(r, a.Last-a.Base+1, int64(len(records)))
	}
	return a, err
}

// append is Append under r.mu.
func (r *Replica) append(records []byte, acks partition.Acks, item *WaitItem, now time.Time) (Appended, partition.Effects, error) {
	var e partition.Effects
	if err := r.checkAppend(acks); err != nil {
		return Appended{}, e, err
	}
	at, err := r.log.Append(records, r.part.LeaderEpoch(), now)
	if err != nil {
		return Appended{}, e, storageError(err)
	}
	if !at.Duplicate {
		e = r.part.Appended(at.Last+1, now)
		r.m.wakeFlusher()
	}
	if item != nil && r.part.Await(at.Last+1, acks, item) {
		item.register()
	}
	return Appended{Base: at.Base, Last: at.Last, LogStart: r.log.StartOffset(), Duplicate: at.Duplicate}, e, nil
}

// Rules are what the topic asks of batches. The error is what Append would
// refuse whatever the batch is.
func (r *Replica) Rules(acks partition.Acks) (*batch.Rules, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.set.rules, r.checkAppend(acks)
}

func (r *Replica) checkAppend(acks partition.Acks) error {
	if r.broken != nil {
		return r.broken
	}
	return r.part.CheckAppend(acks)
}

// View is what a reader gets.
type View struct {
	HighWatermark, LogStart int64
	Limit                   int64 // where what the reader may see ends
	Records                 storage.Region

	leaderEpoch int32
	current     bool // the high watermark is where the epoch began, or further
	led         bool // here
}

// Reader is who reads.
type Reader uint8

// Readers: a consumer sees what is below the high watermark, and one that can read
// anywhere also at a follower; a follower sees all.
const (
	Consumer Reader = iota
	Anywhere
	Follower
)

// Read gives whole batches that the reader may see, from the one that holds
// offset on, as far as maxBytes goes; with atLeastOne the first batch is given
// whatever its size. Between the high watermark and the log end there is
// nothing to see yet for consumers. The view's offsets are filled in on
// ErrOffsetOutOfRange as well.
func (r *Replica) Read(who Reader, offset int64, leaderEpoch int32, maxBytes int64, atLeastOne bool) (View, error) {
	log, v, err := r.lookAs(who, leaderEpoch)
	if err != nil {
		return v, err
	}
	if who == Follower {
		v.Limit = log.EndOffset()
	} else if end := log.EndOffset(); offset > v.Limit && offset <= end {
		return v, nil
	} else if offset > end && !v.led { // the leader may have it
		return v, ErrOffsetNotAvailable
	}
	v.Records, err = log.Read(offset, v.Limit, maxBytes, atLeastOne)
	r.found(log, err)
	return v, storageError(err)
}

// View is what there is to know without reading records.
func (r *Replica) View(leaderEpoch int32) (View, error) {
	_, v, err := r.look(leaderEpoch)
	return v, err
}

// Nearest is another broker to read an offset from, for a consumer in a rack: -1 if
// this one is as near, or none has the offset. Only the leader sends consumers away.
func (r *Replica) Nearest(rack string, offset int64) int32 {
	img := r.m.image.Load()
	in := func(id int32) bool {
		b, ok := img.Broker(id)
		return ok && b.Active() && b.Rack == rack
	}
	if in(r.m.cfg.NodeID) {
		return -1
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	id, _ := r.part.Nearest(offset, in)
	return id
}

// look is the part of a read that needs the lock.
func (r *Replica) look(leaderEpoch int32) (*storage.Log, View, error) {
	return r.lookAs(Consumer, leaderEpoch)
}

func (r *Replica) lookAs(who Reader, leaderEpoch int32) (*storage.Log, View, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	none := View{HighWatermark: -1, LogStart: -1}
	if r.broken != nil {
		return nil, none, r.broken
	}
	check := r.part.CheckLeader
	if who == Anywhere {
		check = r.part.CheckReader
	}
	if err := check(leaderEpoch); err != nil {
		return nil, none, err
	}
	hw := r.part.HighWatermark()
	return r.log, View{HighWatermark: hw, LogStart: r.log.StartOffset(), Limit: hw, leaderEpoch: r.part.LeaderEpoch(), current: r.part.Current(), led: r.part.Leader() == r.m.cfg.NodeID}, nil
}

// Position is an offset, the leader epoch its record was written in, and where
// a time was asked for the record's timestamp; -1 where there is none.
type Position struct {
	Offset    int64
	Epoch     int32
	Timestamp int64
}

// Nowhere is the position of what is not there.
var Nowhere = Position{-1, -1, -1}

// Earliest and Latest are the ends of what a consumer can see.
func (r *Replica) Earliest(leaderEpoch int32) (Position, error) {
	log, v, err := r.look(leaderEpoch)
	if err != nil {
		return Nowhere, err
	}
	if v.LogStart == log.EndOffset() {
		return Position{v.LogStart, v.leaderEpoch, -1}, nil
	}
	return Position{v.LogStart, log.EpochAt(v.LogStart), -1}, nil
}

// Latest is the high watermark, with the epoch that writes now. A new leader does
// not tell it until it has caught up with what the one before may have told
// (KIP-207).
func (r *Replica) Latest(leaderEpoch int32) (Position, error) {
	_, v, err := r.look(leaderEpoch)
	if err == nil && !v.current {
		err = ErrOffsetNotAvailable
	}
	if err != nil {
		return Nowhere, err
	}
	return Position{v.HighWatermark, v.leaderEpoch, -1}, nil
}

// OffsetForTime is the first record with a timestamp of at least ts
// (milliseconds since 1970), Nowhere if a consumer can see none.
func (r *Replica) OffsetForTime(ts int64, leaderEpoch int32) (Position, error) {
	return r.search(leaderEpoch, func(log *storage.Log, below int64) (storage.TimeOffset, bool, error) {
		return log.OffsetForTime(ts, below)
	})
}

// Progress is where consumers that have read up to some offsets stand: the end of what
// they can see, and when the record at each offset was written, or the first one behind
// it where there is none any more; -1 if there is none to see, or nobody knows.
func (r *Replica) Progress(offsets []int64) (high int64, written []int64, err error) {
	log, v, err := r.look(-1)
	if err == nil && !v.current {
		err = ErrOffsetNotAvailable
	}
	if err != nil {
		return 0, nil, err
	}
	written = make([]int64, len(offsets))
	for i, offset := range offsets {
		written[i] = -1
		if offset = max(offset, v.LogStart); offset >= v.HighWatermark {
			continue
		}
		at, ok, err := log.Written(offset, v.HighWatermark)
		if r.found(log, err); ok && err == nil {
			written[i] = at
		}
	}
	return v.HighWatermark, written, nil
}

// MaxTimestamp is the record with the largest timestamp, the first of several.
func (r *Replica) MaxTimestamp(leaderEpoch int32) (Position, error) {
	return r.search(leaderEpoch, (*storage.Log).MaxTimestamp)
}

func (r *Replica) search(leaderEpoch int32, find func(*storage.Log, int64) (storage.TimeOffset, bool, error)) (Position, error) {
	log, v, err := r.look(leaderEpoch)
	if err != nil {
		return Nowhere, err
	}
	at, ok, err := find(log, v.HighWatermark)
	r.found(log, err)
	if err != nil || !ok {
		return Nowhere, storageError(err)
	}
	return Position{at.Offset, log.EpochAt(at.Offset), at.Timestamp}, nil
}

// EndOffsetForEpoch tells where the records of a leader epoch end, or of the
// latest one before it (KIP-320): -1 and -1 for an epoch to come.
func (r *Replica) EndOffsetForEpoch(epoch, leaderEpoch int32) (partition.EpochEnd, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkLeader(leaderEpoch); err != nil {
		return partition.EpochEnd{Epoch: -1, End: -1}, err
	}
	return r.part.EndOf(epoch, r.epochEnd(epoch)), nil
}

// Diverges tells whether a reader whose last record is of an epoch, before an
// offset, has read something else than is here, and where that epoch ends. A
// follower does not know: what it has may be cut.
func (r *Replica) Diverges(who Reader, epoch int32, offset int64, leaderEpoch int32) (here partition.EpochEnd, differs bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.checkLeader(leaderEpoch); err != nil {
		if who == Anywhere && errors.Is(err, partition.ErrNotLeader) {
			return partition.EpochEnd{}, false, nil
		}
		return here, false, err
	}
	here, differs = r.part.Diverges(epoch, offset, r.epochEnd(epoch))
	return here, differs, nil
}

func (r *Replica) checkLeader(leaderEpoch int32) error {
	if r.broken != nil {
		return r.broken
	}
	return r.part.CheckLeader(leaderEpoch)
}

func (r *Replica) epochEnd(epoch int32) (e partition.EpochEnd) {
	e.Epoch, e.End = r.log.EndOffsetForEpoch(epoch)
	return e
}

// Reported takes what a follower says of itself with a fetch.
func (r *Replica) Reported(rep partition.Report, now time.Time) error {
	rep.Eligible = mayBeInSync(r.m.image.Load(), rep.Replica, rep.BrokerEpoch)
	r.mu.Lock()
	var e partition.Effects
	err := r.broken
	if err == nil {
		e, err = r.part.Reported(rep, r.epochEnd(rep.LastEpoch), r.log.StartOffset(), now)
	}
	r.notify(e)
	r.mu.Unlock()
	r.finish(e)
	return err
}

// DeleteRecords gives up the records below an offset, or with -1 all that a
// consumer can see, and returns the log's start. item is pending until the followers
// that are there have given them up too.
func (r *Replica) DeleteRecords(offset int64, item *WaitItem, now time.Time) (start int64, err error) {
	log, v, err := r.look(-1)
	if err != nil {
		return -1, err
	}
	if offset == -1 {
		offset = v.HighWatermark
	}
	switch {
	case !r.mayDelete():
		return -1, ErrCompacted
	case offset < 0 || offset > v.HighWatermark:
		return -1, fmt.Errorf("%w: %d, the high watermark is %d", ErrOffsetOutOfRange, offset, v.HighWatermark)
	}
	if err := log.AdvanceStart(offset, now); err != nil {
		return -1, storageError(err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.notify(partition.Effects{Moved: true})
	r.grown() // followers are to hear of it at once
	start = log.StartOffset()
	if r.part.AwaitStart(min(offset, start), item) {
		item.register()
	}
	return start, nil
}

func (r *Replica) mayDelete() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.set.deletes
}

// Producers lists the idempotent producers that the leader remembers.
func (r *Replica) Producers(now time.Time) ([]storage.ProducerState, error) {
	log, _, err := r.look(-1)
	if err != nil {
		return nil, err
	}
	return log.Producers(now), nil
}

// LogStart is the first offset in the log, -1 if there is none.
func (r *Replica) LogStart() int64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log == nil {
		return -1
	}
	return r.log.StartOffset()
}

// Size is what the replica's segments take of the disk.
func (r *Replica) Size() int64 {
	r.mu.Lock()
	log := r.log
	r.mu.Unlock()
	if log == nil {
		return 0
	}
	bytes, _ := log.Size()
	return bytes
}

// Status is what a scrape asks of a replica.
type Status struct {
	Bytes                     int64
	Segments                  int
	Start, End, HighWatermark int64
	MinISR                    int
	Lag                       int64 // of a follower, see partition.Partition.Lag
	Err                       error // why nothing can be read or written here
}

// Status tells how the replica stands.
func (r *Replica) Status() Status {
	r.mu.Lock()
	log := r.log
	s := Status{HighWatermark: r.part.HighWatermark(), MinISR: r.set.partition.MinISR, Lag: r.part.Lag(), Err: r.broken}
	r.mu.Unlock()
	if log != nil {
		s.Bytes, s.Segments = log.Size()
		s.Start, s.End = log.StartOffset(), log.EndOffset()
	}
	return s
}

// update takes over a state from the image.
func (r *Replica) update(s *image.Partition, set settings) {
	r.mu.Lock()
	anew := r.renew(s, set)
	r.notify(anew.left)
	if r.broken != nil {
		r.mu.Unlock()
		r.begun(anew)
		return
	}
	r.log.SetConfig(set.log)
	before := r.set.throttled[leading]
	r.set = set
	e := r.part.Update(s, set.partition, r.log.EndOffset(), r.log.FlushedOffset(), time.Now())
	r.notify(e)
	r.easeOff(&before)
	r.mu.Unlock()
	r.begun(anew)
	r.finish(e)
	r.m.follow(r)
}

// begun does what renew left. Only the goroutine of Apply calls it.
func (r *Replica) begun(n renewed) {
	if n.had != nil {
		r.m.mu.Lock()
		delete(r.m.logs, n.had)
		r.m.mu.Unlock()
	}
	if n.log != nil {
		r.m.flushes(n.log, r)
	}
	if n.old != nil {
		n.old.f.drop(n.old)
	}
	r.finish(n.left)
}

// flushed says that a log is durable below end. It may be the one that the replica had
// before.
func (r *Replica) flushed(log *storage.Log, end int64) {
	r.act(func(now time.Time) partition.Effects {
		if r.log != log {
			return partition.Effects{}
		}
		return r.part.Flushed(end, now)
	})
	if s := r.source.Load(); s != nil {
		s.f.tell(s, false)
	}
}

// act has the core take something in.
func (r *Replica) act(do func(now time.Time) partition.Effects) {
	r.mu.Lock()
	if r.broken != nil {
		r.mu.Unlock()
		return
	}
	e := do(time.Now())
	r.notify(e)
	r.mu.Unlock()
	r.finish(e)
}

// fail ends all use of the replica.
func (r *Replica) fail(err error) {
	r.mu.Lock()
	r.broken = err
	e := partition.Effects{Failed: r.part.Fail(), Failure: err, Moved: true}
	r.notify(e)
	r.mu.Unlock()
	r.finish(e)
}

// finish does what needs no lock: an answer may be built here.
func (r *Replica) finish(e partition.Effects) {
	for _, t := range e.Done {
		t.(*WaitItem).complete(nil)
	}
	for _, t := range e.Failed {
		t.(*WaitItem).complete(e.Failure)
	}
	if e.Propose {
		r.m.propose(r)
	}
}

// Watcher is told when a partition may have something new for a reader.
type Watcher struct{ moved, grown func() }

// NewWatcher makes a watcher of what consumers can see. notify is called under
// the partition's lock: it must be quick, and leave the partition alone.
func NewWatcher(notify func()) *Watcher { return &Watcher{moved: notify} }

// NewFollowerWatcher makes a watcher of the log's end and, for less urgent news, of
// the high watermark.
func NewFollowerWatcher(grown, moved func()) *Watcher { return &Watcher{moved, grown} }

// Watch adds w to those who are told.
func (r *Replica) Watch(w *Watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers = append(r.watchers, w)
}

// Unwatch removes w.
func (r *Replica) Unwatch(w *Watcher) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i, x := range r.watchers {
		if x == w {
			last := len(r.watchers) - 1
			r.watchers[i] = r.watchers[last]
			r.watchers[last] = nil
			r.watchers = r.watchers[:last]
			return
		}
	}
}

// notify tells the watchers. r.mu is held.
func (r *Replica) notify(e partition.Effects) {
	if e.Moved && r.log != nil {
		r.log.SetHighWatermark(r.part.HighWatermark())
	}
	if e.Failure != nil {
		r.grown()
	}
	for _, w := range r.watchers {
		if e.Moved || e.Failure != nil {
			w.moved()
		}
	}
}

// grown tells those who read to the log's end. r.mu is held.
func (r *Replica) grown() {
	for _, w := range r.watchers {
		if w.grown != nil {
			w.grown()
		}
	}
}
