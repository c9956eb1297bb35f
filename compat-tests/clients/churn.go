package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/streambus/streambus/compat-tests/clients/driver"
	"github.com/streambus/streambus/compat-tests/server"
)

// churnCase is the case's name, in which a group of each kind reads an input that
// is being written while members join, leave in order and are killed, and a broker
// is killed and comes back. Whatever the group does, it has to read each
// acknowledged record, and nothing that was committed before a member came.
const churnCase = "a group churns"

const (
	churnPartitions = 6
	// stepTime bounds a wait: a group that does not go on has failed.
	stepTime = 90 * time.Second
	// stickTime is after how long a member is taken to stick: longer than one takes to be
	// found out that was killed.
	stickTime = 3 * driver.SessionSeconds * time.Second
	// writeEvery is the pace of a group's input.
	writeEvery = 40 * time.Millisecond
)

// churnSettings have those who are gone found out soon.
var churnSettings = map[string]string{
	"default.replication.factor": "3", "offsets.topic.replication.factor": "3", "min.insync.replicas": "2",
	"group.initial.rebalance.delay.ms": "0", "group.min.session.timeout.ms": "1000",
	"group.consumer.session.timeout.ms": strconv.Itoa(driver.SessionSeconds * 1000), "group.consumer.min.session.timeout.ms": "1000",
	"group.consumer.heartbeat.interval.ms": strconv.Itoa(driver.HeartbeatMS), "group.consumer.min.heartbeat.interval.ms": "100",
}

// command gives a member's command.
type command func(bootstrap, group, topic string) *exec.Cmd

// kind is a way to be a member. Of several commands the members take turns.
type kind struct {
	Name, Version string
	commands      []command
	// late says that the library also sends what it was given to commit in a generation
	// of the group that has begun since, of partitions that may be another member's by
	// then: commits go back, and only what comes of all is held against it.
	late bool
	// drops says that a member that is told to end commits a record, which has just
	// come, and does not print it: where one leaves, nothing is written.
	drops bool
	// sticks says that a member may stay at a broker that leads a partition no more, for
	// good, when two that it asks one after the other do not know of the same leader yet:
	// librdkafka's pull request 5593. It then is replaced.
	sticks bool
}

// prepared are the programs that are members, and the versions of their libraries.
type prepared struct {
	self, kafkago, sarama, classPath string
	versions                         map[string]string
}

// prepare makes them in dir, where find has made one.
func prepare(ctx context.Context, dir string, libraries []library) (p prepared, err error) {
	p.versions = map[string]string{}
	for _, l := range libraries {
		p.versions[l.Name] = l.Version
	}
	p.kafkago = filepath.Join(dir, "kafkago")
	if p.self, err = os.Executable(); err != nil {
		return p, err
	}
	if p.sarama, p.versions["sarama"], err = build(ctx, dir, "sarama", "github.com/IBM/sarama"); err != nil {
		return p, err
	}
	jars, err := server.BrokerJars(ctx)
	if err != nil {
		return p, err
	}
	classes := filepath.Join(dir, "classes")
	if out, err := exec.CommandContext(ctx, "javac", "-nowarn", "-cp", filepath.Join(jars, "*"), "-d", classes, "java/Member.java").CombinedOutput(); err != nil {
		return p, fmt.Errorf("compiling java/Member.java: %w (a JDK of version 17 or later is needed)\n%s", err, out)
	}
	p.classPath = classes + string(os.PathListSeparator) + filepath.Join(jars, "*")
	if found, _ := filepath.Glob(filepath.Join(jars, "kafka-clients-*.jar")); len(found) == 1 {
		p.versions["Java"] = strings.TrimSuffix(strings.TrimPrefix(filepath.Base(found[0]), "kafka-clients-"), ".jar")
	}
	return p, nil
}

// kinds are all of them. With nothing prepared they have their names only.
func kinds(p prepared) []kind {
	program := func(how string, args ...string) command {
		return func(bootstrap, group, topic string) *exec.Cmd {
			return exec.Command(args[0], append(slices.Clone(args[1:]), bootstrap, group, topic, how)...)
		}
	}
	franz := func(how string) command { return program(how, p.self, "member") }
	kafkago := program("range", p.kafkago, "member")
	sarama := func(how string) command { return program(how, p.sarama, "member") }
	java := func(how string) command {
		return program(how, "java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
			fmt.Sprint("-Dsession.ms=", driver.SessionSeconds*1000), fmt.Sprint("-Dheartbeat.ms=", driver.HeartbeatMS), "-cp", p.classPath, "Member")
	}
	of := func(library, how string, c command) kind {
		return kind{Name: library + " " + how, Version: p.versions[library], commands: []command{c}}
	}
	return []kind{
		{Name: "kcat", Version: p.versions["kcat"], commands: []command{kcatMember}, drops: true, sticks: true},
		of("franz-go", "range", franz("range")),
		of("franz-go", "cooperative-sticky", franz("cooperative-sticky")),
		of("franz-go", "consumer/uniform", franz("consumer/uniform")),
		of("franz-go", "consumer/range", franz("consumer/range")),
		{Name: "kafka-go", Version: p.versions["kafka-go"], commands: []command{kafkago}, late: true},
		of("sarama", "range", sarama("range")),
		of("sarama", "sticky", sarama("sticky")),
		of("Java", "range", java("classic/RangeAssignor")),
		of("Java", "cooperative-sticky", java("classic/CooperativeStickyAssignor")),
		of("Java", "consumer/uniform", java("consumer/uniform")),
		of("Java", "consumer/range", java("consumer/range")),
		{Name: "Java and franz-go consumer/uniform", Version: p.versions["Java"] + " and " + p.versions["franz-go"],
			commands: []command{java("consumer/uniform"), franz("consumer/uniform")}},
		{Name: "Java and franz-go in both protocols", Version: p.versions["Java"] + " and " + p.versions["franz-go"],
			commands: []command{java("classic/CooperativeStickyAssignor"), franz("consumer/uniform"), java("consumer/uniform"), franz("cooperative-sticky")}},
	}
}

// kcatMember commits by itself what it has printed, and says nothing of it.
func kcatMember(bootstrap, group, topic string) *exec.Cmd {
	return exec.Command("kcat", "-b", bootstrap, "-q", "-u", "-G", group, "-X", "auto.offset.reset=earliest", "-X", "auto.commit.interval.ms=200",
		"-X", fmt.Sprint("session.timeout.ms=", driver.SessionSeconds*1000), "-X", fmt.Sprint("heartbeat.interval.ms=", driver.HeartbeatMS),
		"-X", "fetch.wait.max.ms=200", "-X", "topic.metadata.refresh.interval.ms=500", "-f", "read\t%p\t%o\t%s\n", topic)
}

// churn runs the case for every kind that is wanted, at once and on one cluster:
// each kill of a broker is one for all of them.
func churn(ctx context.Context, all []kind, bin, dir string, rounds int) (outcomes []outcome, err error) {
	nodes, err := server.Cluster(ctx, bin, filepath.Join(dir, "churn"), nodes, churnSettings)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, s := range nodes {
			if s.Running() {
				err = errors.Join(err, s.Stop())
			}
		}
	}()
	var addrs []string
	for _, s := range nodes {
		addrs = append(addrs, s.Addr)
	}
	ours := franz{addrs}
	names, err := ours.groupsOf(ctx, all, 1)
	if err != nil {
		return nil, err
	}
	var groups []*group
	for i, k := range all {
		g := newGroup(k, ours, names[i])
		groups = append(groups, g)
		defer g.end()
	}
	each := func(step func(*group, context.Context) error) {
		var done sync.WaitGroup
		for _, g := range groups {
			if g.failure == nil {
				done.Go(func() {
					begun := time.Now()
					if err := step(g, ctx); err != nil {
						g.failure = errors.Join(err, g.lost())
						g.end()
					}
					g.took += time.Since(begun)
				})
			}
		}
		done.Wait()
	}
	each((*group).begin)
	for round := range rounds {
		each((*group).comeAndGo)
		s := nodes[round%len(nodes)]
		if err := s.Kill(); err != nil {
			return nil, err
		}
		each((*group).goesOnWithout)
		if err := s.Start(ctx); err != nil {
			return nil, err
		}
		each((*group).goesOn)
	}
	each((*group).finish)
	for _, s := range nodes {
		if err := s.Kill(); err != nil {
			return nil, err
		}
	}
	started := make(chan error)
	for _, s := range nodes {
		go func() { started <- s.Start(ctx) }()
	}
	for range nodes {
		err = errors.Join(err, <-started)
	}
	if err != nil {
		return nil, err
	}
	each((*group).resume)
	for _, g := range groups {
		o := outcome{Case: churnCase, Client: g.kind.Name, Version: g.kind.Version, Outcome: "passed", Seconds: g.took.Round(time.Millisecond).Seconds()}
		if g.failure != nil {
			o.Outcome, o.Detail = "failed", g.failure.Error()
		}
		outcomes = append(outcomes, o)
	}
	return outcomes, ctx.Err()
}

// groupsOf gives each kind a group's name whose coordinator is on a node.
func (f franz) groupsOf(ctx context.Context, all []kind, node int32) (names []string, err error) {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	const tries = 30
	name := func(k kind, i int) string { return fmt.Sprintf("churn of %s %d", k.Name, i) }
	return names, f.connected(nil, func(cl *kgo.Client) error {
		var asked []string
		for _, k := range all {
			for i := range tries {
				asked = append(asked, name(k, i))
			}
		}
		for {
			found := kadm.NewClient(cl).FindGroupCoordinators(ctx, asked...)
			if found.AllFailed() || found.Error() != nil { // the topic that groups are kept in is being made
				select {
				case <-ctx.Done():
					return fmt.Errorf("coordinators are not found: %w", found.Error())
				case <-time.After(pollTime):
				}
				continue
			}
			for _, k := range all {
				i := 0
				for i < tries-1 && found[name(k, i)].NodeID != node {
					i++
				}
				names = append(names, name(k, i))
			}
			return nil
		}
	})
}

// group is a group under churn.
type group struct {
	kind        kind
	ours        franz
	name, topic string
	members     []*groupMember // those who are in it, the oldest first
	ever        []*groupMember
	seen        []int64 // what it was last seen to have committed
	failure     error
	took        time.Duration

	stop    context.CancelFunc // ends the input
	written chan struct{}      // closed when it has ended

	mu     sync.Mutex
	acked  [churnPartitions]map[int64]string // by offset
	read   [churnPartitions]map[int64]string
	said   [churnPartitions]int64 // the highest that a member says it has committed
	broken []string
	news   chan struct{} // closed and made anew with everything that is new
}

// groupMember is a member's process.
type groupMember struct {
	n      int
	cmd    *exec.Cmd
	from   []int64 // what the group had committed before it came
	own    [churnPartitions]int64
	reads  [churnPartitions][]int64
	total  int
	exited chan struct{}
	err    error // after exited is closed
	ending bool
	log    tail
}

func newGroup(k kind, ours franz, name string) *group {
	g := &group{kind: k, ours: ours, name: name, topic: strings.NewReplacer(" ", "-", "/", "-").Replace(name), seen: make([]int64, churnPartitions), news: make(chan struct{})}
	for p := range churnPartitions {
		g.acked[p], g.read[p] = map[int64]string{}, map[int64]string{}
	}
	return g
}

// begin makes the topic and begins to write.
func (g *group) begin(ctx context.Context) error {
	if err := g.ours.createTopic(ctx, g.topic, churnPartitions, nodes); err != nil {
		return err
	}
	return g.write(ctx, 0)
}

// write writes count records, or until finish if it is 0, in the background.
func (g *group) write(ctx context.Context, count int) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(g.ours.bootstrap...), kgo.DefaultProduceTopic(g.topic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.MetadataMinAge(100*time.Millisecond), kgo.ProducerLinger(0))
	if err != nil {
		return err
	}
	ctx, g.stop = context.WithCancel(ctx)
	g.written = make(chan struct{})
	go func() {
		defer close(g.written)
		defer cl.Close()
		defer cl.Flush(context.WithoutCancel(ctx))
		tick := time.NewTicker(writeEvery)
		defer tick.Stop()
		for n := 0; count == 0 || n < count; n++ {
			value := strconv.Itoa(n)
			cl.Produce(context.WithoutCancel(ctx), &kgo.Record{Partition: int32(n % churnPartitions), Value: []byte(value)}, func(r *kgo.Record, err error) {
				g.mu.Lock()
				defer g.mu.Unlock()
				if err != nil {
					g.broken = append(g.broken, fmt.Sprintf("record %s is not written: %v", value, err))
				} else {
					g.acked[r.Partition][r.Offset] = value
				}
				g.tell()
			})
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	}()
	return nil
}

// tell is called with mu.
func (g *group) tell() {
	close(g.news)
	g.news = make(chan struct{})
}

// wait waits until done, which is called with mu. A member that ends unasked ends
// it too.
func (g *group) wait(ctx context.Context, what string, done func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	for {
		g.mu.Lock()
		news, ok, broken := g.news, done(), len(g.broken) > 0
		g.mu.Unlock()
		if broken {
			return fmt.Errorf("until %s", what)
		}
		for _, m := range g.members {
			select {
			case <-m.exited:
				if !m.ending {
					return fmt.Errorf("until %s: member %d has ended: %v", what, m.n, m.err)
				}
			default:
			}
		}
		if ok {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", what, ctx.Err())
		}
	}
}

// caughtUp waits until what is acknowledged by now is read.
func (g *group) caughtUp(ctx context.Context) error {
	if g.kind.sticks {
		short, cancel := context.WithTimeout(ctx, stickTime)
		err := g.readAll(short)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) {
			return err
		}
		for range len(g.members) {
			g.kill()
			if _, err := g.start(ctx); err != nil {
				return err
			}
		}
	}
	return g.readAll(ctx)
}

func (g *group) readAll(ctx context.Context) error {
	g.mu.Lock()
	var want [churnPartitions]map[int64]string
	for p := range want {
		want[p] = maps.Clone(g.acked[p])
	}
	g.mu.Unlock()
	return g.wait(ctx, "all that is acknowledged is read", func() bool {
		left := 0
		for p := range want {
			maps.DeleteFunc(want[p], func(at int64, value string) bool { return g.read[p][at] == value })
			left += len(want[p])
		}
		return left == 0
	})
}

// goesOn waits until something more is acknowledged in each partition, and all is
// read.
func (g *group) goesOn(ctx context.Context) error {
	g.mu.Lock()
	var was [churnPartitions]int
	for p := range was {
		was[p] = len(g.acked[p])
	}
	g.mu.Unlock()
	err := g.wait(ctx, "more is acknowledged in each partition", func() bool {
		for p := range was {
			if len(g.acked[p]) == was[p] {
				return false
			}
		}
		return true
	})
	if err != nil {
		return err
	}
	return g.caughtUp(ctx)
}

// goesOnWithout has a member join while a broker is away, which may have been the
// group's coordinator.
func (g *group) goesOnWithout(ctx context.Context) error {
	if err := g.goesOn(ctx); err != nil {
		return fmt.Errorf("when a broker was killed: %w", err)
	}
	if _, err := g.join(ctx); err != nil {
		return fmt.Errorf("when a broker was killed: %w", err)
	}
	return g.goesOn(ctx)
}

// committed asks the broker. No partition's may be less than it was, or than a
// member has been told.
func (g *group) committed(ctx context.Context) ([]int64, error) {
	g.mu.Lock()
	least := slices.Clone(g.said[:])
	g.mu.Unlock()
	for p := range least {
		least[p] = max(least[p], g.seen[p])
	}
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	now := make([]int64, churnPartitions)
	err := g.ours.connected(nil, func(cl *kgo.Client) error {
		for {
			offsets, err := kadm.NewClient(cl).FetchOffsets(ctx, g.name)
			if err == nil {
				err = offsets.Error()
			}
			if err == nil {
				offsets.Each(func(o kadm.OffsetResponse) { now[o.Partition] = o.At })
				return nil
			}
			select { // a broker may be away
			case <-ctx.Done():
				return fmt.Errorf("what is committed: %w", err)
			case <-time.After(pollTime):
			}
		}
	})
	if err != nil {
		return nil, err
	}
	for p := range now {
		if now[p] < least[p] && !g.kind.late {
			return nil, fmt.Errorf("partition %d: the broker says that %d is committed, which was at least %d before", p, now[p], least[p])
		}
	}
	g.seen = now
	return now, nil
}

// join starts a member, and waits until it reads.
func (g *group) join(ctx context.Context) (*groupMember, error) {
	m, err := g.start(ctx)
	if err != nil {
		return nil, err
	}
	return m, g.wait(ctx, fmt.Sprintf("member %d reads", m.n), func() bool { return m.total > 0 })
}

func (g *group) start(ctx context.Context) (*groupMember, error) {
	from, err := g.committed(ctx)
	if err != nil {
		return nil, err
	}
	start := g.kind.commands[len(g.ever)%len(g.kind.commands)]
	m := &groupMember{n: len(g.ever), cmd: start(strings.Join(g.ours.bootstrap, ","), g.name, g.topic), from: from, exited: make(chan struct{})}
	m.cmd.Stderr = &m.log
	out, err := m.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	g.members, g.ever = append(g.members, m), append(g.ever, m)
	go g.follow(m, out)
	return m, nil
}

// follow takes what a member prints. A line that has no end is of one that was
// killed while it wrote.
func (g *group) follow(m *groupMember, out io.Reader) {
	lines := bufio.NewReader(out)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			break
		}
		g.mu.Lock()
		if bad := g.note(m, strings.Split(strings.TrimSuffix(line, "\n"), "\t")); bad != "" {
			g.broken = append(g.broken, fmt.Sprintf("member %d: %s", m.n, bad))
		}
		g.tell()
		g.mu.Unlock()
	}
	m.err = m.cmd.Wait()
	close(m.exited)
	g.mu.Lock()
	g.tell()
	g.mu.Unlock()
}

// note is called with mu, and says what must not be.
func (g *group) note(m *groupMember, f []string) string {
	if len(f) < 3 || f[0] == "read" && len(f) != 4 {
		return fmt.Sprintf("it prints %q", f)
	}
	p, err := strconv.Atoi(f[1])
	at, err2 := strconv.ParseInt(f[2], 10, 64)
	if err := errors.Join(err, err2); err != nil || p < 0 || p >= churnPartitions {
		return fmt.Sprintf("it prints %q", f)
	}
	if f[0] == "committed" {
		m.own[p], g.said[p] = max(m.own[p], at), max(g.said[p], at)
		return ""
	}
	m.reads[p] = append(m.reads[p], at)
	m.total++
	if was, again := g.read[p][at]; again && was != f[3] {
		return fmt.Sprintf("offset %d of partition %d is %q, and was %q", at, p, f[3], was)
	}
	g.read[p][at] = f[3]
	switch {
	case g.kind.late:
	case at < m.from[p]:
		return fmt.Sprintf("it reads offset %d of partition %d, and %d was committed when it came", at, p, m.from[p])
	case at < m.own[p]:
		return fmt.Sprintf("it reads offset %d of partition %d, and has committed %d itself", at, p, m.own[p])
	}
	return ""
}

// remove takes the oldest member out.
func (g *group) remove() *groupMember {
	m := g.members[0]
	g.members = g.members[1:]
	return m
}

// kill kills the oldest member.
func (g *group) kill() {
	m := g.remove()
	m.ending = true
	m.cmd.Process.Kill()
	<-m.exited
}

// leave has the oldest member leave in order.
func (g *group) leave(ctx context.Context) error {
	m := g.remove()
	m.ending = true
	if err := m.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, stepTime)
	defer cancel()
	select {
	case <-m.exited:
	case <-ctx.Done():
		return fmt.Errorf("member %d does not leave: %w", m.n, ctx.Err())
	}
	if m.err != nil {
		return fmt.Errorf("member %d leaves: %w", m.n, m.err)
	}
	return nil
}

// leaveOne has the oldest member leave in order while the group reads.
func (g *group) leaveOne(ctx context.Context) error {
	if g.kind.drops {
		if err := g.endInput(ctx); err != nil {
			return err
		}
	}
	if err := g.leave(ctx); err != nil || !g.kind.drops {
		return err
	}
	return g.write(ctx, 0)
}

// endInput ends the input, and waits until all of it is read.
func (g *group) endInput(ctx context.Context) error {
	g.stop()
	<-g.written
	return g.caughtUp(ctx)
}

// comeAndGo has members join, one killed, and one leave. Two remain.
func (g *group) comeAndGo(ctx context.Context) error {
	for len(g.members) < 3 {
		if _, err := g.join(ctx); err != nil {
			return err
		}
	}
	if err := g.goesOn(ctx); err != nil {
		return err
	}
	g.kill()
	if err := g.goesOn(ctx); err != nil {
		return fmt.Errorf("when a member was killed: %w", err)
	}
	if _, err := g.join(ctx); err != nil {
		return err
	}
	if err := g.leaveOne(ctx); err != nil {
		return err
	}
	if err := g.goesOn(ctx); err != nil {
		return fmt.Errorf("when a member had left: %w", err)
	}
	_, err := g.committed(ctx)
	return err
}

// finish has the input end, and the members commit all of it and leave: it then
// writes on, for who comes next.
func (g *group) finish(ctx context.Context) error {
	if err := g.endInput(ctx); err != nil {
		return err
	}
	for len(g.members) > 0 {
		if err := g.leave(ctx); err != nil {
			return err
		}
	}
	if err := g.committedAll(ctx); err != nil {
		return err
	}
	if err := g.write(ctx, 10*churnPartitions); err != nil {
		return err
	}
	<-g.written
	return nil
}

// committedAll compares what is committed with the ends of the input.
func (g *group) committedAll(ctx context.Context) error {
	got, err := g.committed(ctx)
	if err != nil {
		return err
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	for p := range got {
		if want := int64(len(g.acked[p])); got[p] != want {
			return fmt.Errorf("partition %d: %d is committed at last, want %d, the input's end", p, got[p], want)
		}
	}
	return nil
}

// resume has one member read what nobody has: from what is committed to the end,
// once.
func (g *group) resume(ctx context.Context) error {
	m, err := g.join(ctx)
	if err == nil {
		err = g.caughtUp(ctx)
	}
	if err == nil {
		err = g.leave(ctx)
	}
	if err == nil {
		err = g.committedAll(ctx)
	}
	if err != nil {
		return fmt.Errorf("when all brokers were killed: %w", err)
	}
	for p, got := range m.reads {
		for i, at := range got {
			if at != m.from[p]+int64(i) {
				return fmt.Errorf("a new member reads %v of partition %d, where %d was committed", got, p, m.from[p])
			}
		}
	}
	return nil
}

// end kills who is there yet.
func (g *group) end() {
	if g.stop != nil {
		g.stop()
	}
	for len(g.members) > 0 {
		g.kill()
	}
}

// lost says what is not read, what is broken, and how the members' logs end.
func (g *group) lost() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var b strings.Builder
	for _, s := range g.broken[:min(len(g.broken), 5)] {
		fmt.Fprintln(&b, s)
	}
	for p := range churnPartitions {
		var left []int64
		for at := range g.acked[p] {
			if _, ok := g.read[p][at]; !ok {
				left = append(left, at)
			}
		}
		slices.Sort(left)
		if len(left) > 0 {
			fmt.Fprintf(&b, "partition %d: %d of %d records are not read, from offset %d to %d; members say %d is committed\n", p, len(left), len(g.acked[p]), left[0], left[len(left)-1], g.said[p])
		}
	}
	for _, m := range g.ever {
		state := "is there"
		if m.ending {
			state = "was ended"
		}
		fmt.Fprintf(&b, "member %d, %s, has read %d records, %s:\n%s\n", m.n, filepath.Base(m.cmd.Path), m.total, state, m.log.end())
	}
	return errors.New(strings.TrimSpace(b.String()))
}

// tail keeps the end of what a process says.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 2000

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, b...)
	t.buf = t.buf[max(0, len(t.buf)-tailBytes):]
	return len(b), nil
}

func (t *tail) end() []byte {
	t.mu.Lock()
	defer t.mu.Unlock()
	return bytes.TrimSpace(t.buf)
}
