package storage

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"math"
	"time"

	"github.com/streambus/streambus/storage/batch"
)

// RetentionConfig says how much of a log is kept. A negative value is no limit,
// and zero keeps nothing.
type RetentionConfig struct {
	Bytes int64
	Age   time.Duration
}

// Retain gives up the oldest segments as far as the limits say, of those that
// are wholly below an offset, the high watermark: while what follows has Bytes
// at least, or while their largest timestamp is older than Age. The active one
// is given up for an empty one. It returns how many segments went.
func (l *Log) Retain(now time.Time, cfg RetentionConfig, below int64) (removed int, err error) {
	if err := l.usable(); err != nil {
		return 0, err
	}
	size, _ := l.Size()
	excess := size - cfg.Bytes
	if cfg.Bytes < 0 {
		excess = math.MinInt64 / 2
	}
	start, segments := l.lookAll()
	for _, seg := range segments {
		if seg.next > below || seg.size == 0 && !seg.sealed {
			break
		}
		expired, err := l.expired(seg, now, cfg.Age)
		if errors.Is(err, errCut) { // the next call sees what there is now
			return 0, nil
		}
		if err != nil {
			return 0, err
		}
		if !expired && excess < seg.size && (seg.next > start || !seg.sealed) {
			break
		}
		if !seg.sealed {
			rolled, err := l.rollAway(seg, now)
			if err != nil {
				return 0, err
			}
			if !rolled {
				break
			}
		}
		excess -= seg.size
		start = max(start, seg.next)
		removed++
	}
	if removed == 0 {
		return 0, nil
	}
	return removed, l.advanceStart(start, segments[0].cuts, now)
}

// lookAll returns the log's start and all segments as they are now.
func (l *Log) lookAll() (start int64, segments []view) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, seg := range l.segments {
		v := l.view(seg)
		if v.sealed { // compaction may have taken the last records
			v.next = l.segments[i+1].base
		}
		segments = append(segments, v)
	}
	return l.start, segments
}

// expired tells whether a segment's records are all older than age.
func (l *Log) expired(seg view, now time.Time, age time.Duration) (bool, error) {
	if age < 0 {
		return false, nil
	}
	newest, err := l.newest(seg)
	return err == nil && !newest.IsZero() && now.Sub(newest) > age, err
}

// newest is the time of a segment's latest record. Where none has a timestamp, and
// where damage hides them, it is that of its file; zero if that is not known either.
func (l *Log) newest(seg view) (time.Time, error) {
	largest := timeEntry{timestamp: noTimestamp}
	err := l.hinted(seg.seg, func(v view) (err error) {
		largest, err = v.largestOfAll()
		return err
	})
	if err != nil && !IsDamage(err) {
		return time.Time{}, err
	}
	if err == nil && largest.timestamp >= 0 {
		return time.UnixMilli(largest.timestamp), nil
	}
	info, err := l.d.fs.Stat(seg.key(logFile).path())
	if err != nil {
		return time.Time{}, l.d.refused(err)
	}
	return info.ModTime, nil
}

// rollAway seals the active segment, if nothing was appended to it since the
// caller looked.
func (l *Log) rollAway(seen view, now time.Time) (bool, error) {
	l.appendMu.Lock()
	defer l.appendMu.Unlock()
	if l.gone.Load() || l.active() != seen.seg || seen.seg.size != seen.size {
		return false, nil
	}
	if err := l.seal(seen.seg, l.config(), now); err != nil {
		return false, l.d.refused(err)
	}
	if _, err := l.roll(l.end, now); err != nil {
		return false, l.d.refused(err)
	}
	return true, nil
}

// aged tells whether a batch comes too long after the first one of the active
// segment to go there: by their timestamps or, if the first has none, by when the
// segment was opened. appendMu is held.
func (l *Log) aged(seg *segment, h batch.Header, cfg LogConfig, now time.Time) (bool, error) {
	if cfg.SegmentAge <= 0 || seg.size == 0 {
		return false, nil
	}
	if !seg.firstKnown {
		f, err := l.d.files.acquire(seg.key(l, logFile), false)
		if err != nil {
			return false, err
		}
		defer l.d.files.release(f)
		w := newWalker(f, seg.size)
		defer w.free()
		first, err := w.header()
		if err != nil {
			return false, err
		}
		seg.first, seg.firstKnown = first.MaxTimestamp, true
	}
	waited := time.Duration(h.MaxTimestamp-seg.first) * time.Millisecond
	if seg.first < 0 {
		waited = now.Sub(seg.opened)
	}
	return waited > cfg.SegmentAge-l.jitter(seg, cfg), nil
}

// jitter is different for each segment, and always the same for one, so that
// segments begun together are not sealed together.
func (l *Log) jitter(seg *segment, cfg LogConfig) time.Duration {
	limit := min(cfg.SegmentJitter, cfg.SegmentAge)
	if limit <= 0 {
		return 0
	}
	hash := fnv.New64a()
	hash.Write(binary.BigEndian.AppendUint64([]byte(l.name), uint64(seg.base)))
	return time.Duration(hash.Sum64() % uint64(limit))
}
