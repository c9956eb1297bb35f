package main

import (
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Generated requests are valid by construction, and then one or two of their
// fields get a value that is valid too, or slightly wrong. Both brokers get the
// same, field by field: only the ids of topics differ.

// template makes a valid request of an API. a has three partitions, the first with
// records; b has one.
type template struct {
	key     kmsg.Key
	changes bool // metadata
	make    func(s *session, v int16, a, b string) kmsg.Request
}

// templates are one for each API.
var templates = []template{
	{kmsg.Produce, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := s.produceTo(v, a, 1, batch(values("x", "y")))
		req.Topics = append(req.Topics, s.produce(v, b, batch(values("z"), compressed(1))).Topics...)
		return req
	}},
	{kmsg.Fetch, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := s.fetch(v, a, 0)
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, fetchPartition(1, 0))
		req.Topics = append(req.Topics, s.fetchTopic(b, fetchPartition(0, 0)))
		return req
	}},
	{kmsg.ListOffsets, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := listOffsets(v, a, -1, -2, someTime)
		req.Topics = append(req.Topics, listOffsets(v, b, someTime).Topics...)
		return req
	}},
	{kmsg.Metadata, true, func(s *session, v int16, a, b string) kmsg.Request { return metadata(v, a, b) }},
	{kmsg.CreateTopics, true, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(kmsg.NewPtrCreateTopicsRequest(), v)
		req.TimeoutMillis = 10_000
		req.Topics = append(req.Topics, newTopic(s.topic(), 2, "retention.ms=1000"), newTopic(s.topic(), 1))
		return req
	}},
	{kmsg.DeleteTopics, true, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(kmsg.NewPtrDeleteTopicsRequest(), v)
		name := s.create(1)
		req.TimeoutMillis, req.TopicNames = 10_000, []string{name}
		t := kmsg.NewDeleteTopicsRequestTopic()
		t.Topic = &name
		req.Topics = append(req.Topics, t)
		return req
	}},
	{kmsg.DeleteRecords, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := deleteRecords(v, a, 0)
		req.Topics = append(req.Topics, deleteRecords(v, b, 0).Topics...)
		return req
	}},
	{kmsg.InitProducerID, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(kmsg.NewPtrInitProducerIDRequest(), v)
		req.ProducerID, req.ProducerEpoch, req.TransactionTimeoutMillis = -1, -1, 1000
		return req
	}},
	{kmsg.OffsetForLeaderEpoch, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(kmsg.NewPtrOffsetForLeaderEpochRequest(), v)
		req.ReplicaID = -1
		for _, name := range []string{a, b} {
			t, p := kmsg.NewOffsetForLeaderEpochRequestTopic(), kmsg.NewOffsetForLeaderEpochRequestTopicPartition()
			p.CurrentLeaderEpoch = -1
			t.Topic, t.Partitions = name, append(t.Partitions, p)
			req.Topics = append(req.Topics, t)
		}
		return req
	}},
	{kmsg.DescribeConfigs, false, func(s *session, v int16, a, b string) kmsg.Request {
		return describeConfigs(v, kmsg.ConfigResourceTypeTopic, a, true, []string{"retention.ms", "cleanup.policy"})
	}},
	{kmsg.AlterConfigs, true, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(kmsg.NewPtrAlterConfigsRequest(), v)
		r, c := kmsg.NewAlterConfigsRequestResource(), kmsg.NewAlterConfigsRequestResourceConfig()
		c.Name, c.Value = "retention.ms", ptr("100000000")
		r.ResourceType, r.ResourceName, r.Configs = kmsg.ConfigResourceTypeTopic, b, append(r.Configs, c)
		req.Resources = append(req.Resources, r)
		return req
	}},
	{kmsg.IncrementalAlterConfigs, true, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(kmsg.NewPtrIncrementalAlterConfigsRequest(), v)
		req.Resources = append(req.Resources, incremental(kmsg.ConfigResourceTypeTopic, b, edit{"retention.ms", 0, ptr("100000000")}, edit{"cleanup.policy", 2, ptr("compact")}))
		return req
	}},
	{kmsg.DescribeLogDirs, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(kmsg.NewPtrDescribeLogDirsRequest(), v)
		t := kmsg.NewDescribeLogDirsRequestTopic()
		t.Topic, t.Partitions = a, []int32{0, 1}
		req.Topics = append(req.Topics, t)
		return req
	}},
	{kmsg.CreatePartitions, true, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(kmsg.NewPtrCreatePartitionsRequest(), v)
		t := kmsg.NewCreatePartitionsRequestTopic()
		t.Topic, t.Count = s.create(1), 2
		req.TimeoutMillis, req.Topics = 10_000, append(req.Topics, t)
		return req
	}},
	{kmsg.DescribeProducers, false, func(s *session, v int16, a, b string) kmsg.Request { return describeProducers(a, 0, 1) }},
	{kmsg.DescribeTopicPartitions, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(kmsg.NewPtrDescribeTopicPartitionsRequest(), v)
		for _, name := range []string{a, b} {
			t := kmsg.NewDescribeTopicPartitionsRequestTopic()
			t.Topic = name
			req.Topics = append(req.Topics, t)
		}
		req.ResponsePartitionLimit = 100
		c := kmsg.NewDescribeTopicPartitionsRequestCursor()
		c.Topic = a
		req.Cursor = &c
		return req
	}},
	{kmsg.ElectLeaders, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := electLeaders(v, 0, a, 0, 1)
		req.Topics = append(req.Topics, electLeaders(v, 0, b, 0).Topics...)
		return req
	}},
	{kmsg.AlterPartitionAssignments, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := reassign(v, true, a, []int32{1}, 0, 1)
		req.Topics = append(req.Topics, reassign(v, true, b, nil, 0).Topics...)
		return req
	}},
	{kmsg.ListPartitionReassignments, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := reassignments(v, a, 0, 1)
		req.Topics = append(req.Topics, reassignments(v, b, 0).Topics...)
		return req
	}},
	{kmsg.DescribeQuorum, false, func(s *session, v int16, a, b string) kmsg.Request {
		return describeQuorum(v, quorumTopic, 0)
	}},
	{kmsg.FindCoordinator, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(kmsg.NewPtrFindCoordinatorRequest(), v)
		req.CoordinatorKey = s.group()
		req.CoordinatorKeys = []string{req.CoordinatorKey, "x"}
		return req
	}},
	{kmsg.JoinGroup, false, func(s *session, v int16, a, b string) kmsg.Request { return at(s.stable(a).join(), v) }},
	{kmsg.SyncGroup, false, func(s *session, v int16, a, b string) kmsg.Request {
		m := s.stable(a)
		return at(m.sync(m), v)
	}},
	{kmsg.Heartbeat, false, func(s *session, v int16, a, b string) kmsg.Request { return at(s.stable(a).beat(), v) }},
	{kmsg.LeaveGroup, false, func(s *session, v int16, a, b string) kmsg.Request { return at(s.stable(a).leave(), v) }},
	{kmsg.OffsetCommit, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(s.stable(a).commit(a, 5, 0, 1), v)
		req.Topics = append(req.Topics, s.commitTopic(b, 7, 0))
		return req
	}},
	{kmsg.OffsetFetch, false, func(s *session, v int16, a, b string) kmsg.Request {
		m := s.stable(a)
		req := at(s.fetchOffsets(v, m.group, a, 0, 1), v)
		more := s.fetchOffsets(v, m.group, b, 0)
		req.Topics, req.Groups[0].Topics = append(req.Topics, more.Topics...), append(req.Groups[0].Topics, more.Groups[0].Topics...)
		return req
	}},
	{kmsg.OffsetDelete, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := deleteOffsets(s.stable(a).group, a, 0, 1)
		req.Topics = append(req.Topics, deleteOffsets("", b, 0).Topics...)
		return req
	}},
	{kmsg.DescribeGroups, false, func(s *session, v int16, a, b string) kmsg.Request {
		return describeGroups(s, v, s.stable(a).group, s.group())
	}},
	{kmsg.ListConfigResources, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(kmsg.NewPtrListConfigResourcesRequest(), v)
		req.ResourceTypes = []int8{2, 4}
		return req
	}},
	{kmsg.ListGroups, false, func(s *session, v int16, a, b string) kmsg.Request {
		s.stable(a)
		req := listGroups(s, v, "Stable", "Empty")
		req.TypesFilter = []string{"classic"}
		return req
	}},
	{kmsg.DeleteGroups, false, func(s *session, v int16, a, b string) kmsg.Request {
		m := s.stable(a)
		return deleteGroups(s, v, m.group, s.group())
	}},
	{kmsg.ConsumerGroupHeartbeat, false, func(s *session, v int16, a, b string) kmsg.Request {
		c := s.consuming(v, a, b)
		return c.beat(full(a, b), func(r *kmsg.ConsumerGroupHeartbeatRequest) {
			r.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{{TopicID: s.topicID(a), Partitions: []int32{0, 1, 2}}, {TopicID: s.topicID(b), Partitions: []int32{0}}}
		})
	}},
	{kmsg.ConsumerGroupDescribe, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(kmsg.NewPtrConsumerGroupDescribeRequest(), v)
		req.Groups = []string{s.consuming(v, a).group, s.stable(a).group, s.group()}
		return req
	}},
}

// consumerTemplates are what other APIs are asked of a group of the consumer protocol.
var consumerTemplates = []template{
	{kmsg.ConsumerGroupHeartbeat, false, func(s *session, v int16, a, b string) kmsg.Request {
		c := s.consumer(v, s.group(), "a", a, b)
		return c.beat(inEpoch(0), full(a, b))
	}},
	{kmsg.SyncGroup, false, func(s *session, v int16, a, b string) kmsg.Request {
		m := s.consuming(1, a).classic()
		return at(m.sync(m), v)
	}},
	{kmsg.Heartbeat, false, func(s *session, v int16, a, b string) kmsg.Request { return at(s.consuming(1, a).classic().beat(), v) }},
	{kmsg.LeaveGroup, false, func(s *session, v int16, a, b string) kmsg.Request { return at(s.consuming(1, a).classic().leave(), v) }},
	{kmsg.OffsetCommit, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := at(s.consuming(1, a).classic().commit(a, 5, 0, 1), v)
		req.Topics = append(req.Topics, s.commitTopic(b, 7, 0))
		return req
	}},
	{kmsg.OffsetFetch, false, func(s *session, v int16, a, b string) kmsg.Request {
		c := s.consuming(1, a)
		req := at(s.fetchOffsets(v, c.group, a, 0, 1), v)
		if v >= 9 {
			req.Groups[0].MemberID, req.Groups[0].MemberEpoch = &c.id, c.epoch
		}
		return req
	}},
	{kmsg.OffsetDelete, false, func(s *session, v int16, a, b string) kmsg.Request {
		req := deleteOffsets(s.consuming(1, a).group, a, 0, 1)
		req.Topics = append(req.Topics, deleteOffsets("", b, 0).Topics...)
		return req
	}},
	{kmsg.DescribeGroups, false, func(s *session, v int16, a, b string) kmsg.Request {
		return describeGroups(s, v, s.consuming(1, a).group, s.stable(a).group)
	}},
	{kmsg.ListGroups, false, func(s *session, v int16, a, b string) kmsg.Request {
		s.consuming(1, a)
		req := listGroups(s, v, "Stable", "Empty")
		req.TypesFilter = []string{"consumer"}
		return req
	}},
	{kmsg.DeleteGroups, false, func(s *session, v int16, a, b string) kmsg.Request {
		c := s.consuming(1, a)
		quietly[*kmsg.ConsumerGroupHeartbeatResponse](s, c.beat(inEpoch(-1)))
		return deleteGroups(s, v, c.group, s.consuming(1, a).group)
	}},
}

// registerGenerated makes a scenario of n requests for each template.
func registerGenerated(seed uint64, n int) {
	for _, t := range templates {
		t.register("", seed, n)
	}
	for _, t := range consumerTemplates {
		t.register(" of a consumer group", seed, n)
	}
}

func (t template) register(of string, seed uint64, n int) {
	register(kmsg.NameForKey(int16(t.key))+of+"/generated", func(s *session) {
		r, ok := s.common[int16(t.key)]
		if !ok {
			s.note("served by both", int16(t.key), -1, false)
			return
		}
		if t.key == kmsg.Produce {
			r.min = max(r.min, 3)
		}
		rng := rand.New(rand.NewPCG(seed, uint64(t.key)))
		a, b := s.create(3), s.create(1)
		s.fill(a, batch(values("1", "2")), batch(values("3"), compressed(4), made(someTime+5)))
		for i := range n {
			v := r.min + int16(rng.IntN(int(r.max-r.min)+1))
			req := t.make(s, v, a, b)
			m := mutator{rng: rng, s: s, topics: []string{a, b}}
			for range rng.IntN(3) {
				m.mutate(req)
			}
			s.note(fmt.Sprintf("generated %d: %s", i, strings.Join(m.did, ", ")), -1, -1, "sent")
			s.try(req)
			if t.changes {
				s.settle()
			}
		}
	})
}

// mutator changes fields of requests.
type mutator struct {
	rng    *rand.Rand
	s      *session
	topics []string
	did    []string
}

// untouched are fields that choose who asks, or how long to wait.
var untouched = []string{"Version", "ReplicaID", "ReplicaState", "ClusterID", "TimeoutMillis", "MaxWaitMillis", "SessionID", "SessionEpoch", "UnknownTags", "TransactionID", "TransactionalID", "TransactionTimeoutMillis", "ResourceType"}

type field struct {
	name string
	v    reflect.Value
}

// mutate changes one field.
func (m *mutator) mutate(req kmsg.Request) {
	var fields []field
	collect(reflect.ValueOf(req).Elem(), "", &fields)
	f := fields[m.rng.IntN(len(fields))]
	m.change(f)
	m.did = append(m.did, f.name)
}

// collect gathers the fields that may be changed, lists and what is in them.
func collect(v reflect.Value, name string, to *[]field) {
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if n := v.Type().Field(i).Name; !slices.Contains(untouched, n) {
				collect(v.Field(i), n, to)
			}
		}
	case reflect.Pointer:
		*to = append(*to, field{name, v})
		if !v.IsNil() && v.Elem().Kind() == reflect.Struct {
			collect(v.Elem(), name, to)
		}
	case reflect.Slice:
		*to = append(*to, field{name, v})
		for i := range v.Len() {
			if k := v.Index(i).Kind(); k != reflect.Uint8 {
				collect(v.Index(i), name, to)
			}
		}
	default:
		*to = append(*to, field{name, v})
	}
}

func (m *mutator) change(f field) {
	switch v := f.v; v.Kind() {
	case reflect.String:
		v.SetString(m.text(f.name))
	case reflect.Bool:
		v.SetBool(!v.Bool())
	case reflect.Pointer:
		if v.Type().Elem().Kind() == reflect.String && m.rng.IntN(3) > 0 {
			v.Set(reflect.ValueOf(ptr(m.text(f.name))))
		} else {
			v.SetZero()
		}
	case reflect.Array:
		id := [16]byte{1}
		switch m.rng.IntN(4) {
		case 0:
			id = [16]byte{}
		case 1:
		default:
			id = m.s.topicID(m.topics[m.rng.IntN(len(m.topics))])
		}
		v.Set(reflect.ValueOf(id))
	case reflect.Slice:
		m.list(f.name, v)
	default:
		v.SetInt(m.number(f.name, v))
	}
}

func (m *mutator) list(name string, v reflect.Value) {
	if v.Type().Elem().Kind() == reflect.Uint8 {
		b := slices.Clone(v.Bytes())
		if len(b) > 0 {
			b[m.rng.IntN(len(b))] ^= 1 << m.rng.IntN(8)
			if len(b) > batchHeader && m.rng.IntN(2) == 0 {
				sealBatch(b)
			}
		}
		v.SetBytes(b)
		return
	}
	// What is there twice has scenarios of its own.
	if m.rng.IntN(2) == 0 {
		v.SetZero()
	} else {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	}
}

func (m *mutator) text(name string) string {
	pool := []string{"", "x", "1", "-1", "a/b", strings.Repeat("y", 260)}
	switch {
	case name == "SubscribedTopicRegex": // what one matches may be found out later
		pool = []string{"", "(", "*", "a{2,1}"}
	case strings.HasPrefix(name, "Group") && name != "GroupAssignment":
		pool = []string{"", m.s.prefix + "none"}
	case strings.Contains(name, "Topic") || name == "ResourceName":
		pool = []string{m.topics[0], m.topics[1], m.s.prefix + "none", "", "a/b", ".."}
	case name == "Name" || name == "ConfigNames":
		pool = []string{"retention.ms", "cleanup.policy", "max.message.bytes", "min.insync.replicas", "no.such.key", ""}
	case name == "Value":
		pool = []string{"1", "0", "-1", "100", "compact", "delete,compact", "true", "x", "", "9223372036854775808"}
	}
	return pool[m.rng.IntN(len(pool))]
}

func (m *mutator) number(name string, v reflect.Value) int64 {
	pool := []int64{-2, -1, 0, 1, 2, 3, 7, 100, 1 << 20}
	switch {
	case name == "Acks":
		pool = []int64{-2, -1, 1, 2}
	case strings.Contains(name, "Timestamp"):
		pool = []int64{-6, -5, -4, -3, -2, -1, 0, someTime, someTime + 1, math.MaxInt64}
	case name == "NumPartitions" || name == "Count":
		pool = []int64{-2, -1, 0, 1, 2, 3, 2_000_000}
	case name == "Op":
		pool = []int64{-1, 0, 1, 2, 3, 4}
	case name == "MinBytes":
		pool = []int64{-1, 0, 1, 100}
	}
	n := pool[m.rng.IntN(len(pool))]
	if v.OverflowInt(n) {
		return -1
	}
	return n
}
