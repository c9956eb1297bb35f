package storage

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/streambus/streambus/storage/batch"
)

// CompactConfig says when a log is to be compacted, and what of it.
type CompactConfig struct {
	Below int64 // the high watermark, or the last stable offset: nothing above is looked at
	// A segment with a record younger than MinLag, and what follows it, stays as it is.
	MinLag time.Duration
	// A log is due when more than DirtyRatio of its bytes were not compacted yet, or
	// the oldest record of these is older than MaxLag; 0: never by that.
	DirtyRatio float64
	MaxLag     time.Duration
	// A deleted key's marker stays for DeleteRetention after the pass that took away
	// what it deletes, so that who reads the log from its start meanwhile sees it.
	DeleteRetention time.Duration
}

// Dirt is what compaction would find in a log.
type Dirt struct {
	Bytes int64   // not compacted yet
	Ratio float64 // of them to all that may be compacted
	Due   bool
}

// Compaction is what a pass did.
type Compaction struct {
	Before, After int64 // bytes of the segments that it replaced, and of the new ones
	Replaced      int   // segments
	To            int64 // no key has two records below
}

// Pace is told how many bytes were read or written. It waits as long as it likes; its
// error ends the pass.
type Pace func(bytes int64) error

// Dirt tells whether Compact is due.
func (l *Log) Dirt(now time.Time, cfg CompactConfig) (Dirt, error) {
	p, err := l.plan(now, cfg)
	if overtaken(err) {
		return Dirt{}, nil
	}
	if err != nil {
		return Dirt{}, l.d.readError(err)
	}
	d, err := p.dirt()
	if overtaken(err) {
		return Dirt{}, nil
	}
	return d, err
}

// overtaken tells whether segments were cut or deleted that somebody was about to look
// at. The next one sees what there is now.
func overtaken(err error) bool {
	return errors.Is(err, errCut) || errors.Is(err, ErrOffsetOutOfRange)
}

// Compacted is the offset below which compaction has dealt with the log.
func (l *Log) Compacted() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.compacted
}

// Compact takes the records out of the sealed segments whose key has a later one,
// as far as CompactConfig lets it and mapBytes is enough memory for the keys; what
// is left the next pass takes up. Offsets, timestamps, leader epochs and what is
// known of producers stay: the latest batches of one do so without their records if
// need be. It follows Kafka's Cleaner.java.
//
// Segments are replaced one group after the other, each at once, whatever happens;
// who reads the old ones may go on for LogConfig.DeleteDelay. There is one pass at
// a time. After an error what was replaced stays so, and nothing is lost.
func (l *Log) Compact(now time.Time, cfg CompactConfig, mapBytes int64, pace Pace) (Compaction, error) {
	return l.compact(now, cfg, mapBytes, pace, math.MaxInt32)
}

// compact does so, and makes no segment with more than most bytes: positions have 31 bits.
func (l *Log) compact(now time.Time, cfg CompactConfig, mapBytes int64, pace Pace, most int64) (Compaction, error) {
	l.compactMu.Lock()
	defer l.compactMu.Unlock()
	if err := l.usable(); err != nil {
		return Compaction{}, err
	}
	p, err := l.plan(now, cfg)
	if overtaken(err) {
		return Compaction{}, nil
	}
	if err != nil {
		return Compaction{}, l.d.readError(err)
	}
	p.pace, p.most = pace, most
	err = p.run(mapBytes)
	if overtaken(err) {
		err = nil
	}
	if errors.Is(err, ErrKeyMemory) {
		return p.Compaction, err
	}
	return p.Compaction, l.d.readError(err)
}

// pass is one compaction of a log.
type pass struct {
	Compaction
	l        *Log
	now      time.Time
	cfg      CompactConfig
	log      LogConfig
	cuts     int64
	from     int64  // below it there is nothing new
	segments []view // that may be compacted, the oldest first
	keys     *keyMap
	latest   map[int64]bool // the last offsets of the batches that are known of producers
	pace     Pace
	most     int64 // bytes of a segment
}

// plan looks what may be compacted: sealed segments that are durable and below the
// limit.
func (l *Log) plan(now time.Time, cfg CompactConfig) (*pass, error) {
	p := &pass{l: l, now: now, cfg: cfg}
	l.mu.Lock()
	p.cuts, p.from, p.log = l.cuts.Load(), l.compacted, l.cfg
	p.To = p.from
	limit := min(cfg.Below, l.flushed)
	for i := 0; i+1 < len(l.segments); i++ {
		v := l.view(l.segments[i])
		if v.next = l.segments[i+1].base; v.next > limit {
			break
		}
		p.segments = append(p.segments, v)
	}
	l.mu.Unlock()
	if cfg.MinLag <= 0 {
		return p, nil
	}
	for i, v := range p.segments {
		if v.next <= p.from {
			continue
		}
		newest, err := l.newest(v)
		if err != nil {
			return nil, err
		}
		if now.Sub(newest) < cfg.MinLag {
			p.segments = p.segments[:i]
			break
		}
	}
	return p, nil
}

func (p *pass) dirt() (Dirt, error) {
	var d Dirt
	var all int64
	for _, v := range p.segments {
		if all += v.size; v.next > p.from {
			d.Bytes += v.size
		}
	}
	if d.Bytes == 0 {
		return d, nil
	}
	d.Ratio = float64(d.Bytes) / float64(all)
	d.Due = d.Ratio > p.cfg.DirtyRatio
	if !d.Due && p.cfg.MaxLag > 0 {
		oldest, err := p.oldest()
		if err != nil {
			return d, p.l.d.readError(err)
		}
		d.Due = oldest >= 0 && p.now.UnixMilli()-oldest > p.cfg.MaxLag.Milliseconds()
	}
	return d, nil
}

// oldest is the least timestamp among the first batches of the segments that were
// not compacted; -1 if none has one.
func (p *pass) oldest() (int64, error) {
	oldest := int64(math.MaxInt64)
	for _, v := range p.segments {
		if v.next <= p.from || v.size == 0 {
			continue
		}
		err := v.walk(func(w *walker) error {
			h, err := w.header()
			if err == nil && h.MaxTimestamp >= 0 {
				oldest = min(oldest, h.MaxTimestamp)
			}
			return err
		})
		if err != nil {
			return 0, err
		}
	}
	if oldest == math.MaxInt64 {
		return noTimestamp, nil
	}
	return oldest, nil
}

func (p *pass) run(mapBytes int64) error {
	end, err := p.mapKeys(mapBytes)
	if err != nil || end == p.from {
		return err
	}
	if err := p.settle(end); err != nil {
		return err
	}
	for _, group := range p.groups(end) {
		if err := p.rewrite(group, end); err != nil {
			return err
		}
	}
	p.l.mu.Lock()
	defer p.l.mu.Unlock()
	if p.l.cuts.Load() != p.cuts {
		return errCut
	}
	p.l.compacted, p.To = end, end
	p.l.d.moved.Store(true)
	return nil
}

// mapKeys notes the latest offset of each key that came since the last pass, as far
// as there is memory, and returns how far that was.
func (p *pass) mapKeys(bytes int64) (end int64, err error) {
	end = p.from
	if len(p.segments) == 0 {
		return end, nil
	}
	p.keys = newKeyMap(p.segments[len(p.segments)-1].next-max(p.from, p.segments[0].base), bytes)
	for _, v := range p.segments {
		if v.next <= p.from {
			continue
		}
		full := false
		err := p.each(v, func(b []byte, h batch.Header) error {
			if full || h.LastOffset() < p.from {
				return nil
			}
			if full, err = p.note(b, h); err == nil && !full {
				end = h.LastOffset() + 1
			}
			return err
		}, func() bool { return full })
		if err != nil {
			return end, err
		}
		if !full {
			end = v.next
			continue
		}
		if end == p.from {
			return end, fmt.Errorf("%w: %d bytes are not enough for the keys of the batch at offset %d of %s", ErrKeyMemory, bytes, end, p.l.name)
		}
		break
	}
	return end, nil
}

// note puts a batch's keys into the map, but for one of a transaction: that may have
// been aborted, and then what it says takes no other's place. With full there was no
// room for all.
func (p *pass) note(b []byte, h batch.Header) (full bool, err error) {
	if h.IsControl() || h.IsTransactional() {
		return false, nil
	}
	err = batch.Contents(b, h, func(r batch.Content) error {
		if r.Key != nil && !full {
			full = !p.keys.put(r.Key, h.BaseOffset+int64(r.OffsetDelta))
		}
		return nil
	})
	return full, err
}

// each calls do for the batches of a segment, whole and checked, until stop holds.
func (p *pass) each(v view, do func(b []byte, h batch.Header) error, stop func() bool) error {
	f, err := p.l.d.files.acquire(v.key(logFile), false)
	if err != nil {
		return err
	}
	defer p.l.d.files.release(f)
	w := newScanner(f, v.base, v.size)
	for w.more() && !stop() {
		h, err := w.header()
		if err != nil {
			return err
		}
		b, err := w.bytes(h.Length)
		if err != nil {
			return err
		}
		if _, err = batch.Verify(b); err == nil {
			err = do(b, h)
		}
		if _, invalid := errors.AsType[*batch.InvalidError](err); invalid || isCorruptBatch(err) {
			return w.corrupt("%v", err)
		}
		if err != nil {
			return err
		}
		if err := p.pace(h.Length); err != nil {
			return err
		}
		w.step(h)
	}
	return nil
}

func isCorruptBatch(err error) bool {
	_, corrupt := errors.AsType[*batch.CorruptError](err)
	return corrupt
}

// settle looks which batches are their producers' latest, and all that are known
// again when they are repeated: a cut may take the last one. And it has recovery expect gaps below an offset, before there are any. What is above it is not flushed or
// not sealed, and what is below has nothing to lose.
func (p *pass) settle(end int64) error {
	l := p.l
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	if l.cuts.Load() != p.cuts {
		return errCut
	}
	p.latest = make(map[int64]bool, len(l.producers))
	for _, producer := range l.producers {
		for _, b := range producer.batches {
			p.latest[b.lastOffset] = true
		}
	}
	if end <= l.cleaned.Load() {
		return nil
	}
	return l.gapsBelow(end)
}

// groups are the segments with offsets below end, those together that make one. None has
// more than may be held: its files are open at once while it is replaced, and go together
// when others need the room.
func (p *pass) groups(end int64) [][]view {
	var groups [][]view
	var size int64
	most := max(p.l.d.files.mayHold(), 2)
	for _, v := range p.segments {
		if v.base >= end {
			break
		}
		if n := len(groups); n > 0 && len(groups[n-1]) < most && p.fits(groups[n-1], v, size+v.size) {
			groups[n-1] = append(groups[n-1], v)
			size += v.size
			continue
		}
		groups = append(groups, []view{v})
		size = v.size
	}
	return groups
}

func (p *pass) fits(group []view, v view, size int64) bool {
	entries := size/max(p.log.IndexIntervalBytes, 1) + int64(len(group)) + 1
	return size <= min(p.log.SegmentBytes, p.most) &&
		v.next-group[0].base <= math.MaxInt32 &&
		entries*timeEntryBytes <= p.log.SegmentIndexBytes
}

// rewrite replaces a group of segments by one of what they keep. A single one that
// keeps everything stays.
//
// What is kept of batches may take more bytes than they did: records are compressed
// again, at another level, and a delete horizon makes timestamps longer. Where it is
// too much for one segment, each of the group gets its own; a single one is split where
// its replacement is full, and what follows there, as it was, is the next to be rewritten.
// To keep the batches as they were would not do: the pass would have dealt with them, and
// what they say of a key would come to light once the marker that deletes it is gone.
func (p *pass) rewrite(group []view, end int64) error {
	rest, err := p.exchange(group, end)
	if errors.Is(err, errSegmentFull) && len(group) > 1 {
		for i := range group {
			if err := p.rewrite(group[i:i+1], end); err != nil {
				return err
			}
		}
		return nil
	}
	if err != nil || rest == nil {
		return err
	}
	return p.rewrite([]view{*rest}, end)
}

// exchange replaces a group by one segment, or a single one by two and returns the
// second.
func (p *pass) exchange(group []view, end int64) (rest *view, err error) {
	out := &replacement{p: p, swap: swap{group[0].base, group[len(group)-1].next}, most: p.most, tail: newIndexTail()}
	if len(group) > 1 {
		if err := out.create(); err != nil {
			return nil, p.l.d.refused(err)
		}
	}
	full, err := p.fill(out, group, end)
	if errors.Is(err, errSegmentFull) && len(group) == 1 {
		err = p.split(out, group[0], full)
	}
	if err == nil && out.file != nil {
		err = out.finish()
	}
	if out.file == nil {
		return nil, err
	}
	if err == nil {
		err = p.l.replace(group, out)
	}
	if err != nil {
		return nil, errors.Join(err, out.discard())
	}
	for _, v := range group {
		p.Before += v.size
	}
	p.After += out.size
	p.Replaced += len(group)
	if out.rest == nil {
		return nil, nil
	}
	p.After += out.rest.size
	v, ok := p.l.viewAt(out.rest.base)
	if !ok {
		return nil, errCut
	}
	return &v, nil
}

// fill writes what is kept of a group. After errSegmentFull there was no room for what
// is kept from offset full on.
func (p *pass) fill(out *replacement, group []view, end int64) (full int64, err error) {
	for _, v := range group {
		err := p.each(v, func(b []byte, h batch.Header) error {
			kept, err := p.keep(b, h, end)
			if err != nil {
				return err
			}
			if out.file == nil && len(kept) > 0 && &kept[0] == &b[0] {
				out.pass(h)
				return nil
			}
			if out.file == nil {
				if err := out.begin(v); err != nil {
					return err
				}
			}
			if len(kept) == 0 {
				return nil
			}
			full = h.BaseOffset
			return out.add(kept)
		}, never)
		if err != nil {
			return full, err
		}
	}
	return 0, nil
}

func never() bool { return false }

// split has a replacement of a single segment end before an offset, and its rest be
// what the segment has from there on. There is room for that, as it is less than all of it.
func (p *pass) split(out *replacement, v view, at int64) error {
	out.rest = &replacement{p: p, swap: swap{at, out.end}, most: v.size, tail: newIndexTail()}
	out.end = at
	if err := out.rest.create(); err != nil {
		return p.l.d.refused(err)
	}
	return p.each(v, func(b []byte, h batch.Header) error {
		if h.BaseOffset < at {
			return nil
		}
		return out.rest.add(b)
	}, never)
}

// keep returns what stays of a batch: nothing, b itself, or a new one. Markers of
// transactions, and their records, stay: there are none that this broker wrote.
func (p *pass) keep(b []byte, h batch.Header, end int64) ([]byte, error) {
	if h.IsControl() || h.IsTransactional() || h.BaseOffset >= end {
		return b, nil
	}
	horizon, has := h.DeleteHorizon()
	expired := has && p.now.UnixMilli() >= horizon
	stays := make([]bool, 0, max(h.Count, 0))
	kept, markers := 0, false
	err := batch.Contents(b, h, func(r batch.Content) error {
		stay := r.Key != nil && h.BaseOffset+int64(r.OffsetDelta) >= p.keys.latest(r.Key) && !(r.Value == nil && expired)
		if stays = append(stays, stay); stay {
			kept++
			markers = markers || r.Value == nil
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if kept == 0 && !p.latest[h.LastOffset()] {
		return nil, nil
	}
	until := int64(-1)
	if markers && !has {
		until = p.now.Add(p.cfg.DeleteRetention).UnixMilli()
	}
	i := -1
	return batch.Rewrite(b, h, until, func(batch.Content) bool { i++; return stays[i] })
}

// viewAt is the segment with an offset, if there is one and it is sealed.
func (l *Log) viewAt(base int64) (v view, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.segments, func(s *segment) bool { return s.base == base })
	if i < 0 || i+1 == len(l.segments) {
		return view{}, false
	}
	return l.view(l.segments[i]), true
}

// still tells whether the segments are still there, next to each other.
func (l *Log) still(group []view) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.Index(l.segments, group[0].seg)
	if i < 0 || i+len(group) >= len(l.segments) {
		return false
	}
	return slices.EqualFunc(l.segments[i:i+len(group)], group, func(s *segment, v view) bool { return s == v.seg })
}
