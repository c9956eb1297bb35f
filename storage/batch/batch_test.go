package batch_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"reflect"
	"strings"
	"testing"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
)

func sample() batchtest.Batch {
	b := batchtest.Values("one", "two", "three").From(7, 1, 40).At(1000)
	b.Records[1].Key = []byte("key")
	b.Records[1].Headers = []batchtest.Header{{Key: "h", Value: []byte("v")}, {Key: "null"}}
	b.Records[2].TimestampDelta = 50
	return b
}

// check accepts whatever is a batch, and changes nothing.
func check(b []byte) error {
	before := bytes.Clone(b)
	out, err := batchtest.Any().Accept(b, 0)
	if err == nil && !bytes.Equal(out, before) {
		return errors.New("the batch was changed")
	}
	return err
}

func TestHeader(t *testing.T) {
	b := sample()
	b.BaseOffset, b.LeaderEpoch, b.Attributes = 100, 9, batch.TransactionalBit|int16(batch.LZ4)
	h, err := batch.DecodeHeader(b.Encode())
	if err != nil {
		t.Fatal(err)
	}
	want := batch.Header{
		BaseOffset: 100, Length: int64(len(b.Encode())), LeaderEpoch: 9, Magic: 2, CRC: h.CRC,
		Attributes: 0x13, LastOffsetDelta: 2, BaseTimestamp: 1000, MaxTimestamp: 1050,
		ProducerID: 7, ProducerEpoch: 1, BaseSequence: 40, Count: 3,
	}
	if h != want {
		t.Errorf("got  %+v\nwant %+v", h, want)
	}
	if h.LastOffset() != 102 || h.LastSequence() != 42 || h.Codec() != batch.LZ4 || !h.IsTransactional() || h.IsControl() || !h.HasProducer() {
		t.Errorf("derived fields of %+v are wrong", h)
	}
}

func TestSequenceWraps(t *testing.T) {
	for _, c := range []struct{ s, n, want int32 }{
		{0, 0, 0}, {5, 3, 8}, {math.MaxInt32, 1, 0}, {math.MaxInt32 - 1, 4, 2}, {2, -4, math.MaxInt32 - 1}, {0, -1, math.MaxInt32},
	} {
		if got := batch.AddSequence(c.s, c.n); got != c.want {
			t.Errorf("%d + %d = %d, want %d", c.s, c.n, got, c.want)
		}
	}
}

func TestStampKeepsTheCRC(t *testing.T) {
	b := sample().Encode()
	batch.Stamp(b, 1<<40, 77)
	if _, err := batch.Verify(b); err != nil {
		t.Fatal(err)
	}
	if h, _ := batch.DecodeHeader(b); h.BaseOffset != 1<<40 || h.LeaderEpoch != 77 {
		t.Errorf("stamped %+v", h)
	}
}

func TestRecordsComeBack(t *testing.T) {
	want := sample().Records
	got, err := batchtest.Records(sample().Encode())
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, %v; want %v", got, err, want)
	}
}

// TestCheck turns each rule over once, in a batch that is otherwise right.
func TestCheck(t *testing.T) {
	put16 := func(at int, v uint16) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint16(b[at:], v); return batchtest.Seal(b) }
	}
	put32 := func(at int, v uint32) func([]byte) []byte {
		return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], v); return batchtest.Seal(b) }
	}
	// record replaces the records by one with this body.
	record := func(body ...byte) func([]byte) []byte {
		return func(b []byte) []byte {
			b = append(b[:batch.HeaderSize], binary.AppendVarint(nil, int64(len(body)))...)
			b = append(b, body...)
			binary.BigEndian.PutUint32(b[23:], 0)
			binary.BigEndian.PutUint32(b[57:], 1)
			return batchtest.Seal(b)
		}
	}
	const ok, corrupt, invalid = 0, 1, 2
	for _, c := range []struct {
		name   string
		change func([]byte) []byte
		want   int
		record int
	}{
		{"nothing", func(b []byte) []byte { return b }, ok, 0},
		{"empty", func(b []byte) []byte { return nil }, corrupt, 0},
		{"shorter than a header", func(b []byte) []byte { return b[:60] }, corrupt, 0},
		{"last byte missing", func(b []byte) []byte { return b[:len(b)-1] }, corrupt, 0},
		{"a byte more", func(b []byte) []byte { return append(b, 0) }, corrupt, 0},
		{"two batches", func(b []byte) []byte { return append(b, b...) }, corrupt, 0},
		{"negative length", func(b []byte) []byte { binary.BigEndian.PutUint32(b[8:], 1<<31); return b }, corrupt, 0},
		{"magic 1", func(b []byte) []byte { b[16] = 1; return b }, invalid, -1},
		{"crc field", func(b []byte) []byte { b[18]++; return b }, corrupt, 0},
		{"content", func(b []byte) []byte { b[len(b)-1]++; return b }, corrupt, 0},
		{"attributes without crc", func(b []byte) []byte { b[22]++; return b }, corrupt, 0},
		{"no records", put32(57, 0), invalid, -1},
		{"negative count", put32(57, 1<<31), invalid, -1},
		{"one too many counted", put32(57, 4), invalid, -1},
		{"delta below count", put32(23, 1), invalid, -1},
		{"negative delta", put32(23, 1<<31), invalid, -1},
		{"codec 4 and no zstd", put16(21, 4), invalid, 0},
		{"codec 5", put16(21, 5), invalid, -1},
		{"codec 7", put16(21, 7), invalid, -1},
		{"control", put16(21, batch.ControlBit), invalid, -1},
		{"producer without sequence", put32(53, 1<<32-1), invalid, -1},
		{"producer without epoch", put16(51, 1<<16-1), invalid, -1},
		{"minimal record", record(0, 0, 0, 1, 1, 0), ok, 0},
		{"offset delta 1 in the first record", record(0, 0, 2, 1, 1, 0), invalid, 0},
		{"key longer than the record", record(0, 0, 0, 20, 1, 0), invalid, 0},
		{"key length -2", record(0, 0, 0, 3, 1, 0), invalid, 0},
		{"value longer than the record", record(0, 0, 0, 1, 20, 0), invalid, 0},
		{"negative header count", record(0, 0, 0, 1, 1, 1), invalid, 0},
		{"more headers than bytes", record(0, 0, 0, 1, 1, 20, 0, 1), invalid, 0},
		{"header key null", record(0, 0, 0, 1, 1, 2, 1, 1), invalid, 0},
		{"header value too long", record(0, 0, 0, 1, 1, 2, 0, 8), invalid, 0},
		{"a byte after the headers", record(0, 0, 0, 1, 1, 0, 0), invalid, 0},
		{"no fields", record(), invalid, 0},
		{"varint without end", record(0, 0x80), invalid, 0},
		{"offset delta of six bytes", record(0, 0, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 1, 1, 0), invalid, 0},
		{"timestamp delta of ten bytes", record(0, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0, 0, 1, 1, 0), ok, 0},
		{"a record less than counted", func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[57:], 4)
			binary.BigEndian.PutUint32(b[23:], 3)
			return batchtest.Seal(b)
		}, invalid, 3},
		{"a record more than counted", func(b []byte) []byte {
			binary.BigEndian.PutUint32(b[57:], 2)
			binary.BigEndian.PutUint32(b[23:], 1)
			return batchtest.Seal(b)
		}, invalid, -1},
	} {
		err := check(c.change(sample().Encode()))
		_, isCorrupt := errors.AsType[*batch.CorruptError](err)
		bad, isInvalid := errors.AsType[*batch.InvalidError](err)
		got := ok
		switch {
		case isCorrupt:
			got = corrupt
		case isInvalid:
			got = invalid
		}
		if got != c.want || isInvalid && bad.Record != c.record {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	err := check(record(0, 0, 0, 1, 1, 0xfe, 0xff, 0xff, 0xff, 0xf)(sample().Encode()))
	if err == nil || !strings.Contains(err.Error(), "2147483647 headers in 0 bytes") {
		t.Errorf("a header count without headers: %v", err)
	}
	magic, control := sample().Encode(), sample()
	magic[16], control.Attributes = 0, batch.ControlBit
	if err := check(magic); !errors.Is(err, batch.ErrMagic) {
		t.Errorf("magic 0: %v", err)
	}
	if err := check(control.Encode()); !errors.Is(err, batch.ErrControl) {
		t.Errorf("control: %v", err)
	}
}

func TestContents(t *testing.T) {
	want, err := batchtest.Records(sample().Encode())
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range codecs {
		b := batchtest.Compressed(sample().Encode(), c)
		h, err := batch.Verify(b)
		if err != nil {
			t.Fatal(err)
		}
		var got []batchtest.Record
		err = batch.Contents(b, h, func(c batch.Content) error {
			r := batchtest.Record{TimestampDelta: c.TimestampDelta, Key: c.Key, Value: c.Value}
			for _, h := range c.Headers {
				r.Headers = append(r.Headers, batchtest.Header(h))
			}
			got = append(got, r)
			return nil
		})
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, %v", c.Codec, got, err)
		}
	}
}

func TestAcceptHardlyAllocates(t *testing.T) {
	rules := batchtest.Any()
	for _, c := range codecs {
		b := batchtest.Compressed(sample().Encode(), c)
		if n := testing.AllocsPerRun(100, func() {
			if _, err := rules.Accept(b, 0); err != nil {
				t.Fatal(err)
			}
		}); n > 12 {
			t.Errorf("codec %d: %v allocations", c.Codec, n)
		}
	}
}

// FuzzAccept: no input makes Accept panic or take long, and what it accepts
// can be read, compressed by any codec, and read again.
func FuzzAccept(f *testing.F) {
	f.Add(sample().Encode())
	f.Add(batchtest.Values("").Encode())
	for _, c := range codecs {
		f.Add(batchtest.Compressed(sample().Encode(), c))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) >= batch.HeaderSize {
			batchtest.Seal(b) // or the CRC would stop all but the seeds
		}
		h, _ := batch.DecodeHeader(b)
		latest := h.MaxTimestamp
		if _, err := batchtest.Any().Accept(b, 0); err != nil {
			return
		}
		if latest < 0 {
			return
		}
		plain := batchtest.Compressed(bytes.Clone(b), batch.Compression{})
		want, err := batchtest.Records(plain)
		if err != nil {
			t.Fatal(err)
		}
		got, err := batchtest.Records(batchtest.Compressed(batchtest.Compressed(b, batch.Compression{Codec: batch.LZ4, Level: 9}), batch.Compression{}))
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("%v, %v", got, err)
		}
	})
}

func BenchmarkAccept(b *testing.B) {
	big := batchtest.Values()
	for range 16 {
		big.Records = append(big.Records, batchtest.Record{Value: random(1024)})
	}
	rules := batchtest.Any()
	for _, c := range codecs {
		b.Run(c.Codec.String(), func(b *testing.B) {
			raw := batchtest.Compressed(big.Encode(), c)
			b.SetBytes(int64(len(big.Encode())))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := rules.Accept(raw, 0); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// FuzzContents decompresses blocks of any bytes, by every codec: Contents reads them as Walk does, or both refuse.
func FuzzContents(f *testing.F) {
	for _, c := range codecs {
		f.Add(uint8(c.Codec), uint16(3), batchtest.Compressed(sample().Encode(), c)[batch.HeaderSize:])
		zeros := batchtest.Values(string(make([]byte, 1<<20)))
		f.Add(uint8(c.Codec), uint16(1), batchtest.Compressed(zeros.Encode(), c)[batch.HeaderSize:])
	}
	f.Fuzz(func(t *testing.T, codec uint8, count uint16, block []byte) {
		b := append(batchtest.Values().Encode(), block...)
		binary.BigEndian.PutUint16(b[21:], uint16(codec)&batch.CodecMask)
		binary.BigEndian.PutUint32(b[57:], uint32(count))
		h, err := batch.Verify(batchtest.Seal(b))
		if err != nil {
			t.Fatal(err)
		}
		var walked, read []batch.Record
		failed := batch.Walk(b, h, func(_ int32, r batch.Record) error { walked = append(walked, r); return nil })
		err = batch.Contents(b, h, func(c batch.Content) error { read = append(read, c.Record); return nil })
		if (err == nil) != (failed == nil) || err == nil && !reflect.DeepEqual(walked, read) {
			t.Fatalf("walked %d, %v; read %d, %v", len(walked), failed, len(read), err)
		}
	})
}
