package group

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// Records of __consumer_offsets, in the versions that Kafka writes: see its
// GroupCoordinatorRecordHelpers.java.
const (
	oldOffsetKey     = 0
	offsetKeyVersion = 1
	groupKeyVersion  = 2

	offsetVersion  = 3
	offsetIDs      = 4 // with the topic's id
	expiredVersion = 1 // of an offset with a time of its own
	groupVersion   = 3
)

// maxText is how long a text may be, in bytes, that somebody sends and records say: in
// keys, and in all that is of the classic protocol, its length has 15 bits. A record of
// which that is not true nobody can load, and all groups of the partition are gone with
// it. There is room for what makes a member's id of one.
const maxText = math.MaxInt16 - 64

func tooLong(texts ...string) bool {
	return slices.ContainsFunc(texts, func(text string) bool { return len(text) > maxText })
}

func orBlank(text *string) string {
	if text == nil {
		return ""
	}
	return *text
}

func offsetKey(group string, p partitionID) []byte {
	k := kmsg.OffsetCommitKey{Version: offsetKeyVersion, Group: group, Topic: p.topic, Partition: p.index}
	return k.AppendTo(nil)
}

func groupKey(group string) []byte {
	k := kmsg.GroupMetadataKey{Version: groupKeyVersion, Group: group}
	return k.AppendTo(nil)
}

func offsetRecord(group string, p partitionID, o offset) Record {
	v := kmsg.OffsetCommitValue{
		Version: offsetVersion, Offset: o.at, LeaderEpoch: o.epoch, Metadata: o.metadata, CommitTimestamp: o.written, ExpireTimestamp: o.expires,
	}
	switch {
	case o.expires >= 0:
		v.Version = expiredVersion
	case o.topicID != [16]byte{}:
		v.Version, v.TopicID = offsetIDs, o.topicID
	}
	return Record{offsetKey(group, p), v.AppendTo(nil)}
}

// record is the group as it is to be, with some members changed.
func (g *Group) record(now time.Time, changed func(*member) *member) Record {
	v := kmsg.GroupMetadataValue{
		Version: groupVersion, ProtocolType: g.protocolType, Generation: g.generation, Protocol: g.protocol, CurrentStateTimestamp: now.UnixMilli(),
	}
	if g.leader != "" {
		v.Leader = &g.leader
	}
	g.each(func(m *member) {
		if led := m.id == g.leader; changed != nil {
			m = changed(m)
			if led {
				v.Leader = &m.id
			}
		}
		x := kmsg.GroupMetadataValueMember{
			MemberID: m.id, InstanceID: m.instance, ClientID: m.client.ID, ClientHost: m.client.Host,
			RebalanceTimeoutMillis: int32(m.rebalance.Milliseconds()), SessionTimeoutMillis: int32(m.session.Milliseconds()),
			Assignment: slices.Concat(m.assignment),
		}
		if g.protocol != nil {
			x.Subscription = m.metadata(*g.protocol)
		}
		v.Members = append(v.Members, x)
	})
	return Record{groupKey(g.id), v.AppendTo(nil)}
}

// Replay takes a record of the log, in its order. What it does not know it passes
// over; an error says that a record is damaged.
func (s *Shard) Replay(key, value []byte) error {
	if len(key) < 2 {
		return fmt.Errorf("a key of %d bytes", len(key))
	}
	switch version := binary.BigEndian.Uint16(key); version {
	case oldOffsetKey, offsetKeyVersion:
		return s.replayOffset(key, value)
	case groupKeyVersion:
		return s.replayGroup(key, value)
	case epochKey, topicsKey, subscriptionKey, targetEpochKey, targetKey, currentKey, patternKey:
		return s.replayConsumer(version, key, value)
	default:
		return nil
	}
}

func (s *Shard) replayOffset(key, value []byte) error {
	var k kmsg.OffsetCommitKey
	if err := k.ReadFrom(key); err != nil {
		return fmt.Errorf("the key of an offset: %w", err)
	}
	p := partitionID{k.Topic, k.Partition}
	if value == nil {
		if g := s.groups[k.Group]; g != nil {
			delete(g.offsets, p)
			s.forget(g)
		}
		return nil
	}
	v := kmsg.OffsetCommitValue{LeaderEpoch: -1, ExpireTimestamp: -1}
	if err := v.ReadFrom(value); err != nil {
		return fmt.Errorf("the offset of group %q for %s-%d: %w", k.Group, k.Topic, k.Partition, err)
	}
	if v.Version < 3 {
		v.LeaderEpoch = -1
	}
	if v.Version != expiredVersion {
		v.ExpireTimestamp = -1
	}
	s.group(k.Group, true).offsets[p] = offset{v.Offset, v.LeaderEpoch, v.Metadata, v.CommitTimestamp, v.ExpireTimestamp, v.TopicID}
	return nil
}

func (s *Shard) replayGroup(key, value []byte) error {
	var k kmsg.GroupMetadataKey
	if err := k.ReadFrom(key); err != nil {
		return fmt.Errorf("the key of a group: %w", err)
	}
	if value == nil {
		if g := s.groups[k.Group]; g != nil {
			fresh := newGroup(k.Group)
			fresh.offsets = g.offsets
			s.groups[k.Group] = fresh
			s.forget(fresh)
		}
		return nil
	}
	var v kmsg.GroupMetadataValue
	if err := v.ReadFrom(value); err != nil {
		return fmt.Errorf("group %q: %w", k.Group, err)
	}
	g := newGroup(k.Group)
	if old := s.groups[k.Group]; old != nil {
		g.offsets = old.offsets
	}
	s.groups[k.Group] = g
	g.generation, g.protocolType, g.protocol, g.since, g.stored = v.Generation, v.ProtocolType, v.Protocol, v.CurrentStateTimestamp, true
	if v.Version < 2 {
		g.since = -1
	}
	for _, x := range v.Members {
		m := &member{
			id: x.MemberID, instance: x.InstanceID, client: Client{ID: x.ClientID, Host: x.ClientHost},
			session: time.Duration(x.SessionTimeoutMillis) * time.Millisecond, rebalance: time.Duration(x.RebalanceTimeoutMillis) * time.Millisecond,
			assignment: slices.Clone(x.Assignment),
		}
		if v.Version < 1 {
			m.rebalance = m.session
		}
		if v.Protocol != nil {
			m.protocols = []kmsg.JoinGroupRequestProtocol{{Name: *v.Protocol, Metadata: slices.Clone(x.Subscription)}}
		}
		g.add(m)
	}
	if len(v.Members) > 0 {
		g.state = Stable
	}
	if v.Leader != nil && g.members[*v.Leader] != nil {
		g.leader = *v.Leader
	}
	return nil
}
