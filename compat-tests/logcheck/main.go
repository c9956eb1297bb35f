// Command logcheck runs clients against a cluster of real processes in which nodes
// are killed and paused, and looks afterwards whether what they saw can be: nothing
// that was acknowledged is lost, no record is there twice, no offset has two values.
// Its definitions of what must not be are in check.go.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/sync/errgroup"

	"github.com/streambus/streambus/compat-tests/server"
)

// readTime is what a consumer may take for all that was sent.
const readTime = 2 * time.Minute

// plan is what a run does.
type plan struct {
	bin, dir   string
	nodes      int
	partitions int32
	producers  int
	consumers  int
	rate       int
	span       time.Duration
	kinds      []string
	least      time.Duration
	most       time.Duration
	seed       uint64
	settings   map[string]string
	log        func(string)
}

// Report is what came of a run.
type Report struct {
	Seconds   float64
	Acked     int64
	PerSecond float64
	GivenUp   int64 // records that a client gave up, with its default retries
	Errors    []string
	Faults    map[string]int
	GapMs     map[string]float64 // the longest without an acknowledgement in a partition, by fault
	Anomalies Anomalies
	Seed      uint64
}

func main() {
	p := plan{log: func(s string) { fmt.Fprintln(os.Stderr, time.Now().Format("15:04:05.000"), s) }}
	flag.StringVar(&p.bin, "broker", "bin/streambus", "the binary")
	flag.StringVar(&p.dir, "dir", "", "where data directories are made (default: that of temporary files)")
	flag.IntVar(&p.nodes, "nodes", 3, "how many nodes")
	flag.IntVar(&p.producers, "producers", 3, "how many producers")
	flag.IntVar(&p.consumers, "consumers", 2, "how many consumers beside the last one")
	flag.IntVar(&p.rate, "rate", 1000, "records a second, of all producers")
	flag.DurationVar(&p.span, "span", time.Minute, "how long nodes are disturbed")
	flag.DurationVar(&p.least, "least", 5*time.Second, "the shortest time between two faults")
	flag.DurationVar(&p.most, "most", 10*time.Second, "the longest")
	flag.Uint64Var(&p.seed, "seed", rand.Uint64(), "of the faults")
	partitions := flag.Int("partitions", 6, "of the topic")
	kinds := flag.String("faults", "kill,pause,stop,storm,damage,full", "which; or those of the network: cut,one way")
	flush := flag.String("flush", "ack", "streambus.flush")
	flag.Parse()
	p.partitions, p.kinds = int32(*partitions), strings.Split(*kinds, ",")
	p.settings = map[string]string{"streambus.flush": *flush}
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "faults" })
	if !asked {
		if err := canMount(p.dir); err != nil {
			p.log("without the fault full: " + err.Error())
			p.kinds = slices.DeleteFunc(p.kinds, func(k string) bool { return k == "full" })
		}
	}
	r, err := p.run(context.Background())
	if err == nil {
		var text []byte
		text, err = json.MarshalIndent(r, "", "  ")
		fmt.Println(string(text))
	}
	if err == nil && len(r.Anomalies) > 0 {
		err = errors.New("what clients saw cannot be")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "logcheck:", err)
		os.Exit(1)
	}
}

// run is a whole run.
func (p *plan) run(ctx context.Context) (report *Report, err error) {
	kinds, err := faultsOf(p.kinds)
	if err != nil {
		return nil, err
	}
	if slices.Contains(p.kinds, "full") {
		if err := canMount(p.dir); err != nil {
			return nil, err
		}
	}
	dir, err := os.MkdirTemp(p.dir, "logcheck")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err == nil && len(report.Anomalies) == 0 {
			err = os.RemoveAll(dir)
		} else {
			p.log("what the nodes left is in " + dir)
		}
	}()
	if slices.Contains(p.kinds, "full") {
		for i := range p.nodes {
			disk := filepath.Join(dir, server.NodeName(i+1))
			if err := mountDisk(disk); err != nil {
				return nil, err
			}
			defer func() { err = errors.Join(err, unmountDisk(disk, err != nil || len(report.Anomalies) > 0)) }()
		}
	}
	var nodes []*server.Server
	var links *server.Links
	if slices.Contains(p.kinds, "cut") || slices.Contains(p.kinds, "one way") {
		nodes, links, err = server.LinkedCluster(ctx, p.bin, dir, p.nodes, p.settings)
	} else {
		nodes, err = server.Cluster(ctx, p.bin, dir, p.nodes, p.settings)
	}
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, s := range nodes {
			if s.Running() {
				err = errors.Join(err, s.Kill())
			}
		}
	}()
	l := &load{topic: "log", partitions: p.partitions, rate: p.rate, sends: make([][]Sent, p.producers), reads: make([][]Read, p.consumers+1)}
	l.killed = slices.ContainsFunc(p.kinds, func(k string) bool { return k != "pause" && k != "stop" && k != "cut" && k != "one way" })
	for _, s := range nodes {
		l.seeds = append(l.seeds, s.Addr)
	}
	if err := p.create(ctx, l); err != nil {
		return nil, err
	}
	begun := time.Now()
	l.gaps = newGaps(p.partitions, begun)
	f := &faults{
		rng: rand.New(rand.NewPCG(p.seed, 0)), nodes: nodes, links: links, topic: l.topic, kinds: kinds, least: p.least, most: p.most, gaps: l.gaps, log: p.log,
		count: map[string]int{}, longest: map[string]time.Duration{},
	}
	disturbed, calm := context.WithTimeout(ctx, p.span)
	defer calm()
	producing, stopProducing := context.WithCancel(ctx)
	defer stopProducing()
	consuming, stopConsuming := context.WithCancel(ctx)
	defer stopConsuming()
	var producers, consumers errgroup.Group
	for i := range p.producers {
		producers.Go(func() error { return l.produce(producing, i, p.producers) })
	}
	for i := range p.consumers {
		consumers.Go(func() error { return l.consume(consuming, i, func(map[int32]int64) bool { return false }) })
	}
	err = f.run(disturbed)
	stopProducing()
	if err := errors.Join(err, producers.Wait()); err != nil {
		stopConsuming()
		return nil, errors.Join(err, consumers.Wait())
	}
	took := time.Since(begun)
	ends, err := l.ends(ctx)
	if err == nil {
		reading, cancel := context.WithTimeoutCause(ctx, readTime, fmt.Errorf("the log cannot be read to its end within %s", readTime))
		defer cancel()
		err = l.consume(reading, p.consumers, func(next map[int32]int64) bool {
			for part, end := range ends {
				if next[part] < end {
					return false
				}
			}
			return true
		})
		if cause := context.Cause(reading); cause != nil {
			err = errors.Join(err, cause, l.unread.get())
		}
	}
	stopConsuming()
	if err := errors.Join(err, consumers.Wait()); err != nil {
		return nil, err
	}
	report = &Report{
		Seconds: took.Seconds(), Acked: l.acked.Load(), PerSecond: float64(l.acked.Load()) / took.Seconds(), GivenUp: l.failed.Load(),
		Errors: l.errors.some, Faults: f.count, GapMs: map[string]float64{}, Seed: p.seed,
		Anomalies: Check(&History{Sends: l.sends, Reads: l.reads}),
	}
	for name, d := range f.longest {
		report.GapMs[name] = d.Seconds() * 1000
	}
	return report, nil
}

func (p *plan) create(ctx context.Context, l *load) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.seeds...))
	if err != nil {
		return err
	}
	defer cl.Close()
	two, small := "2", "1048576" // a long run has many segments
	_, err = kadm.NewClient(cl).CreateTopic(ctx, l.partitions, int16(min(3, p.nodes)), map[string]*string{"min.insync.replicas": &two, "segment.bytes": &small}, l.topic)
	return err
}

// ends are the high watermarks when all is over.
func (l *load) ends(ctx context.Context) (map[int32]int64, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(l.seeds...))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	listed, err := kadm.NewClient(cl).ListEndOffsets(ctx, l.topic)
	if err != nil {
		return nil, err
	}
	ends := map[int32]int64{}
	listed.Each(func(o kadm.ListedOffset) {
		if o.Err != nil {
			err = errors.Join(err, fmt.Errorf("the end of partition %d: %w", o.Partition, o.Err))
		}
		ends[o.Partition] = o.Offset
	})
	return ends, err
}
