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
	blocks map[blockKey]bool

	touched map[touched]*touch // what flush writes
	recent  [8]recentTouch     // by broker
}

// blockKey names a block of a topic's partitions, or with -1-n its page n.
type blockKey struct {
	topic *Topic
	block int32
}

func newBuilder(img *Image, index uint64) *builder {
	return &builder{
		img: img, delta: &Delta{}, index: index,
		topics: map[*Topic]bool{}, blocks: map[blockKey]bool{}, touched: map[touched]*touch{},
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
		c.pages = slices.Clone(c.pages)
		t = &c
		b.topics[t] = true
		b.img.topics.slots = b.img.topics.slots.Set(int(slot), t)
	}
	return t, slot
}

// block is where a topic has a block of partitions, ready to be changed. The block may be the one behind the last.
func (b *builder) block(t *Topic, i int32) *[]Partition {
	n := i / pageSize
	if int(n) == len(t.pages) {
		t.pages = append(t.pages, nil)
	}
	page := &t.pages[n]
	if k := (blockKey{t, -1 - n}); !b.blocks[k] {
		b.blocks[k] = true
		*page = slices.Clone(*page)
	}
	if int(i%pageSize) == len(*page) {
		*page = append(*page, nil)
	}
	block := &(*page)[i%pageSize]
	if k := (blockKey{t, i}); !b.blocks[k] {
		b.blocks[k] = true
		c := make([]Partition, len(*block), min(blockSize, len(*block)+1))
		copy(c, *block)
		*block = c
	}
	return block
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
	b.markAll(t, slot, false)
	if moved := table.at(last); moved != t {
		b.markAll(moved, last, false)
		b.markAll(moved, slot, true)
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

func (b *builder) markAll(t *Topic, slot int32, on bool) {
	for i := range t.count {
		p, _ := t.Partition(i)
		b.mark(slot, i, p, on)
	}
}

func (b *builder) addPartition(t *Topic, slot int32, p Partition) {
	block := b.block(t, t.count/blockSize)
	*block = append(*block, p)
	b.mark(slot, t.count, &p, true)
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
