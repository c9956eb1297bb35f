// Command kafkago lets the suite ask segmentio/kafka-go, for the brokers that
// its argument names, or is a member of a group with it.
package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/streambus/streambus/compat-tests/clients/driver"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "kafkago:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if args[0] == "member" {
		return member(args[1:])
	}
	return driver.Serve(context.Background(), client(strings.Split(args[0], ",")), os.Stdin, os.Stdout)
}

// client is the addresses to begin with.
type client []string

// connected calls f with a connection to any of the brokers.
func (c client) connected(ctx context.Context, f func(*kafka.Conn) error) error {
	var failed error
	for _, addr := range c {
		conn, err := kafka.DialContext(ctx, "tcp", addr)
		if err != nil {
			failed = errors.Join(failed, err)
			continue
		}
		defer conn.Close()
		return f(conn)
	}
	return failed
}

func (c client) Metadata(ctx context.Context, topic string) (m driver.Metadata, err error) {
	err = c.connected(ctx, func(conn *kafka.Conn) error {
		brokers, err := conn.Brokers()
		if err != nil {
			return err
		}
		for _, b := range brokers {
			m.Brokers = append(m.Brokers, driver.Broker{ID: int32(b.ID), Addr: net.JoinHostPort(b.Host, strconv.Itoa(b.Port))})
		}
		partitions, err := conn.ReadPartitions(topic)
		if err != nil {
			return err
		}
		slices.SortFunc(partitions, func(a, b kafka.Partition) int { return a.ID - b.ID })
		for _, p := range partitions {
			row := driver.Partition{Leader: int32(p.Leader.ID)}
			for _, r := range p.Replicas {
				row.Replicas = append(row.Replicas, int32(r.ID))
			}
			m.Partitions = append(m.Partitions, row)
		}
		return nil
	})
	return m, err
}

var codecs = map[string]kafka.Compression{"gzip": kafka.Gzip, "snappy": kafka.Snappy, "lz4": kafka.Lz4, "zstd": kafka.Zstd}

func (c client) Produce(ctx context.Context, p driver.Produce) error {
	if p.Idempotent {
		return driver.Unsupported("it has no idempotent producer")
	}
	w := &kafka.Writer{
		Addr: kafka.TCP(c...), Topic: p.Topic, Compression: codecs[p.Codec], RequiredAcks: kafka.RequireAll,
		Balancer:    kafka.BalancerFunc(func(kafka.Message, ...int) int { return int(p.Partition) }),
		MaxAttempts: 1000, WriteBackoffMax: 200 * time.Millisecond, BatchTimeout: time.Millisecond, BatchBytes: 1 << 20,
		ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second,
		Transport: &kafka.Transport{MetadataTTL: 500 * time.Millisecond, DialTimeout: 3 * time.Second},
	}
	defer w.Close()
	var all []kafka.Message
	for _, r := range p.Records {
		m := kafka.Message{Key: r.Key, Value: r.Value}
		if r.Time != 0 {
			m.Time = time.UnixMilli(r.Time)
		}
		for _, h := range r.Headers {
			m.Headers = append(m.Headers, kafka.Header{Key: h.Key, Value: h.Value})
		}
		all = append(all, m)
	}
	if p.PauseMS == 0 {
		return w.WriteMessages(ctx, all...)
	}
	for i, m := range all {
		if i > 0 {
			time.Sleep(time.Duration(p.PauseMS) * time.Millisecond)
		}
		if err := w.WriteMessages(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

func (c client) Fetch(ctx context.Context, f driver.Fetch) (records []driver.Record, err error) {
	if f.Group != "" {
		return c.fetchInGroup(ctx, f)
	}
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: c, Topic: f.Topic, Partition: int(f.Partition), MinBytes: 1, MaxBytes: 8 << 20, MaxWait: 200 * time.Millisecond})
	defer r.Close()
	switch {
	case f.Last != 0:
		var conn *kafka.Conn
		for _, addr := range c {
			if conn, err = kafka.DialLeader(ctx, "tcp", addr, f.Topic, int(f.Partition)); err == nil {
				break
			}
		}
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		end, err := conn.ReadLastOffset()
		if err != nil {
			return nil, err
		}
		f.Offset = end - f.Last
		fallthrough
	case f.Time == 0:
		err = r.SetOffset(f.Offset)
	default:
		err = r.SetOffsetAt(ctx, time.UnixMilli(f.Time))
	}
	for err == nil && len(records) < f.Count {
		var m kafka.Message
		if m, err = r.ReadMessage(ctx); err != nil {
			break
		}
		records = append(records, recordOf(m))
	}
	return records, err
}

func recordOf(m kafka.Message) driver.Record {
	r := driver.Record{Offset: m.Offset, Time: m.Time.UnixMilli(), Key: m.Key, Value: m.Value}
	for _, h := range m.Headers {
		r.Headers = append(r.Headers, driver.Header{Key: h.Key, Value: h.Value})
	}
	return r
}

func (c client) fetchInGroup(ctx context.Context, f driver.Fetch) (records []driver.Record, err error) {
	r := kafka.NewReader(kafka.ReaderConfig{Brokers: c, Topic: f.Topic, GroupID: f.Group, StartOffset: kafka.FirstOffset, MinBytes: 1, MaxBytes: 8 << 20, MaxWait: 200 * time.Millisecond})
	for err == nil && len(records) < f.Count {
		var m kafka.Message
		if m, err = r.FetchMessage(ctx); err == nil {
			records = append(records, recordOf(m))
			err = r.CommitMessages(ctx, m)
		}
	}
	return records, errors.Join(err, r.Close())
}
