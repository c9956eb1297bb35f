package main

import (
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Members of the consumer protocol (KIP-848). Which partition is whose depends on the
// assignor: of several members all ask for range, where it is fixed.

// consumer is one, or one to be. It has chosen its id.
type consumer struct {
	s         *session
	version   int16
	group, id string
	instance  *string
	epoch     int32
	topics    []string
	has       []kmsg.ConsumerGroupHeartbeatRequestTopic // as it was told
}

func (s *session) consumer(version int16, group, id string, topics ...string) *consumer {
	return &consumer{s: s, version: version, group: group, id: id, topics: topics}
}

// beat is a heartbeat that says nothing new.
func (c *consumer) beat(changes ...func(*kmsg.ConsumerGroupHeartbeatRequest)) *kmsg.ConsumerGroupHeartbeatRequest {
	req := at(kmsg.NewPtrConsumerGroupHeartbeatRequest(), c.version)
	req.Group, req.MemberID, req.InstanceID, req.MemberEpoch = c.group, c.id, c.instance, c.epoch
	for _, change := range changes {
		change(req)
	}
	return req
}

// full says all, and that nothing is owned.
func full(topics ...string) func(*kmsg.ConsumerGroupHeartbeatRequest) {
	return func(r *kmsg.ConsumerGroupHeartbeatRequest) {
		r.RebalanceTimeoutMillis, r.SubscribedTopicNames = 60_000, append([]string{}, topics...)
		r.ServerAssignor, r.Topics = ptr("range"), []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
}

// owning says that a member has what it was told to have.
func (c *consumer) owning(r *kmsg.ConsumerGroupHeartbeatRequest) {
	r.Topics = append([]kmsg.ConsumerGroupHeartbeatRequestTopic{}, c.has...)
}

func inEpoch(epoch int32) func(*kmsg.ConsumerGroupHeartbeatRequest) {
	return func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberEpoch = epoch }
}

func (c *consumer) ask(req *kmsg.ConsumerGroupHeartbeatRequest) *kmsg.ConsumerGroupHeartbeatResponse {
	return c.heard(ask[*kmsg.ConsumerGroupHeartbeatResponse](c.s, req))
}

func (c *consumer) heard(resp *kmsg.ConsumerGroupHeartbeatResponse) *kmsg.ConsumerGroupHeartbeatResponse {
	if resp.ErrorCode != 0 {
		return resp
	}
	c.epoch = resp.MemberEpoch
	if resp.Assignment != nil {
		c.has = nil
		for _, t := range resp.Assignment.Topics {
			c.has = append(c.has, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: t.TopicID, Partitions: t.Partitions})
		}
	}
	return resp
}

func (c *consumer) join() { c.ask(c.beat(inEpoch(0), full(c.topics...))) }

// consuming is a member of a group of its own that has all of some topics, and an offset
// that was committed, quietly.
func (s *session) consuming(version int16, topics ...string) *consumer {
	c := s.consumer(version, s.group(), "a", topics...)
	seen := len(s.steps)
	c.join()
	c.ask(c.beat(c.owning))
	c.commit(9, c.epoch, topics[0], 0)
	s.steps = s.steps[:seen]
	return c
}

// classic is who it would be in the classic protocol.
func (c *consumer) classic() *member {
	return &member{s: c.s, c: c.s.wire(), level: 9, client: "conform", group: c.group, id: c.id, generation: c.epoch, instance: c.instance, topics: c.topics, likes: []string{"range"}}
}

// commit keeps an offset as a member in an epoch.
func (c *consumer) commit(version int16, epoch int32, topic string, partition int32) {
	m := &member{s: c.s, level: version, group: c.group, id: c.id, generation: epoch, instance: c.instance}
	ask[*kmsg.OffsetCommitResponse](c.s, m.commit(topic, 7, partition))
}

// fetch asks for an offset as a member in an epoch.
func (c *consumer) fetch(id *string, epoch int32, topic string) {
	req := c.s.fetchOffsets(9, c.group, topic, 0, 1)
	req.Groups[0].MemberID, req.Groups[0].MemberEpoch = id, epoch
	ask[*kmsg.OffsetFetchResponse](c.s, req)
}

// lookAt records what all APIs tell of a group.
func (s *session) lookAt(version int16, groups ...string) {
	req := at(kmsg.NewPtrConsumerGroupDescribeRequest(), version)
	req.Groups, req.IncludeAuthorizedOperations = groups, true
	ask[*kmsg.ConsumerGroupDescribeResponse](s, req)
	if len(groups) > 0 {
		s.look(10, groups[0])
	}
}

func init() {
	eachVersion(kmsg.ConsumerGroupHeartbeat, "one member", func(s *session, v int16) {
		topic, g := s.create(3), s.group()
		c := s.consumer(v, g, "a", topic)
		s.lookAt(v, g)
		c.join()
		s.lookAt(v, g)
		c.ask(c.beat())
		c.ask(c.beat(c.owning))
		c.ask(c.beat(full(topic))) // all is said, all is told
		c.ask(c.beat(full(topic), c.owning))
		c.fetch(nil, -1, topic)
		c.fetch(&c.id, c.epoch, topic)
		c.fetch(&c.id, c.epoch+1, topic)
		c.fetch(&c.id, c.epoch-1, topic)
		c.fetch(&c.id, -1, topic)
		c.fetch(ptr("x"), c.epoch, topic)
		c.fetch(ptr(""), -1, topic)
		for _, version := range []int16{7, 8, 9, 10} {
			c.commit(version, c.epoch, topic, 0)
			c.commit(version, c.epoch+1, topic, 0)
			c.commit(version, -1, topic, 0)
			x := *c
			x.id = "x"
			x.commit(version, c.epoch, topic, 0)
			x.id = ""
			x.commit(version, -1, topic, 0)
		}
		ask[*kmsg.OffsetDeleteResponse](s, deleteOffsets(g, topic, 0))
		ask[*kmsg.DeleteGroupsResponse](s, deleteGroups(s, 2, g))
		c.ask(c.beat(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicNames = []string{s.prefix + "none"} }))
		c.ask(c.beat(c.owning))
		s.lookAt(v, g)
		c.ask(c.beat(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicNames = []string{} }))
		c.ask(c.beat(full(topic)))
		c.ask(c.beat(func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.RackID = ptr("r") }))
		c.ask(c.beat(inEpoch(-1)))
		c.ask(c.beat(inEpoch(-1)))
		c.ask(c.beat(inEpoch(1)))
		s.lookAt(v, g)
		c.commit(9, -1, topic, 1)
		c.commit(9, 1, topic, 1)
		c.fetch(&c.id, 1, topic)
		c.fetch(nil, -1, topic)
		c.epoch = 0
		c.join() // the group goes on where it was
		c.ask(c.beat(inEpoch(-1)))
		ask[*kmsg.DeleteGroupsResponse](s, deleteGroups(s, 2, g))
		s.lookAt(v, g)
	})

	eachVersion(kmsg.ConsumerGroupHeartbeat, "refused", func(s *session, v int16) {
		type request = kmsg.ConsumerGroupHeartbeatRequest
		topic, g := s.create(2), s.group()
		c := s.consumer(v, g, "a", topic)
		refused := func() {
			for _, change := range []func(r *request){
				func(r *request) { r.Group = "" },
				func(r *request) { r.Group = " " },
				func(r *request) { r.MemberID = " " },
				func(r *request) { r.InstanceID = ptr("") },
				func(r *request) { r.RackID = ptr("") },
				func(r *request) { r.RebalanceTimeoutMillis = -1 },
				func(r *request) { r.Topics = nil },
				func(r *request) {
					r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{{TopicID: s.topicID(topic), Partitions: []int32{0}}}
				},
				func(r *request) { r.SubscribedTopicNames = nil },
				func(r *request) { r.ServerAssignor = ptr("") },
				func(r *request) { r.ServerAssignor = ptr("sticky") },
				func(r *request) { r.MemberEpoch = -3 },
				func(r *request) { r.MemberEpoch = -2 },
				func(r *request) { r.MemberEpoch, r.InstanceID = -2, ptr("i") },
				func(r *request) { r.MemberEpoch, r.MemberID = -1, "" },
				func(r *request) { r.MemberEpoch, r.MemberID = 1, "" },
				func(r *request) { r.MemberEpoch, r.MemberID = -1, "x" },
				func(r *request) { r.MemberEpoch, r.MemberID = 1, "x" },
				func(r *request) { r.MemberEpoch, r.MemberID, r.InstanceID = 1, "x", ptr("i") },
				func(r *request) { r.MemberEpoch, r.ServerAssignor = 1, ptr("sticky") },
			} {
				ask[*kmsg.ConsumerGroupHeartbeatResponse](s, c.beat(inEpoch(0), full(topic), change))
			}
		}
		refused()
		c.join()
		refused()
		c.ask(c.beat(c.owning, func(r *request) { r.SubscribedTopicNames = []string{topic, topic} }))
		epoch := c.epoch
		for _, e := range []int32{epoch - 1, epoch + 1, epoch + 7, 0} {
			c.ask(c.beat(inEpoch(e)))
			c.ask(c.beat(inEpoch(e), full(topic)))
			c.ask(c.beat(inEpoch(e), c.owning))
		}
		s.lookAt(v, g)
	})

	eachVersion(kmsg.ConsumerGroupHeartbeat, "two members", func(s *session, v int16) {
		topic, other, g := s.create(4), s.create(2), s.group()
		a, b := s.consumer(v, g, "a", topic, other), s.consumer(v, g, "b", topic, other)
		a.join()
		a.ask(a.beat(a.owning))
		b.join() // what it is to have is another's
		s.lookAt(v, g)
		b.ask(b.beat())
		had := *a
		had.has = slices.Clone(a.has)
		a.ask(a.beat()) // it is told to give up some
		s.lookAt(v, g)
		a.commit(9, a.epoch, topic, 0)
		a.commit(9, a.epoch, topic, 3)
		a.ask(a.beat())                        // it does not say that it has
		had.ask(had.beat(had.owning))          // it says that it has not
		b.ask(b.beat())                        // so there is nothing for others
		a.ask(a.beat(inEpoch(0), full(topic))) // it begins anew
		a.ask(a.beat(a.owning))
		b.ask(b.beat(b.owning))
		b.ask(b.beat(b.owning))
		s.lookAt(v, g)
		a.commit(9, a.epoch-1, topic, 0)
		a.ask(a.beat(a.owning))
		b.ask(b.beat(b.owning))
		a.ask(a.beat(a.owning, func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicNames = []string{topic} }))
		b.ask(b.beat(b.owning))
		a.ask(a.beat(a.owning))
		b.ask(b.beat(b.owning))
		s.lookAt(v, g)
		b.ask(b.beat(inEpoch(-1)))
		s.lookAt(v, g)
		a.ask(a.beat(a.owning))
		s.lookAt(v, g)
		none := s.consumer(v, s.group(), "a")
		none.join() // to read nothing
		none.ask(none.beat())
		s.lookAt(v, none.group)
	})

	eachVersion(kmsg.ConsumerGroupHeartbeat, "static members", func(s *session, v int16) {
		topic, g := s.create(2), s.group()
		a := s.consumer(v, g, "a", topic)
		a.instance = ptr("i")
		a.join()
		a.ask(a.beat(a.owning))
		b := s.consumer(v, g, "b", topic)
		b.instance = ptr("i")
		b.join() // while the first is there
		b.ask(b.beat(inEpoch(1)))
		b.ask(b.beat(inEpoch(-1)))
		a.commit(9, a.epoch, topic, 0)
		epoch := a.epoch
		a.ask(a.beat(inEpoch(-2)))
		s.lookAt(v, g)
		a.ask(a.beat(inEpoch(epoch)))
		b.join()
		s.lookAt(v, g)
		b.ask(b.beat(b.owning))
		a.ask(a.beat(inEpoch(epoch)))
		a.ask(a.beat(inEpoch(-1)))
		a.ask(a.beat(inEpoch(-2)))
		a.commit(9, epoch, topic, 0)
		nameless := s.consumer(v, g, "b", topic)
		nameless.ask(nameless.beat(inEpoch(b.epoch)))
		b.ask(b.beat(inEpoch(-2)))
		b.join() // as who it was
		s.lookAt(v, g)
		b.ask(b.beat(inEpoch(-1)))
		s.lookAt(v, g)
	})

	eachVersion(kmsg.ConsumerGroupHeartbeat, "an instance that has not heard", func(s *session, v int16) {
		topic, g := s.create(2), s.group()
		c := s.consumer(v, g, "a", topic)
		c.instance = ptr("i")
		c.join()
		again := *c
		again.join()
		c.ask(c.beat(c.owning))
		s.lookAt(v, g)
	})

	eachVersion(kmsg.ConsumerGroupHeartbeat, "of another protocol", func(s *session, v int16) {
		topic, g := s.create(1), s.group()
		m := s.member(4, g, "m")
		m.come()
		m.ask(set(m.sync(m), func(r *kmsg.SyncGroupRequest) {}))
		s.lookAt(v, g, g+"-none", "", g)
		s.lookAt(v)
		x := s.consumer(v, g, "x", topic)
		x.ask(x.beat(inEpoch(1)))
		x.ask(x.beat(inEpoch(-1)))
		m.ask(m.leave())
		x.join() // nobody is in it
		s.lookAt(v, g)
		m.ask(m.beat())
		m.ask(m.sync())
		m.ask(m.leave())
		x.ask(x.beat(x.owning))
		y := *m
		y.id, y.generation = "x", x.epoch
		y.ask(y.beat())
		y.ask(y.sync())
		s.lookAt(v, g)
	})

	eachVersion(kmsg.ConsumerGroupHeartbeat, "both protocols", func(s *session, v int16) {
		topic, g := s.create(4), s.group()
		m, x := s.member(5, g, "m"), s.consumer(v, g, "x", topic)
		m.topics = []string{topic}
		all := func(m *member) *kmsg.SyncGroupRequest {
			return set(m.sync(m), func(r *kmsg.SyncGroupRequest) {
				a := kmsg.NewConsumerMemberAssignment()
				a.Topics = []kmsg.ConsumerMemberAssignmentTopic{{Topic: topic, Partitions: []int32{0, 1, 2, 3}}}
				r.GroupAssignment[0].MemberAssignment = a.AppendTo(nil)
			})
		}
		m.come()
		m.ask(all(m))
		old := *m
		x.join() // the group is of its protocol now
		s.lookAt(v, g)
		x.ask(x.beat())
		m.ask(m.beat())
		m.ask(m.sync())
		m.ask(m.commit(topic, 3, 0))
		y := *m
		y.generation++
		m.ask(y.beat())
		m.ask(y.sync())
		m.ask(y.commit(topic, 3, 0))
		m.ask(set(m.join(), func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "connect" }))
		m.ask(set(m.join(), func(r *kmsg.JoinGroupRequest) { r.Protocols = nil }))
		m.come() // it owns nothing, and so there is enough for both
		s.lookAt(v, g)
		m.ask(old.beat())
		m.ask(old.sync())
		m.ask(set(m.sync(), func(r *kmsg.SyncGroupRequest) { r.Protocol = ptr("sticky") }))
		m.ask(m.sync())
		m.ask(m.beat())
		m.ask(m.commit(topic, 4, 0))
		x.ask(x.beat(x.owning))
		x.ask(x.beat(x.owning))
		s.lookAt(v, g)
		n := s.instanceOf(5, g, "n", "n") // the assignor begins with it
		n.topics = []string{topic}
		n.come()
		m.ask(m.beat())
		m.come()
		m.ask(m.sync())
		n.ask(n.sync())
		n.ask(n.beat())
		n.ask(n.leave())
		n.ask(n.leave())
		m.ask(m.beat())
		m.come()
		m.ask(m.sync())
		m.ask(m.beat())
		z := *m
		z.id = "x"
		m.ask(z.beat())
		x.ask(x.beat(x.owning))
		m.ask(z.leave()) // nobody is left who speaks its protocol
		m.ask(m.beat())
		s.look(5, g)
		m.come()
		m.ask(all(m))
		s.lookAt(v, g)
		m.ask(m.leave())

		other := s.member(5, s.group(), "o")
		other.ask(other.join())
		other.ask(set(other.join(), func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "connect" }))
		o := s.consumer(v, other.group, "y", topic)
		o.join()
	})

	eachVersion(kmsg.ConsumerGroupHeartbeat, "patterns", func(s *session, v int16) {
		if v < 1 {
			return
		}
		topic, g := s.create(2), s.group()
		c := s.consumer(v, g, "a")
		matching := func(regex string) func(*kmsg.ConsumerGroupHeartbeatRequest) {
			return func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicRegex = &regex }
		}
		for _, bad := range []string{"(", "[", "a{2,1}", "*", "(?=a)", "a\\"} {
			ask[*kmsg.ConsumerGroupHeartbeatResponse](s, c.beat(inEpoch(0), full(), matching(bad)))
		}
		settled := func(partitions int) { // patterns may be looked at later than they are said
			var d kmsg.ConsumerGroupDescribeResponseGroup
			s.until("an assignment", func() bool {
				c.heard(quietly[*kmsg.ConsumerGroupHeartbeatResponse](s, c.beat(c.owning)))
				req := at(kmsg.NewPtrConsumerGroupDescribeRequest(), v)
				req.Groups = []string{g}
				d = quietly[*kmsg.ConsumerGroupDescribeResponse](s, req).Groups[0]
				has, target := 0, 0
				for _, t := range c.has {
					has += len(t.Partitions)
				}
				for _, m := range d.Members {
					for _, t := range m.TargetAssignment.TopicPartitions {
						target += len(t.Partitions)
					}
				}
				return d.State == "Stable" && has == partitions && target == partitions
			})
			for _, m := range d.Members { // epochs depend on when patterns are looked at
				s.note("members", -1, -1, s.normalize(&kmsg.ConsumerGroupDescribeResponse{Groups: []kmsg.ConsumerGroupDescribeResponseGroup{{State: d.State, Members: []kmsg.ConsumerGroupDescribeResponseGroupMember{{
					MemberID: m.MemberID, SubscribedTopics: m.SubscribedTopics, SubscribedTopicRegex: m.SubscribedTopicRegex, Assignment: m.Assignment, TargetAssignment: m.TargetAssignment,
				}}}}}))
			}
		}
		c.heard(quietly[*kmsg.ConsumerGroupHeartbeatResponse](s, c.beat(inEpoch(0), full(), matching(s.prefix+".*"))))
		settled(2)
		ask[*kmsg.ConsumerGroupHeartbeatResponse](s, c.beat(matching("(")))
		c.heard(quietly[*kmsg.ConsumerGroupHeartbeatResponse](s, c.beat(matching(s.prefix)))) // all of a name has to match
		settled(0)
		c.heard(quietly[*kmsg.ConsumerGroupHeartbeatResponse](s, c.beat(func(r *kmsg.ConsumerGroupHeartbeatRequest) {
			r.SubscribedTopicNames, r.SubscribedTopicRegex = []string{topic}, ptr(s.prefix+"none")
		})))
		settled(2)
		c.heard(quietly[*kmsg.ConsumerGroupHeartbeatResponse](s, c.beat(func(r *kmsg.ConsumerGroupHeartbeatRequest) {
			r.SubscribedTopicNames, r.SubscribedTopicRegex = []string{}, ptr("")
		})))
		settled(0)
	})
}
