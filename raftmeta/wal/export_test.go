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
