package handler

import (
	"context"
	"slices"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// alterPartitionReassignments gives partitions other replicas, or takes that back where
// null stands for them (versions 0-1, KIP-455; 1 whether there may be more or fewer). It
// answers when the change has begun.
func (b *Broker) alterPartitionReassignments(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.AlterPartitionAssignmentsRequest)
	resp := req.ResponseKind().(*kmsg.AlterPartitionAssignmentsResponse)
	if len(req.Topics) == 0 { // as in Apache Kafka, which does not look further
		resp.ErrorMessage = new(string)
		done(&protocol.Response{Body: resp})
		return
	}
	ctx, cancel := deadline(ctx, req.TimeoutMillis)
	defer cancel()
	keep := req.Version >= 1 && !req.AllowReplicationFactorChange
	resp.AllowReplicationFactorChange = !keep
	results, err := b.reassign(ctx, r, req, keep)
	resp.ErrorCode, resp.ErrorMessage = failure(err)
	i := 0
	for _, t := range req.Topics {
		row := kmsg.NewAlterPartitionAssignmentsResponseTopic()
		row.Topic = t.Topic
		for _, p := range t.Partitions {
			x := kmsg.NewAlterPartitionAssignmentsResponseTopicPartition()
			x.Partition = p.Partition
			x.ErrorCode, x.ErrorMessage = failure(results[i])
			row.Partitions = append(row.Partitions, x)
			i++
		}
		resp.Topics = append(resp.Topics, row)
	}
	done(&protocol.Response{Body: resp})
}

// reassign carries out a request, as many partitions at a time as one command changes, and
// returns what came of each. The error is that of the whole request, of which nothing
// was carried out then.
func (b *Broker) reassign(ctx context.Context, r *protocol.Request, req *kmsg.AlterPartitionAssignmentsRequest, keep bool) (results []error, whole error) {
	var asked []control.Reassign
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			asked = append(asked, control.Reassign{TopicPartition: control.TopicPartition{Topic: t.Topic, Partition: p.Partition}, Replicas: p.Replicas})
		}
	}
	var err error
	for len(results) < len(asked) {
		some := asked[len(results):]
		some = some[:min(len(some), control.MaxChanges)]
		var reply any
		if err == nil { // else the rest has the same answer
			reply, err = b.one(ctx, r, &control.AlterPartitionReassignments{KeepFactor: keep, Partitions: some})
			if len(results) == 0 {
				whole = err
			}
		}
		for i := range some {
			result := err
			if err == nil {
				if refusal := reply.(*control.AlteredReassignments).Partitions[i].Refusal; refusal != nil {
					result = refusal
				}
			}
			results = append(results, result)
		}
	}
	return results, whole
}

// listPartitionReassignments tells which partitions are getting other replicas, of those
// that are asked for or, for null, of all (version 0).
func (b *Broker) listPartitionReassignments(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.ListPartitionReassignmentsRequest)
	resp := req.ResponseKind().(*kmsg.ListPartitionReassignmentsResponse)
	ctx, cancel := deadline(ctx, req.TimeoutMillis)
	defer cancel()
	img := b.Current(ctx)
	if req.Topics == nil {
		var last *image.Topic
		for lp := range img.Moving() { // those of one topic behind each other
			if lp.Topic != last {
				last = lp.Topic
				resp.Topics = append(resp.Topics, movingTopic(last.Name))
			}
			row := &resp.Topics[len(resp.Topics)-1]
			row.Partitions = append(row.Partitions, movingRow(lp.Index, lp.Partition))
		}
	}
	for _, q := range req.Topics {
		t, ok := img.Topic(q.Topic)
		if !ok {
			continue
		}
		row := movingTopic(t.Name)
		for _, i := range q.Partitions {
			if p, ok := t.Partition(i); ok && p.Moving != nil {
				row.Partitions = append(row.Partitions, movingRow(i, p))
			}
		}
		if len(row.Partitions) > 0 {
			resp.Topics = append(resp.Topics, row)
		}
	}
	done(&protocol.Response{Body: resp})
}

func movingTopic(name string) kmsg.ListPartitionReassignmentsResponseTopic {
	row := kmsg.NewListPartitionReassignmentsResponseTopic()
	row.Topic = name
	return row
}

// movingRow has the replicas of both sides; what is added and removed is in the order of
// ids, as in Apache Kafka.
func movingRow(i int32, p *image.Partition) kmsg.ListPartitionReassignmentsResponseTopicPartition {
	row := kmsg.NewListPartitionReassignmentsResponseTopicPartition()
	row.Partition, row.Replicas = i, p.Replicas
	row.AddingReplicas = slices.Sorted(slices.Values(p.Moving.Adding))
	row.RemovingReplicas = slices.Sorted(slices.Values(p.Moving.Removing))
	return row
}
