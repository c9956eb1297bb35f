// Package transport moves raft messages, as bytes, between the nodes of a quorum. A node sends only on connections
// that it dialled and reads only those that it accepted, so nobody has to decide which of two connections lives on.
//
// # What a caller may rely on
//
// Send never blocks: there are bounded queues for each peer and one goroutine behind them, and what finds no room is
// dropped, as raft allows. Messages of one class arrive in the order in which they were sent, or not at all. Elections
// and heartbeats have a class of their own that goes first, so that a follower which is slow to take entries does not
// take its leader for dead.
//
// A snapshot goes on a connection of its own, piece by piece, each acknowledged, and goes on where it was when that
// connection is lost. SnapshotDone is called once for every SendSnapshot, however it ends.
//
// What arrives is given to a Receiver, which checks that it is meant for this node of this cluster.
package transport

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Class is which queue a message waits in.
type Class int

// Classes, the first to go first.
const (
	Urgent Class = iota // elections and heartbeats, with their answers
	Bulk                // entries, and their answers
	classes
)

// bounds of a peer's queues.
var bounds = [classes]struct{ messages, bytes int }{
	Urgent: {1024, 4 << 20},
	Bulk:   {4096, 64 << 20},
}

const (
	frameRoom   = 1 << 20 // a frame is gathered up to this size; a message is never divided
	dialTime    = 5 * time.Second
	writeTime   = 10 * time.Second // one frame; a peer that takes longer is not there
	firstPause  = 20 * time.Millisecond
	longestWait = time.Second // between two attempts to connect
)

// Peer is another node of the quorum.
type Peer struct {
	RaftID uint64
	Addr   string
}

// Stream is a connection to a peer. Close may be called at any time, more than once, and makes the other calls return.
type Stream interface {
	// Send sends a frame that is not answered, and returns when the network has it.
	Send(ctx context.Context, frame []byte) error
	// Call sends a piece of a snapshot and returns what the other side's Ack made.
	Call(ctx context.Context, header, data []byte) (ack []byte, err error)
	Close()
}

// Config is what a transport needs to know. The callbacks may come from any goroutine, the one in Send included, so they
// must not block.
type Config struct {
	Self      uint64 // this node's raft id
	ClusterID string

	Dial         func(context.Context, Peer) (Stream, error)
	Unreachable  func(raftID uint64)          // messages to this peer were dropped
	SnapshotDone func(raftID uint64, ok bool) // a snapshot is there, or will not be

	SnapshotTimeout time.Duration // all attempts to bring one snapshot across
	Logger          *slog.Logger
	Registerer      prometheus.Registerer
}

// Transport sends to the peers of one node.
type Transport struct {
	cfg     Config
	metrics *metrics
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu    sync.Mutex // guards the following
	peers map[uint64]*peer
}

type metrics struct {
	dropped   *prometheus.CounterVec // by peer
	snapshots *prometheus.CounterVec // by outcome
}

// New makes a transport without peers.
func New(cfg Config) *Transport {
	m := &metrics{
		dropped: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "streambus_raft_dropped_total", Help: "Raft messages that were not sent, by the peer's raft id.",
		}, []string{"peer"}),
		snapshots: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "streambus_raft_snapshots_sent_total", Help: "Snapshots for other nodes of the quorum, by what came of them.",
		}, []string{"outcome"}),
	}
	cfg.Registerer.MustRegister(m.dropped, m.snapshots)
	t := &Transport{cfg: cfg, metrics: m, peers: map[uint64]*peer{}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	return t
}

// SetPeers makes these the peers. One with another address is connected anew, and what waited for it is dropped.
func (t *Transport) SetPeers(peers []Peer) {
	t.mu.Lock()
	defer t.mu.Unlock()
	wanted := map[uint64]Peer{}
	for _, p := range peers {
		if p.RaftID != t.cfg.Self {
			wanted[p.RaftID] = p
		}
	}
	for id, p := range t.peers {
		if wanted[id] != p.Peer {
			p.cancel()
			delete(t.peers, id)
			if _, stays := wanted[id]; !stays {
				t.metrics.dropped.DeleteLabelValues(label(id))
			}
		}
	}
	for id, w := range wanted {
		if t.peers[id] == nil && t.ctx.Err() == nil {
			t.peers[id] = t.start(w)
		}
	}
}

func label(raftID uint64) string { return fmt.Sprintf("%x", raftID) }

func (t *Transport) start(p Peer) *peer {
	ctx, cancel := context.WithCancel(t.ctx)
	r := &peer{
		Peer: p, t: t, ctx: ctx, cancel: cancel, wake: make(chan struct{}, 1), log: t.cfg.Logger.With("peer", label(p.RaftID), "address", p.Addr),
		dropped: t.metrics.dropped.WithLabelValues(label(p.RaftID)),
	}
	t.running.Go(r.run)
	return r
}

func (t *Transport) find(raftID uint64) *peer {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.peers[raftID]
}

// Send queues a message, which belongs to the transport from then on. One for which there is no room, or no peer, is
// dropped.
func (t *Transport) Send(to uint64, class Class, message []byte) {
	p := t.find(to)
	if p == nil {
		return // it was removed while raft still had something to say
	}
	if !p.push(class, message) {
		p.dropped.Inc()
		t.cfg.Unreachable(to)
	}
}

// Close ends all connections and returns when nothing runs any more. Snapshots under way are reported as failed.
func (t *Transport) Close() {
	t.mu.Lock()
	t.cancel() // under the lock: SetPeers and SendSnapshot start nothing after it
	t.mu.Unlock()
	t.running.Wait()
}

// peer is one peer's queues, and the goroutine that empties them.
type peer struct {
	Peer
	t       *Transport
	ctx     context.Context
	cancel  context.CancelFunc
	log     *slog.Logger
	dropped prometheus.Counter
	wake    chan struct{} // has one when something was queued
	silent  bool          // the last attempt failed, and that was logged; the goroutine's

	mu       sync.Mutex // guards the following
	queues   [classes]queue
	snapshot bool // one is under way
}

type queue struct {
	messages [][]byte
	bytes    int
}

func (p *peer) push(class Class, message []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	q := &p.queues[class]
	if b := bounds[class]; len(q.messages) >= b.messages || q.bytes+len(message) > b.bytes {
		return false
	}
	q.messages = append(q.messages, message)
	q.bytes += len(message)
	select {
	case p.wake <- struct{}{}:
	default:
	}
	return true
}

// take removes what goes into the next frame, urgent messages first.
func (p *peer) take() [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out [][]byte
	size := 0
	for class := range p.queues {
		q := &p.queues[class]
		n := 0
		for n < len(q.messages) && (len(out) == 0 || size+len(q.messages[n]) <= frameRoom) {
			out = append(out, q.messages[n])
			size += len(q.messages[n])
			q.bytes -= len(q.messages[n])
			n++
		}
		left := copy(q.messages, q.messages[n:])
		clear(q.messages[left:])
		q.messages = q.messages[:left]
		if left > 0 {
			break // nothing of a later class overtakes
		}
	}
	return out
}

// run sends what is queued until the peer is removed.
func (p *peer) run() {
	var s Stream
	var since time.Time
	var b backoff
	defer func() {
		if s != nil {
			s.Close()
		}
	}()
	for {
		select {
		case <-p.wake:
		case <-p.ctx.Done():
			return
		}
		for messages := p.take(); len(messages) > 0; messages = p.take() {
			var err error
			if s == nil {
				if s, err = p.dial(); err == nil {
					since = time.Now()
				}
			}
			if err == nil {
				err = p.send(s, messages)
			}
			if err == nil {
				p.reached()
				continue
			}
			if s != nil {
				s.Close()
				s = nil
				// One that takes connections and drops them is not worth a hot loop.
				if time.Since(since) > longestWait {
					b = backoff{}
				}
			}
			if p.ctx.Err() != nil {
				return
			}
			p.lost(len(messages), err)
			if !b.pause(p.ctx) {
				return
			}
		}
	}
}

func (p *peer) dial() (Stream, error) {
	ctx, cancel := context.WithTimeout(p.ctx, dialTime)
	defer cancel()
	return p.t.cfg.Dial(ctx, p.Peer)
}

func (p *peer) send(s Stream, messages [][]byte) error {
	ctx, cancel := context.WithTimeout(p.ctx, writeTime)
	defer cancel()
	defer context.AfterFunc(ctx, s.Close)()
	return s.Send(ctx, encodeFrame(p.t.cfg.ClusterID, p.t.cfg.Self, p.RaftID, messages))
}

// lost drops what was meant for a connection that is gone, and these messages that were tried.
func (p *peer) lost(tried int, err error) {
	p.mu.Lock()
	for class := range p.queues {
		tried += len(p.queues[class].messages)
		p.queues[class] = queue{}
	}
	p.mu.Unlock()
	p.dropped.Add(float64(tried))
	if !p.silent {
		p.silent = true
		p.log.Warn("a node of the quorum cannot be reached; it is tried again", "error", err)
	}
	p.t.cfg.Unreachable(p.RaftID)
}

func (p *peer) reached() {
	if p.silent {
		p.silent = false
		p.log.Info("a node of the quorum is reached again")
	}
}

// backoff is the pause between attempts: it doubles, and no two nodes keep step.
type backoff struct{ next time.Duration }

// pause waits, and is false if ctx ended first.
func (b *backoff) pause(ctx context.Context) bool {
	b.next = min(max(2*b.next, firstPause), longestWait)
	timer := time.NewTimer(b.next/2 + rand.N(b.next/2))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
