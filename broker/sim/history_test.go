package sim

import (
	"fmt"
	"math"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/streambus/streambus/raftmeta/control"
)

// maxUnknown bounds the operations of one topic whose outcome nobody knows: each
// doubles what the checker has to look at.
const maxUnknown = 10

// topicState is a topic as its clients can tell.
type topicState struct {
	there bool
	count int32
}

// topicModel is what operations on one topic may come to, one after the other.
var topicModel = porcupine.Model{
	Init: func() any { return topicState{} },
	Step: func(state, input, _ any) (bool, any) {
		s, o := state.(topicState), input.(*op)
		did := func(next topicState) (bool, any) { return true, next }
		switch {
		case o.kind == "read":
			same := o.readFound == s.there
			if same && s.there {
				same = o.read.NumPartitions() == s.count
			}
			return same, s
		case o.outcome == refused:
			return refusable(s, o), s
		case o.outcome == unknown && !applicable(s, o):
			return did(s) // it comes to nothing, whether it is carried out or not
		case !applicable(s, o):
			return false, s
		case o.kind == "delete":
			return did(topicState{})
		default:
			return did(topicState{true, o.count})
		}
	},
	Equal: func(a, b any) bool { return a == b },
	DescribeOperation: func(input, _ any) string {
		o := input.(*op)
		return fmt.Sprintf("%s: %d", o, o.outcome)
	},
}

// applicable tells whether an operation can succeed in a state.
func applicable(s topicState, o *op) bool {
	switch o.kind {
	case "delete":
		return s.there
	case "partitions":
		return s.there && o.count > s.count
	default:
		return !s.there
	}
}

// refusable tells whether an operation can be refused for the reason it was.
func refusable(s topicState, o *op) bool {
	switch o.refusal.Code {
	case control.TopicExists:
		return s.there
	case control.UnknownTopic:
		return !s.there
	case control.InvalidPartitions:
		return s.there && o.count <= s.count
	case control.ReassignmentInProgress: // which is not part of the model
		return s.there && o.count > s.count
	default:
		return true // not because of the topic
	}
}

// histories checks what clients saw of each topic against one that does one thing
// after the other.
func (w *world) histories() {
	byName := map[string][]porcupine.Operation{}
	unknowns := map[string]int{}
	var names []string
	for _, o := range w.oracle.order {
		if o.name == "" || o.outcome == unknown && o.kind == "read" || o.outcome == pending {
			continue
		}
		if byName[o.name] == nil {
			names = append(names, o.name)
		}
		p := porcupine.Operation{ClientId: int(o.id.Node), Input: o, Call: o.called, Return: o.ended}
		if o.kind == "read" {
			w.stats["reads"]++
		}
		if o.outcome == unknown {
			if len(w.oracle.applied[opID{o.id.Node, o.id.Incarnation, o.id.Seq}]) == 0 && o.over(w) {
				continue // it never was, and nobody will carry it out now
			}
			p.Return = math.MaxInt64
			unknowns[o.name]++
		}
		byName[o.name] = append(byName[o.name], p)
	}
	for _, name := range names {
		if unknowns[name] > maxUnknown {
			w.stats["histories with too many unknown outcomes"]++
			continue
		}
		switch porcupine.CheckOperationsTimeout(topicModel, byName[name], 20*time.Second) {
		case porcupine.Illegal:
			for _, p := range byName[name] {
				o := p.Input.(*op)
				w.tell("%.4f-%.4f %s: outcome %d %v, read %v", float64(p.Call)/1e9, float64(p.Return)/1e9, o, o.outcome, o.refusal, o.readFound)
			}
			w.broken("what clients saw of topic %s follows from no order of their operations", name)
		case porcupine.Unknown:
			w.broken("the history of topic %s takes too long to check: the load is wrong", name)
		default:
			w.stats["histories checked"]++
			w.stats["operations in histories"] += len(byName[name])
		}
	}
}

// over tells whether nothing of an operation is under way any more.
func (o *op) over(w *world) bool { return w.now > o.ended+10*sec }

// The checker can tell: one stale read, or one change that both of two clients
// made, and the history is refused.
func TestHistoriesThatCannotBe(t *testing.T) {
	at := func(from, to int64, o op) porcupine.Operation {
		return porcupine.Operation{Input: &o, Call: from, Return: to}
	}
	create := op{kind: "create", count: 3, outcome: success}
	exists := op{kind: "create", count: 3, outcome: refused, refusal: &control.Refusal{Code: control.TopicExists}}
	lost := op{kind: "delete", outcome: unknown}
	nothing := op{kind: "read", outcome: success}
	for _, c := range []struct {
		what    string
		history []porcupine.Operation
		want    bool
	}{
		{"one after the other", []porcupine.Operation{at(0, 1, nothing), at(2, 3, create), at(4, 5, exists)}, true},
		{"a stale read", []porcupine.Operation{at(0, 1, create), at(2, 3, nothing)}, false},
		{"a read beside", []porcupine.Operation{at(0, 3, create), at(1, 2, nothing)}, true},
		{"created twice", []porcupine.Operation{at(0, 2, create), at(1, 3, create)}, false},
		{"refused for no reason", []porcupine.Operation{at(0, 1, exists), at(2, 3, create)}, false},
		{"perhaps deleted", []porcupine.Operation{at(0, 1, create), at(2, math.MaxInt64, lost), at(4, 5, create)}, true},
		{"perhaps not deleted", []porcupine.Operation{at(0, 1, create), at(2, math.MaxInt64, lost), at(4, 5, exists)}, true},
	} {
		if got := porcupine.CheckOperations(topicModel, c.history); got != c.want {
			t.Errorf("%s: %v", c.what, got)
		}
	}
}
