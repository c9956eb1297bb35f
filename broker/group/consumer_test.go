package group

import (
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
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
	c.heartbeat(static, awayEpoch)
	c.heartbeat(other, leavingEpoch)
	c.heartbeat(static, 0)
	if was, is := standing(c.shard), standing(c.replayed()); was != is {
		t.Errorf("the log does not say what the coordinator knew:\n%s\nit says\n%s", was, is)
	}
}

// TestStaticMemberAsksAgain: who has not heard that it is in says so again, and another
// process with its instance is kept out all the same.
func TestStaticMemberAsksAgain(t *testing.T) {
	cfg := Config{ConsumerSession: time.Minute, ConsumerMaxSize: 10, Assignors: []string{uniformAssignor}}
	c := &churn{
		t: t, now: time.UnixMilli(1_800_000_000_000), cfg: cfg, shard: New(cfg), calm: true, index: 1,
		md: map[string]Topic{"t0": {ID: topicID{1}, Partitions: 2}},
	}
	c.carry(c.shard.Loaded(c.now))
	join := func(id string, want protocol.ErrorCode) *kmsg.ConsumerGroupHeartbeatResponse {
		t.Helper()
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.InstanceID = 1, "g", id, kmsg.StringPtr("i")
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = 600_000, []string{"t0"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		resp := c.carry(c.shard.ConsumerHeartbeat(c.now, req, c.metadata(), Client{ID: "client"}, "token")).(*kmsg.ConsumerGroupHeartbeatResponse)
		if code := protocol.ErrorCode(resp.ErrorCode); code != want {
			t.Fatalf("%s: %s, expected %s", id, code, want)
		}
		return resp
	}
	first := join("a", protocol.None)
	if again := join("a", protocol.None); !reflect.DeepEqual(again, first) || first.Assignment == nil {
		t.Errorf("told %+v, then %+v", first, again)
	}
	join("b", protocol.UnreleasedInstanceID)
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

// TestTargetsOfMany: what changes for more members than a batch has room for goes in
// several, their targets as well as their end, and what a coordinator knows that has
// read only some of them is enough to go on from.
func TestTargetsOfMany(t *testing.T) {
	const n = 12_000
	cfg := Config{ConsumerSession: time.Minute, ConsumerMaxSize: n, Assignors: []string{uniformAssignor}, RetentionCheck: time.Hour}
	c := &churn{t: t, now: time.UnixMilli(1_800_000_000_000), cfg: cfg, rng: rand.New(rand.NewPCG(1, 848)), calm: true, index: 1,
		md: map[string]Topic{"t0": {ID: topicID{1}, Partitions: n}}}
	records := []Record{epochRecord("g", 1, 0, 0), targetEpochRecord("g", 1, 0)}
	id := func(i int32) string { return fmt.Sprintf("%036d", i) } // as long as those of Kafka's clients
	for i := range int32(n) {
		p := part{topicID{1}, i}
		m := &consumer{id: id(i), topics: []string{"t0"}, epoch: 1, previous: 1, rebalance: time.Minute, assigned: holding{p: 1}, revoking: holding{}}
		records = append(records, subscriptionRecord("g", m), targetRecord("g", m.id, m.assigned.assignment()), currentRecord("g", m))
	}
	c.log = [][]Record{records}
	c.shard = c.replayed()
	c.carry(c.shard.Loaded(c.now))
	first := &reader{id: id(0), topics: []string{"t0"}, epoch: 1, owned: holding{part{topicID{1}, 0}: 0}}
	c.heartbeat(first, 1)

	begin := len(c.log)
	c.md["t0"] = Topic{ID: topicID{1}, Partitions: 5 * n}
	c.index++
	c.heartbeat(first, first.epoch)
	if len(first.owned) != 5 {
		t.Errorf("the first has %d partitions", len(first.owned))
	}
	batches := func(what string, begin int) {
		t.Helper()
		if len(c.log) < begin+2 {
			t.Errorf("%s: %d batches", what, len(c.log)-begin)
		}
		for _, records := range c.log[begin:] {
			bytes := 0
			for _, r := range records {
				bytes += len(r.Key) + len(r.Value) + recordBytes
			}
			if bytes > 1<<20 {
				t.Errorf("%s: a batch of %d records has %d bytes", what, len(records), bytes)
			}
		}
	}
	batches("targets", begin)
	whole := c.log
	for end := begin + 1; end < len(whole); end++ {
		c.log = slices.Clone(whole[:end])
		c.shard = c.replayed()
		c.carry(c.shard.Loaded(c.now))
		if state := c.shard.groups["g"].current(); state != Assigning {
			t.Errorf("%d batches of %d: the group is %s", end-begin, len(whole)-begin, state)
		}
		last := &reader{id: id(n - 1), topics: []string{"t0"}, epoch: 1, owned: holding{part{topicID{1}, n - 1}: 0}}
		c.heartbeat(last, 1)
		if g := c.shard.groups["g"]; len(last.owned) != 5 || g.consumer.targetEpoch != g.consumer.epoch {
			t.Errorf("%d batches of %d: the last has %d partitions", end-begin, len(whole)-begin, len(last.owned))
		}
	}

	begin = len(c.log)
	c.now = c.now.Add(2 * time.Minute)
	c.tick()
	batches("the end", begin)
	if left := len(c.shard.groups["g"].consumer.members); left > 0 {
		t.Errorf("%d members are left", left)
	}
}

// TestTooMuchToWrite: a member whose heartbeat changes more than a batch may hold is told
// so, and the group is what it was.
func TestTooMuchToWrite(t *testing.T) {
	cfg := Config{ConsumerSession: time.Minute, ConsumerMaxSize: 10, Assignors: []string{uniformAssignor}}
	c := &churn{t: t, now: time.UnixMilli(1_800_000_000_000), cfg: cfg, shard: New(cfg), rng: rand.New(rand.NewPCG(1, 848)), calm: true, index: 1,
		md: map[string]Topic{"t0": {ID: topicID{1}, Partitions: 4}}}
	c.carry(c.shard.Loaded(c.now))
	c.heartbeat(&reader{id: "a", topics: []string{"t0"}, owned: holding{}}, 0)
	was := standing(c.shard)
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.RebalanceTimeoutMillis = 1, "g", "b", 60_000
	req.SubscribedTopicNames, req.Topics = []string{"t0"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	if e := c.shard.ConsumerHeartbeat(c.now, req, c.metadata(), Client{ID: "c"}, "token"); len(e.Records) == 0 {
		t.Fatal("nothing is written")
	}
	e := c.shard.Refused(c.now, protocol.InvalidCommitOffsetSize)
	if len(e.Records) > 0 || len(e.Replies) != 1 {
		t.Fatalf("%d records, %d answers", len(e.Records), len(e.Replies))
	}
	resp := e.Replies[0].Body.(*kmsg.ConsumerGroupHeartbeatResponse)
	if code := protocol.ErrorCode(resp.ErrorCode); code != protocol.UnknownServerError || !strings.Contains(orBlank(resp.ErrorMessage), "max.message.bytes") {
		t.Errorf("%v: %s", code, orBlank(resp.ErrorMessage))
	}
	if is := standing(c.shard); is != was {
		t.Errorf("the group was\n%s\nand is\n%s", was, is)
	}
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

// TestLongNames: what is too long for the key of a record is refused. Written, it would
// keep the next coordinator from loading the partition, or be somebody else's.
func TestLongNames(t *testing.T) {
	for _, n := range []int{1 << 15, 1<<16 + 1} {
		long := strings.Repeat("x", n)
		for what, change := range map[string]func(*kmsg.ConsumerGroupHeartbeatRequest){
			"group":   func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.Group = long },
			"member":  func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.MemberID = long },
			"pattern": func(r *kmsg.ConsumerGroupHeartbeatRequest) { r.SubscribedTopicRegex = &long },
		} {
			cfg := Config{ConsumerSession: time.Minute, ConsumerMaxSize: 10, Assignors: []string{uniformAssignor}}
			c := &churn{t: t, now: time.UnixMilli(1_800_000_000_000), cfg: cfg, shard: New(cfg), rng: rand.New(rand.NewPCG(1, 848)), calm: true, index: 1}
			c.carry(c.shard.Loaded(c.now))
			req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
			req.Version, req.Group, req.MemberID, req.RebalanceTimeoutMillis = 1, "g", "a", 60_000
			req.SubscribedTopicNames, req.Topics = []string{"t0"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
			change(req)
			resp := c.carry(c.shard.ConsumerHeartbeat(c.now, req, c.metadata(), Client{ID: "c", Host: "h", Unique: "u"}, "heartbeat")).(*kmsg.ConsumerGroupHeartbeatResponse)
			if code := protocol.ErrorCode(resp.ErrorCode); code != protocol.InvalidRequest || len(c.log) > 0 {
				t.Errorf("a %s of %d bytes is answered with %v, %d records", what, n, code, len(c.log))
			}
			for _, r := range slices.Concat(c.log...) {
				if err := New(cfg).Replay(r.Key, r.Value); err != nil {
					t.Errorf("a %s of %d bytes: %v", what, n, err)
				}
			}
		}
	}
}

// TestLongNamesOfClassic: likewise of the classic protocol, and of offsets.
func TestLongNamesOfClassic(t *testing.T) {
	long := strings.Repeat("x", 1<<15)
	b := newBench(t, Config{MaxSession: time.Hour, MaxSize: 10, MaxMetadata: 1 << 20})
	join := func(what string, who Client, want protocol.ErrorCode, change func(*kmsg.JoinGroupRequest)) {
		t.Helper()
		req := kmsg.NewPtrJoinGroupRequest()
		req.Version, req.Group, req.ProtocolType, req.SessionTimeoutMillis = 3, "g", "consumer", 1000
		req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range"}}
		change(req)
		b.do(b.s.Join(b.now, req, who, what))
		resp, answered := take[*kmsg.JoinGroupResponse](b, what)
		if !answered || protocol.ErrorCode(resp.ErrorCode) != want {
			t.Errorf("a long %s: answered %v, %+v", what, answered, resp)
		}
	}
	nobody := func(*kmsg.JoinGroupRequest) {}
	join("client id", Client{ID: long, Unique: "u"}, protocol.InvalidRequest, nobody)
	join("group", Client{}, protocol.InvalidGroupID, func(r *kmsg.JoinGroupRequest) { r.Group = long })
	join("instance", Client{}, protocol.InvalidRequest, func(r *kmsg.JoinGroupRequest) { r.InstanceID = &long })
	join("type", Client{}, protocol.InvalidRequest, func(r *kmsg.JoinGroupRequest) { r.ProtocolType = long })
	join("protocol", Client{}, protocol.InvalidRequest, func(r *kmsg.JoinGroupRequest) { r.Protocols[0].Name = long })
	commit := func(what string, c Commit, want protocol.ErrorCode) {
		t.Helper()
		c.Generation, c.Version, c.Keep = -1, 9, -1
		b.do(b.s.Commit(b.now, &c, what))
		if codes, answered := take[[]protocol.ErrorCode](b, what); !answered || codes[0] != want {
			t.Errorf("a commit with a long %s: answered %v, %v", what, answered, codes)
		}
	}
	commit("group", Commit{Group: long, Offsets: []CommitOffset{{Topic: "t"}}}, protocol.InvalidGroupID)
	commit("topic", Commit{Group: "g", Offsets: []CommitOffset{{Topic: long}}}, protocol.UnknownTopicOrPartition)
	commit("text", Commit{Group: "g", Offsets: []CommitOffset{{Topic: "t", Metadata: long}}}, protocol.OffsetMetadataTooLarge)
	b.reload()
}

// TestRefusedExpiry: who does not give up what it has to is ended, also where the log
// refused to take note of that at first and the member goes on with its heartbeats.
func TestRefusedExpiry(t *testing.T) {
	cfg := Config{ConsumerSession: time.Hour, ConsumerMaxSize: 10, Assignors: []string{uniformAssignor}}
	c := &churn{
		t: t, now: time.UnixMilli(1_800_000_000_000), cfg: cfg, shard: New(cfg), rng: rand.New(rand.NewPCG(1, 848)), calm: true, index: 1,
		md: map[string]Topic{"t0": {ID: topicID{1}, Partitions: 2}},
	}
	c.carry(c.shard.Loaded(c.now))
	beat := func(id string, epoch int32) {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.MemberEpoch, req.RebalanceTimeoutMillis = 1, "g", id, epoch, -1
		if epoch == joiningEpoch {
			req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = 60_000, []string{"t0"}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		}
		c.carry(c.shard.ConsumerHeartbeat(c.now, req, c.metadata(), Client{ID: "c", Host: "h"}, "heartbeat"))
	}
	members := func() map[string]*consumer { return c.shard.groups["g"].consumer.members }
	beat("a", joiningEpoch)
	beat("b", joiningEpoch)
	beat("a", members()["a"].epoch)
	if members()["a"].state != unrevoked {
		t.Fatal("a has nothing to give up")
	}
	c.now = c.now.Add(2 * time.Minute)
	c.shard.Tick(c.now)
	c.carry(c.shard.Refused(c.now, protocol.CoordinatorNotAvailable))
	beat("a", members()["a"].epoch)
	c.now = c.now.Add(2 * time.Minute)
	c.carry(c.shard.Tick(c.now))
	if members()["a"] != nil {
		t.Error("a has its partitions still")
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
		if epoch == joiningEpoch {
			req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.Topics = 10_000, []string{id}, []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		}
		b.do(b.s.ConsumerHeartbeat(b.now, req, md, Client{ID: id}, id))
		resp, _ := take[*kmsg.ConsumerGroupHeartbeatResponse](b, id)
		return resp.MemberEpoch
	}
	b.want("the epoch of a", beats("a", joiningEpoch, ""), int32(2))
	b.want("with another assignor", beats("a", 2, rangeAssignor), int32(3))
	b.want("with the same", beats("a", 3, rangeAssignor), int32(3))
	b.want("the epoch of b", beats("b", joiningEpoch, ""), int32(4))
	b.want("with the assignor that a has", beats("b", 4, rangeAssignor), int32(4))
}
