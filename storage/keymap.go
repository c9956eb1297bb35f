package storage

import (
	"crypto/sha256"
	"encoding/binary"
)

const (
	slotBytes = keyHashBytes + 8
	// keyHashBytes are enough of a cryptographic hash that no two keys share them,
	// also if somebody looks for such: one of them would lose its records.
	keyHashBytes = 16
	// keyMapLoad is how full a map gets. Fuller ones are searched for long.
	keyMapLoad = 0.9
)

// keyMap knows the latest offset of each key, in memory that is bounded however
// long the keys are.
type keyMap struct {
	slots []keySlot // open addressing
	used  int
	limit int
}

type keySlot struct {
	hash [keyHashBytes]byte
	next int64 // the offset after the key's; 0: the slot is free
}

// newKeyMap makes a map for so many keys, or as many as the memory is enough for.
func newKeyMap(keys, bytes int64) *keyMap {
	slots := max(min(bytes/slotBytes, int64(float64(min(keys, bytes))/keyMapLoad)+2), 2)
	return &keyMap{slots: make([]keySlot, slots), limit: int(float64(slots) * keyMapLoad)}
}

// put takes note of a key at an offset that is above all before. It is false if
// there is no room for one more key.
func (m *keyMap) put(key []byte, offset int64) bool {
	slot, hash := m.find(key)
	if slot.next == 0 {
		if m.used == m.limit {
			return false
		}
		m.used++
		slot.hash = hash
	}
	slot.next = offset + 1
	return true
}

// latest is the largest offset of a key, -1 if there is none.
func (m *keyMap) latest(key []byte) int64 {
	slot, _ := m.find(key)
	return slot.next - 1
}

// find returns the slot of a key, or a free one where it would be.
func (m *keyMap) find(key []byte) (*keySlot, [keyHashBytes]byte) {
	sum := sha256.Sum256(key)
	hash := [keyHashBytes]byte(sum[:])
	n := uint64(len(m.slots))
	for i := binary.LittleEndian.Uint64(hash[:]) % n; ; i = (i + 1) % n {
		if slot := &m.slots[i]; slot.next == 0 || slot.hash == hash {
			return slot, hash
		}
	}
}
