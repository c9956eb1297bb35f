package main

import (
	"math"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	eachVersion(kmsg.Fetch, "records", func(s *session, v int16) {
		topic := s.create(1)
		s.fill(topic, batch(values("a", "b")), batch(values("c"), compressed(1)), batch(values("d", "e", "f"), compressed(3)))
		for _, offset := range []int64{0, 1, 2, 3, 4, 5, 6, 7, -1, math.MaxInt64} {
			ask[*kmsg.FetchResponse](s, s.fetch(v, topic, offset))
		}
	})
	eachVersion(kmsg.Fetch, "nothing there", func(s *session, v int16) {
		topic := s.create(2)
		ask[*kmsg.FetchResponse](s, s.fetch(v, topic, 0))
		ask[*kmsg.FetchResponse](s, s.fetch(v, s.topic(), 0))
		for _, p := range []int32{2, -1, math.MaxInt32, math.MinInt32} {
			req := s.fetch(v, topic, 0)
			req.Topics[0].Partitions[0].Partition = p
			ask[*kmsg.FetchResponse](s, req)
		}
		req := s.fetch(v, topic, 0)
		req.Topics = nil
		ask[*kmsg.FetchResponse](s, req)
		req = s.fetch(v, topic, 0)
		req.Topics[0].Partitions = nil
		ask[*kmsg.FetchResponse](s, req)
	})
	eachVersion(kmsg.Fetch, "zstd", func(s *session, v int16) {
		topic := s.create(1)
		s.fill(topic, batch(values("a"), compressed(4)))
		ask[*kmsg.FetchResponse](s, s.fetch(v, topic, 0))
	})
	eachVersion(kmsg.Fetch, "limits", func(s *session, v int16) {
		topic := s.create(3)
		for p := range int32(3) {
			for range 3 {
				quietly[*kmsg.ProduceResponse](s, s.produceTo(9, topic, p, batch(values(strings.Repeat("x", 1000)))))
			}
		}
		for _, limit := range []struct{ all, partition int32 }{{1, 1 << 20}, {1 << 20, 1}, {0, 0}, {2500, 1 << 20}, {1 << 20, 2500}, {-1, -1}, {math.MinInt32, 100}} {
			req := s.fetch(v, topic, 0)
			req.MaxBytes = limit.all
			req.Topics[0].Partitions = nil
			for _, p := range []int32{2, 0, 1} {
				fp := fetchPartition(p, 0)
				fp.PartitionMaxBytes = limit.partition
				req.Topics[0].Partitions = append(req.Topics[0].Partitions, fp)
			}
			ask[*kmsg.FetchResponse](s, req)
		}
	})
	eachVersion(kmsg.Fetch, "waiting", func(s *session, v int16) {
		topic := s.create(1)
		s.fill(topic, batch(values("a")))
		for _, c := range []struct{ wait, least int32 }{{100, 1}, {100, 1000}, {0, 1000}, {-1, 1}, {100, 0}, {100, -1}} {
			req := s.fetch(v, topic, 1)
			req.MaxWaitMillis, req.MinBytes = c.wait, c.least
			ask[*kmsg.FetchResponse](s, req)
			req = s.fetch(v, topic, 0)
			req.MaxWaitMillis, req.MinBytes = c.wait, c.least
			ask[*kmsg.FetchResponse](s, req)
		}
	})
	eachVersion(kmsg.Fetch, "isolation", func(s *session, v int16) {
		topic := s.create(1)
		s.fill(topic, batch(values("a", "b")))
		for _, level := range []int8{0, 1, 2, -1} {
			req := s.fetch(v, topic, 0)
			req.IsolationLevel = level
			s.try(req)
		}
	})
	eachVersion(kmsg.Fetch, "after deleting", func(s *session, v int16) {
		topic := s.create(1)
		s.fill(topic, batch(values("a", "b", "c")), batch(values("d")))
		quietly[*kmsg.DeleteRecordsResponse](s, deleteRecords(2, topic, 1))
		for _, offset := range []int64{0, 1, 2, 4, 5} {
			ask[*kmsg.FetchResponse](s, s.fetch(v, topic, offset))
		}
	})
	eachVersion(kmsg.Fetch, "leader epochs", func(s *session, v int16) {
		topic := s.create(1)
		s.fill(topic, batch(values("a", "b")))
		for _, current := range []int32{-1, 0, 1, 100, -2} {
			for _, last := range []int32{-1, 0, 1} {
				req := s.fetch(v, topic, 1)
				req.Topics[0].Partitions[0].CurrentLeaderEpoch = current
				req.Topics[0].Partitions[0].LastFetchedEpoch = last
				ask[*kmsg.FetchResponse](s, req)
			}
		}
	})
	eachVersion(kmsg.Fetch, "rack", func(s *session, v int16) {
		topic := s.create(1)
		s.fill(topic, batch(values("a")))
		for _, rack := range []string{"", "somewhere"} {
			req := s.fetch(v, topic, 0)
			req.Rack = rack
			ask[*kmsg.FetchResponse](s, req)
		}
	})
	eachVersion(kmsg.Fetch, "twice the same", func(s *session, v int16) {
		topic := s.create(1)
		s.fill(topic, batch(values("a")))
		req := s.fetch(v, topic, 0)
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, fetchPartition(0, 1))
		ask[*kmsg.FetchResponse](s, req)
		req = s.fetch(v, topic, 0)
		req.Topics = append(req.Topics, req.Topics...)
		ask[*kmsg.FetchResponse](s, req)
	})
	eachVersion(kmsg.Fetch, "sessions", sessions)
	eachVersion(kmsg.Fetch, "sessions that are none", func(s *session, v int16) {
		if v < 7 {
			s.note("sessions before their time", int16(kmsg.Fetch), v, "none")
			return
		}
		topic := s.create(1)
		for _, c := range []struct{ id, epoch int32 }{{99, 1}, {99, 0}, {99, -1}, {0, 1}, {0, 5}, {-1, 0}, {99, -2}} {
			req := s.fetch(v, topic, 0)
			req.SessionID, req.SessionEpoch = c.id, c.epoch
			ask[*kmsg.FetchResponse](s, req)
		}
	})
	register("Fetch/session of a topic made again", func(s *session) {
		for _, v := range []int16{12, 13} {
			name := s.create(1)
			s.fill(name, batch(values("a")))
			req := s.fetch(v, name, 0)
			req.SessionEpoch = 0
			first := ask[*kmsg.FetchResponse](s, req)
			s.remove(name)
			s.createAs(name, 1)
			s.fill(name, batch(values("b", "c")))
			next := at(kmsg.NewPtrFetchRequest(), v)
			next.ReplicaID, next.MaxBytes, next.SessionID, next.SessionEpoch = -1, 1<<20, first.SessionID, 1
			ask[*kmsg.FetchResponse](s, next)
		}
	})
	register("Fetch/a session by names goes on by ids", func(s *session) {
		topic := s.create(1)
		s.fill(topic, batch(values("a")))
		req := s.fetch(12, topic, 0)
		req.SessionEpoch = 0
		first := ask[*kmsg.FetchResponse](s, req)
		req = s.fetch(13, topic, 0)
		req.SessionID, req.SessionEpoch = first.SessionID, 1
		ask[*kmsg.FetchResponse](s, req)
	})
}

// sessions is a session's life: opened, asked again, filled, changed, closed.
func sessions(s *session, v int16) {
	if v < 7 {
		s.note("sessions before their time", int16(kmsg.Fetch), v, "none")
		return
	}
	a, b := s.create(2), s.create(1)
	s.fill(a, batch(values("a")))
	req := s.fetch(v, a, 0)
	req.SessionEpoch = 0
	req.Topics[0].Partitions = append(req.Topics[0].Partitions, fetchPartition(1, 0))
	id := ask[*kmsg.FetchResponse](s, req).SessionID
	epoch := int32(0)
	next := func(topics ...kmsg.FetchRequestTopic) *kmsg.FetchResponse {
		epoch++
		r := at(kmsg.NewPtrFetchRequest(), v)
		r.ReplicaID, r.MaxBytes, r.SessionID, r.SessionEpoch, r.Topics = -1, 1<<20, id, epoch, topics
		return ask[*kmsg.FetchResponse](s, r)
	}
	next()                                      // what was not taken
	next(s.fetchTopic(a, fetchPartition(0, 1))) // taken
	next()                                      // nothing new
	s.fill(a, batch(values("b", "c")))          // something new
	next()                                      //
	next(s.fetchTopic(b, fetchPartition(0, 0))) // one more topic
	s.fill(b, batch(values("x")))               //
	next(s.fetchTopic(a, fetchPartition(0, 3))) //
	next(s.fetchTopic(b, fetchPartition(0, 9))) // out of range
	next(s.fetchTopic(b, fetchPartition(0, 1))) // and back
	quietly[*kmsg.DeleteRecordsResponse](s, deleteRecords(2, a, 2))
	next()
	next(s.fetchTopic(s.topic(), fetchPartition(0, 0))) // one that is not there
	forget := at(kmsg.NewPtrFetchRequest(), v)
	forgotten := kmsg.NewFetchRequestForgottenTopic()
	forgotten.Topic, forgotten.TopicID, forgotten.Partitions = a, s.topicID(a), []int32{0}
	epoch++
	forget.ReplicaID, forget.MaxBytes, forget.SessionID, forget.SessionEpoch, forget.ForgottenTopics = -1, 1<<20, id, epoch, append(forget.ForgottenTopics, forgotten)
	ask[*kmsg.FetchResponse](s, forget)
	s.fill(a, batch(values("d")))
	next()
	wrong := at(kmsg.NewPtrFetchRequest(), v)
	wrong.ReplicaID, wrong.MaxBytes, wrong.SessionID, wrong.SessionEpoch = -1, 1<<20, id, epoch+2
	ask[*kmsg.FetchResponse](s, wrong)
	next()
	closing := s.fetch(v, a, 0)
	closing.SessionID, closing.SessionEpoch = id, -1
	ask[*kmsg.FetchResponse](s, closing)
	next()
}
