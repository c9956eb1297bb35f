package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// maxZstdWindow is the memory that a zstd frame may ask for: what Java's
// library allows, and what the highest level uses.
const maxZstdWindow = 128 << 20

// maxInflated bounds what a block of n bytes may decompress to. Records are
// looked at as they come, so it bounds time, not memory.
func maxInflated(n int) int64 { return 256<<20 + 64*int64(n) }

var (
	gzipReaders   = sync.Pool{New: func() any { return new(gzip.Reader) }}
	snappyReaders = sync.Pool{New: func() any { return new(snappyReader) }}
	lz4Readers    = sync.Pool{New: func() any { return lz4.NewReader(nil) }}
	zstdReaders   = sync.Pool{New: func() any {
		// With a concurrency of 1 it works on the goroutine that reads.
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxZstdWindow))
		if err != nil {
			panic(err) // the options are constants
		}
		return d
	}}
)

// inflate reads a block of records. release must be called once, after which
// the reader is somebody else's.
func inflate(c Codec, block []byte) (_ *limitReader, release func(), err error) {
	var r io.Reader
	src := bytes.NewReader(block)
	switch c {
	case None:
		return &limitReader{src, math.MaxInt64}, func() {}, nil
	case Gzip:
		z := gzipReaders.Get().(*gzip.Reader)
		if err := z.Reset(src); err != nil {
			gzipReaders.Put(z)
			return nil, nil, err
		}
		r, release = z, func() { gzipReaders.Put(z) }
	case Snappy:
		s := snappyReaders.Get().(*snappyReader)
		s.reset(block)
		r, release = s, func() { s.reset(nil); snappyReaders.Put(s) }
	case LZ4:
		z := lz4Readers.Get().(*lz4.Reader)
		z.Reset(src)
		r, release = z, func() { lz4Readers.Put(z) }
	case Zstd:
		z := zstdReaders.Get().(*zstd.Decoder)
		if err := z.Reset(src); err != nil {
			zstdReaders.Put(z)
			return nil, nil, err
		}
		r, release = z, func() {
			if z.Reset(nil) == nil { // it lets go of the block
				zstdReaders.Put(z)
			}
		}
	default:
		return nil, nil, fmt.Errorf("unknown compression codec %d", c)
	}
	return &limitReader{r, maxInflated(len(block))}, release, nil
}

// limitReader fails where io.LimitReader would pretend that the end has come.
type limitReader struct {
	r    io.Reader
	left int64
}

func (l *limitReader) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errInflated
	}
	n, err := l.r.Read(p[:min(int64(len(p)), l.left)])
	l.left -= int64(n)
	return n, err
}

var errInflated = errors.New("it decompresses to far more than a batch of its size may hold")

// Java frames snappy blocks: a magic, two versions, then blocks behind their
// lengths (xerial). Others send one bare block.
var (
	xerialMagic   = []byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0}
	xerialVersion = []byte{0, 0, 0, 1, 0, 0, 0, 1}
)

const (
	xerialHeader = 16
	// xerialBlock is what Java puts into a block.
	xerialBlock = 32 << 10
	// maxSnappyBlock bounds one block, which is decompressed at once. Snappy
	// shrinks to a twentieth at best, so that this is a batch of several MiB.
	maxSnappyBlock = 256 << 20
)

// snappyReader reads both forms.
type snappyReader struct {
	blocks []byte // what was not decompressed yet
	framed bool
	out    []byte // what was not read yet
	buf    []byte
}

// keepBuffer is the largest buffer that is used again.
const keepBuffer = 1 << 20

func (s *snappyReader) reset(b []byte) {
	if cap(s.buf) > keepBuffer {
		s.buf = nil
	}
	s.blocks, s.framed, s.out = b, false, nil
	if len(b) >= xerialHeader && bytes.HasPrefix(b, xerialMagic) {
		s.blocks, s.framed = b[xerialHeader:], true
	}
}

func (s *snappyReader) Read(p []byte) (int, error) {
	for len(s.out) == 0 {
		if len(s.blocks) == 0 {
			return 0, io.EOF
		}
		block, err := s.next()
		if err != nil {
			return 0, err
		}
		if n, err := snappy.DecodedLen(block); err != nil || n > maxSnappyBlock {
			return 0, fmt.Errorf("a snappy block of %d bytes: %w", n, snappy.ErrTooLarge)
		}
		if s.buf, err = snappy.Decode(s.buf[:cap(s.buf)], block); err != nil {
			return 0, err
		}
		s.out = s.buf
	}
	n := copy(p, s.out)
	s.out = s.out[n:]
	return n, nil
}

func (s *snappyReader) next() ([]byte, error) {
	block := s.blocks
	if !s.framed {
		s.blocks = nil
		return block, nil
	}
	if len(block) < 4 {
		return nil, io.ErrUnexpectedEOF
	}
	n := binary.BigEndian.Uint32(block)
	if int64(n) > int64(len(block)-4) {
		return nil, io.ErrUnexpectedEOF
	}
	s.blocks = block[4+n:]
	return block[4 : 4+n], nil
}

// Compression is how a topic wants its batches stored.
type Compression struct {
	Codec Codec
	Level int // as the topic's setting for the codec has it
}

// Pack compresses bytes, which need not be records.
func (c Compression) Pack(b []byte) ([]byte, error) {
	return c.deflate(nil, bytes.NewReader(b), math.MaxInt64)
}

// deflate appends what r holds to dst, compressed, and gives up with
// errOverflow where that takes more than max bytes in all.
func (c Compression) deflate(dst []byte, r io.Reader, max int64) ([]byte, error) {
	out := &boundedBuffer{b: dst, max: max}
	var w io.WriteCloser
	var err error
	switch c.Codec {
	case None:
		w = nopCloser{out}
	case Gzip:
		w, err = gzip.NewWriterLevel(out, c.Level)
	case Snappy:
		out.b = append(append(out.b, xerialMagic...), xerialVersion...)
		w = &snappyWriter{out: out}
	case LZ4:
		w, err = newLZ4Writer(out, c.Level)
	case Zstd:
		w, err = zstd.NewWriter(out, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(c.Level)))
	default:
		return nil, fmt.Errorf("unknown compression codec %d", c.Codec)
	}
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(w, r); err != nil {
		w.Close()
		return nil, err
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return out.b, nil
}

type boundedBuffer struct {
	b   []byte
	max int64
}

var errOverflow = errors.New("the batch would be too large")

func (w *boundedBuffer) Write(p []byte) (int, error) {
	if int64(len(w.b)+len(p)) > w.max {
		return 0, errOverflow
	}
	w.b = append(w.b, p...)
	return len(p), nil
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }

// javaLZ4Default is the level at which Java uses its fast compressor.
const javaLZ4Default = 9

func newLZ4Writer(out io.Writer, level int) (io.WriteCloser, error) {
	levels := [...]lz4.CompressionLevel{lz4.Level1, lz4.Level2, lz4.Level3, lz4.Level4, lz4.Level5, lz4.Level6, lz4.Level7, lz4.Level8, lz4.Level9}
	chosen := lz4.Fast
	if level != javaLZ4Default {
		chosen = levels[min(max(level, 1), len(levels))-1]
	}
	w := lz4.NewWriter(out)
	return w, w.Apply(lz4.BlockSizeOption(lz4.Block64Kb), lz4.ChecksumOption(false), lz4.CompressionLevelOption(chosen))
}

// snappyWriter writes Java's form.
type snappyWriter struct {
	out   io.Writer
	block []byte
}

func (s *snappyWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		take := min(len(p), xerialBlock-len(s.block))
		s.block, p = append(s.block, p[:take]...), p[take:]
		if len(s.block) == xerialBlock {
			if err := s.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (s *snappyWriter) flush() error {
	compressed := snappy.Encode(nil, s.block)
	s.block = s.block[:0]
	_, err := s.out.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(compressed))), compressed...))
	return err
}

func (s *snappyWriter) Close() error {
	if len(s.block) == 0 {
		return nil
	}
	return s.flush()
}
