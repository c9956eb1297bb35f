package storage

import (
	"fmt"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	"github.com/streambus/streambus/storage/vfs"
)

const (
	epochsName = "leader-epoch-checkpoint"
	noEpoch    = -1
)

// epochs is a log's history of leaders: from which offset on which epoch wrote.
// Both rise from entry to entry.
type epochs []epochStart

type epochStart struct {
	epoch  int32
	offset int64
}

func (es epochs) latest() int32 {
	if len(es) == 0 {
		return noEpoch
	}
	return es[len(es)-1].epoch
}

// at returns the epoch that wrote an offset, or would write the next one.
func (es epochs) at(offset int64) int32 { return es.below(offset + 1).latest() }

// below returns the history of the offsets below end.
func (es epochs) below(end int64) epochs {
	n := sort.Search(len(es), func(i int) bool { return es[i].offset >= end })
	return es[:n:n]
}

// endOf returns the largest epoch up to the one asked for, and where the next
// one begins, or end. If all are larger it is the epoch asked for that ends where
// they begin: none of its records is here.
func (es epochs) endOf(epoch int32, end int64) (int32, int64) {
	n := sort.Search(len(es), func(i int) bool { return es[i].epoch > epoch })
	switch {
	case len(es) == 0 || epoch == noEpoch:
		return noEpoch, -1
	case n == 0:
		return epoch, es[0].offset
	case n == len(es):
		return es[n-1].epoch, end
	}
	return es[n-1].epoch, es[n].offset
}

// from returns the history from an offset on. The epoch that reaches there from
// below begins there now, even if it has no more records: the next leader
// compares with it.
func (es epochs) from(start int64) epochs {
	n := sort.Search(len(es), func(i int) bool { return es[i].offset > start })
	if n == 0 || n == 1 && es[0].offset == start {
		return es
	}
	return append(epochs{{es[n-1].epoch, start}}, es[n:]...)
}

// with returns the history after a batch of an epoch at offset. The receiver is
// left as it is: readers may have it.
func (es epochs) with(epoch int32, offset int64) epochs {
	if epoch <= es.latest() {
		return es
	}
	if n := len(es); n > 0 && es[n-1].offset == offset { // one whose records are all deleted
		es = es[:n-1]
	}
	return append(slices.Clip(es), epochStart{epoch, offset})
}

func (es epochs) encode() []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "0\n%d\n", len(es))
	for _, e := range es {
		fmt.Fprintf(&b, "%d %d\n", e.epoch, e.offset)
	}
	return []byte(b.String())
}

func decodeEpochs(b []byte) (epochs, error) {
	var es epochs
	err := checkpointLines(b, func(line string) string {
		var e epochStart
		if _, err := fmt.Sscanf(line, "%d %d", &e.epoch, &e.offset); err != nil {
			return fmt.Sprintf("%q is no epoch and offset", line)
		}
		if len(es) > 0 && (e.epoch <= es.latest() || e.offset <= es[len(es)-1].offset) {
			return fmt.Sprintf("epoch %d at offset %d follows epoch %d at offset %d", e.epoch, e.offset, es.latest(), es[len(es)-1].offset)
		}
		es = append(es, e)
		return ""
	})
	if err != nil {
		return nil, err
	}
	return es, nil
}

// replaceEpochs puts a history in the place of the one on disk. It is durable
// once both its file, here with sync, and the log's directory are synced.
func replaceEpochs(fs vfs.FS, dir string, es epochs, sync bool) error {
	name := filepath.Join(dir, epochsName)
	if err := writeFile(fs, name+tmpSuffix, es.encode(), sync); err != nil {
		return err
	}
	return fs.Rename(name+tmpSuffix, name)
}
