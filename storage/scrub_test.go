package storage

import (
	"errors"
	"testing"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// scrubAll scrubs to the end, and returns what was read and the damage found.
func scrubAll(t *testing.T, l *Log, budget int64) (read int64, damage []*CorruptError) {
	t.Helper()
	for range 10_000 {
		n, whole, err := l.Scrub(budget)
		if corrupt, ok := errors.AsType[*CorruptError](err); ok {
			damage = append(damage, corrupt)
		} else {
			must(t, err)
		}
		if read += n; whole {
			return read, damage
		}
	}
	t.Fatal("it never ends")
	return 0, nil
}

func TestScrub(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	if read, damage := scrubAll(t, l, 100); read != 0 || damage != nil {
		t.Errorf("an empty log: %d, %v", read, damage)
	}
	all := fill(t, l, 60)
	sealed, _ := l.Size()
	sealed -= l.active().size
	for _, budget := range []int64{1, 100, 500, 1 << 40} {
		for range 2 {
			if read, damage := scrubAll(t, l, budget); read != sealed || damage != nil {
				t.Errorf("budget %d: %d of %d bytes, %v", budget, read, sealed, damage)
			}
		}
		if n, _, err := l.Scrub(budget); n < min(budget, sealed) || n > budget+200 && n > sealed || err != nil {
			t.Errorf("budget %d: %d bytes, %v", budget, n, err)
		}
		l.scrub = scrubCursor{}
	}

	// One bit in the values of two batches, of different segments.
	flip := func(file string, position int64) {
		b, err := ReadFile(fs, file)
		must(t, err)
		b[position] ^= 4
		must(t, writeFile(fs, file, b, false))
	}
	first, second := fileName(0), fileName(l.segments[2].base)
	at := int64(len(all[0]))
	flip(first, at+70)
	flip(second, 70)
	_, damage := scrubAll(t, l, 300)
	if len(damage) != 2 || damage[0].File != first || damage[0].Position != at || damage[1].File != second || damage[1].Position != 0 {
		t.Errorf("damage found: %v", damage)
	}
	flip(first, at+70)
	flip(second, 70)

	// The log changes in between.
	if _, _, err := l.Scrub(300); err != nil {
		t.Error(err)
	}
	flush(t, d)
	must(t, l.AdvanceStart(l.segments[3].base, noon))
	for range 20 {
		appendOne(t, l, batchtest.Values("more").Encode())
		if _, _, err := l.Scrub(200); err != nil {
			t.Error(err)
		}
	}
	must(t, d.DeleteLogs(noon, "t-0"))
	_, err := d.Sweep(noon)
	must(t, err)
	if _, damage := scrubAll(t, l, 300); damage != nil {
		t.Errorf("of a deleted log: %v", damage)
	}
}

// What a sealed segment lost at its end, or altogether, nobody takes for compacted.
func TestLostEndOfSegment(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	fill(t, l, 60)
	short, none, after := l.segments[1].base, l.segments[3].base, l.segments[4].base
	must(t, d.Close(noon))
	lose := func(base, keep int64) {
		b, err := ReadFile(fs, fileName(base))
		must(t, err)
		must(t, writeFile(fs, fileName(base), b[:keep], true))
	}
	b, err := ReadFile(fs, fileName(short))
	must(t, err)
	h, err := batch.DecodeHeader(b)
	must(t, err)
	lose(short, h.Length)
	lose(none, 0)
	l, _ = openLog(t, openDir(t, fs, "/data"), small)
	_, damage := scrubAll(t, l, 1<<20)
	if len(damage) != 2 || damage[0].File != fileName(short) || damage[0].Position != h.Length || damage[1].File != fileName(none) {
		t.Errorf("damage found: %v", damage)
	}
	for offset, file := range map[int64]string{h.LastOffset() + 1: fileName(short), none: fileName(none), after - 1: fileName(none)} {
		r, err := l.Read(offset, l.EndOffset(), 1<<20, true)
		if corrupt, ok := errors.AsType[*CorruptError](err); !ok || corrupt.File != file {
			t.Errorf("at offset %d of segments from %d, %d and %d: %+v, %v", offset, short, none, after, r, err)
		}
	}
}
