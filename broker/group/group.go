package group

import (
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// State of a group.
type State string

// States, by Kafka's names.
const (
	Empty               State = "Empty"
	PreparingRebalance  State = "PreparingRebalance"
	CompletingRebalance State = "CompletingRebalance"
	Stable              State = "Stable"
	Dead                State = "Dead" // what is told of a group that is not there

	// Of the consumer protocol, beside Empty and Stable: the target is not that of the
	// group's epoch yet; members are not where it is.
	Assigning   State = "Assigning"
	Reconciling State = "Reconciling"
)

// Group is one of the classic or the consumer protocol, or one that has committed
// offsets only. Without consumer it is of the classic one, else members is empty.
//
// Invariants: leader is a member or empty; static names members only; who waits for
// the end of a join is a member; unsynced is empty but in CompletingRebalance.
type Group struct {
	id           string
	state        State
	before       State // the state before this one
	generation   int32
	protocolType string
	protocol     *string
	leader       string
	since        int64 // wall time in ms of the state, -1 if it is not known
	stored       bool  // there is a record of it

	members map[string]*member
	order   []string             // member ids, as they joined
	static  map[string]string    // member id by instance id
	pending map[string]time.Time // member ids that were given out and not used yet, until

	// The phase of joining ends at joinUntil. A first one is put off while members come,
	// for at most another joinLeft.
	joinUntil time.Time
	joinLeft  time.Duration
	initial   bool
	came      bool // a member, since joinUntil was set
	syncUntil time.Time
	unsynced  map[string]bool // members of this generation that have not asked for their assignment

	offsets  map[partitionID]offset
	consumer *consumers // of the consumer protocol

	armed time.Time // of the timer that will look at it, zero for none
}

// member is one of a group.
type member struct {
	id         string
	instance   *string
	client     Client
	session    time.Duration
	rebalance  time.Duration
	protocols  []kmsg.JoinGroupRequestProtocol
	assignment []byte
	deadline   time.Time // of its session

	join *joining // it waits for the end of the phase
	sync *syncing // it waits for its assignment
}

// joining is a JoinGroup that waits.
type joining struct {
	token any
	resp  *kmsg.JoinGroupResponse
}

// syncing is a SyncGroup that waits.
type syncing struct {
	token any
	resp  *kmsg.SyncGroupResponse
}

func newGroup(id string) *Group {
	return &Group{
		id: id, state: Empty, before: Empty, since: -1, members: map[string]*member{}, static: map[string]string{}, pending: map[string]time.Time{},
		unsynced: map[string]bool{}, offsets: map[partitionID]offset{},
	}
}

func (g *Group) become(state State, now time.Time) {
	g.before, g.state, g.since = g.state, state, now.UnixMilli()
}

// each goes through the members in the order in which they joined.
func (g *Group) each(do func(*member)) {
	for _, id := range slices.Clone(g.order) {
		if m := g.members[id]; m != nil {
			do(m)
		}
	}
}

func (g *Group) add(m *member) {
	g.members[m.id] = m
	g.order = append(g.order, m.id)
	if m.instance != nil {
		g.static[*m.instance] = m.id
	}
	if g.leader == "" {
		g.leader = m.id
	}
}

func (g *Group) remove(m *member) {
	delete(g.members, m.id)
	delete(g.unsynced, m.id)
	g.order = slices.DeleteFunc(g.order, func(id string) bool { return id == m.id })
	if m.instance != nil && g.static[*m.instance] == m.id {
		delete(g.static, *m.instance)
	}
	if g.leader == m.id {
		g.leader = ""
		if len(g.order) > 0 {
			g.leader = g.order[0]
		}
	}
}

// rename gives a static member that came back its new id.
func (g *Group) rename(m *member, id string) {
	delete(g.members, m.id)
	if g.unsynced[m.id] {
		delete(g.unsynced, m.id)
		g.unsynced[id] = true
	}
	g.order[slices.Index(g.order, m.id)] = id
	if g.leader == m.id {
		g.leader = id
	}
	m.id = id
	g.members[id] = m
	g.static[*m.instance] = id
}

// current is the state that is told of.
func (g *Group) current() State {
	if g.consumer != nil {
		return g.consumer.state()
	}
	return g.state
}

// size is how many members there are.
func (g *Group) size() int {
	if g.consumer != nil {
		return len(g.consumer.members)
	}
	return len(g.members)
}

// vacant tells whether nobody is in the group.
func (g *Group) vacant() bool {
	if g.consumer != nil {
		return len(g.consumer.members) == 0
	}
	return g.state == Empty
}

// canRebalance tells whether a change of the members leads to a rebalance that is not
// under way yet.
func (g *Group) canRebalance() bool {
	return g.state == Stable || g.state == CompletingRebalance || g.state == Empty
}

// joined tells whether everybody there is waits for the end of the phase of joining.
func (g *Group) joined() bool {
	return len(g.pending) == 0 && g.waiting() == len(g.members)
}

func (g *Group) waiting() int {
	n := 0
	for _, m := range g.members {
		if m.join != nil {
			n++
		}
	}
	return n
}

// longest is how long the slowest member may take to join.
func (g *Group) longest() time.Duration {
	var most time.Duration
	for _, m := range g.members {
		most = max(most, m.rebalance)
	}
	return most
}

// supports tells whether somebody with these protocols can be in the group: with one
// at least that all members have.
func (g *Group) supports(protocolType string, protocols []kmsg.JoinGroupRequestProtocol) bool {
	if len(g.members) == 0 {
		return protocolType != "" && len(protocols) > 0
	}
	return protocolType == g.protocolType && slices.ContainsFunc(protocols, func(p kmsg.JoinGroupRequestProtocol) bool {
		for _, m := range g.members {
			if m.metadata(p.Name) == nil {
				return false
			}
		}
		return true
	})
}

// elect is the protocol that most members like best of those that all have; of
// several the one that the first member likes best.
func (g *Group) elect() string {
	votes := map[string]int{}
	var candidates []string
	g.each(func(m *member) {
		for _, p := range m.protocols {
			if !g.supports(g.protocolType, []kmsg.JoinGroupRequestProtocol{p}) {
				continue
			}
			if !slices.Contains(candidates, p.Name) {
				candidates = append(candidates, p.Name)
			}
			votes[p.Name]++
			return
		}
	})
	best := ""
	for _, name := range candidates {
		if best == "" || votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

// electWith is what elect would be if a member had other protocols.
func (g *Group) electWith(m *member, protocols []kmsg.JoinGroupRequestProtocol) string {
	old := m.protocols
	m.protocols = protocols
	defer func() { m.protocols = old }()
	return g.elect()
}

// metadata is what a member says under a protocol, nil if it does not have it.
func (m *member) metadata(protocol string) []byte {
	for _, p := range m.protocols {
		if p.Name == protocol {
			if p.Metadata == nil {
				return []byte{}
			}
			return p.Metadata
		}
	}
	return nil
}

// says tells whether a member's protocols are these.
func (m *member) says(protocols []kmsg.JoinGroupRequestProtocol) bool {
	return slices.EqualFunc(m.protocols, protocols, func(a, b kmsg.JoinGroupRequestProtocol) bool {
		return a.Name == b.Name && slices.Equal(a.Metadata, b.Metadata)
	})
}

// busy tells whether a member's session is kept up by the request that it waits with.
func (m *member) busy() bool { return m.join != nil || m.sync != nil }

// next is the earliest deadline, zero for none.
func (g *Group) next() (at time.Time) {
	earlier := func(t time.Time) {
		if !t.IsZero() && (at.IsZero() || t.Before(at)) {
			at = t
		}
	}
	earlier(g.joinUntil)
	earlier(g.syncUntil)
	for _, t := range g.pending {
		earlier(t)
	}
	for _, m := range g.members {
		if !m.busy() {
			earlier(m.deadline)
		}
	}
	if g.consumer != nil {
		for _, m := range g.consumer.members {
			earlier(m.deadline)
			earlier(m.revokeBy)
			earlier(m.comesBy)
		}
	}
	return at
}
