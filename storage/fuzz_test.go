package storage

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// What can be read is written again so that it reads the same.

func FuzzLogOffsets(f *testing.F) {
	for _, seed := range []string{"", "0\n0\n", "0\n1\nt 0 15\n", "0\n2\na.b-c 7 0\nt 0 9223372036854775807\n", "0\n2\nt 0 1\nt 0 2\n", "1\n0\n", "0\n1\nt -1 5\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		offsets, err := decodeLogOffsets(b)
		if err != nil {
			return
		}
		if again, err := decodeLogOffsets(offsets.encode()); err != nil || !maps.Equal(again, offsets) {
			t.Errorf("%v became %v, %v", offsets, again, err)
		}
	})
}

func FuzzEpochs(f *testing.F) {
	for _, seed := range []string{"", "0\n0\n", "0\n3\n0 0\n1 6\n2 12\n", "0\n1\n-1 5\n", "0\n2\n1 5\n1 6\n", "0\n1\n3 10"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		history, err := decodeEpochs(b)
		if err != nil {
			return
		}
		if again, err := decodeEpochs(history.encode()); err != nil || !slices.Equal(again, history) {
			t.Errorf("%v became %v, %v", history, again, err)
		}
		for _, at := range []int64{0, 1, 7, 1 << 40} {
			if from := history.from(at); from.at(at) != history.at(at) || len(from) > len(history) {
				t.Errorf("%v from %d: %v", history, at, from)
			}
		}
	})
}

func FuzzMetadata(f *testing.F) {
	for _, seed := range []string{"", "version: 0\ntopic_id: AQAAAAAAAAAAAAAAAAAA_w", "version: 0\ntopic_id: AQAAAAAAAAAAAAAAAAAA_w\n", "version: 1\ntopic_id: AQAAAAAAAAAAAAAAAAAA_w", "version: 0\ntopic_id: AQ"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := decodeMetadata(b)
		if err == nil && !bytes.Equal(encodeMetadata(id), bytes.TrimSuffix(b, []byte("\n"))) {
			t.Errorf("%q is %x, which is %q", b, id, encodeMetadata(id))
		}
	})
}

func FuzzProducers(f *testing.F) {
	var ps producers
	f.Add(ps.encode())
	for i := range int32(7) {
		ps.appended(batch.Header{ProducerID: 5, ProducerEpoch: 1, BaseSequence: 3 * i, LastOffsetDelta: 2, BaseOffset: int64(3 * i)}, noon)
	}
	ps.appended(batch.Header{ProducerID: 6, BaseSequence: 1<<31 - 1, LastOffsetDelta: 1}, noon)
	f.Add(ps.encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > snapshotHeader { // or nothing would get past the checksum
			binary.BigEndian.PutUint16(b, snapshotVersion)
			binary.BigEndian.PutUint32(b[2:], crc32.Checksum(b[snapshotHeader:], castagnoli))
		}
		ps, err := decodeProducers(b)
		if err != nil {
			return
		}
		if again, err := decodeProducers(ps.encode()); err != nil || !reflect.DeepEqual(again, ps) {
			t.Errorf("%s became %s, %v", describe(ps), describe(again), err)
		}
	})
}

func FuzzIdentity(f *testing.F) {
	f.Add(Identity{"cluster", 1, [16]byte{9}}.encode())
	for _, seed := range []string{"", "version=1\n", "version=2\ncluster.id=c\n", "#\n version = 1 \ncluster.id=c\nnode.id=-1\ndirectory.id=AQAAAAAAAAAAAAAAAAAA_w", "version=1\ncluster.id=c\nnode.id=x\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		id, err := decodeIdentity(b)
		if err != nil {
			return
		}
		if again, err := decodeIdentity(id.encode()); err != nil || again != id {
			t.Errorf("%+v became %+v, %v", id, again, err)
		}
	})
}

// FuzzLog opens a log whose files hold anything. Whatever recovery makes of them
// reads as it says, is whole, and is found again by the next start.
func FuzzLog(f *testing.F) {
	fs := lived(f)
	names := logFiles(f, fs)
	for i, name := range names {
		var seed [4][]byte
		for k, file := range []string{name, strings.TrimSuffix(name, ".log") + ".index", strings.TrimSuffix(name, ".log") + ".timeindex", epochsName} {
			var err error
			if seed[k], err = ReadFile(fs, "/data/t-0/"+file); err != nil {
				f.Fatal(err)
			}
		}
		f.Add(seed[0], seed[1], seed[2], seed[3], int64(i))
	}
	f.Add([]byte{}, []byte{}, []byte{}, []byte("0\n0\n"), int64(0))
	f.Fuzz(func(t *testing.T, segment, index, times, history []byte, point int64) {
		disk := vfs.NewMem()
		must(t, disk.MkdirAll("/data/t-0"))
		base := int64(0)
		if h, err := batch.DecodeHeader(segment); err == nil && h.BaseOffset >= 0 {
			base = h.BaseOffset
		}
		name := fmt.Sprintf("/data/t-0/%020d", base)
		for file, content := range map[string][]byte{name + ".log": reseal(segment), name + ".index": index, name + ".timeindex": times, "/data/t-0/" + epochsName: history} {
			must(t, writeFile(disk, file, content, true))
		}
		must(t, writeFile(disk, "/data/"+recoveryPointsName, logOffsets{"t-0": max(point, 0)}.encode(), true))
		_, err := Verify(disk, "/data")
		must(t, err)
		d := openDir(t, disk, "/data")
		l, _, err := d.OpenLog("t-0", small, noon)
		if err != nil {
			return
		}
		if point > base { // below it recovery believes what it does not read
			return
		}
		readAll(t, l, 500)
		end := l.EndOffset()
		must(t, d.Close(noon))
		verify(t, disk, "/data", Stale)
		l, rec := openLog(t, openDir(t, disk, "/data"), small)
		if l.EndOffset() != end || rec.TruncatedBytes > 0 {
			t.Errorf("ended at %d, then at %d: %+v", end, l.EndOffset(), rec)
		}
	})
}

// reseal makes the CRCs of batches right, as far as there are any: or nothing would
// get past them.
func reseal(b []byte) []byte {
	b = bytes.Clone(b)
	for rest := b; ; {
		h, err := batch.DecodeHeader(rest)
		if err != nil || h.Length < batch.HeaderSize || h.Length > int64(len(rest)) {
			return b
		}
		batchtest.Seal(rest[:h.Length])
		rest = rest[h.Length:]
	}
}
