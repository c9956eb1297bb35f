package handler

import (
	"context"
	"fmt"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// createTopics creates topics, each on its own (versions 2-7; 5 returns what
// was created, 7 the topic id). It waits on the reader: what the connection
// sends next may need the topics.
func (b *Broker) createTopics(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.CreateTopicsRequest)
	resp := req.ResponseKind().(*kmsg.CreateTopicsResponse)
	ctx, cancel := deadline(ctx, req.TimeoutMillis)
	defer cancel()
	times := map[string]int{}
	partitions := 0
	each, _ := b.topicDefaults()
	for i := range req.Topics {
		t := &req.Topics[i]
		times[t.Topic]++
		n := int(max(t.NumPartitions, 0)) + len(t.ReplicaAssignment)
		if t.NumPartitions == -1 && n == 0 {
			n = int(each)
		}
		partitions += max(n, 1) // a topic of none is a decision too
	}
	resp.Topics = make([]kmsg.CreateTopicsResponseTopic, 0, len(times)) // rows stay where they are
	var all submission
	for i := range req.Topics {
		t := &req.Topics[i]
		n := times[t.Topic]
		if n == 0 {
			continue // answered already, where it stood first
		}
		times[t.Topic] = 0
		resp.Topics = append(resp.Topics, kmsg.NewCreateTopicsResponseTopic())
		row := &resp.Topics[len(resp.Topics)-1]
		row.Topic, row.NumPartitions, row.ReplicationFactor = t.Topic, -1, -1
		row.Configs = []kmsg.CreateTopicsResponseTopicConfig{}
		cmd, err := b.creation(t, req.ValidateOnly)
		switch {
		case n > 1:
			err = errTwice
		case partitions > control.MaxPartitionsPerCommand:
			err = errTooManyPartitions
		}
		if err != nil {
			row.ErrorCode, row.ErrorMessage = failure(err)
			continue
		}
		all.add(cmd, func(o Outcome) {
			if row.ErrorCode, row.ErrorMessage = failure(o.Err); o.Err != nil {
				return
			}
			created := o.Reply.(*control.CreatedTopic)
			row.TopicID, row.NumPartitions, row.ReplicationFactor = created.ID, created.Partitions, created.ReplicationFactor
			row.Configs = b.createdConfigs(cmd)
		})
	}
	all.run(ctx, b, r)
	done(&protocol.Response{Body: resp})
}

func (b *Broker) creation(t *kmsg.CreateTopicsRequestTopic, validateOnly bool) (*control.CreateTopic, error) {
	cmd := &control.CreateTopic{
		Name: t.Topic, ID: b.NewTopicID(),
		Partitions: t.NumPartitions, ReplicationFactor: t.ReplicationFactor,
		ValidateOnly: validateOnly, Configs: map[string]string{},
	}
	for _, c := range t.Configs {
		if c.Value == nil {
			return nil, invalidConfig("null value not supported for topic configs: %s", c.Name)
		}
		cmd.Configs[c.Name] = *c.Value
		if k, ok := image.FindTopicKey(c.Name); ok {
			cmd.Configs[c.Name] = k.Form(*c.Value)
		}
	}
	if len(t.ReplicaAssignment) > 0 {
		if t.NumPartitions != -1 || t.ReplicationFactor != -1 {
			return nil, errBothCounts
		}
		var err error
		cmd.Assignments, err = assignments(t.ReplicaAssignment)
		return cmd, err
	}
	// Apache Kafka takes -1 for the broker's default (KIP-464).
	partitions, replicas := b.topicDefaults()
	if cmd.Partitions == -1 {
		cmd.Partitions = partitions
	}
	if cmd.ReplicationFactor == -1 {
		cmd.ReplicationFactor = replicas
	}
	return cmd, nil
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

// createdConfigs are all settings of a topic that was created, or would be.
func (b *Broker) createdConfigs(cmd *control.CreateTopic) []kmsg.CreateTopicsResponseTopicConfig {
	rows := []kmsg.CreateTopicsResponseTopicConfig{}
	img := b.Image()
	for _, d := range b.topicSettings(img, image.NewTopic(cmd.Name, cmd.Configs)) {
		row := kmsg.NewCreateTopicsResponseTopicConfig()
		row.Name, row.Value = d.key.Name, d.text(d.value)
		row.Source, row.IsSensitive = int8(d.value.Source), d.key.Type == image.Password
		rows = append(rows, row)
	}
	return rows
}

var (
	errTwice             = invalid("the request names the topic twice")
	errTooManyPartitions = &control.Refusal{Code: control.PolicyViolation, Message: fmt.Sprintf("excessively large number of partitions per request: at most %d", control.MaxPartitionsPerCommand)}
	errBothCounts        = invalid("a replica assignment must come with num_partitions and replication_factor -1")
	errAssignmentOrder   = &control.Refusal{Code: control.InvalidReplicaAssignment, Message: "partitions of a replica assignment must be numbered from 0 without holes"}
)

// invalidError is a request that contradicts itself: INVALID_REQUEST.
type invalidError string

func (e invalidError) Error() string { return string(e) }

func invalid(reason string) error { return invalidError(reason) }
