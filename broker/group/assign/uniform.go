package assign

import (
	"cmp"
	"slices"
)

// Uniform gives all members as many partitions, over all topics together, and moves
// few for it.
//
// If all are subscribed to the same topics, no two members differ by more than one
// partition, and no way to get there moves fewer. If not, no partition can go to a
// subscriber that has two fewer than its owner. That is balance in Kafka's sense too;
// a chain of moves through a third member may still do better, and both leave it.
// Kafka gives up after sixteen rounds; this one goes on to the end, which is sure to
// come as each move makes the sum of the squares of the members' loads less.
func Uniform(members []Member, partitions map[Topic]int32) []Assignment {
	u := uniform{group: lay(members, partitions, func(a, b *Member) int { return cmp.Compare(a.ID, b.ID) })}
	u.load = make([]int, len(members))
	u.keep()
	if u.same {
		u.release()
		u.fill()
		return u.result()
	}
	before := slices.Clone(u.owner)
	u.fill()
	u.balance(before)
	return u.result()
}

type uniform struct {
	*group
	load []int // slots of a member
}

func (u *uniform) give(slot int, m int32) {
	if old := u.owner[slot]; old != nobody {
		u.load[old]--
	}
	if m != nobody {
		u.load[m]++
	}
	u.owner[slot] = m
}

// keep leaves members what they have and still want.
func (u *uniform) keep() {
	number := make(map[Topic]int, len(u.topics))
	for t := range u.topics {
		number[u.topics[t].id] = t
	}
	for m, i := range u.order {
		for id, parts := range u.members[i].Assigned {
			t, ok := number[id]
			if !ok || !u.members[i].Topics[id] {
				continue
			}
			for _, p := range parts {
				slot := u.topics[t].start + int(p)
				if p >= 0 && slot < u.topics[t].end && u.owner[slot] == nobody {
					u.give(slot, int32(m))
				}
			}
		}
	}
}

// release takes from members what is over their share. Shares that are one larger go
// to those that have so many first, or a partition would move for nothing.
func (u *uniform) release() {
	if len(u.load) == 0 {
		return
	}
	each, more := len(u.owner)/len(u.load), len(u.owner)%len(u.load)
	spare := make([]int, len(u.load)) // what a member may still keep
	for m, n := range u.load {
		spare[m] = each
		if n > each && more > 0 {
			spare[m]++
			more--
		}
	}
	for slot, m := range u.owner {
		switch {
		case m == nobody:
		case spare[m] == 0:
			u.give(slot, nobody)
		default:
			spare[m]--
		}
	}
}

// fill gives free partitions to their least loaded subscribers. Topics with most
// partitions for each subscriber come first: theirs have least choice.
func (u *uniform) fill() {
	var heap []int32
	for _, t := range u.byNeed() {
		subs := u.topics[t].subs
		heap = heap[:0]
		for slot := u.topics[t].start; slot < u.topics[t].end; slot++ {
			if u.owner[slot] != nobody {
				continue
			}
			if len(heap) == 0 {
				heap = append(heap, subs...)
				for i := len(heap)/2 - 1; i >= 0; i-- {
					u.sink(heap, i)
				}
			}
			u.give(slot, heap[0])
			u.sink(heap, 0)
		}
	}
}

func (u *uniform) byNeed() []int {
	topics := make([]int, len(u.topics))
	for t := range topics {
		topics[t] = t
	}
	slices.SortStableFunc(topics, func(a, b int) int {
		ta, tb := &u.topics[a], &u.topics[b]
		return cmp.Or(
			cmp.Compare((tb.end-tb.start)*len(ta.subs), (ta.end-ta.start)*len(tb.subs)),
			cmp.Compare(len(ta.subs), len(tb.subs)))
	})
	return topics
}

// sink moves the member at i down a heap that has the least loaded on top.
func (u *uniform) sink(heap []int32, i int) {
	for {
		child := 2*i + 1
		if child >= len(heap) {
			return
		}
		if child+1 < len(heap) && u.less(heap[child+1], heap[child]) {
			child++
		}
		if !u.less(heap[child], heap[i]) {
			return
		}
		heap[i], heap[child] = heap[child], heap[i]
		i = child
	}
}

func (u *uniform) less(a, b int32) bool {
	return u.load[a] < u.load[b] || u.load[a] == u.load[b] && a < b
}

// balance evens out topic after topic until none has a move left.
//
// Large differences go first. If the first topic were evened out at once, its owners
// would give what those of the next should, and then have to be given from there: a
// newcomer would move a quarter more than it gets. Steps of one would be best, and
// take half a minute where all partitions are with one of 1,000 members; these take
// a third of a second.
func (u *uniform) balance(before []int32) {
	topics := make([][]int, len(u.load)) // of a member
	for t := range u.topics {
		for _, m := range u.topics[t].subs {
			topics[m] = append(topics[m], t)
		}
	}
	order, have := u.byNeed(), make([][]int, len(u.load))
	for gap := slices.Max(u.load) - slices.Min(u.load); gap >= 2; gap -= max(1, gap/8) {
		// A topic needs another look only if a subscriber's load changed elsewhere.
		look := slices.Repeat([]bool{true}, len(u.topics))
		for again := true; again; {
			again = false
			for _, t := range order {
				if !look[t] {
					continue
				}
				for _, m := range u.level(t, gap, before, have) {
					for _, other := range topics[m] {
						look[other], again = true, true
					}
				}
				look[t] = false
			}
		}
	}
}

// level moves partitions of a topic from its most to its least loaded subscribers
// while these differ by gap, and returns whose load changed. have is room to work in.
func (u *uniform) level(t, gap int, before []int32, have [][]int) (changed []int32) {
	subs := u.topics[t].subs
	low, high := u.load[subs[0]], u.load[subs[0]]
	for _, m := range subs {
		low, high = min(low, u.load[m]), max(high, u.load[m])
	}
	if high-low < gap {
		return nil
	}
	for _, m := range subs {
		have[m] = have[m][:0]
	}
	// The last goes first, so what moved already comes last: it costs nothing more.
	for _, moved := range []bool{false, true} {
		for slot := u.topics[t].start; slot < u.topics[t].end; slot++ {
			if m := u.owner[slot]; (m != before[slot]) == moved {
				have[m] = append(have[m], slot)
			}
		}
	}
	for {
		from, to := int32(nobody), subs[0]
		for _, m := range subs {
			if u.load[m] < u.load[to] {
				to = m
			}
			if len(have[m]) > 0 && (from == nobody || u.load[m] > u.load[from]) {
				from = m
			}
		}
		if u.load[from]-u.load[to] < gap {
			return changed
		}
		last := len(have[from]) - 1
		slot := have[from][last]
		have[from] = have[from][:last]
		have[to] = append(have[to], slot)
		u.give(slot, to)
		changed = append(changed, from, to)
	}
}
