package batch_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
)

var codecs = []batch.Compression{{}, {Codec: batch.Gzip, Level: -1}, {Codec: batch.Snappy}, {Codec: batch.LZ4, Level: 9}, {Codec: batch.LZ4, Level: 17}, {Codec: batch.Zstd, Level: 3}}

func random(n int) []byte {
	b := make([]byte, n)
	rng := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	return b
}

// block replaces the records of a batch by a block of a codec.
func block(c batch.Codec, records []byte) []byte {
	b := append(sample().Encode()[:batch.HeaderSize], records...)
	binary.BigEndian.PutUint16(b[21:], uint16(c))
	return batchtest.Seal(b)
}

func TestCodecs(t *testing.T) {
	large := sample()
	large.Records[0].Value = random(200_000) // does not fit the buffer
	large.Records[1].Key = random(40_000)
	large.Records[2].Headers = []batchtest.Header{{Key: string(random(50_000)), Value: random(70_000)}}
	for _, b := range []batchtest.Batch{sample(), large, batchtest.Values("")} {
		for _, c := range codecs {
			packed := batchtest.Compressed(b.Encode(), c)
			h, err := batch.Verify(packed)
			if err != nil || h.Codec() != c.Codec {
				t.Fatalf("%+v: codec %s, %v", c, h.Codec(), err)
			}
			if c.Codec != batch.None {
				n := int32(0)
				err = batch.Walk(packed, h, func(i int32, r batch.Record) error {
					want := b.Records[i]
					if r != (batch.Record{OffsetDelta: i, TimestampDelta: want.TimestampDelta, NullKey: want.Key == nil}) {
						t.Errorf("%+v: record %d is %+v", c, i, r)
					}
					n++
					return nil
				})
				if err != nil || int(n) != len(b.Records) {
					t.Fatalf("%+v: %d records, %v", c, n, err)
				}
			}
			got, err := batchtest.Records(batchtest.Compressed(packed, batch.Compression{}))
			if err != nil || !reflect.DeepEqual(got, b.Records) {
				t.Fatalf("%+v: %v", c, err)
			}
		}
	}
}

// C and Go clients send snappy without Java's frame.
func TestBareSnappy(t *testing.T) {
	if err := check(block(batch.Snappy, snappy.Encode(nil, sample().Encode()[batch.HeaderSize:]))); err != nil {
		t.Fatal(err)
	}
}

// Each byte of a compressed block is turned over, and each cut tried. What is
// accepted then has as many records, in order.
func TestDamagedBlocks(t *testing.T) {
	for _, c := range codecs[1:] {
		packed := batchtest.Compressed(sample().Encode(), c)
		refused := 0
		try := func(b []byte) {
			err := check(batchtest.Seal(b))
			if _, ok := errors.AsType[*batch.InvalidError](err); err != nil && !ok && !strings.Contains(err.Error(), "was changed") {
				t.Fatalf("%+v: %v", c, err)
			}
			if err != nil {
				refused++
			}
		}
		for at := batch.HeaderSize; at < len(packed); at++ {
			for bit := range 8 {
				b := bytes.Clone(packed)
				b[at] ^= 1 << bit
				try(b)
			}
		}
		flips := refused
		for n := batch.HeaderSize; n < len(packed); n++ {
			try(bytes.Clone(packed[:n]))
		}
		if flips == 0 || refused-flips < (len(packed)-batch.HeaderSize)/2 {
			t.Errorf("%+v: %d flips and %d cuts refused", c, flips, refused-flips)
		}
		for name, records := range map[string][]byte{
			"a record more":   append(sample().Encode()[batch.HeaderSize:], 12, 0, 0, 6, 1, 1, 0),
			"a record less":   sample().Encode()[batch.HeaderSize : len(sample().Encode())-13],
			"a negative size": {1},
			"a huge size":     binary.AppendVarint(nil, math.MaxInt32),
			"no end":          bytes.Repeat([]byte{0x80}, 20),
		} {
			if err := check(block(c.Codec, packAs(t, c, records))); err == nil || !strings.Contains(err.Error(), "invalid record") {
				t.Errorf("%+v, %s: %v", c, name, err)
			}
		}
	}
}

// packAs compresses bytes that are no records.
func packAs(t *testing.T, c batch.Compression, b []byte) []byte {
	t.Helper()
	packed, err := c.Pack(b)
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

func TestBombs(t *testing.T) {
	zeros := make([]byte, 64<<20)
	// One record that goes on and on.
	body := append([]byte{0, 0, 0, 1}, binary.AppendVarint(nil, 1<<30)...)
	record := append(binary.AppendVarint(nil, 1<<30+20), body...)
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	var frames []byte
	frames = w.EncodeAll(record, frames)
	for range 16 {
		frames = w.EncodeAll(zeros, frames)
	}
	bomb := block(batch.Zstd, frames)
	if len(bomb) > 1<<20 {
		t.Fatalf("the bomb has %d bytes", len(bomb))
	}
	binary.BigEndian.PutUint32(bomb[23:], 0)
	binary.BigEndian.PutUint32(bomb[57:], 1)
	batchtest.Seal(bomb)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err = check(bomb)
	runtime.ReadMemStats(&after)
	if allocated := after.TotalAlloc - before.TotalAlloc; err == nil || !strings.Contains(err.Error(), "far more") || allocated > 32<<20 {
		t.Errorf("a batch of %d bytes that becomes 1 GiB, %d bytes allocated: %v", len(bomb), allocated, err)
	}
	// A window that nobody has memory for.
	huge := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 1, 0, 0}
	if err := check(block(batch.Zstd, huge)); err == nil {
		t.Error("a window of 2 TiB")
	}
	// A block that claims 4 GiB.
	if err := check(block(batch.Snappy, []byte{0xff, 0xff, 0xff, 0xff, 0x0f, 0})); err == nil {
		t.Error("a snappy block of 4 GiB")
	}
}

func TestRules(t *testing.T) {
	const now = 1_000_000
	plain := func(b batchtest.Batch) []byte { return b.Encode() }
	keyed := batchtest.Values("one", "two", "three").At(now)
	for i := range keyed.Records {
		keyed.Records[i].Key = []byte("k")
	}
	mixed := batchtest.Values("one", "two", "three").At(now)
	mixed.Records[1].Key = []byte("k")
	spread := batchtest.Values("one", "two", "three").At(now)
	spread.Records[0].TimestampDelta, spread.Records[2].TimestampDelta = -101, 201
	none := batchtest.Values("one").At(-1)
	none.MaxTimestamp = -1
	claims := keyed
	claims.Attributes = batch.LogAppendTimeBit
	lowest := batchtest.Values("one").At(math.MinInt64 + 2)
	lowest.MaxTimestamp = math.MinInt64 + 2
	highest := batchtest.Values("one").At(math.MaxInt64)
	for _, c := range []struct {
		name  string
		batch batchtest.Batch
		edit  func(*batch.Rules)
		want  string // of the error
	}{
		{"keys where none are needed", mixed, func(r *batch.Rules) {}, ""},
		{"keys", keyed, func(r *batch.Rules) { r.NeedKey = true }, ""},
		{"keys lack", mixed, func(r *batch.Rules) { r.NeedKey = true }, "[{0 compacted topic cannot accept message without key} {2 compacted topic cannot accept message without key}] false"},
		{"times within bounds", spread, func(r *batch.Rules) { r.Before, r.After = 101, 201 }, ""},
		{"too early", spread, func(r *batch.Rules) { r.Before = 100 }, "[{0 timestamp 999899 is more than message.timestamp.before.max.ms=100 behind the broker's 1000000}] true"},
		{"too late", spread, func(r *batch.Rules) { r.After = 200 }, "[{2 timestamp 1000201 is more than message.timestamp.after.max.ms=200 ahead of the broker's 1000000}] true"},
		{"no time", none, func(r *batch.Rules) { r.Before, r.After = 0, 0 }, ""},
		{"the lowest time", lowest, func(r *batch.Rules) { r.Before = 1 << 62 }, "behind the broker's"},
		{"the highest time", highest, func(r *batch.Rules) { r.After = 1 }, "ahead of the broker's"},
		{"times that do not count", spread, func(r *batch.Rules) { r.Before, r.After, r.LogAppendTime = 1, 1, true }, ""},
		{"claims the broker's time", claims, func(r *batch.Rules) {}, "[{0 it claims the broker's time"},
		{"claims it where it is used", claims, func(r *batch.Rules) { r.LogAppendTime = true }, "[{0 it claims the broker's time"},
		{"as large as allowed", keyed, func(r *batch.Rules) { r.MaxBytes = int64(len(plain(keyed))) }, ""},
		{"a byte too large", keyed, func(r *batch.Rules) { r.MaxBytes = int64(len(plain(keyed))) - 1 }, "max.message.bytes is"},
	} {
		for _, codec := range codecs {
			if c.name == "as large as allowed" || c.name == "a byte too large" {
				codec = batch.Compression{}
			}
			rules := batchtest.Any()
			c.edit(rules)
			b := plain(c.batch)
			if c.batch.Attributes == 0 {
				b = batchtest.Compressed(b, codec)
			}
			_, err := rules.Accept(b, now)
			got := ""
			if wrong, ok := errors.AsType[*batch.RecordsError](err); ok {
				got = fmt.Sprint(wrong.Records, " ", wrong.Timestamps)
			} else if err != nil {
				got = err.Error()
			}
			if c.want == "" && got != "" || !strings.Contains(got, c.want) {
				t.Errorf("%s, %s: %s, want %s", c.name, codec.Codec, got, c.want)
			}
		}
	}
}

func TestLogAppendTime(t *testing.T) {
	for _, codec := range codecs {
		rules := batchtest.Any()
		rules.LogAppendTime = true
		b, err := rules.Accept(batchtest.Compressed(sample().Encode(), codec), 5_000)
		if err != nil {
			t.Fatal(err)
		}
		h, err := batch.Verify(b)
		if err != nil || !h.IsLogAppendTime() || h.MaxTimestamp != 5_000 || h.BaseTimestamp != 1_000 || h.Timestamp(batch.Record{TimestampDelta: 7}) != 5_000 || h.Codec() != codec.Codec {
			t.Errorf("%s: %+v, %v", codec.Codec, h, err)
		}
	}
}

// The largest timestamp is that of the records, whatever the producer says.
func TestMaxTimestampIsCorrected(t *testing.T) {
	b := sample()
	b.MaxTimestamp = 77
	out, err := batchtest.Any().Accept(b.Encode(), 0)
	if err != nil {
		t.Fatal(err)
	}
	if h, err := batch.Verify(out); err != nil || h.MaxTimestamp != 1050 {
		t.Errorf("%+v, %v", h, err)
	}
}

// What grows by compressing otherwise is measured after it.
func TestTooLargeAfterRecompression(t *testing.T) {
	b := batchtest.Values(strings.Repeat("x", 10_000))
	rules := batchtest.Any()
	rules.KeepCodec, rules.MaxBytes = false, 1000
	_, err := rules.Accept(batchtest.Compressed(b.Encode(), batch.Compression{Codec: batch.Zstd, Level: 3}), 0)
	if large, ok := errors.AsType[*batch.TooLargeError](err); !ok || large.Size <= 1000 {
		t.Errorf("%v", err)
	}
}

func TestErrorsAreBounded(t *testing.T) {
	b := batchtest.Values(make([]string, 10_000)...)
	rules := batchtest.Any()
	rules.NeedKey = true
	_, err := rules.Accept(b.Encode(), 0)
	if wrong, ok := errors.AsType[*batch.RecordsError](err); !ok || len(wrong.Records) != 100 {
		t.Errorf("%v", err)
	}
}
