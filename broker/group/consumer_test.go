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
