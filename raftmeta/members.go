package raftmeta

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
)

// near is how many entries a learner may lack and be promoted.
const near = 1000

// reconcile brings the quorum's members to what the image says, one change at a time: who is written down there becomes a
// learner, and a voter once it has caught up, in the place of its predecessor of the same node; who is not leaves.
func (c *Controller) reconcile() {
	voters := c.core.Image().Voters()
	if len(voters) == 0 { // the cluster is not written down yet
		return
	}
	m := c.core.Members()
	if m.Joint {
		return
	}
	change := next(voters, m, c.core.Progress(), c.core.Status().Last)
	if slices.Contains(change.Remove, c.raftID) {
		c.core.Transfer() // whoever leads next does it: nobody waits for an election then
		return
	}
	if len(change.AddLearner)+len(change.Promote)+len(change.Remove) > 0 {
		if err := c.core.ChangeMembers(change); err == nil {
			c.cfg.Logger.Info("the quorum changes", "learn", change.AddLearner, "promote", change.Promote, "remove", change.Remove)
		}
		return
	}
	for _, v := range voters {
		if !newest(v, voters) && !takesPart(v, m) {
			c.ask("its node votes under another raft id", &control.RemoveVoter{RaftID: v.RaftID})
		}
	}
}

// tellMembers tells outside who the controllers are. One that is written down no more is one for as long as it takes part:
// its removal may need its own vote, and while it leads nobody else can commit anything.
func (c *Controller) tellMembers() {
	voters := c.core.Image().Voters()
	m := c.core.Members()
	for _, old := range c.members {
		if takesPart(old, m) && !slices.ContainsFunc(voters, func(v image.Voter) bool { return v.RaftID == old.RaftID }) {
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

// next is the next step towards what is wanted, if there is one.
func next(wanted []image.Voter, m quorum.Members, progress []quorum.Progress, last uint64) (change quorum.Change) {
	known := func(id uint64) bool {
		return slices.ContainsFunc(wanted, func(v image.Voter) bool { return v.RaftID == id })
	}
	for _, id := range slices.Concat(m.Voters, m.Learners) {
		if !known(id) {
			return quorum.Change{Remove: []uint64{id}}
		}
	}
	for _, v := range wanted {
		learns := slices.Contains(m.Learners, v.RaftID)
		switch {
		case !newest(v, wanted) || slices.Contains(m.Voters, v.RaftID):
		case !learns:
			return quorum.Change{AddLearner: []uint64{v.RaftID}}
		case slices.ContainsFunc(progress, func(p quorum.Progress) bool {
			return p.RaftID == v.RaftID && p.Active && p.Match+near >= last
		}):
			change.Promote = []uint64{v.RaftID}
			for _, old := range wanted {
				if old.NodeID == v.NodeID && old.RaftID != v.RaftID && takesPart(old, m) {
					change.Remove = append(change.Remove, old.RaftID)
				}
			}
			return change
		}
	}
	return quorum.Change{}
}

// newest tells whether a raft id is the last that its node came with.
func newest(v image.Voter, all []image.Voter) bool {
	return !slices.ContainsFunc(all, func(x image.Voter) bool { return x.NodeID == v.NodeID && x.Since > v.Since })
}

func takesPart(v image.Voter, m quorum.Members) bool {
	return slices.Contains(m.Voters, v.RaftID) || slices.Contains(m.Learners, v.RaftID)
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
