package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
)

// createPartitions gives topics more partitions (versions 0-3).
func (b *Broker) createPartitions(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.CreatePartitionsRequest)
	resp := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
	ctx, cancel := deadline(ctx, req.TimeoutMillis)
	defer cancel()
	times := map[string]int{}
	for i := range req.Topics {
		times[req.Topics[i].Topic]++
	}
	resp.Topics = make([]kmsg.CreatePartitionsResponseTopic, len(req.Topics))
	var all submission
	for i := range req.Topics {
		q, row := &req.Topics[i], &resp.Topics[i]
		row.Default()
		row.Topic = q.Topic
		if times[q.Topic] > 1 {
			row.ErrorCode, row.ErrorMessage = failure(errTwice)
			continue
		}
		cmd := &control.CreatePartitions{Topic: q.Topic, Count: q.Count, ValidateOnly: req.ValidateOnly}
		for _, a := range q.Assignment {
			cmd.Assignments = append(cmd.Assignments, a.Replicas)
		}
		all.add(cmd, func(o Outcome) { row.ErrorCode, row.ErrorMessage = failure(o.Err) })
	}
	all.run(ctx, b)
	done(&protocol.Response{Body: resp})
}
