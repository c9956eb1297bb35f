package peer

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
)

// writtenVersion is the oldest ListOffsets that has tagged fields.
const writtenVersion = 6

// Progress asks the leader of a partition how far those are behind who have read up to
// some offsets.
type Progress struct {
	Topic     string
	Partition int32
	Offsets   []int64
}

// Ends is the leader's answer.
type Ends struct {
	High    int64   // the high watermark
	Written []int64 // when the record at each of the offsets was written, in ms; -1 if nobody knows
}

// Ends asks about partitions, each of them once. Those that the other node says nothing
// of, since it does not lead them or for another reason, are not in the answer.
func (c *Conn) Ends(ctx context.Context, asked []Progress) (map[int]Ends, error) {
	version, err := c.version(protocol.KeyListOffsets)
	if err == nil && version < writtenVersion {
		err = fmt.Errorf("it speaks ListOffsets up to version %d, %d is needed", version, writtenVersion)
	}
	if err != nil {
		return nil, &Error{Addr: c.addr, Err: err}
	}
	type place struct {
		topic     string
		partition int32
	}
	places := map[place]int{}
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID = version, -1
	for i, p := range asked {
		places[place{p.Topic, p.Partition}] = i
		if n := len(req.Topics); n == 0 || req.Topics[n-1].Topic != p.Topic {
			t := kmsg.NewListOffsetsRequestTopic()
			t.Topic = p.Topic
			req.Topics = append(req.Topics, t)
		}
		row := kmsg.NewListOffsetsRequestTopicPartition()
		row.Partition, row.Timestamp = p.Partition, -1
		protocol.PutWritten(&row.UnknownTags, p.Offsets)
		t := &req.Topics[len(req.Topics)-1]
		t.Partitions = append(t.Partitions, row)
	}
	body, err := c.roundTrip(ctx, req)
	if err != nil {
		return nil, err
	}
	answers := map[int]Ends{}
	for _, t := range body.(*kmsg.ListOffsetsResponse).Topics {
		for i := range t.Partitions {
			row := &t.Partitions[i]
			written := protocol.ReadWritten(&row.UnknownTags)
			if at, ok := places[place{t.Topic, row.Partition}]; ok && row.ErrorCode == 0 && len(written) == len(asked[at].Offsets) {
				answers[at] = Ends{row.Offset, written}
			}
		}
	}
	return answers, nil
}
