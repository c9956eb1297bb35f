package group

import (
	"maps"
	"slices"

	"github.com/streambus/streambus/broker/group/assign"
)

// part is a partition of a topic that has an id.
type part struct {
	topic topicID
	index int32
}

type topicID = [16]byte

// holding is what a member has, with the member epoch in which each was given to it.
type holding map[part]int32

// memberState is where a member of the consumer protocol is on its way to its target.
type memberState int8

const (
	reconciled memberState = iota // it has what its target had in its epoch
	unrevoked                     // it was asked to give up some, and has not said yet that it did
	unreleased                    // others have not given up what it is to get
)

// moved returns the member as it goes on towards its target: what it has and is not to
// have it gives up first, and while it does so it stays in its epoch; what nobody has
// any more it gets then. owned is what it says that it has, nil if it does not say;
// owner is who has a partition, "" for nobody. It is Kafka's
// CurrentAssignmentBuilder.java.
func (m *consumer) moved(epoch int32, target assign.Assignment, owned holding, owner func(part) string) *consumer {
	from := m.epoch
	switch {
	case m.state == reconciled && m.epoch == epoch:
		return m
	case m.state == unrevoked:
		if owned == nil || owned.meets(m.revoking) {
			return m
		}
		from++
	}
	next := *m
	next.assigned, next.revoking = holding{}, holding{}
	wanted := holding{}
	for topic, indexes := range target {
		for _, i := range indexes {
			wanted[part{topic, i}] = epoch
		}
	}
	for p, since := range m.assigned {
		if _, keeps := wanted[p]; keeps {
			next.assigned[p] = since
		} else {
			next.revoking[p] = since
		}
	}
	if len(next.revoking) > 0 && (owned == nil || owned.meets(next.revoking)) {
		next.state = unrevoked
		next.enter(from)
		return &next
	}
	next.revoking, next.state = holding{}, reconciled
	for p := range wanted {
		if _, has := next.assigned[p]; has {
			continue
		}
		if by := owner(p); by != "" && by != m.id {
			next.state = unreleased
			continue
		}
		next.assigned[p] = epoch
	}
	next.enter(epoch)
	return &next
}

// holds is what nobody else may have: what the member is to have now, and what it has
// not given up yet.
func (m *consumer) holds() holding {
	h := maps.Clone(m.assigned)
	maps.Copy(h, m.revoking)
	return h
}

// enter makes an epoch the member's.
func (m *consumer) enter(epoch int32) {
	if m.epoch != epoch {
		m.previous, m.epoch = m.epoch, epoch
	}
}

// meets tells whether two have a partition in common.
func (h holding) meets(other holding) bool {
	for p := range other {
		if _, ok := h[p]; ok {
			return true
		}
	}
	return false
}

// within tells whether all of it is in another.
func (h holding) within(other holding) bool {
	for p := range h {
		if _, ok := other[p]; !ok {
			return false
		}
	}
	return true
}

// assignment is what is held, by topic.
func (h holding) assignment() assign.Assignment {
	a := assign.Assignment{}
	for p := range h {
		a[p.topic] = append(a[p.topic], p.index)
	}
	for _, indexes := range a {
		slices.Sort(indexes)
	}
	return a
}

func sameParts(a, b holding) bool { return len(a) == len(b) && a.within(b) }

func sortedIDs(a assign.Assignment) []topicID {
	return slices.SortedFunc(maps.Keys(a), func(x, y topicID) int { return slices.Compare(x[:], y[:]) })
}
