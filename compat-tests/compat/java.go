package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/compat-tests/server"
)

// compile compiles the Java programs. Clients are Kafka's newest, the tools'
// class path has its own.
func (b *bench) compile(ctx context.Context) error {
	b.classes = filepath.Join(b.dir, "classes")
	for file, jars := range map[string]string{"Scripted.java": b.brokerJars, "Tools.java": b.toolsJars, "Checkpoints.java": b.brokerJars} {
		out, err := exec.CommandContext(ctx, "javac", "-nowarn", "-cp", filepath.Join(jars, "*"), "-d", b.classes, filepath.Join("java", file)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("compiling java/%s: %w (a JDK of version 17 or later is needed, and this directory as the working directory)\n%s", file, err, out)
		}
	}
	return nil
}

// java is a command of the Java virtual machine, small enough to run beside the brokers.
func (b *bench) java(ctx context.Context, jars, class string, args ...string) *exec.Cmd {
	all := append([]string{"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=off",
		"-cp", b.classes + string(os.PathListSeparator) + filepath.Join(jars, "*"), class}, args...)
	return exec.CommandContext(ctx, "java", all...)
}

// javaClient has the same script run against both brokers.
func javaClient(ctx context.Context, b *bench, r *result) error {
	type outcome struct {
		out string
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	outcomes := map[string]chan outcome{}
	for _, s := range []*server.Server{b.kafka, b.ours} {
		done := make(chan outcome, 1)
		outcomes[s.Name] = done
		go func() {
			var stderr strings.Builder
			cmd := b.java(ctx, b.brokerJars, "Scripted", s.Addr)
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				err = fmt.Errorf("the script against %s: %w\n%s", s.Name, err, stderr.String())
			}
			done <- outcome{string(out), err}
		}()
	}
	kafka, ours := <-outcomes[b.kafka.Name], <-outcomes[b.ours.Name]
	if err := errors.Join(kafka.err, ours.err); err != nil {
		return err
	}
	compareScripts(r, kafka.out, ours.out)
	return nil
}

// compareScripts holds two printed scripts against each other, by what their
// lines are about: a line more or less is one difference, and does not move all
// that come after it.
func compareScripts(r *result, kafka, ours string) {
	order, theirs := about(kafka)
	more, mine := about(ours)
	seen := map[string]bool{}
	for _, what := range append(order, more...) {
		if seen[what] {
			continue
		}
		seen[what] = true
		r.check(what, orNothing(theirs, what), orNothing(mine, what))
	}
	if _, ended := theirs["end, end"]; !ended {
		r.check("the script's end", "end", "nothing")
	}
}

func orNothing(m map[string]string, k string) string {
	if v, ok := m[k]; ok {
		return v
	}
	return "nothing"
}

// about splits lines into what they are about and what they say of it. What is
// said twice is numbered.
func about(text string) (order []string, says map[string]string) {
	says = map[string]string{}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimRight(line, "\n"), "\t", 3)
		if len(fields) != 3 {
			fields = []string{"output", strings.TrimSpace(line), ""}
		}
		what := fields[0] + ", " + fields[1]
		for n := 2; ; n++ {
			if _, again := says[what]; !again {
				break
			}
			what = fmt.Sprintf("%s, %s #%d", fields[0], fields[1], n)
		}
		order = append(order, what)
		says[what] = fields[2]
	}
	return order, says
}

// killRecords are produced while the broker is killed, at each of these counts
// of acknowledgements.
const killRecords = 60000

var killsAt = []int{3000, 10000, 20000, 30000, 40000, 50000}

// javaKills kills a broker while Kafka's idempotent producer writes to it: what
// it was told to be written must be there once, in order.
func javaKills(ctx context.Context, b *bench, r *result) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	s, err := server.StreamBus(ctx, b.bin, filepath.Join(b.dir, "kills"), nil)
	if err != nil {
		return err
	}
	defer func() {
		if s.Running() {
			s.Kill()
		}
	}()
	if err := createTopic(ctx, s.Addr, "killed", 2, nil); err != nil {
		return err
	}
	cmd := b.java(ctx, b.brokerJars, "Scripted", s.Addr, "--until-done", "killed", strconv.Itoa(killRecords))
	cmd.Stderr = io.Discard
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	acked := map[string]string{} // value, by partition and offset
	kills, failed, ended := 0, 0, false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		f := strings.Split(lines.Text(), "\t")
		switch {
		case len(f) != 4:
			return fmt.Errorf("the producer printed %q", lines.Text())
		case f[0] == "end":
			ended = true
		case f[0] == "failed":
			failed++
			r.check("record "+f[1], "acknowledged", f[2])
		case acked[f[2]+"/"+f[3]] != "":
			r.check("offset "+f[2]+"/"+f[3], "acknowledged for one record", "for "+acked[f[2]+"/"+f[3]]+" and "+f[1])
		default:
			acked[f[2]+"/"+f[3]] = f[1]
		}
		if kills < len(killsAt) && len(acked) >= killsAt[kills] {
			kills++
			if err := s.Kill(); err != nil {
				return err
			}
			if err := s.Start(ctx); err != nil {
				return err
			}
		}
	}
	r.ok("the producer's end", cmd.Wait())
	r.check("the producer came to its end", "true", strconv.FormatBool(ended))
	r.check("kills", strconv.Itoa(len(killsAt)), strconv.Itoa(kills))
	r.check("acknowledged records", strconv.Itoa(killRecords), strconv.Itoa(len(acked)+failed))
	return onceInOrder(ctx, r, s.Addr, acked)
}

// onceInOrder reads what killed has and compares it with the acknowledgements.
func onceInOrder(ctx context.Context, r *result, addr string, acked map[string]string) error {
	all, err := readAll(ctx, addr, "killed", 2)
	if err != nil {
		return err
	}
	seen := map[string]int{}
	latest := map[int32]int{}
	found := 0
	for _, rec := range all {
		value := string(rec.Value)
		seen[value]++
		n, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("a record with value %q at %d/%d", value, rec.Partition, rec.Offset)
		}
		if last, ok := latest[rec.Partition]; ok && n <= last {
			r.check(fmt.Sprintf("the order at offset %d/%d", rec.Partition, rec.Offset), "after "+strconv.Itoa(last), value)
		}
		latest[rec.Partition] = n
		at := fmt.Sprintf("%d/%d", rec.Partition, rec.Offset)
		if want, ok := acked[at]; ok {
			found++
			if want != value {
				r.check("the record at "+at, want, value)
			}
		}
	}
	twice := 0
	for _, n := range seen {
		if n > 1 {
			twice++
		}
	}
	r.check("acknowledged records that are there", strconv.Itoa(len(acked)), strconv.Itoa(found))
	r.check("records that are there twice", "0", strconv.Itoa(twice))
	return nil
}

// createTopic makes a topic and waits until its partitions have leaders.
func createTopic(ctx context.Context, addr, name string, partitions int32, configs map[string]string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrCreateTopicsRequest()
	t := kmsg.NewCreateTopicsRequestTopic()
	t.Topic, t.NumPartitions, t.ReplicationFactor = name, partitions, 1
	for k, v := range configs {
		c := kmsg.NewCreateTopicsRequestTopicConfig()
		c.Name, c.Value = k, &v
		t.Configs = append(t.Configs, c)
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	if e := resp.Topics[0]; e.ErrorCode != 0 {
		return fmt.Errorf("creating %s at %s: error %d: %s", name, addr, e.ErrorCode, deref(e.ErrorMessage))
	}
	for {
		if _, err := offsets(ctx, addr, name, partitions, -1); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%s has no leaders: %w", name, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func deref(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// offsets asks for an offset of each partition: -1 is the end, -2 the start.
func offsets(ctx context.Context, addr, topic string, partitions int32, at int64) ([]int64, error) {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return nil, err
	}
	defer cl.Close()
	req := kmsg.NewPtrListOffsetsRequest()
	t := kmsg.NewListOffsetsRequestTopic()
	t.Topic = topic
	for p := range partitions {
		row := kmsg.NewListOffsetsRequestTopicPartition()
		row.Partition, row.Timestamp, row.CurrentLeaderEpoch = p, at, -1
		t.Partitions = append(t.Partitions, row)
	}
	req.Topics = append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, err
	}
	all := make([]int64, partitions)
	for _, t := range resp.Topics {
		for _, p := range t.Partitions {
			if p.ErrorCode != 0 {
				return nil, fmt.Errorf("offsets of %s-%d: error %d", topic, p.Partition, p.ErrorCode)
			}
			all[p.Partition] = p.Offset
		}
	}
	return all, nil
}

// readAll reads a topic from its beginning to the end that it has now.
func readAll(ctx context.Context, addr, topic string, partitions int32) ([]*kgo.Record, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	ends, err := offsets(ctx, addr, topic, partitions, -1)
	if err != nil {
		return nil, err
	}
	starts, err := offsets(ctx, addr, topic, partitions, -2)
	if err != nil {
		return nil, err
	}
	from := map[int32]kgo.Offset{}
	for p := range partitions {
		if starts[p] < ends[p] {
			from[p] = kgo.NewOffset().At(starts[p])
		}
	}
	var all []*kgo.Record
	for p := range from {
		// Each by itself, so that the order is the same each time. Control
		// records show the end even if no record is left there.
		cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ConsumePartitions(map[string]map[int32]kgo.Offset{topic: {p: from[p]}}), kgo.KeepControlRecords())
		if err != nil {
			return nil, err
		}
		for next := starts[p]; next < ends[p]; {
			fetches := cl.PollFetches(ctx)
			if err := fetches.Err(); err != nil {
				cl.Close()
				return nil, fmt.Errorf("reading %s-%d at %d of %d: %w", topic, p, next, ends[p], err)
			}
			fetches.EachRecord(func(rec *kgo.Record) {
				if rec.Offset < ends[p] {
					all = append(all, rec)
				}
				next = rec.Offset + 1
			})
		}
		cl.Close()
	}
	return all, nil
}

// toolbox runs Kafka's command-line tools, in one process.
type toolbox struct {
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

func (b *bench) tools(ctx context.Context) (*toolbox, error) {
	cmd := b.java(ctx, b.toolsJars, "Tools")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	return &toolbox{cmd, in, bufio.NewReaderSize(out, 1<<20)}, cmd.Start()
}

// printed is what a tool has printed.
type printed struct {
	code        int
	out, errors string
}

func (t *toolbox) run(class, typed string, args ...string) (printed, error) {
	var line []string
	for _, f := range append([]string{class, typed}, args...) {
		line = append(line, field(f))
	}
	if _, err := io.WriteString(t.in, strings.Join(line, " ")+"\n"); err != nil {
		return printed{}, err
	}
	answer, err := t.out.ReadString('\n')
	if err != nil {
		return printed{}, fmt.Errorf("%s ended without an answer: %w", class, err)
	}
	fields := strings.Fields(answer)
	if len(fields) != 3 {
		return printed{}, fmt.Errorf("%s: an answer that is none: %q", class, answer)
	}
	code, err := strconv.Atoi(fields[0])
	if err != nil {
		return printed{}, err
	}
	var texts [2]string
	for i, f := range fields[1:] {
		if f == "-" {
			continue
		}
		text, err := base64.StdEncoding.DecodeString(f)
		if err != nil {
			return printed{}, err
		}
		texts[i] = string(text)
	}
	return printed{code, texts[0], texts[1]}, nil
}

func field(s string) string {
	if s == "" {
		return "-"
	}
	return base64.StdEncoding.EncodeToString([]byte(s))
}

func (t *toolbox) close() error {
	return errors.Join(t.in.Close(), t.cmd.Wait())
}

func deleteTopic(ctx context.Context, addr, name string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr))
	if err != nil {
		return err
	}
	defer cl.Close()
	req := kmsg.NewPtrDeleteTopicsRequest()
	t := kmsg.NewDeleteTopicsRequestTopic()
	t.Topic = &name
	req.TopicNames, req.Topics = []string{name}, append(req.Topics, t)
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return err
	}
	if code := resp.Topics[0].ErrorCode; code != 0 {
		return fmt.Errorf("deleting %s at %s: error %d", name, addr, code)
	}
	return nil
}

// writeAt makes a topic of one partition with n records, each a step later than
// the one before, in a batch of its own.
func writeAt(ctx context.Context, addr, topic string, begin, step int64, n int) error {
	if err := createTopic(ctx, addr, topic, 1, nil); err != nil {
		return err
	}
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.DefaultProduceTopic(topic))
	if err != nil {
		return err
	}
	defer cl.Close()
	for i := range n {
		rec := &kgo.Record{Value: fmt.Appendf(nil, "record %d", i), Timestamp: time.UnixMilli(begin + int64(i)*step)}
		if err := cl.ProduceSync(ctx, rec).FirstErr(); err != nil {
			return err
		}
	}
	return nil
}
