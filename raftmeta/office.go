package raftmeta

import (
	"context"
	"fmt"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
	"github.com/streambus/streambus/raftmeta/quorum"
)

const (
	probeTime = 200 * time.Millisecond
	// idle is how long the loop sleeps with nothing to look after.
	idle = time.Hour
)

// take keeps the office in step with the core: it begins when the core may decide, and ends when it may not.
func (c *Controller) take() {
	switch active := c.core.Active(); {
	case active && c.office == nil:
		c.office = liveness.New(time.Now(), liveness.Config{Session: c.cfg.Session}, c.core.Image())
		c.offices, c.resign = context.WithCancel(context.Background())
		c.cfg.Logger.Info("this node is the active controller", "term", c.core.Status().Term)
		c.confirm()
	case active:
		c.office.Image(time.Now(), c.core.Image())
	case c.office != nil:
		c.cfg.Logger.Info("this node is the active controller no more", "term", c.core.Status().Term)
		c.answer(c.leave(nil))
	}
}

// leave ends the office. Who waited for a change to be seen everywhere is told that it is not known: it was made, and asking
// again gets the same answer once it is seen.
func (c *Controller) leave(answers []quorum.Answer) []quorum.Answer {
	if c.office == nil {
		return answers
	}
	for _, t := range c.office.Abandon() {
		answers = append(answers, quorum.Answer{Token: t.(quorum.Answer).Token, Err: ErrUnknown})
	}
	c.resign()
	c.office = nil
	return answers
}

// hold hands out answers, but for those that wait until every broker has applied them.
func (c *Controller) hold(answers []quorum.Answer) {
	for _, a := range answers {
		if a.Awaited && a.Err == nil && c.office != nil {
			c.office.Await(a.Index, a)
			continue
		}
		c.answer([]quorum.Answer{a})
	}
}

// confirmation is the token of a read that shows who leads: a majority answered it after it was asked.
type confirmation struct{ asked time.Time }

func (c *Controller) confirm() {
	if c.office == nil {
		return
	}
	now := time.Now()
	if c.core.Alone() {
		c.office.Confirmed(now)
		return
	}
	if err := c.core.ReadIndex(confirmation{now}); err != nil {
		c.cfg.Logger.Debug("the office is not confirmed", "error", err)
	}
}

// supervise does what the office asks for, and returns when to look again.
func (c *Controller) supervise() time.Duration {
	if c.office == nil {
		return idle
	}
	c.reconcile()
	now := time.Now()
	e := c.office.Tick(now)
	for _, t := range e.Released {
		c.answer([]quorum.Answer{t.(quorum.Answer)})
	}
	asked := false
	ask := func(cause string, cmd control.Command) {
		asked = true
		r := control.Request{Actor: c.name(), Cause: cause, Command: cmd}
		c.core.Enqueue(quorum.Proposal{Token: step{r}, Request: r})
	}
	for _, f := range e.Fence {
		c.cfg.Logger.Warn("a broker is fenced", "broker", f.Node, "reason", f.Reason)
		ask(f.Reason, &control.FenceBroker{ID: f.Node, Epoch: f.Epoch, Reason: f.Reason})
	}
	for _, b := range e.Unfence {
		ask("it is there and has caught up", &control.UnfenceBroker{ID: b.Node, Epoch: b.Epoch})
	}
	for _, b := range e.Shutdown {
		ask("it stops", &control.BeginControlledShutdown{ID: b.Node, Epoch: b.Epoch})
	}
	for _, b := range e.Probe {
		c.probe(b)
	}
	switch {
	case asked:
		return 0
	case e.Wake.IsZero():
		return idle
	}
	return max(0, e.Wake.Sub(now))
}

// step is the token of a command about a broker that may take more than one unit.
type step struct{ request control.Request }

// goOn gives a command again that is not through.
func (c *Controller) goOn(s step, a quorum.Answer) {
	if p, ok := a.Reply.(*control.BrokerProgress); ok && p.More && c.office != nil {
		c.core.Enqueue(quorum.Proposal{Token: s, Request: s.request})
	}
}

func (c *Controller) name() string { return fmt.Sprintf("controller %d", c.cfg.NodeID) }

// probe finds out in the background whether a broker's process is there.
func (c *Controller) probe(b liveness.Broker) {
	x, ok := c.core.Image().Broker(b.Node)
	if !ok || x.Incarnation != b.Incarnation {
		return
	}
	ctx, cancel := context.WithTimeout(c.offices, probeTime)
	office := c.office
	go func() {
		defer cancel()
		found, who := c.cfg.Probe(ctx, x)
		if ctx.Err() != nil {
			found = liveness.NoAnswer
		}
		_ = c.do(c.offices, func() { // an error says that the office is over
			if c.office == office {
				office.Probed(b.Node, b.Incarnation, found, who)
			}
		})
	}()
}

// enqueue takes a request, unless it would register a broker in the place of one that may live.
func (c *Controller) enqueue(p quorum.Proposal) {
	if r, ok := p.Request.Command.(*control.RegisterBroker); ok && c.office != nil {
		if err := c.office.Admit(time.Now(), r.ID, r.Incarnation); err != nil {
			refusal := &control.Refusal{Code: control.DuplicateBrokerRegistration, Message: err.Error()}
			c.answer([]quorum.Answer{{Token: p.Token, Err: refusal}})
			return
		}
	}
	c.core.Enqueue(p)
}

// Heartbeat takes a broker's heartbeat. ErrNotLeader says that another controller is to be told.
func (c *Controller) Heartbeat(ctx context.Context, h liveness.Heartbeat) (reply liveness.Reply, err error) {
	done := make(chan struct{})
	if err := c.do(ctx, func() {
		defer close(done)
		if c.office == nil {
			err = ErrNotLeader
			return
		}
		if c.core.Alone() {
			c.confirm()
		}
		reply, err = c.office.Heartbeat(time.Now(), h)
	}); err != nil {
		return liveness.Reply{}, err
	}
	select {
	case <-done:
		return reply, err
	case <-ctx.Done():
		return liveness.Reply{}, ctx.Err()
	case <-c.stopped:
		return liveness.Reply{}, errStopped
	}
}

// BrokerClosed says that a connection ended over which a broker sent heartbeats.
func (c *Controller) BrokerClosed(node int32, incarnation image.UUID) {
	c.try(func() {
		if c.office != nil {
			c.office.Closed(node, incarnation)
		}
	})
}
