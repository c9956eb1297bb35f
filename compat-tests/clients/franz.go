package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/compat-tests/clients/driver"
)

// franz asks franz-go. It also is the one that makes topics, and reads what the
// others have written.
type franz struct{ bootstrap []string }

func (f franz) connected(opts []kgo.Opt, do func(*kgo.Client) error) error {
	cl, err := kgo.NewClient(append(opts, kgo.SeedBrokers(f.bootstrap...), kgo.MetadataMinAge(100*time.Millisecond))...)
	if err != nil {
		return err
	}
	defer cl.Close()
	return do(cl)
}

func (f franz) createTopic(ctx context.Context, topic string, partitions int32, factor int16) error {
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = topic, partitions, factor
	minISR := strconv.Itoa(min(2, int(factor)))
	t.Configs = []kmsg.CreateTopicsRequestTopicConfig{{Name: "min.insync.replicas", Value: &minISR}}
	req.Topics = append(req.Topics, t)
	return f.connected(nil, func(cl *kgo.Client) error {
		resp, err := req.RequestWith(ctx, cl)
		if err != nil {
			return err
		}
		if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
			return fmt.Errorf("topic %s: %w", topic, err)
		}
		return nil
	})
}

func (f franz) Metadata(ctx context.Context, topic string) (m driver.Metadata, err error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	return m, f.connected(nil, func(cl *kgo.Client) error {
		resp, err := req.RequestWith(ctx, cl)
		if err != nil {
			return err
		}
		if err := kerr.ErrorForCode(resp.Topics[0].ErrorCode); err != nil {
			return err
		}
		for _, b := range resp.Brokers {
			m.Brokers = append(m.Brokers, driver.Broker{ID: b.NodeID, Addr: net.JoinHostPort(b.Host, strconv.Itoa(int(b.Port)))})
		}
		all := resp.Topics[0].Partitions
		slices.SortFunc(all, func(a, b kmsg.MetadataResponseTopicPartition) int { return int(a.Partition - b.Partition) })
		for _, p := range all {
			m.Partitions = append(m.Partitions, driver.Partition{Leader: p.Leader, Replicas: p.Replicas})
		}
		return nil
	})
}

var franzCodecs = map[string]kgo.CompressionCodec{
	"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(), "lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
}

func (f franz) Produce(ctx context.Context, p driver.Produce) error {
	opts := []kgo.Opt{kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(franzCodecs[p.Codec]), kgo.ProducerBatchMaxBytes(1_000_000)}
	if !p.Idempotent {
		opts = append(opts, kgo.DisableIdempotentWrite())
	}
	var all []*kgo.Record
	for _, r := range p.Records {
		x := &kgo.Record{Topic: p.Topic, Partition: p.Partition, Key: r.Key, Value: r.Value}
		if r.Time != 0 {
			x.Timestamp = time.UnixMilli(r.Time)
		}
		for _, h := range r.Headers {
			x.Headers = append(x.Headers, kgo.RecordHeader(h))
		}
		all = append(all, x)
	}
	return f.connected(opts, func(cl *kgo.Client) error {
		if p.PauseMS == 0 {
			return cl.ProduceSync(ctx, all...).FirstErr()
		}
		for i, x := range all {
			if i > 0 {
				time.Sleep(time.Duration(p.PauseMS) * time.Millisecond)
			}
			if err := cl.ProduceSync(ctx, x).FirstErr(); err != nil {
				return err
			}
		}
		return nil
	})
}

func (f franz) Fetch(ctx context.Context, q driver.Fetch) ([]driver.Record, error) {
	records, _, err := f.fetch(ctx, q)
	return records, err
}

// fetch also gives the codec of each record's batch, by its number in the format.
func (f franz) fetch(ctx context.Context, q driver.Fetch) (records []driver.Record, codecs []uint8, err error) {
	from := kgo.NewOffset().At(q.Offset)
	switch {
	case q.Last != 0:
		from = kgo.NewOffset().AtEnd().Relative(-q.Last)
	case q.Time != 0:
		from = kgo.NewOffset().AfterMilli(q.Time)
	}
	opts := []kgo.Opt{kgo.FetchMaxWait(200 * time.Millisecond)}
	if q.Group == "" {
		opts = append(opts, kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{q.Topic: {q.Partition: from}}))
	} else {
		opts = append(opts, kgo.ConsumerGroup(q.Group), kgo.ConsumeTopics(q.Topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit())
	}
	err = f.connected(opts, func(cl *kgo.Client) error {
		for len(records) < q.Count {
			fetches := cl.PollRecords(ctx, q.Count-len(records))
			if err := fetches.Err(); err != nil {
				return fmt.Errorf("after %d of %d records: %w", len(records), q.Count, err)
			}
			for _, x := range fetches.Records() {
				r := driver.Record{Offset: x.Offset, Time: x.Timestamp.UnixMilli(), Key: x.Key, Value: x.Value}
				for _, h := range x.Headers {
					r.Headers = append(r.Headers, driver.Header(h))
				}
				records = append(records, r)
				codecs = append(codecs, x.Attrs.CompressionType())
			}
		}
		if q.Group != "" {
			return cl.CommitUncommittedOffsets(ctx)
		}
		return nil
	})
	return records, codecs, err
}

// end is the end of a topic's first partition.
func (f franz) end(ctx context.Context, topic string) (end int64, err error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	t, p := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	t.Topic, p.Timestamp = topic, -1
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	return end, f.connected(nil, func(cl *kgo.Client) error {
		resp, err := req.RequestWith(ctx, cl)
		if err != nil {
			return err
		}
		row := resp.Topics[0].Partitions[0]
		end = row.Offset
		return kerr.ErrorForCode(row.ErrorCode)
	})
}

// reaches returns when a topic's first partition has so many records.
func (f franz) reaches(ctx context.Context, topic string, n int64) error {
	for {
		end, err := f.end(ctx, topic)
		if err != nil || end >= n {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("it has %d of %d records: %w", end, n, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}
