package control

import (
	"fmt"
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// severalNodes is the metadata level from which a cluster may have more than one node.
const severalNodes = 2

// FormCluster writes down whose log this is, and who its first voters are. It is the first command of a new log, and
// harmless after that. It raises the level of a cluster of one node, which it is given by: nobody else has to be able to
// read what is written from then on.
type FormCluster struct {
	ClusterID string
	Voters    []image.Voter
}

// Eval implements Command.
func (c *FormCluster) Eval(m *image.Image, _ time.Time) (Result, error) {
	if m.ClusterID() == c.ClusterID && m.Level() < severalNodes {
		return Result{Records: []image.Record{&image.ClusterRecord{ClusterID: c.ClusterID, Level: severalNodes}}}, nil
	}
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

// PutVoter makes a controller known, or says where it can be reached now. Who votes, raft knows. A raft id that is new
// belongs to a node that is a controller already, and has lost its directory; unless New takes another node in.
type PutVoter struct {
	Voter image.Voter
	New   bool
}

// Eval implements Command.
func (c *PutVoter) Eval(m *image.Image, _ time.Time) (Result, error) {
	old, known := m.Voter(c.Voter.RaftID)
	switch {
	case c.Voter.NodeID < 0:
		return refuse(InvalidRequest, "%d is no node", c.Voter.NodeID)
	case c.Voter.RaftID == 0:
		return refuse(InvalidRequest, "a controller without a raft id")
	case known && old.NodeID != c.Voter.NodeID:
		return refuse(DuplicateVoter, "raft id %d belongs to node %d, not to node %d: it is drawn once per directory and never used again", old.RaftID, old.NodeID, c.Voter.NodeID)
	case known && slices.Equal(old.Endpoints, c.Voter.Endpoints) && old.Levels == c.Voter.Levels:
		return Result{}, nil
	}
	twice := slices.ContainsFunc(m.Voters(), func(v image.Voter) bool { return v.NodeID == c.Voter.NodeID })
	switch {
	case known:
	case c.New && twice:
		return refuse(DuplicateVoter, "node %d is a controller already", c.Voter.NodeID)
	case !c.New && !twice:
		return refuse(VoterNotFound, "node %d is no controller of this cluster: add it first", c.Voter.NodeID)
	}
	return Result{Records: []image.Record{&image.VoterRecord{Voter: c.Voter}}}, nil
}

// RemoveVoter forgets a controller, once it does not vote any more.
type RemoveVoter struct{ RaftID uint64 }

// Eval implements Command.
func (c *RemoveVoter) Eval(m *image.Image, _ time.Time) (Result, error) {
	if _, known := m.Voter(c.RaftID); !known {
		return refuse(VoterNotFound, "no controller has raft id %d", c.RaftID)
	}
	if len(m.Voters()) == 1 {
		return refuse(InvalidRequest, "the last controller cannot be removed")
	}
	return Result{Records: []image.Record{&image.VoterRemovalRecord{RaftID: c.RaftID}}}, nil
}

// MetadataVersion is the feature that finalizes the metadata level. The levels of Kafka's feature metadata.version are its
// releases, so this is another one.
const MetadataVersion = "streambus.metadata.version"

// GroupVersion is Kafka's feature of the consumer protocol for groups (KIP-848). It has this level wherever there are groups.
const (
	GroupVersion    = "group.version"
	OwnGroupVersion = 1
)

// UpgradeType says what an update of a feature may do, in the numbers of UpdateFeatures.
type UpgradeType int8

// The types that there are.
const (
	Upgrade         UpgradeType = 1
	SafeDowngrade   UpgradeType = 2
	UnsafeDowngrade UpgradeType = 3
)

// FeatureUpdate sets the level of one feature.
type FeatureUpdate struct {
	Feature string
	Level   int16
	Type    UpgradeType
}

// UpdateFeatures finalizes levels of features; all of them, or none.
type UpdateFeatures struct {
	Updates      []FeatureUpdate
	ValidateOnly bool
}

// Eval implements Command. Checks stand in the order of Kafka's FeatureControlManager.updateFeature.
func (c *UpdateFeatures) Eval(m *image.Image, _ time.Time) (Result, error) {
	level := m.Level()
	for _, u := range c.Updates {
		if reason := u.refusal(m); reason != "" {
			return refuse(InvalidUpdateVersion, "Invalid update version %d for feature %s. %s", u.Level, u.Feature, reason)
		}
		if u.Feature == MetadataVersion {
			level = uint32(u.Level)
		}
	}
	if c.ValidateOnly || level == m.Level() {
		return Result{}, nil
	}
	return Result{Records: []image.Record{&image.ClusterRecord{ClusterID: m.ClusterID(), Level: level}}}, nil
}

// refusal says why an update is not possible, empty if it is.
func (u FeatureUpdate) refusal(m *image.Image) string {
	if u.Type < Upgrade || u.Type > UnsafeDowngrade {
		return "The controller does not support the given upgrade type."
	}
	if u.Level < 0 {
		return "A feature version cannot be less than 0."
	}
	if u.Feature == GroupVersion && u.Level != OwnGroupVersion {
		return fmt.Sprintf("The controller only supports versions %d-%d", OwnGroupVersion, OwnGroupVersion)
	}
	if u.Feature == GroupVersion {
		return ""
	}
	if u.Feature != MetadataVersion {
		return "The controller does not support this feature."
	}
	level := uint32(u.Level)
	unable := func(who string, id int32, l image.Levels) string {
		switch {
		case l == image.Levels{}:
			return fmt.Sprintf("%s %d has not registered, and may not support this feature", who, id)
		case level < l.Min || level > l.Max:
			return fmt.Sprintf("%s %d only supports versions %d-%d", who, id, l.Min, l.Max)
		}
		return ""
	}
	if l := image.OwnLevels; level < l.Min || level > l.Max {
		return fmt.Sprintf("The controller only supports versions %d-%d", l.Min, l.Max)
	}
	if level > m.Level() { // everybody reads what is finalized
		for _, b := range m.Brokers() {
			if reason := unable("Broker", b.ID, b.Levels); reason != "" {
				return reason
			}
		}
		for _, v := range m.Voters() {
			if reason := unable("controller", v.NodeID, v.Levels); reason != "" {
				return reason
			}
		}
	}
	switch {
	case level < m.Level() && u.Type == Upgrade:
		return "Can't downgrade the version of this feature without setting the upgrade type to either safe or unsafe downgrade."
	case level > m.Level() && u.Type != Upgrade:
		return "Can't downgrade to a newer version."
	case level < m.Level():
		return "Refusing to perform the requested downgrade because it might delete metadata information."
	}
	return ""
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
