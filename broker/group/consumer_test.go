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
