package handler

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/fetch"
	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
)

// fetch reads records (versions 4-18; 7 sessions, 11 from followers too, 12 the
// epoch of the record before, 13 topic ids).
func (b *Broker) fetch(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.FetchRequest)
	byID := req.Version >= 13
	in := &fetch.Incoming{
		Session: req.SessionID, Epoch: req.SessionEpoch, ByID: byID,
		MinBytes: req.MinBytes, MaxBytes: req.MaxBytes,
		MaxWait: time.Duration(req.MaxWaitMillis) * time.Millisecond,
	}
	if req.Version < 7 {
		in.Epoch = -1 // there are no sessions yet
	}
	in.Follower = b.follower(req)
	in.Resolve = func(n fetch.Name) (*replica.Replica, error) {
		return b.find(b.Image(), n.Topic, n.ID, in.ByID, n.Index)
	}
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			q := fetch.Partition{
				Name: fetch.Name{Topic: t.Topic, ID: t.TopicID, Index: p.Partition},
				Ask:  fetch.Ask{Offset: p.FetchOffset, LeaderEpoch: -1, LastEpoch: -1, MaxBytes: p.PartitionMaxBytes},
			}
			if req.Version >= 9 {
				q.LeaderEpoch = max(p.CurrentLeaderEpoch, -1)
			}
			if req.Version >= 12 {
				q.LastEpoch = p.LastFetchedEpoch
			}
			if in.Follower == nil && req.Version >= 11 {
				q.Reader = replica.Anywhere
				if b.RackAware {
					q.Rack = req.Rack
				}
			}
			if in.Follower != nil {
				q.State, q.LogStart = followerState(p), p.LogStartOffset
			}
			in.Partitions = append(in.Partitions, q)
		}
	}
	for _, t := range req.ForgottenTopics {
		for _, p := range t.Partitions {
			in.Forgotten = append(in.Forgotten, fetch.Name{Topic: t.Topic, ID: t.TopicID, Index: p})
		}
	}
	code := errorCode
	if req.Version < 6 {
		code = withoutStorageError
	}
	counted := func(err error) protocol.ErrorCode {
		c := code(err)
		if c != protocol.None {
			b.CountError(protocol.KeyFetch, c)
		}
		return c
	}
	version, isolation, listener := req.Version, req.IsolationLevel, r.Conn.Listener
	b.Fetcher.Fetch(ctx, in, func(a fetch.Answer) {
		for i := range a.Rows {
			row := &a.Rows[i]
			if in.Follower != nil {
				b.Replicas.CountReplicated(row.Records.Len())
				continue
			}
			b.Replicas.CountFetch(row.Replica, row.Records.Len(), row.Err)
		}
		if in.Follower == nil {
			b.pointToLeaders(&a, version, listener)
		}
		done(fetch.Encode(version, isolation, a, counted))
	})
}

// follower is the broker that a request comes from, nil for a consumer: as such is
// taken whoever names a broker that is not registered.
func (b *Broker) follower(req *kmsg.FetchRequest) *fetch.Follower {
	f := &fetch.Follower{ID: req.ReplicaID, Epoch: -1}
	if req.Version >= 15 {
		f.ID, f.Epoch = req.ReplicaState.ID, req.ReplicaState.Epoch
	}
	if _, ok := b.Image().Broker(f.ID); !ok {
		return nil
	}
	return f
}

// pointToLeaders says who leads where this broker does not, or not in the epoch
// that the client knows.
func (b *Broker) pointToLeaders(a *fetch.Answer, version int16, listener string) {
	l := leaders{listener: listener}
	for i := range a.Rows {
		row := &a.Rows[i]
		if !errors.Is(row.Err, partition.ErrNotLeader) && !errors.Is(row.Err, partition.ErrFencedEpoch) {
			continue
		}
		if l.img == nil {
			l.img = b.Image()
		}
		row.Leader, row.PointsToLeader = l.of(a.Names[i].Topic, a.Names[i].ID, version >= 13, a.Names[i].Index)
	}
	a.Nodes = l.nodes
}

// followerState is what a follower says beside Kafka's fields. One that does not
// vouches for nothing, and so does not get in sync.
func followerState(p *kmsg.FetchRequestTopicPartition) protocol.FollowerState {
	if s, ok := protocol.ReadFollowerState(&p.UnknownTags); ok {
		return s
	}
	return protocol.FollowerState{FlushedEnd: -1, Read: true}
}

// withoutStorageError is for consumers before version 6, which do not know
// KAFKA_STORAGE_ERROR and are to look for another leader, as in Apache Kafka.
func withoutStorageError(err error) protocol.ErrorCode {
	if code := errorCode(err); code != protocol.KafkaStorageError {
		return code
	}
	return protocol.NotLeaderOrFollower
}
