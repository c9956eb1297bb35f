package sim

import (
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/group"
	"github.com/streambus/streambus/protocol"
)

// modern is a member of the consumer protocol (KIP-848), in which the coordinator says
// who gets what. It does at once what it is told.
type modern struct {
	c        *consumer
	id       string
	instance *string
	epoch    int32
	owes     bool // the coordinator what it owns
	lost     bool // an answer, so that it says all again
}

// consumedID is the id of the topic that groups read.
var consumedID = [16]byte{0: 1}

// groupMetadata is what coordinators know of topics.
func (g *groupTruth) groupMetadata() *group.Metadata {
	return &group.Metadata{
		Index: 1, Session: time.Duration(g.session), Heartbeat: time.Duration(g.session / 4),
		Find: func(name string) (group.Topic, bool) {
			return group.Topic{ID: consumedID, Partitions: consumedPartitions}, name == consumed
		},
		Name:   func(id [16]byte) (string, bool) { return consumed, id == consumedID },
		Topics: maps.Keys(map[string]bool{consumed: true}),
	}
}

func (m *modern) stamp() stamp {
	if m.epoch == 0 {
		return stamp{m.id, m.instance, -1}
	}
	return stamp{m.id, m.instance, m.epoch}
}

func (m *modern) next() bool {
	if m.epoch > 0 && !m.owes {
		return false
	}
	m.heartbeat(m.epoch)
	return true
}

func (m *modern) beat() { m.heartbeat(m.epoch) }

func (m *modern) leave() {
	m.c.owns = nil
	if m.instance != nil && m.c.w.members.IntN(2) == 0 {
		m.c.w.stats["instances that left for a while"]++
		m.heartbeat(-2)
		return
	}
	m.heartbeat(-1)
}

func (m *modern) hears(code protocol.ErrorCode) {
	switch code {
	case protocol.None:
	case protocol.NotCoordinator, protocol.CoordinatorNotAvailable, protocol.CoordinatorLoadInProgress, protocol.RequestTimedOut:
		m.lost = true // what it asked for may come about all the same
	case protocol.StaleMemberEpoch:
		m.owes = true // it hears of its epoch then
	case protocol.UnknownMemberID, protocol.FencedMemberEpoch, protocol.GroupIDNotFound:
		m.epoch, m.owes, m.c.owns = 0, false, nil
	case protocol.UnreleasedInstanceID, protocol.FencedInstanceID: // another process has it
		m.c.w.stats["consumers without their instance"]++
		m.c.end()
		if m.c.w.healed { // perhaps one that is gone
			m.c.w.join(m.c.group)
		}
	default:
		m.c.w.broken("%s hears %s", m.c.name, code)
	}
}

func (m *modern) heartbeat(epoch int32) {
	c, g := m.c, m.c.group
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.MemberEpoch = 1, g.name, m.id, m.instance, epoch
	if epoch == 0 || m.lost {
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames = 600_000, []string{consumed}
	}
	if epoch >= 0 && (epoch == 0 || m.lost || m.owes) {
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		if len(c.owns) > 0 && epoch > 0 {
			req.Topics = append(req.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: consumedID, Partitions: slices.Clone(c.owns)})
		}
	}
	knew := epoch > 0 && !m.lost
	c.ask("consumer heartbeat", patience, func(q *asked, core *group.Shard, now time.Time) group.Effects {
		if epoch < 0 {
			g.leaves(m.id)
		}
		return core.ConsumerHeartbeat(now, req, g.groupMetadata(), group.Client{ID: c.name, Host: "/", Unique: m.id}, q)
	}, func(q *asked, body any) {
		r := body.(*kmsg.ConsumerGroupHeartbeatResponse)
		switch code := protocol.ErrorCode(r.ErrorCode); {
		case code == protocol.None && epoch >= 0:
			g.granted(q, c, m.id, held(r))
			g.alive(q, m.id)
		case knew && q.current && g.life(m.id).until > c.w.now && putsOut(code):
			c.w.broken("I23: %s is told %s, and it is in the epoch %d that it heard of last: %s", c.name, code, epoch, *r.ErrorMessage)
		}
	}, func(body any, code protocol.ErrorCode) {
		if code != protocol.None {
			m.lost = true
			return
		}
		r := body.(*kmsg.ConsumerGroupHeartbeatResponse)
		if code := protocol.ErrorCode(r.ErrorCode); code != protocol.None {
			m.hears(code)
			return
		}
		if epoch < 0 {
			return
		}
		m.epoch, m.owes, m.lost = r.MemberEpoch, false, false
		if r.Assignment != nil {
			c.w.stats["assignments of the consumer protocol"]++
			c.owns, c.lost, m.owes = held(r), nil, true
		}
	})
}

// putsOut tells whether a member hears by an error that it is none.
func putsOut(code protocol.ErrorCode) bool {
	switch code {
	case protocol.FencedMemberEpoch, protocol.UnknownMemberID, protocol.FencedInstanceID, protocol.UnreleasedInstanceID:
		return true
	}
	return false
}

// held is what an answer says that the member has.
func held(r *kmsg.ConsumerGroupHeartbeatResponse) (owns []int32) {
	if r.Assignment != nil {
		for _, t := range r.Assignment.Topics {
			owns = append(owns, t.Partitions...)
		}
	}
	slices.Sort(owns)
	return owns
}

// granted looks at what a member of the consumer protocol is told that it has: nobody
// who lives reads it still.
func (g *groupTruth) granted(q *asked, c *consumer, id string, owns []int32) {
	if !q.current {
		return
	}
	for _, p := range owns {
		for _, x := range g.w.consumers {
			if x.group != g || x == c || !x.has(p) {
				continue
			}
			if l := g.lives[x.member.stamp().id]; l != nil && l.until > g.w.now {
				g.w.broken("I24: %s gets partition %d of %s, and %s has not given it up", id, p, g.name, x.name)
			}
			x.lost = append(x.lost, p)
		}
	}
}
