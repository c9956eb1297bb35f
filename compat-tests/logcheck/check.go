package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Value is what a record holds: the n-th that a producer sent, counted from 1. No
// two records of a run have the same.
type Value struct {
	Producer int32
	N        int64
}

func (v Value) String() string { return fmt.Sprintf("%d.%d", v.Producer, v.N) }

// Outcome is what a producer was told of a record.
type Outcome uint8

// Outcomes. What is not acknowledged may be in the log, once.
const (
	Unknown Outcome = iota
	Acked
)

// Sent is a record that was given to a client.
type Sent struct {
	Value
	Partition int32
	Outcome   Outcome
	Offset    int64 // as the answer said, with Acked
}

// Read is a record that a consumer got.
type Read struct {
	Value
	Partition int32
	Offset    int64
}

// History is what clients saw of a topic. Sends of a producer are in the order in
// which it gave them to its client, which keeps them in that order (idempotence);
// reads of a consumer are in the order in which it got them, and it was assigned its
// partitions once and for all. The last consumer read everything from the start when
// all faults were over.
type History struct {
	Sends [][]Sent // by producer
	Reads [][]Read // by consumer
}

// Anomalies are what must not be, by the names and definitions of
// jepsen.tests.kafka where it has them. Each is a list of what was seen.
type Anomalies map[string][]string

// kinds are all anomalies that are looked for, and what they are.
var kinds = []struct{ name, what string }{
	{"lost write", "acknowledged, and not there in the end, though what came behind it is"},
	{"unseen", "acknowledged, and read by nobody"},
	{"unexpected value", "read, and sent by nobody"},
	{"duplicate", "at two offsets, with idempotence"},
	{"inconsistent offset", "an offset with two values"},
	{"wrong offset", "acknowledged at another offset than it is at"},
	{"wrong partition", "read in another partition than it was sent to"},
	{"reorder", "a producer's record before one that it sent earlier"},
	{"poll skip", "a consumer passed over an offset that others read"},
	{"nonmonotonic poll", "a consumer went back"},
}

const maxExamples = 10

func (a Anomalies) add(kind, format string, args ...any) {
	if len(a[kind]) < maxExamples {
		a[kind] = append(a[kind], fmt.Sprintf(format, args...))
	}
}

type place struct {
	partition int32
	offset    int64
}

// Check finds what must not be in a history.
func Check(h *History) Anomalies {
	a := Anomalies{}
	sent := map[Value]*Sent{}
	for _, sends := range h.Sends {
		for i := range sends {
			sent[sends[i].Value] = &sends[i]
		}
	}
	log, found := map[place]Value{}, map[Value]place{}
	note := func(at place, v Value, who string) {
		if known, ok := log[at]; ok && known != v {
			a.add("inconsistent offset", "%d-%d is %s and, for %s, %s", at.partition, at.offset, known, who, v)
		} else {
			log[at] = v
		}
		if before, ok := found[v]; ok && before != at {
			a.add("duplicate", "%s is at %d-%d and %d-%d", v, before.partition, before.offset, at.partition, at.offset)
			return
		}
		found[v] = at
	}
	for i, reads := range h.Reads {
		who := fmt.Sprintf("consumer %d", i)
		for _, r := range reads {
			s := sent[r.Value]
			switch {
			case s == nil:
				a.add("unexpected value", "%s at %d-%d, read by %s", r.Value, r.Partition, r.Offset, who)
			case s.Partition != r.Partition:
				a.add("wrong partition", "%s at %d-%d was sent to %d", r.Value, r.Partition, r.Offset, s.Partition)
			}
			note(place{r.Partition, r.Offset}, r.Value, who)
		}
	}
	a.acknowledged(h, log, found)
	a.order(log)
	for i, reads := range h.Reads {
		a.polls(i, reads, log)
	}
	return a
}

// acknowledged holds the answers to producers against what was read.
func (a Anomalies) acknowledged(h *History, log map[place]Value, found map[Value]place) {
	last := map[int32]int64{}
	for at := range log {
		last[at.partition] = max(last[at.partition], at.offset)
	}
	for _, sends := range h.Sends {
		for i := range sends {
			s := &sends[i]
			if s.Outcome != Acked {
				continue
			}
			at, ok := found[s.Value]
			switch {
			case !ok && s.Offset <= last[s.Partition]:
				a.add("lost write", "%s was acknowledged at %d-%d, where %v is", s.Value, s.Partition, s.Offset, log[place{s.Partition, s.Offset}])
			case !ok:
				a.add("unseen", "%s was acknowledged at %d-%d, the last that was read is %d", s.Value, s.Partition, s.Offset, last[s.Partition])
			case at.offset != s.Offset || at.partition != s.Partition:
				a.add("wrong offset", "%s was acknowledged at %d-%d and is at %d-%d", s.Value, s.Partition, s.Offset, at.partition, at.offset)
			}
		}
	}
}

// order looks whether a producer's records are in the order in which it sent them.
func (a Anomalies) order(log map[place]Value) {
	places := make([]place, 0, len(log))
	for at := range log {
		places = append(places, at)
	}
	slices.SortFunc(places, func(x, y place) int {
		return cmp.Or(cmp.Compare(x.partition, y.partition), cmp.Compare(x.offset, y.offset))
	})
	type stream struct{ partition, producer int32 }
	latest := map[stream]Value{}
	for _, at := range places {
		v := log[at]
		if before, ok := latest[stream{at.partition, v.Producer}]; ok && before.N > v.N {
			a.add("reorder", "%s comes before %s in partition %d", before, v, at.partition)
		}
		latest[stream{at.partition, v.Producer}] = v
	}
}

// polls looks at what one consumer got, in its order.
func (a Anomalies) polls(consumer int, reads []Read, log map[place]Value) {
	next := map[int32]int64{}
	for _, r := range reads {
		expected := next[r.Partition]
		switch {
		case r.Offset < expected:
			a.add("nonmonotonic poll", "consumer %d got %d-%d after %d", consumer, r.Partition, r.Offset, expected-1)
		case r.Offset > expected:
			for o := expected; o < r.Offset; o++ {
				if v, ok := log[place{r.Partition, o}]; ok {
					a.add("poll skip", "consumer %d got %d-%d and not %s before it", consumer, r.Partition, r.Offset, v)
				}
			}
		}
		next[r.Partition] = max(expected, r.Offset+1)
	}
}

// String is a line for each anomaly, or none.
func (a Anomalies) String() string {
	var b strings.Builder
	for _, k := range kinds {
		if n := len(a[k.name]); n > 0 {
			fmt.Fprintf(&b, "%s (%s):\n  %s\n", k.name, k.what, strings.Join(a[k.name], "\n  "))
		}
	}
	return b.String()
}
