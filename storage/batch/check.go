package batch

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
)

// CorruptError says that bytes are not what was sent: sending them again may help.
type CorruptError struct{ Reason string }

func (e *CorruptError) Error() string { return "corrupt record batch: " + e.Reason }

// InvalidError says that a batch arrived as it was sent and is not allowed:
// sending it again cannot help. Record is the index of the record at fault, -1
// if it is the batch.
type InvalidError struct {
	Record int
	Reason string
}

func (e *InvalidError) Error() string {
	if e.Record < 0 {
		return "invalid record batch: " + e.Reason
	}
	return fmt.Sprintf("invalid record %d in batch: %s", e.Record, e.Reason)
}

var (
	ErrMagic   = &InvalidError{-1, "only record batches of version 2 are accepted"}
	ErrControl = &InvalidError{-1, "clients may not write control records"}
)

// Verify checks what must hold of every stored batch: b is exactly one batch of
// version 2 with a good CRC.
func Verify(b []byte) (Header, error) {
	h, err := DecodeHeader(b)
	if err != nil {
		return h, err
	}
	if h.Length != int64(len(b)) {
		return h, &CorruptError{fmt.Sprintf("says it has %d bytes, has %d", h.Length, len(b))}
	}
	if h.Magic != magic {
		return h, ErrMagic
	}
	if crc := crc32.Checksum(b[crcStart:], castagnoli); crc != h.CRC {
		return h, &CorruptError{fmt.Sprintf("CRC says %08x, content has %08x", h.CRC, crc)}
	}
	return h, nil
}

// Check decides whether b, from a client, may be appended. The order is Kafka's,
// since the first fault found is the answer a client gets: a damaged batch must
// not be taken for a wrong one. Records are walked if they are not compressed;
// a compressed block passes as it is.
func Check(b []byte) error {
	h, err := Verify(b)
	switch {
	case err != nil:
		return err
	case h.Count <= 0 || h.Count-1 != h.LastOffsetDelta:
		return &InvalidError{-1, fmt.Sprintf("%d records with a last offset delta of %d", h.Count, h.LastOffsetDelta)}
	case h.Codec() > Zstd:
		return &InvalidError{-1, fmt.Sprintf("unknown compression codec %d", h.Codec())}
	case h.IsControl():
		return ErrControl
	case h.HasProducer() && h.BaseSequence < 0:
		return &InvalidError{-1, fmt.Sprintf("producer %d without a sequence number", h.ProducerID)}
	case h.HasProducer() && h.ProducerEpoch < 0:
		return &InvalidError{-1, fmt.Sprintf("producer %d without an epoch", h.ProducerID)}
	case h.Codec() == None:
		return checkRecords(b[HeaderSize:], h.Count)
	}
	return nil
}

func checkRecords(b []byte, count int32) error {
	r := reader{b: b}
	for i := range count {
		body := r.take(r.varint())
		if r.bad {
			return &InvalidError{int(i), "its length does not fit the batch"}
		}
		if reason := checkRecord(body, i); reason != "" {
			return &InvalidError{int(i), reason}
		}
	}
	if len(r.b) > 0 {
		return &InvalidError{-1, fmt.Sprintf("%d bytes after the last of %d records", len(r.b), count)}
	}
	return nil
}

// checkRecord returns what is wrong with the record's framing, or "".
func checkRecord(body []byte, i int32) string {
	r := reader{b: body}
	r.take(1) // attributes, unused
	r.varlong()
	if delta := r.varint(); !r.bad && delta != int64(i) {
		return fmt.Sprintf("its offset delta is %d", delta)
	}
	r.nullable() // key
	r.nullable() // value
	headers := r.varint()
	// Each takes two bytes at least; a number without meaning must not be counted through.
	if headers < 0 || headers > int64(len(r.b)) {
		return fmt.Sprintf("it counts %d headers in %d bytes", headers, len(r.b))
	}
	for range headers {
		r.take(r.varint()) // a header's key is never null
		r.nullable()
	}
	switch {
	case r.bad:
		return "a length inside does not fit it"
	case len(r.b) > 0:
		return fmt.Sprintf("%d bytes after its last field", len(r.b))
	}
	return ""
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

// nullable skips a length and that many bytes; -1 is null.
func (r *reader) nullable() {
	if n := r.varint(); n != -1 {
		r.take(n)
	}
}
