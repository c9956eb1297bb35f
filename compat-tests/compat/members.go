package main

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// enroll makes g-members a group of the consumer protocol with two members, of which
// one is static, and offsets. They say nothing more, and are there for a session.
func enroll(ctx context.Context, addr string) error {
	cl, err := kgo.NewClient(kgo.SeedBrokers(addr), kgo.ClientID("enrolled"))
	if err != nil {
		return err
	}
	defer cl.Close()
	type topics = []kmsg.ConsumerGroupHeartbeatRequestTopic
	members := map[string]*kmsg.ConsumerGroupHeartbeatRequest{}
	beat := func(id string) error {
		req := members[id]
		resp, err := req.RequestWith(ctx, cl)
		if err != nil {
			return err
		}
		if resp.ErrorCode != 0 {
			return fmt.Errorf("%s is refused with %d: %s", id, resp.ErrorCode, deref(resp.ErrorMessage))
		}
		next := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		next.Group, next.MemberID, next.MemberEpoch, next.InstanceID, next.Topics = req.Group, id, resp.MemberEpoch, req.InstanceID, req.Topics
		if resp.Assignment != nil {
			next.Topics = topics{}
			for _, t := range resp.Assignment.Topics {
				next.Topics = append(next.Topics, kmsg.ConsumerGroupHeartbeatRequestTopic{TopicID: t.TopicID, Partitions: t.Partitions})
			}
		}
		members[id] = next
		return nil
	}
	for _, id := range []string{"m-1", "m-2"} {
		req := kmsg.NewPtrConsumerGroupHeartbeatRequest()
		req.Group, req.MemberID, req.RebalanceTimeoutMillis = "g-members", id, 60_000
		req.SubscribedTopicNames, req.Topics = []string{"t-one"}, topics{}
		if id == "m-2" {
			req.InstanceID, req.RackID = kmsg.StringPtr("i-2"), kmsg.StringPtr("r-2")
			req.ServerAssignor = kmsg.StringPtr("range")
		}
		members[id] = req
	}
	for _, id := range []string{"m-1", "m-1", "m-2", "m-1", "m-1", "m-2", "m-2"} {
		if err := beat(id); err != nil {
			return err
		}
	}
	commit := kmsg.NewPtrOffsetCommitRequest()
	commit.Group, commit.MemberID, commit.Generation = "g-members", "m-1", members["m-1"].MemberEpoch
	commit.Topics = []kmsg.OffsetCommitRequestTopic{{TopicID: members["m-1"].Topics[0].TopicID, Partitions: []kmsg.OffsetCommitRequestTopicPartition{{Partition: 0, Offset: 5, LeaderEpoch: -1}}}}
	resp, err := commit.RequestWith(ctx, cl)
	if err == nil && resp.Topics[0].Partitions[0].ErrorCode != 0 {
		err = fmt.Errorf("the commit is refused with %d", resp.Topics[0].Partitions[0].ErrorCode)
	}
	return err
}
