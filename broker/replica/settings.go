package replica

import (
	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
)

// settings are a topic's settings, sorted by who acts on them.
type settings struct {
	log       storage.LogConfig
	partition partition.Settings
	maxBatch  int64
}

func (m *Manager) settings(t *image.Topic) settings {
	number := func(key string) int64 { return t.Int64(key, m.defaults) }
	flushOS := t.String("streambus.flush", m.defaults) == "os"
	return settings{
		log: storage.LogConfig{
			SegmentBytes:       number("segment.bytes"),
			SegmentIndexBytes:  number("segment.index.bytes"),
			IndexIntervalBytes: number("index.interval.bytes"),
			FlushOS:            flushOS,
			ProducerExpiration: m.cfg.ProducerExpiration,
		},
		partition: partition.Settings{MinISR: int(number("min.insync.replicas")), FlushOS: flushOS},
		maxBatch:  number("max.message.bytes"),
	}
}
