package main

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// normalize makes of an answer what can be compared with another broker's:
// lists, and maps from field names, of numbers, texts and nil. What may differ
// is replaced by what it is: ids, times of now, addresses, the words of
// messages. Everything else stays.
func (s *session) normalize(resp kmsg.Response) any {
	n := normalizer{s: s, response: reflect.TypeOf(resp).Elem().Name()}
	return n.value(reflect.ValueOf(resp).Elem(), "")
}

type normalizer struct {
	s        *session
	response string
}

// now is what the time of an answer may be off by.
const now = 10 * time.Minute

func (n *normalizer) value(v reflect.Value, field string) any {
	switch v.Kind() {
	case reflect.Pointer:
		if v.IsNil() {
			return nil
		}
		return n.value(v.Elem(), field)
	case reflect.Struct:
		return n.structure(v)
	case reflect.Array: // a topic's id
		return n.s.topicName(v.Interface().([16]byte))
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return n.bytes(v.Bytes(), v.IsNil(), field)
		}
		if v.IsNil() {
			return nil
		}
		return n.list(v, field)
	case reflect.String:
		return n.text(v.String(), field)
	case reflect.Bool:
		return v.Bool()
	default:
		if v.CanInt() {
			return n.number(v.Int(), field)
		}
		return fmt.Sprint(v.Interface())
	}
}

func (n *normalizer) structure(v reflect.Value) any {
	m := map[string]any{}
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if f.Name == "Version" && n.isResponse(v) || f.Type == reflect.TypeOf(kmsg.Tags{}) {
			continue
		}
		m[f.Name] = n.value(v.Field(i), f.Name)
	}
	return m
}

func (n *normalizer) isResponse(v reflect.Value) bool { return v.Type().Name() == n.response }

// free are lists whose order the protocol leaves open, with the fields that
// their entries are told apart by.
var free = map[string][]string{
	"MetadataResponse.Topics":                     {"Topic", "TopicID"},
	"ListOffsetsResponse.Topics":                  {"Topic"},
	"ListOffsetsResponse.Partitions":              {"Partition"},
	"DeleteRecordsResponse.Topics":                {"Topic"},
	"DeleteRecordsResponse.Partitions":            {"Partition"},
	"OffsetForLeaderEpochResponse.Topics":         {"Topic"},
	"CreatePartitionsResponse.Topics":             {"Topic"},
	"CreateTopicsResponse.Topics":                 {"Topic"},
	"DeleteTopicsResponse.Topics":                 {"Topic", "TopicID"},
	"ProduceResponse.Topics":                      {"Topic", "TopicID"},
	"ProduceResponse.Partitions":                  {"Partition"},
	"DescribeLogDirsResponse.Topics":              {"Topic"},
	"DescribeLogDirsResponse.Partitions":          {"Partition"},
	"DescribeProducersResponse.ActiveProducers":   {"ProducerID"},
	"IncrementalAlterConfigsResponse.Resources":   {"ResourceType", "ResourceName"},
	"AlterConfigsResponse.Resources":              {"ResourceType", "ResourceName"},
	"DescribeConfigsResponse.Resources":           {"ResourceType", "ResourceName"},
	"JoinGroupResponse.Members":                   {"MemberID"},
	"DescribeGroupsResponse.Members":              {"MemberID"},
	"ListGroupsResponse.Groups":                   {"Group"},
	"DeleteGroupsResponse.Groups":                 {"Group"},
	"DescribeGroupsResponse.Groups":               {"Group"},
	"ListConfigResourcesResponse.ConfigResources": {"Type", "Name"},
	"OffsetCommitResponse.Topics":                 {"Topic", "TopicID"},
	"OffsetCommitResponse.Partitions":             {"Partition"},
	"OffsetDeleteResponse.Topics":                 {"Topic"},
	"OffsetDeleteResponse.Partitions":             {"Partition"},
	"OffsetFetchResponse.Topics":                  {"Topic", "TopicID"},
	"OffsetFetchResponse.Partitions":              {"Partition"},

	// Lists of numbers and texts are told apart by themselves.
	"ConsumerGroupHeartbeatResponse.Topics":          {"TopicID"},
	"ConsumerGroupHeartbeatResponse.Partitions":      {},
	"ConsumerGroupDescribeResponse.Groups":           {"Group"},
	"ConsumerGroupDescribeResponse.Members":          {"MemberID"},
	"ConsumerGroupDescribeResponse.SubscribedTopics": {},
	"ConsumerGroupDescribeResponse.TopicPartitions":  {"Topic"},
	"ConsumerGroupDescribeResponse.Partitions":       {},
}

func (n *normalizer) list(v reflect.Value, field string) any {
	items := []any{}
	for i := range v.Len() {
		item := n.value(v.Index(i), field)
		if field == "Topics" && n.s.othersTopic(item) || n.response == "ListGroupsResponse" && n.s.othersGroup(item) || field == "ConfigResources" && n.s.othersResource(item) {
			continue
		}
		items = append(items, item)
	}
	if len(items) == 0 && v.Len() > 0 { // as if others had nothing
		return nil
	}
	if by, ok := free[n.response+"."+field]; ok {
		if len(by) == 0 {
			slices.SortFunc(items, func(a, b any) int { return strings.Compare(fmt.Sprintf("%12v", a), fmt.Sprintf("%12v", b)) })
		}
		slices.SortStableFunc(items, func(a, b any) int {
			for _, name := range by {
				if c := strings.Compare(fmt.Sprintf("%12v", a.(map[string]any)[name]), fmt.Sprintf("%12v", b.(map[string]any)[name])); c != 0 {
					return c
				}
			}
			return 0
		})
	}
	return items
}

// othersTopic tells whether a row is about a topic of another scenario, of
// another run, or of the broker's own: an answer about all topics has those too.
func (s *session) othersTopic(row any) bool {
	m, _ := row.(map[string]any)
	name, _ := m["Topic"].(string)
	return strings.HasPrefix(name, "__") || strings.HasPrefix(name, topicMark) && !strings.HasPrefix(name, s.prefix)
}

// othersGroup tells whether a row is about a group of another scenario or run.
func (s *session) othersGroup(row any) bool {
	m, _ := row.(map[string]any)
	name, _ := m["Group"].(string)
	return !strings.HasPrefix(name, s.prefix)
}

// othersResource tells whether a row is about a topic or group of another scenario or
// run, or of the broker's own.
func (s *session) othersResource(row any) bool {
	m, _ := row.(map[string]any)
	name, _ := m["Name"].(string)
	kind := m["Type"]
	return (kind == int64(kmsg.ConfigResourceTypeTopic) || kind == int64(kmsg.ConfigResourceTypeGroupConfig)) && !strings.HasPrefix(name, s.prefix)
}

// memberName is how a member's id is written down: the client's id, or its
// instance's, that the broker makes it of, and which of those with that it is.
func (s *session) memberName(id string) string {
	if len(id) == 22 || len(id) == 26 { // of the consumer protocol: a UUID there, a random text here
		if s.members[id] == "" {
			s.members[id] = fmt.Sprintf("id %d that was made", len(s.members)+1)
		}
		return s.members[id]
	}
	at := strings.LastIndex(id, "-")
	if java := len(id) - 37; java > 0 && id[java] == '-' && strings.Count(id[java:], "-") == 5 { // a UUID has dashes
		at = java
	}
	if at < 0 || len(id)-at < 20 { // none that a broker has made
		return id
	}
	if s.members[id] == "" {
		s.members[id] = "new"
		n := 0
		for other := range s.members {
			if strings.HasPrefix(other, id[:at]+"-") {
				n++
			}
		}
		s.members[id] = fmt.Sprintf("id %d of %s", n, id[:at])
	}
	return s.members[id]
}

func (n *normalizer) bytes(b []byte, null bool, field string) any {
	if field == "RecordBatches" {
		if null {
			return nil
		}
		return n.s.batches(b)
	}
	if null {
		return nil
	}
	return fmt.Sprintf("%x", b)
}

func (n *normalizer) text(t, field string) any {
	switch {
	case field == "ClusterID" && t == n.s.clusterID && t != "":
		return "the cluster's id"
	case field == "Host" && t == n.s.host:
		return "the broker's host"
	case strings.HasSuffix(field, "Message"), field == "Documentation":
		if t == "" {
			return ""
		}
		return "a text"
	case field == "MemberID" || field == "LeaderID":
		return n.s.memberName(t)
	case field == "Dir" && t != "":
		return "a directory"
	}
	return t
}

func (n *normalizer) number(v int64, field string) any {
	switch {
	case field == "Port" && v == int64(n.s.port):
		return "the broker's port"
	case field == "ErrorCode" || field == "ConfigErrorCode":
		return errorName(int16(v))
	case field == "ProducerID" && v >= 0:
		return n.s.producerName(v)
	case field == "SessionID" && v != 0:
		return "a session"
	case strings.Contains(field, "Timestamp") || field == "LogAppendTime":
		if d := time.Since(time.UnixMilli(v)); d.Abs() < now {
			return "now"
		}
	case field == "TotalBytes" || field == "UsableBytes":
		if v > 0 {
			return "some"
		}
	}
	return v
}

// producerName is how a producer's id is written down.
func (s *session) producerName(id int64) string {
	if name, ok := s.producers[id]; ok {
		return name
	}
	return "a producer"
}

// errorName is an error code as Kafka names it.
func errorName(code int16) string {
	if code == 0 {
		return "NONE"
	}
	if err := kerr.TypedErrorForCode(code); err != nil {
		return fmt.Sprintf("%d %s", code, err.Message)
	}
	return fmt.Sprint(code)
}
