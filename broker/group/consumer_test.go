package group

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// TestStaticMemberReturns: an instance that comes back as who it was, to a group whose
// target is computed anew at the same time, has its target at the next coordinator too.
func TestStaticMemberReturns(t *testing.T) {
	cfg := Config{ConsumerSession: time.Minute, ConsumerMaxSize: 10, Assignors: []string{uniformAssignor}}
	c := &churn{
		t: t, now: time.UnixMilli(1_800_000_000_000), cfg: cfg, shard: New(cfg), rng: rand.New(rand.NewPCG(1, 848)), calm: true, index: 1,
		md: map[string]Topic{"t0": {ID: topicID{1}, Partitions: 2}, "t1": {ID: topicID{2}, Partitions: 1}},
	}
	c.carry(c.shard.Loaded(c.now))
	static := &reader{id: "a", instance: kmsg.StringPtr("i"), topics: []string{"t0"}, owned: holding{}}
	other := &reader{id: "b", topics: []string{"t1"}, owned: holding{}}
	c.heartbeat(static, 0)
	c.heartbeat(other, 0)
	c.heartbeat(static, leavingFor)
	c.heartbeat(other, leaving)
	c.heartbeat(static, 0)
	if was, is := standing(c.shard), standing(c.replayed()); was != is {
		t.Errorf("the log does not say what the coordinator knew:\n%s\nit says\n%s", was, is)
	}
}

// TestIDsOfTheOtherProtocol: an id that was given out for the classic protocol is of no
// use, and of no harm, once the group is one of the consumer protocol.
func TestIDsOfTheOtherProtocol(t *testing.T) {
	cfg := Config{ConsumerSession: time.Minute, ConsumerMaxSize: 10, Assignors: []string{uniformAssignor}, MaxSession: time.Minute}
	c := &churn{t: t, now: time.UnixMilli(1_800_000_000_000), cfg: cfg, shard: New(cfg), rng: rand.New(rand.NewPCG(1, 848)), calm: true, index: 1}
	c.carry(c.shard.Loaded(c.now))
	join := kmsg.NewPtrJoinGroupRequest()
	join.Version, join.Group, join.SessionTimeoutMillis, join.ProtocolType = 5, "g", 1000, consumerProtocol
	join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range"}}
	c.carry(c.shard.Join(c.now, join, Client{ID: "a", Unique: "1"}, "token"))
	c.heartbeat(&reader{id: "b", topics: []string{"t0"}, owned: holding{}}, 0)
	c.now = c.now.Add(2 * time.Second)
	if at := c.shard.groups["g"].next(); at.Before(c.now) {
		t.Fatalf("what is due at %v is never done", at)
	}
	c.carry(c.shard.Tick(c.now))
}

// TestUpgradeAmidRevocation: a member of the classic protocol that was not assigned again
// what it owns has it until it joins without it, whatever becomes of the group meanwhile.
func TestUpgradeAmidRevocation(t *testing.T) {
	cfg := Config{
		ConsumerSession: time.Minute, ConsumerMaxSize: 10, Assignors: []string{uniformAssignor},
		MaxSession: time.Minute, MaxSize: 10, Upgrades: true,
	}
	c := &churn{
		t: t, now: time.UnixMilli(1_800_000_000_000), cfg: cfg, shard: New(cfg), rng: rand.New(rand.NewPCG(1, 848)), calm: true, index: 1,
		md: map[string]Topic{"t0": {ID: topicID{1}, Partitions: 1}, "t1": {ID: topicID{2}, Partitions: 1}},
	}
	c.carry(c.shard.Loaded(c.now))
	old := &elder{name: "a", generation: -1, topics: []string{"t1"}}
	reads := holding{part{topicID{1}, 0}: 0} // of a topic that it does not ask for any more
	old.owned = reads
	c.joins(old)
	c.joins(old)
	c.carry(c.shard.Tick(c.now))
	old.owned, old.told = reads, c.now
	c.elders = []*elder{old}
	c.syncs(old)
	old.owned, old.settled = reads, false // it has not heard what it is to give up

	young := &reader{id: "b", topics: []string{"t0"}, owned: holding{}}
	c.readers = []*reader{young}
	c.heartbeat(young, 0)
	if c.shard.groups["g"].consumer == nil {
		t.Fatal("the group is of the classic protocol")
	}
	c.check()
	c.joins(old) // it owns it still
	c.heartbeat(young, young.epoch)
	c.check()
	old.owned, old.joined = holding{}, nil
	c.joins(old)
	c.heartbeat(young, young.epoch)
	c.check()
	if !sameParts(young.owned, reads) {
		t.Errorf("what was given up is nobody's: %v", young.owned)
	}
}

// TestConsumerDeadlines: who is heard of once only is put out when its session is over,
// or before, if it was to give something up.
func TestConsumerDeadlines(t *testing.T) {
	cfg := usual
	cfg.ConsumerMaxSize, cfg.Assignors = 10, []string{uniformAssignor}
	b := newBench(t, cfg)
	md := &Metadata{
		Index: 1, Session: time.Minute,
		Find: func(name string) (Topic, bool) { return Topic{ID: topicID{1}, Partitions: 2}, name == "t" },
	}
	joins := func(id string) {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.RebalanceTimeoutMillis, req.SubscribedTopicNames = 1, "g", id, 10_000, []string{"t"}
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		b.do(b.s.ConsumerHeartbeat(b.now, req, md, Client{ID: id}, id))
		take[*kmsg.ConsumerGroupHeartbeatResponse](b, id)
	}
	left := func() int {
		if g := b.s.groups["g"]; g != nil {
			return g.size()
		}
		return 0 // an empty group goes with the retention's next look
	}
	joins("a")
	b.pass(time.Minute + time.Second)
	b.want("members after a session", left(), 0)

	joins("a")
	joins("b")
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, "g", "a", b.s.groups["g"].consumer.members["a"].epoch
	b.do(b.s.ConsumerHeartbeat(b.now, req, md, Client{ID: "a"}, "a")) // it is to give up one
	b.pass(11 * time.Second)
	b.want("members after the time to give up", left(), 1)
}

// TestPreferredAssignor: a target is computed anew when the members prefer another
// assignor, not when one of them says what the others say.
func TestPreferredAssignor(t *testing.T) {
	cfg := usual
	cfg.ConsumerMaxSize, cfg.Assignors = 10, []string{uniformAssignor, rangeAssignor}
	b := newBench(t, cfg)
	md := &Metadata{Index: 1, Session: time.Minute, Find: func(string) (Topic, bool) { return Topic{ID: topicID{1}, Partitions: 2}, true }}
	beats := func(id string, epoch int32, assignor string) int32 {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.MemberEpoch = 1, "g", id, epoch
		if assignor != "" {
			req.ServerAssignor = &assignor
		}
		if epoch == joining0 {
			req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = 10_000, []string{id}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		}
		b.do(b.s.ConsumerHeartbeat(b.now, req, md, Client{ID: id}, id))
		resp, _ := take[*kmsg.ConsumerGroupHeartbeatResponse](b, id)
		return resp.MemberEpoch
	}
	b.want("the epoch of a", beats("a", joining0, ""), int32(2))
	b.want("with another assignor", beats("a", 2, rangeAssignor), int32(3))
	b.want("with the same", beats("a", 3, rangeAssignor), int32(3))
	b.want("the epoch of b", beats("b", joining0, ""), int32(4))
	b.want("with the assignor that a has", beats("b", 4, rangeAssignor), int32(4))
}
