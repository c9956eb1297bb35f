// Package controller answers other nodes on the controller listener: messages of
// the quorum, and what brokers ask the controllers for. Until this node belongs to a
// cluster it says hello and nothing else.
package controller

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/transport"
)

// maxWait bounds what a request may ask to be held for.
const maxWait = 30 * time.Second

// Handlers answers requests of other nodes.
type Handlers struct {
	hello func() peer.HelloAnswer
	log   *slog.Logger

	cluster atomic.Pointer[cluster]
	watched sync.Map // ids of connections whose end is waited for

	stop     sync.Once
	stopping chan struct{} // closed when nobody may wait here any more
}

// New makes handlers that say hello. hello is who this node is.
func New(hello func() peer.HelloAnswer, log *slog.Logger) *Handlers {
	return &Handlers{hello: hello, log: log, stopping: make(chan struct{})}
}

// Stop ends the waits of those who wait for news: there is none from here any
// more, and this node stops when they are answered.
func (h *Handlers) Stop() { h.stop.Do(func() { close(h.stopping) }) }

type cluster struct {
	id         string
	controller *raftmeta.Controller
	receiver   *transport.Receiver
	closed     func(raftID uint64)
}

// Open begins to serve the quorum, once this node belongs to a cluster. closed
// is told when a connection ends over which another controller sent messages.
func (h *Handlers) Open(clusterID string, c *raftmeta.Controller, r *transport.Receiver, closed func(raftID uint64)) {
	h.cluster.Store(&cluster{clusterID, c, r, closed})
}

// Func is the form of every handler; see server.Handler for its contract.
type Func = func(ctx context.Context, r *protocol.Request, done func(*protocol.Response))

// Routes is the handler of each API that is for nodes alone.
func (h *Handlers) Routes() map[int16]Func {
	return map[int16]Func{
		protocol.KeyHello:        h.greet,
		protocol.KeyRaft:         h.raft,
		protocol.KeyRaftSnapshot: h.snapshot,
		protocol.KeyFetchUnits:   h.units,
		protocol.KeySubmit:       h.submit,
		protocol.KeyHeartbeat:    h.heartbeat,
		protocol.KeyQuorum:       h.quorum,
	}
}

var errNotFormed = errors.New("this node belongs to no cluster yet")

// of finds the cluster that a request is for.
func (h *Handlers) of(id string) (*cluster, error) {
	c := h.cluster.Load()
	switch {
	case c == nil:
		return nil, errNotFormed
	case c.id != id:
		return nil, fmt.Errorf("this node is of cluster %s, the request is for cluster %s: one of the two has a wrong address of the other", c.id, id)
	}
	return c, nil
}

func body(r *protocol.Request, header any) error {
	if err := json.Unmarshal(r.Body.(*protocol.NodeRequest).Header, header); err != nil {
		return fmt.Errorf("the header of %s: %w", protocol.Name(r.Key), err)
	}
	return nil
}

// Reply answers another node.
func Reply(r *protocol.Request, done func(*protocol.Response), header any, data []byte) {
	resp := r.Body.ResponseKind().(*protocol.NodeResponse)
	var err error
	if resp.Header, err = json.Marshal(header); err != nil {
		panic(fmt.Sprintf("an answer of %s: %v", protocol.Name(r.Key), err)) // they are structs of this program
	}
	resp.Data = data
	done(&protocol.Response{Body: resp})
}

// refuse ends the connection: whoever is there speaks of something else.
func (h *Handlers) refuse(r *protocol.Request, done func(*protocol.Response), err error) {
	h.log.Warn("a request of another node is refused", "api", protocol.Name(r.Key), "peer", r.Conn.Peer, "error", err)
	done(&protocol.Response{Close: true})
}

func (h *Handlers) greet(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	Reply(r, done, h.hello(), nil)
}

// raft takes messages of the quorum, which are not answered. That the connection
// ends is news too: a process that ends closes it.
func (h *Handlers) raft(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	c := h.cluster.Load()
	if c == nil {
		h.refuse(r, done, errNotFormed)
		return
	}
	frame := slices.Clone(r.Body.(*protocol.NodeRequest).Data) // the messages outlive the request
	from, messages, err := c.receiver.Deliver(frame)
	if err != nil {
		h.refuse(r, done, err)
		return
	}
	h.onEnd(ctx, r, func() { c.closed(from) })
	for _, m := range messages {
		c.controller.Receive(m)
	}
	done(nil)
}

// snapshot takes a piece of a snapshot from the leader.
func (h *Handlers) snapshot(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	c := h.cluster.Load()
	if c == nil {
		h.refuse(r, done, errNotFormed)
		return
	}
	q := r.Body.(*protocol.NodeRequest)
	next, whole, err := c.receiver.Chunk(q.Header, q.Data)
	if err != nil {
		h.refuse(r, done, err)
		return
	}
	if whole != nil {
		c.controller.ReceiveSnapshot(whole.Meta, whole.Data)
	}
	resp := q.ResponseKind().(*protocol.NodeResponse)
	resp.Header = transport.Ack(next)
	done(&protocol.Response{Body: resp})
}

func (h *Handlers) units(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	var q peer.FetchUnits
	if err := body(r, &q); err != nil {
		h.refuse(r, done, err)
		return
	}
	c, err := h.of(q.ClusterID)
	if err != nil {
		Reply(r, done, peer.FetchUnitsAnswer{Error: peer.NewFailure(err, -1)}, nil)
		return
	}
	go func() { // it waits, and the connection is read meanwhile: its end ends the wait
		ctx, cancel := context.WithTimeout(ctx, wait(q.WaitMs))
		defer cancel()
		if q.Current {
			index, err := c.controller.ReadIndex(ctx)
			Reply(r, done, peer.FetchUnitsAnswer{Index: index, Error: peer.NewFailure(err, c.controller.Leader())}, nil)
			return
		}
		go func() {
			select {
			case <-h.stopping:
				cancel()
			case <-ctx.Done():
			}
		}()
		b, err := c.controller.Units(ctx, q.After, max(1, q.MaxBytes))
		if err != nil && ctx.Err() == nil {
			Reply(r, done, peer.FetchUnitsAnswer{Error: peer.NewFailure(err, -1)}, nil)
			return
		}
		a, data := peer.NewUnitsAnswer(b)
		Reply(r, done, a, data)
	}()
}

func wait(millis int) time.Duration {
	return min(time.Duration(max(millis, 0))*time.Millisecond, maxWait)
}

func (h *Handlers) submit(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	var q peer.Submit
	if err := body(r, &q); err != nil {
		h.refuse(r, done, err)
		return
	}
	c, err := h.of(q.ClusterID)
	if err != nil {
		Reply(r, done, peer.SubmitAnswer{Error: peer.NewFailure(err, -1)}, nil)
		return
	}
	requests := make([]control.Request, len(q.Requests))
	for i, b := range q.Requests {
		if requests[i], err = control.DecodeRequest(b); err != nil {
			Reply(r, done, peer.SubmitAnswer{Error: peer.NewFailure(err, -1)}, nil)
			return
		}
	}
	go func() {
		ctx, cancel := context.WithTimeout(ctx, wait(q.TimeoutMs))
		defer cancel()
		var a peer.SubmitAnswer
		for _, o := range c.controller.Submit(ctx, requests...) {
			out, err := peer.NewOutcome(o)
			if err != nil {
				out.Error = peer.NewFailure(err, -1)
			}
			if out.Error != nil {
				out.Error.Leader = c.controller.Leader()
			}
			a.Outcomes = append(a.Outcomes, out)
		}
		Reply(r, done, a, nil)
	}()
}

func (h *Handlers) heartbeat(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	var q peer.Heartbeat
	if err := body(r, &q); err != nil {
		h.refuse(r, done, err)
		return
	}
	c, err := h.of(q.ClusterID)
	if err != nil {
		Reply(r, done, peer.HeartbeatAnswer{Error: peer.NewFailure(err, -1)}, nil)
		return
	}
	h.onEnd(ctx, r, func() { c.controller.BrokerClosed(q.Node, q.Incarnation) })
	go func() {
		answer, err := c.controller.Heartbeat(ctx, q.Heartbeat)
		Reply(r, done, peer.HeartbeatAnswer{Error: peer.NewFailure(err, c.controller.Leader()), Reply: answer}, nil)
	}()
}

func (h *Handlers) quorum(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	var q peer.Quorum
	if err := body(r, &q); err != nil {
		h.refuse(r, done, err)
		return
	}
	c, err := h.of(q.ClusterID)
	if err != nil {
		Reply(r, done, peer.QuorumAnswer{Error: peer.NewFailure(err, -1)}, nil)
		return
	}
	go func() {
		info, err := c.controller.Info(ctx)
		Reply(r, done, peer.QuorumAnswer{Error: peer.NewFailure(err, c.controller.Leader()), Info: info}, nil)
	}()
}

// onEnd has f called once when the connection of a request ends.
func (h *Handlers) onEnd(ctx context.Context, r *protocol.Request, f func()) {
	if _, known := h.watched.LoadOrStore(r.Conn.ID, true); known {
		return
	}
	context.AfterFunc(ctx, func() {
		h.watched.Delete(r.Conn.ID)
		f()
	})
}
