package broker

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage/batch/batchtest"
)

// produceTo produces one record without a producer id.
func produceTo(r *raw, topic string, partition int32) kmsg.ProduceResponseTopicPartition {
	r.t.Helper()
	req := produceRequest(topic, partition, -1, batchtest.Values("value").Encode())
	return ask[*kmsg.ProduceResponse](r, req).Topics[0].Partitions[0]
}

// eachVersion is every version that is served.
func eachVersion(t *testing.T, key int16, f func(version int16)) {
	t.Helper()
	for _, a := range protocol.APIs(protocol.Clients) {
		for v := a.Min; a.Key == key && v <= a.Max; v++ {
			f(v)
		}
	}
}

func partitionsOf(r *raw, topic string) int {
	r.t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	req.Topics = []kmsg.MetadataRequestTopic{{Topic: &topic}}
	row := ask[*kmsg.MetadataResponse](r, req).Topics[0]
	if row.ErrorCode != 0 {
		return -int(row.ErrorCode)
	}
	return len(row.Partitions)
}

func TestCreatePartitions(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	count := 1
	eachVersion(t, protocol.KeyCreatePartitions, func(v int16) {
		count++
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.Version, req.TimeoutMillis = v, 5000
		topic := func(name string, n int, replicas ...int32) kmsg.CreatePartitionsRequestTopic {
			row := kmsg.CreatePartitionsRequestTopic{Topic: name, Count: int32(n)}
			if replicas != nil {
				row.Assignment = []kmsg.CreatePartitionsRequestTopicAssignment{{Replicas: replicas}}
			}
			return row
		}
		for _, c := range []struct {
			topic kmsg.CreatePartitionsRequestTopic
			want  int16
		}{
			{topic("nothing", 9), 3},
			{topic("t", count-1), 37},
			{topic("t", count-2), 37},
			{topic("t", -1), 37},
			{topic("t", 20_000), 44},
			{topic("t", count, 9), 39},
			{topic("t", count+1, 1), 39},
			{topic("t", count, 1), 0},
		} {
			req.Topics = []kmsg.CreatePartitionsRequestTopic{c.topic}
			req.ValidateOnly = true
			for range 2 {
				resp := ask[*kmsg.CreatePartitionsResponse](r, req).Topics[0]
				if resp.ErrorCode != c.want || (resp.ErrorMessage != nil) != (c.want != 0) || resp.Topic != c.topic.Topic {
					t.Errorf("version %d, %+v: %+v", v, c.topic, resp)
				}
				if got := partitionsOf(r, "t"); req.ValidateOnly && got != count-1 {
					t.Fatalf("version %d: %d partitions after validating only", v, got)
				}
				req.ValidateOnly = false
			}
		}
		if got := partitionsOf(r, "t"); got != count {
			t.Fatalf("version %d: %d partitions, want %d", v, got, count)
		}
		req.Topics = []kmsg.CreatePartitionsRequestTopic{topic("t", 50), topic("t", 50)}
		for _, row := range ask[*kmsg.CreatePartitionsResponse](r, req).Topics {
			if row.ErrorCode != 42 {
				t.Errorf("a topic twice: error %d", row.ErrorCode)
			}
		}
	})
	if at := produceTo(r, "t", int32(count-1)); at.ErrorCode != 0 {
		t.Errorf("the new partition takes no record: error %d", at.ErrorCode)
	}
}

// configs describes a resource and returns its rows by key.
func configs(r *raw, version int16, kind kmsg.ConfigResourceType, name string, keys ...string) (int16, map[string]kmsg.DescribeConfigsResponseResourceConfig) {
	r.t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version, req.IncludeSynonyms, req.IncludeDocumentation = version, true, true
	req.Resources = []kmsg.DescribeConfigsRequestResource{{ResourceType: kind, ResourceName: name, ConfigNames: keys}}
	res := ask[*kmsg.DescribeConfigsResponse](r, req).Resources[0]
	rows := map[string]kmsg.DescribeConfigsResponseResourceConfig{}
	for _, c := range res.Configs {
		rows[c.Name] = c
	}
	if len(rows) != len(res.Configs) {
		r.t.Errorf("a key comes twice in %v", res.Configs)
	}
	return res.ErrorCode, rows
}

func synonyms(row kmsg.DescribeConfigsResponseResourceConfig) string {
	var all []string
	for _, s := range row.ConfigSynonyms {
		all = append(all, fmt.Sprintf("%s=%s %d", s.Name, *s.Value, s.Source))
	}
	return strings.Join(all, ", ")
}

const topicResource, brokerResource = kmsg.ConfigResourceTypeTopic, kmsg.ConfigResourceTypeBroker

func TestDescribeConfigs(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	eachVersion(t, protocol.KeyDescribeConfigs, func(v int16) {
		code, rows := configs(r, v, topicResource, "t")
		if code != 0 || len(rows) != len(image.TopicKeys()) {
			t.Fatalf("version %d: error %d, %d settings", v, code, len(rows))
		}
		row := rows["retention.ms"]
		if *row.Value != "604800000" || row.ReadOnly || row.IsSensitive || synonyms(row) != "" || row.Source != 5 {
			t.Errorf("version %d: retention.ms is %+v", v, row)
		}
		if v >= 3 && (row.ConfigType != kmsg.ConfigTypeLong || *row.Documentation == "") {
			t.Errorf("version %d: type %d", v, row.ConfigType)
		}
		// A node of the tests is started with log.segment.bytes.
		if row = rows["segment.bytes"]; *row.Value != "1048576" || row.Source != 4 || synonyms(row) != "log.segment.bytes=1048576 4, log.segment.bytes=1073741824 5" {
			t.Errorf("version %d: segment.bytes is %+v", v, row)
		}
		if _, rows = configs(r, v, topicResource, "t", "segment.ms", "nothing"); len(rows) != 1 {
			t.Errorf("version %d: two keys gave %v", v, rows)
		}
		code, rows = configs(r, v, brokerResource, "1")
		if row := rows["num.partitions"]; code != 0 || *row.Value != strconv.Itoa(loadPartitions) || !row.ReadOnly || row.Source != 4 {
			t.Errorf("version %d: error %d, num.partitions is %+v", v, code, row)
		}
		if row := rows["log.retention.ms"]; row.Value != nil || row.ReadOnly {
			t.Errorf("version %d: log.retention.ms is %+v", v, row)
		}
		if code, rows = configs(r, v, brokerResource, ""); code != 0 || len(rows) != 0 {
			t.Errorf("version %d: error %d, the cluster has %v", v, code, rows)
		}
		for _, c := range []struct {
			kind kmsg.ConfigResourceType
			name string
			want int16
		}{{topicResource, "nothing", 3}, {brokerResource, "2", 42}, {brokerResource, "x", 42}, {77, "x", 42}} {
			if code, _ := configs(r, v, c.kind, c.name); code != c.want {
				t.Errorf("version %d, %d %s: error %d, want %d", v, c.kind, c.name, code, c.want)
			}
		}
	})
}

// change is one setting of an IncrementalAlterConfigs request.
func change(key string, op kmsg.IncrementalAlterConfigOp, value string) kmsg.IncrementalAlterConfigsRequestResourceConfig {
	c := kmsg.IncrementalAlterConfigsRequestResourceConfig{Name: key, Op: op}
	if op != kmsg.IncrementalAlterConfigOpDelete && value != "null" {
		c.Value = &value
	}
	return c
}

func alter(r *raw, version int16, kind kmsg.ConfigResourceType, name string, changes ...kmsg.IncrementalAlterConfigsRequestResourceConfig) int16 {
	r.t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Version = version
	req.Resources = []kmsg.IncrementalAlterConfigsRequestResource{{ResourceType: kind, ResourceName: name, Configs: changes}}
	return ask[*kmsg.IncrementalAlterConfigsResponse](r, req).Resources[0].ErrorCode
}

func TestIncrementalAlterConfigs(t *testing.T) {
	const set, del, app, sub = kmsg.IncrementalAlterConfigOpSet, kmsg.IncrementalAlterConfigOpDelete, kmsg.IncrementalAlterConfigOpAppend, kmsg.IncrementalAlterConfigOpSubtract
	eachVersion(t, protocol.KeyIncrementalAlterConfigs, func(v int16) {
		r := newRaw(t, memoryNode(t))
		createTopic(r, "t")
		for _, c := range []struct {
			kind    kmsg.ConfigResourceType
			name    string
			changes []kmsg.IncrementalAlterConfigsRequestResourceConfig
			want    int16
			key     string
			shows   string // value of key on topic t after that
		}{
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("retention.ms", set, "5")}, 0, "retention.ms", "5"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("retention.ms", set, "6"), change("segment.bytes", set, "1")}, 40, "retention.ms", "5"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("retention.ms", set, "6"), change("retention.ms", del, "")}, 42, "retention.ms", "5"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("retention.ms", set, "null")}, 42, "retention.ms", "5"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("retention.ms", app, "1")}, 40, "retention.ms", "5"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("retention.ms", 9, "1")}, 42, "retention.ms", "5"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("retention.ms", del, "")}, 0, "retention.ms", "604800000"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("no.such.key", del, "")}, 0, "retention.ms", "604800000"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("no.such.key", set, "1")}, 40, "retention.ms", "604800000"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("cleanup.policy", app, "compact")}, 0, "cleanup.policy", "delete,compact"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("cleanup.policy", app, "compact")}, 0, "cleanup.policy", "delete,compact"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("cleanup.policy", app, "nothing")}, 40, "cleanup.policy", "delete,compact"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("cleanup.policy", sub, "delete")}, 0, "cleanup.policy", "compact"},
			{topicResource, "t", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("remote.storage.enable", set, "true")}, 40, "remote.storage.enable", "false"},
			{topicResource, "nothing", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("retention.ms", set, "5")}, 3, "retention.ms", "604800000"},
			{brokerResource, "", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("log.retention.ms", set, "7")}, 0, "retention.ms", "7"},
			{brokerResource, "1", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("log.retention.ms", set, "8")}, 0, "retention.ms", "8"},
			{brokerResource, "1", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("log.retention.ms", set, "x")}, 42, "retention.ms", "8"},
			{brokerResource, "2", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("log.retention.ms", set, "9")}, 42, "retention.ms", "8"},
			{brokerResource, "1", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("num.partitions", set, "9")}, 42, "retention.ms", "8"},
			{brokerResource, "1", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("no.such.key", set, "9")}, 40, "retention.ms", "8"},
			{brokerResource, "1", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("log.retention.ms", del, "")}, 0, "retention.ms", "7"},
			{brokerResource, "", []kmsg.IncrementalAlterConfigsRequestResourceConfig{change("log.retention.ms", del, "")}, 0, "retention.ms", "604800000"},
		} {
			if code := alter(r, v, c.kind, c.name, c.changes...); code != c.want {
				t.Errorf("version %d, %s %v: error %d, want %d", v, c.name, c.changes, code, c.want)
			}
			if _, rows := configs(r, 4, topicResource, "t", c.key); *rows[c.key].Value != c.shows {
				t.Errorf("version %d, after %v: %s is %s, want %s", v, c.changes, c.key, *rows[c.key].Value, c.shows)
			}
		}
	})
}

// A setting counts from the answer on.
func TestAlteredSettingActs(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	if at := produceTo(r, "t", 0); at.ErrorCode != 0 {
		t.Fatalf("error %d", at.ErrorCode)
	}
	for _, c := range []struct {
		kind      kmsg.ConfigResourceType
		name, key string
	}{{topicResource, "t", "max.message.bytes"}, {brokerResource, "", "message.max.bytes"}} {
		if code := alter(r, 1, c.kind, c.name, change(c.key, kmsg.IncrementalAlterConfigOpSet, "10")); code != 0 {
			t.Fatalf("error %d", code)
		}
		if at := produceTo(r, "t", 0); at.ErrorCode != 10 {
			t.Errorf("%s=10: error %d, want 10", c.key, at.ErrorCode)
		}
		if code := alter(r, 1, c.kind, c.name, change(c.key, kmsg.IncrementalAlterConfigOpDelete, "")); code != 0 {
			t.Fatalf("error %d", code)
		}
		if at := produceTo(r, "t", 0); at.ErrorCode != 0 {
			t.Errorf("after %s was deleted: error %d", c.key, at.ErrorCode)
		}
	}
}

func TestAlterConfigsReplaces(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	eachVersion(t, protocol.KeyAlterConfigs, func(v int16) {
		req := kmsg.NewPtrAlterConfigsRequest()
		req.Version = v
		for _, settings := range []map[string]string{{"retention.ms": "5", "segment.ms": "6"}, {"segment.ms": "7"}, {}} {
			req.Resources = []kmsg.AlterConfigsRequestResource{{ResourceType: topicResource, ResourceName: "t"}}
			for key, value := range settings {
				req.Resources[0].Configs = append(req.Resources[0].Configs, kmsg.AlterConfigsRequestResourceConfig{Name: key, Value: &value})
			}
			req.ValidateOnly = true
			_, before := configs(r, 4, topicResource, "t")
			for range 2 {
				if code := ask[*kmsg.AlterConfigsResponse](r, req).Resources[0].ErrorCode; code != 0 {
					t.Fatalf("version %d: error %d", v, code)
				}
				_, rows := configs(r, 4, topicResource, "t")
				for key, row := range rows {
					value, set := settings[key]
					if req.ValidateOnly {
						value, set = *before[key].Value, before[key].Source == 1
					}
					if set != (row.Source == 1) || set && *row.Value != value {
						t.Errorf("version %d, validate %v, %v: %s is %s by %d", v, req.ValidateOnly, settings, key, *row.Value, row.Source)
					}
				}
				req.ValidateOnly = false
			}
		}
	})
}

func TestDescribeCluster(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	eachVersion(t, protocol.KeyDescribeCluster, func(v int16) {
		req := kmsg.NewPtrDescribeClusterRequest()
		req.Version = v
		resp := ask[*kmsg.DescribeClusterResponse](r, req)
		if resp.ErrorCode != 0 || resp.ClusterID == "" || resp.ControllerID != 1 || len(resp.Brokers) != 1 || resp.Brokers[0].Port == 0 || resp.Brokers[0].Rack != nil {
			t.Errorf("version %d: %+v", v, resp)
		}
		for endpoint, want := range map[int8]int16{2: 114, 3: 115} {
			req.EndpointType = endpoint
			if resp := ask[*kmsg.DescribeClusterResponse](r, req); v >= 1 && resp.ErrorCode != want {
				t.Errorf("version %d, endpoint type %d: error %d", v, endpoint, resp.ErrorCode)
			}
		}
	})
}

func TestDescribeTopicPartitionsPages(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	for _, name := range []string{"b", "a", "c"} {
		createTopic(r, name)
		req := kmsg.NewPtrCreatePartitionsRequest()
		req.TimeoutMillis, req.Topics = 5000, []kmsg.CreatePartitionsRequestTopic{{Topic: name, Count: 4}}
		if code := ask[*kmsg.CreatePartitionsResponse](r, req).Topics[0].ErrorCode; code != 0 {
			t.Fatalf("error %d", code)
		}
	}
	for limit := range int32(14) {
		var got []string
		req := kmsg.NewPtrDescribeTopicPartitionsRequest()
		req.ResponsePartitionLimit = limit
		for pages := 0; ; pages++ {
			resp := ask[*kmsg.DescribeTopicPartitionsResponse](r, req)
			n := 0
			for _, topic := range resp.Topics {
				for _, p := range topic.Partitions {
					n++
					got = append(got, fmt.Sprintf("%s-%d", *topic.Topic, p.Partition))
					if p.LeaderID != 1 || p.ErrorCode != 0 {
						t.Fatalf("%+v", p)
					}
				}
			}
			if limit > 0 && n > int(limit) {
				t.Fatalf("%d partitions, the limit is %d", n, limit)
			}
			if resp.NextCursor == nil || pages > 20 {
				break
			}
			req.Cursor = &kmsg.DescribeTopicPartitionsRequestCursor{Topic: resp.NextCursor.Topic, Partition: resp.NextCursor.Partition}
		}
		if len(got) != 12 || !slices.IsSorted(got) || len(slices.Compact(got)) != 12 {
			t.Fatalf("limit %d: %v", limit, got)
		}
	}
	req := kmsg.NewPtrDescribeTopicPartitionsRequest()
	req.Topics = []kmsg.DescribeTopicPartitionsRequestTopic{{Topic: "nothing"}, {Topic: "a"}, {Topic: "a"}}
	resp := ask[*kmsg.DescribeTopicPartitionsResponse](r, req)
	if len(resp.Topics) != 2 || *resp.Topics[0].Topic != "a" || resp.Topics[1].ErrorCode != 3 {
		t.Errorf("%+v", resp.Topics)
	}
}

// A node alone coordinates every group. Of transactions and share groups it says that
// they are not there in a way that ends the attempt.
func TestFindCoordinator(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	eachVersion(t, protocol.KeyFindCoordinator, func(v int16) {
		for kind, want := range map[int8]int16{0: 0, 1: 35, 2: 35, 3: 42} {
			req := kmsg.NewPtrFindCoordinatorRequest()
			req.Version, req.CoordinatorType, req.CoordinatorKey, req.CoordinatorKeys = v, kind, "g", []string{"g", "h"}
			resp := ask[*kmsg.FindCoordinatorResponse](r, req)
			if v == 0 { // which knows of groups only
				want = 0
			} else if kind == 2 && v < 6 {
				want = 42
			}
			node := int32(-1)
			if want == 0 {
				node = 1
			}
			if v < 4 && (resp.ErrorCode != want || resp.NodeID != node) {
				t.Errorf("version %d, type %d: %+v", v, kind, resp)
			}
			for i, c := range resp.Coordinators {
				if c.ErrorCode != want || c.NodeID != node || (c.Port == -1) != (want != 0) || c.Key != req.CoordinatorKeys[i] || (c.ErrorMessage == nil) != (want == 0) {
					t.Errorf("version %d, type %d: %+v", v, kind, c)
				}
			}
			if v >= 4 && len(resp.Coordinators) != 2 {
				t.Errorf("version %d: %d rows", v, len(resp.Coordinators))
			}
		}
	})
	eachVersion(t, protocol.KeyListGroups, func(v int16) {
		req := kmsg.NewPtrListGroupsRequest()
		req.Version = v
		if resp := ask[*kmsg.ListGroupsResponse](r, req); resp.ErrorCode != 0 || len(resp.Groups) != 0 {
			t.Errorf("version %d: %+v", v, resp)
		}
	})
}

// Settings of groups need no group, keep to the broker's bounds, and count for the next
// heartbeat.
func TestGroupSettings(t *testing.T) {
	const group = kmsg.ConfigResourceTypeGroupConfig
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	interval := func() int32 {
		t.Helper()
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.RebalanceTimeoutMillis = 1, "g", "m", 1000
		req.SubscribedTopicNames, req.Topics = []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		resp := ask[*kmsg.ConsumerGroupHeartbeatResponse](r, req)
		if resp.ErrorCode != 0 {
			t.Fatalf("error %d: %s", resp.ErrorCode, *resp.ErrorMessage)
		}
		return resp.HeartbeatIntervalMillis
	}
	r.coordinated(t, "g")
	const key = "consumer.heartbeat.interval.ms"
	set, del := kmsg.IncrementalAlterConfigOpSet, kmsg.IncrementalAlterConfigOpDelete
	for _, c := range []struct {
		name   string
		change kmsg.IncrementalAlterConfigsRequestResourceConfig
		want   int16
		shows  string
		source kmsg.ConfigSource
	}{
		{"g", change(key, set, "6000"), 0, "6000", kmsg.ConfigSourceGroupConfig},
		{"g", change(key, set, "4999"), 40, "6000", kmsg.ConfigSourceGroupConfig},
		{"g", change(key, set, "15001"), 40, "6000", kmsg.ConfigSourceGroupConfig},
		{"g", change(key, set, "x"), 40, "6000", kmsg.ConfigSourceGroupConfig},
		{"g", change("retention.ms", set, "6000"), 40, "6000", kmsg.ConfigSourceGroupConfig},
		{"", change(key, set, "7000"), 42, "6000", kmsg.ConfigSourceGroupConfig},
		{"other", change(key, set, "7000"), 0, "6000", kmsg.ConfigSourceGroupConfig},
		{"g", change(key, del, ""), 0, "5000", kmsg.ConfigSourceDefaultConfig},
	} {
		if code := alter(r, 1, group, c.name, c.change); code != c.want {
			t.Errorf("%v of %q: error %d, want %d", c.change, c.name, code, c.want)
		}
		_, rows := configs(r, 4, group, "g", key)
		if row := rows[key]; *row.Value != c.shows || row.Source != c.source {
			t.Errorf("after %v of %q: %s from %s", c.change, c.name, *row.Value, row.Source)
		}
		if got := fmt.Sprint(interval()); got != c.shows {
			t.Errorf("after %v of %q members are told %s, want %s", c.change, c.name, got, c.shows)
		}
	}
}
