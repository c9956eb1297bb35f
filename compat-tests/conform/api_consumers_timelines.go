package main

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Members of the consumer protocol over time, and what other APIs make of their groups.

func init() {
	consumers := func(what string, f func(s *session, v int16)) { eachVersion(kmsg.ConsumerGroupHeartbeat, what, f) }

	consumers("three members", func(s *session, v int16) {
		topic, g := s.create(6), s.group()
		a, b, c := s.consumer(v, g, "a", topic), s.consumer(v, g, "b", topic), s.consumer(v, g, "c", topic)
		all := []*consumer{a, b, c}
		a.join()
		b.join()
		c.join() // before the first two have agreed
		for range 4 {
			for _, x := range all {
				x.ask(x.beat(x.owning))
			}
			s.lookAt(v, g)
		}
		b.ask(b.beat(inEpoch(-1)))
		for range 3 {
			for _, x := range []*consumer{c, a} {
				x.ask(x.beat(x.owning))
			}
			s.lookAt(v, g)
		}
		b.epoch, b.has = 0, nil
		b.join()
		a.ask(a.beat(a.owning))
		a.ask(a.beat(inEpoch(-1))) // who is asked to give up leaves
		b.ask(b.beat(b.owning))
		s.lookAt(v, g)
		for range 3 {
			for _, x := range []*consumer{c, b} {
				x.ask(x.beat(x.owning))
			}
		}
		s.lookAt(v, g)
		for _, x := range []*consumer{b, c} {
			x.ask(x.beat(inEpoch(-1)))
		}
		s.lookAt(v, g)
	})

	consumers("answers that are lost", func(s *session, v int16) {
		topic, g := s.create(4), s.group()
		a, b := s.consumer(v, g, "a", topic), s.consumer(v, g, "b", topic)
		a.join()
		a.join() // it has not heard
		s.lookAt(v, g)
		a.ask(a.beat(a.owning))
		before := *a
		b.join()
		b.join()
		a.ask(a.beat())
		told := *a
		a.ask(a.beat(a.owning)) // a new epoch
		lost := func(x *consumer, changes ...func(*kmsg.ConsumerGroupHeartbeatRequest)) {
			again := *x
			again.ask(again.beat(changes...))
		}
		lost(&told)
		lost(&told, told.owning)
		lost(&told, told.owning)
		lost(&told, full(topic), told.owning)
		lost(&told, func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{} })
		lost(&before, before.owning) // it had more
		lost(&told, inEpoch(told.epoch-1), told.owning)
		lost(a, inEpoch(a.epoch+1), a.owning)
		s.lookAt(v, g)
		b.ask(b.beat(b.owning))
		lost(b, inEpoch(b.epoch-1), b.owning)
		a.ask(a.beat(a.owning))
		s.lookAt(v, g)
		a.ask(a.beat(inEpoch(-1)))
		lost(a, inEpoch(-1))
		lost(a, a.owning)
		a.join()
		s.lookAt(v, g)
	})

	consumers("ids that the broker makes", func(s *session, v int16) {
		topic, other, g := s.create(2), s.create(1), s.group()
		c := s.consumer(v, g, "", topic)
		resp := c.ask(c.beat(inEpoch(0), full(topic)))
		if v >= 1 {
			return
		}
		c.id = *resp.MemberID
		c.ask(c.beat(c.owning))
		d := s.consumer(v, g, "", other) // something else: who gets what hangs on the ids
		d.id = *d.ask(d.beat(inEpoch(0), full(d.topics...))).MemberID
		s.lookAt(v, g)
		c.commit(9, c.epoch, topic, 0)
		c.ask(c.beat(inEpoch(-1)))
		d.ask(d.beat(d.owning))
		s.lookAt(v, g)
		i := s.consumer(v, g, "", topic)
		i.instance, i.topics = ptr("i"), nil
		i.id = *i.ask(i.beat(inEpoch(0), full())).MemberID
		s.lookAt(v, g)
	})

	consumers("topics that change", func(s *session, v int16) {
		topic, later, g := s.create(2), s.topic(), s.group()
		a, b := s.consumer(v, g, "a", topic, later), s.consumer(v, g, "b", topic)
		held := func(c *consumer) int {
			n := 0
			for _, t := range c.has {
				n += len(t.Partitions)
			}
			return n
		}
		settled := func(hasA, hasB int) { // a coordinator hears of topics when it does
			s.until("an assignment", func() bool {
				for _, c := range []*consumer{a, b} {
					c.heard(quietly[*kmsg.ConsumerGroupHeartbeatResponse](s, c.beat(c.owning)))
				}
				return held(a) == hasA && held(b) == hasB && a.epoch == b.epoch
			})
			a.ask(a.beat(a.owning))
			b.ask(b.beat(b.owning))
			s.lookAt(v, g)
		}
		a.join()
		b.join()
		settled(1, 1)
		s.createAs(later, 3)
		settled(4, 1)
		b.ask(b.beat(b.owning, func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicNames = []string{topic, later} }))
		settled(3, 2)
		more := at(kmsg.NewPtrCreatePartitionsRequest(), 3)
		more.TimeoutMillis = 10_000
		more.Topics = []kmsg.CreatePartitionsRequestTopic{{Topic: topic, Count: 6}}
		quietly[*kmsg.CreatePartitionsResponse](s, more)
		settled(5, 4)
		a.commit(9, a.epoch, topic, 0)
		a.commit(9, a.epoch, later, 0)
		s.remove(later)
		settled(3, 3)
		a.commit(9, a.epoch, later, 0)
		s.createAs(later, 1) // another of the same name
		settled(4, 3)
		s.until("the end of its offsets", func() bool {
			r := quietly[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(9, g, later, 0))
			return r.Groups[0].Topics[0].Partitions[0].Offset == -1
		})
		a.fetch(nil, -1, topic)
		s.remove(topic)
		settled(1, 0)
	})

	consumers("time that is over", func(s *session, v int16) {
		topic, g := s.create(2), s.group()
		a, b := s.consumer(v, g, "a", topic), s.consumer(v, g, "b", topic)
		a.ask(a.beat(inEpoch(0), full(topic), func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.RebalanceTimeoutMillis = 700 }))
		b.join()
		a.ask(a.beat()) // it is told to give up one, and does not
		describe := at(kmsg.NewPtrConsumerGroupDescribeRequest(), v)
		describe.Groups = []string{g}
		s.until("the end of a", func() bool {
			return len(quietly[*kmsg.ConsumerGroupDescribeResponse](s, describe).Groups[0].Members) == 1
		})
		s.lookAt(v, g)
		a.ask(a.beat(a.owning))
		a.commit(9, a.epoch, topic, 0)
		b.ask(b.beat(b.owning))
		b.ask(b.beat(b.owning))
		s.lookAt(v, g)
	})

	consumers("instances", func(s *session, v int16) {
		topic, g := s.create(4), s.group()
		named := func(id, instance string) *consumer {
			c := s.consumer(v, g, id, topic)
			c.instance = &instance
			return c
		}
		a, b, plain := named("a", "i"), named("b", "j"), s.consumer(v, g, "p", topic)
		for range 3 {
			for _, c := range []*consumer{a, b, plain} {
				if c.epoch == 0 {
					c.join()
				} else {
					c.ask(c.beat(c.owning))
				}
			}
		}
		for range 2 {
			for _, c := range []*consumer{a, b, plain} {
				c.ask(c.beat(c.owning))
			}
		}
		s.lookAt(v, g)
		// Who says that it is another.
		for _, x := range []*consumer{named("a", "j"), named("b", "i"), named("p", "i"), named("p", "k"), named("x", "i"), named("a", "k")} {
			x.epoch = a.epoch
			for _, e := range []int32{x.epoch, x.epoch + 1, 0, -2} {
				if e != 0 {
					x.ask(x.beat(inEpoch(e)))
				} else if *x.instance != "k" { // a new instance is a new member
					x.ask(x.beat(inEpoch(0), full(topic)))
				}
			}
			x.commit(9, a.epoch, topic, 0)
		}
		a.ask(a.beat(inEpoch(a.epoch), func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = nil }))
		a.ask(a.beat(inEpoch(-2), func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = nil }))
		plain.ask(plain.beat(inEpoch(-2), func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.InstanceID = ptr("p") }))
		s.lookAt(v, g)
		b.ask(b.beat(inEpoch(-2)))
		plain.ask(plain.beat(plain.owning)) // nothing is given away
		a.ask(a.beat(a.owning))
		s.lookAt(v, g)
		b.commit(9, b.epoch, topic, 2)
		b.commit(9, -2, topic, 2)
		b.fetch(&b.id, b.epoch, topic)
		b.fetch(&b.id, -2, topic)
		other := named("b2", "j")
		other.topics = []string{topic, s.prefix + "none"}
		other.join() // it reads something else
		s.lookAt(v, g)
		for range 2 {
			for _, c := range []*consumer{a, other, plain} {
				c.ask(c.beat(c.owning))
			}
		}
		b.ask(b.beat(b.owning))
		b.ask(b.beat(inEpoch(-1)))
		b.join()
		s.lookAt(v, g)
		other.ask(other.beat(inEpoch(-2)))
		plain.ask(plain.beat(inEpoch(-1))) // a new target while it is away
		a.ask(a.beat(a.owning))
		a.ask(a.beat(a.owning))
		s.lookAt(v, g)
		back := named("b3", "j")
		back.join()
		back.ask(back.beat(back.owning))
		a.ask(a.beat(a.owning))
		s.lookAt(v, g)
		back.ask(back.beat(inEpoch(-1))) // for good
		back.join()
		s.lookAt(v, g)
	})

	consumers("assignors", func(s *session, v int16) {
		topic, g := s.create(1), s.group()
		by := func(name *string) func(*kmsg.ConsumerGroupHeartbeatRequest) {
			return func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.ServerAssignor = name }
		}
		for _, x := range []struct {
			id   string
			name *string
		}{{"a", nil}, {"b", ptr("range")}, {"c", ptr("uniform")}, {"d", ptr("uniform")}, {"e", ptr("range")}, {"f", ptr("range")}} {
			c := s.consumer(v, g, x.id, topic)
			quietly[*kmsg.ConsumerGroupHeartbeatResponse](s, c.beat(inEpoch(0), full(topic), by(x.name)))
			req := at(kmsg.NewPtrConsumerGroupDescribeRequest(), v)
			req.Groups = []string{g}
			d := quietly[*kmsg.ConsumerGroupDescribeResponse](s, req).Groups[0]
			s.note("preferred", -1, -1, []any{d.AssignorName, d.Epoch, d.AssignmentEpoch, len(d.Members)})
		}
		one := s.consumer(v, s.group(), "a", topic)
		one.ask(one.beat(inEpoch(0), full(topic), by(nil)))
		for _, name := range []string{"range", "range", "uniform", "Range", "range"} { // a change is reason for another target
			one.ask(one.beat(one.owning, by(&name)))
			s.lookAt(v, one.group)
		}
		two := s.consumer(v, one.group, "b", s.prefix+"none")
		two.ask(two.beat(inEpoch(0), full(two.topics...), by(nil)))
		two.ask(two.beat(two.owning, by(ptr("range")))) // as most want already
		one.ask(one.beat(one.owning))
		two.ask(two.beat(two.owning, by(ptr("uniform"))))
		s.lookAt(v, one.group)
	})

	consumers("commits", func(s *session, v int16) {
		topic, other, g := s.create(4), s.create(1), s.group()
		a, b := s.consumer(v, g, "a", topic), s.consumer(v, g, "b", topic)
		commits := func(c *consumer) {
			for _, version := range []int16{8, 9, 10} {
				for e := int32(-2); e <= c.epoch+1; e++ {
					for _, p := range []int32{0, 2, 3, 7} {
						c.commit(version, e, topic, p)
					}
				}
				c.commit(version, c.epoch, other, 0) // it does not read it
				c.commit(version, c.epoch-1, other, 0)
				m := c.classic()
				m.level, m.generation = version, c.epoch-1
				ask[*kmsg.OffsetCommitResponse](s, m.commit(topic, 3, 0, 3))
				m.instance = ptr("i")
				ask[*kmsg.OffsetCommitResponse](s, m.commit(topic, 3, 0, 3))
				m.id, m.generation = "", -1
				ask[*kmsg.OffsetCommitResponse](s, m.commit(topic, 3, 0))
			}
		}
		a.join()
		commits(a)
		a.ask(a.beat(a.owning))
		b.join()
		commits(b) // it has nothing yet
		a.ask(a.beat())
		commits(a) // it has not given up what it was asked to
		a.ask(a.beat(a.owning))
		commits(a)
		b.ask(b.beat(b.owning))
		commits(b)
		fetches := func(c *consumer) {
			for version := int16(8); version <= 10; version++ {
				for _, topic := range []string{topic, ""} {
					req := s.fetchOffsets(version, g, topic, 0, 3)
					for _, id := range []*string{nil, ptr(""), &c.id, ptr("x")} {
						for _, epoch := range []int32{-2, -1, 0, c.epoch - 1, c.epoch, c.epoch + 1} {
							req.Groups[0].MemberID, req.Groups[0].MemberEpoch = id, epoch
							ask[*kmsg.OffsetFetchResponse](s, req)
						}
					}
				}
			}
			old := s.fetchOffsets(7, g, topic, 0, 3)
			ask[*kmsg.OffsetFetchResponse](s, old)
		}
		fetches(b)
		a.ask(a.beat(inEpoch(-1)))
		b.ask(b.beat(inEpoch(-1)))
		commits(a) // nobody is in the group
		fetches(b)
	})

	consumers("deletions", func(s *session, v int16) {
		topic, other, g := s.create(2), s.create(1), s.group()
		c := s.consumer(v, g, "a", topic)
		left := func() { ask[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(9, g, "")) }
		c.join()
		c.commit(9, c.epoch, topic, 0)
		c.commit(9, c.epoch, topic, 1)
		c.commit(9, c.epoch, other, 0)
		both := deleteOffsets(g, topic, 1, 7)
		both.Topics = append(both.Topics, deleteOffsets(g, other, 0).Topics...)
		for _, req := range []*kmsg.OffsetDeleteRequest{both, deleteOffsets(g, s.prefix+"none", 0), deleteOffsets(g, topic)} {
			ask[*kmsg.OffsetDeleteResponse](s, req)
			left()
		}
		for version := range int16(3) {
			ask[*kmsg.DeleteGroupsResponse](s, deleteGroups(s, version, g, g+"-none"))
		}
		c.ask(c.beat(c.owning))
		c.ask(c.beat(inEpoch(-1)))
		ask[*kmsg.OffsetDeleteResponse](s, deleteOffsets(g, topic, 1))
		left()
		ask[*kmsg.DeleteGroupsResponse](s, deleteGroups(s, 2, g))
		left()
		s.lookAt(v, g)
		c.ask(c.beat(c.owning))
		c.join() // a new group
		s.lookAt(v, g)
		left()
	})

	consumers("lists", func(s *session, v int16) {
		topic := s.create(2)
		empty, stable, assigning, reconciling := s.consuming(v, topic), s.consuming(v, topic), s.consuming(v, topic), s.consuming(v, topic)
		s.stable(topic)
		quiet := func(req *kmsg.ConsumerGroupHeartbeatRequest) { quietly[*kmsg.ConsumerGroupHeartbeatResponse](s, req) }
		quiet(empty.beat(inEpoch(-1)))
		for _, c := range []*consumer{assigning, reconciling} {
			more := s.consumer(v, c.group, "b", topic)
			quiet(more.beat(inEpoch(0), full(topic)))
			if c == assigning {
				quiet(more.beat(inEpoch(-1)))
			}
		}
		for level := range int16(6) {
			for _, states := range [][]string{{}, {"Stable"}, {"Assigning"}, {"reconciling"}, {"EMPTY", "Assigning"}, {"Dead"}} {
				for _, types := range [][]string{{}, {"consumer"}, {"Consumer", "classic"}, {"classic"}} {
					ask[*kmsg.ListGroupsResponse](s, set(listGroups(s, level, states...), func(r *kmsg.ListGroupsRequest) { r.TypesFilter = types }))
				}
			}
		}
		for _, c := range []*consumer{empty, stable, assigning, reconciling} {
			for level := range int16(7) {
				ask[*kmsg.DescribeGroupsResponse](s, describeGroups(s, level, c.group))
			}
			s.lookAt(v, c.group)
		}
		s.lookAt(v, empty.group, stable.group, stable.group, assigning.group, reconciling.group+"-none", "")
	})

	eachVersion(kmsg.ConsumerGroupDescribe, "several groups", func(s *session, v int16) {
		topic := s.create(3)
		a, b := s.consuming(v, topic), s.consuming(v, topic)
		for _, authorized := range []bool{false, true} {
			for _, groups := range [][]string{nil, {}, {a.group}, {b.group, a.group}, {a.group, a.group}, {""}, {a.group, "", s.prefix + "none"}, {s.stable(topic).group}} {
				req := at(kmsg.NewPtrConsumerGroupDescribeRequest(), v)
				req.Groups, req.IncludeAuthorizedOperations = groups, authorized
				s.try(req)
			}
		}
	})
}
