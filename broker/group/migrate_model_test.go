package group

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/group/assign"
	"github.com/streambus/streambus/protocol"
)

// elder is a consumer of the classic protocol, a cooperative one: it goes on reading
// while it joins, says what it owns, and joins again after it gave up something.
type elder struct {
	name       string
	id         string
	generation int32
	topics     []string
	owned      holding
	told       time.Time
	joined     *kmsg.JoinGroupResponse // it is to ask for its assignment, nil if not
	settled    bool                    // it has its assignment
	waiting    int                     // which of its requests waits, 0 for none
	asked      int
}

// drop has it lose what it owns, and its place.
func (e *elder) drop(id string) {
	e.owned, e.id, e.generation, e.joined, e.settled = holding{}, id, -1, nil, false
}

func (e *elder) metadata(c *churn) []byte {
	m := kmsg.NewConsumerMemberMetadata()
	m.Version, m.Topics = 1, e.topics
	for _, t := range named(e.owned.assignment(), c.metadata()).TopicPartitions {
		m.OwnedPartitions = append(m.OwnedPartitions, kmsg.ConsumerMemberMetadataOwnedPartition{Topic: t.Topic, Partitions: t.Partitions})
	}
	return m.AppendTo(nil)
}

// asks sends a request of an elder. Its answer may come with a later step, or never.
func (c *churn) asks(e *elder, send func(token any) Effects, heard func(body any)) {
	e.asked++
	number := e.asked
	e.waiting = number
	c.shard.Know(c.metadata())
	c.carry(send(func(body any) {
		c.safe = len(c.log)
		if e.waiting != number {
			return // it has asked something else since
		}
		e.waiting = 0
		if c.calm || c.rng.IntN(10) > 0 {
			heard(body)
		}
	}))
	c.expired()
}

// act is the next thing that an elder does.
func (c *churn) act(e *elder) {
	switch {
	case e.waiting != 0 && (c.calm || c.rng.IntN(20) > 0):
	case e.joined != nil:
		c.syncs(e)
	case !e.settled:
		c.joins(e)
	default:
		c.beats(e)
	}
}

func (c *churn) joins(e *elder) {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.ProtocolType = 5, "g", e.id, consumerProtocol
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 45_000, 600_000
	p := kmsg.NewJoinGroupRequestProtocol()
	p.Name, p.Metadata = "cooperative-sticky", e.metadata(c)
	req.Protocols = append(req.Protocols, p)
	c.next++
	who := Client{ID: e.name, Unique: fmt.Sprint(c.next)}
	c.asks(e, func(token any) Effects { return c.shard.Join(c.now, req, who, token) }, func(body any) {
		resp := body.(*kmsg.JoinGroupResponse)
		switch code := protocol.ErrorCode(resp.ErrorCode); code {
		case protocol.None:
			if e.id = resp.MemberID; resp.Generation < e.generation {
				c.t.Fatalf("seed %d: %s goes from generation %d back to %d", c.seed, e.name, e.generation, resp.Generation)
			}
			e.generation, e.joined, e.told = resp.Generation, resp, c.now
		case protocol.MemberIDRequired:
			e.id = resp.MemberID
		case protocol.UnknownMemberID:
			e.drop("")
		case protocol.RebalanceInProgress, protocol.NotCoordinator, protocol.CoordinatorNotAvailable:
		default:
			c.t.Fatalf("seed %d: %s joins: %s", c.seed, e.name, code)
		}
	})
}

// plan is what a leader assigns: what somebody else owns is nobody's until it was given up.
func (c *churn) plan(resp *kmsg.JoinGroupResponse) (all []kmsg.SyncGroupRequestGroupAssignment) {
	md := c.metadata()
	partitions := map[topicID]int32{}
	owner := map[part]string{}
	var members []assign.Member
	for _, m := range resp.Members {
		var said kmsg.ConsumerMemberMetadata
		if err := said.ReadFrom(m.ProtocolMetadata); err != nil {
			c.t.Fatalf("seed %d: %v", c.seed, err)
		}
		as := assign.Member{ID: m.MemberID, Topics: map[topicID]bool{}}
		for _, name := range said.Topics {
			if t, ok := md.Find(name); ok {
				as.Topics[t.ID], partitions[t.ID] = true, t.Partitions
			}
		}
		owns := holding{}
		for _, t := range said.OwnedPartitions {
			partsOf(md, t.Topic, t.Partitions, func(p part) { owns[p], owner[p] = 0, m.MemberID })
		}
		as.Assigned = owns.assignment()
		members = append(members, as)
	}
	for i, target := range assign.Uniform(members, partitions) {
		has := holding{}
		for topic, indexes := range target {
			for _, n := range indexes {
				if by := owner[part{topic, n}]; by == "" || by == members[i].ID {
					has[part{topic, n}] = 0
				}
			}
		}
		a := kmsg.NewSyncGroupRequestGroupAssignment()
		a.MemberID, a.MemberAssignment = members[i].ID, written(has.assignment(), []byte{0, 1}, md)
		all = append(all, a)
	}
	return all
}

func (c *churn) syncs(e *elder) {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 4, "g", e.id, e.generation
	if e.joined.LeaderID == e.id {
		req.GroupAssignment = c.plan(e.joined)
	}
	c.asks(e, func(token any) Effects { return c.shard.Sync(c.now, req, token) }, func(body any) {
		resp := body.(*kmsg.SyncGroupResponse)
		switch code := protocol.ErrorCode(resp.ErrorCode); code {
		case protocol.None:
		case protocol.RebalanceInProgress, protocol.NotCoordinator, protocol.CoordinatorNotAvailable:
			e.joined = nil
			return
		case protocol.IllegalGeneration:
			e.drop(e.id)
			return
		case protocol.UnknownMemberID:
			e.drop("")
			return
		default:
			c.t.Fatalf("seed %d: %s syncs: %s", c.seed, e.name, code)
		}
		var a kmsg.ConsumerMemberAssignment
		if err := a.ReadFrom(resp.MemberAssignment); err != nil && len(resp.MemberAssignment) > 0 {
			c.t.Fatalf("seed %d: %v", c.seed, err)
		}
		has := holding{}
		for _, t := range a.Topics {
			partsOf(c.metadata(), t.Topic, t.Partitions, func(p part) { has[p] = 0 })
		}
		e.settled = e.owned.within(has) // otherwise it has given up something, and says so
		e.owned, e.joined, e.told = has, nil, c.now
	})
}

func (c *churn) beats(e *elder) {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 3, "g", e.id, e.generation
	c.asks(e, func(token any) Effects { return c.shard.Heartbeat(c.now, req, token) }, func(body any) {
		switch code := protocol.ErrorCode(body.(*kmsg.HeartbeatResponse).ErrorCode); code {
		case protocol.None:
			e.told = c.now
		case protocol.RebalanceInProgress:
			e.settled, e.told = false, c.now
		case protocol.IllegalGeneration:
			e.drop(e.id)
		case protocol.UnknownMemberID:
			e.drop("")
		case protocol.NotCoordinator, protocol.CoordinatorNotAvailable:
		default:
			c.t.Fatalf("seed %d: %s: %s", c.seed, e.name, code)
		}
	})
}

func (c *churn) quits(e *elder) {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group, req.MemberID = 2, "g", e.id
	e.owned = holding{}
	c.elders = slices.DeleteFunc(c.elders, func(x *elder) bool { return x == e })
	c.asks(e, func(token any) Effects { return c.shard.Leave(c.now, req, token) }, func(any) {})
}

// mixed is a step of a group where both protocols are spoken.
func (c *churn) mixed() {
	switch n := c.rng.IntN(100); {
	case n < 4 && len(c.elders) < 4:
		c.next++
		e := &elder{name: fmt.Sprint("e", c.next), generation: -1, owned: holding{}}
		for _, name := range slices.Sorted(maps.Keys(c.md)) {
			if c.rng.IntN(3) > 0 {
				e.topics = append(e.topics, name)
			}
		}
		c.elders = append(c.elders, e)
	case n < 6 && len(c.elders) > 0:
		c.quits(c.elders[c.rng.IntN(len(c.elders))])
	case n < 8 && len(c.readers) > 0 && len(c.elders) > 0: // all of the consumer protocol leave
		for _, r := range slices.Clone(c.readers) {
			r.owned, r.assigned = holding{}, nil
			c.heartbeat(r, leavingEpoch)
		}
	case n < 60 && len(c.elders) > 0:
		c.now = c.now.Add(time.Duration(c.rng.IntN(500)) * time.Millisecond)
		c.tick()
		c.expired()
		c.act(c.elders[c.rng.IntN(len(c.elders))])
	case len(c.readers) > 0 || len(c.elders) == 0 || n > 95:
		c.step()
		return
	}
	c.check()
}

// TestMigrationModel: what TestConsumerModel says, of a group in which both protocols
// are spoken, and which changes between them.
func TestMigrationModel(t *testing.T) {
	n := 300
	if s := os.Getenv("STREAMBUS_MODEL_SEEDS"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	ups, downs := 0, 0
	for seed := range uint64(n) {
		cfg := Config{
			ConsumerSession: 45 * time.Second, ConsumerMaxSize: 100, Assignors: []string{uniformAssignor, rangeAssignor},
			MinSession: time.Second, MaxSession: time.Hour, MaxSize: 100, Upgrades: true, Downgrades: true,
			Retention: time.Hour * 24 * 7, RetentionCheck: 10 * time.Minute, MaxMetadata: 4096,
		}
		c := &churn{
			t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 849)), now: time.UnixMilli(1_800_000_000_000), cfg: cfg, split: seed%3 == 0,
			md: map[string]Topic{"t0": {ID: topicID{1}, Partitions: 3}, "t1": {ID: topicID{2}, Partitions: 5}}, index: 3,
		}
		c.shard = c.fresh()
		c.carry(c.shard.Loaded(c.now))
		was := false
		for range 400 {
			c.mixed()
			if g := c.shard.groups["g"]; g != nil && !g.vacant() {
				if is := g.consumer != nil; is != was {
					if was = is; is {
						ups++
					} else {
						downs++
					}
				}
			}
		}
		c.converge()
	}
	if ups < n || downs < n/4 {
		t.Errorf("groups became of the consumer protocol %d times, and of the classic one %d times", ups, downs)
	}
}
