package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/streambus/streambus/raftmeta/image"
)

// Mode says how a setting can be changed while the broker runs.
type Mode int

// Modes, as in Kafka's documentation.
const (
	ReadOnly    Mode = iota
	ClusterWide      // for one broker, or for all
	DynamicOnly      // likewise, and in no other way
)

// Key is a setting of brokers.
type Key struct {
	image.Key
	Mode Mode
}

func readOnly(k image.Key) Key    { return Key{k, ReadOnly} }
func clusterWide(k image.Key) Key { return Key{k, ClusterWide} }
func dynamicOnly(k image.Key) Key { return Key{k, DynamicOnly} }

// RackAware is the one selector of replicas that there is, by the name that it has in
// Kafka.
const RackAware = "org.apache.kafka.common.replica.RackAwareReplicaSelector"

const (
	maxInt  = "2147483647"
	maxLong = "9223372036854775807"
)

// own are the settings that no topic inherits, with Kafka's names and defaults
// (4.4) where they are Kafka's; those with streambus in the name are ours. The
// first part acts, the second is accepted, shown, and makes no difference.
var own = []Key{
	readOnly(image.NewKey("node.id", image.Int, "1", image.AtLeast(0), "The number of this node in its cluster.")),
	readOnly(image.NewKey("process.roles", image.List, "broker,controller", someRoles, "What this node is: broker, controller, or both.")),
	readOnly(image.NewKey("broker.rack", image.Text, "", nil, "The rack that this broker stands in.")),
	readOnly(image.NewKey("log.dirs", image.List, "data", oneDirectory, "The directory that holds everything this node keeps.")),
	readOnly(image.NewKey("listeners", image.List, "PLAINTEXT://127.0.0.1:9092", listenerList, "Where clients connect, as NAME://host:port. Without a host on all interfaces.")),
	readOnly(image.NewKey("advertised.listeners", image.List, "", listenerList, "What clients are told to connect to, where that is not the listeners themselves.")),
	readOnly(image.NewKey("inter.broker.listener.name", image.Text, "", nil, "The advertised listener by which nodes reach brokers. Without it the one that has the name of security.inter.broker.protocol, else the first.")),
	readOnly(image.NewKey("security.inter.broker.protocol", image.Text, "PLAINTEXT", image.OneOf("PLAINTEXT"), "The protocol by which nodes reach brokers, where inter.broker.listener.name is not set.")),
	readOnly(image.NewKey("controller.listener.names", image.List, "CONTROLLER", someNames, "Which listeners are for controllers. The first is the one that brokers use.")),
	readOnly(image.NewKey("controller.quorum.voters", image.List, "", voterList, "The controllers that form a cluster, as id@host:port,... The same on every node. Without it a node is alone, or finds the others by controller.quorum.bootstrap.servers.")),
	readOnly(image.NewKey("controller.quorum.bootstrap.servers", image.List, "", serverList, "Where to find controllers, as host:port,...")),
	readOnly(image.NewKey("broker.heartbeat.interval.ms", image.Int, "2000", image.AtLeast(1), "How often a broker tells the controller that it lives.")),
	readOnly(image.NewKey("broker.session.timeout.ms", image.Int, "9000", image.AtLeast(1), "After how much silence a broker is fenced.")),
	readOnly(image.NewKey("auto.leader.rebalance.enable", image.Boolean, "true", nil, "Whether leaders go back to preferred replicas by themselves.")),
	readOnly(image.NewKey("leader.imbalance.check.interval.seconds", image.Long, "300", image.AtLeast(1), "How often that is looked at.")),
	readOnly(image.NewKey("unclean.leader.election.interval.ms", image.Long, "300000", image.AtLeast(1), "How often partitions without a leader are looked at, whose topics may have come to allow unclean elections.")),
	readOnly(image.NewKey("controlled.shutdown.enable", image.Boolean, "true", nil, "Whether a broker that stops gives away its leaders first.")),
	readOnly(image.NewKey("listener.security.protocol.map", image.Text, "PLAINTEXT:PLAINTEXT,SSL:SSL,SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL", nil, "The security protocol of each listener, by its name.")),
	readOnly(image.NewKey("streambus.admin.listen", image.Text, "127.0.0.1:9644", nil, "host:port of metrics and health over HTTP.")),
	readOnly(image.NewKey("streambus.disk.min.free.bytes", image.Long, "-1", image.AtLeast(-1), "Below so much free space records are refused; -1 stands for 1 GiB or 5 % of the disk, whichever is smaller.")),
	readOnly(image.NewKey("streambus.scrub.bytes.per.second", image.Long, "4194304", image.AtLeast(0), "How fast old segments are read and checked in the background; 0 for not at all.")),
	readOnly(image.NewKey("streambus.history.retention.ms", image.Long, "604800000", image.AtLeast(0), "How long it is kept what changed in the metadata, by whom, and because of what.")),
	readOnly(image.NewKey("streambus.metrics.group.partitions", image.Int, "5000", image.AtLeast(0), "How many partitions that groups have committed offsets of have series of their own, by the coordinator of the groups. A group has all of its series or none.")),
	readOnly(image.NewKey("num.partitions", image.Int, "1", image.Between(1, 10_000), "Partitions of a topic that is created without saying how many.")),
	readOnly(image.NewKey("default.replication.factor", image.Int, "1", image.AtLeast(1), "Replicas of a topic that is created without saying how many.")),
	readOnly(image.NewKey("auto.create.topics.enable", image.Boolean, "true", nil, "Whether a topic is created when a client asks for it.")),
	readOnly(image.NewKey("delete.topic.enable", image.Boolean, "true", nil, "Whether topics can be deleted.")),
	readOnly(image.NewKey("socket.request.max.bytes", image.Int, "104857600", image.AtLeast(1024), "The largest request.")),
	readOnly(image.NewKey("connections.max.idle.ms", image.Long, "600000", image.AtLeast(1), "After how long an idle connection is closed.")),
	readOnly(image.NewKey("max.connections", image.Int, maxInt, image.AtLeast(0), "How many connections there may be; more are closed at once. The default is as many as the limit of open files leaves room for.")),
	readOnly(image.NewKey("max.connections.per.ip", image.Int, maxInt, image.AtLeast(0), "How many connections one address may have; more are closed at once.")),
	readOnly(image.NewKey("max.connections.per.ip.overrides", image.Text, "", overrideList, "max.connections.per.ip of some addresses, as address:count,...")),
	readOnly(image.NewKey("fetch.max.bytes", image.Int, "57671680", image.AtLeast(1024), "The most that one fetch returns.")),
	readOnly(image.NewKey("max.incremental.fetch.session.cache.slots", image.Int, "1000", image.AtLeast(0), "How many fetch sessions there may be.")),
	readOnly(image.NewKey("max.request.partition.size.limit", image.Int, "2000", image.AtLeast(1), "How many partitions one answer of DescribeTopicPartitions has.")),
	readOnly(image.NewKey("log.retention.check.interval.ms", image.Long, "300000", image.AtLeast(1), "How often old segments are looked for.")),
	readOnly(image.NewKey("num.recovery.threads.per.data.dir", image.Int, "2", image.AtLeast(1), "How many logs are recovered at the same time.")),
	readOnly(image.NewKey("producer.id.expiration.ms", image.Int, "86400000", image.AtLeast(1), "After how long a silent producer is forgotten.")),
	readOnly(image.NewKey("replica.lag.time.max.ms", image.Long, "30000", image.AtLeast(2), "How long a replica may lag and stay in sync.")),
	readOnly(image.NewKey("replica.fetch.min.bytes", image.Int, "1", image.AtLeast(0), "What a follower waits for.")),
	readOnly(image.NewKey("replica.fetch.max.bytes", image.Int, "1048576", image.AtLeast(0), "What a follower takes of a partition.")),
	readOnly(image.NewKey("replica.fetch.wait.max.ms", image.Int, "500", image.AtLeast(0), "How long a follower waits.")),
	readOnly(image.NewKey("replica.fetch.response.max.bytes", image.Int, "10485760", image.AtLeast(0), "What a follower takes at once.")),
	readOnly(image.NewKey("replica.fetch.backoff.ms", image.Int, "1000", image.AtLeast(0), "How long a follower pauses after an error.")),
	readOnly(image.NewKey("replica.socket.timeout.ms", image.Int, "30000", image.AtLeast(1), "How long a follower waits for an answer.")),
	readOnly(image.NewKey("replica.selector.class", image.Text, "", image.OneOf("", RackAware), "Whether consumers that tell their rack are sent to a replica there.")),
	dynamicOnly(image.NewKey("leader.replication.throttled.rate", image.Long, maxLong, image.AtLeast(0), "Bytes a second that this broker gives to followers that are not in sync, of the replicas in leader.replication.throttled.replicas of their topics.")),
	dynamicOnly(image.NewKey("follower.replication.throttled.rate", image.Long, maxLong, image.AtLeast(0), "Bytes a second that this broker asks for where it is not in sync, for the replicas in follower.replication.throttled.replicas of their topics.")),
	readOnly(image.NewKey("log.cleaner.enable", image.Boolean, "true", nil, "Whether compacted topics are compacted.")),
	clusterWide(image.NewKey("log.cleaner.dedupe.buffer.size", image.Long, "134217728", image.AtLeast(1<<20), "Bytes of memory for the keys of a log while it is compacted, 24 for each; taken only as far as it has so many.")),
	clusterWide(image.NewKey("log.cleaner.io.max.bytes.per.second", image.Double, "1.7976931348623157E308", nil, "Bytes a second that compaction reads and writes.")),
	clusterWide(image.NewKey("log.cleaner.backoff.ms", image.Long, "15000", image.AtLeast(0), "How often logs that are due to be compacted are looked for.")),
	readOnly(image.NewKey("authorizer.class.name", image.Text, "", image.OneOf(""), "There is no authorizer, so naming one is refused.")),

	readOnly(image.NewKey("broker.id", image.Int, "-1", nil, "The former name of node.id, which counts where that is not set.")),
	readOnly(image.NewKey("log.dir", image.Text, "", nil, "The former name of log.dirs, which counts where that is not set.")),
	readOnly(image.NewKey("super.users", image.Text, "", nil, "Users that an authorizer lets do everything.").Inert()),
	readOnly(image.NewKey("allow.everyone.if.no.acl.found", image.Boolean, "false", nil, "What an authorizer says where there is no rule.").Inert()),
	clusterWide(image.NewKey("num.network.threads", image.Int, "3", image.AtLeast(1), "Threads of Kafka's network layer.").Inert()),
	clusterWide(image.NewKey("num.io.threads", image.Int, "8", image.AtLeast(1), "Threads of Kafka's request handlers.").Inert()),
	clusterWide(image.NewKey("background.threads", image.Int, "10", image.AtLeast(1), "Threads of Kafka's background tasks.").Inert()),
	clusterWide(image.NewKey("num.replica.fetchers", image.Int, "1", image.AtLeast(1), "Threads of Kafka's replication.").Inert()),
	readOnly(image.NewKey("queued.max.requests", image.Int, "500", image.AtLeast(1), "Requests in Kafka's queue.").Inert()),
	readOnly(image.NewKey("queued.max.request.bytes", image.Long, "-1", nil, "Bytes in Kafka's queue.").Inert()),
	readOnly(image.NewKey("socket.send.buffer.bytes", image.Int, "102400", nil, "Send buffer of a connection.").Inert()),
	readOnly(image.NewKey("socket.receive.buffer.bytes", image.Int, "102400", nil, "Receive buffer of a connection.").Inert()),
	readOnly(image.NewKey("socket.listen.backlog.size", image.Int, "50", image.AtLeast(1), "Connections waiting to be accepted.").Inert()),
	clusterWide(image.NewKey("max.connection.creation.rate", image.Int, maxInt, image.AtLeast(0), "New connections in a second.").Inert()),
	readOnly(image.NewKey("request.timeout.ms", image.Int, "30000", nil, "How long a broker waits for another.").Inert()),
	readOnly(image.NewKey("leader.imbalance.per.broker.percentage", image.Int, "10", nil, "How uneven leaders might be in Kafka before version 4; every one goes back.").Inert()),
	readOnly(image.NewKey("log.flush.scheduler.interval.ms", image.Long, maxLong, nil, "How often Kafka looks for logs to flush.").Inert()),
	readOnly(image.NewKey("log.flush.offset.checkpoint.interval.ms", image.Int, "60000", nil, "How often Kafka writes recovery points.").Inert()),
	clusterWide(image.NewKey("log.cleaner.threads", image.Int, "1", image.AtLeast(0), "Threads that compact in Kafka; here one partition is compacted at a time.").Inert()),
	clusterWide(image.NewKey("log.cleaner.io.buffer.size", image.Int, "524288", nil, "I/O buffers of compaction in Kafka.").Inert()),
	readOnly(image.NewKey("log.dir.failure.timeout.ms", image.Long, "30000", image.AtLeast(1), "When a broker with a failed directory gives up.").Inert()),
	readOnly(image.NewKey("replica.socket.receive.buffer.bytes", image.Int, "65536", nil, "Receive buffer of a follower.").Inert()),
	readOnly(image.NewKey("replica.high.watermark.checkpoint.interval.ms", image.Long, "5000", nil, "How often high watermarks are written.").Inert()),
	readOnly(image.NewKey("offsets.topic.num.partitions", image.Int, "50", image.AtLeast(1), "Partitions of the topic of committed offsets.")),
	readOnly(image.NewKey("offsets.topic.replication.factor", image.Short, "3", image.AtLeast(1), "Replicas of the topic of committed offsets.")),
	readOnly(image.NewKey("offsets.topic.segment.bytes", image.Int, "104857600", image.AtLeast(1), "Segments of the topic of committed offsets.")),
	readOnly(image.NewKey("offsets.retention.minutes", image.Int, "10080", image.AtLeast(1), "How long offsets of an empty group are kept.")),
	readOnly(image.NewKey("offset.metadata.max.bytes", image.Int, "4096", nil, "The longest note beside a committed offset.")),
	readOnly(image.NewKey("group.initial.rebalance.delay.ms", image.Int, "3000", nil, "How long a new group waits for more members.")),
	readOnly(image.NewKey("group.min.session.timeout.ms", image.Int, "6000", nil, "The shortest session of a group's member.")),
	readOnly(image.NewKey("group.max.session.timeout.ms", image.Int, "1800000", nil, "The longest session of a group's member.")),
	readOnly(image.NewKey("group.max.size", image.Int, maxInt, image.AtLeast(1), "The most members of a group.")),
	readOnly(image.NewKey("group.consumer.session.timeout.ms", image.Int, "45000", image.AtLeast(1), "The session of a member of the consumer protocol.")),
	readOnly(image.NewKey("group.consumer.heartbeat.interval.ms", image.Int, "5000", image.AtLeast(1), "How often a member of the consumer protocol is to send a heartbeat.")),
	readOnly(image.NewKey("group.consumer.min.session.timeout.ms", image.Int, "45000", image.AtLeast(1), "The shortest session that a group can be given.")),
	readOnly(image.NewKey("group.consumer.max.session.timeout.ms", image.Int, "60000", image.AtLeast(1), "The longest session that a group can be given.")),
	readOnly(image.NewKey("group.consumer.min.heartbeat.interval.ms", image.Int, "5000", image.AtLeast(1), "The shortest time between heartbeats that a group can be given.")),
	readOnly(image.NewKey("group.consumer.max.heartbeat.interval.ms", image.Int, "15000", image.AtLeast(1), "The longest time between heartbeats that a group can be given.")),
	readOnly(image.NewKey("group.consumer.max.size", image.Int, maxInt, image.AtLeast(1), "The most members of a group of the consumer protocol.")),
	readOnly(image.NewKey("group.consumer.assignors", image.List, "uniform,range", assignors, "Assignors that members of the consumer protocol may ask for; the first is for those who do not.")),
	readOnly(image.NewKey("group.consumer.migration.policy", image.Text, "bidirectional", image.OneOf("disabled", "upgrade", "downgrade", "bidirectional"), "Between which protocols groups change while members are in them: upgrade is from the classic to the consumer protocol.")),
	readOnly(image.NewKey("offsets.commit.timeout.ms", image.Int, "5000", image.AtLeast(1), "How long an answer about groups waits for the replicas of what it rests on.")),
	readOnly(image.NewKey("offsets.retention.check.interval.ms", image.Long, "600000", image.AtLeast(1), "How often offsets are looked for that were kept for long enough.")),
	readOnly(image.NewKey("transaction.max.timeout.ms", image.Int, "900000", image.AtLeast(1), "The longest transaction.").Inert()),
	readOnly(image.NewKey("transactional.id.expiration.ms", image.Int, "604800000", image.AtLeast(1), "After how long a silent transactional id is forgotten.").Inert()),
	readOnly(image.NewKey("transaction.state.log.num.partitions", image.Int, "50", image.AtLeast(1), "Partitions of the topic of transactions.").Inert()),
	readOnly(image.NewKey("transaction.state.log.replication.factor", image.Short, "3", image.AtLeast(1), "Replicas of the topic of transactions.").Inert()),
	readOnly(image.NewKey("transaction.state.log.min.isr", image.Int, "2", image.AtLeast(1), "In-sync replicas that the topic of transactions needs.").Inert()),
	readOnly(image.NewKey("share.coordinator.state.topic.replication.factor", image.Short, "3", image.AtLeast(1), "Replicas of the topic of share groups.").Inert()),
	readOnly(image.NewKey("share.coordinator.state.topic.min.isr", image.Short, "2", image.AtLeast(1), "In-sync replicas that the topic of share groups needs.").Inert()),
	readOnly(image.NewKey("metric.reporters", image.List, "", nil, "Kafka's metric reporters; metrics are at streambus.admin.listen.").Inert()),
	readOnly(image.NewKey("metrics.num.samples", image.Int, "2", nil, "Samples of Kafka's metrics.").Inert()),
}

// keys are all settings of brokers, by name: own, and those that topics
// inherit.
var keys = buildKeys()

func buildKeys() []Key {
	all := slices.Clone(own)
	for _, t := range image.TopicKeys() {
		for _, b := range t.Broker {
			k := t.Key
			k.Name, k.Default = b.Name, b.Default
			mode := ClusterWide
			if b.Times != 0 {
				// Kafka lets only the settings in the topic's own unit change, and
				// gives the others 32 bits.
				mode, k.Type = ReadOnly, image.Int
			}
			all = append(all, Key{k, mode})
		}
	}
	slices.SortFunc(all, func(a, b Key) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// OtherUnits are the settings that say the same in larger units, and count where
// this one is not set: log.retention.hours for log.retention.ms.
func OtherUnits(name string) []string {
	var others []string
	for _, t := range image.TopicKeys() {
		if len(t.Broker) == 0 || t.Broker[0].Name != name {
			continue
		}
		for _, b := range t.Broker[1:] {
			others = append(others, b.Name)
		}
	}
	return others
}

// Keys are all settings of brokers, by name. The slice must not be changed.
func Keys() []Key { return keys }

// FindKey finds a setting of brokers.
func FindKey(name string) (*Key, bool) {
	i, ok := slices.BinarySearchFunc(keys, name, func(k Key, name string) int { return strings.Compare(k.Name, name) })
	if !ok {
		return nil, false
	}
	return &keys[i], true
}

func mustFind(name string) *Key {
	k, ok := FindKey(name)
	if !ok {
		panic("config: " + name + " is not in the table of settings")
	}
	return k
}

func oneDirectory(v string) error {
	if n := len(image.Items(v)); n != 1 {
		return fmt.Errorf("one directory is served, not %d", n)
	}
	return nil
}

// didYouMean names the known setting nearest to one that is not, if it is near.
func didYouMean(name string) string {
	best, least := "", 1+len(name)/4
	for _, k := range keys {
		if d := distance(name, k.Name); d < least {
			best, least = k.Name, d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is how many bytes must be put in, left out or changed (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			next := diagonal
			if a[i] != b[j] {
				next = 1 + min(diagonal, row[j], row[j+1])
			}
			diagonal, row[j+1] = row[j+1], next
		}
	}
	return row[len(b)]
}

// assignors is a list of those that there are, with one at least.
func assignors(list string) error {
	if len(image.Items(list)) == 0 {
		return errors.New("must name one at least")
	}
	return image.ListOf("uniform", "range")(list)
}
