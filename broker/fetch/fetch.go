// Package fetch answers Fetch requests: passes of reads over partitions, the
// wait for enough data, sessions, and the answer, written by hand around
// regions of segment files.
//
// A request without a session reads every partition that it names. A session
// (KIP-227) is a standing subscription: a partition that changes puts itself
// into the session's dirty list, and a request reads what is in there.
//
// Followers fetch like consumers, to the log's end. Each request of theirs also
// reports how far they are, and ends the one that waits with an empty answer, so
// that a flush is reported at once. One that is throttled is given no records while
// there is debt, and its request goes on waiting (KIP-73).
package fetch

import (
	"container/list"
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/streambus/streambus/broker/replica"
)

// Name is a partition as requests name it.
type Name struct {
	Topic string   // before version 13
	ID    [16]byte // from version 13 on
	Index int32
}

// Ask is one partition to read.
type Ask struct {
	Replica     *replica.Replica
	Err         error // set instead of Replica: what the partition is refused with
	Offset      int64
	LeaderEpoch int32 // as the client knows it, -1 for not at all
	LastEpoch   int32 // leader epoch of the record before Offset as the client read it, -1 for not known
	MaxBytes    int32
	Reader      replica.Reader
	Rack        string // of the consumer, empty if it is to be served here
	Quiet       bool   // no records are wanted: those that were answered last are on their way
}

// Request is what to read and how long to wait for it.
type Request struct {
	Asks               []Ask
	MinBytes, MaxBytes int32
	MaxWait            time.Duration
}

// Row is what one Ask comes to.
type Row struct {
	replica.View
	Replica   *replica.Replica // nil if there is none
	Diverging Divergence
	Err       error

	// Preferred is the broker to read from instead, with Elsewhere (KIP-392).
	Elsewhere bool
	Preferred int32

	PointsToLeader bool // with an error: Leader is the one to go to
	Leader         Leader
}

// Leader is who leads a partition, -1 for nobody.
type Leader struct{ ID, Epoch int32 }

// Node is where a client reaches a broker.
type Node struct {
	ID   int32
	Host string
	Port int32
	Rack string
}

// Divergence says that the client has read records that are gone: those of
// Epoch, the latest that both know, end at End. Zero is none.
type Divergence struct {
	Found bool
	Epoch int32
	End   int64
}

// Fetcher runs requests and keeps those that wait. Waiting holds no goroutine.
type Fetcher struct {
	maxBytes int32 // fetch.max.bytes
	// prompt tells followers at once that the high watermark has moved, which those
	// who read from them wait for.
	prompt bool
	slots  int // max.incremental.fetch.session.cache.slots

	mu       sync.Mutex // guards the following
	parked   map[*waiting]struct{}
	closed   bool
	sessions map[int32]*list.Element // of *session
	recent   *list.List              // sessions, the one used last in front
	parts    int                     // of all sessions
	follows  map[int32]int32         // the session of each follower, by its broker
}

// New makes a Fetcher whose answers are at most maxBytes, except that the first
// batch is always given whole, and that keeps at most so many sessions. With prompt
// followers hear of the high watermark at once, and not with the next records.
func New(maxBytes int32, sessions int, prompt bool) *Fetcher {
	return &Fetcher{
		maxBytes: maxBytes, prompt: prompt, slots: sessions, parked: map[*waiting]struct{}{},
		sessions: map[int32]*list.Element{}, recent: list.New(), follows: map[int32]int32{},
	}
}

// turn is one request as a wait sees it.
type turn interface {
	// read returns how to answer, or nil if there is not enough yet, unless an
	// answer must be given.
	read(must bool) (answer func())
	// watch asks for wake to be called, at any time and under any lock, when
	// there may be more to read, until unwatch.
	watch(wake func())
	unwatch()
}

// Start reads, and calls done once with a row for each Ask: at once when there
// is enough, else when there is or the wait is over, from another goroutine.
// It is never called when ctx ends before.
func (f *Fetcher) Start(ctx context.Context, req Request, done func([]Row)) {
	f.run(ctx, req.MaxWait, &full{req: f.limit(req), done: done})
}

func (f *Fetcher) limit(req Request) Request {
	req.MaxBytes = min(req.MaxBytes, f.maxBytes)
	req.MinBytes = min(req.MinBytes, req.MaxBytes) // more can never come
	return req
}

// run answers now, or waits. It returns the wait, or nil.
func (f *Fetcher) run(ctx context.Context, maxWait time.Duration, t turn) *waiting {
	if answer := t.read(maxWait <= 0); answer != nil {
		answer()
		return nil
	}
	w := &waiting{f: f, turn: t}
	if !w.begin(ctx, maxWait) {
		t.read(true)()
		return nil
	}
	w.look(false) // what came between the read and the watching told nobody
	return w
}

// full reads every partition that it names.
type full struct {
	req     Request
	done    func([]Row)
	watcher *replica.Watcher
}

func (t *full) read(must bool) func() {
	rows, enough := pass(&t.req)
	if must || enough || len(rows) == 0 {
		return func() { t.done(rows) }
	}
	return nil
}

func (t *full) watch(wake func()) {
	t.watcher = replica.NewWatcher(wake)
	for i := range t.req.Asks {
		t.req.Asks[i].Replica.Watch(t.watcher)
	}
}

func (t *full) unwatch() {
	for i := range t.req.Asks {
		t.req.Asks[i].Replica.Unwatch(t.watcher)
	}
}

// Close answers every waiting request with what there is, and lets no further
// one wait.
func (f *Fetcher) Close() {
	f.mu.Lock()
	f.closed = true
	parked := make([]*waiting, 0, len(f.parked))
	for w := range f.parked {
		parked = append(parked, w)
	}
	f.mu.Unlock()
	for _, w := range parked {
		w.look(true)
	}
}

func (f *Fetcher) park(w *waiting) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.closed {
		f.parked[w] = struct{}{}
	}
	return !f.closed
}

// pass reads every partition once, in order, under the limits of KIP-74: the
// first batch of the first partition that has any is given whole whatever the
// limits; after that they hold. It tells whether that is worth an answer.
func pass(req *Request) ([]Row, bool) {
	rows, enough := read(req)
	if !enough && backlog(req, rows) >= int64(req.MinBytes) {
		rows, _ = read(req) // some of it may have come since
		return rows, true
	}
	return rows, enough
}

// read is one pass, which tells whether what it found suffices.
func read(req *Request) (rows []Row, enough bool) {
	rows = make([]Row, len(req.Asks))
	var bytes int64
	for i := range req.Asks {
		ask, row := &req.Asks[i], &rows[i]
		row.Replica = ask.Replica
		if ask.Err != nil {
			row.View = replica.View{HighWatermark: -1, LogStart: -1}
			row.Err, enough = ask.Err, true
			continue
		}
		if ask.Quiet {
			row.View, row.Err = ask.Replica.View(ask.LeaderEpoch)
			enough = enough || row.Err != nil
			continue
		}
		if ask.Rack != "" && row.sendAway(ask) {
			enough = true
			continue
		}
		room := min(int64(req.MaxBytes)-bytes, int64(ask.MaxBytes))
		if ask.LastEpoch >= 0 {
			row.diverge(ask)
		}
		if row.Diverging.Found {
			row.View, row.Err = ask.Replica.View(ask.LeaderEpoch)
		} else if row.Err == nil {
			row.View, row.Err = ask.Replica.Read(ask.Reader, ask.Offset, ask.LeaderEpoch, max(room, 0), bytes == 0)
		}
		if row.Err != nil && ask.Reader != replica.Follower {
			// Nothing is said of the partition then, as by Apache Kafka. A follower is
			// told where the log begins, and need not ask.
			row.View = replica.View{HighWatermark: -1, LogStart: -1}
		}
		bytes += row.Records.Len()
		enough = enough || row.Err != nil || row.Diverging.Found
	}
	return rows, enough || bytes >= int64(req.MinBytes)
}

// sendAway tells a consumer of a replica in its rack, and gives it nothing.
func (row *Row) sendAway(ask *Ask) bool {
	v, err := ask.Replica.View(ask.LeaderEpoch)
	if err != nil { // it is told as it is read: only the leader knows who is near
		return false
	}
	row.Preferred = ask.Replica.Nearest(ask.Rack, ask.Offset)
	if row.Elsewhere = row.Preferred >= 0; row.Elsewhere {
		row.View = v
	}
	return row.Elsewhere
}

// diverge finds out whether the client has read records that are gone
// (KIP-320): then it gets none, but where to go back to. That comes before the
// offset is looked for, which may be beyond the end.
func (row *Row) diverge(ask *Ask) {
	here, differs, err := ask.Replica.Diverges(ask.Reader, ask.LastEpoch, ask.Offset, ask.LeaderEpoch)
	switch {
	case err != nil:
		row.Err = err
	case here.Epoch == -1: // an epoch that nobody has led in
		row.Err = fmt.Errorf("%w: no record was written in epoch %d", replica.ErrOffsetOutOfRange, ask.LastEpoch)
	case differs && ask.Offset >= ask.Replica.LogStart(): // else reading there tells more
		row.Diverging = Divergence{true, here.Epoch, here.End}
	}
}

// backlog is what there is for a request, as far as its partitions' limits go.
// It is more than the rows have where a limit falls between two batches: no
// wait would bring what does not fit.
func backlog(req *Request, rows []Row) int64 {
	var bytes int64
	for i := range rows {
		if ask := &req.Asks[i]; ask.Offset < rows[i].Limit && !ask.Quiet && !rows[i].Diverging.Found {
			// What fails here fails the next pass: the rows stand as they were read.
			v, _ := ask.Replica.Read(ask.Reader, ask.Offset, ask.LeaderEpoch, math.MaxInt64, true)
			bytes += min(v.Records.Len(), max(int64(ask.MaxBytes), rows[i].Records.Len()))
		}
	}
	return bytes
}

// waiting is a request that had too little when it came.
type waiting struct {
	f     *Fetcher
	turn  turn
	fired atomic.Bool // a look is due

	mu       sync.Mutex // guards the following, and makes looks follow one another
	over     bool
	deadline *time.Timer
	detach   func() bool
}

// begin makes the request wait, unless the fetcher is closed. Its lock is held
// throughout: whoever looks meanwhile finds it complete.
func (w *waiting) begin(ctx context.Context, maxWait time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.f.park(w) {
		return false
	}
	w.turn.watch(func() {
		if w.fired.CompareAndSwap(false, true) {
			go w.look(false)
		}
	})
	w.deadline = time.AfterFunc(maxWait, func() { w.look(true) })
	w.detach = context.AfterFunc(ctx, w.abandon)
	return true
}

// look reads again and answers if that suffices, or if it must.
func (w *waiting) look(must bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.fired.Store(false) // before the read: what happens after it is told again
	if answer := w.turn.read(must); answer != nil {
		w.leave()
		answer()
	}
}

// cut answers with what is given instead of what there is.
func (w *waiting) cut(answer func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.leave()
		answer()
	}
}

// abandon forgets a request whose connection has ended.
func (w *waiting) abandon() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.over {
		w.leave()
	}
}

// leave undoes what begin set up. w.mu is held.
func (w *waiting) leave() {
	w.over = true
	w.deadline.Stop()
	w.detach()
	w.turn.unwatch()
	w.f.mu.Lock()
	delete(w.f.parked, w)
	w.f.mu.Unlock()
}
