package image

import (
	"fmt"
	"slices"

	"github.com/benbjohnson/immutable"
)

// builder makes the next image. What it has copied already it changes in place: nobody else has seen it yet.
type builder struct {
	img    *Image
	delta  *Delta
	index  uint64
	topics map[*Topic]bool
	owned  map[treeKey]bool // copied, or new

	touched map[touched]*touch // what flush writes
	recent  [16]recentTouch    // by broker
}

// treeKey names a list in the tree of a topic's partitions: the n-th of a level, where blocks are level 0.
type treeKey struct {
	topic    *Topic
	level, n int32
}

func newBuilder(img *Image, index uint64) *builder {
	return &builder{
		img: img, delta: &Delta{}, index: index,
		topics: map[*Topic]bool{}, owned: map[treeKey]bool{}, touched: map[touched]*touch{},
	}
}

// Apply replays the records of one unit, which stands at index, and returns the next image and what differs. It panics
// where a record does not fit: the writer and this node disagree about the past.
func Apply(img *Image, index uint64, records []Record) (*Image, *Delta) {
	next := *img
	next.index = index
	b := newBuilder(&next, index)
	for _, r := range records {
		r.replay(b)
	}
	b.flush()
	return b.img, b.delta
}

func (b *builder) misfit(r Record, format string, args ...any) {
	panic(fmt.Sprintf("metadata unit %d: %T does not fit the image it is replayed on: %s; this node's metadata has diverged and it must not go on",
		b.index, r, fmt.Sprintf(format, args...)))
}

// topic is a topic ready to be changed, with its slot.
func (b *builder) topic(r Record, id UUID) (*Topic, int32) {
	slot, ok := b.img.topics.byID.Get(id)
	if !ok {
		b.misfit(r, "no topic has id %s", id)
	}
	t := b.img.topics.at(slot)
	if !b.topics[t] {
		c := *t
		c.tree = slices.Clone(c.tree)
		t = &c
		b.topics[t] = true
		b.img.topics.slots = b.img.topics.slots.Set(int(slot), t)
	}
	return t, slot
}

// block is where a topic has block n of its partitions, ready to be changed. It may be the one behind the last.
func (b *builder) block(t *Topic, n int32) *[]Partition {
	return own(b, t, 0, n, own(b, t, 1, n/fanOut, own(b, t, 2, n/(fanOut*fanOut), &t.tree)))
}

// own is where a list of topics' partitions has its part for the n-th list of a level, which is a copy or new.
func own[T any](b *builder, t *Topic, level, n int32, in *[][]T) *[]T {
	at := n
	if level < 2 {
		at %= fanOut
	}
	if int(at) == len(*in) {
		*in = append(*in, nil)
	}
	list := &(*in)[at]
	if k := (treeKey{t, level, n}); !b.owned[k] {
		b.owned[k] = true
		*list = slices.Clone(*list)
	}
	return list
}

func (b *builder) addTopic(t *Topic) (slot int32) {
	slot = b.img.topics.count()
	b.topics[t] = true
	b.place(t, slot)
	return slot
}

func (b *builder) place(t *Topic, slot int32) {
	table := &b.img.topics
	if slot == table.count() {
		table.slots = table.slots.Append(t)
	} else {
		table.slots = table.slots.Set(int(slot), t)
	}
	table.byName = table.byName.Set(t.Name, slot)
	table.byID = table.byID.Set(t.ID, slot)
}

// removeTopic moves the last topic into the slot that falls free: slots stay dense, and the order of topics follows from
// the records alone.
func (b *builder) removeTopic(t *Topic, slot int32) {
	table := &b.img.topics
	last := table.count() - 1
	b.unmarkAll(t, slot)
	if moved := table.at(last); moved != t {
		b.unmarkAll(moved, last)
		for i := range moved.count {
			p, _ := moved.Partition(i)
			b.mark(slot, i, nil, p)
		}
		b.place(moved, slot)
	}
	if table.slots = table.slots.Slice(0, int(last)); last == 0 {
		table.slots = immutable.NewList[*Topic]()
	}
	table.byName = table.byName.Delete(t.Name)
	table.byID = table.byID.Delete(t.ID)
	b.img.partitions -= int(t.count)
	b.delta.removed(t)
}

func (b *builder) unmarkAll(t *Topic, slot int32) {
	for i := range t.count {
		p, _ := t.Partition(i)
		b.mark(slot, i, p, nil)
	}
}

// addPartitions numbers on from those that the topic has.
func (b *builder) addPartitions(t *Topic, slot int32, ps []Partition) {
	b.img.partitions += len(ps)
	for len(ps) > 0 {
		n := min(len(ps), int(blockSize-t.count%blockSize))
		block := b.block(t, t.count/blockSize)
		*block = append(slices.Grow(*block, n), ps[:n]...)
		for i := range ps[:n] {
			b.mark(slot, t.count, nil, &ps[i])
			b.delta.changed(t, t.count)
			t.count++
		}
		ps = ps[n:]
	}
}

// Delta says what differs between an image and the one before it.
type Delta struct {
	// Whole says that the image came as a snapshot: what is not in it is gone, and nobody knows since when.
	Whole bool
	// Removed are the topics that are gone, as they were last.
	Removed []*Topic
	// Settings says that settings of brokers have changed.
	Settings bool

	runs  []run
	moved []moved
}

// moved is a replica that a partition does not have any more.
type moved struct {
	topic  *Topic
	index  int32
	broker int32
}

// run is some partitions of one topic, next to one another.
type run struct {
	topic        *Topic
	first, count int32
}

// Everything is the delta from an unknown image: what follows when a snapshot was loaded.
func Everything(img *Image) *Delta {
	d := &Delta{Whole: true, Settings: true}
	for t := range img.Topics() {
		d.runs = append(d.runs, run{t, 0, t.count})
	}
	return d
}

// WithAll is the delta as if all partitions of its image had changed.
func (d *Delta) WithAll(img *Image) *Delta {
	all := *d
	all.runs = Everything(img).runs
	return &all
}

func (d *Delta) changed(t *Topic, partition int32) {
	if n := len(d.runs); n > 0 && d.runs[n-1].topic == t && d.runs[n-1].first+d.runs[n-1].count == partition {
		d.runs[n-1].count++
		return
	}
	d.runs = append(d.runs, run{t, partition, 1})
}

func (d *Delta) removed(t *Topic) {
	d.runs = slices.DeleteFunc(d.runs, func(r run) bool { return r.topic == t })
	d.moved = slices.DeleteFunc(d.moved, func(m moved) bool { return m.topic == t })
	d.Removed = append(d.Removed, t)
}

// left notes which replicas a change of a partition takes away.
func (d *Delta) left(t *Topic, partition int32, was, is *Partition) {
	for _, id := range was.Replicas {
		if !is.HasReplica(id) {
			d.moved = append(d.moved, moved{t, partition, id})
		}
	}
}

// LocalPartition is a partition that changed, or whose topic did, as it is now.
type LocalPartition struct {
	Topic     *Topic
	Index     int32
	Partition *Partition
}

// LocalChanges are the changed partitions that a broker has to act on.
type LocalChanges struct {
	Leaders   []LocalPartition // led by the broker
	Followers []LocalPartition // replicated by it, led by another or by nobody
	Gone      []LocalPartition // of topics that are still there, replicated by it before and by others now
}

// Local picks what concerns one broker, in one pass over what changed.
func (d *Delta) Local(node int32) LocalChanges {
	var c LocalChanges
	for _, r := range d.runs {
		for i := r.first; i < r.first+r.count; i++ {
			switch p, _ := r.topic.Partition(i); {
			case p.Leader == node:
				c.Leaders = append(c.Leaders, LocalPartition{r.topic, i, p})
			case p.HasReplica(node):
				c.Followers = append(c.Followers, LocalPartition{r.topic, i, p})
			}
		}
	}
	for _, m := range d.moved {
		if p, _ := m.topic.Partition(m.index); m.broker == node && !p.HasReplica(node) {
			c.Gone = append(c.Gone, LocalPartition{m.topic, m.index, p})
		}
	}
	return c
}
