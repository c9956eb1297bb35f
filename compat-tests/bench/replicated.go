package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/compat-tests/server"
)

// replicated measures on a cluster whose nodes have a replica of each partition.
func replicated(m measure) measure {
	return func(b *bench) ([]figure, error) {
		on, err := b.onCluster()
		if err != nil {
			return nil, err
		}
		return m(on)
	}
}

// stream is a producer with one record under way, again and again.
type stream struct {
	cl    *kgo.Client
	topic string
}

// streamTo makes a topic with a replica of each partition on every node, each led by
// another.
func streamTo(b *bench, opts ...kgo.Opt) (*stream, []*server.Server, error) {
	on, err := b.onCluster()
	if err != nil {
		return nil, nil, err
	}
	topic, err := on.topic(clusterSize, "")
	if err != nil {
		return nil, nil, err
	}
	cl, err := b.client(append(opts, seeds(on.nodes), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))...)
	return &stream{cl, topic}, on.nodes, err
}

func seeds(nodes []*server.Server) kgo.Opt {
	var all []string
	for _, s := range nodes {
		all = append(all, s.Addr)
	}
	return kgo.SeedBrokers(all...)
}

// partitions asks a node for the topic, as the nodes do not learn of changes at the
// same time: one that was paused still believes what was.
func (s *stream) partitions(node int) ([]kmsg.MetadataResponseTopicPartition, error) {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &s.topic
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(context.Background(), s.cl.Broker(node+1))
	if err != nil {
		return nil, err
	}
	return resp.Topics[0].Partitions, nil
}

// everywhere tells whether every node says this of all partitions.
func (s *stream) everywhere(holds func(kmsg.MetadataResponseTopicPartition) bool) bool {
	for node := range clusterSize {
		all, err := s.partitions(node)
		fails := func(p kmsg.MetadataResponseTopicPartition) bool { return !holds(p) }
		if err != nil || len(all) != clusterSize || slices.ContainsFunc(all, fails) {
			return false
		}
	}
	return true
}

// inSync waits until all replicas are.
func (s *stream) inSync() error {
	return wait("the replicas are in sync", func() bool {
		return s.everywhere(func(p kmsg.MetadataResponseTopicPartition) bool { return len(p.ISR) == clusterSize })
	})
}

// whole waits until all replicas are in sync, and each node leads a partition again.
func (s *stream) whole() error {
	if err := s.inSync(); err != nil {
		return err
	}
	return wait("each replica leads that is the first", func() bool {
		if s.everywhere(func(p kmsg.MetadataResponseTopicPartition) bool { return p.Leader == p.Replicas[0] }) {
			return true
		}
		req := kmsg.NewPtrElectLeadersRequest() // all of them
		req.TimeoutMillis = 5000
		_, _ = req.RequestWith(context.Background(), s.cl) // again, if it has failed
		return false
	})
}

// wait asks until something is so.
func wait(what string, holds func() bool) error { return waitFor(leaderTime, what, holds) }

func waitFor(patience time.Duration, what string, holds func() bool) error {
	for begun := time.Now(); time.Since(begun) < patience; time.Sleep(5 * time.Millisecond) {
		if holds() {
			return nil
		}
	}
	return fmt.Errorf("after %v it is not so that %s", patience, what)
}

// led is a partition that a node leads.
func (s *stream) led(node int) (int32, error) {
	all, err := s.partitions(node)
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

// outage is a way for a node to be gone, and the way back.
type outage struct{ begin, end func(*server.Server) error }

var (
	killed  = outage{(*server.Server).Kill, startAgain}
	stopped = outage{(*server.Server).Stop, startAgain}
	// paused has the connections stay open: only silence tells.
	paused = outage{signal(syscall.SIGSTOP), signal(syscall.SIGCONT)}
)

func startAgain(s *server.Server) error { return s.Start(context.Background()) }

func signal(sig syscall.Signal) func(*server.Server) error {
	return func(s *server.Server) error { return s.Signal(sig) }
}

// A row takes out as many leaders as there is time for, in one round.
const (
	outagesInARow = 10
	outagesTime   = 30 * time.Second
)

// howOften is about the run, and compared with nothing.
const howOften = "times"

// patience is how long an answer is waited for while nodes may be paused, beside the
// same time that the request gives the broker. What is late is asked again, of who
// leads then: a figure has up to this much, twice, of the client's own.
const patience = 250 * time.Millisecond

// leaderEnds takes the time without an acknowledgement when the process that leads
// is gone: of the node that is the active controller, or of another.
func leaderEnds(active bool, o outage) measure {
	return func(b *bench) ([]figure, error) {
		s, nodes, err := streamTo(b, kgo.ProduceRequestTimeout(patience), kgo.RequestTimeoutOverhead(patience))
		if err != nil {
			return nil, err
		}
		defer s.cl.Close()
		var times []time.Duration
		for begun := time.Now(); len(times) < outagesInARow && time.Since(begun) < outagesTime; {
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
			gap, err := s.gap(partition, func() error { return o.begin(nodes[at]) })
			times = append(times, gap)
			if err := errors.Join(err, o.end(nodes[at]), s.whole()); err != nil {
				return nil, err
			}
		}
		slices.Sort(times)
		return []figure{percentiles(times)[0], {"max ms", millis(times[len(times)-1])}, {howOften, float64(len(times))}}, nil
	}
}

// followerReturns stops a node, has the others take records, and takes what it reads
// a second when it is back, and what its start takes until it is in sync.
func followerReturns(b *bench) ([]figure, error) {
	s, nodes, err := streamTo(b)
	if err != nil {
		return nil, err
	}
	defer s.cl.Close()
	partition, err := s.led(0)
	if err != nil {
		return nil, err
	}
	gone := nodes[1]
	if err := gone.Stop(); err != nil {
		return nil, err
	}
	const behind = 512 << 20
	value := randomBytes(64 << 10)
	for range behind / len(value) {
		s.cl.Produce(context.Background(), &kgo.Record{Partition: partition, Value: value}, func(_ *kgo.Record, e error) { err = errors.Join(err, e) })
	}
	if err := errors.Join(s.cl.Flush(context.Background()), err); err != nil {
		return nil, err
	}
	had, err := sizeOf(gone, s.topic, partition)
	if err != nil {
		return nil, err
	}
	if err := gone.Launch(); err != nil {
		return nil, err
	}
	// What is read is seen in its files: it may have all of it before it serves clients.
	var (
		begun     time.Time
		from, now int64
		unseen    error
	)
	err = wait("the follower has it all", func() bool {
		now, unseen = sizeOf(gone, s.topic, partition)
		if begun.IsZero() && now > had {
			begun, from = time.Now(), now
		}
		return unseen != nil || now >= had+behind
	})
	took := time.Since(begun)
	if err := errors.Join(err, unseen, s.inSync()); err != nil {
		return nil, err
	}
	return []figure{rate(now-from, took), {"ms from its start until in sync", millis(time.Since(gone.Started))}}, nil
}

// sizeOf is how many bytes the segments of a partition have on a node.
func sizeOf(s *server.Server, topic string, partition int32) (sum int64, err error) {
	files, err := filepath.Glob(filepath.Join(s.Data, fmt.Sprint(topic, "-", partition), "*.log"))
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return 0, err
		}
		sum += info.Size()
	}
	return sum, err
}

// idleReplicas is what a cluster takes with partitions that nobody uses, each with a
// replica on every node.
func idleReplicas(partitions int32) measure {
	return func(b *bench) ([]figure, error) {
		on, err := b.onCluster()
		if err != nil {
			return nil, err
		}
		if _, err := on.topic(partitions, "ack"); err != nil {
			return nil, err
		}
		return idleCluster(b)
	}
}
