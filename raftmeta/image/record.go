package image

import (
	"cmp"
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

// BrokerRecord registers an incarnation of a broker. The broker's epoch is the index of its unit.
type BrokerRecord struct {
	ID          int32
	Incarnation UUID
	Listeners   []Endpoint
	Rack        string
	Dirs        []UUID
	Fenced      bool
	Tags        []Tag
}

// TopicRecord creates a topic without partitions.
type TopicRecord struct {
	Name    string
	ID      UUID
	Configs []Setting // by key
	Tags    []Tag
}

// PartitionsRecord adds partitions to a topic, numbered on from First, which is how many it has.
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

func (r *ClusterRecord) id() recordID         { return recordID{typeCluster, 0} }
func (r *VoterRecord) id() recordID           { return recordID{typeVoter, 0} }
func (r *BrokerRecord) id() recordID          { return recordID{typeBroker, 0} }
func (r *TopicRecord) id() recordID           { return recordID{typeTopic, 0} }
func (r *PartitionsRecord) id() recordID      { return recordID{typePartitions, 0} }
func (r *PartitionChangeRecord) id() recordID { return recordID{typePartitionChange, 0} }
func (r *ProducerIDsRecord) id() recordID     { return recordID{typeProducerIDs, 0} }

func (r *ClusterRecord) tagged() []Tag         { return r.Tags }
func (r *VoterRecord) tagged() []Tag           { return r.Tags }
func (r *BrokerRecord) tagged() []Tag          { return r.Tags }
func (r *TopicRecord) tagged() []Tag           { return r.Tags }
func (r *PartitionsRecord) tagged() []Tag      { return r.Tags }
func (r *PartitionChangeRecord) tagged() []Tag { return r.Tags }
func (r *ProducerIDsRecord) tagged() []Tag     { return r.Tags }

func (r *ClusterRecord) appendFields(b []byte) []byte {
	return appendUint(appendString(b, r.ClusterID), uint64(r.Level))
}

func (r *VoterRecord) appendFields(b []byte) []byte {
	return appendNatural(appendUint(b, r.RaftID), r.NodeID)
}

func (r *BrokerRecord) appendFields(b []byte) []byte {
	b = appendNatural(b, r.ID)
	b = append(b, r.Incarnation[:]...)
	b = appendEndpoints(b, r.Listeners)
	b = appendString(b, r.Rack)
	b = appendUUIDs(b, r.Dirs)
	return appendBool(b, r.Fenced)
}

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

func appendEndpoints(b []byte, es []Endpoint) []byte {
	b = appendNatural(b, len(es))
	for _, e := range es {
		b = appendUint(appendString(appendString(b, e.Name), e.Host), uint64(e.Port))
	}
	return b
}

func (r *reader) endpoints() []Endpoint {
	es := make([]Endpoint, r.count(3))
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
	return appendString(b, appendTags(r.appendFields(nil), r.tagged()))
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
	case recordID{typeBroker, 0}:
		rec = &BrokerRecord{ID: in.natural32(), Incarnation: in.uuid(), Listeners: in.endpoints(), Rack: in.string(),
			Dirs: in.uuids(), Fenced: in.bool(), Tags: in.tags()}
	case recordID{typeTopic, 0}:
		rec = &TopicRecord{Name: in.string(), ID: in.uuid(), Configs: in.settings(), Tags: in.tags()}
	case recordID{typePartitions, 0}:
		rec = &PartitionsRecord{Topic: in.uuid(), First: in.natural32(), Partitions: in.partitions(), Tags: in.tags()}
	case recordID{typePartitionChange, 0}:
		rec = &PartitionChangeRecord{Topic: in.uuid(), Index: in.natural32(), Partition: in.partition(&Partition{}), Tags: in.tags()}
	case recordID{typeProducerIDs, 0}:
		rec = &ProducerIDsRecord{Next: in.natural64(), Tags: in.tags()}
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
	at, found := slices.BinarySearchFunc(b.img.voters, r.RaftID, func(v Voter, id uint64) int { return cmp.Compare(v.RaftID, id) })
	if found {
		b.misfit(r, "raft id %d is bound to a node already", r.RaftID)
	}
	b.img.voters = slices.Insert(slices.Clone(b.img.voters), at, r.Voter)
}

func (r *BrokerRecord) replay(b *builder) {
	next := &Broker{
		ID: r.ID, Epoch: int64(b.index), Incarnation: r.Incarnation, Listeners: r.Listeners, Rack: r.Rack,
		Dirs: r.Dirs, Fenced: r.Fenced, tags: r.Tags,
	}
	at, found := slices.BinarySearchFunc(b.img.brokers, r.ID, func(x *Broker, id int32) int { return cmp.Compare(x.ID, id) })
	b.img.brokers = slices.Clone(b.img.brokers)
	if found {
		next.dirs = slices.Clone(b.img.brokers[at].dirs)
		b.img.brokers[at] = next
	} else {
		b.img.brokers = slices.Insert(b.img.brokers, at, next)
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
	slot, ok := b.img.topics.byID.Get(r.Topic)
	if !ok {
		b.misfit(r, "no topic has id %s", r.Topic)
	}
	t := b.topic(slot)
	if t.count != r.First {
		b.misfit(r, "topic %s has %d partitions, the record adds from %d", t.Name, t.count, r.First)
	}
	for i := range r.Partitions {
		b.addPartition(t, r.Partitions[i])
	}
}

func (r *PartitionChangeRecord) replay(b *builder) {
	slot, ok := b.img.topics.byID.Get(r.Topic)
	if !ok || r.Index >= b.img.topics.at(slot).count {
		b.misfit(r, "no topic with id %s has a partition %d", r.Topic, r.Index)
	}
	t := b.topic(slot)
	p := &b.block(t, r.Index/blockSize)[r.Index%blockSize]
	if r.Partition.PartitionEpoch <= p.PartitionEpoch || r.Partition.LeaderEpoch < p.LeaderEpoch {
		b.misfit(r, "%s-%d would go from epochs %d/%d to %d/%d", t.Name, r.Index,
			p.LeaderEpoch, p.PartitionEpoch, r.Partition.LeaderEpoch, r.Partition.PartitionEpoch)
	}
	*p = r.Partition
	b.delta.changed(slot, r.Index)
}

func (r *ProducerIDsRecord) replay(b *builder) {
	if r.Next <= b.img.nextProducerID {
		b.misfit(r, "producer ids up to %d are handed out, the record says %d", b.img.nextProducerID, r.Next)
	}
	b.img.nextProducerID = r.Next
}
