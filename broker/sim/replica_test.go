package sim

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/vfs"
)

// place is a partition of a topic that holds records.
type place struct {
	topic image.UUID
	index int32
}

// replica is a partition on a broker: its log on the broker's disk, and what the
// shell does around the core.
type replica struct {
	b    *broker
	at   place
	name string
	log  *storage.Log
	part *partition.Partition

	epochs   [2]int32 // of the leader, and of the partition, in the image it was told last
	proposes bool     // waits for the controller to be asked
	source   *source  // of a follower

	waiting []*waiting      // fetches of followers
	told    map[int32]int64 // the high watermark that they were told

	shown   int64 // the records below were looked at
	watched int32 // leader epoch of the watermark below
	mark    int64
}

// mount opens the data directory of a broker that starts.
func (b *broker) mount() {
	if b.disk == nil {
		b.disk = vfs.NewMem()
	}
	b.failing = false
	dir, err := storage.OpenDir(vfs.NewFaulty(b.disk, func(op vfs.Op, _ string) error {
		if sync := op == vfs.OpSync || op == vfs.OpSyncDir || op == vfs.OpSyncAll; sync && b.failing {
			return errSync
		}
		return nil
	}), "/data")
	if err != nil {
		b.w.broken("%s cannot open its data directory: %v", b.name, err)
		return
	}
	b.logs, b.replicas, b.proposers, b.altering, b.flushing, b.acting = dir, nil, nil, false, false, false
	b.conns, b.coordinators = nil, nil
	b.before = dir.BrokerEpoch()
	b.in(5*time.Second, "checkpoint", b.checkpoint)
	b.in(maxLag/2, "lag", b.judge)
}

// unmount is what a crash leaves of a data directory: all that was written, or with
// the power gone what a disk may have of it.
func (b *broker) unmount() {
	w := b.w
	for _, c := range b.conns {
		c.reset()
	}
	if w.records.IntN(2) == 0 {
		w.stats["power cuts"]++
		if b.flushing && w.records.IntN(2) == 0 {
			for _, sync := range b.round.Syncs() {
				if w.records.IntN(2) == 0 {
					_ = sync() // nobody heard of it
				}
			}
		}
		before := b.disk
		b.disk = before.CutPower(w.records)
	}
	_ = b.logs.CloseDirty()
	b.replicas, b.coordinators = nil, nil
}

// checkpoint is what is done every few seconds.
func (b *broker) checkpoint() {
	err := b.logs.Checkpoint()
	if err == nil {
		_, err = b.logs.Sweep(b.clock())
	}
	if err != nil {
		b.trouble(err)
	}
	b.in(5*time.Second, "checkpoint", b.checkpoint)
}

// judge looks for followers that are too far behind.
func (b *broker) judge() {
	for _, r := range slices.Clone(b.replicas) {
		r.tick()
	}
	b.in(maxLag/2, "lag", b.judge)
}

func (r *replica) tick() {
	r.effects(r.part.Tick(r.b.clock(), r.b.mayBeInSync))
}

func (b *broker) mayBeInSync(id int32, epoch int64) bool {
	x, ok := b.img.Broker(id)
	return ok && x.Epoch == epoch && x.Active()
}

func (b *broker) replica(at place) *replica {
	for _, r := range b.replicas {
		if r.at == at {
			return r
		}
	}
	return nil
}

// followImage has replicas follow the image: they come, change and go. What it says of the
// broker's former self is nothing to act on.
func (b *broker) followImage() {
	me, ok := b.img.Broker(b.node)
	if !b.acting {
		if b.acting = ok && me.Incarnation == b.incarnation; !b.acting {
			return
		}
	}
	var mine []place
	for _, t := range b.w.recordTopics(b.img) {
		for i := range t.NumPartitions() {
			p, _ := t.Partition(i)
			if !p.HasReplica(b.node) {
				continue
			}
			at := place{t.ID, i}
			mine = append(mine, at)
			r := b.replica(at)
			if r == nil {
				if r = b.obtain(t, i); r == nil {
					return
				}
			}
			if !b.up {
				return
			}
			r.update(t, p)
		}
	}
	for _, r := range slices.Clone(b.replicas) {
		if !slices.Contains(mine, r.at) {
			b.remove(r)
		}
	}
	for _, r := range slices.Clone(b.replicas) {
		r.tick()
	}
	if b.w.plan.groups > 0 {
		b.in(time.Duration(b.w.members.Int64N(3*ms)), "follow groups", b.followGroups)
	}
}

func (b *broker) obtain(t *image.Topic, index int32) *replica {
	r := &replica{b: b, at: place{t.ID, index}, name: t.Name + "-" + strconv.Itoa(int(index)), told: map[int32]int64{}, epochs: [2]int32{-1, -1}}
	log, rec, err := b.logs.OpenLog(r.name, b.w.logConfig(t), b.clock())
	switch {
	case err != nil && b.failing:
		b.fail(err)
		return nil
	case err != nil:
		b.w.broken("%s cannot open %s: %v", b.name, r.name, err)
		return nil
	}
	if rec.TruncatedBytes > 0 {
		b.w.stats["torn tails"]++
	}
	r.log, r.part = log, partition.New(b.node, log.HighWatermark())
	b.w.tell("%s opens %s: %d to %d, known to %d", b.name, r.name, log.StartOffset(), log.EndOffset(), log.HighWatermark())
	b.replicas = append(b.replicas, r)
	return r
}

func (b *broker) remove(r *replica) {
	b.w.tell("%s gives up %s", b.name, r.name)
	b.w.stats["replicas given up"]++
	b.replicas = slices.DeleteFunc(b.replicas, func(x *replica) bool { return x == r })
	r.unfollow()
	r.effects(partition.Effects{Failed: r.part.Fail(), Failure: errGone})
	if err := b.logs.DeleteLogs(b.clock(), r.name); err != nil {
		b.trouble(err)
	}
}

var errGone = errors.New("the broker has no replica of the partition")

// setAsideStrays takes away what no partition of the broker claims.
func (b *broker) setAsideStrays() {
	names, err := b.logs.Partitions()
	if err != nil {
		b.w.broken("%s: %v", b.name, err)
	}
	slices.Sort(names)
	for _, name := range names {
		if slices.ContainsFunc(b.replicas, func(r *replica) bool { return r.name == name }) {
			continue
		}
		if _, err := b.logs.SetAside(name); err != nil {
			b.trouble(err)
		}
	}
}

func (r *replica) update(t *image.Topic, p *image.Partition) {
	if r.epochs == [2]int32{p.LeaderEpoch, p.PartitionEpoch} {
		return
	}
	r.epochs = [2]int32{p.LeaderEpoch, p.PartitionEpoch}
	led, epoch := r.leads(), r.part.LeaderEpoch()
	minISR, _ := t.Config("min.insync.replicas")
	n, err := strconv.Atoi(minISR)
	if err != nil {
		r.b.w.broken("%s has min.insync.replicas %q", t.Name, minISR)
	}
	e := r.part.Update(p, partition.Settings{MinISR: n, MaxLag: maxLag}, r.log.EndOffset(), r.log.FlushedOffset(), r.b.clock())
	if leads := r.leads(); leads && (!led || epoch != r.part.LeaderEpoch()) {
		clear(r.told)
		r.shown = r.log.StartOffset()
		r.b.w.truth.leads(r)
	}
	r.effects(e)
	r.follow()
}

func (r *replica) String() string {
	text := fmt.Sprintf("%s: %d to %d, flushed to %d, acknowledged to %d, leader %d in epoch %d",
		r.name, r.log.StartOffset(), r.log.EndOffset(), r.part.FlushedEnd(), r.part.HighWatermark(), r.part.Leader(), r.part.LeaderEpoch())
	for _, f := range r.part.Followers(r.b.clock(), func(int32, int64) string { return "" }) {
		text += fmt.Sprintf("; %d is %s: %s", f.ID, f.Standing, f.Why)
	}
	return text
}

func (r *replica) leads() bool { return r.part.Leader() == r.b.node }

// effects does what the core asks for.
func (r *replica) effects(e partition.Effects) {
	if e.Moved {
		r.log.SetHighWatermark(r.part.HighWatermark())
	}
	for _, token := range e.Done {
		token.(func(error))(nil)
	}
	for _, token := range e.Failed {
		token.(func(error))(e.Failure)
	}
	r.b.w.truth.look(r)
	if e.Moved || e.Failure != nil {
		r.serveWaiting()
	}
	if e.Propose {
		r.b.propose(r)
	}
}

// propose has the controller asked for a change, one request at a time.
func (b *broker) propose(r *replica) {
	if !r.proposes {
		r.proposes = true
		b.proposers = append(b.proposers, r)
	}
	b.askForISR()
}

func (b *broker) askForISR() {
	if b.altering || len(b.proposers) == 0 {
		return
	}
	cmd := &control.AlterPartition{BrokerID: b.node, BrokerEpoch: b.epoch}
	var asking []*replica
	var changes []partition.Change
	for _, r := range b.proposers {
		r.proposes = false
		c, ok := r.part.Proposal()
		if !ok {
			continue
		}
		asking, changes = append(asking, r), append(changes, c)
		change := control.ISRChange{Topic: r.at.topic, Partition: r.at.index, LeaderEpoch: c.LeaderEpoch, PartitionEpoch: c.PartitionEpoch}
		for _, m := range c.ISR {
			change.ISR = append(change.ISR, control.ISRMember{ID: m.ID, Epoch: m.Epoch})
		}
		cmd.Partitions = append(cmd.Partitions, change)
	}
	b.proposers = nil
	if len(asking) == 0 {
		return
	}
	b.altering = true
	o := b.begin("in-sync replicas", cmd, false).maybe()
	o.answered = func(reply any) {
		b.altering = false
		altered, ok := reply.(*control.AlteredPartitions)
		if !ok {
			b.in(100*time.Millisecond, "ask again", func() {
				for _, r := range asking {
					b.propose(r)
				}
			})
			return
		}
		for i, r := range asking {
			r.altered(changes[i], &altered.Partitions[i])
		}
		b.askForISR()
	}
	o.attempt()
}

// altered takes the answer to a proposal, as Kafka's Partition.scala does.
func (r *replica) altered(c partition.Change, a *control.AlteredPartition) {
	now := r.b.clock()
	switch {
	case a.Refusal == nil:
		r.b.w.stats["in-sync replicas changed"]++
		r.b.w.tell("%s has %v in sync for %s", r.b.name, a.ISR, r.name)
		r.effects(r.part.Altered(c, a.PartitionEpoch, a.ISR, now))
	case a.Refusal.Code == control.IneligibleReplica:
		r.effects(r.part.Declined(c, now))
	case a.Refusal.Code == control.NotController:
		r.b.propose(r)
	}
}

// append is a produce request with one batch, for all in-sync replicas. The answer is
// that of the leader of an epoch.
func (b *broker) append(at place, records []byte, answer func(epoch int32, err error)) {
	r := b.replica(at)
	if r == nil {
		answer(-1, errGone)
		return
	}
	epoch := r.part.LeaderEpoch()
	a, err := r.write(records)
	if err != nil {
		answer(epoch, err)
		return
	}
	done := func(err error) {
		if err == nil {
			b.w.truth.acknowledged(r, a.Base, records)
		}
		answer(epoch, err)
	}
	if !r.part.Await(a.Last+1, partition.AcksAll, done) {
		done(nil)
	}
	if a.Duplicate {
		b.w.stats["batches twice"]++
		return
	}
	r.grown(a.Last + 1)
}

// write appends a batch, for all in-sync replicas. Without an error, what was appended
// has grown the log.
func (r *replica) write(records []byte) (a storage.Appended, err error) {
	if err = r.part.CheckAppend(partition.AcksAll); err == nil {
		a, err = r.log.Append(records, r.part.LeaderEpoch(), r.b.clock())
	}
	if failed, ok := errors.AsType[*storage.FailedError](err); ok {
		r.b.trouble(failed)
	}
	return a, err
}

// grown is told that the log ends at an offset.
func (r *replica) grown(end int64) {
	r.effects(r.part.Appended(end, r.b.clock()))
	r.serveWaiting()
	r.b.flush()
}

// deleteRecords gives up records that were acknowledged, below some offset.
func (b *broker) deleteRecords() {
	if len(b.replicas) == 0 {
		return
	}
	r := b.replicas[b.w.records.IntN(len(b.replicas))]
	start, hw := r.log.StartOffset(), r.part.HighWatermark()
	if !r.leads() || hw <= start || r.holdsGroups() {
		return
	}
	to := start + 1 + b.w.records.Int64N(hw-start)
	b.w.stats["records deleted"] += int(to - start)
	b.w.tell("%s deletes the records of %s below %d", b.name, r.name, to)
	b.w.truth.deleted(r, to)
	if err := r.log.AdvanceStart(to, b.clock()); err != nil {
		b.trouble(err)
		return
	}
	r.serveWaiting()
}

// flush runs a round, which takes its time, and another one for what was appended
// meanwhile.
func (b *broker) flush() {
	if b.flushing {
		return
	}
	round := b.logs.BeginFlush()
	if round == nil {
		return
	}
	b.flushing, b.round = true, round
	w := b.w
	d := 10_000 + w.records.Int64N(w.plan.diskMicroseconds*1000)
	if w.plan.stalls && !w.healed && w.records.IntN(1000) == 0 {
		d = sec + w.records.Int64N(4*sec)
		w.stats["stalls of a flush"]++
	}
	b.at(w.now+d, "flushed", func() {
		b.flushing = false
		var err error
		for _, sync := range round.Syncs() {
			err = errors.Join(err, sync())
		}
		flushed := round.Done(time.Duration(d), err)
		if err != nil {
			w.stats["flushes that failed"]++
			b.fail(err)
			return
		}
		for _, f := range flushed {
			for _, r := range slices.Clone(b.replicas) {
				if r.log == f.Log {
					r.effects(r.part.Flushed(f.Offset, b.clock()))
					r.ask()
				}
			}
		}
		if b.up {
			b.flush()
		}
	})
}

// trouble looks at an error of the disk that an operation ended with: there is none
// but where a test fails it, and if that has closed the directory the broker ends.
func (b *broker) trouble(err error) {
	switch {
	case !b.failing:
		b.w.broken("%s: %v", b.name, err)
	case b.logs.Failed() != nil:
		b.fail(b.logs.Failed())
	}
}

// fail ends a broker whose disk has failed.
func (b *broker) fail(err error) {
	b.w.tell("%s stops: %v", b.name, err)
	b.w.crashBroker(b)
}

// maxLag is replica.lag.time.max.ms.
const maxLag = 5 * time.Second

// logConfig has segments and indexes that are full soon.
func (w *world) logConfig(t *image.Topic) storage.LogConfig {
	return storage.LogConfig{
		TopicID: t.ID, SegmentBytes: w.plan.segmentBytes, IndexIntervalBytes: 300, SegmentIndexBytes: 400, DeleteDelay: time.Second,
	}
}

// recordTopics are those that hold records.
func (w *world) recordTopics(img *image.Image) (topics []*image.Topic) {
	for _, name := range w.plan.recordTopics {
		if t, ok := img.Topic(name); ok {
			topics = append(topics, t)
		}
	}
	return topics
}

func holdsRecords(topic string) bool { return strings.HasPrefix(topic, "records") }

// eachBatch goes through whole batches.
func eachBatch(b []byte, do func(raw []byte, h batch.Header)) error {
	for len(b) > 0 {
		h, err := batch.DecodeHeader(b)
		if err != nil {
			return err
		}
		if h.Length > int64(len(b)) {
			return fmt.Errorf("half a batch at offset %d", h.BaseOffset)
		}
		do(b[:h.Length], h)
		b = b[h.Length:]
	}
	return nil
}
