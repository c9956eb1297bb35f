package main

import (
	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	timeline("one member", func(s *session, level int16) {
		topic, g := s.create(3), s.group()
		s.look(level, g)
		m := s.member(level, g, "a")
		m.come()
		s.look(level, g)
		m.ask(m.beat())
		m.ask(m.commit(topic, 5, 0)) // before the assignment
		m.ask(m.sync(m))
		s.look(level, g)
		m.ask(m.sync()) // again
		m.ask(m.beat())
		ask[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(level, g, topic, 0, 1))
		m.ask(m.commit(topic, 7, 0, 2))
		ask[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(level, g, topic, 0, 1, 2))
		ask[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(level, g, topic))
		if level >= 2 { // before, none stood for none
			ask[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(level, g, ""))
		}
		m.ask(deleteGroups(s, level, g))
		m.come() // a leader's own rebalance
		m.ask(m.sync(m))
		m.ask(m.leave())
		m.ask(m.beat())
		m.ask(m.leave())
		s.look(level, g)
		m.ask(m.commit(topic, 8, 0))
		m.ask(deleteGroups(s, level, g, g+"-none", ""))
		s.look(level, g)
		ask[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(level, g, topic, 0, 1, 2))
	})

	timeline("who is unknown", func(s *session, level int16) {
		topic, none, g := s.create(1), s.group(), s.group()
		m := s.member(level, g, "a")
		m.come()
		m.ask(m.sync(m))
		nobody := func(group, id string, generation int32, instance *string) *member {
			x := *m
			x.group, x.id, x.generation, x.instance = group, id, generation, instance
			return &x
		}
		for _, x := range []*member{
			nobody("", "x", 1, nil), nobody(none, "x", 1, nil), nobody(none, "", -1, nil), nobody(none, "x", -1, nil), nobody(none, "", 1, nil),
			nobody(g, "x", 1, nil), nobody(g, "", -1, nil), nobody(g, "", 1, nil), nobody(g, "x", -1, nil),
			nobody(g, m.id, 2, nil), nobody(g, m.id, 0, nil), nobody(g, m.id, -1, nil),
			nobody(g, m.id, 1, ptr("i")), nobody(g, "x", 1, ptr("i")), nobody(g, "", -1, ptr("i")), nobody(none, "x", 1, ptr("i")), nobody(g, m.id, 1, ptr("")),
		} {
			if x.instance != nil && level < 7 { // older commits have no room for it
				continue
			}
			x.ask(x.beat())
			x.ask(x.sync())
			x.ask(x.commit(topic, 1, 0))
			ask[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(level, x.group, topic, 0))
			if x.id != m.id || x.instance != nil {
				x.ask(x.leave())
			}
			if x.id != "" && x.id != m.id {
				x.ask(x.join())
			}
		}
		s.look(level, none)
		s.look(level, g)
		s.look(level, "")
		m.ask(m.beat())
	})

	timeline("joins that are refused", func(s *session, level int16) {
		g := s.group()
		m := s.member(level, g, "a")
		other := s.member(level, g, "b")
		refused := func() {
			for _, change := range []func(r *kmsg.JoinGroupRequest){
				func(r *kmsg.JoinGroupRequest) { r.Group = "" },
				func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 499 },
				func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 1_800_001 },
				func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = -1 },
				func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "" },
				func(r *kmsg.JoinGroupRequest) { r.Protocols = nil },
				func(r *kmsg.JoinGroupRequest) { r.Group, r.SessionTimeoutMillis, r.Protocols = "", 1, nil },
				func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis, r.Protocols = 1, nil },
				func(r *kmsg.JoinGroupRequest) { r.MemberID, r.Protocols = "x", nil },
				func(r *kmsg.JoinGroupRequest) { r.MemberID = "x" },
			} {
				other.ask(set(other.join(), change))
			}
		}
		refused()
		s.look(level, g)
		m.come()
		m.ask(m.sync(m))
		refused()
		other.ask(set(other.join(), func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "connect" }))
		other.ask(set(other.join(), func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Name = "sticky" }))
		other.ask(set(other.join(), func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Name = "" }))
		m.ask(set(m.join(), func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "connect" }))
		m.ask(set(m.join(), func(r *kmsg.JoinGroupRequest) { r.Protocols = nil }))
		m.ask(m.beat())
		s.look(level, g)
	})

	timeline("assignments that are refused", func(s *session, level int16) {
		g := s.group()
		m := s.member(level, g, "a")
		m.come()
		for range 2 {
			m.ask(set(m.sync(m), func(r *kmsg.SyncGroupRequest) { r.Generation++ }))
			if level >= 5 {
				m.ask(set(m.sync(m), func(r *kmsg.SyncGroupRequest) { r.ProtocolType = ptr("connect") }))
				m.ask(set(m.sync(m), func(r *kmsg.SyncGroupRequest) { r.Protocol = ptr("sticky") }))
				m.ask(set(m.sync(m), func(r *kmsg.SyncGroupRequest) { r.Protocol = nil }))
				m.ask(set(m.sync(m), func(r *kmsg.SyncGroupRequest) { r.ProtocolType = nil }))
				m.ask(set(m.sync(m), func(r *kmsg.SyncGroupRequest) { r.ProtocolType, r.Protocol = ptr(""), ptr("") }))
			}
			m.ask(m.beat())
			m.ask(set(m.sync(m), func(r *kmsg.SyncGroupRequest) {
				r.GroupAssignment = append(r.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: "x", MemberAssignment: []byte("y")})
			}))
			s.look(level, g)
		}
		none := s.member(level, s.group(), "b")
		none.come()
		none.ask(none.sync()) // its leader assigns nothing to anybody
		s.look(level, none.group)
		none.ask(none.sync(none))
	})

	timeline("commits", func(s *session, level int16) {
		topic, other, g := s.create(2), s.create(1), s.group()
		m := s.member(level, g, "a") // in no group
		m.ask(m.commit(topic, 3, 0, 1))
		s.look(level, g)
		note := func(note *string) *kmsg.OffsetCommitRequest {
			return set(m.commit(topic, 4, 0), func(r *kmsg.OffsetCommitRequest) { r.Topics[0].Partitions[0].Metadata = note })
		}
		long := make([]byte, 4097)
		for i := range long {
			long[i] = 'x'
		}
		fetched := func() {
			ask[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(level, g, topic, 0, 1, 7))
			if level >= 2 {
				ask[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(level, g, ""))
			}
		}
		for _, req := range []*kmsg.OffsetCommitRequest{
			note(nil), note(ptr("")), note(ptr(string(long[1:]))), note(ptr(string(long))), note(ptr("\u00e4\u20ac")),
			m.commit(topic, 5, 2), m.commit(topic, 5, -1), m.commit(topic, 5, 0, 0), m.commit(topic, 5), m.commit(topic, -1, 0), m.commit(topic, -7, 1), m.commit(topic, 1<<62, 1),
			set(m.commit(topic, 6, 0, 1, 9), func(r *kmsg.OffsetCommitRequest) { r.Topics = append(r.Topics, s.commitTopic(other, 1, 0)) }),
			set(m.commit(topic, 6, 0), func(r *kmsg.OffsetCommitRequest) { r.Topics = append(r.Topics, s.commitTopic(s.prefix+"none", 1, 0)) }),
			set(m.commit(topic, 6, 0), func(r *kmsg.OffsetCommitRequest) { r.Topics = append(r.Topics, s.commitTopic(topic, 2, 1)) }),
			set(m.commit(topic, 6, 0), func(r *kmsg.OffsetCommitRequest) { r.Topics = nil }),
			set(m.commit(topic, 6, 0), func(r *kmsg.OffsetCommitRequest) { r.Topics[0].Partitions[0].LeaderEpoch = -1 }),
			set(m.commit(topic, 6, 1), func(r *kmsg.OffsetCommitRequest) { r.Topics[0].Partitions[0].LeaderEpoch = 77 }),
			set(m.commit(topic, 6, 1), func(r *kmsg.OffsetCommitRequest) { r.RetentionTimeMillis = 100_000_000 }),
			m.commit(s.prefix+"none", 1, 0),
		} {
			m.ask(req)
			fetched()
		}
		unnamed := *m // the group without a name keeps offsets, and has no members
		unnamed.group = ""
		m.ask(unnamed.commit(topic, 6, 1))
		m.ask(s.fetchOffsets(level, "", topic, 0, 1))
		s.look(level, "")
		m.ask(deleteOffsets("", topic, 1))
		m.ask(unnamed.commit(topic, 6, 1))
		m.ask(deleteGroups(s, level, ""))
		m.ask(s.fetchOffsets(level, "", topic, 0, 1))
		if level < 10 {
			m.ask(m.commit("", 1, 0))
			m.ask(m.commit("a/b", 1, 0))
		}
		s.look(level, g)
		m.come() // the offsets stay
		m.ask(m.sync(m))
		fetched()
		m.ask(m.commit(topic, 9, 0))
		away := s.member(level, g, "b")
		away.ask(away.commit(topic, 10, 0))
		fetched()
	})

	timeline("fetches of offsets", func(s *session, level int16) {
		topic, g, none := s.create(2), s.group(), s.group()
		m := s.member(level, g, "a")
		m.ask(m.commit(topic, 3, 0))
		fetch := func(group, topic string, partitions ...int32) *kmsg.OffsetFetchRequest {
			return s.fetchOffsets(level, group, topic, partitions...)
		}
		several := fetch(g, topic, 0)
		several.Groups = append(several.Groups, fetch(none, topic, 0).Groups[0], fetch("", topic, 0).Groups[0], fetch(none, "").Groups[0])
		empty := fetch(g, topic)
		empty.Topics, empty.Groups[0].Topics = []kmsg.OffsetFetchRequestTopic{}, []kmsg.OffsetFetchRequestGroupTopic{}
		nobody := fetch(g, topic)
		nobody.Groups = nil
		twice := fetch(g, topic, 0)
		twice.Topics, twice.Groups[0].Topics = append(twice.Topics, twice.Topics...), append(twice.Groups[0].Topics, twice.Groups[0].Topics...)
		stable := fetch(g, topic, 0)
		stable.RequireStable = true
		as := func(id *string, epoch int32) *kmsg.OffsetFetchRequest {
			return set(fetch(g, topic, 0), func(r *kmsg.OffsetFetchRequest) { r.Groups[0].MemberID, r.Groups[0].MemberEpoch = id, epoch })
		}
		for _, req := range []*kmsg.OffsetFetchRequest{
			fetch(none, topic, 0), fetch("", topic, 0), fetch(g, topic, 0, 1, 2, -1), fetch(g, topic), fetch(g, topic, 0, 0),
			fetch(g, s.prefix+"none", 0, 1), several, empty, nobody, twice, stable, as(ptr("x"), 1), as(ptr(""), -1), as(nil, 5), as(ptr("x"), -1),
		} {
			s.try(req)
		}
		if level < 2 {
			return
		}
		s.try(fetch(none, ""))
		s.try(fetch("", ""))
	})

	eachVersion(kmsg.OffsetDelete, "offsets", func(s *session, v int16) {
		topic, other, g := s.create(3), s.create(1), s.group()
		m := s.member(9, g, "a")
		m.topics = []string{topic}
		m.ask(deleteOffsets(g, topic, 0)) // there is no group
		m.ask(m.commit(topic, 1, 0, 1, 2))
		m.ask(m.commit(other, 1, 0))
		left := func() { ask[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(9, g, "")) }
		m.ask(deleteOffsets(g, topic, 0, 7, -1, 0))
		left()
		m.come()
		m.ask(deleteOffsets(g, topic, 1))
		m.ask(m.sync(m))
		m.ask(deleteOffsets(g, topic, 1, 9))
		both := deleteOffsets(g, topic, 1)
		both.Topics = append(both.Topics, deleteOffsets(g, other, 0).Topics...)
		m.ask(both)
		left()
		for _, req := range []*kmsg.OffsetDeleteRequest{
			deleteOffsets("", topic, 0), deleteOffsets(g, s.prefix+"none", 0), deleteOffsets(g, "", 0), deleteOffsets(g, topic),
			set(deleteOffsets(g, topic), func(r *kmsg.OffsetDeleteRequest) { r.Topics = nil }),
			set(deleteOffsets("", topic), func(r *kmsg.OffsetDeleteRequest) { r.Topics = nil }),
		} {
			m.ask(req)
		}
		m.ask(m.leave())
		m.ask(deleteOffsets(g, topic, 1, 2))
		left()
		s.look(5, g) // nothing is left of it
	})

	eachVersion(kmsg.OffsetDelete, "offsets of what is no consumer", func(s *session, v int16) {
		topic, g := s.create(1), s.group()
		m := s.member(9, g, "a")
		m.ask(m.commit(topic, 1, 0))
		m.ask(m.join())
		m.ask(set(m.join(), func(r *kmsg.JoinGroupRequest) { r.ProtocolType, r.Protocols[0].Metadata = "connect", []byte("x") }))
		m.ask(deleteOffsets(g, topic, 0))
		m.ask(set(m.sync(m), func(r *kmsg.SyncGroupRequest) { r.ProtocolType = ptr("connect") }))
		m.ask(deleteOffsets(g, topic, 0))
		s.look(5, g)

		odd := s.member(9, s.group(), "b") // a consumer that says what cannot be read
		odd.ask(odd.commit(topic, 1, 0))
		odd.ask(odd.join())
		odd.ask(set(odd.join(), func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Metadata = []byte("x") }))
		odd.ask(odd.sync(odd))
		odd.ask(deleteOffsets(odd.group, topic, 0))
		ask[*kmsg.OffsetFetchResponse](s, s.fetchOffsets(9, odd.group, ""))
	})

	timeline("lists", func(s *session, level int16) {
		g, empty := s.group(), s.group()
		topic := s.create(1)
		m := s.member(level, g, "a")
		x := s.member(level, empty, "b")
		x.ask(x.commit(topic, 1, 0))
		m.come()
		for _, states := range [][]string{{}, {"Stable"}, {"CompletingRebalance"}, {"completingrebalance"}, {"COMPLETINGREBALANCE", "Empty"}, {"Completing_Rebalance"}, {"Dead"}, {""}, {"x"}} {
			m.ask(listGroups(s, level, states...))
		}
		for _, types := range [][]string{{}, {"classic"}, {"Classic"}, {"consumer"}, {"share", "CLASSIC"}, {"x"}, {"x", "classic"}, {""}} {
			m.ask(set(listGroups(s, level), func(r *kmsg.ListGroupsRequest) { r.TypesFilter = types }))
		}
		m.ask(set(listGroups(s, level, "Empty"), func(r *kmsg.ListGroupsRequest) { r.TypesFilter = []string{"consumer"} }))
		m.ask(describeGroups(s, level))
		m.ask(describeGroups(s, level, g, empty, g, g+"-none", ""))
		m.ask(deleteGroups(s, level))
		m.ask(deleteGroups(s, level, g, empty, empty))
		m.ask(listGroups(s, level))
	})

	timeline("two members", func(s *session, level int16) {
		topic, g := s.create(2), s.group()
		a, b := s.member(level, g, "a"), s.member(level, g, "b")
		settled := func() {
			b.say(b.sync())
			a.say(a.sync(a, b))
			b.hear()
			a.hear()
			s.look(level, g)
		}
		a.come()
		a.ask(a.sync(a))
		b.enter()
		s.inState(g, "PreparingRebalance", 2)
		s.look(level, g)
		a.ask(a.beat())
		a.ask(a.sync(a))
		a.ask(a.commit(topic, 1, 0))
		a.ask(deleteGroups(s, level, g))
		a.say(a.join())
		b.hear()
		a.hear()
		s.look(level, g)
		a.ask(a.beat())
		b.ask(b.beat())
		a.ask(a.commit(topic, 2, 0))
		b.ask(b.join()) // has it not heard?
		a.ask(a.join())
		settled()
		b.ask(b.join()) // it wants to be sure
		b.ask(b.sync())
		b.ask(b.commit(topic, 3, 1))
		b.topics = []string{"t", "u"}
		b.say(b.join()) // a subscription that is new
		s.inState(g, "PreparingRebalance", 2)
		a.ask(a.beat())
		s.member(level, g, "c").ask(b.beat())
		a.say(a.join())
		b.hear()
		a.hear()
		settled()
		b.ask(b.leave())
		b.ask(b.beat())
		a.ask(a.beat())
		s.look(level, g)
		a.come()
		b.id, b.generation = "", -1
		b.enter() // while the generation waits for its assignment
		s.inState(g, "PreparingRebalance", 2)
		a.ask(a.sync(a))
		a.say(a.join())
		b.hear()
		a.hear()
		settled()
		a.ask(a.leave()) // the leader
		b.ask(b.beat())
		b.ask(b.sync())
		b.come()
		b.ask(b.sync(b))
		a.ask(a.beat())
		a.ask(a.sync())
		a.ask(a.commit(topic, 4, 0))
		x := *a
		x.id = "x"
		b.ask(s.leaving(level, g, b, a, &x))
		s.look(level, g)
		a.ask(a.join())
		b.ask(b.join())
	})

	timeline("waits that end", func(s *session, level int16) {
		g := s.group()
		a, b, c := s.member(level, g, "a"), s.member(level, g, "b"), s.member(level, g, "c")
		a.come()
		a.ask(a.sync(a))
		b.enter()
		s.inState(g, "PreparingRebalance", 2)
		a.say(a.join())
		b.hear()
		a.hear()
		b.say(b.sync()) // it waits for the leader
		c.enter()
		b.hear()
		s.inState(g, "PreparingRebalance", 3)
		a.ask(a.beat())
		a.ask(b.leave())
		if level >= 4 { // before, its id is not known
			d := s.member(level, g, "d")
			d.enter()
			s.inState(g, "PreparingRebalance", 3)
			a.ask(d.leave())
			d.hear()
		}
		a.say(a.join())
		c.hear()
		a.hear()
		a.ask(c.leave())
		a.ask(a.beat())
		s.look(level, g)
	})

	register("JoinGroup/twice by one member", func(s *session) {
		a := s.member(9, s.group(), "a")
		a.come()
		a.ask(a.sync(a))
		b := s.member(9, a.group, "b")
		b.enter()
		s.inState(a.group, "PreparingRebalance", 2)
		again := *b
		again.c = s.member(9, a.group, "b").c
		a.ask(a.beat())
		again.say(again.join())
		b.hear()
	})

	timeline("ids that are not used", func(s *session, level int16) {
		if level < 5 {
			return
		}
		g := s.group()
		a, b, c := s.member(level, g, "a"), s.member(level, g, "b"), s.member(level, g, "c")
		b.ask(b.join())
		s.look(level, g)
		b.ask(b.beat())
		b.ask(b.sync())
		b.ask(b.leave())
		b.ask(b.join())
		s.look(level, g)
		a.come()
		a.ask(a.sync(a))
		b.id = ""
		b.ask(b.join())
		b.ask(b.beat())
		b.ask(set(b.join(), func(r *kmsg.JoinGroupRequest) { r.InstanceID = ptr("i") }))
		s.look(level, g)
		c.enter()
		s.inState(g, "PreparingRebalance", 2)
		a.say(a.join()) // b is waited for
		s.inState(g, "PreparingRebalance", 2)
		c2 := s.member(level, g, "d")
		c2.ask(b.leave())
		c.hear()
		a.hear()
		b.ask(b.join())
	})

	timeline("protocols", func(s *session, level int16) {
		g := s.group()
		a, b, c := s.member(level, g, "a"), s.member(level, g, "b"), s.member(level, g, "c")
		a.likes = []string{"range", "sticky"}
		b.likes = []string{"sticky"}
		c.likes = []string{"range"}
		a.come()
		a.ask(a.sync(a))
		b.enter()
		s.inState(g, "PreparingRebalance", 2)
		a.say(a.join())
		b.hear()
		a.hear()
		c.ask(c.join())
		b.say(b.sync())
		a.ask(a.sync(a, b)) // of the protocol that it likes best
		a.ask(set(a.sync(a, b), func(r *kmsg.SyncGroupRequest) { r.Protocol = ptr("sticky") }))
		b.hear()
		s.look(level, g)
		a.ask(set(a.join(), func(r *kmsg.JoinGroupRequest) { r.Protocols = r.Protocols[:1] })) // no more in common
		a.ask(a.beat())
		b.ask(set(b.join(), func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Name = "other" }))
		b.ask(b.beat())
		a.ask(a.leave())
		b.likes = []string{"other", "sticky"}
		b.come()
		s.look(level, g)
	})

	timeline("sessions that end", func(s *session, level int16) {
		if level > 1 && level < 9 { // it takes its time
			return
		}
		g := s.group()
		a, b := s.member(level, g, "a"), s.member(level, g, "b")
		brief := func(m *member) *kmsg.JoinGroupRequest {
			return set(m.join(), func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis, r.RebalanceTimeoutMillis = 1000, 1200 })
		}
		comes := func(m *member) {
			if m.id == "" && level >= 4 {
				m.ask(brief(m))
			}
			m.say(brief(m))
		}
		comes(a)
		a.hear()
		a.ask(a.sync(a))
		s.inState(g, "Empty", 0)
		a.ask(a.beat())
		s.look(level, g)
		a.id = ""
		comes(a)
		a.hear()
		s.inState(g, "Empty", 0) // it has not asked for an assignment
		a.ask(a.sync(a))
		a.id = ""
		comes(a)
		a.hear()
		a.ask(a.sync(a))
		comes(b)
		s.inState(g, "PreparingRebalance", 2)
		b.hear() // alone
		a.ask(a.beat())
		b.ask(b.sync(b))
		s.look(level, g)
	})

	timeline("static members", func(s *session, level int16) {
		if level < 7 { // commits of older levels cannot say who they are of
			return
		}
		topic, g := s.create(1), s.group()
		old := s.instanceOf(level, g, "a", "i")
		old.come()
		s.look(level, g)
		old.ask(old.sync(old))
		a := s.instanceOf(level, g, "a", "i")
		a.come() // it began anew
		s.look(level, g)
		a.ask(a.sync())
		a.ask(a.beat())
		fenced := func(old *member) {
			old.ask(old.beat())
			old.ask(old.sync())
			old.ask(old.commit(topic, 1, 0))
			old.ask(old.join())
			old.ask(old.leave())
			nameless := *old
			nameless.instance = nil
			old.ask(nameless.beat())
			old.ask(nameless.leave())
		}
		fenced(old)
		a.ask(a.beat())
		old = a
		a = s.instanceOf(level, g, "a", "i")
		a.topics = []string{"u"}
		a.come() // with another subscription: a rebalance
		s.look(level, g)
		fenced(old)
		a.ask(a.sync(a))

		b := s.instanceOf(level, g, "b", "j")
		b.enter()
		s.inState(g, "PreparingRebalance", 2)
		b2 := s.instanceOf(level, g, "b", "j")
		b2.enter() // while the first waits
		b.hear()
		a.ask(a.beat())
		a.say(a.join())
		b2.hear()
		a.hear()
		b = s.instanceOf(level, g, "b", "j")
		b.enter() // before the assignment
		s.inState(g, "PreparingRebalance", 2)
		a.ask(a.sync(a, b2))
		a.say(a.join())
		b.hear()
		a.hear()
		b.say(b.sync())
		a.say(a.sync(a, b))
		b.hear()
		a.hear()
		s.look(level, g)
		b2 = s.instanceOf(level, g, "b", "j")
		b2.come() // a follower, without a rebalance
		b2.ask(b2.sync())
		a.ask(a.beat())
		fenced(b)
		old, a = a, s.instanceOf(level, g, "a", "i")
		a.topics = []string{"u"}
		a.come() // the leader
		a.ask(a.beat())
		a.ask(a.sync())
		fenced(old)
		s.look(level, g)
		unknown := *a
		unknown.instance = ptr("k")
		fenced(&unknown)
		noID := *a
		noID.id = ""
		noID.instance = ptr("j")
		a.ask(s.leaving(level, g, &unknown, &noID)) // of an instance, whoever it is
		b2.ask(b2.beat())
		a.ask(a.beat())
		a.come()
		a.ask(a.sync(a))
		a.ask(a.leave())
		s.look(level, g)
		a.id = ""
		a.come()
	})
}
