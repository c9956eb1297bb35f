// Package storage keeps partition logs in a data directory.
//
// It knows offsets, batches, leader epochs and producers, and nothing of
// topics, replicas or the network. It starts no goroutine and reads no clock:
// the caller owns the loops that flush and checkpoint, and says what time it is.
//
// # What the caller does
//
//  1. OpenDir, then OpenLog for each partition. Recovery happens there, and
//     what OpenLog returns is durable to its end.
//  2. Append checked batches, Read. Both from any goroutine. Of a log that another
//     broker leads: AppendFetched, TruncateTo, Restart.
//  3. In one loop: BeginFlush, run what Syncs returns, Done. Only what Done
//     reports, or FlushedOffset, survives a power cut. An error of a round is
//     final for the directory, for the kernel may have dropped what it could
//     not write, and a second sync that succeeds would prove nothing.
//  4. Now and then, Checkpoint: it bounds what the next recovery has to verify.
//     SetHighWatermark says what it writes of how far a log is acknowledged.
//  5. Now and then, Retain for each log, and Sweep: it removes the files that were
//     given up LogConfig.DeleteDelay before. DeleteLogs for a partition that is no
//     more, and SetAside for what Partitions lists and no partition claims, or a
//     log that is damaged.
//     FreeGuard, so that these have the room they need themselves.
//  6. Compact a log of which Dirt says that it is due.
//  7. Scrub, as slowly as it likes.
//  8. Close, after the loop has ended.
//
// Verify and the functions beside it read the files of a directory without any of
// this, for tools and tests: also while a broker is at work there.
//
// # Promises
//
// After a crash, of the process or of the machine, a log is a prefix of what
// was appended, made of whole batches, and holds everything reported flushed.
// Only the part that was never known durable may be cut; damage below that is a
// CorruptError that names file and position, never a silent cut. The state of
// idempotent producers is what the surviving batches say.
//
// # Files
//
// They are Apache Kafka's, in names and bytes. In the data directory:
//
//	meta.properties                    whose directory this is
//	.lock                              held while the directory is open
//	recovery-point-offset-checkpoint   per log, an offset below which it is durable
//	log-start-offset-checkpoint        per log, its start, while its files begin before it
//	replication-offset-checkpoint      per log, an offset below which it is acknowledged
//	cleaner-offset-checkpoint          per log, an offset below which compaction may have left gaps
//	compaction-offset-checkpoint       per log, an offset below which it is compacted
//	.kafka_cleanshutdown               present after Close; the epoch of the broker that used it
//	<topic>-<n>.<unique>-delete        a deleted log's directory, until Sweep
//	<topic>-<n>.<unique>-stray         one that is no partition's: for somebody to look at
//
// and in each log's directory, called <topic>-<n>, where B is an offset in 20
// digits:
//
//	B.log        a segment: batches, one after the other, from offset B on
//	B.index      int32 last offset of a batch - B, int32 position of that batch;
//	             one entry for about each IndexIntervalBytes
//	B.timeindex  int64 largest timestamp so far, int32 last offset of the batch
//	             that has it - B
//	B.snapshot   the producers' state below offset B
//	leader-epoch-checkpoint   "0", a count, then lines of epoch and first offset
//	partition.metadata   "version: 0" and the topic's id: whose directory it is
//	B.E.swap     what compaction keeps of the segments from offset B to E, in the place
//	             of which it is being put; of two that are one segment's halves the
//	             first counts only with the second, and the second with the first
//	*.deleted    of a segment that is no longer the log's, until Sweep
//
// The last segment is the active one. Indexes are hints: an entry is used only
// if a batch with that last offset is where it points, otherwise the index is
// rebuilt from its segment and counted. A time entry is used in the same manner:
// nothing before its batch has a larger timestamp, and what comes after it is
// looked at. The epochs and the snapshots can be derived from the batches too. So
// a sync of the segments, of the epochs and of the directories' names is all that
// an append waits for.
//
// # Why a crash cannot bring old data back
//
// Recovery removes what lies beyond the end it found (a torn tail, later
// segments, snapshots, temporary files) and makes the removal durable before
// the log is handed out. Otherwise a second crash, after new appends in the
// same place, could mix the old with the new.
//
// A log is cut in the same manner. First nobody relies on what goes: the recovery
// point is lowered, rounds of syncs that are under way say nothing of the log any
// more, and readers see what stays. Then files go from the last one backward, each
// durably, and only then is the log appended to again. A Restart empties the log so,
// before its checkpoint says where it begins now.
//
// # Why a gap is not a loss
//
// A follower gets the gaps that compaction left at its leader. Recovery believes a gap
// below the limit in the cleaner's checkpoint, so the limit is durable before the batch
// behind the gap is written. And it would take a sealed segment that lost its end for
// one before a gap: where gaps may be, a segment and its name are durable before the
// next one is made.
//
// # Why a crash cannot bring deleted records back
//
// A new start is in its checkpoint before anybody hears of it, and stays there
// until the removal of the segments below it is durable. Before they are removed
// the producers' state is durable in a snapshot that needs none of them, and so
// is the epoch at the start: neither could be derived any more. A log that a crash
// leaves with an end below its start goes on at the start.
//
// # Why a crash in compaction loses nothing
//
// A record goes because a later one of its key is there, and that one is durable: only
// what is flushed, sealed and below the limit is looked at. What is kept of a group of
// segments is written and synced under a name that means nothing, and renamed to one
// that says which segments it replaces. From then on it is in their place: the old
// files go, durably, and only then does it get the first one's name, after which
// nothing says any more that they were to go. A start that finds the name between the
// two does what is left. Of a segment that is split the second half has its name, durably,
// before the first, and its place before it: the first one's name is what counts. Groups
// are replaced in the order of the log, so no older record of a key comes back behind the
// removal of a newer one. How far a log is compacted is a
// hint that a crash may lose; a cut lowers it before anything new comes.
package storage
