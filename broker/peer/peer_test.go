package peer

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/server"
	"github.com/streambus/streambus/protocol"
)

const patient = 20 * time.Second // the longest a test waits for what must happen

var generous = Config{
	ClientID: "node-1", DialTimeout: patient, WriteTimeout: patient, AnswerTimeout: patient,
	MaxInFlight: 100, MaxAnswerBytes: 16 << 20,
}

type started struct {
	key     int16
	header  string
	data    string
	respond func(*protocol.Response)
}

// answer answers with the request's header and other data.
func (s started) answer(data string) {
	s.respond(&protocol.Response{Body: protocol.NewNodeRequest(s.key).Answer([]byte(s.header), []byte(data))})
}

// node is a server whose requests the test answers.
type node struct {
	t      *testing.T
	addr   string
	srv    *server.Server
	starts chan started
}

func startNode(t *testing.T, side protocol.Side) *node {
	n := &node{t: t, starts: make(chan started, 1000)}
	routes := map[int16]server.Handler{protocol.KeyApiVersions: func(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
		resp := kmsg.NewPtrApiVersionsResponse()
		resp.Version, resp.ApiKeys = r.Version, protocol.Versions(r.Conn.Side)
		done(&protocol.Response{Body: resp})
	}}
	for key := protocol.KeyRaft; key <= protocol.KeyHello; key++ {
		routes[key] = n.handle
	}
	n.srv = server.New(server.Config{
		Side: side, MaxRequestBytes: 32 << 20, RequestMemory: 64 << 20, IdleTimeout: time.Hour,
		MaxPipelined: 100, MaxPipelinedBytes: 64 << 20, MaxConnections: 100, MaxConnectionsPerIP: 100,
	}, routes, slog.New(slog.DiscardHandler), server.NewMetrics(prometheus.NewRegistry()))
	ln := listen(t)
	n.addr = ln.Addr().String()
	go n.srv.Serve(context.Background(), ln, "CONTROLLER")
	t.Cleanup(func() { ln.Close(); n.cut() })
	return n
}

func (n *node) handle(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	body := r.Body.(*protocol.NodeRequest)
	s := started{r.Key, string(body.Header), string(body.Data), done}
	if r.Key == protocol.KeyRaft {
		done(nil)
	}
	n.starts <- s
}

// cut ends all connections, with whatever is under way on them.
func (n *node) cut() {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	n.srv.Shutdown(ctx)
}

func (n *node) next() started {
	n.t.Helper()
	return receive(n.t, n.starts)
}

func receive[T any](t *testing.T, c <-chan T) T {
	t.Helper()
	select {
	case x := <-c:
		return x
	case <-time.After(patient):
		t.Fatal("it does not come")
		panic("not reached")
	}
}

func listen(t *testing.T) net.Listener {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln
}

func dial(t *testing.T, addr string, cfg Config) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		select {
		case <-c.ended:
		default:
			t.Error("a closed connection still reads")
		}
	})
	return c
}

type outcome struct {
	header, data string
	err          error
}

// call begins a call.
func (c *Conn) call(ctx context.Context, header any, data string) <-chan outcome {
	out := make(chan outcome, 1)
	go func() {
		h, d, err := c.Call(ctx, protocol.KeySubmit, header, []byte(data))
		out <- outcome{string(h), string(d), err}
	}()
	return out
}

// check looks at an error: what it says, and whether the request was sent.
func check(t *testing.T, err error, sent bool, text string) {
	t.Helper()
	failed, ok := errors.AsType[*Error](err)
	switch {
	case !ok:
		t.Errorf("the error is %v", err)
	case failed.Sent != sent:
		t.Errorf("sent is %v in %q", failed.Sent, err)
	case !strings.Contains(err.Error(), text):
		t.Errorf("no %q in %q", text, err)
	}
}

// Calls are under way together, and each gets its own answer in whatever order
// they are carried out.
func TestCallsArePipelined(t *testing.T) {
	n := startNode(t, protocol.Controllers)
	c := dial(t, n.addr, generous)
	const calls = 50
	var outs []<-chan outcome
	for i := range calls {
		outs = append(outs, c.call(t.Context(), map[string]int{"number": i}, fmt.Sprint("data ", i)))
	}
	var all []started
	for range calls {
		all = append(all, n.next())
	}
	for i := len(all) - 1; i >= 0; i-- {
		all[i].answer("answer to " + all[i].data)
	}
	for i, out := range outs {
		want := outcome{fmt.Sprintf(`{"number":%d}`, i), fmt.Sprint("answer to data ", i), nil}
		if got := receive(t, out); got != want {
			t.Errorf("call %d: %+v", i, got)
		}
	}
	large := strings.Repeat("x", 10<<20)
	out := c.call(t.Context(), nil, large)
	x := n.next()
	if x.data != large || x.header != "" {
		t.Errorf("a large request came as %d bytes", len(x.data))
	}
	x.answer(large)
	if got := receive(t, out); got.err != nil || got.data != large {
		t.Errorf("a large answer came as %d bytes, %v", len(got.data), got.err)
	}
}

// What is sent one way arrives in its order, among calls, and takes no answer.
func TestSend(t *testing.T) {
	n := startNode(t, protocol.Controllers)
	c := dial(t, n.addr, generous)
	for i := range 10 {
		if err := c.Send(t.Context(), protocol.KeyRaft, nil, []byte(fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		if i == 5 {
			out := c.call(t.Context(), json.RawMessage(`"between"`), "")
			for j := range 6 {
				if got := n.next(); got.key != protocol.KeyRaft || got.data != fmt.Sprint(j) {
					t.Fatalf("%+v came where message %d is due", got, j)
				}
			}
			n.next().answer("")
			if got := receive(t, out); got.err != nil || got.header != `"between"` {
				t.Fatalf("%+v", got)
			}
		}
	}
	for j := 6; j < 10; j++ {
		if got := n.next(); got.data != fmt.Sprint(j) {
			t.Fatalf("%+v came where message %d is due", got, j)
		}
	}
}

func TestServerDies(t *testing.T) {
	n := startNode(t, protocol.Controllers)
	c := dial(t, n.addr, generous)
	one, two := c.call(t.Context(), nil, "1"), c.call(t.Context(), nil, "2")
	n.next()
	n.next()
	n.cut()
	check(t, receive(t, one).err, true, "may have been carried out")
	check(t, receive(t, two).err, true, n.addr)
	<-c.Done()
	_, _, err := c.Call(t.Context(), protocol.KeySubmit, nil, nil)
	check(t, err, false, "")
	check(t, c.Send(t.Context(), protocol.KeyRaft, nil, nil), false, "")
	if strings.Contains(err.Error(), "carried out") {
		t.Errorf("what was not sent was maybe carried out: %v", err)
	}
}

// A caller that gives up leaves the others theirs.
func TestContextEnds(t *testing.T) {
	n := startNode(t, protocol.Controllers)
	c := dial(t, n.addr, generous)
	ctx, cancel := context.WithCancel(t.Context())
	out := c.call(ctx, nil, "slow")
	slow := n.next()
	other := c.call(t.Context(), nil, "other")
	n.next().answer("of the other")
	cancel()
	got := receive(t, out)
	check(t, got.err, true, "context canceled")
	if !errors.Is(got.err, context.Canceled) {
		t.Errorf("%v", got.err)
	}
	slow.answer("too late")
	if got := receive(t, other); got.err != nil || got.data != "of the other" {
		t.Errorf("the other call: %+v", got)
	}
	if len(c.slots) != 0 {
		t.Errorf("%d places are still taken", len(c.slots))
	}
	_, _, err := c.Call(ctx, protocol.KeySubmit, nil, nil)
	if failed, ok := errors.AsType[*Error](err); !ok || !errors.Is(failed, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestCallsInFlightAreBounded(t *testing.T) {
	n := startNode(t, protocol.Controllers)
	cfg := generous
	cfg.MaxInFlight = 2
	c := dial(t, n.addr, cfg)
	one, two := c.call(t.Context(), nil, "1"), c.call(t.Context(), nil, "2")
	first, second := n.next(), n.next()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, _, err := c.Call(ctx, protocol.KeySubmit, nil, nil)
	check(t, err, false, "2 calls are under way")
	three := c.call(t.Context(), nil, "3")
	first.answer("")
	third := n.next() // only now
	second.answer("")
	third.answer("")
	for _, out := range []<-chan outcome{one, two, three} {
		if got := receive(t, out); got.err != nil {
			t.Error(got.err)
		}
	}
}

// Who gives up before its turn to write has sent nothing and takes no place.
func TestContextEndsBeforeWriting(t *testing.T) {
	n := startNode(t, protocol.Controllers)
	c := dial(t, n.addr, generous)
	c.turn <- struct{}{}
	ctx, cancel := context.WithCancel(t.Context())
	out := c.call(ctx, nil, "")
	for end := time.Now().Add(patient); len(c.slots) == 0 && time.Now().Before(end); {
		runtime.Gosched()
	}
	cancel()
	check(t, receive(t, out).err, false, "waiting to write: context canceled")
	check(t, c.Send(ctx, protocol.KeyRaft, nil, nil), false, "waiting to write: context canceled")
	if len(c.slots) != 0 {
		t.Errorf("%d places are still taken", len(c.slots))
	}
}

func TestClose(t *testing.T) {
	n := startNode(t, protocol.Controllers)
	c := dial(t, n.addr, generous)
	out := c.call(t.Context(), nil, "")
	n.next()
	var all sync.WaitGroup
	for range 3 {
		all.Go(c.Close)
	}
	all.Wait()
	check(t, receive(t, out).err, true, "this node closed the connection")
	_, _, err := c.Call(t.Context(), protocol.KeySubmit, nil, nil)
	check(t, err, false, "this node closed the connection")
	<-c.ended
}

func TestClientListener(t *testing.T) {
	n := startNode(t, protocol.Clients)
	c := dial(t, n.addr, generous)
	_, _, err := c.Call(t.Context(), protocol.KeySubmit, nil, nil)
	check(t, err, false, "Submit is not served there, and this node speaks versions 0 to 0 of it: is that the address of a controller listener?")
}

// rogue is the far end of a connection by hand. It has answered for versions.
func rogue(t *testing.T, cfg Config, served []kmsg.ApiVersionsResponseApiKey) (*Conn, net.Conn) {
	t.Helper()
	ln := listen(t)
	far := make(chan net.Conn, 1)
	go func() {
		nc, err := ln.Accept()
		if err != nil {
			return
		}
		readRequest(t, nc)
		resp := kmsg.NewPtrApiVersionsResponse()
		resp.ApiKeys = served
		nc.Write(protocol.AppendFrame(nil, resp, protocol.KeyApiVersions, 0, 1))
		far <- nc
	}()
	c := dial(t, ln.Addr().String(), cfg)
	nc := receive(t, far)
	t.Cleanup(func() { nc.Close() })
	return c, nc
}

// readRequest reads one frame and returns its correlation id.
func readRequest(t *testing.T, nc net.Conn) int32 {
	nc.SetReadDeadline(time.Now().Add(patient))
	var size [4]byte
	if _, err := io.ReadFull(nc, size[:]); err != nil {
		t.Errorf("no request: %v", err)
		return 0
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(nc, frame); err != nil {
		t.Errorf("no whole request: %v", err)
		return 0
	}
	return int32(binary.BigEndian.Uint32(frame[4:]))
}

func answerFrame(id int32) []byte {
	r := protocol.NewNodeRequest(protocol.KeySubmit)
	return protocol.AppendFrame(nil, r.Answer([]byte("{}"), []byte("data")), protocol.KeySubmit, 0, id)
}

// Whatever is wrong with an answer ends the connection and fails all calls.
func TestWrongAnswers(t *testing.T) {
	for name, x := range map[string]struct {
		answer func(id int32) []byte
		want   string
	}{
		"half a frame":  {func(id int32) []byte { return answerFrame(id)[:9] }, "the connection ended"},
		"half a length": {func(id int32) []byte { return []byte{0, 0} }, "waiting for an answer"},
		"nothing":       {func(id int32) []byte { return nil }, "it closed the connection"},
		"another id":    {func(id int32) []byte { return answerFrame(id + 1) }, "it answers request 3 where 2 is due"},
		"too large":     {func(id int32) []byte { return []byte{1, 0, 0, 1, 0, 0} }, "it announces an answer of 16777217 bytes; at most 16777216 are taken"},
		"negative":      {func(id int32) []byte { return []byte{0xff, 0xff, 0xff, 0xff, 0, 0} }, "it announces an answer of -1 bytes"},
		"too small":     {func(id int32) []byte { return []byte{0, 0, 0, 3, 0, 0, 0} }, "it announces an answer of 3 bytes"},
		"another form":  {func(id int32) []byte { return append([]byte{0, 0, 0, 7, 0, 0, 0, byte(id)}, 0, 200, 200) }, "malformed answer to Submit version 0"},
	} {
		t.Run(name, func(t *testing.T) {
			c, far := rogue(t, generous, protocol.Versions(protocol.Controllers))
			one, two := c.call(t.Context(), nil, ""), c.call(t.Context(), nil, "")
			id := readRequest(t, far)
			readRequest(t, far)
			far.Write(x.answer(id))
			far.Close()
			check(t, receive(t, one).err, true, x.want)
			check(t, receive(t, two).err, true, x.want)
			<-c.Done()
		})
	}
}

// What is announced and does not come takes no memory.
func TestAnnouncedAnswer(t *testing.T) {
	c, far := rogue(t, generous, protocol.Versions(protocol.Controllers))
	out := c.call(t.Context(), nil, "")
	readRequest(t, far)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	far.Write([]byte{0, 0xff, 0xff, 0xff, 0, 0, 0, 2})
	far.Close()
	check(t, receive(t, out).err, true, "before the end of what was announced")
	runtime.ReadMemStats(&after)
	if made := after.TotalAlloc - before.TotalAlloc; made > 1<<20 {
		t.Errorf("%d bytes were made for an answer of which 4 came", made)
	}
}

// Bytes that nobody asked for are no answer to what is asked next.
func TestUnaskedAnswer(t *testing.T) {
	c, far := rogue(t, generous, protocol.Versions(protocol.Controllers))
	far.Write(answerFrame(2))
	<-c.Done()
	_, _, err := c.Call(t.Context(), protocol.KeySubmit, nil, nil)
	check(t, err, false, "that nobody asked for")
}

func TestSilentNode(t *testing.T) {
	cfg := generous
	cfg.AnswerTimeout, cfg.WriteTimeout = 50*time.Millisecond, 0
	c, far := rogue(t, cfg, protocol.Versions(protocol.Controllers))
	out := c.call(t.Context(), nil, "")
	readRequest(t, far)
	check(t, receive(t, out).err, true, "timeout")
	<-c.Done()
}

// A frame that did not leave whole was surely not carried out.
func TestNodeThatDoesNotRead(t *testing.T) {
	c, _ := rogue(t, generous, protocol.Versions(protocol.Controllers))
	c.cfg.WriteTimeout = 50*time.Millisecond - takes(64<<20)
	_, _, err := c.Call(t.Context(), protocol.KeySubmit, nil, make([]byte, 64<<20))
	check(t, err, false, "timeout")
	<-c.Done()
}

func TestVersions(t *testing.T) {
	served := []kmsg.ApiVersionsResponseApiKey{{ApiKey: protocol.KeySubmit, MinVersion: 1, MaxVersion: 3}}
	c, _ := rogue(t, generous, served)
	_, _, err := c.Call(t.Context(), protocol.KeySubmit, nil, nil)
	check(t, err, false, "Submit has no version in common: this node speaks versions 0 to 0, that one versions 1 to 3")
	check(t, c.Send(t.Context(), protocol.KeyRaft, nil, nil), false, "Raft is not served there")
	check(t, err, false, c.addr)
}

func TestDialFails(t *testing.T) {
	ln := listen(t)
	gone := ln.Addr().String()
	ln.Close()
	_, err := Dial(t.Context(), gone, generous)
	check(t, err, false, "refused")

	cfg := generous
	cfg.DialTimeout = 50 * time.Millisecond
	_, err = Dial(t.Context(), listen(t).Addr().String(), cfg) // nobody accepts
	check(t, err, false, "asking for its API versions: context deadline exceeded")

	for answer, want := range map[string]string{
		"\x00\x00\x00\x0a\x00\x00\x00\x01\x00\x23\x00\x00\x00\x00": "it answers UNSUPPORTED_VERSION",
		"HTTP/1.1 400 Bad Request\r\n":                             "it announces an answer of",
	} {
		ln := listen(t)
		go func() {
			nc, err := ln.Accept()
			if err == nil {
				bufio.NewReader(nc).ReadByte()
				nc.Write([]byte(answer))
			}
		}()
		_, err = Dial(t.Context(), ln.Addr().String(), generous)
		check(t, err, false, want)
	}
}
