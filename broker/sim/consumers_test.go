package sim

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/group"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/image"
)

const (
	consumed           = "input" // the topic that groups read: nobody asks whether it is there
	consumedPartitions = 6
	maxConsumers       = 5 // of a group
)

// consumer is a client that reads partitions of a topic with others. It has one
// request under way; what it gave up waiting for does not arrive any more.
type consumer struct {
	w      *world
	group  *groupTruth
	name   string
	member membership
	owns   []int32 // sorted
	lost   []int32 // of those, to others, since it was not heard of
	try    int
	asking bool
	stalls int64 // until
	gone   bool
	beaten int64 // when it said last that it lives
	kept   int64 // when a commit was acknowledged last
}

// membership is what a protocol of groups has a consumer do, and what it owns.
type membership interface {
	// next asks for what the member wants first, if it wants anything.
	next() bool
	// beat tells that it lives.
	beat()
	// leave tells that it goes.
	leave()
	// stamp is what commits go with.
	stamp() stamp
	// hears takes an error that a commit came to.
	hears(code protocol.ErrorCode)
}

// stamp says of a member who it is.
type stamp struct {
	id         string
	instance   *string
	generation int32
}

// owner is who partitions are of: a process that begins in the place of another has
// those that the other had.
func (s stamp) owner() string {
	if s.instance != nil {
		return *s.instance
	}
	return s.id
}

// consume begins with the groups.
func (w *world) consume() {
	for i := range w.plan.groups {
		g := newGroupTruth(w, i)
		w.groups = append(w.groups, g)
		for range 1 + w.members.IntN(3) {
			w.join(g)
		}
	}
	if len(w.groups) > 0 {
		w.after(w.members.Int64N(2*sec), "churn", w.churn)
	}
}

// join begins a consumer.
func (w *world) join(g *groupTruth) {
	g.joined++
	c := &consumer{w: w, group: g, name: fmt.Sprintf("%s.%d", g.name, g.joined)}
	var instance *string
	if w.members.IntN(3) == 0 { // perhaps while another process has it
		instance = kmsg.StringPtr(fmt.Sprint("instance", w.members.IntN(3)))
	}
	if g.modern {
		c.member = &modern{c: c, id: c.name, instance: instance}
	} else {
		c.member = &classic{c: c, instance: instance, generation: -1}
	}
	w.consumers = append(w.consumers, c)
	w.stats["consumers"]++
	w.tell("%s begins", c.name)
	c.turn()
}

// churn has somebody come, go, stall, or be gone.
func (w *world) churn() {
	if w.healed {
		return
	}
	w.after(w.members.Int64N(4*sec), "churn", w.churn)
	g := w.groups[w.members.IntN(len(w.groups))]
	var mine []*consumer
	for _, c := range w.consumers {
		if c.group == g {
			mine = append(mine, c)
		}
	}
	n := w.members.IntN(10)
	if n < 4 && len(mine) < maxConsumers {
		w.join(g)
		return
	}
	if len(mine) == 0 || n == 9 && w.members.IntN(4) == 0 {
		(&consumer{w: w, group: g, name: "administrator", member: late{}, gone: true}).deletes()
	}
	if len(mine) == 0 {
		return
	}
	c := mine[w.members.IntN(len(mine))]
	c.commitsLate()
	switch {
	case n < 5:
		w.stats["consumers that left"]++
		w.tell("%s leaves", c.name)
		c.end()
		c.member.leave()
	case n < 7:
		w.stats["consumers that vanished"]++
		w.tell("%s vanishes", c.name)
		c.end()
	case n < 8:
		w.stats["consumers that all vanished"]++
		w.tell("all of %s vanish", g.name)
		for _, c := range mine {
			c.end()
		}
	default:
		c.stalls = w.now + w.members.Int64N(10*sec)
		w.stats["consumers that stalled"]++
		w.tell("%s stalls for %.1f s", c.name, float64(c.stalls-w.now)/1e9)
	}
}

// commitsLate has a commit go out some time later that the consumer makes now.
func (c *consumer) commitsLate() {
	if len(c.owns) == 0 {
		return
	}
	x := &consumer{w: c.w, group: c.group, name: c.name + " late", member: late{c.member.stamp()}, gone: true}
	index := c.owns[c.w.members.IntN(len(c.owns))]
	c.w.clients.in(time.Duration(c.w.members.Int64N(8*sec)), "late commit", func() { x.commit(index) })
}

// late is a member of which nothing is left but a commit.
type late struct{ is stamp }

func (late) next() bool               { return false }
func (late) beat()                    {}
func (late) leave()                   {}
func (m late) stamp() stamp           { return m.is }
func (late) hears(protocol.ErrorCode) {}

func (c *consumer) end() {
	c.try++
	c.asking, c.gone = false, true
	c.w.consumers = slices.DeleteFunc(c.w.consumers, func(x *consumer) bool { return x == c })
}

// turn is what a consumer does every now and then.
func (c *consumer) turn() {
	w := c.w
	if c.gone {
		return
	}
	w.clients.in(time.Duration(100*ms+w.members.Int64N(400*ms)), "consumer", c.turn)
	if c.asking || w.now < c.stalls || c.member.next() {
		return
	}
	switch n := w.members.IntN(10); {
	case w.now-c.beaten > c.group.session/4:
		c.beaten = w.now
		c.member.beat()
	case n < 3 && len(c.owns) > 0 && !w.still:
		c.commit(c.owns[w.members.IntN(len(c.owns))])
	case n < 6:
		c.fetch()
	}
}

// ask sends a request to the group's coordinator, as some broker says. told hears an
// answer as it leaves, heard when it arrives, or that there is none.
func (c *consumer) ask(what string, patience time.Duration, do func(q *asked, core *group.Shard, now time.Time) group.Effects,
	told func(q *asked, body any), heard func(body any, code protocol.ErrorCode)) {
	w := c.w
	c.try++
	try := c.try
	c.asking = true
	end := func(body any, code protocol.ErrorCode) {
		if c.try == try && c.asking {
			c.asking = false
			heard(body, code)
		}
	}
	some := w.brokers[w.members.IntN(len(w.brokers))]
	var leader int32 = image.NoLeader
	topic, ok := some.img.Topic(groupsTopic)
	index := int32(c.group.index) % w.plan.groupPartitions
	if ok && some.up {
		p, _ := topic.Partition(index)
		leader = p.Leader
	}
	if leader == image.NoLeader {
		end(nil, protocol.CoordinatorNotAvailable)
		return
	}
	b := w.brokers[leader]
	w.net.send(&w.clients, &b.process, what, func() {
		if c.try != try {
			return // the connection was closed meanwhile
		}
		q := &asked{incarnation: c.group.incarnation, generation: c.group.generation}
		q.answer = func(q *asked, body any, code protocol.ErrorCode) {
			if code == protocol.None {
				told(q, body)
			}
			w.net.send(&b.process, &w.clients, what, func() { end(body, code) }, nil)
		}
		b.coordinate(place{topic.ID, index}, q, func(core *group.Shard, now time.Time) group.Effects { return do(q, core, now) })
	}, nil)
	w.clients.in(patience, what+" times out", func() { end(nil, protocol.RequestTimedOut) })
}

const patience = 2 * time.Second

// commit commits an offset of a partition, greater than all before.
func (c *consumer) commit(index int32) {
	w := c.w
	is := c.member.stamp()
	w.offsets++
	x := &commit{by: c, offset: w.offsets, generation: is.generation}
	req := &group.Commit{
		Group: c.group.name, Member: is.id, Instance: is.instance, Generation: is.generation, Version: c.group.commitVersion(), Keep: -1,
		Offsets: []group.CommitOffset{{Topic: consumed, Partition: index, Offset: x.offset, Epoch: -1}},
	}
	c.ask("commit", patience, func(q *asked, core *group.Shard, now time.Time) group.Effects {
		c.group.commits(q, index, x, now)
		return core.Commit(now, req, q)
	}, func(q *asked, body any) {
		switch body.([]protocol.ErrorCode)[0] {
		case protocol.None:
			c.group.committed(q, index, x)
		case protocol.NotCoordinator: // its disk has failed, perhaps
		default:
			c.group.refused(index, x)
		}
	}, func(body any, code protocol.ErrorCode) {
		if code == protocol.None {
			code = body.([]protocol.ErrorCode)[0]
		}
		if code == protocol.None {
			c.kept = w.now
			return
		}
		if code != protocol.RequestTimedOut {
			w.stats["commits refused"]++
		}
		c.member.hears(code)
	})
}

// fetch asks for all offsets of the group.
func (c *consumer) fetch() {
	wanted := []group.Wanted{{Topic: consumed}}
	for i := range int32(consumedPartitions) {
		wanted[0].Partitions = append(wanted[0].Partitions, i)
	}
	var before [consumedPartitions]*commit
	c.ask("offsets", patience, func(q *asked, core *group.Shard, now time.Time) group.Effects {
		for i := range before {
			before[i] = c.group.parts[i].floor
		}
		return core.Offsets(now, c.group.name, false, wanted, q)
	}, func(q *asked, body any) {
		for i, row := range body.(*kmsg.OffsetFetchResponseGroup).Topics[0].Partitions {
			c.group.shown(q, i, row.Offset, before[i])
		}
	}, func(any, protocol.ErrorCode) {})
}

// deletes has the group removed with its offsets, which is refused while somebody is
// in it.
func (c *consumer) deletes() {
	var x *commit
	c.ask("delete", patience, func(q *asked, core *group.Shard, now time.Time) group.Effects {
		x = c.group.deletes(q)
		return core.Delete(now, c.group.name, q)
	}, func(q *asked, body any) {
		if body.(protocol.ErrorCode) == protocol.None {
			c.group.isDeleted(q, x)
		}
	}, func(any, protocol.ErrorCode) {})
}

// has tells whether the consumer has a partition that it may take for its own.
func (c *consumer) has(partition int32) bool {
	return slices.Contains(c.owns, partition) && !slices.Contains(c.lost, partition)
}

// classic is a member of the protocol in which the members share out partitions: one
// of them says who gets what.
type classic struct {
	c          *consumer
	id         string
	instance   *string
	generation int32
	joined     bool
	unique     int
}

func (m *classic) stamp() stamp { return stamp{m.id, m.instance, m.generation} }

func (m *classic) next() bool {
	if m.joined {
		return false
	}
	m.join()
	return true
}

func (m *classic) hears(code protocol.ErrorCode) {
	switch code {
	case protocol.None, protocol.RequestTimedOut, protocol.NotCoordinator, protocol.CoordinatorNotAvailable, protocol.CoordinatorLoadInProgress:
	case protocol.RebalanceInProgress:
		m.joined = false
	case protocol.UnknownMemberID:
		m.id = ""
		fallthrough
	case protocol.IllegalGeneration:
		m.generation, m.joined, m.c.owns = -1, false, nil
	case protocol.FencedInstanceID:
		m.c.w.stats["consumers whose instance began anew"]++
		m.c.end()
		if m.c.w.healed { // perhaps by one that is gone
			m.c.w.join(m.c.group)
		}
	default:
		m.c.w.broken("%s hears %s", m.c.name, code)
	}
}

func (m *classic) protocol() string {
	if m.c.group.cooperative {
		return "cooperative-sticky"
	}
	return "range"
}

func (m *classic) join() {
	c, g := m.c, m.c.group
	if !g.cooperative {
		c.owns = nil
	}
	says := kmsg.NewConsumerMemberMetadata()
	says.Version, says.Topics, says.Generation = 2, []string{consumed}, m.generation
	if len(c.owns) > 0 {
		says.OwnedPartitions = []kmsg.ConsumerMemberMetadataOwnedPartition{{Topic: consumed, Partitions: c.owns}}
	}
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.ProtocolType = 9, g.name, m.id, m.instance, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = int32(g.session/ms), int32(g.rebalance/ms)
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: m.protocol(), Metadata: says.AppendTo(nil)}}
	m.unique++
	var epoch int32 // of who lets it join
	who := group.Client{ID: c.name, Host: "/", Unique: fmt.Sprintf("%s-%d", c.name, m.unique)}
	c.ask("join", time.Duration(g.rebalance)+time.Second, func(q *asked, core *group.Shard, now time.Time) group.Effects {
		if m.instance != nil && m.id == "" {
			g.begins(*m.instance)
		}
		return core.Join(now, req, who, q)
	}, func(q *asked, body any) {
		if r := body.(*kmsg.JoinGroupResponse); r.ErrorCode == 0 {
			epoch = q.epoch
			if m.instance != nil {
				g.instances[*m.instance] = r.MemberID
				if r.Generation == g.generation {
					g.resumed = r.Generation
				}
			}
			g.toldGeneration(q, r.MemberID, r.Generation)
		}
	}, func(body any, code protocol.ErrorCode) {
		if code != protocol.None {
			return
		}
		r := body.(*kmsg.JoinGroupResponse)
		switch code := protocol.ErrorCode(r.ErrorCode); code {
		case protocol.None:
			c.w.stats["joins"]++
			m.id, m.generation = r.MemberID, r.Generation
			m.sync(r, epoch)
		case protocol.MemberIDRequired:
			m.id = r.MemberID
			if c.w.members.IntN(4) == 0 && !c.w.healed {
				c.stalls = c.w.now + c.w.members.Int64N(5*sec)
				return
			}
			m.join()
		default:
			m.hears(code)
		}
	})
}

// sync asks for the member's share, and brings all of them if it is the one to say, to
// those that joined with it in a leader epoch.
func (m *classic) sync(joined *kmsg.JoinGroupResponse, epoch int32) {
	c, g := m.c, m.c.group
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 5, g.name, m.id, m.instance, m.generation
	name := m.protocol()
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), &name
	if joined.LeaderID == m.id && !joined.SkipAssignment {
		req.GroupAssignment = m.share(joined.Members)
	}
	c.ask("sync", time.Duration(g.rebalance)+time.Second, func(q *asked, core *group.Shard, now time.Time) group.Effects {
		if len(req.GroupAssignment) > 0 && q.epoch != epoch {
			g.strays(req.Generation)
		}
		return core.Sync(now, req, q)
	}, func(q *asked, body any) {
		if r := body.(*kmsg.SyncGroupResponse); r.ErrorCode == 0 {
			g.assigned(q, c, stamp{req.MemberID, req.InstanceID, req.Generation}, m.read(r))
			g.alive(q, req.MemberID)
		}
	}, func(body any, code protocol.ErrorCode) {
		if code != protocol.None {
			return // it joins again
		}
		r := body.(*kmsg.SyncGroupResponse)
		if code := protocol.ErrorCode(r.ErrorCode); code != protocol.None {
			m.hears(code)
			return
		}
		c.w.stats["assignments"]++
		owns := m.read(r)
		m.joined = true
		if g.cooperative {
			for _, p := range c.owns {
				if !slices.Contains(owns, p) {
					c.w.stats["partitions given up for others"]++
					m.joined = false // which are told so
				}
			}
		}
		c.owns, c.lost = slices.Sorted(slices.Values(owns)), nil
	})
}

func (m *classic) read(r *kmsg.SyncGroupResponse) (owns []int32) {
	if len(r.MemberAssignment) == 0 {
		return nil
	}
	var x kmsg.ConsumerMemberAssignment
	if err := x.ReadFrom(r.MemberAssignment); err != nil {
		m.c.w.broken("%s hears of an assignment: %v", m.c.name, err)
		return nil
	}
	for _, t := range x.Topics {
		owns = append(owns, t.Partitions...)
	}
	return owns
}

// share says who gets what. Of the cooperative protocol each keeps what it says that
// it has, up to its part; the rest is for those with less, once it is given up.
func (m *classic) share(members []kmsg.JoinGroupResponseMember) (all []kmsg.SyncGroupRequestGroupAssignment) {
	slices.SortFunc(members, func(a, b kmsg.JoinGroupResponseMember) int { return cmp.Compare(a.MemberID, b.MemberID) })
	most := (consumedPartitions + len(members) - 1) / len(members)
	type claim struct{ by, generation int }
	claims := map[int32]claim{}
	for i, x := range members {
		var says kmsg.ConsumerMemberMetadata
		if err := says.ReadFrom(x.ProtocolMetadata); err != nil {
			m.c.w.broken("%s hears of a member: %v", m.c.name, err)
			return nil
		}
		for _, t := range says.OwnedPartitions {
			for _, p := range t.Partitions {
				if old, ok := claims[p]; !ok || int(says.Generation) > old.generation {
					claims[p] = claim{i, int(says.Generation)}
				}
			}
		}
	}
	shares := make([][]int32, len(members))
	for _, p := range slices.Sorted(maps.Keys(claims)) {
		if by := claims[p].by; len(shares[by]) < most {
			shares[by] = append(shares[by], p)
		}
	}
	for p := range int32(consumedPartitions) {
		if _, claimed := claims[p]; claimed {
			continue
		}
		least := 0
		for i := range shares {
			if len(shares[i]) < len(shares[least]) {
				least = i
			}
		}
		shares[least] = append(shares[least], p)
	}
	for i, x := range members {
		says := kmsg.NewConsumerMemberAssignment()
		says.Topics = []kmsg.ConsumerMemberAssignmentTopic{{Topic: consumed, Partitions: shares[i]}}
		all = append(all, kmsg.SyncGroupRequestGroupAssignment{MemberID: x.MemberID, MemberAssignment: says.AppendTo(nil)})
	}
	return all
}

func (m *classic) beat() {
	c, g := m.c, m.c.group
	req := kmsg.NewPtrHeartbeatRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 4, g.name, m.id, m.instance, m.generation
	c.ask("beat", patience, func(q *asked, core *group.Shard, now time.Time) group.Effects { return core.Heartbeat(now, req, q) },
		func(q *asked, body any) {
			if r := body.(*kmsg.HeartbeatResponse); r.ErrorCode == 0 {
				g.toldGeneration(q, req.MemberID, req.Generation)
				g.alive(q, req.MemberID)
			}
		}, func(body any, code protocol.ErrorCode) {
			if code == protocol.None {
				code = protocol.ErrorCode(body.(*kmsg.HeartbeatResponse).ErrorCode)
			}
			m.hears(code)
		})
}

func (m *classic) leave() {
	c, g := m.c, m.c.group
	if m.id == "" { // it would leave for whoever has its instance
		return
	}
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group = 5, g.name
	req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: m.id, InstanceID: m.instance}}
	c.owns = nil
	c.ask("leave", patience, func(q *asked, core *group.Shard, now time.Time) group.Effects {
		g.leaves(m.id)
		return core.Leave(now, req, q)
	}, func(*asked, any) {}, func(any, protocol.ErrorCode) {})
}
