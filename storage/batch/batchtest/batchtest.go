// Package batchtest makes and takes apart record batches in tests.
package batchtest

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"

	"github.com/streambus/streambus/storage/batch"
)

// Header is a record header.
type Header struct {
	Key   string
	Value []byte // nil: null
}

// Record is one record. Nil keys and values are null.
type Record struct {
	TimestampDelta int64
	Key, Value     []byte
	Headers        []Header
}

// Batch describes a batch. Records are encoded as they are, whatever codec the
// attributes name.
type Batch struct {
	BaseOffset    int64
	LeaderEpoch   int32
	Attributes    int16
	BaseTimestamp int64
	MaxTimestamp  int64 // 0: the largest of the records'
	ProducerID    int64
	ProducerEpoch int16
	BaseSequence  int32
	Records       []Record
}

// Values returns a batch without a producer, of one record for each value.
func Values(values ...string) Batch {
	b := Batch{LeaderEpoch: -1, ProducerID: -1, ProducerEpoch: -1, BaseSequence: -1}
	for _, v := range values {
		b.Records = append(b.Records, Record{Value: []byte(v)})
	}
	return b
}

// From makes b the batch of an idempotent producer.
func (b Batch) From(producerID int64, epoch int16, sequence int32) Batch {
	b.ProducerID, b.ProducerEpoch, b.BaseSequence = producerID, epoch, sequence
	return b
}

// At gives b its timestamp.
func (b Batch) At(timestamp int64) Batch {
	b.BaseTimestamp = timestamp
	return b
}

// Encode returns the batch's bytes.
func (b Batch) Encode() []byte {
	latest := b.MaxTimestamp
	var records []byte
	for i, r := range b.Records {
		if b.MaxTimestamp == 0 {
			latest = max(latest, b.BaseTimestamp+r.TimestampDelta)
		}
		body := r.encode(i)
		records = append(binary.AppendVarint(records, int64(len(body))), body...)
	}
	be := binary.BigEndian
	out := make([]byte, batch.HeaderSize, batch.HeaderSize+len(records))
	be.PutUint64(out[0:], uint64(b.BaseOffset))
	be.PutUint32(out[12:], uint32(b.LeaderEpoch))
	out[16] = 2
	be.PutUint16(out[21:], uint16(b.Attributes))
	be.PutUint32(out[23:], uint32(len(b.Records)-1))
	be.PutUint64(out[27:], uint64(b.BaseTimestamp))
	be.PutUint64(out[35:], uint64(latest))
	be.PutUint64(out[43:], uint64(b.ProducerID))
	be.PutUint16(out[51:], uint16(b.ProducerEpoch))
	be.PutUint32(out[53:], uint32(b.BaseSequence))
	be.PutUint32(out[57:], uint32(len(b.Records)))
	return Seal(append(out, records...))
}

func (r Record) encode(i int) []byte {
	body := []byte{0}
	body = binary.AppendVarint(body, r.TimestampDelta)
	body = binary.AppendVarint(body, int64(i))
	body = appendBytes(body, r.Key)
	body = appendBytes(body, r.Value)
	body = binary.AppendVarint(body, int64(len(r.Headers)))
	for _, h := range r.Headers {
		body = appendBytes(body, []byte(h.Key))
		body = appendBytes(body, h.Value)
	}
	return body
}

func appendBytes(to, b []byte) []byte {
	if b == nil {
		return binary.AppendVarint(to, -1)
	}
	return append(binary.AppendVarint(to, int64(len(b))), b...)
}

// Any takes every batch that is a batch.
func Any() *batch.Rules {
	return &batch.Rules{MaxBytes: math.MaxInt64, MaxInflated: math.MaxInt64, KeepCodec: true, Before: math.MaxInt64, After: math.MaxInt64}
}

// Compressed returns b with its records compressed.
func Compressed(b []byte, c batch.Compression) []byte {
	rules := Any()
	rules.KeepCodec, rules.Compression = false, c
	out, err := rules.Accept(b, 0)
	if err != nil {
		panic(err)
	}
	return out
}

// Seal sets the length and the CRC of a batch whose bytes a test has changed,
// and returns it.
func Seal(b []byte) []byte {
	binary.BigEndian.PutUint32(b[8:], uint32(len(b)-batch.LengthEnd))
	binary.BigEndian.PutUint32(b[17:], crc32.Checksum(b[21:], crc32.MakeTable(crc32.Castagnoli)))
	return b
}

// Split cuts concatenated batches apart, and fails unless each is whole.
func Split(b []byte) ([][]byte, error) {
	var batches [][]byte
	for len(b) > 0 {
		h, err := batch.DecodeHeader(b)
		if err != nil {
			return batches, err
		}
		if h.Length > int64(len(b)) {
			return batches, fmt.Errorf("a batch of %d bytes in %d", h.Length, len(b))
		}
		if _, err := batch.Verify(b[:h.Length]); err != nil {
			return batches, err
		}
		batches = append(batches, b[:h.Length])
		b = b[h.Length:]
	}
	return batches, nil
}

// Records decodes the records of one uncompressed batch.
func Records(b []byte) ([]Record, error) {
	h, err := batch.Verify(b)
	if err == nil {
		err = batch.Walk(b, h, func(int32, batch.Record) error { return nil })
	}
	if err != nil || h.Codec() != batch.None {
		return nil, fmt.Errorf("codec %d, %w", h.Codec(), err)
	}
	records := make([]Record, h.Count)
	b = b[batch.HeaderSize:]
	for i := range records {
		number(&b) // length: Walk has seen that it fits
		b = b[1:]
		r := &records[i]
		r.TimestampDelta = number(&b)
		number(&b)
		r.Key, r.Value = nullable(&b), nullable(&b)
		for range number(&b) {
			r.Headers = append(r.Headers, Header{string(nullable(&b)), nullable(&b)})
		}
	}
	return records, nil
}

func number(b *[]byte) int64 {
	v, n := binary.Varint(*b)
	*b = (*b)[n:]
	return v
}

func nullable(b *[]byte) []byte {
	n := number(b)
	if n < 0 {
		return nil
	}
	v := (*b)[:n:n]
	*b = (*b)[n:]
	return v
}
