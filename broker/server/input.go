package server

import (
	"bufio"
	"net"
	"sync"
	"time"
)

// keepBuffer is how long a connection that has gone quiet keeps its buffer: long
// enough that a busy one never gives it up.
const keepBuffer = 10 * time.Second

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, 4<<10) }}

// input reads a connection through a buffer that it has only while there is
// something to read: of ten thousand idle connections none has one.
type input struct {
	nc    net.Conn
	buf   *bufio.Reader // nil while idle
	first [1]byte       // what ended the idleness
	ahead bool          // first is still to be read
}

// wait returns when there is something to read. From then on there is a buffer.
func (in *input) wait() error {
	if in.buf == nil {
		if _, err := in.nc.Read(in.first[:]); err != nil {
			return err
		}
		in.ahead = true
		in.buf = readers.Get().(*bufio.Reader)
		in.buf.Reset(in)
	}
	_, err := in.buf.Peek(1)
	return err
}

// Read is what the buffer is filled from.
func (in *input) Read(p []byte) (int, error) {
	if in.ahead && len(p) > 0 {
		in.ahead = false
		p[0] = in.first[0]
		return 1, nil
	}
	return in.nc.Read(p)
}

// rest gives the buffer back, and what is in it up.
func (in *input) rest() {
	if in.buf != nil {
		in.buf.Reset(nil)
		readers.Put(in.buf)
		in.buf = nil
	}
}
