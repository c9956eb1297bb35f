package broker

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/broker/inspect"
	"github.com/streambus/streambus/raftmeta/wal"
	"github.com/streambus/streambus/raftmeta/wal/memwal"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/vfs"
)

// patience bounds every wait of these tests for something that must happen.
const patience = 60 * time.Second

const (
	loadTopic      = "load"
	loadPartitions = 6
)

// load is an idempotent producer that numbers its records per partition, and
// goes on through every crash. In the end each partition must hold 0, 1, 2...
// exactly: nothing missing, nothing twice, nothing out of order.
type load struct {
	t      *testing.T
	client *kgo.Client
	stop   context.CancelFunc
	done   sync.WaitGroup
	pause  time.Duration

	mu    sync.Mutex // guards the following
	acked [loadPartitions]int64
	total int
	news  chan struct{} // closed and replaced at every acknowledgement
}

func startLoad(t *testing.T, addr string, seed uint64) *load {
	return startPacedLoad(t, addr, seed, 0)
}

// startPacedLoad leaves a pause behind each record of a partition, so that there
// is not too much to read in the end.
func startPacedLoad(t *testing.T, addr string, seed uint64, pause time.Duration) *load {
	client, err := kgo.NewClient(
		kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(loadTopic), kgo.AllowAutoTopicCreation(),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerLinger(0), kgo.MaxBufferedRecords(200),
		kgo.ProducerBatchMaxBytes(64<<10), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.RetryBackoffFn(func(int) time.Duration { return 5 * time.Millisecond }),
		kgo.UnknownTopicRetries(-1), kgo.MetadataMinAge(10*time.Millisecond),
		// A broker that dies upon the first request of a connection looks to the client like one that wants SASL.
		kgo.AlwaysRetryEOF(),
	)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	l := &load{t: t, client: client, stop: cancel, pause: pause, news: make(chan struct{})}
	for p := range int32(loadPartitions) {
		l.done.Go(func() { l.produce(ctx, p, rand.New(rand.NewPCG(seed, uint64(p)))) })
	}
	t.Cleanup(func() {
		cancel()
		client.Close()
		l.done.Wait()
	})
	return l
}

func (l *load) produce(ctx context.Context, partition int32, rng *rand.Rand) {
	padding := bytes.Repeat([]byte("."), 16<<10)
	for n := 0; ctx.Err() == nil; n++ {
		value := fmt.Appendf(nil, "%d %s", n, padding[:rng.IntN(len(padding))])
		l.client.Produce(context.Background(), &kgo.Record{Partition: partition, Value: value}, func(_ *kgo.Record, err error) {
			if errors.Is(err, kgo.ErrClientClosed) {
				return // the test has failed before its end
			}
			if err != nil {
				l.t.Errorf("partition %d, record %d: %v", partition, n, err)
			}
			l.mu.Lock()
			defer l.mu.Unlock()
			l.acked[partition]++
			l.total++
			close(l.news)
			l.news = make(chan struct{})
		})
		if l.pause > 0 {
			select {
			case <-time.After(l.pause):
			case <-ctx.Done():
			}
		}
	}
}

// wait returns when n more records are acknowledged.
func (l *load) wait(n int) {
	l.t.Helper()
	l.mu.Lock()
	goal := l.total + n
	l.mu.Unlock()
	timeout := time.After(patience)
	for {
		l.mu.Lock()
		total, news := l.total, l.news
		l.mu.Unlock()
		if total >= goal {
			return
		}
		select {
		case <-news:
		case <-timeout:
			l.t.Fatalf("%d records were acknowledged, waiting for %d", total, goal)
		}
	}
}

// finish stops producing, waits for what is under way, and reads everything.
func (l *load) finish(addr string) {
	l.t.Helper()
	l.stop()
	l.done.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := l.client.Flush(ctx); err != nil {
		l.t.Fatalf("records were never acknowledged: %v", err)
	}
	l.verify(ctx, addr)
}

func (l *load) verify(ctx context.Context, addr string) {
	l.t.Helper()
	reader, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumeTopics(loadTopic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxWait(100*time.Millisecond))
	if err != nil {
		l.t.Fatal(err)
	}
	defer reader.Close()
	var next [loadPartitions]int64
	for left := l.total; left > 0; {
		fetches := reader.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			l.t.Fatalf("%d acknowledged records were not read: %v; read %v of %v", left, err, next, l.acked)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			number, _, _ := strings.Cut(string(r.Value), " ")
			if n, err := strconv.ParseInt(number, 10, 64); err != nil || n != next[r.Partition] {
				l.t.Fatalf("partition %d, offset %d: record %q where %d belongs", r.Partition, r.Offset, number, next[r.Partition])
			}
			next[r.Partition]++
			left--
		})
	}
	if next != l.acked {
		l.t.Fatalf("acknowledged per partition %v, read %v", l.acked, next)
	}
}

// node is a broker in this process.
type node struct {
	*Broker
	stop context.CancelFunc
	done chan error // closed behind what Run returned
	log  *syncBuffer
}

func startNode(t *testing.T, disk Disk, port string) *node {
	t.Helper()
	return startNodeAt(t, disk, "/data", port)
}

// memoryLog is a raft log in memory that outlives the broker that opens it.
func memoryLog() func(string) (wal.Log, error) {
	log := memwal.New()
	return func(string) (wal.Log, error) { return log, nil }
}

func (n *node) addr() string { return fmt.Sprintf("127.0.0.1:%d", n.Endpoints()[0].Port) }

func startNodeAt(t *testing.T, disk Disk, data, port string) *node {
	t.Helper()
	return startConfigured(t, disk, data, map[string]string{"listeners": "PLAINTEXT://127.0.0.1:" + port})
}

// startNodeWith starts a node that stops with the test, unless it did before. What it leaves must be sound.
func startNodeWith(t *testing.T, disk Disk, settings map[string]string) *node {
	t.Helper()
	n := startDamaged(t, disk, settings)
	t.Cleanup(func() {
		n.stop()
		<-n.done
		wantSound(t, disk.FS, "/data")
	})
	return n
}

// startDamaged is for tests that damage files.
func startDamaged(t *testing.T, disk Disk, settings map[string]string) *node {
	t.Helper()
	all := map[string]string{"listeners": "PLAINTEXT://127.0.0.1:0"}
	maps.Copy(all, settings)
	n := startConfigured(t, disk, "/data", all)
	t.Cleanup(n.stop)
	return n
}

// wantSound holds all files of a data directory against each other.
func wantSound(t *testing.T, fs vfs.FS, data string) {
	t.Helper()
	var said bytes.Buffer
	i := inspect.New(fs, &said, false)
	if err := i.Dir(data); err != nil || i.Damaged > 0 {
		t.Errorf("what was left: %v\n%s", err, said.Bytes())
	}
}

func startConfigured(t *testing.T, disk Disk, data string, settings map[string]string) *node {
	t.Helper()
	cfg := config.New()
	set(t, cfg, "log.dirs", data)
	set(t, cfg, "streambus.admin.listen", "127.0.0.1:0")
	set(t, cfg, "num.partitions", strconv.Itoa(loadPartitions))
	set(t, cfg, "log.segment.bytes", "1048576")
	for key, value := range settings {
		set(t, cfg, key, value)
	}
	log := &syncBuffer{}
	b, err := New(cfg, disk, slog.New(slog.NewTextHandler(log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &node{b, cancel, make(chan error, 1), log}
	go func() { n.done <- b.Run(ctx); close(n.done) }()
	select {
	case <-b.Ready():
	case err := <-n.done:
		t.Fatalf("the broker did not start: %v", err)
	}
	return n
}

// freePort is a port that nobody listens on now, and that the system gives nobody
// who asks for any: it can be listened on again after a restart.
func freePort(t *testing.T) string {
	for range 1000 {
		port := strconv.Itoa(10_000 + rand.N(22_000)) // Linux gives those from 32768 on
		if _, taken := portsGiven.LoadOrStore(port, true); taken {
			continue
		}
		if ln, err := net.Listen("tcp", "127.0.0.1:"+port); err == nil {
			ln.Close()
			return port
		}
	}
	t.Fatal("no port from 10000 to 31999 is free")
	return ""
}

var portsGiven sync.Map

// The power goes while a producer writes, again and again; each time the disk
// keeps any part of what was not synced.
func TestPowerCut(t *testing.T) {
	lives := 12
	if testing.Short() {
		lives = 3
	}
	for _, seed := range []uint64{1, 2, 3} {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			rng := rand.New(rand.NewPCG(seed, 0))
			fs, raftLog := vfs.NewMem(), memwal.New()
			disk := func() Disk {
				log := raftLog
				return Disk{FS: fs, RaftLog: func(string) (wal.Log, error) { return log, nil }}
			}
			port := freePort(t)
			addr := "127.0.0.1:" + port
			n := startNode(t, disk(), port)
			l := startLoad(t, addr, seed)
			for range lives {
				l.wait(1 + rng.IntN(500))
				// The files first: a topic that the later log knows and the earlier files
				// lack is empty, the other way round it would be lost.
				fs, raftLog = fs.CutPower(rng), raftLog.Crash(rng)
				n.stop()
				<-n.done // whatever it says: its disk is gone
				n = startNode(t, disk(), port)
			}
			l.finish(addr)
			n.stop()
			if err := <-n.done; err != nil {
				t.Errorf("a clean stop: %v", err)
			}
			n = startNode(t, disk(), port)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			l.verify(ctx, addr)
			n.stop()
			<-n.done
			v, err := storage.Verify(fs, "/data")
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range v.Findings {
				if f.Severity != storage.Stale { // an index is never synced: the power takes what it likes of it
					t.Error(f)
				}
			}
			t.Logf("%d records acknowledged over %d power cuts", l.total, lives)
		})
	}
}

// A real process is killed while a producer writes.
func TestKill(t *testing.T) {
	rounds := 10
	if s := os.Getenv("STREAMBUS_KILLS"); s != "" {
		var err error
		if rounds, err = strconv.Atoi(s); err != nil {
			t.Fatal(err)
		}
	}
	bin, err := buildBinary()
	if err != nil {
		t.Fatal(err)
	}
	data, port := t.TempDir(), freePort(t)
	addr := "127.0.0.1:" + port
	rng := rand.New(rand.NewPCG(4, 0))
	stop := startProcess(t, bin, data, port)
	l := startLoad(t, addr, 4)
	for range rounds {
		l.wait(1 + rng.IntN(2000))
		stop(os.Kill)
		stop = startProcess(t, bin, data, port)
	}
	l.finish(addr)
	if state := stop(os.Interrupt); state.ExitCode() != 0 {
		t.Errorf("after SIGINT: %v", state)
	}
	wantSound(t, vfs.ReadOnly(), data)
	t.Logf("%d records acknowledged over %d kills", l.total, rounds)
}

// startProcess returns when the broker says that it has started.
func startProcess(t *testing.T, bin, data, port string) (stop func(os.Signal) *os.ProcessState) {
	t.Helper()
	cmd := exec.Command(bin, "serve", "--data-dir", data, "--listeners", "PLAINTEXT://127.0.0.1:"+port,
		"--admin-listen", "127.0.0.1:0", "--set", "log.segment.bytes=1048576", "--set", fmt.Sprint("num.partitions=", loadPartitions))
	out := &startWatch{started: make(chan struct{})}
	cmd.Stderr = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() { cmd.Wait(); close(exited) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-exited })
	select {
	case <-out.started:
	case <-exited:
		t.Fatalf("the broker ended before it had started:\n%s", out.text())
	case <-time.After(patience):
		t.Fatalf("the broker has not started:\n%s", out.text())
	}
	return func(s os.Signal) *os.ProcessState {
		cmd.Process.Signal(s)
		<-exited
		return cmd.ProcessState
	}
}

// startWatch keeps what a broker logs and sees the line that says it is ready.
type startWatch struct {
	mu      sync.Mutex // guards the following
	log     bytes.Buffer
	seen    bool
	started chan struct{}
}

func (w *startWatch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.log.Write(p)
	if !w.seen && bytes.Contains(w.log.Bytes(), []byte("msg=started")) {
		w.seen = true
		close(w.started)
	}
	return len(p), nil
}

func (w *startWatch) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.log.String()
}
