package sim

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/group"
	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch"
)

// groupsTopic holds groups and their offsets.
const groupsTopic = "records.groups"

// commitTimeout is offsets.commit.timeout.ms.
const commitTimeout = 5 * time.Second

var errTimedOut = errors.New("not committed in time")

func (r *replica) holdsGroups() bool { return strings.HasPrefix(r.name, groupsTopic+"-") }

// coordinator has the groups of a partition that a broker leads, for a term.
type coordinator struct {
	b      *broker
	r      *replica
	term   *group.Term
	timers int
	// emptied is the wall time in ms of the last record of a group if nobody is in it, by
	// group, as far as it was written in this term.
	emptied map[string]int64
}

// asked is a request that has come to a coordinator.
type asked struct {
	arrived int64
	end     int64 // of the log then
	epoch   int32 // of the coordinator
	current bool  // nobody else could be the coordinator then
	// incarnation and generation are the newest of the group that was assigned by then.
	incarnation int
	generation  int32
	answer      func(q *asked, body any, code protocol.ErrorCode)
}

// followGroups has coordinators come and go with leadership, a moment behind the
// replicas.
func (b *broker) followGroups() {
	b.coordinators = slices.DeleteFunc(b.coordinators, func(c *coordinator) bool {
		if c.term.Lasts(c.r.part.LeaderEpoch(), c.r.leads() && slices.Contains(b.replicas, c.r)) {
			return false
		}
		b.w.stats["terms of coordinators over"]++
		c.hold(group.Outcome{Replies: c.term.Over(b.clock())})
		return true
	})
	for _, r := range b.replicas {
		if !r.holdsGroups() || !r.leads() || b.coordinator(r.at) != nil {
			continue
		}
		c := &coordinator{b: b, r: r, term: group.NewTerm(r.part.LeaderEpoch()), emptied: map[string]int64{}}
		b.coordinators = append(b.coordinators, c)
		c.load(group.New(b.w.groupConfig()), r.log.StartOffset())
	}
}

func (w *world) groupConfig() group.Config {
	return group.Config{
		InitialRebalanceDelay: 500 * time.Millisecond, MinSession: time.Second, MaxSession: time.Hour, MaxSize: 100, MaxMetadata: 100,
		ConsumerSession: 6 * time.Second, ConsumerMaxSize: 100, Assignors: []string{"uniform", "range"},
		Retention: w.plan.retention, RetentionCheck: time.Second,
	}
}

func (b *broker) coordinator(at place) *coordinator {
	for _, c := range b.coordinators {
		if c.r.at == at {
			return c
		}
	}
	return nil
}

// load reads the log in some steps.
func (c *coordinator) load(shard *group.Shard, at int64) {
	w := c.b.w
	c.b.in(time.Duration(w.members.Int64N(20*ms)), "load groups", func() {
		if c.r.part.CheckLeader(c.term.Epoch()) != nil || !slices.Contains(c.b.coordinators, c) {
			return
		}
		region, err := c.r.log.Read(at, c.r.log.EndOffset(), 1+w.members.Int64N(20_000), true)
		var raw []byte
		if err == nil {
			raw, err = region.Bytes()
		}
		if err == nil {
			err = eachBatch(raw, func(raw []byte, h batch.Header) {
				at = h.LastOffset() + 1
				if err := batch.Contents(raw, h, func(x batch.Content) error {
					c.finds(x, h)
					return shard.Replay(x.Key, x.Value)
				}); err != nil {
					w.broken("%s cannot load %s at %d: %v", c.b.name, c.r.name, h.BaseOffset, err)
				}
			})
		}
		switch {
		case err != nil:
			c.b.trouble(err)
		case len(raw) > 0:
			c.load(shard, at)
		default:
			now := c.b.clock()
			w.stats["groups loaded"]++
			w.tell("%s coordinates %s in epoch %d", c.b.name, c.r.name, c.term.Epoch())
			c.hold(c.term.Loaded(now, shard, at, c.append(now)))
		}
	})
}

// coordinate has a coordinator take a step. Its token is q.
func (b *broker) coordinate(at place, q *asked, do func(core *group.Shard, now time.Time) group.Effects) {
	c := b.coordinator(at)
	if c == nil {
		q.answer(q, nil, protocol.NotCoordinator)
		return
	}
	q.arrived, q.end, q.epoch = b.w.now, c.r.log.EndOffset(), c.term.Epoch()
	q.current = c.current()
	now := b.clock()
	o, code := c.term.Step(now, func(core *group.Shard) group.Effects { return do(core, now) }, c.append(now))
	if code != protocol.None {
		q.answer(q, nil, code)
	}
	c.hold(o)
}

// hold has answers wait for what they rest on.
func (c *coordinator) hold(o group.Outcome) {
	if !c.b.up { // its disk has failed
		return
	}
	for _, h := range o.Held {
		over := false
		done := func(err error) {
			if !over {
				over = true
				c.leave(h.Replies, waitCode(err))
			}
		}
		if err := c.r.part.CheckLeader(c.term.Epoch()); err != nil {
			done(err)
		} else if !c.r.part.Await(h.End, partition.AcksAll, done) {
			done(nil)
		} else {
			c.b.w.stats["answers of coordinators held"]++
			c.b.in(commitTimeout, "commit time-out", func() { done(errTimedOut) })
		}
	}
	c.leave(o.Replies, protocol.NotCoordinator)
	if o.Wake.IsZero() {
		return
	}
	c.timers++
	n := c.timers
	c.b.at(c.b.when(o.Wake), "groups", func() {
		if now := c.b.clock(); c.timers == n {
			o, _ := c.term.Step(now, func(core *group.Shard) group.Effects { return core.Tick(now) }, c.append(now))
			c.hold(o)
		}
	})
}

// leave lets answers go. What they rest on is committed, or they come with an error.
func (c *coordinator) leave(replies []group.Reply, code protocol.ErrorCode) {
	for _, r := range replies {
		q := r.Token.(*asked)
		if hw := c.r.part.HighWatermark(); code == protocol.None && hw < q.end {
			c.b.w.broken("I25: %s answers when %s is acknowledged to %d, and the answer rests on what ended at %d", c.b.name, c.r.name, hw, q.end)
		}
		q.answer(q, r.Body, code)
	}
}

// append is what the term appends with.
func (c *coordinator) append(now time.Time) group.Append {
	return func(records []group.Record) (int64, *group.Refusal) {
		pairs := make([]batch.Pair, len(records))
		for i, r := range records {
			pairs[i] = batch.Pair(r)
		}
		err := c.r.part.CheckLeader(c.term.Epoch())
		var a storage.Appended
		if err == nil {
			a, err = c.r.write(batch.Build(pairs, now.UnixMilli()))
		}
		if err != nil {
			_, failed := errors.AsType[*storage.FailedError](err)
			c.b.w.stats["steps of coordinators refused"]++
			return 0, &group.Refusal{Code: writeCode(err), Unknown: failed}
		}
		for _, r := range records {
			c.look(r, now)
		}
		c.r.grown(a.Last + 1)
		return a.Last + 1, nil
	}
}

// look looks at what a coordinator writes.
func (c *coordinator) look(r group.Record, now time.Time) {
	switch version := binary.BigEndian.Uint16(r.Key); {
	case version < 2 && r.Value == nil:
		var k kmsg.OffsetCommitKey
		if err := k.ReadFrom(r.Key); err != nil {
			c.b.w.broken("%s writes a key: %v", c.b.name, err)
			return
		}
		since, empty := c.emptied[k.Group]
		if !empty {
			since = now.UnixMilli() - c.b.w.plan.retention.Milliseconds()
		}
		c.b.w.group(k.Group).expires(c, k.Partition, now.UnixMilli(), since)
	case version == 2:
		var k kmsg.GroupMetadataKey
		var v kmsg.GroupMetadataValue
		if err := errors.Join(k.ReadFrom(r.Key), v.ReadFrom(r.Value)); r.Value != nil && err != nil {
			c.b.w.broken("%s writes a group: %v", c.b.name, err)
		} else if delete(c.emptied, k.Group); r.Value != nil && len(v.Members) == 0 {
			c.emptied[k.Group] = now.UnixMilli()
		}
	}
}

// current tells whether nobody else can be the coordinator.
func (c *coordinator) current() bool {
	t, _ := c.b.w.oracle.img.Topic(groupsTopic)
	p, _ := t.Partition(c.r.at.index)
	return p.LeaderEpoch == c.term.Epoch()
}

// finds looks at a record that a coordinator begins with.
func (c *coordinator) finds(x batch.Content, h batch.Header) {
	w := c.b.w
	if !c.current() {
		return
	}
	switch version := binary.BigEndian.Uint16(x.Key); version {
	case 2:
		var k kmsg.GroupMetadataKey
		var v kmsg.GroupMetadataValue
		if err := k.ReadFrom(x.Key); err != nil || x.Value != nil && v.ReadFrom(x.Value) != nil {
			return // it will not be loaded
		}
		in := map[string]bool{}
		for _, m := range v.Members {
			in[m.MemberID] = true
		}
		g := w.group(k.Group)
		for _, id := range slices.Sorted(maps.Keys(g.lives)) {
			if !in[id] {
				g.doubts(id, h)
			}
		}
	case 8: // where a member of the consumer protocol is
		name, id := twoTexts(x.Key[2:])
		w.group(name).doubts(id, h)
	}
}

// twoTexts reads two texts behind their lengths.
func twoTexts(b []byte) (first, second string) {
	n := binary.BigEndian.Uint16(b)
	return string(b[2 : 2+n]), string(b[2+n+2:])
}

// writeCode and waitCode are those of the shell.
func writeCode(err error) protocol.ErrorCode {
	if errors.Is(err, partition.ErrNotEnoughReplicas) {
		return protocol.CoordinatorNotAvailable
	}
	return protocol.NotCoordinator
}

func waitCode(err error) protocol.ErrorCode {
	switch {
	case err == nil:
		return protocol.None
	case errors.Is(err, errTimedOut), errors.Is(err, partition.ErrNotEnoughAfter):
		return protocol.CoordinatorNotAvailable
	default:
		return protocol.NotCoordinator
	}
}
