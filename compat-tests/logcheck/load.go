package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// load is the clients of a run: producers that send at a rate, and consumers that
// read all partitions from the start.
type load struct {
	seeds      []string
	topic      string
	partitions int32
	rate       int  // records a second, of all producers
	killed     bool // nodes are

	sends [][]Sent
	reads [][]Read

	acked  atomic.Int64
	failed atomic.Int64 // records that a client gave up
	gaps   *gaps
	errors errorList
	unread lastError // of a consumer
}

// gaps measures how long nothing was acknowledged, by partition.
type gaps struct {
	mu      sync.Mutex
	last    []time.Time
	longest []time.Duration
	// since is when the measured interval began; times are the gaps since then.
	since time.Time
	worst time.Duration
}

func newGaps(partitions int32, now time.Time) *gaps {
	return &gaps{last: slices.Repeat([]time.Time{now}, int(partitions)), longest: make([]time.Duration, partitions), since: now}
}

func (g *gaps) acked(partition int32, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	gap := now.Sub(g.last[partition])
	g.last[partition] = now
	g.longest[partition] = max(g.longest[partition], gap)
	g.worst = max(g.worst, gap)
}

// take is the longest gap that has ended, or has lasted until now, since the last call.
func (g *gaps) take(now time.Time) time.Duration {
	g.mu.Lock()
	defer g.mu.Unlock()
	worst := g.worst
	for _, last := range g.last {
		worst = max(worst, now.Sub(last))
	}
	g.worst = 0
	return worst
}

// errorList keeps some of the errors that clients were left with.
type errorList struct {
	mu   sync.Mutex
	some []string
}

func (e *errorList) add(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if s := err.Error(); len(e.some) < maxExamples && !slices.Contains(e.some, s) {
		e.some = append(e.some, s)
	}
}

// lastError is the latest of some errors.
type lastError struct {
	mu  sync.Mutex
	err error
}

func (e *lastError) set(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.err = err
}

func (e *lastError) get() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.err
}

// produce sends until ctx ends, and waits for what is under way. Client settings are
// franz-go's defaults, which are idempotent with acks=all and never give up; but for
// a connection that ends before its first answer, which they take for one that wants
// TLS or SASL, and which a process that is killed as it starts gives.
func (l *load) produce(ctx context.Context, id, producers int) error {
	opts := []kgo.Opt{kgo.SeedBrokers(l.seeds...), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(250 * time.Millisecond), kgo.ClientID(fmt.Sprintf("producer-%d", id))}
	if l.killed {
		opts = append(opts, kgo.AlwaysRetryEOF())
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	every := time.Duration(producers) * time.Second / time.Duration(l.rate)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var mu sync.Mutex // guards l.sends[id]
	for n := int64(1); ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			flush, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			return cl.Flush(flush)
		}
		s := Sent{Value: Value{int32(id), n}, Partition: int32(n) % l.partitions, Offset: -1}
		mu.Lock()
		l.sends[id] = append(l.sends[id], s)
		mu.Unlock()
		r := &kgo.Record{Topic: l.topic, Partition: s.Partition, Value: []byte(s.Value.String())}
		cl.Produce(context.Background(), r, func(r *kgo.Record, err error) {
			if err != nil {
				l.failed.Add(1)
				l.errors.add(fmt.Errorf("produce: %w", err))
				return
			}
			l.acked.Add(1)
			l.gaps.acked(r.Partition, time.Now())
			mu.Lock()
			defer mu.Unlock()
			s := &l.sends[id][n-1]
			s.Outcome, s.Offset = Acked, r.Offset
		})
	}
}

// consume reads until stop says that it has everything, or ctx ends.
func (l *load) consume(ctx context.Context, id int, stop func(next map[int32]int64) bool) error {
	from := map[int32]kgo.Offset{}
	for p := range l.partitions {
		from[p] = kgo.NewOffset().At(0)
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.seeds...), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{l.topic: from}),
		kgo.MetadataMinAge(250*time.Millisecond), kgo.ClientID(fmt.Sprintf("consumer-%d", id)), kgo.FetchMaxWait(500*time.Millisecond))
	if err != nil {
		return err
	}
	defer cl.Close()
	next := map[int32]int64{}
	for !stop(next) {
		poll, cancel := context.WithTimeout(ctx, time.Second)
		fetches := cl.PollFetches(poll)
		cancel()
		if ctx.Err() != nil {
			return nil
		}
		fetches.EachRecord(func(r *kgo.Record) {
			v, err := parse(string(r.Value))
			if err != nil {
				l.errors.add(fmt.Errorf("consumer %d, %d-%d: %w", id, r.Partition, r.Offset, err))
				v = Value{-1, r.Offset}
			}
			l.reads[id] = append(l.reads[id], Read{v, r.Partition, r.Offset})
			next[r.Partition] = r.Offset + 1
		})
		fetches.EachError(func(_ string, partition int32, err error) {
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
				l.unread.set(fmt.Errorf("partition %d from offset %d on: %w", partition, next[partition], err))
			}
		})
	}
	return nil
}

func parse(s string) (v Value, err error) {
	producer, n, ok := strings.Cut(s, ".")
	id, err := strconv.ParseInt(producer, 10, 32)
	if err == nil {
		v.N, err = strconv.ParseInt(n, 10, 64)
	}
	if err != nil || !ok {
		return v, fmt.Errorf("%q is nothing that was sent", s)
	}
	v.Producer = int32(id)
	return v, nil
}
