package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

const patient = 20 * time.Second // the longest a test waits for what must happen

// call is a request that a handler has started.
type call struct {
	ctx  context.Context
	done func(*protocol.Response)
	id   byte // the request's number, which stands at its end
}

// bench is a server whose one API hands its requests to the test.
type bench struct {
	*Server
	t      *testing.T
	counts *listenerMetrics
	calls  chan call
	hold   chan struct{} // a handler of request number holds stays on the reader until this closes
}

const holds = 0xee

func newBench(t *testing.T, change func(*Config)) *bench {
	cfg := Config{MaxRequestBytes: 1 << 20, RequestMemory: 4 << 20, IdleTimeout: time.Hour, MaxPipelined: 100, MaxPipelinedBytes: 1 << 20, MaxConnections: 100, MaxConnectionsPerIP: 100}
	if change != nil {
		change(&cfg)
	}
	b := &bench{t: t, calls: make(chan call, 1000), hold: make(chan struct{})}
	b.Server = New(cfg, map[int16]Handler{protocol.KeyProduce: b.handle}, slog.New(slog.DiscardHandler), NewMetrics(prometheus.NewRegistry()))
	b.counts = b.metrics.listener("PLAINTEXT")
	t.Cleanup(func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		b.Shutdown(ctx)
		b.checkMemory()
		// A writer that ends a connection may be the last to know.
		for end := time.Now().Add(patient); ; runtime.Gosched() {
			b.mu.Lock()
			connections, addresses := len(b.open), len(b.perIP)
			b.mu.Unlock()
			if connections == 0 && addresses == 0 {
				break
			}
			if time.Now().After(end) {
				t.Errorf("%d connections are kept, from %d addresses", connections, addresses)
				break
			}
		}
	})
	return b
}

func (b *bench) handle(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	c := call{ctx, done, r.ClientID[len(r.ClientID)-1]}
	b.calls <- c
	if c.id == holds {
		<-b.hold
	}
}

// checkMemory says whether every frame has given back what it held.
func (b *bench) checkMemory() {
	b.t.Helper()
	if !b.memory.held.TryAcquire(b.memory.limit) {
		b.t.Error("a frame's memory was not given back")
		return
	}
	b.memory.held.Release(b.memory.limit)
}

func (b *bench) next() call {
	b.t.Helper()
	select {
	case c := <-b.calls:
		return c
	case <-time.After(patient):
		b.t.Fatal("no request was started")
		return call{}
	}
}

// client is the other end of a connection, without a network between.
type client struct {
	net.Conn
	t *testing.T
}

func (b *bench) connect(wrap func(net.Conn) net.Conn) *client {
	here, there := net.Pipe()
	if wrap != nil {
		there = wrap(there)
	}
	here.SetDeadline(time.Now().Add(patient))
	b.accept(context.Background(), there, "PLAINTEXT", b.counts)
	b.t.Cleanup(func() { here.Close() })
	return &client{here, b.t}
}

// conn is the server's side of the only connection.
func (b *bench) conn() *conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	for c := range b.open {
		return c
	}
	return nil
}

// request is a Produce version 3 of no topics, whose client id is padding and a
// number.
func request(number byte, padding int) []byte {
	id := append(bytes.Repeat([]byte("p"), padding), number)
	be := binary.BigEndian
	f := be.AppendUint16(nil, uint16(protocol.KeyProduce))
	f = be.AppendUint16(f, 3)
	f = be.AppendUint32(f, uint32(number))
	f = be.AppendUint16(f, uint16(len(id)))
	f = append(f, id...)
	f = append(f, 0xff, 0xff, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0)
	return append(be.AppendUint32(nil, uint32(len(f))), f...)
}

func (c *client) send(b []byte) {
	c.t.Helper()
	if _, err := c.Write(b); err != nil {
		c.t.Fatal(err)
	}
}

// receive reads one answer, which must be of this request.
func (c *client) receive(number byte) []byte {
	c.t.Helper()
	var head [8]byte
	if _, err := io.ReadFull(c, head[:]); err != nil {
		c.t.Fatalf("no answer to %d: %v", number, err)
	}
	if got := binary.BigEndian.Uint32(head[4:]); got != uint32(number) {
		c.t.Fatalf("answer %d came where %d was due", got, number)
	}
	body := make([]byte, binary.BigEndian.Uint32(head[:])-4)
	if _, err := io.ReadFull(c, body); err != nil {
		c.t.Fatal(err)
	}
	return body
}

// ended checks that nothing more comes.
func (c *client) ended() {
	c.t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		c.t.Fatalf("the connection goes on: %d bytes, %v", n, err)
	}
}

// until waits for a state of the connection.
func (c *conn) until(t *testing.T, state func() bool) {
	t.Helper()
	for end := time.Now().Add(patient); ; runtime.Gosched() {
		c.mu.Lock()
		ok := state()
		c.mu.Unlock()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatal("the connection does not come to that")
		}
	}
}

func answerOf(n byte) *protocol.Response { return &protocol.Response{Head: []byte{n, n}} }

// Answers keep the order of their requests in whatever order they complete,
// and acks=0 takes no place among them.
func TestAnswersKeepTheirOrder(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 0))
		b := newBench(t, nil)
		c := b.connect(nil)
		const n = 20
		silent := map[byte]bool{}
		calls := make([]call, n)
		for i := range byte(n) {
			c.send(request(i, 0))
			calls[i] = b.next()
			silent[i] = rng.IntN(4) == 0
		}
		for _, i := range rng.Perm(n) {
			go func() {
				if silent[byte(i)] {
					calls[i].done(nil)
				} else {
					calls[i].done(answerOf(byte(i)))
				}
			}()
		}
		for i := range byte(n) {
			if !silent[i] {
				if got := c.receive(i); !bytes.Equal(got, []byte{i, i}) {
					t.Fatalf("seed %d: answer %d is %x", seed, i, got)
				}
			}
		}
	}
}

// A handler that stays on the reader does not keep back earlier answers.
func TestAnswerWhileAHandlerWaits(t *testing.T) {
	b := newBench(t, nil)
	c := b.connect(nil)
	c.send(request(1, 0))
	first := b.next()
	c.send(request(holds, 0))
	second := b.next()
	first.done(answerOf(1))
	c.receive(1)
	second.done(answerOf(holds)) // it is the reader that writes it
	close(b.hold)
	c.receive(holds)
}

// An answer leaves when its request holds no memory any more, whoever writes
// it: so a client that does not read its answers keeps none of what is shared.
func TestRequestHoldsNoMemoryWhileItsAnswerLeaves(t *testing.T) {
	for _, number := range []byte{holds, 1} { // the reader writes the answer, and somebody else
		b := newBench(t, nil)
		held := int64(-1)
		c := b.connect(func(nc net.Conn) net.Conn {
			return &hooked{Conn: nc, writeDeadline: func(at time.Time) time.Time { // before each write
				held = b.memory.inUse.Load()
				return at
			}}
		})
		c.send(request(number, 1000))
		x := b.next()
		if number == holds {
			x.done(answerOf(number))
			close(b.hold)
		} else {
			server := b.conn()
			server.until(t, func() bool { return server.started == nil })
			x.done(answerOf(number))
		}
		c.receive(number)
		if held != 0 {
			t.Errorf("while answer %#x was written, its request held %d bytes", number, held)
		}
	}
}

// Large and small parts leave in order behind their head.
func TestPartsOfAnAnswer(t *testing.T) {
	b := newBench(t, nil)
	c := b.connect(nil)
	c.send(request(1, 0))
	var want []byte
	resp := &protocol.Response{Head: []byte("head")}
	want = append(want, resp.Head...)
	for i, size := range []int{1, copyBelow - 1, copyBelow, 0, flushAt, 3, 200_000, 7} {
		part := bytes.Repeat([]byte{byte(i)}, size)
		resp.Parts = append(resp.Parts, protocol.Bytes(part))
		want = append(want, part...)
	}
	b.next().done(resp)
	if got := c.receive(1); !bytes.Equal(got, want) {
		t.Errorf("%d bytes came, not the %d that were sent", len(got), len(want))
	}
}

func TestReaderStopsAtTooManyWaitingAnswers(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxPipelined = 4 })
	c := b.connect(nil)
	go func() {
		for i := range byte(10) {
			c.Write(request(i, 0))
		}
	}()
	var calls []call
	for range 4 {
		calls = append(calls, b.next())
	}
	side := b.conn()
	side.until(t, func() bool { return side.room != nil }) // the reader waits for room
	if len(b.calls) != 0 {
		t.Fatal("a fifth request was started")
	}
	calls[1].done(answerOf(1)) // behind the head: no room yet
	side.until(t, func() bool { return side.room != nil && len(side.queue) == 4 })
	if len(b.calls) != 0 {
		t.Fatal("a request was started although none was answered")
	}
	calls[0].done(answerOf(0))
	c.receive(0)
	c.receive(1)
	for range 2 {
		calls = append(calls, b.next())
	}
	side.until(t, func() bool { return side.room != nil && len(side.queue) == 4 })
	if len(b.calls) != 0 {
		t.Fatal("more than the room of two was filled")
	}
}

func TestReaderStopsAtTooManyWaitingBytes(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxPipelinedBytes = 1000 })
	c := b.connect(nil)
	c.send(request(0, 0))
	first := b.next()
	c.send(request(1, 0))
	large := b.next()
	c.send(request(2, 0))
	third := b.next()
	side := b.conn()
	large.done(&protocol.Response{Head: make([]byte, 400), Parts: []protocol.Part{protocol.Bytes(make([]byte, 600))}})
	go func() {
		c.Write(request(3, 0))
		c.Write(request(4, 0))
	}()
	side.until(t, func() bool { return side.room != nil })
	// The reader may have been waiting for a frame: that one is still read.
	if n := len(b.calls); n > 1 {
		t.Fatalf("%d requests were started", n)
	}
	first.done(answerOf(0))
	c.receive(0)
	c.receive(1)
	fourth, fifth := b.next(), b.next()
	for i, x := range []call{third, fourth, fifth} {
		x.done(answerOf(byte(i + 2)))
		c.receive(byte(i + 2))
	}
	side.until(t, func() bool { return side.held == 0 && len(side.queue) == 0 })
}

// What waits is counted whichever way it is answered: a body completed by its
// handler by its bytes, a later one by its weight.
func TestReaderStopsAtTooManyWaitingBodies(t *testing.T) {
	for name, c := range map[string]struct {
		number byte
		topic  string
		weight int
	}{"by its handler": {holds, string(make([]byte, 2000)), 0}, "later": {1, "t", 2000}} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, func(c *Config) { c.MaxPipelinedBytes = 1000 })
			client := b.connect(nil)
			client.send(request(0, 0))
			first := b.next()
			client.send(request(c.number, 0))
			second := b.next()
			side := b.conn()
			if c.number != holds {
				side.until(t, func() bool { return side.started == nil })
			}
			body := kmsg.NewPtrProduceResponse()
			body.Version = 3
			body.Topics = []kmsg.ProduceResponseTopic{{Topic: c.topic}}
			second.done(&protocol.Response{Body: body, Weight: c.weight})
			close(b.hold)
			go client.Write(request(2, 0))
			side.until(t, func() bool { return side.room != nil })
			first.done(answerOf(0))
			client.receive(0)
			if got, want := client.receive(c.number), body.AppendTo(nil); !bytes.Equal(got, want) {
				t.Errorf("%d bytes came, not the %d that were sent", len(got), len(want))
			}
			b.next().done(nil)
			side.until(t, func() bool { return side.held == 0 && len(side.queue) == 0 })
		})
	}
}

// A stop answers what was read, reads no more, and ends.
func TestDrain(t *testing.T) {
	b := newBench(t, nil)
	c, idle := b.connect(nil), b.connect(nil)
	c.send(request(0, 0))
	first := b.next()
	c.send(request(1, 0))
	second := b.next()
	stopped := make(chan struct{})
	go func() { b.Shutdown(context.Background()); close(stopped) }()
	idle.ended()
	second.done(answerOf(1))
	select {
	case <-stopped:
		t.Fatal("stopped before everything was answered")
	default:
	}
	first.done(answerOf(0))
	c.receive(0)
	c.receive(1)
	c.ended()
	<-stopped
	here, there := net.Pipe()
	b.accept(context.Background(), there, "PLAINTEXT", b.counts)
	(&client{here, t}).ended() // no further connections
}

// A stop that has no more time cuts connections, and their handlers know.
func TestDrainIsCutShort(t *testing.T) {
	b := newBench(t, nil)
	c := b.connect(nil)
	c.send(request(0, 0))
	x := b.next()
	ctx, cancel := context.WithCancel(context.Background())
	stopped := make(chan struct{})
	go func() { b.Shutdown(ctx); close(stopped) }()
	cancel()
	c.ended()
	<-stopped
	<-x.ctx.Done()
	released := 0
	x.done(&protocol.Response{Head: []byte{1}, Release: func() { released++ }})
	if released != 1 {
		t.Errorf("an answer that nobody gets was released %d times", released)
	}
}

// hooked calls back around what a connection does.
type hooked struct {
	net.Conn
	read          func(n int, err error)
	writeDeadline func(time.Time) time.Time
}

func (h *hooked) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	if h.read != nil {
		h.read(n, err)
	}
	return n, err
}

func (h *hooked) SetWriteDeadline(at time.Time) error {
	if h.writeDeadline != nil {
		at = h.writeDeadline(at)
	}
	return h.Conn.SetWriteDeadline(at)
}

// A stop that comes with the last byte of a request does not lose its memory,
// and one that comes in the middle does not wait for a client that stalls.
func TestStopInsideARequest(t *testing.T) {
	whole := request(0, 200)
	large := make([]byte, 4, 4+firstRead)
	binary.BigEndian.PutUint32(large, firstRead*2)
	large = append(large, whole[4:]...)
	large = large[:4+firstRead]
	for name, frame := range map[string][]byte{"at its last byte": whole, "where its buffer grows": large} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t, nil)
			seen := 0
			c := b.connect(func(nc net.Conn) net.Conn {
				return &hooked{Conn: nc, read: func(n int, _ error) {
					if seen += n; seen == len(frame) {
						seen++
						b.conn().stop()
					}
				}}
			})
			c.send(frame)
			c.ended()
			b.conns.Wait()
			b.checkMemory()
		})
	}
}

// Nobody is idle while an answer is on its way, however slowly it is taken.
func TestSlowReaderIsNotIdle(t *testing.T) {
	silent := make(chan struct{}, 100)
	b := newBench(t, func(c *Config) { c.IdleTimeout = 10 * time.Millisecond })
	c := b.connect(func(nc net.Conn) net.Conn {
		return &hooked{Conn: nc, read: func(_ int, err error) {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				silent <- struct{}{}
			}
		}}
	})
	c.send(request(7, 0))
	x := b.next()
	side := b.conn()
	side.until(t, func() bool { return side.started == nil })
	x.done(&protocol.Response{Head: make([]byte, 100)})
	side.until(t, func() bool { return side.writing && len(side.queue) == 0 })
	for range 3 {
		select {
		case <-silent:
		case <-time.After(patient):
			t.Fatal("the reader has gone")
		}
	}
	c.receive(7)
	c.ended() // now it is idle
}

// A client that does not read holds up nobody but itself, and is cut off.
func TestClientThatDoesNotRead(t *testing.T) {
	b := newBench(t, nil)
	cut := make(chan struct{})
	var released atomic.Int32
	deaf := b.connect(func(nc net.Conn) net.Conn {
		return &hooked{Conn: nc, writeDeadline: func(at time.Time) time.Time {
			if until := time.Until(at); until < grace/2 || until > 2*grace {
				t.Errorf("a small answer may take %v", until)
			}
			<-cut
			return time.Now()
		}}
	})
	deaf.send(request(0, 0))
	x := b.next()
	side := b.conn()
	side.until(t, func() bool { return side.started == nil })                        // else the reader writes the answer
	x.done(&protocol.Response{Head: []byte{1}, Release: func() { released.Add(1) }}) // does not block
	deaf.send(request(1, 0))
	y := b.next()
	y.done(&protocol.Response{Head: []byte{1}, Release: func() { released.Add(1) }})
	other := b.connect(nil)
	other.send(request(2, 0))
	b.next().done(answerOf(2))
	other.receive(2)
	close(cut)
	<-x.ctx.Done()
	for end := time.Now().Add(patient); released.Load() != 2; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d of 2 answers were released", released.Load())
		}
	}
}

// An answer that ends the connection leaves after those before it; what stands
// behind it is dropped.
func TestAnswerThatCloses(t *testing.T) {
	b := newBench(t, nil)
	c := b.connect(nil)
	var calls []call
	for i := range byte(3) {
		c.send(request(i, 0))
		calls = append(calls, b.next())
	}
	released := make(chan struct{}, 2)
	calls[2].done(&protocol.Response{Head: []byte{1}, Release: func() { released <- struct{}{} }})
	calls[1].done(&protocol.Response{Close: true, Release: func() { released <- struct{}{} }})
	calls[0].done(answerOf(0))
	c.receive(0)
	c.ended()
	<-released
	<-released
}

// failing is a part that breaks off, as a file does whose disk has failed.
type failing struct{ size, good int }

func (f failing) Len() int64 { return int64(f.size) }
func (f failing) WriteTo(w io.Writer) (int64, error) {
	n, _ := w.Write(make([]byte, f.good))
	return int64(n), errors.New("the disk has failed")
}

// The length is sent already: nothing but the end can tell the client.
func TestPartThatFails(t *testing.T) {
	for _, size := range []int{100, copyBelow * 2} {
		b := newBench(t, nil)
		c := b.connect(nil)
		c.send(request(0, 0))
		released := make(chan struct{}, 1)
		b.next().done(&protocol.Response{Head: []byte{1}, Parts: []protocol.Part{failing{size, size / 2}}, Release: func() { released <- struct{}{} }})
		if all, err := io.ReadAll(c); err != nil || len(all) >= size {
			t.Errorf("%d bytes of an answer with %d, %v", len(all), size, err)
		}
		<-released
	}
}

// Connections end at any moment, on either side. Each answer is released once,
// and all frame memory comes back.
func TestEverythingIsReleasedOnce(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 0))
		b := newBench(t, func(c *Config) { c.MaxPipelined = 8 })
		var made, released atomic.Int32
		var work sync.WaitGroup
		for range 4 {
			c := b.connect(nil)
			n, partial := rng.IntN(30), rng.IntN(3) == 0
			c.SetDeadline(time.Now().Add(time.Duration(rng.IntN(5000)) * time.Microsecond)) // and then it ends
			work.Go(func() {
				for i := range byte(n) {
					if _, err := c.Write(request(i, 100)); err != nil {
						return
					}
				}
				if partial {
					c.Write(request(0, 100)[:50])
				}
			})
			work.Go(func() { io.Copy(io.Discard, c); c.Close() })
		}
		stop := make(chan struct{})
		delays := rand.New(rand.NewPCG(seed, 1))
		var handlers sync.WaitGroup
		handlers.Go(func() {
			for {
				var x call
				select {
				case x = <-b.calls:
				case <-stop:
					return
				}
				made.Add(1)
				resp := &protocol.Response{Head: make([]byte, delays.IntN(3000)+1), Close: delays.IntN(40) == 0, Release: func() { released.Add(1) }}
				if delays.IntN(2) == 0 {
					resp.Parts = []protocol.Part{protocol.Bytes(make([]byte, delays.IntN(70_000)))}
				}
				handlers.Go(func() { x.done(resp) })
			}
		})
		work.Wait()
		ctx, cancel := context.WithCancel(context.Background())
		cancel()
		b.Shutdown(ctx)
		for len(b.calls) > 0 {
			runtime.Gosched()
		}
		close(stop)
		handlers.Wait()
		// The last writer may still be letting go of what it could not send.
		for end := time.Now().Add(patient); released.Load() < made.Load() && time.Now().Before(end); {
			runtime.Gosched()
		}
		if made.Load() != released.Load() {
			t.Fatalf("seed %d: %d answers, %d released", seed, made.Load(), released.Load())
		}
		b.checkMemory()
	}
}

// A frame that waits for memory gets it when another gives it back.
func TestFrameMemoryIsShared(t *testing.T) {
	b := newBench(t, func(c *Config) { c.RequestMemory = firstRead })
	one, two := b.connect(nil), b.connect(nil)
	half := make([]byte, 4+1000)
	binary.BigEndian.PutUint32(half, firstRead) // all there is
	copy(half[4:], request(0, 0)[4:])
	one.send(half)
	for b.memory.held.TryAcquire(1) { // until the frame holds it
		b.memory.held.Release(1)
		runtime.Gosched()
	}
	sent := make(chan struct{})
	go func() { two.Write(request(2, 0)); close(sent) }()
	<-sent
	one.Close()
	if x := b.next(); x.id != 2 {
		t.Errorf("request %d", x.id)
	}
}
