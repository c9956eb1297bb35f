package sim

import (
	"errors"
	"strings"
	"syscall"

	"github.com/streambus/streambus/raftmeta/wal"
)

// What becomes of the disks of controllers: no room, a sync that fails, bits that
// change while nobody looks.

var (
	errFull = syscall.ENOSPC
	errSync = syscall.EIO
)

// fill takes the room from one disk, or from those of a majority, for a while.
func (w *world) fill(c *controller) {
	all := []*controller{c}
	if w.chance.IntN(2) == 0 {
		w.stats["full disks of a majority"]++
		all = nil
		for _, i := range w.chance.Perm(len(w.controllers))[:len(w.controllers)/2+1] {
			all = append(all, w.controllers[i])
		}
	}
	for _, c := range all {
		w.tell("%s: its disk is full", c.name)
		c.full = true
		c.disk.Fail(errFull)
	}
	w.after(300*ms+w.chance.Int64N(5*sec), "room", func() {
		for _, c := range all {
			c.room()
		}
	})
}

func (c *controller) room() {
	if c.full {
		c.full = false
		c.disk.Fail(nil)
		c.w.tell("%s: its disk has room again", c.name)
	}
}

// fail ends a process that could not write its log, which is what the shell does:
// what it had not decided it answers.
func (c *controller) fail(err error) {
	w := c.w
	switch {
	case errors.Is(err, errFull):
		w.stats["writes without room"]++
	case errors.Is(err, errSync):
		w.stats["syncs that failed"]++
	default:
		w.broken("%s: %v", c.name, err)
		return
	}
	w.tell("%s stops: %v", c.name, err)
	c.hold(c.core.Abandon())
	c.answer(c.office.Leave())
	w.crashController(c)
}

// damage changes a bit in the log of a controller, if all others are as they
// should be. Its next start is refused, and then it loses its disk.
func (w *world) damage(c *controller) {
	if !w.whole() {
		return
	}
	c.crash()
	c.flip = c.disk.Flip(w.disk)
	w.stats["changed bits"]++
	w.tell("%s: a bit has changed: %v", c.name, c.flip)
	w.after(w.chance.Int64N(sec), "start", func() {
		if !c.up {
			c.start()
		}
	})
}

// refused looks at what a start on a damaged log came to, and has the operator do
// what it says.
func (c *controller) refused(err error) {
	w, want := c.w, c.flip
	var got *wal.CorruptError
	if !errors.As(err, &got) || got.File != want.File || got.Index != want.Index || !strings.HasPrefix(got.Reason, want.Reason) {
		w.broken("%s was to be refused with %v, and its start came to %v", c.name, want, err)
		return
	}
	w.stats["starts refused"]++
	w.replaceDisk(c)
}
