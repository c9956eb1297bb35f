package handler

import (
	"context"
	"errors"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/image"
)

// Timestamps that ask for something else than a time, and the version that
// each came with.
const (
	latest         = -1
	earliest       = -2
	maxTimestamp   = -3 // version 7
	earliestLocal  = -4 // version 8
	latestTiered   = -5 // version 9
	earliestUpload = -6 // version 11
)

var specialSince = map[int64]int16{maxTimestamp: 7, earliestLocal: 8, latestTiered: 9, earliestUpload: 11}

// listOffsets finds the ends of partitions, and the first record of a time or
// later (versions 1-11; 4 adds the leader epoch, 10 a time-out that is for
// tiered storage). Without tiers what is local is all there is.
func (b *Broker) listOffsets(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.ListOffsetsRequest)
	resp := req.ResponseKind().(*kmsg.ListOffsetsResponse)
	img := b.Image()
	type place struct {
		topic     string
		partition int32
	}
	times := map[place]int{}
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			times[place{req.Topics[i].Topic, req.Topics[i].Partitions[j].Partition}]++
		}
	}
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewListOffsetsResponseTopic()
		rt.Topic = t.Topic
		for j := range t.Partitions {
			here := place{t.Topic, t.Partitions[j].Partition}
			n := times[here]
			if n == 0 {
				continue // answered already, where it stood first
			}
			times[here] = 0
			rt.Partitions = append(rt.Partitions, kmsg.NewListOffsetsResponseTopicPartition())
			row := &rt.Partitions[len(rt.Partitions)-1]
			row.Partition = here.partition
			if n > 1 {
				row.ErrorCode = int16(protocol.InvalidRequest)
				continue
			}
			at, err := b.offset(img, req.Version, t.Topic, &t.Partitions[j])
			row.ErrorCode = int16(errorCode(err))
			if req.Version < 5 && errors.Is(err, replica.ErrOffsetNotAvailable) {
				row.ErrorCode = int16(protocol.LeaderNotAvailable)
			}
			if err == nil {
				row.Offset, row.Timestamp, row.LeaderEpoch = at.Offset, at.Timestamp, at.Epoch
				row.ErrorCode = int16(errorCode(b.written(img, t.Topic, &t.Partitions[j], row)))
			}
		}
		if len(rt.Partitions) > 0 { // of which nothing is asked nothing is said
			resp.Topics = append(resp.Topics, rt)
		}
	}
	done(&protocol.Response{Body: resp})
}

func (b *Broker) offset(img *image.Image, version int16, topic string, p *kmsg.ListOffsetsRequestTopicPartition) (replica.Position, error) {
	rep, err := b.find(img, topic, image.UUID{}, false, p.Partition)
	switch {
	case err != nil:
		return replica.Nowhere, err
	case p.Timestamp >= 0:
		return rep.OffsetForTime(p.Timestamp, p.CurrentLeaderEpoch)
	case p.Timestamp == latest:
		return rep.Latest(p.CurrentLeaderEpoch)
	case p.Timestamp == earliest:
		return rep.Earliest(p.CurrentLeaderEpoch)
	}
	if since, known := specialSince[p.Timestamp]; !known || version < since {
		return replica.Nowhere, errTimestamp
	}
	switch p.Timestamp {
	case maxTimestamp:
		return rep.MaxTimestamp(p.CurrentLeaderEpoch)
	case earliestLocal:
		return rep.Earliest(p.CurrentLeaderEpoch)
	default:
		return replica.Nowhere, nil
	}
}

// written answers when the records at some offsets were written, where a node or a
// tool asks that of a partition beside its end (see protocol.PutWritten).
func (b *Broker) written(img *image.Image, topic string, p *kmsg.ListOffsetsRequestTopicPartition, row *kmsg.ListOffsetsResponseTopicPartition) error {
	offsets := protocol.ReadWritten(&p.UnknownTags)
	if p.Timestamp != latest || offsets == nil {
		return nil
	}
	rep, err := b.find(img, topic, image.UUID{}, false, p.Partition)
	if err != nil {
		return err
	}
	high, written, err := rep.Progress(offsets)
	if err != nil {
		return err
	}
	row.Offset = high
	protocol.PutWritten(&row.UnknownTags, written)
	return nil
}
