package sim

import (
	"fmt"
	"time"

	"github.com/streambus/streambus/storage/batch"
)

// groupTruth is what members of a group have been told:
//
//	I22  an offset that was acknowledged or shown is shown until one is committed after
//	     it; it expires only where the group was without members for the retention
//	I23  generations do not go back: who is in an older one than was assigned is told so,
//	     and commits nothing any more
//	I24  a partition has one owner in a generation, and while a member has one that it
//	     did not give up, no other gets it
//	I25  an answer leaves when everything is committed that was in the log when it was
//	     asked for
//
// A coordinator that was deposed and does not know it may show what was, as in Apache
// Kafka: what such a one says, but for what it acknowledges, counts for nothing. And
// who joined there may bring the shares of those that it met there to the successor,
// where a generation with the same number has other members: what they own is not known
// to who shared.
//
// A sign of life is in no log. So the end of a session that one coordinator has written
// and no other has heard of may come true after all, when its broker leads again: the
// coordinator between them has taken signs of life meanwhile.
type groupTruth struct {
	w           *world
	index       int
	name        string
	session     int64
	rebalance   int64
	cooperative bool
	modern      bool // of the consumer protocol, in which generations are each member's
	joined      int

	incarnation int
	generation  int32 // the newest that was assigned
	since       int64 // when that was said first
	owners      map[ownership]owner
	stray       map[int32]bool // generations whose shares are perhaps of another one
	lives       map[string]*life
	instances   map[string]string // their members
	resumed     int32             // generation in which one of them began anew
	deleted     int64             // when a coordinator was last asked to, -1 if it never was
	inhabited   int64             // since then somebody has been a member at any time, for certain
	parts       [consumedPartitions]committedPart
}

type ownership struct {
	generation int32
	partition  int32
}

type owner struct {
	member string
	told   int64
}

// life is for how long somebody is a member for certain: no session and no rebalance
// that begins behind a sign of life ends before until, when it may have ended.
type life struct {
	until int64
	left  bool
	epoch int32 // of the newest coordinator that has acknowledged a sign of it
	end   int64 // up to where that one's log was known to others
}

// commit is one that came to a coordinator, or of offset -1 what was expired by then.
type commit struct {
	by         *consumer
	offset     int64
	generation int32
	arrived    int64
	written    int64 // wall time in ms
}

type committedPart struct {
	floor   *commit // the newest that was acknowledged or shown
	last    *commit // that arrived
	commits map[int64]*commit
}

func newGroupTruth(w *world, index int) *groupTruth {
	g := &groupTruth{
		w: w, index: index, name: fmt.Sprint("group", index), session: 2*sec + w.members.Int64N(4*sec), rebalance: 3*sec + w.members.Int64N(5*sec),
		cooperative: w.members.IntN(2) == 0, modern: w.members.IntN(3) == 0, owners: map[ownership]owner{}, stray: map[int32]bool{}, lives: map[string]*life{}, instances: map[string]string{}, deleted: -1, resumed: -1,
	}
	for i := range g.parts {
		g.parts[i].commits = map[int64]*commit{}
	}
	return g
}

// commitVersion is that of the OffsetCommit that members send.
func (g *groupTruth) commitVersion() int16 {
	if g.modern {
		return 9
	}
	return 8
}

func (w *world) group(name string) *groupTruth {
	for _, g := range w.groups {
		if g.name == name {
			return g
		}
	}
	w.broken("nobody is in group %q", name)
	return nil
}

// alive takes a sign of life that a coordinator has acknowledged.
func (g *groupTruth) alive(q *asked, id string) {
	l := g.life(id)
	if !q.current || l.left {
		return
	}
	if g.until() <= q.arrived {
		g.inhabited = q.arrived
	}
	l.until = max(l.until, q.arrived+min(g.session, g.rebalance)*9/10) // by a clock that is too fast
	l.epoch, l.end = max(l.epoch, q.epoch), max(l.end, q.end)
}

// doubts is told of a batch in a coordinator's log by which a member is not what it was.
// Who acknowledged its signs of life knew of that, unless it came from an older coordinator
// and lies behind what they had in common.
func (g *groupTruth) doubts(id string, h batch.Header) {
	if l := g.lives[id]; l != nil && h.LeaderEpoch < l.epoch && h.LastOffset() >= l.end && l.until > g.w.now {
		g.w.stats["ends of sessions that came true later"]++
		l.until = g.w.now
	}
}

func (g *groupTruth) life(id string) *life {
	if g.lives[id] == nil {
		g.lives[id] = &life{}
	}
	return g.lives[id]
}

func (g *groupTruth) leaves(id string) {
	l := g.life(id)
	l.until, l.left = min(l.until, g.w.now), true
}

// begins is told of a process that takes the place of another, if there is one.
func (g *groupTruth) begins(instance string) { g.leaves(g.instances[instance]) }

// deletes is told of a delete that a coordinator is asked for.
func (g *groupTruth) deletes(q *asked) *commit {
	g.deleted = q.arrived
	return &commit{offset: -1, arrived: q.arrived}
}

// isDeleted looks at one that is acknowledged.
func (g *groupTruth) isDeleted(q *asked, x *commit) {
	g.w.stats["groups deleted"]++
	if q.current && !g.wasEmpty(q.arrived, q.arrived) {
		g.w.broken("I22: %s was deleted, and somebody was in it", g.name)
	}
	for i := range g.parts {
		if p := &g.parts[i]; p.floor == nil || p.floor.arrived < x.arrived {
			p.floor = x
		}
	}
}

// until is up to when somebody is a member for certain.
func (g *groupTruth) until() (t int64) {
	for _, l := range g.lives {
		t = max(t, l.until)
	}
	return t
}

// wasEmpty tells whether it can be that nobody was a member at some time between two.
func (g *groupTruth) wasEmpty(from, to int64) bool { return from < g.inhabited || g.until() <= to }

// toldGeneration looks at a generation in which somebody has been told that it is a
// member, or that its commit was accepted. A group of which nothing was left begins with the first one.
func (g *groupTruth) toldGeneration(q *asked, id string, generation int32) {
	if g.modern || !q.current || q.incarnation != g.incarnation || generation >= q.generation {
		return
	}
	if !g.wasEmpty(g.since, q.arrived) {
		g.w.broken("I23: %s is in generation %d of %s, and generation %d was assigned", id, generation, g.name, q.generation)
		return
	}
	g.beginAnew(generation)
}

func (g *groupTruth) beginAnew(generation int32) {
	g.w.stats["groups begun anew"]++
	g.incarnation++
	g.generation, g.since = generation, g.w.now
	clear(g.owners)
	clear(g.stray)
}

// strays is told of shares of members that joined elsewhere.
func (g *groupTruth) strays(generation int32) {
	g.w.stats["shares of members that joined elsewhere"]++
	g.stray[generation] = true
}

// assigned looks at what a member of a generation is told that it has.
func (g *groupTruth) assigned(q *asked, c *consumer, is stamp, owns []int32) {
	id, generation := is.owner(), is.generation
	g.toldGeneration(q, id, generation)
	if !q.current || q.incarnation != g.incarnation {
		return
	}
	if generation > g.generation {
		g.w.tell("generation %d of %s", generation, g.name)
		g.generation, g.since = generation, g.w.now
	}
	for _, p := range owns {
		other, ok := g.owners[ownership{generation, p}]
		switch {
		case ok && other.member == id:
		case ok && !g.wasEmpty(other.told, q.arrived):
			g.w.broken("I24: %s and %s both have partition %d of %s in generation %d", other.member, id, p, g.name, generation)
		case ok:
			g.beginAnew(generation)
		}
		g.owners[ownership{generation, p}] = owner{id, g.w.now}
		for _, x := range g.w.consumers {
			if x.group != g || x == c {
				continue
			}
			other := x.member.stamp()
			if other.owner() == id || !x.has(p) {
				continue
			}
			if l := g.lives[other.id]; l != nil && l.until > g.w.now && !g.stray[generation] {
				g.w.broken("I24: %s gets partition %d of %s in generation %d, and %s has not given up what it got until generation %d", id, p, g.name, generation, other.id, other.generation)
			}
			x.lost = append(x.lost, p)
		}
	}
}

// commits is told of a commit when it comes to a coordinator that can look at it.
func (g *groupTruth) commits(q *asked, index int32, x *commit, now time.Time) {
	p := &g.parts[index]
	x.arrived, x.written = q.arrived, now.UnixMilli()
	p.commits[x.offset], p.last = x, x
}

// refused is told of a commit that is in no log.
func (g *groupTruth) refused(index int32, x *commit) { delete(g.parts[index].commits, x.offset) }

// committed looks at a commit that is acknowledged.
func (g *groupTruth) committed(q *asked, index int32, x *commit) {
	g.w.stats["offsets committed"]++
	p := &g.parts[index]
	g.toldGeneration(q, x.by.name, x.generation)
	if p.floor == nil || p.floor.arrived < x.arrived {
		p.floor = x
	}
}

// shown looks at an offset that a coordinator shows, of a partition whose newest one
// that was acknowledged was before when it was asked.
func (g *groupTruth) shown(q *asked, index int, offset int64, before *commit) {
	w, p := g.w, &g.parts[index]
	if !q.current {
		w.stats["offsets that a deposed coordinator shows"]++
		return
	}
	w.stats["offsets shown"]++
	if before == nil {
		before = &commit{offset: -1}
	}
	x := p.commits[offset]
	switch {
	case offset < 0 && before.offset < 0:
		return
	case offset < 0:
		if reason := g.lasts(before, q.arrived); reason != "" {
			w.broken("I22: partition %d of %s has no offset, where %d was acknowledged: %s", index, g.name, before.offset, reason)
			return
		}
		w.stats["offsets shown to be expired"]++
		x = &commit{offset: -1, arrived: q.arrived}
	case x == nil:
		w.broken("I22: partition %d of %s has offset %d, which nobody committed", index, g.name, offset)
		return
	case x.arrived < before.arrived:
		w.broken("I22: partition %d of %s has offset %d, and %d was acknowledged", index, g.name, offset, before.offset)
		return
	}
	if p.floor == nil || p.floor.arrived < x.arrived {
		p.floor = x
	}
}

// lasts is why an offset cannot have expired.
func (g *groupTruth) lasts(x *commit, to int64) string {
	switch {
	case g.deleted >= x.arrived:
	case !g.wasEmpty(x.arrived, to):
		return "somebody has been a member since"
	case g.w.plan.retention > time.Hour && !g.w.plan.jumps:
		return "not so much time has passed"
	}
	return ""
}

// expires looks at an offset that a coordinator is about to give up, by its wall time in
// a group without members since.
func (g *groupTruth) expires(c *coordinator, index int32, now, since int64) {
	p := &g.parts[index]
	if !c.current() {
		return
	}
	g.w.stats["offsets expired"]++
	if p.floor == nil || p.floor.offset < 0 || g.deleted == g.w.now {
		return
	}
	reason := g.lasts(p.floor, g.w.now)
	if p.floor == p.last {
		since = max(since, p.floor.written)
	}
	if rest := since + g.w.plan.retention.Milliseconds() - now; reason == "" && rest > 0 {
		reason = fmt.Sprintf("it is to be kept for another %d ms", rest)
	}
	if reason != "" {
		g.w.broken("I22: %s gives up offset %d for partition %d of %s: %s", c.b.name, p.floor.offset, index, g.name, reason)
	}
}

// settledGroups looks at all groups once nothing happens any more.
func (w *world) settledGroups() {
	for _, g := range w.groups {
		owners := map[int32]string{}
		generation := int32(-1)
		for _, c := range w.consumers {
			if c.group != g {
				continue
			}
			is := c.member.stamp()
			id, in := is.owner(), is.generation
			if generation == -1 {
				generation = in
			}
			if in != generation || in < 0 {
				w.broken("I10: healed, and %s is in generation %d of %s, another in %d", c.name, in, g.name, generation)
			}
			if len(c.owns) > 0 && c.kept < w.now-20*sec {
				w.broken("I10: healed, and no commit of %s was accepted since %.1f s", c.name, float64(c.kept)/1e9)
			}
			for _, p := range c.owns {
				if other, ok := owners[p]; ok {
					w.broken("I24: healed, and %s and %s have partition %d of %s", other, id, p, g.name)
				}
				owners[p] = id
			}
		}
		// Who begins anew in the same generation does not know what was given up for others
		// before, and as in Apache Kafka nobody joins again for that.
		if len(owners) != consumedPartitions && !(g.cooperative && g.resumed == generation) {
			w.broken("I10: healed, and the members of %s have %d of %d partitions", g.name, len(owners), consumedPartitions)
		}
		w.stats["groups settled"]++
	}
}
