package server

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

// from is a connection from an address of the test's choice.
type from struct {
	net.Conn
	addr string
}

func (f from) RemoteAddr() net.Addr { return addr(f.addr) }

type addr string

func (addr) Network() string  { return "tcp" }
func (a addr) String() string { return string(a) }

func (b *bench) connectFrom(peer string) *client {
	return b.connect(func(nc net.Conn) net.Conn { return from{nc, peer} })
}

func value(c interface{ Write(*dto.Metric) error }) float64 {
	var m dto.Metric
	c.Write(&m)
	return m.GetCounter().GetValue() + m.GetGauge().GetValue()
}

// served checks that a connection is.
func (c *client) served(b *bench, number byte) {
	c.t.Helper()
	c.send(request(number, 0))
	b.next().done(answerOf(number))
	c.receive(number)
}

func TestConnectionsOfOneAddress(t *testing.T) {
	var log bytes.Buffer
	b := newBench(t, func(c *Config) {
		c.MaxConnectionsPerIP = 2
		c.PerIPOverrides = map[netip.Addr]int{netip.MustParseAddr("10.0.0.2"): 0, netip.MustParseAddr("10.0.0.3"): 3}
	})
	b.log = slog.New(slog.NewTextHandler(&log, nil))
	one, two := b.connectFrom("10.0.0.1:1"), b.connectFrom("[::ffff:10.0.0.1]:2")
	b.connectFrom("10.0.0.1:3").ended()
	b.connectFrom("10.0.0.1:4").ended()
	b.connectFrom("10.0.0.2:1").ended()
	for i := range 3 {
		b.connectFrom(fmt.Sprint("10.0.0.3:", i)).served(b, byte(i))
	}
	b.connectFrom("10.0.0.3:4").ended()
	one.served(b, 1)
	two.served(b, 2)
	one.Close()
	for end := time.Now().Add(patient); ; { // the server learns of it in its own time
		b.mu.Lock()
		n := b.perIP[netip.MustParseAddr("10.0.0.1")]
		b.mu.Unlock()
		if n == 1 {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("%d connections are counted", n)
		}
	}
	b.connectFrom("10.0.0.1:5").served(b, 3)
	if n := value(b.metrics.refused[tooManyOfOneIP]); n != 4 {
		t.Errorf("%v refusals are counted", n)
	}
	if n := value(b.counts.accepted); n != 6 {
		t.Errorf("%v connections are counted", n)
	}
	if lines := strings.Count(log.String(), "max.connections.per.ip"); lines != 3 {
		t.Errorf("one line for each of three addresses, not:\n%s", log.String())
	}
}

func TestConnectionsInAll(t *testing.T) {
	b := newBench(t, func(c *Config) { c.MaxConnections = 2 })
	one := b.connectFrom("10.0.0.1:1")
	b.connectFrom("10.0.0.2:1")
	b.connectFrom("10.0.0.3:1").ended()
	one.served(b, 1)
	if n := value(b.metrics.refused[tooManyConnections]); n != 1 {
		t.Errorf("%v refusals are counted", n)
	}
	if n := value(b.counts.open); n != 2 {
		t.Errorf("%v connections are open", n)
	}
}

func TestSeldom(t *testing.T) {
	var s seldom
	now := time.Unix(1000, 0)
	peer := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}) }
	check := func(at time.Duration, what string, who netip.Addr, ok bool, kept int) {
		t.Helper()
		if gotOK, gotKept := s.may(now.Add(at), what, who); gotOK != ok || gotKept != kept {
			t.Errorf("%v %s %v: %v and %d kept, want %v and %d", at, what, who, gotOK, gotKept, ok, kept)
		}
	}
	check(0, "a", peer(1), true, 0)
	check(1, "a", peer(1), false, 0)
	check(sayAgain-1, "a", peer(1), false, 0)
	check(0, "b", peer(1), true, 0)
	check(0, "a", peer(2), true, 0)
	check(sayAgain, "a", peer(1), true, 2)
	check(sayAgain+1, "a", peer(1), false, 0)
	for i := range maxSubjects { // a thousand others, and then all share one line
		s.may(now.Add(sayAgain), "c", peer(i))
	}
	check(sayAgain, "c", peer(maxSubjects+1), false, 0)
	if len(s.said) > maxSubjects+1 {
		t.Errorf("%d things are remembered", len(s.said))
	}
	check(3*sayAgain, "c", peer(maxSubjects+2), true, 0)
	if len(s.said) != 1 {
		t.Errorf("%d things are remembered that may be said again", len(s.said))
	}
}

// What speaks another protocol is told apart by its first bytes, and its owner
// learns what to do.
func TestOtherProtocols(t *testing.T) {
	for start, want := range map[string]string{
		"\x16\x03\x01\x02\x00\x01": "TLS", "\x16\x03\x03\x00\xf0\x01": "TLS",
		"GET / ": "HTTP", "POST /": "HTTP", "HEAD /": "HTTP", "PUT /x": "HTTP", "DELETE": "HTTP", "OPTION": "HTTP", "PATCH ": "HTTP",
		"CONNEC": "HTTP", "TRACE ": "HTTP", "PRI * ": "HTTP",
		"GETX /": "", "\x16\x02\x01\x02\x00\x01": "", "\x7f\xff\xff\xff\x00\x00": "",
	} {
		got := foreign([]byte(start))
		if (got == nil) != (want == "") || got != nil && got.protocol != want {
			t.Errorf("%q: %v, want %q", start, got, want)
		}
	}
}

func TestHTTPIsAnswered(t *testing.T) {
	var log bytes.Buffer
	b := newBench(t, func(c *Config) { c.Admin = "http://the-admin/metrics" })
	b.log = slog.New(slog.NewTextHandler(&log, nil))
	c := b.connectFrom("10.0.0.1:1")
	go io.WriteString(c, "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
	got, err := io.ReadAll(c)
	if err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 400 ") || !strings.Contains(string(got), "http://the-admin/metrics") {
		t.Errorf("%q, %v", got, err)
	}
	b.conns.Wait()
	if !strings.Contains(log.String(), "it speaks HTTP") || !strings.Contains(log.String(), "http://the-admin/metrics") {
		t.Errorf("logged: %s", log.String())
	}
	// In the middle of a conversation it is a broken frame like any other: the
	// answer that is due has the socket.
	c = b.connect(nil)
	c.send(request(1, 0))
	x := b.next()
	c.send([]byte("GET / HTTP/1.1\r\n"[:6]))
	c.ended()
	x.done(answerOf(1))
}

// A client that sends slowly, or stops, is ended within what it is allowed, and
// holds up nobody. The clock is the test's.
func TestSlowClients(t *testing.T) {
	frame := request(7, 200)
	large := binary.BigEndian.AppendUint32(nil, firstRead*growth)
	large = append(large, frame[4:]...)
	large = append(large, make([]byte, firstRead-len(large)+4)...) // as much as it may hold unproven
	const second = time.Second
	for name, c := range map[string]struct {
		send  []byte
		pace  time.Duration // between bytes; 0: all at once
		bound time.Duration
	}{
		"nothing":              {nil, 0, time.Hour},
		"one byte":             {frame[:1], 0, grace + second},
		"a header, bytewise":   {frame[:6], 10 * second, grace + second},
		"a header and no more": {frame[:6], 0, grace + second},
		"a frame, bytewise":    {frame, 2 * second, 10*second + grace + second}, // the header takes 10
		"half a frame":         {frame[:len(frame)/2], 0, grace + second},
		"a quarter of a frame": {large, 0, grace + firstRead*(growth-1)/slowest*second + second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, nil)
				slow := b.connect(nil)
				slow.SetDeadline(time.Time{})
				begun := time.Now()
				var sender sync.WaitGroup
				sender.Go(func() {
					if c.pace == 0 {
						slow.Write(c.send)
						return
					}
					for i := range c.send {
						if _, err := slow.Write(c.send[i : i+1]); err != nil {
							return
						}
						<-time.After(c.pace)
					}
				})
				other := b.connect(nil)
				other.SetDeadline(time.Time{})
				other.served(b, 1)
				<-time.After(c.bound - second)
				other.served(b, 2)
				slow.ended()
				if took := time.Since(begun); took > c.bound {
					t.Errorf("it was ended after %v, not %v", took, c.bound)
				}
				sender.Wait()
				synctest.Wait()
				if n := b.memory.inUse.Load(); n != 0 {
					t.Errorf("%d bytes are held", n)
				}
			})
		})
	}
}

// asking notes how much the latest read asks for.
type asking struct {
	net.Conn
	room atomic.Int64
}

func (a *asking) Read(p []byte) (int, error) {
	a.room.Store(int64(len(p)))
	return a.Conn.Read(p)
}

// A connection that has gone quiet gives its buffer back, and is read on.
func TestQuietConnectionHasNoBuffer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBench(t, nil)
		var side *asking
		c := b.connect(func(nc net.Conn) net.Conn {
			side = &asking{Conn: nc}
			return side
		})
		c.SetDeadline(time.Time{})
		check := func(when string, buffered bool) {
			t.Helper()
			synctest.Wait()
			if room := side.room.Load(); (room > 1) != buffered {
				t.Errorf("%s it reads %d bytes", when, room)
			}
		}
		check("before the first byte", false)
		for i := range byte(3) {
			c.served(b, i)
			check("while busy", true)
			<-time.After(keepBuffer + time.Second)
			check("gone quiet", false)
		}
		begun := time.Now()
		c.ended()
		if took := time.Since(begun) + keepBuffer + time.Second; took < time.Hour || took > time.Hour+time.Second {
			t.Errorf("it was closed after %v of silence", took)
		}
	})
}

// Every request counts once, whatever version it claims.
func TestRequestsAreCounted(t *testing.T) {
	b := newBench(t, nil)
	b.routes[protocol.KeyApiVersions] = func(_ context.Context, _ *protocol.Request, done func(*protocol.Response)) { done(answerOf(0)) }
	c := b.connect(nil)
	future := request(0, 0)
	binary.BigEndian.PutUint16(future[4:], uint16(protocol.KeyApiVersions))
	binary.BigEndian.PutUint16(future[6:], 99)
	c.send(future)
	c.receive(0)
	c.served(b, 1)
	c.served(b, 2)
	side := b.conn()
	side.until(t, side.isIdle)
	if n := value(b.metrics.requests[protocol.KeyProduce][3]); n != 2 {
		t.Errorf("%v produce requests of version 3", n)
	}
	if n := value(b.metrics.requests[protocol.KeyApiVersions][0]); n != 1 {
		t.Errorf("%v requests for versions", n)
	}
	if in, want := value(b.counts.bytesIn), float64(len(future)+2*len(request(1, 0))); in != want {
		t.Errorf("%v bytes came in, not %v", in, want)
	}
	if out := value(b.counts.bytesOut); out != 3*10 {
		t.Errorf("%v bytes went out", out)
	}
}

// nodeFrame is a request of one node to another, with data of this size.
func nodeFrame(key int16, data int) []byte {
	r := protocol.NewNodeRequest(key)
	r.Data = make([]byte, data)
	return kmsg.NewRequestFormatter(kmsg.FormatterClientID("\x01")).AppendRequest(nil, r, 1)
}

// The servers of the two sides share their metrics and nothing else: each has
// its own limit and memory, and knows only its own requests.
func TestServersOfBothSides(t *testing.T) {
	var log bytes.Buffer
	b := newBench(t, nil)
	nodes := newBench(t, func(c *Config) { c.Side, c.MaxRequestBytes = protocol.Controllers, 9<<20; c.RequestMemory = 20 << 20 })
	nodes.log = slog.New(slog.NewTextHandler(&log, nil))
	nodes.metrics = b.metrics.of(protocol.Controllers, nodes.memory)
	nodes.routes = map[int16]Handler{protocol.KeyRaft: nodes.handle, protocol.KeySubmit: nodes.handle}
	one := nodes.connect(nil)
	one.send(nodeFrame(protocol.KeyRaft, 8<<20+1))
	nodes.next().done(nil)
	one.send(nodeFrame(protocol.KeySubmit, 10))
	x := nodes.next()
	r := protocol.NewNodeRequest(protocol.KeySubmit)
	x.done(&protocol.Response{Body: r.Answer([]byte("{}"), []byte("data"))})
	if got := one.receive(1); string(got) != "\x00\x03{}\x05data\x00" { // after an empty tag section
		t.Errorf("the answer is %q", got)
	}
	for _, frame := range [][]byte{nodeFrame(protocol.KeyRaft, 9<<20), request(1, 0)} {
		c := nodes.connect(nil)
		go c.Write(frame)
		c.ended()
	}
	c := b.connect(nil)
	c.send(nodeFrame(protocol.KeySubmit, 0))
	c.ended()
	for _, want := range []string{
		"at most 9437184 are taken\"",
		"Produce is served on client listeners only, and this is a controller listener",
	} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("no %q in\n%s", want, log.String())
		}
	}
	if n := value(b.metrics.refused[notServed]); n != 2 {
		t.Errorf("%v requests are counted as not served", n)
	}
	if n := value(nodes.metrics.requests[protocol.KeyRaft][0]); n != 1 {
		t.Errorf("%v raft requests are counted", n)
	}
	if got := b.metrics.total(func(m *frameMemory) int64 { return m.limit }); got != 24<<20 {
		t.Errorf("the memory of both is %v", got)
	}
}
