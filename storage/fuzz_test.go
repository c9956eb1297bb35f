package storage

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/streambus/streambus/storage/batch"
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
