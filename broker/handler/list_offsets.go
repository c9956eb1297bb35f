package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/image"
)

// Timestamps that ask for an end of the log rather than for a time.
const (
	latest   = -1
	earliest = -2
)

// listOffsets finds the ends of partitions (versions 1-9; 4 adds the leader
// epoch). Looking up by time is not served.
func (b *Broker) listOffsets(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.ListOffsetsRequest)
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	img := b.Image()
	seen := map[string]map[int32]int{}
	for i := range req.Topics {
		t := &req.Topics[i]
		if seen[t.Topic] == nil {
			seen[t.Topic] = map[int32]int{}
		}
		for j := range t.Partitions {
			seen[t.Topic][t.Partitions[j].Partition]++
		}
	}
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		for j := range t.Partitions {
			row := kmsg.NewListOffsetsResponseTopicPartition()
			row.Partition = t.Partitions[j].Partition
			if seen[t.Topic][row.Partition] > 1 {
				row.ErrorCode = int16(protocol.InvalidRequest)
			} else {
				at, err := b.end(img, t.Topic, &t.Partitions[j])
				row.Offset, row.LeaderEpoch, row.ErrorCode = at.Offset, at.Epoch, int16(errorCode(err))
			}
			rt.Partitions = append(rt.Partitions, row)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	done(&protocol.Response{Body: resp})
}

func (b *Broker) end(img *image.Image, topic string, p *kmsg.ListOffsetsRequestTopicPartition) (replica.Position, error) {
	rep, err := b.find(img, topic, image.UUID{}, false, p.Partition)
	if err != nil {
		return replica.Position{Offset: -1, Epoch: -1}, err
	}
	switch p.Timestamp {
	case latest:
		return rep.Latest(p.CurrentLeaderEpoch)
	case earliest:
		return rep.Earliest(p.CurrentLeaderEpoch)
	default:
		return replica.Position{Offset: -1, Epoch: -1}, errLookupByTime
	}
}
