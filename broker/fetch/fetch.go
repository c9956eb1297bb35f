// Package fetch answers Fetch requests: passes of reads over partitions, the
// wait for enough data, and the answer, written by hand around regions of
// segment files.
package fetch

import (
	"context"
	"math"
	"sync"
	"time"

	"github.com/streambus/streambus/broker/replica"
)

// Ask is one partition of a request, in the request's order.
type Ask struct {
	Replica     *replica.Replica
	Err         error // set instead of Replica: what the partition is refused with
	Offset      int64
	LeaderEpoch int32 // as the client knows it, -1 for not at all
	MaxBytes    int32
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
	Err error
}

// Fetcher runs requests and keeps those that wait. Waiting holds no goroutine.
type Fetcher struct {
	maxBytes int32 // fetch.max.bytes

	mu     sync.Mutex // guards the following
	parked map[*waiting]struct{}
	closed bool
}

// New makes a Fetcher whose answers are at most maxBytes, except that the first
// batch is always given whole.
func New(maxBytes int32) *Fetcher {
	return &Fetcher{maxBytes: maxBytes, parked: map[*waiting]struct{}{}}
}

// Start reads, and calls done once with a row for each Ask: at once when there
// is enough, else when there is or the wait is over, from another goroutine.
// It is never called when ctx ends before.
func (f *Fetcher) Start(ctx context.Context, req Request, done func([]Row)) {
	req.MaxBytes = min(req.MaxBytes, f.maxBytes)
	req.MinBytes = min(req.MinBytes, req.MaxBytes) // more can never come
	rows, enough := pass(&req)
	if enough || req.MaxWait <= 0 {
		done(rows)
		return
	}
	w := &waiting{f: f, req: req, done: done}
	w.watcher = replica.NewWatcher(func() { w.look(false) })
	if !w.begin(ctx) {
		done(rows)
		return
	}
	w.look(false) // what came between the pass and the watching told nobody
}

// begin makes the request wait, unless the fetcher is closed. Its lock is held
// throughout: whoever looks meanwhile finds it complete.
func (w *waiting) begin(ctx context.Context) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.f.park(w) {
		return false
	}
	for i := range w.req.Asks {
		w.req.Asks[i].Replica.Watch(w.watcher)
	}
	w.deadline = time.AfterFunc(w.req.MaxWait, func() { w.look(true) })
	w.detach = context.AfterFunc(ctx, w.abandon)
	return true
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
	rows := make([]Row, len(req.Asks))
	var bytes int64
	enough := len(rows) == 0
	for i := range req.Asks {
		ask, row := &req.Asks[i], &rows[i]
		if ask.Err != nil {
			row.View = replica.View{HighWatermark: -1, LogStart: -1}
			row.Err, enough = ask.Err, true
			continue
		}
		room := min(int64(req.MaxBytes)-bytes, int64(ask.MaxBytes))
		row.View, row.Err = ask.Replica.Read(ask.Offset, ask.LeaderEpoch, max(room, 0), bytes == 0)
		bytes += row.Records.Len()
		enough = enough || row.Err != nil
	}
	return rows, enough || bytes >= int64(req.MinBytes) || backlog(req, rows) >= int64(req.MinBytes)
}

// backlog is what there is for a request, as far as its partitions' limits go.
// It is more than the rows have where a limit falls between two batches: no
// wait would bring what does not fit.
func backlog(req *Request, rows []Row) int64 {
	var bytes int64
	for i := range rows {
		if ask := &req.Asks[i]; ask.Offset < rows[i].HighWatermark {
			// What fails here fails the next pass: the rows stand as they were read.
			v, _ := ask.Replica.Read(ask.Offset, ask.LeaderEpoch, math.MaxInt64, true)
			bytes += min(v.Records.Len(), max(int64(ask.MaxBytes), rows[i].Records.Len()))
		}
	}
	return bytes
}

// waiting is a request that had too little when it came.
type waiting struct {
	f       *Fetcher
	req     Request
	done    func([]Row)
	watcher *replica.Watcher

	mu       sync.Mutex // guards the following, and makes looks follow one another
	over     bool
	deadline *time.Timer
	detach   func() bool
}

// look reads again and answers if that suffices, or if it must.
func (w *waiting) look(must bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return
	}
	w.watcher.Arm()
	if rows, enough := pass(&w.req); enough || must {
		w.leave()
		w.done(rows)
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

// leave undoes what Start set up. w.mu is held.
func (w *waiting) leave() {
	w.over = true
	w.deadline.Stop()
	w.detach()
	for i := range w.req.Asks {
		w.req.Asks[i].Replica.Unwatch(w.watcher)
	}
	w.f.mu.Lock()
	delete(w.f.parked, w)
	w.f.mu.Unlock()
}
