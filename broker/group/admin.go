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

// Describe tells of a group. The answer is a *kmsg.DescribeGroupsResponseGroup.
func (s *Shard) Describe(now time.Time, id string, version int16, token any) Effects {
	row := kmsg.NewDescribeGroupsResponseGroup()
	row.Group, row.State, row.Members = id, string(Dead), []kmsg.DescribeGroupsResponseGroupMember{}
	g := s.groups[id]
	switch {
	case g != nil && g.consumer == nil:
		g.describe(&row)
	case g != nil && version >= 6:
		row.ErrorCode, row.ErrorMessage = int16(protocol.GroupIDNotFound), kmsg.StringPtr("Group "+id+" is not a classic group.")
	case version >= 6:
		row.ErrorCode, row.ErrorMessage = int16(protocol.GroupIDNotFound), kmsg.StringPtr("Group "+id+" not found.")
	}
	s.reply(token, &row)
	return s.effects(now)
}

func (g *Group) describe(row *kmsg.DescribeGroupsResponseGroup) {
	row.State, row.ProtocolType = string(g.state), g.protocolType
	settled := g.state == Stable
	if settled && g.protocol != nil {
		row.Protocol = *g.protocol
	}
	g.each(func(m *member) {
		x := kmsg.NewDescribeGroupsResponseGroupMember()
		x.MemberID, x.InstanceID, x.ClientID, x.ClientHost = m.id, m.instance, m.client.ID, m.client.Host
		x.ProtocolMetadata, x.MemberAssignment = []byte{}, append([]byte{}, m.assignment...)
		if settled {
			x.ProtocolMetadata = m.metadata(row.Protocol)
		}
		row.Members = append(row.Members, x)
	})
}

// DescribeConsumer tells of a group of the consumer protocol. The answer is a
// *kmsg.ConsumerGroupDescribeResponseGroup.
func (s *Shard) DescribeConsumer(now time.Time, id string, md *Metadata, token any) Effects {
	row := kmsg.NewConsumerGroupDescribeResponseGroup()
	row.Group, row.Members = id, []kmsg.ConsumerGroupDescribeResponseGroupMember{}
	switch g := s.groups[id]; {
	case id == "":
		row.ErrorCode = int16(protocol.InvalidGroupID)
	case g == nil:
		row.ErrorCode, row.ErrorMessage = int16(protocol.GroupIDNotFound), kmsg.StringPtr("Group "+id+" not found.")
	case g.consumer == nil:
		row.ErrorCode, row.ErrorMessage = int16(protocol.GroupIDNotFound), kmsg.StringPtr("Group "+id+" is not a consumer group.")
	default:
		g.consumer.describe(&row, md, s.cfg.Assignors)
	}
	s.reply(token, &row)
	return s.effects(now)
}

func (c *consumers) describe(row *kmsg.ConsumerGroupDescribeResponseGroup, md *Metadata, assignors []string) {
	row.State, row.Epoch, row.AssignmentEpoch = string(c.state()), c.epoch, c.targetEpoch
	all := slices.SortedFunc(maps.Values(c.members), func(a, b *consumer) int { return strings.Compare(a.id, b.id) })
	row.AssignorName = preferred(all, assignors)
	for _, m := range all {
		x := kmsg.NewConsumerGroupDescribeResponseGroupMember()
		x.MemberID, x.InstanceID, x.RackID, x.MemberEpoch, x.ClientID, x.ClientHost = m.id, m.instance, m.rack, m.epoch, m.client.ID, m.client.Host
		x.SubscribedTopics, x.SubscribedTopicRegex, x.MemberType = slices.Concat(m.topics), kmsg.StringPtr(""), 1
		if m.regex != nil {
			x.SubscribedTopicRegex = m.regex
		}
		if m.classic != nil {
			x.MemberType = 0
		}
		x.Assignment, x.TargetAssignment = named(m.holds().assignment(), md), named(m.target, md)
		row.Members = append(row.Members, x)
	}
}

// named is an assignment of topics that are there, with their names.
func named(a assign.Assignment, md *Metadata) (out kmsg.Assignment) {
	out.TopicPartitions = []kmsg.AssignmentTopicPartition{}
	for _, id := range sortedIDs(a) {
		if name, ok := md.Name(id); ok {
			out.TopicPartitions = append(out.TopicPartitions, kmsg.AssignmentTopicPartition{TopicID: id, Topic: name, Partitions: a[id]})
		}
	}
	return out
}

// List lists the groups that are in one of some states, and of one of some types;
// none stands for all. The answer is a []kmsg.ListGroupsResponseGroup.
func (s *Shard) List(now time.Time, states, types []string, token any) Effects {
	asked := func(filter []string, value string) bool {
		return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, value) })
	}
	rows := []kmsg.ListGroupsResponseGroup{}
	for _, id := range s.ids() {
		g := s.groups[id]
		state, kind := string(g.current()), "classic"
		if g.consumer != nil {
			kind = "consumer"
		}
		if !asked(states, state) || !asked(types, kind) {
			continue
		}
		row := kmsg.NewListGroupsResponseGroup()
		row.Group, row.ProtocolType, row.GroupState, row.GroupType = id, g.protocolType, state, kind
		rows = append(rows, row)
	}
	s.reply(token, rows)
	return s.effects(now)
}

// Delete removes a group that nobody is in, with its offsets. The answer is a
// protocol.ErrorCode.
func (s *Shard) Delete(now time.Time, id string, token any) Effects {
	g := s.groups[id]
	switch {
	case g == nil:
		s.reply(token, protocol.GroupIDNotFound)
		return s.effects(now)
	case !g.vacant():
		s.reply(token, protocol.NonEmptyGroup)
		return s.effects(now)
	}
	s.drop(g, g.partitions(), withGroup, func() {
		delete(s.groups, id)
		s.reply(token, protocol.None)
	}, func(code protocol.ErrorCode) { s.reply(token, code) })
	return s.effects(now)
}

// Count is how many groups there are, by state, and how many offsets.
func (s *Shard) Count() (byState map[State]int, offsets int) {
	byState = map[State]int{}
	for _, g := range s.groups {
		byState[g.current()]++
		offsets += len(g.offsets)
	}
	return byState, offsets
}
