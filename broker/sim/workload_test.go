package sim

import (
	"fmt"
	"strings"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
)

const (
	maxOpen = 5 // operations of one broker
	// New names every so often: a history of one name stays short enough to check.
	namesEvery = 30 * sec
)

// work is the clients: they ask some broker for something every now and then.
func (w *world) work() {
	if w.healed {
		return
	}
	w.after(w.load.Int64N(2*sec/int64(w.plan.opsPerSecond)), "work", w.work)
	all := w.everyBroker()
	b := all[w.load.IntN(len(all))]
	if !b.up || b.paused() || b.epoch == 0 || len(b.open) >= maxOpen {
		return
	}
	name := fmt.Sprintf("t%d.%d", w.now/namesEvery, w.load.IntN(6))
	switch n := w.load.IntN(100); {
	case n < 25:
		b.createTopic(name, 1+w.load.Int32N(20), 1+int16(w.load.IntN(3)))
	case n < 40:
		o := b.begin("delete", &control.DeleteTopic{Name: name}, true)
		o.name = name
		o.attempt()
	case n < 52:
		o := b.begin("partitions", &control.CreatePartitions{Topic: name, Count: 1 + w.load.Int32N(30)}, true)
		o.name, o.count = name, o.cmd.(*control.CreatePartitions).Count
		o.attempt()
	case n < 60:
		b.configure(&control.AlterConfigs{Topic: name, Node: image.EveryBroker}, "retention.ms", fmt.Sprint(w.load.Int64N(1<<40)))
	case n < 66:
		b.configure(&control.AlterConfigs{Node: w.load.Int32N(4) - 1}, "log.retention.ms", fmt.Sprint(w.load.Int64N(1<<40)))
	case n < 71:
		if len(w.plan.recordTopics) > 0 && w.load.IntN(4) == 0 {
			name = w.plan.recordTopics[w.load.IntN(len(w.plan.recordTopics))]
		}
		b.reassign(name)
	case n < 72:
		b.deleteRecords()
	case n < 76:
		b.begin("ids", &control.AllocateProducerIDs{BrokerID: b.node, BrokerEpoch: b.epoch, Count: 10}, false).attempt()
	case n < 82:
		b.alterISR()
	case n < 84:
		b.begin("elect", &control.ElectLeaders{Unclean: w.load.IntN(3) == 0 && len(w.plan.recordTopics) == 0}, true).maybe().attempt()
	case n < 86 && w.plan.big:
		if big := fmt.Sprintf("big%d", w.load.IntN(4)); w.load.IntN(3) == 0 {
			o := b.begin("delete", &control.DeleteTopic{Name: big}, true)
			o.name = big
			o.attempt()
		} else {
			w.stats["topics of 10,000 partitions"]++
			b.createTopic(big, control.MaxPartitionsPerCommand, 3)
		}
	case n < 87 && w.plan.big: // more than an entry holds
		b.configure(&control.AlterConfigs{Node: w.load.Int32N(3)}, "listeners", strings.Repeat(fmt.Sprintf("%08x", w.load.Uint32()), 50_000))
	default:
		b.read(name)
	}
}

func (b *broker) createTopic(name string, partitions int32, replicas int16) {
	o := b.begin("create", &control.CreateTopic{Name: name, ID: b.w.uuid(), Partitions: partitions, ReplicationFactor: replicas}, true)
	o.name, o.count = name, partitions
	o.attempt()
}

// reassign gives some partitions other replicas, or takes that back.
func (b *broker) reassign(name string) {
	t, ok := b.img.Topic(name)
	if !ok {
		return
	}
	cmd := &control.AlterPartitionReassignments{}
	for range 5 {
		x := control.Reassign{TopicPartition: control.TopicPartition{Topic: name, Partition: b.w.load.Int32N(t.NumPartitions())}}
		if n := b.w.load.IntN(4); n > 0 {
			for _, id := range b.w.load.Perm(3)[:n] {
				x.Replicas = append(x.Replicas, int32(id))
			}
		}
		cmd.Partitions = append(cmd.Partitions, x)
	}
	b.begin("reassign", cmd, true).maybe().attempt()
}

func (b *broker) configure(cmd *control.AlterConfigs, key, value string) {
	cmd.Changes = []control.ConfigChange{{Key: key, Value: value}}
	b.begin("configs", cmd, true).attempt()
}

// read is one that sees everything that was answered before it began.
func (b *broker) read(name string) {
	o := b.begin("read", nil, false)
	o.name = name
	c := b.w.controllers[b.w.load.IntN(len(b.w.controllers))]
	answer := func(a quorum.Answer) {
		b.w.net.send(&c.process, &b.process, "index", func() {
			if o.outcome != pending || b.life != o.life {
				return
			}
			if a.Err != nil {
				o.end(unknown)
				return
			}
			o.index = a.Index
			o.then = func() {
				if t, ok := b.img.Topic(name); ok {
					o.read, o.readFound = t, true
				}
			}
			o.visible()
		}, nil)
	}
	b.w.net.send(&b.process, &c.process, "read", func() {
		c.input(func() {
			if err := c.core.ReadIndex(answer); err != nil {
				answer(quorum.Answer{Err: err})
			}
		})
	}, nil)
	b.in(3*time.Second, "give up", func() {
		if !o.waits() {
			o.end(unknown)
		}
	})
}

// alterISR is a leader that tells who follows it, as far as it knows.
func (b *broker) alterISR() {
	var changes []control.ISRChange
	for lp := range b.img.Partitions(b.node, image.Leads) {
		if len(changes) == 20 {
			break
		}
		if holdsRecords(lp.Topic.Name) { // whose leaders do know
			continue
		}
		change := control.ISRChange{
			Topic: lp.Topic.ID, Partition: lp.Index, LeaderEpoch: lp.Partition.LeaderEpoch, PartitionEpoch: lp.Partition.PartitionEpoch,
		}
		for _, id := range lp.Partition.Replicas {
			x, ok := b.img.Broker(id)
			if id == b.node || ok && b.w.load.IntN(3) > 0 {
				epoch := int64(-1)
				if ok && b.w.load.IntN(4) > 0 {
					epoch = x.Epoch
				}
				change.ISR = append(change.ISR, control.ISRMember{ID: id, Epoch: epoch})
			}
		}
		changes = append(changes, change)
	}
	if len(changes) == 0 {
		return
	}
	b.begin("isr", &control.AlterPartition{BrokerID: b.node, BrokerEpoch: b.epoch, Partitions: changes}, false).maybe().attempt()
}

// maybe says that success may mean that there was nothing to do.
func (o *op) maybe() *op {
	o.mayBeEmpty = true
	return o
}
