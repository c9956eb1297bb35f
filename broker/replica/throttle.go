package replica

import (
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// Throttle is what this broker's replicas that are not in sync share of the network,
// as followers or as leaders (KIP-73). Those in sync are never throttled: what is
// produced waits for them.
//
// What it holds back is held by whoever asks, a fetcher or a fetch session, for as
// long as Wait says. Whatever else may end that, another rate, other settings of the
// topic or other in-sync replicas, comes as an update of the replica, which tells
// the one and the other to look again.
type Throttle struct {
	limited atomic.Bool // false by default, and then nothing below is looked at

	mu     sync.Mutex // guards the following
	bucket bucket
}

func newThrottle() *Throttle { return &Throttle{bucket: newBucket(unlimited)} }

func (t *Throttle) setRate(now time.Time, rate int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if rate != t.bucket.rate {
		t.bucket.set(now, rate)
		t.limited.Store(rate != unlimited)
	}
}

// Take counts bytes that went through.
func (t *Throttle) Take(now time.Time, bytes int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bucket.take(now, bytes)
}

// Wait is how long nothing further may go through, 0 if it may.
func (t *Throttle) Wait(now time.Time) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bucket.wait(now)
}

func (t *Throttle) state(now time.Time) (rate int64, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bucket.rate, t.bucket.wait(now)
}

// SetRates gives leader.replication.throttled.rate and
// follower.replication.throttled.rate, in bytes a second. It is followed by an Apply
// of everything.
func (m *Manager) SetRates(now time.Time, leader, follower int64) {
	m.throttles[leading].setRate(now, leader)
	m.throttles[following].setRate(now, follower)
}

// side is what a replica is while it is throttled.
type side int

const (
	leading side = iota
	following
	sides
)

// throttled are the partitions of a topic that have a replica on this broker to be
// throttled.
type throttled struct {
	all   bool
	these []int32 // in order
}

// throttledAt reads a list of partition:broker, or "*" (see image.TopicKeys). As in
// Apache Kafka the broker is the one that throttles: on the leader's side the leader,
// whoever follows.
func throttledAt(list string, broker int32) (t throttled) {
	for _, item := range image.Items(list) {
		if item == "*" {
			t.all = true
			continue
		}
		partition, at, _ := strings.Cut(item, ":")
		p, err := strconv.ParseInt(partition, 10, 32)
		if b, other := strconv.ParseInt(at, 10, 32); err == nil && other == nil && int32(b) == broker {
			t.these = append(t.these, int32(p))
		}
	}
	slices.Sort(t.these)
	return t
}

func (t *throttled) has(partition int32) bool {
	if t.all {
		return true
	}
	_, there := slices.BinarySearch(t.these, partition)
	return there
}

// Throttles is what bounds that a follower is given, nil for nothing.
func (r *Replica) Throttles(follower int32) *Throttle { return r.throttle(leading, follower) }

// throttled is what bounds that this follower asks for, nil for nothing.
func (r *Replica) throttled() *Throttle { return r.throttle(following, r.m.cfg.NodeID) }

func (r *Replica) throttle(as side, follower int32) *Throttle {
	t := r.m.throttles[as]
	if !t.limited.Load() {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.set.throttled[as].has(r.key.partition) || r.part.InSync(follower) {
		return nil
	}
	return t
}

// easeOff has those who read to the log's end look whether they are throttled still.
// r.mu is held.
func (r *Replica) easeOff(before *throttled) {
	if before.has(r.key.partition) || r.set.throttled[leading].has(r.key.partition) {
		r.grown()
	}
}
