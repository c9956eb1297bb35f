package broker

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"golang.org/x/sync/errgroup"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
)

// fellows are the members of a group of the consumer protocol, which share connections.
type fellows struct {
	client      *kgo.Client
	coordinator int
	members     []*fellow
}

type fellow struct {
	id    string
	epoch int32
	topic [16]byte
	owns  []int32
	owes  bool // the coordinator what it owns
}

// beats has every member say that it lives, and counts those that come to another epoch
// or are given something else.
func (w *fellows) beats(t *testing.T) (moved int) {
	t.Helper()
	var n atomic.Int64
	var all errgroup.Group
	all.SetLimit(100)
	for _, m := range w.members {
		all.Go(func() error {
			moves, err := m.beat(t, w.client.Broker(w.coordinator))
			if moves {
				n.Add(1)
			}
			return err
		})
	}
	if err := all.Wait(); err != nil {
		t.Fatal(err)
	}
	return int(n.Load())
}

func (m *fellow) beat(t *testing.T, to *kgo.Broker) (moves bool, err error) {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch = "g", m.id, m.epoch
	if m.epoch == 0 {
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames = 60_000, []string{"t"}
	}
	if m.epoch == 0 || m.owes {
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	if m.owes && len(m.owns) > 0 {
		req.Topics = append(req.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: m.topic, Partitions: m.owns})
	}
	r, err := to.Request(t.Context(), req)
	if err != nil {
		return false, err
	}
	resp := r.(*kmsg.ConsumerGroupHeartbeatResponse)
	if code := protocol.ErrorCode(resp.ErrorCode); code != protocol.None {
		return false, fmt.Errorf("%s in epoch %d is answered %s", m.id, m.epoch, code)
	}
	moves = resp.MemberEpoch != m.epoch || resp.Assignment != nil
	m.epoch, m.owes = resp.MemberEpoch, resp.Assignment != nil
	if resp.Assignment != nil {
		m.owns = nil
		for _, a := range resp.Assignment.Topics {
			m.topic, m.owns = a.TopicID, append(m.owns, a.Partitions...)
		}
	}
	return moves, nil
}

// settles has the members say that they live until nothing moves, and each has as many
// partitions as it is to have, which nobody else has.
func (w *fellows) settles(t *testing.T, each int) {
	t.Helper()
	for tries := 1; w.beats(t) > 0; tries++ {
		if tries == 20 {
			t.Fatal("members move still")
		}
	}
	owner := map[int32]string{}
	for _, m := range w.members {
		if len(m.owns) != each {
			t.Errorf("%s has %d partitions, want %d", m.id, len(m.owns), each)
		}
		for _, p := range m.owns {
			if owner[p] != "" {
				t.Errorf("%s and %s have partition %d", owner[p], m.id, p)
			}
			owner[p] = m.id
		}
	}
}

// find looks for the coordinator, and returns once it has the group.
func (w *fellows) find(c *processes) *process {
	c.t.Helper()
	c.committed("g")
	p, err := c.coordinator("g")
	if err != nil {
		c.t.Fatal(err)
	}
	w.coordinator = int(p.id)
	return p
}

// A thousand members find their partitions, the end of their coordinator moves none of
// them, and when half of them leave the others get what those had.
func TestThousandMembers(t *testing.T) {
	c := startCluster(t, 3)
	c.submit(c.as(900, c.clusterID()), &control.CreateTopic{Name: "t", ID: newUUID(), Partitions: 2000, ReplicationFactor: 1})
	c.commit("g", 0)
	client, err := kgo.NewClient(kgo.SeedBrokers(c.nodes[0].addr(), c.nodes[1].addr(), c.nodes[2].addr()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	w := &fellows{client: client}
	for i := range 1000 {
		w.members = append(w.members, &fellow{id: fmt.Sprintf("m%03d", i)})
	}
	p := w.find(c)
	w.settles(t, 2)
	p.signal(os.Kill)
	<-p.exited
	w.find(c)
	if n := w.beats(t); n > 0 {
		t.Errorf("%d members move", n)
	}
	stay, leave := w.members[:500], w.members[500:]
	for _, m := range leave {
		m.epoch, m.owes = -1, false
	}
	w.members = leave
	w.beats(t)
	w.members = stay
	w.settles(t, 4)
}
