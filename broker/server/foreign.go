package server

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/streambus/streambus/protocol"
)

// foreignError is a connection that speaks another protocol.
type foreignError struct{ protocol string }

func (e *foreignError) Error() string { return "it speaks " + e.protocol }

// methods are how HTTP begins, version 2 included.
var methods = []string{"GET ", "POST ", "HEAD ", "PUT ", "DELETE ", "OPTIONS ", "PATCH ", "CONNECT ", "TRACE ", "PRI "}

// foreign recognises what is not Kafka's protocol by the first six bytes of a
// frame that is larger than any may be: the length that they would announce is
// beyond 350 MiB.
func foreign(start []byte) *foreignError {
	if start[0] == 0x16 && start[1] == 3 { // a handshake record, of any version
		return &foreignError{"TLS"}
	}
	for _, m := range methods {
		if bytes.HasPrefix(start, []byte(m[:min(len(m), len(start))])) {
			return &foreignError{"HTTP"}
		}
	}
	return nil
}

// turnAway ends a connection that speaks another protocol, with what to do
// about it where its owner can see it.
func (c *conn) turnAway(e *foreignError) {
	advice := c.srv.advice(e)
	reason := speaksTLS
	if e.protocol == "HTTP" {
		reason = speaksHTTP
		c.answerHTTP(advice)
	}
	c.srv.metrics.refused[reason].Inc()
	c.warn(reason, "closing a connection: it speaks "+e.protocol, "advice", advice)
}

// advice is what to do about it.
func (s *Server) advice(e *foreignError) string {
	if e.protocol == "TLS" {
		return "this listener is plaintext: set security.protocol=PLAINTEXT (or the client's word for it), or connect to another port"
	}
	if s.cfg.Side == protocol.Controllers {
		return "this port serves the nodes of the cluster; metrics are at " + s.cfg.Admin
	}
	return "this port serves Kafka clients; metrics are at " + s.cfg.Admin
}

const (
	lingerTime  = time.Second
	lingerBytes = 64 << 10
)

// answerHTTP tells a browser, or whoever looks for metrics, where it is. Nothing
// else is ever written to such a connection.
func (c *conn) answerHTTP(advice string) {
	c.mu.Lock()
	mine := !c.dead && c.isIdle()
	c.writing = c.writing || mine
	c.mu.Unlock()
	if !mine {
		return
	}
	text := strings.ToUpper(advice[:1]) + advice[1:] + ".\n"
	c.nc.SetDeadline(time.Now().Add(lingerTime))
	fmt.Fprintf(c.nc, "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", len(text), text)
	// A close with something unread in it resets the connection, and may take the
	// answer along.
	if half, ok := c.nc.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
		io.CopyN(io.Discard, c.nc, lingerBytes)
	}
}
