package vfs

import (
	"io"
	"sync"
)

const copyBufferBytes = 64 << 10

var copyBuffers = sync.Pool{New: func() any { return new([copyBufferBytes]byte) }}

// sendCopy is SendTo through memory. The buffer is ours and not io.Copy's, so
// that a thousand slow readers do not each keep one.
func sendCopy(w io.Writer, r io.ReaderAt, off, n int64) (int64, error) {
	buf := copyBuffers.Get().(*[copyBufferBytes]byte)
	defer copyBuffers.Put(buf)
	var sent int64
	for sent < n {
		chunk := buf[:min(n-sent, copyBufferBytes)]
		if k, err := r.ReadAt(chunk, off+sent); k < len(chunk) {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return sent, err
		}
		k, err := w.Write(chunk)
		sent += int64(k)
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}
