package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// record is one record of a batch. Nil keys and values are null.
type record struct {
	delta      int64 // of its timestamp
	key, value []byte
	headers    []kmsg.Header
}

// values are records without keys.
func values(vs ...string) []record {
	var rs []record
	for _, v := range vs {
		rs = append(rs, record{value: []byte(v)})
	}
	return rs
}

// someTime is when records of scenarios were made that do not care.
const someTime = 1_700_000_000_000

// batch is a batch of records as a producer sends it; edits change what is sent
// before its CRC is computed.
func batch(rs []record, edits ...func(*kmsg.RecordBatch)) []byte {
	b := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, LastOffsetDelta: int32(len(rs) - 1), FirstTimestamp: someTime,
		ProducerID: -1, ProducerEpoch: -1, FirstSequence: -1, NumRecords: int32(len(rs)), Records: encodeRecords(rs),
	}
	b.MaxTimestamp = b.FirstTimestamp
	for _, r := range rs {
		b.MaxTimestamp = max(b.MaxTimestamp, b.FirstTimestamp+r.delta)
	}
	for _, edit := range edits {
		edit(&b)
	}
	b.Length = int32(batchHeader - 12 + len(b.Records))
	raw := b.AppendTo(nil)
	sealBatch(raw)
	return raw
}

const batchHeader = 61

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sealBatch writes the CRC that a batch should have.
func sealBatch(raw []byte) {
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], castagnoli))
}

func encodeRecords(rs []record) []byte {
	var out []byte
	for i, r := range rs {
		k := kmsg.Record{TimestampDelta64: r.delta, TimestampDelta: int32(r.delta), OffsetDelta: int32(i), Key: r.key, Value: r.value, Headers: r.headers}
		body := k.AppendTo(nil)
		// The first varint is the length of the rest.
		_, n := binary.Varint(body)
		body = body[n:]
		out = append(binary.AppendVarint(out, int64(len(body))), body...)
	}
	return out
}

// from makes a batch an idempotent producer's.
func from(producer int64, epoch int16, sequence int32) func(*kmsg.RecordBatch) {
	return func(b *kmsg.RecordBatch) {
		b.ProducerID, b.ProducerEpoch, b.FirstSequence = producer, epoch, sequence
	}
}

// attributes sets bits of a batch's attributes.
func attributes(bits int16) func(*kmsg.RecordBatch) {
	return func(b *kmsg.RecordBatch) { b.Attributes |= bits }
}

// made says when the first record was made.
func made(ms int64) func(*kmsg.RecordBatch) {
	return func(b *kmsg.RecordBatch) {
		b.MaxTimestamp += ms - b.FirstTimestamp
		b.FirstTimestamp = ms
	}
}

// Codecs by their numbers in attributes.
var codecs = map[int16]kgo.CompressionCodec{1: kgo.GzipCompression(), 2: kgo.SnappyCompression(), 3: kgo.Lz4Compression(), 4: kgo.ZstdCompression()}

// compressed compresses the records of a batch.
func compressed(codec int16) func(*kmsg.RecordBatch) {
	return func(b *kmsg.RecordBatch) {
		if codec == 0 {
			return
		}
		c, err := kgo.DefaultCompressor(codecs[codec])
		if err != nil {
			panic(err) // the codecs are constants
		}
		out, got := c.Compress(new(bytes.Buffer), b.Records)
		b.Records = bytes.Clone(out)
		b.Attributes |= int16(got)
	}
}

// batches takes apart what a fetch has returned, to the last byte. A batch that
// does not fit the limits may be cut off at the end: Apache Kafka does so, and
// clients skip it.
func (s *session) batches(raw []byte) any {
	list := []any{}
	for len(raw) > 0 {
		if len(raw) < batchHeader {
			break
		}
		size := 12 + int(binary.BigEndian.Uint32(raw[8:]))
		if size < batchHeader {
			return append(list, fmt.Sprintf("a batch that says it has %d bytes", size))
		}
		if size > len(raw) {
			break
		}
		list = append(list, s.batch(raw[:size]))
		raw = raw[size:]
	}
	return list
}

func (s *session) batch(raw []byte) any {
	var b kmsg.RecordBatch
	if err := b.ReadFrom(raw); err != nil {
		return "a batch that cannot be decoded: " + err.Error()
	}
	n := normalizer{s: s}
	m := map[string]any{
		"FirstOffset": b.FirstOffset, "LeaderEpoch": int64(b.PartitionLeaderEpoch), "Magic": int64(b.Magic), "Attributes": int64(b.Attributes),
		"LastOffsetDelta": int64(b.LastOffsetDelta), "FirstTimestamp": n.number(b.FirstTimestamp, "Timestamp"), "MaxTimestamp": n.number(b.MaxTimestamp, "Timestamp"),
		"ProducerID": n.number(b.ProducerID, "ProducerID"), "ProducerEpoch": int64(b.ProducerEpoch), "FirstSequence": int64(b.FirstSequence), "NumRecords": int64(b.NumRecords),
		"CRC": crc32.Checksum(raw[21:], castagnoli) == uint32(b.CRC),
	}
	text, err := kgo.DefaultDecompressor().Decompress(b.Records, kgo.CompressionCodecType(b.Attributes&7))
	if err != nil {
		m["Records"] = "records that cannot be decompressed: " + err.Error()
		return m
	}
	m["Records"] = fmt.Sprintf("%x", text)
	return m
}
