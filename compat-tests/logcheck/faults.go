package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"time"

	"github.com/streambus/streambus/compat-tests/server"
)

// fault is something that happens to one node, and ends.
type fault struct {
	name string
	do   func(ctx context.Context, f *faults, s *server.Server) error
}

// Those of the network go with no other: a proxy takes connections for a process
// that is gone, which then is not found gone before its session ends.
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
	{"cut", func(ctx context.Context, f *faults, s *server.Server) error {
		var restore []func()
		for i, x := range f.nodes {
			if x != s {
				restore = append(restore, f.links.Cut(f.id(s), i+1), f.links.Cut(i+1, f.id(s)))
			}
		}
		f.pause(ctx, f.between(100*time.Millisecond, 15*time.Second))
		for _, r := range restore {
			r()
		}
		return nil
	}},
	{"one way", func(ctx context.Context, f *faults, s *server.Server) error {
		other := 1 + (f.id(s)+f.rng.IntN(len(f.nodes)-1))%len(f.nodes)
		from, to := f.id(s), other
		if f.rng.IntN(2) == 0 {
			from, to = to, from
		}
		restore := f.links.Cut(from, to)
		f.pause(ctx, f.between(100*time.Millisecond, 15*time.Second))
		restore()
		return nil
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
	{"damage", damage},
	{"full", full},
}

// faultsOf finds faults by their names.
func faultsOf(names []string) (kinds []fault, err error) {
	for _, name := range names {
		i := slices.IndexFunc(allFaults, func(k fault) bool { return k.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no fault %q", name)
		}
		kinds = append(kinds, allFaults[i])
	}
	return kinds, nil
}

// faults breaks one node after the other, never two at once: that would be more than
// what is promised.
type faults struct {
	rng   *rand.Rand
	nodes []*server.Server
	links *server.Links // nil without faults of the network
	topic string
	kinds []fault
	least time.Duration // between the end of one and the next
	most  time.Duration
	gaps  *gaps
	log   func(string)

	count   map[string]int
	longest map[string]time.Duration // without an acknowledgement, by fault
}

func (f *faults) id(s *server.Server) int { return slices.Index(f.nodes, s) + 1 }

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
