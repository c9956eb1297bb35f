package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

const recordBytes = 1024

func started(b *bench) ([]figure, error) { return b.start, nil }

func resident(b *bench) ([]figure, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.Pid()))
	if err != nil {
		return nil, err
	}
	var (
		figures []figure
		sum     float64
	)
	for line := range strings.Lines(string(status)) {
		f := strings.Fields(line)
		unit := map[string]string{"RssAnon:": "MB anonymous", "RssFile:": "MB of files"}[f[0]]
		if unit == "" {
			continue
		}
		kb, err := strconv.Atoi(f[1])
		if err != nil {
			return nil, err
		}
		figures = append(figures, figure{unit, float64(kb) / 1000})
		sum += float64(kb) / 1000
	}
	return append(figures, figure{"MB resident", sum}), nil
}

// payload is what records of a size are cut from.
type payload struct {
	size  int
	bytes []byte
}

var (
	incompressible = payload{recordBytes, randomBytes(16 << 20)}
	small          = payload{100, incompressible.bytes}
	text           = payload{recordBytes, logLines(16 << 20)}
)

// until says when enough has been sent.
type until func(bytes int64, took time.Duration) bool

func upTo(bytes int64) until { return func(n int64, _ time.Duration) bool { return n >= bytes } }

func (b *bench) spanOver(_ int64, took time.Duration) bool { return took >= b.span }

// throughput sends records until it is enough.
func (b *bench) throughput(topic string, of payload, enough until, opts ...kgo.Opt) (bytesSent int64, took, cpu time.Duration, err error) {
	cl, err := b.client(append([]kgo.Opt{kgo.DefaultProduceTopic(topic), kgo.ProducerLinger(5 * time.Millisecond), kgo.RecordPartitioner(kgo.RoundRobinPartitioner())}, opts...)...)
	if err != nil {
		return 0, 0, 0, err
	}
	defer cl.Close()
	var (
		sent   int64
		failed atomic.Int64
	)
	before, err := b.cpu()
	if err != nil {
		return 0, 0, 0, err
	}
	begun := time.Now()
	for i := 0; !enough(sent, time.Since(begun)); i++ {
		at := (i * 1031) % (len(of.bytes) - of.size)
		cl.Produce(context.Background(), &kgo.Record{Value: of.bytes[at : at+of.size]}, func(_ *kgo.Record, err error) {
			if err != nil {
				failed.Add(1)
			}
		})
		sent += int64(of.size)
	}
	err = cl.Flush(context.Background())
	took = time.Since(begun)
	after, err2 := b.cpu()
	if n := failed.Load(); n > 0 {
		err = fmt.Errorf("%d records failed", n)
	}
	return sent, took, after - before, errors.Join(err, err2)
}

func produce(flush string, of payload, opts ...kgo.Opt) measure {
	return func(b *bench) ([]figure, error) {
		if err := b.touchMemory(); err != nil {
			return nil, err
		}
		topic, err := b.topic(6, flush)
		if err != nil {
			return nil, err
		}
		n, took, cpu, err := b.throughput(topic, of, b.spanOver, opts...)
		if err != nil {
			return nil, err
		}
		disk, err := b.onDisk(topic)
		if err == nil && (disk < n || float64(disk) > 1.2*float64(n)) {
			err = fmt.Errorf("%d bytes were sent and %d are on disk", n, disk)
		}
		return []figure{rate(n, took), perGB(cpu, n)}, err
	}
}

func rate(bytes int64, took time.Duration) figure {
	return figure{"MB/s", float64(bytes) / 1e6 / took.Seconds()}
}

func perGB(cpu time.Duration, bytes int64) figure {
	return figure{"broker CPU s/GB", cpu.Seconds() / float64(bytes) * 1e9}
}

// consumedBytes is how much there is to read: about half a second of it, where
// the client takes longer for small records.
func (p payload) consumedBytes() int64 {
	if p.size < recordBytes {
		return 192 << 20
	}
	return 512 << 20
}

// consume reads what is in memory.
func consume(flush string, of payload) measure {
	return func(b *bench) ([]figure, error) {
		var before, after int64
		figures, err := b.consumeAll(flush, of, func(topic string) (err error) {
			if err := b.heat(topic); err != nil {
				return err
			}
			before, err = b.diskReads()
			return err
		})
		if err != nil {
			return nil, err
		}
		if after, err = b.diskReads(); err == nil && after-before > of.consumedBytes()/100 {
			err = fmt.Errorf("of %d bytes that were to be in memory, %d came from the disk: free some memory", of.consumedBytes(), after-before)
		}
		return figures, err
	}
}

// diskReads is how many bytes the broker has had read from a disk.
func (b *bench) diskReads() (int64, error) {
	counts, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", b.Pid()))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(counts), "\nread_bytes: ")
	n, _, _ := strings.Cut(rest, "\n")
	return strconv.ParseInt(n, 10, 64)
}

// consumeAll sends records, prepares their files and reads them.
func (b *bench) consumeAll(flush string, of payload, prepare func(topic string) error) ([]figure, error) {
	topic, err := b.topic(6, flush)
	if err != nil {
		return nil, err
	}
	total, _, _, err := b.throughput(topic, of, upTo(of.consumedBytes()))
	if err != nil {
		return nil, err
	}
	if err := prepare(topic); err != nil {
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
	return []figure{rate(got, took), perGB(after-before, got)}, err
}

// heat reads a topic's files, so that all of them are in memory.
func (b *bench) heat(topic string) error {
	names, err := b.segments(topic)
	if err != nil {
		return err
	}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{f}, make([]byte, 1<<20))
		if err := errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// active keeps one record in flight on each of n partitions. Each has had one
// before: a first record makes files, which is another row's.
func active(n int32, flush string) measure {
	return func(b *bench) ([]figure, error) {
		p, err := b.producer(n, flush)
		if err != nil {
			return nil, err
		}
		defer p.cl.Close()
		if err := p.sweep(n); err != nil {
			return nil, err
		}
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
			p.send(partition, func(_ *kgo.Record, err error) {
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
					go send(partition) // a promise must not wait for the client
				}
			})
		}
		all.Add(int(n))
		for i := range n {
			send(i)
		}
		all.Wait()
		took := time.Since(begun)
		return append(percentiles(times), figure{"acks/s", float64(len(times)) / took.Seconds()}), fail
	}
}

// sweeps sends one record to each of n partitions, over and over. The first
// sweep makes their files.
func sweeps(n int32, flush string) measure {
	return func(b *bench) ([]figure, error) {
		begun := time.Now()
		p, err := b.producer(n, flush)
		if err != nil {
			return nil, err
		}
		defer p.cl.Close()
		created := time.Since(begun)
		begun = time.Now()
		if err := p.sweep(n); err != nil {
			return nil, err
		}
		first := time.Since(begun)
		later, err := repeat(b.span, func() error { return p.sweep(n) })
		if err != nil {
			return nil, err
		}
		return []figure{{"ms to create", millis(created)}, {createdAndSwept, millis(created + first)}, {firstSweep, millis(first)}, {laterSweeps, percentiles(later)[0].value}}, nil
	}
}

const (
	createdAndSwept = "ms, created and first record to each"
	firstSweep      = "ms, first record to each"
	laterSweeps     = "ms, later record to each, p50"
)

// repeat does something for the span and returns how long each time took.
func repeat(span time.Duration, do func() error) ([]time.Duration, error) {
	var times []time.Duration
	for begun := time.Now(); time.Since(begun) < span; {
		at := time.Now()
		if err := do(); err != nil {
			return nil, err
		}
		times = append(times, time.Since(at))
	}
	return times, nil
}

// producer is a client that knows where a fresh topic is.
type producer struct {
	cl    *kgo.Client
	value []byte
}

func (b *bench) producer(n int32, flush string) (*producer, error) {
	topic, err := b.topic(n, flush)
	if err != nil {
		return nil, err
	}
	cl, err := b.client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		return nil, err
	}
	return &producer{cl, randomBytes(recordBytes)}, cl.Ping(context.Background())
}

func (p *producer) send(partition int32, promise func(*kgo.Record, error)) {
	p.cl.Produce(context.Background(), &kgo.Record{Partition: partition, Value: p.value}, promise)
}

// sweep sends one record to each partition and waits for all.
func (p *producer) sweep(n int32) error {
	var (
		all  sync.WaitGroup
		fail atomic.Pointer[error]
	)
	all.Add(int(n))
	for i := range n {
		p.send(i, func(_ *kgo.Record, err error) {
			if err != nil {
				fail.Store(&err)
			}
			all.Done()
		})
	}
	all.Wait()
	if err := fail.Load(); err != nil {
		return *err
	}
	return nil
}

// allocations counts what the broker allocates for a produce request of one
// record, less what it allocates in the same time without any.
func allocations(b *bench) ([]figure, error) {
	idle, err := b.counted(func() error { time.Sleep(b.span); return nil })
	if err != nil {
		return nil, err
	}
	p, err := b.producer(1, "ack")
	if err != nil {
		return nil, err
	}
	defer p.cl.Close()
	if err := p.sweep(1); err != nil {
		return nil, err
	}
	busy, err := b.counted(func() error {
		_, err := repeat(b.span, func() error { return p.sweep(1) })
		return err
	})
	if err != nil {
		return nil, err
	}
	n := busy[requestsCounter]
	return []figure{
		{"objects per produce request", (busy[objectsCounter] - idle[objectsCounter]) / n},
		{"bytes per produce request", (busy[bytesCounter] - idle[bytesCounter]) / n},
		{"objects while idle", idle[objectsCounter]},
		{"requests", n},
	}, nil
}

const (
	objectsCounter  = "go_memstats_mallocs_total"
	bytesCounter    = "go_memstats_alloc_bytes_total"
	requestsCounter = `streambus_request_seconds_count{request="Produce"}`
)

// counted tells by how much the broker's metrics rise while do runs.
func (b *bench) counted(do func() error) (map[string]float64, error) {
	before, err := b.metrics()
	if err != nil {
		return nil, err
	}
	if err := do(); err != nil {
		return nil, err
	}
	after, err := b.metrics()
	for name := range after {
		after[name] -= before[name]
	}
	return after, err
}
