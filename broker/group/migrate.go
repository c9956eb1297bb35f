package group

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/group/assign"
	"github.com/streambus/streambus/protocol"
)

// Groups change between the protocols while members are in them. One of the classic
// protocol becomes one of the consumer protocol when a member of that joins; the
// others stay, and are served by what they know: a generation is the member's epoch,
// and a rebalance begins when there is something to give up or to get. When all that
// are left speak the classic protocol, the next of their requests makes the group one
// of it again: metadata comes with requests, and no member can tell the difference.

// classicMember is what a member of the classic protocol has said, in a group of the
// consumer protocol.
type classicMember struct {
	session   time.Duration
	protocols []kmsg.JoinGroupRequestProtocol
}

// Know tells a shard of the topics that there are. Without that no group changes
// between the protocols.
func (s *Shard) Know(md *Metadata) { s.md = md }

func (a *classicMember) equal(b *classicMember) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.session == b.session && (&member{protocols: a.protocols}).says(b.protocols)
}

// stays is how long a member stays without a word, where that is session by the
// consumer protocol.
func (m *consumer) stays(session time.Duration) time.Duration {
	if m.classic != nil {
		return m.classic.session
	}
	return session
}

// allClassic tells whether all members speak the classic protocol.
func (c *consumers) allClassic() bool {
	for _, m := range c.members {
		if m.classic == nil {
			return false
		}
	}
	return len(c.members) > 0
}

// speaks tells whether a member of the classic protocol can be in the group: with a
// protocol at least that all of its kind have.
func (c *consumers) speaks(protocolType string, protocols []kmsg.JoinGroupRequestProtocol) bool {
	return protocolType == consumerProtocol && slices.ContainsFunc(protocols, func(p kmsg.JoinGroupRequestProtocol) bool {
		for _, m := range c.members {
			if m.classic != nil && !slices.ContainsFunc(m.classic.protocols, func(q kmsg.JoinGroupRequestProtocol) bool { return q.Name == p.Name }) {
				return false
			}
		}
		return true
	})
}

// waits tells whether a member cannot get all of its target because others have some.
func (c *consumers) waits(m *consumer) bool {
	for topic, indexes := range m.target {
		for _, i := range indexes {
			if by := c.owners[part{topic, i}]; by != "" && by != m.id {
				return true
			}
		}
	}
	return false
}

// classicAs is the member of the classic protocol that a request is of.
func (c *consumers) classicAs(id string, instance *string) (*consumer, protocol.ErrorCode) {
	m, code := c.as(id, instance)
	if code == protocol.None && m.classic == nil {
		return nil, protocol.UnknownMemberID
	}
	return m, code
}

func (c *consumers) as(id string, instance *string) (*consumer, protocol.ErrorCode) {
	if instance != nil {
		switch known, ok := c.static[*instance]; {
		case !ok:
			return nil, protocol.UnknownMemberID
		case known != id:
			return nil, protocol.FencedInstanceID
		}
	}
	if m := c.members[id]; m != nil {
		return m, protocol.None
	}
	return nil, protocol.UnknownMemberID
}

// partsOf are partitions of topics that are there.
func partsOf(md *Metadata, topic string, indexes []int32, do func(part)) {
	if t, ok := md.Find(topic); ok {
		for _, i := range indexes {
			do(part{t.ID, i})
		}
	}
}

// upgraded is a group of the classic protocol as one of the other, in the epoch that is
// its generation. Everybody has what it was assigned. What it said that it owned, and was
// not assigned again, it may not have given up yet; while a rebalance is under way
// assignments are taken back, and it has that still.
func (s *Shard) upgraded(now time.Time, g *Group, md *Metadata) (*consumers, *refusal) {
	switch {
	case !s.cfg.Upgrades:
		return nil, refuse(protocol.GroupIDNotFound, "Group %s is not a consumer group.", g.id)
	case g.protocolType != consumerProtocol:
		return nil, refuse(protocol.GroupIDNotFound, "Group %s is not of consumers.", g.id)
	case len(g.members) >= s.cfg.ConsumerMaxSize:
		return nil, refuse(protocol.GroupMaxSizeReached, "The consumer group has reached its maximum capacity of %d members.", s.cfg.ConsumerMaxSize)
	}
	c := newConsumers()
	c.epoch = max(g.generation, firstEpoch)
	c.targetEpoch = c.epoch
	said := map[string]kmsg.ConsumerMemberMetadata{}
	var malformed bool
	g.each(func(m *member) {
		metadata := m.protocols[0].Metadata
		if g.protocol != nil {
			metadata = m.metadata(*g.protocol)
		}
		var x kmsg.ConsumerMemberMetadata
		var a kmsg.ConsumerMemberAssignment
		if x.ReadFrom(metadata) != nil || len(m.assignment) > 0 && a.ReadFrom(m.assignment) != nil {
			malformed = true
			return
		}
		said[m.id] = x
		next := &consumer{
			id: m.id, instance: m.instance, rack: x.Rack, client: m.client, rebalance: m.rebalance, topics: sorted(x.Topics),
			epoch: c.epoch, previous: c.epoch, assigned: holding{}, revoking: holding{}, deadline: m.deadline, classic: &classicMember{m.session, m.protocols},
		}
		for _, t := range a.Topics {
			partsOf(md, t.Topic, t.Partitions, func(p part) {
				if c.owners[p] == "" {
					next.assigned[p], c.owners[p] = c.epoch, m.id
				}
			})
		}
		c.set(next)
	})
	if malformed {
		return nil, refuse(protocol.GroupIDNotFound, "Group %s is not a consumer group: its members say what cannot be read.", g.id)
	}
	for _, id := range slices.Sorted(maps.Keys(c.members)) {
		m := c.members[id]
		known := len(g.members[id].assignment) > 0
		for _, t := range said[id].OwnedPartitions {
			partsOf(md, t.Topic, t.Partitions, func(p part) {
				switch {
				case c.owners[p] != "":
					return
				case known: // it was told to give it up
					m.revoking[p], m.state = c.epoch, unrevoked
				default:
					m.assigned[p] = c.epoch
				}
				c.owners[p] = id
			})
		}
		if m.state == unrevoked {
			m.revokeBy = now.Add(m.rebalance)
		}
		m.target = m.assigned.assignment()
	}
	return c, nil
}

func sorted(topics []string) []string {
	out := make([]string, 0, len(topics))
	for _, t := range topics {
		out = append(out, strings.Clone(t))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// records are those of all members and epochs.
func (c *consumers) records(group string) (records []Record) {
	for _, id := range slices.Sorted(maps.Keys(c.members)) {
		m := c.members[id]
		records = append(records, subscriptionRecord(group, m), targetRecord(group, id, m.target), currentRecord(group, m))
	}
	return append(records, targetEpochRecord(group, c.targetEpoch, c.targetAt))
}

// endClassic ends what a group has of the classic protocol: those who wait are to come
// again.
func (s *Shard) endClassic(g *Group) {
	g.each(func(m *member) {
		s.endJoin(m, protocol.RebalanceInProgress)
		s.endSync(m, protocol.RebalanceInProgress)
	})
	fresh := newGroup(g.id)
	fresh.offsets, fresh.armed, fresh.consumer, fresh.stored = g.offsets, g.armed, g.consumer, g.stored
	*g = *fresh
}

// downgrades tells whether a group is to become one of the classic protocol.
func (s *Shard) downgrades(c *consumers) bool {
	return s.cfg.Downgrades && s.md != nil && c.allClassic() && len(c.members) <= s.cfg.MaxSize
}

// downgrade makes a group one of the classic protocol, and has its members join anew.
// Its generation is the epoch of the target, which is the latest that a member knows.
// They are assigned what they hold, not their targets as in Kafka: should the group
// change back before they have joined, these would be taken for what they have.
func (s *Shard) downgrade(now time.Time, g *Group, then func(), refused func(protocol.ErrorCode)) {
	c := g.consumer
	next := newGroup(g.id)
	next.offsets, next.generation, next.protocolType, next.stored = g.offsets, c.targetEpoch, consumerProtocol, true
	var records []Record
	for _, id := range slices.Sorted(maps.Keys(c.members)) {
		m := c.members[id]
		next.add(&member{
			id: id, instance: m.instance, client: m.client, session: m.classic.session, rebalance: m.rebalance, protocols: m.classic.protocols,
			deadline: now.Add(m.classic.session),
		})
		records = append(records, gone(g.id, id)...)
	}
	name := next.elect()
	next.protocol = &name
	next.each(func(m *member) { m.assignment = written(c.members[m.id].holds().assignment(), m.metadata(name), s.md) })
	next.become(Stable, now)
	records = append(append(records, g.tombstones()...), next.record(now, nil))
	s.write(records, func() {
		s.groups[g.id] = next
		s.prepare(now, next)
		s.arm(next)
		then()
	}, refused)
}

// gone are the records that remove a member.
func gone(group, id string) []Record {
	return []Record{{memberKey(currentKey, group, id), nil}, {memberKey(targetKey, group, id), nil}, {memberKey(subscriptionKey, group, id), nil}}
}

// written is an assignment as consumers of the classic protocol read it, in the version
// of what they say.
func written(a assign.Assignment, said []byte, md *Metadata) []byte {
	var v kmsg.ConsumerMemberAssignment
	if len(said) >= 2 {
		v.Version = min(int16(said[0])<<8|int16(said[1]), 3)
	}
	for _, t := range named(a, md).TopicPartitions {
		v.Topics = append(v.Topics, kmsg.ConsumerMemberAssignmentTopic{Topic: t.Topic, Partitions: t.Partitions})
	}
	return v.AppendTo(nil)
}

// joinConsumers takes a JoinGroup to a group of the consumer protocol.
func (s *Shard) joinConsumers(now time.Time, g *Group, req *kmsg.JoinGroupRequest, who Client, w *joining) protocol.ErrorCode {
	c := g.consumer
	again := func() {
		if code := s.join(now, req, who, w); code != protocol.None {
			s.joinFailed(w, req.MemberID, code)
		}
		if g := s.groups[req.Group]; g != nil {
			s.forget(g)
			s.arm(g)
		}
	}
	failed := func(code protocol.ErrorCode) { s.joinFailed(w, req.MemberID, code) }
	switch {
	case g.vacant() && req.MemberID != "":
		return protocol.UnknownMemberID
	case g.vacant():
		s.write(g.tombstones(), func() {
			g.consumer, g.stored = nil, false
			s.endClassic(g)
			again()
		}, failed)
		return protocol.None
	case s.downgrades(c):
		s.downgrade(now, g, again, failed)
		return protocol.None
	case s.md == nil || !c.speaks(req.ProtocolType, req.Protocols):
		return protocol.InconsistentGroupProtocol
	case req.MemberID == "" && req.InstanceID == nil && req.Version >= 4:
		w.resp.MemberID = who.ID + "-" + who.Unique
		return protocol.MemberIDRequired
	}
	var said kmsg.ConsumerMemberMetadata
	if said.ReadFrom(req.Protocols[0].Metadata) != nil {
		return protocol.InconsistentGroupProtocol
	}
	b := &beat{s: s, now: now, group: g.id, md: s.md, who: who, g: g, c: c, answer: func() { s.reply(w.token, w.resp) }, failed: func(r *refusal) { failed(r.code) }}
	id := req.MemberID
	if req.InstanceID == nil {
		b.old = c.members[id]
	} else if known := c.members[c.static[*req.InstanceID]]; id == "" {
		b.replaces = known
	} else if known == nil {
		return protocol.UnknownMemberID
	} else if b.old = known; known.id != id {
		return protocol.FencedInstanceID
	}
	if b.old == nil && b.replaces == nil && len(c.members) >= s.cfg.ConsumerMaxSize {
		return protocol.GroupMaxSizeReached
	}
	if id == "" {
		name := who.ID
		if req.InstanceID != nil {
			name = *req.InstanceID
		}
		id = name + "-" + who.Unique
	}
	m := b.copied(id)
	as := &member{}
	as.takes(req, who)
	m.client, m.rebalance, m.classic = Client{ID: who.ID, Host: who.Host}, as.rebalance, &classicMember{as.session, as.protocols}
	m.rack, m.topics, m.regex = said.Rack, sorted(said.Topics), nil
	if req.InstanceID != nil {
		m.instance = clone(req.InstanceID)
	}
	owned := holding{}
	for _, t := range said.OwnedPartitions {
		partsOf(s.md, t.Topic, t.Partitions, func(p part) { owned[p] = 0 })
	}
	b.tells = func(u *update, _ *consumer) {
		m, resp := u.member, w.resp
		resp.MemberID, resp.Generation, resp.Protocol = m.id, m.epoch, kmsg.StringPtr(m.classic.protocols[0].Name)
		if resp.Version >= 7 {
			resp.ProtocolType = kmsg.StringPtr(consumerProtocol)
		}
	}
	b.proceed(m, owned)
	return protocol.None
}

// syncConsumers takes a SyncGroup of a member of the classic protocol. It gets what it
// is to have now, which may be less than it will.
func (s *Shard) syncConsumers(now time.Time, g *Group, req *kmsg.SyncGroupRequest, w *syncing) protocol.ErrorCode {
	c := g.consumer
	m, code := c.classicAs(req.MemberID, req.InstanceID)
	switch {
	case code != protocol.None:
		return code
	case s.md == nil:
		return protocol.CoordinatorNotAvailable
	case req.Generation != m.epoch:
		return protocol.IllegalGeneration
	}
	name, kind := m.classic.protocols[0].Name, consumerProtocol
	other := func(asked *string, have string) bool { return asked != nil && *asked != have }
	if other(req.ProtocolType, kind) || other(req.Protocol, name) {
		return protocol.InconsistentGroupProtocol
	}
	next := *m
	next.deadline, next.comesBy = now.Add(next.classic.session), time.Time{}
	if c.epoch > m.epoch && m.state != unrevoked {
		next.comesBy = now.Add(next.rebalance)
		c.members[m.id] = &next
		return protocol.RebalanceInProgress
	}
	c.members[m.id] = &next
	w.resp.ProtocolType, w.resp.Protocol = &kind, &name
	s.answerSync(w, written(m.assigned.assignment(), m.classic.protocols[0].Metadata, s.md), protocol.None)
	return protocol.None
}

// beatConsumers takes a Heartbeat of a member of the classic protocol. It is to join
// anew for each step on its way to its target.
func (s *Shard) beatConsumers(now time.Time, g *Group, req *kmsg.HeartbeatRequest, answer func(protocol.ErrorCode)) {
	c := g.consumer
	m, code := c.classicAs(req.MemberID, req.InstanceID)
	switch {
	case code != protocol.None:
		answer(code)
		return
	case req.Generation != m.epoch:
		answer(protocol.IllegalGeneration)
		return
	case s.downgrades(c):
		s.downgrade(now, g, func() { answer(protocol.RebalanceInProgress) }, answer)
		return
	}
	next := *m
	next.deadline = now.Add(next.classic.session)
	if m.epoch < c.epoch || m.state == unrevoked || m.state == unreleased && !c.waits(m) {
		code = protocol.RebalanceInProgress
		if next.comesBy.IsZero() {
			next.comesBy = now.Add(next.rebalance)
		}
	}
	c.members[m.id] = &next
	answer(code)
}

// leaveConsumers takes a LeaveGroup. Whoever manages the group may have members leave of
// either protocol.
func (s *Shard) leaveConsumers(now time.Time, g *Group, members []kmsg.LeaveGroupRequestMember, answer func([]protocol.ErrorCode)) {
	c := g.consumer
	codes := make([]protocol.ErrorCode, len(members))
	var ids []string
	for i, x := range members {
		id := x.MemberID
		if id == "" && x.InstanceID != nil {
			id = c.static[*x.InstanceID]
		}
		m, code := c.as(id, x.InstanceID)
		if codes[i] = code; code == protocol.None && !slices.Contains(ids, m.id) {
			ids = append(ids, m.id)
		}
	}
	if len(ids) == 0 {
		answer(codes)
		return
	}
	s.end(now, g, ids, func() { answer(codes) }, func(code protocol.ErrorCode) {
		for i := range codes {
			if codes[i] == protocol.None {
				codes[i] = code
			}
		}
		answer(codes)
	})
}
