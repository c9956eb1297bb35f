package control

import (
	"cmp"
	"encoding/binary"
	"slices"

	"github.com/streambus/streambus/raftmeta/image"
)

// placer chooses replicas for new partitions of one topic. The aims are those of Kafka's StripedReplicaPlacer: the
// replicas of a partition lie on different racks as long as there are any, leaders and replicas are spread evenly over
// brokers, and brokers that are fenced come last in their rack and never lead.
//
// Where Kafka draws offsets and shuffles, everything here follows from the topic id, the number of the partition and the
// image. Brokers stand in a ring, in which racks take turns. The next leader is the broker that leads the fewest partitions
// of the topic; among those the one that leads the fewest of all, so that many small topics do not meet on one broker; among
// those the next in the ring, which begins at a place that the topic id says. Load decides only between equals: a broker that
// is new and empty gets no more than its share of a topic. The followers lie on the racks behind the leader's, in each on
// the broker with the fewest replicas of the topic. Each round over the ring begins one further, so that what a broker
// led goes to many others when it is gone.
//
// Racks of which no broker is there come behind the others: a replica waits there only where there are too few racks else.
// Kafka takes them in their turn, though its own goals are met without.
type placer struct {
	spots []*spot   // in the order of the ring
	racks [][]*spot // those of which a broker is there first
	live  int       // how many those are
	start int       // of the ring
	alive int       // spots that are not fenced
}

// spot is a broker that replicas may be placed on.
type spot struct {
	id           int32
	rack, ring   int
	fenced       bool
	load         int // partitions of other topics that it leads
	leads, holds int // partitions of the topic, that it leads by preference and that it has
	chosen       int // by the partition that is placed, counted from 1
}

// newPlacer looks at the brokers, and at the partitions that the topic has already, nil for a new one.
func newPlacer(m *image.Image, id image.UUID, topic *image.Topic) *placer {
	byRack := map[string][]*spot{}
	byID := map[int32]*spot{}
	there := map[string]int{} // brokers, by rack
	p := &placer{}
	for _, b := range m.Brokers() {
		if b.InControlledShutdown {
			continue
		}
		s := &spot{id: b.ID, fenced: b.Fenced, load: m.Count(b.ID, image.Leads)}
		byRack[b.Rack] = append(byRack[b.Rack], s)
		byID[b.ID] = s
		if !s.fenced {
			p.alive++
			there[b.Rack]++
		}
	}
	names := make([]string, 0, len(byRack))
	for name := range byRack {
		names = append(names, name)
	}
	dead := func(name string) int {
		if there[name] > 0 {
			return 0
		}
		return 1
	}
	slices.SortFunc(names, func(a, b string) int { return cmp.Or(cmp.Compare(dead(a), dead(b)), cmp.Compare(a, b)) })
	p.live = len(there)
	for i, name := range names {
		for _, s := range byRack[name] {
			s.rack = i
		}
		p.racks = append(p.racks, byRack[name])
	}
	for i := 0; len(p.spots) < len(byID); i++ {
		for _, rack := range p.racks {
			if i < len(rack) {
				rack[i].ring = len(p.spots)
				p.spots = append(p.spots, rack[i])
			}
		}
	}
	if len(p.spots) > 0 {
		p.start = int(binary.BigEndian.Uint32(id[12:]) % uint32(len(p.spots)))
	}
	if topic == nil {
		return p
	}
	for i := range topic.NumPartitions() {
		old, _ := topic.Partition(i)
		for j, id := range old.Replicas {
			if s, ok := byID[id]; ok {
				s.holds++
				if j == 0 {
					s.leads++
				}
			}
		}
		if s, ok := byID[old.Leader]; ok {
			s.load--
		}
	}
	return p
}

// check says in Kafka's words why so many replicas are not possible.
func (p *placer) check(replicas int) error {
	var err error
	switch {
	case p.alive == 0:
		_, err = refuse(InvalidReplicationFactor, "Unable to replicate the partition %d time(s): All brokers are currently fenced.", replicas)
	case replicas > len(p.spots):
		_, err = refuse(InvalidReplicationFactor, "Unable to replicate the partition %d time(s): The target replication factor of %d cannot be reached because only %d broker(s) are registered.", replicas, replicas, len(p.spots))
	}
	return err
}

// place chooses the replicas of partition i of the topic, the leader first.
func (p *placer) place(i, replicas int) []int32 {
	round := i / p.alive
	leader := p.best(p.spots, p.start+i, func(a, b *spot) int { return cmp.Or(cmp.Compare(a.leads, b.leads), cmp.Compare(a.load, b.load)) },
		func(s *spot) bool { return !s.fenced })
	chosen := append(make([]int32, 0, replicas), leader.id)
	take := func(s *spot) { s.holds, s.chosen = s.holds+1, i+1 }
	leader.leads++
	take(leader)
	n := len(p.racks)
	for turn := 0; len(chosen) < replicas; turn++ {
		rack := leader.rack // the last one in each turn over the racks
		switch at := turn % n; {
		case at < p.live-1:
			rack = (leader.rack + 1 + (turn+round)%(p.live-1)) % p.live
		case at < n-1:
			rack = p.live + (turn+round)%(n-p.live)
		}
		s := p.best(p.racks[rack], leader.ring+1+round, fewest, func(s *spot) bool { return s.chosen != i+1 })
		if s != nil {
			chosen = append(chosen, s.id)
			take(s)
		}
	}
	return chosen
}

func fewest(a, b *spot) int {
	switch {
	case a.fenced != b.fenced && b.fenced:
		return -1
	case a.fenced != b.fenced:
		return 1
	}
	return cmp.Compare(a.holds, b.holds)
}

// best is the first in order of those that may be; among equals the first in the ring, from a place on. It is nil for none.
func (p *placer) best(spots []*spot, from int, order func(a, b *spot) int, may func(*spot) bool) (found *spot) {
	from %= len(p.spots)
	behind := func(s *spot) int {
		if s.ring < from {
			return s.ring + len(p.spots)
		}
		return s.ring
	}
	for _, s := range spots {
		if !may(s) {
			continue
		}
		before := -1
		if found != nil {
			before = order(s, found)
		}
		if before < 0 || before == 0 && behind(s) < behind(found) {
			found = s
		}
	}
	return found
}
