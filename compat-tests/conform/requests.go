package main

import (
	"fmt"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Requests that scenarios begin with. Those that make something are quiet: what
// is compared is what comes after.

// create makes a topic with settings given as key=value and returns its name.
func (s *session) create(partitions int32, settings ...string) string {
	name := s.topic()
	s.createAs(name, partitions, settings...)
	return name
}

// createAs makes a topic of this name.
func (s *session) createAs(name string, partitions int32, settings ...string) {
	req := kmsg.NewPtrCreateTopicsRequest()
	req.SetVersion(7)
	req.TimeoutMillis = 10_000
	req.Topics = append(req.Topics, newTopic(name, partitions, settings...))
	resp := quietly[*kmsg.CreateTopicsResponse](s, req)
	t := resp.Topics[0]
	if t.ErrorCode != 0 {
		s.note("creating "+name, -1, -1, errorName(t.ErrorCode))
		panic(abort{})
	}
	s.nameTopic(t.TopicID, name)
	s.made = append(s.made, name)
	s.appear(name, partitions)
}

func newTopic(name string, partitions int32, settings ...string) kmsg.CreateTopicsRequestTopic {
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, 1
	for _, setting := range settings {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		key, value, _ := strings.Cut(setting, "=")
		c.Name, c.Value = key, &value
		t.Configs = append(t.Configs, c)
	}
	return t
}

// topicID is the id of a topic that create has made.
func (s *session) topicID(name string) [16]byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id, n := range s.topics {
		if n == name {
			return id
		}
	}
	return [16]byte{}
}

// produce is a request that sends one batch to partition 0.
func (s *session) produce(version int16, topic string, raw []byte) *kmsg.ProduceRequest {
	return s.produceTo(version, topic, 0, raw)
}

func (s *session) produceTo(version int16, topic string, partition int32, raw []byte) *kmsg.ProduceRequest {
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(version)
	req.Acks, req.TimeoutMillis = -1, 10_000
	t, p := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	p.Partition, p.Records = partition, raw
	t.Topic, t.TopicID, t.Partitions = topic, s.topicID(topic), append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// fill appends batches to partition 0 of a topic, quietly.
func (s *session) fill(topic string, batches ...[]byte) {
	for _, raw := range batches {
		resp := quietly[*kmsg.ProduceResponse](s, s.produce(9, topic, raw))
		if code := resp.Topics[0].Partitions[0].ErrorCode; code != 0 {
			s.note("filling "+topic, -1, -1, errorName(code))
			panic(abort{})
		}
	}
}

// fetch reads partition 0 of a topic from an offset, without waiting.
func (s *session) fetch(version int16, topic string, offset int64) *kmsg.FetchRequest {
	req := kmsg.NewPtrFetchRequest()
	req.SetVersion(version)
	req.ReplicaID, req.MaxBytes, req.SessionEpoch = -1, 10<<20, -1
	req.Topics = append(req.Topics, s.fetchTopic(topic, fetchPartition(0, offset)))
	return req
}

func (s *session) fetchTopic(topic string, partitions ...kmsg.FetchRequestTopicPartition) kmsg.FetchRequestTopic {
	t := kmsg.NewFetchRequestTopic()
	t.Topic, t.TopicID, t.Partitions = topic, s.topicID(topic), partitions
	return t
}

func fetchPartition(partition int32, offset int64) kmsg.FetchRequestTopicPartition {
	p := kmsg.NewFetchRequestTopicPartition()
	p.Partition, p.FetchOffset, p.PartitionMaxBytes = partition, offset, 1<<20
	return p
}

// listOffsets asks partition 0 of a topic for the offset of a time.
func listOffsets(version int16, topic string, timestamps ...int64) *kmsg.ListOffsetsRequest {
	req := kmsg.NewPtrListOffsetsRequest()
	req.SetVersion(version)
	req.ReplicaID, req.TimeoutMillis = -1, 10_000
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	for i, at := range timestamps {
		p := kmsg.NewListOffsetsRequestTopicPartition()
		p.Partition, p.Timestamp, p.CurrentLeaderEpoch = int32(i), at, -1
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	return req
}

// metadata asks for topics by name.
func metadata(version int16, topics ...string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.SetVersion(version)
	req.Topics = []kmsg.MetadataRequestTopic{}
	for _, name := range topics {
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = &name
		req.Topics = append(req.Topics, t)
	}
	return req
}

// newProducer gets a producer id and gives it a name that both brokers share.
func (s *session) newProducer() int64 {
	req := kmsg.NewPtrInitProducerIDRequest()
	req.SetVersion(4)
	req.ProducerID, req.ProducerEpoch = -1, -1
	var resp *kmsg.InitProducerIDResponse
	s.until("a producer id", func() bool { // Apache Kafka may still be asking for more of them
		resp = quietly[*kmsg.InitProducerIDResponse](s, req)
		return resp.ErrorCode == 0
	})
	s.producers[resp.ProducerID] = fmt.Sprintf("producer %d", len(s.producers)+1)
	return resp.ProducerID
}

// deleteRecords gives up records of partition 0 below an offset.
func deleteRecords(version int16, topic string, offset int64) *kmsg.DeleteRecordsRequest {
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.SetVersion(version)
	req.TimeoutMillis = 10_000
	t, p := kmsg.NewDeleteRecordsRequestTopic(), kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Offset = offset
	t.Topic, t.Partitions = topic, append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return req
}

// remove deletes topics by name, quietly.
func (s *session) remove(names ...string) {
	req := kmsg.NewPtrDeleteTopicsRequest()
	req.SetVersion(5)
	req.TimeoutMillis, req.TopicNames = 10_000, names
	quietly[*kmsg.DeleteTopicsResponse](s, req)
	for _, name := range names {
		s.vanish(name)
		s.made = slices.DeleteFunc(s.made, func(made string) bool { return made == name })
	}
}

func ptr[T any](v T) *T { return &v }
