package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/twmb/franz-go/pkg/kgo"
)

// franzMember is one member, in a process of its own, until it is told to end.
func franzMember(how, bootstrap, group, topic string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	opts := []kgo.Opt{
		kgo.SeedBrokers(strings.Split(bootstrap, ",")...), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(), kgo.SessionTimeout(sessionTime),
	}
	switch how {
	case "range":
		opts = append(opts, kgo.Balancers(kgo.RangeBalancer()))
	case "cooperative":
		opts = append(opts, kgo.Balancers(kgo.CooperativeStickyBalancer()))
	case "consumer":
		opts = append(opts, kgo.ServerSideBalancer())
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	defer cl.Close()
	out := bufio.NewWriter(os.Stdout)
	for {
		got := cl.PollFetches(ctx)
		if ctx.Err() != nil {
			cl.AllowRebalance()
			return out.Flush()
		}
		got.EachError(func(topic string, partition int32, err error) {
			fmt.Fprintln(os.Stderr, "franz-go:", topic, partition, err)
		})
		got.EachRecord(func(r *kgo.Record) { fmt.Fprintln(out, r.Partition, r.Offset) })
		if err := out.Flush(); err != nil {
			return err
		}
		if err := cl.CommitUncommittedOffsets(ctx); err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "franz-go: a commit failed:", err) // what is not committed is read again
		}
		cl.AllowRebalance()
	}
}
