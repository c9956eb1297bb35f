package fetch

import (
	"math"
	"testing"
	"testing/synctest"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// rate sets leader.replication.throttled.rate.
func (d *disk) rate(bytes int64) {
	d.replicas.SetRates(time.Now(), bytes, math.MaxInt64)
	d.replicas.Apply(d.img, image.Everything(d.img))
}

func (d *disk) list(value string) {
	d.t.Helper()
	d.do(&control.AlterConfigs{Topic: "t", Changes: []control.ConfigChange{{Key: "leader.replication.throttled.replicas", Value: value}}})
}

// behind takes broker 2 out of the in-sync replicas.
func (d *disk) behind() {
	d.t.Helper()
	b, _ := d.img.Broker(2)
	d.do(&control.FenceBroker{ID: 2, Epoch: b.Epoch})
	d.do(&control.UnfenceBroker{ID: 2, Epoch: b.Epoch})
}

// caughtUp puts it back.
func (d *disk) caughtUp() {
	d.t.Helper()
	b, _ := d.img.Broker(1)
	p, _ := d.topic.Partition(0)
	d.do(&control.AlterPartition{BrokerID: 1, BrokerEpoch: b.Epoch, Partitions: []control.ISRChange{{
		Topic: d.topic.ID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, ISR: []control.ISRMember{{ID: 1, Epoch: -1}, {ID: 2, Epoch: -1}},
	}}})
}

// named is what a follower says that lags: it vouches for nothing, so that nobody
// takes it for one that has caught up.
func (c *follower) named(end int64, read bool) []Partition {
	ps := c.at(end, -1, read)
	p, _ := c.d.topic.Partition(0)
	ps[0].LeaderEpoch = p.LeaderEpoch
	return ps
}

// A follower that is not in sync waits until the debt of what it got is paid, with the
// same request, and no longer than something throttles it.
func TestThrottledFollower(t *testing.T) {
	for what, x := range map[string]struct {
		ease  func(d *disk)
		after time.Duration
	}{
		"the debt is paid":       {func(*disk) {}, 2 * time.Second},
		"a higher rate":          {func(d *disk) { d.rate(1 << 30) }, time.Millisecond},
		"no rate":                {func(d *disk) { d.rate(math.MaxInt64) }, 0},
		"another list":           {func(d *disk) { d.list("0:2") }, 0},
		"it is in sync":          {(*disk).caughtUp, 0},
		"another partition only": {func(d *disk) { d.list("1:1,0:1") }, 2 * time.Second},
	} {
		t.Run(what, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				d := newLed(t)
				d.behind()
				d.list("0:1")
				c := newFollower(d, New(math.MaxInt32, 10, false))
				size := int64(d.append(0, "x"))
				d.rate(size / 2)
				b := <-c.send(c.named(0, true))
				if recordsOf(b) != size {
					t.Fatalf("the first records do not come whole: %+v", b)
				}
				c.id = b.Session
				for offset := range int64(2) {
					d.append(0, "x")
					begun := time.Now()
					answer := c.send(c.named(offset+1, true))
					synctest.Wait()
					waits(t, answer)
					want := time.Second // half of the first was in the bucket
					if offset == 1 {
						x.ease(d)
						want = x.after
					}
					a := <-answer
					if took := time.Since(begun); recordsOf(a) != size || took < want || took > want+want/20+10*time.Millisecond { // the size is odd
						t.Errorf("%d bytes after %s, want %d after %s", recordsOf(a), took, size, want)
					}
				}
			})
		})
	}
}

// A connection that begins anew does not get around the debt, and who wants no
// records when it names a partition gets none.
func TestThrottleOutlivesSessions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := newLed(t)
		d.behind()
		d.list("*")
		f := New(math.MaxInt32, 10, false)
		size := int64(d.append(0, "x"))
		d.rate(size / 2)
		begun := time.Now()
		for i, x := range []struct {
			read bool
			want int64
			at   time.Duration
		}{{true, size, 0}, {true, 0, 0}, {false, 0, 5 * time.Second}, {true, size, 5 * time.Second}} {
			time.Sleep(x.at - time.Since(begun))
			c := newFollower(d, f)
			if a := <-c.send(c.named(0, x.read)); a.Session == 0 || recordsOf(a) != x.want {
				t.Errorf("session %d gets %d bytes, want %d", i, recordsOf(a), x.want)
			} else if c.id = a.Session; x.want == 0 {
				waiting := c.send(nil)
				synctest.Wait()
				waits(t, waiting)
			}
		}
	})
}
