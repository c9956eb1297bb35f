package main

import (
	"context"
	"errors"
	"log"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/streambus/streambus/compat-tests/clients/driver"
)

var franzAssignors = map[string][]kgo.GroupOpt{
	"range":              {kgo.Balancers(kgo.RangeBalancer())},
	"cooperative-sticky": {kgo.Balancers(kgo.CooperativeStickyBalancer())},
	"consumer/range":     {kgo.Balancers(kgo.RangeBalancer()), kgo.ServerSideBalancer()},
	"consumer/uniform":   {kgo.Balancers(kgo.StickyBalancer()), kgo.ServerSideBalancer()},
}

// member is a member of a group with franz-go, in a process of its own.
func member(args []string) error {
	ctx, m, err := driver.Member(args)
	if err != nil {
		return err
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(strings.Split(m.Bootstrap, ",")...), kgo.ConsumerGroup(m.Group), kgo.ConsumeTopics(m.Topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(), kgo.BlockRebalanceOnPoll(),
		kgo.SessionTimeout(driver.SessionSeconds * time.Second), kgo.HeartbeatInterval(driver.HeartbeatMS * time.Millisecond),
		kgo.RebalanceTimeout(10 * time.Second), kgo.MetadataMinAge(100 * time.Millisecond), kgo.FetchMaxWait(200 * time.Millisecond),
		kgo.OnPartitionsAssigned(func(_ context.Context, _ *kgo.Client, all map[string][]int32) { log.Print("assigned: ", all) }),
		kgo.OnPartitionsRevoked(func(_ context.Context, _ *kgo.Client, all map[string][]int32) { log.Print("revoked: ", all) }),
		kgo.OnPartitionsLost(func(_ context.Context, _ *kgo.Client, all map[string][]int32) { log.Print("lost: ", all) }),
		kgo.WithLogger(kgo.BasicLogger(log.Writer(), kgo.LogLevelWarn, nil)),
	}
	for _, o := range franzAssignors[m.How] {
		opts = append(opts, o)
	}
	cl, err := kgo.NewClient(opts...)
	if err != nil {
		return err
	}
	for ctx.Err() == nil {
		poll, cancel := context.WithTimeout(ctx, 300*time.Millisecond)
		fetches := cl.PollFetches(poll)
		cancel()
		fetches.EachError(func(_ string, p int32, err error) {
			if !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, context.Canceled) {
				log.Printf("fetch of partition %d: %v", p, err)
			}
		})
		fetches.EachRecord(func(r *kgo.Record) { driver.Read(r.Partition, r.Offset, r.Value) })
		commit(cl, m.Topic)
		cl.AllowRebalance()
	}
	cl.CloseAllowingRebalance()
	return nil
}

// commit commits what was read, or leaves it for the next time.
func commit(cl *kgo.Client, topic string) {
	offsets := cl.UncommittedOffsets()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := cl.CommitUncommittedOffsets(ctx); err != nil {
		log.Print("commit: ", err)
		return
	}
	for p, at := range offsets[topic] {
		driver.Committed(p, at.Offset)
	}
}
