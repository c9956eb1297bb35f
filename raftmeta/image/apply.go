package image

import (
	"fmt"
	"slices"
)

// builder makes the next image. What it has copied already it changes in place: nobody else has seen it yet.
type builder struct {
	img    *Image
	delta  *Delta
	index  uint64
	own    bool // the list of the table's blocks is a copy
	slots  map[int32]bool
	topics map[*Topic]bool
	blocks map[blockKey]bool
}

type blockKey struct {
	topic *Topic
	block int32
}

func newBuilder(img *Image, index uint64) *builder {
	return &builder{
		img: img, delta: &Delta{}, index: index,
		slots: map[int32]bool{}, topics: map[*Topic]bool{}, blocks: map[blockKey]bool{},
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
	return b.img, b.delta
}

func (b *builder) misfit(r Record, format string, args ...any) {
	panic(fmt.Sprintf("metadata unit %d: %T does not fit the image it is replayed on: %s; this node's metadata has diverged and it must not go on",
		b.index, r, fmt.Sprintf(format, args...)))
}

// topic is a topic ready to be changed.
func (b *builder) topic(r Record, id UUID) *Topic {
	slot, ok := b.img.topics.byID.Get(id)
	if !ok {
		b.misfit(r, "no topic has id %s", id)
	}
	p := &b.slotBlock(slot / fanout)[slot%fanout]
	if !b.topics[*p] {
		c := **p
		c.blocks = slices.Clone(c.blocks)
		b.topics[&c] = true
		*p = &c
	}
	return *p
}

// slotBlock is a block of the table's slots, ready to be changed.
func (b *builder) slotBlock(i int32) *[fanout]*Topic {
	t := &b.img.topics
	if !b.own {
		b.own = true
		t.blocks = slices.Clone(t.blocks)
	}
	if int(i) == len(t.blocks) {
		t.blocks = append(t.blocks, new([fanout]*Topic))
		b.slots[i] = true
	}
	if !b.slots[i] {
		b.slots[i] = true
		c := *t.blocks[i]
		t.blocks[i] = &c
	}
	return t.blocks[i]
}

// block is a block of a topic's partitions, ready to be changed.
func (b *builder) block(t *Topic, i int32) []Partition {
	if k := (blockKey{t, i}); !b.blocks[k] {
		b.blocks[k] = true
		c := make([]Partition, len(t.blocks[i]), min(blockSize, len(t.blocks[i])+1))
		copy(c, t.blocks[i])
		t.blocks[i] = c
	}
	return t.blocks[i]
}

func (b *builder) addTopic(t *Topic) {
	b.topics[t] = true
	b.place(t, b.img.topics.count)
	b.img.topics.count++
}

func (b *builder) place(t *Topic, slot int32) {
	table := &b.img.topics
	b.slotBlock(slot / fanout)[slot%fanout] = t
	table.byName = table.byName.Set(t.Name, slot)
	table.byID = table.byID.Set(t.ID, slot)
}

// removeTopic moves the last topic into the slot that falls free: slots stay dense, and the order of topics follows from
// the records alone.
func (b *builder) removeTopic(t *Topic) {
	table := &b.img.topics
	slot, _ := table.byID.Get(t.ID)
	last := table.count - 1
	moved := table.at(last)
	b.slotBlock(last / fanout)[last%fanout] = nil
	if moved.ID != t.ID {
		b.place(moved, slot)
	}
	table.byName = table.byName.Delete(t.Name)
	table.byID = table.byID.Delete(t.ID)
	table.count--
	if table.count%fanout == 0 {
		table.blocks = table.blocks[:table.count/fanout]
		delete(b.slots, table.count/fanout)
	}
	b.img.partitions -= int(t.count)
	b.delta.removed(t)
}

func (b *builder) addPartition(t *Topic, p Partition) {
	i := t.count / blockSize
	if t.count%blockSize == 0 {
		t.blocks = append(t.blocks, make([]Partition, 0, 1))
		b.blocks[blockKey{t, i}] = true
	}
	t.blocks[i] = append(b.block(t, i), p)
	b.delta.changed(t, t.count)
	t.count++
	b.img.partitions++
}

// Delta says what differs between an image and the one before it.
type Delta struct {
	// Whole says that the image came as a snapshot: what is not in it is gone, and nobody knows since when.
	Whole bool
	// Removed are the topics that are gone, as they were last.
	Removed []*Topic
	// Settings says that settings of brokers have changed.
	Settings bool

	runs []run
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
	d.Removed = append(d.Removed, t)
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
	return c
}
