package wal

import (
	"fmt"
	"path/filepath"
	"slices"
)

// inspections is how often a log is read that is written to meanwhile.
const inspections = 10

// Inspected is what Inspect reads: a log's state and how its file stands.
type Inspected struct {
	State
	File        string
	Format      uint64
	PageSize    int64
	Pages       uint64
	Transaction uint64
}

// Inspect reads a raft log that another process may have open. It takes no lock and leaves bbolt aside, whose lock a
// broker holds as long as it lives: bbolt never writes to a page of the newest transaction's tree, so what was read is
// whole if no transaction has ended meanwhile. After an error there is what was read before.
func Inspect(file string) (*Inspected, error) {
	p, err := openPages(file)
	if err != nil {
		return nil, err
	}
	defer p.f.Close()
	for range inspections {
		meta, log := &pairs{}, &pairs{}
		p.found = func(bucket string, key, value []byte) {
			switch bucket {
			case string(bucketMeta):
				meta.add(key, value)
			case string(bucketLog):
				log.add(key, value)
			}
		}
		failed := p.walk()
		tx := p.meta.tx
		s := &Inspected{File: file, PageSize: p.meta.pageSize, Pages: p.meta.end, Transaction: tx}
		l := &boltLog{dir: filepath.Dir(file), file: file}
		if failed == nil && !slices.Equal(p.buckets, []string{string(bucketLog), string(bucketMeta)}) {
			failed = l.damaged("it has buckets %q", p.buckets)
		}
		if failed == nil {
			failed = l.checkNumber(meta.Get(keyFormat))
		}
		if failed == nil {
			s.Format = format
			failed = l.contents(meta, log).decode(&s.State)
		}
		if failed == nil {
			failed = s.Check(file)
		}
		if err := p.readMetas(); err == nil && p.meta.tx != tx {
			continue
		}
		return s, failed
	}
	return nil, fmt.Errorf("raft log %s was written to each of the %d times it was read: try again, or stop the broker", file, inspections)
}
