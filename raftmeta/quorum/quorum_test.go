package quorum_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/wal"
	"github.com/streambus/streambus/raftmeta/wal/memwal"
)

const cluster = "cluster-of-the-test"

// firstBroker takes five bytes, so that 10,000 partitions of five replicas do not fit one entry.
const firstBroker = 1 << 30

// history is what the outside has been told, over all starts of a node.
type history struct {
	answers map[string]quorum.Answer
	images  map[uint64][]byte // by index, encoded
	top     uint64
	starts  byte
}

func newHistory() *history {
	return &history{answers: map[string]quorum.Answer{}, images: map[uint64][]byte{}}
}

// node runs a core on a log, and follows it as a broker does.
type node struct {
	t        *testing.T
	core     *quorum.Core
	log      wal.Log
	history  *history
	follower *follow.State
	largest  int // number of entries in one Save
}

func start(t *testing.T, log wal.Log, h *history) *node {
	t.Helper()
	s, err := log.Load()
	if err == nil && s.RaftID == 0 {
		hs, snap := quorum.Genesis(cluster, image.Voter{RaftID: 77, NodeID: 1})
		if err = log.Form(77, hs, snap); err == nil {
			s, err = log.Load()
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	h.starts++
	core, err := quorum.New(quorum.Config{
		RaftID: s.RaftID, ClusterID: cluster, Origin: image.UUID{h.starts},
		HardState: s.HardState, Snapshot: s.Snapshot, Entries: s.Entries,
		Logger: &raft.DefaultLogger{Logger: stdlog.New(io.Discard, "", 0)},
	})
	if err != nil {
		t.Fatal(err)
	}
	n := &node{t: t, core: core, log: log, history: h, follower: follow.New(cluster)}
	if _, err := n.follower.Step(follow.Batch{Snapshot: core.Image().Encode()}); err != nil {
		t.Fatal(err)
	}
	return n
}

// save proposes and makes the next Ready durable; false when there is none.
func (n *node) save() bool {
	n.t.Helper()
	n.told(n.core.Propose(now))
	p, ok, err := n.core.Ready()
	if err != nil {
		n.t.Fatal(err)
	}
	if !ok {
		return false
	}
	n.largest = max(n.largest, len(p.Entries))
	if err := n.log.Save(wal.Write(p)); err != nil {
		n.t.Fatal(err)
	}
	return true
}

func (n *node) advance() {
	n.t.Helper()
	before := n.core.Image().Index()
	done, err := n.core.Advance()
	if err != nil {
		n.t.Fatal(err)
	}
	if n.core.Image().Index() < before {
		n.t.Fatalf("the image went from index %d back to %d", before, n.core.Image().Index())
	}
	for _, u := range done.Units {
		changes, err := n.follower.Step(follow.Batch{Units: []follow.Unit{follow.Unit(u)}})
		if err != nil {
			n.t.Fatal(err)
		}
		img := changes[0].Image.Encode()
		if old, known := n.history.images[u.Index]; known && !bytes.Equal(old, img) {
			n.t.Fatalf("the image of index %d is another one than before the restart", u.Index)
		}
		n.history.images[u.Index] = img
		n.history.top = max(n.history.top, u.Index)
	}
	n.told(done.Answers)
}

func (n *node) told(answers []quorum.Answer) {
	for _, a := range answers {
		n.history.answers[a.Token.(string)] = a
	}
}

func (n *node) settle() {
	n.t.Helper()
	for n.save() {
		n.advance()
	}
	if w := n.core.Waiting(); w > 0 {
		n.t.Fatalf("nothing is left to do and %d commands wait", w)
	}
}

// do runs commands as one batch and returns their answers.
func (n *node) do(cmds ...control.Command) []quorum.Answer {
	n.t.Helper()
	for i, c := range cmds {
		n.core.Enqueue(quorum.Proposal{Token: fmt.Sprintf("do %d", i), Request: control.Request{Command: c}})
	}
	n.settle()
	var out []quorum.Answer
	for i := range cmds {
		out = append(out, n.history.answers[fmt.Sprintf("do %d", i)])
	}
	return out
}

func (n *node) mustDo(cmds ...control.Command) []quorum.Answer {
	n.t.Helper()
	answers := n.do(cmds...)
	for i, a := range answers {
		if a.Err != nil || a.Index == 0 {
			n.t.Fatalf("command %d: %+v", i, a)
		}
	}
	return answers
}

func formCluster() control.Command {
	return &control.FormCluster{ClusterID: cluster, Voters: []image.Voter{{RaftID: 77, NodeID: 1}}}
}

func register(i int32, incarnation byte) control.Command {
	return &control.RegisterBroker{
		ID: firstBroker + i, Incarnation: image.UUID{byte(i), incarnation}, Levels: image.OwnLevels, Dirs: []image.UUID{{byte(i), 0xd}},
		Listeners: []image.Endpoint{{Name: "PLAINTEXT", Host: "h", Port: 9092}},
	}
}

// unfence is UnfenceBroker where the epoch is not known when it is written down.
type unfence struct{ id int32 }

func (u unfence) Eval(m *image.Image, at time.Time) (control.Result, error) {
	b, _ := m.Broker(u.id)
	return (&control.UnfenceBroker{ID: u.id, Epoch: b.Epoch}).Eval(m, at)
}

func registerFive() (cmds []control.Command) {
	for i := range int32(5) {
		cmds = append(cmds, register(i, 1))
	}
	return cmds
}

func unfenceFive() (cmds []control.Command) {
	for i := range int32(5) {
		cmds = append(cmds, unfence{firstBroker + i})
	}
	return cmds
}

// found makes a cluster of one broker.
func (n *node) found() {
	n.t.Helper()
	n.mustDo(formCluster(), register(0, 1))
	n.mustDo(unfence{firstBroker})
}

func topic(name string, partitions int32) control.Command {
	id := image.UUID{15: 1}
	copy(id[:], name)
	return &control.CreateTopic{Name: name, ID: id, Partitions: partitions, ReplicationFactor: 1}
}

// large takes several entries.
func large(name string) control.Command {
	c := topic(name, control.MaxPartitionsPerCommand).(*control.CreateTopic)
	c.ReplicationFactor = 5
	return c
}

func partitions(img *image.Image, name string) int32 {
	t, ok := img.Topic(name)
	if !ok {
		return -1
	}
	return t.NumPartitions()
}

func refused(a quorum.Answer, code control.Code) bool {
	var r *control.Refusal
	return errors.As(a.Err, &r) && r.Code == code
}

func TestLargeTopicIsOneUnitOfSeveralEntries(t *testing.T) {
	n := start(t, memwal.New(), newHistory())
	n.mustDo(formCluster())
	n.mustDo(registerFive()...)
	n.mustDo(unfenceFive()...)
	n.largest = 0
	before := n.core.Image()
	n.core.Enqueue(quorum.Proposal{Token: "large", Request: control.Request{Command: large("large")}})
	for n.save() {
		n.advance()
		switch img := n.core.Image(); partitions(img, "large") {
		case control.MaxPartitionsPerCommand:
		case -1:
			if img != before {
				t.Fatal("the image moved before the topic was there")
			}
		default:
			t.Fatalf("the topic has %d partitions", partitions(img, "large"))
		}
	}
	if partitions(n.core.Image(), "large") != control.MaxPartitionsPerCommand {
		t.Fatal("the topic is not there")
	}
	if n.largest < 4 {
		t.Fatalf("it was saved as %d entries: begin, two chunks and an end are wanted", n.largest)
	}
	if a := n.history.answers["large"]; a.Err != nil || a.Index != n.core.Image().Index() {
		t.Fatalf("answered with %+v, the image is at %d", a, n.core.Image().Index())
	}
}

func TestBatchSeesItself(t *testing.T) {
	n := start(t, memwal.New(), newHistory())
	n.found()
	answers := n.do(register(1, 1), topic("a.b", 1), topic("a_b", 1), topic("a.b", 1), topic("c", 2))
	for i, code := range []control.Code{0, 0, control.InvalidTopicName, control.TopicExists, 0} {
		if code == 0 && answers[i].Err != nil || code != 0 && !refused(answers[i], code) {
			t.Errorf("command %d: %v, want code %d", i, answers[i].Err, code)
		}
		// A refusal may rest on what came before it in the batch, so it is told with the same index.
		if answers[i].Index != n.core.Image().Index() {
			t.Errorf("command %d is answered with index %d, the image is at %d", i, answers[i].Index, n.core.Image().Index())
		}
	}
	if n.core.Image().NumTopics() != 2 || n.core.Image().NumPartitions() != 3 {
		t.Fatalf("%d topics", n.core.Image().NumTopics())
	}
}

func TestRefusedCommandHoldsNothingUp(t *testing.T) {
	n := start(t, memwal.New(), newHistory())
	n.found()
	n.mustDo(topic("t", 1))
	at := n.core.Image().Index()
	if a := n.do(topic("t", 1))[0]; !refused(a, control.TopicExists) || a.Index != at {
		t.Fatalf("a second topic t: %+v", a)
	}
	if n.core.Image().Index() != at {
		t.Fatal("a refusal alone was written")
	}
	n.mustDo(topic("u", 1))
	n.mustDo(topic("v", 1))
}

// What waits longest is known from the moment it is looked at, in flight and behind a flight, until it is answered.
func TestOldestWaiting(t *testing.T) {
	n := start(t, memwal.New(), newHistory())
	n.found()
	want := func(what string, at time.Time) {
		t.Helper()
		if got := n.core.OldestWaiting(); !got.Equal(at) {
			t.Errorf("%s: since %v, want %v", what, got, at)
		}
	}
	want("nothing waits", time.Time{})
	n.core.Enqueue(quorum.Proposal{Token: "first", Request: control.Request{Command: topic("t", 1)}})
	n.core.Propose(now)
	want("one is in flight", now)
	n.core.Enqueue(quorum.Proposal{Token: "second", Request: control.Request{Command: topic("u", 1)}})
	n.core.Propose(now.Add(time.Second))
	n.core.Enqueue(quorum.Proposal{Token: "third", Request: control.Request{Command: topic("v", 1)}})
	n.core.Propose(now.Add(2 * time.Second))
	want("others wait behind it", now)
	for n.core.Waiting() == 3 { // until the flight has landed
		p, ok, err := n.core.Ready()
		if err != nil || !ok {
			t.Fatal(ok, err)
		}
		if err := n.log.Save(wal.Write(p)); err != nil {
			t.Fatal(err)
		}
		if _, err := n.core.Advance(); err != nil {
			t.Fatal(err)
		}
	}
	want("the first is decided", now.Add(time.Second))
	n.core.Propose(now.Add(3 * time.Second))
	want("the others are in flight", now.Add(time.Second))
	n.core.Abandon()
	want("all are answered", time.Time{})
}

func TestNothingIsDecidedWhileAUnitIsInFlight(t *testing.T) {
	n := start(t, memwal.New(), newHistory())
	n.found()
	n.core.Enqueue(quorum.Proposal{Token: "first", Request: control.Request{Command: topic("t", 1)}})
	n.core.Propose(now)
	n.core.Enqueue(quorum.Proposal{Token: "second", Request: control.Request{Command: topic("t", 1)}})
	if answers := n.core.Propose(now); len(answers) > 0 || n.core.Waiting() != 2 {
		t.Fatalf("decided on state that is not committed: %v", answers)
	}
	n.settle()
	if n.history.answers["first"].Err != nil || !refused(n.history.answers["second"], control.TopicExists) {
		t.Fatalf("answers %v", n.history.answers)
	}
}

// script is what the tests of crashes run, batch by batch.
func script() [][]control.Command {
	return [][]control.Command{
		{formCluster()},
		registerFive(),
		unfenceFive(),
		{topic("a", 3), topic("b", 1), topic("a", 3)},
		{large("large"), topic("no partitions", 0), topic("c", 130)},
		{register(0, 2), topic("d", 1)},
		{topic("e", 70)},
	}
}

// play runs what is left of the script and stops behind the crash-th Save, before its Advance: true when it came that far.
func (n *node) play(crash int) bool {
	for i, batch := range script() {
		for j, c := range batch {
			token := fmt.Sprintf("batch %d command %d", i, j)
			if a, answered := n.history.answers[token]; !answered || a.Err != nil {
				n.core.Enqueue(quorum.Proposal{Token: token, Request: control.Request{Command: c}})
			}
		}
		for n.save() {
			if crash--; crash == 0 {
				return true
			}
			n.advance()
		}
	}
	return false
}

// check compares the image with what was ever answered.
func (n *node) check() {
	n.t.Helper()
	img := n.core.Image()
	if img.Index() < n.history.top {
		n.t.Fatalf("the image is at %d, units up to %d were published", img.Index(), n.history.top)
	}
	if want, known := n.history.images[img.Index()]; known && !bytes.Equal(want, img.Encode()) {
		n.t.Fatalf("the image of index %d is not what followers have", img.Index())
	}
	batches := script()
	for i, batch := range batches {
		for j, c := range batch {
			a, answered := n.history.answers[fmt.Sprintf("batch %d command %d", i, j)]
			if !answered || a.Err != nil {
				continue
			}
			if a.Index > img.Index() {
				n.t.Fatalf("batch %d command %d was answered at %d, the image is at %d", i, j, a.Index, img.Index())
			}
			if c, ok := c.(*control.CreateTopic); ok && partitions(img, c.Name) != c.Partitions {
				n.t.Fatalf("topic %s was created with %d partitions, and has %d", c.Name, c.Partitions, partitions(img, c.Name))
			}
		}
	}
	for t := range img.Topics() { // all or nothing
		for _, batch := range batches {
			for _, c := range batch {
				if c, ok := c.(*control.CreateTopic); ok && c.ID == t.ID && t.NumPartitions() != c.Partitions {
					n.t.Fatalf("topic %s has %d of %d partitions", t.Name, t.NumPartitions(), c.Partitions)
				}
			}
		}
	}
}

func TestCrashBehindEverySave(t *testing.T) {
	crashes := 0
	for crash := 1; ; crash++ {
		rng := rand.New(rand.NewPCG(5, uint64(crash)))
		h := newHistory()
		log := memwal.New()
		n := start(t, log, h)
		if !n.play(crash) {
			n.check()
			break
		}
		crashes++
		log = log.Crash(rng)
		n = start(t, log, h)
		n.settle()
		n.check()
		// Life goes on, and another crash follows close behind.
		n.play(1 + rng.IntN(3))
		log = log.Crash(rng)
		n = start(t, log, h)
		n.settle()
		n.check()
		n.play(0)
		n.check()
		if partitions(n.core.Image(), "e") != 70 || partitions(n.core.Image(), "large") != control.MaxPartitionsPerCommand {
			t.Fatalf("crash %d: the script did not come to its end", crash)
		}
	}
	if crashes < 12 {
		t.Fatalf("only %d crashes: the script has become too short", crashes)
	}
}

func TestUnfinishedUnitIsDropped(t *testing.T) {
	log := memwal.New()
	h := newHistory()
	n := start(t, log, h)
	n.mustDo(formCluster())
	n.mustDo(registerFive()...)
	n.mustDo(unfenceFive()...)
	before := n.core.Image().Encode()
	n.core.Enqueue(quorum.Proposal{Token: "large", Request: control.Request{Command: large("large")}})
	if !n.save() || n.largest < 4 {
		t.Fatalf("the unit was not saved at once, as begin, chunks and end: %d entries", n.largest)
	}
	// A log that ends before the end of the unit, as a leader leaves it that loses power among several.
	s, err := log.Load()
	if err != nil {
		t.Fatal(err)
	}
	hs, snap := quorum.Genesis(cluster, image.Voter{RaftID: s.RaftID, NodeID: 1})
	for cut := 1; cut < n.largest; cut++ {
		short := memwal.New()
		if err := errors.Join(short.Form(s.RaftID, hs, snap), short.Save(wal.Write{HardState: s.HardState, Entries: s.Entries[:len(s.Entries)-cut], Sync: true})); err != nil {
			t.Fatal(err)
		}
		n := start(t, short, newHistory())
		n.settle()
		if !bytes.Equal(n.core.Image().Encode(), before) {
			t.Fatalf("without its last %d entries the unit has changed the image", cut)
		}
		if _, img := n.core.Snapshot(); !bytes.Equal(img.Encode(), before) {
			t.Fatal("a snapshot is possible in the middle of a unit")
		}
		n.mustDo(topic("small", 1))
		if _, img := n.core.Snapshot(); img != n.core.Image() {
			t.Fatal("no snapshot is possible behind the unit")
		}
		n.mustDo(large("large"))
		if got := n.core.Image().NumPartitions(); got != 1+control.MaxPartitionsPerCommand {
			t.Fatalf("%d partitions", got)
		}
		again := start(t, short.Crash(rand.New(rand.NewPCG(1, 1))), newHistory())
		again.settle()
		if !bytes.Equal(again.core.Image().Encode(), n.core.Image().Encode()) {
			t.Fatal("a restart gives another image")
		}
	}
}

// The commit index is not synced, a snapshot is: it may be ahead of the hard state after a crash.
func TestCrashBehindSnapshot(t *testing.T) {
	for seed := range uint64(8) {
		rng := rand.New(rand.NewPCG(seed, 1))
		log := memwal.New()
		h := newHistory()
		n := start(t, log, h)
		n.found()
		for i := range 20 {
			n.mustDo(topic(fmt.Sprintf("t%d", i), 1))
		}
		snap, img := n.core.Snapshot()
		snap.Data = img.Encode()
		if err := log.SaveSnapshot(snap); err != nil {
			t.Fatal(err)
		}
		if seed%2 == 0 {
			to, err := n.core.Compact(snap, 5, 1<<20)
			if err != nil || to == 0 {
				t.Fatalf("compacted to %d: %v", to, err)
			}
			if err := log.Compact(to); err != nil {
				t.Fatal(err)
			}
			n.mustDo(topic("between", 1))
		}
		log = log.Crash(rng)
		again := start(t, log, h)
		again.settle()
		if !bytes.Equal(again.core.Image().Encode(), n.core.Image().Encode()) {
			t.Fatal("another image")
		}
		again.mustDo(topic("after", 1))
	}
}

// bulk comes to a record of a given size, more than any command of today.
type bulk struct {
	name string
	size int
}

func (b *bulk) Eval(*image.Image, time.Time) (control.Result, error) {
	id := image.UUID{}
	copy(id[:], b.name)
	return control.Result{Records: []image.Record{&image.TopicRecord{
		Name: b.name, ID: id, Configs: []image.Setting{{Key: "k", Value: strings.Repeat("x", b.size)}},
	}}}, nil
}

// A change of the largest size goes through in whatever company: a unit that was written and cannot be read again would
// end the cluster.
func TestLargestUnitCanBeRead(t *testing.T) {
	n := start(t, memwal.New(), newHistory())
	n.mustDo(formCluster())
	c := &bulk{"largest", 48 << 20}
	r, _ := c.Eval(nil, now)
	c.size -= len(image.AppendRecords(nil, append(r.Records, &image.OperationRecord{}))) - 48<<20
	n.mustDo(&bulk{"small", 200 << 10}, c)
	if a := n.do(&bulk{"larger.", c.size + 1})[0]; !refused(a, control.PolicyViolation) {
		t.Fatalf("a byte more: %v", a.Err)
	}
	n.mustDo(&bulk{"small too", 10})
}

func TestAbandonAnswersEverything(t *testing.T) {
	n := start(t, memwal.New(), newHistory())
	n.found()
	n.core.Enqueue(quorum.Proposal{Token: "flies", Request: control.Request{Command: topic("t", 1)}})
	n.core.Propose(now)
	n.core.Enqueue(quorum.Proposal{Token: "waits", Request: control.Request{Command: topic("u", 1)}})
	got := map[any]error{}
	for _, a := range n.core.Abandon() {
		got[a.Token] = a.Err
	}
	if !maps.Equal(got, map[any]error{"flies": quorum.ErrUnknown, "waits": quorum.ErrNotLeader}) || n.core.Waiting() != 0 {
		t.Fatalf("answers %v", got)
	}
}

func TestLogOfAnotherClusterIsRefused(t *testing.T) {
	log := memwal.New()
	start(t, log, newHistory()).found()
	s, err := log.Load()
	if err != nil {
		t.Fatal(err)
	}
	core, err := quorum.New(quorum.Config{
		RaftID: s.RaftID, ClusterID: "another", HardState: s.HardState, Snapshot: s.Snapshot, Entries: s.Entries,
		Logger: &raft.DefaultLogger{Logger: stdlog.New(io.Discard, "", 0)},
	})
	for err == nil {
		if _, ok, _ := core.Ready(); !ok {
			break
		}
		_, err = core.Advance()
	}
	if err == nil || !strings.Contains(err.Error(), "belongs to another cluster") {
		t.Fatalf("a log of another cluster: %v", err)
	}
}

// FuzzAssembler: whatever entries hold, in whatever order, is put together or refused.
func FuzzAssembler(f *testing.F) {
	f.Add([]byte{1, 1, 7}, uint8(1))
	f.Add([]byte{1, 2, 1, 3, 2, 3, 9, 9, 1, 4}, uint8(2))
	f.Add([]byte{1, 3, 1, 4, 1, 9}, uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		var a quorum.Assembler
		held := 0
		for n := int(size) + 1; len(b) > 0; {
			n := min(n, len(b))
			unit, err := a.Add(1, b[:n])
			if err != nil {
				return
			}
			held += n
			if len(unit) > held {
				t.Fatalf("a unit of %d bytes from entries of %d", len(unit), held)
			}
			b = b[n:]
		}
	})
}

// While a second process of a node is on its way in, the first may live and ask again for what it has no answer of. It gets
// the first answer as long as it is the one that is registered.
func TestAnswersAreKeptUntilAnotherIsRegistered(t *testing.T) {
	n := start(t, memwal.New(), newHistory())
	n.found()
	create := topic("t", control.MaxChanges+1)
	ask := func(incarnation byte, seq uint64, c control.Command) quorum.Answer {
		t.Helper()
		op := image.Operation{Node: firstBroker, Incarnation: image.UUID{0, incarnation}, Seq: seq}
		n.core.Enqueue(quorum.Proposal{Token: "ask", Request: control.Request{Operation: op, Command: c}})
		n.settle()
		return n.history.answers["ask"]
	}
	first := ask(1, 1, create)
	if first.Err != nil {
		t.Fatal(first.Err)
	}
	for seq := uint64(1); ; seq++ {
		a := ask(2, seq, register(0, 2))
		p, ok := a.Reply.(*control.BrokerProgress)
		if a.Err != nil || !ok {
			t.Fatalf("%+v", a)
		}
		again := ask(1, 1, create)
		if !p.More {
			if seq == 1 || !refused(again, control.Superseded) {
				t.Fatalf("registered after %d steps, and the first process is told %+v", seq, again)
			}
			return
		}
		if again.Err != nil || again.Reply.(*control.CreatedTopic).ID != first.Reply.(*control.CreatedTopic).ID {
			t.Fatalf("behind step %d the first process is told %+v", seq, again)
		}
	}
}

// Two processes that start with one node id may ask in one moment. Each gets an epoch of its own.
func TestIncarnationsShareNoEpoch(t *testing.T) {
	n := start(t, memwal.New(), newHistory())
	n.mustDo(formCluster())
	answers := n.mustDo(register(0, 1), register(1, 1), register(0, 2), register(0, 3))
	if a := answers; a[0].Index != a[1].Index || a[2].Index <= a[1].Index || a[3].Index <= a[2].Index {
		t.Fatalf("registered by units %d, %d, %d, %d", a[0].Index, a[1].Index, a[2].Index, a[3].Index)
	}
}
