// Package inspect puts the files of a data directory into words, with the readers of storage and raftmeta. It only
// looks: nothing is written, made or locked, so that it may run beside a broker.
//
// Each thing found is a line: its kind, then names and values, as text or as JSON.
package inspect

import (
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/wal"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/vfs"
)

// Inspector writes what it finds. The error of a method says that it could not look; what is damaged is a line, and counted.
type Inspector struct {
	fs      vfs.FS
	out     *slog.Logger
	json    bool
	Damaged int
}

// New returns an inspector that writes lines of text, or of JSON.
func New(fs vfs.FS, w io.Writer, asJSON bool) *Inspector {
	options := &slog.HandlerOptions{ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
		if len(groups) > 0 {
			return a
		}
		switch a.Key {
		case slog.TimeKey, slog.LevelKey:
			return slog.Attr{}
		case slog.MessageKey:
			a.Key = "kind"
		}
		return a
	}}
	var h slog.Handler = slog.NewTextHandler(w, options)
	if asJSON {
		h = slog.NewJSONHandler(w, options)
	}
	return &Inspector{fs: fs, out: slog.New(h), json: asJSON}
}

func (i *Inspector) line(kind string, values ...any) { i.out.Info(kind, values...) }

func (i *Inspector) damage(file string, values ...any) {
	i.Damaged++
	i.line("damage", append([]any{"file", file}, values...)...)
}

// found makes damage a line, and returns any other error. file is what was read.
func (i *Inspector) found(file string, err error) error {
	if e, ok := errors.AsType[*storage.CorruptError](err); ok {
		i.damage(e.File, "position", e.Position, "reason", e.Reason)
		return nil
	}
	if e, ok := errors.AsType[*wal.CorruptError](err); ok {
		i.damage(e.File, "entry", e.Index, "reason", e.Reason)
		return nil
	}
	if e, ok := errors.AsType[*image.CorruptError](err); ok {
		i.damage(file, "position", e.Offset, "reason", e.Error())
		return nil
	}
	return err
}

// SegmentOptions say how much of a segment is shown.
type SegmentOptions struct {
	Records  bool // each record
	Contents bool // with keys, values and headers
	Verify   bool // the records of compressed batches can be read too
}

// Segment shows the batches of a segment.
func (i *Inspector) Segment(file string, o SegmentOptions) error {
	batches, size := 0, int64(0)
	err := storage.EachBatch(i.fs, file, func(b storage.StoredBatch) error {
		batches++
		size += b.Length
		i.batch(b)
		if b.Damage != nil {
			return i.found(file, b.Damage)
		}
		if !o.Records && !o.Contents && !o.Verify {
			return nil
		}
		err := batch.Contents(b.Bytes, b.Header, func(c batch.Content) error {
			if o.Records || o.Contents {
				i.record(b.Header, c, o.Contents)
			}
			return nil
		})
		if err != nil {
			i.damage(file, "position", b.Position, "reason", err.Error())
		}
		return nil
	})
	if err = i.found(file, err); err == nil {
		i.line("segment", "file", file, "batches", batches, "bytes", size)
	}
	return err
}

func (i *Inspector) batch(b storage.StoredBatch) {
	stamps := "create"
	if b.IsLogAppendTime() {
		stamps = "append"
	}
	i.line("batch", "position", b.Position, "size", b.Length, "base_offset", b.BaseOffset, "last_offset", b.LastOffset(), "count", b.Count,
		"leader_epoch", b.LeaderEpoch, "codec", b.Codec().String(), "timestamps", stamps, "base_timestamp", b.BaseTimestamp, "max_timestamp", b.MaxTimestamp,
		"producer_id", b.ProducerID, "producer_epoch", b.ProducerEpoch, "base_sequence", b.BaseSequence,
		"transactional", b.IsTransactional(), "control", b.IsControl(), "crc", fmt.Sprintf("%08x", b.CRC), "crc_ok", b.Damage == nil)
}

func (i *Inspector) record(h batch.Header, c batch.Content, contents bool) {
	values := []any{"offset", h.BaseOffset + int64(c.OffsetDelta), "timestamp", h.Timestamp(c.Record),
		"key_size", size(c.Key), "value_size", size(c.Value), "headers", len(c.Headers)}
	if contents {
		values = append(values, i.content("key", c.Key)...)
		values = append(values, i.content("value", c.Value)...)
		for _, x := range c.Headers {
			values = append(values, i.content("header."+x.Key, x.Value)...)
		}
	}
	i.line("record", values...)
}

// content names what a record holds. Text has an escape for each byte; JSON, which would change those that are not UTF-8,
// has them in base64.
func (i *Inspector) content(name string, b []byte) []any {
	if i.json && !utf8.Valid(b) {
		return []any{name + "_base64", base64.StdEncoding.EncodeToString(b)}
	}
	return []any{name, string(b)}
}

// size is -1 for null.
func size(b []byte) int {
	if b == nil {
		return -1
	}
	return len(b)
}

// Index shows an offset or time index, and with verify holds it against the segment beside it.
func (i *Inspector) Index(file string, verify bool) error {
	var err error
	switch ext := filepath.Ext(file); ext {
	case ".index":
		var entries []storage.IndexEntry
		entries, err = storage.ReadIndex(i.fs, file)
		for _, e := range entries {
			i.line("entry", "offset", e.Offset, "position", e.Position)
		}
	case ".timeindex":
		var entries []storage.TimeIndexEntry
		entries, err = storage.ReadTimeIndex(i.fs, file)
		for _, e := range entries {
			i.line("entry", "timestamp", e.Timestamp, "offset", e.Offset)
		}
	case ".txnindex":
		return fmt.Errorf("%s: an index of aborted transactions, which this release neither writes nor reads", file)
	default:
		return fmt.Errorf("%s: the name of an index ends in .index or .timeindex", file)
	}
	if !verify {
		return i.found(file, err)
	}
	if _, damaged := errors.AsType[*storage.CorruptError](err); err != nil && !damaged {
		return err
	}
	misfits, err := storage.VerifyIndexes(i.fs, strings.TrimSuffix(file, filepath.Ext(file))+".log")
	for _, m := range misfits {
		if e, ok := errors.AsType[*storage.CorruptError](m); ok && e.File == file {
			i.found(file, m)
		}
	}
	return i.found(file, err)
}

// Checkpoint shows one of the small files of a data directory or a log, which it knows by their names.
func (i *Inspector) Checkpoint(file string) error {
	switch name := filepath.Base(file); name {
	case "recovery-point-offset-checkpoint", "log-start-offset-checkpoint", "replication-offset-checkpoint", "cleaner-offset-checkpoint", "compaction-offset-checkpoint":
		offsets, err := storage.ReadLogOffsets(i.fs, file)
		for _, log := range slices.Sorted(maps.Keys(offsets)) {
			i.line("offset", "log", log, "offset", offsets[log])
		}
		return i.found(file, err)
	case "leader-epoch-checkpoint":
		epochs, err := storage.ReadEpochs(i.fs, file)
		for _, e := range epochs {
			i.line("epoch", "epoch", e.Epoch, "start_offset", e.Offset)
		}
		return i.found(file, err)
	case "partition.metadata":
		id, err := storage.ReadTopicID(i.fs, file)
		if err == nil {
			i.line("partition", "topic_id", image.UUID(id).String())
		}
		return i.found(file, err)
	case "meta.properties":
		id, err := storage.ReadIdentity(i.fs, file)
		if err == nil {
			i.line("directory", "cluster_id", id.ClusterID, "node_id", id.NodeID, "directory_id", image.UUID(id.DirectoryID).String())
		}
		return i.found(file, err)
	default:
		return fmt.Errorf("%s: no checkpoint has this name; known are recovery-point-offset-checkpoint, log-start-offset-checkpoint, "+
			"replication-offset-checkpoint, cleaner-offset-checkpoint, compaction-offset-checkpoint, leader-epoch-checkpoint, partition.metadata and meta.properties", file)
	}
}

// Snapshot shows a snapshot of a log's producers or, from its own file or from the raft log that begins with it, one of
// the metadata. A broker that is no controller has one of its own in raftmeta/metadata.snapshot.
func (i *Inspector) Snapshot(file string) error {
	name, snapshot := strings.CutSuffix(filepath.Base(file), ".snapshot")
	switch {
	case !snapshot:
		s, err := wal.Inspect(file)
		if err == nil && s.RaftID == 0 {
			return fmt.Errorf("%s: the log was never formed and has no snapshot", file)
		}
		if err == nil {
			err = i.image(file, s.Snapshot.GetData())
		}
		return i.found(file, err)
	case name == "metadata":
		data, err := storage.ReadFile(i.fs, file)
		if err == nil {
			err = i.image(file, data)
		}
		return i.found(file, err)
	case strings.Contains(name, "-"):
		data, err := wal.ReadSnapshot(file)
		if err == nil {
			err = i.image(file, data)
		}
		return i.found(file, err)
	}
	producers, err := storage.ReadProducers(i.fs, file)
	for _, p := range producers {
		i.line("producer", "producer_id", p.ProducerID, "producer_epoch", p.Epoch, "first_sequence", p.FirstSequence, "last_sequence", p.LastSequence,
			"first_offset", p.FirstOffset, "last_offset", p.LastOffset, "written", p.LastWritten.UTC().Format(time.RFC3339Nano),
			"coordinator_epoch", p.CoordinatorEpoch, "transaction", p.Transaction)
	}
	return i.found(file, err)
}

// Dir reads a whole data directory and holds its files against each other.
func (i *Inspector) Dir(dir string) error {
	meta, raft := filepath.Join(dir, "meta.properties"), filepath.Join(dir, "raftmeta", "log.db")
	if _, err := i.fs.List(dir); err != nil {
		return err
	}
	if i.missing(meta) && i.missing(raft) { // of another directory there would be no end of good news
		return fmt.Errorf("%s: it has neither meta.properties nor raftmeta/log.db: it is not a data directory", dir)
	}
	v, err := storage.Verify(i.fs, dir)
	if err != nil {
		return err
	}
	identity, err := storage.ReadIdentity(i.fs, meta)
	if err != nil {
		i.line("note", "reason", "the directory does not say whose it is: "+err.Error())
	} else if err := i.Checkpoint(meta); err != nil {
		return err
	}
	for _, l := range v.Logs {
		i.line("log", "name", l.Name, "start_offset", l.Start, "end_offset", l.End, "segments", l.Segments, "batches", l.Batches, "bytes", l.Bytes)
	}
	for _, f := range v.Findings {
		if f.Severity == storage.Damage || f.Severity == storage.Stale && v.Clean {
			i.Damaged++
		}
		i.line(f.Severity.String(), "file", f.File, "position", f.Position, "reason", f.Reason)
	}
	if _, err := i.fs.Stat(raft); err == nil {
		img, err := i.verifyRaft(raft, identity.ClusterID)
		if err != nil {
			return err
		}
		i.claims(dir, v.Logs, img)
		i.reserve(filepath.Join(dir, "raftmeta", wal.ReserveName))
	} else if !errors.Is(err, iofs.ErrNotExist) {
		return err
	} else if err := i.checkpoint(filepath.Join(dir, "raftmeta", "metadata.snapshot"), identity.ClusterID); err != nil {
		return err
	}
	i.line("verified", "directory", dir, "clean_shutdown", v.Clean, "logs", len(v.Logs), "damaged", i.Damaged)
	return nil
}

func (i *Inspector) missing(file string) bool {
	_, err := i.fs.Stat(file)
	return errors.Is(err, iofs.ErrNotExist)
}

// checkpoint looks at the metadata that a broker without a raft log goes on from. It has none before its first orderly stop.
func (i *Inspector) checkpoint(file, clusterID string) error {
	data, err := storage.ReadFile(i.fs, file)
	if errors.Is(err, iofs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	img, err := image.DecodeImage(data)
	if err != nil {
		return i.found(file, err)
	}
	i.line("checkpoint", "file", file, "index", img.Index(), "cluster_id", img.ClusterID(), "topics", img.NumTopics(), "partitions", img.NumPartitions(), "bytes", len(data))
	if clusterID != "" && img.ClusterID() != clusterID {
		i.line("note", "file", file, "reason", "it is of another cluster than the directory: a start removes it")
	}
	return nil
}

// reserve tells whether the raft log has one. There is none for a while where the disk was full, or is small.
func (i *Inspector) reserve(file string) {
	info, err := i.fs.Stat(file)
	if err != nil {
		i.line("note", "file", file, "reason", "the raft log has no space of its own for a full disk: "+err.Error())
		return
	}
	i.line("reserve", "file", file, "bytes", info.Size)
}

// claims looks whose the logs are. Those of no topic are set aside at the next start.
func (i *Inspector) claims(dir string, logs []storage.LogSummary, img *image.Image) {
	if img == nil {
		return
	}
	for _, l := range logs {
		file := filepath.Join(dir, l.Name, "partition.metadata")
		id, err := storage.ReadTopicID(i.fs, file)
		if err != nil { // Verify has said what is wrong, if anything is
			continue
		}
		if t, ok := img.TopicByID(id); !ok || t.Name != l.Name[:strings.LastIndexByte(l.Name, '-')] {
			i.line("note", "file", file, "reason", fmt.Sprintf("it belongs to topic id %s, which the metadata does not know by this name: a start sets it aside", image.UUID(id)))
		}
	}
}
