package control

import (
	"fmt"
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// partitionID names a partition.
type partitionID struct {
	topic image.UUID
	index int32
}

// pending is what one command has decided about partitions so far. The second change of a partition in one command is
// decided on the first: two changes on the same state would have the same epoch.
type pending struct {
	m       *image.Image
	changed map[partitionID]*image.Partition
	records []image.Record
}

func newPending(m *image.Image) *pending {
	return &pending{m: m, changed: map[partitionID]*image.Partition{}}
}

func (s *pending) partition(t *image.Topic, index int32) (*image.Partition, bool) {
	if p, ok := s.changed[partitionID{t.ID, index}]; ok {
		return p, true
	}
	return t.Partition(index)
}

func (s *pending) change(t *image.Topic, index int32, next *image.Partition) {
	s.changed[partitionID{t.ID, index}] = next
	s.records = append(s.records, &image.PartitionChangeRecord{Topic: t.ID, Index: index, Partition: *next})
}

// failure is an answer for one partition among many.
func failure(code Code, format string, args ...any) *Refusal {
	return &Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

// AlterPartition changes the ISRs of partitions that its sender leads. Each partition is answered for itself.
type AlterPartition struct {
	BrokerID    int32
	BrokerEpoch int64
	Partitions  []ISRChange // at most MaxPartitionsPerCommand
}

// ISRChange is what a leader asks for, and the state it knew when it asked.
type ISRChange struct {
	Topic          image.UUID
	Partition      int32
	LeaderEpoch    int32
	PartitionEpoch int32
	ISR            []ISRMember // the whole new set
	// Recovering is Kafka's state after an unclean election. There is no way into it here.
	Recovering bool
}

// ISRMember is a broker that shall be in an ISR, with the epoch by which the leader knows it. -1 is any epoch: from leaders
// that speak a version of the protocol without them.
type ISRMember struct {
	ID    int32
	Epoch int64
}

// AlteredPartitions is the reply, in the order asked.
type AlteredPartitions struct{ Partitions []AlteredPartition }

// AlteredPartition is the state of a partition after the change, or why there was none. With [NewLeaderElected], as in Kafka,
// it has both: the change was made, and the sender does not lead any more.
type AlteredPartition struct {
	Topic          image.UUID
	Partition      int32
	Refusal        *Refusal `json:",omitempty"` // nil for none
	Leader         int32
	LeaderEpoch    int32
	PartitionEpoch int32
	ISR            []int32 `json:",omitempty"`
}

// Eval implements Command. Checks stand in the order of Kafka's ReplicationControlManager.alterPartition.
func (c *AlterPartition) Eval(m *image.Image, _ time.Time) (Result, error) {
	if b, ok := m.Broker(c.BrokerID); !ok || b.Epoch != c.BrokerEpoch {
		return refuse(StaleBrokerEpoch, "broker %d is not registered with epoch %d", c.BrokerID, c.BrokerEpoch)
	}
	if len(c.Partitions) > MaxPartitionsPerCommand {
		return refuse(PolicyViolation, "%d partitions: at most %d can be changed at once", len(c.Partitions), MaxPartitionsPerCommand)
	}
	s := newPending(m)
	reply := &AlteredPartitions{Partitions: make([]AlteredPartition, len(c.Partitions))}
	for i := range c.Partitions {
		reply.Partitions[i] = c.alter(s, &c.Partitions[i])
	}
	return Result{Records: s.records, Reply: reply}, nil
}

func (c *AlterPartition) alter(s *pending, change *ISRChange) AlteredPartition {
	answer := AlteredPartition{Topic: change.Topic, Partition: change.Partition, Leader: image.NoLeader}
	t, ok := s.m.TopicByID(change.Topic)
	if !ok {
		answer.Refusal = failure(UnknownTopicID, "This server does not host this topic ID.")
		return answer
	}
	p, ok := s.partition(t, change.Partition)
	if !ok {
		answer.Refusal = failure(UnknownPartition, "No such partition as %s-%d", t.Name, change.Partition)
		return answer
	}
	if answer.Refusal = c.check(s.m, change, p); answer.Refusal != nil {
		return answer
	}
	isr := pick(p.Replicas, func(id int32) bool {
		return slices.ContainsFunc(change.ISR, func(x ISRMember) bool { return x.ID == id })
	})
	next, changed := turn{after: s.m, rules: rulesOf(s.m, t), isr: isr, lost: noBroker}.settle(p)
	if changed {
		s.change(t, change.Partition, &next)
	}
	if next.Leader != c.BrokerID { // the sender is about to stop, and now there is another that can lead, or it lost its replica
		answer.Refusal = failure(NewLeaderElected, "the ISR is %v, and broker %d leads", next.ISR, next.Leader)
	}
	answer.Leader, answer.LeaderEpoch, answer.PartitionEpoch, answer.ISR = next.Leader, next.LeaderEpoch, next.PartitionEpoch, next.ISR
	return answer
}

func (c *AlterPartition) check(m *image.Image, change *ISRChange, p *image.Partition) *Refusal {
	switch {
	case change.LeaderEpoch > p.LeaderEpoch || change.PartitionEpoch > p.PartitionEpoch:
		return failure(NotController, "the sender knows epochs %d/%d, this controller %d/%d: it is not the active one any more",
			change.LeaderEpoch, change.PartitionEpoch, p.LeaderEpoch, p.PartitionEpoch)
	case change.LeaderEpoch < p.LeaderEpoch:
		return failure(FencedLeaderEpoch, "the leader epoch is %d, not %d", p.LeaderEpoch, change.LeaderEpoch)
	case c.BrokerID != p.Leader:
		return failure(InvalidRequest, "the leader is broker %d, not broker %d", p.Leader, c.BrokerID)
	case change.PartitionEpoch < p.PartitionEpoch:
		return failure(InvalidUpdateVersion, "the partition epoch is %d, not %d", p.PartitionEpoch, change.PartitionEpoch)
	}
	leads := false
	for i, x := range change.ISR {
		again := slices.ContainsFunc(change.ISR[:i], func(y ISRMember) bool { return y.ID == x.ID })
		if again || !p.HasReplica(x.ID) {
			return failure(InvalidRequest, "broker %d is twice in the ISR or has no replica: the replicas are at %v", x.ID, p.Replicas)
		}
		leads = leads || x.ID == c.BrokerID
	}
	if !leads {
		return failure(InvalidRequest, "an ISR without its leader, broker %d", c.BrokerID)
	}
	if change.Recovering {
		return failure(InvalidRequest, "the leader recovery state cannot change from RECOVERED to RECOVERING")
	}
	for _, x := range change.ISR {
		if reason := c.ineligible(m, x); reason != "" {
			return failure(IneligibleReplica, "broker %d cannot be in the ISR: it is %s", x.ID, reason)
		}
	}
	return nil
}

// ineligible says why a broker may not be in an ISR, empty if it may. A leader that is about to stop still says who
// follows it: otherwise nothing is acknowledged while one of its followers is gone.
func (c *AlterPartition) ineligible(m *image.Image, x ISRMember) string {
	b, ok := m.Broker(x.ID)
	switch {
	case !ok:
		return "not registered"
	case b.InControlledShutdown && b.ID != c.BrokerID:
		return "shutting down"
	case b.Fenced:
		return "fenced"
	case x.Epoch != -1 && x.Epoch != b.Epoch:
		return fmt.Sprintf("registered with epoch %d, not %d", b.Epoch, x.Epoch)
	}
	return ""
}

// ElectLeaders elects leaders anew: the preferred ones, or where nobody leads also one that may lack acknowledged records.
// Each partition is answered for itself.
type ElectLeaders struct {
	Unclean bool
	// Leaderless is for the controller itself, without Partitions: all that nobody leads get a leader by the rules of their
	// topics. It is due when a topic comes to allow unclean elections, and when a controller takes office: the one before may
	// have unfenced a broker and not gone on. Partitions that stay without one are not in the reply.
	Leaderless bool
	Partitions []TopicPartition // at most MaxElections; nil for all, MaxChanges at a time
	// From is where to go on with all partitions: the Next of the reply before.
	From image.Place
}

// TopicPartition names a partition.
type TopicPartition struct {
	Topic     string
	Partition int32
}

// ElectedLeaders is the reply. Of all partitions it has those for which there was something to do.
type ElectedLeaders struct {
	Partitions []ElectedLeader
	More       bool        // there may be further ones
	Next       image.Place // where
}

// ElectedLeader says that a leader was elected, or why not.
type ElectedLeader struct {
	TopicPartition
	Refusal *Refusal `json:",omitempty"` // nil for none
}

// Eval implements Command.
func (c *ElectLeaders) Eval(m *image.Image, _ time.Time) (Result, error) {
	if len(c.Partitions) > MaxElections {
		return refuse(PolicyViolation, "%d partitions: at most %d leaders can be elected at once", len(c.Partitions), MaxElections)
	}
	s, reply := newPending(m), &ElectedLeaders{}
	if c.Partitions != nil {
		for _, tp := range c.Partitions {
			reply.Partitions = append(reply.Partitions, ElectedLeader{tp, c.elect(s, tp)})
		}
		return Result{Records: s.records, Reply: reply}, nil
	}
	all := m.NotPreferredFrom(c.From)
	if c.Unclean || c.Leaderless {
		all = m.LeaderlessFrom(c.From)
	}
	looked := 0
	for next, lp := range all {
		if reply.More = len(reply.Partitions) == MaxChanges || looked == maxLooked; reply.More {
			break
		}
		tp := TopicPartition{lp.Topic.Name, lp.Index}
		refusal := c.elect(s, tp)
		if refusal == nil || !c.Leaderless {
			reply.Partitions = append(reply.Partitions, ElectedLeader{tp, refusal})
		}
		reply.Next = next
		looked++
	}
	return Result{Records: s.records, Reply: reply}, nil
}

// maxLooked bounds the partitions that one ElectLeaders looks at and does not answer for.
const maxLooked = 10 * MaxChanges

// elect is Kafka's ReplicationControlManager.electLeader.
func (c *ElectLeaders) elect(s *pending, tp TopicPartition) *Refusal {
	t, ok := s.m.Topic(tp.Topic)
	if !ok {
		return failure(UnknownTopic, "No such topic as %s", tp.Topic)
	}
	p, ok := s.partition(t, tp.Partition)
	switch {
	case !ok:
		return failure(UnknownPartition, "No such partition as %s-%d", tp.Topic, tp.Partition)
	case (c.Unclean || c.Leaderless) && p.Leader != image.NoLeader, !c.Unclean && p.Leader == p.Replicas[0]:
		return failure(ElectionNotNeeded, "Leader election not needed for topic partition.")
	}
	r := rulesOf(s.m, t)
	r.unclean = c.Unclean || c.Leaderless && r.unclean
	next, _ := turn{after: s.m, rules: r, isr: p.ISR, lost: noBroker, preferred: !c.Unclean}.settle(p)
	switch {
	case next.Leader != p.Leader:
		s.change(t, tp.Partition, &next)
		return nil
	case c.Unclean:
		return failure(EligibleLeadersNotAvailable, "Eligible topic partition leaders are not available.")
	default:
		return failure(PreferredLeaderNotAvailable, "The preferred leader was not available.")
	}
}
