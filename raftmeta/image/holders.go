package image

import (
	"cmp"
	"iter"
	"math/bits"
	"slices"

	"github.com/benbjohnson/immutable"
)

// Role is the part that a broker has in a partition.
type Role int

// The roles. Who leads is in sync, and who is in sync holds a replica.
const (
	Holds  Role = iota // it has a replica
	InSync             // it is in the ISR
	Leads
	numRoles
)

// holder is what one broker has a part in: for each 64 partitions of a topic among which it has a replica, a bit per partition and
// role. It is derived from the partitions, kept in step with them, and not in the snapshot. Holders are shared between
// images; a change of a partition copies a few nodes of the trees of the brokers whose parts change.
//
// Three holders are no brokers. The one of [NoLeader] has the partitions that nobody leads, the one of [notPreferred] those
// that are led by another than their first replica, or by nobody, the one of [moving] those whose replicas are changing.
type holder struct {
	id     int32
	places *immutable.SortedMap[rolesPlace, roles]
	count  [numRoles]int
}

const (
	notPreferred int32 = -2
	moving       int32 = -3
)

// roles has a bit for each of 64 partitions, the first of them a multiple of 64.
type roles [numRoles]uint64

// rolesPlace orders them by the slot of their topic, then by their number in it.
type rolesPlace uint64

func placeOf(slot, partition int32) rolesPlace {
	return rolesPlace(slot)<<32 | rolesPlace(partition/64)
}

type byPlace struct{}

func (byPlace) Compare(a, b rolesPlace) int { return cmp.Compare(a, b) }

// Place is where a partition stands in the order in which partitions are gone through. A topic that is deleted moves
// others, so a place that is kept from one image to a later one may skip some.
type Place uint64

// touched names what a builder has changed of a holder.
type touched struct {
	holder int32
	at     rolesPlace
}

type touch struct{ was, is roles }

// recentTouch spares the look into the map where neighbours change.
type recentTouch struct {
	key   touched
	touch *touch // nil for none
}

// part is a role that somebody has in a partition.
type part struct {
	holder int32
	role   Role
}

// appendParts appends the parts that there are in a partition; nil is one that is not there.
func (p *Partition) appendParts(parts []part) []part {
	if p == nil {
		return parts
	}
	for _, id := range p.Replicas {
		parts = append(parts, part{id, Holds})
	}
	for _, id := range p.ISR {
		parts = append(parts, part{id, InSync})
	}
	if p.Leader != NoLeader {
		parts = append(parts, part{p.Leader, Leads})
	} else {
		parts = append(parts, part{NoLeader, Holds})
	}
	if len(p.Replicas) > 0 && p.Leader != p.Replicas[0] {
		parts = append(parts, part{notPreferred, Holds})
	}
	if p.Moving != nil {
		parts = append(parts, part{moving, Holds})
	}
	return parts
}

// mark follows a change of a partition. Who has the same part in both states is not looked at.
func (b *builder) mark(slot, index int32, was, is *Partition) {
	var room [2][12]part // five replicas
	before, after := was.appendParts(room[0][:0]), is.appendParts(room[1][:0])
	for _, x := range before {
		if !slices.Contains(after, x) {
			b.markRole(x.holder, slot, index, x.role, false)
		}
	}
	for _, x := range after {
		if !slices.Contains(before, x) {
			b.markRole(x.holder, slot, index, x.role, true)
		}
	}
}

func (b *builder) markRole(id, slot, index int32, role Role, on bool) {
	key := touched{id, placeOf(slot, index)}
	last := &b.recent[uint32(id)%uint32(len(b.recent))]
	if last.touch == nil || last.key != key {
		t := b.touched[key]
		if t == nil {
			t = &touch{}
			if h, ok := b.img.holder(id); ok {
				t.was, _ = h.places.Get(key.at)
				t.is = t.was
			}
			b.touched[key] = t
		}
		*last = recentTouch{key, t}
	}
	t := last.touch
	if bit := uint64(1) << (index % 64); on {
		t.is[role] |= bit
	} else {
		t.is[role] &^= bit
	}
}

// flush writes what was marked into the holders.
func (b *builder) flush() {
	keys := make([]touched, 0, len(b.touched))
	for key, t := range b.touched {
		if t.was != t.is {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(x, y touched) int { return cmp.Or(cmp.Compare(x.holder, y.holder), cmp.Compare(x.at, y.at)) })
	if len(keys) > 0 {
		b.img.holders = slices.Clone(b.img.holders)
	}
	for len(keys) > 0 {
		n := 1
		for n < len(keys) && keys[n].holder == keys[0].holder {
			n++
		}
		b.flushHolder(keys[:n])
		keys = keys[n:]
	}
	clear(b.touched)
	clear(b.recent[:])
}

func (b *builder) flushHolder(keys []touched) {
	id := keys[0].holder
	at, found := findHolder(b.img.holders, id)
	if !found {
		b.img.holders = slices.Insert(b.img.holders, at, holder{id: id})
	}
	h := &b.img.holders[at]
	var fresh *immutable.SortedMapBuilder[rolesPlace, roles] // changes nodes in place: nobody else has any
	if !found {
		fresh = immutable.NewSortedMapBuilder[rolesPlace, roles](byPlace{})
	}
	for _, key := range keys {
		t := b.touched[key]
		for r := range h.count {
			h.count[r] += bits.OnesCount64(t.is[r]) - bits.OnesCount64(t.was[r])
		}
		switch {
		case !found:
			fresh.Set(key.at, t.is)
		case t.is == roles{}:
			h.places = h.places.Delete(key.at)
		default:
			h.places = h.places.Set(key.at, t.is)
		}
	}
	if !found {
		h.places = fresh.Map()
	}
	if h.places.Len() == 0 {
		b.img.holders = slices.Delete(b.img.holders, at, at+1)
	}
}

func findHolder(holders []holder, id int32) (int, bool) {
	return slices.BinarySearchFunc(holders, id, func(h holder, id int32) int { return cmp.Compare(h.id, id) })
}

func (m *Image) holder(id int32) (*holder, bool) {
	at, ok := findHolder(m.holders, id)
	if !ok {
		return nil, false
	}
	return &m.holders[at], true
}

// Count is in how many partitions a broker has a role.
func (m *Image) Count(broker int32, role Role) int {
	if h, ok := m.holder(broker); ok {
		return h.count[role]
	}
	return 0
}

// Partitions yields the partitions in which a broker has a role. What it costs follows from how many there are, not from
// the size of the cluster.
func (m *Image) Partitions(broker int32, role Role) iter.Seq[LocalPartition] {
	return m.pick(broker, func(_ rolesPlace, r roles) uint64 { return r[role] })
}

// OutOfSync yields the partitions of which a broker has a replica that is not in the ISR.
func (m *Image) OutOfSync(broker int32) iter.Seq[LocalPartition] {
	return m.pick(broker, func(_ rolesPlace, r roles) uint64 { return r[Holds] &^ r[InSync] })
}

// NumLeaderless counts the partitions that nobody leads.
func (m *Image) NumLeaderless() int { return m.Count(NoLeader, Holds) }

// Leaderless yields the partitions without a leader of which a broker has a replica.
func (m *Image) Leaderless(broker int32) iter.Seq[LocalPartition] {
	none, _ := m.holder(NoLeader)
	own, _ := m.holder(broker)
	if none == nil || own == nil {
		return func(func(LocalPartition) bool) {}
	}
	few, other := none, own
	if own.places.Len() < none.places.Len() {
		few, other = own, none
	}
	return m.pick(few.id, func(at rolesPlace, r roles) uint64 {
		o, _ := other.places.Get(at)
		return r[Holds] & o[Holds]
	})
}

// NumNotPreferred counts the partitions that are not led by their first replica.
func (m *Image) NumNotPreferred() int { return m.Count(notPreferred, Holds) }

// LeaderlessFrom yields all partitions without a leader from a place on, with the place behind each.
func (m *Image) LeaderlessFrom(from Place) iter.Seq2[Place, LocalPartition] {
	return m.walk(NoLeader, from, func(_ rolesPlace, r roles) uint64 { return r[Holds] })
}

// NotPreferredFrom yields those that are not led by their first replica, likewise.
func (m *Image) NotPreferredFrom(from Place) iter.Seq2[Place, LocalPartition] {
	return m.walk(notPreferred, from, func(_ rolesPlace, r roles) uint64 { return r[Holds] })
}

// NumMoving counts the partitions whose replicas are changing.
func (m *Image) NumMoving() int { return m.Count(moving, Holds) }

// Moving yields them.
func (m *Image) Moving() iter.Seq[LocalPartition] {
	return m.pick(moving, func(_ rolesPlace, r roles) uint64 { return r[Holds] })
}

func (m *Image) pick(id int32, which func(rolesPlace, roles) uint64) iter.Seq[LocalPartition] {
	return func(yield func(LocalPartition) bool) {
		for _, p := range m.walk(id, 0, which) {
			if !yield(p) {
				return
			}
		}
	}
}

// walk goes through partitions of a holder, in order. A place is a slot and the number of a partition.
func (m *Image) walk(id int32, from Place, which func(rolesPlace, roles) uint64) iter.Seq2[Place, LocalPartition] {
	return func(yield func(Place, LocalPartition) bool) {
		h, ok := m.holder(id)
		if !ok {
			return
		}
		it := h.places.Iterator()
		it.Seek(placeOf(int32(from>>32), int32(from&(1<<31-1))))
		for !it.Done() {
			at, r, _ := it.Next()
			slot, first := int32(at>>32), int32(at&(1<<32-1))*64
			t := m.topics.at(slot)
			for set := which(at, r); set != 0; set &= set - 1 {
				i := first + int32(bits.TrailingZeros64(set))
				here := Place(slot)<<32 | Place(i)
				if here < from {
					continue
				}
				p, _ := t.Partition(i)
				if !yield(here+1, LocalPartition{t, i, p}) {
					return
				}
			}
		}
	}
}
