package handler_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/handler"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/storage/vfs"
)

// moves asks for other replicas by partition of one topic, nil to take them back.
func moves(v int16, topic string, replicas map[int32][]int32) *kmsg.AlterPartitionAssignmentsRequest {
	req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	req.Version, req.TimeoutMillis = v, 10_000
	row := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	row.Topic = topic
	for i := range int32(10) {
		if to, asked := replicas[i]; asked {
			p := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
			p.Partition, p.Replicas = i, to
			row.Partitions = append(row.Partitions, p)
		}
	}
	req.Topics = append(req.Topics, row)
	return req
}

// outcome is "topic partition:code..." of all rows, behind the code of the whole.
func outcome(resp *kmsg.AlterPartitionAssignmentsResponse) string {
	text := code(resp.ErrorCode).String()
	for _, row := range resp.Topics {
		text += " " + row.Topic
		for _, p := range row.Partitions {
			text += fmt.Sprintf(" %d:%v", p.Partition, code(p.ErrorCode))
		}
	}
	return text
}

// moving is what is told of topics and partitions, nil for all.
func (n *node) moving(asked map[string][]int32) string {
	n.t.Helper()
	req := kmsg.NewPtrListPartitionReassignmentsRequest()
	if asked != nil {
		req.Topics = []kmsg.ListPartitionReassignmentsRequestTopic{}
	}
	for topic, partitions := range asked {
		row := kmsg.NewListPartitionReassignmentsRequestTopic()
		row.Topic, row.Partitions = topic, partitions
		req.Topics = append(req.Topics, row)
	}
	resp := answer[*kmsg.ListPartitionReassignmentsResponse](n, req)
	if resp.ErrorCode != 0 {
		n.t.Errorf("error %v", code(resp.ErrorCode))
	}
	text := ""
	for _, row := range resp.Topics {
		text += row.Topic
		for _, p := range row.Partitions {
			text += fmt.Sprintf(" %d:%v+%v-%v", p.Partition, p.Replicas, p.AddingReplicas, p.RemovingReplicas)
		}
		text += "\n"
	}
	return text
}

func TestAlterPartitionReassignments(t *testing.T) {
	versions(t, protocol.KeyAlterPartitionReassignments, func(t *testing.T, v int16) {
		n := newNode(t, vfs.NewMem())
		n.brokers(2, 3, 4, 5)
		n.assigned("t", []int32{2, 3}, []int32{3, 2}, []int32{2, 3})
		n.assigned("u", []int32{2})
		check := func(want, moving string, req *kmsg.AlterPartitionAssignmentsRequest) {
			t.Helper()
			resp := answer[*kmsg.AlterPartitionAssignmentsResponse](n, req)
			if got := outcome(resp); got != want {
				t.Errorf("%s, want %s", got, want)
			}
			if v >= 1 && resp.AllowReplicationFactorChange != req.AllowReplicationFactorChange {
				t.Errorf("the answer allows another number of replicas: %v", resp.AllowReplicationFactorChange)
			}
			if got := n.moving(nil); got != moving {
				t.Errorf("moving are %s, want %s", got, moving)
			}
		}
		if got := n.moving(nil); got != "" {
			t.Errorf("moving are %s", got)
		}
		both := moves(v, "t", map[int32][]int32{0: {5, 4}, 1: {9}, 2: nil, 7: {2}})
		both.Topics = append(both.Topics, moves(v, "u", map[int32][]int32{0: {2, 4}}).Topics...)
		both.Topics = append(both.Topics, moves(v, "none", map[int32][]int32{0: {2}}).Topics...)
		check("NONE t 0:NONE 1:INVALID_REPLICA_ASSIGNMENT 2:NO_REASSIGNMENT_IN_PROGRESS 7:UNKNOWN_TOPIC_OR_PARTITION u 0:NONE none 0:UNKNOWN_TOPIC_OR_PARTITION",
			"t 0:[5 4 2 3]+[4 5]-[2 3]\nu 0:[2 4]+[4]-[]\n", both)
		check("NONE t 0:INVALID_REPLICA_ASSIGNMENT", "t 0:[5 4 2 3]+[4 5]-[2 3]\nu 0:[2 4]+[4]-[]\n", moves(v, "t", map[int32][]int32{0: {}})) // empty is not null
		if v >= 1 {
			keep := moves(v, "t", map[int32][]int32{0: {5}, 1: {2}, 2: {3, 2}})
			keep.AllowReplicationFactorChange = false
			check("NONE t 0:INVALID_REPLICATION_FACTOR 1:INVALID_REPLICATION_FACTOR 2:NONE", "t 0:[5 4 2 3]+[4 5]-[2 3]\nu 0:[2 4]+[4]-[]\n", keep)
		}
		for want, asked := range map[string]map[string][]int32{
			"t 0:[5 4 2 3]+[4 5]-[2 3]\n": {"t": {0, 1, 7, -1}, "none": {0}},
			"":                            {"t": {1}, "u": {}},
		} {
			if got := n.moving(asked); got != want {
				t.Errorf("of %v moving are %s", asked, got)
			}
		}
		if got := n.moving(map[string][]int32{}); got != "" {
			t.Errorf("of nothing moving are %s", got)
		}

		// What clients see while it goes on: all replicas, and no more partitions.
		row := answer[*kmsg.MetadataResponse](n, metadataOf(9, "t")).Topics[0].Partitions[0]
		if row.Leader != 2 || !slices.Equal(row.Replicas, []int32{5, 4, 2, 3}) || !slices.Equal(row.ISR, []int32{2, 3}) || len(row.OfflineReplicas) > 0 {
			t.Errorf("metadata %+v", row)
		}
		grow := kmsg.NewPtrCreatePartitionsRequest()
		topic := kmsg.NewCreatePartitionsRequestTopic()
		topic.Topic, topic.Count = "t", 9
		grow.Topics = append(grow.Topics, topic)
		if c := code(answer[*kmsg.CreatePartitionsResponse](n, grow).Topics[0].ErrorCode); c != protocol.ReassignmentInProgress {
			t.Errorf("more partitions: %v", c)
		}

		check("NONE u 0:NONE", "t 0:[5 4 2 3]+[4 5]-[2 3]\n", moves(v, "u", map[int32][]int32{0: nil}))
		n.follow("t", 0, 2, 4, 5)
		if got, leader := n.moving(nil), n.leader("t", 0); got != "" || leader != 5 {
			t.Errorf("moving are %s, and %d leads", got, leader)
		}
		describe := kmsg.NewPtrDescribeTopicPartitionsRequest()
		describe.ResponsePartitionLimit = 1
		q := kmsg.NewDescribeTopicPartitionsRequestTopic()
		q.Topic = "t"
		describe.Topics = append(describe.Topics, q)
		now := answer[*kmsg.DescribeTopicPartitionsResponse](n, describe).Topics[0].Partitions[0]
		if now.LeaderID != 5 || !slices.Equal(now.Replicas, []int32{5, 4}) || !slices.Equal(now.ISR, []int32{5, 4}) {
			t.Errorf("described as %+v", now)
		}
	})
}

// More partitions than one command changes are done one command after the other. What is not
// decided is told where it is asked for, and of the whole where it is the whole.
func TestManyReassignments(t *testing.T) {
	n := newNode(t, vfs.NewMem())
	n.brokers(2, 3)
	const many = control.MaxChanges + 10
	n.assigned("t", slices.Repeat([][]int32{{2}}, many)...)
	req := kmsg.NewPtrAlterPartitionAssignmentsRequest()
	row := kmsg.NewAlterPartitionAssignmentsRequestTopic()
	row.Topic = "t"
	for i := range int32(many) {
		p := kmsg.NewAlterPartitionAssignmentsRequestTopicPartition()
		p.Partition, p.Replicas = i, []int32{2, 3}
		row.Partitions = append(row.Partitions, p)
	}
	req.Topics = append(req.Topics, row)
	codes := func() (whole protocol.ErrorCode, found map[protocol.ErrorCode]int) {
		resp := answer[*kmsg.AlterPartitionAssignmentsResponse](n, req)
		found = map[protocol.ErrorCode]int{}
		for i, p := range resp.Topics[0].Partitions {
			if p.Partition != int32(i) {
				t.Fatalf("row %d is of partition %d", i, p.Partition)
			}
			found[code(p.ErrorCode)]++
		}
		return code(resp.ErrorCode), found
	}
	for _, c := range []struct {
		decided     int // commands that somebody decides
		whole       protocol.ErrorCode
		none, later int
	}{{0, protocol.RequestTimedOut, 0, many}, {1, protocol.None, control.MaxChanges, 10}} {
		n.decided = 0
		n.answers = func(cmds []control.Command) []handler.Outcome {
			if n.decided == c.decided {
				return []handler.Outcome{{Err: context.DeadlineExceeded}}
			}
			later := n.answers
			n.answers = nil
			defer func() { n.answers = later }()
			return n.propose(context.Background(), "", "", cmds...)
		}
		if whole, found := codes(); whole != c.whole || found[protocol.None] != c.none || found[protocol.RequestTimedOut] != c.later {
			t.Errorf("with %d commands decided: %v and %v", c.decided, whole, found)
		}
	}
	n.answers, n.decided = nil, 0
	if whole, found := codes(); whole != protocol.None || found[protocol.None] != many || n.decided != 2 || n.img.NumMoving() != many {
		t.Errorf("%v and %v, with %d commands; %d partitions are moving", whole, found, n.decided, n.img.NumMoving())
	}
}
