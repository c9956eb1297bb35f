package group

import (
	"fmt"
	"testing"
	"time"

	"github.com/streambus/streambus/protocol"
)

// appends is a log that is a number, and refuses once what it is told to.
type appends struct {
	end     int64
	refusal *Refusal
}

func (a *appends) log(records []Record) (int64, *Refusal) {
	if r := a.refusal; r != nil {
		a.refusal = nil
		return 0, r
	}
	a.end += int64(len(records))
	return a.end, nil
}

func commits(offset int64) func(*Shard) Effects {
	return func(s *Shard) Effects {
		return s.Commit(time.Unix(0, 0), &Commit{Group: "g", Generation: -1, Keep: -1, Offsets: []CommitOffset{{Topic: "t", Offset: offset}}}, offset)
	}
}

func reads(s *Shard) Effects {
	return s.Offsets(time.Unix(0, 0), "g", false, []Wanted{{"t", []int32{0}}}, "read")
}

func TestTermHoldsAnswers(t *testing.T) {
	now := time.Unix(0, 0)
	log := &appends{end: 5}
	term := NewTerm(3)
	if _, code := term.Step(now, commits(1), log.log); code != protocol.CoordinatorLoadInProgress {
		t.Errorf("before it is loaded a step ends with %s", code)
	}
	if o := term.Loaded(now, New(usual), 5, log.log); len(o.Held) > 0 || !o.Wake.Equal(now.Add(usual.RetentionCheck)) {
		t.Errorf("loaded: %+v", o)
	}
	for _, x := range []struct {
		do   func(*Shard) Effects
		ends []int64
	}{{reads, []int64{5}}, {commits(1), []int64{6}}, {reads, []int64{6}}, {commits(2), []int64{7}}} {
		o, code := term.Step(now, x.do, log.log)
		var ends []int64
		for _, h := range o.Held {
			ends = append(ends, h.End)
		}
		if code != protocol.None || fmt.Sprint(ends) != fmt.Sprint(x.ends) || len(o.Replies) > 0 {
			t.Errorf("answers wait for %v, want %v: %+v, %s", ends, x.ends, o, code)
		}
	}
	log.refusal = &Refusal{Code: protocol.CoordinatorNotAvailable}
	o, _ := term.Step(now, commits(3), log.log)
	if codes := o.Held[0].Replies[0].Body.([]protocol.ErrorCode); o.Held[0].End != 7 || codes[0] != protocol.CoordinatorNotAvailable {
		t.Errorf("refused: %+v", o)
	}
	log.refusal = &Refusal{Code: protocol.NotCoordinator, Unknown: true}
	if o, _ = term.Step(now, commits(4), log.log); len(o.Held) != 1 || o.Held[0].End != 7 {
		t.Errorf("refused, and who knows: %+v", o)
	}
	if _, code := term.Step(now, reads, log.log); code != protocol.NotCoordinator {
		t.Errorf("a step after it: %s", code)
	}
}

// Topics that are deleted while the shard is loaded have no offsets behind it.
func TestTopicsDeletedWhileLoading(t *testing.T) {
	now := time.Unix(0, 0)
	log := &appends{end: 5}
	before := NewTerm(2)
	before.Loaded(now, New(usual), 5, log.log)
	var written []Record
	before.Step(now, commits(1), func(records []Record) (int64, *Refusal) {
		written = append(written, records...)
		return log.log(records)
	})
	shard := New(usual)
	for _, r := range written {
		if err := shard.Replay(r.Key, r.Value); err != nil {
			t.Fatal(err)
		}
	}
	if !shard.groups["g"].has(partitionID{"t", 0}) {
		t.Fatal("nothing was committed")
	}
	term := NewTerm(3)
	if o := term.TopicsDeleted(now, []string{"t"}, log.log); len(o.Held) > 0 || !o.Wake.IsZero() {
		t.Errorf("deleted: %+v", o)
	}
	end := log.end
	if o := term.Loaded(now, shard, end, log.log); o.Wake.IsZero() {
		t.Errorf("loaded: %+v", o)
	}
	if g := shard.groups["g"]; g != nil && g.has(partitionID{"t", 0}) || log.end == end {
		t.Error("the offset is still there")
	}
	term.Step(now, commits(2), log.log)
	if !shard.groups["g"].has(partitionID{"t", 0}) {
		t.Error("the offset of a topic that was made anew is gone")
	}
}

// A term can be over before its shard is loaded, which goes on meanwhile.
func TestTermOverWhileLoading(t *testing.T) {
	now := time.Unix(0, 0)
	log := &appends{}
	term := NewTerm(3)
	if replies := term.Over(now); len(replies) > 0 {
		t.Errorf("somebody waited: %+v", replies)
	}
	if o := term.Loaded(now, New(usual), 5, log.log); len(o.Held) > 0 || !o.Wake.IsZero() {
		t.Errorf("loaded when it is over: %+v", o)
	}
	if _, code := term.Step(now, reads, log.log); code != protocol.NotCoordinator {
		t.Errorf("a step: %s", code)
	}
	for _, x := range []struct {
		epoch       int32
		leads, want bool
	}{{3, true, true}, {3, false, false}, {4, true, false}} {
		if got := term.Lasts(x.epoch, x.leads); got != x.want {
			t.Errorf("epoch %d, leads %v: lasts %v", x.epoch, x.leads, got)
		}
	}
}

// What a shard remembers of deleted topics while it is loaded has a bound.
func TestDeletedWhileLoadingIsBounded(t *testing.T) {
	term := NewTerm(1)
	for range 2 {
		term.TopicsDeleted(time.Time{}, make([]string, maxGone-1), nil)
	}
	if len(term.gone) != maxGone {
		t.Errorf("%d topics are remembered, %d may be", len(term.gone), maxGone)
	}
}
