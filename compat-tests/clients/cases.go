package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/streambus/streambus/compat-tests/clients/driver"
)

// try is one case with one client.
type try struct {
	client  driver.Client
	ours    franz // makes topics, and writes and reads what the client is compared with
	cluster *cluster
	topic   string // of three partitions, for this try alone
	factor  int16
	// blurred says that the client reads empty keys, values and headers as null.
	blurred bool
}

// differ compares what the client has read, as far as it can tell.
func (t *try) differ(got, want []driver.Record, first int64) error {
	if t.blurred {
		got, want = blur(got), blur(want)
	}
	return differ(got, want, first)
}

// blur makes null of what is empty.
func blur(records []driver.Record) []driver.Record {
	null := func(b []byte) []byte {
		if len(b) == 0 {
			return nil
		}
		return b
	}
	blurred := slices.Clone(records)
	for i := range blurred {
		r := &blurred[i]
		r.Key, r.Value, r.Headers = null(r.Key), null(r.Value), slices.Clone(r.Headers)
		for j := range r.Headers {
			r.Headers[j].Value = null(r.Headers[j].Value)
		}
	}
	return blurred
}

type testCase struct {
	name string
	run  func(context.Context, *try) error
}

var cases = []testCase{
	{"metadata", metadata},
	{"codec none", codec("none", 0)},
	{"codec gzip", codec("gzip", 1)},
	{"codec snappy", codec("snappy", 2)},
	{"codec lz4", codec("lz4", 3)},
	{"codec zstd", codec("zstd", 4)},
	{"keys", written(driver.Record{Key: []byte("a key"), Value: []byte("1")}, driver.Record{Value: []byte("no key")}, driver.Record{Key: []byte("ключ"), Value: []byte("2")})},
	{"empty keys and values", written(driver.Record{Key: []byte{}, Value: []byte("1")}, driver.Record{Key: []byte("k"), Value: []byte{}})},
	{"null values", written(driver.Record{Key: []byte("gone")}, driver.Record{Key: []byte("k"), Value: []byte("v")})},
	{"headers", written(withHeaders("1"), withHeaders("2"))},
	{"large values", large},
	{"timestamps written", timestamps},
	{"read what franz-go wrote", readOurs},
	{"seek to an offset", seek},
	{"seek from the end", seekLast},
	{"seek to a time", seekTime},
	{"idempotent producer", idempotent},
	{"a group goes on", groupGoesOn},
	{"a broker is killed", brokerKilled},
}

func metadata(ctx context.Context, t *try) error {
	want, err := t.ours.Metadata(ctx, t.topic)
	if err != nil {
		return err
	}
	got, err := t.client.Metadata(ctx, t.topic)
	if err != nil {
		return err
	}
	for _, m := range []*driver.Metadata{&want, &got} {
		slices.SortFunc(m.Brokers, func(a, b driver.Broker) int { return cmp.Compare(a.ID, b.ID) })
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		return fmt.Errorf("it sees %v, franz-go %v", got, want)
	}
	if len(got.Partitions) != 3 || len(got.Partitions[0].Replicas) != int(t.factor) {
		return fmt.Errorf("it sees %v, want 3 partitions of %d replicas", got, t.factor)
	}
	return nil
}

// codec writes with one, and looks at what the batches have that are stored.
func codec(name string, number uint8) func(context.Context, *try) error {
	return func(ctx context.Context, t *try) error {
		records := texts(200)
		if err := t.roundTrip(ctx, driver.Produce{Codec: name, Records: records}); err != nil {
			return err
		}
		_, codecs, err := t.ours.fetch(ctx, driver.Fetch{Topic: t.topic, Count: len(records)})
		if i := slices.IndexFunc(codecs, func(c uint8) bool { return c != number }); err == nil && i >= 0 {
			err = fmt.Errorf("record %d is in a batch of codec %d, want %d", i, codecs[i], number)
		}
		return err
	}
}

func written(records ...driver.Record) func(context.Context, *try) error {
	return func(ctx context.Context, t *try) error {
		return t.roundTrip(ctx, driver.Produce{Codec: "none", Records: records})
	}
}

func withHeaders(value string) driver.Record {
	return driver.Record{Value: []byte(value), Headers: []driver.Header{
		{Key: "trace", Value: []byte("1")}, {Key: "trace", Value: []byte("2")}, {Key: "empty", Value: []byte{}}, {Key: "null"},
	}}
}

// large writes values of nearly as much as a batch may have.
func large(ctx context.Context, t *try) error {
	random := rand.New(rand.NewPCG(1, 2))
	var records []driver.Record
	for range 5 {
		b := make([]byte, 490_000)
		for i := range b {
			b[i] = byte(random.Uint32())
		}
		records = append(records, driver.Record{Value: []byte(hex.EncodeToString(b))})
	}
	return t.roundTrip(ctx, driver.Produce{Codec: "none", Records: records})
}

// past is the time of the first record that is given one: retention has to let it
// be.
var past = time.Now().Add(-time.Hour).UnixMilli()

// dated are records a second from each other.
func dated(n int) []driver.Record {
	records := texts(n)
	for i := range records {
		records[i].Time = past + int64(i)*1000
	}
	return records
}

func timestamps(ctx context.Context, t *try) error {
	return t.roundTrip(ctx, driver.Produce{Codec: "none", Records: dated(10)})
}

func readOurs(ctx context.Context, t *try) error {
	records := dated(500)
	records[7].Value, records[8].Value, records[9].Key = nil, []byte{}, []byte("k")
	records[10].Headers = withHeaders("").Headers
	if err := t.ours.Produce(ctx, driver.Produce{Topic: t.topic, Partition: 2, Codec: "zstd", Records: records}); err != nil {
		return err
	}
	got, err := t.client.Fetch(ctx, driver.Fetch{Topic: t.topic, Partition: 2, Count: len(records)})
	return errors.Join(err, t.differ(got, records, 0))
}

func seek(ctx context.Context, t *try) error {
	return t.seeks(ctx, driver.Fetch{Offset: 321, Count: 5}, 321)
}

func seekLast(ctx context.Context, t *try) error {
	return t.seeks(ctx, driver.Fetch{Last: 5, Count: 5}, 495)
}

// seekTime asks for a time between two records: the later one is meant.
func seekTime(ctx context.Context, t *try) error {
	return t.seeks(ctx, driver.Fetch{Time: past + 122_500, Count: 5}, 123)
}

func (t *try) seeks(ctx context.Context, f driver.Fetch, want int64) error {
	records := dated(500)
	if err := t.ours.Produce(ctx, driver.Produce{Topic: t.topic, Codec: "gzip", Records: records}); err != nil {
		return err
	}
	f.Topic = t.topic
	got, err := t.client.Fetch(ctx, f)
	return errors.Join(err, t.differ(got, records[want:int(want)+f.Count], want))
}

func idempotent(ctx context.Context, t *try) error {
	return t.roundTrip(ctx, driver.Produce{Codec: "lz4", Idempotent: true, Records: texts(2000)})
}

// brokerKilled kills the leader while it is written to. With replicas it stays
// away until all is acknowledged; without, that takes its coming back.
// groupGoesOn has three members of a group, one after the other, read a third each.
func groupGoesOn(ctx context.Context, t *try) error {
	const each = 50
	var want, got []string
	for partition := range int32(3) {
		records := texts(each)
		for i := range records {
			records[i].Value = fmt.Append(nil, partition, "/", i)
			want = append(want, string(records[i].Value))
		}
		if err := t.ours.Produce(ctx, driver.Produce{Topic: t.topic, Partition: partition, Codec: "none", Records: records}); err != nil {
			return err
		}
	}
	for range 3 {
		records, err := t.client.Fetch(ctx, driver.Fetch{Topic: t.topic, Group: "group-of-" + t.topic, Count: each})
		if err != nil {
			return fmt.Errorf("after %d records: %w", len(got), err)
		}
		for _, r := range records {
			got = append(got, string(r.Value))
		}
	}
	slices.Sort(want)
	slices.Sort(got)
	if !slices.Equal(got, want) {
		return fmt.Errorf("%d records were read in a group, of which %d are different ones, want %d", len(got), len(slices.Compact(got)), len(want))
	}
	return nil
}

func brokerKilled(ctx context.Context, t *try) error {
	if t.cluster.kill == nil {
		return driver.Unsupported("brokers that were not started here are not killed")
	}
	m, err := t.ours.Metadata(ctx, t.topic)
	if err != nil {
		return err
	}
	leader := m.Partitions[0].Leader
	p := driver.Produce{Topic: t.topic, Codec: "none", Idempotent: true, PauseMS: 3, Records: texts(500)}
	produced := make(chan struct{})
	var failed error // after produced is closed
	go func() {
		defer close(produced)
		failed = t.client.Produce(ctx, p)
		if unsupported := driver.Unsupported(""); errors.As(failed, &unsupported) {
			p.Idempotent = false
			failed = t.client.Produce(ctx, p)
		}
	}()
	if err := t.ours.reaches(ctx, t.topic, 50); err != nil {
		return err
	}
	if err := t.cluster.kill(ctx, leader); err != nil {
		return err
	}
	select {
	case <-produced:
		err = errors.Join(failed, errors.New("all was written when the broker was killed: this says nothing"))
	default:
	}
	if t.factor > 1 {
		<-produced
	}
	if err := errors.Join(err, t.cluster.revive(ctx, leader)); err != nil {
		return err
	}
	if <-produced; failed != nil {
		return failed
	}
	end, err := t.ours.end(ctx, t.topic)
	if err != nil {
		return err
	}
	got, err := t.client.Fetch(ctx, driver.Fetch{Topic: t.topic, Count: int(end)})
	if err != nil {
		return err
	}
	if !p.Idempotent { // what was tried again may be there twice
		got = slices.CompactFunc(got, func(a, b driver.Record) bool { return bytes.Equal(a.Value, b.Value) })
		for i := range got {
			got[i].Offset = int64(i)
		}
	}
	return differ(got, p.Records, 0)
}

// texts are records with a text each that no other has.
func texts(n int) []driver.Record {
	records := make([]driver.Record, n)
	for i := range records {
		records[i].Value = fmt.Appendf(nil, "record %d of %d, %s", i, n, strings.Repeat("abc", i%20))
	}
	return records
}

// roundTrip writes records, and has both sides read them.
func (t *try) roundTrip(ctx context.Context, p driver.Produce) error {
	p.Topic, p.Partition = t.topic, 0
	begun := time.Now().UnixMilli()
	if err := t.client.Produce(ctx, p); err != nil {
		return err
	}
	ended := time.Now().UnixMilli()
	for _, reader := range []struct {
		name   string
		client driver.Client
		differ func(got, want []driver.Record, first int64) error
	}{{"franz-go", t.ours, differ}, {"it", t.client, t.differ}} {
		got, err := reader.client.Fetch(ctx, driver.Fetch{Topic: t.topic, Count: len(p.Records)})
		if err == nil {
			err = reader.differ(got, p.Records, 0)
		}
		for i := range got {
			if err == nil && p.Records[i].Time == 0 && (got[i].Time < begun || got[i].Time > ended) {
				err = fmt.Errorf("record %d has the time %d, and was written between %d and %d", i, got[i].Time, begun, ended)
			}
		}
		if err != nil {
			return fmt.Errorf("%s reads: %w", reader.name, err)
		}
	}
	return nil
}

// differ compares what was read from an offset on with what was written. A time of
// 0 stands for any.
func differ(got, want []driver.Record, first int64) error {
	if len(got) != len(want) {
		return fmt.Errorf("%d records, want %d", len(got), len(want))
	}
	for i, g := range got {
		w := want[i]
		w.Offset = first + int64(i)
		if w.Time == 0 {
			w.Time = g.Time
		}
		if g.Offset != w.Offset || g.Time != w.Time || !same(g.Key, w.Key) || !same(g.Value, w.Value) || !slices.EqualFunc(g.Headers, w.Headers, sameHeader) {
			return fmt.Errorf("record %d is %s, want %s", i, show(g), show(w))
		}
	}
	return nil
}

// same tells null from empty.
func same(a, b []byte) bool { return bytes.Equal(a, b) && (a == nil) == (b == nil) }

func sameHeader(a, b driver.Header) bool { return a.Key == b.Key && same(a.Value, b.Value) }

func show(r driver.Record) string {
	text := func(b []byte) string {
		switch {
		case b == nil:
			return "null"
		case len(b) > 60:
			return fmt.Sprintf("%.60q... (%d bytes)", b, len(b))
		}
		return fmt.Sprintf("%q", b)
	}
	s := fmt.Sprintf("{offset %d, time %d, key %s, value %s", r.Offset, r.Time, text(r.Key), text(r.Value))
	for _, h := range r.Headers {
		s += fmt.Sprintf(", %s=%s", h.Key, text(h.Value))
	}
	return s + "}"
}
