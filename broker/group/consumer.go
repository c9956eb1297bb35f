package group

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"hash/fnv"
	"iter"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/group/assign"
	"github.com/streambus/streambus/protocol"
)

// The consumer protocol (KIP-848): members say what they want to read and what they
// have, and are told what to have. The rules are those of Kafka's ConsumerGroup.java
// and GroupMetadataManager.java.

// Metadata is what the consumer protocol needs to know of topics.
type Metadata struct {
	Index uint64 // grows with every change, and from one step to the next never goes back
	// Session and Heartbeat are the group's consumer.session.timeout.ms and
	// consumer.heartbeat.interval.ms.
	Session, Heartbeat time.Duration
	Find               func(name string) (Topic, bool)
	Name               func(id [16]byte) (string, bool)
	Topics             iter.Seq[string]
}

// Topic is one that is there.
type Topic struct {
	ID         [16]byte
	Partitions int32
}

// Epochs that members send, and that a static member has which left for a while.
const (
	joiningEpoch = 0
	leavingEpoch = -1
	awayEpoch    = -2
)

// firstEpoch is that of a group that nobody has joined yet, as in Kafka 4.4: the first
// member gets the next.
const firstEpoch = 1

// patternPause is between two looks for new topics that patterns match.
const patternPause = 10 * time.Second

// consumers is what a group of the consumer protocol has beside offsets.
//
// Invariants: no partition has two owners, and owners has what members are assigned or
// are giving up; static names members only; targetEpoch <= epoch.
type consumers struct {
	epoch       int32
	hash        uint64 // of the topics that are read
	created     int64  // wall time in ms
	targetEpoch int32
	targetAt    int64 // wall time in ms
	members     map[string]*consumer
	static      map[string]string // member id by instance id
	owners      map[part]string   // member id
	patterns    map[string]*pattern

	seen uint64 // index of the metadata that hash was held against last
}

// consumer is a member. Its values are never changed in place.
type consumer struct {
	id        string
	instance  *string
	rack      *string
	client    Client
	rebalance time.Duration
	topics    []string // sorted
	regex     *string
	assignor  *string

	epoch, previous int32
	state           memberState
	assigned        holding
	revoking        holding
	target          assign.Assignment

	deadline time.Time // of its session
	revokeBy time.Time // zero if there is nothing to be given up

	classic *classicMember // nil if it speaks the consumer protocol
	comesBy time.Time      // when it has to have joined or asked for its assignment, zero for never
}

// pattern is a regular expression that members subscribe with, and what it matches.
type pattern struct {
	topics  []string // sorted
	version int64    // of the metadata
	at      int64    // wall time in ms
}

// refusal is an error with what is told of it.
type refusal struct {
	code    protocol.ErrorCode
	message string
}

func refuse(code protocol.ErrorCode, format string, args ...any) *refusal {
	return &refusal{code, fmt.Sprintf(format, args...)}
}

func newConsumers() *consumers {
	return &consumers{members: map[string]*consumer{}, static: map[string]string{}, owners: map[part]string{}, patterns: map[string]*pattern{}}
}

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

// reads tells whether a member reads what another did, and how.
func (m *consumer) reads(other *consumer) bool {
	return m.id == other.id && slices.Equal(m.topics, other.topics) && equal(m.regex, other.regex)
}

func clone(text *string) *string {
	c := strings.Clone(*text)
	return &c
}

func equal(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }

// update is what a heartbeat changes, or a member's end.
type update struct {
	c      *consumers
	id     string // of the group
	member *consumer
	gone   string // a member whose place it takes, "" for none

	patterns    map[string]*pattern
	matched     bool // patterns match something else than before
	epoch       int32
	hash        uint64
	hashed      bool
	targetEpoch int32
	targets     map[string]assign.Assignment // of all members, nil if they stay
	assigned    bool
	upgraded    []Record // of the members that were of the classic protocol
}

// all goes through the members as they will be, by id.
func (u *update) all() []*consumer {
	all := make([]*consumer, 0, len(u.c.members)+1)
	for id, m := range u.c.members {
		if id != u.gone && (u.member == nil || id != u.member.id) {
			all = append(all, m)
		}
	}
	if u.member != nil {
		all = append(all, u.member)
	}
	slices.SortFunc(all, func(a, b *consumer) int { return cmp.Compare(a.id, b.id) })
	return all
}

// match looks which topics patterns match: those of the member now, and of all when
// there may be new topics.
func (u *update) match(now time.Time, md *Metadata, before *consumer) {
	if u.member.regex == nil && len(u.patterns) == 0 {
		return
	}
	used := map[string]bool{}
	changed := !equal(u.member.regex, before.regex)
	if changed || len(u.patterns) > 0 {
		for _, m := range u.all() {
			if m.regex != nil {
				used[*m.regex] = true
			}
		}
	}
	patterns := map[string]*pattern{}
	for regex := range used {
		p := u.patterns[regex]
		if p == nil || uint64(p.version) != md.Index && now.UnixMilli() >= p.at+patternPause.Milliseconds() {
			fresh := &pattern{topics: matching(regex, md), version: int64(md.Index), at: now.UnixMilli()}
			u.matched = u.matched || p == nil || !slices.Equal(p.topics, fresh.topics)
			p = fresh
		}
		patterns[regex] = p
	}
	u.patterns = patterns
}

func matching(regex string, md *Metadata) (topics []string) {
	re, err := regexp.Compile(`^(?:` + regex + `)$`)
	if err != nil { // it was accepted by a coordinator that reads others
		return nil
	}
	for name := range md.Topics {
		if re.MatchString(name) {
			topics = append(topics, name)
		}
	}
	slices.Sort(topics)
	return topics
}

// topicsOf are the topics that a member reads.
func (u *update) topicsOf(m *consumer) iter.Seq[string] { return topicsOf(m, u.patterns) }

func topicsOf(m *consumer, patterns map[string]*pattern) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, t := range m.topics {
			if !yield(t) {
				return
			}
		}
		if m.regex == nil || patterns[*m.regex] == nil {
			return
		}
		for _, t := range patterns[*m.regex].topics {
			if !yield(t) {
				return
			}
		}
	}
}

// hashTopics is a hash of all topics that members read: it changes when one of them
// comes, goes or grows. It is not Kafka's, which would take the difference for a
// change, once.
func (u *update) hashTopics(md *Metadata) uint64 {
	names := map[string]bool{}
	for _, m := range u.all() {
		for t := range u.topicsOf(m) {
			names[t] = true
		}
	}
	hash := fnv.New64a()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if t, ok := md.Find(name); ok {
			hash.Write([]byte(name))
			hash.Write(t.ID[:])
			hash.Write(binary.BigEndian.AppendUint32(nil, uint32(t.Partitions)))
		}
	}
	return hash.Sum64()
}

// assign computes the target of all members for the group's epoch.
func (u *update) assign(md *Metadata, assignors []string) {
	all := u.all()
	partitions := map[topicID]int32{}
	ids := map[string]topicID{}
	members := make([]assign.Member, len(all))
	for i, m := range all {
		members[i] = assign.Member{ID: m.id, Topics: map[topicID]bool{}, Assigned: m.target}
		if m.instance != nil {
			members[i].Instance = *m.instance
		}
		for name := range u.topicsOf(m) {
			id, known := ids[name]
			if !known {
				t, ok := md.Find(name)
				if !ok {
					continue
				}
				id = t.ID
				ids[name], partitions[id] = id, t.Partitions
			}
			members[i].Topics[id] = true
		}
	}
	by := assign.Uniform
	if preferred(all, assignors) == rangeAssignor {
		by = assign.Range
	}
	u.targets = map[string]assign.Assignment{}
	for i, target := range by(members, partitions) {
		u.targets[all[i].id] = target
	}
	u.targetEpoch, u.assigned = u.epoch, true
}

// Assignors that there are.
const (
	uniformAssignor = "uniform"
	rangeAssignor   = "range"
)

// preferred is the assignor that most members ask for, or else the first.
func preferred(all []*consumer, assignors []string) string {
	votes := map[string]int{}
	for _, m := range all {
		if m.assignor != nil {
			votes[*m.assignor]++
		}
	}
	best := assignors[0]
	for _, name := range assignors {
		if votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

// prefers tells whether the members will prefer another assignor than before.
func (u *update) prefers(assignors []string) bool {
	return preferred(slices.Collect(maps.Values(u.c.members)), assignors) != preferred(u.all(), assignors)
}

func (u *update) target(m *consumer) assign.Assignment {
	if u.targets != nil {
		return u.targets[m.id]
	}
	return m.target
}

func sameTarget(a, b assign.Assignment) bool { return maps.EqualFunc(a, b, slices.Equal) }

// commit writes what a heartbeat changes, and answers it.
func (b *beat) commit(u *update, before *consumer) {
	s, m := b.s, u.member
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
	s.write(u.records(b.now, b.g, b.old), func() {
		g := s.group(b.group, true)
		if b.made {
			s.endClassic(g)
		}
		u.apply(g, b.now, b.md.Index)
		b.tells(u, before)
		b.answer()
		s.arm(g)
	}, func(code protocol.ErrorCode) { b.failed(&refusal{code, ""}) })
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

func sameParts(a, b holding) bool { return len(a) == len(b) && a.within(b) }

func sortedIDs(a assign.Assignment) []topicID {
	return slices.SortedFunc(maps.Keys(a), func(x, y topicID) int { return slices.Compare(x[:], y[:]) })
}

// apply makes the update the group's state.
func (u *update) apply(g *Group, now time.Time, seen uint64) {
	c := u.c
	g.consumer, g.stored = c, true
	g.protocolType = consumerProtocol
	c.epoch, c.hash, c.patterns = u.epoch, u.hash, u.patterns
	if u.hashed {
		c.seen = seen
	}
	if u.gone != "" {
		c.remove(u.gone)
	}
	if u.member != nil {
		c.set(u.member)
	}
	if !u.assigned {
		return
	}
	c.targetEpoch, c.targetAt = u.targetEpoch, now.UnixMilli()
	for id, target := range u.targets {
		if m := c.members[id]; !sameTarget(m.target, target) {
			next := *m
			next.target = target
			c.members[id] = &next
		}
	}
}

// set puts a member in the place of what it was.
func (c *consumers) set(m *consumer) {
	c.remove(m.id)
	c.members[m.id] = m
	if m.instance != nil {
		c.static[*m.instance] = m.id
	}
	for _, h := range []holding{m.assigned, m.revoking} {
		for p := range h {
			c.owners[p] = m.id
		}
	}
}

func (c *consumers) remove(id string) {
	m := c.members[id]
	if m == nil {
		return
	}
	delete(c.members, id)
	if m.instance != nil && c.static[*m.instance] == id {
		delete(c.static, *m.instance)
	}
	for _, h := range []holding{m.assigned, m.revoking} {
		for p := range h {
			if c.owners[p] == id {
				delete(c.owners, p)
			}
		}
	}
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
		}, func(code protocol.ErrorCode) { b.failed(&refusal{code, ""}) })
		return nil
	}
	b.s.end(b.now, b.g, []string{b.old.id}, b.answer, func(code protocol.ErrorCode) { b.failed(&refusal{code, ""}) })
	return nil
}

// end takes members out of a group. What they had is given to others with the
// heartbeats of these.
func (s *Shard) end(now time.Time, g *Group, ids []string, then func(), refused func(protocol.ErrorCode)) {
	c := g.consumer
	var records []Record
	used := map[string]bool{}
	for id, m := range c.members {
		if m.regex != nil && !slices.Contains(ids, id) {
			used[*m.regex] = true
		}
	}
	for _, id := range ids {
		records = append(records, gone(g.id, id)...)
	}
	patterns := map[string]*pattern{}
	for _, regex := range slices.Sorted(maps.Keys(c.patterns)) {
		if used[regex] {
			patterns[regex] = c.patterns[regex]
		} else {
			records = append(records, Record{memberKey(patternKey, g.id, regex), nil})
		}
	}
	records = append(records, epochRecord(g.id, c.epoch+1, c.hash, c.created))
	last := len(ids) == len(c.members) // and so there is nothing to compute a target for
	if last {
		records = append(records, targetEpochRecord(g.id, c.epoch+1, now.UnixMilli()))
	}
	s.write(records, func() {
		for _, id := range ids {
			c.remove(id)
		}
		c.patterns = patterns
		c.epoch++
		if last {
			c.targetEpoch, c.targetAt = c.epoch, now.UnixMilli()
		}
		then()
	}, refused)
}

// expireConsumers ends the members whose session is over, or who did not give up in
// time what they were asked to.
func (s *Shard) expireConsumers(g *Group, now time.Time) {
	over := func(t time.Time) bool { return !t.IsZero() && !now.Before(t) }
	var ids []string
	for id, m := range g.consumer.members {
		if over(m.deadline) || over(m.revokeBy) || over(m.comesBy) {
			ids = append(ids, id)
		}
	}
	if len(ids) == 0 {
		return
	}
	slices.Sort(ids)
	s.end(now, g, ids, func() {}, func(protocol.ErrorCode) {
		for _, id := range ids { // they are looked at again
			again := *g.consumer.members[id]
			for _, at := range []*time.Time{&again.deadline, &again.revokeBy, &again.comesBy} {
				if over(*at) {
					*at = now.Add(time.Second)
				}
			}
			g.consumer.members[id] = &again
		}
		s.arm(g)
	})
}

// loaded gives everybody a session, and who is to give up something time for that.
func (c *consumers) loaded(now time.Time, session time.Duration) {
	for id, m := range c.members {
		next := *m
		next.deadline = now.Add(next.stays(session))
		if next.state == unrevoked {
			next.revokeBy = now.Add(next.rebalance)
		}
		c.members[id] = &next
	}
}

// state is that of the group.
func (c *consumers) state() State {
	switch {
	case len(c.members) == 0:
		return Empty
	case c.epoch > c.targetEpoch:
		return Assigning
	}
	for _, m := range c.members {
		if m.state != reconciled || m.epoch != c.targetEpoch {
			return Reconciling
		}
	}
	return Stable
}

// subscriptions are the topics of all members.
func (c *consumers) subscriptions() map[string]bool {
	topics := map[string]bool{}
	for _, m := range c.members {
		for t := range topicsOf(m, c.patterns) {
			topics[t] = true
		}
	}
	return topics
}

// mayCommit tells whether who sends a member epoch may commit: it must be the
// member's, or one since which the member has had the partitions (KIP-1251).
func (c *consumers) mayCommit(commit *Commit) protocol.ErrorCode {
	if commit.Generation < 0 && len(c.members) == 0 {
		return protocol.None
	}
	m := c.members[commit.Member]
	switch {
	case m == nil:
		return protocol.UnknownMemberID
	case m.classic != nil && commit.Generation != m.epoch:
		return protocol.IllegalGeneration
	case m.classic == nil && commit.Version < 9:
		return protocol.UnsupportedVersion
	case commit.Generation == m.epoch:
		return protocol.None
	case commit.Generation > m.epoch:
		return protocol.StaleMemberEpoch
	}
	for _, o := range commit.Offsets {
		p := part{o.TopicID, o.Partition}
		since, ok := m.assigned[p]
		if !ok {
			since, ok = m.revoking[p]
		}
		if !ok || commit.Generation < since {
			return protocol.StaleMemberEpoch
		}
	}
	return protocol.None
}

// mayFetch tells whether who asks for committed offsets is who it says.
func (c *consumers) mayFetch(member *string, epoch int32) protocol.ErrorCode {
	if member == nil && epoch < 0 {
		return protocol.None
	}
	if member == nil || c.members[*member] == nil {
		return protocol.UnknownMemberID
	}
	if c.members[*member].epoch != epoch {
		return protocol.StaleMemberEpoch
	}
	return protocol.None
}
