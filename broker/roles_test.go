package broker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
)

// stopsWithin bounds what a clean stop may take.
const stopsWithin = 5 * time.Second

// terminate asks a node to stop, which it does, in time and with exit code 0.
// meanwhile is called when it was asked.
func (c *processes) terminate(p *process, meanwhile ...func()) time.Duration {
	c.t.Helper()
	begun := time.Now()
	p.cmd.Process.Signal(syscall.SIGTERM)
	for _, f := range meanwhile {
		f()
	}
	select {
	case <-p.exited:
	case <-time.After(patience):
		c.t.Fatalf("node %d does not stop:\n%s", p.id, p.out.text())
	}
	took := time.Since(begun)
	if state := p.cmd.ProcessState; state.ExitCode() != 0 || took > stopsWithin {
		c.t.Errorf("node %d stopped within %s: %v\n%s", p.id, took, state, lastLines(p.out.text(), 20))
	}
	return took
}

// pulse changes the metadata again and again and measures between what times
// nothing succeeded.
type pulse struct {
	stop  context.CancelFunc
	ended chan struct{}

	mu      sync.Mutex // guards the following
	last    time.Time
	longest time.Duration
	count   int
}

func (c *processes) startPulse(cluster string) *pulse {
	ctx, cancel := context.WithCancel(c.t.Context())
	p := &pulse{stop: cancel, ended: make(chan struct{}), last: time.Now()}
	controllers := c.as(900, cluster)
	go func() {
		defer close(p.ended)
		for n := 0; ctx.Err() == nil; n++ {
			try, cancel := context.WithTimeout(ctx, patience)
			o := controllers.Submit(try, []control.Request{{Actor: "test", Cause: "pulse", Command: setRetention(n)}})[0]
			cancel()
			if o.Err != nil && ctx.Err() == nil {
				c.t.Errorf("change %d of the metadata: %v", n, o.Err)
			}
			if o.Err == nil {
				p.beat(time.Now())
			}
		}
	}()
	c.t.Cleanup(p.end)
	return p
}

func (p *pulse) beat(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.longest = max(p.longest, now.Sub(p.last))
	p.last = now
	p.count++
}

// gap is the longest time since the last call in which nothing succeeded.
func (p *pulse) gap() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	longest := max(p.longest, time.Since(p.last))
	p.longest, p.last = 0, time.Now()
	return longest
}

// changes counts those that succeeded.
func (p *pulse) changes() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count
}

func (p *pulse) end() {
	p.stop()
	<-p.ended
}

// setRetention is a change that is one each time.
func setRetention(n int) control.Command {
	return &control.AlterConfigs{Node: image.EveryBroker, Changes: []control.ConfigChange{
		{Key: "log.retention.ms", Op: control.SetConfig, Value: fmt.Sprint(1_000_000_000 + n)},
	}}
}

// metadata asks one node for a topic.
func metadata(p *process, topic string, within time.Duration) (*kmsg.MetadataResponseTopic, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Version, req.AllowAutoTopicCreation = 9, false
	q := kmsg.NewMetadataRequestTopic()
	q.Topic = &topic
	req.Topics = append(req.Topics, q)
	resp, err := exchange(p.addr(), req, within)
	if err != nil {
		return nil, err
	}
	return &resp.(*kmsg.MetadataResponse).Topics[0], nil
}

// eventually polls until something is nil.
func (c *processes) eventually(what string, f func() error) {
	c.t.Helper()
	ticker := time.NewTicker(20 * time.Millisecond)
	defer ticker.Stop()
	deadline := time.After(patience)
	for {
		err := f()
		if err == nil {
			return
		}
		select {
		case <-ticker.C:
		case <-deadline:
			c.t.Fatalf("%s: %v", what, err)
		}
	}
}

// leads tells whether a topic is led by others than one node, as another sees it.
func (c *processes) ledByOthers(at *process, topic string, than int32) error {
	row, err := metadata(at, topic, 2*time.Second)
	if err != nil {
		return err
	}
	if row.ErrorCode != 0 || len(row.Partitions) == 0 {
		return fmt.Errorf("topic %s has error %d and %d partitions", topic, row.ErrorCode, len(row.Partitions))
	}
	for _, x := range row.Partitions {
		if x.Leader == than || x.Leader < 0 {
			return fmt.Errorf("partition %d of %s is led by %d", x.Partition, topic, x.Leader)
		}
	}
	return nil
}

// Controllers and brokers in processes of their own: each may be killed and come
// back, and each may be stopped in its turn.
func TestSeparateRoles(t *testing.T) {
	c := startNodes(t, asController, asController, asController, asBroker, asBroker)
	cluster := c.clusterID()
	one, two := c.nodes[3], c.nodes[4]
	l := startPacedLoad(t, one.addr(), 3, 2*time.Millisecond)
	l.wait(200)
	pulse := c.startPulse(cluster)

	p := c.active(t.Context())
	if p == nil {
		t.Fatal("nobody leads")
	}
	pulse.gap()
	p.signal(os.Kill)
	l.wait(200)
	c.eventually("another leads", func() error {
		if c.active(t.Context()) == nil {
			return errors.New("nobody")
		}
		return nil
	})
	t.Logf("the active controller was killed: no change of the metadata for %s", pulse.gap())
	c.launch(p)
	c.started(p)

	begun := time.Now()
	two.signal(os.Kill)
	l.wait(1)
	c.launch(two)
	c.started(two)
	t.Logf("a broker was killed and is back after %s", time.Since(begun))
	l.wait(500)

	controllers := c.as(901, cluster)
	for _, p := range c.nodes {
		pulse.gap()
		handed := "nothing"
		var handOver []func()
		if other := map[*process]*process{one: two, two: one}[p]; other != nil {
			// A topic of two replicas may not stay with one that stops.
			topic := fmt.Sprint("both-", p.id)
			c.submit(controllers, &control.CreateTopic{Name: topic, ID: newUUID(), Partitions: 8, ReplicationFactor: 2})
			begun := time.Now()
			handOver = append(handOver, func() {
				c.eventually("others lead", func() error { return c.ledByOthers(other, topic, p.id) })
				handed = fmt.Sprintf("after %s", time.Since(begun))
			})
		}
		took := c.terminate(p, handOver...)
		t.Logf("node %d (%s) stopped within %s; leaders handed over: %s; no change of the metadata for %s", p.id, p.roles, took, handed, pulse.gap())
		c.launch(p)
		c.started(p)
	}
	l.wait(200)
	l.finish(one.addr())
	pulse.end()
	if pulse.changes() == 0 {
		t.Error("no change of the metadata succeeded")
	}

	// Without a quorum nobody can be told, and a stop ends all the same.
	c.nodes[0].signal(os.Kill)
	c.nodes[1].signal(os.Kill)
	t.Logf("without a quorum a broker stops within %s", c.terminate(one))
	t.Logf("without a quorum a controller stops within %s", c.terminate(c.nodes[2]))
	c.launch(one) // it waits for controllers
	c.logged(one, "msg=starting")
	t.Logf("while it waits for controllers a broker stops within %s", c.terminate(one))
	t.Logf("without any controller a broker stops within %s", c.terminate(two))
}

// A node that has not found its cluster yet stops as well.
func TestStopWhileStarting(t *testing.T) {
	c := newProcesses(t, asBoth, asController, asBroker)
	for _, p := range []*process{c.nodes[0], c.nodes[2]} { // the other voter never comes
		c.launch(p)
		c.logged(p, "msg=starting")
		t.Logf("node %d (%s) stopped within %s", p.id, p.roles, c.terminate(p))
	}
}

// A broker that stopped in order says so when it is back, under which epoch it did,
// and keeps its place among those that may lead; one that was killed does not.
func TestBrokerEpochOfAnOrderlyStop(t *testing.T) {
	c := startNodes(t, asController, asBroker, asBroker)
	cluster := c.clusterID()
	p := c.nodes[2]
	by := c.as(900, cluster)
	view := raftmeta.NewView()
	go view.Follow(t.Context(), follow.New(cluster), by.Units, func(follow.Change) {}, func(uint64, bool) {})
	c.submit(by, &control.CreateTopic{Name: "t", ID: newUUID(), Partitions: 1, ReplicationFactor: 2, Configs: map[string]string{"min.insync.replicas": "2"}})
	epoch := func() int64 {
		t.Helper()
		if err := view.Wait(t.Context(), c.submit(by, setRetention(int(time.Now().UnixNano()>>20))).Index); err != nil {
			t.Fatal(err)
		}
		b, ok := view.Image().Broker(p.id)
		if !ok {
			t.Fatal("the broker is not registered")
		}
		return b.Epoch
	}
	eligible := func() []int32 {
		t.Helper()
		epoch()
		topic, _ := view.Image().Topic("t")
		x, _ := topic.Partition(0)
		return x.ELR
	}
	returns := func(cause string, mayLead bool) {
		t.Helper()
		c.launch(p)
		c.started(p)
		e := epoch()
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%s/why?broker=%d", c.nodes[0].admin, p.id))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		said := ""
		for line := range strings.Lines(string(text)) {
			if strings.Contains(line, fmt.Sprintf("registered with epoch %d", e)) {
				said = line
			}
		}
		if !strings.Contains(said, cause) || (cause == "it started") == strings.Contains(said, "stopped in order") {
			t.Errorf("of the registration in epoch %d is said %q, want %q; all:\n%s", e, said, cause, text)
		}
		if got := eligible(); slices.Contains(got, p.id) != mayLead {
			t.Errorf("after %q %v may lead", cause, got)
		}
	}
	first := epoch()
	c.terminate(p)
	if got := eligible(); !slices.Contains(got, p.id) {
		t.Fatalf("after an orderly stop %v may lead", got)
	}
	leader := c.nodes[1]
	leader.pause() // else it takes the other into the ISR, where nobody can tell how it registered
	defer leader.resume()
	returns(fmt.Sprintf("had stopped in order in epoch %d", first), true)
	p.signal(os.Kill)
	returns("it started", false)
}
