package raftmeta

import (
	"context"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
	"github.com/streambus/streambus/raftmeta/office"
	"github.com/streambus/streambus/raftmeta/quorum"
)

const (
	probeTime = 200 * time.Millisecond
	// idle is how long the loop sleeps with nothing to look after.
	idle = time.Hour
)

// take keeps the office in step with the core.
func (c *Controller) take() {
	c.answer(c.office.Take(time.Now()))
	switch held := c.office.Held(); {
	case held && c.resign == nil:
		c.tenure, c.resign = context.WithCancel(context.Background())
		c.cfg.Logger.Info("this node is the active controller", "term", c.core.Status().Term)
	case !held && c.resign != nil:
		c.leave()
		c.cfg.Logger.Info("this node is the active controller no more", "term", c.core.Status().Term)
	}
}

// leave ends the office; take begins it anew where this controller is still the active one.
func (c *Controller) leave() {
	c.answer(c.office.Leave())
	if c.resign != nil {
		c.resign()
		c.resign = nil
	}
}

// hold hands out answers, but for those that wait until every broker has applied them.
func (c *Controller) hold(answers []quorum.Answer) { c.answer(c.office.Hold(time.Now(), answers)) }

// supervise does what the office asks for, and returns when to look again.
func (c *Controller) supervise() time.Duration {
	now := time.Now()
	e := c.office.Supervise(now)
	c.answer(e.Released)
	for _, p := range e.Probes {
		c.probe(p)
	}
	for _, r := range e.Asked {
		if f, ok := r.Command.(*control.FenceBroker); ok {
			c.cfg.Logger.Warn("a broker is fenced", "broker", f.ID, "reason", f.Reason)
		}
	}
	if x := e.Changed; !x.Empty() {
		c.cfg.Logger.Info("the quorum changes", "learn", x.AddLearner, "promote", x.Promote, "remove", x.Remove)
	}
	if e.Wake.IsZero() {
		return idle
	}
	return max(0, e.Wake.Sub(now))
}

// probe finds out in the background whether a broker's process is there.
func (c *Controller) probe(p office.Probe) {
	x, ok := c.core.Image().Broker(p.Node)
	if !ok || x.Incarnation != p.Incarnation {
		return
	}
	tenure := c.tenure
	ctx, cancel := context.WithTimeout(tenure, probeTime)
	go func() {
		defer cancel()
		found, who := c.cfg.Probe(ctx, x)
		if ctx.Err() != nil {
			found = liveness.NoAnswer
		}
		_ = c.do(tenure, func() { c.office.Probed(p, found, who) }) // an error says that the office is over
	}()
}

// Heartbeat takes a broker's heartbeat. ErrNotLeader says that another controller is to be told.
func (c *Controller) Heartbeat(ctx context.Context, h liveness.Heartbeat) (liveness.Reply, error) {
	type answer struct {
		reply liveness.Reply
		err   error
	}
	answers := make(chan answer, 1)
	if err := c.do(ctx, func() {
		reply, err := c.office.Heartbeat(time.Now(), h)
		answers <- answer{reply, err}
	}); err != nil {
		return liveness.Reply{}, err
	}
	select {
	case a := <-answers:
		return a.reply, a.err
	case <-ctx.Done():
		return liveness.Reply{}, ctx.Err()
	case <-c.stopped:
		return liveness.Reply{}, errStopped
	}
}

// BrokerClosed says that a connection ended over which a broker sent heartbeats.
func (c *Controller) BrokerClosed(node int32, incarnation image.UUID) {
	c.try(func() { c.office.Closed(node, incarnation) })
}
