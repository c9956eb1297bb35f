package main

import (
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Requests about groups, and members that make them. Each member has a connection
// and a client id of its own, and so a name in what is compared; see memberName.

// timeline registers a scenario of many APIs, for levels that take each of them
// through all of its versions; see fit.
func timeline(what string, f func(s *session, level int16)) {
	register("Groups/"+what, func(s *session) {
		for level := range int16(11) {
			f(s, level)
		}
	})
}

// fit gives a request the version that is nearest to a level.
func fit[R kmsg.Request](s *session, req R, level int16) R {
	r := s.common[req.Key()]
	return at(req, max(r.min, min(r.max, level)))
}

// group is the name of a group that nobody else has used. The broker coordinates it, and
// knows there of the topics that the scenario has made.
func (s *session) group() string {
	s.count++
	name := s.prefix + "group" + string(rune('a'+s.count/26)) + string(rune('a'+s.count%26))
	find := fit(s, kmsg.NewPtrFindCoordinatorRequest(), 3)
	find.CoordinatorKey = name
	s.until("a coordinator", func() bool { return quietly[*kmsg.FindCoordinatorResponse](s, find).ErrorCode == 0 })
	s.until("a coordinator that has loaded", func() bool {
		return quietly[*kmsg.DescribeGroupsResponse](s, describeGroups(s, 5, name)).Groups[0].ErrorCode == 0
	})
	list := fit(s, kmsg.NewPtrListGroupsRequest(), 4)
	s.until("all partitions loaded", func() bool { return quietly[*kmsg.ListGroupsResponse](s, list).ErrorCode == 0 })
	s.heardOf(name)
	return name
}

// heardOf waits until the coordinator of a group has heard of the topics that the scenario
// has made, which Apache Kafka tells it later than anybody else: until it gives all of
// them to a member of another group in the same partition.
func (s *session) heardOf(group string) {
	if len(s.made) == 0 {
		return
	}
	n := 0
	probe := s.consumer(s.common[int16(kmsg.ConsumerGroupHeartbeat)].max, group, "probe", s.made...)
	for probe.group == group || partitionOf(probe.group) != partitionOf(group) {
		n++
		probe.group = fmt.Sprint(group, "-probe", n)
	}
	s.until("a coordinator that has heard of all topics", func() bool {
		r := quietly[*kmsg.ConsumerGroupHeartbeatResponse](s, probe.beat(inEpoch(0), full(s.made...)))
		quietly[*kmsg.ConsumerGroupHeartbeatResponse](s, probe.beat(inEpoch(-1)))
		return r.Assignment != nil && len(r.Assignment.Topics) == len(s.made)
	})
	quietly[*kmsg.DeleteGroupsResponse](s, deleteGroups(s, 2, probe.group))
}

// partitionOf is that of __consumer_offsets in which a group is.
func partitionOf(group string) int32 {
	var hash int32
	for _, c := range group {
		hash = 31*hash + c
	}
	return max(hash, -hash) % 50
}

// inState waits for a group to be in a state: who asked has been heard then.
func (s *session) inState(group, state string, members int) {
	s.until(group+" in "+state, func() bool {
		g := quietly[*kmsg.DescribeGroupsResponse](s, describeGroups(s, 5, group)).Groups[0]
		return g.State == state && (members < 0 || len(g.Members) == members)
	})
}

// member is one of a group, or one to be.
type member struct {
	s          *session
	c          *wire
	level      int16
	client     string
	group, id  string
	instance   *string
	generation int32
	topics     []string
	likes      []string // protocols
	asked      kmsg.Request
	number     int32
}

// member makes one that has said nothing yet.
func (s *session) member(level int16, group, client string) *member {
	c, err := s.connectAs(client)
	if err != nil {
		s.note("connecting", -1, -1, "refused: "+err.Error())
		panic(abort{})
	}
	s.wires = append(s.wires, c)
	return &member{s: s, c: c, level: level, client: client, group: group, generation: -1, topics: []string{"t"}, likes: []string{"range"}}
}

// instanceOf is a member that is static, where the level knows those.
func (s *session) instanceOf(level int16, group, client, instance string) *member {
	m := s.member(level, group, client)
	m.instance = &instance
	return m
}

// dismiss ends the connections of members.
func (s *session) dismiss() {
	for _, c := range s.wires {
		c.nc.Close()
	}
}

// say sends a request whose answer comes later; hear reads it.
func (m *member) say(req kmsg.Request) {
	m.asked = req
	var err error
	if m.number, err = m.c.send(req); err != nil {
		m.s.record(req, nil, outcome(err))
		panic(abort{})
	}
}

func (m *member) hear() kmsg.Response {
	b, err := m.c.receive()
	var resp kmsg.Response
	if err == nil {
		resp, err = decode(m.asked, m.number, b)
	}
	m.s.record(m.asked, resp, err)
	if err != nil {
		panic(abort{})
	}
	if j, ok := resp.(*kmsg.JoinGroupResponse); ok {
		if j.ErrorCode == 0 || j.ErrorCode == 79 {
			m.id = j.MemberID
		}
		if j.ErrorCode == 0 {
			m.generation = j.Generation
		}
	}
	return resp
}

func (m *member) ask(req kmsg.Request) kmsg.Response {
	m.say(req)
	return m.hear()
}

// enter sends a JoinGroup that waits, with an id that it gets first if the level has
// that.
func (m *member) enter() {
	if m.id == "" && m.instance == nil && m.join().Version >= 4 {
		m.ask(m.join())
	}
	m.say(m.join())
}

// come joins.
func (m *member) come() *kmsg.JoinGroupResponse {
	m.enter()
	return m.hear().(*kmsg.JoinGroupResponse)
}

func (m *member) join() *kmsg.JoinGroupRequest {
	req := fit(m.s, kmsg.NewPtrJoinGroupRequest(), m.level)
	req.Group, req.MemberID, req.InstanceID = m.group, m.id, m.instance
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis, req.ProtocolType = 60_000, 10_000, "consumer"
	for _, name := range m.likes {
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = name, subscription(m.topics...)
		req.Protocols = append(req.Protocols, p)
	}
	return req
}

// subscription is what consumers say when they join.
func subscription(topics ...string) []byte {
	x := kmsg.NewConsumerMemberMetadata()
	x.Topics = topics
	return x.AppendTo(nil)
}

// sync asks for an assignment, and brings those of the members given.
func (m *member) sync(of ...*member) *kmsg.SyncGroupRequest {
	req := fit(m.s, kmsg.NewPtrSyncGroupRequest(), m.level)
	req.Group, req.Generation, req.MemberID, req.InstanceID = m.group, m.generation, m.id, m.instance
	req.ProtocolType, req.Protocol = ptr("consumer"), &m.likes[0]
	for _, x := range of {
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID, a.MemberAssignment = x.id, []byte("for "+x.client)
		req.GroupAssignment = append(req.GroupAssignment, a)
	}
	return req
}

func (m *member) beat() *kmsg.HeartbeatRequest {
	req := fit(m.s, kmsg.NewPtrHeartbeatRequest(), m.level)
	req.Group, req.Generation, req.MemberID, req.InstanceID = m.group, m.generation, m.id, m.instance
	return req
}

func (m *member) leave() *kmsg.LeaveGroupRequest { return m.s.leaving(m.level, m.group, m) }

// leaving is one of several members, of which old versions have room for the first.
func (s *session) leaving(level int16, group string, members ...*member) *kmsg.LeaveGroupRequest {
	req := fit(s, kmsg.NewPtrLeaveGroupRequest(), level)
	req.Group = group
	for _, m := range members {
		x := kmsg.NewLeaveGroupRequestMember()
		x.MemberID, x.InstanceID, x.Reason = m.id, m.instance, ptr("over")
		req.Members = append(req.Members, x)
	}
	if len(members) > 0 {
		req.MemberID = members[0].id
	}
	return req
}

// commit keeps an offset for each partition given of a topic.
func (m *member) commit(topic string, offset int64, partitions ...int32) *kmsg.OffsetCommitRequest {
	req := fit(m.s, kmsg.NewPtrOffsetCommitRequest(), m.level)
	req.Group, req.Generation, req.MemberID, req.InstanceID = m.group, m.generation, m.id, m.instance
	req.Topics = append(req.Topics, m.s.commitTopic(topic, offset, partitions...))
	return req
}

func (s *session) commitTopic(topic string, offset int64, partitions ...int32) kmsg.OffsetCommitRequestTopic {
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic, t.TopicID = topic, s.topicID(topic)
	for _, i := range partitions {
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset, p.LeaderEpoch, p.Metadata = i, offset, 0, ptr("a note")
		t.Partitions = append(t.Partitions, p)
	}
	return t
}

// fetchOffsets asks for those of partitions of a topic; without a topic for all.
func (s *session) fetchOffsets(level int16, group, topic string, partitions ...int32) *kmsg.OffsetFetchRequest {
	req := fit(s, kmsg.NewPtrOffsetFetchRequest(), level)
	req.Group = group
	g := kmsg.NewOffsetFetchRequestGroup()
	g.Group = group
	if topic != "" {
		old, t := kmsg.NewOffsetFetchRequestTopic(), kmsg.NewOffsetFetchRequestGroupTopic()
		old.Topic, old.Partitions = topic, partitions
		t.Topic, t.TopicID, t.Partitions = topic, s.topicID(topic), partitions
		req.Topics, g.Topics = append(req.Topics, old), append(g.Topics, t)
	}
	req.Groups = append(req.Groups, g)
	return req
}

func deleteOffsets(group, topic string, partitions ...int32) *kmsg.OffsetDeleteRequest {
	req := kmsg.NewPtrOffsetDeleteRequest()
	t := kmsg.NewOffsetDeleteRequestTopic()
	t.Topic = topic
	for _, i := range partitions {
		p := kmsg.NewOffsetDeleteRequestTopicPartition()
		p.Partition = i
		t.Partitions = append(t.Partitions, p)
	}
	req.Group, req.Topics = group, append(req.Topics, t)
	return req
}

func describeGroups(s *session, level int16, groups ...string) *kmsg.DescribeGroupsRequest {
	req := fit(s, kmsg.NewPtrDescribeGroupsRequest(), level)
	req.Groups = groups
	return req
}

func listGroups(s *session, level int16, states ...string) *kmsg.ListGroupsRequest {
	req := fit(s, kmsg.NewPtrListGroupsRequest(), level)
	req.StatesFilter = states
	return req
}

func deleteGroups(s *session, level int16, groups ...string) *kmsg.DeleteGroupsRequest {
	req := fit(s, kmsg.NewPtrDeleteGroupsRequest(), level)
	req.Groups = groups
	return req
}

// stable is a member of a group of its own, with an assignment and offsets that were
// committed, quietly.
func (s *session) stable(topic string) *member {
	m := s.member(4, s.group(), "a")
	m.topics = []string{topic}
	seen := len(s.steps)
	m.come()
	m.ask(m.sync(m))
	m.ask(m.commit(topic, 1, 0))
	s.steps = s.steps[:seen]
	return m
}

// look records what is told of a group, and whether it is listed.
func (s *session) look(level int16, group string) {
	req := describeGroups(s, level, group)
	req.IncludeAuthorizedOperations = true
	ask[*kmsg.DescribeGroupsResponse](s, req)
	ask[*kmsg.ListGroupsResponse](s, listGroups(s, level))
}

// set changes a request; it makes tables of requests readable.
func set[R any](req R, change func(R)) R {
	change(req)
	return req
}
