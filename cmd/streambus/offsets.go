package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"github.com/twmb/franz-go/pkg/kadm"
)

// partitions is a flag that names some partitions of a topic, or all.
type partitions struct {
	all bool
	ids []int32
}

func (p *partitions) Type() string { return "N,...|all" }

func (p *partitions) String() string {
	if p.all {
		return "all"
	}
	return commas(p.ids)
}

func (p *partitions) Set(s string) error {
	p.all = false
	for word := range strings.SplitSeq(s, ",") {
		n, err := strconv.ParseInt(word, 10, 32)
		switch {
		case word == "all":
			p.all = true
		case err != nil || n < 0:
			return fmt.Errorf("must be numbers with commas between them, or all")
		default:
			p.ids = append(p.ids, int32(n))
		}
	}
	return nil
}

// of gives the partitions of a topic that are meant, in order.
func (p *partitions) of(t kadm.TopicDetail) ([]int32, error) {
	all := t.Partitions.Numbers()
	if p.all {
		return all, nil
	}
	for _, id := range p.ids {
		if _, ok := t.Partitions[id]; !ok {
			return nil, fmt.Errorf("topic %s has no partition %d: it has %d, from 0 to %d", t.Topic, id, len(all), len(all)-1)
		}
	}
	some := slices.Clone(p.ids)
	slices.Sort(some)
	return slices.Compact(some), nil
}

// place is a flag that names a place in a partition: "start", "end", an offset
// or a time.
type place struct {
	text string
	kind placeKind
	n    int64 // the offset, how many before the end, or milliseconds
}

type placeKind int

const (
	atNone placeKind = iota
	atStart
	atEnd
	atOffset
	beforeEnd
	atTime
)

const placeHelp = "start, end, an offset, -N for N records before the end, a time as 2006-01-02T15:04:05Z, or a time ago as -1h30m"

func (p *place) Type() string   { return "place" }
func (p *place) String() string { return p.text }

func (p *place) Set(s string) error {
	p.text = s
	n, notNumber := strconv.ParseInt(s, 10, 64)
	t, notTime := time.Parse(time.RFC3339, s)
	ago, notAgo := time.ParseDuration(s)
	switch {
	case s == "start":
		p.kind = atStart
	case s == "end":
		p.kind = atEnd
	case notNumber == nil && n >= 0:
		p.kind, p.n = atOffset, n
	case notNumber == nil && n > math.MinInt64:
		p.kind, p.n = beforeEnd, -n
	case notTime == nil:
		p.kind, p.n = atTime, t.UnixMilli()
	case notAgo == nil && ago < 0:
		p.kind, p.n = atTime, time.Now().Add(ago).UnixMilli()
	default:
		return fmt.Errorf("must be %s", placeHelp)
	}
	if p.kind == atTime && p.n < 0 {
		return fmt.Errorf("is before 1970: there are no records of that time")
	}
	return nil
}

func placeFlag(f *pflag.FlagSet, name, initial, usage string) *place {
	p := &place{}
	if initial != "" {
		if err := p.Set(initial); err != nil {
			panic(err) // a default of ours
		}
	}
	f.Var(p, name, usage)
	return p
}

// bounds are the ends of a partition.
type bounds struct{ start, end int64 }

// ends asks for the ends of every partition of a topic.
func (s *session) ends(ctx context.Context, topic string) (starts, ends kadm.ListedOffsets, err error) {
	if starts, err = s.admin.ListStartOffsets(ctx, topic); err != nil {
		return nil, nil, s.failed("start offsets of topic "+topic, err)
	}
	if ends, err = s.admin.ListEndOffsets(ctx, topic); err != nil {
		return nil, nil, s.failed("end offsets of topic "+topic, err)
	}
	return starts, ends, nil
}

// bounds gives the ends of some partitions, all of which must be known.
func (s *session) bounds(ctx context.Context, topic string, ids []int32) (map[int32]bounds, error) {
	starts, ends, err := s.ends(ctx, topic)
	if err != nil {
		return nil, err
	}
	all := map[int32]bounds{}
	for _, id := range ids {
		start, err := listed(starts, topic, id)
		if err != nil {
			return nil, err
		}
		end, err := listed(ends, topic, id)
		if err != nil {
			return nil, err
		}
		all[id] = bounds{start, end}
	}
	return all, nil
}

func listed(offsets kadm.ListedOffsets, topic string, id int32) (int64, error) {
	o, ok := offsets.Lookup(topic, id)
	switch {
	case !ok:
		return 0, fmt.Errorf("topic %s: the broker tells no offsets of partition %d: ask again", topic, id)
	case o.Err != nil:
		return 0, fmt.Errorf("topic %s: partition %d: %w", topic, id, o.Err)
	}
	return o.Offset, nil
}

// offsets says which offset the place is in each partition. A time is the
// first record that is not older, or the end as it is now.
func (s *session) offsets(ctx context.Context, topic string, p *place, all map[int32]bounds) (map[int32]int64, error) {
	at := map[int32]int64{}
	var times kadm.ListedOffsets
	if p.kind == atTime {
		var err error
		if times, err = s.admin.ListOffsetsAfterMilli(ctx, p.n, topic); err != nil {
			return nil, s.failed("offsets by time of topic "+topic, err)
		}
	}
	for id, b := range all {
		switch p.kind {
		case atStart:
			at[id] = b.start
		case atEnd:
			at[id] = b.end
		case atOffset:
			at[id] = p.n
		case beforeEnd:
			at[id] = max(b.start, b.end-p.n)
		case atTime:
			var err error
			if at[id], err = listed(times, topic, id); err != nil {
				return nil, err
			}
		}
	}
	return at, nil
}
