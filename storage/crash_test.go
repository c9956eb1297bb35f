package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// seeds is how many random lives a test goes through: few with -short, fewer
// with the race detector, n otherwise, or what STREAMBUS_CRASH_SEEDS says.
func seeds(t *testing.T, n int) uint64 {
	if s := os.Getenv("STREAMBUS_CRASH_SEEDS"); s != "" {
		n, err := strconv.Atoi(s)
		must(t, err)
		return uint64(n)
	}
	if testing.Short() {
		n /= 10
	}
	return uint64(n / oneOf)
}

// copyTo puts the files of a directory on a new file system.
func copyTo(t *testing.T, from *vfs.Mem, dir string, to *vfs.Mem) {
	t.Helper()
	must(t, to.MkdirAll(dir))
	names, err := from.List(dir)
	must(t, err)
	for _, n := range names {
		path := filepath.Join(dir, n)
		info, err := from.Stat(path)
		must(t, err)
		if info.IsDir {
			copyTo(t, from, path, to)
			continue
		}
		b, err := ReadFile(from, path)
		must(t, err)
		must(t, writeFile(to, path, b, false))
	}
}

// TestCutAtEveryByte cuts the active segment of a log of 100 batches at each of
// its bytes. The log is durable to the 50th; for each cut beyond that, recovery
// finds all whole batches, and finds them again after more appends and another
// crash. A cut below is a loss and is said to be one. With the race detector it cuts
// at some of the bytes.
func TestCutAtEveryByte(t *testing.T) {
	for _, segmentBytes := range []int64{1 << 20, 3000} {
		fs := vfs.NewMem()
		d := openDir(t, fs, "/data")
		cfg := small
		cfg.SegmentBytes = segmentBytes
		l, _ := openLog(t, d, cfg)
		all := fill(t, l, 50)
		flush(t, d)
		must(t, d.Checkpoint())
		durable := l.EndOffset()
		all = append(all, fill(t, l, 50)...)
		base, size := l.active().base, l.active().size
		must(t, d.CloseDirty())

		sealed := 0 // batches before the active segment
		for h, _ := batch.DecodeHeader(all[sealed]); h.BaseOffset < base; h, _ = batch.DecodeHeader(all[sealed]) {
			sealed++
		}
		for cut := int64(0); cut < size; cut += oneOf {
			disk := vfs.NewMem()
			copyTo(t, fs, "/data", disk)
			truncateTo(t, disk, fileName(base), cut)
			n, at := sealed, int64(0)
			for ; n < len(all) && at+int64(len(all[n])) <= cut; n++ {
				at += int64(len(all[n]))
			}
			end := int64(0)
			if n > 0 {
				h, _ := batch.DecodeHeader(all[n-1])
				end = h.LastOffset() + 1
			}
			d := openDir(t, disk, "/data")
			l, rec, err := d.OpenLog("t-0", cfg, noon)
			if end < durable {
				if _, ok := errors.AsType[*CorruptError](err); !ok {
					t.Fatalf("cut at %d, below the recovery point: %v", cut, err)
				}
				continue
			}
			must(t, err)
			if rec.TruncatedBytes != cut-at {
				t.Fatalf("cut at %d: %+v, want %d bytes truncated", cut, rec, cut-at)
			}
			wantBatches(t, readAll(t, l, 1000), all[:n])
			more := fill(t, l, 2)
			must(t, d.CloseDirty())
			d = openDir(t, disk, "/data")
			l, _ = openLog(t, d, cfg)
			wantBatches(t, readAll(t, l, 1000), slices.Concat(all[:n], more))
			if cut%8 == 0 { // it reads as much again as all the rest
				verify(t, disk, "/data", Stale)
			}
		}
		t.Logf("segments of %d: %d states", segmentBytes, size)
	}
}

func fileName(base int64) string { return fmt.Sprintf("/data/t-0/%020d.log", base) }

func truncateTo(t *testing.T, fs vfs.FS, name string, size int64) {
	t.Helper()
	f, err := fs.Open(name)
	must(t, err)
	must(t, f.Truncate(size))
	must(t, f.Close())
}

// TestFlipEveryBit flips each bit of a log that no recovery point covers.
// Recovery keeps what is before the damage; only the leader epoch, which no CRC
// covers, may change and stay.
func TestFlipEveryBit(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	all := fill(t, l, 8)
	must(t, d.CloseDirty())
	content := bytes.Join(all, nil)
	states := 0
	for bit := range len(content) * 8 {
		disk := vfs.NewMem()
		copyTo(t, fs, "/data", disk)
		b := bytes.Clone(content)
		b[bit/8] ^= 1 << (bit % 8)
		must(t, writeFile(disk, fileName(0), b, true))
		n, at := 0, 0
		for at+len(all[n]) <= bit/8 {
			at += len(all[n])
			n++
		}
		d := openDir(t, disk, "/data")
		l, _ := openLog(t, d, small)
		got := readAll(t, l, 1000)
		if in := bit/8 - at; in >= 12 && in < 16 && len(got) > n {
			wantBatches(t, got[:n], all[:n])
		} else {
			wantBatches(t, got, all[:n])
			verify(t, disk, "/data")
		}
		states++
	}
	t.Logf("%d states", states)
}

// TestCrashBeforeTheFirstFlush: of a log whose first segments were never flushed
// anything may be lost, but not the first one alone.
func TestCrashBeforeTheFirstFlush(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	must(t, fs.SyncDir("/"))
	l, _ := openLog(t, d, small)
	all := fill(t, l, 30)
	for seed := range seeds(t, 300) {
		disk := fs.Crash(rand.New(rand.NewPCG(seed, 3)))
		d := openDir(t, disk, "/data")
		l, _ := openLog(t, d, small)
		verify(t, disk, "/data", Stale)
		if l.StartOffset() != 0 {
			t.Fatalf("seed %d: the log begins at %d", seed, l.StartOffset())
		}
		got := readAll(t, l, 1000)
		wantBatches(t, got, all[:len(got)])
	}
}

// TestRollDuringTheFirstFlush: the first segment's name is not durable yet while
// the round that will make it so is under way.
func TestRollDuringTheFirstFlush(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	must(t, fs.SyncDir("/"))
	l, _ := openLog(t, d, small)
	fill(t, l, 1)
	d.BeginFlush()
	fill(t, l, 30)
	for seed := range seeds(t, 100) {
		disk := fs.Crash(rand.New(rand.NewPCG(seed, 3)))
		l, _ := openLog(t, openDir(t, disk, "/data"), small)
		verify(t, disk, "/data", Stale)
		if l.StartOffset() != 0 {
			t.Fatalf("seed %d: the log begins at %d", seed, l.StartOffset())
		}
	}
}

// TestCrashAfterFailedWrite: the remains of a write that failed and was cut back
// may come again as long as nothing follows them, and no longer.
func TestCrashAfterFailedWrite(t *testing.T) {
	mem := vfs.NewMem()
	failing := false
	fs := vfs.NewFaulty(mem, func(op vfs.Op, name string) error {
		if failing && op == vfs.OpWriteAt && strings.HasSuffix(name, ".log") {
			return &vfs.ShortWrite{Bytes: 40, Err: errFault}
		}
		return nil
	})
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	all := fill(t, l, 3)
	flush(t, d)
	failing = true
	if _, err := l.Append(batchtest.Values("value").Encode(), 1, noon); !errors.Is(err, errFault) {
		t.Fatal(err)
	}
	failing = false
	recovers := func(what string) {
		must(t, d.Checkpoint())
		for seed := range seeds(t, 200) {
			disk := mem.Crash(rand.New(rand.NewPCG(seed, 6)))
			d := openDir(t, disk, "/data")
			l, _, err := d.OpenLog("t-0", small, noon)
			if err != nil {
				t.Fatalf("%s, seed %d: %v", what, seed, err)
			}
			verify(t, disk, "/data", Stale)
			wantBatches(t, readAll(t, l, 1000), all)
		}
	}
	recovers("at once")
	next := batchtest.Values(strings.Repeat("v", 700)).Encode() // of the next segment
	appendOne(t, l, next)
	all = append(all, next)
	flush(t, d)
	recovers("after a roll")
}

// TestCrashAfterCleanStart: once a directory has been opened it is not clean.
func TestCrashAfterCleanStart(t *testing.T) {
	fs := vfs.NewMem()
	must(t, openDir(t, fs, "/data").Close(noon))
	must(t, fs.SyncDir("/"))
	if d := openDir(t, fs, "/data"); !d.Clean() {
		t.Fatal("not clean after Close")
	}
	for seed := range seeds(t, 100) {
		if d := openDir(t, fs.Crash(rand.New(rand.NewPCG(seed, 4))), "/data"); d.Clean() {
			t.Fatalf("seed %d: clean after a crash", seed)
		}
	}
}

// world is a data directory with two logs, on a disk that crashes, beside what
// is known of it. In the model a log is a slice of batches.
type world struct {
	t    *testing.T
	rng  *rand.Rand
	mem  *vfs.Mem
	fs   vfs.FS // mem, counting
	dir  *Dir
	cfg  LogConfig
	logs [2]*modelLog

	// countdown is the number of calls after which the power fails; disk is
	// what is left then. The calls after it go to a machine that is off.
	countdown int
	disk      *vfs.Mem
	// fault is the number of calls after which one fails.
	fault    int
	during   func()      // once, before some call of the file system
	late     *FlushRound // whose Done comes later
	flushing bool
	time     int64 // of the records
	states   int
}

type modelLog struct {
	name    string
	topic   byte
	log     *Log
	batches [][]byte
	start   int64 // as reported
	asked   int64 // the largest asked for
	durable int64 // as reported before the power failed
	cached  int64 // what a killed process left in the page cache, while there is power
	epoch   int32

	watermark int64 // as set
	known     int64 // of it, at least, a checkpoint says
	restart   int64 // the offset of a Restart that a crash may have cut short; -1
}

func newWorld(t *testing.T, seed uint64) *world {
	rng := rand.New(rand.NewPCG(seed, 7))
	w := &world{t: t, rng: rng, cfg: LogConfig{
		SegmentBytes:       1000 + rng.Int64N(20_000),
		IndexIntervalBytes: 100 + rng.Int64N(2000),
		SegmentIndexBytes:  100 + rng.Int64N(1000),
		FlushOS:            rng.IntN(5) == 0,
		ProducerExpiration: 100 * 365 * 24 * time.Hour, // Retain is told of other times than noon
		DeleteDelay:        time.Minute,
		SegmentAge:         time.Duration(rng.IntN(3)*rng.IntN(300)) * time.Millisecond,
		SegmentJitter:      time.Duration(rng.IntN(2)*rng.IntN(300)) * time.Millisecond,
	}}
	for i := range w.logs {
		w.logs[i] = &modelLog{name: fmt.Sprint("t-", i), topic: 1, restart: -1}
	}
	w.insert(vfs.NewMem())
	return w
}

// insert gives the machine a disk and switches it on.
func (w *world) insert(disk *vfs.Mem) {
	w.mem, w.disk = disk, nil
	for _, m := range w.logs {
		m.cached = 0
	}
	w.fs = vfs.NewFaulty(disk, func(op vfs.Op, name string) error {
		if w.countdown--; w.countdown == 0 && w.disk == nil {
			w.disk = w.mem.Crash(w.rng)
		}
		if do := w.during; do != nil && op != vfs.OpClose && w.rng.IntN(8) == 0 { // a file is closed under a lock
			w.during = nil
			do()
		}
		if w.fault--; w.fault != 0 || op == vfs.OpTruncate || op == vfs.OpSync || op == vfs.OpSyncDir { // those are fatal
			return nil
		}
		if op == vfs.OpWriteAt {
			return &vfs.ShortWrite{Bytes: w.rng.IntN(50), Err: errFault}
		}
		return errFault
	})
}

func (w *world) off() bool { return w.disk != nil }

// start opens the directory, and checks what is there unless the power fails.
func (w *world) start() {
	var err error
	w.dir, err = OpenDir(w.fs, "/data")
	must(w.t, err)
	if w.rng.IntN(2) == 0 {
		w.dir.cost = syncCost{each: 1, all: 100} // file by file
	}
	for _, m := range w.logs {
		m.log, _, err = w.dir.OpenLog(m.name, withTopic(w.cfg, m.topic), noon)
		must(w.t, err)
	}
	if w.off() {
		return
	}
	for _, m := range w.logs {
		m.check(w.t)
		m.watermark = min(m.watermark, m.log.EndOffset()) // the power failed in a cut below it
		m.checkWatermark(w.t)
	}
	verify(w.t, w.mem, "/data", Stale)
	w.states++
	for _, m := range w.logs {
		if m.restart >= 0 && !w.off() {
			w.restart(m, m.restart)
		}
	}
}

// check compares a log just opened with its model: a prefix of it, with all
// that was durable, and with the producers and epochs of that prefix.
func (m *modelLog) check(t *testing.T) {
	t.Helper()
	if m.restarted(t) {
		return
	}
	if start := m.log.StartOffset(); start < m.start || start > max(m.start, m.asked) {
		t.Fatalf("%s: begins at %d, was reported to begin at %d and asked to at %d", m.name, start, m.start, m.asked)
	}
	m.start = m.log.StartOffset()
	m.asked = m.start
	got := readAll(t, m.log, math.MaxInt64)
	visible := m.visible()
	if len(got) > len(visible) || m.log.EndOffset() < max(m.durable, m.cached) {
		t.Fatalf("%s: %d batches to offset %d, of %d appended and durable to %d, cached to %d",
			m.name, len(got), m.log.EndOffset(), len(visible), m.durable, m.cached)
	}
	m.batches = m.batches[:len(m.batches)-len(visible)+len(got)]
	wantBatches(t, got, m.visible())
	if m.log.FlushedOffset() != m.log.EndOffset() {
		t.Fatalf("%s: flushed to %d of %d", m.name, m.log.FlushedOffset(), m.log.EndOffset())
	}
	m.durable = m.log.EndOffset()
	if got, want := describe(m.log.producers), m.producers(); got != want {
		t.Fatalf("%s: producers\n%s, the batches say\n%s", m.name, got, want)
	}
	var history epochs
	for _, b := range m.batches {
		h, _ := batch.DecodeHeader(b)
		if len(history) == 0 || history[len(history)-1].epoch != h.LeaderEpoch {
			history = append(history, epochStart{h.LeaderEpoch, h.BaseOffset})
		}
	}
	for len(history) > 1 && history[1].offset <= m.start {
		history = history[1:]
	}
	if len(history) > 0 {
		history[0].offset = max(history[0].offset, m.start)
	}
	if m.start > 0 && m.start == m.log.EndOffset() && len(m.log.epochs) > 0 && m.log.epochs.latest() <= m.epoch {
		// The next leader's may be there already.
		history = append(history[:max(0, len(history)-1)], epochStart{m.log.epochs.latest(), m.start})
	}
	if m.start > 0 && len(history) > 0 && len(m.log.epochs) > 0 && m.log.epochs[0].offset == m.start {
		history[0].offset = m.start // it was there before its first record, and that came after a gap
	}
	if v := m.visible(); len(v) > 0 && len(history) > 0 && len(m.log.epochs) > 0 && m.log.epochs[0].offset == mustHeader(t, v[0]).BaseOffset {
		history[0].offset = m.log.epochs[0].offset // the log begins with a gap
	}
	if !slices.Equal(m.log.epochs, history) {
		t.Fatalf("%s: epochs %v, the batches say %v", m.name, m.log.epochs, history)
	}
	for i, e := range history {
		end := m.log.EndOffset()
		if i+1 < len(history) {
			end = history[i+1].offset
		}
		if epoch, got := m.log.EndOffsetForEpoch(e.epoch); epoch != e.epoch || got != end {
			t.Fatalf("%s: epoch %d ends at %d, %d; want %d", m.name, e.epoch, epoch, got, end)
		}
	}
	checkTimes(t, m.log, m.batches, m.log.EndOffset())
}

// visible is what can be read: the batches that end above the start.
func (m *modelLog) visible() [][]byte {
	for i, b := range m.batches {
		if h, _ := batch.DecodeHeader(b); h.LastOffset() >= m.start {
			return m.batches[i:]
		}
	}
	return nil
}

func describe(ps producers) string {
	var lines []string
	for id, p := range ps {
		line := fmt.Sprint(id, " ", p.epoch, ":")
		for _, b := range p.batches {
			line += fmt.Sprintf(" %d-%d@%d-%d", b.first, b.last, b.baseOffset(), b.lastOffset)
		}
		lines = append(lines, line)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// producers derives the state from the batches, in the plainest way.
func (m *modelLog) producers() string {
	lines := make(map[string][]string) // by "id epoch:"
	latest := make(map[int64]string)
	for _, b := range m.batches {
		h, _ := batch.DecodeHeader(b)
		if h.ProducerID < 0 {
			continue
		}
		key := fmt.Sprint(h.ProducerID, " ", h.ProducerEpoch, ":")
		latest[h.ProducerID] = key
		lines[key] = append(lines[key], fmt.Sprintf(" %d-%d@%d-%d", h.BaseSequence, h.LastSequence(), h.BaseOffset, h.LastOffset()))
	}
	var all []string
	for _, key := range latest {
		l := lines[key]
		all = append(all, key+strings.Join(l[max(0, len(l)-5):], ""))
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

// step does one thing that a broker does.
func (w *world) step() {
	m := w.logs[w.rng.IntN(len(w.logs))]
	if w.rng.IntN(4) == 0 {
		w.replicate(m)
		return
	}
	switch n := w.rng.IntN(24); {
	case n < 13:
		w.append(m)
	case n < 16:
		w.flush(true)
	case n < 17:
		w.flush(false)
	case n < 18:
		w.checkpoint()
	case n < 19:
		m.epoch += w.rng.Int32N(3)
	case n < 20:
		w.advance(m)
	case n < 21:
		w.retain(m)
	case n < 22 && w.rng.IntN(8) == 0:
		w.delete(m)
	case n < 23:
		_, err := w.dir.Sweep(noon.Add(time.Duration(w.rng.IntN(3)) * time.Minute))
		must(w.t, err)
	case w.rng.IntN(2) == 0:
		checkTimes(w.t, m.log, m.batches, w.rng.Int64N(m.log.EndOffset()+1))
	default:
		wantBatches(w.t, readAll(w.t, m.log, w.rng.Int64N(5000)), m.visible())
	}
}

func (w *world) append(m *modelLog) {
	b := batchtest.Values(slices.Repeat([]string{strings.Repeat("v", w.rng.IntN(300))}, 1+w.rng.IntN(3))...)
	w.stamp(&b)
	if id := w.rng.Int64N(4); id > 0 {
		b = w.sequenced(m, b, id)
	}
	raw := b.Encode()
	m.batches = append(m.batches, raw) // first: the power may fail in the middle
	if w.rng.IntN(10) == 0 {
		w.fault = 1 + w.rng.IntN(12)
	}
	a, err := m.log.Append(raw, m.epoch, noon)
	w.fault = 0
	if err != nil && !errors.Is(err, errFault) {
		w.t.Fatal(err)
	}
	if err != nil || a.Duplicate {
		m.batches = m.batches[:len(m.batches)-1]
	}
}

// advance gives up records that are durable, as those below a high watermark are.
func (w *world) advance(m *modelLog) {
	w.acknowledge(m)
	if m.watermark < m.start {
		return
	}
	asked := m.start + w.rng.Int64N(m.watermark-m.start+1)
	if w.rng.IntN(4) == 0 {
		asked = m.watermark
	}
	m.asked = max(m.asked, asked)
	if w.rng.IntN(5) == 0 {
		w.fault = 1 + w.rng.IntN(20)
	}
	err := m.log.AdvanceStart(asked, noon)
	w.fault = 0
	if err != nil && !errors.Is(err, errFault) {
		w.t.Fatal(err)
	}
	if !w.off() && (err == nil || m.log.StartOffset() == asked) {
		m.start = m.log.StartOffset()
	}
}

// retain applies limits below what is durable.
func (w *world) retain(m *modelLog) {
	w.acknowledge(m)
	m.asked = max(m.asked, m.watermark)
	cfg := RetentionConfig{w.rng.Int64N(10_000), time.Duration(w.rng.IntN(500)) * time.Millisecond}
	switch w.rng.IntN(4) {
	case 0:
		cfg.Age = -1
	case 1:
		cfg.Bytes = -1
	}
	if w.rng.IntN(5) == 0 {
		w.fault = 1 + w.rng.IntN(30)
	}
	_, err := m.log.Retain(time.UnixMilli(w.time+w.rng.Int64N(100)), cfg, m.watermark)
	w.fault = 0
	if err != nil && !errors.Is(err, errFault) {
		w.t.Fatal(err)
	}
	if start := m.log.StartOffset(); start > m.asked {
		w.t.Fatalf("%s: begins at %d, above %d", m.name, start, m.asked)
	} else if !w.off() {
		m.start = start
	}
}

// delete deletes a log and makes another of its name: that of the topic's next
// incarnation, which has nothing of the old one whatever happens.
func (w *world) delete(m *modelLog) {
	if w.rng.IntN(5) == 0 {
		w.fault = 1 + w.rng.IntN(8)
	}
	err := w.dir.DeleteLogs(noon, m.name)
	w.fault = 0
	if errors.Is(err, errFault) {
		err = w.dir.DeleteLogs(noon, m.name)
	}
	must(w.t, err)
	*m = modelLog{name: m.name, topic: m.topic + 1, restart: -1}
	m.log, _, err = w.dir.OpenLog(m.name, withTopic(w.cfg, m.topic), noon)
	must(w.t, err)
	if m.log.EndOffset() != 0 {
		w.t.Fatalf("%s: a new log ends at %d", m.name, m.log.EndOffset())
	}
}

// stamp gives b timestamps that rise, mostly.
func (w *world) stamp(b *batchtest.Batch) {
	w.time += w.rng.Int64N(10)
	b.BaseTimestamp = max(0, w.time-w.rng.Int64N(20))
	if w.rng.IntN(40) == 0 {
		b.BaseTimestamp += 100
	}
	for i := range b.Records {
		b.Records[i].TimestampDelta = w.rng.Int64N(10)
	}
	switch w.rng.IntN(10) {
	case 0:
		b.Attributes |= batch.LogAppendTimeBit
	case 1:
		b.BaseTimestamp, b.MaxTimestamp, b.Records = -1, -1, b.Records[:1]
		b.Records[0].TimestampDelta = 0
	}
}

var errFault = errors.New("a call that fails")

// sequenced makes b the next batch of a producer, in an epoch of its own now
// and then, or a repetition of its last one.
func (w *world) sequenced(m *modelLog, b batchtest.Batch, id int64) batchtest.Batch {
	for _, raw := range slices.Backward(m.batches) {
		h, _ := batch.DecodeHeader(raw)
		if h.ProducerID != id {
			continue
		}
		switch w.rng.IntN(10) {
		case 0:
			return b.From(id, h.ProducerEpoch+1, 0)
		case 1:
			b.Records = slices.Repeat(b.Records[:1], int(h.Count))
			return b.From(id, h.ProducerEpoch, h.BaseSequence)
		}
		return b.From(id, h.ProducerEpoch, batch.AddSequence(h.LastSequence(), 1))
	}
	return b.From(id, 0, math.MaxInt32-w.rng.Int32N(20))
}

// flush runs a round. With appends in between, it does so in the middle of it.
func (w *world) flush(still bool) {
	r := w.dir.BeginFlush()
	if r == nil {
		return
	}
	w.flushing = true // there is one round at a time
	defer func() { w.flushing = false }()
	syncs := r.Syncs()
	w.rng.Shuffle(len(syncs), func(i, j int) { syncs[i], syncs[j] = syncs[j], syncs[i] })
	for _, sync := range syncs {
		if m := w.logs[w.rng.IntN(len(w.logs))]; still || w.off() {
			// Of a log that was cut as the power failed the model knows too much.
		} else if w.rng.IntN(4) == 0 {
			w.replicate(m)
		} else {
			w.append(m)
		}
		must(w.t, sync())
	}
	if w.rng.IntN(50) == 0 {
		if w.rng.IntN(2) == 0 && !w.off() {
			w.append(w.logs[0]) // before anybody knows
		}
		r.Done(time.Millisecond, errFault)
		return
	}
	w.done(r)
}

func (w *world) done(r *FlushRound) {
	for _, f := range r.Done(time.Millisecond, nil) {
		if w.off() {
			continue // nobody heard of it
		}
		for _, m := range w.logs {
			if m.log == f.Log {
				m.durable = max(m.durable, f.Offset)
			}
		}
	}
}

// live starts the machine, works, and stops in one of three ways: power cut,
// kill, orderly stop. The power may fail anywhere, also during recovery.
func (w *world) live() {
	w.countdown = 1 + w.rng.IntN(40<<w.rng.IntN(5))
	w.start()
	for range w.rng.IntN(80) {
		if w.off() || w.dir.Failed() != nil {
			break
		}
		w.step()
	}
	switch {
	case w.off():
	case w.dir.Failed() != nil || w.rng.IntN(4) == 0: // killed: what is in the page cache stays
		must(w.t, w.dir.CloseDirty())
		for _, m := range w.logs {
			m.cached = m.log.EndOffset()
		}
		return
	case w.rng.IntN(3) == 0:
		must(w.t, w.dir.Close(noon))
		if !w.off() {
			for _, m := range w.logs {
				m.durable = m.log.EndOffset()
			}
			w.disk = w.mem.Crash(w.rng)
		}
	default:
		w.disk = w.mem.Crash(w.rng)
	}
	w.insert(w.disk)
}

// TestCrash lives many lives in a row on one disk, with a power cut at a random
// call of each, and crashes twice more in recovery.
func TestCrash(t *testing.T) {
	states := 0
	seed := uint64(0)
	defer tellSeed(t, &seed)
	for n := seeds(t, 600); seed < n; seed++ {
		w := newWorld(t, seed)
		for range 12 {
			w.live()
			for range w.rng.IntN(3) {
				w.recoverOnly()
			}
		}
		w.countdown = math.MaxInt
		w.start()
		states += w.states
	}
	t.Logf("%d recovered states checked", states)
}

func tellSeed(t *testing.T, seed *uint64) {
	if t.Failed() {
		t.Logf("seed %d", *seed)
	}
}

// recoverOnly starts the machine and loses power at once, mostly in recovery.
func (w *world) recoverOnly() {
	w.countdown = 1 + w.rng.IntN(40)
	w.start()
	if !w.off() {
		w.disk = w.mem.Crash(w.rng)
	}
	w.insert(w.disk)
}

// TestSameUnderOtherSettings does the same operations on logs with other segments
// and indexes, other restarts and other crashes: all answer the same.
func TestSameUnderOtherSettings(t *testing.T) {
	answers, lives := 0, 0
	for seed := range seeds(t, 20) {
		var first []string
		for variant := range uint64(4) {
			a := &alike{t: t, ops: rand.New(rand.NewPCG(seed, 1)), how: rand.New(rand.NewPCG(seed, 100+variant)), mem: vfs.NewMem()}
			a.run()
			if variant == 0 {
				first = a.answers
			}
			for i, got := range a.answers {
				if got != first[i] {
					t.Fatalf("seed %d, answer %d: variant %d says\n%.300s, the first said\n%.300s", seed, i, variant, got, first[i])
				}
			}
			answers, lives = answers+len(a.answers), lives+a.lives
		}
	}
	t.Logf("%d answers, from %d lives", answers, lives)
}

// alike is a log under the operations that ops draws. What must not matter is
// drawn from how.
type alike struct {
	t        *testing.T
	ops, how *rand.Rand
	mem      *vfs.Mem
	cfg      LogConfig
	dir      *Dir
	log      *Log
	answers  []string
	lives    int
}

func (a *alike) run() {
	a.cfg = LogConfig{
		SegmentBytes: 2000 << a.how.IntN(8), IndexIntervalBytes: 50 << a.how.IntN(8), SegmentIndexBytes: 100 << a.how.IntN(8),
		SegmentAge: time.Duration(a.how.IntN(2)) * time.Second, SegmentJitter: time.Duration(a.how.IntN(2)) * time.Second,
		ProducerExpiration: time.Hour,
	}
	a.open(a.mem)
	for range 300 {
		a.disturb()
		a.operate()
	}
	must(a.t, a.dir.Close(noon))
	verify(a.t, a.mem, "/data", Stale)
}

func (a *alike) open(disk *vfs.Mem) {
	a.mem = disk
	a.dir = openDir(a.t, disk, "/data")
	a.log, _ = openLog(a.t, a.dir, a.cfg)
	a.lives++
}

func (a *alike) disturb() {
	switch a.how.IntN(50) {
	case 0:
		must(a.t, a.dir.Close(noon))
		a.open(a.mem)
	case 1:
		must(a.t, a.dir.CloseDirty())
		a.open(a.mem)
	case 2:
		flush(a.t, a.dir)
		a.open(a.mem.Crash(a.how))
	case 3:
		flush(a.t, a.dir)
	case 4:
		must(a.t, a.dir.Checkpoint())
	case 5:
		a.cfg.IndexIntervalBytes = 50 << a.how.IntN(8)
		a.log.SetConfig(a.cfg)
	case 6:
		_, err := a.dir.Sweep(noon)
		must(a.t, err)
	}
}

func (a *alike) operate() {
	start, end := a.log.StartOffset(), a.log.EndOffset()
	switch n := a.ops.IntN(20); {
	case n < 12:
		a.append(end)
	case n < 16:
		a.read(a.ops.Int64N(end+2), end)
	case n < 17:
		found, ok, err := a.log.OffsetForTime(a.ops.Int64N(1000*end+1), a.ops.Int64N(end+1))
		a.answer("time", found, ok, err)
	case n < 18:
		found, ok, err := a.log.MaxTimestamp(a.ops.Int64N(end + 1))
		a.answer("latest", found, ok, err)
	case n < 19:
		epoch, to := a.log.EndOffsetForEpoch(a.ops.Int32N(a.log.EpochAt(end) + 3))
		a.answer("epoch", epoch, to, a.log.Producers(noon))
	case a.ops.IntN(4) == 0:
		below := start + a.ops.Int64N(end-start+1)
		flush(a.t, a.dir) // as far as a high watermark may be
		// How much goes depends on where segments end, and what then remains does not.
		_, err := a.log.Retain(noon, RetentionConfig{Bytes: 0, Age: -1}, below)
		must(a.t, err)
		must(a.t, a.log.AdvanceStart(below, noon))
		a.answer("start", a.log.StartOffset())
	}
}

func (a *alike) answer(parts ...any) { a.answers = append(a.answers, fmt.Sprintln(parts...)) }

func (a *alike) append(end int64) {
	values := slices.Repeat([]string{strings.Repeat("v", a.ops.IntN(600))}, 1+a.ops.IntN(3))
	b := batchtest.Values(values...).At(1000*end - a.ops.Int64N(3000))
	if id := a.ops.Int64N(4); id > 0 {
		b = b.From(id, int16(end/60), int32(end%60)+a.ops.Int32N(2)) // some in order, some not, some in an epoch that is over
	}
	raw := b.Encode()
	if codec := batch.Codec(a.ops.IntN(5)); codec != batch.None {
		raw = batchtest.Compressed(raw, batch.Compression{Codec: codec, Level: 1})
	}
	epoch := max(a.log.EpochAt(end), 0)
	if a.ops.IntN(8) == 0 {
		epoch++
	}
	appended, err := a.log.Append(raw, epoch, noon)
	a.answer("append", appended, err)
}

// read goes on to a limit, for a region may end with its segment.
func (a *alike) read(offset, upTo int64) {
	var got []byte
	for offset < upTo {
		r, err := a.log.Read(offset, upTo, a.how.Int64N(4000), true)
		if errors.Is(err, ErrOffsetOutOfRange) {
			a.answer("read", err)
			return
		}
		must(a.t, err)
		b, err := r.Bytes()
		must(a.t, err)
		batches, err := batchtest.Split(b)
		must(a.t, err)
		h, err := batch.DecodeHeader(batches[len(batches)-1])
		must(a.t, err)
		got = append(got, b...)
		offset = h.LastOffset() + 1
	}
	a.answer("read", fmt.Sprintf("%x", got))
}
