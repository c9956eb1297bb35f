package sim

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
)

// record is what stands at an offset.
type record struct {
	value string
	epoch int32 // of the leader that wrote it
}

// truth is what clients have been told of the records of a partition:
//
//	I19  what was acknowledged is at its offset on every later leader
//	I20  the high watermark of a leader only grows; below it all replicas are equal
//	I21  no offset shows two contents
type truth struct {
	w      *world
	places map[place]*placeTruth
}

type placeTruth struct {
	acked   map[int64]ack
	offsets map[string]int64 // of acknowledged values
	seen    map[int64]record // below a high watermark
	start   int64            // what is below was to be deleted
	// current is the highest watermark that a leader stood for, and in which epoch.
	current      int64
	currentEpoch int32
}

// ack is a record that was acknowledged, in a leader epoch.
type ack struct {
	value string
	epoch int32
}

func (t *truth) of(at place) *placeTruth {
	p := t.places[at]
	if p == nil {
		p = &placeTruth{acked: map[int64]ack{}, offsets: map[string]int64{}, seen: map[int64]record{}}
		t.places[at] = p
	}
	return p
}

// read visits the records of a log between two offsets.
func (r *replica) read(from, to int64, visit func(offset int64, x record)) {
	for from < to {
		region, err := r.log.Read(from, to, 1<<20, true)
		var raw []byte
		if err == nil {
			raw, err = region.Bytes()
		}
		if err == nil && len(raw) == 0 {
			return
		}
		if err == nil {
			err = eachBatch(raw, func(raw []byte, h batch.Header) {
				var i int64
				_ = batch.Contents(raw, h, func(c batch.Content) error {
					visit(h.BaseOffset+i, record{string(c.Key) + string(c.Value), h.LeaderEpoch})
					i++
					return nil
				})
				from = h.LastOffset() + 1
			})
		}
		if err != nil {
			if !r.b.failing {
				r.b.w.broken("%s: reading %s at %d: %v", r.b.name, r.name, from, err)
			}
			return
		}
	}
}

// leads looks at the log of a new leader.
func (t *truth) leads(r *replica) {
	w, p, epoch := t.w, t.of(r.at), r.part.LeaderEpoch()
	w.stats["leaders of records"]++
	w.tell("%s leads %s in epoch %d, with %d to %d", r.b.name, r.name, epoch, r.log.StartOffset(), r.log.EndOffset())
	have := map[int64]record{}
	r.read(r.log.StartOffset(), r.log.EndOffset(), func(offset int64, x record) { have[offset] = x })
	for offset, a := range p.acked {
		if offset >= p.start && a.epoch < epoch && have[offset].value != a.value {
			w.broken("I19: %s leads %s in epoch %d and has %.12q at %d, where %.12q was acknowledged in epoch %d", r.b.name, r.name, epoch, have[offset].value, offset, a.value, a.epoch)
			return
		}
	}
}

// deleted is told before records are.
func (t *truth) deleted(r *replica, below int64) {
	p := t.of(r.at)
	p.start = max(p.start, below)
}

// look looks at a replica after each step.
func (t *truth) look(r *replica) {
	w, p, hw := t.w, t.of(r.at), r.part.HighWatermark()
	if r.leads() {
		epoch := r.part.LeaderEpoch()
		if r.watched == epoch && hw < r.mark {
			w.broken("I20: the high watermark of %s at %s went from %d to %d in epoch %d", r.name, r.b.name, r.mark, hw, epoch)
		}
		r.watched, r.mark = epoch, hw
		if r.part.Current() && epoch >= p.currentEpoch {
			if hw < p.current {
				w.broken("I20: %s leads %s in epoch %d and stands for %d, the leader of epoch %d stood for %d", r.b.name, r.name, epoch, hw, p.currentEpoch, p.current)
			}
			p.current, p.currentEpoch = hw, epoch
		}
	}
	to := min(hw, r.log.EndOffset())
	if to <= r.shown {
		return
	}
	r.read(max(r.shown, r.log.StartOffset()), to, func(offset int64, x record) {
		if offset >= to {
			return
		}
		if known, ok := p.seen[offset]; ok && known != x {
			w.broken("I21: %s shows %.12q of epoch %d at %d of %s, where %.12q of epoch %d was shown", r.b.name, x.value, x.epoch, offset, r.name, known.value, known.epoch)
		}
		p.seen[offset] = x
	})
	r.shown = to
}

// acknowledged is told when a leader is about to say so.
func (t *truth) acknowledged(r *replica, base int64, raw []byte) {
	w, p := t.w, t.of(r.at)
	_ = eachBatch(raw, func(raw []byte, h batch.Header) {
		_ = batch.Contents(raw, h, func(c batch.Content) error {
			value := string(c.Value)
			if at, ok := p.offsets[value]; ok && at != base {
				w.broken("I19: %.12q was acknowledged at %d of %s, and is now at %d", value, at, r.name, base)
			}
			if a, ok := p.acked[base]; ok && a.value != value {
				w.broken("I21: %.12q is acknowledged at %d of %s, where %.12q was", value, base, r.name, a.value)
			}
			if _, ok := p.acked[base]; !ok {
				w.stats["records acknowledged"]++
				p.acked[base], p.offsets[value] = ack{value, r.part.LeaderEpoch()}, base
			}
			base++
			return nil
		})
	})
}

// quiet looks at all replicas once nothing happens any more.
func (t *truth) quiet() {
	w := t.w
	img := w.oracle.img
	for _, topic := range w.recordTopics(img) {
		for i := range topic.NumPartitions() {
			p, _ := topic.Partition(i)
			if p.Leader == image.NoLeader || len(p.ISR) != len(p.Replicas) || p.Moving != nil {
				w.broken("I10: healed, and partition %d of %s is %+v", i, topic.Name, *p)
				return
			}
			t.settled(place{topic.ID, i}, p)
		}
	}
	for _, x := range w.producers {
		if x.batch != nil {
			w.broken("I10: healed, and %.12q of producer %d is not acknowledged: %v", x.values, x.id, x.failure)
		}
	}
}

func (t *truth) settled(at place, p *image.Partition) {
	var first *replica
	var want []record
	start := int64(0) // where one begins that led before, others may have more
	for _, id := range p.Replicas {
		if r := t.w.brokers[id].replica(at); r != nil {
			start = max(start, r.log.StartOffset())
		}
	}
	for _, id := range p.Replicas {
		r := t.w.brokers[id].replica(at)
		if r == nil {
			t.w.broken("broker %d has no replica %v", id, at)
			return
		}
		t.w.stats["logs compared"]++
		var have []record
		offsets := map[string]int64{}
		r.read(r.log.StartOffset(), r.log.EndOffset(), func(offset int64, x record) {
			if before, ok := offsets[x.value]; ok && !r.holdsGroups() {
				t.w.broken("%s has %.12q at %d and at %d of %s", r.b.name, x.value, before, offset, r.name)
			}
			offsets[x.value] = offset
			if offset >= start {
				have = append(have, x)
			}
			if a, ok := t.of(at).acked[offset]; ok && a.value != x.value {
				t.w.broken("I19: %s has %.12q at %d of %s in the end, where %.12q was acknowledged", r.b.name, x.value, offset, r.name, a.value)
			}
		})
		for offset, a := range t.of(at).acked {
			if have, ok := offsets[a.value]; offset >= t.of(at).start && (!ok || have != offset) {
				t.w.broken("I19: %s does not have %q at %d of %s in the end", r.b.name, a.value, offset, r.name)
				return
			}
		}
		if first == nil {
			first, want = r, have
			continue
		}
		if !equal(have, want) || r.part.HighWatermark() != first.part.HighWatermark() || r.log.EndOffset() != first.log.EndOffset() {
			t.w.broken("I20: healed, %s has %s to %d (acknowledged to %d), %s has it to %d (to %d)",
				r.b.name, r.name, r.log.EndOffset(), r.part.HighWatermark(), first.b.name, first.log.EndOffset(), first.part.HighWatermark())
			return
		}
	}
}

func equal(a, b []record) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// producer is an idempotent one, of one partition, with one batch under way. It
// asks until that is acknowledged.
type producer struct {
	w        *world
	topic    string
	index    int32
	id       int64
	sequence int32
	values   []string
	batch    []byte // under way
	try      int
	failure  error // the last
	epoch    int32 // of the newest leader it has heard of: it does not go back to an older one
	acked    int32 // and of the one that acknowledged the last batch
}

// produce begins with the records.
func (w *world) produce() {
	id := int64(1)
	for _, topic := range w.plan.recordTopics {
		if topic == groupsTopic {
			continue
		}
		for index := range w.plan.recordPartitions {
			for range 2 {
				p := &producer{w: w, topic: topic, index: index, id: id}
				id++
				w.producers = append(w.producers, p)
				p.next()
			}
		}
	}
}

// next makes a batch, after a while.
func (p *producer) next() {
	w := p.w
	w.clients.in(time.Duration(w.records.Int64N(400*ms)), "next batch", func() {
		if w.healed {
			return
		}
		p.values = nil
		for i := range 1 + w.records.IntN(3) {
			p.values = append(p.values, fmt.Sprintf("%d/%d/%s", p.id, p.sequence+int32(i), strings.Repeat(".", w.records.IntN(200))))
		}
		p.batch = batchtest.Values(p.values...).From(p.id, 0, p.sequence).Encode()
		p.send()
	})
}

// send asks whoever leads, as some broker says.
func (p *producer) send() {
	w := p.w
	p.try++
	try := p.try
	again := func(d int64) {
		w.clients.in(time.Duration(d), "again", func() {
			if p.try == try && p.batch != nil {
				p.send()
			}
		})
	}
	some := w.brokers[w.records.IntN(len(w.brokers))]
	topic, ok := some.img.Topic(p.topic)
	if !some.up || !ok {
		again(50*ms + w.records.Int64N(200*ms))
		return
	}
	part, ok := topic.Partition(p.index)
	if !ok || part.Leader == image.NoLeader || part.LeaderEpoch < p.epoch {
		again(20*ms + w.records.Int64N(100*ms))
		return
	}
	p.epoch = part.LeaderEpoch
	leader, at := w.brokers[part.Leader], place{topic.ID, p.index}
	raw := append([]byte(nil), p.batch...) // the log writes into it
	w.net.send(&w.clients, &leader.process, "produce", func() {
		leader.append(at, raw, func(epoch int32, err error) {
			w.net.send(&leader.process, &w.clients, "produced", func() {
				if p.try != try {
					return // it has asked again
				}
				if err == nil {
					p.sequence += int32(len(p.values))
					p.batch, p.failure, p.acked = nil, nil, epoch
					p.try++
					p.next()
					return
				}
				p.failure = err
				if _, gap := errors.AsType[*storage.OutOfOrderSequenceError](err); gap && epoch >= p.acked { // an earlier leader does not know better
					w.broken("I19: producer %d hears for %.12q, behind what was acknowledged: %v", p.id, p.values, err)
				}
				again(5*ms + w.records.Int64N(50*ms))
			}, nil)
		})
	}, nil)
	again(sec + w.records.Int64N(sec))
}

// createRecordTopics asks until the topics are there.
func (w *world) createRecordTopics() {
	b := w.brokers[w.records.IntN(len(w.brokers))]
	missing := ""
	for _, name := range w.plan.recordTopics {
		if _, ok := w.oracle.img.Topic(name); !ok {
			missing = name
		}
	}
	if missing == "" {
		return
	}
	if b.up && b.epoch > 0 {
		partitions := w.plan.recordPartitions
		if missing == groupsTopic {
			partitions = w.plan.groupPartitions
		}
		cmd := &control.CreateTopic{
			Name: missing, ID: w.uuid(), Partitions: partitions, ReplicationFactor: 3,
			Configs: map[string]string{"min.insync.replicas": fmt.Sprint(w.plan.minISR)},
		}
		o := b.begin("create", cmd, true)
		o.attempt()
	}
	w.after(sec/2, "create", w.createRecordTopics)
}
