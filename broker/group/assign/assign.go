// Package assign says which member of a consumer group gets which partitions,
// by the two rules that a broker offers to groups of the protocol of KIP-848.
// They have the names and the promises of Apache Kafka's.
//
// An answer depends on what is asked only, not on the order of members or of a map.
// The caller gives what each member's target is now; a partition that two members
// have stays with the one whose id is less, and one that is no more, or whose topic
// the member left, counts as nobody's.
//
// Racks, of members or of replicas, count for nothing, as in Apache Kafka's: its
// assignors on the server, up to 4.4, do not look at them (what did was taken out for 3.8,
// KAFKA-16694).
package assign

import (
	"bytes"
	"cmp"
	"slices"
)

// Topic is a topic's id.
type Topic = [16]byte

// Assignment is partitions by topic, rising. A topic without one is not in it.
type Assignment = map[Topic][]int32

// Member is what an assignor knows of a member.
type Member struct {
	ID       string
	Instance string         // "" for none
	Topics   map[Topic]bool // subscribed, only topics that exist
	Assigned Assignment     // the target it has now
}

// Range gives each subscriber of a topic a range of its partitions, in the order of
// the members: static ones by instance id, then the others by member id. If the
// partitions do not divide evenly the first members have one more. So topics with as
// many partitions and the same subscribers are cut alike, and a member has the same
// partitions of each, as joins of them need. Nothing else holds a partition in place:
// what a member has now does not count.
func Range(members []Member, partitions map[Topic]int32) []Assignment {
	g := lay(members, partitions, func(a, b *Member) int {
		return cmp.Or(
			cmp.Compare(btoi(a.Instance == ""), btoi(b.Instance == "")),
			cmp.Compare(a.Instance, b.Instance),
			cmp.Compare(a.ID, b.ID))
	})
	for t := range g.topics {
		slots, subs := g.slots(t), g.topics[t].subs
		each, more := len(slots)/len(subs), len(slots)%len(subs)
		for i, m := range subs {
			n := each + btoi(i < more)
			for s := range slots[:n] {
				slots[s] = m
			}
			slots = slots[n:]
		}
	}
	return g.result()
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// group is members and topics by number: members in the order that breaks ties,
// topics by id. A slot is a partition; those of a topic are next to one another.
type group struct {
	members []Member
	order   []int // index in members, by number
	same    bool  // all are subscribed to the same topics
	topics  []topic
	owner   []int32 // by slot, nobody if it is free
}

type topic struct {
	id         Topic
	start, end int     // its slots
	subs       []int32 // subscribers, rising; at least one
}

const nobody = -1

func (g *group) slots(t int) []int32 { return g.owner[g.topics[t].start:g.topics[t].end] }

// lay leaves out topics without a partition or a subscriber.
func lay(members []Member, partitions map[Topic]int32, order func(a, b *Member) int) *group {
	g := &group{members: members, order: make([]int, len(members)), same: sameTopics(members)}
	for i := range members {
		g.order[i] = i
	}
	slices.SortFunc(g.order, func(a, b int) int { return order(&members[a], &members[b]) })

	subs := map[Topic][]int32{}
	everybody := make([]int32, len(members))
	for m, i := range g.order {
		everybody[m] = int32(m)
		if g.same && m > 0 {
			continue
		}
		for id, in := range members[i].Topics {
			if in && partitions[id] > 0 {
				subs[id] = append(subs[id], int32(m))
			}
		}
	}
	for id, s := range subs {
		if g.same {
			s = everybody
		}
		g.topics = append(g.topics, topic{id: id, subs: s})
	}
	slices.SortFunc(g.topics, func(a, b topic) int { return bytes.Compare(a.id[:], b.id[:]) })

	n := 0
	for i := range g.topics {
		t := &g.topics[i]
		t.start, t.end = n, n+int(partitions[t.id])
		n = t.end
	}
	g.owner = slices.Repeat([]int32{nobody}, n)
	return g
}

// sameTopics may say no of sets that hold a topic as false: who asks gets by with it.
func sameTopics(members []Member) bool {
	if len(members) == 0 {
		return true
	}
	first := members[0].Topics
	for i := range members[1:] {
		topics := members[i+1].Topics
		if len(topics) != len(first) {
			return false
		}
		for id, in := range topics { // and not of first, which stays in the CPU's cache
			if !in || !first[id] {
				return false
			}
		}
	}
	return true
}

// result has the partitions of a member in one array.
func (g *group) result() []Assignment {
	out := make([]Assignment, len(g.members))
	for i := range out {
		out[i] = Assignment{}
	}
	count := make([]int, len(g.members))
	for _, m := range g.owner {
		count[m]++
	}
	have := make([][]int32, len(g.members))
	for m, n := range count {
		have[m] = make([]int32, 0, n)
	}
	for t := range g.topics {
		slots := g.slots(t)
		for p, m := range slots {
			have[m] = append(have[m], int32(p))
		}
		for _, m := range slots {
			if n := len(have[m]); n > 0 {
				out[g.order[m]][g.topics[t].id] = have[m][:n:n]
				have[m] = have[m][n:]
			}
		}
	}
	return out
}
