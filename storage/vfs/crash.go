package vfs

import (
	"maps"
	"math/rand/v2"
	"slices"
)

const memSectorBytes = 512

// Crash returns a file system as the disk may hold it if the power fails now.
// Of what was not synced, any part may be there and any part may not: pages in
// any combination, one of them torn between sectors; a size the file had since
// its last sync, or one on the way; each creation, rename and removal of a name
// on its own. That is more than a journaling file system would lose, and what
// holds here holds there.
//
// The receiver stays with its owner: what is written to it from here on does
// not reach the copy, as writes of a machine without power reach no disk.
func (m *Mem) Crash(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.crash(rng)
}

// CutPower is a Crash after which no sync of the receiver succeeds: whoever
// still works on it can take nothing for durable that the copy may lack.
func (m *Mem) CutPower(rng *rand.Rand) *Mem {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.cut = true
	return m.crash(rng)
}

func (m *Mem) crash(rng *rand.Rand) *Mem {
	c := &crash{rng: rng, copies: make(map[*memNode]*memNode)}
	after := NewMem()
	after.root = c.node(m.root)
	return after
}

type crash struct {
	rng    *rand.Rand
	copies map[*memNode]*memNode // a file may have two names once a rename is half lost
}

// luck draws the share of unsynced things that survive here: often all or
// nothing, which is what most disks do and what most bugs need.
func (c *crash) luck() float64 {
	switch c.rng.IntN(4) {
	case 0:
		return 0
	case 1:
		return 1
	default:
		return c.rng.Float64()
	}
}

func (c *crash) node(n *memNode) *memNode {
	if done := c.copies[n]; done != nil {
		return done
	}
	after := &memNode{modified: n.modified}
	c.copies[n] = after
	if n.dir != nil {
		after.dir = c.dir(n.dir)
		return after
	}
	after.data = c.content(n)
	after.synced = slices.Clone(after.data)
	after.minSize, after.maxSize = int64(len(after.data)), int64(len(after.data))
	return after
}

func (c *crash) dir(d *memDir) *memDir {
	names := maps.Clone(d.durable)
	luck := c.luck()
	for _, op := range d.pending {
		if c.rng.Float64() < luck {
			op.apply(names)
		}
	}
	after := newMemDir()
	for _, name := range slices.Sorted(maps.Keys(names)) { // sorted: a seed must give one outcome
		after.names[name] = c.node(names[name])
	}
	after.sync()
	return after
}

func (c *crash) content(n *memNode) []byte {
	size := c.size(n)
	after := resize(slices.Clone(n.synced), size)
	var kept []int64
	luck := c.luck()
	for _, page := range slices.Sorted(maps.Keys(n.dirty)) {
		if c.rng.Float64() < luck {
			kept = append(kept, page)
		}
	}
	for i, page := range kept {
		from, to := page*memPageBytes, (page+1)*memPageBytes
		if i == len(kept)-1 && c.rng.IntN(2) == 0 {
			to = from + memSectorBytes*c.rng.Int64N(memPageBytes/memSectorBytes)
		}
		overwrite(after, n.data, from, min(to, size))
	}
	return after
}

// overwrite copies [from, to) of src; beyond its end are zeros.
func overwrite(dst, src []byte, from, to int64) {
	if from >= to {
		return
	}
	clear(dst[from:to])
	if from < int64(len(src)) {
		copy(dst[from:to], src[from:])
	}
}

func (c *crash) size(n *memNode) int64 {
	if n.minSize == n.maxSize {
		return n.minSize
	}
	switch c.rng.IntN(4) {
	case 0:
		return int64(len(n.synced))
	case 1:
		return int64(len(n.data))
	default:
		return n.minSize + c.rng.Int64N(n.maxSize-n.minSize+1)
	}
}
