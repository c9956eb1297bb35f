package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	// maxBufferedBytes bounds the records that are read and not acknowledged.
	maxBufferedBytes = 64 << 20
	// maxReported bounds the failures that are told one by one.
	maxReported = 10
	// defaultBatch is what topics take if the broker does not tell.
	defaultBatch = 1 << 20
	// minBatch is the smallest limit that the client knows.
	minBatch = 512
	// minDelivery is the shortest time-out of records that the client knows.
	minDelivery = time.Second
)

func produceCommand() *cobra.Command {
	p := &producer{}
	var file string
	cmd := &cobra.Command{
		Use:   "produce TOPIC",
		Short: "Write lines as records",
		Long: `Write each line of standard input, or of a file, as one record. How many were
written is said at the end, on standard error. A line that cannot be written is
named with the reason, and the exit code is 1; a failure that is not the line's
own ends the reading.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := p.check(cmd); err != nil {
				return err
			}
			in := cmd.InOrStdin()
			if file != "-" {
				f, err := os.Open(file)
				if err != nil {
					return fmt.Errorf("--file: %w", err)
				}
				defer f.Close()
				in = f
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			// A second signal does not wait.
			context.AfterFunc(ctx, stop)
			p.topic = args[0]
			err := p.run(ctx, in, cmd.ErrOrStderr())
			if errors.Is(err, context.Canceled) {
				return errors.New("interrupted before the broker answered: no line was read")
			}
			return err
		},
	}
	p.remote = remoteFlags(cmd)
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "-", "file of lines; - is standard input")
	f.StringVarP(&p.separator, "key-separator", "K", "", "what stands between key and value in each line; without it records have no key")
	f.StringArrayVarP(&p.headerFlags, "header", "H", nil, "a header of every record as key=value (repeatable)")
	f.Int32VarP(&p.partition, "partition", "p", -1, "partition of every record (default: chosen by the key as Kafka's clients do)")
	noDefault(cmd, "partition")
	p.compression = chosen(cmd, "compression", "z", "how batches are compressed", "none", "gzip", "snappy", "lz4", "zstd")
	p.acks = chosen(cmd, "acks", "", "who must have a record: all in-sync replicas, the leader, or nobody", "all", "1", "0")
	cmd.ValidArgsFunction = p.completeTopic
	return cmd
}

type producer struct {
	*remote
	topic       string
	separator   string
	headerFlags []string
	headers     []kgo.RecordHeader
	partition   int32
	compression *choice
	acks        *choice

	most     int // the largest batch that the topic takes
	mu       sync.Mutex
	written  int64
	failures []failure // the first maxReported
	failed   int64
}

type failure struct {
	line int64
	err  error
}

func (p *producer) check(cmd *cobra.Command) error {
	if cmd.Flags().Changed("partition") && p.partition < 0 {
		return usagef("--partition %d: must be 0 or more", p.partition)
	}
	if cmd.Flags().Changed("key-separator") && p.separator == "" {
		return usagef("--key-separator: must not be empty")
	}
	for _, h := range p.headerFlags {
		key, value, err := keyValue("header", h)
		if err != nil {
			return err
		}
		p.headers = append(p.headers, kgo.RecordHeader{Key: key, Value: []byte(value)})
	}
	return nil
}

func (p *producer) options() []kgo.Opt {
	codec := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}[p.compression.value]
	opts := []kgo.Opt{
		kgo.DefaultProduceTopic(p.topic),
		kgo.ProducerBatchCompression(codec),
		kgo.MaxBufferedBytes(maxBufferedBytes),
		// p.most is known when the first record is on its way.
		kgo.ProducerBatchMaxBytesFn(func(topic string) int32 {
			if topic == "" {
				return defaultBatch
			}
			return int32(p.most)
		}),
		// Waiting for ever would be the price of no duplicates, if the broker
		// goes away; this command does not write a record twice itself.
		kgo.RecordDeliveryTimeout(max(p.timeout, minDelivery)),
		kgo.AllowIdempotentProduceCancellation(),
	}
	if p.partition >= 0 {
		opts = append(opts, kgo.RecordPartitioner(kgo.ManualPartitioner()))
	}
	switch p.acks.value {
	case "1":
		opts = append(opts, kgo.RequiredAcks(kgo.LeaderAck()), kgo.DisableIdempotentWrite())
	case "0":
		opts = append(opts, kgo.RequiredAcks(kgo.NoAck()), kgo.DisableIdempotentWrite())
	}
	return opts
}

func (p *producer) run(ctx context.Context, in io.Reader, report io.Writer) error {
	s, err := p.open(ctx, p.options()...)
	if err != nil {
		return err
	}
	defer s.close()
	if err := p.prepare(ctx, s); err != nil {
		return err
	}
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	readErr := p.write(ctx, giveUp, s.client, in)
	// What was read is written, whatever ended the reading.
	flush, cancel := context.WithTimeout(context.Background(), 2*p.timeout)
	defer cancel()
	flushErr := s.client.Flush(flush)

	p.mu.Lock()
	defer p.mu.Unlock()
	verb := "written to"
	if p.acks.value == "0" {
		verb = "sent, unconfirmed, to"
	}
	fmt.Fprintf(report, "%s %s %s\n", counted(p.written, "record"), verb, p.topic)
	var errs []error
	slices.SortFunc(p.failures, func(a, b failure) int { return cmp.Compare(a.line, b.line) })
	for _, f := range p.failures {
		errs = append(errs, fmt.Errorf("line %d: %w", f.line, f.err))
	}
	if more := p.failed - int64(len(p.failures)); more > 0 {
		errs = append(errs, fmt.Errorf("%s more failed", counted(more, "line")))
	}
	if flushErr != nil && s.client.BufferedProduceRecords() > 0 {
		errs = append(errs, fmt.Errorf("topic %s: no answer within %v for %s: they may be written or not; --timeout waits longer", p.topic, 2*p.timeout, counted(s.client.BufferedProduceRecords(), "record")))
	}
	return errors.Join(append(errs, readErr)...)
}

// prepare checks what can be known before the first line is read.
func (p *producer) prepare(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, p.timeout)
	defer cancel()
	t, err := s.topic(ctx, p.topic)
	if err != nil {
		return err
	}
	if p.partition >= 0 {
		one := partitions{ids: []int32{p.partition}}
		if _, err := one.of(t); err != nil {
			return err
		}
	}
	p.most = defaultBatch
	configs, err := s.admin.DescribeTopicConfigs(ctx, p.topic)
	if err != nil {
		return s.failed("settings of topic "+p.topic, err)
	}
	for _, c := range configs {
		for _, e := range c.Configs {
			// A broker that does not tell leaves us the default.
			if n, err := strconv.Atoi(e.MaybeValue()); err == nil && e.Key == "max.message.bytes" {
				p.most = min(max(n, minBatch), maxBufferedBytes)
			}
		}
	}
	return nil
}

// write reads lines until there are no more, the context ends, or a failure
// ends it.
func (p *producer) write(ctx context.Context, giveUp func(), client *kgo.Client, in io.Reader) error {
	for l := range lines(ctx, in, p.most) {
		if l.err != nil {
			return fmt.Errorf("line %d: %w", l.number, l.err)
		}
		record, err := p.record(l)
		if err != nil {
			p.fail(l.number, err)
			continue
		}
		// A record that was read outlives the context: an interrupt ends the
		// reading only.
		client.Produce(context.WithoutCancel(ctx), record, func(_ *kgo.Record, err error) {
			if err == nil {
				p.mu.Lock()
				p.written++
				p.mu.Unlock()
				return
			}
			p.fail(l.number, p.explain(err))
			if !ofTheRecord(err) {
				giveUp()
			}
		})
	}
	return nil
}

func (p *producer) record(l line) (*kgo.Record, error) {
	if l.size > p.most {
		return nil, fmt.Errorf("%d bytes: %w", l.size, p.tooLarge())
	}
	r := &kgo.Record{Value: l.text, Headers: p.headers, Partition: p.partition}
	if p.separator != "" {
		key, value, ok := bytes.Cut(l.text, []byte(p.separator))
		if !ok {
			return nil, fmt.Errorf("there is no key separator %q in it", p.separator)
		}
		r.Key, r.Value = key, value
	}
	return r, nil
}

func (p *producer) fail(line int64, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed++; len(p.failures) < maxReported {
		p.failures = append(p.failures, failure{line, err})
	}
}

// ofTheRecord says whether an error leaves hope for other records.
func ofTheRecord(err error) bool {
	return errors.Is(err, kerr.MessageTooLarge) || errors.Is(err, kerr.InvalidRecord) || errors.Is(err, kerr.InvalidTimestamp)
}

func (p *producer) tooLarge() error {
	return fmt.Errorf("more than topic %s takes: a record with its batch may have %d bytes (max.message.bytes)", p.topic, p.most)
}

func (p *producer) explain(err error) error {
	switch {
	case errors.Is(err, kerr.MessageTooLarge):
		return p.tooLarge()
	case isDial(err):
		return fmt.Errorf("the broker is gone (%w): it may be written or not", err)
	case hungUp(err):
		return errors.New("the broker closed the connection before it answered: it may be written or not")
	case errors.Is(err, kgo.ErrRecordTimeout):
		return fmt.Errorf("the broker has not confirmed it within %v: it may be written or not", p.timeout)
	}
	return refused(p.topic, err, "")
}

// line is a line of input, without its end.
type line struct {
	number int64
	text   []byte
	size   int // more than len(text) if the line was too long to keep
	err    error
}

// lines reads on a goroutine of its own, since a read from a terminal or a pipe
// cannot be interrupted. It may stay behind in that read when the context ends.
func lines(ctx context.Context, in io.Reader, most int) iter.Seq[line] {
	read := make(chan line, 64)
	go func() {
		defer close(read)
		r := bufio.NewReaderSize(in, 64<<10)
		for n := int64(1); ; n++ {
			l := readLine(r, most)
			l.number = n
			end := l.err == io.EOF
			if end && l.size == 0 {
				return
			}
			if end {
				l.err = nil
			}
			select {
			case read <- l:
			case <-ctx.Done():
				return
			}
			if end || l.err != nil {
				return
			}
		}
	}()
	return func(yield func(line) bool) {
		for {
			select {
			case <-ctx.Done():
				return
			case l, ok := <-read:
				if !ok || !yield(l) {
					return
				}
			}
		}
	}
}

// readLine keeps no more than most bytes of a line.
func readLine(r *bufio.Reader, most int) line {
	l := line{text: []byte{}} // an empty line is an empty value: nil would be null, which deletes where topics are compacted
	for {
		part, err := r.ReadSlice('\n')
		if err == nil {
			part = part[:len(part)-1]
		}
		if l.size += len(part); l.size <= most {
			l.text = append(l.text, part...)
		}
		if err != bufio.ErrBufferFull {
			l.err = err
			return l
		}
	}
}
