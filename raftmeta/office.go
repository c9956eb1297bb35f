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
		c.underway = map[about]bool{}
		c.cfg.Logger.Info("this node is the active controller", "term", c.core.Status().Term)
		c.confirm()
		// The predecessor may have ended between the steps of moving leaders.
		c.ask("a new active controller looks for partitions without a leader", &control.ElectLeaders{Leaderless: true})
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
	c.office, c.further, c.underway = nil, nil, nil
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
	c.confirmed = now
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
	for _, s := range c.further {
		c.core.Enqueue(quorum.Proposal{Token: s, Request: s.request})
	}
	again := len(c.further) > 0
	c.further = nil
	for _, f := range e.Fence {
		if c.ask(f.Reason, &control.FenceBroker{ID: f.Node, Epoch: f.Epoch, Reason: f.Reason}) {
			c.cfg.Logger.Warn("a broker is fenced", "broker", f.Node, "reason", f.Reason)
		}
	}
	for _, b := range e.Unfence {
		c.ask("it is there and has caught up", &control.UnfenceBroker{ID: b.Node, Epoch: b.Epoch})
	}
	for _, b := range e.Shutdown {
		c.ask("it stops", &control.BeginControlledShutdown{ID: b.Node, Epoch: b.Epoch})
	}
	for _, b := range e.Probe {
		c.probe(b)
	}
	switch {
	case again, len(e.Fence)+len(e.Unfence)+len(e.Shutdown) > 0:
		return 0
	case e.Wake.IsZero():
		return idle
	}
	return max(0, e.Wake.Sub(now))
}

// ask gives a command of the controller's own, unless the same is under way: it may take many units, and its next step
// comes when this one is through.
func (c *Controller) ask(cause string, cmd control.Command) bool {
	s := step{aboutOf(cmd), control.Request{Actor: c.name(), Cause: cause, Command: cmd}}
	if c.underway[s.about] {
		return false
	}
	c.underway[s.about] = true
	c.core.Enqueue(quorum.Proposal{Token: s, Request: s.request})
	return true
}

// step is the token of such a command.
type step struct {
	about   about
	request control.Request
}

// about is what a command is, without its reasons.
type about struct {
	kind string
	node int32
}

func aboutOf(cmd control.Command) about {
	switch x := cmd.(type) {
	case *control.FenceBroker:
		return about{"fence", x.ID}
	case *control.UnfenceBroker:
		return about{"unfence", x.ID}
	case *control.BeginControlledShutdown:
		return about{"stop", x.ID}
	default:
		return about{fmt.Sprintf("%T", cmd), -1}
	}
}

// goOn has a command given again that is not through: in the next turn, so that everybody else has one before.
func (c *Controller) goOn(s step, a quorum.Answer) {
	if c.office == nil {
		return
	}
	switch reply := a.Reply.(type) {
	case *control.BrokerProgress:
		if reply.More {
			c.further = append(c.further, s)
			return
		}
	case *control.ElectedLeaders:
		if cmd, ok := s.request.Command.(*control.ElectLeaders); ok && reply.More {
			next := *cmd
			next.From = reply.Next
			s.request.Command = &next
			c.further = append(c.further, s)
			return
		}
	}
	delete(c.underway, s.about)
}

func (c *Controller) name() string { return fmt.Sprintf("controller %d", c.cfg.NodeID) }

// probe finds out in the background whether a broker's process is there.
func (c *Controller) probe(b liveness.Broker) {
	x, ok := c.core.Image().Broker(b.Node)
	if !ok || x.Incarnation != b.Incarnation {
		return
	}
	office, during := c.office, c.offices
	ctx, cancel := context.WithTimeout(during, probeTime)
	go func() {
		defer cancel()
		found, who := c.cfg.Probe(ctx, x)
		if ctx.Err() != nil {
			found = liveness.NoAnswer
		}
		_ = c.do(during, func() { // an error says that the office is over
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
func (c *Controller) Heartbeat(ctx context.Context, h liveness.Heartbeat) (liveness.Reply, error) {
	type answer struct {
		reply liveness.Reply
		err   error
	}
	answers := make(chan answer, 1)
	if err := c.do(ctx, func() {
		if c.office == nil {
			answers <- answer{err: ErrNotLeader}
			return
		}
		if c.core.Alone() {
			c.confirm()
		}
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
	c.try(func() {
		if c.office != nil {
			c.office.Closed(node, incarnation)
		}
	})
}
