package handler

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/fetch"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
)

// fetch reads records (versions 4-18; 7 sessions, 12 the epoch of the record
// before, 13 topic ids).
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
	version, isolation := req.Version, req.IsolationLevel
	b.Fetcher.Fetch(ctx, in, func(a fetch.Answer) {
		for i := range a.Rows {
			row := &a.Rows[i]
			b.Replicas.CountFetch(row.Replica, row.Records.Len(), row.Err)
		}
		done(fetch.Encode(version, isolation, a, counted))
	})
}

// withoutStorageError is for consumers before version 6, which do not know
// KAFKA_STORAGE_ERROR and are to look for another leader, as in Apache Kafka.
func withoutStorageError(err error) protocol.ErrorCode {
	if code := errorCode(err); code != protocol.KafkaStorageError {
		return code
	}
	return protocol.NotLeaderOrFollower
}
