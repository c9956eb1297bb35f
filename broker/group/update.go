package group

import (
	"cmp"
	"encoding/binary"
	"hash/fnv"
	"iter"
	"maps"
	"regexp"
	"slices"
	"time"

	"github.com/streambus/streambus/broker/group/assign"
)

// patternPause is between two looks for new topics that patterns match.
const patternPause = 10 * time.Second

// update is what a heartbeat changes, or a member's end.
type update struct {
	c      *consumers
	id     string // of the group
	member *consumer
	gone   string // a member whose place it takes, "" for none

	patterns    map[string]*pattern
	matched     bool // patterns match something else than before
	epoch       int32
	hash        uint64
	hashed      bool
	targetEpoch int32
	targets     map[string]assign.Assignment // of all members, nil if they stay
	assigned    bool
	upgraded    []Record // of the members that were of the classic protocol
}

// all goes through the members as they will be, by id.
func (u *update) all() []*consumer {
	all := make([]*consumer, 0, len(u.c.members)+1)
	for id, m := range u.c.members {
		if id != u.gone && (u.member == nil || id != u.member.id) {
			all = append(all, m)
		}
	}
	if u.member != nil {
		all = append(all, u.member)
	}
	slices.SortFunc(all, func(a, b *consumer) int { return cmp.Compare(a.id, b.id) })
	return all
}

// match looks which topics patterns match: those of the member now, and of all when
// there may be new topics.
func (u *update) match(now time.Time, md *Metadata, before *consumer) {
	if u.member.regex == nil && len(u.patterns) == 0 {
		return
	}
	used := map[string]bool{}
	changed := !equal(u.member.regex, before.regex)
	if changed || len(u.patterns) > 0 {
		for _, m := range u.all() {
			if m.regex != nil {
				used[*m.regex] = true
			}
		}
	}
	patterns := map[string]*pattern{}
	for regex := range used {
		p := u.patterns[regex]
		if p == nil || uint64(p.version) != md.Index && now.UnixMilli() >= p.at+patternPause.Milliseconds() {
			fresh := &pattern{topics: matching(regex, md), version: int64(md.Index), at: now.UnixMilli()}
			u.matched = u.matched || p == nil || !slices.Equal(p.topics, fresh.topics)
			p = fresh
		}
		patterns[regex] = p
	}
	u.patterns = patterns
}

func matching(regex string, md *Metadata) (topics []string) {
	re, err := regexp.Compile(`^(?:` + regex + `)$`)
	if err != nil { // it was accepted by a coordinator that reads others
		return nil
	}
	for name := range md.Topics {
		if re.MatchString(name) {
			topics = append(topics, name)
		}
	}
	slices.Sort(topics)
	return topics
}

// topicsOf are the topics that a member reads.
func (u *update) topicsOf(m *consumer) iter.Seq[string] { return topicsOf(m, u.patterns) }

func topicsOf(m *consumer, patterns map[string]*pattern) iter.Seq[string] {
	return func(yield func(string) bool) {
		for _, t := range m.topics {
			if !yield(t) {
				return
			}
		}
		if m.regex == nil || patterns[*m.regex] == nil {
			return
		}
		for _, t := range patterns[*m.regex].topics {
			if !yield(t) {
				return
			}
		}
	}
}

// hashTopics is a hash of all topics that members read: it changes when one of them
// comes, goes or grows. It is not Kafka's, which would take the difference for a
// change, once.
func (u *update) hashTopics(md *Metadata) uint64 {
	names := map[string]bool{}
	for _, m := range u.all() {
		for t := range u.topicsOf(m) {
			names[t] = true
		}
	}
	hash := fnv.New64a()
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if t, ok := md.Find(name); ok {
			hash.Write([]byte(name))
			hash.Write(t.ID[:])
			hash.Write(binary.BigEndian.AppendUint32(nil, uint32(t.Partitions)))
		}
	}
	return hash.Sum64()
}

// assign computes the target of all members for the group's epoch.
func (u *update) assign(md *Metadata, assignors []string) {
	all := u.all()
	partitions := map[topicID]int32{}
	ids := map[string]topicID{}
	members := make([]assign.Member, len(all))
	for i, m := range all {
		members[i] = assign.Member{ID: m.id, Topics: map[topicID]bool{}, Assigned: m.target}
		if m.instance != nil {
			members[i].Instance = *m.instance
		}
		for name := range u.topicsOf(m) {
			id, known := ids[name]
			if !known {
				t, ok := md.Find(name)
				if !ok {
					continue
				}
				id = t.ID
				ids[name], partitions[id] = id, t.Partitions
			}
			members[i].Topics[id] = true
		}
	}
	by := assign.Uniform
	if preferred(all, assignors) == rangeAssignor {
		by = assign.Range
	}
	u.targets = map[string]assign.Assignment{}
	for i, target := range by(members, partitions) {
		u.targets[all[i].id] = target
	}
	u.targetEpoch, u.assigned = u.epoch, true
}

// Assignors that there are.
const (
	uniformAssignor = "uniform"
	rangeAssignor   = "range"
)

// preferred is the assignor that most members ask for, or else the first.
func preferred(all []*consumer, assignors []string) string {
	votes := map[string]int{}
	for _, m := range all {
		if m.assignor != nil {
			votes[*m.assignor]++
		}
	}
	best := assignors[0]
	for _, name := range assignors {
		if votes[name] > votes[best] {
			best = name
		}
	}
	return best
}

// prefers tells whether the members will prefer another assignor than before.
func (u *update) prefers(assignors []string) bool {
	return preferred(slices.Collect(maps.Values(u.c.members)), assignors) != preferred(u.all(), assignors)
}

func (u *update) target(m *consumer) assign.Assignment {
	if u.targets != nil {
		return u.targets[m.id]
	}
	return m.target
}

func sameTarget(a, b assign.Assignment) bool { return maps.EqualFunc(a, b, slices.Equal) }

// apply makes the update the group's state.
func (u *update) apply(g *Group, now time.Time, seen uint64) {
	c := u.c
	g.consumer, g.stored = c, true
	g.protocolType = consumerProtocol
	c.epoch, c.hash, c.patterns = u.epoch, u.hash, u.patterns
	if u.hashed {
		c.seen = seen
	}
	if u.gone != "" {
		c.remove(u.gone)
	}
	if u.member != nil {
		c.set(u.member)
	}
	if !u.assigned {
		return
	}
	c.targetEpoch, c.targetAt = u.targetEpoch, now.UnixMilli()
	u.retarget(slices.Collect(maps.Keys(u.targets)))
}

// retarget gives members their new targets.
func (u *update) retarget(ids []string) {
	for _, id := range ids {
		if m := u.c.members[id]; !sameTarget(m.target, u.targets[id]) {
			next := *m
			next.target = u.targets[id]
			u.c.members[id] = &next
		}
	}
}

// ahead are the members whose new targets fill a batch, if those of all are more than
// one has room for: others than the one whom the update is of.
func (u *update) ahead(room int) (ids []string) {
	bytes := 0
	for _, id := range slices.Sorted(maps.Keys(u.targets)) {
		known := u.c.members[id]
		if known == nil || id == u.gone || id == u.member.id || sameTarget(known.target, u.targets[id]) {
			continue
		}
		if bytes > room {
			return ids
		}
		ids = append(ids, id)
		bytes += len(u.id) + len(id) + recordBytes
		for _, indexes := range u.targets[id] {
			bytes += len(topicID{}) + 4*len(indexes) + recordBytes
		}
	}
	return nil
}
