package broker

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/protocol"
)

// quorumOf is what a node says of the controllers.
func quorumOf(t *testing.T, addr string) (row kmsg.DescribeQuorumResponseTopicPartition, resp *kmsg.DescribeQuorumResponse) {
	t.Helper()
	req := kmsg.NewPtrDescribeQuorumRequest()
	topic, p := kmsg.NewDescribeQuorumRequestTopic(), kmsg.NewDescribeQuorumRequestTopicPartition()
	topic.Topic, topic.Partitions = "__cluster_metadata", append(topic.Partitions, p)
	req.Version, req.Topics = 2, append(req.Topics, topic)
	resp = inquire[*kmsg.DescribeQuorumResponse](t, addr, req)
	if resp.ErrorCode != 0 || resp.Topics[0].Partitions[0].ErrorCode != 0 {
		t.Fatalf("the quorum at %s: %+v", addr, resp)
	}
	return resp.Topics[0].Partitions[0], resp
}

func inquire[R kmsg.Response](t *testing.T, addr string, req kmsg.Request) R {
	t.Helper()
	resp, err := exchange(addr, req, patience)
	if err != nil {
		t.Fatalf("%s: %v", protocol.Name(req.Key()), err)
	}
	return resp.(R)
}

// Every node tells of all: brokers on the listener of clients, controllers on
// their own. A fourth controller is taken in, and let go; a broker that is dead is
// forgotten; the broker that comes back is given its partitions.
func TestClusterByItsAPIs(t *testing.T) {
	c := startCluster(t, 3)
	active := c.active(t.Context())
	for _, p := range c.nodes {
		row, resp := quorumOf(t, p.addr())
		if row.LeaderID != active.id || len(row.CurrentVoters) != 3 || len(row.Observers) != 0 || len(resp.Nodes) != 3 || row.HighWatermark < 1 {
			t.Errorf("node %d tells %+v", p.id, resp)
		}
		own, _ := quorumOf(t, "127.0.0.1:"+p.controllers)
		if own.LeaderID != row.LeaderID || len(own.CurrentVoters) != 3 {
			t.Errorf("the controller listener of node %d tells %+v", p.id, own)
		}

		req := kmsg.NewPtrDescribeClusterRequest()
		req.Version = 1
		brokers := inquire[*kmsg.DescribeClusterResponse](t, p.addr(), req)
		req.EndpointType = 2
		controllers := inquire[*kmsg.DescribeClusterResponse](t, "127.0.0.1:"+p.controllers, req)
		if brokers.ControllerID != p.id || len(brokers.Brokers) != 3 || controllers.ControllerID != active.id || len(controllers.Brokers) != 3 {
			t.Errorf("node %d tells %+v and %+v", p.id, brokers, controllers)
		}
		for i, x := range c.nodes {
			if b, q := brokers.Brokers[i], controllers.Brokers[i]; fmt.Sprint(b.Port) != x.port || fmt.Sprint(q.Port) != x.controllers || q.NodeID != x.id {
				t.Errorf("node %d says that node %d is at %+v and %+v", p.id, x.id, b, q)
			}
		}
	}
	fourth := c.launchController(t, 4)
	c.growAndShrink(t, fourth)
	c.electAndForget(t)
}

// launchController starts a node that is only a controller, and waits to be taken
// in.
func (c *processes) launchController(t *testing.T, id int32) *process {
	p := &process{id: id, data: t.TempDir(), controllers: freePort(t), admin: freePort(t)}
	cmd := exec.Command(c.bin, "serve", "--data-dir", p.data, "--admin-listen", "127.0.0.1:"+p.admin,
		"--listeners", "CONTROLLER://127.0.0.1:"+p.controllers, "--set", fmt.Sprint("node.id=", id), "--set", "process.roles=controller",
		"--set", "controller.quorum.bootstrap.servers=127.0.0.1:"+c.nodes[0].controllers, "--set", "controller.listener.names=CONTROLLER")
	p.out = &startWatch{started: make(chan struct{})}
	cmd.Stderr = p.out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-exited })
	return p
}

func (c *processes) growAndShrink(t *testing.T, fourth *process) {
	add := kmsg.NewPtrAddRaftVoterRequest()
	add.Version, add.VoterID, add.TimeoutMillis = 1, fourth.id, 10_000
	l := kmsg.NewAddRaftVoterRequestListener()
	l.Name, l.Host = "CONTROLLER", "127.0.0.1"
	fmt.Sscan(fourth.controllers, &l.Port)
	add.Listeners = append(add.Listeners, l)
	until(t, "a fourth node that knows the cluster", func() bool {
		a, err := peer.SayHello(t.Context(), "127.0.0.1:"+fourth.controllers, testPeer, "")
		add.VoterDirectoryID = a.DirectoryID
		return err == nil && a.ClusterID != ""
	})

	other := *add
	other.VoterDirectoryID = newUUID()
	if resp := inquire[*kmsg.AddRaftVoterResponse](t, c.nodes[1].addr(), &other); protocol.ErrorCode(resp.ErrorCode) != protocol.InvalidRequest {
		t.Errorf("with another directory: %+v", resp)
	}
	other = *add
	other.VoterID, other.Listeners = 5, []kmsg.AddRaftVoterRequestListener{{Name: "CONTROLLER", Host: "127.0.0.1", Port: 1}}
	if resp := inquire[*kmsg.AddRaftVoterResponse](t, c.nodes[1].addr(), &other); protocol.ErrorCode(resp.ErrorCode) != protocol.RequestTimedOut {
		t.Errorf("where nobody is: %+v", resp)
	}
	if resp := inquire[*kmsg.AddRaftVoterResponse](t, c.nodes[1].addr(), add); resp.ErrorCode != 0 {
		t.Fatalf("%s", *resp.ErrorMessage)
	}
	votes := func(row kmsg.DescribeQuorumResponseTopicPartition) bool {
		return slices.ContainsFunc(row.CurrentVoters, func(r kmsg.DescribeQuorumResponseTopicPartitionReplicaState) bool { return r.ReplicaID == fourth.id })
	}
	until(t, "the vote of the fourth", func() bool {
		row, _ := quorumOf(t, "127.0.0.1:"+c.nodes[2].controllers)
		return votes(row) && len(row.CurrentVoters) == 4
	})
	if _, resp := quorumOf(t, "127.0.0.1:"+fourth.controllers); len(resp.Nodes) != 4 {
		t.Errorf("the fourth tells %+v", resp.Nodes)
	}

	remove := kmsg.NewPtrRemoveRaftVoterRequest()
	remove.VoterID, remove.VoterDirectoryID = fourth.id, add.VoterDirectoryID
	if resp := inquire[*kmsg.RemoveRaftVoterResponse](t, "127.0.0.1:"+c.nodes[0].controllers, remove); resp.ErrorCode != 0 {
		t.Fatalf("%s", *resp.ErrorMessage)
	}
	until(t, "a quorum of three", func() bool {
		row, _ := quorumOf(t, c.nodes[0].addr())
		return !votes(row) && len(row.CurrentVoters) == 3
	})
}

func (c *processes) electAndForget(t *testing.T) {
	create := kmsg.NewPtrCreateTopicsRequest()
	create.Version, create.TimeoutMillis = 7, 10_000
	topic, a := kmsg.NewCreateTopicsRequestTopic(), kmsg.NewCreateTopicsRequestTopicReplicaAssignment()
	a.Replicas = []int32{3}
	topic.Topic, topic.NumPartitions, topic.ReplicationFactor, topic.ReplicaAssignment = "t", -1, -1, append(topic.ReplicaAssignment, a)
	create.Topics = append(create.Topics, topic)
	if row := inquire[*kmsg.CreateTopicsResponse](t, c.nodes[0].addr(), create).Topics[0]; row.ErrorCode != 0 {
		t.Fatalf("%+v", row)
	}
	elect := kmsg.NewPtrElectLeadersRequest()
	elect.Version, elect.TimeoutMillis = 2, 10_000
	q := kmsg.NewElectLeadersRequestTopic()
	q.Topic, q.Partitions = "t", []int32{0}
	elect.Topics = append(elect.Topics, q)
	electing := func() protocol.ErrorCode {
		return protocol.ErrorCode(inquire[*kmsg.ElectLeadersResponse](t, c.nodes[1].addr(), elect).Topics[0].Partitions[0].ErrorCode)
	}
	if got := electing(); got != protocol.ElectionNotNeeded {
		t.Errorf("its preferred leader leads, and the answer is %v", got)
	}
	third := c.nodes[2]
	third.signal(os.Kill)
	until(t, "the end of broker 3", func() bool { return electing() == protocol.PreferredLeaderNotAvailable })

	forget := kmsg.NewPtrUnregisterBrokerRequest()
	forget.BrokerID = third.id
	if resp := inquire[*kmsg.UnregisterBrokerResponse](t, "127.0.0.1:"+c.nodes[1].controllers, forget); resp.ErrorCode != 0 {
		t.Fatalf("%s", *resp.ErrorMessage)
	}
	cluster := kmsg.NewPtrDescribeClusterRequest()
	cluster.Version, cluster.EndpointType, cluster.IncludeFencedBrokers = 2, 1, true
	if d := inquire[*kmsg.DescribeClusterResponse](t, c.nodes[0].addr(), cluster); len(d.Brokers) != 2 {
		t.Errorf("brokers after one is forgotten: %+v", d.Brokers)
	}
	c.launch(third)
	c.started(third)
	if d := inquire[*kmsg.DescribeClusterResponse](t, c.nodes[0].addr(), cluster); len(d.Brokers) != 3 || d.Brokers[2].IsFenced {
		t.Errorf("brokers after it has come back: %+v", d.Brokers)
	}
	if strings.Contains(third.out.text(), "panic") {
		t.Error(third.out.text())
	}
}
