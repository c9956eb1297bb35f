package main

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// createTopic makes a topic and waits until its partitions have leaders.
func createTopic(ctx context.Context, addr, name string, partitions int32, configs map[string]string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, 1
	for k, v := range configs {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = k, &v
		t.Configs = append(t.Configs, c)
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	if e := resp.Topics[0]; e.ErrorCode != 0 {
		return fmt.Errorf("creating %s at %s: error %d: %s", name, addr, e.ErrorCode, deref(e.ErrorMessage))
	}
	for {
		if _, err := offsets(ctx, addr, name, partitions, -1); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s has no leaders: %w", name, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// offsets asks for an offset of each partition: -1 is the end, -2 the start.
func offsets(ctx context.Context, addr, topic string, partitions int32, at int64) ([]int64, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	req := kmsg.NewPtrListOffsetsRequest()
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	for p := range partitions {
		row := kmsg.NewListOffsetsRequestTopicPartition()
		row.Partition, row.Timestamp, row.CurrentLeaderEpoch = p, at, -1
		t.Partitions = append(t.Partitions, row)
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, err
	}
	all := make([]int64, partitions)
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return nil, fmt.Errorf("offsets of %s-%d: error %d", topic, p.Partition, p.ErrorCode)
			}
			all[p.Partition] = p.Offset
		}
	}
	return all, nil
}

// readAll reads a topic from its beginning to the end that it has now.
func readAll(ctx context.Context, addr, topic string, partitions int32) ([]*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ends, err := offsets(ctx, addr, topic, partitions, -1)
	if err != nil {
		return nil, err
	}
	starts, err := offsets(ctx, addr, topic, partitions, -2)
	if err != nil {
		return nil, err
	}
	from := map[int32]kgo.Offset{}
	for p := range partitions {
		if starts[p] < ends[p] {
			from[p] = kgo.NewOffset().At(starts[p])
		}
	}
	var all []*kgo.Record
	for p := range from {
		// Each by itself, so that the order is the same each time. Control
		// records show the end even if no record is left there.
		cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {p: from[p]}}), kgo.KeepControlRecords())
		if err != nil {
			return nil, err
		}
		for next := starts[p]; next < ends[p]; {
			fetches := cl.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				cl.Close()
				return nil, fmt.Errorf("reading %s-%d at %d of %d: %w", topic, p, next, ends[p], err)
			}
			fetches.EachRecord(func(rec *kgo.Record) {
				if rec.Offset < ends[p] {
					all = append(all, rec)
				}
				next = rec.Offset + 1
			})
		}
		cl.Close()
	}
	return all, nil
}

func deleteTopic(ctx context.Context, addr, name string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrDeleteTopicsRequest()
	t := kmsg.NewDeleteTopicsRequestTopic()
	t.Topic = &name
	req.TopicNames, req.Topics = []string{name}, append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	if code := resp.Topics[0].ErrorCode; code != 0 {
		return fmt.Errorf("deleting %s at %s: error %d", name, addr, code)
	}
	return nil
}

// writeAt makes a topic of one partition with n records, each a step later than
// the one before, in a batch of its own.
func writeAt(ctx context.Context, addr, topic string, begin, step int64, n int) error {
	if err := createTopic(ctx, addr, topic, 1, nil); err != nil {
		return err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic))
	if err != nil {
		return err
	}
	defer cl.Close()
	for i := range n {
		rec := &kgo.Record{Value: fmt.Appendf(nil, "record %d", i), Timestamp: time.UnixMilli(begin + int64(i)*step)}
		if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
			return err
		}
	}
	return nil
}

// settle waits until a broker has followed every change that was answered: the
// log of changes has an order, and a topic made last has leaders last.
func settle(ctx context.Context, addr string) error {
	name := fmt.Sprintf("marker-%d", time.Now().UnixNano())
	if err := createTopic(ctx, addr, name, 1, nil); err != nil {
		return err
	}
	return deleteTopic(ctx, addr, name)
}
