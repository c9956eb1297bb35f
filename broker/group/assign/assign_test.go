package assign

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

func id(name string) Topic {
	var t Topic
	copy(t[:], name)
	return t
}

func name(t Topic) string { return strings.TrimRight(string(t[:]), "\x00") }

func subscribed(names string) map[Topic]bool {
	topics := map[Topic]bool{}
	for _, f := range strings.Fields(names) {
		topics[id(f)] = true
	}
	return topics
}

// assigned reads "a:0,1 b:2".
func assigned(text string) Assignment {
	a := Assignment{}
	for _, f := range strings.Fields(text) {
		topic, parts, _ := strings.Cut(f, ":")
		for _, p := range strings.Split(parts, ",") {
			var n int32
			fmt.Sscan(p, &n)
			a[id(topic)] = append(a[id(topic)], n)
		}
	}
	return a
}

func format(a Assignment) string {
	var out []string
	for t, parts := range a {
		text := strings.ReplaceAll(strings.Trim(fmt.Sprint(parts), "[]"), " ", ",")
		out = append(out, name(t)+":"+text)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func formats(all []Assignment) []string {
	var out []string
	for _, a := range all {
		out = append(out, format(a))
	}
	return out
}

func TestRange(t *testing.T) {
	m := func(id, instance, topics, has string) Member {
		return Member{id, instance, subscribed(topics), assigned(has)}
	}
	for _, c := range []struct {
		name       string
		members    []Member
		partitions map[Topic]int32
		want       []string
	}{
		{"nobody", nil, map[Topic]int32{id("a"): 3}, nil},
		{"no topics", []Member{m("1", "", "", "")}, map[Topic]int32{id("a"): 3}, []string{""}},
		{"the first have one more",
			[]Member{m("1", "", "a", ""), m("2", "", "a", ""), m("3", "", "a", "")}, map[Topic]int32{id("a"): 8},
			[]string{"a:0,1,2", "a:3,4,5", "a:6,7"}},
		{"more members than partitions",
			[]Member{m("1", "", "a", ""), m("2", "", "a", ""), m("3", "", "a", "")}, map[Topic]int32{id("a"): 2},
			[]string{"a:0", "a:1", ""}},
		{"topics alike are cut alike",
			[]Member{m("1", "", "a b", ""), m("2", "", "a b", "")}, map[Topic]int32{id("a"): 3, id("b"): 3},
			[]string{"a:0,1 b:0,1", "a:2 b:2"}},
		{"each topic by its own count",
			[]Member{m("1", "", "a b", ""), m("2", "", "a b", "")}, map[Topic]int32{id("a"): 4, id("b"): 1},
			[]string{"a:0,1 b:0", "a:2,3"}},
		{"each topic among its own subscribers, and alike with the same ones",
			[]Member{m("1", "", "a b", ""), m("2", "", "a b c", ""), m("3", "", "c", "")}, map[Topic]int32{id("a"): 3, id("b"): 3, id("c"): 3},
			[]string{"a:0,1 b:0,1", "a:2 b:2 c:0,1", "c:2"}},
		{"by member id, wherever they stand",
			[]Member{m("2", "", "a", ""), m("1", "", "a", "")}, map[Topic]int32{id("a"): 3},
			[]string{"a:2", "a:0,1"}},
		{"static members first, by instance and not by member id",
			[]Member{m("1", "", "a", ""), m("8", "y", "a", ""), m("9", "x", "a", "")}, map[Topic]int32{id("a"): 4},
			[]string{"a:3", "a:2", "a:0,1"}},
		{"what one has now does not count",
			[]Member{m("1", "", "a", "a:2"), m("2", "", "a", "a:0,1")}, map[Topic]int32{id("a"): 3},
			[]string{"a:0,1", "a:2"}},
		{"a topic without partitions",
			[]Member{m("1", "", "a b", "")}, map[Topic]int32{id("a"): 1},
			[]string{"a:0"}},
	} {
		if got := formats(Range(c.members, c.partitions)); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

func TestUniform(t *testing.T) {
	m := func(id, topics, has string) Member {
		return Member{ID: id, Topics: subscribed(topics), Assigned: assigned(has)}
	}
	for _, c := range []struct {
		name       string
		members    []Member
		partitions map[Topic]int32
		want       []string
	}{
		{"nobody", nil, map[Topic]int32{id("a"): 3}, nil},
		{"no topics", []Member{m("1", "", "a:0"), m("2", "", "")}, map[Topic]int32{id("a"): 3}, []string{"", ""}},
		{"over all topics together",
			[]Member{m("1", "a b", ""), m("2", "a b", "")}, map[Topic]int32{id("a"): 3, id("b"): 3},
			[]string{"a:0,2 b:1", "a:1 b:0,2"}},
		{"who has the one more keeps it",
			[]Member{m("1", "a", "a:0"), m("2", "a", "a:1,2")}, map[Topic]int32{id("a"): 3},
			[]string{"a:0", "a:1,2"}},
		{"two say it is theirs",
			[]Member{m("2", "a", "a:0,1"), m("1", "a", "a:1,2")}, map[Topic]int32{id("a"): 3},
			[]string{"a:0", "a:1,2"}},
		{"partitions that are not there",
			[]Member{m("1", "a b", "a:0,7 c:0"), m("2", "a b", "a:-1,1")}, map[Topic]int32{id("a"): 2, id("b"): 2},
			[]string{"a:0 b:0", "a:1 b:1"}},
		{"who left a topic gives it up",
			[]Member{m("1", "a", "a:0 b:0"), m("2", "a b", "")}, map[Topic]int32{id("a"): 2, id("b"): 1},
			[]string{"a:0,1", "b:0"}},
		{"who has no choice comes first",
			[]Member{m("1", "a b", ""), m("2", "b", "")}, map[Topic]int32{id("a"): 2, id("b"): 2},
			[]string{"a:0,1", "b:0,1"}},
		{"out of balance, and only what has to moves",
			[]Member{m("1", "a b", "a:0 b:0,1,2"), m("2", "b", "")}, map[Topic]int32{id("a"): 1, id("b"): 3},
			[]string{"a:0 b:0", "b:1,2"}},
		{"all give to who joins, whatever the order of topics",
			[]Member{m("1", "a b", "a:0,1,2,3,4,5"), m("2", "a b", "b:0,1,2,3,4,5"), m("3", "a b", ""), m("4", "c", "c:0")},
			map[Topic]int32{id("a"): 6, id("b"): 6, id("c"): 1},
			[]string{"a:0,1,2,3", "b:0,1,2,3", "a:4,5 b:4,5", "c:0"}},
		{"what moved already moves again rather than what did not",
			[]Member{m("1", "a c d", "a:3"), m("2", "a", "a:2")}, map[Topic]int32{id("a"): 4, id("c"): 1, id("d"): 1},
			[]string{"a:3 c:0 d:0", "a:0,1,2"}},
	} {
		if got := formats(Uniform(c.members, c.partitions)); !slices.Equal(got, c.want) {
			t.Errorf("%s: got %q, want %q", c.name, got, c.want)
		}
	}
}

// TestFalseIsNotSubscribed: the sets have as many keys, and differ.
func TestFalseIsNotSubscribed(t *testing.T) {
	members := []Member{
		{ID: "1", Topics: map[Topic]bool{id("a"): true, id("b"): false}},
		{ID: "2", Topics: map[Topic]bool{id("a"): true, id("b"): true}},
	}
	partitions := map[Topic]int32{id("a"): 2, id("b"): 2}
	uniform, ranges := []string{"a:0,1", "b:0,1"}, []string{"a:0", "a:1 b:0,1"}
	for range 2 {
		if got := formats(Uniform(members, partitions)); !slices.Equal(got, uniform) {
			t.Errorf("uniform: got %q, want %q", got, uniform)
		}
		if got := formats(Range(members, partitions)); !slices.Equal(got, ranges) {
			t.Errorf("range: got %q, want %q", got, ranges)
		}
		for _, s := range [][]string{uniform, ranges} {
			slices.Reverse(s)
		}
		slices.Reverse(members)
	}
}

// world is a group and topics that change at random.
type world struct {
	*rand.Rand
	members    []Member
	partitions map[Topic]int32
	alike      bool // all subscribe to all topics
	joined     int
}

func (w *world) topics() map[Topic]bool {
	topics := map[Topic]bool{}
	for t := range w.partitions {
		if w.alike || w.IntN(2) == 0 {
			topics[t] = true
		}
	}
	return topics
}

func (w *world) join() {
	w.joined++
	m := Member{ID: fmt.Sprint(w.IntN(1000), "-", w.joined), Topics: w.topics()}
	if w.IntN(4) == 0 {
		m.Instance = fmt.Sprint("i", w.joined)
	}
	w.members = slices.Insert(w.members, w.IntN(len(w.members)+1), m)
}

func (w *world) step() string {
	some := func() Topic {
		all := slices.SortedFunc(maps.Keys(w.partitions), func(a, b Topic) int { return slices.Compare(a[:], b[:]) })
		return all[w.IntN(len(all))]
	}
	switch n := w.IntN(8); {
	case n < 2 || len(w.members) == 0:
		for range 1 + w.IntN(3) {
			w.join()
		}
		return "join"
	case n < 4:
		i := w.IntN(len(w.members))
		w.members = slices.Delete(w.members, i, i+1)
		return "leave"
	case n == 4 || len(w.partitions) == 0:
		t := id(fmt.Sprint("t", w.IntN(1000)))
		w.partitions[t] = w.Int32N(16)
		for i := range w.members {
			if w.alike || w.IntN(2) == 0 {
				w.members[i].Topics[t] = true
			}
		}
		return "new topic"
	case n == 5:
		w.partitions[some()] += w.Int32N(8)
		return "more partitions"
	case n == 6:
		t := some()
		delete(w.partitions, t)
		for i := range w.members {
			delete(w.members[i].Topics, t)
		}
		return "a topic less"
	default:
		w.members[w.IntN(len(w.members))].Topics = w.topics()
		return "subscribe"
	}
}

// churn lets a world change and checks each assignment.
func churn(t *testing.T, assign func([]Member, map[Topic]int32) []Assignment, alike bool, check func(w *world, now []Assignment) error) {
	for seed := range uint64(300) {
		w := &world{Rand: rand.New(rand.NewPCG(seed, 0)), partitions: map[Topic]int32{}, alike: alike}
		for i := range 40 {
			what := w.step()
			now := assign(w.members, w.partitions)
			err := cmpFirst(whole(w, now), orderless(w, assign, now), check(w, now))
			if err != nil {
				t.Fatalf("seed %d, step %d, %s: %v", seed, i, what, err)
			}
			for j := range w.members {
				w.members[j].Assigned = now[j]
			}
		}
	}
}

func cmpFirst(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// whole: each partition that somebody wants has one owner, who wants it.
func whole(w *world, now []Assignment) error {
	if len(now) != len(w.members) {
		return fmt.Errorf("%d assignments of %d members", len(now), len(w.members))
	}
	type slot struct {
		topic string
		p     int32
	}
	owners := map[slot]int{}
	for i, m := range w.members {
		for t, parts := range now[i] {
			if len(parts) == 0 || !slices.IsSorted(parts) || !m.Topics[t] {
				return fmt.Errorf("%s has %v of %s, subscribed %v", m.ID, parts, name(t), m.Topics[t])
			}
			if cap(parts) > len(parts) {
				return fmt.Errorf("%s has %v of %s, and an append to it would write over others", m.ID, parts, name(t))
			}
			for _, p := range parts {
				owners[slot{name(t), p}]++
			}
		}
	}
	want := map[slot]int{}
	for _, m := range w.members {
		for t := range m.Topics {
			for p := range w.partitions[t] {
				want[slot{name(t), p}] = 1
			}
		}
	}
	if !maps.Equal(owners, want) {
		return fmt.Errorf("owners %v, want %v", owners, want)
	}
	return nil
}

func orderless(w *world, assign func([]Member, map[Topic]int32) []Assignment, now []Assignment) error {
	perm := w.Perm(len(now))
	members := make([]Member, len(now))
	for i, p := range perm {
		members[i] = w.members[p]
	}
	again := assign(members, w.partitions)
	for i, p := range perm {
		if !reflect.DeepEqual(again[i], now[p]) {
			return fmt.Errorf("%s has %s, and %s in another order", members[i].ID, format(now[p]), format(again[i]))
		}
	}
	return nil
}

func size(a Assignment) (n int) {
	for _, parts := range a {
		n += len(parts)
	}
	return n
}

// kept is how much of before is in now.
func kept(before, now Assignment) (n int) {
	for t, parts := range before {
		for _, p := range parts {
			if slices.Contains(now[t], p) {
				n++
			}
		}
	}
	return n
}

func again(w *world, now []Assignment) error {
	members := slices.Clone(w.members)
	for i := range members {
		members[i].Assigned = now[i]
	}
	if next := Uniform(members, w.partitions); !reflect.DeepEqual(next, now) {
		return fmt.Errorf("nothing changed, and %q became %q", formats(now), formats(next))
	}
	return nil
}

func TestUniformOfOneSubscription(t *testing.T) {
	churn(t, Uniform, true, func(w *world, now []Assignment) error {
		total := 0
		for _, a := range now {
			total += size(a)
		}
		n := max(len(now), 1)
		each, more := total/n, total%n
		// Members over each+1 lose that, and of those over each only so many keep the
		// one more as there are to have.
		lost, least, over := 0, 0, 0
		for i, m := range w.members {
			if s := size(now[i]); s != each && s != each+1 {
				return fmt.Errorf("%s has %d of %d among %d", m.ID, s, total, n)
			}
			had := 0
			for topic, parts := range m.Assigned {
				for _, p := range parts {
					if p < w.partitions[topic] {
						had++
					}
				}
			}
			lost += had - kept(m.Assigned, now[i])
			least += max(0, had-each-1)
			if had > each {
				over++
			}
		}
		if least += max(0, over-more); lost != least {
			return fmt.Errorf("%d moved where %d do", lost, least)
		}
		return again(w, now)
	})
}

func TestUniformOfManySubscriptions(t *testing.T) {
	churn(t, Uniform, false, func(w *world, now []Assignment) error {
		for i, from := range now {
			for topic := range from {
				for j, to := range now {
					if w.members[j].Topics[topic] && size(from)-size(to) >= 2 {
						return fmt.Errorf("%s has %d, %s has %d and would take one of %s",
							w.members[i].ID, size(from), w.members[j].ID, size(to), name(topic))
					}
				}
			}
		}
		return again(w, now)
	})
}

func TestRangeOfManySubscriptions(t *testing.T) {
	churn(t, Range, false, func(w *world, now []Assignment) error {
		for i := range now {
			for a, parts := range now[i] {
				if int(parts[len(parts)-1]-parts[0]) != len(parts)-1 {
					return fmt.Errorf("%s has %v of %s", w.members[i].ID, parts, name(a))
				}
				for b := range w.partitions {
					if w.partitions[a] == w.partitions[b] && sameSubscribers(w, a, b) && !slices.Equal(parts, now[i][b]) {
						return fmt.Errorf("%s has %v of %s and %v of %s", w.members[i].ID, parts, name(a), now[i][b], name(b))
					}
				}
			}
		}
		return nil
	})
}

func sameSubscribers(w *world, a, b Topic) bool {
	return !slices.ContainsFunc(w.members, func(m Member) bool { return m.Topics[a] != m.Topics[b] })
}

// TestUniformMoves tells in words what the formula of the churn says.
func TestUniformMoves(t *testing.T) {
	partitions := map[Topic]int32{id("a"): 17, id("b"): 5, id("c"): 9}
	var members []Member
	for i := range 7 {
		members = append(members, Member{ID: fmt.Sprint(i), Topics: subscribed("a b c")})
	}
	for i, a := range Uniform(members, partitions) {
		members[i].Assigned = a
	}
	for gone := range members {
		rest := slices.Delete(slices.Clone(members), gone, gone+1)
		for i, a := range Uniform(rest, partitions) {
			if kept(rest[i].Assigned, a) != size(rest[i].Assigned) {
				t.Errorf("%s left, and %s had %s and has %s", members[gone].ID, rest[i].ID, format(rest[i].Assigned), format(a))
			}
		}
	}
	for _, name := range []string{"", "35", "9"} {
		more := append(slices.Clone(members), Member{ID: name, Topics: subscribed("a b c")})
		now := Uniform(more, partitions)
		moved := 0
		for i, m := range more {
			moved += size(m.Assigned) - kept(m.Assigned, now[i])
		}
		if got := size(now[len(members)]); moved != got {
			t.Errorf("%q joined and got %d, and %d moved", name, got, moved)
		}
	}
}

// bench has 1,000 members and 10,000 partitions.
func bench(topics int, subscribes func(m, t int) bool) ([]Member, map[Topic]int32) {
	partitions := map[Topic]int32{}
	members := make([]Member, 1000)
	for m := range members {
		members[m] = Member{ID: fmt.Sprintf("member-%04d", m), Topics: map[Topic]bool{}}
	}
	for t := range topics {
		topic := id(fmt.Sprint("topic", t))
		partitions[topic] = int32(10000 / topics)
		for m := range members {
			if subscribes(m, t) {
				members[m].Topics[topic] = true
			}
		}
	}
	return members, partitions
}

func BenchmarkUniform(b *testing.B) {
	all := func(m, t int) bool { return true }
	for _, c := range []struct {
		name       string
		topics     int
		subscribes func(m, t int) bool
	}{
		{"same/topics=1", 1, all},
		{"same/topics=10", 10, all},
		{"same/topics=1000", 1000, all},
		{"many/topics=10", 10, func(m, t int) bool { return m%10 <= t }},
		{"many/topics=100", 100, func(m, t int) bool { return (m*31+t*17)%7 < 3 }},
		{"many/topics=1000", 1000, func(m, t int) bool { return m != t }},
		{"many/chain", 1000, func(m, t int) bool { return m == t || m == t+1 }},
		{"many/chain of crowds", 100, func(m, t int) bool { return m/10 == t || m/10 == t+1 }},
	} {
		members, partitions := bench(c.topics, c.subscribes)
		run := func(name string, members []Member) {
			b.Run(c.name+"/"+name, func(b *testing.B) {
				for b.Loop() {
					Uniform(members, partitions)
				}
			})
		}
		run("new", members)
		settled := slices.Clone(members)
		for i, a := range Uniform(members, partitions) {
			settled[i].Assigned = a
		}
		run("leave", settled[1:])
		fresh := slices.Clone(settled)
		fresh[500].Assigned = nil
		run("bounce", fresh)
		// All that one can have is with one: most has to move.
		heap := slices.Clone(members)
		taken := map[Topic]bool{}
		for i := range heap {
			heap[i].Assigned = Assignment{}
			for t := range heap[i].Topics {
				if !taken[t] {
					taken[t] = true
					for p := range partitions[t] {
						heap[i].Assigned[t] = append(heap[i].Assigned[t], p)
					}
				}
			}
		}
		run("heap", heap)
	}
}

func BenchmarkRange(b *testing.B) {
	members, partitions := bench(10, func(m, t int) bool { return m%10 <= t })
	for b.Loop() {
		Range(members, partitions)
	}
}
