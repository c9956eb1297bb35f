// Command bench measures a broker it starts itself, beside what the machine
// can do in the same run. Machines change their speed from minute to minute,
// so every round runs every row once, and figures are to be read as ratios
// within one run.
//
// Payload is random and not compressed; after each produce row the bytes on
// disk are held against the bytes sent.
package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
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
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

func main() {
	bin := flag.String("broker", "bin/streambus", "the binary to measure")
	rounds := flag.Int("rounds", 3, "how often each row is run")
	span := flag.Duration("span", 3*time.Second, "how long a row runs")
	flag.Parse()
	if err := run(*bin, *rounds, *span); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// row is one line of the table: a measurement that gives one or more figures.
type row struct {
	name    string
	measure func(*bench) ([]figure, error)
}

type figure struct {
	unit  string
	value float64
}

// bench is what the rows of one round share: a fresh broker.
type bench struct {
	span time.Duration
	dir  string
	addr string
	cmd  *exec.Cmd
	next int
}

func run(bin string, rounds int, span time.Duration) error {
	rows := []row{
		{"control: loopback, 64 KiB writes", loopback},
		{"control: fdatasync of 4 KiB appends", fdatasync},
		{"start to first ack, empty directory", nil},
		{"produce 1 KiB, acks=all, durable", produce("ack")},
		{"produce 1 KiB, acks=all, os", produce("os")},
		{"consume 1 KiB, hot", consume},
		{"one in flight, durable", oneInFlight("ack")},
		{"one in flight, os", oneInFlight("os")},
		{"100 active partitions, durable", active(100)},
		{"1000 active partitions, durable", active(1000)},
		{"resident memory after it all", resident},
	}
	results := map[string]map[string][]float64{}
	order := map[string][]string{}
	for round := range rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, rounds)
		b, started, err := start(bin, span)
		if err != nil {
			return err
		}
		for _, r := range rows {
			figures := []figure{{"ms", started.Seconds() * 1000}}
			if r.measure != nil {
				if figures, err = r.measure(b); err != nil {
					b.stop()
					return fmt.Errorf("%s: %w", r.name, err)
				}
			}
			for _, f := range figures {
				if results[r.name] == nil {
					results[r.name] = map[string][]float64{}
				}
				if results[r.name][f.unit] == nil {
					order[r.name] = append(order[r.name], f.unit)
				}
				results[r.name][f.unit] = append(results[r.name][f.unit], f.value)
			}
		}
		if err := b.stop(); err != nil {
			return err
		}
	}
	fmt.Printf("%-38s %-18s %12s %12s %12s\n", "row", "unit", "median", "lowest", "highest")
	for _, r := range rows {
		for _, unit := range order[r.name] {
			v := slices.Sorted(slices.Values(results[r.name][unit]))
			fmt.Printf("%-38s %-18s %12.3f %12.3f %12.3f\n", r.name, unit, v[len(v)/2], v[0], v[len(v)-1])
		}
	}
	return nil
}

// start runs a broker on an empty directory and returns how long it took from
// exec to the first acknowledged record.
func start(bin string, span time.Duration) (*bench, time.Duration, error) {
	dir, err := os.MkdirTemp("", "streambus-bench-")
	if err != nil {
		return nil, 0, err
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, 0, err
	}
	b := &bench{span: span, dir: dir, addr: ln.Addr().String()}
	ln.Close()
	b.cmd = exec.Command(bin, "serve", "--data-dir", dir, "--listeners", "PLAINTEXT://"+b.addr, "--admin-listen", "127.0.0.1:0")
	var log bytes.Buffer
	b.cmd.Stderr = &log
	begun := time.Now()
	if err := b.cmd.Start(); err != nil {
		return nil, 0, err
	}
	for { // until it listens
		nc, err := net.Dial("tcp", b.addr)
		if err == nil {
			nc.Close()
			break
		}
		if time.Since(begun) > 10*time.Second {
			b.stop()
			return nil, 0, fmt.Errorf("the broker does not listen:\n%s", log.String())
		}
	}
	cl, err := b.client(kgo.DefaultProduceTopic("first"), kgo.AllowAutoTopicCreation())
	if err != nil {
		return nil, 0, err
	}
	defer cl.Close()
	err = cl.ProduceSync(context.Background(), &kgo.Record{Value: []byte("first")}).FirstErr()
	return b, time.Since(begun), err
}

func (b *bench) stop() error {
	b.cmd.Process.Signal(syscall.SIGTERM)
	return first(b.cmd.Wait(), os.RemoveAll(b.dir))
}

// first is the first of two errors.
func first(a, b error) error {
	if a != nil {
		return a
	}
	return b
}

func (b *bench) client(opts ...kgo.Opt) (*kgo.Client, error) {
	return kgo.NewClient(append([]kgo.Opt{
		kgo.SeedBrokers(b.addr), kgo.ProducerBatchCompression(kgo.NoCompression()),
		kgo.ProducerBatchMaxBytes(1 << 20), kgo.MaxBufferedRecords(100_000),
	}, opts...)...)
}

// topic makes a fresh topic.
func (b *bench) topic(partitions int32, flush string) (string, error) {
	cl, err := b.client()
	if err != nil {
		return "", err
	}
	defer cl.Close()
	b.next++
	name := fmt.Sprintf("bench-%d", b.next)
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, 1
	c := kmsg.NewCreateTopicsRequestTopicConfig()
	c.Name, c.Value = "streambus.flush", &flush
	t.Configs = append(t.Configs, c)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(context.Background(), cl)
	if err == nil && resp.Topics[0].ErrorCode != 0 {
		err = fmt.Errorf("creating %s: error %d", name, resp.Topics[0].ErrorCode)
	}
	return name, err
}

// cpu is the processor time that the broker has used.
func (b *bench) cpu() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", b.cmd.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+2:]))
	user, err1 := strconv.Atoi(fields[11])
	system, err2 := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond, first(err1, err2)
}

const recordBytes = 1024

// throughput sends records to six partitions for the span.
func (b *bench) throughput(topic string) (bytesSent int64, took, cpu time.Duration, err error) {
	cl, err := b.client(kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(5*time.Millisecond), kgo.RecordPartitioner(kgo.RoundRobinPartitioner()))
	if err != nil {
		return 0, 0, 0, err
	}
	defer cl.Close()
	payload := make([]byte, 16<<20)
	rand.Read(payload)
	var sent, failed atomic.Int64
	before, err := b.cpu()
	if err != nil {
		return 0, 0, 0, err
	}
	begun := time.Now()
	for i := 0; time.Since(begun) < b.span; i++ {
		at := (i * 1031) % (len(payload) - recordBytes)
		cl.Produce(context.Background(), &kgo.Record{Value: payload[at : at+recordBytes]}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Add(1)
			}
			sent.Add(recordBytes)
		})
	}
	err = cl.Flush(context.Background())
	took = time.Since(begun)
	after, err2 := b.cpu()
	if n := failed.Load(); n > 0 {
		err = fmt.Errorf("%d records failed", n)
	}
	return sent.Load(), took, after - before, first(err, err2)
}

func produce(flush string) func(*bench) ([]figure, error) {
	return func(b *bench) ([]figure, error) {
		if err := b.touchMemory(); err != nil {
			return nil, err
		}
		topic, err := b.topic(6, flush)
		if err != nil {
			return nil, err
		}
		n, took, cpu, err := b.throughput(topic)
		if err != nil {
			return nil, err
		}
		disk, err := b.onDisk(topic)
		if err == nil && (disk < n || float64(disk) > 1.1*float64(n)) {
			err = fmt.Errorf("%d bytes were sent and %d are on disk", n, disk)
		}
		gb := float64(n) / 1e9
		return []figure{{"MB/s", gb * 1000 / took.Seconds()}, {"broker CPU s/GB", cpu.Seconds() / gb}}, err
	}
}

// touchMemory has the machine hand over the pages that a row will write to:
// virtual machines give idle memory back, and getting it again costs several
// times the write itself.
func (b *bench) touchMemory() error {
	name := filepath.Join(b.dir, "touch")
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	page := make([]byte, 1<<20)
	for range 3 << 10 {
		if _, err := f.Write(page); err != nil {
			break
		}
	}
	return first(f.Close(), os.Remove(name))
}

func (b *bench) onDisk(topic string) (int64, error) {
	files, err := filepath.Glob(filepath.Join(b.dir, topic+"-*", "*.log"))
	var sum int64
	for _, f := range files {
		info, statErr := os.Stat(f)
		if statErr != nil {
			return 0, statErr
		}
		sum += info.Size()
	}
	return sum, err
}

func consume(b *bench) ([]figure, error) {
	topic, err := b.topic(6, "os")
	if err != nil {
		return nil, err
	}
	total, _, _, err := b.throughput(topic)
	if err != nil {
		return nil, err
	}
	cl, err := b.client(kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.FetchMaxBytes(16<<20), kgo.FetchMaxPartitionBytes(4<<20))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	before, err := b.cpu()
	if err != nil {
		return nil, err
	}
	begun, got := time.Now(), int64(0)
	for got < total {
		fs := cl.PollFetches(context.Background())
		if err := fs.Err(); err != nil {
			return nil, err
		}
		fs.EachRecord(func(r *kgo.Record) { got += int64(len(r.Value)) })
	}
	took := time.Since(begun)
	after, err := b.cpu()
	gb := float64(got) / 1e9
	return []figure{{"MB/s", gb * 1000 / took.Seconds()}, {"broker CPU s/GB", (after - before).Seconds() / gb}}, err
}

func oneInFlight(flush string) func(*bench) ([]figure, error) {
	return func(b *bench) ([]figure, error) {
		topic, err := b.topic(1, flush)
		if err != nil {
			return nil, err
		}
		cl, err := b.client(kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(0))
		if err != nil {
			return nil, err
		}
		defer cl.Close()
		value := make([]byte, recordBytes)
		rand.Read(value)
		var times []time.Duration
		for begun := time.Now(); time.Since(begun) < b.span; {
			at := time.Now()
			if err := cl.ProduceSync(context.Background(), &kgo.Record{Value: value}).FirstErr(); err != nil {
				return nil, err
			}
			times = append(times, time.Since(at))
		}
		return percentiles(times), nil
	}
}

// active keeps one record in flight on each of n partitions.
func active(n int32) func(*bench) ([]figure, error) {
	return func(b *bench) ([]figure, error) {
		topic, err := b.topic(n, "ack")
		if err != nil {
			return nil, err
		}
		cl, err := b.client(kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(0), kgo.RecordPartitioner(kgo.ManualPartitioner()))
		if err != nil {
			return nil, err
		}
		defer cl.Close()
		value := make([]byte, 100)
		rand.Read(value)
		var (
			mu    sync.Mutex
			times []time.Duration
			fail  error
			all   sync.WaitGroup
		)
		begun := time.Now()
		var send func(partition int32)
		send = func(partition int32) {
			at := time.Now()
			cl.Produce(context.Background(), &kgo.Record{Partition: partition, Value: value}, func(_ *kgo.Record, err error) {
				mu.Lock()
				times = append(times, time.Since(at))
				if err != nil {
					fail = err
				}
				over := fail != nil || time.Since(begun) > b.span
				mu.Unlock()
				if over {
					all.Done()
				} else {
					go send(partition)
				}
			})
		}
		all.Add(int(n))
		for p := range n {
			send(p)
		}
		all.Wait()
		took := time.Since(begun)
		return append(percentiles(times), figure{"acks/s", float64(len(times)) / took.Seconds()}), fail
	}
}

func percentiles(times []time.Duration) []figure {
	slices.Sort(times)
	at := func(p float64) float64 { return times[int(p*float64(len(times)-1))].Seconds() * 1000 }
	return []figure{{"p50 ms", at(.5)}, {"p99 ms", at(.99)}}
}

func resident(b *bench) ([]figure, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.cmd.Process.Pid))
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(status)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "RssAnon:" {
			kb, err := strconv.Atoi(f[1])
			return []figure{{"MB anonymous", float64(kb) / 1000}}, err
		}
	}
	return nil, fmt.Errorf("no RssAnon in the process status")
}

func loopback(b *bench) ([]figure, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	defer ln.Close()
	go func() {
		if nc, err := ln.Accept(); err == nil {
			io.CopyBuffer(struct{ io.Writer }{io.Discard}, nc, make([]byte, 64<<10))
			nc.Close()
		}
	}()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		return nil, err
	}
	defer nc.Close()
	buf, n := make([]byte, 64<<10), 0
	begun := time.Now()
	for time.Since(begun) < time.Second {
		m, err := nc.Write(buf)
		if err != nil {
			return nil, err
		}
		n += m
	}
	return []figure{{"MB/s", float64(n) / 1e6 / time.Since(begun).Seconds()}}, nil
}

func fdatasync(b *bench) ([]figure, error) {
	f, err := os.Create(filepath.Join(b.dir, "control"))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	page := make([]byte, 4096)
	var times []time.Duration
	for begun := time.Now(); time.Since(begun) < time.Second; {
		at := time.Now()
		if _, err := f.Write(page); err != nil {
			return nil, err
		}
		if err := syscall.Fdatasync(int(f.Fd())); err != nil {
			return nil, err
		}
		times = append(times, time.Since(at))
	}
	return percentiles(times), nil
}
