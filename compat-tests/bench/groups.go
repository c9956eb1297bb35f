package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/compat-tests/server"
)

// Members of groups are connections and a few requests here: a thousand whole clients
// would be what is measured. They ask in the order and at the times of clients with
// their defaults.
const (
	session        = 45 * time.Second
	rebalanceTime  = time.Minute
	heartbeatEvery = 3 * time.Second
	consumerEvery  = 5 * time.Second // as brokers tell members of the consumer protocol
	// groupTime is what anything about groups may take.
	groupTime = 3 * time.Minute
)

// wire is a connection with one request under way at a time.
type wire struct {
	nc net.Conn
	in *bufio.Reader
	id int32
}

func dial(addr string) (*wire, error) {
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	nc.SetDeadline(time.Now().Add(groupTime))
	return &wire{nc: nc, in: bufio.NewReader(nc)}, nil
}

func (w *wire) close() { w.nc.Close() }

// exchange sends a request in a version and fills in its answer.
func exchange[R kmsg.Response](w *wire, req kmsg.Request, version int16) (resp R, err error) {
	req.SetVersion(version)
	w.id++
	if _, err := w.nc.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("bench")).AppendRequest(nil, req, w.id)); err != nil {
		return resp, err
	}
	var head [8]byte
	if _, err := io.ReadFull(w.in, head[:]); err != nil {
		return resp, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:4])-4)
	if _, err := io.ReadFull(w.in, body); err != nil {
		return resp, err
	}
	resp = req.ResponseKind().(R)
	if resp.IsFlexible() {
		body = body[1:] // the header's tags, of which there are none
	}
	return resp, resp.ReadFrom(body)
}

// groupProtocol is how members are in a group.
type groupProtocol struct {
	enter func(*member) error                 // returns when the member has its assignment, and again after a change
	beat  func(*member) (moved bool, _ error) // a heartbeat: moved is to enter again
	leave func(*member) error
	every time.Duration
}

// member is one of a group.
type member struct {
	*wire
	group, topic string
	id           string
	generation   int32
	owned        []kmsg.ConsumerGroupHeartbeatRequestTopic // by the consumer protocol
}

var (
	classic  = groupProtocol{joinAndSync, heartbeat, leaveGroup, heartbeatEvery}
	consumer = groupProtocol{joinConsumers, beatConsumers, leaveConsumers, consumerEvery}
)

// joinConsumers is what a member of the consumer protocol says until it is told nothing
// new.
func joinConsumers(m *member) error {
	if m.id == "" {
		m.id = fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64())
	}
	for {
		moved, err := beatConsumers(m)
		if err != nil || !moved {
			return err
		}
	}
}

// beatConsumers is a heartbeat of the consumer protocol, by which a member joins too.
// Members do at once what they are told.
func beatConsumers(m *member) (moved bool, err error) {
	req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
	req.Group, req.MemberID, req.MemberEpoch, req.Topics = m.group, m.id, m.generation, m.owned
	if m.generation == 0 {
		req.RebalanceTimeoutMillis, req.SubscribedTopicNames = int32(rebalanceTime.Milliseconds()), []string{m.topic}
		req.Topics = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
	}
	resp, err := exchange[*kmsg.ConsumerGroupHeartbeatResponse](m.wire, req, 1)
	if err == nil {
		err = kerr.ErrorForCode(resp.ErrorCode)
	}
	if err != nil {
		return false, err
	}
	moved = resp.MemberEpoch != m.generation || resp.Assignment != nil
	if m.generation = resp.MemberEpoch; resp.Assignment != nil {
		m.owned = []kmsg.ConsumerGroupHeartbeatRequestTopic{}
		for _, t := range resp.Assignment.Topics {
			m.owned = append(m.owned, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: t.TopicID, Partitions: t.Partitions})
		}
	}
	return moved, nil
}

func leaveConsumers(m *member) error {
	_, err := beatConsumers(&member{wire: m.wire, group: m.group, id: m.id, generation: -1})
	return err
}

// joinAndSync is one rebalance of the classic protocol, of a member of which another
// assigns, or this one: a partition to each.
func joinAndSync(m *member) error {
	for {
		join := kmsg.NewPtrJoinGroupRequest()
		join.Group, join.MemberID, join.ProtocolType = m.group, m.id, "consumer"
		join.SessionTimeoutMillis, join.RebalanceTimeoutMillis = int32(session.Milliseconds()), int32(rebalanceTime.Milliseconds())
		meta := kmsg.ConsumerMemberMetadata{Version: 1, Topics: []string{m.topic}}
		join.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: meta.AppendTo(nil)}}
		joined, err := exchange[*kmsg.JoinGroupResponse](m.wire, join, 9)
		if err != nil {
			return err
		}
		m.id, m.generation = joined.MemberID, joined.Generation
		if err = kerr.ErrorForCode(joined.ErrorCode); errors.Is(err, kerr.MemberIDRequired) || errors.Is(err, kerr.RebalanceInProgress) {
			continue
		}
		if err != nil {
			return fmt.Errorf("joining: %w", err)
		}
		sync := kmsg.NewPtrSyncGroupRequest()
		sync.Group, sync.MemberID, sync.Generation = m.group, m.id, m.generation
		sync.ProtocolType, sync.Protocol = kmsg.StringPtr("consumer"), kmsg.StringPtr("range")
		for i, x := range joined.Members {
			own := kmsg.ConsumerMemberAssignment{Topics: []kmsg.ConsumerMemberAssignmentTopic{{Topic: m.topic, Partitions: []int32{int32(i)}}}}
			sync.GroupAssignment = append(sync.GroupAssignment, kmsg.SyncGroupRequestGroupAssignment{MemberID: x.MemberID, MemberAssignment: own.AppendTo(nil)})
		}
		synced, err := exchange[*kmsg.SyncGroupResponse](m.wire, sync, 5)
		if err != nil {
			return err
		}
		if err = kerr.ErrorForCode(synced.ErrorCode); errors.Is(err, kerr.RebalanceInProgress) {
			continue
		}
		if err == nil && len(synced.MemberAssignment) == 0 {
			err = errors.New("it got nothing")
		}
		return err
	}
}

func heartbeat(m *member) (moved bool, err error) {
	req := kmsg.NewPtrHeartbeatRequest()
	req.Group, req.MemberID, req.Generation = m.group, m.id, m.generation
	resp, err := exchange[*kmsg.HeartbeatResponse](m.wire, req, 4)
	if err != nil {
		return false, err
	}
	if err = kerr.ErrorForCode(resp.ErrorCode); errors.Is(err, kerr.RebalanceInProgress) {
		return true, nil
	}
	return false, err
}

func leaveGroup(m *member) error {
	req := kmsg.NewPtrLeaveGroupRequest()
	req.Group, req.Members = m.group, []kmsg.LeaveGroupRequestMember{{MemberID: m.id}}
	resp, err := exchange[*kmsg.LeaveGroupResponse](m.wire, req, 5)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.ErrorCode)
}

// crew is the members of a group, each with a goroutine.
type crew struct {
	p       groupProtocol
	members []*member
	done    context.CancelFunc
	all     sync.WaitGroup

	mu      sync.Mutex // guards the following
	settled map[*member]int32
	expect  int
	above   int32 // generations that count
	stable  chan error
}

// gather has n members enter a fresh group.
func (b *bench) gather(n int, p groupProtocol) (*crew, error) {
	topic, err := b.topic(int32(n), "")
	if err != nil {
		return nil, err
	}
	group := "group-of-" + topic
	at, err := b.coordinator(group)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &crew{p: p, done: cancel, settled: map[*member]int32{}, expect: n, stable: make(chan error, 1)}
	for range n {
		w, err := dial(at)
		if err != nil {
			c.end()
			return nil, err
		}
		c.members = append(c.members, &member{wire: w, group: group, topic: topic})
	}
	for _, m := range c.members {
		c.all.Go(func() {
			if err := c.belong(ctx, m); err != nil && ctx.Err() == nil {
				c.tell(fmt.Errorf("a member of %d: %w", n, err))
			}
		})
	}
	return c, nil
}

// belong has a member enter and stay until ctx ends or it has left.
func (c *crew) belong(ctx context.Context, m *member) error {
	pause := time.Duration(rand.Int64N(int64(c.p.every))) // clients come at any time
	for moved := true; ; {
		if moved {
			if err := c.p.enter(m); err != nil {
				return err
			}
			c.settle(m)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		pause = c.p.every
		var err error
		if moved, err = c.p.beat(m); err != nil {
			if c.left(m) {
				return nil
			}
			return err
		}
	}
}

// settle takes note of an assignment. All have one when they are of one generation.
func (c *crew) settle(m *member) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settled[m] = m.generation
	if m.owned != nil && len(m.owned) == 0 { // others have not given up what it is to get
		c.settled[m] = 0
	}
	same := 0
	for _, g := range c.settled {
		if g == m.generation && g > c.above {
			same++
		}
	}
	if same == c.expect {
		c.tell(nil)
	}
}

func (c *crew) tell(err error) {
	select {
	case c.stable <- err:
	default:
	}
}

func (c *crew) left(m *member) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.settled[m] < 0
}

func (c *crew) wait() error {
	select {
	case err := <-c.stable:
		return err
	case <-time.After(groupTime):
		c.mu.Lock()
		defer c.mu.Unlock()
		return fmt.Errorf("of %d members %d have an assignment after %v", c.expect, len(c.settled), groupTime)
	}
}

// dismiss has the last member leave.
func (c *crew) dismiss() error {
	m := c.members[len(c.members)-1]
	c.mu.Lock()
	generation := c.settled[m]
	c.settled[m], c.expect, c.above = -1, c.expect-1, generation
	c.mu.Unlock()
	w, err := dial(m.nc.RemoteAddr().String())
	if err != nil {
		return err
	}
	defer w.close()
	return c.p.leave(&member{wire: w, group: m.group, id: m.id})
}

func (c *crew) end() {
	c.done()
	for _, m := range c.members {
		m.close()
	}
	c.all.Wait()
}

// members takes the time until all members of a group have an assignment, and again
// when one has left. In both are seconds that are nobody's work: a new group waits for
// more members, 3 s by default, and who is in one hears of a change with its heartbeat,
// every 3 s. By the consumer protocol no group waits, and heartbeats come every 5 s.
func members(n int, p groupProtocol) measure {
	return func(b *bench) ([]figure, error) {
		before, err := b.cpu()
		if err != nil {
			return nil, err
		}
		begun := time.Now()
		c, err := b.gather(n, p)
		if err != nil {
			return nil, err
		}
		defer c.end()
		if err := c.wait(); err != nil {
			return nil, err
		}
		entered := time.Since(begun)
		between, err := b.cpu()
		if err != nil {
			return nil, err
		}
		begun = time.Now()
		if err := errors.Join(c.dismiss(), c.wait()); err != nil {
			return nil, err
		}
		left := time.Since(begun)
		after, err := b.cpu()
		return []figure{
			{"ms until stable", millis(entered)}, {"broker CPU ms for that", millis(between - before)},
			{"ms until stable after one has left", millis(left)}, {"broker CPU ms for it", millis(after - between)},
		}, err
	}
}

// coordinator finds who coordinates a group, and waits until it does.
func (b *bench) coordinator(group string) (string, error) {
	var addr string
	var last error
	err := wait("a group has a coordinator", func() bool {
		addr, last = coordinatorFrom(b.Addr, group)
		return last == nil
	})
	if err != nil {
		return "", errors.Join(err, last)
	}
	return addr, nil
}

// coordinatorFrom asks a node, and then the coordinator for something.
func coordinatorFrom(addr, group string) (string, error) {
	w, err := dial(addr)
	if err != nil {
		return "", err
	}
	defer w.close()
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.CoordinatorKeys = []string{group}
	resp, err := exchange[*kmsg.FindCoordinatorResponse](w, req, 4)
	if err != nil {
		return "", err
	}
	row := resp.Coordinators[0]
	if err := kerr.ErrorForCode(row.ErrorCode); err != nil {
		return "", err
	}
	at := net.JoinHostPort(row.Host, fmt.Sprint(row.Port))
	to, err := dial(at)
	if err != nil {
		return "", err
	}
	defer to.close()
	return at, fetchOffsets(to, group)
}

// fetchOffsets asks for all offsets of a group.
func fetchOffsets(w *wire, group string) error {
	req := kmsg.NewPtrOffsetFetchRequest()
	req.Groups = []kmsg.OffsetFetchRequestGroup{{Group: group, MemberEpoch: -1}}
	resp, err := exchange[*kmsg.OffsetFetchResponse](w, req, 8)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.Groups[0].ErrorCode)
}

// offsetCommit commits an offset for each of some partitions, for a group without
// members.
func offsetCommit(group, topic string, partitions, offset int64) *kmsg.OffsetCommitRequest {
	req := kmsg.NewPtrOffsetCommitRequest()
	req.Group, req.Generation = group, -1
	t := kmsg.NewOffsetCommitRequestTopic()
	t.Topic = topic
	for i := range partitions {
		p := kmsg.NewOffsetCommitRequestTopicPartition()
		p.Partition, p.Offset, p.LeaderEpoch = int32(i), offset, -1
		t.Partitions = append(t.Partitions, p)
	}
	req.Topics = append(req.Topics, t)
	return req
}

func committed(resp *kmsg.OffsetCommitResponse, err error) error {
	if err != nil {
		return err
	}
	for _, p := range resp.Topics[0].Partitions {
		if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
			return err
		}
	}
	return nil
}

// commits are n groups, each with one commit of one offset under way.
func commits(n int) measure {
	return func(b *bench) ([]figure, error) {
		topic, err := b.topic(1, "")
		if err != nil {
			return nil, err
		}
		return b.busy(n, "commit", func(i int) (*wire, func(*wire) error, error) {
			group := fmt.Sprint("group-of-", topic, "-", i)
			at, err := b.coordinator(group)
			if err != nil {
				return nil, nil, err
			}
			w, err := dial(at)
			offset := int64(0)
			return w, func(w *wire) error {
				offset++
				return committed(exchange[*kmsg.OffsetCommitResponse](w, offsetCommit(group, topic, 1, offset), 8))
			}, err
		})
	}
}

// heartbeats are n members of a group, each with one heartbeat under way.
func heartbeats(n int, p groupProtocol) measure {
	return func(b *bench) ([]figure, error) {
		c, err := b.gather(n, p)
		if err != nil {
			return nil, err
		}
		defer c.end()
		if err := c.wait(); err != nil {
			return nil, err
		}
		return b.busy(n, "heartbeat", func(i int) (*wire, func(*wire) error, error) {
			m := *c.members[i]
			w, err := dial(m.nc.RemoteAddr().String())
			m.wire = w
			return w, func(*wire) error {
				moved, err := p.beat(&m)
				if moved {
					err = errors.Join(err, errors.New("the group has changed"))
				}
				return err
			}, err
		})
	}
}

// busy has n connections do something over and over for the span.
func (b *bench) busy(n int, what string, connect func(i int) (*wire, func(*wire) error, error)) ([]figure, error) {
	type one struct {
		w  *wire
		do func(*wire) error
	}
	var ones []one
	for i := range n {
		w, do, err := connect(i)
		if err != nil {
			return nil, err
		}
		defer w.close()
		ones = append(ones, one{w, do})
	}
	before, err := b.cpu()
	if err != nil {
		return nil, err
	}
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		times []time.Duration
		fails []error
	)
	begun := time.Now()
	for _, x := range ones {
		all.Go(func() {
			mine, err := repeat(b.span, func() error { return x.do(x.w) })
			mu.Lock()
			defer mu.Unlock()
			times, fails = append(times, mine...), append(fails, err)
		})
	}
	all.Wait()
	took := time.Since(begun)
	after, err := b.cpu()
	if err := errors.Join(append(fails, err)...); err != nil {
		return nil, err
	}
	each := float64(len(times))
	return append(percentiles(times), figure{what + "s/s", each / took.Seconds()}, figure{"broker CPU us per " + what, float64((after - before).Microseconds()) / each}), nil
}

// A million committed offsets are those of a thousand groups.
const (
	manyGroups = 1000
	ofAGroup   = 1000
)

func manyGroup(i int) string { return fmt.Sprint("one-of-many-", i) }

// commitMany commits a million offsets.
func (b *bench) commitMany() error {
	topic, err := b.topic(ofAGroup, "")
	if err != nil {
		return err
	}
	var next atomic.Int64
	var all sync.WaitGroup
	fails := make([]error, 8)
	for i := range fails {
		all.Go(func() {
			for fails[i] == nil {
				n := int(next.Add(1)) - 1
				if n >= manyGroups {
					return
				}
				fails[i] = func() error {
					at, err := b.coordinator(manyGroup(n))
					if err != nil {
						return err
					}
					w, err := dial(at)
					if err != nil {
						return err
					}
					defer w.close()
					return committed(exchange[*kmsg.OffsetCommitResponse](w, offsetCommit(manyGroup(n), topic, ofAGroup, 1), 8))
				}()
			}
		})
	}
	all.Wait()
	return errors.Join(fails...)
}

// loaded waits until a coordinator answers for each of the groups, of which the first
// is where somebody could go on.
func loaded(addrs []string, begun time.Time) ([]figure, error) {
	var first, last time.Duration
	left := make([]string, manyGroups)
	for i := range left {
		left[i] = manyGroup(i)
	}
	err := waitFor(groupTime, "all groups have a coordinator", func() bool {
		left = slices.DeleteFunc(left, func(group string) bool {
			for _, addr := range addrs {
				if _, err := coordinatorFrom(addr, group); err == nil {
					if last = time.Since(begun); first == 0 {
						first = last
					}
					return true
				}
			}
			return false
		})
		return len(left) == 0
	})
	return []figure{{"ms to the first OffsetFetch", millis(first)}, {"ms until all groups were fetched", millis(last)}}, err
}

// coordinatorLoads takes the time from a start after a kill to where groups go on that
// have a million committed offsets.
func coordinatorLoads(b *bench) ([]figure, error) {
	return b.fresh(func(b *bench) ([]figure, error) {
		if err := b.commitMany(); err != nil {
			return nil, err
		}
		whole, err := loaded([]string{b.Addr}, time.Now()) // what asking takes by itself
		if err != nil {
			return nil, err
		}
		if err := errors.Join(b.Kill(), b.Launch()); err != nil {
			return nil, err
		}
		figures, err := loaded([]string{b.Addr}, b.Started)
		return append(figures, figure{"ms to fetch all groups, loaded", whole[1].value}), err
	})
}

// coordinatorEnds takes the time without a commit when the process is gone that
// coordinates a group. With its defaults the client pauses for 250 ms before it finds
// that nobody listens there, and for 500 ms before it asks who coordinates now; with
// short pauses it is the brokers' time.
func coordinatorEnds(client func(*bench) (*kgo.Client, error)) measure {
	return func(b *bench) ([]figure, error) {
		on, err := b.onCluster()
		if err != nil {
			return nil, err
		}
		topic, err := on.topic(1, "")
		if err != nil {
			return nil, err
		}
		group := "group-of-" + topic
		var times []time.Duration
		for begun := time.Now(); len(times) < outagesInARow && time.Since(begun) < outagesTime; {
			cl, err := client(on)
			if err != nil {
				return nil, err
			}
			gap, err := on.commitGap(cl, group, topic)
			cl.Close()
			if err != nil {
				return nil, err
			}
			times = append(times, gap)
		}
		slices.Sort(times)
		return []figure{percentiles(times)[0], {"max ms", millis(times[len(times)-1])}, {howOften, float64(len(times))}}, nil
	}
}

func withDefaults(b *bench) (*kgo.Client, error) { return kgo.NewClient(seeds(b.nodes)) }

func withShortPauses(b *bench) (*kgo.Client, error) { return b.client(seeds(b.nodes)) }

// commitGap kills the coordinator of a group, which commits all the time.
func (b *bench) commitGap(cl *kgo.Client, group, topic string) (longest time.Duration, err error) {
	offset, admin := int64(0), kadm.NewClient(cl)
	commit := func() error {
		offset++
		var to kadm.Offsets
		to.AddOffset(topic, 0, offset, -1)
		return admin.CommitAllOffsets(context.Background(), group, to)
	}
	at, err := b.coordinator(group)
	if err == nil {
		err = commit() // its connection
	}
	if err != nil {
		return 0, err
	}
	gone := b.nodes[slices.IndexFunc(b.nodes, func(s *server.Server) bool { return s.Addr == at })]
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		last := time.Now()
		for {
			err := commit()
			now := time.Now()
			switch {
			case err == nil:
				longest, last = max(longest, now.Sub(last)), now
			case now.Sub(last) < groupTime: // the client has given up: so does nobody who has offsets to commit
				time.Sleep(10 * time.Millisecond)
				continue
			}
			if err != nil || ctx.Err() != nil {
				ended <- err
				return
			}
		}
	}()
	time.Sleep(200 * time.Millisecond) // commits as usual
	err = gone.Kill()
	time.Sleep(5 * time.Second) // it is over by then, or counts whole
	cancel()
	err = errors.Join(err, <-ended, startAgain(gone))
	return longest, errors.Join(err, b.offsetsInSync())
}

// offsetsInSync waits until all replicas of the committed offsets are.
func (b *bench) offsetsInSync() error {
	cl, err := b.client(seeds(b.nodes))
	if err != nil {
		return err
	}
	defer cl.Close()
	return wait("the replicas of the offsets are in sync", func() bool {
		req := kmsg.NewPtrMetadataRequest()
		t := kmsg.NewMetadataRequestTopic()
		t.Topic = kmsg.StringPtr("__consumer_offsets")
		req.Topics = append(req.Topics, t)
		resp, err := req.RequestWith(context.Background(), cl)
		lacks := func(p kmsg.MetadataResponseTopicPartition) bool { return p.Leader < 0 || len(p.ISR) < clusterSize }
		return err == nil && !slices.ContainsFunc(resp.Topics[0].Partitions, lacks)
	})
}

// manyElsewhere takes the time from a kill of one of three coordinators to where all
// groups go on that have a million committed offsets.
func manyElsewhere(b *bench) ([]figure, error) {
	on, err := b.onCluster()
	if err != nil {
		return nil, err
	}
	if err := on.commitMany(); err != nil {
		return nil, err
	}
	gone := on.nodes[1]
	begun := time.Now()
	if err := gone.Kill(); err != nil {
		return nil, err
	}
	figures, err := loaded([]string{on.nodes[0].Addr}, begun)
	return figures[1:], errors.Join(err, startAgain(gone), on.offsetsInSync())
}
