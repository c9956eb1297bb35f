package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
	"github.com/twmb/franz-go/pkg/kversion"

	"github.com/streambus/streambus/compat-tests/server"
)

// page tells users how to come from Kafka. Its commands are run.
const page = "../docs/from-kafka.md"

// moved are the topics that come from Kafka, as on the page.
var moved = []struct {
	name       string
	partitions int32
	settings   map[string]string
}{
	{"orders", 3, rolled},
	{"prices", 1, with(rolled, "cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0.01", "delete.retention.ms", "0")},
	{"clicks", 1, rolled},
}

func with(m map[string]string, more ...string) map[string]string {
	m = maps.Clone(m)
	for i := 0; i < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return m
}

// clicksStart is the first offset that was not deleted.
const clicksStart = 123

// sequence is what a producer writes to clicks before and after the move.
const sequence = 7

// adopted moves topics from a Kafka that was killed, and from one that was
// stopped, and looks whether all is as it was.
func adopted(ctx context.Context, b *bench, r *result) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	id, err := writeMoved(ctx, b)
	if err != nil {
		return err
	}
	was, err := readMoved(ctx, b.kafka.Addr)
	if err != nil {
		return err
	}
	if n := len(was["prices"]); n == 0 || n >= batches*batchRecords {
		return fmt.Errorf("prices has %d records: it was not compacted", n)
	}
	if err := b.kafka.Kill(); err != nil {
		return err
	}
	for _, how := range []string{"killed", "stopped"} {
		if how == "stopped" {
			if err := b.kafka.Start(ctx); err != nil {
				return err
			}
			if err := b.kafka.Stop(); err != nil {
				return err
			}
		}
		if err := move(ctx, b, r, how, was, id); err != nil {
			return fmt.Errorf("with Kafka %s: %w", how, err)
		}
	}
	return oldMessages(b, r)
}

func writeMoved(ctx context.Context, b *bench) (producerID int64, err error) {
	addr := b.kafka.Addr
	for _, t := range moved {
		if err := createTopic(ctx, addr, t.name, t.partitions, t.settings); err != nil {
			return 0, err
		}
		for p := range t.partitions {
			if err := fill(ctx, addr, t.name, p, p%2 == 1); err != nil {
				return 0, err
			}
		}
	}
	if err := deleteRecords(ctx, addr, "clicks", clicksStart); err != nil {
		return 0, err
	}
	if producerID, err = newProducerID(ctx, addr); err != nil {
		return 0, err
	}
	for seq := range int32(sequence) {
		if code, _, err := produceRaw(ctx, addr, "clicks", producerID, seq); err != nil || code != 0 {
			return 0, fmt.Errorf("producing sequence number %d: error %d: %w", seq, code, err)
		}
	}
	return producerID, errors.Join(writtenDown(ctx, filepath.Join(b.kafka.Data, "cleaner-offset-checkpoint"), "prices 0 "),
		writtenDown(ctx, filepath.Join(b.kafka.Data, "log-start-offset-checkpoint"), fmt.Sprint("clicks 0 ", clicksStart)))
}

// writtenDown waits for a line in a checkpoint of Kafka: that its cleaner has
// been at work, that a start will survive a kill.
func writtenDown(ctx context.Context, file, line string) error {
	for {
		text, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if strings.Contains(string(text), "\n"+line) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s does not come to have %q: %w", file, line, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// readMoved is every record of the topics, in words.
func readMoved(ctx context.Context, addr string) (map[string][]string, error) {
	all := map[string][]string{}
	for _, t := range moved {
		recs, err := readAll(ctx, addr, t.name, t.partitions)
		if err != nil {
			return nil, err
		}
		for _, rec := range recs {
			value := "null"
			if rec.Value != nil {
				value = fmt.Sprintf("%q", rec.Value)
			}
			all[t.name] = append(all[t.name], fmt.Sprintf("%d/%05d at %d key %q value %s headers %q attributes %d producer %t", rec.Partition, rec.Offset,
				rec.Timestamp.UnixMilli(), rec.Key, value, rec.Headers, rec.Attrs.CompressionType(), rec.ProducerID >= 0))
		}
		slices.Sort(all[t.name])
	}
	return all, nil
}

// move does what the page says, and looks at what came of it.
func move(ctx context.Context, b *bench, r *result, how string, was map[string][]string, producerID int64) (err error) {
	dir := filepath.Join(b.dir, "moved-"+how)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	s, err := server.StreamBus(ctx, b.bin, dir, settings)
	if err != nil {
		return err
	}
	defer func() {
		if s.Running() {
			err = errors.Join(err, s.Kill())
		}
	}()
	steps, err := pageSteps()
	if err != nil {
		return err
	}
	adoptions := 0
	for _, step := range steps {
		switch {
		case strings.HasPrefix(step, "bin/streambus serve"):
			if !s.Running() {
				if err := s.Start(ctx); err != nil {
					return err
				}
			}
			continue
		case strings.HasPrefix(step, "# stop"):
			if err := s.Stop(); err != nil {
				return err
			}
			continue
		case strings.Contains(step, " adopt "):
			adoptions++
		}
		out, err := b.runStep(ctx, s, step)
		r.ok(fmt.Sprintf("Kafka %s: %s", how, step), err)
		if err != nil {
			return fmt.Errorf("%s: %w\n%s", step, err, out)
		}
	}
	if adoptions == 0 || !s.Running() {
		return fmt.Errorf("%s: the steps do not adopt and start", page)
	}
	same := func(when string) error {
		is, err := readMoved(ctx, s.Addr)
		if err != nil {
			return err
		}
		for _, t := range moved {
			compareRecords(r, fmt.Sprintf("Kafka %s, %s %s", how, t.name, when), was[t.name], is[t.name])
		}
		starts, err := offsets(ctx, s.Addr, "clicks", 1, -2)
		if err != nil {
			return err
		}
		r.check(fmt.Sprintf("Kafka %s, the start of clicks %s", how, when), fmt.Sprint([]int64{clicksStart}), fmt.Sprint(starts))
		return nil
	}
	if err := same("after the move"); err != nil {
		return err
	}
	for _, c := range []struct {
		what string
		seq  int32
		want string
	}{
		{"the last batch again", sequence - 1, fmt.Sprint("error 0 offset ", batches*batchRecords+sequence-1)},
		{"a gap in the sequence", sequence + 3, "error 45 offset -1"},
		{"the next batch", sequence, fmt.Sprint("error 0 offset ", batches*batchRecords+sequence)},
	} {
		code, offset, err := produceRaw(ctx, s.Addr, "clicks", producerID, c.seq)
		if err != nil {
			return err
		}
		r.check(fmt.Sprintf("Kafka %s, a producer goes on: %s", how, c.what), c.want, fmt.Sprintf("error %d offset %d", code, offset))
	}
	was = maps.Clone(was)
	more, err := readMoved(ctx, s.Addr)
	if err != nil {
		return err
	}
	r.check(fmt.Sprintf("Kafka %s, records of clicks with the next one", how), fmt.Sprint(len(was["clicks"])+1), fmt.Sprint(len(more["clicks"])))
	was["clicks"] = more["clicks"]
	for _, t := range moved {
		at, err := offsetOfTime(ctx, s.Addr, t.name, begin+2000*50)
		if err != nil {
			return err
		}
		r.check(fmt.Sprintf("Kafka %s, %s by time", how, t.name), firstSince(was[t.name], begin+2000*50), at)
	}
	if err := s.Kill(); err != nil {
		return err
	}
	if err := s.Start(ctx); err != nil {
		return err
	}
	if err := same("after a kill"); err != nil {
		return err
	}
	if err := s.Stop(); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, b.bin, "inspect", "dir", s.Data, "--verify").CombinedOutput()
	seen := "clean"
	if err != nil || bytes.Contains(out, []byte("damage ")) || bytes.Contains(out, []byte("stale ")) {
		seen = fmt.Sprintf("%v\n%s", err, out)
	}
	r.check(fmt.Sprintf("Kafka %s, inspect dir --verify", how), "clean", seen)
	return nil
}

// pageSteps are the commands on the page.
func pageSteps() ([]string, error) {
	text, err := os.ReadFile(page)
	if err != nil {
		return nil, err
	}
	var all []string
	for line := range strings.Lines(string(text)) {
		if step, ok := strings.CutPrefix(line, "$ "); ok {
			all = append(all, strings.TrimSpace(step))
		}
	}
	return all, nil
}

// runStep runs a command of the page, with this run's directories and address in
// the place of those on it.
func (b *bench) runStep(ctx context.Context, s *server.Server, step string) (string, error) {
	bootstrap := ""
	if strings.HasPrefix(step, "bin/streambus topic") {
		bootstrap = " --bootstrap " + s.Addr
	}
	bin, err := filepath.Abs(b.bin)
	if err != nil {
		return "", err
	}
	step = strings.NewReplacer("bin/streambus", bin, "/var/lib/kafka/data", b.kafka.Data, "--data-dir data", "--data-dir "+s.Data, "inspect dir data", "inspect dir "+s.Data).Replace(step)
	out, err := exec.CommandContext(ctx, "sh", "-c", step+bootstrap).CombinedOutput()
	return string(out), err
}

// compareRecords names the first record that differs.
func compareRecords(r *result, what string, want, got []string) {
	r.check(what+", records", fmt.Sprint(len(want)), fmt.Sprint(len(got)))
	for i := range min(len(want), len(got)) {
		if want[i] != got[i] {
			r.check(what, want[i], got[i])
			return
		}
	}
	r.check(what, "the same", "the same")
}

// firstSince is the first record of partition 0 with a timestamp or a later one,
// among those that readMoved gave.
func firstSince(all []string, ts int64) string {
	for _, line := range all {
		var p int32
		var offset, at int64
		if _, err := fmt.Sscanf(line, "%d/%d at %d", &p, &offset, &at); err == nil && p == 0 && at >= ts {
			return fmt.Sprintf("offset %d at %d", offset, at)
		}
	}
	return "none"
}

func offsetOfTime(ctx context.Context, addr, topic string, ts int64) (string, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return "", err
	}
	defer cl.Close()
	req := kmsg.NewPtrListOffsetsRequest()
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	row := kmsg.NewListOffsetsRequestTopicPartition()
	row.Timestamp, row.CurrentLeaderEpoch = ts, -1
	t.Partitions = append(t.Partitions, row)
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return "", err
	}
	p := resp.Topics[0].Partitions[0]
	if p.ErrorCode != 0 {
		return fmt.Sprint("error ", p.ErrorCode), nil
	}
	return fmt.Sprintf("offset %d at %d", p.Offset, p.Timestamp), nil
}

func deleteRecords(ctx context.Context, addr, topic string, before int64) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrDeleteRecordsRequest()
	t := kmsg.NewDeleteRecordsRequestTopic()
	t.Topic = topic
	p := kmsg.NewDeleteRecordsRequestTopicPartition()
	p.Offset = before
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	req.TimeoutMillis = 10000
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	if code := resp.Topics[0].Partitions[0].ErrorCode; code != 0 {
		return fmt.Errorf("deleting records of %s: error %d", topic, code)
	}
	return nil
}

func newProducerID(ctx context.Context, addr string) (int64, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return 0, err
	}
	defer cl.Close()
	resp, err := kmsg.NewPtrInitProducerIDRequest().RequestWith(ctx, cl)
	if err != nil {
		return 0, err
	}
	if resp.ErrorCode != 0 {
		return 0, fmt.Errorf("a producer id: error %d", resp.ErrorCode)
	}
	return resp.ProducerID, nil
}

// produceRaw writes a batch of one record with a sequence number, as a client
// does that has lived through the move.
func produceRaw(ctx context.Context, addr, topic string, producerID int64, seq int32) (code int16, offset int64, err error) {
	versions := kversion.Stable()
	versions.SetMaxKeyVersion(int16(kmsg.Produce), 9) // the last that has the topic's name
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.MaxVersions(versions))
	if err != nil {
		return 0, 0, err
	}
	defer cl.Close()
	ts := begin + 2000*int64(batches) + int64(seq)
	value := fmt.Appendf(nil, "sequence %d", seq)
	record := kmsg.Record{Length: int32(6 + len(value)), Value: value}
	rec := record.AppendTo(nil)
	rb := kmsg.RecordBatch{
		PartitionLeaderEpoch: -1, Magic: 2, FirstTimestamp: ts, MaxTimestamp: ts,
		ProducerID: producerID, FirstSequence: seq, NumRecords: 1, Records: rec,
	}
	raw := rb.AppendTo(nil)
	binary.BigEndian.PutUint32(raw[8:], uint32(len(raw)-12))
	binary.BigEndian.PutUint32(raw[17:], crc32.Checksum(raw[21:], crc32.MakeTable(crc32.Castagnoli)))
	req := kmsg.NewPtrProduceRequest()
	req.Acks, req.TimeoutMillis = -1, 10000
	t := kmsg.NewProduceRequestTopic()
	t.Topic = topic
	p := kmsg.NewProduceRequestTopicPartition()
	p.Records = raw
	t.Partitions = append(t.Partitions, p)
	req.Topics = append(req.Topics, t)
	resp, err := cl.Broker(1).Request(ctx, req)
	if err != nil {
		return 0, 0, err
	}
	got := resp.(*kmsg.ProduceResponse).Topics[0].Partitions[0]
	return got.ErrorCode, got.BaseOffset, nil
}

// oldMessages makes a directory as a Kafka before 0.11 left it, by hand: those of
// today cannot write it.
func oldMessages(b *bench, r *result) error {
	dir := filepath.Join(b.dir, "old")
	log := filepath.Join(dir, "clicks-0")
	if err := os.MkdirAll(log, 0o755); err != nil {
		return err
	}
	be := binary.BigEndian
	body := []byte{1, 0}                              // version, attributes
	body = be.AppendUint64(body, begin)               // timestamp
	body = be.AppendUint32(body, ^uint32(0))          // no key
	body = append(be.AppendUint32(body, 3), "old"...) // value
	message := be.AppendUint64(nil, 0)                // offset
	message = be.AppendUint32(message, uint32(4+len(body)))
	message = be.AppendUint32(message, crc32.ChecksumIEEE(body))
	segment := filepath.Join(log, "00000000000000000000.log")
	if err := os.WriteFile(segment, append(message, body...), 0o644); err != nil {
		return err
	}
	target := filepath.Join(b.dir, "moved-stopped", "streambus")
	if err := os.RemoveAll(filepath.Join(target, "clicks-0")); err != nil {
		return err
	}
	out, err := exec.Command(b.bin, "adopt", dir, "clicks", "--data-dir", target).CombinedOutput()
	want := segment + " has messages of version 0 or 1"
	seen := fmt.Sprintf("%v: %s", err, out)
	if err != nil && strings.Contains(string(out), want) {
		seen = want
	}
	r.check("messages of version 1", want, seen)
	return nil
}
