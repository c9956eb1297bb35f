package image

import (
	"encoding/base64"
	"fmt"
	"hash/crc32"
)

// UUID identifies a topic, a directory or the incarnation of a broker. The zero value means "none".
type UUID [16]byte

// String is the form Kafka prints and stores: base64url without padding, 22 characters.
func (u UUID) String() string { return base64.RawURLEncoding.EncodeToString(u[:]) }

// IsZero reports whether u is the id that stands for "none".
func (u UUID) IsZero() bool { return u == UUID{} }

// ParseUUID reads what [UUID.String] writes.
func ParseUUID(s string) (UUID, error) {
	var u UUID
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	if err != nil || len(b) != len(u) {
		return UUID{}, fmt.Errorf("id %q is not 16 bytes in base64url without padding", s)
	}
	copy(u[:], b)
	return u, nil
}

// Topics are found through persistent hash maps. The hashes need no seed: a flood of colliding names costs its sender
// a linear search among its own topics, and a seed would be randomness in a core.
type (
	nameHasher struct{}
	uuidHasher struct{}
)

func (nameHasher) Hash(s string) uint32   { return crc32.Checksum([]byte(s), castagnoli) }
func (nameHasher) Equal(a, b string) bool { return a == b }
func (uuidHasher) Hash(u UUID) uint32     { return crc32.Checksum(u[:], castagnoli) }
func (uuidHasher) Equal(a, b UUID) bool   { return a == b }
