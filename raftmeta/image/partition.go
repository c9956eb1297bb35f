package image

import (
	"math/bits"
	"slices"
)

// NoLeader stands in [Partition.Leader] when nobody leads.
const NoLeader int32 = -1

// MaxReplicas bounds the replicas of one partition: in-sync sets are written as bits over the assignment.
const MaxReplicas = 64

// NoDir stands in [Partition.Dirs] for a replica whose directory its broker has yet to choose.
const NoDir = 0xff

// Partition is the state of one partition. It lies in a block that images share, so nobody may change one.
//
// ISR and ELR are disjoint subsets of Replicas in the order of Replicas, and not both empty. Leader is in ISR or [NoLeader].
// LeaderEpoch and PartitionEpoch never go down; a change of leader raises both. When the last in-sync replica cannot lead it
// stays in ISR without being the leader: it is the only one known to hold everything acknowledged.
type Partition struct {
	Replicas []int32
	ISR      []int32 // usually all of Replicas, and then the same memory
	ELR      []int32
	// Dirs has one byte per replica: the place of its directory in the table of its broker, see [Broker.Dir], or [NoDir].
	// A million partitions times three replicas times sixteen bytes is what this spares.
	Dirs           string
	Leader         int32
	LeaderEpoch    int32
	PartitionEpoch int32
	// Moving is nil for nearly all partitions: a million of them pay for a pointer each.
	Moving *Reassignment
}

// Reassignment says how the replicas of a partition are changing (KIP-455). Adding and Removing are disjoint subsets of its
// Replicas, in their order, not both empty, and neither is all of them. What is left without Removing is the target.
type Reassignment struct{ Adding, Removing []int32 }

// Target is the replicas that a partition shall have in the end, in the order of its Replicas.
func (p *Partition) Target() []int32 {
	if p.Moving == nil || len(p.Moving.Removing) == 0 {
		return p.Replicas
	}
	target := make([]int32, 0, len(p.Replicas)-len(p.Moving.Removing))
	for _, id := range p.Replicas {
		if !slices.Contains(p.Moving.Removing, id) {
			target = append(target, id)
		}
	}
	return target
}

// share takes over lists that are equal to those of the state before: a change concerns one or two of them.
func (p *Partition) share(old *Partition) {
	if slices.Equal(p.Replicas, old.Replicas) {
		p.Replicas = old.Replicas
	}
	if p.Dirs == old.Dirs {
		p.Dirs = old.Dirs
	}
	if len(p.ISR) == len(p.Replicas) {
		p.ISR = p.Replicas // all of them, in their order
	}
}

// HasReplica reports whether broker id holds a replica.
func (p *Partition) HasReplica(id int32) bool { return slices.Contains(p.Replicas, id) }

// partitionSize is what a partition of three replicas takes about, in any of some hundred brokers.
const partitionSize = 14

// minPartitionSize is what the shortest partition takes: counts and positions of one byte each, no replica.
const minPartitionSize = 6

func appendPartition(b []byte, p *Partition) []byte {
	b = appendNatural(b, len(p.Replicas))
	for _, id := range p.Replicas {
		b = appendNatural(b, id)
	}
	b = append(b, p.Dirs...)
	b = appendUint(b, positions(p.Replicas, p.ISR))
	b = appendUint(b, positions(p.Replicas, p.ELR))
	b = appendNatural(b, slices.Index(p.Replicas, p.Leader)+1)
	b = appendNatural(b, p.LeaderEpoch)
	return appendNatural(b, p.PartitionEpoch)
}

// partition reads what appendPartition wrote. Lists equal to those of prev share its memory: neighbours in a topic, and
// every partition of a cluster of one, have the same ones.
func (r *reader) partition(prev *Partition) (p Partition) {
	n := r.count(2)
	if n > MaxReplicas {
		r.fail("%d replicas, at most %d", n, MaxReplicas)
		return Partition{}
	}
	var ids [MaxReplicas]int32
	for i := range n {
		ids[i] = r.natural32()
		if slices.Contains(ids[:i], ids[i]) {
			r.fail("replica %d twice", ids[i])
			return Partition{}
		}
	}
	if slices.Equal(ids[:n], prev.Replicas) {
		p.Replicas = prev.Replicas
	} else {
		p.Replicas = slices.Clone(ids[:n])
	}
	if dirs := r.take(n); string(dirs) == prev.Dirs {
		p.Dirs = prev.Dirs
	} else {
		p.Dirs = string(dirs)
	}
	isr, elr := r.uvarint(), r.uvarint()
	leader := r.uvarint()
	p.LeaderEpoch = r.natural32()
	p.PartitionEpoch = r.natural32()
	p.Leader = NoLeader
	switch {
	case r.err != nil:
		return Partition{}
	case bits.Len64(isr|elr) > n || isr&elr != 0:
		r.fail("in-sync set %b and eligible set %b over %d replicas", isr, elr, n)
		return Partition{}
	case leader > uint64(n):
		r.fail("leader at %d of %d replicas", leader, n)
		return Partition{}
	case leader > 0:
		p.Leader = p.Replicas[leader-1]
	}
	p.ISR, p.ELR = members(p.Replicas, isr), members(p.Replicas, elr)
	return p
}

// tagMoving is the tagged field of a partition's change that has its [Reassignment], and in a snapshot the one of a topic
// that has those of its partitions. Nothing else of a topic has this number.
const tagMoving = 0

func appendMoving(b []byte, p *Partition) []byte {
	b = appendUint(b, positions(p.Replicas, p.Moving.Adding))
	return appendUint(b, positions(p.Replicas, p.Moving.Removing))
}

// moving reads what appendMoving wrote, of a partition with its replicas.
func (r *reader) moving(p *Partition) *Reassignment {
	adding, removing := r.uvarint(), r.uvarint()
	all := uint64(1)<<len(p.Replicas) - 1
	switch {
	case r.err != nil:
		return nil
	case (adding|removing)&^all != 0 || adding&removing != 0 || adding|removing == 0 || adding == all || removing == all:
		r.fail("%b are added and %b removed of %d replicas", adding, removing, len(p.Replicas))
		return nil
	}
	return &Reassignment{Adding: members(p.Replicas, adding), Removing: members(p.Replicas, removing)}
}

// positions is the set of ids as bits over replicas.
func positions(replicas, ids []int32) (set uint64) {
	for _, id := range ids {
		set |= 1 << slices.Index(replicas, id) // a stranger panics here: negative shift
	}
	return set
}

func members(replicas []int32, set uint64) []int32 {
	switch n := bits.OnesCount64(set); n {
	case 0:
		return nil
	case len(replicas):
		return replicas
	default:
		ids := make([]int32, 0, n)
		for ; set != 0; set &= set - 1 {
			ids = append(ids, replicas[bits.TrailingZeros64(set)])
		}
		return ids
	}
}
