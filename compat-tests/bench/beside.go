package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"sync"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

// beside is what one client, with one record in flight, notices of others that
// do what they should not: its times before them and with them.
func beside(others func(context.Context, *bench) error) measure {
	return func(b *bench) ([]figure, error) {
		return b.fresh(func(b *bench) ([]figure, error) {
			quiet, err := active(1, "os")(b)
			if err != nil {
				return nil, err
			}
			ctx, stop := context.WithCancel(context.Background())
			defer stop()
			ended := make(chan error, 1)
			go func() { ended <- others(ctx, b) }()
			figures, err := active(1, "os")(b)
			if err != nil {
				return nil, err
			}
			memory, err := resident(b)
			if err != nil {
				return nil, err
			}
			stop()
			if err := <-ended; err != nil {
				return nil, err
			}
			for i, f := range quiet[:2] {
				figures = append(figures, figure{f.unit + ", quiet", f.value}, figure{"of quiet " + f.unit, figures[i].value / f.value})
			}
			return append(figures, memory[0]), nil
		})
	}
}

// each runs do for n connections at once, until ctx ends.
func each(ctx context.Context, addr string, n int, do func(net.Conn) error) error {
	var (
		all   sync.WaitGroup
		mu    sync.Mutex
		fails []error
	)
	for range n {
		nc, err := net.Dial("tcp", addr)
		if err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { nc.Close() })
		all.Go(func() {
			defer stop()
			err := do(nc)
			if ctx.Err() != nil {
				return
			}
			mu.Lock()
			fails = append(fails, err)
			mu.Unlock()
		})
	}
	all.Wait()
	return errors.Join(fails...)
}

// announced are a hundred connections that announce 48 MiB and send 4 KiB.
func announced(ctx context.Context, b *bench) error {
	return each(ctx, b.Addr, 100, func(nc net.Conn) error {
		head := binary.BigEndian.AppendUint32(nil, 48<<20)
		req := kmsg.NewPtrProduceRequest()
		req.SetVersion(9)
		head = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(head, 0), 9)
		if _, err := nc.Write(append(head, make([]byte, 4<<10)...)); err != nil {
			return err
		}
		_, err := io.Copy(io.Discard, nc)
		return err
	})
}

// trickling are a thousand connections that send a byte now and then.
func trickling(ctx context.Context, b *bench) error {
	return each(ctx, b.Addr, 1000, func(nc net.Conn) error {
		frame := append(binary.BigEndian.AppendUint32(nil, 1000), make([]byte, 1000)...)
		for _, c := range frame {
			if _, err := nc.Write([]byte{c}); err != nil {
				return err
			}
			time.Sleep(100 * time.Millisecond)
		}
		return nil
	})
}

// bombs are four connections that send batches of a few hundred KiB which
// decompress to 200 MiB, as fast as they are answered.
func bombs(ctx context.Context, b *bench) error {
	topic, err := b.topic(1, "os")
	if err != nil {
		return err
	}
	req := kmsg.NewPtrProduceRequest()
	req.SetVersion(9)
	req.Acks, req.TimeoutMillis = 1, 10_000
	t, p := kmsg.NewProduceRequestTopic(), kmsg.NewProduceRequestTopicPartition()
	p.Records = bomb(200 << 20)
	t.Topic, t.Partitions = topic, append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	frame := kmsg.NewRequestFormatter(kmsg.FormatterClientID("bomb")).AppendRequest(nil, req, 1)
	return each(ctx, b.Addr, 4, func(nc net.Conn) error {
		for {
			if _, err := nc.Write(frame); err != nil {
				return err
			}
			var size [4]byte
			if _, err := io.ReadFull(nc, size[:]); err != nil {
				return err
			}
			if _, err := io.CopyN(io.Discard, nc, int64(binary.BigEndian.Uint32(size[:]))); err != nil {
				return err
			}
		}
	})
}

// bomb is a batch with one record of so many zeros, compressed.
func bomb(size int) []byte {
	record := append([]byte{0, 0, 0, 1}, binary.AppendVarint(nil, int64(size))...) // attributes, deltas, no key, the value's length
	var zipped bytes.Buffer
	z := gzip.NewWriter(&zipped)
	z.Write(binary.AppendVarint(nil, int64(len(record)+size+1)))
	z.Write(record)
	for zeros := make([]byte, 1<<20); size > 0; size -= len(zeros) {
		z.Write(zeros[:min(size, len(zeros))])
	}
	z.Write([]byte{0}) // no headers
	z.Close()
	rb := kmsg.RecordBatch{
		Length: int32(49 + zipped.Len()), PartitionLeaderEpoch: -1, Magic: 2, Attributes: 1,
		FirstTimestamp: time.Now().UnixMilli(), MaxTimestamp: time.Now().UnixMilli(),
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: 1, Records: zipped.Bytes(),
	}
	raw := rb.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	return raw
}

// strangers come, send what is no request, and go, two at a time.
func strangers(ctx context.Context, b *bench) error {
	var all sync.WaitGroup
	fails := make([]error, 2)
	for i := range fails {
		all.Go(func() {
			for ctx.Err() == nil {
				nc, err := net.Dial("tcp", b.Addr)
				if err != nil {
					fails[i] = fmt.Errorf("a stranger is not let in: %w", err)
					return
				}
				nc.Write([]byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello"))
				io.Copy(io.Discard, nc)
				nc.Close()
				time.Sleep(time.Millisecond)
			}
		})
	}
	all.Wait()
	return errors.Join(fails...)
}
