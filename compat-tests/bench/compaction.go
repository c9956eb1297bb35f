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
func compaction(b *bench) (figures []figure, err error) {
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
	topic, err := b.topic(1, "os")
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
	before, err := b.metrics()
	if err != nil {
		return nil, err
	}
	cpu, err := b.cpu()
	if err != nil {
		return nil, err
	}
	if err := alter(cl, kmsg.ConfigResourceTypeTopic, topic, "min.cleanable.dirty.ratio", "0.1"); err != nil {
		return nil, err
	}
	var beside []figure
	producing := make(chan error, 1)
	go func() {
		var err error
		beside, err = active(1, "ack")(b)
		producing <- err
	}()
	after, err := b.compacted(before)
	took := after["streambus_compaction_seconds_total"] - before["streambus_compaction_seconds_total"]
	if err = errors.Join(err, <-producing); err != nil {
		return nil, err
	}
	used, err := b.cpu()
	if err != nil {
		return nil, err
	}
	replaced := after[replacedBytes] - before[replacedBytes]
	kept := after["streambus_compaction_kept_bytes_total"] - before["streambus_compaction_kept_bytes_total"]
	return append(beside, figure{"MB/s compacted", replaced / took / 1e6}, figure{"% kept", 100 * kept / replaced},
		perGB(used-cpu, int64(replaced))), nil
}

const replacedBytes = "streambus_compaction_replaced_bytes_total"

// compacted waits until most of the topic's bytes were replaced.
func (b *bench) compacted(before map[string]float64) (map[string]float64, error) {
	for begun := time.Now(); time.Since(begun) < compactionTime; time.Sleep(20 * time.Millisecond) {
		m, err := b.metrics()
		if err != nil {
			return nil, err
		}
		if m[replacedBytes]-before[replacedBytes] > compactedBytes/2 {
			return m, nil
		}
	}
	return nil, fmt.Errorf("the topic is not compacted after %v", compactionTime)
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
