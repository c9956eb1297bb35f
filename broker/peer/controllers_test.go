package peer

import (
	"context"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// quorumOf is a node's way to controllers that the test plays.
func quorumOf(t *testing.T, nodes ...*node) *Controllers {
	c := &Controllers{Node: 4, Incarnation: image.UUID{7}, ClusterID: "c", Dial: generous}
	var all []Address
	for i, n := range nodes {
		all = append(all, Address{Node: int32(i), Addr: n.addr})
	}
	c.Addresses = func() []Address { return all }
	t.Cleanup(c.Close)
	return c
}

// asked is the one request of a Submit that arrived.
func (s started) asked(t *testing.T) control.Request {
	t.Helper()
	var q Submit
	if err := json.Unmarshal([]byte(s.header), &q); err != nil || s.key != protocol.KeySubmit || len(q.Requests) != 1 || q.ClusterID != "c" {
		t.Fatalf("%d %s: %v", s.key, s.header, err)
	}
	r, err := control.DecodeRequest(q.Requests[0])
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func (s started) submitted(t *testing.T, a SubmitAnswer) {
	t.Helper()
	header, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	s.respond(&protocol.Response{Body: protocol.NewNodeRequest(s.key).Answer(header, nil)})
}

func submit(ctx context.Context, c *Controllers) <-chan raftmeta.Outcome {
	out := make(chan raftmeta.Outcome, 1)
	go func() {
		out <- c.Submit(ctx, []control.Request{{Actor: "a", Cause: "b", Awaited: true, Command: &control.DeleteTopic{Name: "t"}}})[0]
	}()
	return out
}

// either is the next request at one of two nodes.
func either(t *testing.T, a, b *node) started {
	t.Helper()
	select {
	case s := <-a.starts:
		return s
	case s := <-b.starts:
		return s
	case <-time.After(patient):
		t.Fatal("nobody is asked")
		panic("not reached")
	}
}

// Whatever happens to a request, it is asked again as the same operation, and the answer that counts is the last.
func TestSubmitAsksAgain(t *testing.T) {
	a, b := startNode(t, protocol.Controllers), startNode(t, protocol.Controllers)
	c := quorumOf(t, a, b)
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	out := submit(ctx, c)

	s := either(t, a, b)
	first := s.asked(t)
	if op := first.Operation; op.Node != 4 || op.Incarnation != (image.UUID{7}) || op.Seq != 1 || op.Done != 1 || !first.Awaited {
		t.Fatalf("%+v", first)
	}
	s.submitted(t, SubmitAnswer{Error: &Failure{Message: "belongs to no cluster yet"}}) // this node is of no use
	s = either(t, a, b)
	s.submitted(t, SubmitAnswer{Outcomes: []Outcome{{Error: NewFailure(raftmeta.ErrNotLeader, 1)}}})
	s = b.next() // it is the one that was named
	s.submitted(t, SubmitAnswer{Outcomes: []Outcome{{Error: NewFailure(raftmeta.ErrUnknown, 1)}}})
	either(t, a, b).respond(&protocol.Response{Close: true}) // and whether it came through is not known
	s = either(t, a, b)
	if again := s.asked(t); again.Operation != first.Operation || *again.Command.(*control.DeleteTopic) != *first.Command.(*control.DeleteTopic) {
		t.Fatalf("asked again as %+v", again)
	}
	reply, err := control.EncodeReply(&control.DeletedTopic{Name: "t"})
	if err != nil {
		t.Fatal(err)
	}
	s.submitted(t, SubmitAnswer{Outcomes: []Outcome{{Index: 9, Reply: reply}}})
	if o := receive(t, out); o.Err != nil || o.Index != 9 || o.Reply.(*control.DeletedTopic).Name != "t" {
		t.Fatalf("%+v", o)
	}

	// A refusal is final, and the next operation says that the first has its answer.
	out = submit(ctx, c)
	s = either(t, a, b)
	if op := s.asked(t).Operation; op.Seq != 2 || op.Done != 2 {
		t.Fatalf("the next operation is %+v", op)
	}
	s.submitted(t, SubmitAnswer{Outcomes: []Outcome{{Error: NewFailure(&control.Refusal{Code: control.UnknownTopic, Message: "no"}, -1)}}})
	o := receive(t, out)
	if r, refused := errors.AsType[*control.Refusal](o.Err); !refused || r.Code != control.UnknownTopic || r.Message != "no" {
		t.Fatalf("%+v", o)
	}
}

// What may have been carried out stays unknown when time is over, and what was handed to nobody surely was not.
func TestSubmitUntilTimeIsOver(t *testing.T) {
	a := startNode(t, protocol.Controllers)
	c := quorumOf(t, a)
	for _, answer := range []struct{ sent, want error }{
		{raftmeta.ErrUnknown, raftmeta.ErrUnknown}, {raftmeta.ErrNotLeader, ErrNoController},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		out := submit(ctx, c)
		a.next().submitted(t, SubmitAnswer{Outcomes: []Outcome{{Error: NewFailure(answer.sent, -1)}}})
		s := a.next()
		cancel()
		s.submitted(t, SubmitAnswer{Outcomes: []Outcome{{Error: NewFailure(raftmeta.ErrNotLeader, -1)}}})
		o := receive(t, out)
		if answer.want == ErrNoController && errors.Is(o.Err, raftmeta.ErrUnknown) {
			continue // it was under way when time was over
		}
		if !errors.Is(o.Err, answer.want) {
			t.Errorf("after %v: %v", answer.sent, o.Err)
		}
	}
}

// A controller that is far away is given the time that it needs, where no other answers sooner.
func TestCurrentFromFarAway(t *testing.T) {
	n := startNode(t, protocol.Controllers)
	c := quorumOf(t, n)
	ctx, cancel := context.WithTimeout(t.Context(), patient)
	defer cancel()
	type current struct {
		index uint64
		err   error
	}
	out := make(chan current, 1)
	go func() {
		index, err := c.Current(ctx)
		out <- current{index, err}
	}()
	for {
		s := receive(t, n.starts)
		var q FetchUnits
		if err := json.Unmarshal([]byte(s.header), &q); err != nil || s.key != protocol.KeyFetchUnits || !q.Current {
			t.Fatalf("%d %s: %v", s.key, s.header, err)
		}
		if q.WaitMs < 200 { // whoever asks is gone before the answer is there
			continue
		}
		header, err := json.Marshal(FetchUnitsAnswer{Index: 7})
		if err != nil {
			t.Fatal(err)
		}
		s.respond(&protocol.Response{Body: protocol.NewNodeRequest(s.key).Answer(header, nil)})
		break
	}
	if got := receive(t, out); got.index != 7 || got.err != nil {
		t.Fatalf("index %d, %v", got.index, got.err)
	}
}
