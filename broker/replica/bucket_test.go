package replica

import (
	"math"
	"testing"
	"time"
)

// A bucket as its user sees it: what is taken when, and how long it says to wait.
func TestBucket(t *testing.T) {
	const ms = time.Millisecond
	b := newBucket(1000)
	begin := time.Unix(1_800_000_000, 0)
	for i, x := range []struct {
		at   time.Duration
		take int64
		rate int64 // set before, if it is not 0
		want time.Duration
	}{
		{at: 0, take: 1000, want: 0},                    // it was full
		{at: 0, take: 1, want: ms},                      // the least debt
		{at: 0, take: 499, want: 500 * ms},              //
		{at: 400 * ms, want: 100 * ms},                  // some is paid
		{at: 300 * ms, want: 100 * ms},                  // a clock that goes back
		{at: 500 * ms, want: 0},                         //
		{at: 500 * ms, take: 5000, want: 5 * 1000 * ms}, // more than it ever holds
		{at: 5500 * ms, want: 0},                        //
		{at: time.Hour, take: 1500, want: 500 * ms},     // it does not hold more than a second
		{at: time.Hour, rate: 2000, want: 250 * ms},     // a debt is paid at the new rate
		{at: time.Hour, rate: unlimited, want: 0},       //
		{at: time.Hour, take: math.MaxInt64, want: 0},   //
		{at: time.Hour, rate: 10, want: 0},              // a limit begins without debt
		{at: time.Hour, take: 30, want: 2 * 1000 * ms},
		{at: time.Hour, rate: 0, want: longestWait},
		{at: 2 * time.Hour, want: longestWait}, // never
		{at: 2 * time.Hour, rate: 20, want: 1000 * ms},
		{at: 3 * time.Hour, want: 0},
		{at: 3 * time.Hour, rate: 5, take: 10, want: 1000 * ms}, // no more is left than it holds now
	} {
		now := begin.Add(x.at)
		if x.rate != 0 || i == 14 {
			b.set(now, x.rate)
		}
		b.take(now, x.take)
		if got := b.wait(now); got != x.want {
			t.Fatalf("step %d: waits %s, want %s", i, got, x.want)
		}
	}
}

// Whoever takes when it may, and waits as it is told, gets the rate.
func TestBucketHoldsTheRate(t *testing.T) {
	for _, rate := range []int64{1, 1000, 1 << 20, 10 << 30} {
		for _, size := range []int64{1, 1 << 10, 1 << 20} {
			b, now, bytes := newBucket(rate), time.Unix(0, 0), int64(0)
			begin := now
			for range 1000 {
				b.take(now, size)
				bytes += size
				for wait := b.wait(now); wait > 0; wait = b.wait(now) {
					now = now.Add(wait)
				}
			}
			passed := now.Sub(begin).Seconds()
			if low := float64(bytes-rate) / float64(rate); passed < low-0.001*low {
				t.Errorf("%d bytes of a rate of %d took %f s, less than %f", bytes, rate, passed, low)
			}
			if high := float64(bytes)/float64(rate) + 1000*shortestWait.Seconds(); passed > high {
				t.Errorf("%d bytes of a rate of %d took %f s, more than %f", bytes, rate, passed, high)
			}
		}
	}
}
