// Package batch is the record batch, version 2: the unit that producers send,
// that storage keeps, and that consumers are sent, byte for byte the same.
//
// The header is 61 bytes, big-endian:
//
//	 0 base offset     int64   given by the leader, outside the CRC
//	 8 length          int32   of what follows this field
//	12 leader epoch    int32   given by the leader, outside the CRC
//	16 magic           int8    2
//	17 crc             uint32  CRC-32C of everything from byte 21 on
//	21 attributes      int16   codec (3 bits), log append time, transactional, control, delete horizon
//	23 last offset     int32   relative to the base offset; of the last sequence too
//	27 base timestamp  int64
//	35 max timestamp   int64
//	43 producer id     int64   -1: none
//	51 producer epoch  int16
//	53 base sequence   int32
//	57 count           int32   of records
//	61 records                 one compressed block if the codec is not 0
package batch

import (
	"encoding/binary"
	"hash/crc32"
	"math"
)

const (
	// HeaderSize is the size of the smallest batch.
	HeaderSize = 61
	// LengthEnd is where the length field ends; the length counts from here.
	LengthEnd = 12

	crcStart = 21
	magic    = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Attribute bits.
const (
	CodecMask        = 0x07
	LogAppendTimeBit = 1 << 3
	TransactionalBit = 1 << 4
	ControlBit       = 1 << 5
	DeleteHorizonBit = 1 << 6
)

// Codec is how the records are compressed.
type Codec int8

const (
	None Codec = iota
	Gzip
	Snappy
	LZ4
	Zstd
)

var codecNames = [...]string{"none", "gzip", "snappy", "lz4", "zstd"}

func (c Codec) String() string {
	if c < 0 || int(c) >= len(codecNames) {
		return "unknown"
	}
	return codecNames[c]
}

// Header is a decoded batch header.
type Header struct {
	BaseOffset      int64
	Length          int64 // of the whole batch: the field's value and the 12 bytes before it
	LeaderEpoch     int32
	Magic           int8
	CRC             uint32
	Attributes      int16
	LastOffsetDelta int32
	BaseTimestamp   int64
	MaxTimestamp    int64
	ProducerID      int64
	ProducerEpoch   int16
	BaseSequence    int32
	Count           int32
}

// DecodeHeader reads the header that b starts with. It fails only if b is
// shorter than one; whether the fields make sense is for Verify and Check.
func DecodeHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, &CorruptError{Reason: "shorter than a header"}
	}
	be := binary.BigEndian
	return Header{
		BaseOffset:      int64(be.Uint64(b[0:])),
		Length:          int64(int32(be.Uint32(b[8:]))) + LengthEnd,
		LeaderEpoch:     int32(be.Uint32(b[12:])),
		Magic:           int8(b[16]),
		CRC:             be.Uint32(b[17:]),
		Attributes:      int16(be.Uint16(b[21:])),
		LastOffsetDelta: int32(be.Uint32(b[23:])),
		BaseTimestamp:   int64(be.Uint64(b[27:])),
		MaxTimestamp:    int64(be.Uint64(b[35:])),
		ProducerID:      int64(be.Uint64(b[43:])),
		ProducerEpoch:   int16(be.Uint16(b[51:])),
		BaseSequence:    int32(be.Uint32(b[53:])),
		Count:           int32(be.Uint32(b[57:])),
	}, nil
}

func (h Header) LastOffset() int64     { return h.BaseOffset + int64(h.LastOffsetDelta) }
func (h Header) Codec() Codec          { return Codec(h.Attributes & CodecMask) }
func (h Header) IsControl() bool       { return h.Attributes&ControlBit != 0 }
func (h Header) IsTransactional() bool { return h.Attributes&TransactionalBit != 0 }
func (h Header) IsLogAppendTime() bool { return h.Attributes&LogAppendTimeBit != 0 }

// HasProducer tells whether the batch belongs to an idempotent producer.
func (h Header) HasProducer() bool { return h.ProducerID >= 0 }

// LastSequence is the sequence number of the last record, if there is a producer.
func (h Header) LastSequence() int32 { return AddSequence(h.BaseSequence, h.LastOffsetDelta) }

// AddSequence counts n sequence numbers on from s, or back: 0 follows the
// largest int32.
func AddSequence(s, n int32) int32 { return (s + n) & math.MaxInt32 }

// Stamp gives a batch its place in a log. Neither field is under the CRC.
func Stamp(b []byte, baseOffset int64, leaderEpoch int32) {
	binary.BigEndian.PutUint64(b[0:], uint64(baseOffset))
	binary.BigEndian.PutUint32(b[12:], uint32(leaderEpoch))
}
