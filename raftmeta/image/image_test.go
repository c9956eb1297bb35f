package image

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"testing"
)

func uuid(n int) (u UUID) {
	u[0], u[14], u[15] = 1, byte(n>>8), byte(n)
	return u
}

// everyRecord has each type once, with all its fields and a tagged one.
func everyRecord() []Record {
	tags := []Tag{{ID: 3, Data: []byte("three")}, {ID: 300, Data: []byte{}}}
	p := Partition{Replicas: []int32{3, 1, 2}, ISR: []int32{3, 2}, ELR: []int32{1}, Dirs: "\x00\xff\x01", Leader: 2, LeaderEpoch: 4, PartitionEpoch: 9}
	moves := p
	moves.Moving = &Reassignment{Adding: []int32{1}, Removing: []int32{2}}
	return []Record{
		&ClusterRecord{ClusterID: "cluster", Level: 1, Tags: tags},
		&OperationRecord{Operation: Operation{Node: 4, Incarnation: uuid(8), Seq: 7, Done: 5}, Actor: "me", Cause: "a test", Reply: []byte("r"), Tags: tags},
		&VoterRecord{Voter: Voter{RaftID: 1<<63 | 5, NodeID: 1, DirectoryID: uuid(7), Endpoints: []Endpoint{{"C", "h", 9093}}, Levels: Levels{1, 2}}, Tags: tags},
		&VoterRemovalRecord{RaftID: 1<<63 | 5, Tags: tags},
		&BrokerRecord{ID: 1, Incarnation: uuid(1), Listeners: []Endpoint{{"PLAIN", "host", 9092}, {"X", "::1", 65535}}, Rack: "r", Dirs: []UUID{uuid(2), uuid(3)}, Levels: Levels{1, 3}, Fenced: true, Tags: tags},
		&BrokerChangeRecord{ID: 1, Epoch: 9, InControlledShutdown: true, Tags: tags},
		&BrokerRemovalRecord{ID: 1, Epoch: 9, Tags: tags},
		&ELRClearRecord{Topic: uuid(4), Tags: tags},
		&TopicRecord{Name: "a.topic", ID: uuid(4), Configs: []Setting{{"a", "1"}, {"b", ""}}, Tags: tags},
		&PartitionsRecord{Topic: uuid(4), Partitions: []Partition{p, p, {Replicas: []int32{7}, ISR: []int32{7}, Dirs: "\x00", Leader: NoLeader}}, Tags: tags},
		&PartitionChangeRecord{Topic: uuid(4), Index: 2, Partition: p, Tags: tags},
		&PartitionChangeRecord{Topic: uuid(4), Index: 2, Partition: moves, Tags: tags},
		&ProducerIDsRecord{Next: 1 << 62, Tags: tags},
		&TopicConfigsRecord{Topic: uuid(4), Configs: []Setting{{"a", "2"}}, Tags: tags},
		&BrokerConfigsRecord{Node: EveryBroker, Configs: []Setting{{"a", "2"}}, Tags: tags},
		&BrokerConfigsRecord{Node: 1<<31 - 1, Configs: []Setting{{"a", "2"}, {"b", "2"}}, Tags: tags},
		&GroupConfigsRecord{Group: "g", Configs: []Setting{{"a", "2"}, {"b", "2"}}, Tags: tags},
		&TopicRemovalRecord{Topic: uuid(4), Tags: tags},
	}
}

func everyUnit() *Unit {
	return &Unit{ID: uuid(9), Awaited: true, Base: 12, Records: everyRecord()}
}

const hash = 77

// text is all of a record, what it points to as well.
func text(r Record) string {
	if c, ok := r.(*PartitionChangeRecord); ok && c.Partition.Moving != nil {
		plain := *c
		plain.Partition.Moving = nil
		return fmt.Sprintf("%+v moving %+v", plain, *c.Partition.Moving)
	}
	return fmt.Sprintf("%+v", r)
}

func TestUnitRoundTrip(t *testing.T) {
	u := everyUnit()
	b := u.Encode(hash)
	got, err := DecodeUnit(b, hash)
	if err != nil {
		t.Fatal(err)
	}
	if again := got.Encode(hash); !bytes.Equal(again, b) {
		t.Fatalf("encoded again:\n%x, was\n%x", again, b)
	}
	for i, r := range got.Records {
		if want := u.Records[i]; text(r) != text(want) {
			t.Errorf("record %d\n  %+v, want\n  %+v", i, r, want)
		}
	}
	if len(u.Encode(hash)) <= len(AppendRecords(nil, u.Records)) {
		t.Error("a unit is smaller than its records")
	}
}

func TestForeignAndNewerUnitsAreRefused(t *testing.T) {
	good := everyUnit().Encode(hash)
	if _, err := DecodeUnit(good, hash+1); err == nil {
		t.Error("a unit of another cluster was taken")
	}
	for name, body := range map[string][]byte{
		"unit":   {3},
		"record": append(emptyUnit(), 1 /* record */, 99 /* of this type */, 0, 1, 0),
	} {
		var unknown *UnknownFormatError
		if _, err := DecodeUnit(seal(body), hash); !errors.As(err, &unknown) || unknown.What != name {
			t.Errorf("a newer %s: %v", name, err)
		}
	}
	version := append(emptyUnit(), 1, typeTopic, 1, 1, 0)
	var unknown *UnknownFormatError
	if _, err := DecodeUnit(seal(version), hash); !errors.As(err, &unknown) || unknown.Type != typeTopic || unknown.Version != 1 {
		t.Errorf("a newer version of a record: %v", err)
	}
}

// emptyUnit is a unit up to the count of its records.
func emptyUnit() []byte {
	b := (&Unit{}).Encode(hash)
	return b[: len(b)-5 : len(b)-5]
}

// Equal values have equal bytes: a number has one form only.
func TestNumbersAreShort(t *testing.T) {
	for _, b := range [][]byte{{0x80, 0}, {0xff, 0x80, 0}, {0x80}, {}, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2}} {
		r := newReader("test", b)
		if v := r.uvarint(); r.err == nil {
			t.Errorf("%x was read as %d", b, v)
		}
	}
	r := newReader("test", []byte{0x80, 1, 0})
	if a, b := r.uvarint(), r.uvarint(); a != 128 || b != 0 || r.end() != nil {
		t.Errorf("128 and 0 were read as %d and %d", a, b)
	}
}

// Whatever was damaged is found by the checksum; and without it nothing panics, see the fuzz targets.
func TestEveryFlipOfAUnitIsFound(t *testing.T) {
	good := everyUnit().Encode(hash)
	for bit := range len(good) * 8 {
		bad := slices.Clone(good)
		bad[bit/8] ^= 1 << (bit % 8)
		if _, err := DecodeUnit(bad, hash); !errors.As(err, new(*CorruptError)) {
			t.Fatalf("bit %d: %v", bit, err)
		}
	}
	for n := range good {
		if _, err := DecodeUnit(good[:n], hash); !errors.As(err, new(*CorruptError)) {
			t.Fatalf("cut to %d: %v", n, err)
		}
	}
}

// dated tells whether a sound unit has the format or a record of an older release: those are written anew.
func dated(unit []byte) bool {
	newest := map[uint64]uint64{}
	for _, r := range everyRecord() {
		newest[r.id().typ] = r.id().version
	}
	if unit[0] != unitFormat {
		return true
	}
	r := newReader("unit", unit[:len(unit)-4])
	r.uvarint()
	r.uint32()
	r.uuid()
	r.bool()
	r.uvarint()
	for range r.count(3) {
		typ, version := r.uvarint(), r.uvarint()
		r.bytes()
		if version != newest[typ] {
			return true
		}
	}
	return false
}

// FuzzUnit decodes what no checksum protects. What is accepted is encoded to the same bytes.
func FuzzUnit(f *testing.F) {
	good := everyUnit().Encode(hash)
	f.Add(good[:len(good)-4])
	for _, r := range everyRecord() {
		b := (&Unit{Records: []Record{r}}).Encode(hash)
		f.Add(b[:len(b)-4])
	}
	old, _ := os.ReadFile("testdata/unit-1")
	f.Add(old[:len(old)-4])
	f.Fuzz(func(t *testing.T, body []byte) {
		b := seal(slices.Clone(body))
		u, err := DecodeUnit(b, hash)
		if err == nil && dated(b) {
			b = u.Encode(hash)
			u, err = DecodeUnit(b, hash)
			if err != nil {
				t.Fatalf("what was written anew is refused: %v", err)
			}
		}
		if err == nil && !bytes.Equal(u.Encode(hash), b) {
			t.Fatalf("%x\nwas accepted and is written as\n%x", b, u.Encode(hash))
		}
	})
}

// FuzzImage does the same with snapshots.
func FuzzImage(f *testing.F) {
	small, _ := Apply(Empty(), 9, everyRecord()[:6])
	old, _ := os.ReadFile("testdata/snapshot-1")
	f.Add(old[:len(old)-4])
	for _, img := range []*Image{Empty(), small} {
		b := img.Encode()
		f.Add(b[:len(b)-4])
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		b := seal(slices.Clone(body))
		img, err := DecodeImage(b)
		if err == nil && b[0] != snapshotFormat {
			b = img.Encode()
			if img, err = DecodeImage(b); err != nil {
				t.Fatalf("what was written anew is refused: %v", err)
			}
		}
		if err == nil && !bytes.Equal(img.Encode(), b) {
			t.Fatalf("%x\nwas accepted and is written as\n%x", b, img.Encode())
		}
	})
}

func random(seed uint64, steps int) *Image {
	m := newModel(seed)
	for range steps {
		m.step()
	}
	return m.img
}

// model is the image in ordinary maps, and a source of units that fit it.
type model struct {
	rng              *rand.Rand
	img              *Image
	delta            *Delta
	topics           map[string][]Partition
	ids              map[string]UUID
	names            []string          // in the order of the image
	made             int               // topics, ever
	configs, brokers map[string]string // settings, by node or group
	gone             []string          // topics that the last unit removed
	next             int64
	epochs           map[int32]int64
	fenced           map[int32]bool // by broker whose state was set: the other state is the reverse
	// changed is what the last unit changed: "topic-partition".
	changed map[string]bool
	left    map[string]bool // "topic-partition broker" of replicas that it took away
}

func newModel(seed uint64) *model {
	return &model{
		rng: rand.New(rand.NewPCG(seed, 1)), img: Empty(), topics: map[string][]Partition{}, ids: map[string]UUID{}, epochs: map[int32]int64{}, fenced: map[int32]bool{},
		configs: map[string]string{}, brokers: map[string]string{},
	}
}

func (m *model) partition() Partition {
	n := m.rng.IntN(3) + 1
	var replicas []int32
	for _, r := range m.rng.Perm(5)[:n] {
		replicas = append(replicas, int32(r))
	}
	p := Partition{Replicas: replicas, ISR: replicas, Dirs: "\x00\x01\xff"[:n], Leader: replicas[0]}
	if n > 1 && m.rng.IntN(2) == 0 {
		p.ISR, p.ELR = replicas[:n-1], replicas[n-1:]
	}
	if m.rng.IntN(8) == 0 {
		p.Leader = NoLeader
	}
	return p
}

// step applies a unit of a few records.
func (m *model) step() {
	index := m.img.Index() + 1 + uint64(m.rng.IntN(3))
	m.changed, m.left, m.gone = map[string]bool{}, map[string]bool{}, nil
	var records []Record
	for range m.rng.IntN(4) + 1 {
		records = append(records, m.record(index)...)
	}
	m.img, m.delta = Apply(m.img, index, records)
}

func (m *model) record(index uint64) []Record {
	switch kind := m.rng.IntN(16); {
	case kind < 3 || len(m.names) == 0:
		name := fmt.Sprintf("topic-%d", m.made)
		id := uuid(m.made)
		m.made++
		m.names, m.ids[name] = append(m.names, name), id
		m.topics[name], m.configs[name] = nil, name
		return []Record{&TopicRecord{Name: name, ID: id, Configs: []Setting{{"k", name}}}, m.grow(name, m.rng.IntN(200))}
	case kind < 5:
		return []Record{m.grow(m.names[m.rng.IntN(len(m.names))], m.rng.IntN(100))}
	case kind < 8:
		name := m.names[m.rng.IntN(len(m.names))]
		if len(m.topics[name]) == 0 {
			return nil
		}
		i := m.rng.IntN(len(m.topics[name]))
		p := m.partition()
		if n := len(p.Replicas); n > 1 && m.rng.IntN(2) == 0 {
			p.Moving = &Reassignment{Removing: p.Replicas[n-1:]}
			if m.rng.IntN(2) == 0 {
				p.Moving.Adding = p.Replicas[:n-1]
			}
		}
		old := &m.topics[name][i]
		for _, id := range old.Replicas {
			if !p.HasReplica(id) {
				m.left[fmt.Sprintf("%s-%d %d", name, i, id)] = true
			}
		}
		p.LeaderEpoch, p.PartitionEpoch = old.LeaderEpoch+int32(m.rng.IntN(2)), old.PartitionEpoch+1
		*old = p
		m.changed[fmt.Sprintf("%s-%d", name, i)] = true
		return []Record{&PartitionChangeRecord{Topic: m.ids[name], Index: int32(i), Partition: p}}
	case kind < 9:
		m.next += int64(m.rng.IntN(1000)) + 1
		return []Record{&ProducerIDsRecord{Next: m.next}}
	case kind < 10: // the last one takes its place
		i := m.rng.IntN(len(m.names))
		name, last := m.names[i], len(m.names)-1
		m.names[i] = m.names[last]
		m.names = m.names[:last]
		for j := range m.topics[name] {
			delete(m.changed, fmt.Sprintf("%s-%d", name, j))
		}
		delete(m.topics, name)
		m.gone = append(m.gone, name)
		return []Record{&TopicRemovalRecord{Topic: m.ids[name]}}
	case kind < 11:
		name := m.names[m.rng.IntN(len(m.names))]
		m.configs[name] = fmt.Sprint(index)
		for i := range m.topics[name] {
			m.changed[fmt.Sprintf("%s-%d", name, i)] = true
		}
		return []Record{&TopicConfigsRecord{Topic: m.ids[name], Configs: []Setting{{"k", m.configs[name]}}}}
	case kind < 12 && m.rng.IntN(2) == 0:
		r := &GroupConfigsRecord{Group: fmt.Sprint("g", m.rng.IntN(3))}
		delete(m.brokers, r.Group)
		if m.rng.IntN(3) > 0 {
			m.brokers[r.Group] = fmt.Sprint(index)
			r.Configs = []Setting{{"k", fmt.Sprint(index)}}
		}
		return []Record{r}
	case kind < 12:
		r := &BrokerConfigsRecord{Node: int32(m.rng.IntN(3)) - 1}
		delete(m.brokers, fmt.Sprint(r.Node))
		if m.rng.IntN(3) > 0 {
			m.brokers[fmt.Sprint(r.Node)] = fmt.Sprint(index)
			r.Configs = []Setting{{"k", fmt.Sprint(index)}}
		}
		return []Record{r}
	case kind < 14:
		r := &ELRClearRecord{}
		some := m.names[m.rng.IntN(len(m.names))]
		if m.rng.IntN(2) == 0 {
			r.Topic = m.ids[some]
		}
		for name, ps := range m.topics {
			for i := range ps {
				if (r.Topic.IsZero() || name == some) && ps[i].ELR != nil && ps[i].Leader != NoLeader {
					ps[i].ELR = nil
					ps[i].PartitionEpoch++
					m.changed[fmt.Sprintf("%s-%d", name, i)] = true
				}
			}
		}
		return []Record{r}
	case kind < 15 && len(m.epochs) > 0:
		ids := slices.Sorted(maps.Keys(m.epochs))
		id := ids[m.rng.IntN(len(ids))]
		if m.rng.IntN(3) == 0 {
			epoch := m.epochs[id]
			delete(m.epochs, id)
			delete(m.fenced, id)
			return []Record{&BrokerRemovalRecord{ID: id, Epoch: epoch}}
		}
		m.fenced[id] = m.rng.IntN(2) == 0
		return []Record{&BrokerChangeRecord{ID: id, Epoch: m.epochs[id], Fenced: m.fenced[id], InControlledShutdown: !m.fenced[id]}}
	default:
		id := int32(m.rng.IntN(5))
		m.epochs[id] = int64(index)
		delete(m.fenced, id)
		return []Record{&BrokerRecord{ID: id, Incarnation: uuid(int(index)), Dirs: []UUID{uuid(m.rng.IntN(4))}}}
	}
}

func (m *model) grow(name string, n int) Record {
	r := &PartitionsRecord{Topic: m.ids[name], First: int32(len(m.topics[name]))}
	for range n {
		m.changed[fmt.Sprintf("%s-%d", name, len(m.topics[name]))] = true
		p := m.partition()
		r.Partitions = append(r.Partitions, p)
		m.topics[name] = append(m.topics[name], p)
	}
	return r
}

// check compares everything that can be asked of an image.
func (m *model) check(t *testing.T, img *Image) {
	t.Helper()
	total := 0
	for _, name := range m.names {
		tp, ok := img.Topic(name)
		byID, ok2 := img.TopicByID(m.ids[name])
		if !ok || !ok2 || tp != byID || int(tp.NumPartitions()) != len(m.topics[name]) {
			t.Fatalf("topic %s: %v %v", name, tp, byID)
		}
		if v, ok := tp.Config("k"); v != m.configs[name] || !ok {
			t.Fatalf("topic %s has k=%s", name, v)
		}
		for j := range m.topics[name] {
			if p, ok := tp.Partition(int32(j)); !ok || !reflect.DeepEqual(p, &m.topics[name][j]) {
				t.Fatalf("%s-%d is %+v, want %+v", name, j, p, m.topics[name][j])
			}
		}
		for _, j := range []int32{-1, -1 << 31, tp.NumPartitions(), 1<<31 - 1} {
			if p, ok := tp.Partition(j); ok || p != nil {
				t.Fatalf("%s has a partition %d", name, j)
			}
		}
		total += len(m.topics[name])
	}
	var order []string
	for tp := range img.Topics() {
		order = append(order, tp.Name)
	}
	if !slices.Equal(order, m.names) || img.NumTopics() != len(m.names) || img.NumPartitions() != total || img.NextProducerID() != m.next {
		t.Fatalf("%d topics in order %v, %d partitions, next producer id %d", img.NumTopics(), order, img.NumPartitions(), img.NextProducerID())
	}
	for node := int32(-1); node < 3; node++ {
		want, set := m.brokers[fmt.Sprint(node)]
		if v, ok := img.BrokerConfig(node, "k"); v != want || ok != set {
			t.Fatalf("node %d has k=%s", node, v)
		}
	}
	for i := range 3 {
		group := fmt.Sprint("g", i)
		want, set := m.brokers[group]
		if v, ok := img.GroupConfig(group, "k"); v != want || ok != set {
			t.Fatalf("group %s has k=%s", group, v)
		}
	}
	for id, epoch := range m.epochs {
		fenced, set := m.fenced[id]
		if b, ok := img.Broker(id); !ok || b.Epoch != epoch || b.Fenced != fenced || b.InControlledShutdown != (set && !fenced) {
			t.Fatalf("broker %d is %+v, want epoch %d", id, b, epoch)
		}
	}
	if len(img.Brokers()) != len(m.epochs) || !slices.IsSortedFunc(img.Brokers(), func(a, b *Broker) int { return int(a.ID - b.ID) }) {
		t.Fatalf("brokers %v", img.Brokers())
	}
}

// checkHolders compares the index from brokers to partitions with a walk over everything.
func checkHolders(t *testing.T, img *Image) {
	t.Helper()
	got, want := map[string]bool{}, map[string]bool{}
	add := func(m map[string]bool, id int32, role any, tp *Topic, i int32) {
		m[fmt.Sprintf("%d %v %s-%d", id, role, tp.Name, i)] = true
	}
	ids, counts := map[int32]bool{}, map[string]int{}
	for tp := range img.Topics() {
		for i := range tp.NumPartitions() {
			p, _ := tp.Partition(i)
			for _, id := range p.Replicas {
				ids[id] = true
				counts[fmt.Sprint(id, Holds)]++
				add(want, id, Holds, tp, i)
				if slices.Contains(p.ISR, id) {
					counts[fmt.Sprint(id, InSync)]++
					add(want, id, InSync, tp, i)
				} else {
					add(want, id, "out", tp, i)
				}
				if p.Leader == NoLeader {
					add(want, id, "leaderless", tp, i)
				}
			}
			if p.Leader == NoLeader {
				counts["leaderless"]++
				add(want, NoLeader, "leaderless", tp, i)
			} else {
				counts[fmt.Sprint(p.Leader, Leads)]++
				add(want, p.Leader, Leads, tp, i)
			}
			if p.Moving != nil {
				counts["moving"]++
				add(want, NoLeader, "moving", tp, i)
			}
			if p.Leader != p.Replicas[0] {
				counts["not preferred"]++
				add(want, NoLeader, "not preferred", tp, i)
			}
		}
	}
	for id := range ids {
		for role := range numRoles {
			for p := range img.Partitions(id, role) {
				add(got, id, role, p.Topic, p.Index)
			}
			if n := img.Count(id, role); n != counts[fmt.Sprint(id, role)] {
				t.Fatalf("broker %d has role %d %d times, want %d", id, role, n, counts[fmt.Sprint(id, role)])
			}
		}
		for p := range img.OutOfSync(id) {
			add(got, id, "out", p.Topic, p.Index)
		}
		for p := range img.Leaderless(id) {
			add(got, id, "leaderless", p.Topic, p.Index)
		}
	}
	for _, p := range img.LeaderlessFrom(0) {
		add(got, NoLeader, "leaderless", p.Topic, p.Index)
	}
	for p := range img.Moving() {
		add(got, NoLeader, "moving", p.Topic, p.Index)
	}
	for from := Place(0); ; { // each time from where it stopped
		next := from
		for at, p := range img.NotPreferredFrom(from) {
			add(got, NoLeader, "not preferred", p.Topic, p.Index)
			next = at
			break
		}
		if next == from {
			break
		}
		from = next
	}
	if !maps.Equal(got, want) {
		t.Fatalf("the index has %d entries, a walk %d", len(got), len(want))
	}
	if img.NumLeaderless() != counts["leaderless"] || img.NumNotPreferred() != counts["not preferred"] || img.NumMoving() != counts["moving"] {
		t.Fatalf("%d without a leader, %d not led by their first replica, %d moving, want %v", img.NumLeaderless(), img.NumNotPreferred(), img.NumMoving(), counts)
	}
}

// checkDelta wants each partition that changed once or more, as it is now, at the brokers that hold it.
func (m *model) checkDelta(t *testing.T, d *Delta, changed func(string) bool) {
	t.Helper()
	var gone []string
	for _, tp := range d.Removed {
		gone = append(gone, tp.Name)
	}
	if !d.Whole && !slices.Equal(gone, m.gone) {
		t.Fatalf("the delta removes %v, want %v", gone, m.gone)
	}
	for node := range int32(5) {
		local := d.Local(node)
		got := map[string]bool{}
		for _, l := range slices.Concat(local.Leaders, local.Followers) {
			name := fmt.Sprintf("%s-%d", l.Topic.Name, l.Index)
			if !changed(name) || !reflect.DeepEqual(l.Partition, &m.topics[l.Topic.Name][l.Index]) {
				t.Fatalf("the delta of %s has %+v, want %+v", name, l.Partition, m.topics[l.Topic.Name][l.Index])
			}
			got[name] = true
		}
		for _, l := range local.Leaders {
			if l.Partition.Leader != node {
				t.Fatalf("%s-%d is not led by %d", l.Topic.Name, l.Index, node)
			}
		}
		gone := map[string]bool{}
		for _, l := range local.Gone {
			gone[fmt.Sprintf("%s-%d", l.Topic.Name, l.Index)] = true
		}
		for name, ps := range m.topics {
			for i := range ps {
				key := fmt.Sprintf("%s-%d", name, i)
				if want := !d.Whole && m.left[fmt.Sprintf("%s %d", key, node)] && !ps[i].HasReplica(node); gone[key] != want {
					t.Fatalf("%s is gone from broker %d: %v, want %v", key, node, gone[key], want)
				}
				delete(gone, key)
			}
		}
		if len(gone) > 0 {
			t.Fatalf("of topics that are not there: %v", gone)
		}
		for name, ps := range m.topics {
			for i := range ps {
				if key := fmt.Sprintf("%s-%d", name, i); changed(key) && ps[i].HasReplica(node) && !got[key] {
					t.Fatalf("the delta lacks %s at broker %d", key, node)
				}
			}
		}
	}
}

func TestImageAgainstMaps(t *testing.T) {
	for seed := range uint64(5) {
		m := newModel(seed)
		for n := range 40 {
			before, bytesBefore := m.img, m.img.Encode()
			m.step()
			m.check(t, m.img)
			m.checkDelta(t, m.delta, func(s string) bool { return m.changed[s] })
			if n%5 == 0 {
				checkHolders(t, m.img)
			}
			if !bytes.Equal(before.Encode(), bytesBefore) {
				t.Fatalf("seed %d: an older image changed at index %d", seed, m.img.Index())
			}
		}
		b := m.img.Encode()
		restored, err := DecodeImage(b)
		if err != nil {
			t.Fatal(err)
		}
		m.check(t, restored)
		m.checkDelta(t, Everything(restored), func(string) bool { return true })
		checkHolders(t, restored)
		if !bytes.Equal(restored.Encode(), b) {
			t.Fatal("a restored image has another encoding")
		}
		// What comes after must not depend on whether a snapshot lay in between.
		other := *m
		other.img, other.rng = restored, rand.New(rand.NewPCG(seed, 2))
		other.topics, other.ids, other.epochs = clone(m.topics), clone(m.ids), clone(m.epochs)
		other.fenced = clone(m.fenced)
		other.configs, other.brokers, other.names = clone(m.configs), clone(m.brokers), slices.Clone(m.names)
		m.rng = rand.New(rand.NewPCG(seed, 2))
		for range 10 {
			m.step()
			other.step()
			if !bytes.Equal(m.img.Encode(), other.img.Encode()) {
				t.Fatalf("seed %d: images differ after a snapshot", seed)
			}
		}
	}
}

func clone[K comparable, V any](m map[K]V) map[K]V {
	c := map[K]V{}
	for k, v := range m {
		if ps, ok := any(v).([]Partition); ok {
			v = any(slices.Clone(ps)).(V)
		}
		c[k] = v
	}
	return c
}

// One image is the base of two: neither may see the other.
func TestImagesBranch(t *testing.T) {
	base := random(4, 40)
	name := ""
	for tp := range base.Topics() {
		if tp.NumPartitions() > 0 && tp.NumPartitions()%blockSize != 0 {
			name = tp.Name
		}
	}
	tp, _ := base.Topic(name)
	add := func(leader int32) *Image {
		img, _ := Apply(base, base.Index()+1, []Record{&PartitionsRecord{Topic: tp.ID, First: tp.NumPartitions(),
			Partitions: []Partition{{Replicas: []int32{leader}, ISR: []int32{leader}, Dirs: "\x00", Leader: leader}}}})
		return img
	}
	one, two := add(1), add(2)
	for want, img := range map[int32]*Image{1: one, 2: two} {
		x, _ := img.Topic(name)
		if p, ok := x.Partition(tp.NumPartitions()); !ok || p.Leader != want {
			t.Fatalf("the new partition is %+v, want leader %d", p, want)
		}
	}
}

func TestSharing(t *testing.T) {
	ps := make([]Partition, 3*blockSize*fanOut*fanOut) // on all levels there are several lists
	for i := range ps {
		ps[i] = Partition{Replicas: []int32{1}, ISR: []int32{1}, Dirs: "\x00", Leader: 1}
	}
	records := []Record{&TopicRecord{Name: "t", ID: uuid(1)}, &PartitionsRecord{Topic: uuid(1), Partitions: ps}}
	u, err := DecodeUnit((&Unit{Records: records}).Encode(hash), hash)
	if err != nil {
		t.Fatal(err)
	}
	img, _ := Apply(Empty(), 1, u.Records)
	tp, _ := img.Topic("t")
	a, _ := tp.Partition(0)
	b, _ := tp.Partition(tp.NumPartitions() - 1)
	if &a.Replicas[0] != &b.Replicas[0] || &a.Replicas[0] != &b.ISR[0] {
		t.Error("equal lists of neighbours are in memory more than once")
	}
	next, _ := Apply(img, 2, []Record{&PartitionChangeRecord{Topic: uuid(1), Index: 500, Partition: Partition{Replicas: []int32{1}, Dirs: "\x00", Leader: NoLeader, LeaderEpoch: 1, PartitionEpoch: 1}}})
	changed, _ := next.Topic("t")
	copied := 0
	for i := range tp.NumPartitions() {
		before, _ := tp.Partition(i)
		if after, _ := changed.Partition(i); after != before {
			copied++
		}
	}
	if copied != blockSize {
		t.Errorf("one partition changed and %d were copied, in blocks of %d", copied, blockSize)
	}
}

func TestDirectoriesKeepTheirPlaces(t *testing.T) {
	img, _ := Apply(Empty(), 1, []Record{&BrokerRecord{ID: 1, Dirs: []UUID{uuid(5), uuid(6)}}})
	img, _ = Apply(img, 2, []Record{&BrokerRecord{ID: 1, Dirs: []UUID{uuid(7), uuid(6)}}})
	img, err := DecodeImage(img.Encode())
	if err != nil {
		t.Fatal(err)
	}
	b, _ := img.Broker(1)
	for place, want := range map[byte]UUID{0: uuid(5), 1: uuid(6), 2: uuid(7), 3: {}, NoDir: {}} {
		if b.Dir(place) != want {
			t.Errorf("place %d is %s, want %s", place, b.Dir(place), want)
		}
	}
	if b.DirPlace(uuid(6)) != 1 || b.DirPlace(uuid(9)) != NoDir || img.KnownDirs(1) != 3 || !slices.Equal(b.Dirs, []UUID{uuid(7), uuid(6)}) {
		t.Errorf("broker %+v", b)
	}
}

// A broker that was removed leaves behind what the directories of its replicas mean, and nothing when it has none.
func TestDirectoriesOutliveTheirBroker(t *testing.T) {
	p := Partition{Replicas: []int32{1, 2}, ISR: []int32{1, 2}, Dirs: "\x01\x00", Leader: 1}
	img, _ := Apply(Empty(), 1, []Record{
		&BrokerRecord{ID: 1, Dirs: []UUID{uuid(5), uuid(6)}}, &BrokerRecord{ID: 2, Dirs: []UUID{uuid(7)}}, &BrokerRecord{ID: 3, Dirs: []UUID{uuid(8)}},
	})
	img, _ = Apply(img, 2, []Record{ // in one unit: the partitions of it count
		&TopicRecord{Name: "t", ID: uuid(1)}, &PartitionsRecord{Topic: uuid(1), Partitions: []Partition{p}},
		&BrokerRemovalRecord{ID: 1, Epoch: 1}, &BrokerRemovalRecord{ID: 3, Epoch: 1},
	})
	img, err := DecodeImage(img.Encode())
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := img.Broker(1); ok || img.KnownDirs(1) != 2 || img.KnownDirs(3) != 0 || img.KnownDirs(2) != 1 {
		t.Fatalf("directories of 1, 2 and 3: %d, %d, %d", img.KnownDirs(1), img.KnownDirs(2), img.KnownDirs(3))
	}
	img, _ = Apply(img, 3, []Record{&BrokerRecord{ID: 1, Dirs: []UUID{uuid(9), uuid(6)}}})
	b, _ := img.Broker(1)
	if b.Dir(1) != uuid(6) || b.DirPlace(uuid(9)) != 2 || len(img.retired) != 0 {
		t.Fatalf("broker %+v", b)
	}
}

// What is moving is in a tagged field: of a change, and in a snapshot of the topic. Who writes nonsense there is refused, and
// so is a topic record with it, which would come before what the partitions are moving.
func TestMovingIsATaggedField(t *testing.T) {
	p := Partition{Replicas: []int32{3, 1, 2}, ISR: []int32{1}, Dirs: "\x00\x00\x00", Leader: 1, PartitionEpoch: 1}
	start := []Record{&TopicRecord{Name: "t", ID: uuid(1), Tags: []Tag{{7, []byte("later")}}}, &PartitionsRecord{Topic: uuid(1), Partitions: []Partition{p, p, p}}}
	before, _ := Apply(Empty(), 1, start)
	p.PartitionEpoch = 2
	plain := &PartitionChangeRecord{Topic: uuid(1), Index: 2, Partition: p, Tags: []Tag{{7, []byte("later")}}}
	p.Moving = &Reassignment{Adding: []int32{3}, Removing: []int32{1, 2}}
	change := &PartitionChangeRecord{Topic: uuid(1), Index: 2, Partition: p, Tags: plain.Tags}
	if n, m := len(AppendRecords(nil, []Record{change})), len(AppendRecords(nil, []Record{plain})); n != m+4 {
		t.Errorf("a record that moves three replicas has %d bytes, %d without", n, m)
	}
	img, _ := Apply(before, 2, []Record{change})
	img, err := DecodeImage(img.Encode())
	if err != nil {
		t.Fatal(err)
	}
	tp, _ := img.Topic("t")
	if got, _ := tp.Partition(2); !reflect.DeepEqual(got, &p) || len(tp.tags) != 1 || img.NumMoving() != 1 {
		t.Fatalf("%+v with tags %v, want %+v", got, tp.tags, p)
	}
	if target := p.Target(); !slices.Equal(target, []int32{3}) {
		t.Fatalf("the target is %v", target)
	}
	for name, data := range map[string]string{
		"nothing": "\x00\x00", "both": "\x03\x02", "strangers": "\x08\x01", "all added": "\x07\x00", "all removed": "\x00\x07", "too long": "\x01\x02\x00", "too short": "\x01",
	} {
		bad := *plain
		bad.Tags = []Tag{{tagMoving, []byte(data)}}
		topic := &TopicRecord{Name: "t", ID: uuid(1), Tags: []Tag{{tagMoving, []byte("\x01\x00" + data)}}}
		for _, r := range []Record{&bad, topic} {
			if _, err := DecodeUnit((&Unit{Records: []Record{r}}).Encode(hash), hash); err == nil {
				t.Errorf("%s: %T was read", name, r)
			}
		}
		table := *tp
		table.tree, table.count = [][][][]Partition{{{{{Replicas: p.Replicas, ISR: p.ISR, Dirs: p.Dirs, Leader: 1}}}}}, 1
		for _, at := range []string{"\x01\x00", "\x01\x01", "\x00", "\x02\x00"} {
			table.tags = []Tag{{tagMoving, []byte(at + data)}}
			broken := Empty()
			broken.topics.slots = broken.topics.slots.Append(&table)
			if _, err := DecodeImage(broken.Encode()); err == nil {
				t.Errorf("%s at %x: the snapshot was read", name, at)
			}
		}
	}
}

// Tagged fields that this release does not know are in the snapshot still.
func TestTagsSurviveTheImage(t *testing.T) {
	tags := []Tag{{7, []byte("later")}}
	img, _ := Apply(Empty(), 1, []Record{&BrokerRecord{ID: 1, Tags: tags}, &TopicRecord{Name: "t", ID: uuid(1), Tags: tags}})
	img, err := DecodeImage(img.Encode())
	if err != nil {
		t.Fatal(err)
	}
	b, _ := img.Broker(1)
	tp, _ := img.Topic("t")
	if !reflect.DeepEqual(b.tags, tags) || !reflect.DeepEqual(tp.tags, tags) {
		t.Errorf("tags %v and %v", b.tags, tp.tags)
	}
}

func TestNamesThatMetricsConfuse(t *testing.T) {
	img, _ := Apply(Empty(), 1, []Record{&TopicRecord{Name: "a.b_c", ID: uuid(1)}})
	if _, ok := img.Topic("a_b.c"); ok {
		t.Error("another name found the topic")
	}
	if tp, ok := img.TopicLike("a_b.c"); !ok || tp.Name != "a.b_c" {
		t.Error("the like of a name was not found")
	}
	for _, name := range []string{"", "a.b", "a.b_c_", "a-b_c"} {
		if _, ok := img.TopicLike(name); ok {
			t.Errorf("%q is like it", name)
		}
	}
}

// A record that does not fit stops the node with a message that names the unit and the record.
func TestMisfitsPanic(t *testing.T) {
	base, _ := Apply(Empty(), 5, []Record{
		&ClusterRecord{ClusterID: "c"}, &VoterRecord{Voter: Voter{RaftID: 1, NodeID: 1}}, &TopicRecord{Name: "t.x", ID: uuid(1)},
		&PartitionsRecord{Topic: uuid(1), Partitions: []Partition{{Leader: NoLeader, LeaderEpoch: 2, PartitionEpoch: 3}}},
		&ProducerIDsRecord{Next: 10}, &BrokerRecord{ID: 2},
	})
	many := make([]UUID, MaxDirs+1)
	for i := range many {
		many[i] = uuid(i)
	}
	for name, r := range map[string]Record{
		"other cluster":         &ClusterRecord{ClusterID: "d"},
		"voter of two nodes":    &VoterRecord{Voter: Voter{RaftID: 1, NodeID: 2}},
		"removal of no voter":   &VoterRemovalRecord{RaftID: 2},
		"change of no broker":   &BrokerChangeRecord{ID: 1},
		"removal of no broker":  &BrokerRemovalRecord{ID: 1},
		"change of an old one":  &BrokerChangeRecord{ID: 2, Epoch: 4},
		"removal of an old one": &BrokerRemovalRecord{ID: 2, Epoch: 4},
		"too many directories":  &BrokerRecord{ID: 1, Dirs: many},
		"topic name twice":      &TopicRecord{Name: "t.x", ID: uuid(2)},
		"topic name like":       &TopicRecord{Name: "t_x", ID: uuid(2)},
		"topic id twice":        &TopicRecord{Name: "u", ID: uuid(1)},
		"partitions of nothing": &PartitionsRecord{Topic: uuid(9)},
		"partitions with hole":  &PartitionsRecord{Topic: uuid(1), First: 2},
		"partitions twice":      &PartitionsRecord{Topic: uuid(1), First: 0},
		"change of nothing":     &PartitionChangeRecord{Topic: uuid(9)},
		"removal of nothing":    &TopicRemovalRecord{Topic: uuid(9)},
		"clear of nothing":      &ELRClearRecord{Topic: uuid(9)},
		"configs of nothing":    &TopicConfigsRecord{Topic: uuid(9)},
		"change beyond":         &PartitionChangeRecord{Topic: uuid(1), Index: 1},
		"partition epoch same":  &PartitionChangeRecord{Topic: uuid(1), Partition: Partition{LeaderEpoch: 2, PartitionEpoch: 3}},
		"leader epoch back":     &PartitionChangeRecord{Topic: uuid(1), Partition: Partition{LeaderEpoch: 1, PartitionEpoch: 4}},
		"producer ids again":    &ProducerIDsRecord{Next: 10},
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if text := fmt.Sprint(recover()); !bytes.Contains([]byte(text), fmt.Appendf(nil, "unit 6: %T does not fit", r)) {
					t.Errorf("panic %q", text)
				}
			}()
			Apply(base, 6, []Record{r})
		})
	}
}

func TestUUIDText(t *testing.T) {
	u := UUID{0xfb, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 0xff}
	if got, err := ParseUUID(u.String()); got != u || err != nil || len(u.String()) != 22 {
		t.Fatalf("%s became %v, %v", u, got, err)
	}
	for _, bad := range []string{"", "AAAAAAAAAAAAAAAAAAAAA", u.String() + "==", "AAAAAAAAAAAAAAAAAAAAAB", "!AAAAAAAAAAAAAAAAAAAAA"} {
		if _, err := ParseUUID(bad); err == nil {
			t.Errorf("%q was taken for an id", bad)
		}
	}
}

func TestTopicConfig(t *testing.T) {
	const notReplicas = "must be the literal '*' or a list of replicas, each as [partitionId]:[brokerId]"
	for _, c := range []struct{ key, value, want string }{
		{"segment.bytes", "1048576", ""},
		{"segment.bytes", "1048575", "must be at least 1048576"},
		{"segment.bytes", "1e9", "not a number of type INT"},
		{"segment.bytes", "2147483648", "not a number of type INT"},
		{"segment.bytes", "", "not a number of type INT"},
		{"max.message.bytes", "0", ""},
		{"max.message.bytes", "-1", "must be at least 0"},
		{"min.insync.replicas", "0", "must be at least 1"},
		{"streambus.flush", "os", ""},
		{"streambus.flush", "never", "must be one of: ack, os"},
		{"cleanup.policy", "compact, delete", ""},
		{"cleanup.policy", "", ""},
		{"cleanup.policy", "compact,remove", "must be one of: compact, delete"},
		{"compression.gzip.level", "-1", ""},
		{"compression.gzip.level", "0", "must be at least 1"},
		{"compression.gzip.level", "10", "must be no more than 9"},
		{"min.cleanable.dirty.ratio", "NaN", "not a number of type DOUBLE"},
		{"preallocate", "yes", "must be true or false"},
		{"leader.replication.throttled.replicas", "", ""},
		{"leader.replication.throttled.replicas", "*", ""},
		{"leader.replication.throttled.replicas", "0:1, 10:200,,99999999999:1", ""},
		{"leader.replication.throttled.replicas", "*,0:1", notReplicas},
		{"leader.replication.throttled.replicas", "0", notReplicas},
		{"follower.replication.throttled.replicas", "0:1:2", notReplicas},
		{"follower.replication.throttled.replicas", "0:", notReplicas},
		{"follower.replication.throttled.replicas", ":1", notReplicas},
		{"follower.replication.throttled.replicas", "-1:1", notReplicas},
		{"follower.replication.throttled.replicas", "0 :1", notReplicas},
		{"remote.storage.enable", "true", "must be one of: false"},
	} {
		got := ""
		if err := ValidateTopicConfig(map[string]string{c.key: c.value}); err != nil {
			got = err.Error()
		}
		want := c.want
		if want != "" {
			want = fmt.Sprintf("invalid value %s for configuration %s: %s", c.value, c.key, c.want)
		}
		if got != want {
			t.Errorf("%s=%s: %q, want %q", c.key, c.value, got, want)
		}
	}
	if err := ValidateTopicConfig(map[string]string{"message.format.version": "2.0"}); err == nil || err.Error() != "unknown topic config name: message.format.version" {
		t.Errorf("a setting that Kafka removed: %v", err)
	}
	own := &Topic{configs: []Setting{{"segment.bytes", "5000000"}}}
	defaults := map[string]string{"segment.bytes": "6000000", "max.message.bytes": "7"}
	if own.Int64("segment.bytes", defaults) != 5000000 || own.Int64("max.message.bytes", defaults) != 7 || own.Int64("min.insync.replicas", defaults) != 1 || own.String("streambus.flush", nil) != "ack" {
		t.Error("the topic's own value comes first, then the broker's, then the built-in one")
	}
}

func TestTopicKeyTable(t *testing.T) {
	if !slices.IsSortedFunc(topicKeys, func(a, b TopicKey) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) }) {
		t.Error("not in the order of names")
	}
	for _, k := range topicKeys {
		if err := k.Check(k.Default); err != nil {
			t.Errorf("the default of %s: %v", k.Name, err)
		}
		if len(k.Broker) == 0 {
			continue
		}
		if last := k.Broker[len(k.Broker)-1]; last.Default != "" && last.Topic(last.Default) != k.Default {
			t.Errorf("%s is %s, and %s by %s", k.Name, k.Default, last.Topic(last.Default), last.Name)
		}
	}
	hours := BrokerKey{Times: hour}
	for broker, topic := range map[string]string{"1": "3600000", "-1": "-1", "9223372036854775807": never} {
		if got := hours.Topic(broker); got != topic {
			t.Errorf("%s hours are %s ms, want %s", broker, got, topic)
		}
	}
	policy, _ := FindTopicKey("cleanup.policy")
	preallocate, _ := FindTopicKey("preallocate")
	if !policy.Acts("compact") || preallocate.Acts("true") || !preallocate.Acts("false") {
		t.Error("which values act")
	}
}

func BenchmarkCreate10000(b *testing.B) {
	ps := make([]Partition, 10_000)
	for i := range ps {
		r := []int32{int32(i % 9), int32((i + 1) % 9), int32((i + 2) % 9)}
		ps[i] = Partition{Replicas: r, ISR: r, Dirs: "\x00\x00\x00", Leader: r[0]}
	}
	data := (&Unit{Records: []Record{&TopicRecord{Name: "t", ID: uuid(1)}, &PartitionsRecord{Topic: uuid(1), Partitions: ps}}}).Encode(hash)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		u, _ := DecodeUnit(data, hash)
		Apply(Empty(), 1, u.Records)
	}
}

// The table of topics grows and shrinks, down to nothing.
func TestTopicsComeAndGo(t *testing.T) {
	img := Empty()
	step := func(r Record) { img, _ = Apply(img, img.Index()+1, []Record{r}) }
	for round := range 2 {
		for n := range 1030 {
			step(&TopicRecord{Name: fmt.Sprintf("t%d-%d", round, n), ID: uuid(round*2000 + n)})
		}
		for n := range 1030 {
			if n%1024 != 3 {
				step(&TopicRemovalRecord{Topic: uuid(round*2000 + n)})
			}
		}
		if img.NumTopics() != 2*(round+1) {
			t.Fatalf("%d topics", img.NumTopics())
		}
		for tp := range img.Topics() {
			if byID, ok := img.TopicByID(tp.ID); !ok || byID != tp {
				t.Fatalf("topic %s is not found by its id", tp.Name)
			}
			if byName, ok := img.Topic(tp.Name); !ok || byName != tp {
				t.Fatalf("topic %s is not found by its name", tp.Name)
			}
		}
		if _, ok := img.Topic("t0-0"); ok {
			t.Fatal("a topic that was removed is found")
		}
	}
	for tp := range img.Topics() {
		step(&TopicRemovalRecord{Topic: tp.ID})
	}
	if img.NumTopics() != 0 {
		t.Fatalf("%d topics are left", img.NumTopics())
	}
}
