package handler

import (
	"context"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
)

// createTopics creates topics, each on its own (versions 2-7; 5 returns what
// was created, 7 the topic id). It waits on the reader: what the connection
// sends next may need the topics.
func (b *Broker) createTopics(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.CreateTopicsRequest)
	resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
	ctx, cancel := context.WithTimeout(ctx, time.Duration(max(req.TimeoutMillis, 1))*time.Millisecond)
	defer cancel()
	times := map[string]int{}
	for i := range req.Topics {
		times[req.Topics[i].Topic]++
	}
	for i := range req.Topics {
		t := &req.Topics[i]
		row := kmsg.NewCreateTopicsResponseTopic()
		row.Topic = t.Topic
		var created *control.CreatedTopic
		err := errTwice
		if times[t.Topic] == 1 {
			created, err = b.create(ctx, t, req.ValidateOnly)
		}
		if err != nil {
			message := err.Error()
			row.ErrorCode, row.ErrorMessage = int16(errorCode(err)), &message
			row.NumPartitions, row.ReplicationFactor = -1, -1
		} else {
			row.TopicID, row.NumPartitions, row.ReplicationFactor = created.ID, created.Partitions, created.ReplicationFactor
			row.Configs = createdConfigs(t)
		}
		resp.Topics = append(resp.Topics, row)
	}
	done(&protocol.Response{Body: resp})
}

func (b *Broker) create(ctx context.Context, t *kmsg.CreateTopicsRequestTopic, validateOnly bool) (*control.CreatedTopic, error) {
	cmd := &control.CreateTopic{
		Name: t.Topic, ID: b.NewTopicID(),
		Partitions: t.NumPartitions, ReplicationFactor: t.ReplicationFactor,
		ValidateOnly: validateOnly,
	}
	if len(t.ReplicaAssignment) > 0 {
		if t.NumPartitions != -1 || t.ReplicationFactor != -1 {
			return nil, errBothCounts
		}
		var err error
		if cmd.Assignments, err = assignments(t.ReplicaAssignment); err != nil {
			return nil, err
		}
	} else {
		// Apache Kafka takes -1 for the broker's default (KIP-464).
		if cmd.Partitions == -1 {
			cmd.Partitions = b.NumPartitions
		}
		if cmd.ReplicationFactor == -1 {
			cmd.ReplicationFactor = b.DefaultReplicationFactor
		}
	}
	for i := range t.Configs {
		if cmd.Configs == nil {
			cmd.Configs = map[string]string{}
		}
		if t.Configs[i].Value == nil {
			return nil, &control.Refusal{Code: control.InvalidConfig, Message: "null value for topic config " + t.Configs[i].Name}
		}
		cmd.Configs[t.Configs[i].Name] = *t.Configs[i].Value
	}
	reply, err := b.Propose(ctx, cmd)
	if err != nil {
		return nil, err
	}
	return reply.(*control.CreatedTopic), nil
}

// assignments puts the replicas in the order of partitions, which must be
// numbered from 0 without holes.
func assignments(rows []kmsg.CreateTopicsRequestTopicReplicaAssignment) ([][]int32, error) {
	replicas := make([][]int32, len(rows))
	for _, a := range rows {
		if a.Partition < 0 || int(a.Partition) >= len(rows) || replicas[a.Partition] != nil {
			return nil, errAssignmentOrder
		}
		replicas[a.Partition] = append([]int32{}, a.Replicas...)
	}
	return replicas, nil
}

func createdConfigs(t *kmsg.CreateTopicsRequestTopic) []kmsg.CreateTopicsResponseTopicConfig {
	rows := []kmsg.CreateTopicsResponseTopicConfig{}
	for _, c := range t.Configs {
		row := kmsg.NewCreateTopicsResponseTopicConfig()
		row.Name, row.Value = c.Name, c.Value
		row.Source = int8(kmsg.ConfigSourceDynamicTopicConfig)
		rows = append(rows, row)
	}
	return rows
}

var (
	errTwice           = invalid("the request names the topic twice")
	errBothCounts      = invalid("a replica assignment must come with num_partitions and replication_factor -1")
	errAssignmentOrder = &control.Refusal{Code: control.InvalidReplicaAssignment, Message: "partitions of a replica assignment must be numbered from 0 without holes"}
)

// invalidError is a request that contradicts itself: INVALID_REQUEST.
type invalidError string

func (e invalidError) Error() string { return string(e) }

func invalid(reason string) error { return invalidError(reason) }
