package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"github.com/twmb/franz-go/pkg/kgo"
)

// connections are n clients, each with one record in flight on a partition of
// its own.
func connections(n int) measure {
	return func(b *bench) ([]figure, error) {
		topic, err := b.topic(int32(n), "os")
		if err != nil {
			return nil, err
		}
		value := randomBytes(recordBytes)
		var (
			all   sync.WaitGroup
			mu    sync.Mutex
			times []time.Duration
			fails []error
		)
		for i := range int32(n) {
			cl, err := b.client(kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()))
			if err != nil {
				return nil, err
			}
			defer cl.Close()
			send := func() error {
				return cl.ProduceSync(context.Background(), &kgo.Record{Partition: i, Value: value}).FirstErr()
			}
			if err := send(); err != nil { // its connection and the partition's files
				return nil, err
			}
			all.Go(func() {
				mine, err := repeat(b.span, send)
				mu.Lock()
				times, fails = append(times, mine...), append(fails, err)
				mu.Unlock()
			})
		}
		all.Wait()
		return append(percentiles(times), figure{"acks/s", float64(len(times)) / b.span.Seconds()}), errors.Join(fails...)
	}
}

// openLoop sends records at a rate, whatever the answers do, and takes each
// one's time from when it was due.
func openLoop(perSecond func(*bench) (float64, error), partitions int32, flush string) measure {
	return func(b *bench) ([]figure, error) {
		rate, err := perSecond(b)
		if err != nil {
			return nil, err
		}
		p, err := b.producer(partitions, flush)
		if err != nil {
			return nil, err
		}
		defer p.cl.Close()
		if err := p.sweep(partitions); err != nil {
			return nil, err
		}
		total := int(rate * b.span.Seconds())
		times, fails := make([]time.Duration, total), make([]error, total)
		var all sync.WaitGroup
		all.Add(total)
		begun := time.Now()
		for i := range total {
			due := begun.Add(time.Duration(float64(i) / rate * float64(time.Second)))
			if wait := time.Until(due); wait > 0 {
				time.Sleep(wait)
			}
			p.send(int32(i)%partitions, func(_ *kgo.Record, err error) {
				times[i], fails[i] = time.Since(due), err
				all.Done()
			})
		}
		all.Wait()
		if err := errors.Join(fails...); err != nil {
			return nil, err
		}
		return append(percentiles(times), figure{"records/s", rate}), nil
	}
}

func perSecond(rate float64) func(*bench) (float64, error) {
	return func(*bench) (float64, error) { return rate, nil }
}

// share is a part of what the broker takes when nothing holds it back.
func share(part float64, flush string) func(*bench) (float64, error) {
	return func(b *bench) (float64, error) {
		topic, err := b.topic(6, flush)
		if err != nil {
			return 0, err
		}
		n, took, _, err := b.throughput(topic, incompressible, b.spanOver)
		return part * float64(n) / recordBytes / took.Seconds(), err
	}
}

// endToEnd sends records at a rate and takes the time until each has come back
// to a consumer that waits for it.
func endToEnd(perSecond int, flush string) measure {
	return func(b *bench) ([]figure, error) {
		topic, err := b.topic(1, flush)
		if err != nil {
			return nil, err
		}
		cl, err := b.client(kgo.DefaultProduceTopic(topic), kgo.ConsumeTopics(topic), kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()))
		if err != nil {
			return nil, err
		}
		defer cl.Close()
		ctx, cancel := context.WithTimeout(context.Background(), b.span+10*time.Second)
		defer cancel()
		value := randomBytes(recordBytes)
		if err := cl.ProduceSync(ctx, &kgo.Record{Value: value}).FirstErr(); err != nil {
			return nil, err
		}
		total := perSecond * int(b.span/time.Millisecond) / 1000
		dues, times := make([]time.Time, total), []time.Duration(nil)
		var mu sync.Mutex // guards dues
		read := make(chan error, 1)
		go func() {
			for seen := -1; seen < total-1; { // the first one was sent before
				fs := cl.PollFetches(ctx)
				now := time.Now()
				if err := fs.Err(); err != nil {
					read <- err
					return
				}
				mu.Lock()
				fs.EachRecord(func(*kgo.Record) {
					if seen >= 0 {
						times = append(times, now.Sub(dues[seen]))
					}
					seen++
				})
				mu.Unlock()
			}
			read <- nil
		}()
		begun := time.Now()
		for i := range total {
			due := begun.Add(time.Duration(i) * time.Second / time.Duration(perSecond))
			time.Sleep(time.Until(due))
			mu.Lock()
			dues[i] = due
			mu.Unlock()
			cl.Produce(ctx, &kgo.Record{Value: value}, func(_ *kgo.Record, err error) {
				if err != nil {
					cancel()
				}
			})
		}
		if err := <-read; err != nil {
			return nil, err
		}
		return percentiles(times), nil
	}
}

// compressed sends text, compressed by the client. The rate is of the text.
func compressed(codec kgo.CompressionCodec) measure {
	return func(b *bench) ([]figure, error) {
		topic, err := b.topic(6, "os")
		if err != nil {
			return nil, err
		}
		n, took, cpu, err := b.throughput(topic, text, b.spanOver, kgo.ProducerBatchCompression(codec))
		if err != nil {
			return nil, err
		}
		disk, err := b.onDisk(topic)
		if err == nil && disk > n*9/10 {
			err = fmt.Errorf("%d bytes of text are %d on disk: they were not compressed", n, disk)
		}
		return []figure{rate(n, took), perGB(cpu, n), {"bytes of text in one on disk", float64(n) / float64(disk)}}, err
	}
}

// logLines is what applications log: most of its bytes are those of every line.
func logLines(n int) []byte {
	rng := rand.New(rand.NewPCG(1, 2))
	var b bytes.Buffer
	for b.Len() < n {
		fmt.Fprintf(&b, `{"time":"2026-01-%02dT%02d:%02d:%02d.%03dZ","level":"info","service":"checkout","order":%d,"customer":"c-%x","amount":%d.%02d,"currency":"EUR"}`,
			rng.IntN(28)+1, rng.IntN(24), rng.IntN(60), rng.IntN(60), rng.IntN(1000), rng.IntN(1e9), rng.Uint64(), rng.IntN(1000), rng.IntN(100))
	}
	return b.Bytes()[:n]
}

// consumeCold reads from the disk what is not in memory any more.
func consumeCold(b *bench) ([]figure, error) {
	return b.consumeAll("os", incompressible, func(topic string) error {
		names, err := b.segments(topic)
		if err != nil {
			return err
		}
		return chill(names)
	})
}

// readDirect reads a file past the page cache.
func readDirect(b *bench) ([]figure, error) {
	const size = 512 << 20
	f, err := b.file("direct")
	if err != nil {
		return nil, err
	}
	for page, n := randomBytes(1<<20), 0; err == nil && n < size; n += len(page) {
		_, err = f.Write(page)
	}
	if err := errors.Join(err, datasync(f), f.Close()); err != nil {
		return nil, err
	}
	if f, err = os.OpenFile(f.Name(), os.O_RDONLY|syscall.O_DIRECT, 0); err != nil {
		return nil, err
	}
	defer f.Close()
	const align = 4096
	buf := make([]byte, 1<<20+align)
	buf = buf[align-int(uintptr(unsafe.Pointer(&buf[0]))%align):][:1<<20]
	n, begun := int64(0), time.Now()
	for n < size {
		m, err := f.Read(buf)
		if err != nil {
			return nil, err
		}
		n += int64(m)
	}
	return []figure{rate(n, time.Since(begun))}, nil
}
