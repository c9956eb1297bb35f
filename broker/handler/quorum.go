package handler

import (
	"context"
	"errors"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// metadataTopic is what Kafka calls the log of the controllers.
const metadataTopic = "__cluster_metadata"

// quorumWait bounds what a question about the quorum waits for its leader.
const quorumWait = 5 * time.Second

// describeQuorum tells where the controllers stand (versions 0-2; 1 times, 2
// directories and addresses). Offsets are raft indexes: HighWatermark is what is
// committed. The times of Kafka's followers, which fetch, do not exist here: a
// member that was heard of within the election time-out was so now.
func (b *Broker) describeQuorum(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.DescribeQuorumRequest)
	resp := req.ResponseKind().(*kmsg.DescribeQuorumResponse)
	ctx, cancel := context.WithTimeout(ctx, quorumWait)
	defer cancel()
	info, err := b.Quorum(ctx)
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = failure(err)
		done(&protocol.Response{Body: resp})
		return
	}
	for i := range req.Topics {
		q := &req.Topics[i]
		row := kmsg.NewDescribeQuorumResponseTopic()
		row.Topic = q.Topic
		for _, p := range q.Partitions {
			row.Partitions = append(row.Partitions, b.quorumRow(q.Topic, p.Partition, info))
		}
		resp.Topics = append(resp.Topics, row)
	}
	for _, v := range info.Controllers {
		node := kmsg.NewDescribeQuorumResponseNode()
		node.NodeID = v.NodeID
		for _, e := range v.Endpoints {
			l := kmsg.NewDescribeQuorumResponseNodeListener()
			l.Name, l.Host, l.Port = e.Name, e.Host, e.Port
			node.Listeners = append(node.Listeners, l)
		}
		resp.Nodes = append(resp.Nodes, node)
	}
	done(&protocol.Response{Body: resp})
}

func (b *Broker) quorumRow(topic string, partition int32, info raftmeta.Info) kmsg.DescribeQuorumResponseTopicPartition {
	row := kmsg.NewDescribeQuorumResponseTopicPartition()
	row.Partition = partition
	if topic != metadataTopic || partition != 0 {
		row.ErrorCode, row.ErrorMessage = failure(errUnknownTopic)
		return row
	}
	row.LeaderID, row.LeaderEpoch, row.HighWatermark = info.Node, int32(info.Term), int64(info.Commit)
	now := b.Now().UnixMilli()
	for _, p := range info.Progress {
		state := kmsg.NewDescribeQuorumResponseTopicPartitionReplicaState()
		state.ReplicaID, state.LogEndOffset = -1, int64(p.Match)
		state.LastFetchTimestamp, state.LastCaughtUpTimestamp = -1, -1
		for _, v := range info.Controllers {
			if v.RaftID == p.RaftID {
				state.ReplicaID, state.ReplicaDirectoryID = v.NodeID, v.DirectoryID
			}
		}
		if p.Active {
			state.LastFetchTimestamp = now
			if p.Match >= info.Commit {
				state.LastCaughtUpTimestamp = now
			}
		}
		if p.Learner {
			row.Observers = append(row.Observers, state)
		} else {
			row.CurrentVoters = append(row.CurrentVoters, state)
		}
	}
	return row
}

var (
	errClusterID     = errors.New("the request is for another cluster")
	errNoEndpoint    = invalid("a voter needs an endpoint on the controller listener")
	errVoterNotFound = errors.New("no controller has this id and directory")
)

// addRaftVoter takes a controller into the quorum (version 0-1, KIP-853): its
// node has to run, and to say hello under the id and the directory of the
// request. It learns first, and votes once it has caught up; the answer comes
// when the cluster has written it down, which the rest follows from.
func (b *Broker) addRaftVoter(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.AddRaftVoterRequest)
	resp := req.ResponseKind().(*kmsg.AddRaftVoterResponse)
	ctx, cancel := deadline(ctx, req.TimeoutMillis)
	defer cancel()
	err := b.rightCluster(req.ClusterID)
	if err == nil && len(req.Listeners) == 0 {
		err = errNoEndpoint
	}
	var voter image.Voter
	if err == nil {
		for _, l := range req.Listeners {
			voter.Endpoints = append(voter.Endpoints, image.Endpoint{Name: l.Name, Host: l.Host, Port: l.Port})
		}
		voter, err = b.FindController(ctx, req.VoterID, req.VoterDirectoryID, voter.Endpoints)
	}
	if err == nil {
		err = b.one(ctx, r, &control.PutVoter{Voter: voter, New: true})
	}
	resp.ErrorCode, resp.ErrorMessage = failure(err)
	done(&protocol.Response{Body: resp})
}

// removeRaftVoter takes a controller out of the quorum (version 0, KIP-853).
func (b *Broker) removeRaftVoter(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.RemoveRaftVoterRequest)
	resp := req.ResponseKind().(*kmsg.RemoveRaftVoterResponse)
	ctx, cancel := context.WithTimeout(ctx, alterWait)
	defer cancel()
	err := b.rightCluster(req.ClusterID)
	if err == nil {
		err = errVoterNotFound
		for _, v := range b.Current(ctx).Voters() {
			if v.NodeID == req.VoterID && v.DirectoryID == req.VoterDirectoryID {
				err = b.one(ctx, r, &control.RemoveVoter{RaftID: v.RaftID})
			}
		}
	}
	resp.ErrorCode, resp.ErrorMessage = failure(err)
	done(&protocol.Response{Body: resp})
}

func (b *Broker) rightCluster(id *string) error {
	if id != nil && *id != b.Image().ClusterID() {
		return errClusterID
	}
	return nil
}

// one carries out one command for a request.
func (b *Broker) one(ctx context.Context, r *protocol.Request, cmd control.Command) (err error) {
	var x submission
	x.add(cmd, func(o Outcome) { err = o.Err })
	x.run(ctx, b, r)
	return err
}
