package batch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
)

// Rules are what a topic asks of batches from clients.
type Rules struct {
	MaxBytes      int64 // of a batch, as it is stored
	MaxInflated   int64 // of its records, once decompressed
	KeepCodec     bool  // store batches as they are compressed
	Compression   Compression
	LogAppendTime bool
	Before, After int64 // milliseconds that a timestamp may be behind and ahead
	NeedKey       bool
}

// TooLargeError says that a batch exceeds MaxBytes. It has at least Size bytes,
// as it is stored.
type TooLargeError struct{ Size, Max int64 }

func (e *TooLargeError) Error() string {
	return fmt.Sprintf("the batch takes %d bytes or more, max.message.bytes is %d", e.Size, e.Max)
}

// RecordError is what is wrong with one record.
type RecordError struct {
	Record int32
	Reason string
}

// RecordsError says which records a topic does not take. The whole batch is
// refused.
type RecordsError struct {
	Timestamps bool // it is their timestamps
	Records    []RecordError
}

// maxRecordErrors are listed at most: enough to see what is wrong.
const maxRecordErrors = 100

func (e *RecordsError) Error() string {
	r := e.Records[0]
	return fmt.Sprintf("one or more records have been rejected: record %d: %s", r.Record, r.Reason)
}

// Accept checks a batch from a client by everything that its topic asks, in
// Kafka's order (LogValidator), and returns what to append: the batch itself,
// changed in place where times are concerned, or one compressed otherwise. now
// is in milliseconds since 1970.
func (rules *Rules) Accept(b []byte, now int64) ([]byte, error) {
	if size := int64(len(b)); size > rules.MaxBytes {
		return nil, &TooLargeError{size, rules.MaxBytes}
	}
	h, err := Verify(b)
	if err != nil {
		return nil, err
	}
	if err := h.check(); err != nil {
		return nil, err
	}
	if h.IsLogAppendTime() {
		return nil, claimsBrokersTime(h)
	}
	latest, err := rules.walk(b, h, now)
	if err != nil {
		return nil, err
	}
	out := b
	if !rules.KeepCodec && rules.Compression.Codec != h.Codec() {
		if out, err = rules.recompress(b, h); err != nil {
			return nil, err
		}
	}
	attributes := h.Attributes
	if !rules.KeepCodec {
		attributes = attributes&^CodecMask | int16(rules.Compression.Codec)
	}
	if rules.LogAppendTime {
		attributes, latest = attributes|LogAppendTimeBit, now
	}
	if attributes != h.Attributes || latest != h.MaxTimestamp {
		binary.BigEndian.PutUint16(out[21:], uint16(attributes))
		binary.BigEndian.PutUint64(out[35:], uint64(latest))
		binary.BigEndian.PutUint32(out[17:], crc32.Checksum(out[crcStart:], castagnoli))
	}
	return out, nil
}

// claimsBrokersTime refuses every record of a batch.
func claimsBrokersTime(h Header) error {
	e := &RecordsError{Timestamps: true}
	for i := range min(h.Count, maxRecordErrors) {
		e.Records = append(e.Records, RecordError{i, "it claims the broker's time, which only the broker gives"})
	}
	return e
}

// walk checks every record and returns the largest timestamp.
func (rules *Rules) walk(b []byte, h Header, now int64) (latest int64, err error) {
	latest = noTimestamp
	var wrong RecordsError
	err = walkUpTo(rules.MaxInflated, b, h, func(i int32, r Record) error {
		if err := r.check(i); err != nil {
			return err
		}
		at := h.BaseTimestamp + r.TimestampDelta
		latest = max(latest, at)
		reason, timestamp := rules.refuse(r, at, now)
		if reason == "" {
			return nil
		}
		if len(wrong.Records) == 0 {
			wrong.Timestamps = timestamp
		}
		if wrong.Records = append(wrong.Records, RecordError{i, reason}); len(wrong.Records) == maxRecordErrors {
			return errEnough
		}
		return nil
	})
	if (err == nil || errors.Is(err, errEnough)) && len(wrong.Records) > 0 {
		return latest, &wrong
	}
	return latest, err
}

var errEnough = errors.New("enough records are wrong")

// noTimestamp is the timestamp of records without one.
const noTimestamp = -1

// refuse returns why the topic does not take a record, or "".
func (rules *Rules) refuse(r Record, at, now int64) (reason string, timestamp bool) {
	switch {
	case rules.NeedKey && r.NullKey:
		return "compacted topic cannot accept message without key", false
	case rules.LogAppendTime || at == noTimestamp:
	case at < now-rules.Before:
		return fmt.Sprintf("timestamp %d is more than message.timestamp.before.max.ms=%d behind the broker's %d", at, rules.Before, now), true
	case at > later(now, rules.After):
		return fmt.Sprintf("timestamp %d is more than message.timestamp.after.max.ms=%d ahead of the broker's %d", at, rules.After, now), true
	}
	return "", false
}

// later is now+by, or the end of time.
func later(now, by int64) int64 {
	if now > math.MaxInt64-by {
		return math.MaxInt64
	}
	return now + by
}

// recompress returns the batch as the topic stores it, without a valid CRC.
func (rules *Rules) recompress(b []byte, h Header) ([]byte, error) {
	in, release, err := inflate(h.Codec(), b[HeaderSize:])
	if err != nil {
		return nil, &InvalidError{-1, fmt.Sprintf("its records cannot be decompressed: %v", err)}
	}
	defer release()
	out, err := rules.Compression.deflate(bytes.Clone(b[:HeaderSize]), in, rules.MaxBytes)
	switch {
	case errors.Is(err, errOverflow):
		return nil, &TooLargeError{rules.MaxBytes + 1, rules.MaxBytes}
	case err != nil:
		return nil, fmt.Errorf("compressing a batch: %w", err)
	}
	binary.BigEndian.PutUint32(out[8:], uint32(len(out)-LengthEnd))
	return out, nil
}
