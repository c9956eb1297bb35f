package broker

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
)

// buildBinary builds the command, once for all tests: its directory is removed by
// TestMain.
var buildBinary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "streambus")
	if err != nil {
		return "", err
	}
	builtIn = dir
	bin := filepath.Join(dir, "streambus")
	build := exec.Command("go", "build", "-o", bin, "../cmd/streambus")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w\n%s", err, out)
	}
	return bin, nil
})

var builtIn string // empty if nothing was built

// processes is a cluster of real processes on this machine. Nodes are numbered
// from 1.
type processes struct {
	t      *testing.T
	bin    string
	voters string
	mu     sync.Mutex // guards nodes from others than the test's goroutine
	nodes  []*process
}

const (
	asBoth       = "broker,controller"
	asBroker     = "broker"
	asController = "controller"
)

type process struct {
	id          int32
	roles       string
	data        string
	port        string // for clients
	inside      string // for nodes, in tests that set one apart
	controllers string
	admin       string
	settings    []string // besides those that every node has; a later one of a key counts

	mu     sync.Mutex // guards the following
	cmd    *exec.Cmd
	exited chan struct{}
	out    *startWatch
}

// startCluster returns when n nodes with both roles have started.
func startCluster(t *testing.T, n int) *processes {
	t.Helper()
	return startNodes(t, slices.Repeat([]string{asBoth}, n)...)
}

// startNodes returns when a node with each of the roles has started.
func startNodes(t *testing.T, roles ...string) *processes {
	t.Helper()
	c := newProcesses(t, roles...)
	for _, p := range c.nodes {
		c.launch(p)
	}
	for _, p := range c.nodes {
		c.started(p)
	}
	return c
}

// newProcesses are nodes that are not started.
func newProcesses(t *testing.T, roles ...string) *processes {
	t.Helper()
	bin, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	c := &processes{t: t, bin: bin}
	var voters []string
	for _, r := range roles {
		p := c.add(r)
		if p.roles != asBroker {
			voters = append(voters, p.voter())
		}
	}
	c.voters = strings.Join(voters, ",")
	return c
}

// add makes a node, which is not started and no voter.
func (c *processes) add(roles string) *process {
	c.t.Helper()
	p := &process{
		id: int32(len(c.nodes) + 1), roles: roles, data: c.t.TempDir(),
		port: freePort(c.t), inside: freePort(c.t), controllers: freePort(c.t), admin: freePort(c.t),
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = append(c.nodes, p)
	return p
}

func (p *process) voter() string { return fmt.Sprintf("%d@%s", p.id, p.controllerAddr()) }

func (p *process) controllerAddr() string { return "127.0.0.1:" + p.controllers }

func (c *processes) launch(p *process) {
	c.t.Helper()
	listeners := []string{"PLAINTEXT://" + p.addr(), "CONTROLLER://" + p.controllerAddr()}
	switch p.roles {
	case asBroker:
		listeners = listeners[:1]
	case asController:
		listeners = listeners[1:]
	}
	args := []string{"serve", "--data-dir", p.data, "--admin-listen", "127.0.0.1:" + p.admin}
	for _, s := range append([]string{
		"listeners=" + strings.Join(listeners, ","), fmt.Sprint("node.id=", p.id), "process.roles=" + p.roles, "controller.quorum.voters=" + c.voters, "controller.listener.names=CONTROLLER",
		fmt.Sprint("num.partitions=", loadPartitions),
	}, p.settings...) {
		args = append(args, "--set", s)
	}
	cmd := exec.Command(c.bin, args...)
	out := &startWatch{started: make(chan struct{})}
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	c.t.Cleanup(func() {
		cmd.Process.Kill()
		<-exited
		if c.t.Failed() {
			c.t.Logf("node %d, process %d, ends with:\n%s", p.id, cmd.Process.Pid, lastLines(out.text(), 25))
		}
	})
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd, p.exited, p.out = cmd, exited, out
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func (c *processes) started(p *process) {
	c.t.Helper()
	select {
	case <-p.out.started:
	case <-p.exited:
		c.t.Fatalf("node %d ended before it had started:\n%s", p.id, p.out.text())
	case <-time.After(patience):
		c.t.Fatalf("node %d has not started:\n%s", p.id, p.out.text())
	}
}

// signal sends a signal that ends the process, and returns when it has ended.
func (p *process) signal(s os.Signal) *os.ProcessState {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.cmd.Process.Signal(s)
	<-p.exited
	return p.cmd.ProcessState
}

func (p *process) pause()  { p.cmd.Process.Signal(syscall.SIGSTOP) }
func (p *process) resume() { p.cmd.Process.Signal(syscall.SIGCONT) }

func (p *process) addr() string { return "127.0.0.1:" + p.port }

// withRole are the nodes that have a role.
func (c *processes) withRole(role string) (some []*process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.nodes {
		if strings.Contains(p.roles, role) {
			some = append(some, p)
		}
	}
	return some
}

func (c *processes) addresses() []peer.Address {
	var all []peer.Address
	for _, p := range c.withRole(asController) {
		all = append(all, peer.Address{Node: p.id, Addr: p.controllerAddr()})
	}
	return all
}

// clusterID asks the nodes which cluster they are.
func (c *processes) clusterID() string {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	a, err := peer.SayHello(ctx, c.addresses()[0].Addr, testPeer, "")
	if err != nil {
		c.t.Fatal(err)
	}
	return a.ClusterID
}

// active is the node that leads the quorum, nil for none that is known.
func (c *processes) active(ctx context.Context) *process {
	for _, p := range c.withRole(asController) {
		ctx, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		a, err := sayHello(ctx, p)
		cancel()
		if err == nil && a.Leads {
			return p
		}
	}
	return nil
}

func sayHello(ctx context.Context, p *process) (peer.HelloAnswer, error) {
	return peer.SayHello(ctx, p.controllerAddr(), testPeer, "")
}

var testPeer = peer.Config{
	ClientID: "test", DialTimeout: time.Second, WriteTimeout: 5 * time.Second, AnswerTimeout: time.Minute,
	MaxInFlight: 16, MaxAnswerBytes: 256 << 20,
}

// as is a node of the test, which asks the controllers for things as brokers do.
func (c *processes) as(node int32, cluster string) *peer.Controllers {
	x := &peer.Controllers{Node: node, Incarnation: newUUID(), ClusterID: cluster, Addresses: c.addresses, Dial: testPeer}
	c.t.Cleanup(x.Close)
	return x
}

// The predecessor's five operations, again and again, while the controller that
// decides is killed or paused: with clients that ask again none fails, none is
// lost, and what was answered with success is seen at every broker that answers.
func TestMetadataUnderFaults(t *testing.T) {
	for _, run := range []struct {
		controllers int
		span        time.Duration
		share       int // of the operations that a long run makes, in hundredths
	}{{3, 80 * time.Second, 100}, {1, 15 * time.Second, 20}, {5, 25 * time.Second, 20}} {
		t.Run(fmt.Sprint(run.controllers, " controllers"), func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			operations := 0
			if s := os.Getenv("STREAMBUS_FAULTS_OPERATIONS"); s != "" {
				n, err := strconv.Atoi(s)
				if err != nil {
					t.Fatal(err)
				}
				operations = n * run.share / 100
			} else {
				ctx, cancel = context.WithTimeout(ctx, run.span)
				defer cancel()
			}
			operateUnderFaults(t, ctx, run.controllers, operations)
		})
	}
}

// operateUnderFaults goes on until ctx ends, or so many operations have succeeded.
func operateUnderFaults(t *testing.T, ctx context.Context, controllers, operations int) {
	c := startCluster(t, controllers)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := &faults{
		t: t, c: c, cluster: c.clusterID(), begun: time.Now(), histories: map[string][]porcupine.Operation{},
		left: operations, enough: cancel,
	}
	var workers sync.WaitGroup
	for i := range 4 {
		workers.Go(func() { f.work(ctx, int32(i)) })
	}
	f.disturb(ctx)
	workers.Wait()
	f.check()
}

// faults is one run.
type faults struct {
	t       *testing.T
	c       *processes
	cluster string

	begun     time.Time
	done      [6]atomic.Int64 // operations by kind that succeeded
	reads     atomic.Int64
	slow      atomic.Int64 // reads that may have been answered without a controller
	shared    atomic.Int64 // rounds of what all workers do to the same topics
	mu        sync.Mutex   // guards the following
	histories map[string][]porcupine.Operation
	left      int // operations until it is enough
	enough    func()
	last      time.Time // an operation that changes something succeeded
	gaps      []gap
	topics    map[string]int32 // partitions as acknowledged
	faults    []string
	faultAt   []time.Time
}

type gap struct {
	from time.Time
	took time.Duration
}

var operations = [...]string{"register broker", "create topic", "create partitions", "update leader", "update ISR", "delete topic"}

const deletion = 5 // is not one of the five

// disturb kills and pauses in turn.
func (f *faults) disturb(ctx context.Context) {
	rng := rand.New(rand.NewPCG(9, 9))
	for i := 0; ; i++ {
		wait := time.NewTimer(3*time.Second + rand.N(time.Second))
		select {
		case <-ctx.Done():
			wait.Stop()
			return
		case <-wait.C:
		}
		p := f.c.active(ctx)
		if p == nil {
			continue
		}
		f.note(fmt.Sprintf("node %d ", p.id) + []string{"killed", "paused"}[i%2])
		if i%2 == 0 {
			p.signal(os.Kill)
			f.c.launch(p)
			f.c.started(p)
			continue
		}
		p.pause()
		wait.Reset(time.Second + time.Duration(rng.IntN(3000))*time.Millisecond)
		<-wait.C
		f.note(fmt.Sprintf("node %d goes on", p.id))
		p.resume()
	}
}

func (f *faults) note(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults, f.faultAt = append(f.faults, what), append(f.faultAt, time.Now())
}

func (f *faults) succeeded(kind int) {
	f.done[kind].Add(1)
	now := time.Now()
	f.mu.Lock()
	defer f.mu.Unlock()
	if kind != deletion {
		if f.left--; f.left == 0 {
			f.enough()
		}
	}
	if took := now.Sub(f.last); !f.last.IsZero() && took > 300*time.Millisecond {
		f.gaps = append(f.gaps, gap{f.last, took})
	}
	f.last = now
}

// work runs the five operations until ctx ends.
func (f *faults) work(ctx context.Context, id int32) {
	controllers := f.c.as(1000+id, f.cluster)
	view := raftmeta.NewView()
	following, stop := context.WithCancel(context.Background())
	defer stop()
	go view.Follow(following, follow.New(f.cluster), controllers.Units, func(follow.Change) {}, func(uint64, bool) {})
	submit := func(kind int, cmd control.Command) (any, bool) {
		try, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		var o raftmeta.Outcome
		for {
			o = controllers.Submit(try, []control.Request{{Actor: "test", Cause: operations[kind], Awaited: true, Command: cmd}})[0]
			if !notYet(o.Err) {
				break
			}
			select {
			case <-time.After(50 * time.Millisecond):
			case <-try.Done():
			}
		}
		if r, refused := errors.AsType[*control.Refusal](o.Err); refused && r.Code == control.StaleBrokerEpoch {
			return nil, false // the leader in whose name it was asked has been started anew
		}
		if o.Err != nil {
			f.t.Errorf("worker %d: %s: %v", id, operations[kind], o.Err)
			return nil, false
		}
		f.succeeded(kind)
		if err := view.Wait(try, o.Index); err != nil {
			f.t.Errorf("worker %d: the metadata does not come to index %d: %v", id, o.Index, err)
			return nil, false
		}
		return o.Reply, true
	}
	for n := int32(0); ctx.Err() == nil; n++ {
		submit(0, &control.RegisterBroker{
			ID: 10_000 + id*1000 + n%20, Incarnation: newUUID(), Dirs: []image.UUID{newUUID()}, PreviousBrokerEpoch: -1, Levels: image.OwnLevels,
			Listeners: []image.Endpoint{{Name: "PLAINTEXT", Host: "127.0.0.1", Port: 1}},
		})
		name := fmt.Sprintf("w%d-%d", id, n)
		topicID := newUUID()
		if _, ok := submit(1, &control.CreateTopic{Name: name, ID: topicID, Partitions: 3, ReplicationFactor: min(3, f.usable(view))}); !ok {
			continue
		}
		f.seen(ctx, name, 3)
		if _, ok := submit(2, &control.CreatePartitions{Topic: name, Count: 5}); ok {
			f.seen(ctx, name, 5)
		}
		f.shrink(view, topicID, submit)
		if n%10 == 0 { // a long run would be one of many files otherwise
			f.remember(name, 5)
		} else if _, ok := submit(deletion, &control.DeleteTopic{Name: name}); ok {
			f.seen(ctx, name, 0)
		}
		f.contend(id, controllers)
	}
}

// notYet tells whether a refusal is one that passes: a controller that has just
// come takes everybody for alive who may be, and brokers register anew.
func notYet(err error) bool {
	r, refused := errors.AsType[*control.Refusal](err)
	return refused && (r.Code == control.DuplicateBrokerRegistration || r.Code == control.InvalidReplicationFactor)
}

// attempt is what a client did to a topic that others work on too, and what came
// of it. A topic that is not there has 0 partitions.
type attempt struct {
	kind    string       // create, grow, read
	count   int32        // that was asked for, or found
	refused control.Code // 0 for success
}

// topicModel is what attempts at one topic may come to, one after the other. The
// state is the number of its partitions.
var topicModel = porcupine.Model{
	Init: func() any { return int32(0) },
	Step: func(state, input, _ any) (bool, any) {
		have, a := state.(int32), input.(attempt)
		switch {
		case a.kind == "read":
			return a.count == have, have
		case a.refused == control.TopicExists:
			return a.kind == "create" && have > 0, have
		case a.refused == control.UnknownTopic:
			return a.kind == "grow" && have == 0, have
		case a.refused == control.InvalidPartitions:
			return a.kind == "grow" && have >= a.count, have
		case a.refused != 0:
			return false, have
		case a.kind == "create":
			return have == 0, a.count
		}
		return have > 0 && have < a.count, a.count
	},
	Equal: func(a, b any) bool { return a == b },
}

// contend does one thing each to a few topics that all workers work on, and one
// read of each at some broker.
func (f *faults) contend(id int32, controllers *peer.Controllers) {
	topic := fmt.Sprint("shared-", f.shared.Add(1)/12) // so many rounds each
	change := attempt{kind: "create", count: 2}
	var cmd control.Command = &control.CreateTopic{Name: topic, ID: newUUID(), Partitions: change.count, ReplicationFactor: 1}
	if rand.N(3) > 0 {
		change = attempt{kind: "grow", count: 3 + rand.N(int32(6))}
		cmd = &control.CreatePartitions{Topic: topic, Count: change.count}
	}
	for _, read := range []bool{true, false, true} {
		begun := time.Since(f.begun)
		a := change
		if read {
			row, err := metadata(f.c.nodes[rand.N(len(f.c.nodes))], topic, 2*currentTime)
			if err != nil {
				continue // it was killed, or is paused
			}
			if time.Since(f.begun)-begun > currentTime {
				f.slow.Add(1) // it may have answered without a controller
				continue
			}
			a = attempt{kind: "read", count: int32(len(row.Partitions))}
		} else {
			ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
			o := controllers.Submit(ctx, []control.Request{{Actor: "test", Cause: "with others", Awaited: true, Command: cmd}})[0]
			cancel()
			r, refused := errors.AsType[*control.Refusal](o.Err)
			switch {
			case refused && notYet(r):
				continue
			case refused:
				a.refused = r.Code
			case o.Err != nil:
				f.t.Errorf("worker %d: %s: %v", id, a.kind, o.Err)
				return
			}
		}
		ended := time.Since(f.begun)
		f.mu.Lock()
		f.histories[topic] = append(f.histories[topic], porcupine.Operation{ClientId: int(id), Input: a, Call: int64(begun), Return: int64(ended)})
		f.mu.Unlock()
	}
}

// checkHistories looks for an order of what was done to each topic that explains
// all that was answered.
func (f *faults) checkHistories() {
	operations := 0
	for topic, h := range f.histories {
		operations += len(h)
		seenAtOnce(h)
		if got := porcupine.CheckOperationsTimeout(topicModel, h, patience); got != porcupine.Ok {
			slices.SortFunc(h, func(a, b porcupine.Operation) int { return cmp.Compare(a.Call, b.Call) })
			for _, o := range h {
				f.t.Logf("%s to %s, worker %d: %+v", time.Duration(o.Call), time.Duration(o.Return), o.ClientId, o.Input)
			}
			f.t.Errorf("%s: what was answered follows from no order of what was asked: %v", topic, got)
		}
	}
	f.t.Logf("%d histories of %d operations", len(f.histories), operations)
}

// seenAtOnce has each read begin with the last change that was answered before it.
// That is what is promised: a change is seen everywhere once it is answered, and
// before that at some brokers and not at others.
func seenAtOnce(h []porcupine.Operation) {
	for i := range h {
		if h[i].Input.(attempt).kind != "read" {
			continue
		}
		begin := int64(0)
		for _, o := range h {
			if o.Input.(attempt).kind != "read" && o.Return < h[i].Call {
				begin = max(begin, o.Return+1)
			}
		}
		h[i].Call = min(begin, h[i].Call)
	}
}

// The checker can tell.
func TestTopicHistoriesThatCannotBe(t *testing.T) {
	at := func(from, to int64, a attempt) porcupine.Operation {
		return porcupine.Operation{Input: a, Call: from, Return: to}
	}
	create, grow := attempt{kind: "create", count: 2}, attempt{kind: "grow", count: 4}
	for _, x := range []struct {
		what    string
		history []porcupine.Operation
		want    bool
	}{
		{"one after the other", []porcupine.Operation{at(0, 1, create), at(4, 5, grow), at(6, 7, attempt{kind: "read", count: 4})}, true},
		{"a stale read", []porcupine.Operation{at(0, 1, create), at(2, 3, grow), at(4, 5, attempt{kind: "read", count: 2})}, false},
		{"a read beside", []porcupine.Operation{at(0, 1, create), at(2, 5, grow), at(3, 4, attempt{kind: "read", count: 2})}, true},
		{"seen here and not there", []porcupine.Operation{at(0, 1, create), at(2, 9, grow), at(3, 4, attempt{kind: "read", count: 4}), at(5, 6, attempt{kind: "read", count: 2})}, true},
		{"refused, and there", []porcupine.Operation{at(0, 1, create), at(2, 3, attempt{"create", 2, control.TopicExists})}, true},
		{"refused, and not there", []porcupine.Operation{at(0, 1, attempt{"create", 2, control.TopicExists}), at(2, 3, create)}, false},
		{"a stale refusal", []porcupine.Operation{at(0, 1, create), at(2, 3, attempt{"grow", 4, control.UnknownTopic})}, false},
		{"a refusal seen here and not there", []porcupine.Operation{at(0, 9, create), at(1, 2, attempt{"create", 2, control.TopicExists}), at(3, 4, attempt{kind: "read"})}, false},
		{"too small to grow", []porcupine.Operation{at(0, 1, create), at(2, 3, grow), at(4, 5, attempt{"grow", 3, control.InvalidPartitions})}, true},
		{"created twice", []porcupine.Operation{at(0, 2, create), at(1, 3, create)}, false},
		{"grown twice", []porcupine.Operation{at(0, 1, create), at(2, 3, grow), at(2, 3, grow)}, false},
	} {
		seenAtOnce(x.history)
		if got := porcupine.CheckOperations(topicModel, x.history); got != x.want {
			t.Errorf("%s: %v", x.what, got)
		}
	}
}

// usable is how many brokers can take a replica.
func (f *faults) usable(view *raftmeta.View) int16 {
	n := int16(0)
	for _, b := range view.Image().Brokers() {
		if b.Active() {
			n++
		}
	}
	return max(n, 1)
}

func (f *faults) remember(name string, partitions int32) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.topics == nil {
		f.topics = map[string]int32{}
	}
	f.topics[name] = partitions
}

// shrink takes the ISR of a partition down to its leader, as the leader would,
// and elects.
func (f *faults) shrink(view *raftmeta.View, topic image.UUID, submit func(int, control.Command) (any, bool)) {
	img := view.Image()
	t, ok := img.TopicByID(topic)
	if !ok {
		return
	}
	p, _ := t.Partition(0)
	if leader, ok := img.Broker(p.Leader); ok && len(p.ISR) > 1 {
		submit(4, &control.AlterPartition{BrokerID: leader.ID, BrokerEpoch: leader.Epoch, Partitions: []control.ISRChange{{
			Topic: topic, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, ISR: []control.ISRMember{{ID: leader.ID, Epoch: -1}},
		}}})
	}
	submit(3, &control.ElectLeaders{Partitions: []control.TopicPartition{{Topic: t.Name, Partition: 1}}})
}

// seen reads a topic at every broker that answers at once, 0 partitions being none:
// one that does not show that shows what was true before the change that was
// answered.
func (f *faults) seen(ctx context.Context, name string, partitions int) {
	for _, p := range f.c.nodes {
		req := kmsg.NewPtrMetadataRequest()
		req.Version, req.AllowAutoTopicCreation = 9, false
		q := kmsg.NewMetadataRequestTopic()
		q.Topic = &name
		req.Topics = append(req.Topics, q)
		begun := time.Now()
		resp, err := exchange(p.addr(), req, 2*currentTime)
		if err != nil {
			continue // it was killed, or is paused
		}
		if time.Since(begun) > currentTime {
			f.slow.Add(1) // it reached no controller, and may have answered from what it had
			continue
		}
		f.reads.Add(1)
		row := resp.(*kmsg.MetadataResponse).Topics[0]
		if (row.ErrorCode != 0) != (partitions == 0) || len(row.Partitions) < partitions {
			f.t.Errorf("node %d shows %s with error %d and %d of %d partitions after the success", p.id, name, row.ErrorCode, len(row.Partitions), partitions)
		}
	}
}

// check looks at what is left at the end.
func (f *faults) check() {
	for kind, name := range operations {
		f.t.Logf("%-18s %6d", name, f.done[kind].Load())
		if f.done[kind].Load() == 0 && !(kind == 4 && len(f.c.nodes) == 1) { // a single replica has no others to take out
			f.t.Errorf("no operation %q succeeded", name)
		}
	}
	f.checkHistories()
	f.t.Logf("%d reads after a success, %d too slow to count, %d faults", f.reads.Load(), f.slow.Load(), len(f.faults))
	for _, g := range f.gaps {
		what := ""
		for i, at := range f.faultAt {
			if at.After(g.from.Add(-time.Second)) && at.Before(g.from.Add(g.took)) {
				what += fmt.Sprintf(", %s at %s", f.faults[i], at.Sub(f.begun).Round(time.Millisecond))
			}
		}
		f.t.Logf("nothing succeeded for %s from %s on%s", g.took.Round(time.Millisecond), g.from.Sub(f.begun).Round(time.Millisecond), what)
	}
	for _, p := range f.c.nodes {
		req := kmsg.NewPtrMetadataRequest()
		req.Version = 9
		resp, err := exchange(p.addr(), req, patience)
		if err != nil {
			f.t.Fatal(err)
		}
		found := map[string]int{}
		for _, row := range resp.(*kmsg.MetadataResponse).Topics {
			found[*row.Topic] = len(row.Partitions)
		}
		for name, n := range f.topics {
			if found[name] != int(n) {
				f.t.Errorf("node %d has %d partitions of %s, %d were acknowledged", p.id, found[name], name, n)
			}
		}
	}
}

// exchange asks a node one thing over a connection of its own.
func exchange(addr string, req kmsg.Request, within time.Duration) (kmsg.Response, error) {
	nc, err := net.DialTimeout("tcp", addr, within)
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(within))
	if _, err := nc.Write(kmsg.NewRequestFormatter(kmsg.FormatterClientID("test")).AppendRequest(nil, req, 7)); err != nil {
		return nil, err
	}
	var head [8]byte
	if _, err := io.ReadFull(nc, head[:]); err != nil {
		return nil, err
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:])-4)
	if _, err := io.ReadFull(nc, body); err != nil {
		return nil, err
	}
	resp := req.ResponseKind()
	if resp.IsFlexible() {
		body = body[1:]
	}
	return resp, resp.ReadFrom(body)
}

// logged returns when a node has said something.
func (c *processes) logged(p *process, text string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("node %d says %q", p.id, text), func() error {
		if said := p.out.text(); !strings.Contains(said, text) {
			return fmt.Errorf("it said:\n%s", said)
		}
		return nil
	})
}

// submit has a command carried out, however long a fault makes that take.
func (c *processes) submit(by *peer.Controllers, cmd control.Command) raftmeta.Outcome {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), patience)
	defer cancel()
	o := by.Submit(ctx, []control.Request{{Actor: "test", Cause: "a test", Awaited: true, Command: cmd}})[0]
	if o.Err != nil {
		c.t.Fatalf("%T: %v", cmd, o.Err)
	}
	return o
}
