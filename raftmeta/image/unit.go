package image

import "hash/crc32"

// Format 1 is that of nodes that were alone: its units have one actor and cause in front, its snapshots no operations.
// Snapshots of format 2 have no settings of groups.
const (
	unitFormat     = 2
	snapshotFormat = 3
)

// Unit is what one proposal decided: the piece in which metadata changes and becomes visible. The records of each of its
// operations stand behind an [OperationRecord] that says who asked for them, and why. One that is awaited may have none.
type Unit struct {
	ID   UUID   // unique: the proposer recognizes its unit by it
	Base uint64 // index of the image that the unit was decided on
	// Awaited says that somebody waits until every broker has applied the unit.
	Awaited bool
	Records []Record
}

// ClusterHash stands for the cluster in every unit: a log of another cluster is recognized entry by entry.
func ClusterHash(clusterID string) uint32 { return crc32.Checksum([]byte(clusterID), castagnoli) }

// Encode is the unit's form in the log.
func (u *Unit) Encode(clusterHash uint32) []byte {
	return u.EncodeWith(clusterHash, AppendRecords(nil, u.Records))
}

// EncodeWith is Encode for a unit whose records AppendRecords has encoded already.
func (u *Unit) EncodeWith(clusterHash uint32, records []byte) []byte {
	b := appendUint([]byte{unitFormat}, uint64(clusterHash))
	b = append(b, u.ID[:]...)
	b = appendBool(b, u.Awaited)
	b = appendUint(b, u.Base)
	b = appendNatural(b, len(u.Records))
	return seal(append(b, records...))
}

// AppendRecords appends records in the form that they have in a unit.
func AppendRecords(b []byte, records []Record) []byte {
	for _, r := range records {
		b = appendRecord(b, r)
	}
	return b
}

// UnitCluster is the cluster's hash in a unit.
func UnitCluster(b []byte) (uint32, error) {
	body, err := unseal("unit", b)
	if err != nil {
		return 0, err
	}
	r := newReader("unit", body)
	r.uvarint()
	return r.uint32(), r.err
}

// DecodeUnit reads what Encode wrote for the same cluster. Errors are *CorruptError, *UnknownFormatError or *ForeignError.
func DecodeUnit(b []byte, clusterHash uint32) (*Unit, error) {
	body, err := unseal("unit", b)
	if err != nil {
		return nil, err
	}
	r := newReader("unit", body)
	format := r.uvarint()
	if format < 1 || format > unitFormat {
		r.unknown(&UnknownFormatError{What: "unit", Version: format})
	}
	if h := r.uint32(); r.err == nil && h != clusterHash {
		return nil, &ForeignError{Found: h, Wanted: clusterHash}
	}
	u := &Unit{ID: r.uuid()}
	if format == 1 {
		u.Records = append(u.Records, &OperationRecord{Actor: r.string(), Cause: r.string()})
	} else {
		u.Awaited = r.bool()
	}
	u.Base = r.uvarint()
	for range r.count(3) {
		u.Records = append(u.Records, r.record())
	}
	return u, r.end()
}

// Encode is the image as a snapshot: equal images have equal bytes.
func (m *Image) Encode() []byte {
	b := append(make([]byte, 0, 4096+partitionSize*m.partitions), snapshotFormat)
	b = appendUint(b, m.index)
	b = appendString(b, m.clusterID)
	b = appendUint(b, uint64(m.level))
	b = appendNatural(b, m.nextProducerID)
	b = appendNatural(b, len(m.voters))
	for _, v := range m.voters {
		b = appendUint(appendVoter(b, &v), v.Since)
	}
	b = appendNatural(b, len(m.origins))
	for _, o := range m.origins {
		b = appendOrigin(b, o)
	}
	b = appendNatural(b, len(m.brokers))
	for _, x := range m.brokers {
		b = appendBroker(b, x)
	}
	b = appendNatural(b, len(m.retired))
	for _, r := range m.retired {
		b = appendUUIDs(appendNatural(b, r.id), r.dirs)
	}
	b = appendNatural(b, len(m.settings))
	for _, s := range m.settings {
		b = appendSettings(appendNode(b, s.Node), s.Settings)
	}
	b = appendNatural(b, len(m.groups))
	for _, s := range m.groups {
		b = appendSettings(appendString(b, s.Group), s.Settings)
	}
	b = appendNatural(b, m.topics.count())
	for t := range m.Topics() {
		b = appendTopic(b, t)
	}
	return seal(b)
}

func appendBroker(b []byte, x *Broker) []byte {
	b = appendNatural(b, x.ID)
	b = appendNatural(b, x.Epoch)
	b = append(b, x.Incarnation[:]...)
	b = appendEndpoints(b, x.Listeners)
	b = appendString(b, x.Rack)
	b = appendUUIDs(b, x.Dirs)
	b = appendUUIDs(b, x.dirs)
	b = appendBool(appendBool(b, x.Fenced), x.InControlledShutdown)
	return appendTags(appendLevels(b, x.Levels), x.tags)
}

func appendTopic(b []byte, t *Topic) []byte {
	b = appendString(b, t.Name)
	b = append(b, t.ID[:]...)
	b = appendTags(appendSettings(b, t.configs), t.allTags())
	b = appendNatural(b, t.count)
	for i := range t.count {
		p, _ := t.Partition(i)
		b = appendPartition(b, p)
	}
	return b
}

// allTags are a topic's tagged fields in a snapshot: what its partitions are moving, if any, then what it came with.
func (t *Topic) allTags() []Tag {
	n, data := 0, []byte(nil)
	for i := range t.count {
		if p, _ := t.Partition(i); p.Moving != nil {
			n++
			data = appendMoving(appendNatural(data, i), p)
		}
	}
	if n == 0 {
		return t.tags
	}
	return append([]Tag{{ID: tagMoving, Data: append(appendNatural(nil, n), data...)}}, t.tags...)
}

// readMoving gives partitions of a topic what is written of them in its tagged field.
func (r *reader) readMoving(data []byte, ps []Partition) {
	field := newReader(r.what, data)
	next := int32(0)
	n := field.count(3)
	for range n {
		i := field.natural32()
		if i < next || int(i) >= len(ps) {
			field.fail("partition %d is moving, of %d", i, len(ps))
			break
		}
		ps[i].Moving = field.moving(&ps[i])
		next = i + 1
	}
	if n == 0 {
		field.fail("none is moving")
	}
	if err := field.end(); err != nil {
		r.fail("%v", err)
	}
}

// DecodeImage reads what Encode wrote. Errors are *CorruptError or *UnknownFormatError.
func DecodeImage(b []byte) (*Image, error) {
	body, err := unseal("snapshot", b)
	if err != nil {
		return nil, err
	}
	r := newReader("snapshot", body)
	format := r.uvarint()
	if format < 1 || format > snapshotFormat {
		r.unknown(&UnknownFormatError{What: "snapshot", Version: format})
	}
	img := Empty()
	img.index = r.uvarint()
	img.clusterID = r.string()
	img.level = r.uint32()
	img.nextProducerID = r.natural64()
	for range r.count(2) {
		v := Voter{RaftID: r.uvarint(), NodeID: r.natural32()}
		if format > 1 {
			v.DirectoryID, v.Endpoints, v.Levels, v.Since = r.uuid(), r.endpoints(), r.levels(), r.uvarint()
		}
		img.voters = append(img.voters, v)
	}
	if format > 1 {
		img.origins = r.origins()
	}
	for range r.count(24) {
		img.brokers = append(img.brokers, r.broker(format))
	}
	if format > 1 {
		for range r.count(2) {
			img.retired = append(img.retired, retired{r.natural32(), r.uuids()})
		}
	}
	for range r.count(2) {
		img.settings = append(img.settings, NodeSettings{r.node(), r.settings()})
	}
	if format > 2 {
		for range r.count(2) {
			img.groups = append(img.groups, GroupSettings{r.string(), r.settings()})
		}
	}
	build := newBuilder(img, img.index)
	for range r.count(20) {
		t := &Topic{Name: r.string(), ID: r.uuid(), configs: r.settings(), tags: r.tags()}
		moving, some := takeMoving(&t.tags)
		ps := r.partitions()
		if some {
			r.readMoving(moving, ps)
		}
		if r.err != nil {
			break
		}
		build.addPartitions(t, build.addTopic(t), ps)
	}
	build.flush()
	return img, r.end()
}

func (r *reader) broker(format uint64) *Broker {
	b := &Broker{
		ID: r.natural32(), Epoch: r.natural64(), Incarnation: r.uuid(), Listeners: r.endpoints(), Rack: r.string(),
		Dirs: r.uuids(), dirs: r.uuids(), Fenced: r.bool(),
	}
	if b.Levels = (Levels{1, 1}); format > 1 {
		b.InControlledShutdown, b.Levels = r.bool(), r.levels()
	}
	b.tags = r.tags()
	return b
}
