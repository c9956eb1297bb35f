package group

import (
	"iter"
	"maps"
	"slices"
	"strings"
	"time"

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

func newConsumers() *consumers {
	return &consumers{members: map[string]*consumer{}, static: map[string]string{}, owners: map[part]string{}, patterns: map[string]*pattern{}}
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
	bytes := 0
	for i, id := range ids {
		if bytes > s.batchBytes { // the others are next
			ids = ids[:i]
			break
		}
		for _, r := range gone(g.id, id) {
			bytes += len(r.Key) + recordBytes
		}
	}
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
