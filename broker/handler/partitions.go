package handler

import (
	"cmp"
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// deleteRecords gives up the records below an offset (versions 0-2), and answers when
// every replica has that is there. -1 stands for the high watermark; what is below the
// log's start already is gone.
func (b *Broker) deleteRecords(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.DeleteRecordsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteRecordsResponse)
	img, n := b.Image(), 0
	for i := range req.Topics {
		n += len(req.Topics[i].Partitions)
	}
	wait := replica.NewWait(n)
	n = 0
	for i := range req.Topics {
		t := &req.Topics[i]
		if len(t.Partitions) == 0 { // of which nothing is asked nothing is said
			continue
		}
		rt := kmsg.NewDeleteRecordsResponseTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.DeleteRecordsResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			row, item := &rt.Partitions[j], &wait.Items[n]
			n++
			row.Default()
			row.Partition, row.LowWatermark = t.Partitions[j].Partition, -1
			rep, err := b.find(img, t.Topic, image.UUID{}, false, row.Partition)
			if err == nil {
				row.LowWatermark, err = rep.DeleteRecords(t.Partitions[j].Offset, item, b.Now())
			}
			if err != nil {
				item.Err = err
			}
		}
		resp.Topics = append(resp.Topics, rt)
	}
	wait.Begin(time.Duration(max(req.TimeoutMillis, 0))*time.Millisecond, func() {
		n := 0
		for i := range resp.Topics {
			for j := range resp.Topics[i].Partitions {
				row := &resp.Topics[i].Partitions[j]
				if row.ErrorCode = int16(errorCode(wait.Items[n].Err)); row.ErrorCode != 0 {
					row.LowWatermark = -1
				}
				n++
			}
		}
		done(&protocol.Response{Body: resp})
	})
}

// offsetForLeaderEpoch tells where the records of a leader epoch end (versions
// 2-4, KIP-320): a consumer whose position lies beyond has read what is gone.
func (b *Broker) offsetForLeaderEpoch(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.OffsetForLeaderEpochRequest)
	resp := req.ResponseKind().(*kmsg.OffsetForLeaderEpochResponse)
	img := b.Image()
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewOffsetForLeaderEpochResponseTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.OffsetForLeaderEpochResponseTopicPartition, len(t.Partitions))
		for j := range t.Partitions {
			q, row := &t.Partitions[j], &rt.Partitions[j]
			row.Default()
			row.Partition, row.LeaderEpoch, row.EndOffset = q.Partition, -1, -1
			rep, err := b.find(img, t.Topic, image.UUID{}, false, q.Partition)
			if err == nil {
				var end partition.EpochEnd
				end, err = rep.EndOffsetForEpoch(q.LeaderEpoch, q.CurrentLeaderEpoch)
				row.LeaderEpoch, row.EndOffset = end.Epoch, end.End
			}
			row.ErrorCode = int16(errorCode(err))
		}
		resp.Topics = append(resp.Topics, rt)
	}
	done(&protocol.Response{Body: resp})
}

// describeProducers lists the idempotent producers that a partition remembers
// (version 0, KIP-664).
func (b *Broker) describeProducers(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.DescribeProducersRequest)
	resp := req.ResponseKind().(*kmsg.DescribeProducersResponse)
	img := b.Image()
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewDescribeProducersResponseTopic()
		rt.Topic = t.Topic
		rt.Partitions = make([]kmsg.DescribeProducersResponseTopicPartition, len(t.Partitions))
		for j, partition := range t.Partitions {
			row := &rt.Partitions[j]
			row.Default()
			row.Partition = partition
			row.ActiveProducers, row.ErrorCode, row.ErrorMessage = b.producers(img, t.Topic, partition)
		}
		resp.Topics = append(resp.Topics, rt)
	}
	done(&protocol.Response{Body: resp})
}

func (b *Broker) producers(img *image.Image, topic string, partition int32) ([]kmsg.DescribeProducersResponseTopicPartitionActiveProducer, int16, *string) {
	rows := []kmsg.DescribeProducersResponseTopicPartitionActiveProducer{}
	rep, err := b.find(img, topic, image.UUID{}, false, partition)
	if err != nil {
		code, message := failure(cmp.Or(control.ValidateTopicName(topic), err))
		return rows, code, message
	}
	states, err := rep.Producers(b.Now())
	for _, s := range states {
		p := kmsg.NewDescribeProducersResponseTopicPartitionActiveProducer()
		p.ProducerID, p.ProducerEpoch, p.LastSequence = s.ProducerID, int32(s.Epoch), s.LastSequence
		p.LastTimestamp, p.CoordinatorEpoch, p.CurrentTxnStartOffset = s.LastWritten.UnixMilli(), s.CoordinatorEpoch, s.Transaction
		rows = append(rows, p)
	}
	code, message := failure(err)
	return rows, code, message
}

// describeLogDirs tells how much each partition takes of the data directory
// (versions 1-5; 4 adds the size of the disk). A null list of topics means all.
func (b *Broker) describeLogDirs(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.DescribeLogDirsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeLogDirsResponse)
	row := kmsg.NewDescribeLogDirsResponseDir()
	usage := b.Usage()
	row.Dir, row.TotalBytes, row.UsableBytes = usage.Dir, usage.Total, usage.Free
	row.ErrorCode = int16(errorCode(usage.Err))
	row.Topics = []kmsg.DescribeLogDirsResponseDirTopic{}
	img := b.Image()
	if req.Topics == nil {
		for t := range img.Topics() {
			all := make([]int32, t.NumPartitions())
			for i := range all {
				all[i] = int32(i)
			}
			row.Topics = b.appendSizes(row.Topics, img, t.Name, all)
		}
	}
	for _, t := range req.Topics {
		row.Topics = b.appendSizes(row.Topics, img, t.Topic, t.Partitions)
	}
	resp.Dirs = []kmsg.DescribeLogDirsResponseDir{row}
	done(&protocol.Response{Body: resp})
}

// appendSizes leaves out what is not here, as Apache Kafka does.
func (b *Broker) appendSizes(rows []kmsg.DescribeLogDirsResponseDirTopic, img *image.Image, topic string, partitions []int32) []kmsg.DescribeLogDirsResponseDirTopic {
	rt := kmsg.NewDescribeLogDirsResponseDirTopic()
	rt.Topic = topic
	for _, i := range partitions {
		rep, err := b.find(img, topic, image.UUID{}, false, i)
		if err != nil {
			continue
		}
		p := kmsg.NewDescribeLogDirsResponseDirTopicPartition()
		p.Partition, p.Size = i, rep.Size()
		rt.Partitions = append(rt.Partitions, p)
	}
	if len(rt.Partitions) == 0 {
		return rows
	}
	return append(rows, rt)
}
