package replica

import (
	"fmt"
	"strings"
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/image"
)

// State is all that this broker knows of a partition that it has a replica of.
type State struct {
	Topic          string  `json:"topic"`
	Partition      int32   `json:"partition"`
	Leader         int32   `json:"leader"` // -1 for nobody
	LeaderEpoch    int32   `json:"leaderEpoch"`
	PartitionEpoch int32   `json:"partitionEpoch"`
	Replicas       []int32 `json:"replicas"`
	ISR            []int32 `json:"isr"`
	PendingISR     []int32 `json:"pendingIsr,omitempty"` // that the leader has asked the controllers for
	MinISR         int     `json:"minInsyncReplicas"`
	// The ends are those of this replica.
	HighWatermark int64  `json:"highWatermark"`
	LogStart      int64  `json:"logStart"`
	LogEnd        int64  `json:"logEnd"`
	FlushedEnd    int64  `json:"flushedEnd"`
	Bytes         int64  `json:"bytes"`
	Segments      int    `json:"segments"`
	Error         string `json:"error,omitempty"` // why nothing can be read or written here

	Followers []partition.FollowerState `json:"followers,omitempty"` // where this broker leads
	Following *Following                `json:"following,omitempty"` // where it does not
	Throttled []Throttled               `json:"throttled,omitempty"` // by this broker: of the followers, or this one
}

// Throttled is a replica that is not in sync, and copies no faster than all those that
// are throttled on the same side of this broker may together (KIP-73).
type Throttled struct {
	ID   int32   `json:"id"`
	Rate int64   `json:"bytesPerSecond"`
	Wait float64 `json:"waitMs"` // until something may go through again, 0 for now; an hour is that or longer
}

// Following is how a follower gets its records. Times and UnderWay are those of the
// connection to the leader, which all partitions share that it leads.
type Following struct {
	Connected time.Time `json:"connected,omitzero"` // since when; zero for not
	Answered  time.Time `json:"answered,omitzero"`  // the last time
	UnderWay  int       `json:"underWay"`           // fetches
	Lag       int64     `json:"lag"`                // records that the leader said are acknowledged, and are not here
	Waits     string    `json:"waits"`              // what it waits for
	Error     string    `json:"error,omitempty"`    // why there is no connection, or this partition is not followed
}

// State tells what is known of the partition.
func (r *Replica) State(now time.Time) State {
	img := r.m.image.Load()
	s := State{Topic: r.name[:strings.LastIndexByte(r.name, '-')], Partition: r.key.partition, Leader: image.NoLeader}
	status := r.Status()
	s.MinISR, s.HighWatermark, s.LogStart, s.LogEnd, s.Bytes, s.Segments = status.MinISR, status.HighWatermark, status.Start, status.End, status.Bytes, status.Segments
	if status.Err != nil {
		s.Error = status.Err.Error()
		s.assigned(img, r.key)
		return s
	}
	r.mu.Lock()
	s.Leader, s.LeaderEpoch, s.PartitionEpoch = r.part.Leader(), r.part.LeaderEpoch(), r.part.PartitionEpoch()
	s.Replicas, s.ISR, s.PendingISR = r.part.Replicas(), r.part.ISR(), r.part.PendingISR()
	s.HighWatermark, s.LogEnd, s.FlushedEnd = r.part.HighWatermark(), r.log.EndOffset(), r.part.FlushedEnd()
	leads := s.Leader == r.m.cfg.NodeID
	if leads {
		s.Followers = r.part.Followers(now, func(id int32, epoch int64) string { return missing(img, id, epoch) })
	} else {
		s.Following = &Following{Lag: r.part.Lag(), Waits: r.part.Waits()}
	}
	r.mu.Unlock()
	s.throttled(r, now)
	if src := r.source.Load(); src != nil && !leads {
		src.describe(s.Following, now)
	}
	return s
}

// throttled tells who is throttled here, and has a follower wait for that.
func (s *State) throttled(r *Replica, now time.Time) {
	note := func(id int32, t *Throttle) {
		if t == nil {
			return
		}
		rate, wait := t.state(now)
		s.Throttled = append(s.Throttled, Throttled{id, rate, float64(wait) / float64(time.Millisecond)})
		if s.Following != nil && wait > 0 {
			s.Following.Waits = "its throttle to let more through"
		}
	}
	if s.Following != nil {
		note(r.m.cfg.NodeID, r.throttled())
		return
	}
	for i := range s.Followers {
		id := s.Followers[i].ID
		note(id, r.Throttles(id))
	}
}

// assigned is what the image has, for a replica that cannot be used and so is told
// nothing.
func (s *State) assigned(img *image.Image, k key) {
	t, ok := img.TopicByID(k.topic)
	if !ok {
		return
	}
	if p, ok := t.Partition(k.partition); ok {
		s.Leader, s.LeaderEpoch, s.PartitionEpoch, s.Replicas, s.ISR = p.Leader, p.LeaderEpoch, p.PartitionEpoch, p.Replicas, p.ISR
	}
}

// missing says why mayBeInSync does not hold, and nothing if it does. Epoch -1 is
// any incarnation.
func missing(img *image.Image, id int32, epoch int64) string {
	b, ok := img.Broker(id)
	switch {
	case !ok:
		return "not registered"
	case b.Fenced:
		return "fenced"
	case b.InControlledShutdown:
		return "shutting down"
	case epoch >= 0 && b.Epoch != epoch:
		return "started anew, and it has not fetched since"
	}
	return ""
}

// describe says how the connection is. What the replica waits for is there already,
// as far as the connection is not the reason.
func (s *source) describe(d *Following, now time.Time) {
	f := s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	d.Connected, d.Answered, d.UnderWay = f.connected, f.answered, f.underWay
	silent := now.Sub(f.answered)
	switch {
	case f.connected.IsZero():
		d.Waits = fmt.Sprintf("a connection to node %d", f.leader)
		if f.failure != nil {
			d.Error = f.failure.Error()
		}
	case s.trouble != nil:
		d.Waits, d.Error = fmt.Sprintf("to ask node %d again after an error", f.leader), s.trouble.Error()
	case f.underWay > 0 && silent > f.m.cfg.FetchWait+answerGrace:
		d.Waits = fmt.Sprintf("an answer of node %d, which has said nothing for %s", f.leader, silent.Round(time.Millisecond))
	}
}

// answerGrace is how much longer than it was asked to wait a leader may take before
// that is what a follower waits for.
const answerGrace = time.Second
