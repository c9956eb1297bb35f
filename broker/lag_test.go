package broker

import (
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// coordinated makes the topic of offsets, and returns when groups can be asked about.
func (r *raw) coordinated(t *testing.T, group string) {
	t.Helper()
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.Version, req.CoordinatorKeys = 4, []string{group}
	if code := ask[*kmsg.FindCoordinatorResponse](r, req).Coordinators[0].ErrorCode; code != 0 {
		t.Fatalf("finding the coordinator: %s", protocol.ErrorCode(code))
	}
	list := kmsg.NewPtrListGroupsRequest()
	list.Version = 4
	for ask[*kmsg.ListGroupsResponse](r, list).ErrorCode != 0 { // it is loading
	}
}

// commits keeps offsets of a group, one for each partition of a topic from the first on.
func (r *raw) commits(t *testing.T, group, topic string, offsets ...int64) {
	t.Helper()
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Version, req.Group, req.Generation = 8, group, -1
	x := kmsg.NewOffsetCommitRequestTopic()
	x.Topic = topic
	for i, at := range offsets {
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset, p.LeaderEpoch = int32(i), at, -1
		x.Partitions = append(x.Partitions, p)
	}
	req.Topics = append(req.Topics, x)
	for _, p := range ask[*kmsg.OffsetCommitResponse](r, req).Topics[0].Partitions {
		if p.ErrorCode != 0 {
			t.Fatalf("partition %d: %s", p.Partition, protocol.ErrorCode(p.ErrorCode))
		}
	}
}

func (r *raw) deleteGroup(t *testing.T, group string) {
	t.Helper()
	req := kmsg.NewPtrDeleteGroupsRequest()
	req.Version, req.Groups = 2, []string{group}
	if code := ask[*kmsg.DeleteGroupsResponse](r, req).Groups[0].ErrorCode; code != 0 {
		t.Fatalf("deleting %s: %s", group, protocol.ErrorCode(code))
	}
}

// What a scrape says of groups is what they have not read, in records and in seconds.
func TestLagOfGroups(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, nil)
	r := newRaw(t, n.addr())
	createTopics(r, 2, "t")
	r.coordinated(t, "g")
	begun := time.Now()
	ago := func(d time.Duration) int64 { return begun.Add(-d).UnixMilli() }
	produced := func(partition int32, b batchtest.Batch) {
		t.Helper()
		if code := ask[*kmsg.ProduceResponse](r, produceRequest("t", partition, -1, b.Encode())).Topics[0].Partitions[0].ErrorCode; code != 0 {
			t.Fatal(protocol.ErrorCode(code))
		}
	}
	for i := range 100 { // offsets 0 to 299, the batch of offset 3i a thousand seconds ago and i later
		produced(0, batchtest.Values("a", "b", "c").At(ago(time.Duration(1000-i)*time.Second)))
	}
	produced(1, batchtest.Values("x").At(ago(time.Hour)))
	r.commits(t, "g", "t", 30, 1)
	r.commits(t, "other", "t", 299)
	r.commits(t, "beyond", "t", 1000)

	m := n.scrape(t)
	series := func(name, group string, partition int) string {
		return fmt.Sprintf(`kafka_consumergroup_%s{consumergroup="%s",partition="%d",topic="t"}`, name, group, partition)
	}
	m.are(map[string]float64{
		series("current_offset", "g", 0): 30, series("lag", "g", 0): 270,
		series("current_offset", "g", 1): 1, series("lag", "g", 1): 0, series("lag_seconds", "g", 1): 0,
		series("current_offset", "other", 0): 299, series("lag", "other", 0): 1,
		series("current_offset", "other", 1): -1, series("lag", "other", 1): -1, // which it has not committed
		series("lag", "beyond", 0): 0, series("lag_seconds", "beyond", 0): 0,
		`kafka_consumergroup_current_offset_sum{consumergroup="g",topic="t"}`: 31,
		`kafka_consumergroup_lag_sum{consumergroup="g",topic="t"}`:            270,
		`kafka_consumergroup_members{consumergroup="g"}`:                      0,
		`kafka_coordinator_group_groupmetadatamanager_numgroups`:              3,
		`kafka_coordinator_group_groupmetadatamanager_numgroupsempty`:         3,
		`kafka_coordinator_group_groupmetadatamanager_numoffsets`:             4,
		`kafka_server_group_coordinator_metrics_offset_commit_count`:          4,
		`streambus_metrics_left_out{of="groups"}`:                             0,
	})
	// Batches are a second apart, and the clock went on meanwhile.
	took := time.Since(begun).Seconds()
	for group, since := range map[string]float64{"g": 990, "other": 901} {
		if got := m.values[series("lag_seconds", group, 0)]; got < since || got > since+took+0.001 {
			t.Errorf("%s is behind for %v s, want %v and at most %v more", group, got, since, took)
		}
	}

	// What is below the start of the log nobody can read: the first record there counts.
	if low, code := deleteRecords(r, 2, "t", 0, 60); low != 60 || code != 0 {
		t.Fatalf("deleting records: %d, error %d", low, code)
	}
	m = n.scrape(t)
	m.are(map[string]float64{series("lag", "g", 0): 270})
	if got := m.values[series("lag_seconds", "g", 0)]; got < 980 || got > 980+time.Since(begun).Seconds()+0.001 {
		t.Errorf("behind for %v s, want 980", got)
	}

	// Series go with the topic, and with the group.
	deleteTopic(r, "t")
	m = n.scrape(t)
	if left := m.count(`kafka_consumergroup_lag`) + m.count("kafka_consumergroup_current"); left != 0 {
		t.Errorf("%d series of a topic that is gone", left)
	}
	createTopics(r, 2, "t")
	r.commits(t, "g", "t", 0)
	r.commits(t, "other", "t", 0)
	n.scrape(t).are(map[string]float64{series("lag", "g", 0): 0, series("lag", "other", 0): 0})
	r.deleteGroup(t, "g")
	m = n.scrape(t)
	m.are(map[string]float64{series("lag", "other", 0): 0})
	for name := range m.values {
		if slices.Contains([]string{
			`kafka_consumergroup_members{consumergroup="g"}`, series("lag", "g", 0), series("lag_seconds", "g", 0), series("current_offset", "g", 0),
			`kafka_consumergroup_lag_sum{consumergroup="g",topic="t"}`, `kafka_consumergroup_current_offset_sum{consumergroup="g",topic="t"}`,
		}, name) {
			t.Errorf("%s of a group that is gone", name)
		}
	}
}

// Of more partitions of groups than a scrape should have it is said how many are left
// out; a group that has series keeps them.
func TestLagIsBounded(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, map[string]string{"streambus.metrics.group.partitions": "4", "offsets.topic.num.partitions": "1"})
	r := newRaw(t, n.addr())
	createTopics(r, 2, "t")
	r.coordinated(t, "m")
	shown := func(left, leftPartitions float64, groups ...string) {
		t.Helper()
		m := n.scrape(t)
		want := map[string]float64{`streambus_metrics_left_out{of="groups"}`: left, `streambus_metrics_left_out{of="group partitions"}`: leftPartitions}
		for _, g := range groups {
			want[fmt.Sprintf(`kafka_consumergroup_members{consumergroup="%s"}`, g)] = 0
			want[fmt.Sprintf(`kafka_consumergroup_lag{consumergroup="%s",partition="0",topic="t"}`, g)] = 0
		}
		m.are(want)
		if got := m.count("kafka_consumergroup_members{"); got != len(groups) {
			t.Errorf("%d groups have series, want %v", got, groups)
		}
	}
	r.commits(t, "m", "t", 0, 0)
	r.commits(t, "n", "t", 0)
	shown(0, 0, "m", "n")
	// Whatever their order among the others, those that have series keep them.
	for _, late := range []string{"a", "z", "b", "y"} {
		r.commits(t, late, "t", 0, 0)
	}
	shown(4, 8, "m", "n")
	r.commits(t, "n", "t", 0, 0)
	shown(4, 8, "m", "n")
	for _, gone := range []string{"a", "b", "y", "m"} {
		r.deleteGroup(t, gone)
	}
	shown(0, 0, "n", "z")
}

// The coordinator tells the lag of its groups also where another broker leads what they
// read, and nobody else does.
func TestLagAtAnotherBroker(t *testing.T) {
	c := startCluster(t, 3)
	c.replicated("t")
	c.put("t", "a", "b", "c")
	c.put("t", "d")
	leader, _, err := c.leaderOf("t")
	if err != nil {
		t.Fatal(err)
	}
	group, at := "", (*process)(nil)
	for i := 0; at == nil; i++ { // a group that the leader does not coordinate
		group = fmt.Sprint("g", i)
		c.commit(group, 1)
		if p, err := c.coordinator(group); err == nil && p != leader {
			at = p
		}
	}
	lag := fmt.Sprintf(`{consumergroup="%s",partition="0",topic="t"}`, group)
	c.eventually("the lag", func() error {
		m := scrapeAt(t, "127.0.0.1:"+at.admin)
		records, ok := m.values["kafka_consumergroup_lag"+lag]
		seconds, timed := m.values["kafka_consumergroup_lag_seconds"+lag]
		if !ok || records != 3 || !timed || seconds < 1e9 { // batches of this test are of 1970
			return fmt.Errorf("%v (%v) records, %v (%v) seconds", records, ok, seconds, timed)
		}
		return nil
	})
	for _, p := range c.nodes {
		if m := scrapeAt(t, "127.0.0.1:"+p.admin); p != at && m.count("kafka_consumergroup_lag"+lag) > 0 {
			t.Errorf("node %d tells the lag of a group that it does not coordinate", p.id)
		}
	}

	// The leader is gone, and the next one is asked.
	leader.signal(os.Kill)
	<-leader.exited
	c.eventually("the lag by another leader", func() error {
		m := scrapeAt(t, "127.0.0.1:"+at.admin)
		if now, _, err := c.leaderOf("t"); err != nil || now == leader {
			return fmt.Errorf("no other leader yet: %v", err)
		}
		if records, ok := m.values["kafka_consumergroup_lag"+lag]; !ok || records != 3 {
			return fmt.Errorf("%v (%v) records", records, ok)
		}
		return nil
	})
}

// The coordinator tells of its groups by their state, and counts what they do.
func TestMetricsOfTheCoordinator(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, map[string]string{"group.initial.rebalance.delay.ms": "0", "offsets.topic.num.partitions": "3"})
	r := newRaw(t, n.addr())
	createTopics(r, 1, "t")
	const manager, coordinator = "kafka_coordinator_group_groupmetadatamanager_", "kafka_server_group_coordinator_metrics_"
	n.scrape(t).are(map[string]float64{manager + "numgroups": 0, coordinator + `num_partitions{state="active"}`: 0})
	r.coordinated(t, "g")
	r.commits(t, "alone", "t", 0)
	join := kmsg.NewPtrJoinGroupRequest()
	join.Version, join.Group, join.SessionTimeoutMillis, join.RebalanceTimeoutMillis, join.ProtocolType = 3, "g", 30_000, 30_000, "consumer"
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range"}}
	joined := ask[*kmsg.JoinGroupResponse](r, join)
	if joined.ErrorCode != 0 {
		t.Fatal(protocol.ErrorCode(joined.ErrorCode))
	}
	n.scrape(t).are(map[string]float64{
		manager + "numgroups": 2, manager + "numgroupscompletingrebalance": 1, manager + "numgroupsempty": 1, manager + "numgroupsstable": 0,
		coordinator + "group_completed_rebalance_count": 0, `kafka_consumergroup_members{consumergroup="g"}`: 1,
	})
	sync := kmsg.NewPtrSyncGroupRequest()
	sync.Version, sync.Group, sync.Generation, sync.MemberID = 2, "g", joined.Generation, joined.MemberID
	if code := ask[*kmsg.SyncGroupResponse](r, sync).ErrorCode; code != 0 {
		t.Fatal(protocol.ErrorCode(code))
	}
	refused := kmsg.NewPtrOffsetCommitRequest() // by somebody who is no member
	refused.Version, refused.Group, refused.Generation = 8, "g", -1
	refused.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 1}}}}
	if code := ask[*kmsg.OffsetCommitResponse](r, refused).Topics[0].Partitions[0].ErrorCode; code == 0 {
		t.Fatal("committed")
	}
	n.scrape(t).are(map[string]float64{
		manager + "numgroupscompletingrebalance": 0, manager + "numgroupsempty": 1, manager + "numgroupsstable": 1, manager + "numgroupspreparingrebalance": 0,
		manager + "numoffsets": 1, coordinator + "offset_commit_count": 1, coordinator + "group_completed_rebalance_count": 1,
		coordinator + `num_partitions{state="active"}`: 3, coordinator + `num_partitions{state="loading"}`: 0, coordinator + `num_partitions{state="failed"}`: 0,
		"streambus_group_load_seconds_count": 3,
	})
}
