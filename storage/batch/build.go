package batch

import (
	"encoding/binary"
	"hash/crc32"
)

// Pair is a record that a broker writes itself. A nil value is a tombstone.
type Pair struct{ Key, Value []byte }

// Build makes a batch of records, not compressed and of no producer, with one
// timestamp (milliseconds since 1970).
func Build(records []Pair, now int64) []byte {
	b := make([]byte, HeaderSize, HeaderSize+64*len(records))
	var body []byte
	for i, r := range records {
		body = append(body[:0], 0)
		body = binary.AppendVarint(body, 0)
		body = binary.AppendVarint(body, int64(i))
		body = appendNullable(body, r.Key)
		body = appendNullable(body, r.Value)
		body = binary.AppendVarint(body, 0)
		b = append(binary.AppendVarint(b, int64(len(body))), body...)
	}
	be := binary.BigEndian
	be.PutUint32(b[8:], uint32(len(b)-LengthEnd))
	b[16] = magic
	be.PutUint32(b[23:], uint32(len(records)-1))
	be.PutUint64(b[27:], uint64(now))
	be.PutUint64(b[35:], uint64(now))
	for i := 43; i < 57; i++ { // no producer id, epoch or sequence
		b[i] = 0xff
	}
	be.PutUint32(b[57:], uint32(len(records)))
	be.PutUint32(b[17:], crc32.Checksum(b[crcStart:], castagnoli))
	return b
}

func appendNullable(b, v []byte) []byte {
	if v == nil {
		return binary.AppendVarint(b, -1)
	}
	return append(binary.AppendVarint(b, int64(len(v))), v...)
}
