package replica

import (
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch"
)

// settings are a topic's settings, sorted by who acts on them.
type settings struct {
	log       storage.LogConfig
	partition partition.Settings
	deletes   bool // records may be deleted by request
	retains   bool // and by their age and number
	retention storage.RetentionConfig
	compacts  bool
	compact   storage.CompactConfig
	rules     *batch.Rules // of batches from clients; not changed once it is made

	throttled [sides]throttled
}

func (m *Manager) settings(t *image.Topic) settings {
	number := func(key string) int64 { return t.Int64(key, m.defaults) }
	m.nameInert(t)
	compacts, compact := compaction(t, m.defaults)
	segmentAge := image.Millis(number("segment.ms"))
	if compacts {
		// Only sealed segments are compacted.
		segmentAge = min(segmentAge, compact.MaxLag)
	}
	flushOS := t.String("streambus.flush", m.defaults) == "os"
	return settings{
		log: storage.LogConfig{
			TopicID:            t.ID,
			SegmentBytes:       number("segment.bytes"),
			SegmentIndexBytes:  number("segment.index.bytes"),
			IndexIntervalBytes: number("index.interval.bytes"),
			FlushOS:            flushOS,
			ProducerExpiration: m.cfg.ProducerExpiration,
			DeleteDelay:        image.Millis(number("file.delete.delay.ms")),
			SegmentAge:         segmentAge,
			SegmentJitter:      image.Millis(number("segment.jitter.ms")),
		},
		partition: partition.Settings{MinISR: int(number("min.insync.replicas")), FlushOS: flushOS, MaxLag: m.cfg.MaxLag},
		retains:   t.Has("cleanup.policy", "delete", m.defaults),
		retention: storage.RetentionConfig{Bytes: number("retention.bytes"), Age: image.Millis(number("retention.ms"))},
		compacts:  compacts,
		compact:   compact,
		deletes:   !compacts || t.Has("cleanup.policy", "delete", m.defaults),
		rules: &batch.Rules{
			MaxBytes:      number("max.message.bytes"),
			MaxInflated:   number("max.decompressed.message.bytes"),
			KeepCodec:     t.String("compression.type", m.defaults) == "producer",
			Compression:   m.compression(t),
			LogAppendTime: t.String("message.timestamp.type", m.defaults) == "LogAppendTime",
			Before:        number("message.timestamp.before.max.ms"),
			After:         number("message.timestamp.after.max.ms"),
			NeedKey:       compacts,
		},
		throttled: [sides]throttled{
			leading:   throttledAt(t.String("leader.replication.throttled.replicas", m.defaults), m.cfg.NodeID),
			following: throttledAt(t.String("follower.replication.throttled.replicas", m.defaults), m.cfg.NodeID),
		},
	}
}

// compaction is whether and how a topic is compacted.
func compaction(t *image.Topic, defaults map[string]string) (bool, storage.CompactConfig) {
	millis := func(key string) time.Duration { return image.Millis(t.Int64(key, defaults)) }
	return t.Has("cleanup.policy", "compact", defaults), storage.CompactConfig{
		MinLag:          millis("min.compaction.lag.ms"),
		MaxLag:          millis("max.compaction.lag.ms"),
		DirtyRatio:      t.Float64("min.cleanable.dirty.ratio", defaults),
		DeleteRetention: millis("delete.retention.ms"),
	}
}

// nameInert says once, for each setting and value of a topic, that it makes no
// difference here.
func (m *Manager) nameInert(t *image.Topic) {
	for _, s := range t.Configs() {
		k, ok := image.FindTopicKey(s.Key)
		said := t.Name + " " + s.Key + "=" + s.Value
		if !ok || k.Acts(s.Value) || m.inert[said] || len(m.inert) >= maxInert {
			continue
		}
		m.inert[said] = true
		m.log.Warn("a setting of a topic is accepted and makes no difference here", "topic", t.Name, "setting", s.Key, "value", s.Value)
	}
}

// maxInert bounds what is remembered as said.
const maxInert = 10_000

func (m *Manager) compression(t *image.Topic) batch.Compression {
	name := t.String("compression.type", m.defaults)
	for codec := batch.Gzip; codec <= batch.Zstd; codec++ {
		if codec.String() != name {
			continue
		}
		c := batch.Compression{Codec: codec}
		if codec != batch.Snappy {
			c.Level = int(t.Int64("compression."+name+".level", m.defaults))
		}
		return c
	}
	return batch.Compression{}
}
