package wal

import bolt "go.etcd.io/bbolt"

// SetFormat makes a log look as if a newer release had written it.
func SetFormat(l Log, n uint64) error {
	return l.(*boltLog).db.Update(func(tx *bolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(keyFormat, SealNumber(n))
	})
}

// NoSync makes a log write without syncing.
func NoSync(l Log) { l.(*boltLog).db.NoSync = true }

// SetReserve makes the reserve of a log smaller, for a small disk.
func SetReserve(l Log, size int64) { l.(*boltLog).reserve.size = size }

// IsFull is isFull.
func IsFull(err error) bool { return isFull(err) }

// Roomy is that of a log's reserve.
func Roomy(l Log, do func() error) error { return l.(*boltLog).reserve.roomy(do) }
