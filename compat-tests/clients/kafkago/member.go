package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/segmentio/kafka-go"
)

// member prints the partition and offset of each record that it reads in a group, and
// commits it, until it is told to end.
func member(bootstrap []string, group, topic string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: bootstrap, GroupID: group, Topic: topic, StartOffset: kafka.FirstOffset, MinBytes: 1, MaxBytes: 8 << 20,
		MaxWait: 200 * time.Millisecond, SessionTimeout: 6 * time.Second, CommitInterval: 100 * time.Millisecond,
	})
	for {
		m, err := r.FetchMessage(ctx)
		if ctx.Err() != nil {
			return r.Close()
		}
		if err != nil {
			return err
		}
		fmt.Println(m.Partition, m.Offset)
		if err := r.CommitMessages(ctx, m); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "kafkago: a commit failed:", err)
		}
	}
}
