package main

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Groups of the consumer protocol, asked as classic ones are.

func init() {
	consumers := func(what string, f func(s *session, v int16)) { eachVersion(kmsg.ConsumerGroupHeartbeat, what, f) }

	consumers("asked in the classic protocol", func(s *session, v int16) {
		topic, g := s.create(2), s.group()
		c := s.consumer(v, g, "a", topic)
		i := s.consumer(v, g, "b", topic)
		i.instance = ptr("i")
		c.join()
		i.join()
		for level := int16(0); level <= 9; level++ {
			for _, x := range []*consumer{c, i} {
				m := x.classic()
				m.level = level
				for _, id := range []string{x.id, "x", ""} {
					m.id = id
					for _, generation := range []int32{x.epoch, 0, -1} {
						m.generation = generation
						m.ask(m.beat())
						m.ask(m.sync())
					}
				}
			}
		}
		s.lookAt(v, g)
	})

	consumers("members that are put out", func(s *session, v int16) {
		topic, g := s.create(6), s.group()
		member := func(id, instance string) *consumer {
			c := s.consumer(v, g, id, topic)
			if instance != "" {
				c.instance = &instance
			}
			c.join()
			return c
		}
		a, b, c, d := member("a", ""), member("b", "i"), member("c", "j"), member("d", "k")
		leave := func(level int16, members ...[2]string) {
			req := fit(s, kmsg.NewPtrLeaveGroupRequest(), level)
			req.Group, req.MemberID = g, members[0][0]
			for _, m := range members {
				x := kmsg.NewLeaveGroupRequestMember()
				x.MemberID = m[0]
				if m[1] != "" {
					x.InstanceID = ptr(m[1])
				}
				req.Members = append(req.Members, x)
			}
			ask[*kmsg.LeaveGroupResponse](s, req)
		}
		leave(5, [2]string{"x", ""}, [2]string{"", ""}, [2]string{"", "x"}, [2]string{"a", "i"}, [2]string{"x", "i"}, [2]string{"a", "x"})
		s.lookAt(v, g)
		leave(0, [2]string{"x", ""})
		leave(2, [2]string{"a", ""})
		s.lookAt(v, g)
		leave(4, [2]string{"", "i"}, [2]string{"c", "j"}, [2]string{"x", ""}, [2]string{"c", ""}, [2]string{"", "j"})
		for _, x := range []*consumer{a, b, c, d} {
			x.ask(x.beat(x.owning))
		}
		s.lookAt(v, g)
		leave(3, [2]string{"d", ""})
		s.lookAt(v, g)
		leave(3, [2]string{"d", ""})
		a.join()
		s.lookAt(v, g)
	})

	consumers("from protocol to protocol", func(s *session, v int16) {
		topic, g := s.create(1), s.group()
		c := s.consumer(v, g, "c", topic)
		m := s.member(9, g, "m")
		m.ask(m.commit(topic, 3, 0))
		for range 2 { // in turns, with nobody there in between
			c.join()
			c.commit(9, c.epoch, topic, 0)
			c.ask(c.beat(inEpoch(-1)))
			s.lookAt(v, g)
			m.id, m.generation = "", -1
			m.come()
			m.ask(m.sync(m))
			s.lookAt(v, g)
			m.ask(m.beat())
			c.ask(c.beat(inEpoch(1)))
			ask[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(9, g, topic, 0))
			m.ask(m.leave())
			s.lookAt(v, g)
		}
	})
}
