package replica

import (
	"errors"
	"sync"
	"time"
)

// ErrTimedOut says that a record is in the log but was not as durable as asked
// within the request's timeout. It may become so.
var ErrTimedOut = errors.New("not acknowledged within the request's timeout")

// Wait gathers what one produce request waits for, over all its partitions.
// Items complete from any goroutine; the last one, or the time-out, ends it.
type Wait struct {
	Items []WaitItem

	mu    sync.Mutex // guards the following, and the items' states
	left  int        // pending items, and one for Begin
	over  func()
	timer *time.Timer
}

// WaitItem is one partition's share. Err may be read once the wait is over.
type WaitItem struct {
	Err     error
	wait    *Wait
	pending bool
}

// NewWait makes a wait of n items, none of them pending.
func NewWait(n int) *Wait {
	w := &Wait{Items: make([]WaitItem, n), left: 1}
	for i := range w.Items {
		w.Items[i].wait = w
	}
	return w
}

// Begin says that all items are registered. over is called once, when no item
// is pending any more: at once, or later from any goroutine, possibly under a
// replica's lock.
func (w *Wait) Begin(timeout time.Duration, over func()) {
	w.mu.Lock()
	w.over = over
	if w.left > 1 {
		w.timer = time.AfterFunc(timeout, w.expire)
	}
	w.finish(1)
}

// register makes the item pending.
func (i *WaitItem) register() {
	i.wait.mu.Lock()
	i.pending = true
	i.wait.left++
	i.wait.mu.Unlock()
}

// complete ends the item's wait, unless the time-out has.
func (i *WaitItem) complete(err error) {
	i.wait.mu.Lock()
	if !i.pending {
		i.wait.mu.Unlock()
		return
	}
	i.pending, i.Err = false, err
	i.wait.finish(1)
}

func (w *Wait) expire() {
	w.mu.Lock()
	n := 0
	for i := range w.Items {
		if item := &w.Items[i]; item.pending {
			item.pending, item.Err = false, ErrTimedOut
			n++
		}
	}
	w.finish(n)
}

// finish counts n items down and unlocks w.
func (w *Wait) finish(n int) {
	w.left -= n
	over := n > 0 && w.left == 0
	timer := w.timer
	w.mu.Unlock()
	if over {
		if timer != nil {
			timer.Stop()
		}
		w.over()
	}
}
