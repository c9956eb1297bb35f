package storage

import (
	"errors"
	"math"
	"slices"
	"strings"

	"testing"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
)

// What a follower does, in the lives of TestCrash.

// replicate does one thing that a broker does to a log that it does not lead.
func (w *world) replicate(m *modelLog) {
	if w.dir.Failed() != nil {
		return
	}
	switch n := w.rng.IntN(12); {
	case n < 8:
		w.follow(m)
	case n < 11:
		w.truncate(m)
	default:
		w.restart(m, w.rng.Int64N(m.log.EndOffset()+30))
	}
}

// acknowledge raises the watermark, to no more than is durable.
func (w *world) acknowledge(m *modelLog) {
	if m.watermark < m.durable && w.rng.IntN(2) == 0 {
		m.watermark += w.rng.Int64N(m.durable - m.watermark + 1)
	}
	m.log.SetHighWatermark(m.watermark)
}

func (w *world) checkpoint() {
	must(w.t, w.dir.Checkpoint())
	for _, m := range w.logs {
		if !w.off() {
			m.known = m.log.HighWatermark()
		}
	}
}

func (m *modelLog) checkWatermark(t *testing.T) {
	t.Helper()
	if got := m.log.HighWatermark(); got < min(m.known, m.log.EndOffset()) || got > min(m.watermark, m.log.EndOffset()) {
		t.Fatalf("%s: watermark %d, was %d and a checkpoint said %d; the log ends at %d", m.name, got, m.watermark, m.known, m.log.EndOffset())
	}
}

// follow appends what a leader answers: a few batches, maybe with gaps, and then
// it may end inside of one, or with one that is to be refused.
func (w *world) follow(m *modelLog) {
	var answer []byte
	next, epoch := m.log.EndOffset(), m.log.EpochAt(m.log.EndOffset())
	m.epoch = max(m.epoch, epoch)
	for range 1 + w.rng.IntN(6) {
		if w.rng.IntN(12) == 0 {
			next += w.rng.Int64N(40) // compacted away
		}
		epoch += w.rng.Int32N(m.epoch-epoch+1) * w.rng.Int32N(2)
		b := w.batchAt(m, next, epoch)
		answer = append(answer, b...)
		m.batches = append(m.batches, b) // first: the power may fail in the middle
		next += int64(mustHeader(w.t, b).LastOffsetDelta) + 1
	}
	refused := false
	switch extra := w.batchAt(m, next, epoch); w.rng.IntN(8) {
	case 0:
		answer = append(answer, extra[:w.rng.IntN(len(extra))]...)
	case 1:
		extra[20+w.rng.IntN(len(extra)-20)] ^= 1
		answer, refused = append(answer, extra...), true
	case 2:
		batch.Stamp(extra, next, m.epoch+1)
		answer, refused = append(answer, extra...), true
	case 3:
		batch.Stamp(extra, next-1, epoch)
		answer, refused = append(answer, extra...), true
	}
	if w.rng.IntN(10) == 0 {
		w.fault = 1 + w.rng.IntN(20)
	}
	end, err := m.log.AppendFetched(answer, m.epoch, noon)
	w.fault = 0
	if !errors.Is(err, errFault) && ((err != nil) != refused || end != next) {
		w.t.Fatalf("%s: goes on to %d, %v; want %d, refused %v", m.name, end, err, next, refused)
	}
	m.batches = slices.DeleteFunc(m.batches, func(b []byte) bool { return mustHeader(w.t, b).BaseOffset >= end })
	if got := m.log.EndOffset(); got != end {
		w.t.Fatalf("%s: ends at %d, said %d", m.name, got, end)
	}
}

// batchAt is a batch as it lies in a leader's log.
func (w *world) batchAt(m *modelLog, offset int64, epoch int32) []byte {
	b := batchtest.Values(slices.Repeat([]string{strings.Repeat("v", w.rng.IntN(300))}, 1+w.rng.IntN(3))...)
	w.stamp(&b)
	if id := w.rng.Int64N(4); id > 0 {
		b = w.sequenced(m, b, id)
	}
	raw := b.Encode()
	batch.Stamp(raw, offset, max(epoch, 0))
	return raw
}

func mustHeader(t testing.TB, b []byte) batch.Header {
	h, err := batch.DecodeHeader(b)
	must(t, err)
	return h
}

// truncate cuts a log at its watermark or above it, as a leader does that has that
// much. Where nothing was ever deleted it may be anywhere, as it is after an
// unclean election: all that is known follows from the batches then.
func (w *world) truncate(m *modelLog) {
	from, end := max(m.watermark, m.start), m.log.EndOffset()
	if m.start == 0 && w.rng.IntN(4) == 0 {
		from = 0
	}
	if from > end {
		return
	}
	at := from + w.rng.Int64N(end-from+1)
	// Where a gap ends is nobody's offset: the log may end at either side.
	low, high, keep := int64(0), at, 0
	for ; keep < len(m.batches); keep++ {
		h := mustHeader(w.t, m.batches[keep])
		if h.LastOffset() >= at {
			high = min(high, h.BaseOffset)
			break
		}
		low = h.LastOffset() + 1
	}
	if low = max(low, m.start); low == m.start && at < end {
		m.restart = m.start
	}
	w.disturbed()
	lower := func() { m.durable, m.cached, m.known = min(m.durable, low), min(m.cached, low), min(m.known, low) }
	lower()
	got, err := m.log.TruncateTo(at, noon)
	w.settle()
	lower() // a round may have come before
	if errors.Is(err, errFault) {
		w.unchanged(m, end)
		return
	}
	must(w.t, err)
	m.epoch += w.rng.Int32N(2)
	if w.off() {
		return
	}
	m.restart = -1
	if at >= end {
		return
	}
	m.watermark = min(m.watermark, got)
	if m.batches = slices.Clip(m.batches[:keep]); got == m.start {
		m.batches = nil
	}
	if got < low || got > max(high, m.start) {
		w.t.Fatalf("%s: cut to %d at %d, want %d to %d", m.name, got, at, low, high)
	}
	asked := m.asked // what an AdvanceStart that failed has asked for may still come
	m.check(w.t)
	m.asked = max(m.asked, asked)
	m.checkWatermark(w.t)
}

// restart begins a log anew.
func (w *world) restart(m *modelLog, at int64) {
	w.disturbed()
	end := m.log.EndOffset()
	m.restart, m.cached, m.known = at, 0, min(m.known, at)
	m.durable = 0
	err := m.log.Restart(at)
	w.settle()
	m.durable = 0 // a round may have come before
	if errors.Is(err, errFault) {
		w.unchanged(m, end)
		return
	}
	must(w.t, err)
	if w.off() {
		return
	}
	*m = modelLog{name: m.name, topic: m.topic, log: m.log, epoch: m.epoch, start: at, asked: at, durable: at,
		watermark: min(m.watermark, at), known: m.known, restart: -1}
	if got := m.log.EndOffset(); got != at {
		w.t.Fatalf("%s: restarted at %d, ends at %d", m.name, at, got)
	}
	m.check(w.t)
	m.checkWatermark(w.t)
}

// disturbed has a call fail, or a round of syncs come in between.
func (w *world) disturbed() {
	switch w.rng.IntN(6) {
	case 0:
		w.fault = 1 + w.rng.IntN(30)
	case 1, 2:
		if w.flushing {
			return
		}
		w.during = func() {
			r := w.dir.BeginFlush()
			if r == nil {
				return
			}
			for _, sync := range r.Syncs() {
				must(w.t, sync())
			}
			if w.rng.IntN(2) == 0 {
				w.late = r
			} else {
				w.done(r)
			}
		}
	}
}

func (w *world) settle() {
	w.fault, w.during = 0, nil
	if w.late != nil {
		w.done(w.late)
		w.late = nil
	}
}

// unchanged checks a log that could not be cut: it is as it was, or else it takes
// nothing more.
func (w *world) unchanged(m *modelLog, end int64) {
	w.t.Helper()
	if w.dir.Failed() != nil {
		return
	}
	if got := m.log.EndOffset(); got != end {
		w.t.Fatalf("%s: ends at %d after a cut that failed, at %d before", m.name, got, end)
	}
	m.restart = -1
}

// restarted tells whether a log just opened was emptied by a Restart that a crash
// cut short: nothing is left then of what was known of its records.
func (m *modelLog) restarted(t *testing.T) bool {
	t.Helper()
	start := m.log.StartOffset()
	if m.restart < 0 || start != m.log.EndOffset() || start > max(m.restart, m.start) {
		return false
	}
	if start == m.restart && start != m.start && (m.log.epochs != nil || len(m.log.producers) > 0) {
		t.Fatalf("%s: epochs %v and producers %s of nothing", m.name, m.log.epochs, describe(m.log.producers))
	}
	m.batches, m.start, m.asked, m.durable, m.known = nil, start, start, start, min(m.known, start)
	return true
}

// TestFollowerAgainstASlice is TestCrash without crashes.
func TestFollowerAgainstASlice(t *testing.T) {
	seed := uint64(0)
	defer tellSeed(t, &seed)
	for n := seeds(t, 300); seed < n; seed++ {
		w := newWorld(t, seed+1_000_000)
		w.countdown = math.MaxInt
		w.start()
		for range 150 {
			m := w.logs[w.rng.IntN(len(w.logs))]
			if w.replicate(m); w.dir.Failed() != nil {
				break
			}
			if w.rng.IntN(4) == 0 {
				w.flush(w.rng.IntN(2) == 0)
			}
			if w.dir.Failed() != nil {
				break
			}
			wantBatches(t, readAll(t, m.log, w.rng.Int64N(5000)), m.visible())
			if got, want := describe(m.log.producers), m.producers(); got != want {
				t.Fatalf("%s: producers\n%s, the batches say\n%s", m.name, got, want)
			}
		}
	}
}
