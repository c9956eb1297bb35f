package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// A Shape is the layout of one request, version by version: enough to walk a
// body and see that every length, count and tag section in it is backed by
// bytes, without building anything.
//
// It is written as fields separated by spaces, in wire order:
//
//	b h i l u      int8 (or bool), int16, int32, int64, uuid
//	s              string, null or not
//	r              bytes or records, null or not
//	[ ... ]        array of the fields inside, null or not
//	.              nothing: an array of a single b, i or s holds plain values, and
//	               with a . as well structures
//	? ... ;        structure of the fields inside, null or not
//	%N{ ... }      tagged field N whose value has structure of its own; every
//	               other tagged field is skipped by its length
//
// A field may carry the versions it exists in: i@3+ (from 3), s@0-12. Strings,
// bytes and arrays are compact in flexible versions, and a flexible request,
// array element and tagged structure ends in a tag section.
type Shape []field

type field struct {
	kind     byte // one of "bhilusr[?.%"
	from, to int16
	tag      uint32
	inner    []field
}

// maxElements bounds one array, as in Apache Kafka 4.4.
const maxElements = 1_000_000

// shape parses the notation of Shape. It runs at start, on constants.
func shape(s string) Shape {
	p := shapeParser{in: s}
	fields := p.fields(0)
	if p.in != "" {
		panic("protocol: shape: unexpected " + strconv.Quote(p.in))
	}
	return fields
}

type shapeParser struct{ in string }

func (p *shapeParser) fields(end byte) []field {
	var fs []field
	for {
		p.in = strings.TrimLeft(p.in, " \n\t")
		if p.in == "" || p.in[0] == end {
			p.in = strings.TrimPrefix(p.in, string(end))
			return fs
		}
		fs = append(fs, p.field())
	}
}

func (p *shapeParser) field() field {
	f := field{kind: p.in[0], to: 1<<15 - 1}
	p.in = p.in[1:]
	switch f.kind {
	case '[':
		f.inner = p.fields(']')
	case '?':
		f.inner = p.fields(';')
	case '%':
		f.tag = uint32(p.number())
		p.in = strings.TrimPrefix(p.in, "{")
		f.inner = p.fields('}')
	}
	if strings.HasPrefix(p.in, "@") {
		p.in = p.in[1:]
		f.from = p.number()
		if strings.HasPrefix(p.in, "+") {
			p.in = p.in[1:]
		} else {
			p.in = strings.TrimPrefix(p.in, "-")
			f.to = p.number()
		}
	}
	return f
}

func (p *shapeParser) number() int16 {
	n := 0
	for n < len(p.in) && p.in[n] >= '0' && p.in[n] <= '9' {
		n++
	}
	v, err := strconv.Atoi(p.in[:n])
	if err != nil {
		panic("protocol: shape: a number is missing before " + strconv.Quote(p.in))
	}
	p.in = p.in[n:]
	return int16(v)
}

// Check walks a body and returns an error where it claims more than it holds.
// Bytes behind the last field are left alone, as Apache Kafka does.
func (s Shape) Check(body []byte, version int16, flexible bool) error {
	w := walker{src: body, version: version, flexible: flexible}
	w.structure(s, 0)
	return w.err
}

// walker reads forward through src. After the first error everything reads as
// zero and nothing moves, so that callers ask once, at the end.
type walker struct {
	src      []byte
	version  int16
	flexible bool
	err      error
}

// maxDepth bounds recursion through tagged structures; shapes are a handful deep.
const maxDepth = 16

func (w *walker) structure(fs []field, depth int) {
	if depth > maxDepth {
		w.fail(errors.New("fields nested too deep"))
	}
	for i := range fs {
		if w.err != nil {
			return
		}
		if f := &fs[i]; w.version >= f.from && w.version <= f.to {
			w.field(f, depth)
		}
	}
	if w.flexible {
		w.tags(fs, depth)
	}
}

func (w *walker) field(f *field, depth int) {
	switch f.kind {
	case 'b':
		w.take(1)
	case 'h':
		w.take(2)
	case 'i':
		w.take(4)
	case 'l':
		w.take(8)
	case 'u':
		w.take(16)
	case 's':
		w.take(w.length(2))
	case 'r':
		w.take(w.length(4))
	case '[':
		w.array(f, depth)
	case '?':
		if b := w.take(1); b != nil && int8(b[0]) >= 0 {
			w.structure(f.inner, depth+1)
		}
	case '.':
	case '%': // walked where the tag section is
	default:
		panic(fmt.Sprintf("protocol: shape: unknown field kind %q", f.kind))
	}
}

func (w *walker) array(f *field, depth int) {
	n := w.length(4)
	// Every element takes at least a byte, whatever its fields, so a count
	// beyond the bytes left is a lie that need not be walked.
	if n > maxElements || n > len(w.src) {
		w.fail(fmt.Errorf("an array claims %d elements with %d bytes left", n, len(w.src)))
		return
	}
	if len(f.inner) == 1 {
		switch f.inner[0].kind {
		case 'b':
			w.take(n)
			return
		case 'i':
			w.take(4 * n)
			return
		case 's':
			for ; n > 0 && w.err == nil; n-- {
				w.take(w.length(2))
			}
			return
		}
	}
	for ; n > 0 && w.err == nil; n-- {
		w.structure(f.inner, depth+1)
	}
}

// tags walks a tag section. Of the fields only tagged ones matter.
func (w *walker) tags(fs []field, depth int) {
	n := w.uvarint()
	if n > maxTags || int(n) > len(w.src) {
		w.fail(fmt.Errorf("a tag section claims %d fields with %d bytes left", n, len(w.src)))
		return
	}
	for ; n > 0 && w.err == nil; n-- {
		tag := w.uvarint()
		value := w.take(int(w.uvarint()))
		for i := range fs {
			if fs[i].kind == '%' && fs[i].tag == tag && w.err == nil {
				inner := walker{src: value, version: w.version, flexible: true}
				inner.structure(fs[i].inner, depth+1)
				w.fail(inner.err)
			}
		}
	}
}

// length reads the length of a string, of bytes or of an array; null counts as
// zero. size is the width of the length where it is not compact.
func (w *walker) length(size int) int {
	switch {
	case w.flexible:
		return max(int(w.uvarint())-1, 0)
	case size == 2:
		return max(int(w.int16()), 0)
	default:
		return max(int(w.int32()), 0)
	}
}

func (w *walker) int16() int16 {
	if b := w.take(2); b != nil {
		return int16(binary.BigEndian.Uint16(b))
	}
	return 0
}

func (w *walker) int32() int32 {
	if b := w.take(4); b != nil {
		return int32(binary.BigEndian.Uint32(b))
	}
	return 0
}

func (w *walker) uvarint() uint32 {
	v, n := binary.Uvarint(w.src[:min(len(w.src), 5)])
	if n <= 0 || v > 1<<32-1 {
		w.fail(errTruncated)
		return 0
	}
	w.take(n)
	return uint32(v)
}

func (w *walker) take(n int) []byte {
	if w.err != nil || n > len(w.src) {
		w.fail(errTruncated)
		return nil
	}
	b := w.src[:n:n]
	w.src = w.src[n:]
	return b
}

func (w *walker) fail(err error) {
	if w.err == nil {
		w.err = err
	}
}
