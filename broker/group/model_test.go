package group

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

// partitions are what the members of the model share out.
const partitions = 6

// modelConsumer is a client that does what consumers do, one request at a time.
type modelConsumer struct {
	name       string
	instance   *string
	id         string
	generation int32
	waits      string // the request under way
	owns       bool   // it has an assignment of its generation
	gone       bool
}

// owner is who partitions are of: an instance that begins anew takes over those that
// it had.
func (c *modelConsumer) owner() string {
	if c.instance != nil {
		return *c.instance
	}
	return c.id
}

// A model is consumers of one group, which come and go in any order that a seed gives,
// while the coordinator fails over and its log refuses. What holds is checked at every
// answer.
type model struct {
	*bench
	seed      uint64
	rng       *rand.Rand
	consumers []*modelConsumer
	next      int
	committed int64
	owners    map[string]string // by generation and partition
	counts    map[string]int
	stays     bool // the coordinator does: a generation is made once then
}

func (m *model) broken(format string, args ...any) {
	m.t.Helper()
	m.t.Fatalf("seed %d: %s", m.seed, fmt.Sprintf(format, args...))
}

func (m *model) send(c *modelConsumer, what string, do func(token string) Effects) {
	m.unique++
	c.waits = fmt.Sprintf("%s of %s, %d", what, c.name, m.unique)
	m.do(do(c.waits))
}

func (m *model) joins(c *modelConsumer) {
	req := kmsg.NewPtrJoinGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.ProtocolType = 9, "g", c.id, c.instance, consumerProtocol
	req.SessionTimeoutMillis, req.RebalanceTimeoutMillis = 5000, 10_000
	req.Protocols = []kmsg.JoinGroupRequestProtocol{{Name: "range", Metadata: []byte(c.name)}}
	c.owns = false
	m.send(c, "join", func(token string) Effects {
		return m.s.Join(m.now, req, Client{ID: c.name, Unique: strconv.Itoa(m.unique)}, token)
	})
}

func (m *model) syncs(c *modelConsumer, assignments []kmsg.SyncGroupRequestGroupAssignment) {
	req := kmsg.NewPtrSyncGroupRequest()
	req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 5, "g", c.id, c.instance, c.generation
	req.ProtocolType, req.Protocol, req.GroupAssignment = kmsg.StringPtr(consumerProtocol), kmsg.StringPtr("range"), assignments
	m.send(c, "sync", func(token string) Effects { return m.s.Sync(m.now, req, token) })
}

// hear takes the answer to the request that a modelConsumer waits with.
func (m *model) hear(c *modelConsumer) {
	body, ok := m.answers[c.waits]
	if !ok {
		return
	}
	delete(m.answers, c.waits)
	asked := c.waits
	c.waits = ""
	switch r := body.(type) {
	case *kmsg.JoinGroupResponse:
		switch code := protocol.ErrorCode(r.ErrorCode); code {
		case protocol.None:
			if r.Generation < c.generation && c.generation > 0 && c.id == r.MemberID && m.stays {
				m.broken("%s: generation %d after %d", asked, r.Generation, c.generation)
			}
			c.id, c.generation = r.MemberID, r.Generation
			m.counts["joins"]++
			var assignments []kmsg.SyncGroupRequestGroupAssignment
			if r.LeaderID == c.id && !r.SkipAssignment {
				for i, x := range r.Members {
					var mine []string
					for p := i; p < partitions; p += len(r.Members) {
						mine = append(mine, strconv.Itoa(p))
					}
					assignments = append(assignments, kmsg.SyncGroupRequestGroupAssignment{MemberID: x.MemberID, MemberAssignment: []byte(strings.Join(mine, " "))})
				}
			}
			m.syncs(c, assignments)
		case protocol.MemberIDRequired:
			c.id = r.MemberID
			m.joins(c)
		case protocol.UnknownMemberID:
			c.id, c.generation = "", 0
		case protocol.FencedInstanceID:
			c.gone = true
		}
	case *kmsg.SyncGroupResponse:
		if code := protocol.ErrorCode(r.ErrorCode); code != protocol.None {
			m.lost(c, code)
			return
		}
		m.counts["assignments"]++
		c.owns = true
		for _, p := range strings.Fields(string(r.MemberAssignment)) {
			key := fmt.Sprintf("%d/%s", c.generation, p)
			if other := m.owners[key]; other != "" && other != c.owner() && m.stays {
				m.broken("partition %s is of %s and of %s in generation %d", p, other, c.owner(), c.generation)
			}
			m.owners[key] = c.owner()
		}
	case *kmsg.HeartbeatResponse:
		m.lost(c, protocol.ErrorCode(r.ErrorCode))
	case []protocol.ErrorCode:
		if r[0] == protocol.None {
			m.counts["commits"]++
			fmt.Sscanf(asked, "commit %d", &m.committed)
		}
		m.lost(c, r[0])
	}
}

// lost is what a modelConsumer does about an error.
func (m *model) lost(c *modelConsumer, code protocol.ErrorCode) {
	switch code {
	case protocol.None, protocol.NotCoordinator, protocol.CoordinatorNotAvailable:
		return
	case protocol.FencedInstanceID:
		c.gone = true
	case protocol.UnknownMemberID:
		c.id, c.generation = "", 0
		fallthrough
	default: // it joins when its turn comes
		c.owns = false
	}
}

func (m *model) step() {
	m.pass(time.Duration(m.rng.IntN(800)) * time.Millisecond)
	for _, c := range m.consumers {
		m.hear(c)
	}
	live := m.consumers[:0]
	for _, c := range m.consumers {
		if !c.gone {
			live = append(live, c)
		}
	}
	m.consumers = live
	switch n := m.rng.IntN(100); {
	case n < 4 && len(m.consumers) < 5:
		m.next++
		c := &modelConsumer{name: fmt.Sprint("c", m.next)}
		if m.rng.IntN(3) == 0 {
			c.instance = kmsg.StringPtr(fmt.Sprint("i", m.rng.IntN(3)))
		}
		m.consumers = append(m.consumers, c)
	case n < 6 && !m.stays:
		m.counts["failovers"]++
		m.reload()
	case n < 8:
		m.refuse = protocol.CoordinatorNotAvailable
	}
	if len(m.consumers) == 0 {
		return
	}
	c := m.consumers[m.rng.IntN(len(m.consumers))]
	switch n := m.rng.IntN(100); {
	case n < 2: // killed
		m.counts["kills"]++
		c.gone = true
	case n < 4 && c.id != "" && c.instance == nil:
		m.counts["leaves"]++
		m.leave(c.id)
		c.gone = true
	case c.waits != "":
	case c.id == "" || !c.owns:
		m.joins(c)
	case n < 40:
		at := m.committed + 1 + m.rng.Int64N(5)
		m.send(c, fmt.Sprintf("commit %d", at), func(token string) Effects {
			return m.s.Commit(m.now, &Commit{Group: "g", Member: c.id, Instance: c.instance, Generation: c.generation, Version: 8, Keep: -1,
				Offsets: []CommitOffset{{Topic: "t", Partition: 1, Offset: at}}}, token)
		})
		m.hear(c)
		if got := m.bench.committed(); got != max(m.committed, 0) && !(m.committed == 0 && got == -1) {
			m.broken("%d is committed, and %d was acknowledged", got, m.committed)
		}
	default:
		req := kmsg.NewPtrHeartbeatRequest()
		req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 4, "g", c.id, c.instance, c.generation
		m.send(c, "beat", func(token string) Effects { return m.s.Heartbeat(m.now, req, token) })
	}
}

// settled has all who are left be members of one generation, and own everything.
func (m *model) settled() bool {
	owned := map[string]bool{}
	if len(m.consumers) == 0 || m.state() != string(Stable) {
		return false
	}
	g := m.s.groups["g"]
	if len(g.members) != len(m.consumers) {
		return false
	}
	for _, c := range m.consumers {
		if x := g.members[c.id]; x == nil || !c.owns || c.generation != g.generation {
			return false
		} else {
			for _, p := range strings.Fields(string(x.assignment)) {
				owned[p] = true
			}
		}
	}
	return len(owned) == partitions
}

func TestModel(t *testing.T) {
	seeds, first := uint64(300), uint64(1)
	if s := os.Getenv("STREAMBUS_MODEL_SEEDS"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		seeds, first = n, uint64(time.Now().UnixNano())
	}
	cfg := usual
	cfg.MaxSize, cfg.InitialRebalanceDelay, cfg.RetentionCheck = 100, time.Second, 24*time.Hour // a group that is gone begins with generation 1
	counts := map[string]int{}
	for seed := first; seed < first+seeds; seed++ {
		m := &model{bench: newBench(t, cfg), seed: seed, rng: rand.New(rand.NewPCG(seed, 1)), owners: map[string]string{}, counts: map[string]int{}, stays: seed%2 == 0}
		for range 400 {
			m.step()
		}
		if len(m.consumers) == 0 {
			m.consumers = append(m.consumers, &modelConsumer{name: "last"})
		}
		steps := 0
		for ; !m.settled(); steps++ {
			if steps == 5000 {
				for _, c := range m.consumers {
					t.Logf("%+v", *c)
				}
				m.broken("the group does not settle: %+v", m.s.groups["g"])
			}
			m.quiet()
		}
		for what, n := range m.counts {
			counts[what] += n
		}
	}
	t.Log(counts)
	for _, what := range []string{"joins", "assignments", "commits", "kills", "leaves", "failovers"} {
		if counts[what] == 0 {
			t.Errorf("no %s in %d seeds: they show less than it looks like", what, seeds)
		}
	}
}

// quiet is a step in which nobody comes, goes or fails.
func (m *model) quiet() {
	m.pass(200 * time.Millisecond)
	for _, c := range m.consumers {
		m.hear(c)
	}
	for i := 0; i < len(m.consumers); i++ {
		c := m.consumers[i]
		switch {
		case c.gone: // another process has its instance
			m.consumers = append(m.consumers[:i:i], m.consumers[i+1:]...)
			i--
		case c.waits != "":
		case c.id == "" || !c.owns:
			m.joins(c)
		default:
			req := kmsg.NewPtrHeartbeatRequest()
			req.Version, req.Group, req.MemberID, req.InstanceID, req.Generation = 4, "g", c.id, c.instance, c.generation
			m.send(c, "beat", func(token string) Effects { return m.s.Heartbeat(m.now, req, token) })
		}
	}
	if len(m.consumers) == 0 {
		m.consumers = append(m.consumers, &modelConsumer{name: "another"})
	}
}
