package raftmeta

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
)

// tellMembers tells outside who the controllers are. One that is written down no more is one for as long as it takes part:
// its removal may need its own vote, and while it leads nobody else can commit anything.
func (c *Controller) tellMembers() {
	voters := c.core.Image().Voters()
	m := c.core.Members()
	for _, old := range c.members {
		if m.Has(old.RaftID) && !slices.ContainsFunc(voters, func(v image.Voter) bool { return v.RaftID == old.RaftID }) {
			voters = append(slices.Clip(voters), old)
		}
	}
	if !slices.EqualFunc(voters, c.members, func(a, b image.Voter) bool {
		return a.RaftID == b.RaftID && slices.Equal(a.Endpoints, b.Endpoints)
	}) {
		c.members = voters
		c.cfg.Members(voters)
	}
}

// Info is where the quorum stands, as this controller sees it.
type Info struct {
	quorum.Status
	quorum.Members
	Node        int32             // that leads, -1 for none known
	Controllers []image.Voter     // who the members are
	Progress    []quorum.Progress // on the leader
	Waiting     int
	Active      bool
}

// Info tells where the quorum stands.
func (c *Controller) Info(ctx context.Context) (Info, error) {
	answer := make(chan Info, 1)
	err := c.do(ctx, func() {
		s := c.core.Status()
		answer <- Info{
			Status: s, Members: c.core.Members(), Node: c.nodeOf(s.Leader), Controllers: c.core.Image().Voters(),
			Progress: c.core.Progress(), Waiting: c.core.Waiting(), Active: c.core.Active(),
		}
	})
	if err != nil {
		return Info{}, err
	}
	select {
	case i := <-answer:
		return i, nil
	case <-ctx.Done():
		return Info{}, ctx.Err()
	case <-c.stopped:
		return Info{}, errStopped
	}
}

// Resign hands the office to another controller before a planned stop, and returns when one has it or ctx ends.
func (c *Controller) Resign(ctx context.Context) error {
	asked := make(chan bool, 1)
	err := c.do(ctx, func() {
		_, ok := c.core.Transfer()
		asked <- ok
	})
	if err != nil {
		return err
	}
	select {
	case ok := <-asked:
		if !ok {
			return errors.New("there is no other controller to take over")
		}
	case <-ctx.Done():
		return ctx.Err()
	}
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for c.Active() {
		select {
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-c.stopped:
			return nil
		}
	}
	return nil
}
