package batch

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
)

// Record is what a broker looks at in a record.
type Record struct {
	OffsetDelta    int32
	TimestampDelta int64
	NullKey        bool
}

// Timestamp is a record's, given its batch's header.
func (h Header) Timestamp(r Record) int64 {
	if h.IsLogAppendTime() {
		return h.MaxTimestamp
	}
	return h.BaseTimestamp + r.TimestampDelta
}

// Walk calls visit for each record of a batch that Verify has passed, in their
// order, and ends with the first error that visit returns. Records that cannot
// be read are an *InvalidError. A compressed batch is never in memory whole.
func Walk(b []byte, h Header, visit func(i int32, r Record) error) error {
	return walkUpTo(math.MaxInt64, b, h, visit)
}

// walkUpTo is Walk for records of at most so many bytes once decompressed.
func walkUpTo(limit int64, b []byte, h Header, visit func(i int32, r Record) error) error {
	if h.Codec() == None {
		return walkBytes(b[HeaderSize:], h.Count, visit)
	}
	in, release, err := inflate(h.Codec(), b[HeaderSize:])
	if err != nil {
		return &InvalidError{-1, fmt.Sprintf("its records cannot be decompressed: %v", err)}
	}
	defer release()
	if limit < in.left {
		in.left = limit + 1 // one more tells whether they go on
	}
	s := streams.Get().(*stream)
	defer streams.Put(s)
	s.in.Reset(in)
	defer s.in.Reset(nil)
	return s.walk(h.Count, visit)
}

// Content is a record with all that it holds.
type Content struct {
	Record
	Key, Value []byte // nil: null
	Headers    []RecordHeader
}

// RecordHeader is one of a record's headers.
type RecordHeader struct {
	Key   string
	Value []byte // nil: null
}

// Contents is Walk for those who look into records. It has them in memory, all at
// once if they are compressed.
func Contents(b []byte, h Header, visit func(Content) error) error {
	plain, err := plainRecords(b, h)
	if err != nil {
		return err
	}
	rest := reader{b: plain}
	return walkBytes(plain, h.Count, func(_ int32, r Record) error {
		return visit(content(r, rest.take(rest.varint())))
	})
}

// content reads the body of a record that parse has accepted.
func content(r Record, body []byte) Content {
	c := Content{Record: r}
	in := reader{b: body[1:]}
	in.varlong()
	in.varint()
	c.Key, c.Value = in.nullable(), in.nullable()
	for range in.varint() {
		c.Headers = append(c.Headers, RecordHeader{string(in.take(in.varint())), in.nullable()})
	}
	return c
}

// walkBytes walks over records that are in memory.
func walkBytes(b []byte, count int32, visit func(int32, Record) error) error {
	in := reader{b: b}
	for i := range count {
		body := in.take(in.varint())
		if in.bad {
			return &InvalidError{int(i), "its length does not fit the batch"}
		}
		r, reason := parse(body)
		if reason != "" {
			return &InvalidError{int(i), reason}
		}
		if err := visit(i, r); err != nil {
			return err
		}
	}
	if len(in.b) > 0 {
		return &InvalidError{-1, fmt.Sprintf("%d bytes after the last of %d records", len(in.b), count)}
	}
	return nil
}

// parse reads a record, and returns what is wrong with its framing, or "".
func parse(body []byte) (Record, string) {
	var out Record
	r := reader{b: body}
	r.take(1) // attributes, unused
	out.TimestampDelta = r.varlong()
	out.OffsetDelta = int32(r.varint())
	out.NullKey = r.nullable() == nil
	r.nullable() // value
	headers := r.varint()
	// Each takes two bytes at least; a number without meaning must not be counted through.
	if headers < 0 || headers > int64(len(r.b)) {
		return out, fmt.Sprintf("it counts %d headers in %d bytes", headers, len(r.b))
	}
	for range headers {
		r.take(r.varint()) // a header's key is never null
		r.nullable()
	}
	switch {
	case r.bad:
		return out, "a length inside does not fit it"
	case len(r.b) > 0:
		return out, fmt.Sprintf("%d bytes after its last field", len(r.b))
	}
	return out, ""
}

// reader walks over a record without copying. After a first failure it gives
// zeros, so that it is asked once, at the end.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) varlong() int64 { return r.number(binary.MaxVarintLen64) }
func (r *reader) varint() int64  { return r.number(binary.MaxVarintLen32) }

// number reads a number of at most size bytes. Longer ones, padded with zeros,
// are what Java clients do not read.
func (r *reader) number(size int) int64 {
	v, n := binary.Varint(r.b)
	if n <= 0 || n > size {
		r.b, r.bad = nil, true
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) take(n int64) []byte {
	if n < 0 || n > int64(len(r.b)) {
		r.b, r.bad = nil, true
		return nil
	}
	taken := r.b[:n]
	r.b = r.b[n:]
	return taken
}

// nullable takes a length and that many bytes; -1 is null.
func (r *reader) nullable() []byte {
	n := r.varint()
	if n == -1 {
		return nil
	}
	return r.take(n)
}

// streamBuffer is what of a compressed batch is in memory. Records that fit
// are parsed there, larger ones field by field.
const streamBuffer = 32 << 10

var streams = sync.Pool{New: func() any { return &stream{in: bufio.NewReaderSize(nil, streamBuffer)} }}

// stream walks over records as they are decompressed.
type stream struct {
	in   *bufio.Reader
	left int64 // of the record
	bad  bool  // a field does not fit the record
	err  error // of reading
}

func (s *stream) walk(count int32, visit func(int32, Record) error) error {
	for i := range count {
		s.left, s.bad, s.err = binary.MaxVarintLen32, false, nil
		s.left = s.number(binary.MaxVarintLen32)
		r, reason := Record{}, "its length does not fit the batch"
		if !s.bad && s.left >= 0 {
			r, reason = s.record()
		}
		if s.err != nil {
			return &InvalidError{int(i), fmt.Sprintf("it cannot be decompressed: %v", s.err)}
		}
		if reason != "" {
			return &InvalidError{int(i), reason}
		}
		if err := visit(i, r); err != nil {
			return err
		}
	}
	switch _, err := s.in.ReadByte(); {
	case err == nil:
		return &InvalidError{-1, fmt.Sprintf("there is more after the last of %d records", count)}
	case !errors.Is(err, io.EOF):
		return &InvalidError{-1, fmt.Sprintf("its end cannot be decompressed: %v", err)}
	}
	return nil
}

// record reads a record of s.left bytes.
func (s *stream) record() (Record, string) {
	if s.left <= streamBuffer {
		body, err := s.in.Peek(int(s.left))
		if err != nil {
			s.fail(err)
			return Record{}, ""
		}
		r, reason := parse(body)
		s.in.Discard(len(body))
		return r, reason
	}
	var out Record
	s.skip(1)
	out.TimestampDelta = s.number(binary.MaxVarintLen64)
	out.OffsetDelta = int32(s.number(binary.MaxVarintLen32))
	out.NullKey = s.nullable()
	s.nullable()
	headers := s.number(binary.MaxVarintLen32)
	if headers < 0 || headers > s.left {
		return out, fmt.Sprintf("it counts %d headers in %d bytes", headers, s.left)
	}
	for range headers {
		s.skip(s.number(binary.MaxVarintLen32))
		s.nullable()
		if s.bad || s.err != nil {
			break
		}
	}
	switch {
	case s.bad:
		return out, "a length inside does not fit it"
	case s.err == nil && s.left > 0:
		return out, fmt.Sprintf("%d bytes after its last field", s.left)
	}
	return out, ""
}

func (s *stream) fail(err error) {
	if s.err == nil {
		s.err = err
		if errors.Is(err, io.EOF) {
			s.err = io.ErrUnexpectedEOF
		}
	}
}

// number reads a zigzag number of at most size bytes, and of the record.
func (s *stream) number(size int) int64 {
	var v uint64
	for i := range size {
		if s.bad || s.err != nil {
			return 0
		}
		if s.left == 0 {
			break
		}
		c, err := s.in.ReadByte()
		if err != nil {
			s.fail(err)
			return 0
		}
		s.left--
		v |= uint64(c&0x7f) << (7 * i)
		if c < 0x80 {
			return int64(v>>1) ^ -int64(v&1)
		}
	}
	s.bad = true
	return 0
}

func (s *stream) skip(n int64) {
	switch {
	case s.bad || s.err != nil:
	case n < 0 || n > s.left:
		s.bad = true
	default:
		s.left -= n
		for n > 0 && s.err == nil {
			step := min(n, 1<<30)
			if _, err := s.in.Discard(int(step)); err != nil {
				s.fail(err)
			}
			n -= step
		}
	}
}

func (s *stream) nullable() bool {
	n := s.number(binary.MaxVarintLen32)
	if n != -1 {
		s.skip(n)
	}
	return n == -1
}
