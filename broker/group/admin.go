package group

import (
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

// Describe tells of a group. The answer is a *kmsg.DescribeGroupsResponseGroup.
func (s *Shard) Describe(now time.Time, id string, version int16, token any) Effects {
	row := kmsg.NewDescribeGroupsResponseGroup()
	row.Group, row.State, row.Members = id, string(Dead), []kmsg.DescribeGroupsResponseGroupMember{}
	g := s.groups[id]
	switch {
	case g != nil:
		g.describe(&row)
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

// List lists the groups that are in one of some states, and of one of some types;
// none stands for all. The answer is a []kmsg.ListGroupsResponseGroup.
func (s *Shard) List(now time.Time, states, types []string, token any) Effects {
	asked := func(filter []string, value string) bool {
		return len(filter) == 0 || slices.ContainsFunc(filter, func(f string) bool { return strings.EqualFold(f, value) })
	}
	rows := []kmsg.ListGroupsResponseGroup{}
	for _, id := range s.ids() {
		g := s.groups[id]
		if !asked(states, string(g.state)) || !asked(types, "classic") {
			continue
		}
		row := kmsg.NewListGroupsResponseGroup()
		row.Group, row.ProtocolType, row.GroupState, row.GroupType = id, g.protocolType, string(g.state), "classic"
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
	case g.state != Empty:
		s.reply(token, protocol.NonEmptyGroup)
		return s.effects(now)
	}
	var records []Record
	for _, p := range g.partitions() {
		records = append(records, Record{offsetKey(id, p), nil})
	}
	records = append(records, Record{groupKey(id), nil})
	s.write(records, func() {
		delete(s.groups, id)
		s.reply(token, protocol.None)
	}, func(code protocol.ErrorCode) { s.reply(token, code) })
	return s.effects(now)
}

// Count is how many groups there are, by state, and how many offsets.
func (s *Shard) Count() (byState map[State]int, offsets int) {
	byState = map[State]int{}
	for _, g := range s.groups {
		byState[g.state]++
		offsets += len(g.offsets)
	}
	return byState, offsets
}
