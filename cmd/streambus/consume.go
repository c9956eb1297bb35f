package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"os/signal"
	"slices"
	"sync/atomic"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/schollz/progressbar/v3"
	"github.com/spf13/cobra"
	"github.com/twmb/franz-go/pkg/kgo"
	"golang.org/x/term"
)

func consumeCommand() *cobra.Command {
	c := &consumer{ids: partitions{all: true}}
	var format string
	var exitAtEnd bool
	cmd := &cobra.Command{
		Use:   "consume TOPIC",
		Short: "Print records",
		Long: `Print the records of a topic, and wait for more unless --until, --exit-at-end or
--count says where to stop. Records of one partition come in order; those of
several are mixed.

A place is start, end, an offset, -N for N records before the end, a time as
2006-01-02T15:04:05Z, or a time ago as -1h30m.
A time stands for the first record that is not older, as the broker finds it at
the start; if there is none, for the end.

What --format understands:
  %t %p %o %e        topic, partition, offset, leader epoch
  %k %v              key, value; also as %v{hex}, %v{base64}, %v{unpack{>I}}
  %K %V %T %H        lengths of key, value and topic, number of headers
  %h{%k=%v }         each header, by the format in the braces
  %d                 time in milliseconds; %d{go{2006-01-02T15:04:05Z07:00}} or
                     %d{strftime{%F %T}} in UTC
  %a{compression}    how the record's batch was compressed
  %% %{ %}           those characters; \n \t \r \\ \x00 as in C
kcat's %s, %S and %T are %v, %V and %d here.

With -o json each record is a line; a key, value or header that is not UTF-8
comes as keyBase64 or valueBase64.`,
		Example: `  streambus consume orders --exit-at-end
  streambus consume orders --from -1h --format '%o %d{strftime{%F %T}} %k: %v\n'
  streambus consume orders --partition 0 --from 2026-01-31T00:00:00Z --until end -o json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case cmd.Flags().Changed("count") && c.count < 1:
				return usagef("--count %d: must be at least 1", c.count)
			case cmd.Flags().Changed("format") && c.out.json():
				return usagef("--format is for -o text, and -o json was asked for: give one of them")
			case exitAtEnd && c.until.kind != atNone:
				return usagef("--exit-at-end is --until end, and --until %s was asked for: give one of them", c.until.text)
			case c.until.kind == atStart:
				return usagef("--until start: nothing comes before it")
			case exitAtEnd:
				c.until.kind = atEnd
			}
			var err error
			if c.format, err = kgo.NewRecordFormatter(format); err != nil {
				return usagef("--format '%s': %w", format, err)
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			context.AfterFunc(ctx, stop)
			// A reader that has enough, such as head, is no failure.
			signal.Ignore(syscall.SIGPIPE)
			c.topic = args[0]
			err = c.run(ctx, cmd.OutOrStdout())
			if errors.Is(err, syscall.EPIPE) || errors.Is(err, context.Canceled) && ctx.Err() != nil {
				return nil
			}
			return err
		},
	}
	c.remote, c.out = remoteFlags(cmd), outputFlag(cmd)
	f := cmd.Flags()
	f.VarP(&c.ids, "partition", "p", "the partitions: one, several with commas, or all")
	c.from = placeFlag(f, "from", "start", "where to begin: "+placeHelp)
	c.until = placeFlag(f, "until", "", "where to stop: before that place, given as for --from")
	f.BoolVarP(&exitAtEnd, "exit-at-end", "e", false, "stop where the topic ended when the command began: --until end")
	f.Int64VarP(&c.count, "count", "c", 0, "stop after so many records")
	f.StringVarP(&format, "format", "f", `%v\n`, "how a record is printed, see above")
	noDefault(cmd, "count")
	cmd.ValidArgsFunction = c.completeTopic
	return cmd
}

type consumer struct {
	*remote
	topic       string
	ids         partitions
	from, until *place
	count       int64 // 0: no limit
	out         output
	format      *kgo.RecordFormatter

	spans   map[int32]*span
	printed int64
	heard   heard
}

// span is what is read of a partition.
type span struct {
	from, next int64
	until      int64 // noEnd: for ever
}

const noEnd = math.MaxInt64

func (s *span) done() bool { return s.next >= s.until }

// heard is when a broker last answered: a hook of the client.
type heard struct{ at atomic.Int64 }

func (h *heard) OnBrokerRead(_ kgo.BrokerMetadata, _ int16, _ int, _, _ time.Duration, err error) {
	if err == nil {
		h.at.Store(time.Now().UnixNano())
	}
}

func (c *consumer) run(ctx context.Context, stdout io.Writer) error {
	s, err := c.open(ctx,
		kgo.WithHooks(&c.heard),
		// An idle broker answers in this time, so that silence tells.
		kgo.FetchMaxWait(min(5*time.Second, c.timeout/2)),
		// They are not printed, but they may be the last before the end.
		kgo.KeepControlRecords())
	if err != nil {
		return err
	}
	defer s.close()
	if err := c.assign(ctx, s); err != nil {
		return err
	}
	bar := c.progress()
	if bar != nil {
		defer bar.Clear()
	}
	w := bufio.NewWriterSize(stdout, 64<<10)
	for !c.done() {
		if err := c.poll(ctx, s, w); err != nil {
			return errors.Join(w.Flush(), err)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if bar != nil {
			bar.Set64(c.position())
		}
	}
	return nil
}

// assign finds out what is to be read.
func (c *consumer) assign(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	t, err := s.topic(ctx, c.topic)
	if err != nil {
		return err
	}
	ids, err := c.ids.of(t)
	if err != nil {
		return err
	}
	all, err := s.bounds(ctx, c.topic, ids)
	if err != nil {
		return err
	}
	from, err := s.offsets(ctx, c.topic, c.from, all)
	if err != nil {
		return err
	}
	until := map[int32]int64{}
	if c.until.kind != atNone {
		if until, err = s.offsets(ctx, c.topic, c.until, all); err != nil {
			return err
		}
	}
	c.spans = map[int32]*span{}
	offsets := map[int32]kgo.Offset{}
	for _, id := range ids {
		first := max(from[id], all[id].start)
		switch {
		case first > all[id].end:
			return fmt.Errorf("topic %s: partition %d ends at %d: there is no offset %d to begin at yet, --from end waits for more", c.topic, id, all[id].end, first)
		case first > from[id]:
			c.noteDeleted(id, first)
		}
		c.spans[id] = &span{from: first, next: first, until: noEnd}
		if c.until.kind != atNone {
			c.spans[id].until = until[id]
		}
		if !c.spans[id].done() {
			offsets[id] = kgo.NewOffset().At(first)
		}
	}
	if len(offsets) > 0 {
		s.client.AddConsumePartitions(map[string]map[int32]kgo.Offset{c.topic: offsets})
	}
	return nil
}

func (c *consumer) done() bool {
	if c.count > 0 && c.printed >= c.count {
		return true
	}
	for _, s := range c.spans {
		if !s.done() {
			return false
		}
	}
	return true
}

// poll prints what has come.
func (c *consumer) poll(ctx context.Context, s *session, w *bufio.Writer) error {
	began := time.Now().UnixNano()
	wait, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	fetches := s.client.PollRecords(wait, 10_000)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case wait.Err() != nil && c.heard.at.Load() < began:
		return fmt.Errorf("topic %s: the broker at %s has not answered for %v: is it still there? --timeout waits longer", c.topic, c.bootstrap, c.timeout)
	case wait.Err() != nil && c.until.kind != atNone:
		return c.skipDeleted(ctx, s)
	}
	var failed error
	fetches.EachError(func(_ string, _ int32, err error) {
		if !errors.Is(err, context.DeadlineExceeded) {
			failed = refused(c.topic, err, "")
		}
	})
	fetches.EachPartition(func(p kgo.FetchTopicPartition) {
		span, ok := c.spans[p.Partition]
		if !ok {
			return // an error of no partition
		}
		for _, r := range p.Records {
			// What is deleted, or was compacted, may leave a gap up to the end.
			if r.Offset >= span.until {
				span.next = span.until
			}
			if failed != nil || c.done() || span.done() {
				break
			}
			span.next = r.Offset + 1
			if !r.Attrs.IsControl() {
				failed = c.print(w, r)
			}
		}
		if span.done() {
			s.client.PauseFetchPartitions(map[string][]int32{c.topic: {p.Partition}})
		}
	})
	return failed
}

// skipDeleted finds out whether what is waited for has been deleted.
func (c *consumer) skipDeleted(ctx context.Context, s *session) error {
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	all, err := s.bounds(ctx, c.topic, slices.Collect(maps.Keys(c.spans)))
	if err != nil {
		return err
	}
	for id, span := range c.spans {
		if start := min(all[id].start, span.until); !span.done() && start > span.next {
			c.noteDeleted(id, all[id].start)
			span.next = start
		}
	}
	return nil
}

func (c *consumer) noteDeleted(id int32, start int64) {
	fmt.Fprintf(os.Stderr, "streambus: topic %s: partition %d starts at %d: what was before is deleted\n", c.topic, id, start)
}

func (c *consumer) print(w *bufio.Writer, r *kgo.Record) error {
	c.printed++
	if c.out.json() {
		return newEncoder(w).Encode(newJSONRecord(r))
	}
	_, err := w.Write(c.format.AppendRecord(w.AvailableBuffer(), r))
	return err
}

type jsonRecord struct {
	Topic       string       `json:"topic"`
	Partition   int32        `json:"partition"`
	Offset      int64        `json:"offset"`
	Time        string       `json:"time"`
	Key         *string      `json:"key"`
	KeyBase64   string       `json:"keyBase64,omitempty"`
	Value       *string      `json:"value"`
	ValueBase64 string       `json:"valueBase64,omitempty"`
	Headers     []jsonHeader `json:"headers,omitempty"`
}

type jsonHeader struct {
	Key         string  `json:"key"`
	Value       *string `json:"value"`
	ValueBase64 string  `json:"valueBase64,omitempty"`
}

func newJSONRecord(r *kgo.Record) jsonRecord {
	j := jsonRecord{Topic: r.Topic, Partition: r.Partition, Offset: r.Offset, Time: r.Timestamp.UTC().Format("2006-01-02T15:04:05.000Z07:00")}
	j.Key, j.KeyBase64 = jsonText(r.Key)
	j.Value, j.ValueBase64 = jsonText(r.Value)
	for _, h := range r.Headers {
		text, encoded := jsonText(h.Value)
		j.Headers = append(j.Headers, jsonHeader{h.Key, text, encoded})
	}
	return j
}

// jsonText gives bytes as text, or encoded where JSON would change them.
func jsonText(b []byte) (text *string, encoded string) {
	switch {
	case b == nil:
		return nil, ""
	case !utf8.Valid(b):
		return nil, base64.StdEncoding.EncodeToString(b)
	}
	s := string(b)
	return &s, ""
}

// progress makes a bar for who looks at a terminal while the records go
// elsewhere; none otherwise, and where no end is known.
func (c *consumer) progress() *progressbar.ProgressBar {
	total := c.total()
	if total == 0 || total == noEnd || !term.IsTerminal(int(os.Stderr.Fd())) || term.IsTerminal(int(os.Stdout.Fd())) {
		return nil
	}
	return progressbar.NewOptions64(total,
		progressbar.OptionSetWriter(os.Stderr),
		progressbar.OptionSetDescription(c.topic),
		progressbar.OptionShowCount(),
		progressbar.OptionThrottle(100*time.Millisecond),
		progressbar.OptionSetRenderBlankState(true))
}

// total is how far position can come.
func (c *consumer) total() int64 {
	var sum int64
	for _, s := range c.spans {
		if s.until == noEnd {
			sum = noEnd
			break
		}
		sum += max(0, s.until-s.from)
	}
	if c.count > 0 {
		return min(sum, c.count)
	}
	return sum
}

func (c *consumer) position() int64 {
	if c.count > 0 {
		return min(c.printed, c.total())
	}
	var sum int64
	for _, s := range c.spans {
		sum += s.next - s.from
	}
	return sum
}
