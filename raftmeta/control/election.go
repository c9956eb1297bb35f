package control

import (
	"iter"
	"slices"
	"strconv"

	"github.com/streambus/streambus/raftmeta/image"
)

// MaxChanges bounds the partitions that one command changes because of a broker. Whatever needs more is done by giving
// the command again, so that others are served in between: a broker of a cluster of a million partitions leads 100,000.
// Deciding, writing and applying so many takes a controller a few milliseconds.
const MaxChanges = 250

// MaxElections bounds the partitions that somebody names for one ElectLeaders.
const MaxElections = 5_000

// noBroker stands where no broker is meant.
const noBroker int32 = -1

// rules are the settings of a topic that decide over its partitions.
type rules struct {
	minISR  int  // at most the number of replicas, as Kafka has it
	unclean bool // a replica that may lack acknowledged records leads rather than nobody
}

func rulesOf(m *image.Image, t *image.Topic) rules {
	r := rules{minISR: 1, unclean: setting(m, t, "unclean.leader.election.enable") == "true"}
	if n, err := strconv.Atoi(setting(m, t, "min.insync.replicas")); err == nil { // checked when it was set
		r.minISR = n
	}
	if first, ok := t.Partition(0); ok {
		r.minISR = min(r.minISR, len(first.Replicas))
	}
	return r
}

// setting is a topic's own value, else what is set for all brokers, else the default. What a broker has in its own file
// no controller knows.
func setting(m *image.Image, t *image.Topic, name string) string {
	if v, ok := t.Config(name); ok {
		return v
	}
	key, _ := image.FindTopicKey(name)
	for _, b := range key.Broker {
		if v, ok := m.BrokerConfig(image.EveryBroker, b.Name); ok {
			return b.Topic(v)
		}
	}
	return key.Default
}

// canLead tells whether the broker of a replica is there, will stay, and has the replica's directory.
func canLead(m *image.Image, p *image.Partition, id int32) bool {
	b, ok := m.Broker(id)
	at := slices.Index(p.Replicas, id)
	if !ok || at < 0 || !b.Active() {
		return false
	}
	return hasDir(b, p.Dirs[at])
}

// canStay tells whether a leader is still there, though it may be on its way out.
func canStay(m *image.Image, p *image.Partition) bool {
	b, ok := m.Broker(p.Leader)
	return ok && !b.Fenced && hasDir(b, p.Dirs[slices.Index(p.Replicas, p.Leader)])
}

func hasDir(b *image.Broker, place byte) bool {
	return place == image.NoDir || slices.Contains(b.Dirs, b.Dir(place))
}

// turn is a change of one partition that is to be decided.
type turn struct {
	after *image.Image // the brokers as the unit will leave them
	rules rules
	isr   []int32 // what the ISR shall be, in the order of the replicas
	// lost is a broker whose replica may lack what it acknowledged, for good. It is neither in the ISR nor eligible.
	lost int32
	// preferred says that the first replica shall lead, if it can, also where another leads well.
	preferred bool
	to        *assignment // what its replicas become, nil for no others
}

// settle is the next state of a partition, after Kafka's PartitionChangeBuilder, and whether it differs.
//
// The leader is, in this order: the one there is, the first replica in sync, the first that is eligible, the one there is
// although it is about to stop, the last one that is left, and where the topic allows it the first that is there. Who is
// eligible (ELR) holds everything that was acknowledged, as KIP-966 has it: while fewer than min.insync.replicas are in sync
// nothing more is acknowledged, so those who leave then do not fall behind.
//
// Kafka moves the last ones in sync to the ELR when they go, and where that gets empty too it remembers the last leader. Here
// they stay in the ISR without leading: whoever asks for the partition is shown which brokers it takes to have it back. Where
// no member of the ISR can lead, it counts as empty therefore. The last one of both sets stays even if it came back and may
// have lost something, as nobody else is known to have more; while another is left in them, that one is waited for. There
// is no state of recovery after an unclean election: no broker acts on it.
//
// A partition that is moving has its new replicas, and no others, from the change on that puts them all in sync. Kafka looks
// at that before it elects, and goes on moving where an election brings it about; here that is looked at again. Whoever is
// removed is neither in the ISR nor eligible, and does not lead. The leader epoch goes up, also under the same leader, so
// that nobody who fetches takes a broker that lost its replica for one that has it.
func (t turn) settle(p *image.Partition) (next image.Partition, changed bool) {
	next = t.decide(p)
	if next.Moving != nil && t.complete(&next, next.ISR) {
		next = turn{after: t.after, rules: t.rules, isr: next.ISR, lost: noBroker}.decide(&next)
	}
	if next.Leader == p.Leader && slices.Equal(next.ISR, p.ISR) && slices.Equal(next.ELR, p.ELR) &&
		slices.Equal(next.Replicas, p.Replicas) && sameMove(next.Moving, p.Moving) {
		return *p, false
	}
	if next.Leader != p.Leader || len(without(p.Replicas, next.Replicas...)) > 0 {
		next.LeaderEpoch++
	}
	next.PartitionEpoch++
	return next, true
}

// decide is settle without epochs.
func (t turn) decide(p *image.Partition) image.Partition {
	with := t.assigned(p, t.isr)
	next := *with
	able := func(id int32) bool { return canLead(t.after, with, id) }
	first := func(ids []int32) (int32, bool) {
		if at := slices.IndexFunc(ids, able); at >= 0 {
			return ids[at], true
		}
		return image.NoLeader, false
	}
	in := func(ids []int32, more ...int32) []int32 { // in the order of the replicas
		return pick(with.Replicas, func(id int32) bool { return slices.Contains(ids, id) || slices.Contains(more, id) })
	}
	if next.ISR = t.isr; with != p {
		next.ISR = in(t.isr)
	}
	next.ELR = without(in(p.ELR, p.ISR...), append([]int32{t.lost}, t.isr...)...)

	if leader, ok := first(next.ISR); ok {
		next.Leader = leader
		if keeps := slices.Contains(next.ISR, p.Leader) && able(p.Leader); keeps {
			next.Leader = p.Leader
		}
		if best := with.Replicas[0]; t.preferred && slices.Contains(next.ISR, best) && able(best) {
			next.Leader = best
		}
	} else if leader, ok := first(next.ELR); ok {
		next.ELR = without(in(next.ELR, next.ISR...), leader)
		next.Leader, next.ISR = leader, []int32{leader}
	} else if !slices.Contains(next.ISR, p.Leader) || !canStay(t.after, p) {
		if len(next.ISR) == 0 {
			next.ISR = without(in(p.ISR), t.lost)
			next.ELR = without(next.ELR, next.ISR...)
		}
		if len(next.ISR)+len(next.ELR) == 0 { // the one that was lost is the last
			next.ISR, next.ELR = in(p.ISR), in(p.ELR)
		}
		leader, ok := first(append(slices.Clone(next.ISR), next.ELR...))
		if !ok && t.rules.unclean {
			leader, ok = first(byData(with))
		}
		if next.Leader = leader; ok {
			next.ISR, next.ELR = []int32{leader}, nil
		}
	}
	if next.Leader != image.NoLeader && len(next.ISR) >= t.rules.minISR {
		next.ELR = nil // from here on the others fall behind
	}
	return next
}

// byData are the replicas of a partition, last those that are being added: they may have nothing at all. Kafka takes them
// as they come.
func byData(p *image.Partition) []int32 {
	if p.Moving == nil || len(p.Moving.Adding) == 0 {
		return p.Replicas
	}
	return slices.Concat(without(p.Replicas, p.Moving.Adding...), p.Moving.Adding)
}

// pick keeps the order. All of them are the same memory, which belongs to an image.
func pick(ids []int32, keep func(int32) bool) []int32 {
	n := 0
	for _, id := range ids {
		if keep(id) {
			n++
		}
	}
	switch n {
	case 0:
		return nil
	case len(ids):
		return ids
	}
	kept := make([]int32, 0, n)
	for _, id := range ids {
		if keep(id) {
			kept = append(kept, id)
		}
	}
	return kept
}

func without(ids []int32, out ...int32) []int32 {
	return pick(ids, func(id int32) bool { return !slices.Contains(out, id) })
}

// sweep gathers the changes of many partitions, up to what one command may change.
type sweep struct {
	after   *image.Image
	records []image.Record
	more    bool // there are further changes to make

	topic *image.Topic // of the partition before, with its rules
	rules rules
}

// run decides over partitions in the order given. The image they are of is not changed meanwhile.
func (s *sweep) run(partitions iter.Seq[image.LocalPartition], decide decision) {
	if s.more {
		return
	}
	for lp := range partitions {
		if lp.Topic != s.topic {
			s.topic, s.rules = lp.Topic, rulesOf(s.after, lp.Topic)
		}
		next, changed := decide(s.rules, lp.Partition)
		if !changed {
			continue
		}
		if s.more = len(s.records) == MaxChanges; s.more {
			return
		}
		s.records = append(s.records, &image.PartitionChangeRecord{Topic: lp.Topic.ID, Index: lp.Index, Partition: next})
	}
}

// as is an image with one more record.
func as(m *image.Image, r image.Record) *image.Image {
	next, _ := image.Apply(m, m.Index(), []image.Record{r})
	return next
}
