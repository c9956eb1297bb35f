package control

import (
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// FormCluster writes down whose log this is. It is the first command of a new log, and harmless after that.
type FormCluster struct {
	ClusterID string
	Voter     image.Voter
}

// Eval implements Command.
func (c *FormCluster) Eval(m *image.Image, _ time.Time) (Result, error) {
	if m.ClusterID() == c.ClusterID && slices.Contains(m.Voters(), c.Voter) {
		return Result{}, nil
	}
	if m.ClusterID() != "" {
		return refuse(WrongCluster, "the metadata log is of cluster %s, this node is of cluster %s", m.ClusterID(), c.ClusterID)
	}
	return Result{Records: []image.Record{
		&image.ClusterRecord{ClusterID: c.ClusterID, Level: image.Level},
		&image.VoterRecord{Voter: c.Voter},
	}}, nil
}

// RegisterBroker makes an incarnation of a broker known. Its epoch is the index of the outcome.
//
// A partition that an earlier incarnation led is led by the new one in a new leader epoch: what the earlier one wrote
// and never flushed may be gone, and by the epoch its readers find out.
type RegisterBroker struct {
	ID          int32
	Incarnation image.UUID
	Listeners   []image.Endpoint
	Rack        string
	Dirs        []image.UUID
}

// Eval implements Command.
func (c *RegisterBroker) Eval(m *image.Image, _ time.Time) (Result, error) {
	old, known := m.Broker(c.ID)
	if known && old.Incarnation == c.Incarnation {
		return Result{}, nil
	}
	if known && old.KnownDirs()+len(c.Dirs) > image.MaxDirs {
		return refuse(TooManyDirectories, "broker %d has had %d data directories, and an id can have %d: give it a new node.id", c.ID, old.KnownDirs(), image.MaxDirs)
	}
	records := []image.Record{&image.BrokerRecord{
		ID: c.ID, Incarnation: c.Incarnation, Listeners: c.Listeners, Rack: c.Rack, Dirs: c.Dirs,
	}}
	if !known {
		return Result{Records: records}, nil
	}
	for t := range m.Topics() {
		for i := range t.NumPartitions() {
			if p, _ := t.Partition(i); p.Leader == c.ID {
				next := *p
				next.LeaderEpoch++
				next.PartitionEpoch++
				records = append(records, &image.PartitionChangeRecord{Topic: t.ID, Index: i, Partition: next})
			}
		}
	}
	return Result{Records: records}, nil
}

// AllocateProducerIDs hands a broker a block of producer ids that nobody else ever gets.
type AllocateProducerIDs struct {
	BrokerID    int32
	BrokerEpoch int64
	Count       int32
}

// ProducerIDBlock is the reply: ids First to First+Count-1.
type ProducerIDBlock struct {
	First int64
	Count int32
}

// Eval implements Command.
func (c *AllocateProducerIDs) Eval(m *image.Image, _ time.Time) (Result, error) {
	b, ok := m.Broker(c.BrokerID)
	if !ok || b.Epoch != c.BrokerEpoch {
		return refuse(StaleBrokerEpoch, "broker %d is not registered with epoch %d", c.BrokerID, c.BrokerEpoch)
	}
	first := m.NextProducerID()
	return Result{
		Records: []image.Record{&image.ProducerIDsRecord{Next: first + int64(c.Count)}},
		Reply:   &ProducerIDBlock{First: first, Count: c.Count},
	}, nil
}
