package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
)

const (
	// pause is what a call waits between two controllers that could not answer,
	// at first; it doubles up to longestPause.
	pause, longestPause = 5 * time.Millisecond, 200 * time.Millisecond
	// currentTime is what one controller may take to tell the index of what is
	// answered, at first; it doubles up to 32 times that, for those that are far away.
	currentTime, currentDoubled = 40 * time.Millisecond, 5
	// pollWait is how long a controller holds a request for units that are not
	// there yet.
	pollWait = 5 * time.Second
	// localWait is how long the controller of this process may have no news until it
	// is looked whether it is one that gets any.
	localWait = time.Second
	// late is how long after that the answer may begin; what it holds may take longer.
	late = time.Second
	// doubtTime is after how long without an answer it is asked who leads by now.
	doubtTime = 300 * time.Millisecond
	// maxConns bounds the connections to one node, which have one call each at a
	// time: an answer never waits behind that of another call.
	maxConns = 64
)

// ErrNoController says that a request was handed to nobody: nobody who was asked
// is the leader of the quorum.
var ErrNoController = fmt.Errorf("no active controller was found in time: %w", raftmeta.ErrNotLeader)

// Address is where a controller listens.
type Address struct {
	Node int32 // -1 if it is not known which
	Addr string
}

// Controllers is a node's way to the controllers: the one of this process, if
// there is one, and those of others. It finds the active one, and repeats what
// is safe to repeat.
type Controllers struct {
	Node        int32
	Incarnation image.UUID
	ClusterID   string
	Local       *raftmeta.Controller // nil for none here
	Addresses   func() []Address     // of the others
	Dial        Config

	mu    sync.Mutex // guards the following
	seq   uint64
	open  []uint64 // operations that wait for their answer, in order
	hint  int32    // the node that was active last, -1 for not known
	idle  map[lane][]*Conn
	count map[lane]int // of connections, idle or not
}

// lane is the connections to one node for one purpose: those that units come over
// are given up sooner, since all that is waited for there has its time.
type lane struct {
	addr  string
	units bool
}

// Close closes the connections that nobody uses.
func (c *Controllers) Close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conns := range c.idle {
		for _, conn := range conns {
			conn.Close()
		}
	}
	clear(c.idle)
	clear(c.count)
}

// Submit hands commands to the active controller, to be decided in their order,
// and returns when the outcome of each is known, or ctx ends. What is lost on
// the way is asked for again under the same operation, so that it is carried
// out once.
func (c *Controllers) Submit(ctx context.Context, requests []control.Request) []raftmeta.Outcome {
	first, done := c.begin(len(requests))
	defer c.finish(first, len(requests))
	outcomes := make([]raftmeta.Outcome, len(requests))
	left := make([]int, len(requests)) // places of those that have no outcome
	for i := range requests {
		requests[i].Operation = image.Operation{Node: c.Node, Incarnation: c.Incarnation, Seq: first + uint64(i), Done: done}
		outcomes[i].Err = ErrNoController
		left[i] = i
	}
	wait := pause
	for attempt := 0; ; attempt++ {
		ask := make([]control.Request, len(left))
		for i, at := range left {
			ask[i] = requests[at]
		}
		got := c.submitOnce(ctx, attempt, ask)
		var still []int
		for i, at := range left {
			// What may have been carried out stays unknown, whatever a later
			// attempt that reached nobody says.
			if !errors.Is(got[i].Err, ErrNoController) && !errors.Is(got[i].Err, raftmeta.ErrNotLeader) {
				outcomes[at] = got[i]
			}
			if repeatable(got[i].Err) {
				still = append(still, at)
			}
		}
		if left = still; len(left) == 0 {
			return outcomes
		}
		if !sleep(ctx, &wait) {
			return outcomes
		}
	}
}

func repeatable(err error) bool {
	return errors.Is(err, ErrNoController) || errors.Is(err, raftmeta.ErrNotLeader) || errors.Is(err, raftmeta.ErrUnknown)
}

// sleep waits for longer each time, with jitter, and is false when ctx ends.
func sleep(ctx context.Context, wait *time.Duration) bool {
	t := time.NewTimer(*wait/2 + rand.N(*wait))
	defer t.Stop()
	*wait = min(2**wait, longestPause)
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// begin takes the numbers of n operations. done is below which all have their
// answers.
func (c *Controllers) begin(n int) (first, done uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	first = c.seq + 1
	for range n {
		c.seq++
		c.open = append(c.open, c.seq)
	}
	return first, c.open[0]
}

func (c *Controllers) finish(first uint64, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open = slices.DeleteFunc(c.open, func(seq uint64) bool { return seq >= first && seq < first+uint64(n) })
}

// submitOnce asks one controller. Who gets no outcome from it has ErrNoController
// if it surely was not reached.
func (c *Controllers) submitOnce(ctx context.Context, attempt int, requests []control.Request) []raftmeta.Outcome {
	failed := func(err error) []raftmeta.Outcome {
		return slices.Repeat([]raftmeta.Outcome{{Err: err}}, len(requests))
	}
	to, local, ok := c.choose(attempt)
	switch {
	case !ok:
		return failed(ErrNoController)
	case local:
		return c.Local.Submit(ctx, requests...)
	}
	ctx, cancel := c.untilAnotherLeads(ctx, to)
	defer cancel()
	q := Submit{ClusterID: c.ClusterID, TimeoutMs: left(ctx)}
	for i := range requests {
		b, err := requests[i].Encode()
		if err != nil {
			return failed(err)
		}
		q.Requests = append(q.Requests, b)
	}
	var a SubmitAnswer
	if _, err := c.call(ctx, to, protocol.KeySubmit, q, &a); err != nil {
		return failed(lost(err))
	}
	c.learn(to, a.Error)
	if a.Error != nil {
		return failed(a.Error.whole())
	}
	if len(a.Outcomes) != len(requests) {
		return failed(fmt.Errorf("%w: controller %s answers %d of %d requests", raftmeta.ErrUnknown, to.Addr, len(a.Outcomes), len(requests)))
	}
	outcomes := make([]raftmeta.Outcome, len(requests))
	for i := range outcomes {
		outcomes[i] = a.Outcomes[i].decode()
		c.learn(to, a.Outcomes[i].Error)
	}
	return outcomes
}

// untilAnotherLeads is ctx, which ends when another controller than the one that is
// asked is the active one: that one may be paused, or cut off. Who asks the other
// under the same operation gets the same answer.
func (c *Controllers) untilAnotherLeads(ctx context.Context, to Address) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		ticker := time.NewTicker(doubtTime)
		defer ticker.Stop()
		for attempt := 0; ; attempt++ {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
			}
			if c.Local == nil {
				c.askWhoLeads(ctx, to, attempt)
			}
			if leads := c.active(); leads >= 0 && to.Node >= 0 && leads != to.Node {
				cancel()
				return
			}
		}
	}()
	return ctx, cancel
}

// askWhoLeads asks one controller that is not the one in doubt.
func (c *Controllers) askWhoLeads(ctx context.Context, doubted Address, attempt int) {
	others := slices.DeleteFunc(slices.Clone(c.Addresses()), func(a Address) bool { return a.Addr == doubted.Addr })
	if len(others) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, doubtTime)
	defer cancel()
	var a QuorumAnswer
	_, err := c.call(ctx, others[attempt%len(others)], protocol.KeyQuorum, Quorum{c.ClusterID}, &a)
	if err != nil || a.Error != nil || a.Info.Node < 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hint = a.Info.Node
}

// lost is the outcome of a call that failed.
func lost(err error) error {
	if failed, ok := errors.AsType[*Error](err); ok && !failed.Sent {
		return fmt.Errorf("%w: %w", ErrNoController, err)
	}
	return fmt.Errorf("%w: %w", raftmeta.ErrUnknown, err)
}

// left is how many milliseconds a call may take.
func left(ctx context.Context) int {
	end, ok := ctx.Deadline()
	if !ok {
		end = time.Now().Add(time.Minute)
	}
	return max(1, int(time.Until(end).Milliseconds()))
}

// Heartbeat tells the active controller about this broker.
func (c *Controllers) Heartbeat(ctx context.Context, h liveness.Heartbeat) (liveness.Reply, error) {
	wait := pause
	for attempt := 0; ; attempt++ {
		r, err := c.heartbeatOnce(ctx, attempt, h)
		if err == nil || !repeatable(err) {
			return r, err
		}
		if !sleep(ctx, &wait) {
			return r, err
		}
	}
}

func (c *Controllers) heartbeatOnce(ctx context.Context, attempt int, h liveness.Heartbeat) (liveness.Reply, error) {
	to, local, ok := c.choose(attempt)
	switch {
	case !ok:
		return liveness.Reply{}, ErrNoController
	case local:
		return c.Local.Heartbeat(ctx, h)
	}
	var a HeartbeatAnswer
	if _, err := c.call(ctx, to, protocol.KeyHeartbeat, Heartbeat{c.ClusterID, h}, &a); err != nil {
		return liveness.Reply{}, lost(err)
	}
	c.learn(to, a.Error)
	return a.Reply, a.Error.whole()
}

// Units is a raftmeta.Source: the controller of this process, or any other. The
// one of this process may be cut off from the quorum, or have been removed from it:
// others are asked when it follows nobody.
func (c *Controllers) Units(ctx context.Context, after uint64, maxBytes int) (follow.Batch, error) {
	wait := pause
	for attempt := 0; ; attempt++ {
		if c.Local != nil {
			b, err := c.localUnits(ctx, after, maxBytes)
			if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
				return b, err
			}
			if c.Local.Leader() >= 0 || len(c.Addresses()) == 0 {
				continue
			}
		}
		b, err := c.unitsOnce(ctx, attempt, after, maxBytes)
		if errors.Is(err, raftmeta.ErrAhead) {
			return b, err
		}
		if err != nil && !sleep(ctx, &wait) {
			return b, ctx.Err()
		}
		if err == nil && (b.Snapshot != nil || len(b.Units) > 0) {
			return b, nil
		}
	}
}

func (c *Controllers) localUnits(ctx context.Context, after uint64, maxBytes int) (follow.Batch, error) {
	ctx, cancel := context.WithTimeout(ctx, localWait)
	defer cancel()
	return c.Local.Units(ctx, after, maxBytes)
}

func (c *Controllers) unitsOnce(ctx context.Context, attempt int, after uint64, maxBytes int) (follow.Batch, error) {
	others := c.Addresses()
	if len(others) == 0 {
		return follow.Batch{}, ErrNoController
	}
	to := others[(int(c.Node)+attempt)%len(others)] // brokers spread over the controllers
	q := FetchUnits{ClusterID: c.ClusterID, After: after, MaxBytes: maxBytes, WaitMs: int(pollWait.Milliseconds())}
	var a FetchUnitsAnswer
	data, err := c.call(ctx, to, protocol.KeyFetchUnits, q, &a)
	if err == nil {
		err = a.Error.err()
	}
	if err != nil {
		return follow.Batch{}, err
	}
	return a.Batch(data)
}

// Current asks for the index that holds everything answered so far.
func (c *Controllers) Current(ctx context.Context) (uint64, error) {
	wait := pause
	for attempt := 0; ; attempt++ {
		index, err := c.currentOnce(ctx, attempt)
		if err == nil || !sleep(ctx, &wait) {
			return index, err
		}
	}
}

func (c *Controllers) currentOnce(ctx context.Context, attempt int) (uint64, error) {
	// A controller that was deposed and has not noticed waits for a majority that
	// does not come: another one is asked soon.
	ctx, cancel := context.WithTimeout(ctx, currentTime<<min(attempt, currentDoubled))
	defer cancel()
	to, local, ok := c.choose(attempt)
	switch {
	case !ok:
		return 0, ErrNoController
	case local:
		return c.Local.ReadIndex(ctx)
	}
	var a FetchUnitsAnswer
	if _, err := c.call(ctx, to, protocol.KeyFetchUnits, FetchUnits{ClusterID: c.ClusterID, WaitMs: left(ctx), Current: true}, &a); err != nil {
		return 0, err
	}
	return a.Index, a.Error.err()
}

// choose is the controller that is taken for the active one; after an attempt
// with it that failed, one after the other.
func (c *Controllers) choose(attempt int) (to Address, local, ok bool) {
	others := c.Addresses()
	hint := c.active()
	if attempt%2 == 0 && hint >= 0 {
		if c.Local != nil && hint == c.Node {
			return Address{}, true, true
		}
		if at := slices.IndexFunc(others, func(a Address) bool { return a.Node == hint }); at >= 0 {
			return others[at], false, true
		}
	}
	n := len(others)
	if c.Local != nil {
		n++
	}
	if n == 0 {
		return Address{}, false, false
	}
	at := (attempt/2 + int(c.Node)) % n
	if at == len(others) {
		return Address{}, true, true
	}
	return others[at], false, true
}

// active is the node that is taken for the active controller, -1 for none known.
func (c *Controllers) active() int32 {
	if c.Local != nil {
		if leader := c.Local.Leader(); leader >= 0 {
			return leader
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.Local != nil && c.hint == c.Node { // the one here knows better
		return -1
	}
	return c.hint
}

// learn takes from an answer who the active controller is.
func (c *Controllers) learn(from Address, f *Failure) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case f == nil:
		c.hint = from.Node
	case f.Kind == "not leader":
		c.hint = f.Leader
	}
}

// call asks a node over a connection that nobody else uses meanwhile.
func (c *Controllers) call(ctx context.Context, to Address, key int16, header, answer any) ([]byte, error) {
	at := lane{to.Addr, key == protocol.KeyFetchUnits}
	conn, err := c.take(ctx, at)
	if err != nil {
		return nil, err
	}
	head, data, err := conn.Call(ctx, key, header, nil)
	c.give(at, conn, err == nil)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(head, answer); err != nil {
		return nil, &Error{Addr: to.Addr, Sent: true, Err: fmt.Errorf("the answer to %s: %w", protocol.Name(key), err)}
	}
	return data, nil
}

func (c *Controllers) take(ctx context.Context, at lane) (*Conn, error) {
	c.mu.Lock()
	if c.idle == nil {
		c.idle, c.count = map[lane][]*Conn{}, map[lane]int{}
	}
	if n := len(c.idle[at]); n > 0 {
		conn := c.idle[at][n-1]
		c.idle[at] = c.idle[at][:n-1]
		c.mu.Unlock()
		return conn, nil
	}
	if c.count[at] >= maxConns {
		c.mu.Unlock()
		return nil, &Error{Addr: at.addr, Err: fmt.Errorf("%d calls are under way", maxConns)}
	}
	c.count[at]++
	c.mu.Unlock()
	cfg := c.Dial
	if at.units {
		cfg.AnswerTimeout = max(late, pollWait+late-cfg.WriteTimeout) // it counts on top of that
	}
	conn, err := Dial(ctx, at.addr, cfg)
	if err != nil {
		c.give(at, nil, false)
	}
	return conn, err
}

// give returns a connection. One with a call that failed is closed: its answer
// may still come.
func (c *Controllers) give(at lane, conn *Conn, good bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if good {
		c.idle[at] = append(c.idle[at], conn)
		return
	}
	c.count[at]--
	if conn != nil {
		conn.Close()
	}
}

// Info asks the active controller where the quorum stands.
func (c *Controllers) Info(ctx context.Context) (raftmeta.Info, error) {
	wait := pause
	for attempt := 0; ; attempt++ {
		info, err := c.infoOnce(ctx, attempt)
		if err == nil && !info.Active {
			err = raftmeta.ErrNotLeader
		}
		if err == nil || !sleep(ctx, &wait) {
			return info, err
		}
	}
}

func (c *Controllers) infoOnce(ctx context.Context, attempt int) (raftmeta.Info, error) {
	to, local, ok := c.choose(attempt)
	switch {
	case !ok:
		return raftmeta.Info{}, ErrNoController
	case local:
		return c.Local.Info(ctx)
	}
	var a QuorumAnswer
	if _, err := c.call(ctx, to, protocol.KeyQuorum, Quorum{c.ClusterID}, &a); err != nil {
		return raftmeta.Info{}, err
	}
	return a.Info, a.Error.err()
}
