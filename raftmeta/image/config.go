package image

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
)

// TopicKey is a setting that a topic may have.
type TopicKey struct {
	Key
	// Broker are the brokers' settings that it is inherited from, the most specific first.
	Broker []BrokerKey
}

// BrokerKey is a broker's setting behind a topic's.
type BrokerKey struct {
	Name string
	// Default is the broker's value when nobody sets it, empty for none.
	Default string
	// Times turns the broker's unit into the topic's: hours into milliseconds, for instance. 0 stands for 1.
	Times int64
}

// Topic is the broker's value in the form of the topic's.
func (b BrokerKey) Topic(value string) string {
	if b.Times == 0 {
		return value
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n < 0 {
		return value // -1: without end
	}
	if n > math.MaxInt64/b.Times {
		return strconv.FormatInt(math.MaxInt64, 10)
	}
	return strconv.FormatInt(n*b.Times, 10)
}

// FromBroker is a value of one of the settings behind the topic's in the topic's form; its own is as it is.
func (k *TopicKey) FromBroker(name, value string) string {
	for _, b := range k.Broker {
		if b.Name == name {
			return b.Topic(value)
		}
	}
	return value
}

const (
	never  = "9223372036854775807" // Kafka's number for "not at all"
	minute = 60 * 1000
	hour   = 60 * minute
)

// topicKeys are Kafka's settings of topics with their names and defaults (4.4, TopicConfig and LogConfig), by name.
// streambus.flush is ours.
var topicKeys = []TopicKey{
	topicKey("cleanup.policy", List, "delete", ListOf("compact", "delete"), "log.cleanup.policy",
		"What becomes of old segments: delete removes them by retention.ms and retention.bytes, compact keeps the last record of each key. An empty list keeps everything."),
	topicKey("compression.gzip.level", Int, "-1", levels(1, 9, -1), "compression.gzip.level",
		"The level of gzip where compression.type is gzip, -1 for its default."),
	topicKey("compression.lz4.level", Int, "9", Between(1, 17), "compression.lz4.level",
		"The level of lz4 where compression.type is lz4."),
	topicKey("compression.type", Text, "producer", OneOf("uncompressed", "zstd", "lz4", "snappy", "gzip", "producer"), "compression.type",
		"How batches are stored: producer keeps what the producer chose."),
	topicKey("compression.zstd.level", Int, "3", Between(-131072, 22), "compression.zstd.level",
		"The level of zstd where compression.type is zstd."),
	topicKey("delete.retention.ms", Long, "86400000", AtLeast(0), "log.cleaner.delete.retention.ms",
		"How long a compacted topic keeps the marker of a deleted key."),
	topicKey("errors.deadletterqueue.group.enable", Boolean, "false", nil, "",
		"Whether share groups may put records that nobody could process into this topic.").inertAlways(),
	topicKey("file.delete.delay.ms", Long, "60000", AtLeast(0), "log.segment.delete.delay.ms",
		"How long files of deleted segments stay on the disk."),
	topicKey("flush.messages", Long, never, AtLeast(1), "log.flush.interval.messages",
		"Flush after so many records. Without effect: what is acknowledged is flushed, see streambus.flush.").inertAlways(),
	topicKey("flush.ms", Long, never, AtLeast(0), "",
		"Flush after so much time. Without effect: what is acknowledged is flushed, see streambus.flush.").
		from(BrokerKey{Name: "log.flush.interval.ms"}).inertAlways(),
	topicKey("follower.replication.throttled.replicas", List, "", replicaList, "",
		"Replicas that follow no faster than follower.replication.throttled.rate while they are not in sync, as partition:broker,... or * for all."),
	topicKey("index.interval.bytes", Int, "4096", AtLeast(0), "log.index.interval.bytes",
		"Bytes of the log between two entries of its index."),
	topicKey("leader.replication.throttled.replicas", List, "", replicaList, "",
		"Replicas that as leaders serve followers that are not in sync no faster than leader.replication.throttled.rate, as partition:broker,... or * for all."),
	topicKey("local.retention.bytes", Long, "-2", AtLeast(-2), "log.local.retention.bytes",
		"Bytes that stay on local disks in tiered storage; -2 stands for retention.bytes.").inertAlways(),
	topicKey("local.retention.ms", Long, "-2", AtLeast(-2), "log.local.retention.ms",
		"How long segments stay on local disks in tiered storage; -2 stands for retention.ms.").inertAlways(),
	topicKey("max.compaction.lag.ms", Long, never, AtLeast(1), "log.cleaner.max.compaction.lag.ms",
		"How long a record may stay uncompacted."),
	topicKey("max.decompressed.message.bytes", Int, "2147483639", AtLeast(1), "max.decompressed.message.bytes",
		"The most that the records of a batch may take once decompressed."),
	topicKey("max.message.bytes", Int, "1048588", AtLeast(0), "message.max.bytes",
		"The largest batch, as it is stored."),
	topicKey("message.timestamp.after.max.ms", Long, "3600000", AtLeast(0), "log.message.timestamp.after.max.ms",
		"How far a record's timestamp may be ahead of the broker's clock."),
	topicKey("message.timestamp.before.max.ms", Long, never, AtLeast(0), "log.message.timestamp.before.max.ms",
		"How far a record's timestamp may be behind the broker's clock."),
	topicKey("message.timestamp.type", Text, "CreateTime", OneOf("CreateTime", "LogAppendTime"), "log.message.timestamp.type",
		"Whose time records carry: the producer's or the broker's."),
	topicKey("min.cleanable.dirty.ratio", Double, "0.5", Between(0, 1), "log.cleaner.min.cleanable.ratio",
		"The share of a log that must be uncompacted before it is compacted."),
	topicKey("min.compaction.lag.ms", Long, "0", AtLeast(0), "log.cleaner.min.compaction.lag.ms",
		"How long a record stays uncompacted at least."),
	topicKey("min.insync.replicas", Int, "1", AtLeast(1), "min.insync.replicas",
		"How many replicas must be in sync for a write with acks=all."),
	topicKey("preallocate", Boolean, "false", nil, "log.preallocate",
		"Whether files are made in their full size.").inertAlways(),
	topicKey("remote.copy.lag.bytes", Long, "-1", AtLeast(-2), "log.remote.copy.lag.bytes",
		"How many bytes tiered storage may lag behind.").inertAlways(),
	topicKey("remote.copy.lag.ms", Long, "0", AtLeast(-2), "log.remote.copy.lag.ms",
		"How long tiered storage may lag behind.").inertAlways(),
	topicKey("remote.log.copy.disable", Boolean, "false", nil, "",
		"Whether tiered storage takes no more segments.").inertAlways(),
	topicKey("remote.log.delete.on.disable", Boolean, "false", nil, "",
		"Whether tiered segments are deleted when tiered storage is turned off.").inertAlways(),
	topicKey("remote.storage.enable", Boolean, "false", OneOf("false"), "",
		"Tiered storage; there is none, so true is refused."),
	topicKey("retention.bytes", Long, "-1", nil, "log.retention.bytes",
		"How large a partition may grow before its oldest segments are deleted; -1 for without end."),
	topicKey("retention.ms", Long, "604800000", AtLeast(-1), "",
		"How long records are kept; -1 for ever.").
		from(BrokerKey{Name: "log.retention.ms"}, BrokerKey{Name: "log.retention.minutes", Times: minute}, BrokerKey{Name: "log.retention.hours", Default: "168", Times: hour}),
	topicKey("segment.bytes", Int, "1073741824", AtLeast(1<<20), "log.segment.bytes",
		"The size of a segment, the unit of retention."),
	topicKey("segment.index.bytes", Int, "10485760", AtLeast(4), "log.index.size.max.bytes",
		"The largest index of a segment; a segment whose index is full is followed by the next."),
	topicKey("segment.jitter.ms", Long, "0", AtLeast(0), "",
		"By up to how much segment.ms is shortened, so that partitions do not roll together.").
		from(BrokerKey{Name: "log.roll.jitter.ms"}, BrokerKey{Name: "log.roll.jitter.hours", Default: "0", Times: hour}),
	topicKey("segment.ms", Long, "604800000", AtLeast(1), "",
		"After how much time a segment is followed by the next although it is not full.").
		from(BrokerKey{Name: "log.roll.ms"}, BrokerKey{Name: "log.roll.hours", Default: "168", Times: hour}),
	topicKey("streambus.flush", Text, "ack", OneOf("ack", "os"), "streambus.flush",
		"ack: records are on the disk before they are acknowledged or visible. os: the operating system writes them when it likes, as with Apache Kafka; a power cut loses acknowledged records."),
	topicKey("unclean.leader.election.enable", Boolean, "false", nil, "unclean.leader.election.enable",
		"Whether a replica that lacks acknowledged records may lead when no other can."),
}

// topicKey is a row whose broker's setting has the same unit and default.
func topicKey(name string, typ KeyType, value string, check func(string) error, broker, doc string) TopicKey {
	k := TopicKey{Key: NewKey(name, typ, value, check, doc)}
	if broker != "" {
		k.Broker = []BrokerKey{{Name: broker, Default: value}}
	}
	return k
}

func (k TopicKey) from(broker ...BrokerKey) TopicKey {
	k.Broker = broker
	return k
}

func (k TopicKey) inertAlways() TopicKey {
	k.Key = k.Inert()
	return k
}

func levels(low, high, other float64) func(string) error {
	in := Between(low, high)
	return func(v string) error {
		if v == strconv.FormatFloat(other, 'f', -1, 64) {
			return nil
		}
		return in(v)
	}
}

// replicaList allows what Apache Kafka does: * alone, or numbers of partitions and brokers. Empty items count for nothing.
func replicaList(v string) error {
	items := Items(v)
	if slices.Equal(items, []string{"*"}) {
		return nil
	}
	number := func(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }
	for _, item := range items {
		if p, b, _ := strings.Cut(item, ":"); !number(p) || !number(b) {
			return errors.New("must be the literal '*' or a list of replicas, each as [partitionId]:[brokerId]")
		}
	}
	return nil
}

// TopicKeys are all settings of topics, by name. The slice must not be changed.
func TopicKeys() []TopicKey { return topicKeys }

// FindTopicKey finds a setting of topics.
func FindTopicKey(name string) (*TopicKey, bool) {
	i, ok := slices.BinarySearchFunc(topicKeys, name, func(k TopicKey, name string) int { return strings.Compare(k.Name, name) })
	if !ok {
		return nil, false
	}
	return &topicKeys[i], true
}

// ValidateTopicConfig says what is wrong with a topic's settings, naming the first key that is.
func ValidateTopicConfig(settings map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		k, ok := FindTopicKey(name)
		if !ok {
			return fmt.Errorf("unknown topic config name: %s", name)
		}
		if err := k.Check(settings[name]); err != nil {
			return err
		}
	}
	return nil
}

// String is the value in force for a topic: its own, else the broker's, else the built-in default.
func (t *Topic) String(name string, defaults map[string]string) string {
	if v, ok := t.Config(name); ok {
		return v
	}
	if v, ok := defaults[name]; ok {
		return v
	}
	k, ok := FindTopicKey(name)
	if !ok {
		panic("image: " + name + " is not in the table of topic settings")
	}
	return k.Default
}

// Int64 is the value in force of a numeric setting.
func (t *Topic) Int64(name string, defaults map[string]string) int64 {
	n, err := strconv.ParseInt(t.String(name, defaults), 10, 64)
	if err != nil {
		panic("image: " + name + " was accepted and is not a number: " + err.Error())
	}
	return n
}

// Float64 is the value in force of a setting that is a fraction.
func (t *Topic) Float64(name string, defaults map[string]string) float64 {
	f, err := strconv.ParseFloat(t.String(name, defaults), 64)
	if err != nil {
		panic("image: " + name + " was accepted and is not a number: " + err.Error())
	}
	return f
}

// Has tells whether a list in force contains an item.
func (t *Topic) Has(name, item string, defaults map[string]string) bool {
	return slices.Contains(Items(t.String(name, defaults)), item)
}
