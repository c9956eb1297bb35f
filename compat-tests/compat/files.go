package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/streambus/streambus/compat-tests/server"
)

// begin is the first timestamp of what is written to be looked at in files: no
// run differs from another.
const begin = 1_700_000_000_000

// batches and batchRecords are what a topic gets that is looked at in files.
const (
	batches      = 60
	batchRecords = 5
)

// rolled makes a segment of ten batches that are two seconds apart, and keeps
// them although they are old.
var rolled = map[string]string{"segment.ms": "19000", "index.interval.bytes": "300", "retention.ms": "-1"}

// fill writes batches of every codec, with keys, headers and null values, a
// step of two seconds after each other. Both brokers get the same bytes, but for
// producer ids.
func fill(ctx context.Context, addr, topic string, partition int32, idempotent bool) error {
	codecs := []kgo.CompressionCodec{kgo.NoCompression(), kgo.GzipCompression(), kgo.SnappyCompression(), kgo.Lz4Compression(), kgo.ZstdCompression()}
	var clients []*kgo.Client
	defer func() {
		for _, cl := range clients {
			cl.Close()
		}
	}()
	for _, codec := range codecs {
		opts := []kgo.Opt{kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic), kgo.RecordPartitioner(kgo.ManualPartitioner()),
			kgo.ManualFlushing(), kgo.ProducerBatchCompression(codec)}
		if !idempotent {
			opts = append(opts, kgo.DisableIdempotentWrite())
		}
		cl, err := kgo.NewClient(opts...)
		if err != nil {
			return err
		}
		clients = append(clients, cl)
	}
	for i := range batches {
		cl := clients[i%len(clients)]
		var failed error
		for j := range batchRecords {
			n := i*batchRecords + j
			rec := &kgo.Record{
				Partition: partition, Timestamp: time.UnixMilli(begin + int64(i)*2000 + int64(j)),
				Key: fmt.Appendf(nil, "key %d", n%17), Value: []byte(strings.Repeat(fmt.Sprintf("value %d ", n), 1+n%5)),
			}
			if n%7 == 0 {
				rec.Headers = []kgo.RecordHeader{{Key: "h", Value: []byte("1")}, {Key: "h", Value: nil}}
			}
			if n%11 == 0 {
				rec.Value = nil
			}
			cl.Produce(ctx, rec, func(_ *kgo.Record, err error) { failed = errors.Join(failed, err) })
		}
		if err := cl.Flush(ctx); err != nil {
			return err
		}
		if failed != nil {
			return failed
		}
	}
	return nil
}

// filesRead has Kafka's DumpLogSegments read what the same batches have become
// on both sides, and Kafka's own classes the small files.
func filesRead(ctx context.Context, b *bench, r *result) (err error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for _, s := range []*server.Server{b.kafka, b.ours} {
		for topic, idempotent := range map[string]bool{"f-plain": false, "f-idempotent": true} {
			if err := createTopic(ctx, s.Addr, topic, 1, rolled); err != nil {
				return err
			}
			if err := fill(ctx, s.Addr, topic, 0, idempotent); err != nil {
				return err
			}
		}
	}
	// Stopped, for only then an index of ours is complete.
	if err := b.ours.Stop(); err != nil {
		return err
	}
	tools, err := b.tools(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, tools.close()) }()
	for _, log := range []string{"f-plain-0", "f-idempotent-0"} {
		if err := b.compareFiles(r, tools, log); err != nil {
			return err
		}
	}
	return b.compareCheckpoints(ctx, r, "f-plain-0")
}

// files are those of a log with an extension, by name.
func files(s *server.Server, log, ext string) ([]string, error) {
	all, err := filepath.Glob(filepath.Join(s.Data, log, "*"+ext))
	for i := range all {
		all[i] = filepath.Base(all[i])
	}
	slices.Sort(all)
	return all, err
}

func (b *bench) compareFiles(r *result, tools *toolbox, log string) error {
	segments, err := files(b.kafka, log, ".log")
	if err != nil {
		return err
	}
	ours, err := files(b.ours, log, ".log")
	if err != nil {
		return err
	}
	r.check(log+", its segments", strings.Join(segments, " "), strings.Join(ours, " "))
	if len(segments) < 4 {
		return fmt.Errorf("%s has %d segments: too few to compare", log, len(segments))
	}
	for i, segment := range segments {
		name := strings.TrimSuffix(segment, ".log")
		dumps := []string{name + ".log"}
		if i < len(segments)-1 {
			// Kafka's active indexes have room for entries to come, which the tool takes for entries.
			dumps = append(dumps, name+".index", name+".timeindex")
		}
		for _, file := range dumps {
			if err := b.compareDumps(r, tools, log, file, func(s string) string { return s }, "--deep-iteration", "--print-data-log"); err != nil {
				return err
			}
		}
		for _, way := range []string{"--index-sanity-check", "--verify-index-only"} {
			for _, ext := range []string{".index", ".timeindex"} {
				out, err := b.dump(tools, b.ours, log, name+ext, way)
				if err != nil {
					return err
				}
				r.check(fmt.Sprintf("%s, %s %s", log, name+ext, way), "no complaint", complaint(out))
			}
		}
	}
	snapshots, err := files(b.ours, log, ".snapshot")
	if err != nil {
		return err
	}
	compared := 0
	for _, name := range snapshots {
		if _, err := os.Stat(filepath.Join(b.kafka.Data, log, name)); err != nil {
			continue // that of the end, which a stop writes
		}
		compared++
		if err := b.compareDumps(r, tools, log, name, lastOfEach); err != nil {
			return err
		}
	}
	r.check(log+", snapshots compared", "true", strconv.FormatBool(compared > 0))
	return nil
}

// dump is what DumpLogSegments prints of a file.
func (b *bench) dump(tools *toolbox, s *server.Server, log, file string, args ...string) (string, error) {
	p, err := tools.run(dumpTool, "", append([]string{"--files", filepath.Join(s.Data, log, file)}, args...)...)
	if err != nil {
		return "", err
	}
	text := strings.ReplaceAll(fmt.Sprintf("exit %d\n%s%s", p.code, p.out, p.errors), s.Data, "DATA")
	text = producerIDs.ReplaceAllString(text, "${1}ID")
	if strings.HasSuffix(file, ".snapshot") {
		// Ours say when the broker wrote the batch, Kafka's have the batch's timestamp.
		text = written.ReplaceAllString(text, "${1}T")
	}
	if strings.HasPrefix(log, "f-idempotent") {
		text = crcs.ReplaceAllString(text, "${1}CRC") // the producer's id is under it
	}
	return text, nil
}

var (
	producerIDs = regexp.MustCompile(`(producerId: )[0-9]+`)
	written     = regexp.MustCompile(`([tT]imestamp: )[0-9]+`)
	crcs        = regexp.MustCompile(`(crc: )[0-9]+`)
	complaints  = regexp.MustCompile(`(?i)mismatch|corrupt|exception|error|not found|found timestamp|not valid|passed`)
)

// complaint is what the tool finds wrong, if anything.
func complaint(text string) string {
	if !strings.HasPrefix(text, "exit 0\n") {
		return text
	}
	for line := range strings.Lines(text) {
		if complaints.MatchString(line) && !strings.Contains(line, "passed sanity check") {
			return text
		}
	}
	return "no complaint"
}

func (b *bench) compareDumps(r *result, tools *toolbox, log, file string, kept func(string) string, args ...string) error {
	kafka, err := b.dump(tools, b.kafka, log, file, args...)
	if err != nil {
		return err
	}
	ours, err := b.dump(tools, b.ours, log, file, args...)
	if err != nil {
		return err
	}
	what := log + ", " + file
	r.check(what, "no complaint", complaint(ours))
	want, got := strings.Split(kept(kafka), "\n"), strings.Split(kept(ours), "\n")
	r.check(what+", lines", strconv.Itoa(len(want)), strconv.Itoa(len(got)))
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			r.check(fmt.Sprintf("%s, line %d", what, i), want[i], got[i])
			break
		}
	}
	return nil
}

// lastOfEach keeps the last entry of each producer: our snapshots know the last
// five batches of each, Kafka's the last, and Kafka's loader takes the last.
// There is one producer for each codec, told apart by where its batches end.
func lastOfEach(text string) string {
	var kept []string
	for line := range strings.Lines(text) {
		m := lastOffset.FindStringSubmatch(line)
		if m == nil {
			kept = append(kept, line)
			continue
		}
		at, _ := strconv.Atoi(m[1])
		codec := fmt.Sprint("codec ", at/batchRecords%5)
		kept = slices.DeleteFunc(kept, func(k string) bool { return strings.HasPrefix(k, codec) })
		kept = append(kept, codec+" "+line)
	}
	slices.Sort(kept)
	return strings.Join(kept, "")
}

var lastOffset = regexp.MustCompile(`lastOffset: (\d+)`)

// compareCheckpoints has Kafka read the text files of both directories.
func (b *bench) compareCheckpoints(ctx context.Context, r *result, log string) error {
	read := func(s *server.Server) (map[string]string, error) {
		out, err := b.java(ctx, b.brokerJars, "Checkpoints", s.Data, log).CombinedOutput()
		if err != nil {
			return nil, fmt.Errorf("reading the checkpoints of %s: %w\n%s", s.Name, err, out)
		}
		all := map[string]string{}
		for line := range strings.Lines(string(out)) {
			name, says, _ := strings.Cut(strings.TrimSpace(line), "\t")
			all[name] = says
		}
		return all, nil
	}
	kafka, err := read(b.kafka)
	if err != nil {
		return err
	}
	ours, err := read(b.ours)
	if err != nil {
		return err
	}
	// Kafka syncs when a segment is full, we do before we answer.
	kafka["recovery-point-offset-checkpoint"] = strconv.Itoa(batches * batchRecords)
	for _, name := range []string{"recovery-point-offset-checkpoint", "log-start-offset-checkpoint", "leader-epoch-checkpoint", "partition.metadata", "meta.properties"} {
		want := kafka[name]
		if name == "log-start-offset-checkpoint" {
			want = "null" // what begins with its first segment need not be there
		}
		r.check("checkpoints, "+name, want, ours[name])
	}
	return nil
}
