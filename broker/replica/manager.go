// Package replica is the shell around the partitions of one broker: it owns
// their logs, runs the flusher and the recovery points, follows other leaders,
// asks the controller for changes of in-sync replicas, and turns what the pure
// core decides into finished requests.
//
// # The flusher
//
// One goroutine makes everything durable that was appended to the data
// directory while its previous round ran. An append marks its log dirty and
// returns; a round syncs whatever is dirty, tells each partition how far it is
// durable now, and with that ends the produce requests that waited for it. An
// error of a round is final: the kernel may have dropped the pages it could
// not write, so a second sync that succeeds would prove nothing. Every
// partition of the directory refuses from then on, until a restart has read
// back what is really there.
package replica

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
)

// Errors beside those of partition and ErrTimedOut. They wrap what storage
// said.
var (
	ErrUnknownPartition = errors.New("this broker has no replica of the partition")
	ErrSegmentTooSmall  = errors.New("the batch is larger than a segment")
	ErrOffsetOutOfRange = errors.New("the offset is not in the log")
	// ErrOffsetNotAvailable passes within moments.
	ErrOffsetNotAvailable = errors.New("the leader is new and does not know the high watermark yet, or a follower does not have the record")
	ErrCompacted          = errors.New("records of a topic that is compacted and not deleted from cannot be deleted")
	ErrOutOfOrder         = errors.New("out of order sequence number")
	ErrProducerEpoch      = errors.New("a newer epoch of the producer is known")
	ErrStorage            = errors.New("storage error")
)

// storageError translates what storage says, which the layers above do not
// know, into the errors above.
func storageError(err error) error {
	kind := ErrStorage
	switch {
	case err == nil:
		return nil
	case errors.Is(err, storage.ErrOffsetOutOfRange):
		kind = ErrOffsetOutOfRange
	case errors.Is(err, storage.ErrTooLarge):
		kind = ErrSegmentTooSmall
	case is[*storage.OutOfOrderSequenceError](err):
		kind = ErrOutOfOrder
	case is[*storage.InvalidProducerEpochError](err):
		kind = ErrProducerEpoch
	}
	return fmt.Errorf("%w: %w", kind, err)
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// checkpointInterval is how often recovery points are written while they move:
// it bounds what a start after a crash has to verify.
const checkpointInterval = 5 * time.Second

// Config is what the manager needs to know.
type Config struct {
	NodeID             int32
	ProducerExpiration time.Duration // producer.id.expiration.ms
	RetentionInterval  time.Duration // log.retention.check.interval.ms
	MinFree            int64         // streambus.disk.min.free.bytes; see storage.Dir.FreeGuard
	ScrubRate          int64         // streambus.scrub.bytes.per.second, 0 for not at all
	RecoveryThreads    int           // num.recovery.threads.per.data.dir
	MaxLag             time.Duration // replica.lag.time.max.ms
	Compacts           bool          // log.cleaner.enable

	FetchMinBytes       int32         // replica.fetch.min.bytes
	FetchMaxBytes       int32         // replica.fetch.response.max.bytes
	FetchPartitionBytes int32         // replica.fetch.max.bytes
	FetchWait           time.Duration // replica.fetch.wait.max.ms
	FetchBackoff        time.Duration // replica.fetch.backoff.ms

	// Dial connects to another broker of the cluster.
	Dial func(ctx context.Context, broker int32) (*peer.Conn, error)
	// AlterISR asks the controller, and returns an answer for each change.
	AlterISR func(context.Context, []ISRChange) []ISRAnswer
}

type key struct {
	topic     image.UUID
	partition int32
}

// Manager has the replicas of one broker in one data directory.
type Manager struct {
	cfg     Config
	dir     *storage.Dir
	log     *slog.Logger
	metrics *metrics
	dirty   chan struct{} // holds one token while something may be dirty
	flushed atomic.Int64  // nanoseconds that the last flush took

	defaults map[string]string // the broker's values behind topic keys; the goroutine of Apply only
	inert    map[string]bool   // settings named in the log since they do not act; likewise

	full bool // the disk is; the goroutine of retention only

	dead chan struct{} // closed when the data directory has failed

	image atomic.Pointer[image.Image] // applied last

	proposed  chan struct{} // holds a token while somebody proposes
	isrMu     sync.Mutex    // guards the following, and Replica.proposes
	proposers []*Replica

	throttles [sides]*Throttle
	cleaner   cleaner

	damage chan struct{} // holds a token while damaged replicas are to be given up

	begin chan struct{} // holds a token while a fetcher is to be started

	traffic traffic // over all topics
	others  traffic // over those without series of their own

	mu     sync.RWMutex // guards the following
	parts  map[key]*Replica
	logs   map[*storage.Log]*Replica
	topics map[image.UUID]*topicTraffic // those with series of their own

	fetchers map[int32]*fetcher // by leader
	idle     []*fetcher         // not started yet
}

// New makes a manager without replicas: they come with the image.
func New(cfg Config, dir *storage.Dir, log *slog.Logger, reg prometheus.Registerer) *Manager {
	m := &Manager{
		cfg: cfg, dir: dir, log: log, metrics: newMetrics(reg, dir.IndexRebuilds),
		dirty: make(chan struct{}, 1),
		parts: map[key]*Replica{}, logs: map[*storage.Log]*Replica{}, topics: map[image.UUID]*topicTraffic{},
		inert: map[string]bool{}, fetchers: map[int32]*fetcher{}, throttles: [sides]*Throttle{newThrottle(), newThrottle()}, cleaner: cleaner{pace: newThrottle()},
		damage: make(chan struct{}, 1), proposed: make(chan struct{}, 1), begin: make(chan struct{}, 1), dead: make(chan struct{}),
	}
	dir.OnFailure(sync.OnceFunc(func() { close(m.dead) }))
	m.image.Store(image.Empty())
	reg.MustRegister(newTrafficCollector(m))
	return m
}

// Find returns the replica of a partition.
func (m *Manager) Find(topic image.UUID, partition int32) (*Replica, error) {
	m.mu.RLock()
	defer m.mu.RUnlock()
	if r := m.parts[key{topic, partition}]; r != nil {
		return r, nil
	}
	return nil, ErrUnknownPartition
}

// SetDefaults gives the broker's values behind settings of topics, by the
// topic's names. It is followed by an Apply of everything.
func (m *Manager) SetDefaults(defaults map[string]string) { m.defaults = defaults }

// Apply follows the image: it makes, updates and removes the replicas that a
// change gives to this broker or takes from it. Logs without a directory stay
// without one until their first append, so this opens and syncs nothing for new
// partitions.
func (m *Manager) Apply(img *image.Image, d *image.Delta) {
	var gone []key
	for _, t := range d.Removed {
		for i := range t.NumPartitions() {
			gone = append(gone, key{t.ID, i})
		}
	}
	if d.Whole {
		gone = append(gone, m.missing(img)...)
	}
	local := d.Local(m.cfg.NodeID)
	for _, lp := range local.Gone {
		gone = append(gone, key{lp.Topic.ID, lp.Index})
	}
	m.remove(gone)
	before := m.image.Swap(img)
	m.update(local.Leaders)
	m.update(local.Followers)
	if brokersDiffer(before, img) {
		m.judge(img)
	}
}

// update makes replicas and tells them their state. Those of a topic stand next to
// one another, and share its settings.
func (m *Manager) update(partitions []image.LocalPartition) {
	var fresh []func()
	var set settings
	for i, c := range partitions {
		if i == 0 || c.Topic != partitions[i-1].Topic {
			set = m.settings(c.Topic)
		}
		if r, err := m.Find(c.Topic.ID, c.Index); err == nil {
			r.update(c.Partition, set)
			continue
		}
		set := set
		fresh = append(fresh, func() { m.obtain(c.Topic, c.Index, set).update(c.Partition, set) })
	}
	// A goroutine for each would cost more than opening those that have no files.
	var next atomic.Int64
	var open sync.WaitGroup
	for range min(max(m.cfg.RecoveryThreads, 1), len(fresh)) {
		open.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(fresh)); i = next.Add(1) - 1 {
				fresh[i]()
			}
		})
	}
	open.Wait()
}

// Recovery tells how many of the logs that were found at the start are open.
func (m *Manager) Recovery() (done, total int) { return m.dir.Recovery() }

// remove gives up replicas, and their logs' directories to be removed later.
func (m *Manager) remove(gone []key) {
	var removed []*Replica
	m.mu.Lock()
	for _, k := range gone {
		delete(m.topics, k.topic) // the series of a topic of which no replica is left
		if r := m.parts[k]; r != nil {
			removed = append(removed, r)
			delete(m.parts, k)
			delete(m.logs, r.log)
		}
	}
	m.mu.Unlock()
	if len(removed) == 0 {
		return
	}
	names := make([]string, len(removed))
	for i, r := range removed {
		m.unfollow(r)
		r.fail(ErrUnknownPartition)
		names[i] = r.name
	}
	if err := m.dir.DeleteLogs(time.Now(), names...); err != nil {
		m.log.Error("logs of deleted partitions could not be taken away; the next start sets their directories aside", "error", err)
	}
}

// missing are the replicas that an image does not have here.
func (m *Manager) missing(img *image.Image) []key {
	m.mu.RLock()
	defer m.mu.RUnlock()
	var missing []key
	for k := range m.parts {
		t, ok := img.TopicByID(k.topic)
		if ok {
			var p *image.Partition
			p, ok = t.Partition(k.partition)
			ok = ok && p.HasReplica(m.cfg.NodeID)
		}
		if !ok {
			missing = append(missing, k)
		}
	}
	return missing
}

// SetAsideStrays renames the directories that no partition of this broker
// claims. img must be as new as the cluster.
func (m *Manager) SetAsideStrays(img *image.Image) error {
	names, err := m.dir.Partitions()
	if err != nil {
		return err
	}
	for _, dir := range names {
		at := strings.LastIndexByte(dir, '-')
		index, err := strconv.ParseInt(dir[at+1:], 10, 32)
		if err == nil {
			if t, ok := img.Topic(dir[:at]); ok {
				if p, ok := t.Partition(int32(index)); ok && p.HasReplica(m.cfg.NodeID) {
					continue
				}
			}
		}
		to, err := m.dir.SetAside(dir)
		if err != nil {
			return err
		}
		m.log.Warn("a directory of no partition of this broker was set aside; look at it, and remove it if nothing in it is missed", "directory", dir, "now", to)
	}
	return nil
}

// obtain makes a replica. One whose log cannot be opened is kept, so that it
// answers why.
func (m *Manager) obtain(t *image.Topic, index int32, set settings) *Replica {
	r := &Replica{m: m, key: key{t.ID, index}, name: name(t, index), part: partition.New(m.cfg.NodeID, 0)}
	log, rec, err := m.dir.OpenLog(r.name, set.log, time.Now())
	if err != nil {
		r.broken, r.damaged = storageError(err), storage.IsDamage(err)
		m.log.Error("a partition cannot be opened here", "partition", r.name, "error", err)
	} else {
		r.opened(log)
		m.recovered(r.name, rec)
	}
	m.mu.Lock()
	m.parts[r.key] = r
	m.mu.Unlock()
	if log != nil {
		m.flushes(log, r)
	}
	return r
}

// flushes has a replica told how far its log is flushed.
func (m *Manager) flushes(log *storage.Log, r *Replica) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.logs[log] = r
}

// opened gives a replica its log.
func (r *Replica) opened(log *storage.Log) {
	r.log, r.broken, r.damaged = log, nil, false
	r.part = partition.New(r.m.cfg.NodeID, log.HighWatermark())
}

// renewed is what remains to be done, without r.mu, for a replica that begins anew.
type renewed struct {
	log  *storage.Log // nil if it does not
	had  *storage.Log // nil if it could not be opened
	old  *source      // what it had from its leader
	left partition.Effects
}

// renew gives a replica whose files are damaged an empty log, where nobody counts
// on what it had: its leader fills it. The files are set aside. r.mu is held.
func (r *Replica) renew(s *image.Partition, set settings) (n renewed) {
	if !r.damaged {
		return n
	}
	if slices.Contains(s.ISR, r.m.cfg.NodeID) || slices.Contains(s.ELR, r.m.cfg.NodeID) {
		if r.broken == nil && len(s.ISR) > 1 {
			r.m.giveUp() // there may be somebody to leave it to now
		}
		return n
	}
	aside, err := r.setAside()
	var log *storage.Log
	if err == nil {
		if r.broken == nil { // nothing that is under way for the old log may come to the new one
			n.had, n.left = r.log, partition.Effects{Failed: r.part.Fail(), Failure: partition.ErrNotLeader}
			n.old = r.source.Swap(nil)
		}
		if log, _, err = r.m.dir.OpenLog(r.name, set.log, time.Now()); err != nil {
			r.broken = storageError(err)
		}
	}
	if err != nil {
		r.m.log.Error("a damaged replica could not begin anew; it is tried again with the next change of the partition", "partition", r.name, "error", err)
		return n
	}
	n.log = log
	r.opened(log)
	r.m.log.Warn("a damaged replica begins anew from its leader; look at the old files, and remove them when they are not needed",
		"partition", r.name, "files", aside, "leader", s.Leader)
	return n
}

// setAside ends the use of the replica's files. r.mu is held.
func (r *Replica) setAside() (to string, err error) {
	if r.broken == nil {
		return r.log.SetAside(time.Now())
	}
	return r.m.dir.SetAside(r.name)
}

// found takes in an error of reading a log. Where others have the partition, one whose
// files are damaged is given up; until the metadata has it so, it goes on as before.
func (r *Replica) found(log *storage.Log, err error) {
	if !storage.IsDamage(err) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log != log || r.broken != nil || r.damaged || len(r.part.Replicas()) < 2 {
		return
	}
	r.damaged = true
	r.m.log.Error("a replica is damaged, and is left to others if they have everything", "partition", r.name, "error", err)
	r.m.giveUp()
}

func (m *Manager) giveUp() {
	select {
	case m.damage <- struct{}{}:
	default:
	}
}

// Damage holds a token while there are Damaged partitions that others may stand for.
func (m *Manager) Damage() <-chan struct{} { return m.damage }

// Damaged are the partitions whose files here are damaged. While the metadata has
// such a replica among those in sync, or eligible, nothing can be done about it here.
func (m *Manager) Damaged() (damaged []peer.PartitionID) {
	for _, r := range m.all() {
		r.mu.Lock()
		if r.damaged {
			damaged = append(damaged, r.id())
		}
		r.mu.Unlock()
	}
	return damaged
}

// recovered tells of a log that a crash left to be verified.
func (m *Manager) recovered(name string, r storage.Recovery) {
	if r.SetAside != "" {
		m.log.Warn("a directory belonged to another topic of the same name and was set aside", "partition", name, "now", r.SetAside)
	}
	for _, damage := range r.Damaged {
		m.log.Warn("a file was damaged, or torn by a crash, and is made anew from the batches", "partition", name, "damage", damage)
	}
	if r.TruncatedBytes > 0 {
		m.log.Warn("a torn tail was cut off a log; nothing in it was acknowledged", "partition", name, "bytes", r.TruncatedBytes)
	}
}

func name(t *image.Topic, index int32) string { return t.Name + "-" + strconv.Itoa(int(index)) }

// Run flushes, checkpoints, follows, and gives up what is too old, until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return m.flusher(ctx) })
	g.Go(func() error { return m.checkpoints(ctx) })
	g.Go(func() error { return m.retention(ctx) })
	g.Go(func() error { return m.startFetchers(ctx) })
	g.Go(func() error { return m.alterISRs(ctx) })
	g.Go(func() error { return m.lag(ctx) })
	if m.cfg.ScrubRate > 0 {
		g.Go(func() error { return m.scrub(ctx) })
	}
	if m.cfg.Compacts {
		g.Go(func() error { return m.compaction(ctx) })
	}
	return g.Wait()
}

// wakeFlusher is called at each append. What is appended to topics that are not
// flushed wakes nobody. Waiting for the end of a request was
// tried, for fewer rounds: with a request over a thousand partitions the many
// small rounds get the disk to work while the rest is appended, and one large
// round at the end took longer, for first records more than twice as long.
func (m *Manager) wakeFlusher() {
	if !m.dir.Dirty() {
		return
	}
	select {
	case m.dirty <- struct{}{}:
	default:
	}
}

func (m *Manager) flusher(ctx context.Context) error {
	for {
		select {
		case <-m.dirty:
			m.flush()
		case <-m.dead:
			m.fail()
			return nil
		case <-ctx.Done():
			return nil
		}
	}
}

// flush runs one round.
func (m *Manager) flush() {
	round := m.dir.BeginFlush()
	if round == nil {
		return
	}
	begun := time.Now()
	err := inParallel(round.Syncs())
	took := time.Since(begun)
	m.metrics.flushSeconds.Observe(took.Seconds())
	m.flushed.Store(int64(took))
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, f := range round.Done(took, err) {
		if r := m.logs[f.Log]; r != nil { // not deleted meanwhile
			r.flushed(f.Log, f.Offset)
		}
	}
}

func inParallel(syncs []func() error) error {
	if len(syncs) == 1 {
		return syncs[0]()
	}
	var g errgroup.Group
	for _, sync := range syncs {
		g.Go(sync)
	}
	return g.Wait()
}

// LastFlush is how long the last flush of the data directory took, 0 for none yet.
func (m *Manager) LastFlush() time.Duration { return time.Duration(m.flushed.Load()) }

// Failed is closed when the data directory has failed: nothing is read from it or
// written to it any more.
func (m *Manager) Failed() <-chan struct{} { return m.dead }

// fail has nobody wait for a data directory that has failed. It may have been any
// write that did it: no flush has to have been under way.
func (m *Manager) fail() {
	err := fmt.Errorf("%w: the data directory is closed for reading and writing until the broker is restarted: %w", ErrStorage, m.dir.Failed())
	m.log.Error("the data directory has failed", "error", err)
	m.mu.RLock()
	defer m.mu.RUnlock()
	for _, r := range m.parts {
		r.fail(err)
	}
}

func (m *Manager) checkpoints(ctx context.Context) error {
	tick := time.NewTicker(checkpointInterval)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if err := m.dir.Checkpoint(); err != nil {
				m.log.Error("recovery points were not written; a start after a crash will verify more", "error", err)
			}
		case <-ctx.Done():
			return nil
		}
	}
}
