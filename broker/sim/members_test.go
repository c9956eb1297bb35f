package sim

import (
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/wal/memwal"
)

// wipe replaces a controller's disk by an empty one, if all others are as they
// should be. It comes back under another raft id and asks to be taken in.
func (w *world) wipe(c *controller) {
	if !w.whole() {
		return
	}
	w.tell("%s loses its disk", c.name)
	c.crash()
	w.replaceDisk(c)
}

// whole tells whether all controllers are there, and are those that vote: so no
// two disks are ever lost at a time.
func (w *world) whole() bool {
	for _, x := range w.controllers {
		if !x.up || len(x.core.Image().Voters()) != len(w.controllers) || !slices.Equal(x.core.Members().Voters, w.raftIDs()) {
			return false
		}
	}
	return true
}

// replaceDisk gives a controller that is down an empty disk, and starts it soon.
func (w *world) replaceDisk(c *controller) {
	w.stats["wiped disks"]++
	w.wiped++
	c.raftID, c.disk, c.flip, c.full = 1000+w.wiped, memwal.New(), nil, false
	hs, snap := quorum.Stranger()
	if err := c.disk.Form(c.raftID, hs, snap); err != nil {
		w.broken("%v", err)
	}
	w.after(w.chance.Int64N(2*sec), "start", func() {
		if !c.up {
			c.start()
		}
	})
}

func (w *world) raftIDs() []uint64 {
	var ids []uint64
	for _, c := range w.controllers {
		ids = append(ids, c.raftID)
	}
	slices.Sort(ids)
	return ids
}

// join asks whoever is in office to take this controller in, until it votes.
func (c *controller) join() {
	if slices.Contains(c.core.Members().Voters, c.raftID) {
		return
	}
	voter := image.Voter{RaftID: c.raftID, NodeID: c.node, Levels: image.OwnLevels}
	for _, to := range c.w.controllers {
		if to == c {
			continue
		}
		c.w.net.send(&c.process, &to.process, "join", func() {
			to.input(func() {
				if _, known := to.core.Image().Voter(voter.RaftID); to.office.Held() && !known {
					to.core.Enqueue(quorum.Proposal{
						Token:   func(quorum.Answer) {}, // it asks until it votes
						Request: control.Request{Actor: to.name, Cause: "it lost its disk", Command: &control.PutVoter{Voter: voter}},
					})
				}
			})
		}, nil)
	}
	c.in(300*time.Millisecond, "join", c.join)
}
