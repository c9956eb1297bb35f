package handler

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// describeTopicPartitions pages through partitions in the order of topic
// names (version 0, KIP-966).
func (b *Broker) describeTopicPartitions(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.DescribeTopicPartitionsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeTopicPartitionsResponse)
	resp.Topics = []kmsg.DescribeTopicPartitionsResponseTopic{}
	b.Replicas.AwaitLeaders(ctx)
	img := b.Current(ctx)
	names := askedNames(img, req)
	left := max(1, min(b.Config.Number("max.request.partition.size.limit"), int64(req.ResponsePartitionLimit)))
	lost := req.Cursor != nil && len(req.Topics) > 0 && !slices.Contains(names, req.Cursor.Topic)
	if lost || req.Cursor != nil && req.Cursor.Partition < 0 {
		for i := range req.Topics {
			row := kmsg.NewDescribeTopicPartitionsResponseTopic()
			row.Topic, row.ErrorCode = &req.Topics[i].Topic, int16(protocol.InvalidRequest)
			resp.Topics = append(resp.Topics, row)
		}
		done(&protocol.Response{Body: resp})
		return
	}
	for _, name := range names {
		first := int32(0)
		if req.Cursor != nil && req.Cursor.Topic == name {
			first = req.Cursor.Partition
		}
		if left == 0 {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: first}
			break
		}
		row := kmsg.NewDescribeTopicPartitionsResponseTopic()
		row.Topic, row.AuthorizedOperations = &name, allTopicOperations
		row.Partitions = []kmsg.DescribeTopicPartitionsResponseTopicPartition{}
		t, ok := img.Topic(name)
		if !ok {
			row.ErrorCode = int16(errorCode(cmp.Or(control.ValidateTopicName(name), errUnknownTopic)))
			resp.Topics = append(resp.Topics, row)
			continue
		}
		row.TopicID = t.ID
		last := int32(min(int64(t.NumPartitions()), int64(first)+left))
		for i := first; i < last; i++ {
			row.Partitions = append(row.Partitions, describePartition(img, t, i))
			left--
		}
		resp.Topics = append(resp.Topics, row)
		if last < t.NumPartitions() {
			resp.NextCursor = &kmsg.DescribeTopicPartitionsResponseNextCursor{Topic: name, Partition: last}
			break
		}
	}
	done(&protocol.Response{Body: resp})
}

// askedNames are the topics to describe, each once, from the cursor on. Without
// names it is all topics.
func askedNames(img *image.Image, req *kmsg.DescribeTopicPartitionsRequest) []string {
	var names []string
	for _, t := range req.Topics {
		names = append(names, t.Topic)
	}
	if len(names) == 0 {
		for t := range img.Topics() {
			names = append(names, t.Name)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if req.Cursor == nil {
		return names
	}
	return slices.DeleteFunc(names, func(name string) bool { return strings.Compare(name, req.Cursor.Topic) < 0 })
}

func describePartition(img *image.Image, t *image.Topic, i int32) kmsg.DescribeTopicPartitionsResponseTopicPartition {
	s, _ := t.Partition(i)
	p := kmsg.NewDescribeTopicPartitionsResponseTopicPartition()
	p.Partition, p.LeaderID, p.LeaderEpoch = i, s.Leader, s.LeaderEpoch
	p.Replicas, p.ISR = slices.Clone(s.Replicas), slices.Clone(s.ISR)
	p.EligibleLeaderReplicas, p.LastKnownELR = append([]int32{}, s.ELR...), []int32{} // known, and none
	if _, ok := img.Broker(s.Leader); !ok {
		p.LeaderID, p.LeaderEpoch, p.ErrorCode = -1, -1, int16(protocol.LeaderNotAvailable)
	}
	return p
}
