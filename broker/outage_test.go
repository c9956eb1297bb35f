package broker

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
)

// A paused controller holds up nobody for long: not who waits for its answer, nor
// who pulls the log from it.
func TestPausedController(t *testing.T) {
	c := startCluster(t, 3)
	cluster := c.clusterID()
	p := c.leader()
	controllers := c.as(999, cluster)
	c.submit(controllers, setRetention(0)) // now it is known who is active
	// One follower of the log for each controller to begin with.
	var views []*raftmeta.View
	for i := range c.nodes {
		v := raftmeta.NewView()
		views = append(views, v)
		source := c.as(int32(1000+i), cluster).Units
		go v.Follow(t.Context(), follow.New(cluster), source, func(follow.Change) {}, func(uint64, bool) {})
	}
	o := c.submit(controllers, setRetention(1))
	within := func(what string, limit time.Duration, f func(context.Context) error) {
		t.Helper()
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		defer cancel()
		if err := f(ctx); err != nil {
			t.Errorf("%s: not within %s: %v", what, limit, err)
			return
		}
		t.Logf("%s: %s", what, time.Since(begun))
	}
	for i, v := range views {
		within(fmt.Sprint("follower ", i), patience, func(ctx context.Context) error { return v.Wait(ctx, o.Index) })
	}
	p.pause()
	within("a change while the active controller is paused", 10*time.Second, func(ctx context.Context) error {
		o = controllers.Submit(ctx, []control.Request{{Actor: "test", Cause: "a test", Awaited: true, Command: setRetention(2)}})[0]
		return o.Err
	})
	for i, v := range views {
		within(fmt.Sprintf("follower %d has it", i), 10*time.Second, func(ctx context.Context) error { return v.Wait(ctx, o.Index) })
	}
	p.resume()
	c.quorumOf(c.nodes...)
}

// brokersAt is whom a broker shows as a broker.
func brokersAt(p *process) (ids []int32, err error) {
	brokers, err := brokersBy(p.addr())
	for _, b := range brokers {
		ids = append(ids, b.NodeID)
	}
	return ids, err
}

// brokersBy is whom a broker shows to who comes in by one of its listeners.
func brokersBy(addr string) ([]kmsg.MetadataResponseBroker, error) {
	req := kmsg.NewPtrMetadataRequest()
	req.Version, req.Topics = 9, []kmsg.MetadataRequestTopic{}
	resp, err := exchange(addr, req, 2*time.Second)
	if err != nil {
		return nil, err
	}
	return resp.(*kmsg.MetadataResponse).Brokers, nil
}

// A broker that is paused for longer than its session is fenced. When it goes on it
// never shows less than what was answered with success elsewhere, to a request that
// waited at its socket neither, and is unfenced.
func TestPausedBroker(t *testing.T) {
	c := newProcesses(t, asController, asController, asController, asBroker, asBroker)
	for _, p := range c.nodes {
		p.settings = []string{"broker.session.timeout.ms=1500"}
		c.launch(p)
	}
	for _, p := range c.nodes {
		c.started(p)
	}
	cluster := c.clusterID()
	slow, other := c.nodes[3], c.nodes[4]
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var made atomic.Int64 // topics t-1 to t-made were answered with success
	creating := make(chan struct{})
	go func() {
		defer close(creating)
		controllers := c.as(902, cluster)
		for n := int64(1); ctx.Err() == nil; n++ {
			try, cancel := context.WithTimeout(ctx, patience)
			o := controllers.Submit(try, []control.Request{{Actor: "test", Cause: "a test", Awaited: true, Command: &control.CreateTopic{
				Name: fmt.Sprint("t-", n), ID: newUUID(), Partitions: 1, ReplicationFactor: 1,
			}}})[0]
			cancel()
			if ctx.Err() == nil && o.Err != nil {
				t.Errorf("topic %d: %v", n, o.Err)
				return
			}
			made.Store(n)
			select {
			case <-time.After(5 * time.Millisecond):
			case <-ctx.Done():
			}
		}
	}()
	var reads, late atomic.Int64
	look := func(within time.Duration) {
		n := made.Load()
		if n == 0 {
			return
		}
		topic := fmt.Sprint("t-", n)
		req := kmsg.NewPtrMetadataRequest()
		req.Version = 9
		q := kmsg.NewMetadataRequestTopic()
		q.Topic = &topic
		req.Topics = append(req.Topics, q)
		begun := time.Now()
		resp, err := exchange(slow.addr(), req, within)
		if err != nil {
			t.Errorf("reading at the paused broker: %v", err)
			return
		}
		reads.Add(1)
		if time.Since(begun) > time.Second {
			late.Add(1)
		}
		if code := resp.(*kmsg.MetadataResponse).Topics[0].ErrorCode; code != 0 {
			t.Errorf("topic %s was answered with success, and a broker that was paused answers error %d after %s", topic, code, time.Since(begun))
		}
	}
	for range 2 {
		slow.pause()
		waiting := make(chan struct{})
		go func() {
			defer close(waiting)
			for range 5 { // each waits at the socket
				done := make(chan struct{})
				go func() { defer close(done); look(patience) }()
				select {
				case <-time.After(300 * time.Millisecond):
				case <-done:
				}
				defer func() { <-done }()
			}
		}()
		c.eventually("it is fenced", func() error {
			ids, err := brokersAt(other)
			if err == nil && len(ids) != 1 {
				err = fmt.Errorf("brokers %v", ids)
			}
			return err
		})
		n := made.Load()
		c.eventually("topics are created meanwhile", func() error {
			if made.Load() < n+10 {
				return fmt.Errorf("%d topics after %d", made.Load(), n)
			}
			return nil
		})
		slow.resume()
		for range 100 {
			look(patience)
		}
		<-waiting
		c.eventually("it is unfenced", func() error {
			ids, err := brokersAt(other)
			if err == nil && len(ids) != 2 {
				err = fmt.Errorf("brokers %v", ids)
			}
			return err
		})
	}
	cancel()
	<-creating
	if late.Load() == 0 {
		t.Error("no request waited at the socket of the paused broker")
	}
	t.Logf("%d topics, %d reads, %d of which waited", made.Load(), reads.Load(), late.Load())
}

// A broker that was unregistered while it lives, or whose listener cannot be
// reached, ends and says why; started again it takes part. One in whose place
// another node answers may be there.
func TestBrokerNobodyCountsOn(t *testing.T) {
	c := startNodes(t, asController, asController, asController, asBroker, asBroker)
	cluster := c.clusterID()
	p := c.nodes[3]
	c.submit(c.as(903, cluster), &control.UnregisterBroker{ID: p.id})
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("it goes on:\n%s", p.out.text())
	}
	if !strings.Contains(p.out.text(), "not registered") || p.cmd.ProcessState.ExitCode() <= 0 {
		t.Errorf("it ends with %v:\n%s", p.cmd.ProcessState, p.out.text())
	}
	p.settings = []string{"advertised.listeners=PLAINTEXT://127.0.0.1:" + freePort(t)}
	c.launch(p)
	c.started(p)
	gone := c.leader()
	gone.signal(os.Kill) // whoever comes next looks for the brokers
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("it goes on:\n%s", p.out.text())
	}
	if !strings.Contains(p.out.text(), "refuses connections") || p.cmd.ProcessState.ExitCode() <= 0 {
		t.Errorf("it ends with %v:\n%s", p.cmd.ProcessState, p.out.text())
	}
	c.launch(gone)
	c.started(gone)
	p.settings = []string{"advertised.listeners=PLAINTEXT://127.0.0.1:" + c.nodes[4].port}
	c.launch(p)
	c.started(p)
	gone = c.leader()
	gone.signal(os.Kill)
	c.eventually("the controller says whose listener that is", func() error {
		for _, x := range c.nodes[:3] {
			if x != gone && strings.Contains(x.out.text(), "leads to another node") {
				return nil
			}
		}
		return errors.New("it is not said")
	})
	c.submit(c.as(904, cluster), &control.CreateTopic{Name: "t", ID: newUUID(), Partitions: 1, ReplicationFactor: 2})
	select {
	case <-p.exited:
		t.Errorf("it was taken for gone because another answers where it should:\n%s", p.out.text())
	default:
	}
}

// Controllers reach a broker by inter.broker.listener.name, whatever its other
// listeners are, and a client is told of the listener that it came in by.
func TestInterBrokerListener(t *testing.T) {
	c := newProcesses(t, asController, asController, asController, asBroker, asBroker)
	inside := func(p *process, in, out string) []string {
		return []string{
			"listener.security.protocol.map=IN:PLAINTEXT,OUT:PLAINTEXT,CONTROLLER:PLAINTEXT",
			"listeners=OUT://" + p.addr() + ",IN://127.0.0.1:" + p.inside,
			"advertised.listeners=OUT://127.0.0.1:" + out + ",IN://127.0.0.1:" + in,
			"inter.broker.listener.name=IN",
		}
	}
	deaf, whole := c.nodes[3], c.nodes[4]
	nobody := freePort(t)
	deaf.settings, whole.settings = inside(deaf, nobody, deaf.port), inside(whole, whole.inside, nobody)
	for _, p := range c.nodes[:3] {
		p.settings = []string{"inter.broker.listener.name=IN"}
	}
	for _, p := range c.nodes {
		c.launch(p)
	}
	for _, p := range c.nodes {
		c.started(p)
	}
	cluster := c.clusterID()
	c.eventually("both brokers are there", func() error {
		for addr, want := range map[string][]string{
			whole.addr():                {deaf.port, nobody},
			"127.0.0.1:" + whole.inside: {nobody, whole.inside},
		} {
			brokers, err := brokersBy(addr)
			if err != nil {
				return err
			}
			var got []string
			for _, b := range brokers {
				got = append(got, fmt.Sprint(b.Port))
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("by %s brokers are at %v, want %v", addr, got, want)
			}
		}
		return nil
	})
	c.leader().signal(os.Kill) // whoever comes next looks for the brokers
	select {
	case <-deaf.exited:
	case <-time.After(patience):
		t.Fatalf("the listener for nodes refuses, and it goes on:\n%s", deaf.out.text())
	}
	if !strings.Contains(deaf.out.text(), "refuses connections") {
		t.Errorf("it ends with %v:\n%s", deaf.cmd.ProcessState, deaf.out.text())
	}
	// The one unit that fenced the other would have fenced this one.
	c.submit(c.as(905, cluster), &control.CreateTopic{Name: "t", ID: newUUID(), Partitions: 1, ReplicationFactor: 1})
	if ids, err := brokersAt(whole); err != nil || !slices.Equal(ids, []int32{whole.id}) {
		t.Errorf("the brokers are %v, %v, want %d alone", ids, err, whole.id)
	}
}

// While the settings of nodes differ, a broker is reached by what it has.
func TestEndpointOf(t *testing.T) {
	cfg := config.New()
	set(t, cfg, "inter.broker.listener.name", "IN")
	b := &Broker{cfg: cfg}
	in, out := image.Endpoint{Name: "IN", Host: "in", Port: 1}, image.Endpoint{Name: "OUT", Host: "out", Port: 2}
	for _, x := range []struct {
		has  []image.Endpoint
		want image.Endpoint
		ok   bool
	}{
		{[]image.Endpoint{in}, in, true},
		{[]image.Endpoint{out, in}, in, true},
		{[]image.Endpoint{out}, out, true},
		{nil, image.Endpoint{}, false},
	} {
		if got, ok := b.endpointOf(&image.Broker{Listeners: x.has}); got != x.want || ok != x.ok {
			t.Errorf("a broker with %v is reached by %v, %v", x.has, got, ok)
		}
	}
}

// raw asks the active controller for an operation under a number that was asked
// for before, until it answers.
func (c *processes) raw(cluster string, r control.Request) peer.Outcome {
	c.t.Helper()
	var answer peer.Outcome
	c.eventually("an outcome", func() error {
		body, err := r.Encode()
		if err != nil {
			c.t.Fatal(err)
		}
		p := c.active(c.t.Context())
		if p == nil {
			return errors.New("nobody leads")
		}
		ctx, cancel := context.WithTimeout(c.t.Context(), 10*time.Second)
		defer cancel()
		conn, err := peer.Dial(ctx, p.controllerAddr(), testPeer)
		if err != nil {
			return err
		}
		defer conn.Close()
		head, _, err := conn.Call(ctx, protocol.KeySubmit, peer.Submit{ClusterID: cluster, TimeoutMs: 10_000, Requests: []json.RawMessage{body}}, nil)
		if err != nil {
			return err
		}
		var a peer.SubmitAnswer
		if err := json.Unmarshal(head, &a); err != nil {
			return err
		}
		if a.Error != nil {
			return errors.New(a.Error.Message)
		}
		answer = a.Outcomes[0]
		if f := answer.Error; f != nil && f.Kind != "refusal" {
			return errors.New(f.Message)
		}
		return nil
	})
	return answer
}

// A topic of 10,000 partitions is there with all of them or not at all, at every
// broker, whenever the active controller dies; and who asks again gets the answer
// of the first time.
func TestBatchIsWhole(t *testing.T) {
	const partitions = 10_000
	rounds := 4
	if s := os.Getenv("STREAMBUS_BATCHES"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	c := startCluster(t, 3)
	cluster := c.clusterID()
	incarnation := newUUID()
	rng := rand.New(rand.NewPCG(5, 5))
	var topic atomic.Pointer[string]
	ctx, cancel := context.WithCancel(t.Context())
	var absent, whole atomic.Int64
	looked := make(chan struct{})
	for _, p := range c.nodes {
		go func() {
			defer func() { looked <- struct{}{} }()
			for ctx.Err() == nil {
				name := topic.Load()
				if name == nil {
					continue
				}
				row, err := metadata(p, *name, 2*time.Second)
				switch {
				case err != nil: // killed
				case row.ErrorCode == int16(protocol.UnknownTopicOrPartition):
					absent.Add(1)
				case len(row.Partitions) == partitions:
					whole.Add(1)
				default:
					t.Errorf("node %d shows %d partitions of %s, error %d", p.id, len(row.Partitions), *name, row.ErrorCode)
				}
				select {
				case <-time.After(20 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}()
	}
	for n := range rounds {
		name := fmt.Sprint("large-", n)
		topic.Store(&name)
		r := control.Request{
			Actor: "test", Cause: "a test", Awaited: true,
			Command:   &control.CreateTopic{Name: name, ID: newUUID(), Partitions: partitions, ReplicationFactor: 1},
			Operation: image.Operation{Node: 900, Incarnation: incarnation, Seq: uint64(n + 1), Done: uint64(n + 1)},
		}
		p := c.leader()
		killed := make(chan struct{})
		delay := time.Duration(rng.IntN(120)) * time.Millisecond
		go func() {
			defer close(killed)
			<-time.After(delay)
			p.signal(os.Kill)
		}()
		first := c.raw(cluster, r)
		<-killed
		again := c.raw(cluster, r)
		if first.Error != nil || again.Error != nil || !bytes.Equal(first.Reply, again.Reply) || again.Index < first.Index {
			t.Errorf("%s: the first answer is %d %s %v, that to the repeat %d %s %v",
				name, first.Index, first.Reply, first.Error, again.Index, again.Reply, again.Error)
		}
		c.launch(p)
		c.started(p)
		for _, at := range c.nodes {
			c.eventually("every broker shows it", func() error {
				row, err := metadata(at, name, 2*time.Second)
				if err == nil && len(row.Partitions) != partitions {
					err = fmt.Errorf("node %d shows %d partitions", at.id, len(row.Partitions))
				}
				return err
			})
		}
	}
	cancel()
	for range c.nodes {
		<-looked
	}
	if absent.Load() == 0 || whole.Load() == 0 {
		t.Errorf("%d reads before, %d after: the test looked too rarely", absent.Load(), whole.Load())
	}
	t.Logf("%d reads found nothing, %d all", absent.Load(), whole.Load())
}

// A damaged raft log keeps its node from starting, and the others go on. What is
// damaged where nothing is kept harms nobody.
func TestDamagedRaftLog(t *testing.T) {
	c := startCluster(t, 3)
	cluster := c.clusterID()
	pulse := c.startPulse(cluster)
	c.eventually("a log of some size", func() error {
		if n := pulse.changes(); n < 300 {
			return fmt.Errorf("%d changes", n)
		}
		return nil
	})
	p := c.nodes[0]
	p.signal(os.Kill)
	file := filepath.Join(p.data, "raftmeta", "log.db")
	rng := rand.New(rand.NewPCG(6, 6))
	refused, harmless := 0, 0
	for n := range 12 {
		good, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		bad := bytes.Clone(good)
		what := ""
		switch n % 3 {
		case 0:
			at := rng.IntN(len(bad))
			for bad[at] == 0 { // most of a page may be free
				at = rng.IntN(len(bad))
			}
			bad[at] ^= byte(1 + rng.IntN(255))
			what = fmt.Sprintf("byte %d is another", at)
		case 1:
			at := rng.IntN(len(bad)/4096) * 4096
			clear(bad[at+512 : at+4096])
			what = fmt.Sprintf("the page at %d is torn", at)
		case 2:
			bad = bad[:rng.IntN(len(bad))]
			what = fmt.Sprintf("it ends at %d of %d", len(bad), len(good))
		}
		if err := os.WriteFile(file, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		c.launch(p)
		select {
		case <-p.out.started:
			harmless++
			p.signal(os.Kill)
		case <-p.exited:
			refused++
			said := p.out.text()
			placed := slices.ContainsFunc([]string{"page", "entry", "byte", "bucket", "the hard state", "the snapshot pointer"}, func(place string) bool {
				return strings.Contains(said, place)
			})
			if p.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(said, "log.db") || !placed {
				t.Errorf("%s: it ends with %v and does not name file and place:\n%s", what, p.cmd.ProcessState, said)
			}
			if err := os.WriteFile(file, good, 0o644); err != nil { // it has vouched for nothing meanwhile
				t.Fatal(err)
			}
		case <-time.After(patience):
			t.Fatalf("%s: it neither starts nor ends:\n%s", what, p.out.text())
		}
	}
	if refused == 0 {
		t.Error("no damage was noticed")
	}
	c.launch(p)
	c.started(p)
	c.quorumOf(c.nodes...)
	t.Logf("%d refused, %d without harm; no change of the metadata for %s", refused, harmless, pulse.gap())
}

// smallDisk mounts a file system of a size.
func smallDisk(t *testing.T, dir, size string) {
	t.Helper()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("SKIPPED, nothing is known about full disks: mounting needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
}

// fillDisk takes what is left of a disk, to the last byte, for a file.
func fillDisk(t *testing.T, dir string) {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(dir, "fill"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
	}
	if !errors.Is(err, syscall.ENOSPC) {
		t.Fatal(err)
	}
}

// A full disk that is too small for a reserve ends a controller, which says so. With one of three the others go on,
// with two nobody can change anything, and all goes on when there is space again.
func TestFullDisk(t *testing.T) {
	c := newProcesses(t, asController, asController, asController)
	for _, p := range c.nodes[1:] {
		smallDisk(t, p.data, "24m")
	}
	for _, p := range c.nodes {
		c.launch(p)
	}
	for _, p := range c.nodes {
		c.started(p)
	}
	pulse := c.startPulse(c.clusterID())
	beats := func() {
		t.Helper()
		n := pulse.changes()
		c.eventually("the metadata changes", func() error {
			if more := pulse.changes() - n; more < 20 {
				return fmt.Errorf("%d changes", more)
			}
			return nil
		})
	}
	fill := func(p *process) { t.Helper(); fillDisk(t, p.data) }
	ends := func(p *process) {
		t.Helper()
		select {
		case <-p.exited:
		case <-time.After(patience):
			t.Fatalf("node %d goes on with a full disk:\n%s", p.id, p.out.text())
		}
		if said := p.out.text(); p.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(said, "no space left") {
			t.Errorf("node %d ends with %v:\n%s", p.id, p.cmd.ProcessState, lastLines(said, 20))
		}
	}
	space := func(p *process) {
		t.Helper()
		if err := os.Remove(filepath.Join(p.data, "fill")); err != nil {
			t.Fatal(err)
		}
		c.launch(p)
		c.started(p)
	}
	one, two := c.nodes[1], c.nodes[2]
	fill(one)
	ends(one)
	beats()
	c.launch(one) // a start without space does no harm
	ends(one)
	beats()
	fill(two)
	ends(two)
	space(one)
	beats()
	space(two)
	c.quorumOf(c.nodes...)
	fill(one)
	fill(two)
	ends(one) // what it could not write nobody was answered
	space(one)
	ends(two)
	space(two)
	c.quorumOf(c.nodes...)
	beats()
	pulse.end()
}

// On a disk that is full the metadata goes on, on what was kept for that, also when
// it is most of the controllers' and over a restart; somebody is told; and with
// room again there is a reserve again.
func TestReserveOfAFullDisk(t *testing.T) {
	c := newProcesses(t, asController, asController, asController)
	for _, p := range c.nodes[1:] {
		smallDisk(t, p.data, "288m")
	}
	for _, p := range c.nodes {
		c.launch(p)
	}
	for _, p := range c.nodes {
		c.started(p)
	}
	// disk is what a node says of its disk: empty for nothing that is wrong.
	disk := func(p *process) string {
		resp, err := http.Get("http://127.0.0.1:" + p.admin + "/health/disk")
		if err != nil {
			return err.Error()
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode == http.StatusOK {
			return ""
		}
		return string(text)
	}
	reserves := func(p *process, there bool) {
		t.Helper()
		c.eventually(fmt.Sprintf("node %d has a reserve: %t", p.id, there), func() error {
			_, err := os.Stat(filepath.Join(p.data, "raftmeta", "reserve"))
			if said := disk(p); (err == nil) != there || (said == "") != there {
				return fmt.Errorf("%v, and it says %q", err, said)
			}
			return nil
		})
	}
	pulse := c.startPulse(c.clusterID())
	beats := func(more int) {
		t.Helper()
		n := pulse.changes()
		c.eventually("the metadata changes", func() error {
			if got := pulse.changes() - n; got < more {
				return fmt.Errorf("%d changes", got)
			}
			return nil
		})
	}
	one, two := c.nodes[1], c.nodes[2]
	for _, p := range c.nodes {
		reserves(p, true)
	}
	one.signal(os.Kill)
	fillDisk(t, one.data)
	c.launch(one) // on a full disk, with its reserve
	c.started(one)
	fillDisk(t, two.data)
	reserves(one, false)
	reserves(two, false)
	c.nodes[0].signal(os.Kill) // now it takes both
	beats(200)
	if said := disk(one); !strings.Contains(said, "make room") {
		t.Errorf("it says %q", said)
	}
	c.logged(one, "has no reserve for a full disk")
	c.launch(c.nodes[0])
	c.started(c.nodes[0])
	for _, p := range []*process{one, two} {
		if err := os.Remove(filepath.Join(p.data, "fill")); err != nil {
			t.Fatal(err)
		}
		reserves(p, true)
		c.logged(p, "has its reserve for a full disk again")
	}
	beats(20)
	pulse.end()
	c.quorumOf(c.nodes...)
}
