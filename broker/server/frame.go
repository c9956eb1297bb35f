package server

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/bits"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"

	"github.com/streambus/streambus/protocol"
)

const (
	firstRead  = 64 << 10         // what an unproven connection's frame may hold before it has arrived
	growth     = 4                // a buffer holds at most this many times what has arrived
	memoryWait = 30 * time.Second // how long a frame waits for memory that other frames hold
)

// frameMemory bounds the bytes that arriving requests hold over all
// connections. A frame is charged for what it occupies, never for what it
// announces: a hundred connections that announce 48 MiB and send 4 KiB cost a
// hundred times 64 KiB.
type frameMemory struct {
	held  *semaphore.Weighted
	limit int64
	inUse atomic.Int64 // of held, for metrics
}

func newFrameMemory(limit int64) *frameMemory {
	return &frameMemory{held: semaphore.NewWeighted(limit), limit: limit}
}

// frame is a request's bytes in a pooled buffer.
type frame struct {
	data []byte
	held int64
	mem  *frameMemory
}

// release gives the buffer back. Nothing may alias data any more.
func (f *frame) release() {
	if f.data != nil {
		putBuffer(f.data)
		f.mem.held.Release(f.held)
		f.mem.inUse.Add(-f.held)
		f.data = nil
	}
}

// frameLimit is what a listener takes.
type frameLimit struct {
	side  protocol.Side
	bytes int32
	name  string // the setting that says so, empty if there is none
}

// exceeded is the error of a frame that announces size bytes where limit may be.
func (l frameLimit) exceeded(size, limit int32) error {
	reason := fmt.Sprintf("a request announces %d bytes; at most %d are taken", size, limit)
	if l.name != "" {
		reason += " (" + l.name + ")"
	}
	return &frameError{reason}
}

// frameError is a frame that no honest client sends.
type frameError struct{ reason string }

func (e *frameError) Error() string { return e.reason }

// read reads one frame whose length stands first. proven is the size of the
// last whole frame of this connection: so much is taken at once, since a
// connection that sent it once is not lying about it; beyond that the buffer
// grows with what has arrived.
// Before each step it calls allow with the bytes that the step waits for.
func (m *frameMemory) read(ctx context.Context, r *bufio.Reader, proven int, limit frameLimit, allow func(bytes int)) (*frame, error) {
	allow(6)
	start, err := r.Peek(4)
	if err != nil {
		return nil, err
	}
	size := int32(binary.BigEndian.Uint32(start))
	switch other := foreign(start); {
	case size > limit.bytes && other != nil:
		return nil, other
	case size < 0 || size > limit.bytes:
		return nil, limit.exceeded(size, limit.bytes)
	case size < protocol.MinFrame:
		return nil, &frameError{fmt.Sprintf("a request of %d bytes has no room for its header", size)}
	}
	if start, err = r.Peek(6); err != nil {
		return nil, err
	}
	if most := protocol.FrameLimit(start[4:], limit.side, limit.bytes); size > most {
		if other := foreign(start); other != nil {
			return nil, other
		}
		return nil, limit.exceeded(size, most)
	}
	if _, err := r.Discard(4); err != nil {
		return nil, err
	}
	return m.fill(ctx, r, int(size), proven, allow)
}

func (m *frameMemory) fill(ctx context.Context, r io.Reader, size, proven int, allow func(bytes int)) (*frame, error) {
	f := &frame{mem: m}
	room := min(size, max(firstRead, proven))
	for have := 0; ; room = min(size, have*growth) {
		if err := m.grow(ctx, f, room); err != nil {
			f.release()
			return nil, err
		}
		allow(room - have)
		n, err := io.ReadFull(r, f.data[have:room])
		if have += n; err != nil {
			f.release()
			return nil, fmt.Errorf("the connection ended %d bytes into a request of %d: %w", have, size, err)
		}
		if have == size {
			return f, nil
		}
	}
}

// grow makes f.data size bytes long, keeping what it holds.
func (m *frameMemory) grow(ctx context.Context, f *frame, size int) error {
	more := int64(size) - f.held
	if !m.held.TryAcquire(more) {
		ctx, cancel := context.WithTimeout(ctx, memoryWait)
		defer cancel()
		if err := m.held.Acquire(ctx, more); err != nil {
			return &frameError{fmt.Sprintf("requests that are still arriving hold all %d bytes of request memory", m.limit)}
		}
	}
	f.held += more
	m.inUse.Add(more)
	next := getBuffer(size)
	copy(next, f.data)
	if f.data != nil {
		putBuffer(f.data)
	}
	f.data = next
	return nil
}

// Buffers are pooled by powers of two, from 4 KiB up. Making a large one costs
// a thousand times what reusing it does.
const smallestClass = 12

var bufferPools [32 - smallestClass]sync.Pool

func getBuffer(size int) []byte {
	class := max(bits.Len(uint(size-1)), smallestClass)
	if b, ok := bufferPools[class-smallestClass].Get().(*[]byte); ok {
		return (*b)[:size]
	}
	return make([]byte, size, 1<<class)
}

func putBuffer(b []byte) {
	b = b[:cap(b)]
	bufferPools[bits.Len(uint(cap(b)))-1-smallestClass].Put(&b)
}
