package image

import (
	"encoding/binary"
	"slices"
)

// Record is one change that was decided. Replaying it on an image gives the next one.
type Record interface {
	id() recordID
	appendFields(b []byte) []byte
	tagged() []Tag
	replay(b *builder)
}

// recordID is what a record is known by in the log. Types are never reused; a version is raised when fields change in a
// way that tagged fields cannot express.
type recordID struct{ typ, version uint64 }

const (
	typeCluster         = 1
	typeVoter           = 2
	typeBroker          = 3
	typeTopic           = 4
	typePartitions      = 5
	typePartitionChange = 6
	typeProducerIDs     = 7
	typeTopicRemoval    = 8
	typeTopicConfigs    = 9
	typeBrokerConfigs   = 10
	typeOperation       = 11
	typeVoterRemoval    = 12
	typeBrokerChange    = 13
	typeBrokerRemoval   = 14
	typeELRClear        = 15
	typeGroupConfigs    = 16
)

// ClusterRecord names the cluster and finalizes its level.
type ClusterRecord struct {
	ClusterID string
	Level     uint32
	Tags      []Tag
}

// VoterRecord binds a raft id to a node.
type VoterRecord struct {
	Voter
	Tags []Tag
}

// VoterRemovalRecord takes a controller from those that are known. Its raft id is never used again.
type VoterRemovalRecord struct {
	RaftID uint64
	Tags   []Tag
}

// BrokerRecord registers an incarnation of a broker. The broker's epoch is the index of its unit.
type BrokerRecord struct {
	ID          int32
	Incarnation UUID
	Listeners   []Endpoint
	Rack        string
	Dirs        []UUID
	Levels      Levels
	Fenced      bool
	Tags        []Tag
}

// BrokerChangeRecord gives an incarnation of a broker its next state, whole. Its epoch stays.
type BrokerChangeRecord struct {
	ID                   int32
	Epoch                int64
	Fenced               bool
	InControlledShutdown bool
	Tags                 []Tag
}

// BrokerRemovalRecord takes a broker from those that are registered. What the directories of its replicas mean is kept.
type BrokerRemovalRecord struct {
	ID    int32
	Epoch int64
	Tags  []Tag
}

// TopicRecord creates a topic without partitions.
type TopicRecord struct {
	Name    string
	ID      UUID
	Configs []Setting // by key
	Tags    []Tag
}

// PartitionsRecord adds partitions to a topic, numbered on from First, which is how many it has. None of them is moving.
type PartitionsRecord struct {
	Topic      UUID
	First      int32
	Partitions []Partition
	Tags       []Tag
}

// PartitionChangeRecord gives a partition its next state, whole.
type PartitionChangeRecord struct {
	Topic     UUID
	Index     int32
	Partition Partition
	Tags      []Tag
}

// ProducerIDsRecord moves on the first producer id that was never handed out.
type ProducerIDsRecord struct {
	Next int64
	Tags []Tag
}

// TopicRemovalRecord removes a topic with its partitions.
type TopicRemovalRecord struct {
	Topic UUID
	Tags  []Tag
}

// TopicConfigsRecord gives a topic its settings, all of them.
type TopicConfigsRecord struct {
	Topic   UUID
	Configs []Setting // by key
	Tags    []Tag
}

// ELRClearRecord empties the ELRs of the partitions of a topic, or with no id of all topics, that have a leader. It goes with
// a change of min.insync.replicas: who was eligible under the old value may fall behind under the new one. Where nobody
// leads, nobody falls behind.
type ELRClearRecord struct {
	Topic UUID
	Tags  []Tag
}

// BrokerConfigsRecord gives a broker, or with [EveryBroker] all of them, its dynamic settings, all of them.
type BrokerConfigsRecord struct {
	Node    int32
	Configs []Setting // by key
	Tags    []Tag
}

// GroupConfigsRecord gives a consumer group its settings, all of them. The group need not be there.
type GroupConfigsRecord struct {
	Group   string
	Configs []Setting // by key
	Tags    []Tag
}

func (r *OperationRecord) id() recordID       { return recordID{typeOperation, 0} }
func (r *ClusterRecord) id() recordID         { return recordID{typeCluster, 0} }
func (r *VoterRecord) id() recordID           { return recordID{typeVoter, 1} }
func (r *VoterRemovalRecord) id() recordID    { return recordID{typeVoterRemoval, 0} }
func (r *BrokerRecord) id() recordID          { return recordID{typeBroker, 1} }
func (r *BrokerChangeRecord) id() recordID    { return recordID{typeBrokerChange, 0} }
func (r *BrokerRemovalRecord) id() recordID   { return recordID{typeBrokerRemoval, 0} }
func (r *ELRClearRecord) id() recordID        { return recordID{typeELRClear, 0} }
func (r *TopicRecord) id() recordID           { return recordID{typeTopic, 0} }
func (r *PartitionsRecord) id() recordID      { return recordID{typePartitions, 0} }
func (r *PartitionChangeRecord) id() recordID { return recordID{typePartitionChange, 0} }
func (r *ProducerIDsRecord) id() recordID     { return recordID{typeProducerIDs, 0} }
func (r *TopicRemovalRecord) id() recordID    { return recordID{typeTopicRemoval, 0} }
func (r *TopicConfigsRecord) id() recordID    { return recordID{typeTopicConfigs, 0} }
func (r *BrokerConfigsRecord) id() recordID   { return recordID{typeBrokerConfigs, 0} }
func (r *GroupConfigsRecord) id() recordID    { return recordID{typeGroupConfigs, 0} }

func (r *OperationRecord) tagged() []Tag     { return r.Tags }
func (r *ClusterRecord) tagged() []Tag       { return r.Tags }
func (r *VoterRecord) tagged() []Tag         { return r.Tags }
func (r *VoterRemovalRecord) tagged() []Tag  { return r.Tags }
func (r *BrokerRecord) tagged() []Tag        { return r.Tags }
func (r *BrokerChangeRecord) tagged() []Tag  { return r.Tags }
func (r *BrokerRemovalRecord) tagged() []Tag { return r.Tags }
func (r *ELRClearRecord) tagged() []Tag      { return r.Tags }
func (r *TopicRecord) tagged() []Tag         { return r.Tags }
func (r *PartitionsRecord) tagged() []Tag    { return r.Tags }
func (r *PartitionChangeRecord) tagged() []Tag {
	if r.Partition.Moving == nil {
		return r.Tags
	}
	return append([]Tag{{ID: tagMoving, Data: appendMoving(nil, &r.Partition)}}, r.Tags...)
}
func (r *ProducerIDsRecord) tagged() []Tag   { return r.Tags }
func (r *TopicRemovalRecord) tagged() []Tag  { return r.Tags }
func (r *TopicConfigsRecord) tagged() []Tag  { return r.Tags }
func (r *BrokerConfigsRecord) tagged() []Tag { return r.Tags }
func (r *GroupConfigsRecord) tagged() []Tag  { return r.Tags }

func (r *ClusterRecord) appendFields(b []byte) []byte {
	return appendUint(appendString(b, r.ClusterID), uint64(r.Level))
}

func (r *VoterRecord) appendFields(b []byte) []byte { return appendVoter(b, &r.Voter) }

func appendVoter(b []byte, v *Voter) []byte {
	b = appendNatural(appendUint(b, v.RaftID), v.NodeID)
	b = append(b, v.DirectoryID[:]...)
	return appendLevels(appendEndpoints(b, v.Endpoints), v.Levels)
}

func appendLevels(b []byte, l Levels) []byte {
	return appendUint(appendUint(b, uint64(l.Min)), uint64(l.Max))
}

func (r *reader) levels() Levels { return Levels{Min: r.uint32(), Max: r.uint32()} }

func (r *VoterRemovalRecord) appendFields(b []byte) []byte { return appendUint(b, r.RaftID) }

func (r *BrokerRecord) appendFields(b []byte) []byte {
	b = appendNatural(b, r.ID)
	b = append(b, r.Incarnation[:]...)
	b = appendEndpoints(b, r.Listeners)
	b = appendString(b, r.Rack)
	b = appendUUIDs(b, r.Dirs)
	return appendBool(appendLevels(b, r.Levels), r.Fenced)
}

func (r *BrokerChangeRecord) appendFields(b []byte) []byte {
	b = appendNatural(appendNatural(b, r.ID), r.Epoch)
	return appendBool(appendBool(b, r.Fenced), r.InControlledShutdown)
}

func (r *BrokerRemovalRecord) appendFields(b []byte) []byte {
	return appendNatural(appendNatural(b, r.ID), r.Epoch)
}

func (r *ELRClearRecord) appendFields(b []byte) []byte { return append(b, r.Topic[:]...) }

func (r *TopicRecord) appendFields(b []byte) []byte {
	b = appendString(b, r.Name)
	b = append(b, r.ID[:]...)
	return appendSettings(b, r.Configs)
}

func (r *PartitionsRecord) appendFields(b []byte) []byte {
	b = append(b, r.Topic[:]...)
	b = appendNatural(b, r.First)
	b = appendNatural(b, len(r.Partitions))
	for i := range r.Partitions {
		b = appendPartition(b, &r.Partitions[i])
	}
	return b
}

func (r *PartitionChangeRecord) appendFields(b []byte) []byte {
	b = append(b, r.Topic[:]...)
	return appendPartition(appendNatural(b, r.Index), &r.Partition)
}

func (r *ProducerIDsRecord) appendFields(b []byte) []byte { return appendNatural(b, r.Next) }

func (r *TopicRemovalRecord) appendFields(b []byte) []byte { return append(b, r.Topic[:]...) }

func (r *TopicConfigsRecord) appendFields(b []byte) []byte {
	return appendSettings(append(b, r.Topic[:]...), r.Configs)
}

func (r *BrokerConfigsRecord) appendFields(b []byte) []byte {
	return appendSettings(appendNode(b, r.Node), r.Configs)
}

func (r *GroupConfigsRecord) appendFields(b []byte) []byte {
	return appendSettings(appendString(b, r.Group), r.Configs)
}

// appendNode writes a node id or EveryBroker, the only negative one.
func appendNode(b []byte, node int32) []byte { return appendNatural(b, int64(node)+1) }

func (r *reader) node() int32 {
	v := r.uvarint()
	if v > 1<<31 {
		r.fail("%d is no node", v)
	}
	return int32(int64(v) - 1)
}

func appendEndpoints(b []byte, es []Endpoint) []byte {
	b = appendNatural(b, len(es))
	for _, e := range es {
		b = appendUint(appendString(appendString(b, e.Name), e.Host), uint64(e.Port))
	}
	return b
}

func (r *reader) endpoints() []Endpoint {
	n := r.count(3)
	if n == 0 {
		return nil
	}
	es := make([]Endpoint, n)
	for i := range es {
		es[i] = Endpoint{Name: r.string(), Host: r.string()}
		port := r.uvarint()
		if port > 1<<16-1 {
			r.fail("port %d", port)
		}
		es[i].Port = uint16(port)
	}
	return es
}

func appendSettings(b []byte, ss []Setting) []byte {
	b = appendNatural(b, len(ss))
	for _, s := range ss {
		b = appendString(appendString(b, s.Key), s.Value)
	}
	return b
}

func (r *reader) settings() []Setting {
	n := r.count(2)
	if n == 0 {
		return nil
	}
	ss := make([]Setting, n)
	for i := range ss {
		ss[i] = Setting{r.string(), r.string()}
	}
	return ss
}

func appendRecord(b []byte, r Record) []byte {
	id := r.id()
	b = appendUint(appendUint(b, id.typ), id.version)
	at := len(b)
	b = appendTags(r.appendFields(b), r.tagged())
	var room [binary.MaxVarintLen64]byte
	return slices.Insert(b, at, appendNatural(room[:0], len(b)-at)...)
}

// record reads one record. Its length is there for tools that print what they do not know; this reader must know all.
func (r *reader) record() Record {
	id := recordID{r.uvarint(), r.uvarint()}
	body := r.bytes()
	if r.err != nil {
		return nil
	}
	in := newReader(r.what, body)
	var rec Record
	switch id {
	case recordID{typeCluster, 0}:
		rec = &ClusterRecord{ClusterID: in.string(), Level: in.uint32(), Tags: in.tags()}
	case recordID{typeVoter, 0}:
		rec = &VoterRecord{Voter: Voter{RaftID: in.uvarint(), NodeID: in.natural32()}, Tags: in.tags()}
	case recordID{typeVoter, 1}:
		rec = &VoterRecord{Voter: Voter{RaftID: in.uvarint(), NodeID: in.natural32(), DirectoryID: in.uuid(), Endpoints: in.endpoints(), Levels: in.levels()}, Tags: in.tags()}
	case recordID{typeVoterRemoval, 0}:
		rec = &VoterRemovalRecord{RaftID: in.uvarint(), Tags: in.tags()}
	case recordID{typeOperation, 0}:
		rec = &OperationRecord{Operation: in.operation(), Actor: in.string(), Cause: in.string(), Reply: in.reply(), Tags: in.tags()}
	case recordID{typeBroker, 0}:
		rec = &BrokerRecord{ID: in.natural32(), Incarnation: in.uuid(), Listeners: in.endpoints(), Rack: in.string(),
			Dirs: in.uuids(), Levels: Levels{1, 1}, Fenced: in.bool(), Tags: in.tags()}
	case recordID{typeBroker, 1}:
		rec = &BrokerRecord{ID: in.natural32(), Incarnation: in.uuid(), Listeners: in.endpoints(), Rack: in.string(),
			Dirs: in.uuids(), Levels: in.levels(), Fenced: in.bool(), Tags: in.tags()}
	case recordID{typeBrokerChange, 0}:
		rec = &BrokerChangeRecord{ID: in.natural32(), Epoch: in.natural64(), Fenced: in.bool(), InControlledShutdown: in.bool(), Tags: in.tags()}
	case recordID{typeBrokerRemoval, 0}:
		rec = &BrokerRemovalRecord{ID: in.natural32(), Epoch: in.natural64(), Tags: in.tags()}
	case recordID{typeELRClear, 0}:
		rec = &ELRClearRecord{Topic: in.uuid(), Tags: in.tags()}
	case recordID{typeTopic, 0}:
		t := &TopicRecord{Name: in.string(), ID: in.uuid(), Configs: in.settings(), Tags: in.tags()}
		if _, moving := takeMoving(&t.Tags); moving {
			in.fail("partitions of a new topic are moving")
		}
		rec = t
	case recordID{typePartitions, 0}:
		rec = &PartitionsRecord{Topic: in.uuid(), First: in.natural32(), Partitions: in.partitions(), Tags: in.tags()}
	case recordID{typePartitionChange, 0}:
		change := &PartitionChangeRecord{Topic: in.uuid(), Index: in.natural32(), Partition: in.partition(&Partition{}), Tags: in.tags()}
		if data, moving := takeMoving(&change.Tags); moving {
			field := newReader(r.what, data)
			change.Partition.Moving = field.moving(&change.Partition)
			if err := field.end(); err != nil {
				in.fail("%v", err)
			}
		}
		rec = change
	case recordID{typeProducerIDs, 0}:
		rec = &ProducerIDsRecord{Next: in.natural64(), Tags: in.tags()}
	case recordID{typeTopicRemoval, 0}:
		rec = &TopicRemovalRecord{Topic: in.uuid(), Tags: in.tags()}
	case recordID{typeTopicConfigs, 0}:
		rec = &TopicConfigsRecord{Topic: in.uuid(), Configs: in.settings(), Tags: in.tags()}
	case recordID{typeBrokerConfigs, 0}:
		rec = &BrokerConfigsRecord{Node: in.node(), Configs: in.settings(), Tags: in.tags()}
	case recordID{typeGroupConfigs, 0}:
		rec = &GroupConfigsRecord{Group: in.string(), Configs: in.settings(), Tags: in.tags()}
	default:
		r.unknown(&UnknownFormatError{What: "record", Type: id.typ, Version: id.version})
		return nil
	}
	if err := in.end(); err != nil {
		r.fail("%v", err)
		return nil
	}
	return rec
}

// takeMoving takes that field out, if it is there: it would be the first.
func takeMoving(tags *[]Tag) (data []byte, found bool) {
	all := *tags
	if len(all) == 0 || all[0].ID != tagMoving {
		return nil, false
	}
	if *tags = all[1:]; len(all) == 1 {
		*tags = nil
	}
	return all[0].Data, true
}

func (r *reader) partitions() []Partition {
	ps := make([]Partition, 0, r.count(minPartitionSize))
	prev := &Partition{}
	for range cap(ps) {
		ps = append(ps, r.partition(prev))
		prev = &ps[len(ps)-1]
	}
	return ps
}

func (r *ClusterRecord) replay(b *builder) {
	if b.img.clusterID != "" && b.img.clusterID != r.ClusterID {
		b.misfit(r, "the cluster is %s, the record says %s", b.img.clusterID, r.ClusterID)
	}
	b.img.clusterID, b.img.level = r.ClusterID, r.Level
}

func (r *VoterRecord) replay(b *builder) {
	at, found := b.img.findVoter(r.RaftID)
	b.img.voters = slices.Clone(b.img.voters)
	switch {
	case !found:
		b.img.voters = slices.Insert(b.img.voters, at, r.Voter)
		b.img.voters[at].Since = b.index
	case b.img.voters[at].NodeID != r.NodeID:
		b.misfit(r, "raft id %d is bound to node %d already", r.RaftID, b.img.voters[at].NodeID)
	default: // it can be reached elsewhere now, or is of another release
		b.img.voters[at].Endpoints, b.img.voters[at].Levels = r.Endpoints, r.Levels
	}
}

func (r *VoterRemovalRecord) replay(b *builder) {
	at, found := b.img.findVoter(r.RaftID)
	if !found {
		b.misfit(r, "no controller has raft id %d", r.RaftID)
	}
	b.img.voters = slices.Delete(slices.Clone(b.img.voters), at, at+1)
}

func (r *BrokerRecord) replay(b *builder) {
	next := &Broker{
		ID: r.ID, Epoch: int64(b.index), Incarnation: r.Incarnation, Listeners: r.Listeners, Rack: r.Rack,
		Dirs: r.Dirs, Levels: r.Levels, Fenced: r.Fenced, tags: r.Tags,
	}
	at, found := b.img.findBroker(r.ID)
	b.img.brokers = slices.Clone(b.img.brokers)
	if found {
		next.dirs = slices.Clone(b.img.brokers[at].dirs)
		b.img.brokers[at] = next
	} else {
		b.img.brokers = slices.Insert(b.img.brokers, at, next)
	}
	if was, ok := findRetired(b.img.retired, r.ID); ok {
		next.dirs = slices.Clone(b.img.retired[was].dirs)
		b.img.retired = slices.Delete(slices.Clone(b.img.retired), was, was+1)
	}
	for _, d := range r.Dirs {
		if !slices.Contains(next.dirs, d) {
			next.dirs = append(next.dirs, d)
		}
	}
	if len(next.dirs) > MaxDirs {
		b.misfit(r, "broker %d would have had %d directories", r.ID, len(next.dirs))
	}
}

// broker is where a broker stands in the image's list, which is a copy.
func (b *builder) broker(r Record, id int32, epoch int64) int {
	at, found := b.img.findBroker(id)
	if !found || b.img.brokers[at].Epoch != epoch {
		b.misfit(r, "no broker %d is registered with epoch %d", id, epoch)
	}
	b.img.brokers = slices.Clone(b.img.brokers)
	return at
}

func (r *BrokerChangeRecord) replay(b *builder) {
	at := b.broker(r, r.ID, r.Epoch)
	next := *b.img.brokers[at]
	next.Fenced, next.InControlledShutdown = r.Fenced, r.InControlledShutdown
	b.img.brokers[at] = &next
}

func (r *BrokerRemovalRecord) replay(b *builder) {
	at := b.broker(r, r.ID, r.Epoch)
	dirs := b.img.brokers[at].dirs
	b.img.brokers = slices.Delete(b.img.brokers, at, at+1)
	b.flush() // so that what is counted next is as of now
	if b.img.Count(r.ID, Holds) == 0 || len(dirs) == 0 {
		return
	}
	place, _ := findRetired(b.img.retired, r.ID)
	b.img.retired = slices.Insert(slices.Clone(b.img.retired), place, retired{r.ID, dirs})
}

func (r *TopicRecord) replay(b *builder) {
	if t, exists := b.img.TopicLike(r.Name); exists {
		b.misfit(r, "topic %s exists beside %s", t.Name, r.Name)
	}
	if _, exists := b.img.TopicByID(r.ID); exists {
		b.misfit(r, "topic id %s exists", r.ID)
	}
	b.addTopic(&Topic{Name: r.Name, ID: r.ID, configs: r.Configs, tags: r.Tags})
}

func (r *PartitionsRecord) replay(b *builder) {
	t, slot := b.topic(r, r.Topic)
	if t.count != r.First {
		b.misfit(r, "topic %s has %d partitions, the record adds from %d", t.Name, t.count, r.First)
	}
	b.addPartitions(t, slot, r.Partitions)
}

func (r *PartitionChangeRecord) replay(b *builder) {
	t, slot := b.topic(r, r.Topic)
	if r.Index >= t.count {
		b.misfit(r, "topic %s has no partition %d", t.Name, r.Index)
	}
	p := &(*b.block(t, r.Index/blockSize))[r.Index%blockSize]
	if r.Partition.PartitionEpoch <= p.PartitionEpoch || r.Partition.LeaderEpoch < p.LeaderEpoch {
		b.misfit(r, "%s-%d would go from epochs %d/%d to %d/%d", t.Name, r.Index,
			p.LeaderEpoch, p.PartitionEpoch, r.Partition.LeaderEpoch, r.Partition.PartitionEpoch)
	}
	next := r.Partition
	next.share(p)
	b.mark(slot, r.Index, p, &next)
	b.delta.left(t, r.Index, p, &next)
	*p = next
	b.delta.changed(t, r.Index)
}

func (r *TopicRemovalRecord) replay(b *builder) {
	b.removeTopic(b.topic(r, r.Topic))
}

func (r *TopicConfigsRecord) replay(b *builder) {
	t, _ := b.topic(r, r.Topic)
	t.configs = r.Configs
	for i := range t.count {
		b.delta.changed(t, i)
	}
}

func (r *ELRClearRecord) replay(b *builder) {
	first, end := int32(0), b.img.topics.count()
	if !r.Topic.IsZero() {
		_, first = b.topic(r, r.Topic)
		end = first + 1
	}
	for slot := first; slot < end; slot++ {
		t := b.img.topics.at(slot)
		for i := range t.count {
			if p, _ := t.Partition(i); len(p.ELR) == 0 || p.Leader == NoLeader {
				continue
			}
			t, _ = b.topic(r, t.ID)
			p := &(*b.block(t, i/blockSize))[i%blockSize]
			p.ELR = nil
			p.PartitionEpoch++
			b.delta.changed(t, i)
		}
	}
}

func (r *BrokerConfigsRecord) replay(b *builder) {
	b.delta.Settings = true
	at, found := b.img.findNode(r.Node)
	b.img.settings = slices.Clone(b.img.settings)
	if found {
		b.img.settings = slices.Delete(b.img.settings, at, at+1)
	}
	if len(r.Configs) > 0 {
		b.img.settings = slices.Insert(b.img.settings, at, NodeSettings{r.Node, r.Configs})
	}
}

func (r *GroupConfigsRecord) replay(b *builder) {
	at, found := b.img.findGroup(r.Group)
	b.img.groups = slices.Clone(b.img.groups)
	if found {
		b.img.groups = slices.Delete(b.img.groups, at, at+1)
	}
	if len(r.Configs) > 0 {
		b.img.groups = slices.Insert(b.img.groups, at, GroupSettings{r.Group, r.Configs})
	}
}

func (r *ProducerIDsRecord) replay(b *builder) {
	if r.Next <= b.img.nextProducerID {
		b.misfit(r, "producer ids up to %d are handed out, the record says %d", b.img.nextProducerID, r.Next)
	}
	b.img.nextProducerID = r.Next
}
