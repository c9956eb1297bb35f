package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/compat-tests/server"
)

// clusterSize is how many nodes the quorum of a cluster has here. All of them
// share the machine, and their logs one disk.
const clusterSize = 3

// cluster is that of the rows with several nodes: it starts with the first of
// them and stays until the round is over.
func (b *bench) cluster() ([]*server.Server, error) {
	if b.nodes != nil {
		return b.nodes, nil
	}
	nodes, err := b.many(b.dir)
	if err == nil {
		b.nodes = nodes
	}
	return nodes, err
}

// brokers are those of a cluster of n nodes.
func (b *bench) brokers(n int) ([]*server.Server, error) {
	if n == 1 {
		return []*server.Server{b.Server}, nil
	}
	return b.cluster()
}

// changer asks one broker for changes of a setting of one topic.
type changer struct {
	cl    *kgo.Client
	topic string
	n     int
}

func newChanger(s *server.Server, topic string) (*changer, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.Addr), kgo.RequestRetries(0))
	return &changer{cl: cl, topic: topic}, err
}

// change sets something that no record depends on, and differently each time:
// what changes nothing is not written.
func (c *changer) change(ctx context.Context) error {
	c.n++
	value := strconv.Itoa(600_000_000 + c.n)
	req := kmsg.NewPtrIncrementalAlterConfigsRequest()
	r := kmsg.NewIncrementalAlterConfigsRequestResource()
	r.ResourceType, r.ResourceName = kmsg.ConfigResourceTypeTopic, c.topic
	s := kmsg.NewIncrementalAlterConfigsRequestResourceConfig()
	s.Name, s.Value = "retention.ms", &value
	r.Configs = append(r.Configs, s)
	req.Resources = append(req.Resources, r)
	resp, err := c.cl.SeedBrokers()[0].RetriableRequest(ctx, req)
	if err != nil {
		return err
	}
	return kerr.ErrorForCode(resp.(*kmsg.IncrementalAlterConfigsResponse).Resources[0].ErrorCode)
}

// create makes a topic through a broker, and returns what the answer took.
func create(s *server.Server, topic string, partitions int32) (time.Duration, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(s.Addr))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	if err := cl.Ping(context.Background()); err != nil {
		return 0, err
	}
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = topic, partitions, 1
	req.Topics, req.TimeoutMillis = append(req.Topics, t), 30_000
	begun := time.Now()
	resp, err := cl.SeedBrokers()[0].Request(context.Background(), req)
	took := time.Since(begun)
	if err == nil {
		err = kerr.ErrorForCode(resp.(*kmsg.CreateTopicsResponse).Topics[0].ErrorCode)
	}
	if err != nil {
		return 0, fmt.Errorf("creating %s with %d partitions at %s: %w", topic, partitions, s.Name, err)
	}
	return took, nil
}

// changes are changes of the metadata that callers ask for, each when its last
// one is answered: then it is durable, and every broker has it.
func changes(nodes, callers int) measure {
	return func(b *bench) ([]figure, error) {
		servers, err := b.brokers(nodes)
		if err != nil {
			return nil, err
		}
		*b.next++
		if _, err := create(servers[0], b.lastTopic(), 1); err != nil {
			return nil, err
		}
		var (
			all   sync.WaitGroup
			mu    sync.Mutex
			times []time.Duration
			fails []error
		)
		for i := range callers {
			c, err := newChanger(servers[i%nodes], b.lastTopic())
			if err != nil {
				return nil, err
			}
			defer c.cl.Close()
			c.n = i * 1_000_000
			if err := c.change(context.Background()); err != nil { // its connection
				return nil, err
			}
			all.Go(func() {
				mine, err := repeat(b.span/2, func() error { return c.change(context.Background()) })
				mu.Lock()
				times, fails = append(times, mine...), append(fails, err)
				mu.Unlock()
			})
		}
		all.Wait()
		if err := errors.Join(fails...); err != nil {
			return nil, err
		}
		return append(percentiles(times), figure{"changes/s", float64(len(times)) / (b.span / 2).Seconds()}), nil
	}
}

// logs are n files to which the same is appended at once. An append is over when
// most have synced it, and it has a change of every caller.
func logs(n, callers int) measure {
	return func(b *bench) ([]figure, error) {
		synced := make(chan error, n)
		var wakes []chan struct{}
		var all sync.WaitGroup
		for range n {
			f, err := b.file("log")
			if err != nil {
				return nil, err
			}
			defer f.Close()
			wake := make(chan struct{}, 1<<20) // no disk is that fast
			wakes = append(wakes, wake)
			all.Go(func() {
				for range wake {
					synced <- appendTo(f, callers)
				}
			})
		}
		owed := 0 // syncs of those who are behind
		times, err := repeat(b.span/2, func() (err error) {
			for _, w := range wakes {
				w <- struct{}{}
			}
			for range n/2 + 1 {
				err = errors.Join(err, <-synced)
			}
			owed += n - (n/2 + 1)
			return err
		})
		for _, w := range wakes {
			close(w)
		}
		for range owed {
			err = errors.Join(err, <-synced)
		}
		all.Wait()
		if err != nil {
			return nil, err
		}
		return append(percentiles(times), figure{"changes/s", float64(callers*len(times)) / (b.span / 2).Seconds()}), nil
	}
}

// changeBytes is about what one change takes in the log.
const changeBytes = 128

func appendTo(f *os.File, changes int) error {
	if _, err := f.Write(make([]byte, changeBytes*changes)); err != nil {
		return err
	}
	return datasync(f)
}

// seenEverywhere makes a topic: until it is answered, and until every broker
// names a leader for each of its partitions.
func seenEverywhere(partitions int32) measure {
	return func(b *bench) ([]figure, error) {
		servers, err := b.cluster()
		if err != nil {
			return nil, err
		}
		*b.next++
		topic := b.lastTopic()
		begun := time.Now()
		answered, err := create(servers[0], topic, partitions)
		if err != nil {
			return nil, err
		}
		for _, s := range servers {
			cl, err := kgo.NewClient(kgo.SeedBrokers(s.Addr))
			if err != nil {
				return nil, err
			}
			err = led(cl, topic, partitions)
			cl.Close()
			if err != nil {
				return nil, fmt.Errorf("%s: %w", s.Name, err)
			}
		}
		return []figure{{"ms to the answer", millis(answered)}, {"ms to where each broker has answered for all", millis(time.Since(begun))}}, nil
	}
}

// activeController is the node whose controller decides.
func activeController(nodes []*server.Server) (int, error) {
	cl, err := kgo.NewClient(seeds(nodes))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	req := kmsg.NewPtrDescribeQuorumRequest()
	t, p := kmsg.NewDescribeQuorumRequestTopic(), kmsg.NewDescribeQuorumRequestTopicPartition()
	t.Topic, t.Partitions = "__cluster_metadata", append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	leader := -1
	err = wait("the quorum has a leader", func() bool {
		resp, err := req.RequestWith(context.Background(), cl)
		if err != nil || resp.ErrorCode != 0 || resp.Topics[0].Partitions[0].ErrorCode != 0 {
			return false
		}
		leader = int(resp.Topics[0].Partitions[0].LeaderID) - 1
		return leader >= 0
	})
	return leader, err
}

// controllerKilled asks the other brokers for changes, one after the other, while
// the active controller's process is killed.
func controllerKilled(b *bench) ([]figure, error) {
	nodes, err := b.cluster()
	if err != nil {
		return nil, err
	}
	at, err := activeController(nodes)
	if err != nil {
		return nil, err
	}
	*b.next++
	if _, err := create(nodes[at], b.lastTopic(), 1); err != nil {
		return nil, err
	}
	var (
		all    sync.WaitGroup
		mu     sync.Mutex
		last   = time.Now() // success
		gap    time.Duration
		failed atomic.Int64
	)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	for i, s := range nodes {
		if i == at {
			continue
		}
		c, err := newChanger(s, b.lastTopic())
		if err != nil {
			return nil, err
		}
		defer c.cl.Close()
		c.n = i * 1_000_000
		all.Go(func() {
			for ctx.Err() == nil {
				if err := c.change(ctx); err != nil {
					failed.Add(1)
					continue
				}
				mu.Lock()
				gap, last = max(gap, time.Since(last)), time.Now()
				mu.Unlock()
			}
		})
	}
	time.Sleep(b.span / 4)
	mu.Lock()
	before := gap
	mu.Unlock()
	err = nodes[at].Kill()
	time.Sleep(b.span)
	cancel()
	all.Wait()
	gap = max(gap, time.Since(last)) // if there was none any more
	if err := errors.Join(err, nodes[at].Start(context.Background())); err != nil {
		return nil, err
	}
	return []figure{
		{"ms without a change", millis(gap)}, {"ms without a change before", millis(before)}, {"changes that failed", float64(failed.Load())},
	}, nil
}

// idleCluster is what nodes cost that tell one another that they are there.
func idleCluster(b *bench) ([]figure, error) {
	nodes, err := b.cluster()
	if err != nil {
		return nil, err
	}
	at, err := activeController(nodes)
	if err != nil {
		return nil, err
	}
	time.Sleep(quietAfter)
	var before, after [clusterSize]time.Duration
	begun := time.Now()
	for i, s := range nodes {
		if before[i], err = cpuOf(s.Pid()); err != nil {
			return nil, err
		}
	}
	time.Sleep(max(b.span, 5*time.Second))
	took := time.Since(begun).Seconds()
	var others time.Duration
	for i, s := range nodes {
		if after[i], err = cpuOf(s.Pid()); err != nil {
			return nil, err
		}
		if i != at {
			others += after[i] - before[i]
		}
	}
	memory, err := resident(&bench{Server: nodes[at]})
	if err != nil {
		return nil, err
	}
	return []figure{
		{"CPU ms/s, active controller", millis(after[at]-before[at]) / took},
		{"CPU ms/s, another", millis(others) / took / (clusterSize - 1)}, memory[0],
	}, nil
}
