package storage

import (
	"fmt"
	"math"
	"testing"

	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

var usual = LogConfig{SegmentBytes: 1 << 30, IndexIntervalBytes: 4096, SegmentIndexBytes: 10 << 20}

// batchOf returns a batch of n records of 1 KiB.
func batchOf(n int) []byte {
	b := batchtest.Values()
	for range n {
		b.Records = append(b.Records, batchtest.Record{Value: make([]byte, 1024)})
	}
	return b.Encode()
}

func benchLog(b *testing.B) *Log {
	d := openDir(b, vfs.OS(), b.TempDir())
	b.Cleanup(func() { d.CloseDirty() })
	l, _ := openLog(b, d, usual)
	return l
}

func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprint(n, "KiB"), func(b *testing.B) {
			l, raw := benchLog(b), batchOf(n)
			b.SetBytes(int64(len(raw)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := l.Append(raw, 1, noon); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkAppendFlush(b *testing.B) {
	l, raw := benchLog(b), batchOf(1)
	for b.Loop() {
		appendOne(b, l, raw)
		flush(b, l.d)
	}
}

// BenchmarkRead finds regions and does not send them.
func BenchmarkRead(b *testing.B) {
	l := benchLog(b)
	raw := batchOf(1)
	for range 100_000 {
		if _, err := l.Append(raw, 1, noon); err != nil {
			b.Fatal(err)
		}
	}
	end := l.EndOffset()
	for _, c := range []struct {
		name       string
		step, size int64
	}{{"tail", 0, 1 << 20}, {"sequential", 1, 1 << 20}, {"random", 7919, 1 << 20}, {"random small", 7919, 1}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			offset := int64(0)
			for b.Loop() {
				switch c.step {
				case 0:
					offset = end - 1
				case 1:
					offset = l.hint.offset % end
				default:
					offset = (offset + c.step) % end
				}
				if _, err := l.Read(offset, math.MaxInt64, c.size, true); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkOpen recovers a log of 100 MB of which nothing is known to be durable.
func BenchmarkOpen(b *testing.B) {
	path, raw := b.TempDir(), batchOf(16)
	d := openDir(b, vfs.OS(), path)
	l, _ := openLog(b, d, usual)
	for range 100_000_000 / len(raw) {
		if _, err := l.Append(raw, 1, noon); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(l.active().size)
	must(b, d.CloseDirty())
	for b.Loop() {
		d := openDir(b, vfs.OS(), path)
		openLog(b, d, usual)
		must(b, d.CloseDirty())
	}
}
