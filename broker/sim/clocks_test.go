package sim

import (
	"testing"
	"time"
	"unsafe"
)

const (
	from1885     = 31_045 * 24 * 60 * 60 // seconds from then to 1970
	hasMonotonic = 1 << 63
)

// reading is what time.Now returns when the wall clock shows one time and the
// monotonic clock another, both in ns. There is no other way to have the two
// differ; TestReadings notices if package time changes its mind.
func reading(wall, mono int64) time.Time {
	t := struct {
		wall uint64
		ext  int64
		loc  *time.Location
	}{wall: hasMonotonic | uint64(wall/sec+from1885)<<30 | uint64(wall%sec), ext: mono, loc: time.UTC}
	return *(*time.Time)(unsafe.Pointer(&t))
}

// jump moves a wall clock by minutes to years.
func (w *world) jump(p *process) {
	d := int64(time.Minute) << w.chance.IntN(22) // up to four years
	d += w.chance.Int64N(d)
	if w.chance.IntN(2) == 0 {
		d = -d
	}
	p.skew = d // from the right time: many jumps lead no further away
	w.tell("%s: its wall clock shows %s", p.name, p.clock().Format(time.RFC3339))
}

func TestReadings(t *testing.T) {
	year := 365 * 24 * int64(time.Hour)
	a, b := reading(1_700_000_000*sec+5, 7*sec), reading(1_700_000_000*sec-year, 10*sec)
	if b.Sub(a) != 3*time.Second || !b.After(a) || a.Add(3*time.Second).Before(b) || a.UnixNano() != 1_700_000_000*sec+5 || b.Year() != 2022 {
		t.Errorf("%s and %s", a, b)
	}
	if b = b.Round(0); !b.Before(a) {
		t.Errorf("without the monotonic reading %s is not before %s", b, a)
	}
}
