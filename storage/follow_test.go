package storage

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// led is a batch as it lies in a leader's log.
func led(offset int64, epoch int32, values ...string) []byte {
	b := batchtest.Values(values...).Encode()
	batch.Stamp(b, offset, epoch)
	return b
}

// TestFetchedIsRefused: what no leader's log can hold is refused by name, and what
// comes before it stays.
func TestFetchedIsRefused(t *testing.T) {
	for name, spoil := range map[string]func(b []byte){
		"CRC":          func(b []byte) { b[len(b)-1] ^= 1 },
		"negative":     func(b []byte) { binary.BigEndian.PutUint32(b[8:], 1<<31+5) },
		"no length":    func(b []byte) { binary.BigEndian.PutUint32(b[8:], 0) },
		"later epoch":  func(b []byte) { batch.Stamp(b, 2, 8) },
		"fallen epoch": func(b []byte) { batch.Stamp(b, 2, 6) },
		"below":        func(b []byte) { batch.Stamp(b, 1, 7) },
		"last offset":  func(b []byte) { batch.Stamp(b, math.MaxInt64, 7) },
	} {
		l, _ := openLog(t, openDir(t, vfs.NewMem(), "/data"), small)
		first, bad := led(0, 7, "a", "b"), led(2, 7, "c")
		spoil(bad)
		end, err := l.AppendFetched(append(append([]byte(nil), first...), bad...), 7, noon)
		if err == nil || end != 2 {
			t.Errorf("%s: goes on to %d, %v", name, end, err)
		}
		wantBatches(t, readAll(t, l, 1000), [][]byte{first})
	}
}

// TestHugeGap: offsets in a segment's indexes are 31 bits from its base.
func TestHugeGap(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	cfg := small
	cfg.IndexIntervalBytes = 1
	l, _ := openLog(t, d, cfg)
	var all [][]byte
	for _, offset := range []int64{3 << 31, 3<<31 + 1, 9 << 31, 9<<31 + 1, 9<<31 + 2} {
		b := led(offset, 1, strings.Repeat("v", 100))
		all = append(all, b)
		_, err := l.AppendFetched(b, 1, noon)
		must(t, err)
	}
	flush(t, d)
	for range 2 {
		wantBatches(t, readAll(t, l, 150), all)
		must(t, d.Close(noon))
		verify(t, fs, "/data")
		d = openDir(t, fs, "/data")
		l, _ = openLog(t, d, cfg)
	}
}

// TestReadersOfACutLog: a reader that a cut overtakes gets an error, or what is
// there now, and leaves nothing behind that misleads the next.
func TestReadersOfACutLog(t *testing.T) {
	var do func()
	fs := vfs.NewFaulty(vfs.NewMem(), func(op vfs.Op, name string) error {
		if op == vfs.OpReadAt && do != nil && strings.HasSuffix(name, ".log") {
			now := do
			do = nil
			now()
		}
		return nil
	})
	cfg := small
	cfg.SegmentBytes = 1 << 20
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, cfg)
	all := fill(t, l, 40)
	end := l.EndOffset()
	old, err := l.Read(0, math.MaxInt64, math.MaxInt64, true)
	must(t, err)
	do = func() {
		_, err := l.TruncateTo(20, noon)
		must(t, err)
	}
	if _, err := l.Read(60, math.MaxInt64, 200, true); !errors.Is(err, ErrOffsetOutOfRange) {
		t.Error(err)
	}
	if l.hint.offset > l.EndOffset() {
		t.Errorf("the next reader is sent to %+v of a log to %d", l.hint, l.EndOffset())
	}
	for l.EndOffset() < end { // batches of other sizes
		_, err := l.AppendFetched(led(l.EndOffset(), 2, strings.Repeat("w", 70)), 2, noon)
		must(t, err)
	}
	if b, err := old.Bytes(); err == nil {
		t.Errorf("%d bytes of what is cut", len(b))
	}
	if _, err := old.WriteTo(&strings.Builder{}); err == nil {
		t.Error("what is cut was sent")
	}
	got := readAll(t, l, 300)
	wantBatches(t, got[:10], all[:10])
	for offset := range end {
		r, err := l.Read(offset, math.MaxInt64, 1, true)
		must(t, err)
		b, err := r.Bytes()
		must(t, err)
		if h, err := batch.Verify(b); err != nil || h.BaseOffset > offset || h.LastOffset() < offset {
			t.Fatalf("at %d: %+v, %v", offset, h, err)
		}
	}
}

// TestWatermarkOfADeletedLog: the next log of a name has none of it.
func TestWatermarkOfADeletedLog(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	fill(t, l, 10)
	l.SetHighWatermark(10)
	must(t, d.Checkpoint())
	must(t, d.DeleteLogs(noon, "t-0"))
	l, _ = openLog(t, d, small)
	fill(t, l, 10)
	must(t, d.CloseDirty())
	l, _ = openLog(t, openDir(t, fs, "/data"), small)
	if got := l.HighWatermark(); got != 0 || l.EndOffset() < 10 {
		t.Errorf("watermark %d of a log to %d", got, l.EndOffset())
	}
}

func BenchmarkAppendFetched(b *testing.B) {
	for _, n := range []int{1, 16, 256} {
		b.Run(fmt.Sprint("10MiB of ", n, "KiB"), func(b *testing.B) {
			l, one := benchLog(b), batchOf(n)
			count := (10 << 20) / len(one)
			b.SetBytes(int64(count * len(one)))
			b.ReportAllocs()
			var answer []byte
			for range count {
				answer = append(answer, one...)
			}
			for b.Loop() {
				offset := l.EndOffset()
				for at := 0; at < len(answer); at += len(one) {
					batch.Stamp(answer[at:], offset, 1)
					offset += int64(n)
				}
				if _, err := l.AppendFetched(answer, 1, noon); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
