package broker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/streambus/streambus/broker/controller"
	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/broker/server"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/transport"
	"github.com/streambus/streambus/raftmeta/wal"
)

const (
	// maxNodeRequest is the largest request between nodes: a snapshot comes in
	// pieces, and a command has at most what a request of a client may have.
	maxNodeRequest = 128 << 20
	maxNodeAnswer  = 512 << 20 // a snapshot for a broker
	nodeConns      = 4096
	nodeIdle       = 10 * time.Minute
	probeTime      = 200 * time.Millisecond
	probes         = 3 // of a controller that does not answer, before an election time-out would be over
	snapshotTime   = 5 * time.Minute
)

// quorumNode is this node's part of the quorum: the raft log, the controller,
// and the listener of the controllers. A node that is alone has no listener.
type quorumNode struct {
	b          *Broker
	log        wal.Log
	raftID     uint64
	listener   net.Listener // nil for none
	name       string
	endpoints  []image.Endpoint
	handlers   *controller.Handlers
	server     *server.Server
	transport  *transport.Transport
	receiver   *transport.Receiver
	controller *raftmeta.Controller
	formed     atomic.Bool
}

func newQuorumNode(b *Broker, disk Disk, routes map[int16]server.Handler, metrics *server.Metrics) (*quorumNode, error) {
	q := &quorumNode{b: b, handlers: controller.New(b.whoAmI, b.log)}
	l, listens, err := b.cfg.ControllerListener()
	if err != nil {
		return nil, err
	}
	if listens {
		q.name = l.Name
		if q.listener, err = net.Listen("tcp", l.Addr()); err != nil {
			return nil, bindError("listener "+l.String(), "listeners", err)
		}
		if q.endpoints, err = q.advertised(l.Host); err != nil {
			return q, err
		}
	}
	if q.log, err = disk.RaftLog(filepath.Join(b.cfg.DataDir(), "raftmeta")); err != nil {
		return nil, errors.Join(err, q.closeListener())
	}
	for key, f := range q.handlers.Routes() {
		routes[key] = f
	}
	q.server = server.New(server.Config{
		Side:              protocol.Controllers,
		MaxRequestBytes:   maxNodeRequest,
		RequestMemory:     2 * maxNodeRequest,
		IdleTimeout:       nodeIdle,
		MaxPipelined:      maxPipelined,
		MaxPipelinedBytes: maxPipelinedHeld,

		MaxConnections:      nodeConns,
		MaxConnectionsPerIP: nodeConns,
		Admin:               b.adminURL() + "/metrics",
	}, routes, b.log, metrics)
	return q, nil
}

// advertised is where other nodes reach this controller: what
// controller.quorum.voters says, or where it listens.
func (q *quorumNode) advertised(host string) ([]image.Endpoint, error) {
	for _, v := range q.b.cfg.QuorumVoters() {
		if v.NodeID == q.b.cfg.NodeID() {
			return []image.Endpoint{{Name: q.name, Host: v.Host, Port: v.Port}}, nil
		}
	}
	_, text, err := net.SplitHostPort(q.listener.Addr().String())
	if err != nil {
		return nil, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	return []image.Endpoint{{Name: q.name, Host: host, Port: uint16(port)}}, err
}

// serve answers other nodes: who this one is at once, the rest once it belongs
// to a cluster.
func (q *quorumNode) serve(g *errgroup.Group, ctx context.Context) {
	if q.listener != nil {
		g.Go(func() error { return q.server.Serve(ctx, q.listener, q.name) })
	}
}

// introduce says what a hello says of a controller.
func (q *quorumNode) introduce(a *peer.HelloAnswer) {
	a.RaftID, a.Levels = q.raftID, image.OwnLevels
	if !q.formed.Load() {
		return
	}
	a.Formed, a.ClusterID = true, q.b.identity.ClusterID
	a.Controllers = q.controller.Image().Voters()
	a.Leads = q.controller.Leader() == q.b.cfg.NodeID()
}

// open makes the controller, once the log is formed.
func (q *quorumNode) open() (err error) {
	q.transport = transport.New(transport.Config{
		Self: q.raftID, ClusterID: q.b.identity.ClusterID, Logger: q.b.log, Registerer: q.b.metrics,
		Dial: q.dial, SnapshotTimeout: snapshotTime,
		Unreachable: func(id uint64) { q.controller.Unreachable(id) },
		// It may be called by the loop of the controller itself.
		SnapshotDone: func(id uint64, ok bool) { go q.controller.SnapshotSent(id, ok) },
	})
	q.receiver = transport.NewReceiver(q.raftID, q.b.identity.ClusterID)
	q.controller, err = raftmeta.Open(raftmeta.Config{
		NodeID: q.b.cfg.NodeID(), ClusterID: q.b.identity.ClusterID, Logger: q.b.log, Registerer: q.b.metrics,
		Session: q.b.cfg.Millis("broker.session.timeout.ms"),
		Balance: q.b.cfg.Balance(), Unclean: q.b.cfg.Millis("unclean.leader.election.interval.ms"),
		Send: q.send, Members: q.members, Probe: q.b.probe,
	}, q.log)
	if err != nil {
		return err
	}
	q.formed.Store(true)
	q.handlers.Open(q.b.identity.ClusterID, q.controller, q.receiver, q.closed)
	return nil
}

func (q *quorumNode) run(ctx context.Context) error {
	defer q.transport.Close()
	return q.controller.Run(ctx)
}

// send hands a message of the quorum to the transport.
func (q *quorumNode) send(m quorum.Message) {
	switch {
	case m.Snapshot != nil:
		q.transport.SendSnapshot(m.To, m.Data, func() ([]byte, error) { return m.Snapshot.Encode(), nil })
	case m.Urgent:
		q.transport.Send(m.To, transport.Urgent, m.Data)
	default:
		q.transport.Send(m.To, transport.Bulk, m.Data)
	}
}

// members tells the transport where the other controllers are.
func (q *quorumNode) members(voters []image.Voter) {
	var peers []transport.Peer
	for _, v := range voters {
		if v.RaftID == q.raftID {
			continue
		}
		if addr, ok := q.b.addressOf(v); ok {
			peers = append(peers, transport.Peer{RaftID: v.RaftID, Addr: addr})
		}
	}
	q.transport.SetPeers(peers)
}

// addressOf is where a controller is reached: as configured, or as it said.
func (b *Broker) addressOf(v image.Voter) (string, bool) {
	for _, c := range b.cfg.QuorumVoters() {
		if c.NodeID == v.NodeID {
			return c.Addr(), true
		}
	}
	if len(v.Endpoints) == 0 {
		return "", false
	}
	return net.JoinHostPort(v.Endpoints[0].Host, fmt.Sprint(v.Endpoints[0].Port)), true
}

// dial connects the transport to another controller.
func (q *quorumNode) dial(ctx context.Context, p transport.Peer) (transport.Stream, error) {
	conn, err := peer.Dial(ctx, p.Addr, q.b.peerConfig())
	if err != nil {
		return nil, err
	}
	return stream{conn}, nil
}

// stream is a connection as the transport uses it.
type stream struct{ conn *peer.Conn }

func (s stream) Send(ctx context.Context, frame []byte) error {
	return s.conn.Send(ctx, protocol.KeyRaft, nil, frame)
}

func (s stream) Call(ctx context.Context, header, data []byte) ([]byte, error) {
	answer, _, err := s.conn.Call(ctx, protocol.KeyRaftSnapshot, json.RawMessage(header), data)
	return answer, err
}

func (s stream) Close() { s.conn.Close() }

// closed looks whether another controller's process is gone, whose connection
// ended: if it led, another can lead within moments.
func (q *quorumNode) closed(raftID uint64) {
	v, ok := q.controller.Image().Voter(raftID)
	if !ok {
		return
	}
	addr, ok := q.b.addressOf(*v)
	if !ok {
		return
	}
	for range probes { // a process that is just starting in its place answers soon
		ctx, cancel := context.WithTimeout(context.Background(), probeTime)
		a, err := q.b.askWho(ctx, addr)
		cancel()
		if peer.Refused(err) || err == nil && !(a.RaftID == raftID && a.Leads) {
			q.controller.ControllerGone(raftID)
		}
		if peer.Refused(err) || err == nil {
			return
		}
	}
}

// endpointOf is where nodes reach a broker. While its settings differ from those
// here, as in a change of them node by node, it may have no such listener: then any
// is better than none.
func (b *Broker) endpointOf(x *image.Broker) (image.Endpoint, bool) {
	if e, ok := x.Endpoint(b.cfg.InterBrokerListener()); ok {
		return e, true
	}
	if len(x.Listeners) == 0 {
		return image.Endpoint{}, false
	}
	return x.Listeners[0], true
}

// probePause is what a probe waits whose connection was cut.
const probePause = 5 * time.Millisecond

// probe dials the listener of a broker. A process that is being torn down may still
// take a connection, and cut it: then the next one is refused, or answered by
// whoever comes in its place.
func (b *Broker) probe(ctx context.Context, x *image.Broker) (liveness.Finding, image.UUID) {
	e, ok := b.endpointOf(x)
	if !ok {
		return liveness.NoAnswer, image.UUID{}
	}
	a, err := b.askWho(ctx, net.JoinHostPort(e.Host, fmt.Sprint(e.Port)))
	switch {
	case peer.Refused(err):
		return liveness.Refused, image.UUID{}
	case err != nil:
		return liveness.NoAnswer, image.UUID{}
	case a.NodeID != x.ID: // that says nothing of broker x
		b.log.Warn("the listener that a broker advertises leads to another node: set its advertised.listeners", "broker", x.ID, "listener", e, "node", a.NodeID)
		return liveness.NoAnswer, image.UUID{}
	}
	return liveness.Alive, a.Incarnation
}

// askWho asks who is there until there is an answer, nobody listens, or ctx ends.
func (b *Broker) askWho(ctx context.Context, addr string) (peer.HelloAnswer, error) {
	for {
		a, err := peer.SayHello(ctx, addr, b.peerConfig(), b.identity.ClusterID)
		if err == nil || peer.Refused(err) {
			return a, err
		}
		select {
		case <-time.After(probePause):
		case <-ctx.Done():
			return a, err
		}
	}
}

func (b *Broker) peerConfig() peer.Config {
	return peer.Config{
		ClientID: fmt.Sprintf("node-%d", b.cfg.NodeID()), DialTimeout: 2 * time.Second, WriteTimeout: 5 * time.Second,
		AnswerTimeout: 90 * time.Second, MaxInFlight: 64, MaxAnswerBytes: maxNodeAnswer,
	}
}

// resign hands the office to another controller, if this one has it.
func (q *quorumNode) resign(ctx context.Context) {
	if q.controller == nil || !q.controller.Active() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if err := q.controller.Resign(ctx); err != nil {
		q.b.log.Debug("the office of the controller was not handed over", "error", err)
	}
}

func (q *quorumNode) shutdown(ctx context.Context) {
	q.handlers.Stop()
	q.server.Shutdown(ctx)
}

func (q *quorumNode) closeListener() error {
	if q.listener == nil {
		return nil
	}
	return q.listener.Close()
}

func (q *quorumNode) close() error {
	q.closeListener()
	if q.log == nil {
		return nil
	}
	err := q.log.Close()
	q.log = nil
	return err
}
