package server

import (
	"bufio"
	"bytes"
	"testing"
)

// FuzzFrame reads frames from any bytes: a frame holds what came, and no more memory than a small multiple of it.
func FuzzFrame(f *testing.F) {
	for _, b := range [][]byte{{0, 0, 0, 10, 0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff}, {0x7f, 0xff, 0xff, 0xff, 0, 0}, {0xff, 0xff, 0xff, 0xff, 0, 0}, {0, 0, 0, 0, 0, 0}, {'G', 'E', 'T', ' ', '/', ' '}} {
		f.Add(b)
	}
	f.Add(append([]byte{0, 1, 0, 0, 0, 0}, make([]byte, 1<<16)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		mem := newFrameMemory(1 << 30)
		r := bufio.NewReader(bytes.NewReader(b))
		for proven, at := 0, 0; ; {
			fr, err := mem.read(t.Context(), r, proven, frameLimit{bytes: 100 << 20}, func(int) {})
			if err != nil {
				break
			}
			n := len(fr.data)
			if !bytes.Equal(fr.data, b[at+4:at+4+n]) {
				t.Fatalf("a frame of %d bytes is not what came", n)
			}
			at, proven = at+4+n, n
			fr.release()
		}
		if !mem.held.TryAcquire(1 << 30) {
			t.Fatal("a frame was not given back")
		}
	})
}
