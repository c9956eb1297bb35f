package raftmeta

import (
	"context"
	"fmt"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/quorum"
)

// token leads an answer back to its Submit.
type token struct {
	answers chan<- numbered // has room for every request of the Submit
	n       int
}

type numbered struct {
	n int
	o Outcome
}

// answer hands out answers that need not wait for anybody.
func (c *Controller) answer(answers []quorum.Answer) {
	for _, a := range answers {
		o := Outcome{a.Index, a.Reply, a.Err}
		switch t := a.Token.(type) {
		case token:
			t.answers <- numbered{t.n, o}
		case reader:
			t <- o
		}
	}
}

// Submit hands requests to the controller, to be decided in their order, and returns when the outcome of each is applied
// here, and where it is awaited at every broker, or not known. When ctx ends first, the outcome of those that are not
// answered is unknown.
func (c *Controller) Submit(ctx context.Context, requests ...control.Request) []Outcome {
	outcomes := make([]Outcome, len(requests))
	for i := range outcomes {
		outcomes[i].Err = ErrUnknown
	}
	answers := make(chan numbered, len(requests))
	err := c.do(ctx, func() {
		if ctx.Err() != nil { // whoever asked has given up, and may have asked another
			return
		}
		for i := range requests {
			c.answer(c.office.Enqueue(time.Now(), quorum.Proposal{Token: token{answers, i}, Request: requests[i]}))
		}
	})
	if err != nil {
		for i := range outcomes {
			outcomes[i].Err = fmt.Errorf("%w: %w", ErrNotLeader, err) // it was not handed over
		}
		return outcomes
	}
	for range requests {
		select {
		case a := <-answers:
			outcomes[a.n] = a.o
		case <-ctx.Done():
			return withCause(outcomes, ctx)
		case <-c.stopped:
			select { // the loop answered before it stopped
			case a := <-answers:
				outcomes[a.n] = a.o
			default:
				return outcomes
			}
		}
	}
	return outcomes
}

// withCause says why outcomes are unknown.
func withCause(outcomes []Outcome, ctx context.Context) []Outcome {
	for i := range outcomes {
		if outcomes[i].Err == ErrUnknown {
			outcomes[i].Err = fmt.Errorf("%w: %w", ErrUnknown, context.Cause(ctx))
		}
	}
	return outcomes
}
