package group

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/group/assign"
)

// Records of groups of the consumer protocol, as Kafka 4.4 writes them: see the
// ConsumerGroup*.json of its group coordinator. Keys have no version: what they begin
// with is which they are. Values are of version 0, in the flexible encoding.
const (
	epochKey        = 3
	topicsKey       = 4 // of Kafka 4.0: only its removal means something
	subscriptionKey = 5
	targetEpochKey  = 6
	targetKey       = 7
	currentKey      = 8
	patternKey      = 16
)

// consumerKey is the key of a group's record, memberKey that of one of its members or
// patterns.
func consumerKey(kind uint16, group string) []byte {
	return appendText(binary.BigEndian.AppendUint16(nil, kind), group)
}

func memberKey(kind uint16, group, member string) []byte {
	return appendText(consumerKey(kind, group), member)
}

func appendText(b []byte, text string) []byte {
	return append(binary.BigEndian.AppendUint16(b, uint16(len(text))), text...)
}

// flexible appends in that encoding, where lengths are one more than they are and 0 is
// null.
type flexible []byte

func value() flexible { return flexible{0, 0} } // of version 0

func (b flexible) int32(n int32) flexible { return binary.BigEndian.AppendUint32(b, uint32(n)) }
func (b flexible) int64(n int64) flexible { return binary.BigEndian.AppendUint64(b, uint64(n)) }
func (b flexible) count(n int) flexible   { return binary.AppendUvarint(b, uint64(n)+1) }
func (b flexible) text(s string) flexible { return append(b.count(len(s)), s...) }
func (b flexible) maybe(s *string) flexible {
	if s == nil {
		return append(b, 0)
	}
	return b.text(*s)
}

func (b flexible) texts(all []string) flexible {
	b = b.count(len(all))
	for _, s := range all {
		b = b.text(s)
	}
	return b
}

// tags appends tagged fields, numbered from 0 on.
func (b flexible) tags(fields ...flexible) flexible {
	b = binary.AppendUvarint(b, uint64(len(fields)))
	for i, f := range fields {
		b = binary.AppendUvarint(b, uint64(i))
		b = append(binary.AppendUvarint(b, uint64(len(f))), f...)
	}
	return b
}

func (b flexible) partitions(a assign.Assignment, since holding) flexible {
	b = b.count(len(a))
	for _, id := range sortedIDs(a) {
		b = append(b, id[:]...).count(len(a[id]))
		for _, i := range a[id] {
			b = b.int32(i)
		}
		if since == nil {
			b = b.tags()
			continue
		}
		epochs := flexible{}.count(len(a[id]))
		for _, i := range a[id] {
			epochs = epochs.int32(since[part{id, i}])
		}
		b = b.tags(epochs)
	}
	return b
}

func epochRecord(group string, epoch int32, hash uint64, created int64) Record {
	return Record{consumerKey(epochKey, group), value().int32(epoch).tags(flexible{}.int64(int64(hash)), flexible{}.int64(created))}
}

func subscriptionRecord(group string, m *consumer) Record {
	v := value().maybe(m.instance).maybe(m.rack).text(m.client.ID).text(m.client.Host).texts(m.topics)
	if m.regex == nil {
		v = v.text("")
	} else {
		v = v.text(*m.regex)
	}
	v = v.int32(int32(m.rebalance.Milliseconds())).maybe(m.assignor)
	if m.classic == nil { // to Kafka, a member of which this is not said is one of the classic protocol
		return Record{memberKey(subscriptionKey, group, m.id), v.tags(flexible{0})}
	}
	as := flexible{1}.int32(int32(m.classic.session.Milliseconds())).count(len(m.classic.protocols)) // 1 says that it is there
	for _, p := range m.classic.protocols {
		as = append(as.text(p.Name).count(len(p.Metadata)), p.Metadata...).tags()
	}
	return Record{memberKey(subscriptionKey, group, m.id), v.tags(as.tags())}
}

func targetEpochRecord(group string, epoch int32, at int64) Record {
	return Record{consumerKey(targetEpochKey, group), value().int32(epoch).tags(flexible{}.int64(at))}
}

func targetRecord(group, member string, target assign.Assignment) Record {
	return Record{memberKey(targetKey, group, member), value().partitions(target, nil).tags()}
}

func currentRecord(group string, m *consumer) Record {
	v := append(value().int32(m.epoch).int32(m.previous), byte(m.state))
	return Record{memberKey(currentKey, group, m.id), v.partitions(m.assigned.assignment(), m.assigned).partitions(m.revoking.assignment(), m.revoking).tags()}
}

func patternRecord(group, regex string, p *pattern) Record {
	return Record{memberKey(patternKey, group, regex), value().texts(p.topics).int64(p.version).int64(p.at).tags()}
}

// records are those of an update. old is the member before it, nil for a new one.
func (u *update) records(now time.Time, g *Group, old *consumer) (records []Record) {
	add := func(r ...Record) { records = append(records, r...) }
	m, c := u.member, u.c
	if g != nil && g.consumer == nil && g.stored { // it was of the classic protocol
		add(Record{groupKey(u.id), nil})
	}
	add(u.upgraded...)
	if u.gone != "" {
		add(gone(u.id, u.gone)...)
	}
	if old == nil || !old.says(m) {
		add(subscriptionRecord(u.id, m))
	}
	for _, regex := range slices.Sorted(maps.Keys(u.patterns)) {
		if c.patterns[regex] != u.patterns[regex] {
			add(patternRecord(u.id, regex, u.patterns[regex]))
		}
	}
	for _, regex := range slices.Sorted(maps.Keys(c.patterns)) {
		if u.patterns[regex] == nil {
			add(Record{memberKey(patternKey, u.id, regex), nil})
		}
	}
	if u.epoch != c.epoch || u.hash != c.hash {
		add(epochRecord(u.id, u.epoch, u.hash, c.created))
	}
	for _, id := range slices.Sorted(maps.Keys(u.targets)) {
		known := c.members[id]
		if known == nil || id == u.gone || !sameTarget(known.target, u.targets[id]) { // that of who is gone is removed above
			add(targetRecord(u.id, id, u.targets[id]))
		}
	}
	if u.targets == nil && u.gone != "" {
		add(targetRecord(u.id, m.id, m.target))
	}
	if u.assigned {
		add(targetEpochRecord(u.id, u.targetEpoch, now.UnixMilli()))
	}
	if old == nil || !old.stands(m) {
		add(currentRecord(u.id, m))
	}
	return records
}

// says tells whether a member says what another did.
func (m *consumer) says(other *consumer) bool {
	return m.reads(other) && equal(m.instance, other.instance) && equal(m.rack, other.rack) && equal(m.assignor, other.assignor) &&
		m.client.ID == other.client.ID && m.client.Host == other.client.Host && m.rebalance == other.rebalance && m.classic.equal(other.classic)
}

// stands tells whether a member is where another was.
func (m *consumer) stands(other *consumer) bool {
	return m.epoch == other.epoch && m.previous == other.previous && m.state == other.state &&
		maps.Equal(m.assigned, other.assigned) && maps.Equal(m.revoking, other.revoking)
}

// tombstones remove a group that nobody is in.
func (g *Group) tombstones() []Record {
	if g.consumer == nil {
		return []Record{{groupKey(g.id), nil}}
	}
	records := []Record{{consumerKey(targetEpochKey, g.id), nil}, {consumerKey(epochKey, g.id), nil}}
	for _, regex := range slices.Sorted(maps.Keys(g.consumer.patterns)) {
		records = append(records, Record{memberKey(patternKey, g.id, regex), nil})
	}
	return records
}

var errShort = errors.New("it ends too early")

// reading takes a key or a value apart. After an error all is zero.
type reading struct {
	b   []byte
	err error
}

func (r *reading) take(n int) []byte {
	if n < 0 || n > len(r.b) {
		r.b, r.err = nil, errShort
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

func (r *reading) int16() int16 {
	if b := r.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (r *reading) int32() int32 {
	if b := r.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (r *reading) int64() int64 {
	if b := r.take(8); b != nil {
		return int64(binary.BigEndian.Uint64(b))
	}
	return 0
}

// count reads a length; -1 is null. No more than the bytes that are left is believed.
func (r *reading) count() int {
	n, size := binary.Uvarint(r.b)
	if size <= 0 || n > uint64(len(r.b)) {
		r.b, r.err = nil, errShort
		return 0
	}
	r.b = r.b[size:]
	return int(n) - 1
}

func (r *reading) text() string { return string(r.take(max(r.count(), 0))) }

func (r *reading) maybe() *string {
	n := r.count()
	if n < 0 || r.err != nil {
		return nil
	}
	s := string(r.take(n))
	return &s
}

func (r *reading) texts() (all []string) {
	for range r.count() {
		all = append(all, r.text())
	}
	return all
}

// tags gives tagged fields to do.
func (r *reading) tags(do func(tag uint64, field *reading)) {
	for range r.count() + 1 {
		tag, size := binary.Uvarint(r.b)
		if size <= 0 {
			r.b, r.err = nil, errShort
			return
		}
		r.b = r.b[size:]
		field := &reading{b: r.take(r.count() + 1)}
		if do != nil {
			do(tag, field)
		}
		r.err = errors.Join(r.err, field.err)
	}
}

// partitions reads what is held. Where it does not say since when, that is an epoch.
func (r *reading) partitions(epoch int32) holding {
	h := holding{}
	for range r.count() {
		var id topicID
		copy(id[:], r.take(len(id)))
		indexes := make([]int32, 0, 8)
		for range r.count() {
			indexes = append(indexes, r.int32())
		}
		since := slices.Repeat([]int32{epoch}, len(indexes))
		r.tags(func(tag uint64, field *reading) {
			if tag != 0 {
				return
			}
			for i := range field.count() {
				if e := field.int32(); i < len(since) {
					since[i] = e
				}
			}
		})
		for i, index := range indexes {
			h[part{id, index}] = since[i]
		}
	}
	return h
}

func (r *reading) classic() *classicMember {
	as := &classicMember{session: time.Duration(r.int32()) * time.Millisecond}
	for range r.count() {
		p := kmsg.NewJoinGroupRequestProtocol()
		p.Name, p.Metadata = r.text(), slices.Clone(r.take(max(r.count(), 0)))
		r.tags(nil)
		as.protocols = append(as.protocols, p)
	}
	r.tags(nil)
	return as
}

// replayConsumer takes a record of a group of the consumer protocol.
func (s *Shard) replayConsumer(kind uint16, key, v []byte) error {
	k := &reading{b: key[2:]}
	group := string(k.take(int(k.int16())))
	name := ""
	switch kind {
	case subscriptionKey, targetKey, currentKey, patternKey:
		name = string(k.take(int(k.int16())))
	}
	if k.err != nil {
		return fmt.Errorf("the key of a record of type %d: %w", kind, k.err)
	}
	if v == nil {
		s.replayGone(kind, group, name)
		return nil
	}
	r := &reading{b: v}
	if version := r.int16(); version != 0 && r.err == nil {
		return nil // of a later Kafka
	}
	g := s.group(group, true)
	if g.consumer == nil {
		g.consumer, g.protocolType, g.stored = newConsumers(), consumerProtocol, true
		g.consumer.created = -1
	}
	g.consumer.replay(kind, name, r)
	if r.err != nil {
		return fmt.Errorf("group %q, a record of type %d for %q: %w", group, kind, name, r.err)
	}
	return nil
}

func (c *consumers) replay(kind uint16, name string, r *reading) {
	if kind == patternKey {
		p := &pattern{topics: r.texts(), version: r.int64(), at: r.int64()}
		c.patterns[name] = p
		return
	}
	next := consumer{id: name, assigned: holding{}, revoking: holding{}}
	if m := c.members[name]; m != nil {
		next = *m
	}
	switch kind {
	case epochKey:
		c.epoch = r.int32()
		r.tags(func(tag uint64, field *reading) {
			switch tag {
			case 0:
				c.hash = uint64(field.int64())
			case 1:
				c.created = field.int64()
			}
		})
		return
	case targetEpochKey:
		c.targetEpoch = r.int32()
		r.tags(func(tag uint64, field *reading) {
			if tag == 0 {
				c.targetAt = field.int64()
			}
		})
		return
	case subscriptionKey:
		next.instance, next.rack, next.client.ID, next.client.Host = r.maybe(), r.maybe(), r.text(), r.text()
		next.topics, next.regex = r.texts(), r.maybe()
		if next.regex != nil && *next.regex == "" {
			next.regex = nil
		}
		next.rebalance, next.assignor = time.Duration(r.int32())*time.Millisecond, r.maybe()
		next.classic = nil
		r.tags(func(tag uint64, field *reading) {
			if there := field.take(1); tag == 0 && there != nil && there[0] == 1 {
				next.classic = field.classic()
			}
		})
	case targetKey:
		next.target = r.partitions(0).assignment()
	case currentKey:
		next.epoch, next.previous = r.int32(), r.int32()
		if state := r.take(1); state != nil {
			next.state = memberState(state[0])
		}
		next.assigned, next.revoking = r.partitions(next.epoch), r.partitions(next.epoch)
	default:
		return
	}
	c.set(&next)
}

// replayGone takes the removal of something.
func (s *Shard) replayGone(kind uint16, group, name string) {
	g := s.groups[group]
	if g == nil || g.consumer == nil {
		return
	}
	c := g.consumer
	m := c.members[name]
	switch {
	case kind == epochKey:
		fresh := newGroup(group)
		fresh.offsets = g.offsets
		s.groups[group] = fresh
		s.forget(fresh)
	case kind == subscriptionKey:
		c.remove(name)
	case kind == patternKey:
		delete(c.patterns, name)
	case kind == targetKey && m != nil:
		next := *m
		next.target = nil
		c.set(&next)
	case kind == currentKey && m != nil:
		next := *m
		next.epoch, next.previous, next.state, next.assigned, next.revoking = 0, 0, reconciled, holding{}, holding{}
		c.set(&next)
	}
}
