package server

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/protocol"
)

// conn is one connection: a reader goroutine that decodes and starts requests,
// and answers that leave in the order of their requests.
//
// The writing side has no goroutine of its own. Whoever completes the answer at
// the head of the queue while nobody writes becomes the writer, on a fresh
// goroutine, until the head is not ready; the reader does so itself for an
// answer completed while it was in the handler. So a flusher or a lock holder
// that completes an answer never touches the socket.
type conn struct {
	srv      *Server
	nc       net.Conn
	in       input // the reader's
	info     protocol.ConnInfo
	counts   *listenerMetrics
	log      *slog.Logger
	cancel   context.CancelFunc
	draining atomic.Bool // no further request is read

	mu      sync.Mutex    // guards the following
	queue   []*answer     // requests started and not yet answered, oldest first
	held    int64         // bytes of completed answers in queue
	writing bool          // some goroutine owns the socket's write side
	started *answer       // its handler runs on the reader now
	dead    bool          // the socket is closed: answers are dropped
	room    chan struct{} // closed and replaced when the queue gets shorter
}

// answer is the place of one request in the order of answers.
type answer struct {
	c             *conn
	key, version  int16
	correlationID int32
	begun         time.Time
	answered      bool               // complete was called; conn.mu
	done          bool               // and it can be written in its turn; conn.mu
	resp          *protocol.Response // nil: nothing is sent (acks=0)
}

// serve reads requests until the connection ends. It owns the socket and
// closes it.
func (c *conn) serve(ctx context.Context) {
	defer c.in.rest()
	defer c.close()
	proven := 0
	for {
		if err := c.waitUntil(ctx, c.hasRoom); err != nil {
			return
		}
		f, err := c.next(ctx, proven)
		if c.draining.Load() {
			if err == nil {
				f.release() // read whole when the stop came
			}
			c.waitUntil(ctx, c.isIdle) // until answered, or until ctx cuts it short
			return
		}
		if err != nil {
			c.ended(err)
			return
		}
		proven = len(f.data)
		c.counts.bytesIn.Add(float64(4 + len(f.data)))
		if !c.start(ctx, f) {
			return
		}
	}
}

// next waits for a frame. A connection that is silent for longer than
// connections.max.idle.ms is closed, unless an answer is due.
func (c *conn) next(ctx context.Context, proven int) (*frame, error) {
	idle := c.srv.cfg.IdleTimeout
	quiet := time.Now()
	for {
		until := quiet.Add(idle)
		if c.in.buf != nil {
			until = quiet.Add(min(idle, keepBuffer))
		}
		c.allowRead(until)
		err := c.in.wait()
		if err == nil {
			return c.srv.memory.read(ctx, c.in.buf, proven, c.srv.limit, func(bytes int) {
				c.allowRead(patience(int64(bytes)))
			})
		}
		if !errors.Is(err, os.ErrDeadlineExceeded) || c.draining.Load() {
			return nil, err
		}
		c.in.rest()
		if time.Since(quiet) >= idle {
			if !c.waiting() {
				return nil, err
			}
			quiet = time.Now()
		}
	}
}

// allowRead gives reads until then, and none once the connection is to end.
// The flag is asked last: stop sets it before it sets the deadline.
func (c *conn) allowRead(until time.Time) {
	c.nc.SetReadDeadline(until)
	if c.draining.Load() {
		c.nc.SetReadDeadline(past)
	}
}

// past is a deadline that is over.
var past = time.Unix(1, 0)

// stop makes the reader read no further and end once all is answered.
func (c *conn) stop() {
	c.draining.Store(true)
	c.nc.SetReadDeadline(past)
}

// start decodes one frame and runs its handler. It returns false when the
// connection must end. The frame is given back before the answer can leave: a
// client that reads slowly, or not at all, holds no memory of requests.
func (c *conn) start(ctx context.Context, f *frame) bool {
	r, correlationID, err := protocol.Decode(f.data, &c.info)
	if err != nil {
		f.release()
		c.ended(err)
		return false
	}
	c.srv.metrics.arrived(r.Key, r.Version, len(f.data))
	a := &answer{c: c, key: r.Key, version: r.Version, correlationID: correlationID, begun: time.Now()}
	c.mu.Lock()
	c.queue = append(c.queue, a)
	c.started = a
	c.mu.Unlock()

	c.srv.routes[r.Key](ctx, r, a.complete)
	f.release()
	return c.returned(a)
}

// returned is called by the reader when a handler has returned. An answer that
// was completed until then is written here if its turn has come. If it has to
// wait it is encoded first, so that what waits is counted in bytes: a body has no
// size before that, and an answer about every topic is a thousand times its
// request.
func (c *conn) returned(a *answer) (alive bool) {
	c.mu.Lock()
	c.started = nil
	if a.answered && !a.done {
		if !c.dead && (c.writing || c.queue[0] != a) {
			c.mu.Unlock()
			encodeBody(a)
			c.mu.Lock()
		}
		c.finish(a)
	}
	mine := c.claim()
	alive = !c.dead
	c.mu.Unlock()
	if mine {
		c.write()
	}
	return alive
}

// encodeBody turns the answer's body into bytes.
func encodeBody(a *answer) {
	if a.resp != nil && a.resp.Body != nil {
		a.resp.Head, a.resp.Body = a.resp.Body.AppendTo(nil), nil
	}
}

// complete stores the answer of a request. It is called exactly once, from any
// goroutine, possibly under locks of its caller: it does not block.
func (a *answer) complete(resp *protocol.Response) {
	c := a.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if a.answered {
		panic("server: a request was answered twice")
	}
	a.answered, a.resp = true, resp
	c.srv.metrics.answered(a.key, time.Since(a.begun))
	// While its handler runs on the reader, the reader goes on with it: it is awake.
	if c.started == a {
		return
	}
	c.finish(a)
	if c.claim() {
		go c.write()
	}
}

// finish makes an answer one that can be written in its turn. c.mu is held.
func (c *conn) finish(a *answer) {
	a.done = true
	if c.dead {
		release(a.resp)
		return
	}
	c.held += heldBytes(a.resp)
}

// claim makes the caller the writer if there is something to write and nobody
// writes. c.mu is held.
func (c *conn) claim() bool {
	if c.writing || c.dead || len(c.queue) == 0 || !c.queue[0].done {
		return false
	}
	c.writing = true
	return true
}

// write sends answers from the head of the queue until the head is not ready.
// The caller has claimed the write side.
func (c *conn) write() {
	var batch []*answer
	w := newAnswerWriter(c.nc, c.counts.bytesOut)
	defer w.free()
	for {
		batch = c.takeReady(batch[:0])
		if len(batch) == 0 {
			return
		}
		for i, a := range batch {
			if a.resp == nil {
				continue
			}
			err := w.append(a)
			stop := a.resp.Close
			release(a.resp)
			if err == nil && !stop {
				continue
			}
			if err == nil {
				err = w.flush()
			}
			for _, rest := range batch[i+1:] {
				release(rest.resp)
			}
			c.wrote(err)
			return
		}
		if err := w.flush(); err != nil {
			c.wrote(err)
			return
		}
	}
}

// wrote ends the connection after a failed write or an answer that asks for it.
func (c *conn) wrote(err error) {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		c.warn("deaf", "closing a connection whose client does not read its answers")
	}
	c.close()
}

// takeReady removes the completed answers at the head of the queue. With none
// it gives up the write side, in the same critical section: a completion after
// it finds no writer and becomes one.
func (c *conn) takeReady(batch []*answer) []*answer {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for n < len(c.queue) && c.queue[n].done && !c.dead {
		a := c.queue[n]
		c.held -= heldBytes(a.resp)
		batch = append(batch, a)
		n++
	}
	c.writing = n > 0
	if n > 0 {
		left := copy(c.queue, c.queue[n:])
		clear(c.queue[left:])
		c.queue = c.queue[:left]
	}
	c.signalRoom()
	return batch
}

// hasRoom is false while too many answers wait behind the head: the reader
// stops. c.mu is held.
func (c *conn) hasRoom() bool {
	return len(c.queue) < c.srv.cfg.MaxPipelined && c.held < c.srv.cfg.MaxPipelinedBytes
}

// isIdle is true when every request is answered. c.mu is held.
func (c *conn) isIdle() bool { return len(c.queue) == 0 && !c.writing }

// waitUntil waits for cond, which is asked again whenever answers have left.
func (c *conn) waitUntil(ctx context.Context, cond func() bool) error {
	for {
		c.mu.Lock()
		if c.dead {
			c.mu.Unlock()
			return net.ErrClosed
		}
		if cond() {
			c.mu.Unlock()
			return nil
		}
		if c.room == nil {
			c.room = make(chan struct{})
		}
		room := c.room
		c.mu.Unlock()
		select {
		case <-room:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// signalRoom wakes the reader. c.mu is held.
func (c *conn) signalRoom() {
	if c.room != nil {
		close(c.room)
		c.room = nil
	}
}

// waiting is true while an answer is due or on its way.
func (c *conn) waiting() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.isIdle()
}

// ip is the address of the other end; zero for a pipe.
func (c *conn) ip() netip.Addr { return c.info.Peer.Addr().Unmap() }

// ended logs why reading stopped, where that is worth a line.
func (c *conn) ended(err error) {
	if other, ok := errors.AsType[*foreignError](err); ok {
		c.turnAway(other)
		return
	}
	if reason := offence(err); reason != "" {
		c.srv.metrics.refused[reason].Inc()
		c.warn(reason, "closing a connection", "reason", err)
		return
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
		c.log.Debug("connection ended", "peer", c.info.Peer, "reason", err)
	}
}

// offence is what a client did wrong, as metrics name it, if it was that.
func offence(err error) string {
	switch {
	case is[*frameError](err):
		return notAFrame
	case is[*protocol.MalformedError](err):
		return notTheForm
	case is[*protocol.UnsupportedError](err):
		return notServed
	}
	return ""
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}

// close ends the connection. Handlers still at work complete into nothing;
// their context ends.
func (c *conn) close() {
	c.mu.Lock()
	already := c.dead
	c.dead = true
	var unsent []*protocol.Response
	for _, a := range c.queue {
		if a.done { // who completes one from here on releases it
			unsent = append(unsent, a.resp)
		}
	}
	c.queue = nil
	c.signalRoom()
	c.mu.Unlock()
	if already {
		return
	}
	for _, r := range unsent {
		release(r)
	}
	c.cancel()
	c.nc.Close()
	c.srv.forget(c)
}

func release(r *protocol.Response) {
	if r != nil && r.Release != nil {
		r.Release()
	}
}

// heldBytes is what a completed answer keeps in memory: file regions hold none.
func heldBytes(r *protocol.Response) int64 {
	if r == nil {
		return 0
	}
	n := int64(len(r.Head))
	if r.Body != nil {
		n += int64(r.Weight)
	}
	for _, p := range r.Parts {
		if b, ok := p.(protocol.Bytes); ok {
			n += b.Len()
		}
	}
	return n
}

// answerWriter gathers answers into one buffer and sends it with one write;
// large parts go to the socket by themselves (sendfile).
type answerWriter struct {
	nc   net.Conn
	buf  []byte
	sent prometheus.Counter
}

const (
	copyBelow = 32 << 10 // smaller parts are copied: two system calls cost more
	flushAt   = 64 << 10
	// slowest is the rate, in bytes per second, below which a peer counts as
	// one that has stopped reading or writing.
	slowest = 16 << 10
	grace   = 30 * time.Second
)

func newAnswerWriter(nc net.Conn, sent prometheus.Counter) *answerWriter {
	return &answerWriter{nc: nc, buf: getBuffer(flushAt)[:0], sent: sent}
}

// free gives the buffer back, unless a large answer has outgrown it.
func (w *answerWriter) free() {
	if cap(w.buf) == flushAt {
		putBuffer(w.buf)
	}
}

// Write gathers, for parts that are copied.
func (w *answerWriter) Write(p []byte) (int, error) {
	w.buf = append(w.buf, p...)
	return len(p), nil
}

func (w *answerWriter) append(a *answer) error {
	r := a.resp
	if r.Body == nil && r.Head == nil {
		return nil // only to close the connection
	}
	if r.Body != nil {
		w.buf = protocol.AppendFrame(w.buf, r.Body, a.key, a.version, a.correlationID)
		return w.flushIfLarge()
	}
	start := len(w.buf)
	w.buf = append(w.buf, 0, 0, 0, 0)
	w.buf = protocol.AppendResponseHeader(w.buf, a.key, a.version, a.correlationID)
	w.buf = append(w.buf, r.Head...)
	size := int64(len(w.buf) - start - 4)
	for _, p := range r.Parts {
		size += p.Len()
	}
	binary.BigEndian.PutUint32(w.buf[start:], uint32(size))
	for _, p := range r.Parts {
		if err := w.part(p); err != nil {
			return err
		}
	}
	return w.flushIfLarge()
}

func (w *answerWriter) part(p protocol.Part) error {
	if p.Len() < copyBelow {
		if _, err := p.WriteTo(w); err != nil {
			return err
		}
		return w.flushIfLarge()
	}
	if err := w.flush(); err != nil {
		return err
	}
	w.allow(p.Len())
	n, err := p.WriteTo(w.nc)
	w.sent.Add(float64(n))
	return err
}

func (w *answerWriter) flushIfLarge() error {
	if len(w.buf) < flushAt {
		return nil
	}
	return w.flush()
}

func (w *answerWriter) flush() error {
	if len(w.buf) == 0 {
		return nil
	}
	w.allow(int64(len(w.buf)))
	n, err := w.nc.Write(w.buf)
	w.sent.Add(float64(n))
	w.buf = w.buf[:0]
	return err
}

func (w *answerWriter) allow(bytes int64) { w.nc.SetWriteDeadline(patience(bytes)) }

// patience is the time by which a peer that works at all has moved so many bytes.
func patience(bytes int64) time.Time {
	return time.Now().Add(grace + time.Duration(bytes)*time.Second/slowest)
}
