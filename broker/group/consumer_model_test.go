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

	"github.com/streambus/streambus/protocol"
)

// reader is a consumer of the consumer protocol, as its coordinator does not see it.
type reader struct {
	id       string
	instance *string
	epoch    int32
	topics   []string
	regex    *string
	assigned holding // as it was told last, nil if it was not
	owned    holding // what it reads: what it was told, and what it has not given up yet
	says     bool    // it owes the coordinator what it owns
	lost     bool    // an answer, so that it says all again
	gone     bool
	told     time.Time // when it heard from the coordinator last
}

// churn is a group with readers that come and go, on a shard that moves.
type churn struct {
	t     *testing.T
	seed  uint64
	rng   *rand.Rand
	now   time.Time
	cfg   Config
	shard *Shard
	log   [][]Record // a batch for each step
	wake  time.Time  // when there is something to do
	safe  int        // of the log, that an answer rests on
	split bool       // targets go in batches of one each, where they can
	md    map[string]Topic
	index uint64

	readers []*reader
	elders  []*elder // of the classic protocol
	next    int
	calm    bool
	epochs  map[string]int32
}

func (c *churn) metadata() *Metadata {
	return &Metadata{
		Index: c.index, Session: c.cfg.ConsumerSession, Heartbeat: 5 * time.Second,
		Find: func(name string) (Topic, bool) { t, ok := c.md[name]; return t, ok },
		Name: func(id topicID) (string, bool) {
			for name, t := range c.md {
				if t.ID == id {
					return name, true
				}
			}
			return "", false
		},
		Topics: maps.Keys(c.md),
	}
}

// carry appends what a step writes, or refuses it, and returns the answer.
func (c *churn) carry(e Effects) (answer any) {
	for {
		for _, r := range e.Replies {
			if heard, waits := r.Token.(func(any)); waits {
				heard(r.Body)
			} else {
				answer = r.Body
			}
		}
		if len(e.Records) == 0 {
			c.wake = e.Wake
			return answer
		}
		if !c.calm && c.rng.IntN(20) == 0 {
			e = c.shard.Refused(c.now, protocol.CoordinatorNotAvailable)
			continue
		}
		c.log = append(c.log, e.Records)
		e = c.shard.Appended(c.now)
	}
}

// tick has the shard do all that is due.
func (c *churn) tick() {
	for {
		if c.carry(c.shard.Tick(c.now)); c.wake.After(c.now) {
			return
		}
	}
}

// failover has another broker load the log, of which it may not have what nobody was
// told of.
func (c *churn) failover() {
	c.carry(c.shard.Unload(c.now))
	if was, is := standing(c.shard), standing(c.replayed()); was != is {
		c.t.Fatalf("seed %d: the log does not say what the coordinator knew:\n%s\nit says\n%s", c.seed, was, is)
	}
	c.log = c.log[:c.safe+c.rng.IntN(len(c.log)-c.safe+1)]
	c.shard = c.replayed()
	c.carry(c.shard.Loaded(c.now))
}

// fresh is a shard that knows nothing.
func (c *churn) fresh() *Shard {
	s := New(c.cfg)
	if c.split {
		s.batchBytes = 0
	}
	return s
}

// replayed is a shard that has read the log.
func (c *churn) replayed() *Shard {
	s := c.fresh()
	for _, r := range slices.Concat(c.log...) {
		if err := s.Replay(r.Key, r.Value); err != nil {
			c.t.Fatalf("seed %d: %v", c.seed, err)
		}
	}
	return s
}

// standing is all that a shard has to know still after it moved.
func standing(s *Shard) string {
	g := s.groups["g"]
	if g == nil || g.consumer == nil {
		return "nothing"
	}
	c := g.consumer
	text := fmt.Sprintln(c.epoch, c.targetEpoch, c.targetAt, c.hash, c.created, c.static, len(c.owners))
	maybe := func(s *string) string {
		if s == nil {
			return "none"
		}
		return *s
	}
	for _, id := range slices.Sorted(maps.Keys(c.members)) {
		m := c.members[id]
		if m.classic != nil {
			text += fmt.Sprintln(*m.classic)
		}
		text += fmt.Sprintln(id, maybe(m.instance), m.client.ID, m.rebalance, m.topics, maybe(m.regex), m.epoch, m.previous, m.state, m.assigned, m.revoking)
		for _, topic := range sortedIDs(m.target) {
			text += fmt.Sprintln("  target", topic[:2], m.target[topic])
		}
	}
	for _, regex := range slices.Sorted(maps.Keys(c.patterns)) {
		text += fmt.Sprintln(regex, *c.patterns[regex])
	}
	return text
}

func (c *churn) heartbeat(r *reader, epoch int32) {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.MemberEpoch, req.InstanceID = 1, "g", r.id, epoch, r.instance
	if epoch == 0 {
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.SubscribedTopicRegex = 600_000, r.topics, r.regex
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	if epoch > 0 && r.lost {
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames, req.SubscribedTopicRegex = 600_000, r.topics, r.regex
		if r.regex == nil {
			req.SubscribedTopicRegex = kmsg.StringPtr("")
		}
	}
	if epoch > 0 && (r.says || r.lost || c.rng.IntN(5) == 0) {
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		// What it was told to have and has not begun with it may begin with still.
		claimed := maps.Clone(r.owned)
		maps.Copy(claimed, r.assigned)
		for id, parts := range claimed.assignment() {
			req.Topics = append(req.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: id, Partitions: parts})
		}
	}
	if epoch > 0 && !c.calm && c.rng.IntN(8) == 0 {
		req.SubscribedTopicNames, req.SubscribedTopicRegex = r.topics, r.regex
		if r.regex == nil {
			req.SubscribedTopicRegex = kmsg.StringPtr("")
		}
	}
	knew := !r.lost
	answer := c.carry(c.shard.ConsumerHeartbeat(c.now, req, c.metadata(), Client{ID: "client"}, "token"))
	c.expired()
	if !c.calm && c.rng.IntN(10) == 0 {
		r.lost = true
		return
	}
	resp := answer.(*kmsg.ConsumerGroupHeartbeatResponse)
	c.safe = len(c.log)
	switch code := protocol.ErrorCode(resp.ErrorCode); code {
	case protocol.None:
	case protocol.CoordinatorNotAvailable:
		return
	case protocol.FencedMemberEpoch, protocol.UnknownMemberID, protocol.GroupIDNotFound:
		if knew && epoch > 0 && r.epoch > 0 {
			c.t.Fatalf("seed %d: %s is refused with the epoch %d that it was told: %s", c.seed, r.id, epoch, code)
		}
		r.epoch, r.owned, r.assigned, r.lost = 0, holding{}, nil, false
		return
	case protocol.UnreleasedInstanceID, protocol.FencedInstanceID:
		r.gone, r.owned = true, holding{}
		return
	default:
		c.t.Fatalf("seed %d: %s: %s, %v", c.seed, r.id, code, *resp.ErrorMessage)
	}
	r.lost, r.told = false, c.now
	if epoch < 0 {
		r.epoch, r.assigned = 0, nil
		r.gone = epoch == leavingEpoch || c.rng.IntN(2) == 0 // or it comes back as who it was
		return
	}
	if resp.MemberEpoch < r.epoch {
		c.t.Fatalf("seed %d: %s goes from epoch %d back to %d", c.seed, r.id, r.epoch, resp.MemberEpoch)
	}
	r.epoch, r.says = resp.MemberEpoch, false
	if resp.Assignment != nil {
		r.assigned = holding{}
		for _, t := range resp.Assignment.Topics {
			for _, i := range t.Partitions {
				r.assigned[part{t.TopicID, i}] = 0
			}
		}
		r.says = true
	}
	if c.calm || c.rng.IntN(3) > 0 {
		r.settle()
	}
}

// settle gives up what is not assigned any more, and begins with the rest.
func (r *reader) settle() {
	if r.assigned != nil {
		r.owned, r.says = maps.Clone(r.assigned), true
	}
}

// expired has the readers notice whose time was over: they had not been able to talk to
// the coordinator for as long. Nobody else who reads something is forgotten.
func (c *churn) expired() {
	g := c.shard.groups["g"]
	for _, r := range c.readers {
		if g != nil && g.consumer != nil && g.consumer.members[r.id] != nil {
			continue
		}
		if len(r.owned) > 0 && c.now.Before(r.told.Add(c.cfg.ConsumerSession)) {
			c.t.Fatalf("seed %d: %s is forgotten, and was told something %v ago", c.seed, r.id, c.now.Sub(r.told))
		}
		r.owned, r.assigned, r.epoch = holding{}, nil, 0
	}
	for _, e := range c.elders {
		if g != nil && (g.members[e.id] != nil || g.consumer != nil && g.consumer.members[e.id] != nil) {
			continue
		}
		if len(e.owned) > 0 && c.now.Before(e.told.Add(c.cfg.ConsumerSession)) {
			c.t.Fatalf("seed %d: %s is forgotten, and was told something %v ago", c.seed, e.id, c.now.Sub(e.told))
		}
		e.owned = holding{}
	}
}

// check finds a partition that two readers read, or two members have.
func (c *churn) check() {
	if g := c.shard.groups["g"]; g != nil && g.consumer != nil {
		owners := map[part]string{}
		for id, m := range g.consumer.members {
			for _, h := range []holding{m.assigned, m.revoking} {
				for p := range h {
					if owners[p] != "" {
						c.t.Fatalf("seed %d: %s and %s are both given partition %d", c.seed, owners[p], id, p.index)
					}
					owners[p] = id
				}
			}
		}
		if !maps.Equal(owners, g.consumer.owners) {
			c.t.Fatalf("seed %d: owners are %v, the group has %v", c.seed, owners, g.consumer.owners)
		}
	}
	by := map[part]string{}
	for _, r := range c.readers {
		for p := range r.owned {
			if other := by[p]; other != "" {
				c.t.Fatalf("seed %d: %s and %s both have partition %d", c.seed, other, r.id, p.index)
			}
			by[p] = r.id
		}
	}
	for _, e := range c.elders {
		for p := range e.owned {
			if other := by[p]; other != "" {
				c.t.Fatalf("seed %d: %s and %s both have partition %d", c.seed, other, e.name, p.index)
			}
			by[p] = e.name
		}
	}
}

func (c *churn) join() {
	c.next++
	r := &reader{id: fmt.Sprint("m", c.next), owned: holding{}}
	if c.rng.IntN(4) == 0 {
		r.instance = kmsg.StringPtr(fmt.Sprint("i", c.rng.IntN(2)))
	}
	c.subscribe(r)
	c.readers = append(c.readers, r)
	c.heartbeat(r, 0)
}

func (c *churn) subscribe(r *reader) {
	r.topics, r.regex = nil, nil
	for _, name := range slices.Sorted(maps.Keys(c.md)) {
		if c.rng.IntN(3) > 0 {
			r.topics = append(r.topics, name)
		}
	}
	slices.Sort(r.topics)
	if c.rng.IntN(4) == 0 {
		r.regex = kmsg.StringPtr("t[0-2]")
	}
	if r.topics == nil {
		r.topics = []string{"t0"}
	}
}

func (c *churn) step() {
	c.now = c.now.Add(time.Duration(c.rng.IntN(1500)) * time.Millisecond)
	c.tick()
	c.expired()
	c.readers = slices.DeleteFunc(c.readers, func(r *reader) bool { return r.gone })
	if len(c.readers) == 0 {
		c.join()
		return
	}
	r := c.readers[c.rng.IntN(len(c.readers))]
	switch n := c.rng.IntN(100); {
	case n < 8 && len(c.readers) < 6:
		c.join()
	case n < 11:
		r.owned, r.assigned = holding{}, nil // it reads no more, whatever is answered
		c.heartbeat(r, leavingEpoch)
	case n < 13 && r.instance != nil:
		r.owned, r.assigned = holding{}, nil // it reads no more, whatever is answered
		c.heartbeat(r, awayEpoch)
	case n < 14:
		r.gone = true // it vanishes
		r.owned = holding{}
	case n < 17:
		c.subscribe(r)
	case n < 19:
		name := fmt.Sprint("t", c.rng.IntN(4))
		t, ok := c.md[name]
		if !ok {
			t.ID[0], t.ID[1] = byte(c.index), byte(c.index>>8)
		}
		t.Partitions += int32(1 + c.rng.IntN(3))
		if c.md[name] = t; c.rng.IntN(4) == 0 {
			delete(c.md, name)
		}
		c.index++
	case n < 21:
		c.failover()
	case n < 30:
		r.settle()
	default:
		c.heartbeat(r, r.epoch)
	}
	c.check()
}

// converge has everybody talk until nothing changes, and looks whether all that is
// read is read once.
func (c *churn) converge() {
	c.calm = true
	for _, r := range c.readers {
		r.lost = true // so that all is known of it
	}
	for range 12 + 8*len(c.elders) {
		c.readers = slices.DeleteFunc(c.readers, func(r *reader) bool { return r.gone })
		for _, r := range c.readers {
			c.now = c.now.Add(time.Second)
			r.settle()
			c.heartbeat(r, r.epoch)
			c.check()
		}
		for _, e := range slices.Concat(c.elders, c.elders, c.elders) {
			c.act(e)
			c.check()
		}
		c.now = c.now.Add(5 * time.Second)
		c.tick()
		c.expired()
	}
	g := c.shard.groups["g"]
	if g == nil || len(c.readers) == 0 && len(c.elders) == 0 {
		return
	}
	if state := g.current(); state != Stable {
		c.t.Fatalf("seed %d: the group is %s in the end", c.seed, state)
	}
	by := map[part]func(topic string) bool{} // what its reader reads
	for _, r := range c.readers {
		for p := range r.owned {
			by[p] = func(topic string) bool {
				return slices.Contains(slices.Collect(topicsOf(g.consumer.members[r.id], g.consumer.patterns)), topic)
			}
		}
	}
	for _, e := range c.elders {
		for p := range e.owned {
			by[p] = func(topic string) bool { return slices.Contains(e.topics, topic) }
		}
	}
	names, _ := g.subscriptions()
	want := 0
	for name := range names {
		t := c.md[name]
		for i := range t.Partitions {
			want++
			reads := by[part{t.ID, i}]
			if reads == nil {
				c.t.Fatalf("seed %d: nobody reads %s-%d", c.seed, name, i)
			}
			if !reads(name) {
				c.t.Fatalf("seed %d: somebody reads %s-%d who did not ask for it", c.seed, name, i)
			}
		}
	}
	if len(by) != want {
		c.t.Fatalf("seed %d: %d partitions are read, there are %d", c.seed, len(by), want)
	}
}

// TestConsumerModel: whatever members do, and wherever the coordinator is, no partition
// is read by two at the same time, no member's epoch goes back, and in the end each
// partition is read once.
func TestConsumerModel(t *testing.T) {
	n := 300
	if s := os.Getenv("STREAMBUS_MODEL_SEEDS"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	for seed := range uint64(n) {
		cfg := Config{
			ConsumerSession: 45 * time.Second, ConsumerMaxSize: 100, Assignors: []string{uniformAssignor, rangeAssignor},
			Retention: time.Hour * 24 * 7, RetentionCheck: 10 * time.Minute, MaxMetadata: 4096,
		}
		c := &churn{
			t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 848)), now: time.UnixMilli(1_800_000_000_000), cfg: cfg, split: seed%3 == 0,
			md: map[string]Topic{"t0": {ID: topicID{1}, Partitions: 3}, "t1": {ID: topicID{2}, Partitions: 5}}, index: 3, epochs: map[string]int32{},
		}
		if seed%2 == 1 {
			c.cfg.Assignors = []string{rangeAssignor, uniformAssignor}
		}
		c.shard = c.fresh()
		c.carry(c.shard.Loaded(c.now))
		for range 150 {
			c.step()
		}
		c.converge()
	}
}
