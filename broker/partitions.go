package broker

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/raftmeta/image"
)

// maxStates bounds the partitions of an answer: with three replicas they are some
// 1.5 MB.
const maxStates = 1000

// Partitions is what /partition answers: what this node knows of partitions that it
// has a replica of.
type Partitions struct {
	Node int32     `json:"node"`
	Time time.Time `json:"time"`
	// LastFlush is how long the last flush of the data directory took, in
	// milliseconds, 0 for none yet: no replica here is quicker.
	LastFlush  float64         `json:"lastFlushMs"`
	Followers  []Heard         `json:"followers"` // of the partitions that this node leads
	Partitions []replica.State `json:"partitions"`
	LeftOut    int             `json:"leftOut"` // partitions with a replica here that would be too many
}

// Heard is when a broker that follows this one asked last, whatever partitions the
// request named: one in which nothing has happened is not named again.
type Heard struct {
	Node int32     `json:"node"`
	Last time.Time `json:"last"`
}

// answerPartition writes Partitions as JSON: of topic, and of partition if it is
// given.
func (b *Broker) answerPartition(w http.ResponseWriter, r *http.Request) {
	q, err := question(r.URL.Query())
	if err == nil && q.Topic == "" {
		err = errors.New("say which topic, as /partition?topic=T&partition=N, or without partition for all that have a replica here")
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	a, err := b.partitions(q.Topic, q.Partition)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(a); err != nil {
		b.log.Debug("an answer about partitions did not leave", "error", err)
	}
}

// partitions tells of one partition of a topic, or of all that have a replica here.
func (b *Broker) partitions(topic string, partition *int32) (Partitions, error) {
	me := b.cfg.NodeID()
	a := Partitions{Node: me, Time: time.Now(), LastFlush: float64(b.replicas.LastFlush()) / float64(time.Millisecond), Followers: []Heard{}}
	if !b.cfg.IsBroker() {
		return a, fmt.Errorf("node %d is no broker: it has no replicas", me)
	}
	t, ok := b.view.Image().Topic(topic)
	if !ok {
		return a, fmt.Errorf("topic %s does not exist, as far as node %d knows", topic, me)
	}
	first, end := int32(0), t.NumPartitions()
	if partition != nil {
		if *partition < 0 || *partition >= end {
			return a, fmt.Errorf("topic %s has no partition %d: it has %d, from 0 to %d", topic, *partition, end, end-1)
		}
		first, end = *partition, *partition+1
	}
	for i := first; i < end; i++ {
		p, _ := t.Partition(i)
		r, err := b.replicas.Find(t.ID, i)
		switch {
		case err != nil && partition != nil:
			return a, elsewhere(me, t, i, p)
		case err != nil:
		case len(a.Partitions) == maxStates:
			a.LeftOut++
		default:
			a.Partitions = append(a.Partitions, r.State(a.Time))
		}
	}
	if len(a.Partitions) == 0 {
		return a, fmt.Errorf("node %d has no replica of topic %s", me, topic)
	}
	a.Followers = b.heard(a.Partitions)
	return a, nil
}

// elsewhere says who can be asked about a partition.
func elsewhere(me int32, t *image.Topic, i int32, p *image.Partition) error {
	if p.Leader == image.NoLeader {
		return fmt.Errorf("node %d has no replica of %s-%d: nobody leads it, the replicas are on %v", me, t.Name, i, p.Replicas)
	}
	return fmt.Errorf("node %d has no replica of %s-%d: node %d leads it, the replicas are on %v", me, t.Name, i, p.Leader, p.Replicas)
}

// heard tells of those who follow one of the partitions.
func (b *Broker) heard(partitions []replica.State) []Heard {
	all := []Heard{}
	for i := range partitions {
		for _, f := range partitions[i].Followers {
			if slices.ContainsFunc(all, func(h Heard) bool { return h.Node == f.ID }) {
				continue
			}
			if last := b.fetcher.LastFetch(f.ID); !last.IsZero() {
				all = append(all, Heard{f.ID, last})
			}
		}
	}
	return all
}
