// Package peer is the client to another node: one connection, on which many
// calls are under way at a time.
//
// # What a caller may rely on
//
// Requests leave in the order in which Call and Send took their turn, the other
// node starts them in that order, and each call gets its own answer. An error
// of the connection ends it: every call under way fails, and so do all later
// ones, so whoever owns a Conn dials again. An *Error says whether a request may
// have been carried out, which is what decides about repeating it.
package peer

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

// Config is what a connection needs to know. Zero values are not defaulted.
type Config struct {
	ClientID string // who calls, for the other node's log

	DialTimeout   time.Duration // to connect and to learn what the other node speaks
	WriteTimeout  time.Duration // one frame, besides what its bytes take at slowest
	AnswerTimeout time.Duration // to an answer, from its request or the answer before it: above any wait that is asked for

	MaxInFlight    int   // calls that wait for their answers
	MaxAnswerBytes int32 // the largest answer
}

const (
	// slowest is the rate, in bytes per second, that a working link has.
	slowest   = 1 << 20
	firstRead = 64 << 10 // what an answer may hold before it has arrived
	growth    = 4        // a buffer holds at most this many times what has arrived
)

// Error is a request without an answer.
type Error struct {
	Addr string
	// Sent is true if the request may have been carried out, or may yet be. It
	// surely was and will not be otherwise: a node starts only whole frames, and
	// the last byte of this one was not given to the network.
	Sent bool
	Err  error
}

func (e *Error) Error() string {
	if e.Sent {
		return fmt.Sprintf("node at %s: %v (the request may have been carried out)", e.Addr, e.Err)
	}
	return fmt.Sprintf("node at %s: %v", e.Addr, e.Err)
}

func (e *Error) Unwrap() error { return e.Err }

// Conn is a connection to another node. Its methods may be called from any
// goroutine. It has one of its own, which reads answers.
type Conn struct {
	cfg    Config
	addr   string
	nc     net.Conn
	theirs map[int16]versions // fixed once Dial returns

	slots chan struct{} // one for each call that waits for its answer
	turn  chan struct{} // held by who writes; also guards lastID
	ended chan struct{} // closed when the reader has returned

	lastID int32

	done    chan struct{} // closed with the connection
	mu      sync.Mutex    // guards the following
	err     error         // why it is closed
	waiting []*call       // in the order of their requests
}

type versions struct{ min, max int16 }

func (v versions) String() string { return fmt.Sprintf("versions %d to %d", v.min, v.max) }

// call is a request whose answer is due.
type call struct {
	req    kmsg.Request
	id     int32
	due    time.Time
	result chan result // has room for the one that comes
}

type result struct {
	body kmsg.Response
	err  error
}

// Dial connects to a node and asks what it speaks. The error is an *Error with
// Sent false.
func Dial(ctx context.Context, addr string, cfg Config) (*Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.DialTimeout)
	defer cancel()
	nc, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, &Error{Addr: addr, Err: err}
	}
	c := &Conn{
		cfg: cfg, addr: addr, nc: nc, slots: make(chan struct{}, cfg.MaxInFlight), turn: make(chan struct{}, 1),
		ended: make(chan struct{}), done: make(chan struct{}),
	}
	go c.read()
	if err := c.learn(ctx); err != nil {
		c.Close()
		return nil, &Error{Addr: addr, Err: fmt.Errorf("asking for its API versions: %w", err)}
	}
	return c, nil
}

// learn asks what the other node speaks. Version 0 of that request is one that
// every node answers.
func (c *Conn) learn(ctx context.Context) error {
	body, err := c.roundTrip(ctx, kmsg.NewPtrApiVersionsRequest())
	if failed, ok := errors.AsType[*Error](err); ok {
		return failed.Err
	}
	answer := body.(*kmsg.ApiVersionsResponse)
	if code := protocol.ErrorCode(answer.ErrorCode); code != protocol.None {
		return fmt.Errorf("it answers %s", code)
	}
	c.theirs = map[int16]versions{}
	for _, k := range answer.ApiKeys {
		c.theirs[k.ApiKey] = versions{k.MinVersion, k.MaxVersion}
	}
	return nil
}

// Call sends a request and waits for its answer. header becomes JSON, and none
// if it is nil; what is answered is the other node's JSON and data, which belong
// to the caller. If ctx ends first the answer is dropped when it comes, and the
// connection goes on; a frame whose writing has begun is written whole. The error
// is an *Error.
func (c *Conn) Call(ctx context.Context, key int16, header any, data []byte) ([]byte, []byte, error) {
	req, err := c.request(key, header, data)
	if err != nil {
		return nil, nil, &Error{Addr: c.addr, Err: err}
	}
	body, err := c.roundTrip(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	answer := body.(*protocol.NodeResponse)
	return answer.Header, answer.Data, nil
}

// Send sends a request that is never answered. It returns when the network has
// it. The error is an *Error.
func (c *Conn) Send(ctx context.Context, key int16, header any, data []byte) error {
	req, err := c.request(key, header, data)
	if err == nil {
		err = c.write(ctx, req, nil)
	}
	if err != nil {
		return &Error{Addr: c.addr, Err: err}
	}
	return nil
}

// request builds a request in the newest version that both nodes speak.
func (c *Conn) request(key int16, header any, data []byte) (*protocol.NodeRequest, error) {
	version, err := c.version(key)
	if err != nil {
		return nil, err
	}
	req := protocol.NewNodeRequest(key)
	req.Version, req.Data = version, data
	if header != nil {
		if req.Header, err = json.Marshal(header); err != nil {
			return nil, err
		}
	}
	return req, nil
}

func (c *Conn) version(key int16) (int16, error) {
	ours, known := spoken(key)
	if !known {
		return 0, fmt.Errorf("%s is nothing that nodes ask each other", protocol.Name(key))
	}
	theirs, ok := c.theirs[key]
	if !ok && key == protocol.KeyHello { // listeners for clients answer it and do not say so
		return 0, nil
	}
	if !ok {
		return 0, fmt.Errorf("%s is not served there, and this node speaks %s of it: is that the address of a controller listener?", protocol.Name(key), ours)
	}
	common := min(ours.max, theirs.max)
	if common < max(ours.min, theirs.min) {
		return 0, fmt.Errorf("%s has no version in common: this node speaks %s, that one %s", protocol.Name(key), ours, theirs)
	}
	return common, nil
}

// spoken is what this node speaks of an API.
func spoken(key int16) (versions, bool) {
	for _, side := range []protocol.Side{protocol.Controllers, protocol.Clients} {
		for _, a := range protocol.APIs(side) {
			if a.Key == key {
				return versions{a.Min, a.Max}, true
			}
		}
	}
	return versions{}, false
}

// roundTrip sends a request and waits for its answer. Its error is an *Error.
func (c *Conn) roundTrip(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	x, err := c.begin(ctx, req)
	if err != nil {
		return nil, err
	}
	return c.await(ctx, x)
}

// begin sends a request. Its error is an *Error.
func (c *Conn) begin(ctx context.Context, req kmsg.Request) (*call, error) {
	select {
	case c.slots <- struct{}{}: // given back by who takes the call from waiting
	case <-ctx.Done():
		return nil, &Error{Addr: c.addr, Err: fmt.Errorf("%d calls are under way: %w", cap(c.slots), ctx.Err())}
	case <-c.done:
		return nil, &Error{Addr: c.addr, Err: c.reason()}
	}
	x := &call{req: req, result: make(chan result, 1)}
	if err := c.write(ctx, req, x); err != nil {
		return nil, &Error{Addr: c.addr, Err: err}
	}
	return x, nil
}

// await waits for an answer. Its error is an *Error.
func (c *Conn) await(ctx context.Context, x *call) (kmsg.Response, error) {
	select {
	case r := <-x.result:
		if r.err != nil {
			return nil, &Error{Addr: c.addr, Sent: true, Err: r.err}
		}
		return r.body, nil
	case <-ctx.Done():
		return nil, &Error{Addr: c.addr, Sent: true, Err: ctx.Err()}
	}
}

// write sends one frame, and puts x among those that wait if it is not nil. An
// error means that the frame did not leave whole.
func (c *Conn) write(ctx context.Context, req kmsg.Request, x *call) error {
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID(c.cfg.ClientID)).AppendRequest(nil, req, 0)
	select {
	case c.turn <- struct{}{}:
		defer func() { <-c.turn }()
	case <-ctx.Done():
		c.giveUp(x)
		return fmt.Errorf("waiting to write: %w", ctx.Err())
	case <-c.done:
		return c.reason()
	}
	c.lastID++
	binary.BigEndian.PutUint32(frame[8:], uint32(c.lastID)) // behind length, key and version
	allowed := c.cfg.WriteTimeout + takes(len(frame))
	if x != nil {
		x.id, x.due = c.lastID, time.Now().Add(allowed+c.cfg.AnswerTimeout)
	}
	if err := c.enter(x); err != nil {
		return err
	}
	c.nc.SetWriteDeadline(time.Now().Add(allowed))
	n, err := c.nc.Write(frame)
	if err != nil {
		c.fail(fmt.Errorf("writing: %w", err))
	}
	if n < len(frame) {
		return c.reason()
	}
	return nil
}

// takes is how long so many bytes take on the slowest link.
func takes(bytes int) time.Duration { return time.Duration(bytes) * time.Second / slowest }

// giveUp gives back the place of a call that was not begun.
func (c *Conn) giveUp(x *call) {
	if x != nil {
		<-c.slots
	}
}

// enter makes a call one whose answer is due.
func (c *Conn) enter(x *call) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return c.err
	}
	if x == nil {
		return nil
	}
	if c.waiting = append(c.waiting, x); len(c.waiting) == 1 {
		c.nc.SetReadDeadline(x.due)
	}
	return nil
}

// head is the call whose answer comes next.
func (c *Conn) head() *call {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.waiting) == 0 {
		return nil
	}
	return c.waiting[0]
}

// leave takes the head out; the next one's answer is due.
func (c *Conn) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.waiting[0] = nil
	c.waiting = c.waiting[1:]
	<-c.slots
	var due time.Time // none while nothing is
	if len(c.waiting) > 0 {
		// It may have waited behind this one for all of its own time.
		due = time.Now().Add(c.cfg.AnswerTimeout)
		if own := c.waiting[0].due; own.After(due) {
			due = own
		}
	}
	c.nc.SetReadDeadline(due)
}

// read hands answers to their calls until the connection ends.
func (c *Conn) read() {
	defer close(c.ended)
	r := bufio.NewReader(c.nc)
	for {
		if err := c.answer(r); err != nil {
			c.fail(err)
			return
		}
	}
}

// answer reads one answer and gives it to the call that it is for.
func (c *Conn) answer(r *bufio.Reader) error {
	frame, err := c.frame(r)
	if err != nil {
		return err
	}
	x := c.head()
	if x == nil {
		return fmt.Errorf("it sent %d bytes that nobody asked for", len(frame))
	}
	body, id, err := protocol.DecodeAnswer(frame, x.req)
	switch {
	case id != x.id:
		return fmt.Errorf("it answers request %d where %d is due", id, x.id)
	case err != nil:
		return err
	}
	c.leave()
	x.result <- result{body: body}
	return nil
}

// frame reads a frame without its length. What it announces is checked before
// anything is made for it, and then believed as far as it has arrived.
func (c *Conn) frame(r *bufio.Reader) ([]byte, error) {
	start, err := r.Peek(4)
	if errors.Is(err, io.EOF) && len(start) == 0 {
		return nil, errors.New("it closed the connection")
	}
	if err != nil {
		return nil, fmt.Errorf("waiting for an answer: %w", err)
	}
	size := int(int32(binary.BigEndian.Uint32(start)))
	if size < 4 || size > int(c.cfg.MaxAnswerBytes) {
		return nil, fmt.Errorf("it announces an answer of %d bytes; at most %d are taken", size, c.cfg.MaxAnswerBytes)
	}
	r.Discard(4) // they are in the buffer
	var frame []byte
	for room := min(size, firstRead); len(frame) < size; room = min(size, len(frame)*growth) {
		have := len(frame)
		next := make([]byte, room)
		copy(next, frame)
		if err := c.step(r, next[have:]); err != nil {
			return nil, err
		}
		frame = next
	}
	return frame, nil
}

// step reads into p, for which it takes the time that its bytes take.
func (c *Conn) step(r io.Reader, p []byte) error {
	c.nc.SetReadDeadline(time.Now().Add(c.cfg.WriteTimeout + takes(len(p))))
	if n, err := io.ReadFull(r, p); err != nil {
		return fmt.Errorf("the connection ended %d bytes before the end of what was announced: %w", len(p)-n, err)
	}
	return nil
}

// fail closes the connection and tells every call under way.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.err = err
	waiting := c.waiting
	c.waiting = nil
	c.mu.Unlock()
	close(c.done)
	c.nc.Close()
	for _, x := range waiting {
		x.result <- result{err: err}
	}
}

func (c *Conn) reason() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Done is closed when the connection has ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Close ends the connection; calls under way fail. When it returns nothing of
// the connection runs any more. It may be called more than once.
func (c *Conn) Close() {
	c.fail(errors.New("this node closed the connection"))
	<-c.ended
}
