// Package raftmeta runs the metadata quorum of a node: the goroutine that owns the raft node, snapshots, the units that
// followers pull, what the active controller knows of the brokers, and the broker's own view of the metadata.
package raftmeta

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
	"github.com/streambus/streambus/raftmeta/office"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/wal"
)

var (
	// ErrUnknown is the outcome of a command that may or may not have been carried out.
	ErrUnknown = quorum.ErrUnknown
	// ErrNotLeader says that another controller is to be asked. Nothing was done.
	ErrNotLeader = quorum.ErrNotLeader

	errStopped = errors.New("the controller has stopped")
)

const (
	tick      = 100 * time.Millisecond // a heartbeat of raft; an election time-out is ten to twenty
	inboxSize = 1024
	// Of the entries that a snapshot covers so many stay in the log, and so many bytes of units in memory, for followers
	// that are a little late.
	keepEntries, keepEntryBytes = 10_000, 16 << 20
	keepUnits                   = 16 << 20
	// stalled is how long the log may take before the process ends: whoever waits is better off with another leader.
	stalled = 10 * time.Second
	// slept is a gap between two turns of the loop that makes silence of others mean nothing: it was this side that slept.
	slept = time.Second
	// stagger keeps those who learn at once that the leader is gone from standing against each other.
	stagger = 50 * time.Millisecond
)

// Config is what a controller needs to know.
type Config struct {
	NodeID     int32
	ClusterID  string
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// SnapshotBytes of new log are worth a snapshot: bytes are what a start has to replay. 0 means 64 MiB.
	SnapshotBytes int
	// Session is after how much silence a broker is fenced.
	Session time.Duration
	// Balance is how long partitions may be led by others than their first replicas, 0 for ever.
	Balance time.Duration
	// Unclean is how often partitions without a leader are looked at for unclean elections, 0 for never.
	Unclean time.Duration
	// Send hands a message to the transport. It does not block: what it cannot take is lost, and Unreachable says so.
	Send func(quorum.Message)
	// Members is told who the controllers are: at the start, and when that changes.
	Members func([]image.Voter)
	// Probe dials the listener of a broker once.
	Probe func(ctx context.Context, b *image.Broker) (liveness.Finding, image.UUID)
}

const defaultSnapshotBytes = 64 << 20

// Outcome is what became of a command: nil and a reply, a *control.Refusal, ErrNotLeader or ErrUnknown. Index is what a
// reader must have applied to see it.
type Outcome struct {
	Index uint64
	Reply any
	Err   error
}

// Controller is this node's part of the quorum.
type Controller struct {
	cfg     Config
	log     wal.Log
	raftID  uint64
	inbox   chan func()   // what happens, for Run's goroutine
	stopped chan struct{} // closed when Run has ended
	metrics *metrics
	active  atomic.Bool
	leader  atomic.Int32              // the node that leads, -1 for none known
	saving  atomic.Pointer[time.Time] // since when the log is being written, nil for not; a number would be of wall time

	unreserved atomic.Pointer[error] // what the log last said of its reserve

	// The following are of Run's goroutine.
	core    *quorum.Core
	office  *office.Office
	tenure  context.Context    // ends with the office
	resign  context.CancelFunc // ends tenure, nil while there is none
	turned  time.Time          // when the loop last came round
	wrote   time.Duration      // of this turn the log took
	written int                // bytes of log since the last snapshot
	stand   *time.Timer
	members []image.Voter // as last told

	mu    sync.Mutex // guards the following
	img   *image.Image
	units []follow.Unit // the newest, each behind the one before
	base  uint64        // index of the image that the first of units follows
	bytes int           // of units
	news  chan struct{} // closed and replaced when img moves on
}

// DrawRaftID gives a log that has none a raft id, which no other directory ever has.
func DrawRaftID(log wal.Log) (uint64, error) {
	state, err := log.Load()
	if err != nil || state.RaftID != 0 {
		return state.RaftID, err
	}
	var id [8]byte
	rand.Read(id[:])
	raftID := binary.BigEndian.Uint64(id[:])>>1 | 1 // raft takes 0 for nobody, and the highest for itself
	return raftID, log.Draw(raftID)
}

// Form makes a log that has its raft id the first of a new cluster with these voters.
func Form(log wal.Log, raftID uint64, clusterID string, voters ...image.Voter) error {
	hs, snap := quorum.Genesis(clusterID, voters...)
	return log.Form(raftID, hs, snap)
}

// Join makes a log that has its raft id one of a cluster that there is: its leader sends what is in it.
func Join(log wal.Log, raftID uint64) error {
	hs, snap := quorum.Stranger()
	return log.Form(raftID, hs, snap)
}

// Open restores the controller from its log, which is formed.
func Open(cfg Config, log wal.Log) (*Controller, error) {
	state, err := log.Load()
	if err != nil {
		return nil, err
	}
	cfg.SnapshotBytes = cmp.Or(cfg.SnapshotBytes, defaultSnapshotBytes)
	var origin image.UUID
	rand.Read(origin[:])
	core, err := quorum.New(quorum.Config{
		RaftID: state.RaftID, ClusterID: cfg.ClusterID, Origin: origin,
		HardState: state.HardState, Snapshot: state.Snapshot, Entries: state.Entries,
		Logger: raftLogger{cfg.Logger},
	})
	if err != nil {
		return nil, fmt.Errorf("raft: %w", err)
	}
	if id := core.Image().ClusterID(); id != "" && id != cfg.ClusterID {
		return nil, fmt.Errorf("the metadata log is of cluster %s, this node is of cluster %s: its directory was put together from two", id, cfg.ClusterID)
	}
	c := &Controller{
		cfg: cfg, log: log, core: core, raftID: state.RaftID,
		office: office.New(office.Config{NodeID: cfg.NodeID, RaftID: state.RaftID, Session: cfg.Session, Balance: cfg.Balance, Unclean: cfg.Unclean}, core),
		inbox:  make(chan func(), inboxSize), stopped: make(chan struct{}),
		img: core.Image(), base: core.Image().Index(), news: make(chan struct{}),
	}
	c.leader.Store(-1)
	c.metrics = newMetrics(cfg.Registerer)
	return c, nil
}

// Run owns the raft node until ctx ends or the log fails. A controller that is alone has no ticks, since nobody's silence
// means anything then, and costs nothing when idle.
func (c *Controller) Run(ctx context.Context) error {
	defer close(c.stopped)
	watch, stopWatch := context.WithCancel(ctx)
	defer stopWatch()
	go c.watch(watch)
	reserving := make(chan struct{})
	go func() { defer close(reserving); c.keepReserve(watch) }()
	defer func() { stopWatch(); <-reserving }() // the log may be closed once Run has returned
	defer func() {
		c.answer(c.office.Hold(time.Now(), c.core.Abandon()))
		c.leave()
	}()
	snapshots := make(chan snapshotDone, 1)
	writing := false
	defer func() {
		if writing {
			<-snapshots
		}
	}()
	ticker := time.NewTicker(tick)
	defer ticker.Stop()
	c.stand = time.NewTimer(0)
	<-c.stand.C
	wake := time.NewTimer(0)
	defer wake.Stop()
	c.turned = time.Now()
	c.tellMembers()
	if c.core.Alone() {
		c.core.Enqueue(quorum.Proposal{Request: control.Request{
			Actor: fmt.Sprintf("controller %d", c.cfg.NodeID), Cause: "this release runs the cluster alone", Command: &control.FormCluster{ClusterID: c.cfg.ClusterID},
		}})
	}
	for {
		if err := c.settle(); err != nil {
			return err
		}
		if c.written > c.cfg.SnapshotBytes && !writing {
			c.written, writing = 0, true
			snap, img := c.core.Snapshot()
			go func() {
				snap.Data = img.Encode()
				err := c.log.SaveSnapshot(snap)
				snapshots <- snapshotDone{snap, err}
			}()
		}
		wake.Reset(c.supervise())
		var ticks <-chan time.Time
		if !c.core.Alone() {
			ticks = ticker.C
		}
		c.metrics.turnSeconds.Observe((time.Since(c.turned) - c.wrote).Seconds())
		c.wrote = 0
		select {
		case f := <-c.inbox:
			c.turn()
			f()
			c.gather()
		case <-ticks:
			c.turn()
			c.hold(c.core.Tick())
			c.office.Tick(time.Now())
		case <-wake.C:
			c.turn()
			c.gather()
		case <-c.stand.C:
			c.turn()
			if err := c.core.Campaign(); err != nil {
				c.cfg.Logger.Debug("not standing for election", "error", err)
			}
		case done := <-snapshots:
			c.turn()
			writing = false
			if err := c.compact(done); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
		}
	}
}

// gather takes everything that waits in the inbox, so that it is one unit and one sync.
func (c *Controller) gather() {
	for range inboxSize {
		select {
		case f := <-c.inbox:
			f()
		default:
			return
		}
	}
}

// turn notices that the process slept. What it knew of others is worth nothing then: it takes office anew, if it still
// has one, and everybody gets a full session.
func (c *Controller) turn() {
	now := time.Now()
	if gap := now.Sub(c.turned); gap > slept && !c.core.Alone() { // who is alone has nothing to do for hours
		c.cfg.Logger.Warn("this process did not run for a while", "gap", gap)
		c.leave()
	}
	c.turned = now
}

// watch ends the process when the log takes for ever: nobody else can tell that from a slow one.
func (c *Controller) watch(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case now := <-ticker.C:
			if since := c.saving.Load(); since != nil && now.Sub(*since) > stalled {
				debug.SetTraceback("all")
				panic(fmt.Sprintf("the raft log has been at one write for more than %s: the disk does not answer, and the controller's other work stands still", stalled))
			}
		case <-ctx.Done():
			return
		}
	}
}

// snapshotDone comes back from the goroutine that wrote a snapshot.
type snapshotDone struct {
	snap *quorum.Snapshot
	err  error
}

func (c *Controller) compact(done snapshotDone) error {
	if done.err != nil {
		c.cfg.Logger.Error("a metadata snapshot was not written; the raft log grows until the next one is", "error", done.err)
		return nil
	}
	to, err := c.core.Compact(done.snap, keepEntries, keepEntryBytes)
	if err != nil || to == 0 {
		return err
	}
	return c.log.Compact(to)
}

// settle runs the core until it has nothing more to do. Between Ready and Advance stands the write of the log and nothing
// else; an error of it ends the node.
func (c *Controller) settle() error {
	for {
		c.hold(c.core.Propose(time.Now())) // repeats, and what changes nothing, are awaited too
		p, ok, err := c.core.Ready()
		if err != nil {
			return err
		}
		if !ok {
			c.take() // it may have been left since
			c.observe()
			return nil
		}
		c.metrics.readies.Inc()
		c.metrics.waits(c.core.OldestWaiting()) // the write may take long
		begun := time.Now()
		c.saving.Store(&begun)
		if err := c.log.Save(wal.Write(p)); err != nil {
			return fmt.Errorf("the raft log cannot be written and this node must stop: %w", err)
		}
		c.saving.Store(nil)
		took := time.Since(begun)
		c.wrote += took
		if p.Sync {
			c.metrics.syncSeconds.Observe(took.Seconds())
		}
		done, err := c.core.Advance()
		c.metrics.advances.Inc()
		for _, m := range done.Messages {
			c.cfg.Send(m)
		}
		c.publish(done)
		c.tellMembers()
		c.take()
		c.hold(done.Answers)
		if err != nil {
			return err
		}
		for _, e := range p.Entries {
			c.written += len(e.GetData())
		}
	}
}

// observe shows outside where the raft node stands.
func (c *Controller) observe() {
	status := c.core.Status()
	c.active.Store(c.core.Active())
	leader := c.nodeOf(status.Leader)
	if m := c.core.Members(); !slices.Contains(m.Voters, c.raftID) && !slices.Contains(m.Learners, c.raftID) {
		leader = -1 // nobody tells who takes no part that another leads
	}
	c.leader.Store(leader)
	c.metrics.observe(status, c.leader.Load())
	c.metrics.waiting.Set(float64(c.core.Waiting()))
	c.metrics.waits(c.core.OldestWaiting())
	progress := c.core.Progress()
	c.metrics.members.Store(&progress)
}

// nodeOf is the node that a raft id belongs to, -1 where that is not known.
func (c *Controller) nodeOf(raftID uint64) int32 {
	if v, ok := c.core.Image().Voter(raftID); ok {
		return v.NodeID
	}
	if raftID == c.raftID {
		return c.cfg.NodeID
	}
	return -1
}

// publish gives units to those who follow.
func (c *Controller) publish(done quorum.Applied) {
	if len(done.Units) == 0 && !done.Restored {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.img = c.core.Image()
	if done.Restored { // what was there before has a gap behind it
		c.units, c.bytes, c.base = nil, 0, done.Base
	}
	for _, u := range done.Units {
		c.units = append(c.units, follow.Unit(u))
		c.bytes += len(u.Bytes)
	}
	for c.bytes > keepUnits && len(c.units) > 1 {
		c.base = c.units[0].Index
		c.bytes -= len(c.units[0].Bytes)
		c.units = c.units[1:]
	}
	close(c.news)
	c.news = make(chan struct{})
}

// do has the loop call f, unless it has stopped or ctx ends before.
func (c *Controller) do(ctx context.Context, f func()) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case c.inbox <- f:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-c.stopped:
		return errStopped
	}
}

// try has the loop call f, unless it is so busy that f would have to wait: for what is sent again if it is lost.
func (c *Controller) try(f func()) {
	select {
	case c.inbox <- f:
	default:
		c.metrics.dropped.Inc()
	}
}

// Receive takes a raft message from another controller.
func (c *Controller) Receive(data []byte) {
	c.try(func() { c.rejected(c.core.Step(data)) })
}

// ReceiveSnapshot takes a raft message whose snapshot came apart from it.
func (c *Controller) ReceiveSnapshot(data, snapshot []byte) {
	c.try(func() { c.rejected(c.core.StepSnapshot(data, snapshot)) })
}

func (c *Controller) rejected(err error) {
	if err != nil {
		c.cfg.Logger.Debug("a raft message was refused", "error", err)
	}
}

// Unreachable says that messages to another controller were lost.
func (c *Controller) Unreachable(raftID uint64) { c.try(func() { c.core.Unreachable(raftID) }) }

// SnapshotSent says how sending a snapshot ended. It must not get lost.
func (c *Controller) SnapshotSent(raftID uint64, ok bool) {
	_ = c.do(context.Background(), func() { c.core.SnapshotSent(raftID, ok) }) // an error says that the loop has stopped
}

// ControllerGone says that the process of another controller is gone, or leads no more. If it led, this one stands for
// election within moments.
func (c *Controller) ControllerGone(raftID uint64) {
	c.try(func() {
		if c.core.Status().Leader != raftID || c.raftID == raftID {
			return
		}
		if err := c.core.ForgetLeader(raftID); err != nil {
			return
		}
		c.stand.Reset(mathrand.N(stagger))
	})
}

// Image is the newest image that is applied here.
func (c *Controller) Image() *image.Image {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.img
}

// Active tells whether this controller is the one that decides.
func (c *Controller) Active() bool { return c.active.Load() }

// Leader is the node that leads the quorum, -1 where none is known.
func (c *Controller) Leader() int32 { return c.leader.Load() }
