package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/streambus/streambus/compat-tests/clients/driver"
)

// kcat asks librdkafka by its tool. What it writes is lines of text: the suite
// gives it no tabs and line feeds.
type kcat struct{ bootstrap []string }

func (k kcat) run(ctx context.Context, in io.Reader, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "kcat", append([]string{"-b", strings.Join(k.bootstrap, ","), "-m", "30", "-X", "topic.metadata.refresh.interval.ms=500"}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = in, &out, &errs
	if err := cmd.Run(); err != nil {
		said := errs.Bytes()
		return nil, fmt.Errorf("kcat %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(said[max(0, len(said)-1000):]))
	}
	return out.Bytes(), nil
}

func (k kcat) Metadata(ctx context.Context, topic string) (m driver.Metadata, err error) {
	out, err := k.run(ctx, nil, "-L", "-J", "-t", topic)
	if err != nil {
		return m, err
	}
	var said struct {
		Brokers []struct {
			ID   int32
			Name string
		}
		Topics []struct {
			Partitions []struct {
				Partition, Leader int32
				Replicas          []struct{ ID int32 }
			}
		}
	}
	if err := json.Unmarshal(out, &said); err != nil || len(said.Topics) != 1 {
		return m, fmt.Errorf("kcat says %s: %v", out, err)
	}
	for _, b := range said.Brokers {
		m.Brokers = append(m.Brokers, driver.Broker{ID: b.ID, Addr: b.Name})
	}
	m.Partitions = make([]driver.Partition, len(said.Topics[0].Partitions))
	for _, p := range said.Topics[0].Partitions {
		row := driver.Partition{Leader: p.Leader}
		for _, r := range p.Replicas {
			row.Replicas = append(row.Replicas, r.ID)
		}
		m.Partitions[p.Partition] = row
	}
	return m, nil
}

func (k kcat) Produce(ctx context.Context, p driver.Produce) error {
	args := []string{"-P", "-t", p.Topic, "-p", fmt.Sprint(p.Partition), "-z", p.Codec, "-K", "\t", "-X", "acks=all", "-X", "message.timeout.ms=60000", "-X", "linger.ms=5"}
	if p.Idempotent {
		args = append(args, "-X", "enable.idempotence=true")
	}
	for _, h := range p.Records[0].Headers {
		arg := h.Key
		if h.Value != nil {
			arg += "=" + string(h.Value)
		}
		args = append(args, "-H", arg)
	}
	var lines []string
	null, empty := false, false
	for _, r := range p.Records {
		if r.Time != 0 {
			return driver.Unsupported("it cannot set timestamps")
		}
		if !slices.EqualFunc(r.Headers, p.Records[0].Headers, sameHeader) {
			return driver.Unsupported("it gives all records the same headers")
		}
		line := string(r.Value) + "\n"
		if r.Key != nil {
			line = string(r.Key) + "\t" + line
		}
		lines = append(lines, line)
		null = null || r.Value == nil
		empty = empty || r.Value != nil && len(r.Value) == 0 || r.Key != nil && len(r.Key) == 0
	}
	if null && empty {
		return driver.Unsupported("it writes empty ones as null, or null as empty")
	}
	if null {
		args = append(args, "-Z")
	}
	in, feed := io.Pipe()
	go func() {
		for i, line := range lines {
			if i > 0 {
				time.Sleep(time.Duration(p.PauseMS) * time.Millisecond)
			}
			if _, err := io.WriteString(feed, line); err != nil { // kcat has ended
				return
			}
		}
		feed.Close()
	}()
	defer in.Close()
	_, err := k.run(ctx, in, args...)
	return err
}

func (k kcat) Fetch(ctx context.Context, f driver.Fetch) (records []driver.Record, err error) {
	from := fmt.Sprint(f.Offset)
	switch {
	case f.Last != 0:
		from = fmt.Sprint(-f.Last)
	case f.Time != 0:
		from = fmt.Sprint("s@", f.Time)
	}
	how := []string{"-C", "-q", "-t", f.Topic, "-p", fmt.Sprint(f.Partition), "-o", from}
	if f.Group != "" {
		how = []string{"-q", "-G", f.Group, "-X", "auto.offset.reset=earliest"}
	}
	how = append(how, "-c", fmt.Sprint(f.Count), "-X", "fetch.wait.max.ms=200", "-f", "%o %T %K %S %h\n%k%s\n")
	if f.Group != "" {
		how = append(how, f.Topic)
	}
	out, err := k.run(ctx, nil, how...)
	if err != nil {
		return nil, err
	}
	in := bufio.NewReader(bytes.NewReader(out))
	for {
		head, err := in.ReadString('\n')
		if errors.Is(err, io.EOF) && head == "" {
			return records, nil
		}
		var r driver.Record
		var key, value int
		if _, err := fmt.Sscanf(head, "%d %d %d %d", &r.Offset, &r.Time, &key, &value); err != nil {
			return nil, fmt.Errorf("kcat prints %q: %w", head, err)
		}
		if r.Key, err = sized(in, key); err == nil {
			r.Value, err = sized(in, value)
		}
		if err != nil {
			return nil, fmt.Errorf("kcat prints less than it says of offset %d: %w", r.Offset, err)
		}
		in.Discard(1)
		fields := strings.SplitN(strings.TrimSuffix(head, "\n"), " ", 5)
		if len(fields) == 5 && fields[4] != "" {
			for _, h := range strings.Split(fields[4], ",") {
				name, text, _ := strings.Cut(h, "=")
				header := driver.Header{Key: name, Value: []byte(text)}
				if text == "NULL" {
					header.Value = nil
				}
				r.Headers = append(r.Headers, header)
			}
		}
		records = append(records, r)
	}
}

// sized reads n bytes; less than none stand for null.
func sized(in io.Reader, n int) ([]byte, error) {
	if n < 0 {
		return nil, nil
	}
	b := make([]byte, n)
	_, err := io.ReadFull(in, b)
	return b, err
}
