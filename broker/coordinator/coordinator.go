// Package coordinator runs the shards of consumer groups: one for each partition of
// __consumer_offsets that is led here. It loads them, appends what they decide, and
// lets their answers go when what they rest on is committed.
//
// A shard lives as long as a leader epoch. When that ends, whoever waits is told that
// this is not the coordinator; the next one loads the log.
package coordinator

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/streambus/streambus/broker/group"
	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage/batch"
)

// OffsetsTopic holds the groups and their offsets.
const OffsetsTopic = "__consumer_offsets"

// loads bounds how many logs are read at the same time.
const loads = 4

// loadBytes is what one read of a log takes at most, but for a larger batch.
const loadBytes = 5 << 20

// Config is what the coordinator needs to know.
type Config struct {
	Group group.Config
	// CommitTimeout is how long an answer waits for what it rests on
	// (offsets.commit.timeout.ms).
	CommitTimeout time.Duration
}

// Manager has the shards of one broker.
type Manager struct {
	cfg      Config
	replicas *replica.Manager
	log      *slog.Logger
	loading  *semaphore.Weighted
	metrics  *metrics

	image *image.Image // that was applied last, nil before the first: Apply's alone

	mu     sync.RWMutex // guards the following
	count  int32        // of partitions
	shards map[int32]*shard
	closed bool
}

// New makes a manager without shards: they come with the image.
func New(cfg Config, replicas *replica.Manager, log *slog.Logger, reg prometheus.Registerer) *Manager {
	m := &Manager{cfg: cfg, replicas: replicas, log: log, loading: semaphore.NewWeighted(loads), shards: map[int32]*shard{}}
	m.metrics = newMetrics(m, reg)
	return m
}

// shard is one that is led here, for a term.
type shard struct {
	m     *Manager
	index int32
	rep   *replica.Replica
	term  *group.Term // its epoch never changes

	mu    sync.Mutex // guards the term and the following; the replica's lock is taken after it
	timer *time.Timer

	completed int64 // rebalances that are counted
}

// Answer takes what a shard answers, or why it does not. It is called once, from any
// goroutine.
type Answer func(body any, code protocol.ErrorCode)

// Apply follows the image, behind the replicas: shards come and go with leadership.
func (m *Manager) Apply(img *image.Image, d *image.Delta) {
	t, ok := img.Topic(OffsetsTopic)
	led := map[int32]*replica.Replica{}
	count := int32(0)
	if ok {
		count = t.NumPartitions()
		for i := range count {
			if rep, err := m.replicas.Find(t.ID, i); err == nil {
				if _, leads := rep.Leads(); leads {
					led[i] = rep
				}
			}
		}
	}
	names := deleted(m.image, img, d) // not under mu: an image may have a million topics
	m.image = img
	var over []*shard
	m.mu.Lock()
	m.count = count
	for i, s := range m.shards {
		rep := led[i]
		if rep == s.rep {
			if s.term.Lasts(rep.Leads()) {
				continue
			}
		}
		delete(m.shards, i)
		over = append(over, s)
	}
	var fresh []*shard
	for i, rep := range led {
		epoch, leads := rep.Leads()
		if m.shards[i] != nil || !leads || m.closed {
			continue
		}
		s := &shard{m: m, index: i, rep: rep, term: group.NewTerm(epoch)}
		m.shards[i] = s
		fresh = append(fresh, s)
	}
	m.mu.Unlock()
	for _, s := range over {
		s.unload()
	}
	for _, s := range fresh {
		go s.load()
	}
	if len(names) == 0 {
		return
	}
	for _, s := range m.all() {
		s.deleted(names)
	}
}

// deleted are the topics whose offsets are to go. Of those that an image which came whole
// does not have they are the ones that the image before had: that these were deleted is
// certain. A name that another topic has by now is left out, as a shard that is led only
// from this image on may have offsets of that one.
//
// Offsets of topics that no image here ever had stay until they expire, also where a
// shard that is loaded finds them: such a topic may have been deleted while this broker
// was away, and it may be one that is still to come. Offsets can be adopted from Apache
// Kafka before the topics they are of.
func deleted(was, is *image.Image, d *image.Delta) (names []string) {
	for _, t := range d.Removed {
		names = append(names, t.Name)
	}
	if !d.Whole || was == nil {
		return names
	}
	for t := range was.Topics() {
		if _, ok := is.Topic(t.Name); !ok {
			names = append(names, t.Name)
		}
	}
	return names
}

func (s *shard) deleted(names []string) {
	s.mu.Lock()
	now := time.Now()
	o := s.term.TopicsDeleted(now, names, s.log(now))
	waits := s.hold(o, now)
	s.mu.Unlock()
	begin(waits)
}

func (m *Manager) all() []*shard {
	m.mu.RLock()
	defer m.mu.RUnlock()
	all := make([]*shard, 0, len(m.shards))
	for i := range m.count {
		if s := m.shards[i]; s != nil {
			all = append(all, s)
		}
	}
	return all
}

// Close ends all shards.
func (m *Manager) Close() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	for _, s := range m.all() {
		s.unload()
	}
}

// Partition is where a group's state is, of so many partitions (Kafka's
// GroupCoordinatorService.java: the hash code of Java's String).
func Partition(group string, count int32) int32 {
	return int32(javaHash(group) % uint32(count))
}

// Step has the shard of a group take a step, which answers with the token that it is
// given. Who waits for its answer is told what ended the wait.
func (m *Manager) Step(id string, do func(core *group.Shard, now time.Time, token any) group.Effects, answer Answer) {
	m.mu.RLock()
	var s *shard
	if m.count > 0 {
		s = m.shards[Partition(id, m.count)]
	}
	m.mu.RUnlock()
	if s == nil {
		answer(nil, protocol.NotCoordinator)
		return
	}
	s.step(do, answer)
}

// Each has all shards here take a step. over is called behind the last answer.
func (m *Manager) Each(do func(core *group.Shard, now time.Time, token any) group.Effects, answer Answer, over func()) {
	all := m.all()
	left := atomic.Int64{}
	left.Store(int64(len(all)) + 1)
	ended := func() {
		if left.Add(-1) == 0 {
			over()
		}
	}
	for _, s := range all {
		s.step(do, func(body any, code protocol.ErrorCode) {
			answer(body, code)
			ended()
		})
	}
	ended()
}

func (s *shard) step(do func(core *group.Shard, now time.Time, token any) group.Effects, answer Answer) {
	s.mu.Lock()
	now := time.Now()
	o, code := s.term.Step(now, func(core *group.Shard) group.Effects { return do(core, now, answer) }, s.log(now))
	waits := s.hold(o, now)
	s.mu.Unlock()
	if code != protocol.None {
		answer(nil, code)
	}
	begin(waits)
}

// wait is answers that wait for the same offset.
type wait struct {
	*replica.Wait
	replies []group.Reply
	timeout time.Duration
}

// begin lets answers go, without the shard's lock.
func begin(waits []wait) {
	for _, w := range waits {
		w.Begin(w.timeout, func() {
			code := waitCode(w.Items[0].Err)
			for _, r := range w.replies {
				r.Token.(Answer)(r.Body, code)
			}
		})
	}
}

// log appends for a step.
func (s *shard) log(now time.Time) group.Append {
	return func(records []group.Record) (int64, *group.Refusal) {
		pairs := make([]batch.Pair, len(records))
		for i, r := range records {
			pairs[i] = batch.Pair(r)
		}
		end, err := s.rep.Write(s.term.Epoch(), pairs, now)
		if err != nil {
			return 0, &group.Refusal{Code: writeCode(err), Unknown: errors.Is(err, replica.ErrStorage)}
		}
		return end, nil
	}
}

// hold has answers wait for what they rest on, and sets the timer. s.mu is held.
func (s *shard) hold(o group.Outcome, now time.Time) (waits []wait) {
	for _, h := range o.Held {
		w := wait{replica.NewWait(1), h.Replies, s.m.cfg.CommitTimeout}
		s.rep.AwaitCommit(s.term.Epoch(), h.End, &w.Items[0])
		waits = append(waits, w)
	}
	if len(o.Replies) > 0 {
		waits = append(waits, wait{replica.NewWait(1), o.Replies, s.m.cfg.CommitTimeout})
	}
	if core := s.term.Shard(); core != nil && core.Completed() != s.completed {
		s.m.metrics.rebalances.Add(float64(core.Completed() - s.completed))
		s.completed = core.Completed()
	}
	s.wake(o.Wake, now)
	return waits
}

// wake sets the timer for the shard's next deadline.
func (s *shard) wake(at time.Time, now time.Time) {
	switch {
	case at.IsZero():
		return
	case s.timer == nil:
		s.timer = time.AfterFunc(at.Sub(now), s.tick)
	default:
		s.timer.Reset(at.Sub(now))
	}
}

func (s *shard) tick() {
	s.mu.Lock()
	now := time.Now()
	o, _ := s.term.Step(now, func(core *group.Shard) group.Effects { return core.Tick(now) }, s.log(now))
	waits := s.hold(o, now)
	s.mu.Unlock()
	begin(waits)
}

// loadPause is between two tries to load a log.
const loadPause = 5 * time.Second

// load reads the log, up to where it ended when this broker began to lead.
func (s *shard) load() {
	led := time.Now()
	if err := s.m.loading.Acquire(context.Background(), 1); err != nil {
		return
	}
	defer s.m.loading.Release(1)
	begun := time.Now()
	core := group.New(s.m.cfg.Group)
	records, end, err := s.replay(core)
	if err != nil {
		s.loadFailed(err)
		return
	}
	s.mu.Lock()
	now := time.Now()
	s.m.metrics.loadSeconds.Observe(now.Sub(led).Seconds())
	s.timer = nil
	waits := s.hold(s.term.Loaded(now, core, end, s.log(now)), now)
	s.mu.Unlock()
	begin(waits)
	if records > 0 {
		s.m.log.Info("groups were loaded", "partition", s.index, "epoch", s.term.Epoch(), "records", records, "took", time.Since(begun).Round(time.Millisecond))
	}
}

// loadFailed has the log loaded again some time later, if the term lasts. Clients are
// told meanwhile that it is being loaded.
func (s *shard) loadFailed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.term.State() == group.Ended || !s.term.Lasts(s.rep.Leads()) {
		return
	}
	s.m.log.Error("the groups of a partition cannot be loaded: nobody coordinates them; it is tried again", "topic", OffsetsTopic, "partition", s.index, "in", loadPause, "error", err)
	s.timer = time.AfterFunc(loadPause, s.load)
}

func (s *shard) replay(core *group.Shard) (records int, at int64, err error) {
	at = s.rep.LogStart()
	for {
		v, err := s.rep.Read(replica.Follower, at, s.term.Epoch(), loadBytes, true)
		if err != nil {
			return records, at, err
		}
		raw, err := v.Records.Bytes()
		if err != nil || len(raw) == 0 {
			return records, at, err
		}
		for len(raw) > 0 {
			h, err := batch.DecodeHeader(raw)
			if err != nil || h.Length > int64(len(raw)) {
				return records, at, fmt.Errorf("half a batch at offset %d: %w", at, errors.Join(err))
			}
			if !h.IsControl() {
				err = batch.Contents(raw[:h.Length], h, func(c batch.Content) error {
					records++
					return core.Replay(c.Key, c.Value)
				})
			}
			if err != nil {
				return records, at, fmt.Errorf("offset %d: %w", h.BaseOffset, err)
			}
			raw, at = raw[h.Length:], h.LastOffset()+1
		}
	}
}

// unload ends the shard: who waits is told to look for another coordinator.
func (s *shard) unload() {
	s.mu.Lock()
	now := time.Now()
	waits := s.hold(group.Outcome{Replies: s.term.Over(now)}, now)
	if s.timer != nil {
		s.timer.Stop()
	}
	s.mu.Unlock()
	begin(waits)
}

// writeCode is what a refused append is to a client of groups.
func writeCode(err error) protocol.ErrorCode {
	switch {
	case errors.Is(err, replica.ErrSegmentTooSmall):
		return protocol.InvalidCommitOffsetSize
	case errors.Is(err, partition.ErrNotEnoughReplicas):
		return protocol.CoordinatorNotAvailable
	default:
		return protocol.NotCoordinator
	}
}

// waitCode is what the end of a wait is.
func waitCode(err error) protocol.ErrorCode {
	switch {
	case err == nil:
		return protocol.None
	case errors.Is(err, replica.ErrTimedOut), errors.Is(err, partition.ErrNotEnoughAfter):
		return protocol.CoordinatorNotAvailable
	default:
		return protocol.NotCoordinator
	}
}

// javaHash is String.hashCode, without its sign.
func javaHash(text string) uint32 {
	var h int32
	for _, r := range text {
		if r >= 0x10000 {
			r -= 0x10000
			h = 31*(31*h+0xd800+r>>10) + 0xdc00 + r&0x3ff
			continue
		}
		h = 31*h + r
	}
	if h == -1<<31 {
		return 0
	}
	return uint32(max(h, -h))
}
