package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/compat-tests/server"
)

// replicated measures on a cluster whose nodes have a replica of each partition.
func (bin executable) replicated(m measure) measure {
	return func(b *bench) ([]figure, error) {
		nodes, err := bin.cluster(b)
		if err != nil {
			return nil, err
		}
		on := *b
		on.Server, on.replicas = nodes[0], clusterSize
		figures, err := m(&on)
		b.next = on.next
		return figures, err
	}
}

// stream is a producer with one record under way, again and again.
type stream struct {
	cl    *kgo.Client
	topic string
}

// streamTo makes a topic with a replica of each partition on every node, each led by
// another.
func (bin executable) streamTo(b *bench) (*stream, []*server.Server, error) {
	nodes, err := bin.cluster(b)
	if err != nil {
		return nil, nil, err
	}
	on := *b
	on.Server, on.replicas = nodes[0], clusterSize
	topic, err := on.topic(clusterSize, "ack")
	b.next = on.next
	if err != nil {
		return nil, nil, err
	}
	var seeds []string
	for _, s := range nodes {
		seeds = append(seeds, s.Addr)
	}
	cl, err := b.client(kgo.SeedBrokers(seeds...), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	return &stream{cl, topic}, nodes, err
}

// partitions asks for the topic.
func (s *stream) partitions() ([]kmsg.MetadataResponseTopicPartition, error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &s.topic
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(context.Background(), s.cl)
	if err != nil {
		return nil, err
	}
	return resp.Topics[0].Partitions, nil
}

// whole waits until all replicas are in sync, and each node leads a partition again.
func (s *stream) whole() error {
	for begun := time.Now(); time.Since(begun) < leaderTime; time.Sleep(5 * time.Millisecond) {
		all, err := s.partitions()
		missing := func(p kmsg.MetadataResponseTopicPartition) bool { return len(p.ISR) != clusterSize }
		if err != nil || len(all) != clusterSize || slices.ContainsFunc(all, missing) {
			continue
		}
		req := kmsg.NewPtrElectLeadersRequest() // all of them
		req.TimeoutMillis = 5000
		if _, err = req.RequestWith(context.Background(), s.cl); err == nil {
			return nil
		}
	}
	return fmt.Errorf("the replicas of %s are not in sync after %v", s.topic, leaderTime)
}

// led is a partition that a node leads.
func (s *stream) led(node int) (int32, error) {
	all, err := s.partitions()
	for _, p := range all {
		if int(p.Leader) == node+1 {
			return p.Partition, nil
		}
	}
	return 0, errors.Join(err, fmt.Errorf("node %d leads no partition of %s", node+1, s.topic))
}

// gap is the longest time without an acknowledgement in a partition while something
// is done.
func (s *stream) gap(partition int32, do func() error) (longest time.Duration, err error) {
	value := randomBytes(recordBytes)
	send := func() error {
		return s.cl.ProduceSync(context.Background(), &kgo.Record{Partition: partition, Value: value}).FirstErr()
	}
	if err := send(); err != nil { // its connection
		return 0, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		last := time.Now()
		for ctx.Err() == nil {
			if err := send(); err != nil {
				ended <- err
				return
			}
			now := time.Now()
			longest = max(longest, now.Sub(last))
			last = now
		}
		ended <- nil
	}()
	err = do()
	time.Sleep(time.Second) // what it costs is over by then, or counts whole
	cancel()
	return longest, errors.Join(err, <-ended)
}

// killsInARow is how many leaders are taken out by a row, in one round.
const killsInARow = 10

// leaderEnds takes the time without an acknowledgement when the process that leads
// ends: of the node that is the active controller, or of another.
func (bin executable) leaderEnds(active bool, how func(*server.Server) error) measure {
	return func(b *bench) ([]figure, error) {
		s, nodes, err := bin.streamTo(b)
		if err != nil {
			return nil, err
		}
		defer s.cl.Close()
		var times []time.Duration
		for range killsInARow {
			at, err := activeController(nodes)
			if err != nil {
				return nil, err
			}
			if !active {
				at = (at + 1) % len(nodes)
			}
			partition, err := s.led(at)
			if err != nil {
				return nil, err
			}
			gap, err := s.gap(partition, func() error { return how(nodes[at]) })
			times = append(times, gap)
			if err := errors.Join(err, nodes[at].Start(context.Background()), s.whole()); err != nil {
				return nil, err
			}
		}
		return percentiles(times), nil
	}
}

// followerReturns stops a node, has the others take records, and takes the time that
// it needs to be in sync when it is back.
func (bin executable) followerReturns(b *bench) ([]figure, error) {
	s, nodes, err := bin.streamTo(b)
	if err != nil {
		return nil, err
	}
	defer s.cl.Close()
	gone := nodes[1] // partition 0 is another's
	if err := gone.Stop(); err != nil {
		return nil, err
	}
	const behind = 512 << 20
	value := randomBytes(64 << 10)
	for range behind / len(value) {
		s.cl.Produce(context.Background(), &kgo.Record{Value: value}, func(_ *kgo.Record, e error) { err = errors.Join(err, e) })
	}
	if err := errors.Join(s.cl.Flush(context.Background()), err); err != nil {
		return nil, err
	}
	if err := gone.Start(context.Background()); err != nil {
		return nil, err
	}
	begun := time.Now()
	if err := s.whole(); err != nil {
		return nil, err
	}
	took := time.Since(begun)
	var size int64
	err = filepath.WalkDir(filepath.Join(gone.Data, s.topic+"-0"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		size += info.Size()
		return err
	})
	if err == nil && size < behind {
		err = fmt.Errorf("it is in sync, and has %d bytes", size)
	}
	return []figure{rate(behind, took)}, err
}

// idleReplicas is what a cluster takes with partitions that nobody uses, each with a
// replica on every node.
func (bin executable) idleReplicas(partitions int32) measure {
	return func(b *bench) ([]figure, error) {
		nodes, err := bin.cluster(b)
		if err != nil {
			return nil, err
		}
		on := *b
		on.Server, on.replicas = nodes[0], clusterSize
		_, err = on.topic(partitions, "ack")
		b.next = on.next
		if err != nil {
			return nil, err
		}
		return bin.idleCluster(b)
	}
}
