// Package group coordinates the members of consumer groups and keeps their
// committed offsets. A Shard is the groups of one partition of __consumer_offsets.
//
// It is a pure core. What it decides that has to outlive its broker it gives as
// records; what it answers leaves when everything that was appended so far is
// committed, so that no failover takes back what somebody was told.
//
// # No rollback
//
// A step looks at the state and returns the records of what is to change. Its owner
// appends them as one batch and calls Appended, which changes the state, or Refused,
// which has the requests answered with an error: nothing has changed then. Between
// the step and either of them there is no other step.
//
// # Two protocols
//
// By the classic protocol members meet in rounds, and one of them says who gets what
// (classic.go). By the consumer protocol (KIP-848) each member is told what it is to
// have with its own heartbeats, and has given up what others get before they get it
// (heartbeat.go, reconcile.go). A group changes from one to the other while members are
// in it (migrate.go). Offsets are kept the same way for both.
//
// The rules of the classic protocol are those of Kafka's ClassicGroup.java and
// GroupMetadataManager.java.
package group

import (
	"container/heap"
	"slices"
	"time"

	"github.com/streambus/streambus/protocol"
)

// Config is what shards are told once.
type Config struct {
	InitialRebalanceDelay time.Duration // group.initial.rebalance.delay.ms
	MinSession            time.Duration // group.min.session.timeout.ms
	MaxSession            time.Duration // group.max.session.timeout.ms
	MaxSize               int           // group.max.size
	ConsumerSession       time.Duration // group.consumer.session.timeout.ms, at a load
	ConsumerMaxSize       int           // group.consumer.max.size
	Assignors             []string      // group.consumer.assignors, the default first
	Upgrades, Downgrades  bool          // group.consumer.migration.policy
	MaxMetadata           int           // offset.metadata.max.bytes
	Retention             time.Duration // offsets.retention.minutes
	RetentionCheck        time.Duration // offsets.retention.check.interval.ms
}

// Record is one for the shard's partition. A nil value is a tombstone.
type Record struct{ Key, Value []byte }

// Reply is the answer to the request that came with a token. Bodies are what the
// method names that took the request.
type Reply struct {
	Token any
	Body  any
}

// Effects is what the owner does. With records, Appended or Refused is called next.
type Effects struct {
	Records []Record
	Replies []Reply
	Wake    time.Time // when Tick is to be called, zero for never
}

// Client is who asks.
type Client struct {
	ID, Host string
	// Unique is a random text, by which a member can be told from all others.
	Unique string
}

// Shard is the groups of a partition. Its owner's lock guards it.
type Shard struct {
	cfg     Config
	groups  map[string]*Group
	md      *Metadata // nil if nobody has told
	timers  timers
	check   time.Time // of the retention, next
	replies []Reply   // of the step under way
	records []Record
	then    []func()                   // what the records come to
	refused []func(protocol.ErrorCode) // or the refusal of them

	completed int64 // rebalances, see Completed

	batchBytes int // what a batch takes, about, of what can go in several
}

// batchBytes is half of max.message.bytes at its default: a larger batch is refused.
const batchBytes = 512 << 10

// New makes a shard that knows nothing. It learns by Replay, and serves from
// Loaded on.
func New(cfg Config) *Shard {
	return &Shard{cfg: cfg, groups: map[string]*Group{}, batchBytes: batchBytes}
}

// Loaded ends the replay: who is a member has a session from now on.
func (s *Shard) Loaded(now time.Time) Effects {
	s.check = now.Add(s.cfg.RetentionCheck)
	for _, id := range s.ids() {
		g := s.groups[id]
		for _, m := range g.members {
			m.deadline = now.Add(m.session)
		}
		if g.consumer != nil {
			g.consumer.loaded(now, s.cfg.ConsumerSession)
		}
		s.arm(g)
	}
	return s.effects(now)
}

// Tick is called when it is time, and perhaps before. The Wake of its Effects is not
// after now if there is more to do.
func (s *Shard) Tick(now time.Time) Effects {
	for len(s.records) == 0 && len(s.timers) > 0 && !s.timers[0].at.After(now) {
		t := heap.Pop(&s.timers).(timer)
		g := t.group
		if s.groups[g.id] != g || !g.armed.Equal(t.at) {
			continue
		}
		g.armed = time.Time{}
		if g.consumer != nil {
			s.expireConsumers(g, now)
		} else {
			s.expireOne(g, now)
		}
		s.arm(g)
	}
	if len(s.records) == 0 && !s.check.IsZero() && !now.Before(s.check) {
		s.check = now.Add(s.cfg.RetentionCheck)
		s.retain(now)
	}
	return s.effects(now)
}

// Appended says that the records of the last Effects are in the log.
func (s *Shard) Appended(now time.Time) Effects {
	then := s.then
	s.records, s.then, s.refused = nil, nil, nil
	for _, do := range then {
		do()
	}
	return s.effects(now)
}

// Refused says that they are not, and why: nothing of them is.
func (s *Shard) Refused(now time.Time, code protocol.ErrorCode) Effects {
	refused := s.refused
	s.records, s.then, s.refused = nil, nil, nil
	for _, do := range refused {
		do(code)
	}
	return s.effects(now)
}

// write adds records to the step. then changes the state once they are in the log;
// refused answers if they are not.
func (s *Shard) write(records []Record, then func(), refused func(protocol.ErrorCode)) {
	if len(records) == 0 {
		then()
		return
	}
	s.records = append(s.records, records...)
	s.then, s.refused = append(s.then, then), append(s.refused, refused)
}

func (s *Shard) reply(token, body any) {
	if token != nil {
		s.replies = append(s.replies, Reply{token, body})
	}
}

func (s *Shard) effects(now time.Time) Effects {
	e := Effects{Records: s.records, Replies: s.replies, Wake: s.check}
	s.replies = nil
	if len(s.timers) > 0 && (e.Wake.IsZero() || s.timers[0].at.Before(e.Wake)) {
		e.Wake = s.timers[0].at
	}
	return e
}

// arm sees to it that Tick looks at a group when the first of its deadlines is over.
// A deadline that was moved later is found out then.
func (s *Shard) arm(g *Group) {
	at := g.next()
	if at.IsZero() || !g.armed.IsZero() && !at.Before(g.armed) {
		return
	}
	g.armed = at
	heap.Push(&s.timers, timer{at, g})
}

// group finds one that may have to be made.
func (s *Shard) group(id string, make bool) *Group {
	g := s.groups[id]
	if g == nil && make {
		g = newGroup(id)
		s.groups[id] = g
	}
	return g
}

// forget drops a group of which nothing is left.
func (s *Shard) forget(g *Group) {
	if g.vacant() && len(g.offsets) == 0 && len(g.pending) == 0 && !g.stored {
		delete(s.groups, g.id)
	}
}

func (s *Shard) ids() []string {
	ids := make([]string, 0, len(s.groups))
	for id := range s.groups {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

type timer struct {
	at    time.Time
	group *Group
}

type timers []timer

func (t timers) Len() int           { return len(t) }
func (t timers) Less(i, j int) bool { return t[i].at.Before(t[j].at) }
func (t timers) Swap(i, j int)      { t[i], t[j] = t[j], t[i] }
func (t *timers) Push(x any)        { *t = append(*t, x.(timer)) }
func (t *timers) Pop() any {
	last := len(*t) - 1
	x := (*t)[last]
	(*t)[last] = timer{}
	*t = (*t)[:last]
	return x
}
