package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/compat-tests/server"
)

// Four brokers are compared, and then clusters (clusters.go): Apache Kafka as it comes and with a flush before
// each answer, and this one as it comes, which is with a flush before each
// answer, and without. Each row runs on them in turn, in every round, and a
// ratio is one between two figures of one row of one round.
//
// All four run from the first round to the last. An idle Kafka takes about 1 %
// of a processor, less than the run would lose to four starts and a cold JVM in
// each round; what is on the disk after a row is removed and synced before the
// next, so that no broker's flush writes another one's records. Rows of starts
// have processes of their own beside those four, and their JVM is cold, as
// starts are.

// kafkaHeap is for -Xms and -Xmx, as in Kafka's own scripts.
const kafkaHeap = "1g"

// removal makes room soon when a row's topics are deleted. Nothing that the
// brokers do while they are measured depends on it.
var removal = map[string]string{"log.segment.delete.delay.ms": "1000"}

const (
	shipped = iota
	flushing
	durable
	pageCache
	contestants
)

var contestantNames = [contestants]string{"Kafka", "Kafka, flushing", "StreamBus", "StreamBus, os"}

// pairs are what ratios are of.
var pairs = []struct {
	name         string
	ours, theirs int
}{
	{"StreamBus / Kafka (p)", durable, shipped},
	{"StreamBus / Kafka, flushing (f)", durable, flushing},
	{"StreamBus, os / Kafka (os)", pageCache, shipped},
}

// contest is a row that all run in turn. What it leaves to together is done by
// all at once: it asks nothing of the brokers but to be there.
type contest struct {
	name     string
	measure  measure // may be nil
	together measure // may be nil
	goals    map[string]goals
	rare     bool // takes long: in the last round alone, and for both as they come
}

// goals are those of a unit, for each of pairs.
type goals [3]goal

// goal is a bound of a ratio; none if zero.
type goal float64

// Bounds from above are kept negative.
func atLeast(x float64) goal { return goal(x) }
func atMost(x float64) goal  { return goal(-x) }

func (g goal) String() string {
	if g < 0 {
		return fmt.Sprintf("<= %gx", -float64(g))
	}
	return fmt.Sprintf(">= %gx", float64(g))
}

func (g goal) met(ratio float64) bool {
	if g < 0 {
		return ratio <= -float64(g)
	}
	return ratio >= float64(g)
}

var contests = []contest{
	{name: "produce 1 KiB, acks=all, idempotent", measure: produce("", incompressible), goals: map[string]goals{
		"MB/s": {atLeast(1.1), atLeast(2)}, "broker CPU s/GB": {atMost(.5)}}},
	{name: "produce 1 KiB, acks=1", measure: produce("", incompressible, acksOne()...), goals: map[string]goals{
		"MB/s": {2: atLeast(1.5)}, "broker CPU s/GB": {2: atMost(.4)}}},
	{name: "produce 100 B, acks=all, idempotent", measure: produce("", small), goals: map[string]goals{
		"MB/s": {atLeast(1)}, "broker CPU s/GB": {atMost(.4)}}},
	{name: "consume 1 KiB, hot", measure: consume("", incompressible), goals: map[string]goals{
		"MB/s": {atLeast(1.1)}, "broker CPU s/GB": {atMost(.5)}}},
	{name: "consume 100 B, hot", measure: consume("", small), goals: map[string]goals{
		"MB/s": {atLeast(1.1)}, "broker CPU s/GB": {atMost(.5)}}},
	{name: "1 in flight", measure: active(1, ""), goals: map[string]goals{
		"p50 ms": {atMost(1.1), atMost(.4), atMost(.35)}, "p99 ms": {atMost(.6), atMost(.3), atMost(.25)}}},
	{name: "open loop, 2000/s on 6 partitions", measure: openLoop(perSecond(2000), 6, ""), goals: map[string]goals{
		"p99 ms": {atMost(1), atMost(.1)}}},
	{name: "open loop at 70 % of its maximum", measure: openLoop(share(.7, ""), 6, ""), goals: map[string]goals{
		"p99 ms": {atMost(.5)}}},
	{name: "end to end at 500/s", measure: endToEnd(500, ""), goals: map[string]goals{
		"p50 ms": {atMost(1.1)}, "p99 ms": {atMost(.4)}}},
	{name: "group of 10 members, classic", measure: members(10, classic)},
	{name: "group of 100 members, classic", measure: members(100, classic)},
	{name: "group of 1000 members, classic", measure: members(1000, classic), rare: true},
	{name: "group of 10 members, consumer", measure: members(10, consumer)},
	{name: "group of 100 members, consumer", measure: members(100, consumer)},
	{name: "group of 1000 members, consumer", measure: members(1000, consumer), rare: true},
	{name: "offset commits, 1 group", measure: commits(1)},
	{name: "offset commits, 64 groups", measure: commits(64)},
	{name: "heartbeats, group of 64, classic", measure: heartbeats(64, classic)},
	{name: "heartbeats, group of 64, consumer", measure: heartbeats(64, consumer)},
	{name: "compaction of 1 GB, 1 in flight beside it", measure: compaction(""), rare: true},
	{name: "10^6 committed offsets, start after kill -9", measure: coordinatorLoads, rare: true},
	{name: "1000 new partitions", measure: sweeps(1000, ""), together: watchedLast, goals: map[string]goals{
		createdAndSwept: {atMost(.03)}, laterSweeps: {atMost(1), atMost(.05)}, watchedCPU: {atMost(.1)}}},
	{name: "loaded", measure: resident, goals: map[string]goals{"MB anonymous": {atMost(.15)}}},
	{name: "idle", together: idleFigure, goals: map[string]goals{"idle CPU ms/s": {atMost(.1)}}},
	{name: "start, empty directory", measure: freshStart, goals: map[string]goals{
		"ms in all": {atMost(.02)}, "MB anonymous": {atMost(.03)}, "ms to the first ack after it": {atMost(.02)}}},
}

// acksOne has as many requests under way as clients have with acks=all.
func acksOne() []kgo.Opt {
	return []kgo.Opt{kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite(), kgo.MaxProduceRequestsInflightPerBroker(5)}
}

const watchedCPU = "idle CPU ms/s, with a consumer at the end"

// watchedLast is about the topic that was made last.
func watchedLast(b *bench) ([]figure, error) {
	cpu, err := b.watched([]string{b.lastTopic()})
	return []figure{{watchedCPU, cpu}}, err
}

func idleFigure(b *bench) ([]figure, error) {
	cpu, err := b.idleCPU()
	return []figure{{"idle CPU ms/s", cpu}}, err
}

// freshStart is a broker's start on an empty directory, its memory then, and
// its way back after a kill with 256 MB. Kafka's directory has been formatted:
// that is not in the time.
func freshStart(b *bench) ([]figure, error) {
	return b.fresh(func(b *bench) ([]figure, error) {
		memory, err := resident(b)
		if err != nil {
			return nil, err
		}
		killed, err := b.killed(256 << 20)
		return slices.Concat(b.start, memory, killed), err
	})
}

func compare(bin, dir string, rounds int, span, warm time.Duration, wanted *regexp.Regexp) error {
	jars, err := server.BrokerJars(context.Background())
	if err != nil {
		return err
	}
	match := func(rows []contest) []contest {
		return slices.DeleteFunc(slices.Clone(rows), func(r contest) bool { return !wanted.MatchString(r.name) })
	}
	if rows := match(contests); len(rows) > 0 {
		if err := compareSingle(bin, jars, dir, rounds, span, warm, rows); err != nil {
			return err
		}
	}
	if rows := match(clusterContests); len(rows) > 0 {
		return compareClusters(bin, jars, dir, rounds, span, warm, rows)
	}
	return nil
}

// compareSingle has one node of each.
func compareSingle(bin, jars, dir string, rounds int, span, warm time.Duration, rows []contest) (err error) {
	kafka := func(settings map[string]string) starter {
		return func(dir string) (*server.Server, error) {
			return server.Kafka(context.Background(), jars, dir, kafkaHeap, settings)
		}
	}
	starters := [contestants]starter{
		kafka(removal),
		kafka(with(removal, "log.flush.interval.messages", "1")),
		streamBus(bin, removal),
		streamBus(bin, with(removal, "streambus.flush", "os")),
	}
	var all [contestants]*bench
	defer func() {
		for _, b := range all {
			if b != nil {
				err = errors.Join(err, b.stop())
			}
		}
	}()
	for i, run := range starters {
		if all[i], err = start(run, dir, span); err != nil {
			return fmt.Errorf("%s: %w", contestantNames[i], err)
		}
	}
	work := []measure{produce("", incompressible), produce("", small), consume("", incompressible), active(1, ""), openLoop(perSecond(2000), 6, "")}
	return newComparison(all, rows).run(rounds, warm, work)
}

func with(settings map[string]string, key, value string) map[string]string {
	all := map[string]string{key: value}
	for k, v := range settings {
		all[k] = v
	}
	return all
}

// comparison is what the rounds have in common.
type comparison struct {
	all     [contestants]*bench
	rows    []contest
	machine result
	results []contestResult // by contest
}

func newComparison(all [contestants]*bench, rows []contest) *comparison {
	return &comparison{all: all, rows: rows, results: make([]contestResult, len(rows))}
}

func (c *comparison) run(rounds int, warm time.Duration, work []measure) (err error) {
	if err := c.warmUp(warm, work); err != nil {
		return fmt.Errorf("warming up: %w", err)
	}
	for n := range rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", n+1, rounds)
		if err = c.round(n == rounds-1); err != nil {
			break
		}
	}
	return errors.Join(err, c.print()) // figures of rounds before an error are good
}

// contestResult has the figures of a contest, by contestant.
type contestResult [contestants]result

// warmUp has all take turns at work that the rounds will ask, so that the JVM has
// compiled it, and takes away what that has left.
func (c *comparison) warmUp(warm time.Duration, work []measure) error {
	fmt.Fprintf(os.Stderr, "warming up for %v\n", warm)
	begun := time.Now()
	for n := 0; time.Since(begun) < warm; n++ {
		for i, b := range c.all {
			if _, err := work[n%len(work)](b); err != nil {
				return fmt.Errorf("%s: %w", contestantNames[i], err)
			}
		}
	}
	return c.clear()
}

// round runs the machine's controls and every contest once.
func (c *comparison) round(last bool) error {
	moved, err := loopback(c.all[durable])
	if err != nil {
		return err
	}
	synced, err := fdatasync(c.all[durable])
	if err != nil {
		return err
	}
	c.machine.add([]figure{{"loopback, MB/s", moved[0].value}, {"fdatasync of 4 KiB appends, p50 ms", synced[0].value}}, nil)
	for i, row := range c.rows {
		if row.rare && !last {
			continue
		}
		begun := time.Now()
		figures, err := c.once(row)
		if err == nil && !row.rare { // those are the last
			err = c.clear()
		}
		fmt.Fprintf(os.Stderr, "%s: %.0f s\n", row.name, time.Since(begun).Seconds())
		if err != nil {
			return fmt.Errorf("%s: %w", row.name, err)
		}
		for j := range c.all {
			c.results[i][j].add(figures[j], nil)
		}
	}
	return nil
}

// once gives the figures of one contest, by contestant.
func (c *comparison) once(row contest) (figures [contestants][]figure, err error) {
	if row.measure != nil {
		for i, b := range c.all {
			if row.rare && i != shipped && i != durable {
				continue
			}
			if err := settle(b.dir); err != nil {
				return figures, err
			}
			if figures[i], err = row.measure(b); err != nil {
				return figures, fmt.Errorf("%s: %w", contestantNames[i], err)
			}
		}
	}
	if row.together != nil {
		var (
			all   sync.WaitGroup
			more  [contestants][]figure
			fails [contestants]error
		)
		for i, b := range c.all {
			all.Go(func() { more[i], fails[i] = row.together(b) })
		}
		all.Wait()
		for i := range c.all {
			figures[i] = append(figures[i], more[i]...)
		}
		err = errors.Join(fails[:]...)
	}
	return figures, err
}

// clear deletes every topic and waits until that is over and on the disk.
func (c *comparison) clear() error {
	for _, b := range c.all {
		if err := b.deleteTopics(); err != nil {
			return fmt.Errorf("removing the topics of %s: %w", b.Name, err)
		}
	}
	return settle(c.all[0].dir)
}

// removalTime is what files of deleted topics may take to be gone. Kafka
// removes none in its first 30 s.
const removalTime = time.Minute

func (b *bench) deleteTopics() error {
	cl, err := b.client()
	if err != nil {
		return err
	}
	defer cl.Close()
	all, err := kmsg.NewPtrMetadataRequest().RequestWith(context.Background(), cl)
	if err != nil {
		return err
	}
	req := kmsg.NewPtrDeleteTopicsRequest()
	for _, t := range all.Topics {
		if t.IsInternal {
			continue
		}
		req.TopicNames = append(req.TopicNames, *t.Topic)
		d := kmsg.NewDeleteTopicsRequestTopic()
		d.Topic = t.Topic
		req.Topics = append(req.Topics, d)
	}
	if _, err := req.RequestWith(context.Background(), cl); err != nil {
		return err
	}
	for begun := time.Now(); time.Since(begun) < removalTime; time.Sleep(50 * time.Millisecond) {
		left, err := filepath.Glob(filepath.Join(b.dir, "*", "bench-*")) // of all nodes
		if len(left) == 0 || err != nil {
			return err
		}
	}
	return fmt.Errorf("files of deleted topics are still there after %v", removalTime)
}

func (c *comparison) print() error {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, unit := range c.machine.units {
		fmt.Fprintf(w, "machine: %s\t%s\n", unit, spreadOf(c.machine.values[unit].own))
	}
	fmt.Fprintf(w, "\nrow\tunit\t%s\n", strings.Join(contestantNames[:], "\t"))
	for i, row := range c.rows {
		r := &c.results[i]
		for _, unit := range r[shipped].units {
			fmt.Fprintf(w, "%s\t%s", row.name, unit)
			for j := range r {
				fmt.Fprintf(w, "\t%s", spreadOf(r[j].of(unit)))
			}
			fmt.Fprintln(w)
		}
	}
	fmt.Fprint(w, "\nrow\tunit")
	for _, p := range pairs {
		fmt.Fprintf(w, "\t%s\tgoal\t", p.name)
	}
	fmt.Fprintln(w)
	for i, row := range c.rows {
		r := &c.results[i]
		for _, unit := range r[shipped].units {
			if unit == howOften {
				continue
			}
			fmt.Fprintf(w, "%s\t%s", row.name, unit)
			for j, p := range pairs {
				ratios := quotients(r[p.ours].of(unit), r[p.theirs].of(unit))
				fmt.Fprintf(w, "\t%s\t%s", spreadOf(ratios), verdict(row.goals[unit][j], ratios))
			}
			fmt.Fprintln(w)
		}
	}
	return w.Flush()
}

// of is a unit's values, none for a contestant that did not run the row.
func (r *result) of(unit string) []float64 {
	if s := r.values[unit]; s != nil {
		return s.own
	}
	return nil
}

func quotients(a, b []float64) []float64 {
	q := make([]float64, min(len(a), len(b)))
	for i := range q {
		q[i] = a[i] / b[i]
	}
	return q
}

// verdict fills two columns.
func verdict(g goal, ratios []float64) string {
	switch {
	case g == 0 || len(ratios) == 0:
		return "\t"
	case g.met(median(ratios)):
		return g.String() + "\tmet"
	default:
		return g.String() + "\tmissed"
	}
}

func spreadOf(v []float64) string {
	switch len(v) {
	case 0:
		return ""
	case 1:
		return short(v[0])
	}
	return fmt.Sprintf("%s (%s-%s)", short(median(v)), short(slices.Min(v)), short(slices.Max(v)))
}

func short(v float64) string {
	if v >= 1000 {
		return fmt.Sprintf("%.0f", v)
	}
	return fmt.Sprintf("%.3g", v)
}
