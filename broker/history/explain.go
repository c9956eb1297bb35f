package history

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// Entry is what one operation changed.
type Entry struct {
	Time    time.Time `json:"time"`  // when this node applied it
	Index   uint64    `json:"index"` // of its unit
	Actor   string    `json:"actor"`
	Cause   string    `json:"cause"`
	Changes []Change  `json:"changes"`
}

// Change is one thing that changed, in words. Topic and Broker say what it is
// about; of a change to the cluster both are missing.
type Change struct {
	Topic     string `json:"topic,omitempty"`
	Partition *int32 `json:"partition,omitempty"` // nil for the whole topic
	Broker    *int32 `json:"broker,omitempty"`
	// Partitions are those of the topic of which the same is said: ten thousand are
	// created at once, on a few sets of brokers. It is how changes are written;
	// Read gives one for each.
	Partitions []int32 `json:"partitions,omitempty"`
	What       string  `json:"what"`
}

// Explain puts a unit into words, given the images before and behind it.
func Explain(now time.Time, before, after *image.Image, records []image.Record) []Entry {
	var entries []Entry
	for _, r := range records {
		if op, ok := r.(*image.OperationRecord); ok {
			entries = append(entries, Entry{Time: now, Index: after.Index(), Actor: op.Actor, Cause: op.Cause})
			continue
		}
		if len(entries) == 0 { // records always stand behind their operation, but in the oldest units
			entries = append(entries, Entry{Time: now, Index: after.Index()})
		}
		e := &entries[len(entries)-1]
		e.Changes = append(e.Changes, explain(before, after, r)...)
	}
	for i := range entries {
		entries[i].Changes = gather(entries[i].Changes)
	}
	return entries
}

// gather says once what is said of several partitions of a topic.
func gather(changes []Change) []Change {
	type said struct{ topic, what string }
	places := map[said]int{}
	gathered := changes[:0]
	for _, c := range changes {
		key := said{c.Topic, c.What}
		at, before := places[key]
		switch {
		case c.Partitions == nil:
			gathered = append(gathered, c)
		case before:
			gathered[at].Partitions = append(gathered[at].Partitions, c.Partitions...)
		default:
			places[key] = len(gathered)
			gathered = append(gathered, c)
		}
	}
	return gathered
}

// each gives a change for every partition of which one is said.
func (c Change) each(yield func(Change) bool) {
	if c.Partitions == nil {
		yield(c)
		return
	}
	for _, i := range c.Partitions {
		if !yield(Change{Topic: c.Topic, Partition: &i, What: c.What}) {
			return
		}
	}
}

func explain(before, after *image.Image, r image.Record) []Change {
	switch r := r.(type) {
	case *image.ClusterRecord:
		return cluster("cluster %s at metadata level %d", r.ClusterID, r.Level)
	case *image.VoterRecord:
		return cluster("node %d is a controller under raft id %d", r.NodeID, r.RaftID)
	case *image.VoterRemovalRecord:
		return cluster("raft id %d is no controller any more", r.RaftID)
	case *image.BrokerRecord:
		state := "ready for partitions"
		if r.Fenced {
			state = "fenced until it has caught up"
		}
		return broker(r.ID, "registered with epoch %d, %s", after.Index(), state)
	case *image.BrokerChangeRecord:
		state := "unfenced"
		switch {
		case r.Fenced:
			state = "fenced"
		case r.InControlledShutdown:
			state = "on its way out"
		}
		return broker(r.ID, "%s", state)
	case *image.BrokerRemovalRecord:
		return broker(r.ID, "unregistered")
	case *image.ELRClearRecord:
		if r.Topic.IsZero() {
			return cluster("eligible replicas of all topics are forgotten, since min.insync.replicas has changed")
		}
		return topic(nameOf(after, r.Topic), "eligible replicas are forgotten, since min.insync.replicas has changed")
	case *image.BrokerConfigsRecord:
		if r.Node == image.EveryBroker {
			return cluster("settings of all brokers: %s", settings(r.Configs))
		}
		return broker(r.Node, "settings: %s", settings(r.Configs))
	case *image.GroupConfigsRecord:
		return cluster("settings of group %s: %s", r.Group, settings(r.Configs))
	case *image.TopicRecord:
		return topic(r.Name, "created with id %s, settings: %s", r.ID, settings(r.Configs))
	case *image.TopicRemovalRecord:
		return topic(nameOf(before, r.Topic), "deleted")
	case *image.TopicConfigsRecord:
		return topic(nameOf(after, r.Topic), "settings: %s", settings(r.Configs))
	case *image.PartitionsRecord:
		name := nameOf(after, r.Topic)
		return append(topic(name, "%d partitions from number %d", len(r.Partitions), r.First), created(name, r)...)
	case *image.PartitionChangeRecord:
		name := nameOf(after, r.Topic)
		old := &image.Partition{Leader: image.NoLeader}
		if t, ok := before.TopicByID(r.Topic); ok {
			if p, ok := t.Partition(r.Index); ok {
				old = p
			}
		}
		return []Change{partition(name, r.Index, difference(old, &r.Partition))}
	case *image.ProducerIDsRecord:
		return cluster("producer ids below %d are handed out", r.Next)
	}
	return cluster("%T", r)
}

// created says where new partitions are, once for each set of brokers: all else
// waits for this, and thousands may come at once.
func created(topic string, r *image.PartitionsRecord) (changes []Change) {
	places := map[string]int{}
	var what []byte
	for i := range r.Partitions {
		p := &r.Partitions[i]
		what = appendIDs(append(what[:0], "created on "...), p.Replicas)
		what = append(append(what, ", led by "...), node(p.Leader)...)
		at, before := places[string(what)]
		if !before {
			at = len(changes)
			places[string(what)] = at
			changes = append(changes, Change{Topic: topic, What: string(what)})
		}
		changes[at].Partitions = append(changes[at].Partitions, r.First+int32(i))
	}
	return changes
}

func cluster(format string, args ...any) []Change {
	return []Change{{What: fmt.Sprintf(format, args...)}}
}

func broker(id int32, format string, args ...any) []Change {
	return []Change{{Broker: &id, What: fmt.Sprintf(format, args...)}}
}

func topic(name, format string, args ...any) []Change {
	return []Change{{Topic: name, What: fmt.Sprintf(format, args...)}}
}

func partition(topic string, index int32, what string) Change {
	return Change{Topic: topic, Partitions: []int32{index}, What: what}
}

func nameOf(img *image.Image, id image.UUID) string {
	if t, ok := img.TopicByID(id); ok {
		return t.Name
	}
	return id.String() // it came and went within the unit
}

// difference says what differs between two states of a partition.
func difference(a, b *image.Partition) string {
	var parts []string
	add := func(what, from, to string) {
		if from != to {
			parts = append(parts, fmt.Sprintf("%s %s, was %s", what, to, from))
		}
	}
	add("leader", node(a.Leader), node(b.Leader))
	add("leader epoch", fmt.Sprint(a.LeaderEpoch), fmt.Sprint(b.LeaderEpoch))
	add("in sync", ids(a.ISR), ids(b.ISR))
	add("eligible", ids(a.ELR), ids(b.ELR))
	add("replicas", ids(a.Replicas), ids(b.Replicas))
	was, is := moving(a), moving(b)
	add("adding", ids(was.Adding), ids(is.Adding))
	add("removing", ids(was.Removing), ids(is.Removing))
	if len(parts) == 0 {
		return fmt.Sprintf("partition epoch %d, was %d", b.PartitionEpoch, a.PartitionEpoch)
	}
	return strings.Join(parts, "; ")
}

func moving(p *image.Partition) image.Reassignment {
	if p.Moving == nil {
		return image.Reassignment{}
	}
	return *p.Moving
}

func node(id int32) string {
	if id == image.NoLeader {
		return "nobody"
	}
	return strconv.Itoa(int(id))
}

func ids(list []int32) string { return string(appendIDs(nil, list)) }

func appendIDs(text []byte, list []int32) []byte {
	if len(list) == 0 {
		return append(text, "none"...)
	}
	for i, id := range list {
		if i > 0 {
			text = append(text, ',')
		}
		text = strconv.AppendInt(text, int64(id), 10)
	}
	return text
}

func settings(list []image.Setting) string {
	if len(list) == 0 {
		return "none"
	}
	var parts []string
	for _, s := range list {
		parts = append(parts, s.Key+"="+s.Value)
	}
	return strings.Join(parts, " ")
}
