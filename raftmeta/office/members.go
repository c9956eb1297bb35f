package office

import (
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
)

// near is how many entries a learner may lack and be promoted.
const near = 1000

// reconcile brings the quorum's members to what the image says, one change at a time, and tells which it proposed: who is
// written down there becomes a learner, and a voter once it has caught up, in the place of its predecessor of the same
// node; who is not leaves.
func (o *Office) reconcile(now time.Time) (proposed quorum.Change) {
	voters, m := o.core.Image().Voters(), o.core.Members()
	if len(voters) == 0 || m.Joint { // the cluster is not written down yet, or a change is under way
		return proposed
	}
	change := next(voters, m, o.core.Progress(), o.core.Status().Last)
	if slices.Contains(change.Remove, o.cfg.RaftID) {
		o.core.Transfer() // whoever leads next does it: nobody waits for an election then
		return proposed
	}
	if !change.Empty() {
		if err := o.core.ChangeMembers(change); err != nil { // it is tried again
			return proposed
		}
		return change
	}
	for _, v := range voters {
		if !newest(v, voters) && !m.Has(v.RaftID) {
			o.ask(now, "its node votes under another raft id", &control.RemoveVoter{RaftID: v.RaftID})
		}
	}
	return proposed
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
				if old.NodeID == v.NodeID && old.RaftID != v.RaftID && m.Has(old.RaftID) {
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
