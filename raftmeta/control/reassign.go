package control

import (
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// AlterPartitionReassignments gives partitions other replicas, or stops doing so (KIP-455). Each partition is answered for
// itself.
//
// A partition that gains replicas, or loses some while those that stay are not in sync, is moving from then on: it has the
// replicas of both, those that it shall have in front. Whichever change puts the last of those in sync ends it, see
// [turn.settle].
type AlterPartitionReassignments struct {
	// KeepFactor refuses what changes the number of a partition's replicas.
	KeepFactor bool
	Partitions []Reassign // at most MaxChanges
}

// Reassign says what the replicas of one partition shall be.
type Reassign struct {
	TopicPartition
	Replicas []int32 // nil takes back what is under way
}

// AlteredReassignments is the reply, in the order asked.
type AlteredReassignments struct{ Partitions []AlteredReassignment }

// AlteredReassignment says that a partition is or was moved, or why not.
type AlteredReassignment struct {
	TopicPartition
	Refusal *Refusal `json:",omitempty"` // nil for none
}

// Eval implements Command.
func (c *AlterPartitionReassignments) Eval(m *image.Image, _ time.Time) (Result, error) {
	if len(c.Partitions) > MaxChanges {
		return refuse(PolicyViolation, "%d partitions: at most %d can be reassigned at once", len(c.Partitions), MaxChanges)
	}
	s, reply := newPending(m), &AlteredReassignments{}
	for _, x := range c.Partitions {
		reply.Partitions = append(reply.Partitions, AlteredReassignment{x.TopicPartition, c.alter(s, x)})
	}
	return Result{Records: s.records, Reply: reply}, nil
}

// alter is Kafka's ReplicationControlManager.alterPartitionReassignment.
func (c *AlterPartitionReassignments) alter(s *pending, x Reassign) *Refusal {
	t, ok := s.m.Topic(x.Topic)
	if !ok {
		return failure(UnknownTopic, "Unable to find a topic named %s.", x.Topic)
	}
	p, ok := s.partition(t, x.Partition)
	if !ok {
		return failure(UnknownPartition, "Unable to find partition %s:%d.", x.Topic, x.Partition)
	}
	change := turn{after: s.m, rules: rulesOf(s.m, t), isr: p.ISR, lost: noBroker}
	if x.Replicas == nil {
		if refusal := change.revert(p, x.TopicPartition); refusal != nil {
			return refusal
		}
	} else {
		if refusal := c.check(s.m, p, x.Replicas); refusal != nil {
			return refusal
		}
		change.to = target(s.m, p, x.Replicas)
		change.rules.unclean = false // as in Kafka: nobody asked for an election
	}
	if next, changed := change.settle(p); changed {
		s.change(t, x.Partition, &next)
	}
	return nil
}

func (c *AlterPartitionReassignments) check(m *image.Image, p *image.Partition, replicas []int32) *Refusal {
	if refusal := checkReplicas(m, replicas); refusal != nil {
		return refusal
	}
	if have := len(p.Target()); c.KeepFactor && have != len(replicas) {
		return failure(InvalidReplicationFactor, "The replication factor is changed from %d to %d", have, len(replicas))
	}
	if all := len(without(p.Replicas, replicas...)) + len(replicas); all > image.MaxReplicas {
		return failure(InvalidReplicaAssignment, "The partition would have %d replica(s) for a while, at most %d are possible.", all, image.MaxReplicas)
	}
	return nil
}

// assignment is what a partition's replicas become.
type assignment struct {
	replicas []int32
	dirs     string
	moving   *image.Reassignment
}

// target is what a partition has while it gets other replicas: first those, then what it loses, by id.
//
// What an earlier reassignment was about to add is not taken away at once: it may lead, or be the only one in sync. It is
// lost with the others, and a replica that both reassignments add is still one that is added.
func target(m *image.Image, p *image.Partition, replicas []int32) *assignment {
	removing := without(p.Replicas, replicas...)
	all := slices.Concat(replicas, slices.Sorted(slices.Values(removing)))
	adding := pick(all, func(id int32) bool {
		return !p.HasReplica(id) || p.Moving != nil && slices.Contains(p.Moving.Adding, id) && slices.Contains(replicas, id)
	})
	to := assign(m, p, all)
	if len(adding)+len(removing) > 0 {
		to.moving = &image.Reassignment{Adding: adding, Removing: all[len(replicas):]}
	}
	return to
}

// assign gives replicas that a partition has the directories that they are in.
func assign(m *image.Image, p *image.Partition, replicas []int32) *assignment {
	dirs := make([]byte, 0, len(replicas))
	for i, id := range replicas {
		if at := slices.Index(p.Replicas, id); at >= 0 {
			dirs = append(dirs, p.Dirs[at])
		} else {
			dirs = directories(m, replicas[i:i+1], dirs)
		}
	}
	return &assignment{replicas: replicas, dirs: string(dirs)}
}

// revert has a partition keep the replicas that it had, after Kafka's PartitionReassignmentRevert. Where none of them is in
// sync, one that may lack what was acknowledged would have to lead. Kafka takes the first, whether it is there or not, and
// deposes a leader that has everything for nobody; here the partition moves on until one of them is there.
func (t *turn) revert(p *image.Partition, tp TopicPartition) *Refusal {
	if p.Moving == nil {
		return failure(NoReassignmentInProgress, "No partition reassignment is in progress.")
	}
	t.to = assign(t.after, p, without(p.Replicas, p.Moving.Adding...))
	t.isr = without(p.ISR, p.Moving.Adding...)
	with := t.assigned(p, t.isr)
	there := slices.ContainsFunc(with.Replicas, func(id int32) bool { return canLead(t.after, with, id) })
	if len(t.isr) == 0 && !(t.rules.unclean && there) {
		return failure(InvalidReplicaAssignment, "Unable to revert partition assignment for %s:%d because it would require an unclean leader election.", tp.Topic, tp.Partition)
	}
	return nil
}

// complete tells whether all replicas that a partition shall have are in sync, and one of them can lead.
func (t turn) complete(p *image.Partition, isr []int32) bool {
	can := false
	for _, id := range p.Target() {
		if !slices.Contains(isr, id) {
			return false
		}
		can = can || canLead(t.after, p, id) || id == p.Leader && canStay(t.after, p)
	}
	return can
}

// assigned is a partition with the replicas that it has behind a turn, in which those of isr are in sync.
func (t turn) assigned(p *image.Partition, isr []int32) *image.Partition {
	if t.to == nil && p.Moving == nil {
		return p
	}
	next := *p
	if t.to != nil {
		next.Replicas, next.Dirs, next.Moving = t.to.replicas, t.to.dirs, t.to.moving
	}
	if next.Moving != nil && t.complete(&next, isr) {
		end := assign(t.after, &next, next.Target())
		next.Replicas, next.Dirs, next.Moving = end.replicas, end.dirs, nil
	}
	return &next
}

func sameMove(a, b *image.Reassignment) bool {
	if a == nil || b == nil {
		return a == b
	}
	return slices.Equal(a.Adding, b.Adding) && slices.Equal(a.Removing, b.Removing)
}
