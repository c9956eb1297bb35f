package broker

import (
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/coordinator"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
)

// coordinator asks any node who coordinates a group.
func (c *processes) coordinator(group string) (*process, error) {
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.Version, req.CoordinatorKeys = 4, []string{group}
	err := fmt.Errorf("no node is there")
	for _, p := range c.nodes {
		var resp kmsg.Response
		if resp, err = exchange(p.addr(), req, 3*time.Second); err != nil {
			continue
		}
		row := resp.(*kmsg.FindCoordinatorResponse).Coordinators[0]
		if row.ErrorCode != 0 {
			return nil, fmt.Errorf("node %d answers %s: %v", p.id, protocol.ErrorCode(row.ErrorCode), row.ErrorMessage)
		}
		return c.nodes[row.NodeID-1], nil
	}
	return nil, err
}

// commit has an offset kept by whoever coordinates the group.
func (c *processes) commit(group string, at int64) {
	c.t.Helper()
	c.eventually("a commit", func() error {
		p, err := c.coordinator(group)
		if err != nil {
			return err
		}
		req := kmsg.NewPtrOffsetCommitRequest()
		req.Version, req.Group, req.Generation = 8, group, -1
		req.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: at, LeaderEpoch: -1}}}}
		resp, err := exchange(p.addr(), req, 10*time.Second)
		if err != nil {
			return err
		}
		if code := resp.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode; code != 0 {
			return fmt.Errorf("node %d answers %s", p.id, protocol.ErrorCode(code))
		}
		return nil
	})
}

func (c *processes) committed(group string) (at int64) {
	c.t.Helper()
	c.eventually("the committed offset", func() error {
		p, err := c.coordinator(group)
		if err != nil {
			return err
		}
		req := kmsg.NewPtrOffsetFetchRequest()
		req.Version = 8
		req.Groups = []kmsg.OffsetFetchRequestGroup{{Group: group, Topics: []kmsg.OffsetFetchRequestGroupTopic{{Topic: "t", Partitions: []int32{0}}}}}
		resp, err := exchange(p.addr(), req, 10*time.Second)
		if err != nil {
			return err
		}
		row := resp.(*kmsg.OffsetFetchResponse).Groups[0]
		if row.ErrorCode != 0 {
			return fmt.Errorf("node %d answers %s", p.id, protocol.ErrorCode(row.ErrorCode))
		}
		at = row.Topics[0].Partitions[0].Offset
		return nil
	})
	return at
}

// What was committed is never older at the next coordinator, and it takes commits at
// once.
func TestCoordinatorKilled(t *testing.T) {
	c := startCluster(t, 3)
	c.replicated("t")
	c.put("t", "a record")
	for i := range int64(6) {
		at := 10 + i
		c.commit("g", at)
		p, err := c.coordinator("g")
		if err != nil {
			t.Fatal(err)
		}
		begun := time.Now()
		if i%2 == 0 {
			p.signal(os.Kill)
			<-p.exited
		} else {
			c.terminate(p)
		}
		if got := c.committed("g"); got != at {
			t.Fatalf("%d was committed, and the next coordinator says %d", at, got)
		}
		c.commit("g", at)
		t.Logf("%s until the next commit", time.Since(begun).Round(time.Millisecond))
		c.launch(p)
		c.started(p)
		c.inSync("t", 3)
	}
}

// Where too few replicas are in sync for what a group decides, that is refused: nothing
// is kept, nobody waits for ever, and all goes on when they are back.
func TestOffsetsBelowMinISR(t *testing.T) {
	c := newProcesses(t, asBoth, asBoth, asBoth)
	for _, p := range c.nodes {
		p.settings = []string{"group.initial.rebalance.delay.ms=0"}
		c.launch(p)
	}
	for _, p := range c.nodes {
		c.started(p)
	}
	c.replicated("t")
	c.commit("g", 1)
	p, err := c.coordinator("g")
	if err != nil {
		t.Fatal(err)
	}
	c.configure(p, kmsg.ConfigResourceTypeTopic, coordinator.OffsetsTopic, map[string]string{"min.insync.replicas": "3"})
	c.commit("g", 2)
	other := c.nodes[p.id%3]
	other.signal(os.Kill)
	<-other.exited
	c.eventually("the replica has left the ISR", func() error {
		row, err := metadata(p, coordinator.OffsetsTopic, time.Second)
		if err != nil {
			return err
		}
		for _, x := range row.Partitions {
			if x.Partition == coordinator.Partition("g", int32(len(row.Partitions))) && len(x.ISR) == 2 {
				return nil
			}
		}
		return fmt.Errorf("it is in it still")
	})
	refused := func(what string, req kmsg.Request, code func(kmsg.Response) int16) {
		t.Helper()
		resp, err := exchange(p.addr(), req, patience)
		if err != nil {
			t.Fatal(err)
		}
		if got := protocol.ErrorCode(code(resp)); got != protocol.CoordinatorNotAvailable {
			t.Errorf("%s: %s", what, got)
		}
	}
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Version, commit.Group, commit.Generation = 8, "g", -1
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{Topic: "t", Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Offset: 3, LeaderEpoch: -1}}}}
	refused("a commit", commit, func(r kmsg.Response) int16 { return r.(*kmsg.OffsetCommitResponse).Topics[0].Partitions[0].ErrorCode })
	beat := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	beat.Version, beat.Group, beat.MemberID, beat.RebalanceTimeoutMillis = 1, "g", "m", 60_000
	beat.SubscribedTopicNames, beat.Topics = []string{"t"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	refused("a member", beat, func(r kmsg.Response) int16 { return r.(*kmsg.ConsumerGroupHeartbeatResponse).ErrorCode })
	if got := c.committed("g"); got != 2 {
		t.Errorf("%d is committed, want 2", got)
	}
	c.launch(other)
	c.started(other)
	if got := c.committed("g"); got != 2 {
		t.Errorf("%d is committed when the replica is back, want 2", got)
	}
	c.commit("g", 4)
	if got := c.committed("g"); got != 4 {
		t.Errorf("%d is committed, want 4", got)
	}
}

// A partition whose groups cannot be loaded is not given up: they are once what is in
// the way is gone.
func TestGroupsThatCannotBeLoaded(t *testing.T) {
	c := newProcesses(t, asBoth)
	p := c.nodes[0]
	p.settings = []string{"offsets.topic.num.partitions=1"}
	c.launch(p)
	c.started(p)
	c.submit(c.as(900, c.clusterID()), &control.CreateTopic{Name: "t", ID: newUUID(), Partitions: 1, ReplicationFactor: 1})
	c.commit("g", 1)
	client, err := kgo.NewClient(kgo.SeedBrokers(p.addr()), kgo.ClientID("__admin_client"))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(t.Context(), &kgo.Record{Topic: coordinator.OffsetsTopic, Key: []byte("?"), Value: []byte("no such record")}).FirstErr(); err != nil {
		t.Fatal(err)
	}
	p.signal(os.Kill)
	<-p.exited
	c.launch(p)
	c.started(p)
	c.logged(p, "cannot be loaded")
	beat := kmsg.NewPtrHeartbeatRequest()
	beat.Version, beat.Group, beat.MemberID = 4, "g", "m"
	resp, err := exchange(p.addr(), beat, patience)
	if err != nil {
		t.Fatal(err)
	}
	if code := protocol.ErrorCode(resp.(*kmsg.HeartbeatResponse).ErrorCode); code != protocol.CoordinatorLoadInProgress {
		t.Errorf("a heartbeat is answered %s", code)
	}
	c.configure(p, kmsg.ConfigResourceTypeTopic, coordinator.OffsetsTopic, map[string]string{"cleanup.policy": "compact,delete"})
	c.deleteBelow(coordinator.OffsetsTopic, 2)
	c.commit("g", 2)
	if got := c.committed("g"); got != 2 {
		t.Errorf("%d is committed, want 2", got)
	}
}
