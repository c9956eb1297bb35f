// Command members has the members of consumer groups come, go and be killed, while
// records are written and a broker is killed, on three brokers. Each kind of member has
// a group of its own, all at the same time. It ends well if each group has read every
// acknowledged record, has committed what it read, and goes on there.
//
//	go run ./members -broker ../bin/streambus
package main

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/streambus/streambus/compat-tests/server"
)

const (
	partitions = 6
	more       = 300 // records are read before the next thing happens
	perSecond  = 200
	// sessionTime is how soon a group notices that a member was killed.
	sessionTime = 6 * time.Second
	stepTime    = time.Minute
)

// kind is a way to be a member. Of mixed groups members take turns in several ways.
type kind struct {
	name string
	ways []way
	// rough members are killed where others are asked to end: kcat drops the record that
	// it has in its hands then, and commits it.
	rough bool
}

// way is the command of one member of a group that reads a topic.
type way func(bootstrap, group, topic string) *exec.Cmd

func main() {
	if len(os.Args) == 6 && os.Args[1] == "franz" {
		if err := franzMember(os.Args[2], os.Args[3], os.Args[4], os.Args[5]); err != nil {
			fmt.Fprintln(os.Stderr, "franz-go:", err)
			os.Exit(1)
		}
		return
	}
	bin := flag.String("broker", "../bin/streambus", "the broker's binary")
	rounds := flag.Int("rounds", 1, "how often members and brokers are killed")
	only := flag.String("only", "", "the kinds of members, as an expression")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *bin, *rounds, regexp.MustCompile(*only)); err != nil {
		fmt.Fprintln(os.Stderr, "members:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, bin string, rounds int, only *regexp.Regexp) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(rounds+2)*2*time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "members")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	kinds, err := kinds(ctx, dir)
	if err != nil {
		return err
	}
	nodes, err := server.Cluster(ctx, bin, dir, 3, map[string]string{
		"default.replication.factor": "3", "min.insync.replicas": "2", "offsets.topic.num.partitions": "12",
		"group.consumer.session.timeout.ms": fmt.Sprint(sessionTime.Milliseconds()), "group.consumer.heartbeat.interval.ms": "1000",
		"group.initial.rebalance.delay.ms": "500",
	})
	if err != nil {
		return err
	}
	defer func() {
		for _, n := range nodes {
			err = errors.Join(err, n.Stop())
		}
	}()
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.Addr)
	}
	var all []*group
	for _, k := range kinds {
		if !only.MatchString(k.name) {
			continue
		}
		g, err := newGroup(ctx, k, strings.Join(addrs, ","))
		if err != nil {
			return err
		}
		defer g.end()
		all = append(all, g)
	}
	each := func(what string, do func(*group) error) error {
		errs := make([]error, len(all))
		var wait sync.WaitGroup
		for i, g := range all {
			wait.Go(func() {
				if err := do(g); err != nil {
					errs[i] = fmt.Errorf("%s: %s: %w\n%s", g.kind.name, what, err, g.last())
				}
			})
		}
		wait.Wait()
		fmt.Printf("%s: done\n", what)
		return errors.Join(errs...)
	}
	if err := each("two members read", func(g *group) error { return errors.Join(g.start("a"), g.start("b"), g.reads("a", "b")) }); err != nil {
		return err
	}
	for round := range rounds {
		node := nodes[round%len(nodes)]
		if err := each("a third one joins", func(g *group) error { return errors.Join(g.start("c"), g.reads("c")) }); err != nil {
			return err
		}
		if err := each("one is killed", func(g *group) error { return errors.Join(g.stop("a", os.Kill), g.reads("b", "c")) }); err != nil {
			return err
		}
		if err := node.Kill(); err != nil {
			return err
		}
		if err := each("a broker is killed", func(g *group) error { return g.reads("b", "c") }); err != nil {
			return err
		}
		if err := node.Start(ctx); err != nil {
			return err
		}
		if err := each("one leaves, another comes", func(g *group) error {
			return errors.Join(g.leaves("b"), g.start("b"), g.start("a"), g.reads("a", "b"))
		}); err != nil {
			return err
		}
		if err := each("a third one leaves", func(g *group) error { return g.leaves("c") }); err != nil {
			return err
		}
	}
	if err := each("everything is read and committed", func(g *group) error { return errors.Join(g.everything(), g.committed()) }); err != nil {
		return err
	}
	if err := each("they go on there", (*group).goOn); err != nil {
		return err
	}
	for _, g := range all {
		fmt.Printf("%-34s %6d records acknowledged, %6d read, %5d of them again\n", g.kind.name, g.acked(), g.total, g.total-len(g.seen))
	}
	return nil
}

// kinds gets all members ready.
func kinds(ctx context.Context, dir string) ([]kind, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	build := func(from string) (string, error) {
		to := filepath.Join(dir, filepath.Base(from))
		cmd := exec.CommandContext(ctx, "go", "build", "-C", from, "-o", to, ".")
		cmd.Env = append(os.Environ(), "GOWORK=off")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", from, err, out)
		}
		return to, nil
	}
	kafkago, err := build("clients/kafkago")
	if err != nil {
		return nil, err
	}
	sarama, err := build("members/sarama")
	if err != nil {
		return nil, err
	}
	jars, err := server.BrokerJars(ctx)
	if err != nil {
		return nil, err
	}
	classes := filepath.Join(dir, "classes")
	if out, err := exec.CommandContext(ctx, "javac", "-nowarn", "-cp", filepath.Join(jars, "*"), "-d", classes, "java/Member.java").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compiling java/Member.java: %w\n%s", err, out)
	}
	plain := func(bin string, before ...string) way {
		return func(bootstrap, group, topic string) *exec.Cmd {
			return exec.Command(bin, append(before[:len(before):len(before)], bootstrap, group, topic)...)
		}
	}
	kcat := func(bootstrap, group, topic string) *exec.Cmd {
		return exec.Command("kcat", "-b", bootstrap, "-G", group, "-q", "-u", "-f", "%p %o\n", "-X", "auto.offset.reset=earliest",
			"-X", fmt.Sprint("session.timeout.ms=", sessionTime.Milliseconds()), "-X", "auto.commit.interval.ms=200", topic)
	}
	java := func(protocol, assignor string) way {
		return func(bootstrap, group, topic string) *exec.Cmd {
			return exec.Command("java", "-Xmx96m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
				"-cp", classes+string(os.PathListSeparator)+filepath.Join(jars, "*"), "Member", bootstrap, group, topic, protocol, assignor)
		}
	}
	const rangeAssignor, cooperative = "org.apache.kafka.clients.consumer.RangeAssignor", "org.apache.kafka.clients.consumer.CooperativeStickyAssignor"
	return []kind{
		{"kcat", []way{kcat}, true},
		{"franz-go, range", []way{plain(self, "franz", "range")}, false},
		{"franz-go, cooperative", []way{plain(self, "franz", "cooperative")}, false},
		{"franz-go, consumer protocol", []way{plain(self, "franz", "consumer")}, false},
		{"kafka-go", []way{plain(kafkago)}, false},
		{"sarama", []way{plain(sarama)}, false},
		{"Java, range", []way{java("classic", rangeAssignor)}, false},
		{"Java, cooperative", []way{java("classic", cooperative)}, false},
		{"Java, consumer protocol", []way{java("consumer", "uniform")}, false},
		{"franz-go, both protocols", []way{plain(self, "franz", "cooperative"), plain(self, "franz", "consumer")}, false},
		{"Java, both protocols", []way{java("classic", cooperative), java("consumer", "uniform")}, false},
		{"Java and franz-go, consumer protocol", []way{java("consumer", "range"), plain(self, "franz", "consumer")}, false},
	}, nil
}

type place struct {
	partition int32
	offset    int64
}

// group is a group with its topic and who writes to that.
type group struct {
	kind      kind
	bootstrap string
	name      string
	cl        *kgo.Client
	writing   context.CancelFunc
	written   chan struct{} // closed when nothing is written any more
	turn      int

	mu      sync.Mutex // guards the following
	members map[string]*member
	ends    [partitions]int64 // after the last acknowledged record
	count   int
	failed  error
	seen    map[place]bool
	total   int
	by      map[string]int // records that were read first by a member, since it was asked for
	news    chan struct{}  // closed, and another one, when something was read
}

type member struct {
	cmd  *exec.Cmd
	done chan struct{} // closed once it has ended
	err  error
	log  log
}

// log is what a member says on its standard error.
type log struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// end is the last of it.
func (l *log) end() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.text.String()
	return text[max(0, len(text)-1000):]
}

func newGroup(ctx context.Context, k kind, bootstrap string) (*group, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.ProducerLinger(0))
	if err != nil {
		return nil, err
	}
	name := "members." + strings.NewReplacer(" ", "-", ",", "").Replace(k.name)
	g := &group{
		kind: k, bootstrap: bootstrap, name: name, cl: cl, written: make(chan struct{}),
		members: map[string]*member{}, seen: map[place]bool{}, by: map[string]int{}, news: make(chan struct{}),
	}
	if _, err := kadm.NewClient(cl).CreateTopic(ctx, partitions, 3, nil, name); err != nil {
		return nil, err
	}
	writing, cancel := context.WithCancel(context.Background())
	g.writing = cancel
	go g.write(writing)
	return g, nil
}

// write writes records until ctx ends, and returns when all are acknowledged.
func (g *group) write(ctx context.Context) {
	defer close(g.written)
	tick := time.NewTicker(time.Second / perSecond)
	defer tick.Stop()
	for i := 0; ; i++ {
		g.put(fmt.Sprint(i))
		select {
		case <-ctx.Done():
			g.cl.Flush(context.Background())
			return
		case <-tick.C:
		}
	}
}

func (g *group) put(value string) {
	g.cl.Produce(context.Background(), &kgo.Record{Topic: g.name, Value: []byte(value)}, func(r *kgo.Record, err error) {
		g.mu.Lock()
		defer g.mu.Unlock()
		if err != nil {
			g.failed = errors.Join(g.failed, err)
			return
		}
		g.count++
		g.ends[r.Partition] = max(g.ends[r.Partition], r.Offset+1)
	})
}

func (g *group) acked() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.count
}

// start begins a member.
func (g *group) start(name string) error {
	m := &member{cmd: g.kind.ways[g.turn%len(g.kind.ways)](g.bootstrap, g.name, g.name), done: make(chan struct{})}
	g.turn++
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return err
	}
	m.cmd.Stderr = &m.log
	if err := m.cmd.Start(); err != nil {
		return err
	}
	g.mu.Lock()
	g.members[name] = m
	g.mu.Unlock()
	go func() {
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			var p place
			if _, err := fmt.Sscan(lines.Text(), &p.partition, &p.offset); err == nil {
				g.read(name, p)
			}
		}
		m.err = m.cmd.Wait()
		close(m.done)
	}()
	return nil
}

func (g *group) read(name string, p place) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.total++
	if !g.seen[p] {
		g.seen[p] = true
		g.by[name]++
	}
	close(g.news)
	g.news = make(chan struct{})
}

// until waits until something is so.
func (g *group) until(is func() error) error {
	over := time.After(stepTime)
	for {
		g.mu.Lock()
		err, news := is(), g.news
		g.mu.Unlock()
		if err == nil {
			return nil
		}
		select {
		case <-news:
		case <-over:
			return err
		}
	}
}

// reads waits until each of some members has read something new, and the group more.
func (g *group) reads(names ...string) error {
	g.mu.Lock()
	clear(g.by)
	from := len(g.seen)
	g.mu.Unlock()
	return g.until(func() error {
		for _, name := range names {
			if g.by[name] == 0 {
				return fmt.Errorf("%s has read nothing new for %v; all: %v", name, stepTime, g.by)
			}
		}
		if n := len(g.seen) - from; n < more {
			return fmt.Errorf("%d records were read in %v", n, stepTime)
		}
		return nil
	})
}

// leaves has a member leave that may be reading.
func (g *group) leaves(name string) error {
	if g.kind.rough {
		return g.stop(name, os.Kill)
	}
	return g.stop(name, syscall.SIGTERM)
}

// stop ends a member. One that is asked to has to end well.
func (g *group) stop(name string, how os.Signal) error {
	g.mu.Lock()
	m := g.members[name]
	g.mu.Unlock()
	if err := m.cmd.Process.Signal(how); err != nil {
		return err
	}
	select {
	case <-m.done:
	case <-time.After(stepTime):
		return fmt.Errorf("%s does not end", name)
	}
	// A Java machine says of a signal that it got it.
	if exit, ok := errors.AsType[*exec.ExitError](m.err); how != os.Kill && m.err != nil && !(ok && exit.ExitCode() == 128+int(syscall.SIGTERM)) {
		return fmt.Errorf("%s ends: %w", name, m.err)
	}
	return nil
}

// everything ends the writing, and waits until all that was acknowledged was read.
func (g *group) everything() error {
	g.writing()
	<-g.written
	return g.until(func() error {
		var missing []place
		for p, end := range g.ends {
			for o := range end {
				if !g.seen[place{int32(p), o}] {
					missing = append(missing, place{int32(p), o})
				}
			}
		}
		if len(missing) > 0 {
			return fmt.Errorf("of %d acknowledged records %d were not read, as these of partition and offset: %v", g.count, len(missing), missing[:min(len(missing), 10)])
		}
		return g.failed
	})
}

// committed waits until what is committed is what was read.
func (g *group) committed() error {
	over := time.Now().Add(stepTime)
	for {
		offsets, err := kadm.NewClient(g.cl).FetchOffsets(context.Background(), g.name)
		if err == nil {
			for p, end := range g.ends {
				if o, ok := offsets.Lookup(g.name, int32(p)); !ok || o.At != end {
					err = fmt.Errorf("partition %d is committed to %d, and read to %d", p, o.At, end)
				}
			}
		}
		if err == nil || time.Now().After(over) {
			return err
		}
		time.Sleep(50 * time.Millisecond)
	}
}

// goOn has all members leave, and one read what is written then, and nothing else.
func (g *group) goOn() error {
	if err := errors.Join(g.stop("a", syscall.SIGTERM), g.stop("b", syscall.SIGTERM)); err != nil {
		return err
	}
	g.mu.Lock()
	before, count := g.total, g.count
	g.mu.Unlock()
	for i := range more {
		g.put(fmt.Sprint("more ", i))
	}
	if err := g.cl.Flush(context.Background()); err != nil {
		return err
	}
	if err := errors.Join(g.start("d"), g.until(func() error {
		if len(g.seen) < count+more {
			return fmt.Errorf("%d of %d records were read", len(g.seen)-count, more)
		}
		return g.failed
	}), g.stop("d", syscall.SIGTERM)); err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if n := g.total - before - more; n != 0 {
		return fmt.Errorf("%d records were read again that were committed", n)
	}
	return nil
}

// last is what members said last that were not killed.
func (g *group) last() string {
	var all strings.Builder
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	groups, err := kadm.NewClient(g.cl).DescribeGroups(ctx, g.name)
	fmt.Fprintf(&all, "the group: %+v, %v\n", groups[g.name], err)
	g.mu.Lock()
	defer g.mu.Unlock()
	for name, m := range g.members {
		fmt.Fprintf(&all, "%s: %s\n", name, m.log.end())
	}
	return all.String()
}

func (g *group) end() {
	g.writing()
	<-g.written
	g.mu.Lock()
	members := g.members
	g.mu.Unlock()
	for _, m := range members {
		m.cmd.Process.Kill()
		<-m.done
	}
	g.cl.Close()
}
