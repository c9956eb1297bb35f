package broker

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
)

// configure changes settings at a node, as Apache Kafka's tools do. An empty value
// takes one back.
func (c *processes) configure(at *process, kind kmsg.ConfigResourceType, name string, settings map[string]string) {
	c.t.Helper()
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	req.Version = 1
	r := kmsg.IncrementalAlterConfigsRequestResource{ResourceType: kind, ResourceName: name}
	for key, value := range settings {
		op := kmsg.IncrementalAlterConfigOpSet
		if value == "" {
			op = kmsg.IncrementalAlterConfigOpDelete
		}
		r.Configs = append(r.Configs, change(key, op, value))
	}
	req.Resources = append(req.Resources, r)
	resp, err := exchange(at.addr(), req, patience)
	if err != nil {
		c.t.Fatal(err)
	}
	if row := resp.(*kmsg.IncrementalAlterConfigsResponse).Resources[0]; row.ErrorCode != 0 {
		c.t.Fatalf("%s of %s: error %d", settings, name, row.ErrorCode)
	}
}

// shown is what a broker says of its own settings that a tool has set.
func (c *processes) shown(at *process, keys ...string) map[string]string {
	c.t.Helper()
	req := kmsg.NewPtrDescribeConfigsRequest()
	req.Version = 4
	req.Resources = append(req.Resources, kmsg.DescribeConfigsRequestResource{
		ResourceType: kmsg.ConfigResourceTypeBroker, ResourceName: fmt.Sprint(at.id), ConfigNames: keys,
	})
	resp, err := exchange(at.addr(), req, patience)
	if err != nil {
		c.t.Fatal(err)
	}
	shown := map[string]string{}
	for _, row := range resp.(*kmsg.DescribeConfigsResponse).Resources[0].Configs {
		shown[row.Name] = *row.Value
	}
	return shown
}

func (p *process) logSize(topic string) int64 {
	s, err := os.Stat(filepath.Join(p.data, topic+"-0", "00000000000000000000.log"))
	if err != nil {
		return 0
	}
	return s.Size()
}

// A replica that is added comes no faster than the throttle of its follower, or of
// its leader, lets it, and at once when that is taken away (KIP-73). Who is in sync
// knows nothing of it.
func TestReplicationThrottle(t *testing.T) {
	const rate, batches, batchSize = 1 << 20, 16, 500_000
	const leaderRate, followerRate = "leader.replication.throttled.rate", "follower.replication.throttled.rate"
	const leaderList, followerList = "leader.replication.throttled.replicas", "follower.replication.throttled.replicas"
	const asFollower = `^waits for +its throttle to let more through\nthrottled +by follower\.replication\.throttled\.rate=1, with all that are throttled on this node; nothing for 1h0m0s$`
	const asLeader = `^3 +out .*; throttled by leader\.replication\.throttled\.rate=1, with all that are throttled on this node; nothing for 1h0m0s$`
	c := startCluster(t, 3)
	first, third := c.nodes[0], c.nodes[2]
	by := c.as(900, c.clusterID())
	for _, x := range []struct {
		name      string
		at        *process // who is throttled
		key, list string
		replicas  string
		tells     string
		faster    func(topic string)
	}{
		{"follower", third, followerRate, followerList, "0:3", asFollower, func(string) {
			c.configure(third, kmsg.ConfigResourceTypeBroker, "3", map[string]string{followerRate: ""})
		}},
		{"leader", first, leaderRate, leaderList, "0:1", asLeader, func(string) {
			c.configure(first, kmsg.ConfigResourceTypeBroker, "1", map[string]string{leaderRate: fmt.Sprint(1 << 40)})
		}},
		{"follower-list", third, followerRate, followerList, "*", asFollower, func(topic string) {
			c.configure(first, kmsg.ConfigResourceTypeTopic, topic, map[string]string{followerList: ""})
		}},
		{"leader-list", first, leaderRate, leaderList, "*", asLeader, func(topic string) {
			c.configure(first, kmsg.ConfigResourceTypeTopic, topic, map[string]string{leaderList: "0:2"})
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			c.t = t
			topic, other := x.name, x.name+"-other"
			for name, replicas := range map[string][]int32{topic: {1, 2}, other: {1, 2, 3}} {
				c.submit(by, &control.CreateTopic{
					Name: name, ID: newUUID(), Partitions: -1, ReplicationFactor: -1, Assignments: [][]int32{replicas},
					Configs: map[string]string{"min.insync.replicas": fmt.Sprint(len(replicas))},
				})
			}
			value := strings.Repeat("x", batchSize)
			for range batches {
				c.put(topic, value)
			}
			c.put(other, "first")

			c.configure(first, kmsg.ConfigResourceTypeTopic, topic, map[string]string{x.list: x.replicas})
			c.configure(first, kmsg.ConfigResourceTypeTopic, other, map[string]string{x.list: "*"})
			node := fmt.Sprint(x.at.id)
			c.configure(x.at, kmsg.ConfigResourceTypeBroker, node, map[string]string{x.key: fmt.Sprint(rate)})
			if got := c.shown(x.at, x.key, "num.partitions"); got[x.key] != fmt.Sprint(rate) || len(got) != 2 {
				t.Fatalf("the broker shows %v", got)
			}
			begun := time.Now()
			c.submit(by, &control.AlterPartitionReassignments{Partitions: []control.Reassign{
				{TopicPartition: control.TopicPartition{Topic: topic}, Replicas: []int32{1, 2, 3}},
			}})
			slowest := time.Duration(0)
			c.eventually("half of the records come", func() error {
				size := third.logSize(topic)
				// A second's worth at first, and a fetch that was let through.
				if most := rate*int64(time.Since(begun)+time.Second)/int64(time.Second) + 1<<20; size > most {
					t.Fatalf("%d bytes came within %s, more than %d", size, time.Since(begun), most)
				}
				before := time.Now()
				c.put(other, "more")
				slowest = max(slowest, time.Since(before))
				if size < batches*batchSize/2 {
					return fmt.Errorf("%d bytes have come", size)
				}
				return nil
			})
			t.Logf("half came within %s; what is in sync took at most %s", time.Since(begun), slowest)
			if slowest > time.Since(begun)/2 {
				t.Errorf("a record of a topic in sync took %s", slowest)
			}

			// A debt that is paid after days.
			c.configure(x.at, kmsg.ConfigResourceTypeBroker, node, map[string]string{x.key: "1"})
			before := third.logSize(topic)
			for range 20 {
				c.put(other, "more")
			}
			if _, isr, err := c.leaderOf(topic); err != nil || slices.Contains(isr, 3) {
				t.Fatalf("in sync are %v: %v", isr, err)
			}
			if grown := third.logSize(topic) - before; grown > 2<<20 {
				t.Errorf("%d bytes came while there was debt", grown)
			}
			// The node that throttles tells, and of no other topic.
			told := regexp.MustCompile(`(?m)` + x.tells)
			if out, err := c.partition(x.at, topic+"-0"); err != nil || !told.MatchString(out) {
				t.Errorf("it tells\n%s%v", out, err)
			}
			if out, err := c.partition(x.at, other+"-0"); err != nil || strings.Contains(out, "throttle") {
				t.Errorf("of a topic in sync it tells\n%s%v", out, err)
			}
			x.faster(topic)
			c.inSync(topic, 3)
			c.same(topic)
			c.configure(x.at, kmsg.ConfigResourceTypeBroker, node, map[string]string{x.key: ""})
			if got := c.shown(x.at, x.key); len(got) != 0 {
				t.Errorf("the broker shows %v", got)
			}
		})
		c.t = t
	}
}

// What is no rate and no list of replicas is refused, with Apache Kafka's codes.
func TestThrottleSettings(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	const set, app = kmsg.IncrementalAlterConfigOpSet, kmsg.IncrementalAlterConfigOpAppend
	for _, x := range []struct {
		kind             kmsg.ConfigResourceType
		name, key, value string
		op               kmsg.IncrementalAlterConfigOp
		want             protocol.ErrorCode
	}{
		{brokerResource, "1", "leader.replication.throttled.rate", "0", set, protocol.None},
		{brokerResource, "", "follower.replication.throttled.rate", "9223372036854775807", set, protocol.None},
		{brokerResource, "1", "leader.replication.throttled.rate", "-1", set, protocol.InvalidRequest},
		{topicResource, "t", "leader.replication.throttled.replicas", "0:1", set, protocol.None},
		{topicResource, "t", "leader.replication.throttled.replicas", "1:1", app, protocol.None},
		{topicResource, "t", "leader.replication.throttled.replicas", "*", app, protocol.InvalidConfig},
		{topicResource, "t", "follower.replication.throttled.replicas", "all", set, protocol.InvalidConfig},
	} {
		if code := alter(r, 1, x.kind, x.name, change(x.key, x.op, x.value)); protocol.ErrorCode(code) != x.want {
			t.Errorf("%s=%s: error %d, want %s", x.key, x.value, code, x.want)
		}
	}
	if _, rows := configs(r, 4, topicResource, "t", "leader.replication.throttled.replicas"); *rows["leader.replication.throttled.replicas"].Value != "0:1,1:1" {
		t.Errorf("the topic shows %s", *rows["leader.replication.throttled.replicas"].Value)
	}
}
