package raftmeta

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/streambus/streambus/raftmeta/follow"
)

// catchUp is how long the active controller may lack what another has.
const catchUp = time.Second

// ErrAhead says that a follower has what the active controller, which a majority confirmed, has not. It must stop: what it
// shows was never decided, or is lost.
var ErrAhead = errors.New("the follower is of another cluster, or the controllers have lost data")

// Units waits for committed units after an index and returns some, at least one; or a snapshot, when that index is too
// old for the units that are kept.
func (c *Controller) Units(ctx context.Context, after uint64, maxBytes int) (follow.Batch, error) {
	for {
		c.mu.Lock()
		img, news := c.img, c.news
		var batch follow.Batch
		if after >= c.base {
			batch.Units = unitsAfter(c.units, after, maxBytes)
		}
		c.mu.Unlock()
		switch {
		case len(batch.Units) > 0:
			return batch, nil
		case after < img.Index():
			batch.Snapshot = img.Encode()
			return batch, nil
		}
		// A follower may be ahead: it pulls from whoever is there, and this controller may be behind another. But nobody is
		// ahead of the active one for longer than it takes to apply what it has told others. Whether it is still the active
		// one it asks the others: a controller that was paused or cut off believes so for a while.
		var doubt <-chan time.Time
		if after > img.Index() && c.Active() {
			doubt = time.After(catchUp)
		}
		select {
		case <-news:
		case <-doubt:
			if index, err := c.ReadIndex(ctx); err == nil && after > index {
				return batch, fmt.Errorf("metadata up to index %d is wanted and %d is committed: %w", after, index, ErrAhead)
			}
		case <-ctx.Done():
			return batch, ctx.Err()
		case <-c.stopped:
			return batch, errStopped
		}
	}
}

func unitsAfter(units []follow.Unit, after uint64, maxBytes int) []follow.Unit {
	var out []follow.Unit
	first, _ := slices.BinarySearchFunc(units, after+1, func(u follow.Unit, index uint64) int { return cmp.Compare(u.Index, index) })
	for _, u := range units[first:] {
		if maxBytes -= len(u.Bytes); maxBytes < 0 && len(out) > 0 {
			break
		}
		out = append(out, u)
	}
	return out
}

// ReadIndex returns the index that holds everything that was answered anywhere before the call.
func (c *Controller) ReadIndex(ctx context.Context) (uint64, error) {
	answers := make(chan Outcome, 1)
	err := c.do(ctx, func() {
		if err := c.core.ReadIndex(reader(answers)); err != nil {
			answers <- Outcome{Err: err}
		}
	})
	if err != nil {
		return 0, err
	}
	select {
	case o := <-answers:
		if o.Err != nil {
			return 0, fmt.Errorf("reading the metadata: %w", o.Err)
		}
		return o.Index, nil
	case <-ctx.Done():
		return 0, ctx.Err()
	case <-c.stopped:
		return 0, errStopped
	}
}

// reader leads the answer to a ReadIndex back to it.
type reader chan<- Outcome
