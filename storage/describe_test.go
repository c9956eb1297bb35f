package storage

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

func TestEndOffsetForEpoch(t *testing.T) {
	l, _ := openLog(t, openDir(t, vfs.NewMem(), "/data"), small)
	if epoch, end := l.EndOffsetForEpoch(0); epoch != -1 || end != -1 {
		t.Errorf("of an empty log: %d, %d", epoch, end)
	}
	for i := range 12 {
		_, err := l.Append(batchtest.Values("v").Encode(), 2+int32(3*(i/4)), noon) // epochs 2, 5, 8
		must(t, err)
	}
	for asked, want := range map[int32]string{
		-1: "-1 -1", 0: "0 0", 1: "1 0", 2: "2 4", 3: "2 4", 5: "5 8", 7: "5 8", 8: "8 12", 9: "8 12",
	} {
		epoch, end := l.EndOffsetForEpoch(asked)
		if got := fmt.Sprint(epoch, end); got != want {
			t.Errorf("epoch %d: %s, want %s", asked, got, want)
		}
	}
}

func TestProducersList(t *testing.T) {
	l, _ := openLog(t, openDir(t, vfs.NewMem(), "/data"), small)
	if got := l.Producers(noon); len(got) != 0 {
		t.Errorf("of an empty log: %v", got)
	}
	later := noon.Add(time.Hour)
	for i, b := range []batchtest.Batch{
		batchtest.Values("v").From(9, 0, 0), batchtest.Values("v", "v").From(7, 1, 0), batchtest.Values("v", "v", "v").From(7, 1, 2),
	} {
		_, err := l.Append(b.Encode(), 1, noon.Add(time.Duration(i/2)*time.Hour))
		must(t, err)
	}
	nine, seven := ProducerState{9, 0, 0, noon, -1, -1}, ProducerState{7, 1, 4, later, -1, -1}
	if got := l.Producers(later); !slices.Equal(got, []ProducerState{seven, nine}) {
		t.Errorf("producers %v", got)
	}
	if got := l.Producers(noon.Add(24 * time.Hour)); !slices.Equal(got, []ProducerState{seven}) {
		t.Errorf("a day later %v", got)
	}
}

func TestSize(t *testing.T) {
	fs := vfs.NewMem()
	d := openDir(t, fs, "/data")
	l, _ := openLog(t, d, small)
	var want int64
	for _, b := range fill(t, l, 50) {
		want += int64(len(b))
	}
	size, segments := l.Size()
	if size != want || segments < 3 {
		t.Errorf("%d bytes in %d segments, want %d", size, segments, want)
	}
	must(t, d.CloseDirty())
	l, rec := openLog(t, openDir(t, fs, "/data"), small)
	if again, n := l.Size(); again != want || n != segments || rec.Segments != n {
		t.Errorf("reopened: %d bytes in %d segments", again, n)
	}
}
