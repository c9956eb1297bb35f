package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"github.com/streambus/streambus/storage/batch"
)

const (
	// walkBytes holds the headers of one index interval of small batches.
	walkBytes = 4 << 10
	// scanBytes is read at a time where every batch is looked at.
	scanBytes = 256 << 10
)

// segmentFile is what a walker steps through: an open file of a log, or one that
// is only inspected.
type segmentFile interface {
	io.ReaderAt
	path() string
}

// walker steps through a segment from batch to batch.
type walker struct {
	f    segmentFile
	pos  int64 // of the next batch
	end  int64 // of the batches in the file
	next int64 // the next batch begins at this offset, or after it
	buf  []byte
	at   int64 // where buf was read
}

var walkers = sync.Pool{New: func() any { return &walker{buf: make([]byte, 0, walkBytes)} }}

func newWalker(f *handle, end int64) *walker {
	w := walkers.Get().(*walker)
	w.f, w.pos, w.end, w.next, w.buf = f, 0, end, f.key.base, w.buf[:0]
	return w
}

// newScanner returns a walker for a pass over all of a segment.
func newScanner(f segmentFile, base, end int64) *walker {
	return &walker{f: f, end: end, next: base, buf: make([]byte, 0, min(end, scanBytes))}
}

func (w *walker) free() {
	w.f = nil
	walkers.Put(w)
}

func (w *walker) seek(pos, next int64) { w.pos, w.next = pos, next }

func (w *walker) step(h batch.Header) { w.seek(w.pos+h.Length, h.LastOffset()+1) }

// more tells whether there is another batch.
func (w *walker) more() bool { return w.pos < w.end }

// header reads the next batch's header, and refuses what cannot be one.
func (w *walker) header() (batch.Header, error) {
	b, err := w.bytes(batch.HeaderSize)
	if err != nil {
		return batch.Header{}, err
	}
	h, err := batch.DecodeHeader(b)
	if err != nil {
		return h, err
	}
	switch {
	case h.Length < batch.HeaderSize || w.pos+h.Length > w.end:
		return h, w.corrupt("a batch of %d bytes, %d are left", h.Length, w.end-w.pos)
	case h.Magic != 2:
		return h, w.corrupt("a batch of version %d", h.Magic)
	case h.LastOffsetDelta < 0:
		return h, w.corrupt("a batch that ends before it begins")
	case h.BaseOffset < w.next:
		return h, w.corrupt("a batch with offset %d, expected %d", h.BaseOffset, w.next)
	}
	return h, nil
}

// verified reads the next batch and checks its content too.
func (w *walker) verified() (batch.Header, error) {
	h, err := w.header()
	if err != nil {
		return h, err
	}
	b, err := w.bytes(h.Length)
	if err != nil {
		return h, err
	}
	if _, err := batch.Verify(b); err != nil {
		return h, w.corrupt("%v", err)
	}
	return h, nil
}

// old tells whether the next message is one of the formats before batches, of
// versions 0 and 1: an offset, a length, and a CRC of the rest. The check is
// strict because the alternative is to take it for a torn batch and cut it.
func (w *walker) old() bool {
	const crcAt, start, magicAt = 12, 16, 16
	b, err := w.bytes(magicAt + 1)
	if err != nil || b[magicAt] > 1 {
		return false
	}
	size := int64(int32(binary.BigEndian.Uint32(b[8:]))) + batch.LengthEnd
	if size <= magicAt || w.pos+size > w.end {
		return false
	}
	if b, err = w.bytes(size); err != nil {
		return false
	}
	return crc32.ChecksumIEEE(b[start:]) == binary.BigEndian.Uint32(b[crcAt:])
}

// bytes returns the next n bytes, valid until the next call. Nothing is
// allocated beyond what the file holds, whatever a length field says.
func (w *walker) bytes(n int64) ([]byte, error) {
	if n > w.end-w.pos {
		return nil, w.corrupt("%d bytes are left, a batch needs %d", w.end-w.pos, n)
	}
	if from := w.pos - w.at; from >= 0 && from+n <= int64(len(w.buf)) {
		return w.buf[from : from+n], nil
	}
	if n > int64(cap(w.buf)) {
		w.buf = make([]byte, n)
	}
	w.buf, w.at = w.buf[:min(int64(cap(w.buf)), w.end-w.pos)], w.pos
	k, err := w.f.ReadAt(w.buf, w.pos)
	w.buf = w.buf[:k]
	switch {
	case int64(k) >= n:
		return w.buf[:n], nil
	case errors.Is(err, io.EOF):
		return nil, w.corrupt("the file ends after %d of %d bytes", k, n)
	}
	return nil, err
}

func (w *walker) corrupt(format string, args ...any) error {
	return &CorruptError{File: w.f.path(), Position: w.pos, Reason: fmt.Sprintf(format, args...)}
}
