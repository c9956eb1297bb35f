package broker

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
)

// replicated makes a topic of one partition with a replica on each of three nodes,
// of which two have to be in sync.
func (c *processes) replicated(name string) {
	c.t.Helper()
	c.submit(c.as(900, c.clusterID()), &control.CreateTopic{
		Name: name, ID: newUUID(), Partitions: 1, ReplicationFactor: 3, Configs: map[string]string{"min.insync.replicas": "2"},
	})
}

// put appends a batch with acks=all, at whoever leads, and asks again where nobody
// does for the moment.
func (c *processes) put(topic string, values ...string) {
	c.t.Helper()
	c.putBatch(topic, batchtest.Values(values...).Encode())
}

func (c *processes) putBatch(topic string, b []byte) {
	c.t.Helper()
	c.eventually("a record for "+topic, func() error {
		p, _, err := c.leaderOf(topic)
		if err != nil {
			return err
		}
		resp, err := exchange(p.addr(), produceRequest(topic, 0, -1, slices.Clone(b)), 3*time.Second)
		if err != nil {
			return err
		}
		if code := protocol.ErrorCode(resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode); code != protocol.None {
			return fmt.Errorf("node %d answers %s", p.id, code)
		}
		return nil
	})
}

// leaderOf asks any node who leads a topic, and who is in sync.
func (c *processes) leaderOf(topic string) (*process, []int32, error) {
	err := fmt.Errorf("no node is there")
	for _, p := range c.nodes {
		var row *kmsg.MetadataResponseTopic
		if row, err = metadata(p, topic, time.Second); err != nil {
			continue
		}
		if len(row.Partitions) == 0 || row.Partitions[0].Leader < 1 {
			return nil, nil, fmt.Errorf("node %d says that nobody leads %s", p.id, topic)
		}
		x := row.Partitions[0]
		return c.nodes[x.Leader-1], x.ISR, nil
	}
	return nil, nil, err
}

func (c *processes) inSync(topic string, n int) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%d replicas of %s are in sync", n, topic), func() error {
		if _, isr, err := c.leaderOf(topic); err != nil || len(isr) != n {
			return fmt.Errorf("in sync are %v: %v", isr, err)
		}
		return nil
	})
}

// same compares the logs of all replicas, byte by byte.
func (c *processes) same(topic string) {
	c.t.Helper()
	c.eventually("the logs of "+topic+" are the same", func() error {
		var first []byte
		for i, p := range c.nodes {
			b, err := os.ReadFile(filepath.Join(p.data, topic+"-0", "00000000000000000000.log"))
			if err != nil {
				return err
			}
			if i == 0 {
				first = b
			}
			if len(b) == 0 || !bytes.Equal(b, first) {
				return fmt.Errorf("node %d has %d bytes, node %d %d, or others", c.nodes[0].id, len(first), p.id, len(b))
			}
		}
		return nil
	})
}

// What was acknowledged with acks=all is there when its leader is killed, whoever
// leads then; who comes back catches up, and drops what nobody acknowledged.
func TestReplication(t *testing.T) {
	c := startCluster(t, 3)
	c.replicated("t")
	for round := range 3 {
		for i := range 5 {
			c.put("t", fmt.Sprintf("%d.%d", round, i))
		}
		p, _, err := c.leaderOf("t")
		if err != nil {
			t.Fatal(err)
		}
		p.signal(os.Kill)
		c.put("t", fmt.Sprintf("%d after node %d was killed", round, p.id))
		c.launch(p)
		c.started(p)
		c.inSync("t", 3)
	}
	c.same("t")
}

// A broker that finds its files damaged says so, does not lead, and gets the records
// from those who have them. What it had is set aside.
func TestDamagedReplica(t *testing.T) {
	c := startCluster(t, 3)
	c.replicated("t")
	for i := range 5 {
		c.put("t", fmt.Sprint(i))
	}
	p, _, err := c.leaderOf("t")
	if err != nil {
		t.Fatal(err)
	}
	c.terminate(p)
	file := filepath.Join(p.data, "t-0", "00000000000000000000.log")
	if err := os.Truncate(file, 100); err != nil {
		t.Fatal(err)
	}
	c.launch(p)
	c.started(p)
	c.logged(p, "a damaged replica begins anew from its leader")
	c.put("t", "more")
	c.inSync("t", 3)
	c.same("t")
	names, err := filepath.Glob(filepath.Join(p.data, "t-0.*-stray"))
	if err != nil || len(names) != 1 {
		t.Errorf("set aside: %v, %v", names, err)
	}
}

// A replica that is found damaged while its broker runs, by the scrub or by a reader,
// goes the same way: others lead, and it gets the records from them. Where there are no
// others it stays as it is.
func TestReplicaDamagedWhileRunning(t *testing.T) {
	const segment = "00000000000000000000.log"
	value := strings.Repeat("x", 300_000)
	magicOfSecond := int64(len(batchtest.Values(value).Encode()) + 16)
	for _, x := range []struct {
		name    string
		scrub   string
		leads   bool
		at      int64 // of the sealed segment
		noticed func(c *processes, p *process, topic string)
	}{
		{"scrub-leader", "1000000000", true, 500_000, nil},
		{"scrub-follower", "1000000000", false, 500_000, nil},
		{"read-leader", "0", true, magicOfSecond, func(c *processes, p *process, topic string) {
			if _, err := exchange(p.addr(), fetchRequest(topic, 0, 1), patience); err != nil {
				c.t.Error(err)
			}
		}},
	} {
		t.Run(x.name, func(t *testing.T) {
			c := newProcesses(t, asBoth, asBoth, asBoth)
			for _, p := range c.nodes {
				p.settings = []string{"streambus.scrub.bytes.per.second=" + x.scrub}
				c.launch(p)
			}
			for _, p := range c.nodes {
				c.started(p)
			}
			by := c.as(900, c.clusterID())
			fill := func(topic string, replicas ...int32) {
				c.submit(by, &control.CreateTopic{
					Name: topic, ID: newUUID(), Partitions: -1, ReplicationFactor: -1, Assignments: [][]int32{replicas},
					Configs: map[string]string{"segment.bytes": "1048576"},
				})
				for range 6 { // more than one segment
					c.put(topic, value)
				}
			}
			damage := func(p *process, topic string) {
				f, err := os.OpenFile(filepath.Join(p.data, topic+"-0", segment), os.O_RDWR, 0)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				if _, err := f.WriteAt([]byte{0xff}, x.at); err != nil {
					t.Fatal(err)
				}
				if x.noticed != nil {
					x.noticed(c, p, topic)
				}
			}
			fill("alone", 1)
			fill("t", 1, 2, 3)
			c.inSync("t", 3)
			p := c.nodes[0]
			if x.leads {
				damage(p, "alone")
			} else {
				p = c.nodes[1]
			}
			damage(p, "t")
			c.logged(p, "a damaged replica begins anew from its leader")
			c.put("t", "more")
			c.inSync("t", 3)
			c.same("t")
			if leader, _, err := c.leaderOf("t"); err != nil || leader == p {
				t.Errorf("node %d leads: %v", p.id, err)
			}
			names, err := filepath.Glob(filepath.Join(p.data, "t-0.*-stray"))
			if err != nil || len(names) != 1 {
				t.Errorf("set aside: %v, %v", names, err)
			}
			c.put("alone", "more")
			if names, err := filepath.Glob(filepath.Join(p.data, "alone-0.*")); err != nil || len(names) != 0 {
				t.Errorf("set aside: %v, %v", names, err)
			}
		})
	}
}

// A batch whose leader epoch is damaged, which no CRC covers, names one that nobody has
// led in. Its replica gives it up and comes back.
func TestDamagedEpoch(t *testing.T) {
	c := startCluster(t, 3)
	c.replicated("t")
	for i := range 5 {
		c.put("t", fmt.Sprint(i))
	}
	p, _, err := c.leaderOf("t")
	if err != nil {
		t.Fatal(err)
	}
	p.signal(os.Kill)
	<-p.exited
	// A start verifies what lies above the recovery point.
	if err := os.Remove(filepath.Join(p.data, "recovery-point-offset-checkpoint")); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	file := filepath.Join(p.data, "t-0", "00000000000000000000.log")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	second, err := batch.DecodeHeader(b)
	if err != nil {
		t.Fatal(err)
	}
	const epochAt = 12
	flip(t, file, int(second.Length+epochAt)*8+5)
	c.launch(p)
	c.started(p)
	c.put("t", "more")
	c.inSync("t", 3)
	c.same("t")
}

// Without enough replicas in sync nothing is acknowledged, and what has been goes
// on when they are back.
func TestTooFewInSync(t *testing.T) {
	c := startCluster(t, 3)
	c.replicated("t")
	c.put("t", "first")
	p, _, err := c.leaderOf("t")
	if err != nil {
		t.Fatal(err)
	}
	others := slices.DeleteFunc(slices.Clone(c.nodes), func(x *process) bool { return x == p })
	for _, x := range others {
		x.pause() // they hold the quorum up too: nobody can take them out
	}
	req := produceRequest("t", 0, -1, batchtest.Values("second").Encode())
	req.TimeoutMillis = 300
	resp, err := exchange(p.addr(), req, 10*time.Second)
	for _, x := range others {
		x.resume()
	}
	if err != nil {
		t.Fatal(err)
	}
	if code := protocol.ErrorCode(resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0].ErrorCode); code == protocol.None {
		t.Fatal("a record was acknowledged that no other replica has")
	}
	c.put("t", "third")
	c.inSync("t", 3)
	c.same("t")
}

// A consumer that tells its rack is sent to the replica there, which has what was
// acknowledged at once (KIP-392).
func TestNearestReplica(t *testing.T) {
	c := newProcesses(t, asBoth, asBoth, asBoth)
	for _, p := range c.nodes {
		p.settings = append(p.settings, fmt.Sprintf("broker.rack=r%d", p.id), "replica.selector.class="+config.RackAware)
		c.launch(p)
	}
	for _, p := range c.nodes {
		c.started(p)
	}
	c.replicated("t")
	c.put("t", "first")
	p, _, err := c.leaderOf("t")
	if err != nil {
		t.Fatal(err)
	}
	near := c.nodes[p.id%3] // the next one
	get := func(at *process, rack string, offset int64) kmsg.FetchResponseTopicPartition {
		t.Helper()
		req := fetchRequest("t", 0, offset)
		req.Rack, req.MaxWaitMillis = rack, 5000
		resp, err := exchange(at.addr(), req, 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		return resp.(*kmsg.FetchResponse).Topics[0].Partitions[0]
	}
	for _, x := range []struct {
		rack      string
		preferred int32
	}{{fmt.Sprintf("r%d", near.id), near.id}, {fmt.Sprintf("r%d", p.id), -1}, {"", -1}, {"elsewhere", -1}} {
		if got := get(p, x.rack, 0); got.PreferredReadReplica != x.preferred || (len(got.RecordBatches) == 0) != (x.preferred >= 0) {
			t.Errorf("from rack %q: replica %d, %d bytes of records", x.rack, got.PreferredReadReplica, len(got.RecordBatches))
		}
	}
	if got := get(near, fmt.Sprintf("r%d", near.id), 0); got.ErrorCode != 0 || len(got.RecordBatches) == 0 {
		t.Errorf("the replica in the rack answers error %d and %d bytes", got.ErrorCode, len(got.RecordBatches))
	}
	if got := get(near, "", 99); protocol.ErrorCode(got.ErrorCode) != protocol.OffsetNotAvailable {
		t.Errorf("a follower says of an offset to come: error %d", got.ErrorCode)
	}
	for i := range 10 {
		c.put("t", fmt.Sprint(i))
		begun := time.Now()
		if got := get(near, "", int64(i+1)); got.ErrorCode != 0 || len(got.RecordBatches) == 0 {
			t.Fatalf("record %d is not at the follower after %s: error %d", i+1, time.Since(begun), got.ErrorCode)
		}
	}
}

func (c *processes) deleteBelow(name string, at int64) {
	c.t.Helper()
	p, _, err := c.leaderOf(name)
	if err != nil {
		c.t.Fatal(err)
	}
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Version, req.TimeoutMillis = 2, 10_000
	topic, part := kmsg.NewDeleteRecordsRequestTopic(), kmsg.NewDeleteRecordsRequestTopicPartition()
	topic.Topic, part.Offset = name, at
	topic.Partitions = append(topic.Partitions, part)
	req.Topics = append(req.Topics, topic)
	resp, err := exchange(p.addr(), req, 15*time.Second)
	if err != nil {
		c.t.Fatal(err)
	}
	if row := resp.(*kmsg.DeleteRecordsResponse).Topics[0].Partitions[0]; row.ErrorCode != 0 || row.LowWatermark != at {
		c.t.Fatalf("records below %d: error %d, low watermark %d", at, row.ErrorCode, row.LowWatermark)
	}
}

// A replica that begins anew where the leader has given up a part of a batch takes
// the whole batch.
func TestReplicaBeginsInsideABatch(t *testing.T) {
	c := startCluster(t, 3)
	c.replicated("t")
	c.put("t", "a", "b", "c")
	c.inSync("t", 3)
	c.deleteBelow("t", 1)
	p, _, err := c.leaderOf("t")
	if err != nil {
		t.Fatal(err)
	}
	c.terminate(p)
	if err := os.Truncate(filepath.Join(p.data, "t-0", "00000000000000000000.log"), 70); err != nil {
		t.Fatal(err)
	}
	c.launch(p)
	c.logged(p, "a damaged replica begins anew from its leader")
	c.inSync("t", 3)
	c.put("t", "d")
	c.inSync("t", 3)
	c.same("t")
}

// Deleted records are gone everywhere when the answer says so.
func TestDeletedEverywhere(t *testing.T) {
	c := startCluster(t, 3)
	c.replicated("t")
	for i := range 5 {
		c.put("t", fmt.Sprint(i))
	}
	c.inSync("t", 3)
	for at := int64(1); at < 4; at++ {
		c.deleteBelow("t", at)
		for _, x := range c.nodes {
			b, err := os.ReadFile(filepath.Join(x.data, "log-start-offset-checkpoint"))
			if err != nil || !strings.Contains(string(b), fmt.Sprintf("t 0 %d\n", at)) {
				t.Errorf("node %d, after records below %d were deleted: %q, %v", x.id, at, b, err)
			}
		}
	}
}

// A client that comes to another broker than the leader is told who leads, and where
// (KIP-951).
func TestPointedToLeader(t *testing.T) {
	c := startCluster(t, 3)
	c.replicated("t")
	c.put("t", "x")
	p, _, err := c.leaderOf("t")
	if err != nil {
		t.Fatal(err)
	}
	other := c.nodes[p.id%3]
	port, err := strconv.Atoi(p.port)
	if err != nil {
		t.Fatal(err)
	}
	produce := produceRequest("t", 0, -1, batchtest.Values("y").Encode())
	produce.Version = 12
	resp, err := exchange(other.addr(), produce, 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	produced := resp.(*kmsg.ProduceResponse)
	row := produced.Topics[0].Partitions[0]
	if protocol.ErrorCode(row.ErrorCode) != protocol.NotLeaderOrFollower || row.CurrentLeader.LeaderID != p.id || row.CurrentLeader.LeaderEpoch < 0 ||
		len(produced.Brokers) != 1 || produced.Brokers[0].NodeID != p.id || int(produced.Brokers[0].Port) != port {
		t.Errorf("a produce is answered %+v, brokers %+v", row, produced.Brokers)
	}
	fetch := fetchRequest("t", 0, 0)
	fetch.Version = 16
	img := c.nodes[0] // any node knows the topic's id
	described, err := exchange(img.addr(), metadataByName("t"), 5*time.Second)
	if err != nil {
		t.Fatal(err)
	}
	fetch.Topics[0].TopicID = described.(*kmsg.MetadataResponse).Topics[0].TopicID
	fetch.Topics[0].Partitions[0].CurrentLeaderEpoch = 0
	p.signal(os.Kill) // the next leader has another epoch
	c.put("t", "z")
	if p, _, err = c.leaderOf("t"); err != nil {
		t.Fatal(err)
	}
	if resp, err = exchange(p.addr(), fetch, 5*time.Second); err != nil {
		t.Fatal(err)
	}
	fetched := resp.(*kmsg.FetchResponse)
	got := fetched.Topics[0].Partitions[0]
	if protocol.ErrorCode(got.ErrorCode) != protocol.FencedLeaderEpoch || got.CurrentLeader.LeaderID != p.id || got.CurrentLeader.LeaderEpoch < 1 ||
		len(fetched.Brokers) != 1 || fetched.Brokers[0].NodeID != p.id {
		t.Errorf("a fetch is answered %+v, brokers %+v", got, fetched.Brokers)
	}
}

func metadataByName(topic string) *kmsg.MetadataRequest {
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	q := kmsg.NewMetadataRequestTopic()
	q.Topic = &topic
	req.Topics = append(req.Topics, q)
	return req
}
