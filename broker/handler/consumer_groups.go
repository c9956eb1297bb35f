package handler

import (
	"context"
	"iter"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/group"
	"github.com/streambus/streambus/protocol"
)

// consumerGroupHeartbeat is what members of the consumer protocol say and are told
// (versions 0-1; in 1 they choose their ids, and may subscribe with a pattern).
func (b *Broker) consumerGroupHeartbeat(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.ConsumerGroupHeartbeatRequest)
	b.inGroup(req.Group, func(core *group.Shard, now time.Time, token any) group.Effects {
		return core.ConsumerHeartbeat(now, req, b.groupMetadata(req.Group), client(r), token)
	}, done, func(code protocol.ErrorCode) kmsg.Response {
		resp := req.ResponseKind().(*kmsg.ConsumerGroupHeartbeatResponse)
		resp.ErrorCode = int16(code)
		return resp
	})
}

// consumerGroupDescribe tells of groups of the consumer protocol (versions 0-1).
func (b *Broker) consumerGroupDescribe(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.ConsumerGroupDescribeRequest)
	resp := req.ResponseKind().(*kmsg.ConsumerGroupDescribeResponse)
	resp.Groups = make([]kmsg.ConsumerGroupDescribeResponseGroup, len(req.Groups))
	over := countdown(len(req.Groups), func() { done(&protocol.Response{Body: resp}) })
	for i, id := range req.Groups {
		b.Groups.Step(id, func(core *group.Shard, now time.Time, token any) group.Effects {
			return core.DescribeConsumer(now, id, b.groupMetadata(id), token)
		}, func(body any, code protocol.ErrorCode) {
			defer over()
			row := kmsg.NewConsumerGroupDescribeResponseGroup()
			row.Group, row.ErrorCode = id, int16(code)
			if found, ok := body.(*kmsg.ConsumerGroupDescribeResponseGroup); ok && code == protocol.None {
				row = *found
			}
			if row.AuthorizedOperations = notAsked; req.IncludeAuthorizedOperations && row.ErrorCode == 0 {
				row.AuthorizedOperations = allGroupOperations
			}
			resp.Groups[i] = row
		})
	}
}

// groupMetadata is what a group needs to know of the image. It is asked for in the
// shard's step, so that steps see one image after the other: an older one than the
// last would pass for a change of the topics.
func (b *Broker) groupMetadata(id string) *group.Metadata {
	img := b.Image()
	return &group.Metadata{
		Index:     img.Index(),
		Session:   b.Config.OfGroup(img, id, "consumer.session.timeout.ms"),
		Heartbeat: b.Config.OfGroup(img, id, "consumer.heartbeat.interval.ms"),
		Find: func(name string) (group.Topic, bool) {
			t, ok := img.Topic(name)
			if !ok {
				return group.Topic{}, false
			}
			return group.Topic{ID: t.ID, Partitions: t.NumPartitions()}, true
		},
		Name: func(id [16]byte) (string, bool) {
			t, ok := img.TopicByID(id)
			if !ok {
				return "", false
			}
			return t.Name, true
		},
		Topics: iter.Seq[string](func(yield func(string) bool) {
			for t := range img.Topics() {
				if !yield(t.Name) {
					return
				}
			}
		}),
	}
}
