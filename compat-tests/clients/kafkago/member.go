package main

import (
	"context"
	"log"
	"os"
	"strings"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/streambus/streambus/compat-tests/clients/driver"
)

// member commits record by record: the library knows no more of what it has read.
// What it could not commit it reads again, when it is back in the group.
func member(args []string) error {
	ctx, m, err := driver.Member(args)
	if err != nil {
		return err
	}
	r := kafka.NewReader(kafka.ReaderConfig{
		Brokers: strings.Split(m.Bootstrap, ","), GroupID: m.Group, Topic: m.Topic, StartOffset: kafka.FirstOffset,
		SessionTimeout: driver.SessionSeconds * time.Second, HeartbeatInterval: driver.HeartbeatMS * time.Millisecond,
		RebalanceTimeout: 10 * time.Second, JoinGroupBackoff: 200 * time.Millisecond,
		MinBytes: 1, MaxBytes: 8 << 20, MaxWait: 200 * time.Millisecond, ReadBackoffMax: 200 * time.Millisecond,
		ErrorLogger: log.New(os.Stderr, "", log.Ltime),
	})
	for ctx.Err() == nil {
		x, err := r.FetchMessage(ctx)
		if err != nil {
			log.Print("fetch: ", err)
			continue
		}
		driver.Read(int32(x.Partition), x.Offset, x.Value)
		commit, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		err = r.CommitMessages(commit, x)
		cancel()
		if err != nil {
			log.Print("commit: ", err)
			continue
		}
		driver.Committed(int32(x.Partition), x.Offset+1)
	}
	return r.Close()
}
