package control

import (
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// FormCluster writes down whose log this is, and who its first voters are. It is the first command of a new log, and
// harmless after that.
type FormCluster struct {
	ClusterID string
	Voters    []image.Voter
}

// Eval implements Command.
func (c *FormCluster) Eval(m *image.Image, _ time.Time) (Result, error) {
	if m.ClusterID() == c.ClusterID {
		return Result{}, nil
	}
	if m.ClusterID() != "" {
		return refuse(WrongCluster, "the metadata log is of cluster %s, this node is of cluster %s", m.ClusterID(), c.ClusterID)
	}
	records := []image.Record{&image.ClusterRecord{ClusterID: c.ClusterID, Level: image.Level}}
	for _, v := range c.Voters {
		records = append(records, &image.VoterRecord{Voter: v})
	}
	return Result{Records: records}, nil
}

// RegisterBroker makes an incarnation of a broker known. Its epoch is the index of the outcome.
//
// A partition that an earlier incarnation led is led by the new one in a new leader epoch: what the earlier one wrote
// and never flushed may be gone, and by the epoch its readers find out. A replica in a directory that the new
// incarnation does not have is not in sync any more and cannot lead, from the unit of the registration on.
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
	if had := m.KnownDirs(c.ID); had+len(c.Dirs) > image.MaxDirs {
		return refuse(TooManyDirectories, "broker %d has had %d data directories, and an id can have %d: give it a new node.id", c.ID, had, image.MaxDirs)
	}
	records := []image.Record{&image.BrokerRecord{
		ID: c.ID, Incarnation: c.Incarnation, Listeners: c.Listeners, Rack: c.Rack, Dirs: c.Dirs, Levels: image.OwnLevels,
	}}
	if !known {
		return Result{Records: records}, nil
	}
	for t := range m.Topics() {
		for i := range t.NumPartitions() {
			p, _ := t.Partition(i)
			if next, changed := c.restart(m, old, p); changed {
				records = append(records, &image.PartitionChangeRecord{Topic: t.ID, Index: i, Partition: next})
			}
		}
	}
	return Result{Records: records}, nil
}

// restart is the next state of a partition, if the new incarnation makes a difference to it.
//
// The last in-sync replica stays in the set although its directory is gone, without leading. Its directory may come
// back, and nobody else has everything that was acknowledged. A directory that was wiped has another id.
func (c *RegisterBroker) restart(m *image.Image, old *image.Broker, p *image.Partition) (next image.Partition, changed bool) {
	at := slices.Index(p.Replicas, c.ID)
	if at < 0 {
		return next, false
	}
	next = *p
	next.PartitionEpoch++
	place := p.Dirs[at]
	switch here := place == image.NoDir || slices.Contains(c.Dirs, old.Dir(place)); {
	case here && (p.Leader == c.ID || p.Leader == image.NoLeader && slices.Contains(p.ISR, c.ID)):
		next.Leader = c.ID
		next.LeaderEpoch++
		return next, true
	case here:
		return next, false
	}
	if rest := without(p.ISR, c.ID); len(rest) > 0 {
		next.ISR = rest
	}
	next.ELR = without(p.ELR, c.ID)
	if p.Leader == c.ID {
		next.Leader = elect(m, &next, c.ID)
		next.LeaderEpoch++
	}
	return next, p.Leader == c.ID || len(next.ISR) < len(p.ISR) || len(next.ELR) < len(p.ELR)
}

// elect chooses the first in-sync replica, in the order of assignment, whose broker is there with its directory.
func elect(m *image.Image, p *image.Partition, except int32) int32 {
	for i, id := range p.Replicas {
		b, ok := m.Broker(id)
		if id == except || !ok || b.Fenced || !slices.Contains(p.ISR, id) {
			continue
		}
		if place := p.Dirs[i]; place == image.NoDir || slices.Contains(b.Dirs, b.Dir(place)) {
			return id
		}
	}
	return image.NoLeader
}

// without copies: the slice belongs to an image.
func without(ids []int32, id int32) []int32 {
	return slices.DeleteFunc(slices.Clone(ids), func(x int32) bool { return x == id })
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
	if c.Count <= 0 {
		return refuse(PolicyViolation, "a block of %d producer ids", c.Count)
	}
	first := m.NextProducerID()
	return Result{
		Records: []image.Record{&image.ProducerIDsRecord{Next: first + int64(c.Count)}},
		Reply:   &ProducerIDBlock{First: first, Count: c.Count},
	}, nil
}
