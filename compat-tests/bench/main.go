// Command bench measures a broker it starts itself, beside what the machine
// can do in the same run or, with -kafka, beside Apache Kafka (kafka.go), one
// node and three. Machines change their speed from minute to minute, so every
// row has a limit: the same work done by as little code as will do it, without
// a broker, right before the row. Every round runs every row once on a fresh
// broker, and a ratio is one between the two figures of one round.
//
// Payload is random and not compressed; after each produce row the bytes on
// disk are held against the bytes sent.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	bin := flag.String("broker", "bin/streambus", "the binary to measure")
	rounds := flag.Int("rounds", 3, "how often each row is run")
	span := flag.Duration("span", 3*time.Second, "how long a row runs, and half of it how long its limit")
	dir := flag.String("dir", "", "where data directories are made (default: that of temporary files)")
	only := flag.String("rows", "", "regular expression: run the rows whose names match")
	kafka := flag.Bool("kafka", false, "measure Apache Kafka in turn with it, instead of the machine")
	warm := flag.Duration("warm", time.Minute, "with -kafka: how long all brokers are warmed up before the first round, and all clusters")
	flag.Parse()
	wanted, err := regexp.Compile(*only)
	if err == nil && *kafka {
		err = compare(*bin, *dir, *rounds, *span, *warm, wanted)
	} else if err == nil {
		err = run(*bin, *dir, *rounds, *span, wanted)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// row is one line of the table, or several: one for each figure it gives.
type row struct {
	name    string
	measure measure
	limit   measure // nil: the machine has nothing to compare with
}

// measure gives figures, each in another unit. A row and its limit are compared
// where the units are the same.
type measure func(*bench) ([]figure, error)

type figure struct {
	unit  string
	value float64
}

func rows(bin string) []row {
	return []row{
		{"machine: loopback, 64 KiB writes", loopback, nil},
		{"machine: loopback, 64 B there and back", pingPong, nil},
		{"machine: fdatasync of 4 KiB appends", fdatasync, nil},
		{"start, empty directory", started, bareStart(bin)},
		{"resident memory, idle", resident, nil},
		{"metadata, 1 node, 1 caller", changes(1, 1), logs(1, 1)},
		{"metadata, 1 node, 64 callers", changes(1, 64), logs(1, 64)},
		{"metadata, 3 nodes, 1 caller", changes(3, 1), logs(3, 1)},
		{"metadata, 3 nodes, 64 callers", changes(3, 64), logs(3, 64)},
		{"3 nodes, topic of 1 partition", seenEverywhere(1), nil},
		{"3 nodes, topic of 1000 partitions", seenEverywhere(1000), nil},
		{"3 nodes, topic of 10000 partitions", seenEverywhere(10_000), nil},
		{"3 nodes, kill -9 of the active controller", controllerKilled, nil},
		{"3 nodes, idle", idleCluster, nil},
		{"3 replicas, 100 idle partitions", idleReplicas(100), nil},
		{"3 replicas, 1000 idle partitions", idleReplicas(1000), nil},
		{"3 replicas, 10000 idle partitions", idleReplicas(10_000), nil},
		{"3 replicas, produce 1 KiB, acks=all, durable", replicated(produce("ack", incompressible)), received(true)},
		{"3 replicas, produce 1 KiB, acks=all, os", replicated(produce("os", incompressible)), received(false)},
		{"3 replicas, produce 100 B, acks=all, durable", replicated(produce("ack", small)), received(true)},
		{"3 replicas, produce 100 B, acks=all, os", replicated(produce("os", small)), received(false)},
		{"3 replicas, 1 in flight, durable", replicated(active(1, "ack")), echo(true)},
		{"3 replicas, 1 in flight, os", replicated(active(1, "os")), echo(false)},
		{"3 replicas, 100 active partitions", replicated(active(100, "ack")), groupCommit(100)},
		{"3 replicas, kill -9 of a leader", leaderEnds(false, killed), nil},
		{"3 replicas, kill -9 of a leader that is the active controller", leaderEnds(true, killed), nil},
		{"3 replicas, orderly stop of a leader", leaderEnds(false, stopped), nil},
		{"3 replicas, pause of a leader, its session 9 s", leaderEnds(false, paused), nil},
		{"3 nodes, kill -9 of a coordinator, client's defaults", coordinatorEnds(withDefaults), nil},
		{"3 nodes, kill -9 of a coordinator, short pauses", coordinatorEnds(withShortPauses), nil},
		{"3 nodes, 10^6 committed offsets, kill -9 of a coordinator", manyElsewhere, nil},
		{"3 replicas, a follower returns", followerReturns, nil},
		{"produce 1 KiB, acks=all, durable", produce("ack", incompressible), received(true)},
		{"produce 1 KiB, acks=all, os", produce("os", incompressible), received(false)},
		{"produce 100 B, acks=all, durable", produce("ack", small), received(true)},
		{"produce 100 B, acks=all, os", produce("os", small), received(false)},
		{"produce text, gzip", compressed(kgo.GzipCompression()), nil},
		{"produce text, snappy", compressed(kgo.SnappyCompression()), nil},
		{"produce text, lz4", compressed(kgo.Lz4Compression()), nil},
		{"produce text, zstd", compressed(kgo.ZstdCompression()), nil},
		{"consume 1 KiB, hot", consume("os", incompressible), sent},
		{"consume 1 KiB, cold", consumeCold, readDirect},
		{"1 in flight, os", active(1, "os"), echo(false)},
		{"1 active partition", active(1, "ack"), echo(true)},
		{"100 active partitions", active(100, "ack"), groupCommit(100)},
		{"1000 active partitions", active(1000, "ack"), groupCommit(1000)},
		{"1000 new partitions", sweeps(1000, "ack"), bareSweeps(1000)},
		{"1 connection, os", connections(1), echoes(1)},
		{"8 connections, os", connections(8), echoes(8)},
		{"64 connections, os", connections(64), echoes(64)},
		{"open loop, 2000/s on 6 partitions", openLoop(perSecond(2000), 6, "ack"), fdatasync},
		{"open loop at 70 % of its maximum", openLoop(share(.7, "ack"), 6, "ack"), nil},
		{"end to end at 500/s, durable", endToEnd(500, "ack"), fdatasync},
		{"end to end at 500/s, os", endToEnd(500, "os"), pingPong},
		{"group of 10 members, classic", members(10, classic), nil},
		{"group of 100 members, classic", members(100, classic), nil},
		{"group of 1000 members, classic", members(1000, classic), nil},
		{"group of 10 members, consumer", members(10, consumer), nil},
		{"group of 100 members, consumer", members(100, consumer), nil},
		{"group of 1000 members, consumer", members(1000, consumer), nil},
		{"offset commits, 1 group", commits(1), fdatasync},
		{"offset commits, 64 groups", commits(64), groupCommit(64)},
		{"heartbeats, group of 64, classic", heartbeats(64, classic), nil},
		{"heartbeats, group of 64, consumer", heartbeats(64, consumer), nil},
		{"10^6 committed offsets, start after kill -9", coordinatorLoads, nil},
		{"compaction of 1 GB, 1 in flight beside it", compaction("ack"), active(1, "ack")},
		{"allocations in the broker", allocations, nil},
		{"resident memory after it all", resident, nil},
		{"100 idle partitions", idle(100), nil},
		{"1000 idle partitions", idle(1000), nil},
		{"10000 idle partitions", idle(10_000), nil},
		{"100000 idle partitions, no records", idle(100_000), nil},
		{"start after kill -9, 256 MB", restart(256 << 20), nil},
		{"start after kill -9, 10 GB", restart(10 << 30), nil},
		{"10^5 records of 100 B", stored(1e5), nil},
		{"10^6 records of 100 B", stored(1e6), nil},
		{"10^7 records of 100 B", stored(1e7), nil},
		{"100 idle connections", idleConnections(100), nil},
		{"1000 idle connections", idleConnections(1000), nil},
		{"8000 idle connections", idleConnections(8000), nil},
		{"beside 100 announcing 48 MiB", beside(announced), nil},
		{"beside 1000 sending byte by byte", beside(trickling), nil},
		{"beside 4 with decompression bombs", beside(bombs), nil},
		{"beside strangers", beside(strangers), nil},
	}
}

func run(bin, dir string, rounds int, span time.Duration, wanted *regexp.Regexp) error {
	rows := slices.DeleteFunc(rows(bin), func(r row) bool { return !wanted.MatchString(r.name) })
	results := make([]result, len(rows))
	for n := range rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", n+1, rounds)
		if err := round(streamBus(bin, nil), streamBuses(bin, nil), dir, span, rows, results); err != nil {
			return err
		}
	}
	return print(rows, results)
}

// round runs every row once on a fresh broker.
func round(broker starter, cluster manyStarter, dir string, span time.Duration, rows []row, results []result) (err error) {
	b, err := start(broker, dir, span)
	if err != nil {
		return err
	}
	b.many = cluster
	defer func() { err = errors.Join(err, b.stop()) }()
	for i, r := range rows {
		var limits []figure
		if r.limit != nil {
			if limits, err = b.settled(r.limit); err != nil {
				return fmt.Errorf("limit of %s: %w", r.name, err)
			}
		}
		figures, err := b.settled(r.measure)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		results[i].add(figures, limits)
	}
	return nil
}

// settled measures once the disk has nothing left to do from before: what the
// last row left unwritten would be in the way of this one's syncs.
func (b *bench) settled(m measure) ([]figure, error) {
	if err := settle(b.scratch); err != nil {
		return nil, err
	}
	return m(b)
}

// result is what the rounds gave for one row.
type result struct {
	units  []string // in the order the row gives them
	values map[string]*series
}

// series has a value for each round.
type series struct{ own, limit, ratio []float64 }

func (r *result) add(figures, limits []figure) {
	if r.values == nil {
		r.values = map[string]*series{}
	}
	for _, f := range figures {
		s := r.values[f.unit]
		if s == nil {
			s = &series{}
			r.values[f.unit] = s
			r.units = append(r.units, f.unit)
		}
		s.own = append(s.own, f.value)
		for _, l := range limits {
			if l.unit == f.unit {
				s.limit = append(s.limit, l.value)
				s.ratio = append(s.ratio, f.value/l.value)
			}
		}
	}
}

func print(rows []row, results []result) error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "row\tunit\tmedian\trange\tlimit\tratio\trange")
	for i, r := range rows {
		for _, unit := range results[i].units {
			s := results[i].values[unit]
			fmt.Fprintf(w, "%s\t%s\t%s", r.name, unit, spread(s.own))
			if s.limit != nil {
				fmt.Fprintf(w, "\t%.3g\t%s", median(s.limit), spread(s.ratio))
			}
			fmt.Fprintln(w)
		}
	}
	return w.Flush()
}

func spread(v []float64) string {
	return fmt.Sprintf("%.4g\t%.3g-%.3g", median(v), slices.Min(v), slices.Max(v))
}

// median is between the middle two of an even number.
func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return (s[(len(s)-1)/2] + s[len(s)/2]) / 2
}

// percentiles sorts times.
func percentiles(times []time.Duration) []figure {
	slices.Sort(times)
	at := func(p float64) float64 { return millis(times[int(p*float64(len(times)-1))]) }
	return []figure{{"p50 ms", at(.5)}, {"p99 ms", at(.99)}}
}

func millis(d time.Duration) float64 { return d.Seconds() * 1000 }
