package image

import (
	"fmt"
	"runtime"
	"testing"
)

// sized is an image of topics with so many partitions each, three replicas on nine brokers.
func sized(topics, partitions int) *Image {
	const brokers = 9
	var records []Record
	for i := range int32(brokers) {
		records = append(records, &BrokerRecord{ID: i, Incarnation: uuid(int(i)), Dirs: []UUID{uuid(1000 + int(i))}})
	}
	img, _ := Apply(Empty(), 1, records)
	for t := range topics {
		id := UUID{1, 2, byte(t >> 16), byte(t >> 8), byte(t)}
		unit := []Record{&TopicRecord{Name: fmt.Sprint("topic-", t), ID: id}}
		for first := 0; first < partitions; first += 10_000 {
			ps := make([]Partition, min(10_000, partitions-first))
			for i := range ps {
				n := t + first + i
				r := []int32{int32(n % brokers), int32((n + 1) % brokers), int32((n + 2 + n/brokers%3) % brokers)}
				ps[i] = Partition{Replicas: r, ISR: r, Dirs: "\x00\x00\x00", Leader: r[0]}
			}
			unit = append(unit, &PartitionsRecord{Topic: id, First: int32(first), Partitions: ps})
		}
		img, _ = Apply(img, img.Index()+1, unit)
	}
	return img
}

var sizes = []struct{ topics, partitions int }{{1, 1000}, {10, 10_000}, {100, 10_000}, {1, 1_000_000}, {100_000, 1}}

func BenchmarkChangeISR(b *testing.B) {
	for _, s := range sizes {
		b.Run(fmt.Sprintf("%dx%d", s.topics, s.partitions), func(b *testing.B) {
			img := sized(s.topics, s.partitions)
			n := 0
			b.ReportAllocs()
			for b.Loop() {
				t := img.topics.at(int32(n*7919) % img.topics.count())
				i := int32(n*104729) & (1<<31 - 1) % t.count
				p, _ := t.Partition(i)
				next := *p
				next.PartitionEpoch++
				if next.ISR = next.Replicas; n%2 == 0 {
					next.ISR = next.Replicas[:2]
				}
				img, _ = Apply(img, img.index+1, []Record{&PartitionChangeRecord{Topic: t.ID, Index: i, Partition: next}})
				n++
			}
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	for _, s := range sizes {
		img := sized(s.topics, s.partitions)
		bytes := img.Encode()
		name := fmt.Sprintf("%dx%d", s.topics, s.partitions)
		b.Run("encode/"+name, func(b *testing.B) {
			b.SetBytes(int64(len(bytes)))
			for b.Loop() {
				img.Encode()
			}
		})
		b.Run("decode/"+name, func(b *testing.B) {
			for b.Loop() {
				if _, err := DecodeImage(bytes); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkMemory reports what one partition takes, with the index and without.
func BenchmarkMemory(b *testing.B) {
	for _, s := range sizes {
		b.Run(fmt.Sprintf("%dx%d", s.topics, s.partitions), func(b *testing.B) {
			encoded := sized(s.topics, s.partitions).Encode()
			for b.Loop() {
				before := heap()
				img, err := DecodeImage(encoded)
				if err != nil {
					b.Fatal(err)
				}
				whole := heap() - before
				img.holders = nil
				bare := heap() - before
				n := float64(s.topics * s.partitions)
				b.ReportMetric(float64(whole)/n, "B/partition")
				b.ReportMetric(float64(whole-bare)/n, "index-B/partition")
				b.ReportMetric(float64(len(encoded))/n, "snapshot-B/partition")
				runtime.KeepAlive(img)
			}
		})
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}
