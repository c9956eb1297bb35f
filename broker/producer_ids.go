package broker

import (
	"context"
	"sync"
)

// producerIDs hands out producer ids from a block that the controller gave to
// this broker. A block that a stop cuts short is lost: ids are never reused.
type producerIDs struct {
	allocate func(ctx context.Context) (first, count int64, err error)

	mu         sync.Mutex // guards the following; held while a block is fetched, so that one is
	next, last int64      // ids [next, last) are left
}

func (p *producerIDs) take(ctx context.Context) (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.next == p.last {
		first, count, err := p.allocate(ctx)
		if err != nil {
			return 0, err
		}
		p.next, p.last = first, first+count
	}
	id := p.next
	p.next++
	return id, nil
}
