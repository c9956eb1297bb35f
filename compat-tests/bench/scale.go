package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// fresh does something with a broker of its own, beside the one of the round,
// which is idle meanwhile.
func (b *bench) fresh(do func(*bench) ([]figure, error)) (figures []figure, err error) {
	own, err := start(b.run, filepath.Dir(b.dir), b.span)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, own.stop()) }()
	return do(own)
}

// largestTopic is how many partitions a topic may have.
const largestTopic = 10_000

// idle is a broker with n partitions, each with a record if they are not too
// many to make files for, and nothing to do: what it costs alone, with a
// consumer that waits at the end of all of them, and to stop and start.
func idle(n int) measure {
	return func(b *bench) ([]figure, error) {
		return b.fresh(func(b *bench) ([]figure, error) {
			begun := time.Now()
			var topics []string
			for left := n; left > 0; left -= largestTopic {
				topic, err := b.topic(int32(min(left, largestTopic)), "ack")
				if err != nil {
					return nil, err
				}
				topics = append(topics, topic)
			}
			figures := []figure{{"ms to create", millis(time.Since(begun))}}
			if n <= largestTopic {
				if err := b.fill(topics[0], int32(n)); err != nil {
					return nil, err
				}
			}
			alone, err := b.idleCPU()
			if err != nil {
				return nil, err
			}
			memory, err := resident(b)
			if err != nil {
				return nil, err
			}
			figures = append(figures, figure{"idle CPU ms/s", alone}, memory[0])
			if n <= largestTopic {
				watched, err := b.watched(topics)
				if err != nil {
					return nil, err
				}
				figures = append(figures, figure{"idle CPU ms/s, with a consumer", watched})
			}
			stopped, err := b.restartCleanly()
			return append(figures, stopped...), err
		})
	}
}

// fill sends a record to each partition.
func (b *bench) fill(topic string, n int32) error {
	cl, err := b.client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return err
	}
	defer cl.Close()
	return (&producer{cl, randomBytes(recordBytes)}).sweep(n)
}

// quietAfter is when a broker has written its last checkpoint of what came before.
const quietAfter = 6 * time.Second

// idleCPU is the processor time that the broker takes while nothing is asked of it.
func (b *bench) idleCPU() (perSecond float64, err error) {
	time.Sleep(quietAfter)
	before, err := b.cpu()
	if err != nil {
		return 0, err
	}
	begun := time.Now()
	time.Sleep(max(b.span, 5*time.Second)) // the kernel counts in hundredths of a second
	after, err := b.cpu()
	return millis(after-before) / time.Since(begun).Seconds(), err
}

// watched is idleCPU with a consumer at the end of everything.
func (b *bench) watched(topics []string) (float64, error) {
	cl, err := b.client(kgo.ConsumeTopics(topics...), kgo.ConsumeResetOffset(kgo.NewOffset().AtEnd()))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	// The fetch that opens the session is over as well then.
	ctx, cancel := context.WithTimeout(context.Background(), 2*quietAfter)
	defer cancel()
	if err := cl.PollFetches(ctx).Err0(); !errors.Is(err, context.DeadlineExceeded) {
		return 0, fmt.Errorf("nothing was sent, and a consumer at the end got %v", err)
	}
	return b.idleCPU()
}

// restartCleanly stops the broker and takes the time until it serves again.
func (b *bench) restartCleanly() ([]figure, error) {
	if err := b.Stop(); err != nil {
		return nil, err
	}
	err := b.Start(context.Background())
	return []figure{{"ms to start again", millis(time.Since(b.Started))}}, err
}

// restart is the way back of a broker that was killed with so many bytes of
// records: to where it serves, and to the first acknowledged record.
func restart(bytes int64) measure {
	return func(b *bench) ([]figure, error) {
		return b.fresh(func(b *bench) ([]figure, error) {
			return b.killed(bytes)
		})
	}
}

func (b *bench) killed(bytes int64) ([]figure, error) {
	topic, err := b.topic(6, "")
	if err != nil {
		return nil, err
	}
	if _, _, _, err := b.throughput(topic, incompressible, upTo(bytes)); err != nil {
		return nil, err
	}
	if err := b.Kill(); err != nil {
		return nil, err
	}
	if err := b.Start(context.Background()); err != nil {
		return nil, err
	}
	served := time.Since(b.Started)
	if err := b.fill(topic, 1); err != nil {
		return nil, err
	}
	return []figure{{"ms to where it serves again", millis(served)}, {"ms to the first ack after it", millis(time.Since(b.Started))}}, nil
}

// stored is a partition with so many records: what each costs to write, and
// how long it takes to find one.
func stored(n int) measure {
	return func(b *bench) ([]figure, error) {
		topic, err := b.topic(1, "os")
		if err != nil {
			return nil, err
		}
		cl, err := b.client(kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(5*time.Millisecond))
		if err != nil {
			return nil, err
		}
		defer cl.Close()
		before, err := b.cpu()
		if err != nil {
			return nil, err
		}
		first := time.Now()
		for i := range n {
			at := i * 31 % (len(small.bytes) - small.size)
			r := &kgo.Record{Value: small.bytes[at : at+small.size], Timestamp: first.Add(time.Duration(i) * time.Millisecond / 100)}
			cl.Produce(context.Background(), r, nil)
		}
		if err := cl.Flush(context.Background()); err != nil {
			return nil, err
		}
		after, err := b.cpu()
		if err != nil {
			return nil, err
		}
		found, err := repeat(b.span/2, func() error {
			i := rand.IntN(n)
			return find(cl, topic, first.Add(time.Duration(i)*time.Millisecond/100).UnixMilli(), n)
		})
		if err != nil {
			return nil, err
		}
		return []figure{
			{"broker CPU ns a record", float64((after - before).Nanoseconds()) / float64(n)},
			{"ms to find a record by time, p50", percentiles(found)[0].value},
		}, nil
	}
}

// find asks for the first offset of a time.
func find(cl *kgo.Client, topic string, at int64, end int) error {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	t, p := kmsg.NewListOffsetsRequestTopic(), kmsg.NewListOffsetsRequestTopicPartition()
	p.Timestamp = at
	t.Topic, t.Partitions = topic, append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(context.Background(), cl)
	if err != nil {
		return err
	}
	if got := resp.Topics[0].Partitions[0]; got.ErrorCode != 0 || got.Offset < 0 || got.Offset >= int64(end) {
		return fmt.Errorf("the offset of time %d is %d, error %d", at, got.Offset, got.ErrorCode)
	}
	return nil
}

// idleConnections is a broker with n connections that say nothing, and one
// client that does.
func idleConnections(n int) measure {
	return func(b *bench) ([]figure, error) {
		return b.fresh(func(b *bench) ([]figure, error) {
			before, err := resident(b)
			if err != nil {
				return nil, err
			}
			for i := range n {
				nc, err := net.Dial("tcp", b.Addr)
				if err != nil {
					return nil, fmt.Errorf("connection %d: %w", i, err)
				}
				defer nc.Close()
			}
			cpu, err := b.idleCPU()
			if err != nil {
				return nil, err
			}
			after, err := resident(b)
			if err != nil {
				return nil, err
			}
			figures, err := active(1, "os")(b)
			perConnection := (after[0].value - before[0].value) * 1000 / float64(n)
			return append([]figure{{"KB a connection", perConnection}, {"idle CPU ms/s", cpu}}, figures...), err
		})
	}
}
