package control

import (
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// LoseReplicas says that a broker does not have what its replicas of some partitions vouched for: their files are damaged.
// They leave ISR and ELR, and others lead. Where nobody else has everything that was acknowledged they stay: the files may
// be repaired, and whoever asks for the partition is shown that it is this broker that it waits for.
type LoseReplicas struct {
	BrokerID    int32
	BrokerEpoch int64
	Partitions  []LostReplica // at most MaxPartitionsPerCommand
}

// LostReplica names a partition.
type LostReplica struct {
	Topic     image.UUID
	Partition int32
}

// Eval implements Command. What is not there, or has no replica at the broker, is passed over.
func (c *LoseReplicas) Eval(m *image.Image, _ time.Time) (Result, error) {
	if b, ok := m.Broker(c.BrokerID); !ok || b.Epoch != c.BrokerEpoch {
		return refuse(StaleBrokerEpoch, "broker %d is not registered with epoch %d", c.BrokerID, c.BrokerEpoch)
	}
	if len(c.Partitions) > MaxPartitionsPerCommand {
		return refuse(PolicyViolation, "%d partitions: at most %d can be changed at once", len(c.Partitions), MaxPartitionsPerCommand)
	}
	s := newPending(m)
	for _, x := range c.Partitions {
		t, ok := m.TopicByID(x.Topic)
		if !ok {
			continue
		}
		p, ok := s.partition(t, x.Partition)
		if !ok || !p.HasReplica(c.BrokerID) {
			continue
		}
		if next, changed := (turn{after: m, rules: rulesOf(m, t), isr: without(p.ISR, c.BrokerID), lost: c.BrokerID}).settle(p); changed {
			s.change(t, x.Partition, &next)
		}
	}
	return Result{Records: s.records}, nil
}
