package wal_test

import (
	"encoding/binary"
	"errors"
	"hash/fnv"
	"os"
	"path/filepath"
	"testing"

	"github.com/streambus/streambus/raftmeta/wal"
)

// FuzzInspect reads files of any content as a raft log: they are read, or refused with the file's name.
func FuzzInspect(f *testing.F) {
	dir := f.TempDir()
	l, err := wal.Open(dir)
	if err != nil {
		f.Fatal(err)
	}
	add := func() {
		b, err := os.ReadFile(filepath.Join(dir, "log.db"))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	add()
	if err := l.Form(7, hard(1, 1), snapshot(1, 1)); err != nil {
		f.Fatal(err)
	}
	add()
	if err := errors.Join(l.Save(write(hard(2, 5), entries(2, 2, 150), true)), l.Close()); err != nil {
		f.Fatal(err)
	}
	add()
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		file := filepath.Join(dir, "fuzzed.db")
		sealMetas(b)
		if err := os.WriteFile(file, b, 0o644); err != nil {
			t.Fatal(err)
		}
		_, err := wal.Inspect(file)
		if err != nil && !errors.As(err, new(*wal.CorruptError)) {
			t.Fatal(err)
		}
	})
}

// sealMetas makes the checksums of the two meta pages right, or nothing would get past them.
func sealMetas(b []byte) {
	for _, at := range []int{16, os.Getpagesize() + 16} {
		if len(b) >= at+64 {
			sum := fnv.New64a()
			sum.Write(b[at : at+56])
			binary.NativeEndian.PutUint64(b[at+56:], sum.Sum64())
		}
	}
}
