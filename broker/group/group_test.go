package group

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

var usual = Config{
	InitialRebalanceDelay: 3 * time.Second, MinSession: time.Second, MaxSession: time.Hour, MaxSize: 3, MaxMetadata: 10,
	Retention: time.Hour, RetentionCheck: time.Minute,
}

// bench is a shard with a log that is a slice, and clients that are names.
type bench struct {
	t       *testing.T
	cfg     Config
	s       *Shard
	now     time.Time
	log     []Record
	refuse  protocol.ErrorCode // what the next append is refused with
	answers map[string]any
	wake    time.Time
	unique  int
}

func newBench(t *testing.T, cfg Config) *bench {
	b := &bench{t: t, cfg: cfg, s: New(cfg), now: time.Unix(1_700_000_000, 0), answers: map[string]any{}}
	b.do(b.s.Loaded(b.now))
	return b
}

// do carries out effects as the coordinator does.
func (b *bench) do(e Effects) {
	for {
		for _, r := range e.Replies {
			name := r.Token.(string)
			if _, twice := b.answers[name]; twice {
				b.t.Errorf("%s is answered twice", name)
			}
			b.answers[name] = r.Body
		}
		b.wake = e.Wake
		if len(e.Records) == 0 {
			return
		}
		if code := b.refuse; code != protocol.None {
			b.refuse = protocol.None
			e = b.s.Refused(b.now, code)
			continue
		}
		b.log = append(b.log, e.Records...)
		e = b.s.Appended(b.now)
	}
}

// pass lets time go by.
func (b *bench) pass(d time.Duration) {
	end := b.now.Add(d)
	for !b.wake.IsZero() && !b.wake.After(end) {
		b.now = b.wake
		b.do(b.s.Tick(b.now))
	}
	b.now = end
}

// reload is a failover: another shard learns from the log.
func (b *bench) reload() {
	b.do(b.s.Unload(b.now))
	b.s = New(b.cfg)
	for _, r := range b.log {
		if err := b.s.Replay(r.Key, r.Value); err != nil {
			b.t.Fatal(err)
		}
	}
	b.do(b.s.Loaded(b.now))
}

func take[T any](b *bench, name string) (body T, answered bool) {
	x, ok := b.answers[name]
	delete(b.answers, name)
	if !ok {
		return body, false
	}
	return x.(T), true
}

// join has a client of the name join, with a member id where it has one. It returns
// the answer, or nil while it waits.
func (b *bench) join(name, id string, change ...func(*kmsg.JoinGroupRequest)) *kmsg.JoinGroupResponse {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.ProtocolType = 9, "g", id, "consumer"
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 10_000, 20_000
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte(name)}}
	for _, f := range change {
		f(req)
	}
	b.unique++
	b.do(b.s.Join(b.now, req, Client{ID: name, Host: "/h", Unique: fmt.Sprint(b.unique)}, "join "+name))
	return b.joined(name)
}

func (b *bench) joined(name string) *kmsg.JoinGroupResponse {
	resp, _ := take[*kmsg.JoinGroupResponse](b, "join "+name)
	return resp
}

// enter is both joins of a new member.
func (b *bench) enter(name string, change ...func(*kmsg.JoinGroupRequest)) (id string) {
	b.t.Helper()
	resp := b.join(name, "", change...)
	if resp == nil || resp.ErrorCode != int16(protocol.MemberIDRequired) || !strings.HasPrefix(resp.MemberID, name+"-") {
		b.t.Fatalf("%s joins: %+v", name, resp)
	}
	if early := b.join(name, resp.MemberID, change...); early != nil {
		b.answers["join "+name] = early
	}
	return resp.MemberID
}

func (b *bench) sync(name, id string, generation int32, assignments ...string) *kmsg.SyncGroupResponse {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.Generation = 5, "g", id, generation
	req.ProtocolType, req.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
	for i := 0; i < len(assignments); i += 2 {
		req.GroupAssignment = append(req.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: assignments[i], MemberAssignment: []byte(assignments[i+1])})
	}
	b.do(b.s.Sync(b.now, req, "sync "+name))
	return b.synced(name)
}

func (b *bench) synced(name string) *kmsg.SyncGroupResponse {
	resp, _ := take[*kmsg.SyncGroupResponse](b, "sync "+name)
	return resp
}

func (b *bench) beat(id string, generation int32) protocol.ErrorCode {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation = "g", id, generation
	b.do(b.s.Heartbeat(b.now, req, "beat"))
	resp, _ := take[*kmsg.HeartbeatResponse](b, "beat")
	return protocol.ErrorCode(resp.ErrorCode)
}

func (b *bench) leave(id string) protocol.ErrorCode {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group = 5, "g"
	req.Members = []kmsg.LeaveGroupRequestMember{{MemberID: id}}
	b.do(b.s.Leave(b.now, req, "leave"))
	resp, _ := take[*kmsg.LeaveGroupResponse](b, "leave")
	return protocol.ErrorCode(resp.Members[0].ErrorCode)
}

func (b *bench) commit(id string, generation int32, at int64) protocol.ErrorCode {
	b.do(b.s.Commit(b.now, &Commit{
		Group: "g", Member: id, Generation: generation, Version: 8, Keep: -1,
		Offsets: []CommitOffset{{Topic: "t", Partition: 1, Offset: at, Epoch: 3, Metadata: "m"}},
	}, "commit"))
	codes, _ := take[[]protocol.ErrorCode](b, "commit")
	return codes[0]
}

func (b *bench) committed() int64 {
	b.do(b.s.Offsets(b.now, "g", false, []Wanted{{"t", []int32{1}}}, "fetch"))
	resp, _ := take[*kmsg.OffsetFetchResponseGroup](b, "fetch")
	return resp.Topics[0].Partitions[0].Offset
}

func (b *bench) state() string {
	b.do(b.s.Describe(b.now, "g", 6, "describe"))
	row, _ := take[*kmsg.DescribeGroupsResponseGroup](b, "describe")
	return row.State
}

func (b *bench) want(what string, got, want any) {
	b.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		b.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// two makes a stable group of two members, of which a leads.
func (b *bench) two() (a, c string, generation int32) {
	b.t.Helper()
	a, c = b.enter("a"), b.enter("c")
	b.pass(7 * time.Second) // three, and three more since c came
	first := b.joined("a")
	if first == nil || first.LeaderID != a || len(first.Members) != 2 || first.Generation != 1 {
		b.t.Fatalf("a joined: %+v", first)
	}
	if second := b.joined("c"); second == nil || second.LeaderID != a || len(second.Members) != 0 {
		b.t.Fatalf("c joined: %+v", second)
	}
	if early := b.sync("c", c, 1); early != nil {
		b.t.Fatalf("c has an assignment before there is one: %+v", early)
	}
	b.want("a's assignment", string(b.sync("a", a, 1, a, "for a", c, "for c").MemberAssignment), "for a")
	b.want("c's assignment", string(b.synced("c").MemberAssignment), "for c")
	b.want("state", b.state(), Stable)
	return a, c, 1
}

func TestTwoMembers(t *testing.T) {
	b := newBench(t, usual)
	a, c, _ := b.two()
	b.want("heartbeat", b.beat(a, 1), protocol.None)
	b.want("heartbeat of another generation", b.beat(a, 2), protocol.IllegalGeneration)
	b.want("heartbeat of nobody", b.beat("x", 1), protocol.UnknownMemberID)
	b.want("commit", b.commit(c, 1, 7), protocol.None)
	b.want("commit of another generation", b.commit(c, 0, 8), protocol.IllegalGeneration)
	b.want("commit of nobody", b.commit("", -1, 8), protocol.UnknownMemberID)
	b.want("committed", b.committed(), 7)
	b.want("c again", string(b.sync("c", c, 1).MemberAssignment), "for c")

	b.want("c leaves", b.leave(c), protocol.None)
	b.want("a hears of it", b.beat(a, 1), protocol.RebalanceInProgress)
	b.want("a may commit still", b.commit(a, 1, 9), protocol.None)
	again := b.join("a", a)
	if again == nil || again.Generation != 2 || len(again.Members) != 1 {
		t.Fatalf("a joins again: %+v", again)
	}
	b.want("no commit while assignments are made", b.commit(a, 2, 10), protocol.RebalanceInProgress)
	b.sync("a", a, 2, a, "all")
	b.want("a leaves", b.leave(a), protocol.None)
	b.want("state", b.state(), Empty)
	b.want("committed", b.committed(), 9)
	b.want("commit of one that is in no group", b.commit("", -1, 11), protocol.None)
}

// What was answered is there after a failover, and members go on as they were.
func TestFailover(t *testing.T) {
	b := newBench(t, usual)
	a, c, _ := b.two()
	b.commit(a, 1, 7)
	b.reload()
	b.want("state", b.state(), Stable)
	b.want("committed", b.committed(), 7)
	b.want("heartbeat", b.beat(c, 1), protocol.None)
	b.want("c's assignment", string(b.sync("c", c, 1).MemberAssignment), "for c")
	b.pass(9 * time.Second)
	b.want("a's session", b.beat(a, 1), protocol.None)
	b.pass(2 * time.Second) // c has said nothing for eleven
	b.want("a hears that c is gone", b.beat(a, 1), protocol.RebalanceInProgress)
}

// A member that is silent goes; who does not come back in time is left out.
func TestSilence(t *testing.T) {
	b := newBench(t, usual)
	a, c, _ := b.two()
	d := b.enter("d")
	b.want("a is to come back", b.beat(a, 1), protocol.RebalanceInProgress)
	if early := b.join("a", a); early != nil {
		t.Fatalf("a joined before c did: %+v", early)
	}
	for range 3 {
		b.pass(6 * time.Second)
		b.want("c lives, and does not come", b.beat(c, 1), protocol.RebalanceInProgress)
	}
	b.pass(2 * time.Second)
	resp := b.joined("a")
	if resp == nil || resp.Generation != 2 || len(resp.Members) != 2 {
		t.Fatalf("a joined: %+v", resp)
	}
	b.joined("d")
	b.want("c was left out", b.beat(c, 2), protocol.UnknownMemberID)
	b.sync("d", d, 2)
	b.pass(time.Minute) // the leader brings no assignment
	b.want("d is told", b.synced("d").ErrorCode, int16(protocol.RebalanceInProgress))
}

// A static member that begins anew takes its old place, and the old one is told.
func TestStaticMember(t *testing.T) {
	b := newBench(t, usual)
	static := func(req *kmsg.JoinGroupRequest) { req.InstanceID = kmsg.StringPtr("i") }
	if early := b.join("a", "", static); early != nil {
		t.Fatalf("%+v", early)
	}
	b.pass(4 * time.Second)
	a := b.joined("a").MemberID
	b.sync("a", a, 1, a, "all")
	b.pass(5 * time.Second)
	b.reload()
	next := b.join("a", "", static)
	if next == nil || next.ErrorCode != 0 || next.Generation != 1 || next.MemberID == a || !next.SkipAssignment || next.LeaderID != next.MemberID {
		t.Fatalf("it began anew: %+v", next)
	}
	b.want("its assignment", string(b.sync("a", next.MemberID, 1).MemberAssignment), "all")
	old := kmsg.NewPtrHeartbeatRequest()
	old.Version, old.Group, old.MemberID, old.InstanceID, old.Generation = 4, "g", a, kmsg.StringPtr("i"), 1
	b.do(b.s.Heartbeat(b.now, old, "old"))
	resp, _ := take[*kmsg.HeartbeatResponse](b, "old")
	b.want("the old one", resp.ErrorCode, int16(protocol.FencedInstanceID))
	b.reload()
	b.want("after a failover", b.beat(next.MemberID, 1), protocol.None)
}

// Who leaves is answered behind the record of it.
func TestLastLeaves(t *testing.T) {
	b := newBench(t, usual)
	a := b.enter("a")
	b.pass(4 * time.Second)
	b.joined("a")
	b.sync("a", a, 1, a, "all")
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Version, req.Group, req.Members = 5, "g", []kmsg.LeaveGroupRequestMember{{MemberID: a}}
	e := b.s.Leave(b.now, req, "leave")
	if len(e.Records) != 1 || len(e.Replies) != 0 {
		t.Errorf("%d records and %d answers before they are in the log", len(e.Records), len(e.Replies))
	}
	b.refuse = protocol.NotCoordinator
	b.do(e)
	if _, answered := take[*kmsg.LeaveGroupResponse](b, "leave"); !answered {
		t.Error("it is not answered")
	}
}

// What the log refuses has not happened.
func TestRefused(t *testing.T) {
	b := newBench(t, usual)
	a, c, _ := b.two()
	b.commit(a, 1, 7)
	b.refuse = protocol.CoordinatorNotAvailable
	b.want("commit", b.commit(a, 1, 8), protocol.CoordinatorNotAvailable)
	b.want("committed", b.committed(), 7)
	b.leave(c)
	b.join("a", a)
	b.refuse = protocol.NotCoordinator
	b.want("the assignment", b.sync("a", a, 2, a, "all").ErrorCode, int16(protocol.NotCoordinator))
	b.want("state", b.state(), PreparingRebalance)
}

func TestLimits(t *testing.T) {
	b := newBench(t, usual)
	long := &Commit{Group: "h", Generation: -1, Version: 8, Keep: -1, Offsets: []CommitOffset{
		{Topic: "t", Offset: 1, Metadata: strings.Repeat("m", 11)}, {Topic: "u", Offset: 2},
	}}
	b.do(b.s.Commit(b.now, long, "commit"))
	codes, _ := take[[]protocol.ErrorCode](b, "commit")
	b.want("commit", codes, []protocol.ErrorCode{protocol.OffsetMetadataTooLarge, protocol.None})
	for name, change := range map[protocol.ErrorCode]func(*kmsg.JoinGroupRequest){
		protocol.InvalidGroupID:            func(r *kmsg.JoinGroupRequest) { r.Group = "" },
		protocol.InvalidSessionTimeout:     func(r *kmsg.JoinGroupRequest) { r.SessionTimeoutMillis = 999 },
		protocol.InconsistentGroupProtocol: func(r *kmsg.JoinGroupRequest) { r.ProtocolType = "" },
		protocol.UnknownMemberID:           func(r *kmsg.JoinGroupRequest) { r.MemberID = "x" },
	} {
		b.want("join", b.join("a", "", change).ErrorCode, int16(name))
	}
	b.want("nothing is left of that", len(b.s.groups), 1)
	b.two()
	b.enter("d")
	b.want("the fourth", b.join("e", "").ErrorCode, int16(protocol.MemberIDRequired)) // nobody has come back yet
}

// Who comes with an id for which there is no room any more is not waited for.
func TestNoRoomForAPendingMember(t *testing.T) {
	b := newBench(t, usual)
	a, c, _ := b.two()
	b.enter("d")
	e, f := b.join("e", "").MemberID, b.join("f", "").MemberID
	b.want("a comes back early", b.join("a", a) == nil, true)
	b.want("c comes back early", b.join("c", c) == nil, true)
	b.want("e", b.join("e", e).ErrorCode, int16(protocol.GroupMaxSizeReached))
	b.want("while f may come a is answered", b.joined("a") != nil, false)
	b.want("f", b.join("f", f).ErrorCode, int16(protocol.GroupMaxSizeReached))
	b.want("ids that are waited for", len(b.s.groups["g"].pending), 0)
	b.want("a is answered", b.joined("a") != nil, true)
	b.want("d is answered", b.joined("d") != nil, true)
}

// Offsets go when they were kept for long enough, and a group with its last one.
func TestRetention(t *testing.T) {
	b := newBench(t, usual)
	a, c, _ := b.two()
	b.commit(a, 1, 7)
	for range 800 { // two hours, members live
		b.pass(9 * time.Second)
		b.beat(a, 1)
		b.beat(c, 1)
	}
	b.want("committed while members live", b.committed(), 7)
	b.leave(a)
	b.leave(c)
	b.pass(59 * time.Minute)
	b.want("committed by a group that has been empty for less than an hour", b.committed(), 7)
	b.pass(3 * time.Minute)
	b.want("then", b.committed(), -1)
	b.want("state", b.state(), Dead)
	last := b.log[len(b.log)-2:]
	if !slices.ContainsFunc(last, func(r Record) bool { return string(r.Key) == string(groupKey("g")) && r.Value == nil }) {
		t.Errorf("the group's tombstone is missing: %q", last)
	}
	b.reload()
	b.want("after a failover", b.state(), Dead)
}

// A group that waits for somebody who has not joined yet, the last member gone, is not
// one that has been empty for the retention.
func TestRetentionWhileARebalanceIsUnderWay(t *testing.T) {
	b := newBench(t, usual)
	long := func(req *kmsg.JoinGroupRequest) {
		req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 3_600_000, 120_000
	}
	a := b.enter("a", long)
	b.pass(4 * time.Second)
	b.joined("a")
	b.sync("a", a, 1, a, "all")
	b.want("commit", b.commit(a, 1, 7), protocol.None)
	for range 2 {
		b.pass(50 * time.Minute)
		b.want("heartbeat", b.beat(a, 1), protocol.None)
	}
	b.join("c", "", long)
	b.join("a", a, long, func(req *kmsg.JoinGroupRequest) { req.Protocols[0].Metadata = []byte("something else") })
	b.want("leave", b.leave(a), protocol.None)
	b.pass(70 * time.Second)
	b.want("state", b.state(), PreparingRebalance)
	b.want("committed", b.committed(), 7)
	b.pass(50 * time.Second)
	b.want("state", b.state(), Empty)
	b.pass(59 * time.Minute)
	b.want("committed", b.committed(), 7)
	b.pass(2 * time.Minute)
	b.want("committed after the retention", b.committed(), -1)
}

// TestManyOffsetsGo: more offsets than a batch can remove go in several, the answer is
// behind the last, and what is refused on the way stays.
func TestManyOffsetsGo(t *testing.T) {
	const partitions = 20_000
	for _, c := range []struct {
		what string
		do   func(s *Shard, now time.Time) Effects
		left int // of another topic
	}{
		{"a group is deleted", func(s *Shard, now time.Time) Effects { return s.Delete(now, "g", "gone") }, 0},
		{"a topic is deleted", func(s *Shard, now time.Time) Effects { return s.TopicsDeleted(now, []string{"t"}) }, 1},
		{"they expire", func(s *Shard, now time.Time) Effects {
			return s.Tick(now.Add(usual.Retention + usual.RetentionCheck))
		}, 0},
	} {
		s := New(usual)
		now := time.UnixMilli(1_800_000_000_000)
		s.Loaded(now)
		commit := &Commit{Group: "g", Generation: -1, Version: 8, Keep: -1, Offsets: []CommitOffset{{Topic: "other", Offset: 1, Epoch: -1}}}
		for i := range int32(partitions) {
			commit.Offsets = append(commit.Offsets, CommitOffset{Topic: "t", Partition: i, Offset: 1, Epoch: -1})
		}
		s.Commit(now, commit, "kept")
		s.Appended(now)
		batches := 0
		var answers []Reply
		for e := c.do(s, now); ; {
			answers = append(answers, e.Replies...)
			if len(e.Records) == 0 {
				break
			}
			bytes := 0
			for _, r := range e.Records {
				bytes += len(r.Key) + len(r.Value) + recordBytes
			}
			if bytes > 1<<20 {
				t.Fatalf("%s: a batch of %d bytes", c.what, bytes)
			}
			if batches++; batches == 2 && len(answers) > 0 {
				t.Errorf("%s: %v is answered before all is gone", c.what, answers)
			}
			e = s.Appended(now)
		}
		left := 0
		if g := s.groups["g"]; g != nil {
			left = len(g.offsets)
		}
		if batches < 2 || left != c.left {
			t.Errorf("%s: %d offsets are left after %d batches, want %d", c.what, left, batches, c.left)
		}
	}
}
