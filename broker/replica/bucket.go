package replica

import (
	"math"
	"time"
)

// unlimited is the rate of a bucket from which anything may be taken.
const unlimited = math.MaxInt64

// bucket says how long to wait for a rate to hold. It fills with rate bytes a second
// and holds those of one second. What is there to be taken is taken whatever is in
// it: a batch may be larger than the rate. What is missing then is debt.
//
// It has no clock. A time before the latest it was told counts as that one.
type bucket struct {
	rate int64   // bytes a second
	left float64 // bytes; below 0 it is debt
	at   time.Time
}

// newBucket is full, so that what follows within moments is not delayed.
func newBucket(rate int64) bucket { return bucket{rate: rate, left: float64(rate)} }

func (b *bucket) fill(now time.Time) {
	if b.at.IsZero() {
		b.at = now
	}
	if passed := now.Sub(b.at); passed > 0 {
		b.left = min(b.left+passed.Seconds()*float64(b.rate), float64(b.rate))
		b.at = now
	}
}

// set changes the rate. A debt stays, to be paid at the new rate; without a limit
// there is none.
func (b *bucket) set(now time.Time, rate int64) {
	if rate == unlimited || b.rate == unlimited {
		*b = newBucket(rate)
		return
	}
	b.fill(now)
	b.rate = rate
	b.left = min(b.left, float64(rate))
}

// take takes bytes out, whether they are there or not.
func (b *bucket) take(now time.Time, bytes int64) {
	if b.rate != unlimited {
		b.fill(now)
		b.left -= float64(bytes)
	}
}

// wait is how long the debt there is takes to be paid, 0 for none.
func (b *bucket) wait(now time.Time) time.Duration {
	if b.rate == unlimited {
		return 0
	}
	b.fill(now)
	if b.left >= 0 {
		return 0
	}
	seconds := -b.left / float64(b.rate) // endless at 0
	if seconds >= longestWait.Seconds() {
		return longestWait
	}
	return max(time.Duration(seconds*float64(time.Second)), shortestWait)
}

const (
	// longestWait is looked at again, for clocks and timers to stay within their range.
	longestWait = time.Hour
	// shortestWait is what a timer can tell apart from nothing: what is left of a debt
	// is never rounded to none.
	shortestWait = time.Millisecond
)
