package control

import (
	"fmt"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// nine is a cluster of nine brokers with so many topics of 1,000 partitions, three replicas each.
func nine(b *testing.B, topics int) *image.Image {
	b.Helper()
	img := image.Empty()
	do := func(c Command) {
		r, err := c.Eval(img, time.Time{})
		if err != nil {
			b.Fatal(err)
		}
		img, _ = image.Apply(img, img.Index()+1, r.Records)
	}
	do(&FormCluster{ClusterID: "c"})
	for i := range int32(9) {
		do(&RegisterBroker{ID: i, Incarnation: id(int(i)), Rack: string("abc"[i%3]), Dirs: []image.UUID{id(100 + int(i))}, Levels: image.OwnLevels})
		do(&UnfenceBroker{ID: i, Epoch: epoch(img, i)})
	}
	for n := range topics {
		do(&CreateTopic{Name: fmt.Sprint("topic-", n), ID: image.UUID{1, 2, byte(n >> 8), byte(n)}, Partitions: 1000, ReplicationFactor: 3})
	}
	return img
}

// threadTime is what the processor has done for this thread. It leaves out what others do meanwhile, and has in it what the
// garbage collector asks of who allocates.
func threadTime(b *testing.B) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_THREAD, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkFence takes out one of nine brokers, with all its steps evaluated, written, read and applied. The controller's
// loop is busy for one step at a time.
func BenchmarkFence(b *testing.B) {
	for _, topics := range []int{100, 1000} {
		b.Run(fmt.Sprint(topics*1000), func(b *testing.B) {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			start := nine(b, topics)
			broker, _ := start.Broker(4)
			var longest, longestCPU time.Duration
			for b.Loop() {
				img, steps, leaders := start, 0, time.Duration(0)
				began := time.Now()
				for more := true; more; steps++ {
					step, used := time.Now(), threadTime(b)
					r, err := (&FenceBroker{ID: 4, Epoch: broker.Epoch}).Eval(img, time.Time{})
					if err != nil {
						b.Fatal(err)
					}
					u, err := image.DecodeUnit((&image.Unit{Records: r.Records}).Encode(1), 1)
					if err != nil {
						b.Fatal(err)
					}
					img, _ = image.Apply(img, img.Index()+1, u.Records)
					p := r.Reply.(*BrokerProgress)
					if more = p.More; p.Leads == 0 && leaders == 0 {
						leaders = time.Since(began)
					}
					longest, longestCPU = max(longest, time.Since(step)), max(longestCPU, threadTime(b)-used)
				}
				b.ReportMetric(float64(steps), "steps")
				b.ReportMetric(float64(leaders)/1e6, "ms-to-move-leaders")
				b.ReportMetric(float64(longest)/1e6, "ms-longest-step")
				b.ReportMetric(float64(longestCPU)/1e6, "CPU-ms-longest-step")
			}
		})
	}
}

func BenchmarkCreateTopic10000(b *testing.B) {
	for _, topics := range []int{0, 100, 1000} {
		b.Run(fmt.Sprintf("beside %d", topics*1000), func(b *testing.B) {
			start := nine(b, topics)
			for b.Loop() {
				r, err := (&CreateTopic{Name: "t", ID: id(1), Partitions: 10_000, ReplicationFactor: 3}).Eval(start, time.Time{})
				if err != nil {
					b.Fatal(err)
				}
				image.Apply(start, start.Index()+1, r.Records)
			}
		})
	}
}

// BenchmarkAlterPartition is one change of an ISR, decided, written, read and applied.
func BenchmarkAlterPartition(b *testing.B) {
	for _, topics := range []int{1, 100, 1000} {
		b.Run(fmt.Sprint(topics*1000), func(b *testing.B) {
			img := nine(b, topics)
			n := 0
			for b.Loop() {
				t, _ := img.Topic(fmt.Sprint("topic-", n*7919%topics))
				i := int32(n * 104729 % 1000)
				p, _ := t.Partition(i)
				leader, _ := img.Broker(p.Leader)
				x := ISRChange{Topic: t.ID, Partition: i, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}
				for _, r := range p.Replicas[:3-(int(p.PartitionEpoch)+1)%2] {
					x.ISR = append(x.ISR, ISRMember{r, -1})
				}
				r, err := (&AlterPartition{BrokerID: leader.ID, BrokerEpoch: leader.Epoch, Partitions: []ISRChange{x}}).Eval(img, time.Time{})
				if err != nil || len(r.Records) != 1 {
					b.Fatal(err, r.Reply)
				}
				u, err := image.DecodeUnit((&image.Unit{Records: r.Records}).Encode(1), 1)
				if err != nil {
					b.Fatal(err)
				}
				img, _ = image.Apply(img, img.Index()+1, u.Records)
				n++
			}
		})
	}
}
