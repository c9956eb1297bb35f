package storage

import (
	"fmt"
	"maps"
	"math"
	"time"

	"github.com/streambus/streambus/storage/batch"
)

// AppendFetched appends what a leader answered to a fetch: whole batches with
// their offsets and leader epochs, and maybe a part of one more, which is left
// out. leaderEpoch is that of the leader that was asked. It returns the log's end
// afterwards; what comes before a batch that is refused is appended.
//
// Each batch is verified. One of a later epoch than the leader's was put there by
// another leader while the answer was read: what comes before it is then not
// known to be what the two logs have in common.
func (l *Log) AppendFetched(b []byte, leaderEpoch int32, now time.Time) (end int64, err error) {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	for err == nil && len(b) > 0 {
		var n int64
		n, err = l.appendRun(b, leaderEpoch, now)
		if n == 0 {
			break
		}
		b = b[n:]
	}
	return l.end, err
}

// maxRun bounds the batches that are written at once.
const maxRun = 1024

// appendRun appends the batches at the beginning of b that go into one segment,
// with one write, and returns how many bytes those are. appendMu is held.
func (l *Log) appendRun(b []byte, leaderEpoch int32, now time.Time) (n int64, err error) {
	if err := l.usable(); err != nil {
		return 0, err
	}
	cfg := l.config()
	first, err := l.fetched(b, l.end, leaderEpoch)
	if err != nil || first.Length == 0 {
		return 0, err
	}
	run := []batch.Header{first}
	n = first.Length
	for len(run) < maxRun {
		last := &run[len(run)-1]
		next, err := l.fetched(b[n:], last.LastOffset()+1, leaderEpoch)
		if err != nil || next.Length == 0 || next.LeaderEpoch != first.LeaderEpoch || !l.joins(first, n, len(run), next, cfg) {
			break // an error comes again, when it is first
		}
		run = append(run, next)
		n += next.Length
	}
	if err := l.allowGaps(run); err != nil {
		return 0, err
	}
	if err := l.d.admit(n); err != nil {
		return 0, err
	}
	if err := l.write(b[:n], run, cfg, now); err != nil {
		return 0, err
	}
	for _, h := range run {
		l.producers.appended(h, now)
	}
	return n, nil
}

// fetched verifies the first batch of b, which is to follow on what ends at end. The
// header is zero if b does not hold a whole one.
func (l *Log) fetched(b []byte, end int64, leaderEpoch int32) (batch.Header, error) {
	h, err := batch.DecodeHeader(b)
	if err != nil || h.Length > int64(len(b)) {
		return batch.Header{}, nil
	}
	if h, err = batch.Verify(b[:max(h.Length, batch.HeaderSize)]); err != nil {
		return batch.Header{}, fmt.Errorf("a batch that the leader sent for offset %d of %s: %w", end, l.name, err)
	}
	switch {
	case h.LastOffsetDelta < 0 || h.BaseOffset > math.MaxInt64-int64(h.LastOffsetDelta)-1:
		err = fmt.Errorf("the leader sent a batch with offset %d and %d more for %s, which cannot be", h.BaseOffset, h.LastOffsetDelta, l.name)
	case h.BaseOffset < end:
		err = fmt.Errorf("the leader sent a batch with offset %d, and %s goes on at %d", h.BaseOffset, l.name, end)
	case h.LeaderEpoch < l.epochs.latest():
		err = fmt.Errorf("the leader sent a batch of epoch %d, and %s has epoch %d", h.LeaderEpoch, l.name, l.epochs.latest())
	case h.LeaderEpoch > leaderEpoch:
		err = fmt.Errorf("the leader of epoch %d sent a batch of epoch %d for %s: it was deposed meanwhile", leaderEpoch, h.LeaderEpoch, l.name)
	}
	if err != nil {
		return batch.Header{}, err
	}
	return h, nil
}

// joins tells whether a batch certainly fits into the segment that a run of count
// batches with so many bytes goes into.
func (l *Log) joins(first batch.Header, bytes int64, count int, next batch.Header, cfg LogConfig) bool {
	base, size, offsets, times := l.nextBase(first), bytes, int64(count), int64(count)
	since := first.MaxTimestamp
	if len(l.segments) > 0 {
		if seg := l.active(); seg.fits(first, cfg) {
			base, size = seg.base, seg.size+bytes
			if seg.size > 0 && seg.firstKnown {
				since = seg.first
			}
			offsets += seg.entries + int64(len(seg.tail.offsets))
			times += seg.tail.onDisk + int64(len(seg.tail.times))
		}
	}
	if age := time.Duration(next.MaxTimestamp-since) * time.Millisecond; cfg.SegmentAge > 0 && age > cfg.SegmentAge-min(cfg.SegmentJitter, cfg.SegmentAge) {
		return false
	}
	return size+next.Length <= min(cfg.SegmentBytes, math.MaxInt32) && next.LastOffset()-base <= math.MaxInt32 &&
		max((offsets+1)*entryBytes, (times+2)*timeEntryBytes) <= cfg.SegmentIndexBytes
}

// allowGaps makes it durable that the log may have gaps where the run leaves some,
// which compaction by the leader does: recovery would take them for losses. It will
// then take losses for gaps, as far as a segment ends where the next one does not
// begin, and so no segment below may have anything to lose; nor, from here on, one
// that is sealed.
func (l *Log) allowGaps(run []batch.Header) error {
	next, gap := l.end, int64(-1)
	for _, h := range run {
		if h.BaseOffset > next {
			gap = h.BaseOffset
		}
		next = h.LastOffset() + 1
	}
	if gap <= l.cleaned.Load() {
		return nil
	}
	if n := len(l.segments); n > 1 {
		if err := l.syncSegments(l.segments[:n-1]); err != nil {
			return err
		}
	}
	return l.gapsBelow(gap)
}

// syncSegments makes segments durable that were not flushed, and their names.
func (l *Log) syncSegments(segments []*segment) error {
	flushed := l.FlushedOffset()
	for _, seg := range segments {
		if seg.next <= flushed {
			continue
		}
		if err := l.syncSegment(seg); err != nil {
			return err
		}
	}
	return l.d.mustSync(l.d.fs.SyncDir(l.path()))
}

// gapsBelow makes it durable that the log has gaps below an offset only.
func (l *Log) gapsBelow(offset int64) error {
	d := l.d
	d.checkpointMu.Lock()
	defer d.checkpointMu.Unlock()
	d.mu.Lock()
	cleaned := maps.Clone(d.cleaned)
	d.mu.Unlock()
	if cleaned[l.name] = offset; offset == 0 {
		delete(cleaned, l.name)
	}
	if err := d.writeCleaned(cleaned); err != nil {
		return err
	}
	l.cleaned.Store(offset)
	return nil
}

// SetHighWatermark has the next checkpoint say how far the log is acknowledged.
func (l *Log) SetHighWatermark(offset int64) {
	l.watermark.Store(offset)
	l.d.moved.Store(true)
}

// HighWatermark is what was set last or, before, what the checkpoint said, as far
// as the log goes.
func (l *Log) HighWatermark() int64 { return l.watermark.Load() }
