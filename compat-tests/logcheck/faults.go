package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"syscall"
	"time"

	"github.com/streambus/streambus/compat-tests/server"
)

// fault is something that happens to one node, and ends.
type fault struct {
	name string
	// one says that it takes one node out, which is then given time to come back:
	// two of three at once would be more than what is promised.
	do func(ctx context.Context, f *faults, s *server.Server) error
}

var allFaults = []fault{
	{"kill", func(ctx context.Context, f *faults, s *server.Server) error {
		if err := s.Kill(); err != nil {
			f.note("killing %s: %v", s.Name, err)
		}
		f.pause(ctx, f.between(100*time.Millisecond, 2*time.Second))
		return s.Start(context.WithoutCancel(ctx))
	}},
	{"pause", func(ctx context.Context, f *faults, s *server.Server) error {
		if err := s.Signal(syscall.SIGSTOP); err != nil {
			return err
		}
		f.pause(ctx, f.between(100*time.Millisecond, 12*time.Second))
		return s.Signal(syscall.SIGCONT)
	}},
	{"stop", func(ctx context.Context, f *faults, s *server.Server) error {
		if err := s.Stop(); err != nil {
			return err
		}
		return s.Start(context.WithoutCancel(ctx))
	}},
	{"storm", func(ctx context.Context, f *faults, s *server.Server) error {
		for range 4 {
			if err := s.Kill(); err != nil {
				f.note("killing %s: %v", s.Name, err)
			}
			if err := s.Launch(); err != nil {
				return err
			}
			f.pause(ctx, f.between(0, 300*time.Millisecond))
		}
		if err := s.Kill(); err != nil {
			f.note("killing %s: %v", s.Name, err)
		}
		return s.Start(context.WithoutCancel(ctx))
	}},
}

// faults breaks one node after the other.
type faults struct {
	rng   *rand.Rand
	nodes []*server.Server
	kinds []fault
	least time.Duration // between the end of one and the next
	most  time.Duration
	gaps  *gaps
	log   func(string)

	count   map[string]int
	longest map[string]time.Duration // without an acknowledgement, by fault
}

func (f *faults) note(format string, args ...any) { f.log(fmt.Sprintf(format, args...)) }

func (f *faults) between(least, most time.Duration) time.Duration {
	return least + time.Duration(f.rng.Int64N(int64(most-least)+1))
}

// pause waits, at most until the run is over.
func (f *faults) pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

// run goes on until ctx ends; then all nodes are there.
func (f *faults) run(ctx context.Context) error {
	for {
		f.pause(ctx, f.between(f.least, f.most))
		if ctx.Err() != nil {
			return nil
		}
		s := f.nodes[f.rng.IntN(len(f.nodes))]
		k := f.kinds[f.rng.IntN(len(f.kinds))]
		f.gaps.take(time.Now())
		if err := k.do(ctx, f, s); err != nil {
			return fmt.Errorf("%s of %s: %w", k.name, s.Name, err)
		}
		f.count[k.name]++
		f.pause(ctx, time.Second) // what it cost has ended by then, or is counted with the next
		gap := f.gaps.take(time.Now())
		f.longest[k.name] = max(f.longest[k.name], gap)
		f.note("%s of %s, without an acknowledgement for %s", k.name, s.Name, gap.Round(time.Millisecond))
	}
}
