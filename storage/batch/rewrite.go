package batch

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"io"
)

// storedLevel is how records that are rewritten are compressed again: at the level
// that each codec has where a topic sets none.
var storedLevel = [...]int{Gzip: -1, LZ4: javaLZ4Default, Zstd: 3}

// DeleteHorizon is from when on compaction may take the markers of deleted keys out
// of the batch, in ms; ok is false if it has not seen them yet.
func (h Header) DeleteHorizon() (ms int64, ok bool) {
	return h.BaseTimestamp, h.Attributes&DeleteHorizonBit != 0
}

// Rewrite returns a batch that Verify has passed with the records for which keep
// holds, and with a delete horizon if one is given. Those have their offsets and
// timestamps, and the batch its place and its sequence numbers, also if no record is
// left. A batch that is as it was is returned as it is.
func Rewrite(b []byte, h Header, horizon int64, keep func(Content) bool) ([]byte, error) {
	plain, err := plainRecords(b, h)
	if err != nil {
		return nil, err
	}
	base := h.BaseTimestamp
	if horizon >= 0 {
		base = horizon
	}
	var records []byte
	count, latest := int32(0), int64(noTimestamp)
	rest := reader{b: plain}
	err = walkBytes(plain, h.Count, func(_ int32, r Record) error {
		body := rest.take(rest.varint())
		if !keep(content(r, body)) {
			return nil
		}
		count++
		latest = max(latest, h.Timestamp(r))
		records = appendRebased(records, body, r.TimestampDelta+h.BaseTimestamp-base)
		return nil
	})
	if err != nil {
		return nil, err
	}
	if count == h.Count && horizon < 0 {
		return b, nil
	}
	codec := h.Codec()
	if h.IsLogAppendTime() {
		latest = h.MaxTimestamp
	}
	if count == 0 { // nothing to compress, and nothing to be found by its time
		codec, latest = None, noTimestamp
	}
	out := bytes.Clone(b[:HeaderSize])
	if out, err = (Compression{codec, storedLevel[codec]}).deflate(out, bytes.NewReader(records), maxBatch); err != nil {
		return nil, err
	}
	attributes := h.Attributes &^ CodecMask
	if horizon >= 0 {
		attributes |= DeleteHorizonBit
	}
	be := binary.BigEndian
	be.PutUint32(out[8:], uint32(len(out)-LengthEnd))
	be.PutUint16(out[21:], uint16(attributes)|uint16(codec))
	be.PutUint64(out[27:], uint64(base))
	be.PutUint64(out[35:], uint64(latest))
	be.PutUint32(out[57:], uint32(count))
	be.PutUint32(out[17:], crc32.Checksum(out[crcStart:], castagnoli))
	return out, nil
}

// maxBatch is what the length of a batch can say.
const maxBatch = 1<<31 - 1

// plainRecords returns the records of a batch, decompressed.
func plainRecords(b []byte, h Header) ([]byte, error) {
	plain := b[HeaderSize:]
	if h.Codec() == None {
		return plain, nil
	}
	in, release, err := inflate(h.Codec(), plain)
	if err == nil {
		plain, err = io.ReadAll(in)
		release()
	}
	if err != nil {
		return nil, &InvalidError{-1, fmt.Sprintf("its records cannot be decompressed: %v", err)}
	}
	return plain, nil
}

// appendRebased appends a record with another timestamp delta.
func appendRebased(to, body []byte, delta int64) []byte {
	rest := reader{b: body[1:]}
	rest.varlong()
	timestamp := binary.AppendVarint(nil, delta)
	to = binary.AppendVarint(to, int64(1+len(timestamp)+len(rest.b)))
	to = append(to, body[0])
	to = append(to, timestamp...)
	return append(to, rest.b...)
}
