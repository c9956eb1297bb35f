package replica

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/image"
)

const (
	// maxUnderWay is how many fetches a leader has of a follower at most: one that
	// waits for records, and one that reports what was flushed meanwhile.
	maxUnderWay = 2
	// maxNamed bounds the partitions of one request; further ones are in the next.
	maxNamed = 20_000
	// doubtTime is how long nobody is told of a leader whose connection was lost. By
	// then the active controller has looked whether its process is gone.
	doubtTime = 500 * time.Millisecond
	// firstPause is what a fetcher waits after an error, at first; it doubles up to
	// replica.fetch.backoff.ms.
	firstPause = 5 * time.Millisecond
)

// fetcher follows all partitions that one other broker leads. It has one
// connection to it, and on that one fetch session, in which a request names what
// has changed: a partition that has appended, flushed or been truncated.
//
// Nothing is asked for twice: records answered to one request are on their way
// while the next one reports what was flushed, see protocol.FollowerState.
type fetcher struct {
	m      *Manager
	leader int32
	wake   chan struct{} // holds a token while there may be something to say

	mu        sync.Mutex // guards the following, and what it says in source
	sources   map[key]*source
	news      []*source
	forgotten []peer.PartitionID   // of the session, and not said yet
	held      map[*source]struct{} // throttled, and not asked for until hold ends
	hold      *time.Timer          // nil before the first
	// doubt is open from when the connection was lost until it is there again, the
	// image has the leader as gone, or doubtTime is over. It is nil before the first
	// loss.
	doubt chan struct{}

	connected time.Time // since when there is a connection, zero for none
	failure   error     // why there is none, if it was tried
	answered  time.Time // when the leader answered last, or was connected to
	underWay  int       // fetches
}

// source is where a replica gets its records: a partition of a fetcher. The
// fetcher's mu guards all but the first two.
type source struct {
	f      *fetcher
	r      *Replica
	news   bool  // in the fetcher's list
	read   bool  // and records are wanted from the log's end on
	named  bool  // in the session
	gone   bool  // the fetcher follows it no more
	epoch  int32 // leader epoch of the latest request that names it
	failed int   // answers with an error, one after the other
	// trouble is the last of these errors.
	trouble error
}

// follow gives a replica to the fetcher of its leader, and takes it from the one
// it had. Only the goroutine of Apply calls it.
func (m *Manager) follow(r *Replica) {
	leader, follows := r.follows()
	old := r.source.Load()
	if old != nil && follows && old.f.leader == leader {
		old.f.tell(old, true) // the epoch is another
		return
	}
	if old != nil {
		r.source.Store(nil)
		old.f.drop(old)
	}
	if follows {
		f := m.fetcher(leader)
		s := &source{f: f, r: r, epoch: -1}
		r.source.Store(s)
		f.add(s)
	}
}

// unfollow is for a replica that is given up.
func (m *Manager) unfollow(r *Replica) {
	if old := r.source.Swap(nil); old != nil {
		old.f.drop(old)
	}
}

// fetcher is the one of a leader. It is kept when it has nothing to follow: there
// are at most as many as brokers.
func (m *Manager) fetcher(leader int32) *fetcher {
	m.mu.Lock()
	defer m.mu.Unlock()
	f := m.fetchers[leader]
	if f == nil {
		f = &fetcher{m: m, leader: leader, wake: make(chan struct{}, 1), sources: map[key]*source{}, held: map[*source]struct{}{}}
		m.fetchers[leader] = f
		m.idle = append(m.idle, f)
		select {
		case m.begin <- struct{}{}:
		default:
		}
	}
	return f
}

func (f *fetcher) add(s *source) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sources[s.r.key] = s
	f.note(s, true)
}

func (f *fetcher) drop(s *source) {
	f.mu.Lock()
	defer f.mu.Unlock()
	s.gone = true
	delete(f.sources, s.r.key)
	delete(f.held, s)
	if s.named {
		f.forgotten = append(f.forgotten, s.r.id())
		f.hurry()
	}
}

// tell has the next request name a partition. With read records are wanted.
func (f *fetcher) tell(s *source, read bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.note(s, read)
}

// note is tell with f.mu held.
func (f *fetcher) note(s *source, read bool) {
	if s.gone {
		return
	}
	s.read = s.read || read
	if !s.news {
		s.news = true
		f.news = append(f.news, s)
	}
	f.hurry()
}

// holds tells whether a source is not to be asked for records now, and sees that it
// is once it may be. f.mu is held.
func (f *fetcher) holds(s *source, now time.Time) bool {
	delete(f.held, s)
	t := s.r.throttled()
	if t == nil {
		return false
	}
	wait := t.Wait(now)
	if wait == 0 {
		return false
	}
	f.held[s] = struct{}{}
	if f.hold == nil {
		f.hold = time.AfterFunc(wait, f.release)
	} else {
		f.hold.Reset(wait)
	}
	return true
}

// release has what was held asked for, or held again.
func (f *fetcher) release() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.held {
		f.note(s, true)
	}
	clear(f.held)
}

func (f *fetcher) hurry() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// startFetchers runs those that are made, until ctx ends.
func (m *Manager) startFetchers(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	for {
		select {
		case <-m.begin:
		case <-ctx.Done():
			return nil
		}
		m.mu.Lock()
		idle := m.idle
		m.idle = nil
		m.mu.Unlock()
		for _, f := range idle {
			running.Go(func() { f.run(ctx) })
		}
	}
}

// run follows until ctx ends.
func (f *fetcher) run(ctx context.Context) {
	for pause := firstPause; ctx.Err() == nil; {
		served, err := f.connect(ctx)
		if served {
			pause = firstPause
		}
		f.fell(err)
		if err != nil && ctx.Err() == nil {
			f.m.log.Debug("a leader could not be followed", "leader", f.leader, "error", err, "again in", pause)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		pause = min(2*pause, f.m.cfg.FetchBackoff)
	}
}

// connect follows over one connection, and tells whether anything was answered.
func (f *fetcher) connect(ctx context.Context) (served bool, err error) {
	for f.idle() {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return false, nil
		}
	}
	conn, err := f.m.cfg.Dial(ctx, f.leader)
	if err != nil {
		return false, err
	}
	f.trust()
	defer func() {
		if err != nil && ctx.Err() == nil {
			f.distrust()
		}
	}()
	talking, cancel := context.WithCancel(ctx)
	defer conn.Close()
	defer cancel()
	t := &talk{f: f, conn: conn}
	f.restart()
	for {
		if err := t.ask(talking); err != nil {
			return t.session != 0, err
		}
		if len(t.due) == 0 { // nothing to follow
			return true, nil
		}
		select {
		case a := <-t.due[0]:
			t.due = t.due[1:]
			if err := t.take(a); err != nil {
				return t.session != 0, err
			}
		case <-f.wake:
		case <-ctx.Done():
			return true, nil
		}
	}
}

// distrust begins a doubt.
func (f *fetcher) distrust() {
	f.mu.Lock()
	defer f.mu.Unlock()
	doubt := make(chan struct{})
	f.doubt = doubt
	time.AfterFunc(doubtTime, func() { f.settle(doubt) })
}

// trust ends the doubt there is.
func (f *fetcher) trust() {
	f.mu.Lock()
	doubt := f.doubt
	f.mu.Unlock()
	f.settle(doubt)
}

// settle ends a doubt, unless it has ended.
func (f *fetcher) settle(doubt chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if doubt != nil && f.doubt == doubt {
		f.doubt = nil
		close(doubt)
	}
}

// AwaitLeaders returns when every leader that this broker follows is there, as far
// as it can tell, or the image says otherwise, or ctx ends. A client whose
// connection to a leader broke asks who leads now within a millisecond; it would
// be told the one that is gone, and most clients ask again only after seconds.
func (m *Manager) AwaitLeaders(ctx context.Context) {
	for _, doubt := range m.doubts() {
		select {
		case <-doubt:
		case <-ctx.Done():
		}
	}
}

func (m *Manager) doubts() (doubts []chan struct{}) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, f := range m.fetchers {
		f.mu.Lock()
		if f.doubt != nil {
			doubts = append(doubts, f.doubt)
		}
		f.mu.Unlock()
	}
	return doubts
}

// Shown says that answers are given from an image. Brokers that it has as gone are
// in doubt no more: others lead.
func (m *Manager) Shown(img *image.Image) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	for id, f := range m.fetchers {
		if b, ok := img.Broker(id); !ok || b.Fenced {
			f.trust()
		}
	}
}

func (f *fetcher) idle() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.sources) == 0
}

// fell says that there is no connection any more, and why, if that is an error.
func (f *fetcher) fell(why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connected, f.underWay, f.failure = time.Time{}, 0, why
}

// restart begins a connection, and forgets what was said in a session before.
func (f *fetcher) restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.connected = time.Now()
	f.answered = f.connected
	f.forgotten = nil
	for _, s := range f.sources {
		s.named = false
		f.note(s, true)
	}
}

// talk is a connection to a leader and the session on it.
type talk struct {
	f              *fetcher
	conn           *peer.Conn
	session, epoch int32
	due            []chan answered // in the order of the requests
}

type answered struct {
	peer.FetchAnswer
	err error
}

// ask sends a request if there is something to say, or if none is under way. The
// first one is answered before another is sent: it is told the session's id.
func (t *talk) ask(ctx context.Context) error {
	f := t.f
	for len(t.due) < maxUnderWay {
		if len(t.due) > 0 && (t.session == 0 || !f.hasNews()) || f.idle() && !f.hasNews() {
			return nil
		}
		req, err := f.request()
		if err != nil {
			return err
		}
		req.Session, req.Epoch = t.session, t.epoch
		if t.session == 0 { // until it is known nothing else can be said
			req.MaxWait = 0
		}
		await, err := t.conn.StartFetch(ctx, req)
		if err != nil {
			return err
		}
		if t.epoch++; t.epoch < 0 { // it was the largest
			t.epoch = 1
		}
		due := make(chan answered, 1)
		t.due = append(t.due, due)
		f.mu.Lock()
		f.underWay = len(t.due)
		f.mu.Unlock()
		go func() {
			a, err := await(ctx)
			due <- answered{a, err}
		}()
	}
	return nil
}

func (f *fetcher) hasNews() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.news)+len(f.forgotten) > 0
}

// request says what is new.
func (f *fetcher) request() (peer.FetchRequest, error) {
	cfg := &f.m.cfg
	req := peer.FetchRequest{
		Replica: cfg.NodeID, MaxWait: cfg.FetchWait, MinBytes: cfg.FetchMinBytes, MaxBytes: cfg.FetchMaxBytes,
	}
	me, ok := f.m.image.Load().Broker(cfg.NodeID)
	if !ok {
		return req, errors.New("this broker is not registered")
	}
	req.BrokerEpoch = me.Epoch
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	req.Forgotten = f.forgotten
	f.forgotten = nil
	slices.SortFunc(req.Forgotten, comparePartitions)
	n := min(len(f.news), maxNamed)
	news := f.news[:n]
	f.news = slices.Clone(f.news[n:])
	slices.SortFunc(news, func(a, b *source) int { return comparePartitions(a.r.id(), b.r.id()) })
	for _, s := range news {
		s.news = false
		at, ok := s.r.position(f.leader)
		if s.gone || !ok {
			continue // Apply has taken it away, or is about to
		}
		s.named, s.epoch = true, at.LeaderEpoch
		at.MaxBytes, at.Read = cfg.FetchPartitionBytes, s.read && !f.holds(s, now)
		s.read = false
		req.Partitions = append(req.Partitions, at)
	}
	return req, nil
}

func comparePartitions(a, b peer.PartitionID) int {
	return cmp.Or(slices.Compare(a.Topic[:], b.Topic[:]), cmp.Compare(a.Index, b.Index))
}

// take does what an answer says.
func (t *talk) take(a answered) error {
	switch {
	case a.err != nil:
		return a.err
	case a.Code != protocol.None:
		return fmt.Errorf("the fetch session ended: %s", a.Code)
	case a.Session == 0:
		return errors.New("the leader has no room for a fetch session")
	}
	t.session = a.Session
	now := time.Now()
	t.f.mu.Lock()
	t.f.answered, t.f.underWay = now, len(t.due)
	t.f.mu.Unlock()
	for i := range a.Partitions {
		t.f.partition(&a.Partitions[i], now)
	}
	return nil
}

// partition takes over what a leader answered about one partition.
func (f *fetcher) partition(p *peer.FetchedPartition, now time.Time) {
	f.mu.Lock()
	s := f.sources[key{p.Topic, p.Index}]
	var epoch int32
	if s != nil {
		epoch = s.epoch
	}
	f.mu.Unlock()
	if s == nil || epoch < 0 { // dropped, or added anew and not asked for yet
		return
	}
	if t := s.r.throttled(); t != nil {
		t.Take(now, int64(len(p.Records)))
	}
	again, err := s.r.fetched(s, p, epoch, now)
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil {
		s.failed, s.trouble = 0, nil
		if again {
			f.note(s, true)
		}
		return
	}
	pause := min(firstPause<<min(s.failed, 16), f.m.cfg.FetchBackoff)
	s.failed++
	s.trouble = err
	f.m.log.Debug("a partition could not be followed", "partition", s.r.name, "leader", f.leader, "error", err, "again in", pause)
	time.AfterFunc(pause, func() { f.tell(s, true) })
}
