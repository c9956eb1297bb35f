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

// MarshalText is String, for JSON.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText is ParseUUID, for JSON.
func (u *UUID) UnmarshalText(text []byte) (err error) {
	*u, err = ParseUUID(string(text))
	return err
}

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

// Topics are found through persistent hash maps. Names that differ in '.' and '_' only are the same key: metrics cannot
// tell such topics apart, so at most one of them exists, and whether one does is known without a walk over all topics.
//
// The hashes need no seed: a flood of colliding names costs its sender a linear search among its own topics, and a seed
// would be randomness in a core.
type (
	nameHasher struct{}
	uuidHasher struct{}
)

// Hash is FNV-1a over the folded name.
func (nameHasher) Hash(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(fold(s[i]))) * 16777619
	}
	return h
}

func (nameHasher) Equal(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if fold(a[i]) != fold(b[i]) {
			return false
		}
	}
	return true
}

func fold(c byte) byte {
	if c == '.' {
		return '_'
	}
	return c
}

func (uuidHasher) Hash(u UUID) uint32   { return crc32.Checksum(u[:], castagnoli) }
func (uuidHasher) Equal(a, b UUID) bool { return a == b }
