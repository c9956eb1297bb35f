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
	topics map[int32]bool
	blocks map[blockKey]bool
}

type blockKey struct{ slot, block int32 }

// Apply replays the records of one unit, which stands at index, and returns the next image and what differs. It panics
// where a record does not fit: the writer and this node disagree about the past.
func Apply(img *Image, index uint64, records []Record) (*Image, *Delta) {
	next := *img
	next.index = index
	b := &builder{
		img: &next, delta: &Delta{img: &next}, index: index,
		slots: map[int32]bool{}, topics: map[int32]bool{}, blocks: map[blockKey]bool{},
	}
	for _, r := range records {
		r.replay(b)
	}
	return b.img, b.delta
}

func (b *builder) misfit(r Record, format string, args ...any) {
	panic(fmt.Sprintf("metadata unit %d: %T does not fit the image it is replayed on: %s; this node's metadata has diverged and it must not go on",
		b.index, r, fmt.Sprintf(format, args...)))
}

// topic is the topic in a slot, ready to be changed.
func (b *builder) topic(slot int32) *Topic {
	p := b.slotBlock(slot / fanout)
	if !b.topics[slot] {
		b.topics[slot] = true
		c := *p[slot%fanout]
		c.blocks = slices.Clone(c.blocks)
		p[slot%fanout] = &c
	}
	return p[slot%fanout]
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
	if k := (blockKey{t.slot, i}); !b.blocks[k] {
		b.blocks[k] = true
		c := make([]Partition, len(t.blocks[i]), min(blockSize, len(t.blocks[i])+1))
		copy(c, t.blocks[i])
		t.blocks[i] = c
	}
	return t.blocks[i]
}

func (b *builder) addTopic(t *Topic) {
	table := &b.img.topics
	t.slot = table.count
	b.slotBlock(t.slot / fanout)[t.slot%fanout] = t
	b.topics[t.slot] = true
	table.byName = table.byName.Set(t.Name, t.slot)
	table.byID = table.byID.Set(t.ID, t.slot)
	table.count++
}

func (b *builder) addPartition(t *Topic, p Partition) {
	i := t.count / blockSize
	if t.count%blockSize == 0 {
		t.blocks = append(t.blocks, make([]Partition, 0, 1))
		b.blocks[blockKey{t.slot, i}] = true
	}
	t.blocks[i] = append(b.block(t, i), p)
	b.delta.changed(t.slot, t.count)
	t.count++
	b.img.partitions++
}

// Delta says what differs between an image and the one before it.
type Delta struct {
	img  *Image
	runs []run
}

// run is some partitions of one topic, next to one another.
type run struct{ slot, first, count int32 }

// Everything is the delta from the empty image: what follows when a snapshot was loaded.
func Everything(img *Image) *Delta {
	d := &Delta{img: img}
	for t := range img.Topics() {
		d.runs = append(d.runs, run{t.slot, 0, t.count})
	}
	return d
}

func (d *Delta) changed(slot, partition int32) {
	if n := len(d.runs); n > 0 && d.runs[n-1].slot == slot && d.runs[n-1].first+d.runs[n-1].count == partition {
		d.runs[n-1].count++
		return
	}
	d.runs = append(d.runs, run{slot, partition, 1})
}

// LocalPartition is a partition that changed, as it is now.
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
		t := d.img.topics.at(r.slot)
		for i := r.first; i < r.first+r.count; i++ {
			switch p, _ := t.Partition(i); {
			case p.Leader == node:
				c.Leaders = append(c.Leaders, LocalPartition{t, i, p})
			case p.HasReplica(node):
				c.Followers = append(c.Followers, LocalPartition{t, i, p})
			}
		}
	}
	return c
}
