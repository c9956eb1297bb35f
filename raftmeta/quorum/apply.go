package quorum

import (
	"errors"
	"fmt"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/streambus/streambus/raftmeta/image"
)

// Persist is what must be durable before Advance, in one step: the snapshot replaces the whole log, then come entries.
type Persist struct {
	HardState *pb.HardState // nil when unchanged
	Entries   []*pb.Entry
	Snapshot  *pb.Snapshot // nil but where a leader has sent one
	Sync      bool
}

// Committed is a unit that is applied, in its form in the log.
type Committed struct {
	Index uint64
	Bytes []byte
}

// Applied is what an Advance did.
type Applied struct {
	Messages []Message
	// Restored says that the image came as a snapshot, of index Base: it follows no unit that was given out before.
	Restored bool
	Base     uint64
	Units    []Committed
	Answers  []Answer
}

// Ready is what has to be made durable next; false when there is nothing to do.
func (c *Core) Ready() (Persist, bool, error) {
	if !c.node.HasReady() {
		return Persist{}, false, nil
	}
	rd := c.node.Ready()
	c.ready = &rd
	p := Persist{HardState: rd.HardState, Entries: rd.Entries, Sync: rd.MustSync}
	if !raft.IsEmptySnap(rd.Snapshot) {
		p.Snapshot, p.Sync = rd.Snapshot, true
	}
	var err error
	c.outgoing, err = c.messages(rd.Messages)
	return p, true, err
}

// Advance follows when what Ready gave is durable. An error means that the log holds what this release cannot have
// written or does not understand; the node must stop.
func (c *Core) Advance() (Applied, error) {
	rd := c.ready
	done := Applied{Messages: c.outgoing}
	c.ready, c.outgoing = nil, nil
	if err := c.store(rd, &done); err != nil {
		return done, err
	}
	c.lead(rd, &done)
	for _, e := range rd.CommittedEntries {
		if err := c.apply(e, &done); err != nil {
			return done, fmt.Errorf("raft entry %d: %w", e.GetIndex(), err)
		}
	}
	c.mark()
	c.readable(rd.ReadStates, &done)
	c.node.Advance(*rd)
	return done, nil
}

// store takes over what is durable now.
func (c *Core) store(rd *raft.Ready, done *Applied) error {
	if !raft.IsEmptySnap(rd.Snapshot) {
		if err := c.restore(rd.Snapshot, done); err != nil {
			return err
		}
	}
	if rd.HardState != nil {
		if err := c.storage.SetHardState(rd.HardState); err != nil {
			return err
		}
	}
	return c.storage.Append(rd.Entries)
}

// restore replaces everything by a leader's snapshot. Raft takes none that is behind what is committed here.
func (c *Core) restore(snap *pb.Snapshot, done *Applied) error {
	meta := snap.GetMetadata()
	img, err := image.DecodeImage(snap.GetData())
	if err == nil && img.Index() > meta.GetIndex() {
		err = errors.New("its image is newer than itself")
	}
	if err != nil {
		return fmt.Errorf("the snapshot of index %d from the leader: %w", meta.GetIndex(), err)
	}
	c.image, c.applied, c.appliedTerm, c.conf = img, meta.GetIndex(), meta.GetTerm(), meta.GetConfState()
	c.assembler, c.reported = Assembler{}, false
	done.Restored, done.Base = true, img.Index()
	return c.storage.ApplySnapshot(&pb.Snapshot{Metadata: meta})
}

// lead follows changes of leadership. What waits when it is lost is answered: nobody here will hear of it.
func (c *Core) lead(rd *raft.Ready, done *Applied) {
	leads, term := c.leader, c.node.BasicStatus().GetTerm()
	if rd.SoftState != nil {
		leads = rd.SoftState.RaftState == raft.StateLeader
	}
	if c.leader && (!leads || term != c.term) {
		done.Answers = append(done.Answers, c.Abandon()...)
	}
	if leads && (!c.leader || term != c.term) {
		c.barrier, c.changing = true, false
	}
	if !leads && term != c.term {
		done.Answers = append(done.Answers, c.abandonReads(c.ticks+1)...)
	}
	c.leader, c.term = leads, term
}

func (c *Core) apply(e *pb.Entry, done *Applied) error {
	c.applied, c.appliedTerm = e.GetIndex(), e.GetTerm()
	if c.leader && e.GetTerm() == c.term {
		c.barrier = false // every leader begins its term with an entry, so all of its predecessors' are applied
	}
	if e.GetType() != pb.EntryNormal {
		_, err := c.assembler.Add(e.GetTerm(), nil)
		return errors.Join(err, c.applyConf(e))
	}
	unit, err := c.assembler.Add(e.GetTerm(), e.GetData())
	if unit == nil || err != nil {
		return err
	}
	u, err := image.DecodeUnit(unit, c.hash)
	if err != nil {
		return err
	}
	if u.Base != c.image.Index() {
		return fmt.Errorf("the unit was decided on index %d, the image is at %d", u.Base, c.image.Index())
	}
	c.image, _ = image.Apply(c.image, e.GetIndex(), u.Records)
	c.reported = u.Awaited
	done.Units = append(done.Units, Committed{e.GetIndex(), unit})
	if c.flight != nil && c.flight.id == u.ID {
		for _, a := range c.flight.answers {
			a.Index = e.GetIndex()
			done.Answers = append(done.Answers, a)
		}
		c.flight = nil
	}
	return nil
}

func (c *Core) applyConf(e *pb.Entry) error {
	var change pb.ConfChangeI
	if e.GetType() == pb.EntryConfChange {
		v1 := &pb.ConfChange{}
		if err := proto.Unmarshal(e.GetData(), v1); err != nil {
			return err
		}
		change = v1
	} else {
		v2 := &pb.ConfChangeV2{}
		if err := proto.Unmarshal(e.GetData(), v2); err != nil {
			return err
		}
		change = v2
	}
	// A new member may need a snapshot at once, and the newest point does not know it yet.
	point := c.storage.meta
	c.storage.meta = nil
	c.conf, c.changing = c.node.ApplyConfChange(change), false
	c.storage.meta = point
	return nil
}
