package group

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

type partitionID struct {
	topic string
	index int32
}

func comparePartitions(a, b partitionID) int {
	return cmp.Or(strings.Compare(a.topic, b.topic), cmp.Compare(a.index, b.index))
}

// offset is one that was committed.
type offset struct {
	at       int64
	epoch    int32 // leader epoch, -1 if it was not told
	metadata string
	written  int64    // wall time in ms
	expires  int64    // as the client asked, -1 if it did not
	topicID  [16]byte // zero if the client named the topic only
}

// Commit asks for offsets to be kept.
type Commit struct {
	Group, Member string
	Instance      *string
	Generation    int32 // -1 for one that is in no group
	Version       int16 // of the request
	Keep          int64 // ms, -1 for the broker's setting
	Offsets       []CommitOffset
}

// CommitOffset is one of them.
type CommitOffset struct {
	Topic     string
	TopicID   [16]byte // zero where the client did not name it so
	Partition int32
	Offset    int64
	Epoch     int32
	Metadata  string
}

// Commit keeps offsets. The answer is a []protocol.ErrorCode, one for each.
func (s *Shard) Commit(now time.Time, c *Commit, token any) Effects {
	codes := make([]protocol.ErrorCode, len(c.Offsets))
	g, code := s.committer(now, c)
	if code != protocol.None {
		for i := range codes {
			codes[i] = code
		}
		s.reply(token, codes)
		return s.effects(now)
	}
	expires := int64(-1)
	if c.Keep >= 0 {
		expires = now.UnixMilli() + c.Keep
	}
	var records []Record
	var kept []int
	for i, x := range c.Offsets {
		if tooLong(x.Topic) {
			codes[i] = protocol.UnknownTopicOrPartition
			continue
		}
		if len(x.Metadata) > s.cfg.MaxMetadata || tooLong(x.Metadata) {
			codes[i] = protocol.OffsetMetadataTooLarge
			continue
		}
		kept = append(kept, i)
		records = append(records, offsetRecord(c.Group, partitionID{x.Topic, x.Partition}, x.kept(now, expires)))
	}
	s.write(records, func() {
		if g == nil && len(kept) > 0 {
			g = s.group(c.Group, true)
		}
		for _, i := range kept {
			x := c.Offsets[i]
			g.offsets[partitionID{x.Topic, x.Partition}] = x.kept(now, expires)
		}
		s.reply(token, codes)
	}, func(code protocol.ErrorCode) {
		for _, i := range kept {
			codes[i] = code
		}
		s.reply(token, codes)
	})
	return s.effects(now)
}

func (x *CommitOffset) kept(now time.Time, expires int64) offset {
	return offset{x.Offset, x.Epoch, strings.Clone(x.Metadata), now.UnixMilli(), expires, x.TopicID}
}

// committer finds the group of a commit, nil if there is none yet, and whether the
// member may commit for it. Who is in no group may where nobody is. A group without a
// name never has members, and keeps offsets as others do.
func (s *Shard) committer(now time.Time, c *Commit) (*Group, protocol.ErrorCode) {
	g := s.groups[c.Group]
	switch {
	case tooLong(c.Group):
		return nil, protocol.InvalidGroupID
	case g != nil && g.consumer != nil:
		return g, g.consumer.mayCommit(c)
	case g == nil && c.Generation < 0:
		return nil, protocol.None
	case g == nil && c.Version >= 9:
		return nil, protocol.GroupIDNotFound
	case g == nil:
		return nil, protocol.IllegalGeneration
	case c.Generation < 0 && g.state == Empty:
		return g, protocol.None
	case c.Generation < 0 && c.Member == "" && c.Instance == nil:
		return nil, protocol.UnknownMemberID
	}
	m, code := g.find(c.Member, c.Instance)
	switch {
	case code != protocol.None:
		return nil, code
	case c.Generation != g.generation:
		return nil, protocol.IllegalGeneration
	case g.state == CompletingRebalance:
		return nil, protocol.RebalanceInProgress
	}
	m.deadline = now.Add(m.session)
	return g, protocol.None
}

// Wanted is a topic whose committed offsets are asked for.
type Wanted struct {
	Topic      string
	Partitions []int32
}

// Offsets gives committed offsets of a group: those wanted, or with all every one. The
// answer is a *kmsg.OffsetFetchResponseGroup, without topic ids.
func (s *Shard) Offsets(now time.Time, group string, all bool, wanted []Wanted, token any) Effects {
	resp := kmsg.NewOffsetFetchResponseGroup()
	resp.Group = group
	resp.Topics = []kmsg.OffsetFetchResponseGroupTopic{}
	g := s.groups[group]
	if all && g != nil {
		wanted = g.committed()
	}
	for _, w := range wanted {
		t := kmsg.NewOffsetFetchResponseGroupTopic()
		t.Topic = w.Topic
		for _, index := range w.Partitions {
			row := kmsg.NewOffsetFetchResponseGroupTopicPartition()
			row.Partition, row.Offset, row.LeaderEpoch, row.Metadata = index, -1, -1, kmsg.StringPtr("")
			if g != nil {
				if o, ok := g.offsets[partitionID{w.Topic, index}]; ok {
					row.Offset, row.LeaderEpoch, row.Metadata = o.at, o.epoch, &o.metadata
				}
			}
			t.Partitions = append(t.Partitions, row)
		}
		resp.Topics = append(resp.Topics, t)
	}
	s.reply(token, &resp)
	return s.effects(now)
}

// OffsetsOf is Offsets for who says which member it is, in which epoch: of a group of
// the consumer protocol it has to be that.
func (s *Shard) OffsetsOf(now time.Time, group string, member *string, epoch int32, all bool, wanted []Wanted, token any) Effects {
	if g := s.groups[group]; g != nil && g.consumer != nil {
		if code := g.consumer.mayFetch(member, epoch); code != protocol.None {
			resp := kmsg.NewOffsetFetchResponseGroup()
			resp.Group, resp.ErrorCode = group, int16(code)
			s.reply(token, &resp)
			return s.effects(now)
		}
	}
	return s.Offsets(now, group, all, wanted, token)
}

// committed lists the partitions that have an offset.
func (g *Group) committed() (all []Wanted) {
	for _, p := range g.partitions() {
		if n := len(all); n == 0 || all[n-1].Topic != p.topic {
			all = append(all, Wanted{Topic: p.topic})
		}
		last := &all[len(all)-1]
		last.Partitions = append(last.Partitions, p.index)
	}
	return all
}

func (g *Group) partitions() []partitionID {
	ids := make([]partitionID, 0, len(g.offsets))
	for p := range g.offsets {
		ids = append(ids, p)
	}
	slices.SortFunc(ids, comparePartitions)
	return ids
}

// DeleteOffsets takes an OffsetDelete (KIP-496) of partitions that are there. A group
// that this leaves with nothing goes when its retention is over. The answer is a
// *kmsg.OffsetDeleteResponse.
func (s *Shard) DeleteOffsets(now time.Time, req *kmsg.OffsetDeleteRequest, token any) Effects {
	resp := req.ResponseKind().(*kmsg.OffsetDeleteResponse)
	g := s.groups[req.Group]
	switch {
	case req.Group == "":
		resp.ErrorCode = int16(protocol.InvalidGroupID)
	case g == nil:
		resp.ErrorCode = int16(protocol.GroupIDNotFound)
	case !g.vacant() && g.protocolType != consumerProtocol:
		resp.ErrorCode = int16(protocol.NonEmptyGroup)
	}
	if resp.ErrorCode != 0 {
		s.reply(token, resp)
		return s.effects(now)
	}
	var gone []partitionID
	for _, t := range req.Topics {
		rt := kmsg.NewOffsetDeleteResponseTopic()
		rt.Topic = t.Topic
		subscribed := g.subscribes(t.Topic)
		for _, p := range t.Partitions {
			row := kmsg.NewOffsetDeleteResponseTopicPartition()
			row.Partition = p.Partition
			if subscribed {
				row.ErrorCode = int16(protocol.GroupSubscribedToTopic)
			} else if id := (partitionID{t.Topic, p.Partition}); g.has(id) {
				gone = append(gone, id)
			}
			rt.Partitions = append(rt.Partitions, row)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	s.drop(g, gone, offsetsOnly, func() { s.reply(token, resp) }, func(code protocol.ErrorCode) {
		resp.ErrorCode, resp.Topics = int16(code), nil
		s.reply(token, resp)
	})
	return s.effects(now)
}

func (g *Group) has(p partitionID) bool {
	_, ok := g.offsets[p]
	return ok
}

// dropped says whether a group goes with the last of its offsets.
type dropped int

const (
	offsetsOnly dropped = iota
	ifVacant            // and something was there
	withGroup
)

// drop removes offsets, in as many batches as that takes, and maybe the group. What is
// removed stays so, should a batch behind it be refused.
func (s *Shard) drop(g *Group, gone []partitionID, what dropped, then func(), refused func(protocol.ErrorCode)) {
	var records []Record
	bytes := 0
	for _, p := range gone {
		if bytes > s.batchBytes {
			break
		}
		records = append(records, Record{offsetKey(g.id, p), nil})
		bytes += len(records[len(records)-1].Key) + recordBytes
	}
	if now, later := gone[:len(records)], gone[len(records):]; len(later) > 0 {
		s.write(records, func() {
			for _, p := range now {
				delete(g.offsets, p)
			}
			s.drop(g, later, what, then, refused)
		}, refused)
		return
	}
	last := what == ifVacant && len(gone) == len(g.offsets) && len(gone) > 0 && g.vacant() && len(g.pending) == 0 || what == withGroup
	if last && (g.stored || what == withGroup) {
		records = append(records, g.tombstones()...)
	}
	s.write(records, func() {
		for _, p := range gone {
			delete(g.offsets, p)
		}
		if last {
			g.stored, g.consumer = false, nil
		}
		s.forget(g)
		then()
	}, refused)
}

// subscribes tells whether a member reads a topic, as far as its subscription can be
// read.
func (g *Group) subscribes(topic string) bool {
	topics, known := g.subscriptions()
	return !g.vacant() && (!known || topics[topic])
}

const consumerProtocol = "consumer"

// subscriptions are the topics of all members; known is false where one of them is not
// written as consumers write it.
func (g *Group) subscriptions() (topics map[string]bool, known bool) {
	topics = map[string]bool{}
	if g.consumer != nil {
		return g.consumer.subscriptions(), true
	}
	if g.protocolType != consumerProtocol || g.protocol == nil {
		return topics, len(g.members) == 0
	}
	for _, m := range g.members {
		var x kmsg.ConsumerMemberMetadata
		if err := x.ReadFrom(m.metadata(*g.protocol)); err != nil {
			return topics, false
		}
		for _, t := range x.Topics {
			topics[t] = true
		}
	}
	return topics, true
}

// maxExpired bounds what goes at once, but for what one group more has: it is one batch.
const maxExpired = 1000

// retain removes what was kept for long enough (KIP-211): offsets of a group that has
// been empty for the retention, and of topics that none of its members reads; of a
// group that never had members, those that were committed that long ago. One that
// was to be kept for a time of its own is, for that time.
func (s *Shard) retain(now time.Time) {
	for _, id := range s.ids() {
		if len(s.records) >= maxExpired {
			s.check = now.Add(time.Second)
			return
		}
		g := s.groups[id]
		if g.state != Empty && g.state != Stable { // who is in it, and reads what, is not known yet
			continue
		}
		topics, known := g.subscriptions()
		var gone []partitionID
		for _, p := range g.partitions() {
			o := g.offsets[p]
			from := o.written
			if g.state == Empty && g.protocolType != "" && g.since >= 0 {
				from = max(from, g.since)
			}
			due := now.UnixMilli() >= from+s.cfg.Retention.Milliseconds()
			if o.expires >= 0 {
				due = now.UnixMilli() >= o.expires
			}
			if used := !g.vacant() && (!known || topics[p.topic]); due && !used {
				gone = append(gone, p)
			}
		}
		if len(gone) == 0 && g.vacant() && g.stored && len(g.offsets) == 0 && len(g.pending) == 0 {
			s.write(g.tombstones(), func() {
				g.stored, g.consumer = false, nil
				s.forget(g)
			}, func(protocol.ErrorCode) {})
			continue
		}
		if len(gone) > 0 {
			s.drop(g, gone, ifVacant, func() {}, func(protocol.ErrorCode) {})
		}
	}
}

// recordBytes is what a record takes beside its key and value, at most.
const recordBytes = 24

// TopicsDeleted removes the offsets of topics that are gone.
func (s *Shard) TopicsDeleted(now time.Time, topics []string) Effects {
	s.dropTopics(s.ids(), topics)
	return s.effects(now)
}

// dropTopics does so for one group after the other, each in batches of its own.
func (s *Shard) dropTopics(ids, topics []string) {
	for i, id := range ids {
		g := s.groups[id]
		gone := slices.DeleteFunc(g.partitions(), func(p partitionID) bool { return !slices.Contains(topics, p.topic) })
		if len(gone) > 0 {
			s.drop(g, gone, offsetsOnly, func() { s.dropTopics(ids[i+1:], topics) }, func(protocol.ErrorCode) {})
			return
		}
	}
}
