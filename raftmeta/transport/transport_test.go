package transport

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

var (
	errCut  = errors.New("the link is cut")
	errLost = errors.New("the link is cut before the answer") // the receiver has what was sent
)

// pipe is a stream into a receiver. A hook may change what happens to a call; one that blocks is to end with ctx or the
// pipe.
type pipe struct {
	net    *network
	peer   Peer
	closed chan struct{}
	once   sync.Once
}

func (p *pipe) Close() { p.once.Do(func() { close(p.closed) }) }

func (p *pipe) Send(ctx context.Context, frame []byte) error {
	p.net.mu.Lock()
	f := p.net.onSend
	p.net.mu.Unlock()
	if f != nil {
		if err := f(p, frame); err != nil {
			return err
		}
	}
	return p.net.deliver(p.peer, frame)
}

func (p *pipe) Call(ctx context.Context, header, data []byte) ([]byte, error) {
	p.net.calls++
	p.net.moved += len(data)
	var lost error
	if f := p.net.onCall; f != nil {
		lost = f(p, data)
		if lost != nil && !errors.Is(lost, errLost) {
			return nil, lost
		}
	}
	next, whole, err := p.net.receiver.Chunk(header, data)
	if err != nil {
		return nil, err
	}
	if whole != nil {
		p.net.snapshots = append(p.net.snapshots, *whole)
	}
	return Ack(next), lost
}

// block waits until the pipe is closed.
func (p *pipe) block() error {
	<-p.closed
	return errCut
}

// network is two nodes, 1 and 2, with pipes between them, and what was seen of 1's transport. Tests run in a bubble and
// look only while everything in it waits.
type network struct {
	*Transport
	t        *testing.T
	reg      *prometheus.Registry
	receiver *Receiver
	onDial   func(Peer) error
	onSend   func(*pipe, []byte) error
	onCall   func(*pipe, []byte) error

	mu          sync.Mutex
	dials       []time.Time
	frames      [][]string
	unreachable int
	done        []bool

	calls, moved int
	snapshots    []Snapshot
}

const cluster = "a cluster"

// run runs a test in a bubble, and sees that the transport leaves nothing running.
func run(t *testing.T, test func(*testing.T, *network)) {
	synctest.Test(t, func(t *testing.T) {
		n := &network{t: t, receiver: NewReceiver(2, cluster), reg: prometheus.NewRegistry()}
		n.Transport = New(Config{
			Self: 1, ClusterID: cluster, Dial: n.dial, SnapshotTimeout: time.Minute,
			Unreachable:  func(id uint64) { n.mu.Lock(); n.unreachable++; n.mu.Unlock() },
			SnapshotDone: func(id uint64, ok bool) { n.mu.Lock(); n.done = append(n.done, ok); n.mu.Unlock() },
			Logger:       slog.New(slog.DiscardHandler), Registerer: n.reg,
		})
		n.SetPeers([]Peer{{1, "self"}, {2, "two"}})
		test(t, n)
		n.set(func() {})
		n.Close()
	})
}

func (n *network) dial(_ context.Context, p Peer) (Stream, error) {
	n.mu.Lock()
	n.dials = append(n.dials, time.Now())
	f := n.onDial
	n.mu.Unlock()
	if f != nil {
		if err := f(p); err != nil {
			return nil, err
		}
	}
	return &pipe{net: n, peer: p, closed: make(chan struct{})}, nil
}

func (n *network) deliver(p Peer, frame []byte) error {
	_, messages, err := n.receiver.Deliver(frame)
	if err != nil {
		return err
	}
	var texts []string
	for _, m := range messages {
		texts = append(texts, string(m))
	}
	n.mu.Lock()
	n.frames = append(n.frames, texts)
	n.mu.Unlock()
	return nil
}

// pass lets time pass, and what comes of it come to an end. What the test has looked at may then change.
func (n *network) pass(d time.Duration) {
	n.set(func() {})
	<-time.After(d)
	synctest.Wait()
}

// set changes something in the middle of a test.
func (n *network) set(f func()) {
	n.mu.Lock()
	defer n.mu.Unlock()
	f()
}

// reports are those of snapshots so far.
func (n *network) reports() []bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.done)
}

func (n *network) got() []string { return slices.Concat(n.frames...) }

func (n *network) dropped() float64 {
	families, err := n.reg.Gather()
	if err != nil {
		n.t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() == "streambus_raft_dropped_total" {
			return f.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

// What is queued while a frame is on its way goes into the next one, the urgent first, each class in its order.
func TestOrder(t *testing.T) {
	run(t, func(t *testing.T, n *network) {
		free := make(chan struct{})
		n.onSend = func(*pipe, []byte) error { <-free; return nil }
		n.Send(2, Bulk, []byte("first"))
		synctest.Wait()
		for i := range 3 {
			n.Send(2, Bulk, fmt.Append(nil, "b", i))
			n.Send(2, Urgent, fmt.Append(nil, "u", i))
		}
		n.Send(3, Urgent, []byte("to nobody"))
		close(free)
		synctest.Wait()
		if got := fmt.Sprint(n.frames); got != "[[first] [u0 u1 u2 b0 b1 b2]]" {
			t.Errorf("frames %s", got)
		}
		if len(n.dials) != 1 || n.unreachable != 0 || n.dropped() != 0 {
			t.Errorf("%d dials, %d reports, %v dropped", len(n.dials), n.unreachable, n.dropped())
		}
	})
}

func TestFramesAreBounded(t *testing.T) {
	run(t, func(t *testing.T, n *network) {
		free := make(chan struct{})
		n.onSend = func(*pipe, []byte) error { <-free; return nil }
		n.Send(2, Bulk, []byte("first"))
		synctest.Wait()
		large := func(c string, size int) []byte { return []byte(c + strings.Repeat(".", size)) }
		for i, size := range []int{10, frameRoom - 100, 200, 2 * frameRoom, 5, 6} {
			n.Send(2, Bulk, large(fmt.Sprint(i), size))
		}
		n.Send(2, Urgent, large("x", frameRoom-100))
		n.Send(2, Urgent, large("y", 200))
		close(free)
		synctest.Wait()
		var got []string
		for _, f := range n.frames[1:] {
			s := ""
			for _, m := range f {
				s += m[:1]
			}
			got = append(got, s)
		}
		if fmt.Sprint(got) != "[x y0 1 2 3 45]" {
			t.Errorf("frames of %v", got)
		}
	})
}

// A peer that takes nothing blocks nobody: its queues fill, what is beyond is dropped and reported, and the urgent still
// has its own room. In the end its connection is given up.
func TestBlockedStream(t *testing.T) {
	run(t, func(t *testing.T, n *network) {
		n.onSend = func(p *pipe, _ []byte) error { return p.block() }
		begun := time.Now()
		n.Send(2, Bulk, []byte("on its way"))
		synctest.Wait()
		for range bounds[Bulk].messages {
			n.Send(2, Bulk, []byte("queued"))
		}
		if n.unreachable != 0 {
			t.Fatalf("%d reports before the queue is full", n.unreachable)
		}
		for range 10 {
			n.Send(2, Bulk, []byte("beyond"))
		}
		if n.unreachable != 10 || n.dropped() != 10 {
			t.Errorf("%d reports, %v dropped", n.unreachable, n.dropped())
		}
		for range bounds[Urgent].messages {
			n.Send(2, Urgent, []byte("urgent"))
		}
		n.Send(2, Urgent, []byte("urgent beyond"))
		if n.unreachable != 11 || time.Since(begun) != 0 {
			t.Errorf("%d reports after %v", n.unreachable, time.Since(begun))
		}
		n.pass(writeTime + time.Millisecond)
		if want := 11 + 1 + bounds[Bulk].messages + bounds[Urgent].messages; n.unreachable != 12 || n.dropped() != float64(want) {
			t.Errorf("%d reports, %v dropped of %d", n.unreachable, n.dropped(), want)
		}
		n.set(func() { n.onSend = nil })
		n.Send(2, Bulk, []byte("after"))
		n.pass(2 * longestWait)
		if got := fmt.Sprint(n.got()); got != "[after]" {
			t.Errorf("on the next connection %s", got)
		}
	})
}

func TestQueuesAreBoundedInBytes(t *testing.T) {
	run(t, func(t *testing.T, n *network) {
		n.onSend = func(p *pipe, _ []byte) error { return p.block() }
		n.Send(2, Bulk, nil)
		synctest.Wait()
		m := make([]byte, bounds[Bulk].bytes/4)
		for range 4 {
			n.Send(2, Bulk, m)
		}
		if n.Send(2, Bulk, []byte("x")); n.unreachable != 1 {
			t.Errorf("%d reports", n.unreachable)
		}
		if n.Send(2, Urgent, []byte("x")); n.unreachable != 1 {
			t.Errorf("the urgent has no room")
		}
	})
}

// A node that is not there is tried again, more and more seldom, as long as there is something to say, and found when it
// comes back.
func TestReconnect(t *testing.T) {
	run(t, func(t *testing.T, n *network) {
		n.onDial = func(Peer) error { return errCut }
		begun := time.Now()
		for i := 0; time.Since(begun) < 20*time.Second; i++ {
			n.Send(2, Urgent, fmt.Append(nil, i))
			n.pass(10 * time.Millisecond)
		}
		synctest.Wait()
		if tries := len(n.dials); tries < 20 || tries > 55 {
			t.Errorf("%d attempts in 20 s", tries)
		}
		for i, at := range n.dials[1:] {
			if gap := at.Sub(n.dials[i]); gap < firstPause/2 || gap > longestWait+10*time.Millisecond {
				t.Errorf("attempt %d came %v after the one before", i+1, gap)
			}
		}
		if n.unreachable != len(n.dials) {
			t.Errorf("%d attempts and %d reports", len(n.dials), n.unreachable)
		}
		n.set(func() { n.onDial = nil })
		n.pass(longestWait)
		n.Send(2, Urgent, []byte("back"))
		synctest.Wait()
		if got := n.got(); len(got) == 0 || got[len(got)-1] != "back" {
			t.Errorf("it got %v", got)
		}
	})
}

// A connection that breaks takes along what was queued for it; the next one begins with what came after, and a peer that
// takes connections only to drop them is not dialled in a hot loop.
func TestBrokenConnection(t *testing.T) {
	run(t, func(t *testing.T, n *network) {
		n.Send(2, Bulk, []byte("one"))
		synctest.Wait()
		cut := make(chan struct{})
		n.set(func() { n.onSend = func(*pipe, []byte) error { <-cut; return errCut } })
		n.Send(2, Bulk, []byte("two"))
		synctest.Wait()
		n.Send(2, Bulk, []byte("three"))
		close(cut)
		synctest.Wait()
		if n.unreachable != 1 || n.dropped() != 2 {
			t.Errorf("%d reports, %v dropped", n.unreachable, n.dropped())
		}
		dials := len(n.dials)
		for range 1000 {
			n.Send(2, Bulk, []byte("lost"))
			n.pass(time.Millisecond)
		}
		if more := len(n.dials) - dials; more > 10 {
			t.Errorf("%d connections in a second to a peer that drops them", more)
		}
		n.set(func() { n.onSend = nil })
		n.pass(2 * longestWait)
		n.set(func() { n.frames = nil })
		n.Send(2, Bulk, []byte("four"))
		synctest.Wait()
		if got := n.got(); fmt.Sprint(got) != "[four]" {
			t.Errorf("it got %v", got)
		}
	})
}

func TestSetPeers(t *testing.T) {
	run(t, func(t *testing.T, n *network) {
		var addrs []string
		n.onDial = func(p Peer) error { addrs = append(addrs, p.Addr); return nil }
		send := func(text string) { n.Send(2, Bulk, []byte(text)); synctest.Wait() }
		send("a")
		n.SetPeers([]Peer{{2, "two"}}) // as it was: the connection stays
		send("b")
		n.SetPeers([]Peer{{2, "elsewhere"}})
		send("c")
		n.SetPeers(nil)
		send("d")
		n.SetPeers([]Peer{{2, "two"}})
		send("e")
		if fmt.Sprint(addrs, n.got()) != "[two elsewhere two] [a b c e]" {
			t.Errorf("dialled %v, sent %v", addrs, n.got())
		}
		n.set(func() { n.onSend = func(p *pipe, _ []byte) error { return p.block() } })
		send("under way")
		n.SetPeers(nil) // which waits for nobody, and ends that
		synctest.Wait()
		n.Close()
		n.SetPeers([]Peer{{2, "two"}})
		send("after the end")
		if len(addrs) != 3 {
			t.Errorf("dialled %v", addrs)
		}
	})
}

func body(size int) []byte {
	b := make([]byte, size)
	for i := range b {
		b[i] = byte(i>>10 + i)
	}
	return b
}

func of(b []byte) func() ([]byte, error) { return func() ([]byte, error) { return b, nil } }

// came checks that one snapshot has come, and that this was reported, once.
func (n *network) came(data []byte) {
	n.t.Helper()
	synctest.Wait()
	if !slices.Equal(n.done, []bool{true}) || len(n.snapshots) != 1 {
		n.t.Fatalf("reports %v, %d snapshots", n.done, len(n.snapshots))
	}
	if s := n.snapshots[0]; s.From != 1 || string(s.Meta) != "meta" || !bytes.Equal(s.Data, data) {
		n.t.Errorf("a snapshot from %d, %q, of %d bytes", s.From, s.Meta, len(s.Data))
	}
}

func TestSnapshot(t *testing.T) {
	for _, size := range []int{0, 1, pieceSize, 2*pieceSize + 7} {
		run(t, func(t *testing.T, n *network) {
			data := body(size)
			n.SendSnapshot(2, []byte("meta"), of(data))
			n.came(data)
			if n.moved != size {
				t.Errorf("%d bytes were sent of %d", n.moved, size)
			}
		})
	}
}

// A cut costs the piece under way, and its answer lost not even that.
func TestSnapshotResumes(t *testing.T) {
	for name, cut := range map[string]error{"before a piece": errCut, "before its answer": errLost} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, n *network) {
				data := body(2*pieceSize + 7)
				for at := 1; at <= 4; at++ {
					n.calls, n.moved, n.snapshots, n.done = 0, 0, nil, nil
					n.onCall = func(*pipe, []byte) error {
						if n.calls == at {
							return cut
						}
						return nil
					}
					n.SendSnapshot(2, []byte("meta"), of(data))
					n.pass(2 * longestWait)
					n.came(data)
					again := n.moved - len(data)
					if again > pieceSize || cut == errLost && again > 0 {
						t.Errorf("cut at call %d: %d bytes were sent again", at, again)
					}
				}
			})
		})
	}
}

// A receiver that has begun anew, or got something else than was sent, gets it all again.
func TestSnapshotBeginsAgain(t *testing.T) {
	for name, harm := range map[string]func(*network, []byte){
		"receiver restarts": func(n *network, _ []byte) { n.receiver = NewReceiver(2, cluster) },
		"damaged":           func(n *network, data []byte) { n.receiver.pieces.by[1].data[3]++ },
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, n *network) {
				data := body(3 * pieceSize)
				n.onCall = func(_ *pipe, piece []byte) error {
					if n.calls == 3 {
						harm(n, piece)
					}
					return nil
				}
				n.SendSnapshot(2, []byte("meta"), of(data))
				n.pass(2 * longestWait)
				n.came(data)
			})
		})
	}
}

func TestSnapshotFails(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(*network)
		wait time.Duration
	}{
		"nobody there": {func(n *network) {
			n.onDial = func(Peer) error { return errCut }
			n.SendSnapshot(2, nil, of(body(10)))
		}, time.Minute},
		"a link that breaks always": {func(n *network) {
			n.onCall = func(*pipe, []byte) error { return errCut }
			n.SendSnapshot(2, nil, of(body(10)))
		}, time.Minute},
		"a peer that does not answer": {func(n *network) {
			n.onCall = func(p *pipe, _ []byte) error { return p.block() }
			n.SendSnapshot(2, nil, of(body(10)))
		}, time.Minute},
		"refused": {func(n *network) {
			n.receiver = NewReceiver(2, "another cluster")
			n.SendSnapshot(2, nil, of(body(10)))
		}, time.Minute},
		"unreadable": {func(n *network) {
			n.SendSnapshot(2, nil, func() ([]byte, error) { return nil, errCut })
		}, 0},
		"too large":      {func(n *network) { n.SendSnapshot(2, nil, of(make([]byte, maxSnapshot+1))) }, 0},
		"no such peer":   {func(n *network) { n.SendSnapshot(3, nil, of(nil)) }, 0},
		"peer removed":   {func(n *network) { n.hang(); n.SetPeers(nil) }, 0},
		"transport ends": {func(n *network) { n.hang(); n.Close() }, 0},
		"after its end":  {func(n *network) { n.Close(); n.SendSnapshot(2, nil, of(nil)) }, 0},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, func(t *testing.T, n *network) {
				begun := time.Now()
				c.do(n)
				synctest.Wait()
				if c.wait > 0 {
					if len(n.reports()) != 0 {
						t.Fatal("it gave up at once")
					}
					n.pass(c.wait + time.Millisecond)
				}
				if !slices.Equal(n.done, []bool{false}) {
					t.Errorf("reports %v after %v", n.done, time.Since(begun))
				}
			})
		})
	}
}

// hang begins a snapshot that does not get anywhere.
func (n *network) hang() {
	n.onCall = func(p *pipe, _ []byte) error { return p.block() }
	n.SendSnapshot(2, nil, of(body(10)))
	synctest.Wait()
}

func TestOneSnapshotPerPeer(t *testing.T) {
	run(t, func(t *testing.T, n *network) {
		free := make(chan struct{})
		n.onCall = func(*pipe, []byte) error { <-free; return nil }
		n.SendSnapshot(2, []byte("meta"), of(body(10)))
		synctest.Wait()
		n.SendSnapshot(2, []byte("meta"), of(body(11)))
		if !slices.Equal(n.reports(), []bool{false}) {
			t.Fatalf("reports %v of a second one", n.done)
		}
		n.Send(2, Bulk, []byte("message"))
		synctest.Wait()
		if len(n.got()) != 1 {
			t.Error("messages wait for a snapshot")
		}
		n.done = nil
		close(free)
		n.came(body(10))
		n.done, n.snapshots = nil, nil
		n.SendSnapshot(2, []byte("meta"), of(body(10))) // the same again is sent again
		n.came(body(10))
	})
}
