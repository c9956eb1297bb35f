package handler

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/fetch"
	"github.com/streambus/streambus/protocol"
)

// fetch reads records (versions 4-18). No session is ever made: the answer's
// session id 0 tells the client to go on naming every partition. A request that
// continues a session names one that does not exist here.
func (b *Broker) fetch(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.FetchRequest)
	if req.SessionEpoch > 0 {
		resp := req.ResponseKind().(*kmsg.FetchResponse)
		resp.ErrorCode = int16(protocol.FetchSessionIDNotFound)
		done(&protocol.Response{Body: resp})
		return
	}
	img := b.Image()
	ask := fetch.Request{
		MinBytes: req.MinBytes, MaxBytes: req.MaxBytes,
		MaxWait: time.Duration(req.MaxWaitMillis) * time.Millisecond,
	}
	for i := range req.Topics {
		t := &req.Topics[i]
		for j := range t.Partitions {
			p := &t.Partitions[j]
			rep, err := b.find(img, t.Topic, t.TopicID, req.Version >= 13, p.Partition)
			ask.Asks = append(ask.Asks, fetch.Ask{
				Replica: rep, Err: err,
				Offset: p.FetchOffset, LeaderEpoch: p.CurrentLeaderEpoch, MaxBytes: p.PartitionMaxBytes,
			})
		}
	}
	code := errorCode
	if req.Version < 6 {
		code = withoutStorageError
	}
	b.Fetcher.Start(ctx, ask, func(rows []fetch.Row) { done(fetch.Encode(req, rows, code)) })
}

// withoutStorageError is for consumers before version 6, which do not know
// KAFKA_STORAGE_ERROR and are to look for another leader, as in Apache Kafka.
func withoutStorageError(err error) protocol.ErrorCode {
	if code := errorCode(err); code != protocol.KafkaStorageError {
		return code
	}
	return protocol.NotLeaderOrFollower
}
