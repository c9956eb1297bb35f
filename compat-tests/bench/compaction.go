package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

const (
	compactedBytes = 1 << 30
	compactedKeys  = 100_000
	// compactionTime is what a pass may take.
	compactionTime = 3 * time.Minute
)

// compaction compacts a topic in which each key has ten records, while somebody
// produces to another one. The limit is to produce without it.
func compaction(flush string) measure {
	return func(b *bench) (figures []figure, err error) {
		cl, err := b.client(kgo.ProducerLinger(5*time.Millisecond), kgo.ProducerBatchCompression(kgo.NoCompression()))
		if err != nil {
			return nil, err
		}
		defer cl.Close()
		if err := alter(cl, kmsg.ConfigResourceTypeBroker, "", "log.cleaner.backoff.ms", "100"); err != nil {
			return nil, err
		}
		settings := b.settings
		b.settings = with(with(with(settings, "cleanup.policy", "compact"), "segment.bytes", "67108864"), "min.cleanable.dirty.ratio", "1")
		topic, err := b.topic(1, flush)
		b.settings = settings
		if err != nil {
			return nil, err
		}
		if err := fill(cl, topic); err != nil {
			return nil, err
		}
		if err := settle(b.scratch); err != nil {
			return nil, err
		}
		before, err := size(cl, topic)
		if err != nil {
			return nil, err
		}
		cpu, err := b.cpu()
		if err != nil {
			return nil, err
		}
		begun := time.Now()
		if err := alter(cl, kmsg.ConfigResourceTypeTopic, topic, "min.cleanable.dirty.ratio", "0.1"); err != nil {
			return nil, err
		}
		producing := make(chan error, 1)
		go func() {
			var err error
			figures, err = active(1, flush)(b)
			producing <- err
		}()
		ended, after, err := compacted(cl, topic, before)
		if err = errors.Join(err, <-producing); err != nil {
			return nil, err
		}
		used, err := b.cpu()
		if err != nil {
			return nil, err
		}
		return append(figures, figure{"MB/s compacted", float64(before) / ended.Sub(begun).Seconds() / 1e6}, figure{"% kept", 100 * float64(after) / float64(before)},
			perGB(used-cpu, before)), nil
	}
}

// compacted waits until less than half of a topic is left, and for a second no less. It
// tells when that was so first.
func compacted(cl *kgo.Client, topic string, before int64) (ended time.Time, left int64, err error) {
	for begun := time.Now(); time.Since(begun) < compactionTime; time.Sleep(10 * time.Millisecond) {
		n, err := size(cl, topic)
		if err != nil {
			return ended, 0, err
		}
		if n != left {
			ended, left = time.Now(), n
		}
		if left < before/2 && time.Since(ended) > time.Second {
			return ended, left, nil
		}
	}
	return ended, 0, fmt.Errorf("%s is not compacted after %v: it has %d of %d bytes", topic, compactionTime, left, before)
}

// size is how many bytes a topic of one partition has.
func size(cl *kgo.Client, topic string) (int64, error) {
	req := kmsg.NewPtrDescribeLogDirsRequest()
	req.Topics = append(req.Topics, kmsg.DescribeLogDirsRequestTopic{Topic: topic, Partitions: []int32{0}})
	resp, err := req.RequestWith(context.Background(), cl)
	if err != nil {
		return 0, err
	}
	for _, dir := range resp.Dirs {
		for _, t := range dir.Topics {
			for _, p := range t.Partitions {
				return p.Size, nil
			}
		}
	}
	return 0, fmt.Errorf("the broker has no directory of %s", topic)
}

// fill appends records with keys in random order.
func fill(cl *kgo.Client, topic string) error {
	rng := rand.New(rand.NewPCG(1, 2))
	var mu sync.Mutex
	var fail error
	for n := 0; n < compactedBytes; n += recordBytes {
		at := n % (len(incompressible.bytes) - recordBytes)
		cl.Produce(context.Background(), &kgo.Record{
			Topic: topic, Key: fmt.Appendf(nil, "key-%08d", rng.IntN(compactedKeys)), Value: incompressible.bytes[at : at+recordBytes],
		}, func(_ *kgo.Record, err error) {
			if err != nil {
				mu.Lock()
				fail = err
				mu.Unlock()
			}
		})
	}
	err := cl.Flush(context.Background())
	mu.Lock()
	defer mu.Unlock()
	return errors.Join(err, fail)
}

func alter(cl *kgo.Client, kind kmsg.ConfigResourceType, name, key, value string) error {
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kind, name
	c := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	c.Name, c.Value = key, &value
	r.Configs = append(r.Configs, c)
	req.Resources = append(req.Resources, r)
	resp, err := req.RequestWith(context.Background(), cl)
	if err != nil {
		return err
	}
	if err := kerr.ErrorForCode(resp.Resources[0].ErrorCode); err != nil {
		return fmt.Errorf("setting %s of %s: %w", key, name, err)
	}
	return nil
}
