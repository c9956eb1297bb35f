package handler

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/coordinator"
	"github.com/streambus/streambus/broker/group"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// findCoordinator tells who coordinates a group (versions 0-6; 4 takes several
// keys). The topic of committed offsets is made when somebody first asks.
func (b *Broker) findCoordinator(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.FindCoordinatorRequest)
	resp := req.ResponseKind().(*kmsg.FindCoordinatorResponse)
	var err error
	switch t := req.CoordinatorType; {
	case t == 0:
		err = b.createOffsetsTopic(ctx, r)
	case t == 1:
		err = errNoTransactions
	case t == 2 && req.Version >= 6:
		err = errNoShareGroups
	default:
		err = invalid("unknown type of coordinator")
	}
	img := b.Image()
	find := func(key string) (row kmsg.FindCoordinatorResponseCoordinator) {
		row = kmsg.NewFindCoordinatorResponseCoordinator()
		row.Key, row.NodeID, row.Port = key, -1, -1
		node, err := coordinatorOf(img, key), err
		if err == nil && node != nil {
			if e, ok := node.Endpoint(r.Conn.Listener); ok {
				row.NodeID, row.Host, row.Port = node.ID, e.Host, int32(e.Port)
				return row
			}
		}
		if err == nil {
			err = errNoCoordinator
		}
		row.ErrorCode, row.ErrorMessage = failure(err)
		return row
	}
	if req.Version < 4 {
		row := find(req.CoordinatorKey)
		resp.ErrorCode, resp.ErrorMessage, resp.NodeID, resp.Host, resp.Port = row.ErrorCode, row.ErrorMessage, row.NodeID, row.Host, row.Port
	}
	resp.Coordinators = []kmsg.FindCoordinatorResponseCoordinator{}
	for _, key := range req.CoordinatorKeys {
		resp.Coordinators = append(resp.Coordinators, find(key))
	}
	done(&protocol.Response{Body: resp})
}

// coordinatorOf is the broker that leads the partition of a group, nil for none.
func coordinatorOf(img *image.Image, group string) *image.Broker {
	t, ok := img.Topic(coordinator.OffsetsTopic)
	if !ok {
		return nil
	}
	p, _ := t.Partition(coordinator.Partition(group, t.NumPartitions()))
	node, ok := img.Broker(p.Leader)
	if !ok || node.Fenced {
		return nil
	}
	return node
}

// createOffsetsTopic makes the topic if it is not there. A cluster that can have fewer
// replicas than offsets.topic.replication.factor gets what it can have: a node alone
// is complete.
func (b *Broker) createOffsetsTopic(ctx context.Context, r *protocol.Request) error {
	img := b.Image()
	if _, ok := img.Topic(coordinator.OffsetsTopic); ok {
		return nil
	}
	nodes := max(len(img.Brokers()), len(b.Config.QuorumVoters()))
	ctx, cancel := context.WithTimeout(ctx, createWait)
	defer cancel()
	var all submission
	var err error
	all.add(&control.CreateTopic{
		Name: coordinator.OffsetsTopic, ID: b.NewTopicID(), Partitions: int32(b.Config.Number("offsets.topic.num.partitions")),
		ReplicationFactor: int16(min(b.Config.Number("offsets.topic.replication.factor"), int64(nodes))),
		Configs: map[string]string{
			"cleanup.policy": "compact", "compression.type": "producer", "segment.bytes": fmt.Sprint(b.Config.Number("offsets.topic.segment.bytes")),
		},
	}, func(o Outcome) { err = o.Err })
	all.run(ctx, b, r)
	if err != nil && errorCode(err) != protocol.TopicAlreadyExists {
		return fmt.Errorf("%w: %s could not be created: %w", errNoCoordinator, coordinator.OffsetsTopic, err)
	}
	return nil
}

// step has a group's shard take one.
type step = func(core *group.Shard, now time.Time, token any) group.Effects

// inGroup has a shard answer a request. failed puts an error into an answer.
func (b *Broker) inGroup(id string, do step, done func(*protocol.Response), failed func(protocol.ErrorCode) kmsg.Response) {
	b.Groups.Step(id, do, func(body any, code protocol.ErrorCode) {
		resp, ok := body.(kmsg.Response)
		if code != protocol.None || !ok {
			resp = failed(code)
		}
		done(&protocol.Response{Body: resp})
	})
}

func client(r *protocol.Request) group.Client {
	host := r.Conn.Peer.Addr().Unmap().String()
	return group.Client{ID: r.ClientID, Host: "/" + host, Unique: rand.Text()}
}

// joinGroup makes a client a member (versions 0-9; 4 gives out a member id first, 5
// static members).
func (b *Broker) joinGroup(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.JoinGroupRequest)
	b.inGroup(req.Group, func(core *group.Shard, now time.Time, token any) group.Effects {
		core.Know(b.groupMetadata(req.Group))
		return core.Join(now, req, client(r), token)
	}, done,
		func(code protocol.ErrorCode) kmsg.Response {
			resp := req.ResponseKind().(*kmsg.JoinGroupResponse)
			resp.ErrorCode, resp.MemberID, resp.Generation = int16(code), req.MemberID, -1
			if req.Version < 7 {
				resp.Protocol = kmsg.StringPtr("")
			}
			return resp
		})
}

// syncGroup gives a member its assignment (versions 0-5).
func (b *Broker) syncGroup(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.SyncGroupRequest)
	b.inGroup(req.Group, func(core *group.Shard, now time.Time, token any) group.Effects {
		core.Know(b.groupMetadata(req.Group))
		return core.Sync(now, req, token)
	}, done,
		func(code protocol.ErrorCode) kmsg.Response {
			resp := req.ResponseKind().(*kmsg.SyncGroupResponse)
			resp.ErrorCode, resp.MemberAssignment = int16(code), []byte{}
			return resp
		})
}

// heartbeat keeps a member's session (versions 0-4).
func (b *Broker) heartbeat(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.HeartbeatRequest)
	b.inGroup(req.Group, func(core *group.Shard, now time.Time, token any) group.Effects {
		core.Know(b.groupMetadata(req.Group))
		return core.Heartbeat(now, req, token)
	}, done,
		func(code protocol.ErrorCode) kmsg.Response {
			resp := req.ResponseKind().(*kmsg.HeartbeatResponse)
			resp.ErrorCode = int16(code)
			return resp
		})
}

// leaveGroup ends memberships (versions 0-5; 3 several at once).
func (b *Broker) leaveGroup(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.LeaveGroupRequest)
	b.inGroup(req.Group, func(core *group.Shard, now time.Time, token any) group.Effects { return core.Leave(now, req, token) }, done,
		func(code protocol.ErrorCode) kmsg.Response {
			resp := req.ResponseKind().(*kmsg.LeaveGroupResponse)
			resp.ErrorCode = int16(code)
			return resp
		})
}

// offsetCommit keeps offsets of a group (versions 2-10; 10 names topics by id).
func (b *Broker) offsetCommit(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.OffsetCommitRequest)
	resp := req.ResponseKind().(*kmsg.OffsetCommitResponse)
	c := &group.Commit{
		Group: req.Group, Member: req.MemberID, Instance: req.InstanceID, Generation: req.Generation, Version: req.Version, Keep: -1,
	}
	if req.Version <= 4 {
		c.Keep = req.RetentionTimeMillis
	}
	img := b.Image()
	var rows [][2]int // of what is kept
	for i := range req.Topics {
		q := &req.Topics[i]
		t := kmsg.NewOffsetCommitResponseTopic()
		t.Topic, t.TopicID = q.Topic, q.TopicID
		topic, err := b.findTopic(img, q.Topic, q.TopicID, req.Version >= 10)
		for j := range q.Partitions {
			p := &q.Partitions[j]
			row := kmsg.NewOffsetCommitResponseTopicPartition()
			row.Partition = p.Partition
			switch {
			case err != nil:
				row.ErrorCode = int16(errorCode(err))
			case p.Partition < 0 || p.Partition >= topic.NumPartitions():
				row.ErrorCode = int16(protocol.UnknownTopicOrPartition)
			default:
				x := group.CommitOffset{Topic: topic.Name, TopicID: topic.ID, Partition: p.Partition, Offset: p.Offset, Epoch: p.LeaderEpoch}
				if req.Version < 6 {
					x.Epoch = -1
				}
				if p.Metadata != nil {
					x.Metadata = *p.Metadata
				}
				c.Offsets = append(c.Offsets, x)
				rows = append(rows, [2]int{len(resp.Topics), j})
			}
			t.Partitions = append(t.Partitions, row)
		}
		if len(t.Partitions) > 0 {
			resp.Topics = append(resp.Topics, t)
		}
	}
	b.Groups.Step(req.Group, func(core *group.Shard, now time.Time, token any) group.Effects { return core.Commit(now, c, token) },
		func(body any, code protocol.ErrorCode) {
			codes, _ := body.([]protocol.ErrorCode)
			kept := 0
			for n, at := range rows {
				row := &resp.Topics[at[0]].Partitions[at[1]]
				if row.ErrorCode = int16(code); code == protocol.None {
					row.ErrorCode = int16(codes[n])
				}
				if row.ErrorCode == 0 {
					kept++
				}
			}
			b.Groups.Committed(kept)
			done(&protocol.Response{Body: resp})
		})
}

func (b *Broker) findTopic(img *image.Image, name string, id image.UUID, byID bool) (*image.Topic, error) {
	if byID {
		if t, ok := img.TopicByID(id); ok {
			return t, nil
		}
		return nil, errUnknownTopicID
	}
	if t, ok := img.Topic(name); ok {
		return t, nil
	}
	return nil, errUnknownTopic
}

// offsetFetch gives committed offsets (versions 1-10; 2 an error for all, 8 several
// groups, 10 names topics by id).
func (b *Broker) offsetFetch(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.OffsetFetchRequest)
	resp := req.ResponseKind().(*kmsg.OffsetFetchResponse)
	img := b.Image()
	asked := req.Groups
	if req.Version < 8 {
		asked = []kmsg.OffsetFetchRequestGroup{oldFetch(req)}
	}
	resp.Groups = make([]kmsg.OffsetFetchResponseGroup, len(asked))
	over := countdown(len(asked), func() {
		if req.Version < 8 {
			answerOldFetch(resp, &asked[0])
		}
		done(&protocol.Response{Body: resp})
	})
	for i := range asked {
		q, row := &asked[i], &resp.Groups[i]
		var wanted []group.Wanted
		var unknown []kmsg.OffsetFetchResponseGroupTopic
		for _, t := range q.Topics {
			name := t.Topic
			if req.Version >= 10 {
				topic, ok := img.TopicByID(t.TopicID)
				if !ok {
					unknown = append(unknown, unknownTopic(t))
					continue
				}
				name = topic.Name
			}
			wanted = append(wanted, group.Wanted{Topic: name, Partitions: t.Partitions})
		}
		b.Groups.Step(q.Group, func(core *group.Shard, now time.Time, token any) group.Effects {
			return core.OffsetsOf(now, q.Group, q.MemberID, q.MemberEpoch, q.Topics == nil, wanted, token)
		}, func(body any, code protocol.ErrorCode) {
			defer over()
			row.Group, row.ErrorCode, row.Topics = q.Group, int16(code), []kmsg.OffsetFetchResponseGroupTopic{}
			found, ok := body.(*kmsg.OffsetFetchResponseGroup)
			if code != protocol.None || !ok {
				return
			}
			if row.ErrorCode = found.ErrorCode; row.ErrorCode != 0 {
				return
			}
			for _, t := range found.Topics {
				if topic, ok := img.Topic(t.Topic); ok {
					t.TopicID = topic.ID
				} else if req.Version >= 10 { // which has no name for it
					continue
				}
				row.Topics = append(row.Topics, t)
			}
			row.Topics = append(row.Topics, unknown...)
		})
	}
}

func unknownTopic(q kmsg.OffsetFetchRequestGroupTopic) kmsg.OffsetFetchResponseGroupTopic {
	t := kmsg.NewOffsetFetchResponseGroupTopic()
	t.TopicID = q.TopicID
	for _, index := range q.Partitions {
		row := kmsg.NewOffsetFetchResponseGroupTopicPartition()
		row.Partition, row.Offset, row.LeaderEpoch, row.Metadata, row.ErrorCode = index, -1, -1, kmsg.StringPtr(""), int16(protocol.UnknownTopicID)
		t.Partitions = append(t.Partitions, row)
	}
	return t
}

// oldFetch is a request of one group in the form of those of several.
func oldFetch(req *kmsg.OffsetFetchRequest) kmsg.OffsetFetchRequestGroup {
	q := kmsg.NewOffsetFetchRequestGroup()
	q.Group = req.Group
	if req.Topics != nil {
		q.Topics = []kmsg.OffsetFetchRequestGroupTopic{}
	}
	for _, t := range req.Topics {
		x := kmsg.NewOffsetFetchRequestGroupTopic()
		x.Topic, x.Partitions = t.Topic, t.Partitions
		q.Topics = append(q.Topics, x)
	}
	return q
}

func answerOldFetch(resp *kmsg.OffsetFetchResponse, q *kmsg.OffsetFetchRequestGroup) {
	row := resp.Groups[0]
	resp.Groups, resp.ErrorCode = nil, row.ErrorCode
	if row.ErrorCode != 0 && resp.Version < 2 { // which has a place for it in partitions only
		row.Topics = nil
		for _, t := range q.Topics {
			x := kmsg.NewOffsetFetchResponseGroupTopic()
			x.Topic = t.Topic
			for _, index := range t.Partitions {
				p := kmsg.NewOffsetFetchResponseGroupTopicPartition()
				p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode = index, -1, -1, kmsg.StringPtr(""), row.ErrorCode
				x.Partitions = append(x.Partitions, p)
			}
			row.Topics = append(row.Topics, x)
		}
	}
	resp.Topics = []kmsg.OffsetFetchResponseTopic{}
	for _, t := range row.Topics {
		x := kmsg.NewOffsetFetchResponseTopic()
		x.Topic = t.Topic
		for _, p := range t.Partitions {
			y := kmsg.NewOffsetFetchResponseTopicPartition()
			y.Partition, y.Offset, y.LeaderEpoch, y.Metadata, y.ErrorCode = p.Partition, p.Offset, p.LeaderEpoch, p.Metadata, p.ErrorCode
			x.Partitions = append(x.Partitions, y)
		}
		resp.Topics = append(resp.Topics, x)
	}
}

// countdown calls over behind the last of n calls of what it returns: at once if there
// are none.
func countdown(n int, over func()) func() {
	left := &atomic.Int64{}
	left.Store(int64(n))
	if n == 0 {
		over()
	}
	return func() {
		if left.Add(-1) == 0 {
			over()
		}
	}
}

// offsetDelete removes committed offsets (version 0).
func (b *Broker) offsetDelete(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.OffsetDeleteRequest)
	there, unknown := b.split(req.Topics)
	known := *req
	known.Topics = there
	b.inGroup(req.Group, func(core *group.Shard, now time.Time, token any) group.Effects {
		return core.DeleteOffsets(now, &known, token)
	}, func(r *protocol.Response) {
		if resp := r.Body.(*kmsg.OffsetDeleteResponse); resp.ErrorCode == 0 {
			for _, t := range unknown {
				addMissing(resp, t)
			}
		}
		done(r)
	}, func(code protocol.ErrorCode) kmsg.Response {
		resp := req.ResponseKind().(*kmsg.OffsetDeleteResponse)
		resp.ErrorCode = int16(code)
		return resp
	})
}

// split parts what can be deleted from rows for partitions that are not there. A topic
// can be among both.
func (b *Broker) split(topics []kmsg.OffsetDeleteRequestTopic) (there []kmsg.OffsetDeleteRequestTopic, unknown []kmsg.OffsetDeleteResponseTopic) {
	img := b.Image()
	for _, t := range topics {
		partitions := int32(0)
		if topic, ok := img.Topic(t.Topic); ok {
			partitions = topic.NumPartitions()
		}
		known, missing := t, kmsg.NewOffsetDeleteResponseTopic()
		known.Partitions, missing.Topic = nil, t.Topic
		for _, p := range t.Partitions {
			if p.Partition >= 0 && p.Partition < partitions {
				known.Partitions = append(known.Partitions, p)
				continue
			}
			row := kmsg.NewOffsetDeleteResponseTopicPartition()
			row.Partition, row.ErrorCode = p.Partition, int16(protocol.UnknownTopicOrPartition)
			missing.Partitions = append(missing.Partitions, row)
		}
		if len(known.Partitions) > 0 {
			there = append(there, known)
		}
		if len(missing.Partitions) > 0 || partitions == 0 {
			unknown = append(unknown, missing)
		}
	}
	return there, unknown
}

// addMissing gives a topic one row, with the partitions that are there and those that
// are not.
func addMissing(resp *kmsg.OffsetDeleteResponse, missing kmsg.OffsetDeleteResponseTopic) {
	for i := range resp.Topics {
		if t := &resp.Topics[i]; t.Topic == missing.Topic {
			t.Partitions = append(t.Partitions, missing.Partitions...)
			return
		}
	}
	resp.Topics = append(resp.Topics, missing)
}

// describeGroups tells of groups of the classic protocol (versions 0-6).
func (b *Broker) describeGroups(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.DescribeGroupsRequest)
	resp := req.ResponseKind().(*kmsg.DescribeGroupsResponse)
	resp.Groups = make([]kmsg.DescribeGroupsResponseGroup, len(req.Groups))
	over := countdown(len(req.Groups), func() { done(&protocol.Response{Body: resp}) })
	for i, id := range req.Groups {
		b.Groups.Step(id, func(core *group.Shard, now time.Time, token any) group.Effects {
			return core.Describe(now, id, req.Version, token)
		}, func(body any, code protocol.ErrorCode) {
			defer over()
			row := kmsg.NewDescribeGroupsResponseGroup()
			row.Group, row.ErrorCode = id, int16(code)
			if found, ok := body.(*kmsg.DescribeGroupsResponseGroup); ok && code == protocol.None {
				row = *found
			}
			if row.AuthorizedOperations = notAsked; req.IncludeAuthorizedOperations && row.ErrorCode == 0 {
				row.AuthorizedOperations = allGroupOperations
			}
			resp.Groups[i] = row
		})
	}
}

// deleteGroups removes groups that nobody is in (versions 0-3).
func (b *Broker) deleteGroups(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.DeleteGroupsRequest)
	resp := req.ResponseKind().(*kmsg.DeleteGroupsResponse)
	resp.Groups = make([]kmsg.DeleteGroupsResponseGroup, len(req.Groups))
	over := countdown(len(req.Groups), func() { done(&protocol.Response{Body: resp}) })
	for i, id := range req.Groups {
		b.Groups.Step(id, func(core *group.Shard, now time.Time, token any) group.Effects { return core.Delete(now, id, token) },
			func(body any, code protocol.ErrorCode) {
				defer over()
				row := &resp.Groups[i]
				if row.Group = id; code == protocol.None {
					code = body.(protocol.ErrorCode)
				}
				row.ErrorCode = int16(code)
			})
	}
}

// listGroups lists the groups that are coordinated here (versions 0-5; 4 by state, 5
// by type).
func (b *Broker) listGroups(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.ListGroupsRequest)
	resp := req.ResponseKind().(*kmsg.ListGroupsResponse)
	resp.Groups = []kmsg.ListGroupsResponseGroup{}
	var mu sync.Mutex
	b.Groups.Each(func(core *group.Shard, now time.Time, token any) group.Effects {
		return core.List(now, req.StatesFilter, req.TypesFilter, token)
	}, func(body any, code protocol.ErrorCode) {
		mu.Lock()
		defer mu.Unlock()
		switch {
		case code == protocol.None:
			resp.Groups = append(resp.Groups, body.([]kmsg.ListGroupsResponseGroup)...)
		case code != protocol.NotCoordinator: // which others list
			resp.ErrorCode = int16(code)
		}
	}, func() { done(&protocol.Response{Body: resp}) })
}
