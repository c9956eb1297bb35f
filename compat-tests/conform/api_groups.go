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
}
