package fetch

import (
	"cmp"
	"container/list"
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
)

// Errors that concern a session as a whole.
var (
	ErrNoSession    = errors.New("there is no such fetch session")
	ErrSessionEpoch = errors.New("the request is not the next one of its fetch session")
	ErrSessionNames = errors.New("the fetch session names topics the other way, by id or by name")
)

const (
	// openEpoch asks for a session, closeEpoch ends one. All others continue.
	openEpoch, closeEpoch = 0, -1
	// evictAfter is how long a session must have been idle to make room for
	// another, as in Apache Kafka (min.incremental.fetch.session.eviction.ms).
	evictAfter = 2 * time.Minute
	// maxParts bounds the partitions of all sessions.
	maxParts = 2_000_000
)

// Partition is a partition and what to read of it. Its Replica and Err are
// found by Resolve.
type Partition struct {
	Name
	Ask
	// With Incoming.Follower:
	State    protocol.FollowerState
	LogStart int64
}

// Follower is the broker that a follower's request comes from.
type Follower struct {
	ID    int32
	Epoch int64
}

// Incoming is a Fetch request as a client sent it.
type Incoming struct {
	Session, Epoch     int32
	ByID               bool        // topics are named by id
	Partitions         []Partition // in the request's order
	Forgotten          []Name
	MinBytes, MaxBytes int32
	MaxWait            time.Duration
	Resolve            func(Name) (*replica.Replica, error)
	Follower           *Follower // nil for consumers
}

// Answer is what an Incoming comes to: Names and Rows are in step.
type Answer struct {
	Session int32
	Err     error
	Names   []Name
	Rows    []Row
	Nodes   []Node // those that rows point to
}

// Fetch runs a request with or without a session. done is called as that of
// Start.
func (f *Fetcher) Fetch(ctx context.Context, in *Incoming, done func(Answer)) {
	if in.Epoch == openEpoch || in.Epoch == closeEpoch {
		f.drop(in.Session)
		f.fetchAll(ctx, in, done)
		return
	}
	s, err := f.find(in)
	if err == nil {
		err = s.next(in.Epoch)
	}
	if err == nil {
		in.report()
	}
	if err == nil && !s.change(in) {
		f.drop(s.id)
		err = ErrNoSession // it is told to begin again, and gets no room to
	}
	if err != nil {
		done(Answer{Err: err})
		return
	}
	limits := f.limit(Request{MinBytes: in.MinBytes, MaxBytes: in.MaxBytes})
	w := f.run(ctx, in.MaxWait, &increment{s: s, min: limits.MinBytes, max: limits.MaxBytes, done: done})
	s.mu.Lock()
	s.waiting = w
	s.mu.Unlock()
}

// report takes what a follower says of its partitions.
func (in *Incoming) report() {
	if in.Follower == nil {
		return
	}
	now := time.Now()
	for i := range in.Partitions {
		p := &in.Partitions[i]
		p.Reader = replica.Follower
		rep, err := in.Resolve(p.Name)
		if err == nil {
			err = rep.Reported(partition.Report{
				Replica: in.Follower.ID, BrokerEpoch: in.Follower.Epoch, LeaderEpoch: p.LeaderEpoch,
				LogStart: p.LogStart, LogEnd: p.Offset, FlushedEnd: p.State.FlushedEnd, LastEpoch: p.LastEpoch,
			}, now)
		}
		p.Err = err
	}
}

// fetchAll reads every partition named, and opens a session if one is asked
// for and there is room.
func (f *Fetcher) fetchAll(ctx context.Context, in *Incoming, done func(Answer)) {
	in.report()
	names, asks := make([]Name, len(in.Partitions)), make([]Ask, len(in.Partitions))
	for i := range in.Partitions {
		names[i], asks[i] = in.Partitions[i].Name, in.Partitions[i].Ask
		rep, err := in.Resolve(names[i])
		asks[i].Replica, asks[i].Err = rep, cmp.Or(err, asks[i].Err)
		if in.Follower != nil && asks[i].Err == nil {
			asks[i].Quiet = !in.Partitions[i].State.Read || asks[i].debt(in.Follower) > 0
		}
	}
	var s *session
	if in.Epoch == openEpoch {
		s = f.open(in)
	}
	req := Request{Asks: asks, MinBytes: in.MinBytes, MaxBytes: in.MaxBytes, MaxWait: in.MaxWait}
	f.Start(ctx, req, func(rows []Row) {
		charge(in.Follower, rows)
		a := Answer{Names: names, Rows: rows}
		if s != nil {
			a.Session = s.id
			s.answered(names, rows)
		}
		done(a)
	})
}

// open makes a session of the partitions that a request names, or nil if there
// is no room.
func (f *Fetcher) open(in *Incoming) *session {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || f.parts+len(in.Partitions) > maxParts {
		return nil
	}
	now := time.Now()
	if in.Follower != nil { // always has room, for one
		if e := f.sessions[f.follows[in.Follower.ID]]; e != nil {
			f.remove(e)
		}
	} else if len(f.sessions) >= f.slots {
		oldest := f.recent.Back()
		if oldest == nil || now.Sub(oldest.Value.(*session).used) < evictAfter {
			return nil
		}
		f.remove(oldest)
	}
	id := rand.Int32N(math.MaxInt32) + 1
	for f.sessions[id] != nil {
		id = rand.Int32N(math.MaxInt32) + 1
	}
	s := &session{
		f: f, id: id, byID: in.ByID, resolve: in.Resolve, follower: in.Follower, used: now, epoch: 1, parts: map[Name]*part{}, held: map[*part]struct{}{},
	}
	if s.follower != nil {
		f.follows[in.Follower.ID] = id
	}
	f.sessions[id] = f.recent.PushFront(s)
	for _, p := range in.Partitions {
		f.parts += s.set(p)
	}
	return s
}

// find is the session that a request continues.
func (f *Fetcher) find(in *Incoming) (*session, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	e := f.sessions[in.Session]
	if e == nil {
		return nil, ErrNoSession
	}
	s := e.Value.(*session)
	if s.byID != in.ByID {
		return nil, ErrSessionNames
	}
	f.recent.MoveToFront(e)
	s.used = time.Now()
	return s, nil
}

// LastFetch is when a follower asked last in the session that its broker has here,
// zero if it has none.
func (f *Fetcher) LastFetch(broker int32) time.Time {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.sessions[f.follows[broker]]; e != nil {
		return e.Value.(*session).used
	}
	return time.Time{}
}

func (f *Fetcher) drop(id int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.sessions[id]; e != nil {
		f.remove(e)
	}
}

// remove takes a session away. f.mu is held.
func (f *Fetcher) remove(e *list.Element) {
	s := f.recent.Remove(e).(*session)
	delete(f.sessions, s.id)
	f.parts -= s.close()
}

// session is a client's standing subscription. Locks are taken in the order
// Fetcher.mu, mu, a replica's, dirtyMu.
type session struct {
	f       *Fetcher
	id      int32
	byID    bool
	resolve func(Name) (*replica.Replica, error)

	follower *Follower // whose it is, nil for a consumer's
	used     time.Time // Fetcher.mu

	mu      sync.Mutex // guards the following, and makes reads follow one another
	epoch   int32      // of the next request
	parts   map[Name]*part
	waiting *waiting // the request that waits, or waited last

	dirtyMu sync.Mutex // guards the following, and the parts' marks
	dirty   []*part    // in the order of becoming so: who was served goes behind who was not
	wake    func()
	held    map[*part]struct{} // throttled, and not looked at until hold ends
	hold    *time.Timer        // nil before the first
}

// part is a partition of a session. The session's mu guards it.
type part struct {
	name      Name
	ask       Ask
	watcher   *replica.Watcher
	watermark int64 // as answered last, -1 for never or with an error
	start     int64
	marked    bool // in the dirty list; dirtyMu
	gone      bool // forgotten; dirtyMu
}

// next begins a request: it ends the one before it, if that still waits.
func (s *session) next(epoch int32) error {
	s.mu.Lock()
	if epoch != s.epoch {
		s.mu.Unlock()
		return ErrSessionEpoch
	}
	if s.epoch++; s.epoch < 0 { // it was the largest
		s.epoch = 1
	}
	before := s.waiting
	s.waiting = nil
	s.mu.Unlock()
	switch {
	case before == nil:
	case s.follower != nil: // what there is to read, this request finds
		before.cut(func() { before.turn.(*increment).done(Answer{Session: s.id}) })
	default:
		before.look(true)
	}
	return nil
}

// change takes over what a request says. It returns false if there are too
// many partitions then.
func (s *session) change(in *Incoming) bool {
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, name := range in.Forgotten {
		if p := s.parts[name]; p != nil {
			s.forget(p)
			delete(s.parts, name)
			s.f.parts--
		}
	}
	for _, p := range in.Partitions {
		s.f.parts += s.set(p)
	}
	return s.f.parts <= maxParts
}

// set adds a partition, or changes what is read of it; it returns how many
// partitions that adds.
func (s *session) set(q Partition) (added int) {
	p := s.parts[q.Name]
	if p == nil {
		p = &part{name: q.Name, watermark: -1, start: -1}
		p.watcher = replica.NewWatcher(func() { s.mark(p) })
		if s.follower != nil && !s.f.prompt {
			p.watcher = replica.NewFollowerWatcher(func() { s.mark(p) }, func() { s.markQuietly(p) })
		} else if s.follower != nil {
			p.watcher = replica.NewFollowerWatcher(func() { s.mark(p) }, func() { s.mark(p) })
		}
		s.parts[q.Name] = p
		added = 1
	}
	q.Replica = p.ask.Replica // which is being watched
	q.Quiet = s.follower != nil && !q.State.Read && (p.ask.Quiet || added > 0)
	p.ask = q.Ask
	s.mark(p)
	return added
}

// forget stops watching.
func (s *session) forget(p *part) {
	if p.ask.Replica != nil {
		p.ask.Replica.Unwatch(p.watcher)
	}
	s.dirtyMu.Lock()
	p.gone = true
	delete(s.held, p)
	s.dirtyMu.Unlock()
}

func (s *session) close() (parts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.dirtyMu.Lock()
	if s.hold != nil {
		s.hold.Stop()
	}
	s.dirtyMu.Unlock()
	for _, p := range s.parts {
		s.forget(p)
	}
	parts = len(s.parts)
	clear(s.parts)
	return parts
}

// mark puts a partition into the dirty list.
func (s *session) mark(p *part) {
	s.markQuietly(p)
	s.dirtyMu.Lock()
	defer s.dirtyMu.Unlock()
	if s.wake != nil && !p.gone { // it may have been marked quietly before
		s.wake()
	}
}

// take empties the dirty list. What happens to a partition from here on marks
// it again.
func (s *session) take() []*part {
	s.dirtyMu.Lock()
	defer s.dirtyMu.Unlock()
	all := s.dirty
	s.dirty = nil
	parts := all[:0]
	for _, p := range all {
		p.marked = false
		if !p.gone {
			parts = append(parts, p)
		}
	}
	return parts
}

// resolved finds a partition's replica, which may be another one by now, and
// sees that it is watched.
func (s *session) resolved(p *part) Ask {
	rep, err := s.resolve(p.name)
	if rep != p.ask.Replica {
		if p.ask.Replica != nil {
			p.ask.Replica.Unwatch(p.watcher)
		}
		if rep != nil {
			rep.Watch(p.watcher)
		}
		p.ask.Replica = rep
	}
	ask := p.ask
	ask.Err = cmp.Or(err, ask.Err)
	return ask
}

// answered notes what the first request of a session was told. Everything is
// marked since the session was opened, and so looked at once more.
func (s *session) answered(names []Name, rows []Row) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range names {
		if p := s.parts[names[i]]; p != nil {
			p.note(&rows[i])
			p.ask.Quiet = p.ask.Quiet || s.follower != nil && rows[i].answers()
		}
	}
}

func (p *part) note(row *Row) {
	p.watermark, p.start = row.HighWatermark, row.LogStart
	if row.Err != nil {
		p.watermark, p.start = -1, -1 // so that recovering from it is told
	}
}

// answers tells whether a row is one that a client acts on, rather than news.
func (row *Row) answers() bool {
	return row.Err != nil || row.Diverging.Found || row.Elsewhere || row.Records.Len() > 0
}

// news tells whether a row says anything that the client was not told.
func (p *part) news(row *Row) bool {
	return row.answers() || row.HighWatermark != p.watermark || row.LogStart != p.start
}

// increment is a request that continues a session.
type increment struct {
	s        *session
	min, max int32
	done     func(Answer)
}

func (t *increment) read(must bool) func() {
	s := t.s
	s.mu.Lock()
	defer s.mu.Unlock()
	parts := s.take()
	req := Request{Asks: make([]Ask, len(parts)), MinBytes: t.min, MaxBytes: t.max}
	for i, p := range parts {
		req.Asks[i] = s.resolved(p)
		s.throttle(p, &req.Asks[i])
	}
	rows, enough := pass(&req)
	if s.follower != nil {
		for i, p := range parts {
			enough = enough || rows[i].LogStart > p.start || s.f.prompt && rows[i].HighWatermark > p.watermark
		}
	}
	if !must && !enough && t.min > 0 && len(s.parts) > 0 {
		// What there is is too little, and is part of what the next look finds.
		for i, p := range parts {
			if p.news(&rows[i]) {
				s.markQuietly(p)
			}
		}
		return nil
	}
	a := Answer{Session: s.id}
	var served []*part
	for i, p := range parts {
		row := &rows[i]
		if p.news(row) {
			a.Names, a.Rows = append(a.Names, p.name), append(a.Rows, *row)
			p.note(row)
		}
		switch {
		case row.answers():
			served = append(served, p)
		case req.Asks[i].Offset < row.Limit && !req.Asks[i].Quiet: // it did not fit
			s.markQuietly(p)
		}
	}
	for _, p := range served {
		if s.follower != nil { // it says when it has it
			p.ask.Quiet = true
		} else { // the client may ask for the same again without naming it
			s.markQuietly(p)
		}
	}
	charge(s.follower, a.Rows)
	return func() { t.done(a) }
}

// markQuietly is mark by a read, which knows.
func (s *session) markQuietly(p *part) {
	s.dirtyMu.Lock()
	defer s.dirtyMu.Unlock()
	if !p.marked && !p.gone {
		p.marked = true
		s.dirty = append(s.dirty, p)
	}
}

func (t *increment) watch(wake func()) {
	t.s.dirtyMu.Lock()
	defer t.s.dirtyMu.Unlock()
	t.s.wake = wake
}

func (t *increment) unwatch() { t.watch(nil) }
