// Package broker puts the parts of a node together and runs them. It is the
// only package that knows all of them, and this page is the map of the house.
//
// # Packages
//
//	cmd/streambus       serve, config, version, health, quorum, partition, why;
//	                    topic, group, produce, consume; inspect, adopt
//	broker              builds the parts and runs them
//	  config            the table of settings, and where their values come from
//	  server            listeners, connections, ordered answers, dispatch
//	  handler           one file per API; errcode.go turns errors into codes
//	  controller        the controller listener: what nodes ask each other
//	  peer              client to another node; finds the active controller, asks again
//	  coordinator       runs the shards of groups on the partitions that are led here
//	  group       pure  members of consumer groups by both protocols, committed offsets
//	    assign    pure  which member gets which partitions: uniform and range
//	  fetch             sessions, passes of reads, waiting, the answer by hand
//	  replica           shell: logs, flusher, fetchers, ISR, retention, compaction, scrub
//	  partition   pure  one partition as leader or follower: epochs, ISR, watermark, cuts
//	  history           what changed in the metadata, when, by whom, because of what
//	  inspect           the files of a data directory in words; the tool of bug reports
//	  adopt             topics of Apache Kafka's directories become this broker's
//	  sim                 all cores on a simulated network, disk and clock; only tests
//	raftmeta            shell: the goroutine that owns the raft node
//	  office      pure  what the active controller does beside deciding
//	  quorum      pure  raft, units, barrier
//	  follow      pure  committed units in, images out
//	  control     pure  decisions: commands in, records out
//	  liveness    pure  whom the active controller heard of; sessions, leases, probes
//	  image       pure  the metadata as a value; records, codec, replay, delta
//	  wal               the raft log on bbolt, and in memory for tests
//	  transport         raft messages and snapshots between nodes, as bytes
//	storage             partition logs on disk
//	  batch             record batch v2: view, check, walk, compress, stamp
//	  vfs               the file calls storage makes: real, memory, faulty
//	protocol            frames, headers, the API table, codec, error codes
//
// A test in this package holds the imports of every package against a table.
// storage, raftmeta and protocol import nothing of one another: a record batch
// is wire format and disk format at once, and protocol carries it as bytes.
//
// # Who owns what
//
//	a connection's socket     its reader; the write side, whoever claimed it
//	a partition               replica.Replica's lock
//	groups and their offsets  their shard's lock, taken before the partition's
//	a log's files             storage.Log's lock
//	what is dirty             storage.Dir's lock; syncing, the flusher goroutine
//	a fetch session           its lock; its dirty list, one that partitions may take
//	what a leader is told     its fetcher's lock; the connection, the fetcher's goroutine
//	the raft node             the controller's goroutine
//	who is alive              the same, while its node is the active controller
//	the lease                 session's lock
//	the image                 nobody: it never changes; View holds the newest
//
// Goroutines: one per connection (its reader) and one more while it writes; one
// per connection to another node, one per peer of the quorum and snapshot to it;
// per node the controller's loop and who looks after its log and the reserve of
// that, the follower of the committed units and who writes its checkpoint, the
// heartbeats, the flusher, the recovery points, retention, compaction, the scrub, one
// per leader that is followed and one per fetch under way there, who asks for changes of
// in-sync replicas and who looks for those that lag, one per partition of groups while
// it is loaded, one per listener, the admin server. Nothing runs per partition, and a waiting fetch or
// produce holds none.
//
// # How a node enters
//
// A node that was told of no other forms a cluster of itself. With
// controller.quorum.voters the one with the lowest id forms the cluster, once all
// are there and none belongs to one; the others take their places in it, and an
// empty directory in the place of a lost one joins under a new raft id, learns,
// and replaces its predecessor in the change that makes it a voter. Listeners
// are served from the first moment, so that others find out who is there;
// requests of clients wait until the broker is registered, has its logs open and
// is not fenced.
//
// A broker that is no controller goes on from the image it kept itself
// (raftmeta/metadata.snapshot), written at a stop and every 20 MiB, and asks for
// what came later. If the controllers have less than it has, it ends: they have
// lost what was decided.
//
// # One change of the metadata
//
// A handler makes commands; peer.Controllers gives them operation ids and brings
// them to the active controller, here or elsewhere. There they wait for the unit
// in flight, are evaluated together, and what they come to is one unit, one entry
// of the raft log, one sync. Brokers pull it once it is committed. The answer
// leaves the controller when every broker that holds a lease has applied the
// unit, and this broker's when it has. What is lost on the way is asked for again
// under its id and gets the first answer.
//
// # One produce request
//
// The reader decodes the frame (records alias it), checks each batch, and
// appends it under the partition's lock: the core says whether it may, storage
// stamps offset and epoch in place and writes once. The request is registered
// for the end of its batch and the handler returns; the next request is read
// while this one waits. The flusher syncs everything dirty in one round and
// tells each partition how far it is durable; the high watermark moves, the
// waits below it end, and the last one of a request completes its answer,
// which a writer sends in its turn.
//
// # Replication of one write
//
// A follower has one connection and one fetch session to each leader. The leader
// serves it up to its log end, before its own flush: an append wakes the waiting
// fetch, the follower appends what comes, asks again at once from its new end, and
// when its flusher is done reports its flushed end with the next request. That one
// ends the one that waits, with an empty answer, so that a flush is known within half
// a round trip. It wants no records, as those it would get are on their way. The
// watermark is the smallest flushed end over the maximal ISR, and travels back with
// the next records.
//
// Where the logs differ is found by the epoch of the follower's last record
// (KIP-320), before its offset is looked at. The log is cut durably: no crash mixes
// what was there with what comes in its place.
//
// A change of in-sync replicas is pending in the core from when it is proposed, and
// both sets count until the controller has answered or the image says what it
// decided; the greater partition epoch holds. One request is under way per broker.
//
// # Guarantees
//
// An answer to acks=1 leaves after a sync that covers its records, the names of the
// files they are in, and the metadata that gives the topic its place; an answer to
// acks=all after that is so on every in-sync replica. Topics with streambus.flush=os give that up, as their name says.
// A change of metadata is answered with success when every broker that may
// answer from its image has applied it: those that hold a lease, which the active
// controller grants for a second with each heartbeat. A broker without one asks a
// controller first. The outcome of a change is success, a refusal, or unknown. A
// failed flush closes the data directory until the next
// start: no later sync can tell what the failed one lost.
//
// # Bounds
//
//	connections               max.connections, or what open files leave room for
//	of one address            max.connections.per.ip and its overrides
//	a request                 socket.request.max.bytes; 8 MiB without records
//	requests arriving         256 MiB over all connections, charged as they come
//	a slow or silent sender   30 s, and a second per 16 KiB; connections.max.idle.ms
//	answers of a connection   512 waiting, 16 MiB encoded or weighed
//	topics by one Metadata    1,000 created
//	partitions by a request   10,000 created (CreateTopics, CreatePartitions)
//	the admin listener        64 connections; 1,000 partitions by one /partition
//	operations of a node      4,096 whose answers it has not confirmed
//	to another node           64 connections with a call each; 4,096 messages of raft
//	a snapshot of the image   256 MiB between controllers
//	kept for a full disk      64 MiB of it by a controller, for its raft log
//	fetches of a follower     2 under way to a leader; replica.fetch.response.max.bytes
//	in-sync replicas          1,000 partitions in a request, one request at a time
//	a group                   group.max.size, group.consumer.max.size members
//	logs of groups            4 loaded at a time, 5 MiB of each in memory
//	keys of a compaction      24 bytes each, in log.cleaner.dedupe.buffer.size
//	the history               128 MiB, streambus.history.retention.ms
//	open files of logs        half of the limit, at most 8,192
//	a scrape                  series of 1,000 topics and 1,000 partitions, and of
//	                          streambus.metrics.group.partitions; 2 s of asking leaders
//	the log                   a line per kind, peer and minute
//
// An idle connection has a goroutine and no buffer, some 3.5 KiB in all.
//
// # Decisions
//
// Nodes ask the active controller by one call of our own that carries commands,
// not by Envelope and by Kafka's keys for each of them (AlterPartition,
// BrokerRegistration, AllocateProducerIds). A command carries its operation id,
// so asking another controller again is safe whatever it is, and it is byte for
// byte what was asked first: a request of a client that is parsed again on
// another image could come to something else.
//
// Between nodes the form is Kafka's frames, with keys from 20000 whose body is a
// header of JSON and raw bytes: few messages, read by people when something is
// wrong. What is large or frequent, raft's messages, units and snapshots, is in the
// bytes.
//
// A controller whose cluster was formed by another begins with nothing, and the
// leader sends it a snapshot. It may vote, since under its raft id it never
// vouched for anything. So there is one way into a cluster, for its founders and
// for those who come later.
//
// Hello is answered on every listener, and ApiVersions does not name it to
// clients. A process that was started anew in the place of one that was killed
// proves by it that the other is gone: nobody waits for a session to end.
//
// A lease counts from the last moment at which a majority confirmed the office
// (raft's ReadIndex, every 300 ms): a controller that was deposed and has not
// noticed cannot grant one that its successor does not know of. A broker is let stop
// once a majority has confirmed the office behind its wish, and by its own image it
// leads nothing: a deposed controller takes it for fenced where its successor has given
// it partitions to lead.
//
// An answer that changes nothing, a refusal or "it is so already", rests on what
// others changed. So it waits like a change: for a majority to confirm that this
// controller still led when it decided, and for every broker to show what it
// decided on. Brokers report a change at once where it is awaited; behind one that
// is not, as when producer ids are given out, the answer is a unit without records.
//
// Partitions lie in blocks of 16 under three levels of 32: a change of one copies
// four short lists, whatever the size of the topic.
//
// The history is written in words, when a unit is applied and the state before it
// is at hand, not as the units themselves: it needs nothing to be read, and is
// not needed for anything.
//
// A connection beyond a limit is closed at once. At max.connections Apache Kafka
// stops accepting instead: connections then pile up in the kernel, beyond any
// limit, and clients wait for their time-outs without learning why.
//
// Metrics have the names of Apache Kafka's behind the JMX exporter, or of
// kafka_exporter, where they mean the same (docs/metrics.md), and are computed at
// the scrape. Only traffic is counted as it comes: one struct per topic in use.
//
// How far groups are behind is told by their coordinator, which has the offsets. The
// leaders have the ends and the times: at a scrape it asks each once, by ListOffsets with
// a tagged field of our own. A replica beside the coordinator would be asked for less,
// and could be far behind itself; a loop in the background would ask also where nobody
// scrapes, and tell what was so some time ago.
//
// A panic ends the process. What was acknowledged is on disk and comes back
// with the next start; a process that goes on after an invariant broke could
// acknowledge what is not.
//
// A broker that was unregistered while it lives, or whose listener for nodes
// (inter.broker.listener.name) refuses the controllers, ends and says why: nobody counts on it, and only a new
// registration changes that.
//
// A node that is of another cluster than most controllers it is configured with
// ends. One controller alone that differs is not believed.
//
// Metadata requests that create a topic wait for it, at most a second. Apache
// Kafka answers at once that the topic is unknown, and every client then waits
// for its retry back-off.
//
// Settings of topics are checked and resolved by one table in raftmeta/image,
// since the controller, the handlers and the replicas all need it; those of
// brokers have theirs in broker/config. A setting that does not act is accepted
// and named in a warning; one that would promise what is not there is refused.
//
// A broker whose connection to a leader was lost answers Metadata when it has heard
// what became of that leader, or after half a second. Clients whose connections broke
// at the same moment ask within a millisecond, and ask again only after seconds.
//
// A replica whose log cannot be opened for damage is given up where others stand for
// it: by LoseReplicas, before its broker may lead. One that the scrub or a reader finds
// damaged later goes the same way, and serves what it can until others have taken over:
// then its files are set aside, and its leader fills a new log. Apache Kafka takes the
// whole directory offline.
//
// A probe goes on while its connection is cut: the listener of a process that is torn
// down may take a connection still, and nobody would be found gone.
//
// A broker whose disk has failed ends if others are there: they lead within moments,
// where this one could only refuse.
//
// A group's coordinator keeps the phase of joining in memory, as Apache Kafka does:
// what has to be there after a failover is written when the leader of the group has
// assigned. Members that heard of a generation before that join again. And as there,
// one that was deposed and has not heard of it shows the offsets and takes the
// heartbeats that it knows: nothing has to be appended for them. What it acknowledges
// of commits, joint work of the in-sync replicas, is true. No heartbeat is in a log: if a
// coordinator ended a session and nobody else heard of that, its successor goes on with
// the member, and when the first leads again the session is over all the same.
//
// A shard of groups decides records and answers, and asks nobody anything. One of
// transactions will: what it has to send is then a third list beside these, which its
// term lets go as it does answers, when what was appended is committed.
//
// The topic of committed offsets gets as many replicas as there are nodes, up to
// offsets.topic.replication.factor. Nodes count whether they are there or not: while
// others of a quorum are to come, it is not made with fewer.
//
// What decompresses records takes all processors but one: a client that sends
// bombs leaves the others theirs.
//
// Apache Kafka is the judge of what is answered: compat-tests/conform asks both
// and compares field by field, and expected.go there says why the rest differs.
//
// Batches that are adopted from Kafka's files get leader epoch 0: theirs are of
// another cluster, and the next leader could not append after larger ones.
//
// The inspector reads a raft log page by page and does without bbolt: a broker
// holds bbolt's lock for as long as it runs, and a copy would be of two moments.
//
// The command line (cobra), the client in it (kgo, kadm), waits (x/sync) and
// the persistent map of the image (benbjohnson/immutable) are libraries: none
// of them is what this project is about.
package broker
