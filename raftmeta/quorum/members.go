package quorum

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"go.etcd.io/raft/v3/tracker"
)

// Members are the raft ids that take part.
type Members struct {
	Voters   []uint64
	Learners []uint64
	// Joint says that a change is under way: both the old and the new voters decide.
	Joint bool
}

// Members tells who takes part, as applied.
func (c *Core) Members() Members {
	voters := slices.Concat(c.conf.GetVoters(), c.conf.GetVotersOutgoing())
	slices.Sort(voters)
	learners := slices.Concat(c.conf.GetLearners(), c.conf.GetLearnersNext())
	slices.Sort(learners)
	return Members{
		Voters: slices.Compact(voters), Learners: slices.Compact(learners), Joint: len(c.conf.GetVotersOutgoing()) > 0,
	}
}

// Has tells whether a raft id takes part.
func (m Members) Has(raftID uint64) bool {
	return slices.Contains(m.Voters, raftID) || slices.Contains(m.Learners, raftID)
}

// Change is one step of membership.
type Change struct {
	AddLearner []uint64
	Promote    []uint64 // learners that become voters
	Remove     []uint64
}

// Empty tells whether it changes nothing.
func (c Change) Empty() bool { return len(c.AddLearner)+len(c.Promote)+len(c.Remove) == 0 }

// ChangeMembers proposes a change; whether it came to be, Members shows. A second one before the first is applied is an
// error here: raft would drop it without a word.
func (c *Core) ChangeMembers(change Change) error {
	if !c.Active() {
		return ErrNotLeader
	}
	if c.changing || c.Members().Joint {
		return errors.New("another change of the quorum is under way")
	}
	cc := &pb.ConfChangeV2{}
	add := func(typ pb.ConfChangeType, ids []uint64) {
		for _, id := range ids {
			cc.Changes = append(cc.Changes, &pb.ConfChangeSingle{Type: &typ, NodeId: &id})
		}
	}
	add(pb.ConfChangeAddLearnerNode, change.AddLearner)
	add(pb.ConfChangeAddNode, change.Promote)
	add(pb.ConfChangeRemoveNode, change.Remove)
	if err := c.node.ProposeConfChange(cc); err != nil {
		return fmt.Errorf("the change of the quorum: %w", err)
	}
	c.changing = true
	return nil
}

// Progress is what the leader knows of a member.
type Progress struct {
	RaftID   uint64
	Learner  bool
	Match    uint64 // the last index it is known to have
	State    string // probe, replicate, snapshot
	Active   bool   // heard of within the election time-out
	Snapshot uint64 // index of the one that is being sent, 0 for none
}

// Progress tells how far each member is, by raft id, on the leader; elsewhere it is empty.
func (c *Core) Progress() []Progress {
	var all []Progress
	if !c.leader {
		return nil
	}
	c.node.WithProgress(func(id uint64, typ raft.ProgressType, p tracker.Progress) {
		x := Progress{RaftID: id, Learner: typ == raft.ProgressTypeLearner, Match: p.Match, Active: p.RecentActive || id == c.id, Snapshot: p.PendingSnapshot}
		switch p.State {
		case tracker.StateProbe:
			x.State = "probe"
		case tracker.StateReplicate:
			x.State = "replicate"
		case tracker.StateSnapshot:
			x.State = "snapshot"
		}
		all = append(all, x)
	})
	slices.SortFunc(all, func(a, b Progress) int { return cmp.Compare(a.RaftID, b.RaftID) })
	return all
}

// Transfer hands leadership to the voter that is furthest, if there is another. Until its election nothing is proposed;
// when it takes longer than an election, this node goes on.
func (c *Core) Transfer() (to uint64, ok bool) {
	best := Progress{}
	for _, p := range c.Progress() {
		if p.RaftID != c.id && !p.Learner && p.Active && (best.RaftID == 0 || p.Match > best.Match) {
			best = p
		}
	}
	if best.RaftID == 0 {
		return 0, false
	}
	c.node.TransferLeader(best.RaftID)
	return best.RaftID, true
}

// read waits for its index, and then for that to be applied.
type read struct {
	token any
	asked uint64 // tick
	index uint64
}

// ReadIndex asks for the index that holds everything that was ever answered: an Answer with the token comes when that is
// applied here. Any member may ask; what is lost on the way to the leader is answered with ErrUnknown, and asked again.
func (c *Core) ReadIndex(token any) error {
	if c.node.BasicStatus().Lead == raft.None {
		return ErrNotLeader
	}
	if len(c.reads)+len(c.due) >= maxReads {
		return fmt.Errorf("%d reads wait for the leader already", maxReads)
	}
	c.asked++
	c.reads[c.asked] = read{token: token, asked: c.ticks}
	c.node.ReadIndex(binary.BigEndian.AppendUint64(nil, c.asked))
	return nil
}

// Confirm asks whether this node leads: an Answer with the token comes when a majority has said so since. It needs no index,
// so nothing has to be applied first.
func (c *Core) Confirm(token any) error { return c.ReadIndex(confirm{token}) }

// confirm is the token of such a read.
type confirm struct{ token any }

// readable answers reads whose index is applied. Answers that were to be vouched for rest on an older image, and wait for
// nothing more: who is deposed meanwhile could not see to it any more that every broker shows what they say.
func (c *Core) readable(states []raft.ReadState, done *Applied) {
	for _, s := range states {
		n := binary.BigEndian.Uint64(s.RequestCtx)
		r, ok := c.reads[n]
		if !ok {
			continue
		}
		delete(c.reads, n)
		switch t := r.token.(type) {
		case vouched:
			done.Answers = append(done.Answers, t.answers...)
		case confirm:
			done.Answers = append(done.Answers, Answer{Token: t.token})
		default:
			r.index = s.Index
			c.due = append(c.due, r)
		}
	}
	c.due = slices.DeleteFunc(c.due, func(r read) bool {
		if c.applied < r.index || c.assembler.inUnit {
			return false
		}
		done.Answers = append(done.Answers, Answer{Token: r.token, Index: c.image.Index()})
		return true
	})
}

// abandonReads ends the reads that may be lost: those asked before a tick.
func (c *Core) abandonReads(before uint64) []Answer {
	var answers []Answer
	for _, n := range slices.Sorted(maps.Keys(c.reads)) {
		if c.reads[n].asked >= before {
			continue
		}
		switch t := c.reads[n].token.(type) {
		case vouched:
			answers = append(answers, unknown(t.answers)...)
		case confirm:
			answers = append(answers, Answer{Token: t.token, Err: ErrUnknown})
		default:
			answers = append(answers, Answer{Token: t, Err: ErrUnknown})
		}
		delete(c.reads, n)
	}
	return answers
}
