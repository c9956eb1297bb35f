// Package raftmeta runs the metadata quorum of a node: the goroutine that owns the raft node, snapshots, the units that
// followers pull, and the broker's own view of the metadata.
package raftmeta

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/wal"
)

// ErrUnknown is the outcome of a command that may or may not have been carried out.
var ErrUnknown = quorum.ErrUnknown

const (
	inboxSize = 1024
	// Of the entries that a snapshot covers so many stay in the log, and so many bytes of units in memory, for followers
	// that are a little late.
	keepEntries, keepEntryBytes = 10_000, 16 << 20
	keepUnits                   = 16 << 20
)

// Config is what a controller needs to know.
type Config struct {
	NodeID     int32
	ClusterID  string
	Logger     *slog.Logger
	Registerer prometheus.Registerer
	// SnapshotBytes of new log are worth a snapshot: bytes are what a start has to replay. 0 means 64 MiB.
	SnapshotBytes int
}

const defaultSnapshotBytes = 64 << 20

// Outcome is what became of a command: nil and a reply, a *control.Refusal, or ErrUnknown. Index is what a reader must
// have applied to see it.
type Outcome struct {
	Index uint64
	Reply any
	Err   error
}

// Controller is this node's part of the quorum.
type Controller struct {
	cfg     Config
	log     wal.Log
	core    *quorum.Core // Run's goroutine owns it
	voter   image.Voter
	inbox   chan []quorum.Proposal
	stopped chan struct{} // closed when Run has ended
	metrics *metrics
	active  atomic.Bool

	mu    sync.Mutex // guards the following
	img   *image.Image
	units []follow.Unit // the newest, each behind the one before
	base  uint64        // index of the image that the first of units follows
	bytes int           // of units
	news  chan struct{} // closed and replaced when img moves on
}

// Open restores the controller from its log; an empty log becomes that of a new cluster of one.
func Open(cfg Config, log wal.Log) (*Controller, error) {
	state, err := log.Load()
	if err != nil {
		return nil, err
	}
	if state.RaftID == 0 {
		if state, err = form(log); err != nil {
			return nil, fmt.Errorf("forming the cluster: %w", err)
		}
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
		cfg: cfg, log: log, core: core, voter: image.Voter{RaftID: state.RaftID, NodeID: cfg.NodeID},
		inbox: make(chan []quorum.Proposal, inboxSize), stopped: make(chan struct{}),
		img: core.Image(), base: core.Image().Index(), news: make(chan struct{}),
	}
	c.metrics = newMetrics(cfg.Registerer)
	return c, nil
}

// form draws a raft id, which no other directory ever has, and writes the state that a cluster of one begins with.
func form(log wal.Log) (wal.State, error) {
	var id [8]byte
	rand.Read(id[:])
	raftID := binary.BigEndian.Uint64(id[:])>>1 | 1 // raft takes 0 for nobody, and the highest for itself
	hs, snap := quorum.Genesis(raftID)
	if err := log.Form(raftID, hs, snap); err != nil {
		return wal.State{}, err
	}
	return log.Load()
}

// token leads an answer back to its Submit.
type token struct {
	answers chan<- quorum.Answer
	n       int
}

// Run owns the raft node until ctx ends or the log fails. There are no ticks: with one voter nobody's silence means
// anything, and an idle controller costs nothing.
func (c *Controller) Run(ctx context.Context) error {
	defer close(c.stopped)
	defer func() { answer(c.core.Abandon()) }()
	c.core.Enqueue(quorum.Proposal{Request: control.Request{Actor: "controller", Cause: "a new cluster", Command: &control.FormCluster{ClusterID: c.cfg.ClusterID, Voters: []image.Voter{c.voter}}}})
	snapshots := make(chan snapshotDone, 1)
	writing := false
	defer func() {
		if writing {
			<-snapshots // the log may be closed once Run has returned
		}
	}()
	written := 0
	for {
		n, err := c.settle()
		if err != nil {
			return err
		}
		if written += n; written > c.cfg.SnapshotBytes && !writing {
			written, writing = 0, true
			snap, img := c.core.Snapshot()
			go func() {
				snap.Data = img.Encode()
				err := c.log.SaveSnapshot(snap)
				snapshots <- snapshotDone{snap, err}
			}()
		}
		select {
		case ps := <-c.inbox:
			c.gather(ps)
		case done := <-snapshots:
			writing = false
			if err := c.compact(done); err != nil {
				return err
			}
		case <-ctx.Done():
			return nil
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

// gather takes everything that waits in the inbox, so that it is one unit and one sync.
func (c *Controller) gather(ps []quorum.Proposal) {
	for {
		for _, p := range ps {
			c.core.Enqueue(p)
		}
		select {
		case ps = <-c.inbox:
		default:
			return
		}
	}
}

// settle runs the core until it has nothing more to do, and returns how many bytes it wrote. Between Ready and Advance
// stands the write of the log and nothing else; an error of it ends the node.
func (c *Controller) settle() (written int, err error) {
	for {
		answer(c.core.Propose(time.Now()))
		p, ok, err := c.core.Ready()
		if err != nil {
			return written, err
		}
		status := c.core.Status()
		c.active.Store(status.Leader == c.voter.RaftID)
		c.metrics.observe(status, c.nodeOf)
		if !ok {
			c.metrics.waiting.Set(float64(c.core.Waiting()))
			return written, nil
		}
		c.metrics.readies.Inc()
		begun := time.Now()
		if err := c.log.Save(wal.Write(p)); err != nil {
			return written, fmt.Errorf("the raft log cannot be written and this node must stop: %w", err)
		}
		if p.Sync {
			c.metrics.syncSeconds.Observe(time.Since(begun).Seconds())
		}
		done, err := c.core.Advance()
		c.metrics.advances.Inc()
		c.publish(done.Units)
		answer(done.Answers)
		if err != nil {
			return written, err
		}
		for _, e := range p.Entries {
			written += len(e.GetData())
		}
	}
}

// nodeOf is the node that a raft id belongs to, -1 where that is not known.
func (c *Controller) nodeOf(raftID uint64) int32 {
	if raftID == c.voter.RaftID {
		return c.voter.NodeID
	}
	for _, v := range c.core.Image().Voters() {
		if v.RaftID == raftID {
			return v.NodeID
		}
	}
	return -1
}

// publish gives units to those who follow.
func (c *Controller) publish(units []quorum.Committed) {
	if len(units) == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, u := range units {
		c.units = append(c.units, follow.Unit(u))
		c.bytes += len(u.Bytes)
	}
	for c.bytes > keepUnits && len(c.units) > 1 {
		c.base = c.units[0].Index
		c.bytes -= len(c.units[0].Bytes)
		c.units = c.units[1:]
	}
	c.img = c.core.Image()
	close(c.news)
	c.news = make(chan struct{})
}

func answer(answers []quorum.Answer) {
	for _, a := range answers {
		if t, ok := a.Token.(token); ok {
			t.answers <- a // has room for every command of its Submit
		}
	}
}

// Active tells whether this controller is the one that decides.
func (c *Controller) Active() bool { return c.active.Load() }

// Submit hands commands to the controller and returns when the outcome of each is applied here, or not known. When ctx
// ends first, the outcome of those that are not answered is unknown.
func (c *Controller) Submit(ctx context.Context, cmds ...control.Command) []Outcome {
	outcomes := make([]Outcome, len(cmds))
	for i := range outcomes {
		outcomes[i].Err = ErrUnknown
	}
	answers := make(chan quorum.Answer, len(cmds))
	ps := make([]quorum.Proposal, len(cmds))
	for i, cmd := range cmds {
		ps[i] = quorum.Proposal{Token: token{answers, i}, Request: control.Request{Actor: "controller", Command: cmd}}
	}
	select {
	case c.inbox <- ps:
	case <-ctx.Done():
		return withCause(outcomes, ctx)
	case <-c.stopped:
		return outcomes
	}
	for range cmds {
		select {
		case a := <-answers:
			outcomes[a.Token.(token).n] = Outcome{a.Index, a.Reply, a.Err}
		case <-ctx.Done():
			return withCause(outcomes, ctx)
		case <-c.stopped:
			select { // the loop answered before it stopped
			case a := <-answers:
				outcomes[a.Token.(token).n] = Outcome{a.Index, a.Reply, a.Err}
			default:
				return outcomes
			}
		}
	}
	return outcomes
}

// withCause says why outcomes are unknown.
func withCause(outcomes []Outcome, ctx context.Context) []Outcome {
	for i := range outcomes {
		if outcomes[i].Err == ErrUnknown {
			outcomes[i].Err = fmt.Errorf("%w: %w", ErrUnknown, context.Cause(ctx))
		}
	}
	return outcomes
}

// Units waits for committed units after an index and returns some, at least one; or a snapshot, when that index is too
// old for the units that are kept.
func (c *Controller) Units(ctx context.Context, after uint64, maxBytes int) (follow.Batch, error) {
	for {
		c.mu.Lock()
		img, news := c.img, c.news
		var batch follow.Batch
		if after >= c.base {
			batch.Units = unitsAfter(c.units, after, maxBytes)
		}
		c.mu.Unlock()
		switch {
		case len(batch.Units) > 0:
			return batch, nil
		case after > img.Index():
			return batch, fmt.Errorf("metadata up to index %d is wanted and %d is committed: the follower is of another cluster, or the controllers have lost data", after, img.Index())
		case after < img.Index():
			batch.Snapshot = img.Encode()
			return batch, nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return batch, ctx.Err()
		case <-c.stopped:
			return batch, errors.New("the controller has stopped")
		}
	}
}

func unitsAfter(units []follow.Unit, after uint64, maxBytes int) []follow.Unit {
	var out []follow.Unit
	for _, u := range units {
		if u.Index <= after {
			continue
		}
		if maxBytes -= len(u.Bytes); maxBytes < 0 && len(out) > 0 {
			break
		}
		out = append(out, u)
	}
	return out
}
