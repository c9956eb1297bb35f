package control

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// world gives random commands to an image, most of them sensible, and remembers what must hold for ever.
type world struct {
	t    *testing.T
	rng  *rand.Rand
	img  *image.Image
	cmd  Command // the last one
	ids  int     // drawn so far
	dirs map[int32]image.UUID

	topicIDs map[image.UUID]bool // of all times
	epochs   map[int32]int64     // of brokers, the highest of all times
	accepted map[string]bool     // "topic partition epoch" of accepted changes of ISRs
	// complete has the replicas with everything that was acknowledged, if the partitions were written to all the time.
	complete map[partitionID][]int32
	moved    int // reassignments that were completed
}

const worldBrokers = 5

func newWorld(t *testing.T, seed uint64) *world {
	w := &world{
		t: t, rng: rand.New(rand.NewPCG(seed, 3)), img: apply(t, image.Empty(), &FormCluster{ClusterID: "c"}),
		dirs: map[int32]image.UUID{}, topicIDs: map[image.UUID]bool{}, epochs: map[int32]int64{}, accepted: map[string]bool{},
		complete: map[partitionID][]int32{},
	}
	return w
}

func (w *world) draw() image.UUID {
	w.ids++
	return image.UUID{1, 14: byte(w.ids >> 8), 15: byte(w.ids)}
}

// broker is one that is registered as a rule, with its epoch or an older one.
func (w *world) broker() (id int32, epoch int64) {
	id = int32(w.rng.IntN(worldBrokers))
	if b, ok := w.img.Broker(id); ok {
		epoch = b.Epoch - int64(w.rng.IntN(10)/9)
	}
	return id, epoch
}

// partition is any, nil where there is none. Half the time it is one that is moving, if there is one.
func (w *world) partition() (*image.Topic, int32, *image.Partition) {
	all := slices.Collect(w.img.Topics())
	if len(all) == 0 {
		return nil, 0, nil
	}
	if moving := slices.Collect(w.img.Moving()); len(moving) > 0 && w.rng.IntN(2) == 0 {
		lp := moving[w.rng.IntN(len(moving))]
		return lp.Topic, lp.Index, lp.Partition
	}
	t := all[w.rng.IntN(len(all))]
	i := int32(w.rng.IntN(int(t.NumPartitions())))
	p, _ := t.Partition(i)
	return t, i, p
}

func (w *world) command() Command {
	id, epoch := w.broker()
	switch kind := w.rng.IntN(36); {
	case kind < 2:
		dir, known := w.dirs[id]
		if !known || w.rng.IntN(4) == 0 { // a new disk
			dir = w.draw()
			w.dirs[id] = dir
		}
		return &RegisterBroker{ID: id, Incarnation: w.draw(), Rack: []string{"a", "b", "c"}[id%3], Dirs: []image.UUID{dir}, Levels: image.OwnLevels,
			PreviousBrokerEpoch: epoch - int64(w.rng.IntN(2))}
	case kind < 5:
		return &FenceBroker{ID: id, Epoch: epoch}
	case kind < 9:
		return &UnfenceBroker{ID: id, Epoch: epoch}
	case kind < 10:
		return &BeginControlledShutdown{ID: id, Epoch: epoch}
	case kind < 11 && w.rng.IntN(3) == 0:
		return &UnregisterBroker{id}
	case kind < 13:
		name := fmt.Sprint("t", w.ids)
		configs := map[string]string{"min.insync.replicas": fmt.Sprint(1 + w.rng.IntN(3))}
		if w.rng.IntN(4) == 0 {
			configs["unclean.leader.election.enable"] = "true"
		}
		return &CreateTopic{Name: name, ID: w.draw(), Partitions: int32(1 + w.rng.IntN(70)), ReplicationFactor: int16(1 + w.rng.IntN(4)), Configs: configs}
	case kind < 14:
		return &ElectLeaders{Unclean: w.rng.IntN(2) == 0}
	}
	t, i, p := w.partition()
	switch {
	case t == nil:
		return &ElectLeaders{}
	case w.rng.IntN(20) == 0:
		return &DeleteTopic{Name: t.Name}
	case w.rng.IntN(20) == 0:
		return &CreatePartitions{Topic: t.Name, Count: t.NumPartitions() + int32(w.rng.IntN(9))}
	case w.rng.IntN(4) == 0:
		x := Reassign{TopicPartition: TopicPartition{t.Name, i}}
		if w.rng.IntN(4) > 0 {
			for _, id := range w.rng.Perm(worldBrokers)[:1+w.rng.IntN(3)] {
				x.Replicas = append(x.Replicas, int32(id))
			}
		}
		return &AlterPartitionReassignments{KeepFactor: w.rng.IntN(6) == 0, Partitions: []Reassign{x}}
	case w.rng.IntN(10) == 0:
		return &AlterConfigs{Topic: t.Name, Changes: []ConfigChange{{Key: "min.insync.replicas", Value: fmt.Sprint(1 + w.rng.IntN(3))}}}
	}
	if b, ok := w.img.Broker(p.Leader); ok {
		id, epoch = b.ID, b.Epoch
	}
	c := &AlterPartition{BrokerID: id, BrokerEpoch: epoch}
	for range 1 + w.rng.IntN(2) {
		x := ISRChange{Topic: t.ID, Partition: i, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch - int32(w.rng.IntN(8)/7)}
		for _, r := range p.Replicas {
			if b, ok := w.img.Broker(r); ok && (r == p.Leader || w.rng.IntN(3) > 0) && (b.Active() || w.rng.IntN(10) == 0) {
				x.ISR = append(x.ISR, ISRMember{r, b.Epoch})
			}
		}
		c.Partitions = append(c.Partitions, x)
	}
	return c
}

func (w *world) step() {
	before, was := w.img, w.img.Encode()
	w.cmd = w.command()
	r, err := w.cmd.Eval(before, time.Time{})
	if !bytes.Equal(before.Encode(), was) {
		w.fail("evaluating changed the image")
	}
	if again, _ := w.cmd.Eval(before, time.Time{}); !reflect.DeepEqual(again, r) {
		w.fail("it came to %+v and then to %+v", r, again)
	}
	if err != nil {
		if !errors.As(err, new(*Refusal)) || r.Records != nil {
			w.fail("%v with %v", err, r.Records)
		}
		return
	}
	if len(r.Records) == 0 {
		return
	}
	// What others replay has been through the log.
	unit := &image.Unit{Base: before.Index(), Records: r.Records}
	replayed, err := image.DecodeUnit(unit.Encode(1), 1)
	if err != nil {
		w.fail("%v", err)
	}
	index := before.Index() + 1 + uint64(w.rng.IntN(3))
	own, _ := image.Apply(before, index, r.Records)
	img, delta := image.Apply(before, index, replayed.Records)
	if !bytes.Equal(own.Encode(), img.Encode()) {
		w.fail("another image behind the log")
	}
	if !bytes.Equal(before.Encode(), was) {
		w.fail("an older image changed")
	}
	w.img = img
	w.checkBrokers(before)
	w.checkPartitions(before, delta)
	w.checkAnswers(r.Reply)
	checkIndex(w, img)
	restored, err := image.DecodeImage(img.Encode())
	if err != nil || !bytes.Equal(restored.Encode(), img.Encode()) {
		w.fail("another image behind a snapshot: %v", err)
	}
	checkIndex(w, restored)
}

func (w *world) fail(format string, args ...any) {
	w.t.Helper()
	w.t.Fatalf("index %d, %T %+v: %s", w.img.Index(), w.cmd, w.cmd, fmt.Sprintf(format, args...))
}

// checkBrokers wants epochs of brokers to grow with each incarnation, and to stay otherwise.
func (w *world) checkBrokers(before *image.Image) {
	for _, b := range w.img.Brokers() {
		old, known := before.Broker(b.ID)
		if known && old.Incarnation == b.Incarnation && old.Epoch != b.Epoch {
			w.fail("broker %d went from epoch %d to %d", b.ID, old.Epoch, b.Epoch)
		}
		if (!known || old.Incarnation != b.Incarnation) && b.Epoch <= w.epochs[b.ID] {
			w.fail("a new incarnation of broker %d has epoch %d, there was %d", b.ID, b.Epoch, w.epochs[b.ID])
		}
		w.epochs[b.ID] = b.Epoch
	}
}

func (w *world) checkPartitions(before *image.Image, delta *image.Delta) {
	told := map[string]bool{}
	gone := map[string]bool{}
	for id := range int32(worldBrokers) {
		local := delta.Local(id)
		for _, lp := range local.Gone {
			gone[fmt.Sprint(lp.Topic.ID, lp.Index, id)] = true
		}
		for _, lp := range slices.Concat(local.Leaders, local.Followers) {
			told[fmt.Sprint(lp.Topic.ID, lp.Index)] = true
		}
	}
	for t := range w.img.Topics() {
		old, known := before.TopicByID(t.ID)
		if !known && w.topicIDs[t.ID] {
			w.fail("topic id %s was there before", t.ID)
		}
		w.topicIDs[t.ID] = true
		for i := range t.NumPartitions() {
			p, _ := t.Partition(i)
			var was *image.Partition
			if known {
				was, _ = old.Partition(i)
			}
			if (was == nil || !reflect.DeepEqual(was, p)) && !told[fmt.Sprint(t.ID, i)] {
				w.fail("the delta lacks %s-%d", t.Name, i)
			}
			w.checkPartition(t, was, p)
			for id := range int32(worldBrokers) {
				left := was != nil && was.HasReplica(id) && !p.HasReplica(id)
				if told := gone[fmt.Sprint(t.ID, i, id)]; told != left {
					w.fail("%+v became %+v, and the delta says that broker %d lost its replica: %v", was, p, id, told)
				}
			}
			w.checkData(before, t, i, p)
		}
	}
}

// checkPartition wants what holds for each state of a partition, and from one to the next. was is nil for a new one.
func (w *world) checkPartition(t *image.Topic, was, p *image.Partition) {
	subset := func(ids []int32) bool {
		at := 0
		for _, r := range p.Replicas {
			if at < len(ids) && ids[at] == r {
				at++
			}
		}
		return at == len(ids) // in the order of the replicas, none twice
	}
	disjoint := !slices.ContainsFunc(p.ISR, func(id int32) bool { return slices.Contains(p.ELR, id) })
	if !subset(p.ISR) || !subset(p.ELR) || !disjoint || len(p.ISR)+len(p.ELR) == 0 || p.Leader != image.NoLeader && !slices.Contains(p.ISR, p.Leader) {
		w.fail("%+v", p)
	}
	if b, ok := w.img.Broker(p.Leader); p.Leader != image.NoLeader && (!ok || b.Fenced) {
		w.fail("%+v is led by a broker that is fenced or gone", p)
	}
	w.checkMoving(was, p)
	active := func(id int32) bool {
		b, ok := w.img.Broker(id)
		return ok && b.Active()
	}
	if was == nil {
		if !active(p.Leader) || slices.ContainsFunc(p.ISR, func(id int32) bool { return !active(id) }) {
			w.fail("%+v begins with a broker that is not active", p)
		}
		return
	}
	led := p.Leader != was.Leader
	same := slices.Equal(p.ISR, was.ISR) && slices.Equal(p.ELR, was.ELR) && !led && slices.Equal(p.Replicas, was.Replicas) && sameMove(p.Moving, was.Moving)
	switch up, leaderUp := p.PartitionEpoch-was.PartitionEpoch, p.LeaderEpoch-was.LeaderEpoch; {
	case up < 0 || leaderUp < 0 || leaderUp > up:
		w.fail("%+v became %+v: an epoch went down, or the leader's went up alone", was, p)
	case !same && up == 0 || led && leaderUp == 0:
		w.fail("%+v became %+v in the same epoch", was, p)
	case led && p.Leader != image.NoLeader && !active(p.Leader):
		w.fail("%+v became %+v: the leader is not active", was, p)
	}
	for _, id := range p.ISR {
		if !slices.Contains(was.ISR, id) && !active(id) {
			w.fail("%+v became %+v: broker %d entered the ISR and is not active", was, p, id)
		}
	}
	for _, id := range p.ELR { // whoever is eligible was in sync a moment ago, or was eligible
		if !slices.Contains(was.ISR, id) && !slices.Contains(was.ELR, id) {
			w.fail("%+v became %+v: broker %d is eligible from nowhere", was, p, id)
		}
	}
	// Nobody leads who may lack what was acknowledged, unless the topic allows it.
	if _, unclean := w.cmd.(*ElectLeaders); led && p.Leader != image.NoLeader && !unclean && !uncleanAllowed(t) {
		_, vouched := w.cmd.(*AlterPartition) // by the leader, for whoever is in the ISR now
		if !slices.Contains(was.ISR, p.Leader) && !slices.Contains(was.ELR, p.Leader) && !vouched {
			w.fail("%+v became %+v: an unclean election", was, p)
		}
	}
}

// checkMoving wants replicas to change when somebody asks for it, and at the end of that: in the change that puts the last of
// those in sync that the partition shall have. was is nil for a new partition.
func (w *world) checkMoving(was, p *image.Partition) {
	within := func(ids, all []int32) bool {
		return !slices.ContainsFunc(ids, func(id int32) bool { return !slices.Contains(all, id) })
	}
	if m := p.Moving; m != nil {
		apart := !slices.ContainsFunc(m.Adding, func(id int32) bool { return slices.Contains(m.Removing, id) })
		if !within(m.Adding, p.Replicas) || !within(m.Removing, p.Replicas) || !apart || len(m.Adding)+len(m.Removing) == 0 ||
			len(m.Adding) == len(p.Replicas) || len(m.Removing) == len(p.Replicas) {
			w.fail("%+v is moving %+v", p, m)
		}
		ready := slices.ContainsFunc(p.Target(), func(id int32) bool { return canLead(w.img, p, id) })
		if within(p.Target(), p.ISR) && ready && p.Leader != image.NoLeader {
			w.fail("%+v is moving %+v still, and %v are in sync", p, m, p.Target())
		}
	}
	if was == nil {
		return
	}
	for i, id := range p.Replicas {
		if at := slices.Index(was.Replicas, id); at >= 0 && p.Dirs[i] != was.Dirs[at] {
			w.fail("%+v became %+v: replica %d is in another directory", was, p, id)
		}
	}
	if lost := !within(was.Replicas, p.Replicas); lost && p.LeaderEpoch == was.LeaderEpoch {
		w.fail("%+v became %+v: who lost its replica is of the same leader epoch", was, p)
	}
	c, asked := w.cmd.(*AlterPartitionReassignments)
	switch ended := was.Moving != nil && p.Moving == nil; {
	case asked && c.Partitions[0].Replicas == nil && ended:
		if !slices.Equal(p.Replicas, without(was.Replicas, was.Moving.Adding...)) {
			w.fail("%+v, moving %+v, became %+v", was, was.Moving, p)
		}
	case asked && p.Moving == nil && !slices.Equal(p.Replicas, was.Replicas):
		other := !within(p.Replicas, was.Replicas) || !within(was.Replicas, p.Replicas) // not just another order
		if !slices.Equal(p.Replicas, c.Partitions[0].Replicas) || other && !within(p.Replicas, p.ISR) {
			w.fail("%+v became %+v", was, p)
		}
		w.moved++
	case asked:
	case ended:
		if !slices.Equal(p.Replicas, was.Target()) || !slices.Equal(p.ISR, p.Replicas) || p.Leader == image.NoLeader {
			w.fail("%+v, moving %+v, became %+v", was, was.Moving, p)
		}
		w.moved++
	case !slices.Equal(p.Replicas, was.Replicas) || !sameMove(p.Moving, was.Moving):
		w.fail("%+v became %+v: its replicas moved", was, p)
	}
}

func uncleanAllowed(t *image.Topic) bool {
	v, _ := t.Config("unclean.leader.election.enable")
	return v == "true"
}

// checkData wants everybody who is eligible to have all that was acknowledged. Writes come whenever they can: with enough
// in sync everything is acknowledged that those have, and nobody else has it.
func (w *world) checkData(before *image.Image, t *image.Topic, i int32, p *image.Partition) {
	key := partitionID{t.ID, i}
	has, known := w.complete[key]
	if !known {
		has = p.ISR
	}
	if c, ok := w.cmd.(*RegisterBroker); ok {
		now, _ := w.img.Broker(c.ID)
		old, was := before.Broker(c.ID)
		at := slices.Index(p.Replicas, c.ID)
		restarted := now != nil && now.Incarnation == c.Incarnation && (!was || old.Incarnation != c.Incarnation)
		if restarted && at >= 0 && (!was || c.PreviousBrokerEpoch != old.Epoch || !hasDir(now, p.Dirs[at])) {
			has = without(has, c.ID)
		}
	}
	if p.Leader != image.NoLeader {
		if !slices.Contains(has, p.Leader) {
			has = nil // lost, by an unclean election or with the last one in sync
		}
		has = pick(p.Replicas, func(id int32) bool { return slices.Contains(has, id) || slices.Contains(p.ISR, id) })
		if minISR := setting(w.img, t, "min.insync.replicas"); len(p.ISR) >= min(len(p.Replicas), int(minISR[0]-'0')) {
			has = p.ISR
		}
	}
	for _, id := range p.ELR {
		if last := len(p.ISR)+len(p.ELR) == 1; !last && !slices.Contains(has, id) {
			w.fail("%s-%d is %+v: broker %d is eligible, and only %v have everything", t.Name, i, p, id, has)
		}
	}
	w.complete[key] = has
}

// checkAnswers wants that no two accepted changes of an ISR come to the same partition epoch.
func (w *world) checkAnswers(reply any) {
	altered, ok := reply.(*AlteredPartitions)
	if !ok {
		return
	}
	c := w.cmd.(*AlterPartition)
	for i, p := range altered.Partitions {
		if p.Refusal != nil || p.PartitionEpoch == c.Partitions[i].PartitionEpoch {
			continue // refused, or nothing to change
		}
		key := fmt.Sprint(p.Topic, p.Partition, p.PartitionEpoch)
		if w.accepted[key] {
			w.fail("two changes came to epoch %s", key)
		}
		w.accepted[key] = true
	}
}

// checkIndex compares the index from brokers to partitions with a walk.
func checkIndex(w *world, img *image.Image) {
	type row struct {
		id    int32
		what  string
		topic image.UUID
		index int32
	}
	got, want := map[row]bool{}, map[row]bool{}
	for id := range int32(worldBrokers) {
		for what, all := range map[string]func(func(image.LocalPartition) bool){
			"holds": img.Partitions(id, image.Holds), "in sync": img.Partitions(id, image.InSync), "leads": img.Partitions(id, image.Leads),
			"out": img.OutOfSync(id), "nobody": img.Leaderless(id),
		} {
			for lp := range all {
				got[row{id, what, lp.Topic.ID, lp.Index}] = true
				if p, _ := lp.Topic.Partition(lp.Index); p != lp.Partition {
					w.fail("the index has another partition %s-%d", lp.Topic.Name, lp.Index)
				}
			}
		}
	}
	leads := map[int32]int{}
	for t := range img.Topics() {
		for i := range t.NumPartitions() {
			p, _ := t.Partition(i)
			leads[p.Leader]++
			for _, id := range p.Replicas {
				in := slices.Contains(p.ISR, id)
				for what, is := range map[string]bool{"holds": true, "in sync": in, "leads": p.Leader == id, "out": !in, "nobody": p.Leader == image.NoLeader} {
					if is {
						want[row{id, what, t.ID, i}] = true
					}
				}
			}
		}
	}
	if !reflect.DeepEqual(got, want) || img.NumLeaderless() != leads[image.NoLeader] {
		w.fail("the index has %d entries, a walk %d; %d and %d without a leader", len(got), len(want), img.NumLeaderless(), leads[image.NoLeader])
	}
	for id := range int32(worldBrokers) {
		if img.Count(id, image.Leads) != leads[id] {
			w.fail("broker %d leads %d, by the index %d", id, leads[id], img.Count(id, image.Leads))
		}
	}
}

func TestInvariants(t *testing.T) {
	done, moved := map[string]int{}, 0
	for seed := range uint64(6) {
		w := newWorld(t, seed)
		for range 250 {
			at := w.img.Index()
			if w.step(); w.img.Index() > at {
				done[fmt.Sprintf("%T", w.cmd)]++
			}
		}
		moved += w.moved
	}
	for _, c := range []Command{
		&RegisterBroker{}, &FenceBroker{}, &UnfenceBroker{}, &BeginControlledShutdown{}, &UnregisterBroker{}, &AlterPartition{}, &ElectLeaders{},
		&CreateTopic{}, &DeleteTopic{}, &CreatePartitions{}, &AlterConfigs{},
		&AlterPartitionReassignments{},
	} {
		if name := fmt.Sprintf("%T", c); done[name] < 3 {
			t.Errorf("%s was carried out %d times", name, done[name])
		}
	}
	if moved < 10 {
		t.Errorf("%d reassignments were completed", moved)
	}
}
