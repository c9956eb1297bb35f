// Package driver is what the suite asks of a client library. A library in a
// program of its own is asked by a line of JSON on its standard input, and
// answers by one on its standard output.
package driver

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
)

// Client is a client library, in the words of the suite.
type Client interface {
	Metadata(ctx context.Context, topic string) (Metadata, error)
	// Produce returns when every record is acknowledged by all in-sync replicas.
	Produce(ctx context.Context, p Produce) error
	Fetch(ctx context.Context, f Fetch) ([]Record, error)
}

// Unsupported says what a library cannot do at all, which is no failure.
type Unsupported string

func (u Unsupported) Error() string { return string(u) }

// Metadata are the brokers, and the partitions of one topic, in order.
type Metadata struct {
	Brokers    []Broker
	Partitions []Partition
}

// Broker is a broker, and where clients are told to connect.
type Broker struct {
	ID   int32
	Addr string
}

// Partition is where a partition is.
type Partition struct {
	Leader   int32
	Replicas []int32
}

// Record is a record. A nil key or value is null, which an empty one is not.
type Record struct {
	Offset  int64
	Time    int64 // in milliseconds; when produced, 0 stands for now
	Key     []byte
	Value   []byte
	Headers []Header
}

// Header is one of a record's.
type Header struct {
	Key   string
	Value []byte
}

// Produce is to write records to a partition, in order.
type Produce struct {
	Topic      string
	Partition  int32
	Codec      string // none, gzip, snappy, lz4, zstd
	Idempotent bool
	PauseMS    int // before each record after the first, which then is sent alone
	Records    []Record
}

// Fetch is to read so many records of a partition.
type Fetch struct {
	Topic     string
	Partition int32
	Offset    int64
	Last      int64 // if not 0, so many before the end instead of Offset
	Time      int64 // if not 0, the first with this time or later instead of Offset
	Count     int
	// Group, if not empty, is of which the client is the only member: it reads all
	// partitions, goes on where the group has committed, or from the start, and commits
	// what it has read.
	Group string
}

// Request is one line to a program: one of these is set.
type Request struct {
	Metadata *string  `json:",omitempty"`
	Produce  *Produce `json:",omitempty"`
	Fetch    *Fetch   `json:",omitempty"`
}

// Answer is one line from it.
type Answer struct {
	Metadata    *Metadata `json:",omitempty"`
	Records     []Record  `json:",omitempty"`
	Error       string    `json:",omitempty"`
	Unsupported string    `json:",omitempty"`
}

// Serve answers what comes in by c until there is no more.
func Serve(ctx context.Context, c Client, in io.Reader, out io.Writer) error {
	requests, answers := json.NewDecoder(bufio.NewReader(in)), json.NewEncoder(out)
	for {
		var r Request
		if err := requests.Decode(&r); err != nil {
			if err == io.EOF {
				return nil
			}
			return err
		}
		if err := answers.Encode(answer(ctx, c, r)); err != nil {
			return err
		}
	}
}

func answer(ctx context.Context, c Client, r Request) (a Answer) {
	var err error
	switch {
	case r.Metadata != nil:
		var m Metadata
		m, err = c.Metadata(ctx, *r.Metadata)
		a.Metadata = &m
	case r.Produce != nil:
		err = c.Produce(ctx, *r.Produce)
	case r.Fetch != nil:
		a.Records, err = c.Fetch(ctx, *r.Fetch)
	}
	if u, ok := err.(Unsupported); ok {
		a.Unsupported = string(u)
	} else if err != nil {
		a.Error = err.Error()
	}
	return a
}
