package broker

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// With this in its environment the test binary is a crowd of clients that connect
// and say nothing: the limit of open files is one of a process.
const asCrowd = "RUN_TEST_AS_CROWD"

const (
	crowdAddresses  = 4
	crowdPerAddress = 2500
	crowd           = crowdAddresses * crowdPerAddress
)

func TestMain(m *testing.M) {
	if target := os.Getenv(asCrowd); target != "" {
		if err := standThere(target); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		return
	}
	code := m.Run()
	if builtIn != "" {
		os.RemoveAll(builtIn)
	}
	os.Exit(code)
}

// standThere connects from 127.0.0.2 and on, says that it has, and ends with its
// standard input.
func standThere(target string) error {
	for i := range crowd {
		from := net.TCPAddr{IP: net.IPv4(127, 0, 0, byte(2+i/crowdPerAddress))}
		nc, err := (&net.Dialer{LocalAddr: &from}).Dial("tcp", target)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		defer nc.Close()
	}
	fmt.Println("connected")
	os.Stdin.Read(make([]byte, 1))
	return nil
}

// startCrowd returns when all have connected; leave ends them.
func startCrowd(t *testing.T, target string) (leave func()) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), asCrowd+"="+target)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "connected\n" {
		t.Fatalf("the crowd: %q, %v", line, err)
	}
	return func() { in.Close() }
}

func (n *node) value(t *testing.T, series string) float64 {
	t.Helper()
	return n.scrape(t).values[series]
}

const openConnections = `kafka_server_socket_server_metrics_connection_count{listener="PLAINTEXT"}`

// inUse is the memory of this process that is in use, goroutines' stacks
// included.
func inUse() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc + m.StackInuse)
}

// Ten thousand clients that say nothing take little, and nobody's place beyond
// the limits.
func TestCrowdOfIdleConnections(t *testing.T) {
	if limit, err := openFileLimit(); err != nil || limit < crowd+1000 {
		t.Skipf("%d files may be open in a process (%v), and the broker needs %d here: raise ulimit -Hn", limit, err, crowd+1000)
	}
	const others = 3
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, map[string]string{
		"max.connections":                  strconv.Itoa(crowd + others),
		"max.connections.per.ip":           strconv.Itoa(crowdPerAddress),
		"max.connections.per.ip.overrides": "127.0.0.1:1",
	})
	r := newRaw(t, n.addr())
	createTopic(r, "t")
	produce := func() {
		t.Helper()
		if p := ask[*kmsg.ProduceResponse](r, produceRequest("t", 0, -1, batchtest.Values("x").Encode())).Topics[0].Partitions[0]; p.ErrorCode != 0 {
			t.Fatal(p.ErrorCode)
		}
	}
	produce()
	before := inUse()
	leave := startCrowd(t, n.addr())
	until(t, "all connections", func() bool { return n.value(t, openConnections) == crowd+1 })
	each := (inUse() - before) / crowd
	t.Logf("%d bytes for each idle connection", each)
	if each > 8<<10 {
		t.Errorf("an idle connection takes %d bytes", each)
	}
	for range 100 {
		produce()
	}
	newRawFrom(t, "127.0.0.2", n.addr()).closed() // has its share
	newRawFrom(t, "127.0.0.1", n.addr()).closed()
	for range others - 1 {
		r := newRawFrom(t, "127.0.0.9", n.addr())
		ask[*kmsg.MetadataResponse](r, kmsg.NewPtrMetadataRequest())
	}
	newRawFrom(t, "127.0.0.9", n.addr()).closed() // there are enough in all
	if refused := n.scrape(t); refused.values[`streambus_connections_refused_total{reason="max.connections.per.ip"}`] != 2 ||
		refused.values[`streambus_connections_refused_total{reason="max.connections"}`] != 1 {
		t.Error("refusals are counted wrong")
	}
	leave()
	until(t, "the end of the crowd", func() bool { return n.value(t, openConnections) == others })
	produce()
}

// residentBytes is what the process has of the machine's memory.
func residentBytes(t *testing.T) int64 {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Skipf("resident memory cannot be told here: %v", err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kb << 10
}

// What is announced and does not come takes no memory.
func TestAnnouncedIsNotHeld(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, nil)
	other := newRaw(t, n.addr())
	createTopic(other, "t")
	const liars, each = 100, 64 << 10
	debug.FreeOSMemory() // what other tests have left
	before := residentBytes(t)
	start := binary.BigEndian.AppendUint32(nil, 48<<20)
	start = append(start, make([]byte, 4<<10)...) // a Produce
	start[7] = 9
	var conns []*raw
	for range liars {
		r := newRaw(t, n.addr())
		r.write(start)
		conns = append(conns, r)
	}
	const held = "streambus_request_memory_bytes"
	until(t, "what has come", func() bool { return n.value(t, held) == liars*each })
	for range 100 {
		ask[*kmsg.ProduceResponse](other, produceRequest("t", 0, -1, batchtest.Values("x").Encode()))
	}
	if got := n.value(t, held); got != liars*each {
		t.Errorf("%v bytes are held", got)
	}
	if grown := residentBytes(t) - before; grown > 64<<20 {
		t.Errorf("the process has grown by %d MiB", grown>>20)
	} else {
		t.Logf("%v MiB are held, the process has grown by %d MiB", liars*each>>20, grown>>20)
	}
	for _, r := range conns {
		r.nc.Close()
	}
	until(t, "an end of it", func() bool { return n.value(t, held) == 0 })
}

// Clients that send slowly hold up nobody. When they are ended is tested where
// the clock can be moved, in package server.
func TestSlowClientsHoldUpNobody(t *testing.T) {
	n := startNodeWith(t, Disk{FS: vfs.NewMem(), RaftLog: memoryLog()}, nil)
	other := newRaw(t, n.addr())
	createTopic(other, "t")
	frame := kmsg.NewRequestFormatter().AppendRequest(nil, produceRequest("t", 0, -1, batchtest.Values("slow").Encode()), 1)
	var slow []*raw
	for _, part := range []int{1, 4, 6, 20, len(frame) / 2, len(frame) - 1} {
		for range 20 {
			r := newRaw(t, n.addr())
			r.write(frame[:part])
			slow = append(slow, r)
		}
	}
	drip := newRaw(t, n.addr())
	for i := range frame {
		drip.write(frame[i : i+1])
		if p := ask[*kmsg.ProduceResponse](other, produceRequest("t", 0, -1, batchtest.Values("x").Encode())).Topics[0].Partitions[0]; p.ErrorCode != 0 {
			t.Fatal(p.ErrorCode)
		}
	}
	resp := kmsg.NewPtrProduceResponse()
	resp.Version = 9
	drip.receive(1, resp) // slow is not wrong
	if p := resp.Topics[0].Partitions[0]; p.ErrorCode != 0 || p.BaseOffset != int64(len(frame)-1) && p.BaseOffset != int64(len(frame)) {
		t.Errorf("error %d, offset %d", p.ErrorCode, p.BaseOffset)
	}
	for _, r := range slow {
		r.nc.Close()
	}
	until(t, "an end of them", func() bool { return n.value(t, openConnections) == 2 })
}

// A million entries are refused where they are not there, and cost their bytes
// where they are.
func TestMillionEntries(t *testing.T) {
	addr := memoryNode(t)
	names := func(claimed int, given string, create byte) []byte {
		f := []byte{0, 0, 0, 0, 0, byte(protocol.KeyMetadata), 0, 4, 0, 0, 0, 1, 0xff, 0xff}
		f = binary.BigEndian.AppendUint32(f, uint32(claimed))
		f = append(append(f, given...), create)
		binary.BigEndian.PutUint32(f, uint32(len(f)-4))
		return f
	}
	for _, claimed := range []int{1, 1_000_000, math.MaxInt32} {
		r := newRaw(t, addr)
		r.write(names(claimed, "", 0))
		r.closed()
	}
	r := newRaw(t, addr)
	r.write(names(1_000_001, strings.Repeat("\x00\x00", 1_000_001), 0))
	r.closed()

	var distinct strings.Builder
	for i := range 100_000 {
		fmt.Fprintf(&distinct, "\x00\x06%06d", i)
	}
	for name, c := range map[string]struct {
		frame           []byte
		topics, created int
	}{
		"one bad name": {names(1_000_000, strings.Repeat("\x00\x00", 1_000_000), 1), 1, 0},
		"one name":     {names(1_000_000, strings.Repeat("\x00\x01t", 1_000_000), 1), 1, 1},
		"many names":   {names(100_000, distinct.String(), 1), 100_000, 1000},
	} {
		r := newRaw(t, addr)
		begun := time.Now()
		r.write(c.frame)
		resp := kmsg.NewPtrMetadataResponse()
		resp.Version = 4
		r.receive(1, resp)
		created := 0
		for _, row := range resp.Topics {
			created += one(row.ErrorCode == 0)
		}
		if took := time.Since(begun); len(resp.Topics) != c.topics || created > c.created || took > patience { // a pass over all for each would take hours
			t.Errorf("%s: %d topics, %d created, %v", name, len(resp.Topics), created, took)
		}
	}
	// A busy machine may answer before it has created them.
	until(t, "all that may be created, and no more", func() bool {
		all := kmsg.NewPtrMetadataRequest()
		all.Version = 4
		return len(ask[*kmsg.MetadataResponse](newRaw(t, addr), all).Topics) == 1+1000
	})
}
