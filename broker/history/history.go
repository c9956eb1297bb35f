// Package history keeps what changed in the metadata in files: what, when, by
// whom, because of what. The raft log forgets; these files are bounded by time
// and size.
//
// An entry is a line of JSON. They are not synced: after a power cut the last
// ones may be missing or torn, and what this node took over from a snapshot was
// never here. Nothing but the explanation depends on them.
package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/streambus/streambus/storage/vfs"
)

const (
	segmentBytes = 8 << 20
	segmentTime  = 24 * time.Hour
	// maxBytes bounds all files.
	maxBytes = 128 << 20
	prefix   = "changes-"
	suffix   = ".jsonl"
)

// Log is the history of one node.
type Log struct {
	fs   vfs.FS
	dir  string
	keep time.Duration

	mu    sync.Mutex // guards the following
	file  vfs.File   // nil before the first entry
	size  int64
	begun time.Time
}

// Open makes the directory. keep is how old an entry may become.
func Open(fs vfs.FS, dir string, keep time.Duration) (*Log, error) {
	if err := fs.MkdirAll(dir); err != nil {
		return nil, fmt.Errorf("the history of the metadata: %w", err)
	}
	return &Log{fs: fs, dir: dir, keep: keep}, nil
}

// Append adds entries, and removes files that are too old or too many.
func (l *Log) Append(now time.Time, entries []Entry) error {
	var lines []byte
	for _, e := range entries {
		line, err := json.Marshal(e)
		if err != nil {
			return err
		}
		lines = append(append(lines, line...), '\n')
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil || l.size > segmentBytes || now.Sub(l.begun) > segmentTime {
		if err := l.roll(now); err != nil {
			return fmt.Errorf("the history of the metadata: %w", err)
		}
	}
	n, err := l.file.WriteAt(lines, l.size)
	l.size += int64(n)
	return err
}

func (l *Log) roll(now time.Time) error {
	if l.file != nil {
		l.file.Close()
		l.file = nil
	}
	if err := l.expire(now); err != nil {
		return err
	}
	f, err := l.fs.Create(filepath.Join(l.dir, fmt.Sprintf("%s%013d%s", prefix, now.UnixMilli(), suffix)))
	if err != nil {
		return err
	}
	l.file, l.size, l.begun = f, 0, now
	return nil
}

func (l *Log) expire(now time.Time) error {
	names, err := segments(l.fs, l.dir)
	if err != nil {
		return err
	}
	var sum int64
	for i := len(names) - 1; i >= 0; i-- {
		name := filepath.Join(l.dir, names[i])
		info, err := l.fs.Stat(name)
		if err != nil {
			return err
		}
		sum += info.Size
		if sum > maxBytes-segmentBytes || now.Sub(begun(names[i])) > l.keep+segmentTime {
			if err := l.fs.Remove(name); err != nil {
				return err
			}
		}
	}
	return nil
}

// Close ends it.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.file == nil {
		return nil
	}
	err := l.file.Close()
	l.file = nil
	return err
}

// segments are the names of the files, oldest first.
func segments(fsys vfs.FS, dir string) ([]string, error) {
	names, err := fsys.List(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var ours []string
	for _, name := range names {
		if strings.HasPrefix(name, prefix) && strings.HasSuffix(name, suffix) {
			ours = append(ours, name)
		}
	}
	return ours, err
}

func begun(name string) time.Time {
	ms, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(name, prefix), suffix), 10, 64)
	if err != nil {
		return time.Time{}
	}
	return time.UnixMilli(ms)
}

// Question says which changes are asked for.
type Question struct {
	Topic     string
	Partition *int32
	Broker    *int32
	// Cluster asks for what is about no topic, and about brokers only where they
	// come and go.
	Cluster bool
	Since   time.Time
}

// Read gives what answers a question to yield, oldest first, until it returns
// false. Lines that are no entry are passed over: a power cut tears them.
func Read(fsys vfs.FS, dir string, q Question, yield func(Entry) bool) error {
	names, err := segments(fsys, dir)
	if err != nil {
		return err
	}
	for i, name := range names {
		if i+1 < len(names) && begun(names[i+1]).Before(q.Since) {
			continue
		}
		more, err := readSegment(fsys, filepath.Join(dir, name), q, yield)
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func readSegment(fsys vfs.FS, name string, q Question, yield func(Entry) bool) (more bool, err error) {
	f, err := fsys.Open(name)
	if errors.Is(err, fs.ErrNotExist) { // it was too old meanwhile
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return false, err
	}
	in := bufio.NewReaderSize(io.NewSectionReader(f, 0, size), 64<<10)
	for {
		line, err := in.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
		var e Entry
		if json.Unmarshal(line, &e) != nil || e.Time.Before(q.Since) {
			continue
		}
		if e.Changes = q.choose(e.Changes); len(e.Changes) > 0 && !yield(e) {
			return false, nil
		}
	}
}

func (q *Question) choose(all []Change) []Change {
	var chosen []Change
	for _, c := range all {
		if c.Partitions != nil && c.Topic != q.Topic { // thousands that nobody asks for
			continue
		}
		for c := range c.each {
			if q.asksFor(c) {
				chosen = append(chosen, c)
			}
		}
	}
	return chosen
}

func (q *Question) asksFor(c Change) bool {
	switch {
	case q.Cluster:
		return c.Topic == ""
	case q.Broker != nil:
		return c.Broker != nil && *c.Broker == *q.Broker
	case c.Topic != q.Topic:
		return false
	case q.Partition == nil: // partitions of a topic that is created are told with it
		return true
	}
	return c.Partition == nil || *c.Partition == *q.Partition
}
