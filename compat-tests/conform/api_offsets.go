package main

import (
	"math"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	eachVersion(kmsg.ListOffsets, "times", func(s *session, v int16) {
		topic := s.create(1)
		for i, codec := range []int16{0, 1, 4} {
			at := someTime + int64(i)*1000
			s.fill(topic, batch([]record{{value: []byte("a")}, {delta: 10, value: []byte("b")}, {delta: 5}, {delta: 20}}, made(at), compressed(codec)))
		}
		for _, at := range []int64{0, someTime, someTime + 1, someTime + 10, someTime + 15, someTime + 20, someTime + 21, someTime + 1005, someTime + 2010, someTime + 2020, someTime + 2021, math.MaxInt64} {
			ask[*kmsg.ListOffsetsResponse](s, listOffsets(v, topic, at))
		}
		quietly[*kmsg.DeleteRecordsResponse](s, deleteRecords(2, topic, 6))
		for _, at := range []int64{0, someTime, someTime + 1000, someTime + 1005, someTime + 1010, -1, -2} {
			ask[*kmsg.ListOffsetsResponse](s, listOffsets(v, topic, at))
		}
	})
	eachVersion(kmsg.ListOffsets, "special times", func(s *session, v int16) {
		topic := s.create(1)
		for range 2 { // empty, and with records
			for _, at := range []int64{-1, -2, -3, -4, -5, -6, -7, -100, math.MinInt64, 0, someTime} {
				ask[*kmsg.ListOffsetsResponse](s, listOffsets(v, topic, at))
			}
			s.fill(topic, batch([]record{{delta: 5}, {delta: 9}, {delta: 9}, {delta: 2}}))
		}
		quietly[*kmsg.DeleteRecordsResponse](s, deleteRecords(2, topic, -1))
		for _, at := range []int64{-1, -2, -3, -4, 0} {
			ask[*kmsg.ListOffsetsResponse](s, listOffsets(v, topic, at))
		}
	})
	eachVersion(kmsg.ListOffsets, "records without times", func(s *session, v int16) {
		topic := s.create(1)
		s.fill(topic, batch(values("a"), made(-1)))
		for _, at := range []int64{-1, -2, -3, 0} {
			ask[*kmsg.ListOffsetsResponse](s, listOffsets(v, topic, at))
		}
	})
	eachVersion(kmsg.ListOffsets, "several", func(s *session, v int16) {
		topic := s.create(3)
		s.fill(topic, batch(values("a", "b")))
		req := listOffsets(v, topic, -1, -2, -1, -1)
		req.Topics[0].Partitions[3].Partition = -5
		more := kmsg.NewListOffsetsRequestTopic()
		more.Topic, more.Partitions = s.topic(), req.Topics[0].Partitions[:2]
		req.Topics = append(req.Topics, more)
		ask[*kmsg.ListOffsetsResponse](s, req)
		req = listOffsets(v, topic, -1, -2)
		req.Topics[0].Partitions[1].Partition = 0 // twice the same
		ask[*kmsg.ListOffsetsResponse](s, req)
		req.Topics = nil
		ask[*kmsg.ListOffsetsResponse](s, req)
	})
	eachVersion(kmsg.ListOffsets, "leader epochs, isolation, replicas", func(s *session, v int16) {
		topic := s.create(1)
		s.fill(topic, batch(values("a")))
		for _, epoch := range []int32{-1, 0, 1, -2} {
			req := listOffsets(v, topic, -1)
			req.Topics[0].Partitions[0].CurrentLeaderEpoch = epoch
			ask[*kmsg.ListOffsetsResponse](s, req)
		}
		for _, level := range []int8{1} {
			req := listOffsets(v, topic, -1)
			req.IsolationLevel = level
			ask[*kmsg.ListOffsetsResponse](s, req)
		}
		for _, replica := range []int32{-2} {
			req := listOffsets(v, topic, -1)
			req.ReplicaID = replica
			ask[*kmsg.ListOffsetsResponse](s, req)
		}
	})
	eachVersion(kmsg.DeleteRecords, "offsets", func(s *session, v int16) {
		topic := s.create(1)
		s.fill(topic, batch(values("a", "b", "c")), batch(values("d", "e")))
		for _, offset := range []int64{0, 1, 1, 0, 4, 6, -2, math.MaxInt64, -1, -1, 5} {
			ask[*kmsg.DeleteRecordsResponse](s, deleteRecords(v, topic, offset))
		}
		ask[*kmsg.FetchResponse](s, s.fetch(12, topic, 5))
	})
	eachVersion(kmsg.DeleteRecords, "policies and unknown", func(s *session, v int16) {
		for _, policy := range []string{"compact", "compact,delete", "delete"} {
			topic := s.create(1, "cleanup.policy="+policy)
			s.fill(topic, batch([]record{{key: []byte("k")}}))
			ask[*kmsg.DeleteRecordsResponse](s, deleteRecords(v, topic, 1))
		}
		topic := s.create(2)
		req := deleteRecords(v, topic, 0)
		for _, p := range []int32{7, -1, 1} {
			more := kmsg.NewDeleteRecordsRequestTopicPartition()
			more.Partition = p
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, more)
		}
		req.Topics = append(req.Topics, deleteRecords(v, s.topic(), 0).Topics...)
		ask[*kmsg.DeleteRecordsResponse](s, req)
		req.Topics = nil
		ask[*kmsg.DeleteRecordsResponse](s, req)
	})
	eachVersion(kmsg.OffsetForLeaderEpoch, "epochs", func(s *session, v int16) {
		topic := s.create(1)
		ask := func(current, epoch int32, partition int32, name string, replica int32) {
			req := at(kmsg.NewPtrOffsetForLeaderEpochRequest(), v)
			req.ReplicaID = replica
			t, p := kmsg.NewOffsetForLeaderEpochRequestTopic(), kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			p.Partition, p.CurrentLeaderEpoch, p.LeaderEpoch = partition, current, epoch
			t.Topic, t.Partitions = name, append(t.Partitions, p)
			req.Topics = append(req.Topics, t)
			s.try(req)
		}
		for range 2 {
			for _, epoch := range []int32{-1, 0, 1, 100, -2} {
				ask(-1, epoch, 0, topic, -1)
			}
			for _, current := range []int32{0, 1, 100, -2} {
				ask(current, 0, 0, topic, -1)
			}
			ask(-1, 0, 0, topic, -2)
			ask(-1, 0, 5, topic, -1)
			ask(-1, 0, -1, topic, -1)
			ask(-1, 0, 0, "no-such-topic", -1)
			s.fill(topic, batch(values("a", "b")))
		}
	})
	eachVersion(kmsg.DescribeProducers, "producers", func(s *session, v int16) {
		topic := s.create(2)
		ask[*kmsg.DescribeProducersResponse](s, describeProducers(topic, 0, 1, 5, -1))
		for _, id := range []int64{s.newProducer(), s.newProducer()} {
			s.fill(topic, batch(values("a", "b"), from(id, 0, 0)), batch(values("c"), from(id, 0, 2)))
		}
		ask[*kmsg.DescribeProducersResponse](s, describeProducers(topic, 0, 1))
		ask[*kmsg.DescribeProducersResponse](s, describeProducers(s.topic(), 0))
		ask[*kmsg.DescribeProducersResponse](s, describeProducers(topic))
	})
	eachVersion(kmsg.DescribeLogDirs, "sizes", func(s *session, v int16) {
		topic := s.create(3)
		s.fill(topic, batch(values("a", "b")), batch(values("some more")))
		describe := func(topics ...kmsg.DescribeLogDirsRequestTopic) {
			req := at(kmsg.NewPtrDescribeLogDirsRequest(), v)
			req.Topics = append([]kmsg.DescribeLogDirsRequestTopic{}, topics...)
			ask[*kmsg.DescribeLogDirsResponse](s, req)
		}
		one := func(name string, partitions ...int32) kmsg.DescribeLogDirsRequestTopic {
			t := kmsg.NewDescribeLogDirsRequestTopic()
			t.Topic, t.Partitions = name, partitions
			return t
		}
		describe(one(topic, 0, 1, 2))
		describe(one(topic, 0, 7, -1))
		describe(one(s.topic(), 0))
		describe(one(topic))
		describe()
		quietly[*kmsg.DeleteRecordsResponse](s, deleteRecords(2, topic, 1))
		describe(one(topic, 0))
	})
}
