package handler

import (
	"context"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
)

// createPartitions gives topics more partitions (versions 0-3), as many in all as
// createTopics makes.
func (b *Broker) createPartitions(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.CreatePartitionsRequest)
	resp := req.ResponseKind().(*kmsg.CreatePartitionsResponse)
	ctx, cancel := deadline(ctx, req.TimeoutMillis)
	defer cancel()
	img := b.Current(ctx)
	times := map[string]int{}
	added := 0
	for i := range req.Topics {
		q := &req.Topics[i]
		if times[q.Topic]++; times[q.Topic] > 1 {
			continue
		}
		if t, ok := img.Topic(q.Topic); ok {
			added += max(int(q.Count)-int(t.NumPartitions()), 0)
		}
	}
	resp.Topics = make([]kmsg.CreatePartitionsResponseTopic, 0, len(times)) // rows stay where they are
	var all submission
	for i := range req.Topics {
		q := &req.Topics[i]
		n := times[q.Topic]
		if n == 0 {
			continue // answered already, where it stood first
		}
		times[q.Topic] = 0
		resp.Topics = append(resp.Topics, kmsg.NewCreatePartitionsResponseTopic())
		row := &resp.Topics[len(resp.Topics)-1]
		row.Topic = q.Topic
		cmd := &control.CreatePartitions{Topic: q.Topic, Count: q.Count, ValidateOnly: req.ValidateOnly}
		if q.Assignment != nil {
			cmd.Assignments = [][]int32{} // an empty one is one
		}
		for _, a := range q.Assignment {
			cmd.Assignments = append(cmd.Assignments, a.Replicas)
		}
		var err error
		switch _, known := img.Topic(q.Topic); {
		case n > 1:
			err = errTwice
		case !known:
			err = b.foretell(img, cmd)
		case added > control.MaxPartitionsPerCommand:
			err = errTooManyPartitions
		}
		if err != nil {
			row.ErrorCode, row.ErrorMessage = failure(err)
			continue
		}
		all.add(cmd, func(o Outcome) { row.ErrorCode, row.ErrorMessage = failure(o.Err) })
	}
	all.run(ctx, b, r)
	done(&protocol.Response{Body: resp})
}
