package server

import (
	"net/netip"
	"time"
)

// Reasons for which connections are refused or closed, as metrics name them.
const (
	stopping           = "stopping"
	tooManyConnections = "max.connections"
	tooManyOfOneIP     = "max.connections.per.ip"
	speaksTLS          = "tls"
	speaksHTTP         = "http"
	notAFrame          = "frame"
	notServed          = "unsupported"
	notTheForm         = "malformed"
)

var reasons = []string{stopping, tooManyConnections, tooManyOfOneIP, speaksTLS, speaksHTTP, notAFrame, notServed, notTheForm}

// admit counts a connection in, or returns why it may not be. s.mu is held.
//
// Both limits refuse at once. At max.connections Apache Kafka stops accepting
// instead, so that connections pile up in the kernel, which no limit covers, and
// a client waits for its time-out without learning why. Refused it tries again
// after its back-off, and the log says why.
func (s *Server) admit(peer netip.Addr) (reason string) {
	switch {
	case s.down:
		return stopping
	case len(s.open) >= s.cfg.MaxConnections:
		return tooManyConnections
	case s.perIP[peer] >= s.perIPLimit(peer):
		return tooManyOfOneIP
	}
	s.perIP[peer]++
	return ""
}

func (s *Server) perIPLimit(peer netip.Addr) int {
	if n, ok := s.cfg.PerIPOverrides[peer]; ok {
		return n
	}
	return s.cfg.MaxConnectionsPerIP
}

// leave counts a connection out. s.mu is held.
func (s *Server) leave(peer netip.Addr) {
	if s.perIP[peer]--; s.perIP[peer] == 0 {
		delete(s.perIP, peer)
	}
}

// refused tells of a connection that may not be.
func (s *Server) refused(c *conn, reason string) {
	s.metrics.refused[reason].Inc()
	limit := s.cfg.MaxConnections
	switch reason {
	case stopping:
		return
	case tooManyOfOneIP:
		limit = s.perIPLimit(c.ip())
	}
	c.warn(reason, "a connection was refused: there are as many as "+reason+" allows", "limit", limit)
}

// warn writes a line about a connection, one per kind, peer and interval.
func (c *conn) warn(kind, message string, args ...any) {
	if ok, kept := c.srv.seldom.may(time.Now(), kind, c.ip()); ok {
		c.log.Warn(message, append(args, "peer", c.info.Peer, "listener", c.info.Listener, "more-since-last-line", kept)...)
	}
}
