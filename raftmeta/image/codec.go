package image

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// CorruptError says that bytes are not what any version of this format writes. Where names the field.
type CorruptError struct {
	What   string // "unit", "snapshot"
	Offset int    // in the bytes given to the decoder
	Reason string
}

func (e *CorruptError) Error() string {
	return fmt.Sprintf("damaged metadata %s at byte %d: %s", e.What, e.Offset, e.Reason)
}

// UnknownFormatError says that the bytes come from a version of StreamBus that this one does not know.
type UnknownFormatError struct {
	What    string // "unit", "snapshot", "record"
	Type    uint64 // of the record, otherwise 0
	Version uint64
}

func (e *UnknownFormatError) Error() string {
	if e.What == "record" {
		return fmt.Sprintf("metadata record of type %d version %d is unknown to this release: start a release that knows the cluster's metadata level", e.Type, e.Version)
	}
	return fmt.Sprintf("metadata %s has format %d, unknown to this release: start a release at least as new as the one that wrote it", e.What, e.Version)
}

// ForeignError says that a unit is sound and belongs to another cluster.
type ForeignError struct {
	Found, Wanted uint32 // see ClusterHash
}

func (e *ForeignError) Error() string {
	return fmt.Sprintf("it belongs to another cluster (its hash is %08x, this cluster's %08x): the raft log and meta.properties of this directory come from different ones; put back the one that was there before, or use another directory", e.Found, e.Wanted)
}

// reader takes fields off a byte slice. After the first failure it returns zeros, so that callers ask once, at the end.
// It allocates nothing on the word of the input: every length is compared with the bytes that are there first.
type reader struct {
	what string
	all  []byte
	rest []byte
	err  error
}

func newReader(what string, b []byte) *reader { return &reader{what: what, all: b, rest: b} }

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = &CorruptError{What: r.what, Offset: len(r.all) - len(r.rest), Reason: fmt.Sprintf(format, args...)}
	}
	r.rest = nil
}

// unknown is a failure of another kind: the bytes are sound and this release is too old.
func (r *reader) unknown(e *UnknownFormatError) {
	if r.err == nil {
		r.err = e
	}
	r.rest = nil
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.rest)
	switch {
	case r.err != nil:
		return 0
	case n <= 0:
		r.fail("number is cut short or too long")
		return 0
	case n > 1 && r.rest[n-1] == 0:
		r.fail("number is not in its shortest form")
		return 0
	}
	r.rest = r.rest[n:]
	return v
}

func (r *reader) uint32() uint32 {
	v := r.uvarint()
	if v > 1<<32-1 {
		r.fail("%d does not fit 32 bits", v)
		return 0
	}
	return uint32(v)
}

// natural32 reads a number from 0 to the largest int32: ids, counts and epochs.
func (r *reader) natural32() int32 {
	v := r.uvarint()
	if v > 1<<31-1 {
		r.fail("%d is not a natural number of 31 bits", v)
		return 0
	}
	return int32(v)
}

func (r *reader) natural64() int64 {
	v := r.uvarint()
	if v > 1<<63-1 {
		r.fail("%d is not a natural number of 63 bits", v)
		return 0
	}
	return int64(v)
}

// count reads how many elements follow, each at least min bytes long.
func (r *reader) count(min int) int {
	v := r.uvarint()
	if v > uint64(len(r.rest)/min) {
		r.fail("%d elements of at least %d bytes in %d bytes", v, min, len(r.rest))
		return 0
	}
	return int(v)
}

// take returns the next n bytes, not copied.
func (r *reader) take(n int) []byte {
	if n > len(r.rest) {
		r.fail("%d bytes wanted, %d there", n, len(r.rest))
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *reader) bytes() []byte  { return r.take(r.count(1)) }
func (r *reader) string() string { return string(r.bytes()) }

func (r *reader) bool() bool {
	v := r.uvarint()
	if v > 1 {
		r.fail("%d is neither yes nor no", v)
	}
	return v == 1
}

func (r *reader) uuid() (u UUID) {
	copy(u[:], r.take(len(u)))
	return u
}

func (r *reader) uuids() []UUID {
	n := r.count(len(UUID{}))
	if n == 0 {
		return nil
	}
	us := make([]UUID, n)
	for i := range us {
		us[i] = r.uuid()
	}
	return us
}

// end is called where everything must have been read.
func (r *reader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		r.fail("%d bytes too many", len(r.rest))
	}
	return r.err
}

func appendUint(b []byte, v uint64) []byte { return binary.AppendUvarint(b, v) }

// appendNatural writes ids, counts and epochs, which are never negative.
func appendNatural[T int | int32 | int64](b []byte, v T) []byte {
	if v < 0 {
		panic(fmt.Sprintf("image: encoding %d where a natural number belongs", v))
	}
	return binary.AppendUvarint(b, uint64(v))
}

func appendString[T string | []byte](b []byte, s T) []byte {
	return append(appendNatural(b, len(s)), s...)
}

func appendBool(b []byte, v bool) []byte {
	if v {
		return append(b, 1)
	}
	return append(b, 0)
}

func appendUUIDs(b []byte, us []UUID) []byte {
	b = appendNatural(b, len(us))
	for _, u := range us {
		b = append(b, u[:]...)
	}
	return b
}

// Tag is a field that only newer releases know: kept and written again as it came.
type Tag struct {
	ID   uint64
	Data []byte
}

func appendTags(b []byte, tags []Tag) []byte {
	b = appendNatural(b, len(tags))
	for _, t := range tags {
		b = appendString(appendUint(b, t.ID), t.Data)
	}
	return b
}

func (r *reader) tags() []Tag {
	n := r.count(2)
	if n == 0 {
		return nil
	}
	tags := make([]Tag, 0, n)
	for range n {
		t := Tag{ID: r.uvarint(), Data: append([]byte(nil), r.bytes()...)}
		if k := len(tags); k > 0 && tags[k-1].ID >= t.ID {
			r.fail("tagged fields out of order")
			return nil
		}
		tags = append(tags, t)
	}
	return tags
}

// seal appends the checksum of everything in b; unseal checks and removes it.
func seal(b []byte) []byte {
	return binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
}

func unseal(what string, b []byte) ([]byte, error) {
	if len(b) < 4 {
		return nil, &CorruptError{What: what, Reason: fmt.Sprintf("%d bytes are too few for a checksum", len(b))}
	}
	body, sum := b[:len(b)-4], binary.LittleEndian.Uint32(b[len(b)-4:])
	if got := crc32.Checksum(body, castagnoli); got != sum {
		return nil, &CorruptError{What: what, Offset: len(body), Reason: fmt.Sprintf("checksum is %08x, contents have %08x", sum, got)}
	}
	return body, nil
}
