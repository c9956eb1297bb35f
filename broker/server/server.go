// Package server runs listeners and connections: it reads frames, dispatches
// requests to handlers by the API table, and sends the answers of each
// connection in the order of its requests.
//
// # What a handler may rely on
//
// Requests of one connection are started one after the other, on the
// connection's reader. A handler returns when whatever later requests must
// find done has been done in order; what is then still due (replication, data,
// time) completes later, from any goroutine, by calling done exactly once.
// So produce requests of one connection pipeline while their answers keep
// their order. The bytes that a request's body aliases are reused when the
// handler returns.
//
// A server is for one side: clients, or the nodes of the cluster. A node that has
// both runs two, so that what one side holds (memory of requests, connections)
// is never missing on the other. A handler sees only requests that its side has
// in protocol.APIs, whose bodies have the form of their API.
package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/streambus/streambus/protocol"
)

// Handler starts a request on the connection's reader. done is called exactly
// once, from any goroutine; done(nil) means that no answer is due (acks=0).
// ctx ends with the connection.
type Handler func(ctx context.Context, r *protocol.Request, done func(*protocol.Response))

// Config is what a server needs to know. Zero values are not defaulted.
type Config struct {
	Side              protocol.Side // whom all its listeners are for
	MaxRequestBytes   int32         // the largest request
	MaxRequestSetting string        // the setting that says so, empty if there is none
	RequestMemory     int64         // bytes that arriving requests may hold over all connections
	IdleTimeout       time.Duration // connections.max.idle.ms
	MaxPipelined      int           // requests of one connection that may wait for their answers
	MaxPipelinedBytes int64         // bytes of completed answers that may wait behind a slower one

	MaxConnections      int                // max.connections
	MaxConnectionsPerIP int                // max.connections.per.ip
	PerIPOverrides      map[netip.Addr]int // max.connections.per.ip.overrides
	Admin               string             // where metrics are, for who looks for them here
}

// Server accepts connections and answers them.
type Server struct {
	cfg     Config
	routes  map[int16]Handler
	log     *slog.Logger
	limit   frameLimit
	memory  *frameMemory
	metrics *metrics
	seldom  seldom
	nextID  atomic.Uint64

	conns sync.WaitGroup
	mu    sync.Mutex // guards the following
	open  map[*conn]struct{}
	perIP map[netip.Addr]int // of open
	down  bool
}

// New makes a server that answers with these handlers, by API key. There is
// one for each key of protocol.APIs(cfg.Side).
func New(cfg Config, routes map[int16]Handler, log *slog.Logger, m *Metrics) *Server {
	s := &Server{cfg: cfg, routes: routes, log: log, memory: newFrameMemory(cfg.RequestMemory), open: map[*conn]struct{}{}, perIP: map[netip.Addr]int{}}
	s.limit = frameLimit{cfg.Side, cfg.MaxRequestBytes, cfg.MaxRequestSetting}
	s.metrics = m.of(cfg.Side, s.memory)
	return s
}

// Serve accepts connections of one listener until ln is closed.
func (s *Server) Serve(ctx context.Context, ln net.Listener, listener string) error {
	counts := s.metrics.listener(listener)
	for {
		nc, err := ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			// Out of descriptors, or the peer has gone again: the next one may do.
			if ok, kept := s.seldom.may(time.Now(), "accept "+listener, netip.Addr{}); ok {
				s.log.Error("connections cannot be accepted; it is tried again", "listener", listener, "error", err, "more-since-last-line", kept)
			}
			select {
			case <-time.After(50 * time.Millisecond):
				continue
			case <-ctx.Done():
				return nil
			}
		}
		s.accept(ctx, nc, listener, counts)
	}
}

func (s *Server) accept(ctx context.Context, nc net.Conn, listener string, counts *listenerMetrics) {
	peer, _ := netip.ParseAddrPort(nc.RemoteAddr().String()) // zero for a pipe
	ctx, cancel := context.WithCancel(ctx)
	c := &conn{
		srv: s, nc: nc, in: input{nc: nc}, log: s.log, cancel: cancel, counts: counts,
		info: protocol.ConnInfo{ID: s.nextID.Add(1), Side: s.cfg.Side, Listener: listener, Principal: "User:ANONYMOUS", Peer: peer},
	}
	s.mu.Lock()
	reason := s.admit(c.ip())
	if reason == "" {
		s.open[c] = struct{}{}
		s.conns.Add(1)
	}
	s.mu.Unlock()
	if reason != "" {
		cancel()
		nc.Close()
		s.refused(c, reason)
		return
	}
	counts.accepted.Inc()
	counts.open.Inc()
	go func() {
		defer s.conns.Done()
		c.serve(ctx)
	}()
}

// Shutdown stops reading requests and returns when those already read are
// answered, or when ctx ends; then connections are cut. The listeners are
// closed before, by their owner.
func (s *Server) Shutdown(ctx context.Context) {
	s.mu.Lock()
	s.down = true
	for c := range s.open {
		c.stop()
	}
	s.mu.Unlock()
	cut := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		for c := range s.open {
			c.nc.Close()
			c.cancel()
		}
	})
	defer cut()
	s.conns.Wait()
}

func (s *Server) forget(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, c)
	s.leave(c.ip())
	c.counts.open.Dec()
	c.counts.closed.Inc()
}
