package wal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"
)

// bbolt maps its file and believes what it finds: a damaged page header is a panic, a fault that no recover catches, or
// a page that is shorter than it was, whose last keys are gone without a word. Its own check needs the file opened. So the
// pages are walked before that, by reading, and every byte that bbolt will follow has to be exactly what it writes: pages
// that are there once, elements packed without a gap, keys in order, as many pages as the contents need.
//
// The format is that of bbolt 1.3 to 1.5, file version 2, in the byte order of the machine.
const (
	pageHeaderSize = 16 // id 8, flags 2, count 2, overflow 4
	elementSize    = 16
	metaSize       = 64 // magic 4, version 4, page size 4, flags 4, root 8, sequence 8, free list 8, end 8, transaction 8, checksum 8

	branchPage = 0x01
	leafPage   = 0x02
	metaPage   = 0x04

	boltMagic   = 0xED0CDAED
	boltVersion = 2
	noFreelist  = 1<<64 - 1
	bucketFlag  = 1

	minPageSize, maxPageSize = 1 << 10, 1 << 24
)

var order = binary.NativeEndian

// boltMeta is one of the two pages that say where the tree begins; the one of the later transaction is in force.
type boltMeta struct {
	pageSize                int64
	root, freelist, end, tx uint64
}

// pages is a walk over the file.
type pages struct {
	file string
	f    *os.File
	size int64
	meta boltMeta
	seen []bool

	// found, if it is set, is called for each key of the buckets, in order.
	found   func(bucket string, key, value []byte)
	buckets []string // the last one is that whose tree it is
}

// checkPages reads the whole tree and names the page that is damaged.
func checkPages(file string) error {
	p, err := openPages(file)
	if err != nil {
		return err
	}
	defer p.f.Close()
	return p.walk()
}

func openPages(file string) (*pages, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("raft log: %w", err)
	}
	return &pages{file: file, f: f}, nil
}

func (p *pages) walk() error {
	info, err := p.f.Stat()
	if err != nil {
		return fmt.Errorf("raft log: %w", err)
	}
	p.size = info.Size()
	if err := p.readMetas(); err != nil {
		return err
	}
	p.seen, p.buckets = make([]bool, p.meta.end), nil
	return p.tree(p.meta.root, true, nil, nil)
}

func (p *pages) damaged(page uint64, format string, args ...any) error {
	return &CorruptError{File: p.file, Reason: fmt.Sprintf("page %d: %s", page, fmt.Sprintf(format, args...))}
}

// readMetas wants both, though bbolt is content with one: a meta page is written in one sector, so that a crash leaves the
// old or the new one, and falling back would silently take back a transaction that was synced.
func (p *pages) readMetas() error {
	first, err := p.readMeta(0, 0)
	if err != nil {
		return err
	}
	second, err := p.readMeta(1, first.pageSize)
	if err != nil {
		return err
	}
	if p.meta = first; second.tx > first.tx {
		p.meta = second
	}
	switch {
	case second.pageSize != first.pageSize:
		return p.damaged(1, "pages of %d bytes, page 0 has %d", second.pageSize, first.pageSize)
	case p.meta.freelist != noFreelist:
		return p.damaged(0, "a list of free pages, which this log does not keep")
	case p.meta.end > uint64(p.size/p.meta.pageSize):
		return p.damaged(p.meta.end-1, "it is missing: the file has been cut to %d bytes", p.size)
	}
	return nil
}

func (p *pages) readMeta(id uint64, offset int64) (m boltMeta, err error) {
	b := make([]byte, pageHeaderSize+metaSize)
	if _, err := p.f.ReadAt(b, offset); errors.Is(err, io.EOF) {
		return m, p.damaged(id, "the file has been cut to %d bytes", p.size)
	} else if err != nil {
		return m, fmt.Errorf("raft log: %w", err)
	}
	if got, flags := order.Uint64(b), order.Uint16(b[8:]); got != id || flags != metaPage {
		return m, p.damaged(id, "it calls itself page %d of kind %#x", got, flags)
	}
	b = b[pageHeaderSize:]
	sum := fnv.New64a()
	sum.Write(b[:metaSize-8])
	if got, want := sum.Sum64(), order.Uint64(b[metaSize-8:]); got != want {
		return m, p.damaged(id, "its checksum is %016x, its contents have %016x", want, got)
	}
	if magic, version := order.Uint32(b), order.Uint32(b[4:]); magic != boltMagic || version != boltVersion {
		return m, p.damaged(id, "magic %08x and version %d are not bbolt's", magic, version)
	}
	m = boltMeta{pageSize: int64(order.Uint32(b[8:])), root: order.Uint64(b[16:]), freelist: order.Uint64(b[32:]), end: order.Uint64(b[40:]), tx: order.Uint64(b[48:])}
	if m.pageSize < minPageSize || m.pageSize > maxPageSize || m.pageSize&(m.pageSize-1) != 0 {
		return m, p.damaged(id, "pages of %d bytes", m.pageSize)
	}
	return m, nil
}

// tree checks a page and those below it. All its keys are at least low and less than high; nil for no bound. The tree of
// the root holds the buckets, theirs the values.
func (p *pages) tree(id uint64, root bool, low, high []byte) error {
	b, flags, err := p.page(id)
	if err != nil {
		return err
	}
	elements, err := p.elements(id, b, flags)
	if err != nil {
		return err
	}
	for i, e := range elements {
		if i > 0 && bytes.Compare(elements[i-1].key, e.key) >= 0 || bytes.Compare(e.key, low) < 0 || high != nil && bytes.Compare(e.key, high) >= 0 {
			return p.damaged(id, "key %d is out of order", i)
		}
		switch {
		case flags == branchPage:
			next := high
			if i+1 < len(elements) {
				next = elements[i+1].key
			}
			err = p.tree(e.child, root, e.key, next)
		case root:
			err = p.bucketAt(id, e)
		case e.flags != 0:
			err = p.damaged(id, "key %d has flags %#x", i, e.flags)
		default:
			p.give(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *pages) give(e element) {
	if p.found != nil {
		p.found(p.buckets[len(p.buckets)-1], e.key, e.value)
	}
}

// page reads a page with those that continue it, each of which may belong to one place of the tree only.
func (p *pages) page(id uint64) (b []byte, flags uint16, err error) {
	if id < 2 || id >= p.meta.end {
		return nil, 0, p.damaged(id, "something refers to it, and the file has %d pages", p.meta.end)
	}
	header := make([]byte, pageHeaderSize)
	if _, err := p.f.ReadAt(header, int64(id)*p.meta.pageSize); err != nil {
		return nil, 0, fmt.Errorf("raft log %s: %w", p.file, err)
	}
	got, overflow := order.Uint64(header), uint64(order.Uint32(header[12:]))
	flags = order.Uint16(header[8:])
	switch {
	case got != id:
		return nil, 0, p.damaged(id, "it calls itself page %d", got)
	case flags != branchPage && flags != leafPage:
		return nil, 0, p.damaged(id, "it is of kind %#x", flags)
	case id+overflow >= p.meta.end:
		return nil, 0, p.damaged(id, "it goes on for %d pages, beyond the end of the file", overflow)
	}
	for i := id; i <= id+overflow; i++ {
		if p.seen[i] {
			return nil, 0, p.damaged(i, "it is in two places of the tree")
		}
		p.seen[i] = true
	}
	b = make([]byte, int64(overflow+1)*p.meta.pageSize)
	if _, err := p.f.ReadAt(b, int64(id)*p.meta.pageSize); err != nil {
		return nil, 0, fmt.Errorf("raft log %s: %w", p.file, err)
	}
	return b, flags, nil
}

type element struct {
	flags      uint32
	child      uint64 // of a branch
	key, value []byte
}

// elements are packed behind their headers; b has as many pages as they need.
func (p *pages) elements(id uint64, b []byte, flags uint16) ([]element, error) {
	count := int64(order.Uint16(b[10:]))
	if flags == branchPage && count == 0 {
		return nil, p.damaged(id, "a branch to nowhere")
	}
	at := pageHeaderSize + count*elementSize
	if at > int64(len(b)) {
		return nil, p.damaged(id, "%d keys in %d bytes", count, len(b))
	}
	elements := make([]element, count)
	for i := range elements {
		start := int64(pageHeaderSize + i*elementSize)
		h := b[start : start+elementSize]
		var e element
		var pos, key, value int64
		if flags == leafPage {
			e.flags = order.Uint32(h)
			pos, key, value = int64(order.Uint32(h[4:])), int64(order.Uint32(h[8:])), int64(order.Uint32(h[12:]))
		} else {
			pos, key, e.child = int64(order.Uint32(h)), int64(order.Uint32(h[4:])), order.Uint64(h[8:])
		}
		if start+pos != at || key == 0 || at+key+value > int64(len(b)) {
			return nil, p.damaged(id, "key %d does not stand where the one before it ends", i)
		}
		e.key, e.value = b[at:at+key], b[at+key:at+key+value]
		at += key + value
		elements[i] = e
	}
	if need := (at + p.meta.pageSize - 1) / p.meta.pageSize * p.meta.pageSize; int64(len(b)) > need {
		return nil, p.damaged(id, "%d bytes of contents in %d", at, len(b))
	}
	return elements, nil
}

// bucketAt checks the tree of a bucket, which is one small page inside the value while it is short.
func (p *pages) bucketAt(id uint64, e element) error {
	if e.flags != bucketFlag || len(e.value) < bucketHeaderSize {
		return p.damaged(id, "key %q is not a bucket", e.key)
	}
	p.buckets = append(p.buckets, string(e.key))
	if root := order.Uint64(e.value); root != 0 {
		return p.tree(root, false, nil, nil)
	}
	inline := e.value[bucketHeaderSize:]
	if len(inline) < pageHeaderSize || order.Uint16(inline[8:]) != leafPage {
		return p.damaged(id, "bucket %q has lost its contents", e.key)
	}
	elements, err := p.elements(id, inline, leafPage)
	if err != nil {
		return err
	}
	end := pageHeaderSize
	for i, x := range elements {
		if x.flags != 0 || i > 0 && bytes.Compare(elements[i-1].key, x.key) >= 0 {
			return p.damaged(id, "key %d of bucket %q is out of order", i, e.key)
		}
		end += elementSize + len(x.key) + len(x.value)
		p.give(x)
	}
	if end != len(inline) || order.Uint32(inline[12:]) != 0 {
		return p.damaged(id, "bucket %q has %d bytes of contents in %d", e.key, end, len(inline))
	}
	return nil
}

const bucketHeaderSize = 16 // root 8, sequence 8
