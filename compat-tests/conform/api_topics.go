package main

import (
	"math"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	eachVersion(kmsg.Metadata, "topics", func(s *session, v int16) {
		a, b := s.create(3), s.create(1)
		ask[*kmsg.MetadataResponse](s, metadata(v, a))
		ask[*kmsg.MetadataResponse](s, metadata(v, b, a))
		req := metadata(v, s.topic(), a)
		req.AllowAutoTopicCreation = false
		if v >= 4 { // before, they would be created
			ask[*kmsg.MetadataResponse](s, req)
			if v >= 1 {
				ask[*kmsg.MetadataResponse](s, metadata(v))
			}
		}
	})
	eachVersion(kmsg.Metadata, "names that are none", func(s *session, v int16) {
		for _, name := range []string{"", ".", "..", "a b", "a/b", "ä", strings.Repeat("x", 249), strings.Repeat("x", 250), "a\x00"} {
			s.try(metadata(v, name))
			if len(name) == 249 { // it is one, and was made
				s.appear(name, 1)
			}
		}
	})
	eachVersion(kmsg.Metadata, "twice the same", func(s *session, v int16) {
		a := s.create(1)
		ask[*kmsg.MetadataResponse](s, metadata(v, a, a))
	})
	eachVersion(kmsg.Metadata, "by id", func(s *session, v int16) {
		if v < 10 {
			s.note("ids before their time", int16(kmsg.Metadata), v, "none")
			return
		}
		a := s.create(2)
		by := func(id [16]byte, name *string) {
			req := at(kmsg.NewPtrMetadataRequest(), v)
			t := kmsg.NewMetadataRequestTopic()
			t.TopicID, t.Topic = id, name
			req.Topics = append(req.Topics, t)
			s.try(req)
		}
		by(s.topicID(a), nil)
		by([16]byte{1, 2, 3}, nil)
		by([16]byte{}, nil)
		by([16]byte{}, &a)
		by(s.topicID(a), &a)
		by(s.topicID(a), ptr("other"))
	})
	eachVersion(kmsg.Metadata, "operations", func(s *session, v int16) {
		if v < 8 {
			s.note("operations before their time", int16(kmsg.Metadata), v, "none")
			return
		}
		req := metadata(v, s.create(1))
		req.IncludeClusterAuthorizedOperations, req.IncludeTopicAuthorizedOperations = true, true
		ask[*kmsg.MetadataResponse](s, req)
	})

	eachVersion(kmsg.CreateTopics, "topics", func(s *session, v int16) {
		create := func(t ...kmsg.CreateTopicsRequestTopic) {
			req := at(kmsg.NewPtrCreateTopicsRequest(), v)
			req.TimeoutMillis, req.Topics = 10_000, t
			s.created(ask[*kmsg.CreateTopicsResponse](s, req))
			s.settle()
		}
		a := s.topic()
		create(newTopic(a, 2))
		create(newTopic(a, 2))
		ask[*kmsg.MetadataResponse](s, metadata(9, a))
		for _, n := range []int32{0, -1, -2, math.MinInt32} {
			create(newTopic(s.topic(), n))
		}
		for _, n := range []int16{0, -1, -2, 2, math.MaxInt16} {
			t := newTopic(s.topic(), 1)
			t.ReplicationFactor = n
			create(t)
		}
		for _, name := range []string{"", ".", "..", "a b", "a/b", "ä", strings.Repeat("x", 250), "a\x00"} {
			create(newTopic(name, 1))
		}
		d := s.topic()
		create(newTopic(d, 1), newTopic(d, 1))
		create(newTopic(s.topic(), 1), newTopic("", 1), newTopic(s.topic(), 3), newTopic(a, 1))
		create()
	})
	eachVersion(kmsg.CreateTopics, "names that collide", func(s *session, v int16) {
		name := s.topic()
		s.createAs(name+".x", 1)
		req := at(kmsg.NewPtrCreateTopicsRequest(), v)
		req.TimeoutMillis, req.Topics = 10_000, append(req.Topics, newTopic(name+"_x", 1))
		ask[*kmsg.CreateTopicsResponse](s, req)
	})
	eachVersion(kmsg.CreateTopics, "assignments", func(s *session, v int16) {
		create := func(partitions int32, factor int16, assignment ...[]int32) {
			t := newTopic(s.topic(), partitions)
			t.ReplicationFactor = factor
			for i, replicas := range assignment {
				a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
				a.Partition, a.Replicas = int32(i), replicas
				t.ReplicaAssignment = append(t.ReplicaAssignment, a)
			}
			req := at(kmsg.NewPtrCreateTopicsRequest(), v)
			req.TimeoutMillis, req.Topics = 10_000, append(req.Topics, t)
			s.created(ask[*kmsg.CreateTopicsResponse](s, req))
		}
		create(-1, -1, []int32{1})
		create(-1, -1, []int32{1}, []int32{1})
		create(1, -1, []int32{1})
		create(-1, 1, []int32{1})
		create(-1, -1, []int32{7})
		create(-1, -1, []int32{1, 1})
		create(-1, -1, []int32{})
		create(-1, -1, []int32{1}, []int32{1, 2})
		create(-1, -1, []int32{-1})
		t := newTopic(s.topic(), -1)
		t.ReplicationFactor = -1
		for _, p := range []int32{1, 2} {
			a := kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
			a.Partition, a.Replicas = p, []int32{1}
			t.ReplicaAssignment = append(t.ReplicaAssignment, a)
		}
		req := at(kmsg.NewPtrCreateTopicsRequest(), v)
		req.TimeoutMillis, req.Topics = 10_000, append(req.Topics, t)
		ask[*kmsg.CreateTopicsResponse](s, req)
	})
	eachVersion(kmsg.CreateTopics, "settings", func(s *session, v int16) {
		for _, setting := range []string{
			"retention.ms=1000", "retention.ms=-1", "retention.ms=-2", "retention.ms=x", "retention.ms=", "retention.ms= 5 ",
			"cleanup.policy=compact", "cleanup.policy=compact,delete", "cleanup.policy=delete,delete", "cleanup.policy=x", "cleanup.policy=",
			"compression.type=gzip", "compression.type=GZIP", "compression.type=none", "segment.bytes=1", "segment.bytes=1048576", "max.message.bytes=-1", "max.message.bytes=0",
			"min.insync.replicas=0", "min.insync.replicas=9", "unclean.leader.election.enable=maybe", "unclean.leader.election.enable=TRUE",
			"no.such.key=1", "message.timestamp.type=LogAppendTime", "message.timestamp.type=x", "min.cleanable.dirty.ratio=1.5", "min.cleanable.dirty.ratio=0.3",
			"segment.ms=0", "segment.ms=1", "flush.messages=0", "flush.messages=1", "remote.storage.enable=true", "local.retention.ms=5", "retention.ms=99999999999999999999",
		} {
			req := at(kmsg.NewPtrCreateTopicsRequest(), v)
			req.TimeoutMillis, req.Topics = 10_000, append(req.Topics, newTopic(s.topic(), 1, setting))
			s.note(setting, -1, -1, "asked")
			s.created(ask[*kmsg.CreateTopicsResponse](s, req))
		}
		t := newTopic(s.topic(), 1, "retention.ms=5")
		t.Configs[0].Value = nil
		req := at(kmsg.NewPtrCreateTopicsRequest(), v)
		req.TimeoutMillis, req.Topics = 10_000, append(req.Topics, t, newTopic(s.topic(), 1, "retention.ms=1", "retention.ms=2"))
		s.created(ask[*kmsg.CreateTopicsResponse](s, req))
	})
	eachVersion(kmsg.CreateTopics, "only validated", func(s *session, v int16) {
		name := s.topic()
		for range 2 {
			req := at(kmsg.NewPtrCreateTopicsRequest(), v)
			req.TimeoutMillis, req.ValidateOnly, req.Topics = 10_000, true, append(req.Topics, newTopic(name, 3), newTopic("", 1), newTopic(s.topic(), 1, "x=y"))
			ask[*kmsg.CreateTopicsResponse](s, req)
		}
		m := metadata(9, name)
		ask[*kmsg.MetadataResponse](s, m)
	})
	register("CreateTopics/too many", func(s *session) {
		req := at(kmsg.NewPtrCreateTopicsRequest(), 7)
		req.TimeoutMillis = 10_000
		req.Topics = append(req.Topics, newTopic(s.topic(), 2_000_000))
		ask[*kmsg.CreateTopicsResponse](s, req)
		req.Topics = []kmsg.CreateTopicsRequestTopic{newTopic(s.topic(), 6000), newTopic(s.topic(), 6000)}
		ask[*kmsg.CreateTopicsResponse](s, req)
	})

	eachVersion(kmsg.DeleteTopics, "topics", func(s *session, v int16) {
		del := func(names ...string) {
			req := at(kmsg.NewPtrDeleteTopicsRequest(), v)
			req.TimeoutMillis, req.TopicNames = 10_000, names
			for _, name := range names {
				t := kmsg.NewDeleteTopicsRequestTopic()
				t.Topic = &name
				req.Topics = append(req.Topics, t)
			}
			s.try(req)
			s.settle()
		}
		a, b, c := s.create(1), s.create(2), s.create(1)
		s.fill(a, batch(values("a")))
		del(a)
		del(a)
		del(b, s.topic(), c)
		d := s.create(1)
		del(d, d)
		del("")
		del("a/b")
		del()
		m := metadata(9, a, b, c, d)
		m.AllowAutoTopicCreation = false
		ask[*kmsg.MetadataResponse](s, m)
	})
	register("DeleteTopics/by id", func(s *session) {
		del := func(id [16]byte, name *string) {
			req := at(kmsg.NewPtrDeleteTopicsRequest(), 6)
			req.TimeoutMillis = 10_000
			t := kmsg.NewDeleteTopicsRequestTopic()
			t.TopicID, t.Topic = id, name
			req.Topics = append(req.Topics, t)
			s.try(req)
			s.settle()
		}
		a := s.create(1)
		id := s.topicID(a)
		del(id, &a)
		del([16]byte{}, nil)
		del([16]byte{9}, nil)
		del(id, nil)
		del(id, nil)
		b := s.create(1)
		req := at(kmsg.NewPtrDeleteTopicsRequest(), 6)
		req.TimeoutMillis = 10_000
		byID, byName := kmsg.NewDeleteTopicsRequestTopic(), kmsg.NewDeleteTopicsRequestTopic()
		byID.TopicID, byName.Topic = s.topicID(b), &b
		req.Topics = append(req.Topics, byID, byName)
		ask[*kmsg.DeleteTopicsResponse](s, req)
	})

	eachVersion(kmsg.CreatePartitions, "counts", func(s *session, v int16) {
		a := s.create(2)
		grow := func(validate bool, topics ...kmsg.CreatePartitionsRequestTopic) {
			req := at(kmsg.NewPtrCreatePartitionsRequest(), v)
			req.TimeoutMillis, req.Topics, req.ValidateOnly = 10_000, topics, validate
			ask[*kmsg.CreatePartitionsResponse](s, req)
			s.settle()
		}
		one := func(name string, n int32, assignment ...[]int32) kmsg.CreatePartitionsRequestTopic {
			t := kmsg.NewCreatePartitionsRequestTopic()
			t.Topic, t.Count = name, n
			for _, replicas := range assignment {
				x := kmsg.NewCreatePartitionsRequestTopicAssignment()
				x.Replicas = replicas
				t.Assignment = append(t.Assignment, x)
			}
			return t
		}
		for _, n := range []int32{2, 1, 0, -1, math.MinInt32, math.MaxInt32} {
			grow(false, one(a, n))
		}
		grow(true, one(a, 4))
		grow(false, one(a, 3))
		grow(false, one(s.topic(), 3))
		grow(false, one("", 3))
		grow(false, one(a, 4, []int32{1}))
		grow(false, one(a, 5, []int32{1}, []int32{1}))
		grow(false, one(a, 5, []int32{8}))
		grow(false, one(a, 5, []int32{1, 1}))
		grow(false, one(a, 5, []int32{}))
		grow(false, one(a, 5), one(a, 6))
		b := s.create(1)
		grow(false, one(b, 2), one(s.topic(), 3), one(a, 6))
		grow(false)
		ask[*kmsg.MetadataResponse](s, metadata(9, a, b))
	})

	eachVersion(kmsg.DescribeTopicPartitions, "pages", func(s *session, v int16) {
		a, b := s.create(3), s.create(2)
		describe := func(limit int32, cursor *kmsg.DescribeTopicPartitionsRequestCursor, names ...string) {
			req := at(kmsg.NewPtrDescribeTopicPartitionsRequest(), v)
			req.ResponsePartitionLimit, req.Cursor = limit, cursor
			for _, name := range names {
				t := kmsg.NewDescribeTopicPartitionsRequestTopic()
				t.Topic = name
				req.Topics = append(req.Topics, t)
			}
			s.try(req)
		}
		cursor := func(name string, p int32) *kmsg.DescribeTopicPartitionsRequestCursor {
			c := kmsg.NewDescribeTopicPartitionsRequestCursor()
			c.Topic, c.Partition = name, p
			return &c
		}
		describe(2000, nil, a, b)
		describe(2000, nil, b, a)
		describe(2, nil, a, b)
		describe(2, cursor(a, 2), a, b)
		describe(3, nil, a, b)
		describe(0, nil, a)
		describe(-1, nil, a)
		describe(1, nil, a, s.topic(), b)
		describe(2000, cursor(b, 0), a, b)
		describe(2000, cursor(b, 9), a, b)
		describe(2000, cursor(a, -1), a, b)
		describe(2000, nil, s.topic())
		describe(2000, nil, a, a)
		describe(2000, nil, "", "a/b")
	})

	eachVersion(kmsg.DescribeCluster, "cluster", func(s *session, v int16) {
		for _, kind := range []int8{1, 2, 0, 3, -1} {
			for _, operations := range []bool{false, true} {
				req := at(kmsg.NewPtrDescribeClusterRequest(), v)
				req.EndpointType, req.IncludeClusterAuthorizedOperations, req.IncludeFencedBrokers = kind, operations, operations
				s.try(req)
			}
		}
	})
}

// created remembers the ids of topics that an answer tells.
func (s *session) created(resp *kmsg.CreateTopicsResponse) {
	for _, t := range resp.Topics {
		if t.ErrorCode == 0 && t.TopicID != ([16]byte{}) {
			s.nameTopic(t.TopicID, t.Topic)
		}
	}
}
