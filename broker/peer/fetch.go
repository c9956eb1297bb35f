package peer

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/image"
)

// followerVersion is the oldest Fetch in which a follower says which incarnation
// of its broker it is of (KIP-903).
const followerVersion = 15

// PartitionID names a partition.
type PartitionID struct {
	Topic image.UUID
	Index int32
}

// FetchRequest is a follower's.
type FetchRequest struct {
	Replica            int32
	BrokerEpoch        int64
	Session, Epoch     int32 // as in KIP-227
	MaxWait            time.Duration
	MinBytes, MaxBytes int32
	Partitions         []FetchPartition // those of one topic next to one another
	Forgotten          []PartitionID    // likewise
}

// FetchPartition is what a follower says of a partition, and asks for.
type FetchPartition struct {
	PartitionID
	LeaderEpoch int32
	Offset      int64 // its log end
	LastEpoch   int32 // of the record before, -1 for none
	LogStart    int64
	MaxBytes    int32
	protocol.FollowerState
}

// FetchAnswer is the leader's.
type FetchAnswer struct {
	Code       protocol.ErrorCode // of the session
	Session    int32
	Partitions []FetchedPartition
}

// FetchedPartition is what a leader answers about a partition.
type FetchedPartition struct {
	PartitionID
	Code                    protocol.ErrorCode
	HighWatermark, LogStart int64
	// DivergingEpoch is that of the latest records which both logs may have, and
	// DivergingEnd where they end at the leader; -1 if nothing differs.
	DivergingEpoch int32
	DivergingEnd   int64
	Records        []byte // whole batches, and maybe a part of one more
}

// StartFetch sends a request and returns how to wait for its answer. Errors are
// *Error. Requests leave in the order of the calls.
func (c *Conn) StartFetch(ctx context.Context, r FetchRequest) (await func(context.Context) (FetchAnswer, error), err error) {
	version, err := c.version(protocol.KeyFetch)
	if err == nil && version < followerVersion {
		err = fmt.Errorf("it speaks Fetch up to version %d, followers need %d", version, followerVersion)
	}
	if err != nil {
		return nil, &Error{Addr: c.addr, Err: err}
	}
	req := r.message()
	req.Version = version
	x, err := c.begin(ctx, req)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) (FetchAnswer, error) {
		body, err := c.await(ctx, x)
		if err != nil {
			return FetchAnswer{}, err
		}
		return newFetchAnswer(body.(*kmsg.FetchResponse)), nil
	}, nil
}

func (r *FetchRequest) message() *kmsg.FetchRequest {
	m := kmsg.NewPtrFetchRequest()
	m.ReplicaState.ID, m.ReplicaState.Epoch = r.Replica, r.BrokerEpoch
	m.SessionID, m.SessionEpoch = r.Session, r.Epoch
	m.MaxWaitMillis, m.MinBytes, m.MaxBytes = int32(r.MaxWait.Milliseconds()), r.MinBytes, r.MaxBytes
	for _, p := range r.Partitions {
		if n := len(m.Topics); n == 0 || m.Topics[n-1].TopicID != p.Topic {
			t := kmsg.NewFetchRequestTopic()
			t.TopicID = p.Topic
			m.Topics = append(m.Topics, t)
		}
		q := kmsg.NewFetchRequestTopicPartition()
		q.Partition, q.CurrentLeaderEpoch, q.FetchOffset, q.LastFetchedEpoch = p.Index, p.LeaderEpoch, p.Offset, p.LastEpoch
		q.LogStartOffset, q.PartitionMaxBytes = p.LogStart, p.MaxBytes
		p.FollowerState.Put(&q.UnknownTags)
		t := &m.Topics[len(m.Topics)-1]
		t.Partitions = append(t.Partitions, q)
	}
	for _, id := range r.Forgotten {
		if n := len(m.ForgottenTopics); n == 0 || m.ForgottenTopics[n-1].TopicID != id.Topic {
			t := kmsg.NewFetchRequestForgottenTopic()
			t.TopicID = id.Topic
			m.ForgottenTopics = append(m.ForgottenTopics, t)
		}
		t := &m.ForgottenTopics[len(m.ForgottenTopics)-1]
		t.Partitions = append(t.Partitions, id.Index)
	}
	return m
}

func newFetchAnswer(m *kmsg.FetchResponse) FetchAnswer {
	a := FetchAnswer{Code: protocol.ErrorCode(m.ErrorCode), Session: m.SessionID}
	for i := range m.Topics {
		t := &m.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			a.Partitions = append(a.Partitions, FetchedPartition{
				PartitionID: PartitionID{t.TopicID, p.Partition}, Code: protocol.ErrorCode(p.ErrorCode),
				HighWatermark: p.HighWatermark, LogStart: p.LogStartOffset,
				DivergingEpoch: p.DivergingEpoch.Epoch, DivergingEnd: p.DivergingEpoch.EndOffset,
				Records: p.RecordBatches,
			})
		}
	}
	return a
}
