package storage

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// keyed is a record of a compacted log, with its offset. A nil value deletes its key.
type keyed struct {
	offset, timestamp int64
	key, value        string
	deletes           bool
}

// compactedLog is a log that is compacted, and all that was appended to it.
type compactedLog struct {
	t       *testing.T
	rng     *rand.Rand
	d       *Dir
	l       *Log
	history []keyed // by offset
	epochs  []int32 // likewise
	seq     map[int64]int32
	now     time.Time
	behind  bool // the watermark does not follow appends

	retention time.Duration // of deletions' markers
	most      int64         // bytes of a segment that compaction makes
}

var compactedConfig = LogConfig{SegmentBytes: 1500, IndexIntervalBytes: 150, SegmentIndexBytes: 10 << 20, ProducerExpiration: 1e6 * time.Hour, DeleteDelay: time.Minute}

func newCompacted(t *testing.T, seed uint64, fs vfs.FS) *compactedLog {
	c := &compactedLog{t: t, rng: rand.New(rand.NewPCG(seed, 11)), seq: make(map[int64]int32), now: noon, retention: time.Hour, most: math.MaxInt32}
	if seed%3 == 2 { // less than a segment has: what is kept of one does not fit into one
		c.most = 700
	}
	c.open(fs)
	return c
}

func (c *compactedLog) open(fs vfs.FS) {
	c.t.Helper()
	c.d = openDir(c.t, fs, "/data")
	c.l, _ = openLog(c.t, c.d, compactedConfig)
}

// append appends n batches of few keys, of producers or not, compressed or not.
func (c *compactedLog) append(n int) {
	c.t.Helper()
	for range n {
		b := batchtest.Batch{LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, BaseTimestamp: 1000 + int64(len(c.history))*10}
		for range 1 + c.rng.IntN(4) {
			r := batchtest.Record{TimestampDelta: c.rng.Int64N(30), Key: fmt.Append(nil, "key ", c.rng.IntN(12))}
			if c.rng.IntN(5) > 0 {
				r.Value = fmt.Append(nil, "value ", len(c.history), strings.Repeat("x", c.rng.IntN(60)))
			}
			c.history = append(c.history, keyed{int64(len(c.history)), b.BaseTimestamp + r.TimestampDelta, string(r.Key), string(r.Value), r.Value == nil})
			b.Records = append(b.Records, r)
		}
		if id := c.rng.Int64N(8); id < 5 {
			b = b.From(id, 0, c.seq[id])
			c.seq[id] += int32(len(b.Records))
		}
		encoded := b.Encode()
		if codec := batch.Codec(c.rng.IntN(9)); codec <= batch.Zstd {
			encoded = batchtest.Compressed(encoded, batch.Compression{Codec: codec, Level: 1})
		}
		epoch := max(c.l.EpochAt(c.l.EndOffset()), 0) + int32(c.rng.IntN(10)/9)
		if _, err := c.l.Append(encoded, epoch, c.now); err != nil {
			c.t.Fatal(err)
		}
		for range b.Records {
			c.epochs = append(c.epochs, epoch)
		}
	}
	if !c.behind {
		c.l.SetHighWatermark(c.l.EndOffset())
	}
}

func (c *compactedLog) config() CompactConfig {
	return CompactConfig{Below: c.l.HighWatermark(), DeleteRetention: c.retention}
}

// splits tells whether segments have more than compaction may put into one.
func (c *compactedLog) splits() bool { return c.most < compactedConfig.SegmentBytes }

func unpaced(int64) error { return nil }

func (c *compactedLog) compact(bytes int64) Compaction {
	c.t.Helper()
	done, err := c.l.compact(c.now, c.config(), bytes, unpaced, c.most)
	must(c.t, err)
	return done
}

// check holds what the log has against what it was given.
func (c *compactedLog) check() {
	c.t.Helper()
	var got []keyed
	producers := make(map[int64]int32)
	for _, b := range readAll(c.t, c.l, 700) {
		h, err := batch.Verify(b)
		must(c.t, err)
		if h.HasProducer() {
			producers[h.ProducerID] = h.LastSequence()
		}
		if epoch := c.epochs[h.LastOffset()]; h.LeaderEpoch != epoch || c.l.EpochAt(h.LastOffset()) != epoch {
			c.t.Fatalf("offset %d has epoch %d, the log says %d, want %d", h.LastOffset(), h.LeaderEpoch, c.l.EpochAt(h.LastOffset()), epoch)
		}
		must(c.t, batch.Contents(b, h, func(r batch.Content) error {
			got = append(got, keyed{h.BaseOffset + int64(r.OffsetDelta), h.Timestamp(r.Record), string(r.Key), string(r.Value), r.Value == nil})
			return nil
		}))
	}
	end := c.l.EndOffset()
	latest := make(map[string]keyed) // of what was appended
	for _, r := range c.history[:end] {
		latest[r.key] = r
	}
	times := make(map[string]int)
	left := make(map[string]keyed)
	for _, r := range got {
		if r != c.history[r.offset] {
			c.t.Fatalf("%+v was %+v", r, c.history[r.offset])
		}
		left[r.key] = r
		if r.offset < c.l.Compacted() {
			times[r.key]++
		}
	}
	for key, r := range latest {
		if r.offset >= c.l.StartOffset() && left[key] != r && !(r.deletes && left[key] == keyed{}) {
			c.t.Fatalf("of %s %+v is left, the latest is %+v; the log is %d to %d, compacted to %d", key, left[key], r, c.l.StartOffset(), end, c.l.Compacted())
		}
		if times[key] > 1 {
			c.t.Fatalf("%s is there %d times below %d", key, times[key], c.l.Compacted())
		}
	}
	for _, p := range c.l.Producers(c.now) {
		if at, ok := producers[p.ProducerID]; !ok && c.l.StartOffset() == 0 || ok && at != p.LastSequence {
			c.t.Fatalf("producer %d has written sequence number %d, the last batch says %d (%v)", p.ProducerID, p.LastSequence, at, ok)
		}
	}
	c.checkTimes(got)
}

func (c *compactedLog) checkTimes(got []keyed) {
	c.t.Helper()
	got = slices.DeleteFunc(got, func(r keyed) bool { return r.offset < c.l.StartOffset() })
	for range 20 {
		ts := 1000 + c.rng.Int64N(int64(len(c.history)*10)+40)
		found, ok, err := c.l.OffsetForTime(ts, math.MaxInt64)
		must(c.t, err)
		i := slices.IndexFunc(got, func(r keyed) bool { return r.timestamp >= ts })
		if ok != (i >= 0) || ok && found != (TimeOffset{got[i].offset, got[i].timestamp}) {
			c.t.Fatalf("time %d: %+v, %v", ts, found, ok)
		}
	}
	found, ok, err := c.l.MaxTimestamp(math.MaxInt64)
	must(c.t, err)
	want := TimeOffset{}
	for _, r := range got {
		if r.timestamp > want.Timestamp {
			want = TimeOffset{r.offset, r.timestamp}
		}
	}
	if ok != (len(got) > 0) || found != want {
		c.t.Fatalf("largest time: %+v, %v, want %+v", found, ok, want)
	}
}

// TestCompact: whatever is appended, and however little memory there is for keys,
// the latest record of each key stays as it was and no other does below what is
// compacted. Recovery finds the same, with the snapshots of producers and without.
func TestCompact(t *testing.T) {
	for seed := range seeds(t, 150) {
		fs := vfs.NewMem()
		c := newCompacted(t, seed, fs)
		for range 8 {
			c.append(1 + c.rng.IntN(30))
			flush(t, c.d)
			// Who goes on where it was finds what there is now.
			r, err := c.l.Read(c.l.StartOffset()+c.rng.Int64N(c.l.EndOffset()-c.l.StartOffset()), math.MaxInt64, 1, true)
			must(t, err)
			c.scrub(200 + c.rng.Int64N(1000))
			c.compact(slotBytes * (8 + c.rng.Int64N(40)))
			c.scrub(math.MaxInt64)
			next := c.endOf(r)
			found := c.read(next)
			c.check()
			if again := c.read(next); !bytes.Equal(found, again) {
				t.Fatalf("seed %d: two answers for offset %d", seed, next)
			}
			switch c.rng.IntN(4) {
			case 0:
				must(t, c.d.Checkpoint())
				must(t, c.d.CloseDirty())
				for _, name := range listed(t, fs, "/data/t-0", ".snapshot") {
					if c.rng.IntN(2) == 0 {
						must(t, fs.Remove("/data/t-0/"+name))
					}
				}
				verify(t, fs, "/data")
				c.open(fs)
				c.check()
			case 1:
				must(t, c.d.Close(c.now))
				verify(t, fs, "/data")
				c.open(fs)
				c.check()
			}
			c.now = c.now.Add(time.Duration(c.rng.IntN(90)) * time.Minute)
			_, err = c.d.Sweep(c.now)
			must(t, err)
		}
		must(t, c.d.CloseDirty())
	}
}

func (c *compactedLog) scrub(budget int64) {
	c.t.Helper()
	_, _, err := c.l.Scrub(budget)
	must(c.t, err)
}

func (c *compactedLog) read(offset int64) []byte {
	c.t.Helper()
	r, err := c.l.Read(offset, math.MaxInt64, 1000, true)
	must(c.t, err)
	b, err := r.Bytes()
	must(c.t, err)
	return b
}

// endOf is the offset after a region of one batch.
func (c *compactedLog) endOf(r Region) int64 {
	c.t.Helper()
	b, err := r.Bytes()
	must(c.t, err)
	h, err := batch.DecodeHeader(b)
	must(c.t, err)
	return h.LastOffset() + 1
}

// TestCompactCrash: the power fails at each call of a pass, over all seeds. What was appended is
// there as after any other crash, and another pass does the rest.
func TestCompactCrash(t *testing.T) {
	crashes := 0
	for seed := range seeds(t, 8) {
		step := 4
		if newCompacted(t, seed, vfs.NewMem()).splits() {
			step = 1
		}
		for at := 1 + int(seed)%step; ; at += step {
			mem := vfs.NewMem()
			countdown := 0
			var left []*vfs.Mem
			rng := rand.New(rand.NewPCG(seed, uint64(at)))
			c := newCompacted(t, seed, vfs.NewFaulty(mem, func(op vfs.Op, name string) error {
				if countdown--; countdown == 0 {
					for range 4 {
						left = append(left, mem.Crash(rng))
					}
				}
				return nil
			}))
			must(t, mem.SyncDir("/"))
			c.append(60)
			flush(t, c.d)
			must(t, c.d.Checkpoint())
			if !c.splits() {
				c.compact(1 << 20) // what is small now is put together in the next pass
			}
			c.append(20)
			flush(t, c.d)
			if seed%2 == 0 {
				must(t, c.d.Checkpoint())
			}
			durable := c.l.EndOffset()
			c.append(5) // no more than are remembered of a producer
			c.now = c.now.Add(2 * time.Hour)
			countdown = at
			c.compact(1 << 20)
			if left == nil {
				break
			}
			for i, first := 0, len(left); i < len(left); i++ {
				crashes++
				verify(t, left[i], "/data", Note, Stale)
				halves := i < first && len(listed(t, left[i], "/data/t-0", swapSuffix)) == 2
				c.open(vfs.NewFaulty(left[i], func(vfs.Op, string) error {
					if halves { // it may fail in the start too
						left = append(left, left[i].Crash(rng))
					}
					return nil
				}))
				halves = false
				end := c.l.EndOffset()
				if end < durable {
					t.Fatalf("seed %d, crash %d: the log ends at %d, %d was durable", seed, at, end, durable)
				}
				c.check()
				c.noLeftovers(left[i])
				c.l.SetHighWatermark(end)
				c.compact(1 << 20)
				c.check()
				must(t, c.d.CloseDirty())
			}
		}
	}
	t.Logf("%d crashes", crashes)
}

func (c *compactedLog) noLeftovers(fs vfs.FS) {
	c.t.Helper()
	for _, suffix := range []string{swapSuffix, tmpSuffix} {
		if left := listed(c.t, fs, "/data/t-0", suffix); len(left) > 0 {
			c.t.Errorf("%v are left", left)
		}
	}
}

// TestCompactFaults: any call of a pass may fail. Then the log goes on as it was,
// or its directory takes no more writes and the next start finds all there was.
func TestCompactFaults(t *testing.T) {
	t.Run("groups", func(t *testing.T) { compactFaults(t, 1) })
	t.Run("splits", func(t *testing.T) { compactFaults(t, 2) })
}

func compactFaults(t *testing.T, seed uint64) {
	for at := 1; ; at++ {
		mem := vfs.NewMem()
		countdown := 0
		c := newCompacted(t, seed, vfs.NewFaulty(mem, func(op vfs.Op, name string) error {
			if countdown--; countdown == 0 {
				return errFault
			}
			return nil
		}))
		c.append(80)
		flush(t, c.d)
		countdown = at
		_, err := c.l.compact(c.now, c.config(), 1<<20, unpaced, c.most)
		if countdown > 0 {
			must(t, err)
			break
		}
		c.check()
		if c.d.Failed() != nil {
			must(t, c.d.CloseDirty())
			c.open(mem)
			c.check()
		}
		c.append(10)
		flush(t, c.d)
		c.compact(1 << 20)
		c.check()
		c.noLeftovers(mem)
		must(t, c.d.CloseDirty())
	}
}

// TestCompactUnderReaders: who has looked at a segment reads it as it was, and it
// is closed once its time has come.
func TestCompactUnderReaders(t *testing.T) {
	c := newCompacted(t, 2, vfs.NewMem())
	c.append(100)
	flush(t, c.d)
	var regions []Region
	var want [][]byte
	for offset := int64(0); offset < c.l.EndOffset(); {
		r, err := c.l.Read(offset, math.MaxInt64, 1, true)
		must(t, err)
		b, err := r.Bytes()
		must(t, err)
		h, err := batch.DecodeHeader(b)
		must(t, err)
		regions, want, offset = append(regions, r), append(want, b), h.LastOffset()+1
	}
	if done := c.compact(1 << 20); done.Replaced < 3 || done.After >= done.Before {
		t.Fatalf("%+v", done)
	}
	same := func(want [][]byte) {
		t.Helper()
		for i, r := range regions {
			var b bytes.Buffer
			if _, err := r.WriteTo(&b); err != nil || !bytes.Equal(b.Bytes(), want[i]) {
				t.Fatalf("region %d: %v", i, err)
			}
		}
	}
	same(want)
	open := c.d.OpenFiles()
	swept := c.now.Add(compactedConfig.DeleteDelay)
	_, err := c.d.Sweep(swept.Add(-1))
	must(t, err)
	same(want)
	_, err = c.d.Sweep(swept)
	must(t, err)
	if n := c.d.OpenFiles(); n >= open {
		t.Errorf("%d files are open, %d were", n, open)
	}
	refused := 0
	for i, r := range regions {
		b, err := r.Bytes()
		if errors.Is(err, errCut) {
			refused++
		} else if err == nil && !bytes.Equal(b, want[i]) {
			t.Fatalf("region %d is another's", i)
		}
	}
	if refused == 0 {
		t.Error("the old files can still be read")
	}
	c.check()
}

// TestReplacedFilesAreBounded: files that are held for who still reads segments that
// were replaced have a bound with those that are idle, also while a group of segments
// is being replaced. The ones held the longest go first.
func TestReplacedFilesAreBounded(t *testing.T) {
	const limit = 6
	var c *compactedLog
	replacing, open := false, 0
	c = newCompacted(t, 1, vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, _ string) error {
		if replacing && op == vfs.OpRename {
			open = max(open, c.d.OpenFiles())
		}
		return nil
	}))
	c.append(300)
	for range 40 { // what is small goes into one segment
		_, segments := c.l.lookAll()
		_, err := c.l.rollAway(segments[len(segments)-1], c.now)
		must(t, err)
		c.append(1)
	}
	flush(t, c.d)
	c.d.LimitOpenFiles(limit)
	sealed := c.l.segments[:len(c.l.segments)-1]
	regions := make([]Region, len(sealed))
	for i, s := range sealed {
		var err error
		regions[i], err = c.l.Read(s.base, math.MaxInt64, 1, true)
		must(t, err)
	}
	replacing = true
	if done := c.compact(1 << 20); done.Replaced < 70 {
		t.Fatalf("%+v", done)
	}
	if most := limit + limit/2; open > most { // those of a group beside what is held and idle
		t.Errorf("%d files were open, %d may be", open, most)
	}
	if n := c.d.OpenFiles(); n > limit {
		t.Errorf("%d files are open, %d may be", n, limit)
	}
	first, last := regions[0], regions[len(regions)-1]
	if _, err := first.Bytes(); !errors.Is(err, errCut) {
		t.Errorf("the first that was replaced: %v", err)
	}
	if _, err := last.Bytes(); err != nil {
		t.Errorf("the last: %v", err)
	}
	_, err := c.d.Sweep(c.now.Add(compactedConfig.DeleteDelay))
	must(t, err)
	if c.d.files.held != 0 {
		t.Errorf("%d files are held", c.d.files.held)
	}
	must(t, c.d.CloseDirty())
}

// TestCompactWhileWorking: appends, reads, a raised start and cuts go on while a
// pass is at work.
func TestCompactWhileWorking(t *testing.T) {
	for seed := range seeds(t, 200) {
		c := newCompacted(t, seed, vfs.NewMem())
		c.append(50)
		c.behind = true
		c.append(15)
		flush(t, c.d)
		calls := 0
		_, err := c.l.Compact(c.now, c.config(), 1<<20, func(int64) error {
			calls++
			switch c.rng.IntN(25) {
			case 0:
				c.append(3)
			case 1:
				flush(t, c.d)
			case 2:
				must(t, c.l.AdvanceStart(min(c.l.StartOffset()+c.rng.Int64N(20), c.l.HighWatermark()), c.now))
			case 3:
				c.cut(max(c.l.EndOffset()-c.rng.Int64N(20), c.l.HighWatermark()))
			case 4:
				c.check()
			}
			return nil
		})
		must(t, err)
		if calls == 0 {
			t.Fatal("nothing happened meanwhile")
		}
		c.check()
		flush(t, c.d)
		c.compact(1 << 20)
		c.check()
		must(t, c.d.CloseDirty())
	}
}

// cut takes away the records from an offset on, as a new leader may have it.
func (c *compactedLog) cut(offset int64) {
	c.t.Helper()
	end, err := c.l.TruncateTo(offset, c.now)
	must(c.t, err)
	c.history, c.epochs = c.history[:end], c.epochs[:end]
	clear(c.seq)
	for _, p := range c.l.Producers(c.now) {
		c.seq[p.ProducerID] = p.LastSequence + 1
	}
}

// TestCompactMarkers: the marker of a deleted key is there for DeleteRetention
// after the pass that took away what it deletes, and then no more.
func TestCompactMarkers(t *testing.T) {
	c := newCompacted(t, 3, vfs.NewMem())
	put := func(key string, value []byte) {
		t.Helper()
		b := batchtest.Batch{LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, BaseTimestamp: 5, Records: []batchtest.Record{{Key: []byte(key), Value: value}}}
		_, err := c.l.Append(b.Encode(), 1, c.now)
		must(t, err)
	}
	rest := func() string {
		t.Helper()
		for range 30 {
			put("filler", make([]byte, 200))
		}
		flush(t, c.d)
		c.l.SetHighWatermark(c.l.EndOffset())
		c.compact(1 << 20)
		var left []string
		for _, b := range readAll(t, c.l, 1000) {
			h, err := batch.Verify(b)
			must(t, err)
			must(t, batch.Contents(b, h, func(r batch.Content) error {
				if string(r.Key) == "a" {
					left = append(left, fmt.Sprintf("%s %d", r.Value, h.Timestamp(r.Record)))
				}
				return nil
			}))
		}
		return strings.Join(left, ",")
	}
	put("a", []byte("first"))
	put("a", nil)
	for after, want := range []string{" 5", " 5", ""} {
		if got := rest(); got != want {
			t.Errorf("after %d half hours %q is left, want %q", after, got, want)
		}
		c.now = c.now.Add(c.retention / 2)
	}
}

// TestCompactGrows: what is kept of segments may take more bytes than they have, and
// more than one may have. Then there are more of them, and nothing else differs.
func TestCompactGrows(t *testing.T) {
	c := newCompacted(t, 12, vfs.NewMem())
	for i := 0; len(c.l.segments) < 4; i++ {
		b := batchtest.Batch{LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1, BaseTimestamp: 1000 + int64(i)*10}
		for range 10 { // deletions, whose batch gets a delete horizon and with it longer timestamps
			key := fmt.Append(nil, len(c.history))
			c.history = append(c.history, keyed{offset: int64(len(c.history)), timestamp: b.BaseTimestamp, key: string(key), deletes: true})
			c.epochs = append(c.epochs, 0)
			b.Records = append(b.Records, batchtest.Record{Key: key})
		}
		_, err := c.l.Append(b.Encode(), 0, c.now)
		must(t, err)
	}
	flush(t, c.d)
	c.l.SetHighWatermark(c.l.EndOffset())
	c.most = compactedConfig.SegmentBytes
	done := c.compact(1 << 20)
	if sealed := c.l.segments[len(c.l.segments)-1].base; done.After <= done.Before || done.To != sealed {
		t.Errorf("%+v, and %d is the end of what is sealed", done, sealed)
	}
	for _, s := range c.l.segments {
		if s.size > c.most {
			t.Errorf("the segment with offset %d has %d bytes", s.base, s.size)
		}
	}
	c.check()
	c.now = c.now.Add(2 * c.retention)
	c.append(40)
	flush(t, c.d)
	c.compact(1 << 20)
	c.check()
	must(t, c.d.Close(c.now))
}

// TestDirt: a log is due by the share of what is new in it, or by its age, and not
// for what is too young.
func TestDirt(t *testing.T) {
	c := newCompacted(t, 4, vfs.NewMem())
	c.append(100)
	newest := func() time.Time {
		v, _ := c.l.lookSealed(0)
		at, err := c.l.newest(v)
		must(t, err)
		return at
	}
	dirt := func(change func(*CompactConfig)) Dirt {
		t.Helper()
		cfg := c.config()
		cfg.DirtyRatio = 0.5
		change(&cfg)
		d, err := c.l.Dirt(c.now, cfg)
		must(t, err)
		return d
	}
	same := func(*CompactConfig) {}
	if d := dirt(same); d.Bytes != 0 || d.Due {
		t.Errorf("not flushed: %+v", d)
	}
	flush(t, c.d)
	all := dirt(same)
	if all.Ratio != 1 || !all.Due {
		t.Errorf("all is new: %+v", all)
	}
	if d := dirt(func(cfg *CompactConfig) { cfg.Below = 0 }); d.Bytes != 0 {
		t.Errorf("above the watermark: %+v", d)
	}
	c.now = newest().Add(time.Minute)
	if d := dirt(func(cfg *CompactConfig) { cfg.MinLag = time.Hour }); d.Bytes != 0 {
		t.Errorf("too young: %+v", d)
	}
	c.compact(1 << 20)
	if d := dirt(same); d.Bytes != 0 || d.Due {
		t.Errorf("nothing is new: %+v", d)
	}
	c.append(12)
	flush(t, c.d)
	few := dirt(func(cfg *CompactConfig) { cfg.DirtyRatio = 0.9 })
	if few.Bytes == 0 || few.Due {
		t.Errorf("little is new: %+v", few)
	}
	if d := dirt(func(cfg *CompactConfig) { cfg.DirtyRatio, cfg.MaxLag = 0.9, time.Second }); !d.Due {
		t.Errorf("old enough: %+v", d)
	}
}

// TestCompactTooManyKeys: a batch for whose keys there is no memory is named.
func TestCompactTooManyKeys(t *testing.T) {
	c := newCompacted(t, 5, vfs.NewMem())
	b := batchtest.Batch{LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}
	for i := range 10 {
		b.Records = append(b.Records, batchtest.Record{Key: fmt.Append(nil, i), Value: make([]byte, 100)})
	}
	for range 3 {
		_, err := c.l.Append(b.Encode(), 1, c.now)
		must(t, err)
	}
	flush(t, c.d)
	c.l.SetHighWatermark(c.l.EndOffset())
	if _, err := c.l.Compact(c.now, c.config(), slotBytes*5, unpaced); err == nil || !errors.Is(err, ErrKeyMemory) {
		t.Error(err)
	}
}

// TestCompactedIsCut: what comes in the place of records that were cut was not
// compacted, also where a crash is what ends the broker next.
func TestCompactedIsCut(t *testing.T) {
	for name, cut := range map[string]func(*compactedLog) int64{
		"truncated": func(c *compactedLog) int64 {
			c.cut(c.l.Compacted() - 20)
			return c.l.EndOffset()
		},
		"restarted": func(c *compactedLog) int64 {
			must(t, c.l.Restart(0))
			c.history, c.epochs = nil, nil
			clear(c.seq)
			return 0
		},
		"deleted": func(c *compactedLog) int64 {
			must(t, c.d.DeleteLogs(c.now, c.l.Name()))
			c.l, _ = openLog(t, c.d, compactedConfig)
			c.history, c.epochs = nil, nil
			clear(c.seq)
			return 0
		},
	} {
		mem := vfs.NewMem()
		c := newCompacted(t, 6, mem)
		must(t, mem.SyncDir("/"))
		c.append(60)
		flush(t, c.d)
		c.compact(1 << 20)
		compacted := c.l.Compacted()
		must(t, c.d.Checkpoint())
		at := cut(c)
		c.append(60)
		flush(t, c.d)
		if at >= compacted || compacted >= c.l.EndOffset() {
			t.Fatalf("%s: cut at %d, compacted to %d, the log ends at %d: nothing is tested", name, at, compacted, c.l.EndOffset())
		}
		must(t, c.d.CloseDirty())
		c.open(mem)
		if now := c.l.Compacted(); now > at {
			t.Errorf("%s: cut at %d, compacted to %d after the crash", name, at, now)
		}
		must(t, c.d.CloseDirty())
	}
}

// TestCompactWhileSomebodyLooks: a reader, or who asks for a time, that has chosen a
// segment finds what it wants also where that segment is put into another meanwhile.
func TestCompactWhileSomebodyLooks(t *testing.T) {
	for name, look := range map[string]func(*Log, int64) error{
		"read": func(l *Log, offset int64) error {
			_, err := l.Read(offset, math.MaxInt64, 1, true)
			return err
		},
		"time": func(l *Log, offset int64) error {
			_, _, err := l.OffsetForTime(1000+offset*10, l.EndOffset())
			return err
		},
	} {
		for _, suffix := range []string{".log", ".index", ".timeindex"} {
			if name == "read" && suffix == ".timeindex" {
				continue
			}
			met := 0
			for i := range 6 {
				armed := false
				var c *compactedLog
				c = newCompacted(t, 7, vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, name string) error {
					if armed && op == vfs.OpOpen && strings.HasSuffix(name, suffix) {
						armed = false
						met++
						for range 3 { // the third puts together what the second made small
							c.compact(1 << 20)
							c.now = c.now.Add(2 * compactedConfig.DeleteDelay)
							_, err := c.d.Sweep(c.now)
							must(t, err)
							c.append(10)
							flush(t, c.d)
						}
					}
					return nil
				}))
				c.append(120)
				flush(t, c.d)
				c.d.LimitOpenFiles(0)
				armed = true
				if err := look(c.l, int64(i)*c.l.EndOffset()/6+25); err != nil {
					t.Errorf("%s, %s: %v", name, suffix, err)
				}
				armed = false
				c.check()
				must(t, c.d.CloseDirty())
			}
			if met == 0 {
				t.Errorf("%s, %s: nothing was compacted", name, suffix)
			}
		}
	}
}

// TestSplitWhileSomebodyLooks: the second half of a segment is nothing to who has looked
// at a segment with that offset before it was put into the one that is split.
func TestSplitWhileSomebodyLooks(t *testing.T) {
	var c *compactedLog
	var old Region // of the segment that will be the second half
	splitting, met := false, 0
	c = newCompacted(t, 1, vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, _ string) error {
		if splitting && op == vfs.OpSyncDir {
			met++
			if _, err := old.Bytes(); !errors.Is(err, errCut) {
				t.Errorf("change %d of names: %v", met, err)
			}
		}
		return nil
	}))
	c.append(60)
	flush(t, c.d)
	at := c.l.segments[1].base
	old, err := c.l.Read(at, math.MaxInt64, 1, true)
	must(t, err)
	p, err := c.l.plan(c.now, c.config())
	must(t, err)
	p.pace = unpaced
	replace := func(group []view, below, split int64) {
		t.Helper()
		out := &replacement{p: p, swap: swap{group[0].base, group[len(group)-1].next}, most: math.MaxInt32, tail: newIndexTail()}
		must(t, out.create())
		for _, v := range group {
			must(t, p.each(v, func(b []byte, h batch.Header) error {
				if h.BaseOffset >= below {
					return nil
				}
				return out.add(b)
			}, never))
		}
		if split > 0 {
			must(t, p.split(out, group[0], split))
		}
		must(t, out.finish())
		must(t, c.l.replace(group, out))
	}
	replace(p.segments[:2], p.segments[1].next, 0)
	_, err = c.d.Sweep(c.now.Add(2 * compactedConfig.DeleteDelay))
	must(t, err)
	both, ok := c.l.viewAt(p.segments[0].base)
	if !ok {
		t.Fatal("there is no segment to be split")
	}
	splitting = true
	replace([]view{both}, at, at)
	splitting = false
	if met < 4 {
		t.Errorf("names changed %d times", met)
	}
	c.check()
	must(t, c.d.CloseDirty())
}

// TestCompactWhileTheStartIsRaised: that segments are deleted which a pass, or who asks
// whether one is due, was about to look at is no failure.
func TestCompactWhileTheStartIsRaised(t *testing.T) {
	for name, do := range map[string]func(*compactedLog, CompactConfig) error{
		"pass": func(c *compactedLog, cfg CompactConfig) error {
			_, err := c.l.Compact(c.now, cfg, 1<<20, unpaced)
			return err
		},
		"dirt": func(c *compactedLog, cfg CompactConfig) error {
			cfg.DirtyRatio = 1
			_, err := c.l.Dirt(c.now, cfg)
			return err
		},
	} {
		for opens := 1; ; opens++ {
			var c *compactedLog
			countdown := 0
			c = newCompacted(t, 8, vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, name string) error {
				if op != vfs.OpOpen || !strings.HasSuffix(name, ".log") {
					return nil
				}
				if countdown == 1 && !c.l.swapMu.TryLock() { // nobody can raise it just now
					return nil
				} else if countdown == 1 {
					c.l.swapMu.Unlock()
				}
				if countdown--; countdown == 0 {
					must(t, c.l.AdvanceStart(c.l.EndOffset()-1, c.now))
					c.now = c.now.Add(2 * compactedConfig.DeleteDelay)
					_, err := c.d.Sweep(c.now)
					must(t, err)
				}
				return nil
			}))
			c.append(40)
			flush(t, c.d)
			cfg := c.config()
			cfg.MinLag, cfg.MaxLag = time.Millisecond, time.Since(time.UnixMilli(0))
			c.d.LimitOpenFiles(0)
			countdown = opens
			err := do(c, cfg)
			if countdown > 0 {
				must(t, c.d.CloseDirty())
				break
			}
			if err != nil {
				t.Errorf("%s, %d: %v", name, opens, err)
			}
			must(t, c.d.CloseDirty())
		}
	}
}

// TestCompactTransactional: a record of a transaction, which may have been aborted,
// takes no other's place.
func TestCompactTransactional(t *testing.T) {
	c := newCompacted(t, 9, vfs.NewMem())
	for i, attributes := range []int16{0, batch.TransactionalBit, 0} {
		b := batchtest.Batch{LeaderEpoch: -1, ProducerID: 7, BaseSequence: int32(i), Attributes: attributes, Records: []batchtest.Record{{Key: []byte("a"), Value: fmt.Append(nil, i)}}}
		if i == 2 {
			b.Records[0].Key, b.Records[0].Value = []byte("b"), make([]byte, 1400)
		}
		_, err := c.l.Append(b.Encode(), 1, c.now)
		must(t, err)
	}
	flush(t, c.d)
	c.l.SetHighWatermark(c.l.EndOffset())
	if c.compact(1 << 20); c.l.Compacted() < 2 {
		t.Fatalf("compacted to %d", c.l.Compacted())
	}
	h, err := batch.DecodeHeader(c.read(0))
	must(t, err)
	if h.BaseOffset != 0 || h.Count != 1 {
		t.Errorf("%+v is the first that is left", h)
	}
}
