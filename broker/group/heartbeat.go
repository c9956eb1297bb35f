package group

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

// ConsumerHeartbeat takes one, by which members join, go on and leave. The answer is a
// *kmsg.ConsumerGroupHeartbeatResponse.
func (s *Shard) ConsumerHeartbeat(now time.Time, req *kmsg.ConsumerGroupHeartbeatRequest, md *Metadata, who Client, token any) Effects {
	resp := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
	failed := func(r *refusal) {
		resp.ErrorCode, resp.ErrorMessage = int16(r.code), &r.message
		s.reply(token, resp)
	}
	r := s.checkHeartbeat(req)
	if r == nil {
		b := &beat{s: s, now: now, group: req.Group, req: req, md: md, who: who, resp: resp, answer: func() { s.reply(token, resp) }, failed: failed}
		b.tells = b.tell
		if req.MemberEpoch < 0 {
			r = b.leave()
		} else {
			r = b.stay()
		}
	}
	if r != nil {
		failed(r)
	}
	return s.effects(now)
}

func (s *Shard) checkHeartbeat(req *kmsg.ConsumerGroupHeartbeatRequest) *refusal {
	blank := func(text *string) bool { return text != nil && strings.TrimSpace(*text) == "" }
	invalid := func(message string) *refusal { return &refusal{protocol.InvalidRequest, message} }
	switch e := req.MemberEpoch; {
	case blank(&req.MemberID) && (req.Version >= 1 || e > 0 || e == leavingEpoch):
		return invalid("MemberId can't be empty.")
	case blank(&req.Group):
		return invalid("GroupId can't be empty.")
	case blank(req.InstanceID):
		return invalid("InstanceId can't be empty.")
	case blank(req.RackID):
		return invalid("RackId can't be empty.")
	case e == joiningEpoch && req.RebalanceTimeoutMillis == -1:
		return invalid("RebalanceTimeoutMs must be provided in first request.")
	case e == joiningEpoch && (req.Topics == nil || len(req.Topics) > 0):
		return invalid("TopicPartitions must be empty when (re-)joining.")
	case e == joiningEpoch && req.SubscribedTopicNames == nil && req.SubscribedTopicRegex == nil:
		return invalid("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.")
	case e == awayEpoch && req.InstanceID == nil:
		return invalid("InstanceId can't be null.")
	case e < awayEpoch:
		return invalid("MemberEpoch is invalid.")
	case tooLong(req.Group, req.MemberID, orBlank(req.InstanceID), orBlank(req.RackID), orBlank(req.SubscribedTopicRegex)) || tooLong(req.SubscribedTopicNames...):
		return refuse(protocol.InvalidRequest, "No id, name or pattern may be longer than %d bytes.", maxText)
	case req.ServerAssignor != nil && !slices.Contains(s.cfg.Assignors, *req.ServerAssignor):
		return refuse(protocol.UnsupportedAssignor, "ServerAssignor %s is not supported. Supported assignors: %s.", *req.ServerAssignor, strings.Join(s.cfg.Assignors, ", "))
	}
	return nil
}

// refusal is an error with what is told of it.
type refusal struct {
	code    protocol.ErrorCode
	message string
}

func refuse(code protocol.ErrorCode, format string, args ...any) *refusal {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

// unwritten is what a member hears of records that are not in the log. That they are too
// large together has a code for who commits offsets only; Kafka tells others no more than
// that it failed.
func unwritten(code protocol.ErrorCode) *refusal {
	if code == protocol.InvalidCommitOffsetSize {
		return refuse(protocol.UnknownServerError, "What changes in the group is larger than a batch may be: raise max.message.bytes of __consumer_offsets.")
	}
	return &refusal{code, ""}
}

// beat is a heartbeat while it is looked at.
type beat struct {
	s      *Shard
	now    time.Time
	group  string
	req    *kmsg.ConsumerGroupHeartbeatRequest // nil for a JoinGroup
	md     *Metadata
	who    Client
	resp   *kmsg.ConsumerGroupHeartbeatResponse
	answer func()
	failed func(*refusal)
	tells  func(u *update, before *consumer) // fills the answer

	g        *Group // nil if there is none yet
	c        *consumers
	made     bool      // c is new
	upgrade  bool      // and made of a group of the classic protocol
	old      *consumer // nil if it joins
	replaces *consumer // the member that had its instance id before
}

// find looks for the group and the member.
func (b *beat) find() *refusal {
	b.g = b.s.groups[b.req.Group]
	joins := b.req.MemberEpoch == joiningEpoch
	switch {
	case b.g != nil && b.g.consumer != nil:
		b.c = b.g.consumer
	case !joins && b.g == nil:
		return refuse(protocol.GroupIDNotFound, "Group %s not found.", b.req.Group)
	case joins && b.g != nil && !b.g.vacant():
		c, r := b.s.upgraded(b.now, b.g, b.md)
		if r != nil {
			return r
		}
		b.c, b.made, b.upgrade = c, true, true
		b.c.created = b.now.UnixMilli()
	case !joins:
		return refuse(protocol.GroupIDNotFound, "Group %s is not a consumer group.", b.req.Group)
	default:
		b.c, b.made = newConsumers(), true
		b.c.created, b.c.epoch = b.now.UnixMilli(), firstEpoch
	}
	if b.req.MemberID == "" {
		return nil
	}
	if b.req.InstanceID == nil {
		b.old = b.c.members[b.req.MemberID]
		if b.old == nil && !joins {
			return refuse(protocol.UnknownMemberID, "Member %s is not a member of group %s.", b.req.MemberID, b.req.Group)
		}
		return nil
	}
	known := b.c.members[b.c.static[*b.req.InstanceID]]
	switch {
	case known == nil && !joins:
		return refuse(protocol.UnknownMemberID, "Instance id %s is unknown.", *b.req.InstanceID)
	case known == nil:
		b.old = b.c.members[b.req.MemberID]
	case !joins && known.id != b.req.MemberID:
		return refuse(protocol.FencedInstanceID, "Static member %s with instance id %s was fenced by member %s.", b.req.MemberID, *b.req.InstanceID, known.id)
	case joins && known.epoch != awayEpoch && known.classic == nil && known.id == b.req.MemberID:
		b.old = known // it has not heard that it is in, which Apache Kafka takes for another process
	case joins && known.epoch != awayEpoch && known.classic == nil:
		return refuse(protocol.UnreleasedInstanceID, "Static member %s with instance id %s cannot join the group because the instance id is owned by %s member.", b.req.MemberID, *b.req.InstanceID, known.id)
	case joins:
		b.replaces = known
	default:
		b.old = known
	}
	return nil
}

// fenced tells whether the epoch that a member sends is not its own. Who did not hear
// of its epoch comes with the one before.
func (b *beat) fenced(owned holding) *refusal {
	m, sent := b.old, b.req.MemberEpoch
	word := "greater"
	switch {
	case m == nil || sent == m.epoch:
		return nil
	case sent < m.epoch && sent == m.previous && owned != nil && owned.within(m.assigned):
		return nil
	case sent < m.epoch:
		word = "smaller"
	}
	return refuse(protocol.FencedMemberEpoch, "The consumer group member has a %s member epoch (%d) than the one known by the group coordinator (%d). The member must abandon all its partitions and rejoin.", word, sent, m.epoch)
}

// stay is of a member that joins or stays.
func (b *beat) stay() *refusal {
	if r := b.find(); r != nil {
		return r
	}
	if b.old == nil && b.replaces == nil && len(b.c.members) >= b.s.cfg.ConsumerMaxSize {
		return refuse(protocol.GroupMaxSizeReached, "The consumer group has reached its maximum capacity of %d members.", b.s.cfg.ConsumerMaxSize)
	}
	owned := b.owned()
	if r := b.fenced(owned); r != nil {
		return r
	}
	member, r := b.member()
	if r != nil {
		return r
	}
	b.proceed(member, owned)
	return nil
}

// leave is of a member that ends, or a static one that will be back.
func (b *beat) leave() *refusal {
	if r := b.find(); r != nil {
		return r
	}
	b.resp.MemberID, b.resp.MemberEpoch = &b.req.MemberID, b.req.MemberEpoch
	if b.req.MemberEpoch == awayEpoch {
		next := *b.old
		next.epoch = awayEpoch
		b.s.write([]Record{currentRecord(b.req.Group, &next)}, func() {
			b.c.members[next.id] = &next
			b.answer()
		}, func(code protocol.ErrorCode) { b.failed(unwritten(code)) })
		return nil
	}
	b.s.end(b.now, b.g, []string{b.old.id}, b.answer, func(code protocol.ErrorCode) { b.failed(unwritten(code)) })
	return nil
}

// proceed brings a member on its way, and the group with it.
func (b *beat) proceed(member *consumer, owned holding) {
	u := &update{c: b.c, id: b.group, member: member, patterns: b.c.patterns, epoch: b.c.epoch, hash: b.c.hash, targetEpoch: b.c.targetEpoch}
	if b.replaces != nil {
		u.gone = b.replaces.id
	}
	before := b.before()
	u.match(b.now, b.md, before)
	reads := !slices.Equal(member.topics, before.topics) || !equal(member.regex, before.regex)
	if u.hashed = b.c.seen != b.md.Index || reads || u.matched; u.hashed {
		u.hash = u.hashTopics(b.md)
	}
	if reads || u.matched || u.hash != b.c.hash || b.made || !equal(member.assignor, before.assignor) && u.prefers(b.s.cfg.Assignors) {
		u.epoch++
	}
	if u.targetEpoch < u.epoch {
		u.assign(b.md, b.s.cfg.Assignors)
	}
	u.member = u.member.moved(u.targetEpoch, u.target(u.member), owned, func(p part) string {
		if by := b.c.owners[p]; by != u.gone {
			return by
		}
		return ""
	})
	if b.upgrade {
		u.upgraded = b.c.records(b.group)
	}
	b.commit(u, before)
}

// before is the member as it was: one without anything if it is new.
func (b *beat) before() *consumer {
	switch {
	case b.old != nil:
		return b.old
	case b.replaces != nil:
		return b.replaces
	}
	return &consumer{}
}

// owned is what the member says that it has.
func (b *beat) owned() holding {
	if b.req.Topics == nil {
		return nil
	}
	h := holding{}
	for _, t := range b.req.Topics {
		for _, i := range t.Partitions {
			h[part{t.TopicID, i}] = 0
		}
	}
	return h
}

// member is what it is by what it says. What it does not say stays.
func (b *beat) member() (*consumer, *refusal) {
	id := b.req.MemberID
	if id == "" { // of version 0, where members do not choose theirs
		id = b.who.Unique
	}
	m := b.copied(id)
	m.classic, m.comesBy = nil, time.Time{}
	m.client = Client{ID: b.who.ID, Host: b.who.Host}
	if b.req.InstanceID != nil {
		m.instance = clone(b.req.InstanceID)
	}
	if b.req.RackID != nil {
		m.rack = clone(b.req.RackID)
	}
	if b.req.RebalanceTimeoutMillis != -1 {
		m.rebalance = time.Duration(b.req.RebalanceTimeoutMillis) * time.Millisecond
	}
	if b.req.ServerAssignor != nil {
		m.assignor = clone(b.req.ServerAssignor)
	}
	if b.req.SubscribedTopicNames != nil {
		m.topics = make([]string, 0, len(b.req.SubscribedTopicNames))
		for _, t := range b.req.SubscribedTopicNames {
			m.topics = append(m.topics, strings.Clone(t))
		}
		slices.Sort(m.topics)
		m.topics = slices.Compact(m.topics)
	}
	if b.req.SubscribedTopicRegex != nil {
		m.regex = clone(b.req.SubscribedTopicRegex)
		if *m.regex == "" {
			m.regex = nil
		} else if _, err := regexp.Compile(*m.regex); err != nil {
			return nil, refuse(protocol.InvalidRegularExpression, "SubscribedTopicRegex `%s` is not a valid regular expression: %v.", *m.regex, err)
		}
	}
	return m, nil
}

// copied is the member to be changed: as it was, or as the one was whose place it takes.
func (b *beat) copied(id string) *consumer {
	m := &consumer{id: id, assigned: holding{}, revoking: holding{}}
	switch {
	case b.old != nil:
		*m = *b.old
	case b.replaces != nil:
		*m = *b.replaces
		m.id, m.epoch, m.previous = id, 0, 0
	}
	return m
}

// commit writes what a heartbeat changes, and answers it.
func (b *beat) commit(u *update, before *consumer) {
	m := u.member
	m.target = u.target(m)
	m2 := *m
	m2.deadline = b.now.Add(m.stays(b.md.Session))
	if m2.classic != nil {
		m2.comesBy = b.now.Add(m2.rebalance)
	}
	switch {
	case m2.state != unrevoked:
		m2.revokeBy = time.Time{}
	case b.old == nil || b.old.state != unrevoked || b.old.epoch != m2.epoch:
		m2.revokeBy = b.now.Add(m2.rebalance)
	}
	u.member = &m2
	b.write(u, before)
}

// write writes an update. Targets of others that are too many for one batch go ahead, in
// as many as they take. The first of these raises the group's epoch and none its target's,
// and a target counts for nothing while that is so: whoever is next, here or at another
// coordinator that has read no more than some of these batches, computes all anew before a
// member moves. So the update can be refused behind them, and nobody is told of them.
//
// A group that is made with the update has no such batches, as none could be replayed
// without the update: if its members are too many for one, it stays what it was.
func (b *beat) write(u *update, before *consumer) {
	s := b.s
	refused := func(code protocol.ErrorCode) { b.failed(unwritten(code)) }
	if ahead := u.ahead(s.batchBytes); len(ahead) > 0 && !b.made {
		var records []Record
		if u.epoch != u.c.epoch {
			records = append(records, epochRecord(u.id, u.epoch, u.c.hash, u.c.created))
		}
		for _, id := range ahead {
			records = append(records, targetRecord(u.id, id, u.targets[id]))
		}
		s.write(records, func() {
			u.c.epoch = u.epoch
			u.retarget(ahead)
			b.write(u, before)
		}, refused)
		return
	}
	s.write(u.records(b.now, b.g, b.old), func() {
		g := s.group(b.group, true)
		if b.made {
			s.endClassic(g)
		}
		u.apply(g, b.now, b.md.Index)
		b.tells(u, before)
		b.answer()
		s.arm(g)
	}, refused)
}

// tell fills the answer.
func (b *beat) tell(u *update, before *consumer) {
	m, resp := u.member, b.resp
	resp.MemberID, resp.MemberEpoch = &m.id, m.epoch
	resp.HeartbeatIntervalMillis = int32(b.md.Heartbeat.Milliseconds())
	full := b.req.MemberEpoch == joiningEpoch ||
		b.req.RebalanceTimeoutMillis != -1 && (b.req.SubscribedTopicNames != nil || b.req.SubscribedTopicRegex != nil) && b.req.Topics != nil
	if !full && sameParts(m.assigned, before.assigned) {
		return
	}
	a := kmsg.NewConsumerGroupHeartbeatResponseAssignment()
	a.Topics = []kmsg.ConsumerGroupHeartbeatResponseAssignmentTopic{}
	held := m.assigned.assignment()
	for _, id := range sortedIDs(held) {
		t := kmsg.NewConsumerGroupHeartbeatResponseAssignmentTopic()
		t.TopicID, t.Partitions = id, held[id]
		a.Topics = append(a.Topics, t)
	}
	resp.Assignment = &a
}
