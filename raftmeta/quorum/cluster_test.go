package quorum_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/raft/v3"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/wal"
	"github.com/streambus/streambus/raftmeta/wal/memwal"
)

// peer is one controller of a cluster whose messages the test carries.
type peer struct {
	core    *quorum.Core
	log     *memwal.Log
	inbox   []quorum.Message
	answers map[string]quorum.Answer
}

type cluster3 struct {
	t     *testing.T
	peers map[uint64]*peer
	down  map[uint64]bool
	sent  int // snapshots
	lives byte
}

func newCluster(t *testing.T, ids ...uint64) *cluster3 {
	c := &cluster3{t: t, peers: map[uint64]*peer{}, down: map[uint64]bool{}}
	var voters []image.Voter
	for _, id := range ids {
		voters = append(voters, image.Voter{RaftID: id, NodeID: int32(id)})
	}
	for i, id := range ids {
		log := memwal.New()
		hs, snap := quorum.Stranger()
		if i == 0 { // the others take their places once it leads
			hs, snap = quorum.Genesis(cluster, voters...)
		}
		if err := log.Form(id, hs, snap); err != nil {
			t.Fatal(err)
		}
		c.start(id, log)
	}
	return c
}

func (c *cluster3) start(id uint64, log *memwal.Log) {
	c.t.Helper()
	s, err := log.Load()
	if err != nil {
		c.t.Fatal(err)
	}
	c.lives++
	core, err := quorum.New(quorum.Config{
		RaftID: s.RaftID, ClusterID: cluster, Origin: image.UUID{c.lives},
		HardState: s.HardState, Snapshot: s.Snapshot, Entries: s.Entries,
		Logger: &raft.DefaultLogger{Logger: stdlog.New(io.Discard, "", 0)},
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.peers[id] = &peer{core: core, log: log, answers: map[string]quorum.Answer{}}
	delete(c.down, id)
}

// settle carries messages until there are none left.
func (c *cluster3) settle() {
	c.t.Helper()
	for moved := true; moved; {
		moved = false
		for _, id := range slices.Sorted(func(yield func(uint64) bool) {
			for id := range c.peers {
				if !yield(id) {
					return
				}
			}
		}) {
			if !c.down[id] && c.turn(id) {
				moved = true
			}
		}
	}
}

func (c *cluster3) turn(id uint64) (moved bool) {
	c.t.Helper()
	p := c.peers[id]
	inbox := p.inbox
	p.inbox = nil
	for _, m := range inbox {
		var err error
		if m.Snapshot != nil {
			err = p.core.StepSnapshot(m.Data, m.Snapshot.Encode())
		} else {
			err = p.core.Step(m.Data)
		}
		if err != nil && !errors.Is(err, raft.ErrStepPeerNotFound) {
			c.t.Fatal(err)
		}
	}
	p.told(p.core.Propose(now))
	for {
		w, ok, err := p.core.Ready()
		if err != nil {
			c.t.Fatal(err)
		}
		if !ok {
			return moved
		}
		moved = true
		if err := p.log.Save(wal.Write(w)); err != nil {
			c.t.Fatal(err)
		}
		done, err := p.core.Advance()
		if err != nil {
			c.t.Fatal(err)
		}
		p.told(done.Answers)
		for _, m := range done.Messages {
			to := c.peers[m.To]
			lost := to == nil || c.down[m.To]
			if m.Snapshot != nil {
				c.sent++
				p.core.SnapshotSent(m.To, !lost)
			}
			if lost {
				p.core.Unreachable(m.To)
			} else {
				to.inbox = append(to.inbox, m)
			}
		}
		p.told(p.core.Propose(now))
	}
}

func (p *peer) told(answers []quorum.Answer) {
	for _, a := range answers {
		p.answers[a.Token.(string)] = a
	}
}

// tick lets time pass until a leader is there that is not down.
func (c *cluster3) elect() *peer {
	c.t.Helper()
	for range 500 {
		c.settle()
		for id, p := range c.peers {
			if !c.down[id] && p.core.Active() {
				return p
			}
		}
		c.tick()
	}
	c.t.Fatal("nobody leads after 50 election time-outs")
	return nil
}

func (c *cluster3) tick() {
	for id, p := range c.peers {
		if !c.down[id] {
			p.told(p.core.Tick())
		}
	}
}

func (c *cluster3) do(p *peer, cmds ...control.Command) {
	c.t.Helper()
	for i, cmd := range cmds {
		p.core.Enqueue(quorum.Proposal{Token: fmt.Sprint(i), Request: control.Request{Command: cmd}})
	}
	c.settle()
	for i := range cmds {
		if a := p.answers[fmt.Sprint(i)]; a.Err != nil || a.Index == 0 {
			c.t.Fatalf("command %d: %+v", i, a)
		}
		delete(p.answers, fmt.Sprint(i))
	}
}

// found makes a cluster of one broker.
func (c *cluster3) found(p *peer) {
	c.t.Helper()
	c.do(p, formCluster(), register(0, 1))
	c.do(p, unfence{firstBroker})
}

// same waits until everybody who is there has the same image.
func (c *cluster3) same() {
	c.t.Helper()
	for range 100 {
		c.tick()
		c.settle()
	}
	var want []byte
	for id, p := range c.peers {
		if c.down[id] {
			continue
		}
		if got := p.core.Image().Encode(); want == nil {
			want = got
		} else if !bytes.Equal(want, got) {
			c.t.Fatalf("raft id %d has another image", id)
		}
	}
}

func TestLeaderIsReplaced(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	first := c.elect()
	c.found(first)
	for i := range 4 {
		for id, p := range c.peers {
			if p == first {
				c.down[id] = true
			}
		}
		next := c.elect()
		if next == first {
			t.Fatal("the one that is down leads")
		}
		c.do(next, topic(fmt.Sprintf("t%d", i), 3))
		clear(c.down)
		c.same()
		if first.core.Active() {
			t.Fatal("two lead")
		}
		first = next
	}
}

// What was in flight when its leader was lost is unknown, and asked again under the same operation it comes to the answer
// of the first time.
func TestRepeatGetsTheFirstAnswer(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	old := c.elect()
	c.found(old)
	op := image.Operation{Node: firstBroker, Incarnation: image.UUID{0, 1}, Seq: 1}
	ask := func(p *peer, token string, cmd control.Command) quorum.Answer {
		p.core.Enqueue(quorum.Proposal{Token: token, Request: control.Request{Operation: op, Command: cmd}})
		c.settle()
		return p.answers[token]
	}
	first := ask(old, "first", topic("t", 2))
	if first.Err != nil {
		t.Fatal(first.Err)
	}
	for id, p := range c.peers {
		if p == old {
			c.down[id] = true
		}
	}
	next := c.elect()
	again := ask(next, "again", topic("t", 2))
	created, ok := again.Reply.(*control.CreatedTopic)
	if again.Err != nil || !ok || *created != *first.Reply.(*control.CreatedTopic) {
		t.Fatalf("the repeat is answered with %+v, the first was %+v", again, first)
	}
	op.Seq = 2
	if a := ask(next, "other", topic("t", 2)); !refused(a, control.TopicExists) {
		t.Fatalf("another operation: %+v", a)
	}
	op.Seq, op.Done = 3, 3
	if a := ask(next, "next", topic("u", 2)); a.Err != nil {
		t.Fatal(a.Err)
	}
	op.Seq = 1
	if a := ask(next, "late", topic("t", 2)); !refused(a, control.Superseded) {
		t.Fatalf("an operation that is over: %+v", a)
	}
	op.Incarnation = image.UUID{9, 9}
	if a := ask(next, "stranger", topic("v", 2)); !refused(a, control.Superseded) {
		t.Fatalf("an operation of another process: %+v", a)
	}
}

// Success without a change says that all is as was asked for, and a refusal what there is: every broker is to show that,
// also where the change was another's and is on its way to them.
func TestWhatChangesNothingIsAwaitedToo(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	p := c.elect()
	c.found(p)
	c.do(p, topic("t", 1))
	for i, name := range []string{"t", "t", "u"} { // a change, none, a refusal
		set := &control.AlterConfigs{Topic: name, Changes: []control.ConfigChange{{Key: "retention.ms", Value: "1"}}}
		p.core.Enqueue(quorum.Proposal{Token: "set", Request: control.Request{Command: set, Awaited: true}})
		c.settle()
		if a := p.answers["set"]; !a.Awaited || !a.Decided() || a.Index < p.core.Image().Index() {
			t.Errorf("answer %d: %+v", i, a)
		}
		delete(p.answers, "set")
	}
}

// A leader that is cut off may be deposed: it gives no answer that rests on what it has, since that may be no more.
func TestNothingIsAnsweredWithoutAMajority(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	p := c.elect()
	c.found(p)
	c.do(p, topic("t", 1))
	for id, x := range c.peers {
		c.down[id] = x != p
	}
	set := &control.AlterConfigs{Topic: "t", Changes: []control.ConfigChange{{Key: "retention.ms"}}}
	p.core.Enqueue(quorum.Proposal{Token: "refused", Request: control.Request{Command: topic("t", 1)}})
	p.core.Enqueue(quorum.Proposal{Token: "nothing to do", Request: control.Request{Command: set}})
	c.settle()
	if len(p.answers) != 0 || p.core.Waiting() != 2 || !p.core.OldestWaiting().Equal(now) {
		t.Fatalf("%v, and %d wait since %s", p.answers, p.core.Waiting(), p.core.OldestWaiting())
	}
	for range 3 * quorum.ElectionTicks {
		c.tick()
		c.settle()
	}
	if len(p.answers) != 2 || p.core.Waiting() != 0 || !p.core.OldestWaiting().IsZero() {
		t.Fatalf("%v, and %d wait", p.answers, p.core.Waiting())
	}
	for token, a := range p.answers {
		if !errors.Is(a.Err, quorum.ErrUnknown) {
			t.Errorf("%s: %+v", token, a)
		}
	}
}

// Brokers report at once what is awaited, and all else with their next heartbeat. A refusal behind a change that nobody
// awaits has them report at once too, and the next ones need nothing more.
func TestBrokersReportWhatARefusalRestsOn(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	p := c.elect()
	c.found(p)
	c.do(p, topic("t", 1))
	at := p.core.Image().Index()
	for range 2 {
		p.core.Enqueue(quorum.Proposal{Token: "refused", Request: control.Request{Command: topic("t", 1), Awaited: true}})
		c.settle()
		if a := p.answers["refused"]; !refused(a, control.TopicExists) || a.Index != at+1 || p.core.Image().Index() != at+1 {
			t.Fatalf("%+v, the image is at %d, and was at %d", a, p.core.Image().Index(), at)
		}
		delete(p.answers, "refused")
	}
	s, err := p.log.Load()
	if err != nil {
		t.Fatal(err)
	}
	u, err := image.DecodeUnit(s.Entries[len(s.Entries)-1].GetData()[1:], image.ClusterHash(cluster))
	if err != nil || !u.Awaited || len(u.Records) > 0 {
		t.Fatalf("%+v, %v", u, err)
	}
	p.core.Enqueue(quorum.Proposal{Token: "of the controller", Request: control.Request{Command: topic("u", 1)}})
	p.core.Enqueue(quorum.Proposal{Token: "refused", Request: control.Request{Command: topic("t", 1), Awaited: true}})
	c.settle()
	if a := p.answers["refused"]; a.Index != at+2 || p.core.Image().Index() != at+2 {
		t.Fatalf("%+v, the image is at %d, and was at %d", a, p.core.Image().Index(), at+1)
	}
}

// A refusal rests on the image that it was given on. It does not wait for a large unit that was decided on after it.
func TestRefusalWaitsForNoLaterUnit(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	p := c.elect()
	c.found(p)
	c.do(p, topic("t", 1))
	var other *peer
	for id, x := range c.peers {
		if x != p && other == nil {
			other = x
		} else if x != p {
			c.down[id] = true
		}
	}
	p.core.Enqueue(quorum.Proposal{Token: "refused", Request: control.Request{Command: topic("t", 1)}})
	p.told(p.core.Propose(now))
	p.core.Enqueue(quorum.Proposal{Token: "large", Request: control.Request{Command: topic("u", 1), Cause: strings.Repeat("x", 2<<20)}})
	c.turn(p.core.Status().Leader)
	parts := 0
	other.inbox = slices.DeleteFunc(other.inbox, func(m quorum.Message) bool { // but the first of the unit is lost
		if !m.Urgent {
			parts++
		}
		return !m.Urgent && parts > 2
	})
	if parts < 4 {
		t.Fatalf("the unit came in %d messages", parts)
	}
	for range 2 {
		for id := range c.peers {
			if !c.down[id] {
				c.turn(id)
			}
		}
		if _, decided := p.answers["large"]; decided {
			t.Fatal("the unit is whole")
		}
		if a, answered := p.answers["refused"]; answered {
			if !refused(a, control.TopicExists) {
				t.Fatalf("%+v", a)
			}
			return
		}
	}
	t.Fatal("it is not answered")
}

func TestFollowerTakesSnapshot(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader := c.elect()
	c.found(leader)
	var late uint64
	for id, p := range c.peers {
		if p != leader {
			late = id
		}
	}
	c.down[late] = true
	for i := range 50 {
		c.do(leader, topic(fmt.Sprintf("t%d", i), 1))
	}
	snap, img := leader.core.Snapshot()
	snap.Data = img.Encode()
	if err := leader.log.SaveSnapshot(snap); err != nil {
		t.Fatal(err)
	}
	if to, err := leader.core.Compact(snap, 3, 1<<20); err != nil || to == 0 {
		t.Fatal(to, err)
	}
	delete(c.down, late)
	c.same()
	if c.sent == 0 {
		t.Fatal("no snapshot was sent")
	}
	// It survives a power cut right behind.
	p := c.peers[late]
	c.start(late, p.log.Crash(rand.New(rand.NewPCG(1, 1))))
	c.same()
}

func TestMembership(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader := c.elect()
	c.found(leader)
	// The third directory is wiped: its node comes back as a stranger, learns, and replaces it.
	c.down[3] = true
	if leader == c.peers[3] {
		leader = c.elect()
	}
	log := memwal.New()
	hs, snap := quorum.Stranger()
	if err := log.Form(4, hs, snap); err != nil {
		t.Fatal(err)
	}
	c.start(4, log)
	if err := leader.core.ChangeMembers(quorum.Change{AddLearner: []uint64{4}}); err != nil {
		t.Fatal(err)
	}
	c.same()
	if m := leader.core.Members(); !slices.Equal(m.Learners, []uint64{4}) || c.sent == 0 {
		t.Fatalf("members %+v, %d snapshots", m, c.sent)
	}
	for range 30 {
		c.peers[4].core.Tick()
	}
	c.settle()
	if s := c.peers[4].core.Status(); s.State != "follower" {
		t.Fatalf("a learner stands for election: %+v", s)
	}
	leader = c.elect()
	if err := leader.core.ChangeMembers(quorum.Change{Promote: []uint64{4}, Remove: []uint64{3}}); err != nil {
		t.Fatal(err)
	}
	if err := leader.core.ChangeMembers(quorum.Change{Remove: []uint64{2}}); err == nil {
		t.Fatal("a second change was taken while the first is under way: raft drops it without a word")
	}
	c.same()
	for _, id := range []uint64{1, 2, 4} {
		if m := c.peers[id].core.Members(); !slices.Equal(m.Voters, []uint64{1, 2, 4}) || len(m.Learners) > 0 || m.Joint {
			t.Fatalf("raft id %d sees %+v", id, m)
		}
	}
	// The leader goes too; the others go on, also after a restart from snapshot and log.
	leader = c.elect()
	if err := leader.core.ChangeMembers(quorum.Change{Remove: []uint64{leader.id(c)}}); err != nil {
		t.Fatal(err)
	}
	c.settle()
	c.down[leader.id(c)] = true
	next := c.elect()
	if len(next.core.Members().Voters) != 2 {
		t.Fatalf("members %+v", next.core.Members())
	}
	c.do(next, topic("after", 1))
	for id, p := range c.peers {
		if !c.down[id] {
			c.start(id, p.log.Crash(rand.New(rand.NewPCG(1, id))))
		}
	}
	c.do(c.elect(), topic("later", 1))
	c.same()
}

func (p *peer) id(c *cluster3) uint64 {
	for id, x := range c.peers {
		if x == p {
			return id
		}
	}
	return 0
}

// A read at any member is answered once everything that was answered before is applied there; a leader that lost its
// majority answers none.
func TestReadIndex(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader := c.elect()
	c.found(leader)
	c.do(leader, topic("t", 1))
	for id, p := range c.peers {
		if err := p.core.ReadIndex("read"); err != nil {
			t.Fatal(err)
		}
		c.settle()
		c.tick()
		c.settle()
		if a := p.answers["read"]; a.Err != nil || a.Index < leader.core.Image().Index() || p.core.Image().NumTopics() != 1 {
			t.Fatalf("raft id %d: %+v", id, a)
		}
		delete(p.answers, "read")
	}
	for id, p := range c.peers {
		c.down[id] = p != leader
	}
	if err := leader.core.ReadIndex("cut off"); err != nil {
		t.Fatal(err)
	}
	for range 3 * quorum.ElectionTicks {
		c.tick()
		c.settle()
	}
	if a, answered := leader.answers["cut off"]; !answered || !errors.Is(a.Err, quorum.ErrUnknown) {
		t.Fatalf("a leader without a majority: %+v", a)
	}
}

// Nobody else can lead a cluster that was just formed, so its founder does not wait for a time-out.
func TestFounderLeadsAtOnce(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	c.tick()
	c.settle()
	if !c.peers[1].core.Active() {
		t.Fatalf("%+v", c.peers[1].core.Status())
	}
}

// The process of the leader is gone, and the others know: one election, no time-out.
func TestForgottenLeader(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader := c.elect()
	gone := leader.id(c)
	c.down[gone] = true
	var follower *peer
	for id, p := range c.peers {
		if id != gone {
			follower = p
			if err := p.core.ForgetLeader(gone); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := follower.core.Campaign(); err != nil {
		t.Fatal(err)
	}
	c.settle()
	if !follower.core.Active() {
		t.Fatalf("without a tick: %+v", follower.core.Status())
	}
}

func TestTransfer(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader := c.elect()
	c.tick()
	c.settle()
	to, ok := leader.core.Transfer()
	c.settle()
	if !ok || leader.core.Active() || !c.peers[to].core.Active() {
		t.Fatalf("leadership was to go to %d: %v", to, ok)
	}
}

// While leadership is being handed over nothing is proposed, and whoever asks is told that nothing was done.
func TestNothingIsProposedWhileLeadershipMoves(t *testing.T) {
	c := newCluster(t, 1, 2, 3)
	leader := c.elect()
	c.found(leader)
	c.tick()
	c.settle()
	to, _ := leader.core.Transfer()
	c.down[to] = true // it hears nothing of that
	leader.core.Enqueue(quorum.Proposal{Token: "topic", Request: control.Request{Command: topic("t", 1)}})
	c.settle()
	if a, answered := leader.answers["topic"]; !answered || !errors.Is(a.Err, quorum.ErrNotLeader) {
		t.Fatalf("%+v", a)
	}
	c.same()
	if leader.core.Image().NumTopics() != 0 {
		t.Fatal("the topic is there")
	}
}
