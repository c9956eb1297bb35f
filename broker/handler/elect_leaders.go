package handler

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// Types of election.
const (
	electPreferred = 0
	electUnclean   = 1
)

// electLeaders has leaders elected anew (versions 0-2; 1 adds the type of
// election). Without topics all partitions are meant, and those are answered for
// which there was something to do.
func (b *Broker) electLeaders(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.ElectLeadersRequest)
	resp := req.ResponseKind().(*kmsg.ElectLeadersResponse)
	ctx, cancel := deadline(ctx, req.TimeoutMillis)
	defer cancel()
	unclean := req.ElectionType == electUnclean
	switch {
	case req.ElectionType != electPreferred && req.ElectionType != electUnclean:
		err := invalid(fmt.Sprintf("election type %d is none: 0 elects the preferred leader, 1 an unclean one", req.ElectionType))
		resp.ErrorCode = int16(errorCode(err))
		resp.Topics = electionRows(req, func(int) error { return err })
	case req.Topics == nil:
		var err error
		resp.Topics, err = b.electAll(ctx, r, unclean)
		resp.ErrorCode = int16(errorCode(err))
	default:
		results := b.elect(ctx, r, req, unclean)
		resp.Topics = electionRows(req, func(i int) error { return results[i] })
	}
	done(&protocol.Response{Body: resp})
}

// electionRows answers for each partition of a request; result has what came of
// the i-th of all.
func electionRows(req *kmsg.ElectLeadersRequest, result func(i int) error) []kmsg.ElectLeadersResponseTopic {
	rows := []kmsg.ElectLeadersResponseTopic{}
	i := 0
	for _, t := range req.Topics {
		row := kmsg.NewElectLeadersResponseTopic()
		row.Topic = t.Topic
		for _, p := range t.Partitions {
			row.Partitions = append(row.Partitions, electionRow(p, result(i)))
			i++
		}
		rows = append(rows, row)
	}
	return rows
}

func electionRow(partition int32, err error) kmsg.ElectLeadersResponseTopicPartition {
	row := kmsg.NewElectLeadersResponseTopicPartition()
	row.Partition = partition
	row.ErrorCode, row.ErrorMessage = failure(err)
	return row
}

// elect has leaders elected for the partitions of a request, as many at a time
// as one command changes.
func (b *Broker) elect(ctx context.Context, r *protocol.Request, req *kmsg.ElectLeadersRequest, unclean bool) []error {
	var asked []control.TopicPartition
	for _, t := range req.Topics {
		for _, p := range t.Partitions {
			asked = append(asked, control.TopicPartition{Topic: t.Topic, Partition: p})
		}
	}
	results := make([]error, 0, len(asked))
	for len(results) < len(asked) {
		some := asked[len(results):]
		some = some[:min(len(some), control.MaxChanges)]
		reply, err := b.electSome(ctx, r, &control.ElectLeaders{Unclean: unclean, Partitions: some})
		for i := range some {
			if err == nil && reply.Partitions[i].Refusal != nil {
				results = append(results, reply.Partitions[i].Refusal)
			} else {
				results = append(results, err)
			}
		}
	}
	return results
}

// electAll goes through all partitions. What was done before an error stays.
func (b *Broker) electAll(ctx context.Context, r *protocol.Request, unclean bool) ([]kmsg.ElectLeadersResponseTopic, error) {
	rows := []kmsg.ElectLeadersResponseTopic{}
	at := map[string]int{}
	for from, more := image.Place(0), true; more; {
		reply, err := b.electSome(ctx, r, &control.ElectLeaders{Unclean: unclean, From: from})
		if err != nil {
			return rows, err
		}
		for _, e := range reply.Partitions {
			i, ok := at[e.Topic]
			if !ok {
				i = len(rows)
				at[e.Topic] = i
				rows = append(rows, kmsg.NewElectLeadersResponseTopic())
				rows[i].Topic = e.Topic
			}
			var result error
			if e.Refusal != nil {
				result = e.Refusal
			}
			rows[i].Partitions = append(rows[i].Partitions, electionRow(e.Partition, result))
		}
		from, more = reply.Next, reply.More
	}
	return rows, nil
}

func (b *Broker) electSome(ctx context.Context, r *protocol.Request, cmd *control.ElectLeaders) (*control.ElectedLeaders, error) {
	reply, err := b.one(ctx, r, cmd)
	if err != nil {
		return nil, err
	}
	return reply.(*control.ElectedLeaders), nil
}
