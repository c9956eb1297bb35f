// Command sarama is a member of a group with IBM/sarama.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"github.com/IBM/sarama"

	"github.com/streambus/streambus/compat-tests/clients/driver"
)

func main() {
	if len(os.Args) < 2 || os.Args[1] != "member" {
		fmt.Fprintln(os.Stderr, "sarama: it is a member only")
		os.Exit(2)
	}
	if err := member(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "sarama:", err)
		os.Exit(1)
	}
}

var assignors = map[string]sarama.BalanceStrategy{"range": sarama.NewBalanceStrategyRange(), "sticky": sarama.NewBalanceStrategySticky()}

func member(args []string) error {
	ctx, m, err := driver.Member(args)
	if err != nil {
		return err
	}
	sarama.Logger = log.New(os.Stderr, "", log.Ltime)
	c := sarama.NewConfig()
	c.Version = sarama.V2_8_0_0
	c.Metadata.RefreshFrequency = 500 * time.Millisecond
	c.Consumer.Offsets.Initial = sarama.OffsetOldest
	c.Consumer.Offsets.AutoCommit.Enable = false
	c.Consumer.MaxWaitTime = 200 * time.Millisecond
	c.Consumer.Retry.Backoff = 200 * time.Millisecond
	c.Consumer.Group.Session.Timeout = driver.SessionSeconds * time.Second
	c.Consumer.Group.Heartbeat.Interval = driver.HeartbeatMS * time.Millisecond
	c.Consumer.Group.Rebalance.Timeout = 10 * time.Second
	c.Consumer.Group.Rebalance.Retry.Backoff = 200 * time.Millisecond
	c.Consumer.Group.Rebalance.Retry.Max = 100
	c.Consumer.Group.Rebalance.GroupStrategies = []sarama.BalanceStrategy{assignors[m.How]}
	group, err := sarama.NewConsumerGroup(strings.Split(m.Bootstrap, ","), m.Group, c)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		// It returns with each rebalance. While there is no coordinator it fails.
		if err := group.Consume(ctx, []string{m.Topic}, reader{}); err != nil && !errors.Is(err, context.Canceled) {
			log.Print("consume: ", err)
		}
	}
	return group.Close()
}

// reader commits when it has read what has come. The library does not say what
// became of a commit.
type reader struct{}

func (reader) Setup(s sarama.ConsumerGroupSession) error {
	log.Print("assigned: ", s.Claims())
	return nil
}

func (reader) Cleanup(sarama.ConsumerGroupSession) error { return nil }

func (reader) ConsumeClaim(s sarama.ConsumerGroupSession, c sarama.ConsumerGroupClaim) error {
	for x := range c.Messages() {
		driver.Read(x.Partition, x.Offset, x.Value)
		s.MarkMessage(x, "")
		if len(c.Messages()) == 0 {
			s.Commit()
		}
	}
	return nil
}
