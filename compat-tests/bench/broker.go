package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/compat-tests/server"
)

// bench is what the rows of one round share: a broker, and a directory that
// also takes the files of the limits.
type bench struct {
	*server.Server
	run     starter
	span    time.Duration
	dir     string // everything is in it
	scratch string // the files of the limits are
	start   []figure
	next    *int
	many    manyStarter
	nodes   []*server.Server // a cluster beside the broker, once a row has asked for it

	// Of the topics that are made; 0 replicas stand for 1, and with more it is about
	// the cluster, of which Server is one node.
	replicas int16
	settings map[string]string
}

// starter starts a broker with its files in dir.
type starter func(dir string) (*server.Server, error)

func streamBus(bin string, settings map[string]string) starter {
	return func(dir string) (*server.Server, error) {
		return server.StreamBus(context.Background(), bin, dir, settings)
	}
}

// manyStarter starts the nodes of a cluster with their files in dir.
type manyStarter func(dir string) ([]*server.Server, error)

func streamBuses(bin string, settings map[string]string) manyStarter {
	return func(dir string) ([]*server.Server, error) {
		return server.Cluster(context.Background(), bin, dir, clusterSize, settings)
	}
}

// newBench makes the directories.
func newBench(parent string, span time.Duration) (*bench, error) {
	dir, err := os.MkdirTemp(parent, "streambus-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{span: span, dir: dir, scratch: filepath.Join(dir, "limits"), next: new(int)}
	return b, errors.Join(os.Mkdir(b.scratch, 0o755), settle(dir))
}

// start runs a broker on an empty directory and takes the time of each part of
// the way to the first acknowledged record.
func start(run starter, parent string, span time.Duration) (*bench, error) {
	b, err := newBench(parent, span)
	if err != nil {
		return nil, err
	}
	b.run = run
	if b.Server, err = run(b.dir); err != nil {
		return nil, errors.Join(err, os.RemoveAll(b.dir))
	}
	if err := b.firstAck(); err != nil {
		return nil, errors.Join(err, b.stop())
	}
	return b, nil
}

// firstAck fills in start.
func (b *bench) firstAck() error {
	last := b.Started
	part := func(name string) {
		now := time.Now()
		b.start = append(b.start, figure{name, millis(now.Sub(last))})
		last = now
	}
	part("ms to where it serves")
	topic, err := b.topic(1, "")
	if err != nil {
		return err
	}
	part("ms to create a topic")
	if err := b.fill(topic, 1); err != nil {
		return err
	}
	part("ms to the first ack")
	b.start = append(b.start, figure{"ms in all", millis(last.Sub(b.Started))})
	return nil
}

func (b *bench) stop() error {
	var err error
	for _, s := range b.nodes {
		end := s.Kill // an orderly stop of Kafka's last would wait for the others' votes
		if !s.Running() {
			end = s.Stop // which says why
		}
		err = errors.Join(err, end())
	}
	if !slices.Contains(b.nodes, b.Server) {
		err = errors.Join(err, b.Stop())
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

// startMany runs a cluster on empty directories, of which each topic has a replica
// on every node.
func startMany(many manyStarter, parent string, span time.Duration) (*bench, error) {
	b, err := newBench(parent, span)
	if err != nil {
		return nil, err
	}
	b.many = many
	if _, err := b.cluster(); err != nil {
		return nil, errors.Join(err, os.RemoveAll(b.dir))
	}
	return b.onCluster()
}

// onCluster is the same, about the cluster.
func (b *bench) onCluster() (*bench, error) {
	nodes, err := b.cluster()
	if err != nil {
		return nil, err
	}
	on := *b
	on.Server, on.replicas = nodes[0], clusterSize
	return &on, nil
}

// measured are the processes that a row is about.
func (b *bench) measured() []*server.Server {
	if b.replicas > 1 {
		return b.nodes
	}
	return []*server.Server{b.Server}
}

// settle waits for what was written and removed before. Where the disk is told
// of freed blocks, the sync after a large removal takes part in that.
func settle(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	for range 2 {
		if err := syncfs(d); err != nil {
			return err
		}
	}
	return nil
}

// client asks again soon, so that what is not ready yet costs what the broker
// takes and not what the client waits.
func (b *bench) client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(b.Addr), kgo.ProducerBatchCompression(kgo.NoCompression()), kgo.ProducerLinger(0),
		kgo.ProducerBatchMaxBytes(1 << 20), kgo.MaxBufferedRecords(100_000),
		kgo.RetryBackoffFn(func(int) time.Duration { return 10 * time.Millisecond }), kgo.MetadataMinAge(20 * time.Millisecond),
	}, opts...)...)
}

// topic makes a fresh topic, and returns when all of it has a leader. An empty
// flush leaves that to the broker's settings.
func (b *bench) topic(partitions int32, flush string) (string, error) {
	cl, err := b.client()
	if err != nil {
		return "", err
	}
	defer cl.Close()
	*b.next++
	name := b.lastTopic()
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, max(b.replicas, 1)
	settings := b.settings
	if flush != "" {
		settings = with(settings, "streambus.flush", flush)
	}
	for name, value := range settings {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = name, &value
		t.Configs = append(t.Configs, c)
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(context.Background(), cl)
	if err == nil {
		err = kerr.ErrorForCode(resp.Topics[0].ErrorCode)
	}
	if err != nil {
		return "", fmt.Errorf("creating %s with %d partitions: %w", name, partitions, err)
	}
	return name, led(cl, name, partitions)
}

// lastTopic is the one that was made last.
func (b *bench) lastTopic() string { return fmt.Sprintf("bench-%d", *b.next) }

// leaderTime is what leaders of a topic may take to be known.
const leaderTime = 30 * time.Second

// led waits until each partition of a topic has a leader.
func led(cl *kgo.Client, topic string, partitions int32) error {
	req := kmsg.NewPtrMetadataRequest()
	t := kmsg.NewMetadataRequestTopic()
	t.Topic = &topic
	req.Topics = append(req.Topics, t)
	for begun := time.Now(); time.Since(begun) < leaderTime; time.Sleep(time.Millisecond) {
		resp, err := req.RequestWith(context.Background(), cl)
		if err != nil {
			return err
		}
		missing := func(p kmsg.MetadataResponseTopicPartition) bool { return p.ErrorCode != 0 || p.Leader < 0 }
		if got := resp.Topics[0].Partitions; len(got) == int(partitions) && !slices.ContainsFunc(got, missing) {
			return nil
		}
	}
	return fmt.Errorf("%s has partitions without a leader after %v", topic, leaderTime)
}

// metrics reads the broker's metrics, by name and labels.
func (b *bench) metrics() (map[string]float64, error) {
	resp, err := http.Get("http://" + b.Admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	m := map[string]float64{}
	lines := bufio.NewScanner(resp.Body)
	for lines.Scan() {
		line := lines.Text()
		space := strings.LastIndexByte(line, ' ') // labels may have some
		if space < 0 || line[0] == '#' {
			continue
		}
		if m[line[:space]], err = strconv.ParseFloat(line[space+1:], 64); err != nil {
			return nil, err
		}
	}
	return m, lines.Err()
}

// onDisk is how many bytes the segments of a topic have.
func (b *bench) onDisk(topic string) (int64, error) {
	files, err := b.segments(topic)
	var sum int64
	for _, f := range files {
		info, err := os.Stat(f)
		if err != nil {
			return 0, err
		}
		sum += info.Size()
	}
	return sum, err
}

func (b *bench) segments(topic string) ([]string, error) {
	return filepath.Glob(filepath.Join(b.Data, topic+"-*", "*.log"))
}

// touchMemory has the machine hand over the pages that a row will write to:
// virtual machines give idle memory back, and getting it again costs several
// times the write itself.
func (b *bench) touchMemory() error {
	name := filepath.Join(b.scratch, "touch")
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	page := make([]byte, 1<<20)
	for range int(b.span.Seconds() * 1024) {
		if _, err := f.Write(page); err != nil {
			break
		}
	}
	return errors.Join(f.Close(), os.Remove(name))
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}
