package storage

import (
	"errors"
	"fmt"
	iofs "io/fs"
	"math"
	"path/filepath"
	"slices"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/vfs"
)

// Severity says what a finding of Verify means.
type Severity int

const (
	// Note is what a crash explains, and a broker at work: recovery cuts or removes it.
	Note Severity = iota
	// Stale is what does not fit the batches and is made anew from them: indexes,
	// epochs, producer snapshots.
	Stale
	// Damage is data that is lost or changed.
	Damage
)

func (s Severity) String() string { return [...]string{"note", "stale", "damage"}[s] }

// Finding is something that Verify found not to be as it should.
type Finding struct {
	Severity Severity
	File     string
	Position int64
	Reason   string
}

func (f Finding) String() string {
	return fmt.Sprintf("%s in %s at position %d: %s", f.Severity, f.File, f.Position, f.Reason)
}

// LogSummary is what Verify read of a log.
type LogSummary struct {
	Name       string
	Start, End int64
	Segments   int
	Batches    int
	Bytes      int64
}

// Verification is what Verify read and found.
type Verification struct {
	Clean    bool // the directory was closed, and not left by a crash or by a broker at work
	Logs     []LogSummary
	Findings []Finding
}

// Worst is the worst of the findings.
func (v *Verification) Worst() Severity {
	worst := Note
	for _, f := range v.Findings {
		worst = max(worst, f.Severity)
	}
	return worst
}

// Verify reads a whole data directory and holds its files against each other. It
// writes nothing and takes no lock. What it cannot read is an error.
//
// Beside a broker at work it sees files of different moments; the checkpoints are
// read first, since logs do not fall behind them.
func Verify(fs vfs.FS, path string) (*Verification, error) {
	v := &verifier{fs: fs, path: path}
	names, err := fs.List(path)
	if err != nil {
		return nil, err
	}
	v.Clean = slices.Contains(names, cleanName)
	if v.points, err = v.offsets(recoveryPointsName); err != nil {
		return nil, err
	}
	if v.starts, err = v.offsets(startsName); err != nil {
		return nil, err
	}
	if v.cleaned, err = v.offsets(cleanedName); err != nil {
		return nil, err
	}
	if _, err := ReadIdentity(fs, filepath.Join(path, identityName)); v.found(Damage, err) != nil {
		return nil, err
	}
	there := make(map[string]bool, len(names))
	for _, name := range names {
		there[name] = true
	}
	for name := range v.points {
		if !there[name] && v.points[name] > 0 {
			v.find(v.unlessClean(Damage), filepath.Join(path, recoveryPointsName), 0,
				"it knows %s to be durable to offset %d, and there is no such directory", name, v.points[name])
		}
	}
	for _, name := range names {
		if !isLogName(name) {
			continue
		}
		err := v.log(name)
		if errors.Is(err, iofs.ErrNotExist) {
			v.find(Note, filepath.Join(path, name), 0, "it changed while it was read: %v", err)
		} else if err != nil {
			return nil, err
		}
	}
	slices.SortStableFunc(v.Findings, func(a, b Finding) int { return int(b.Severity - a.Severity) })
	return &v.Verification, nil
}

type verifier struct {
	Verification
	fs             vfs.FS
	path           string
	points, starts map[string]int64
	cleaned        map[string]int64
}

func (v *verifier) find(s Severity, file string, position int64, format string, args ...any) {
	v.Findings = append(v.Findings, Finding{s, file, position, fmt.Sprintf(format, args...)})
}

// found takes note of damage, and returns any other error but that there is no
// such file.
func (v *verifier) found(s Severity, err error) error {
	if damage, ok := errors.AsType[*CorruptError](err); ok {
		v.find(s, damage.File, damage.Position, "%s", damage.Reason)
		return nil
	}
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	return err
}

// unlessClean is a severity that only an orderly stop gives: without one, a crash
// or a broker at work explains what was found.
func (v *verifier) unlessClean(s Severity) Severity {
	if v.Clean {
		return s
	}
	return Note
}

func (v *verifier) offsets(name string) (map[string]int64, error) {
	offsets, err := ReadLogOffsets(v.fs, filepath.Join(v.path, name))
	return offsets, v.found(Damage, err)
}

// logCheck is the verification of one log.
type logCheck struct {
	*verifier
	LogSummary
	dir       string
	segments  []int64          // base offsets
	swaps     map[int64]string // files that will be a segment's, by its base offset
	point     int64
	cleaned   int64 // compaction may have left gaps below it
	stored    epochs
	known     bool  // stored is the log's
	epoch     int32 // the largest so far
	compared  int32 // the epoch that was last held against the history
	read      int64 // bytes of the segment that was read last
	producers []producerSnapshot
	sought    map[int64]batch.Header // batches that a snapshot remembers, by last offset, once they are met
}

func (v *verifier) log(name string) error {
	c := &logCheck{
		verifier: v, LogSummary: LogSummary{Name: name, Start: v.starts[name]}, dir: filepath.Join(v.path, name),
		point: v.points[name], cleaned: v.cleaned[name], epoch: noEpoch, compared: noEpoch,
	}
	names, err := v.fs.List(c.dir)
	if err != nil {
		return err
	}
	if _, err := ReadTopicID(v.fs, filepath.Join(c.dir, metadataName)); v.found(Damage, err) != nil {
		return err
	}
	if err := c.epochs(); err != nil {
		return err
	}
	for _, name := range names {
		if base, ext, ok := splitFileName(name); ok && ext == suffixes[logFile] {
			c.segments = append(c.segments, base)
		}
	}
	c.swap(names)
	for _, name := range names {
		base, ext, ok := splitFileName(name)
		orphan := (ext == suffixes[indexFile] || ext == suffixes[timeIndexFile]) && !slices.Contains(c.segments, base)
		if ok && orphan {
			v.find(v.unlessClean(Stale), filepath.Join(c.dir, name), 0, "there is no segment beside it")
		}
	}
	if err := c.readProducers(names); err != nil {
		return err
	}
	if err := c.walk(); err != nil {
		return err
	}
	c.compareProducers()
	v.Logs = append(v.Logs, c.LogSummary)
	return nil
}

// swap has the segments be what the next start will make of them, where compaction
// was cut short.
func (c *logCheck) swap(names []string) {
	c.swaps = make(map[int64]string)
	swaps, void := parseSwaps(names)
	for _, s := range void {
		c.find(c.unlessClean(Damage), filepath.Join(c.dir, s.name()), 0, "the next start removes it: it is the second half of a segment that was not split")
	}
	for _, s := range swaps {
		c.find(c.unlessClean(Damage), filepath.Join(c.dir, s.name()), 0, "the next start puts it in the place of the segments from offset %d to %d", s.base, s.end)
		c.segments = slices.DeleteFunc(c.segments, func(base int64) bool { return s.base <= base && base < s.end })
		c.segments = append(c.segments, s.base)
		c.swaps[s.base] = s.name()
	}
	slices.Sort(c.segments)
}

func (c *logCheck) epochs() (err error) {
	file := filepath.Join(c.dir, epochsName)
	c.stored, err = readAs(c.fs, file, decodeEpochs)
	c.known = err == nil
	return c.found(Stale, err)
}

// walk goes through the segments.
func (c *logCheck) walk() error {
	if len(c.segments) == 0 {
		c.End = c.Start
		if c.point > c.Start {
			c.find(Damage, c.dir, 0, "it has no segments, and was durable to offset %d", c.point)
		}
		return nil
	}
	if first := c.segments[0]; c.Start > 0 && first > c.Start {
		c.find(c.unlessClean(Damage), c.file(0), 0, "the log begins with it, at offset %d, and its checkpoint says %d", first, c.Start)
	}
	c.Start = max(c.Start, c.segments[0])
	c.End = c.segments[0]
	for i := range c.segments {
		if err := c.segment(i); err != nil {
			return err
		}
	}
	if c.End < c.point && c.point > c.Start {
		c.find(Damage, c.file(len(c.segments)-1), c.read, "the log ends at offset %d, and was durable to %d", c.End, c.point)
	}
	return nil
}

func (c *logCheck) file(i int) string {
	if name, ok := c.swaps[c.segments[i]]; ok {
		return filepath.Join(c.dir, name)
	}
	return filepath.Join(c.dir, fmt.Sprintf("%020d%s", c.segments[i], suffixes[logFile]))
}

// next is where the segment after one begins.
func (c *logCheck) next(i int) int64 {
	if i+1 < len(c.segments) {
		return c.segments[i+1]
	}
	return math.MaxInt64
}

// severity is that of damage in a segment from an offset on. What is wholly below
// the start nobody reads, and a crash may leave it in any state. After a crash the
// log ends where damage begins, as far as it was not known to be durable.
func (c *logCheck) severity(i int, offset int64) Severity {
	if c.next(i) <= c.Start || !c.Clean && offset >= c.point {
		return Note
	}
	return Damage
}

func (c *logCheck) segment(i int) error {
	file := c.file(i)
	c.read = 0
	var indexes indexCheck
	if err := indexes.load(c.fs, file); err != nil {
		return err
	}
	damaged := func(at int64, format string, args ...any) {
		c.find(c.severity(i, c.End), file, at, format, args...)
	}
	if base := c.segments[i]; base != c.End {
		if base < c.End || c.End >= c.cleaned {
			damaged(0, "it begins with offset %d, the log before it ends at %d", base, c.End)
		}
		c.End = base
	}
	err := EachBatch(c.fs, file, func(b StoredBatch) error {
		indexes.add(b)
		switch {
		case b.Damage != nil:
			c.found(c.severity(i, c.End), b.Damage)
		case b.BaseOffset < c.End || b.BaseOffset > c.End && c.End >= c.cleaned:
			damaged(b.Position, "a batch with offset %d, expected %d", b.BaseOffset, c.End)
		case b.LastOffset() >= c.next(i):
			damaged(b.Position, "a batch with offsets to %d, the next segment begins at %d", b.LastOffset(), c.next(i))
		case b.LeaderEpoch < c.epoch:
			damaged(b.Position, "a batch of leader epoch %d after %d", b.LeaderEpoch, c.epoch)
		}
		if b.Damage == nil {
			c.epochOf(b)
		}
		if _, sought := c.sought[b.LastOffset()]; sought {
			c.sought[b.LastOffset()] = b.Header
		}
		c.Batches++
		c.Bytes += b.Length
		c.read += b.Length
		c.End = b.LastOffset() + 1
		return nil
	})
	if err != nil && !IsDamage(err) {
		return err
	}
	c.found(c.severity(i, c.End), err)
	c.Segments++
	if c.swaps[c.segments[i]] != "" {
		return nil // what is left of the old segment's indexes goes with it
	}
	c.indexes(&indexes, i == len(c.segments)-1)
	return nil
}

func (c *logCheck) indexes(indexes *indexCheck, active bool) {
	all := indexes.misfits()
	if !active || c.Clean {
		all = append(all, indexes.incomplete()...)
	}
	for _, err := range all {
		c.found(Stale, err)
	}
}

// epochOf compares a batch's epoch with the history, where it is not the one of
// the batch before. The history may know the first one from offsets that are gone.
func (c *logCheck) epochOf(b StoredBatch) {
	c.epoch = max(c.epoch, b.LeaderEpoch)
	if !c.known || b.LastOffset() < c.Start || b.LeaderEpoch == c.compared {
		return
	}
	first := c.compared == noEpoch
	c.compared = b.LeaderEpoch
	at := max(b.BaseOffset, c.Start)
	history := c.stored.below(at + 1)
	switch file := filepath.Join(c.dir, epochsName); {
	case history.latest() != b.LeaderEpoch:
		c.find(Stale, file, 0, "epoch %d at offset %d, where the batch has epoch %d", history.latest(), at, b.LeaderEpoch)
	case !first && history[len(history)-1].offset != at && history[len(history)-1].offset >= c.cleaned:
		c.find(Stale, file, 0, "epoch %d from offset %d on, its first batch is at %d", b.LeaderEpoch, history[len(history)-1].offset, at)
	}
}

type producerSnapshot struct {
	file    string
	at      int64
	batches []ProducerBatch
}

func (c *logCheck) readProducers(names []string) error {
	c.sought = make(map[int64]batch.Header)
	for _, name := range names {
		at, ext, ok := splitFileName(name)
		if !ok || ext != ".snapshot" {
			continue
		}
		file := filepath.Join(c.dir, name)
		all, err := ReadProducers(c.fs, file)
		if c.found(Stale, err) != nil {
			return err
		}
		c.producers = append(c.producers, producerSnapshot{file, at, all})
		for _, p := range all {
			c.sought[p.LastOffset] = batch.Header{}
		}
	}
	return nil
}

// compareProducers holds the snapshots against the batches that are there. Those
// whose batches are gone are believed, and those beyond the end not looked at:
// recovery removes them.
func (c *logCheck) compareProducers() {
	for _, s := range c.producers {
		for _, p := range s.batches {
			h := c.sought[p.LastOffset]
			same := h.ProducerID == p.ProducerID && h.ProducerEpoch == p.Epoch && h.LastSequence() == p.LastSequence && h.BaseOffset == p.FirstOffset
			if !same && len(c.segments) > 0 && p.FirstOffset >= c.segments[0] && p.FirstOffset >= c.cleaned && s.at <= c.End {
				c.find(Stale, s.file, 0, "producer %d with epoch %d wrote sequence numbers %d to %d at offsets %d to %d, the log has no such batch",
					p.ProducerID, p.Epoch, p.FirstSequence, p.LastSequence, p.FirstOffset, p.LastOffset)
			}
		}
	}
}
