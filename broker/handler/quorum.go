package handler

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
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
// directories and addresses). Like Apache Kafka it is asked for the one
// partition there is, and nothing else beside it.
//
// Offsets are raft indexes: HighWatermark is what is committed. The times of
// Kafka's followers, which fetch, do not exist here: a member that was heard of
// within the election time-out was so now. Observers are controllers that are
// to vote once they have caught up. Kafka counts brokers among them too; here
// they follow what is committed, and the log itself they never have.
func (b *Broker) describeQuorum(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.DescribeQuorumRequest)
	resp := req.ResponseKind().(*kmsg.DescribeQuorumResponse)
	resp.ErrorMessage = new(string) // as in Apache Kafka, null for nothing is not used here
	ctx, cancel := context.WithTimeout(ctx, quorumWait)
	defer cancel()
	valid := len(req.Topics) == 1 && req.Topics[0].Topic == metadataTopic &&
		len(req.Topics[0].Partitions) == 1 && req.Topics[0].Partitions[0].Partition == 0
	if !valid {
		resp.Topics = unknownQuorums(req)
		done(&protocol.Response{Body: resp})
		return
	}
	info, err := b.Quorum(ctx)
	if err != nil {
		resp.ErrorCode, resp.ErrorMessage = failure(err)
		done(&protocol.Response{Body: resp})
		return
	}
	row := kmsg.NewDescribeQuorumResponseTopic()
	row.Topic = metadataTopic
	row.Partitions = []kmsg.DescribeQuorumResponseTopicPartition{b.quorumRow(info)}
	resp.Topics = append(resp.Topics, row)
	for _, v := range newestVoters(info.Controllers) {
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

// unknownQuorums answers a request that asks for anything but the log of the
// controllers.
func unknownQuorums(req *kmsg.DescribeQuorumRequest) []kmsg.DescribeQuorumResponseTopic {
	var rows []kmsg.DescribeQuorumResponseTopic
	for i := range req.Topics {
		row := kmsg.NewDescribeQuorumResponseTopic()
		row.Topic = req.Topics[i].Topic
		for _, q := range req.Topics[i].Partitions {
			p := kmsg.NewDescribeQuorumResponseTopicPartition()
			p.Partition = q.Partition
			p.ErrorCode, p.ErrorMessage = failure(errNoQuorum)
			row.Partitions = append(row.Partitions, p)
		}
		rows = append(rows, row)
	}
	return rows
}

// newestVoters has each node once, by id: one that lost its directory is known by its
// former raft id as well, until the new one votes.
func newestVoters(all []image.Voter) []image.Voter {
	var voters []image.Voter
	for _, v := range all {
		at := slices.IndexFunc(voters, func(x image.Voter) bool { return x.NodeID == v.NodeID })
		switch {
		case at < 0:
			voters = append(voters, v)
		case voters[at].Since < v.Since:
			voters[at] = v
		}
	}
	slices.SortFunc(voters, func(a, b image.Voter) int { return cmp.Compare(a.NodeID, b.NodeID) })
	return voters
}

func (b *Broker) quorumRow(info raftmeta.Info) kmsg.DescribeQuorumResponseTopicPartition {
	row := kmsg.NewDescribeQuorumResponseTopicPartition()
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
	byNode := func(a, b kmsg.DescribeQuorumResponseTopicPartitionReplicaState) int {
		return cmp.Compare(a.ReplicaID, b.ReplicaID)
	}
	slices.SortFunc(row.CurrentVoters, byNode)
	slices.SortFunc(row.Observers, byNode)
	return row
}

// What FindController says of a node that is to vote.
var (
	// ErrNoController is that nobody answers there, for now.
	ErrNoController = errors.New("no controller answers there")
	// ErrOtherController is that another node than the one that is meant does.
	ErrOtherController = errors.New("that is not the controller of the request")
)

var (
	errNoQuorum = fmt.Errorf("%w: only partition 0 of %s has a quorum, and it is asked for alone", errUnknownTopic, metadataTopic)
	errNoVoter  = invalid("the request names no voter: both its id and its directory id are needed")
)

// addRaftVoter takes a controller into the quorum (versions 0-1, KIP-853; 1
// whether to wait for the commit, which the answer always does): its node has to
// run, and to say hello under the id and the directory of the request. It learns
// first, and votes once it has caught up; the answer comes when the cluster has
// written it down, which the rest follows from. Apache Kafka has the operator wait
// until it has caught up, and then makes it vote at once.
//
// Checks stand in the order of Kafka's KafkaRaftClient.handleAddVoterRequest and
// AddVoterHandler.
func (b *Broker) addRaftVoter(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.AddRaftVoterRequest)
	resp := req.ResponseKind().(*kmsg.AddRaftVoterResponse)
	ctx, cancel := deadline(ctx, req.TimeoutMillis)
	defer cancel()
	voter, err := b.newVoter(ctx, req)
	if err == nil {
		_, err = b.one(ctx, r, &control.PutVoter{Voter: voter, New: true})
	}
	resp.ErrorCode, resp.ErrorMessage = failure(err)
	done(&protocol.Response{Body: resp})
}

func (b *Broker) newVoter(ctx context.Context, req *kmsg.AddRaftVoterRequest) (image.Voter, error) {
	if err := b.rightCluster(req.ClusterID, req.VoterID, req.VoterDirectoryID); err != nil {
		return image.Voter{}, err
	}
	// A node has one controller listener: others of the request say nothing here.
	name := b.Config.ControllerListenerName()
	i := slices.IndexFunc(req.Listeners, func(l kmsg.AddRaftVoterRequestListener) bool { return l.Name == name })
	if i < 0 {
		return image.Voter{}, invalid(fmt.Sprintf("the request does not say where listener %s of the voter is, on which controllers talk to each other", name))
	}
	for _, v := range b.Current(ctx).Voters() {
		if v.NodeID == req.VoterID {
			return image.Voter{}, &control.Refusal{Code: control.DuplicateVoter, Message: fmt.Sprintf("node %d is a controller already, with directory %s", v.NodeID, v.DirectoryID)}
		}
	}
	at := image.Endpoint{Name: name, Host: req.Listeners[i].Host, Port: req.Listeners[i].Port}
	return b.FindController(ctx, req.VoterID, req.VoterDirectoryID, at)
}

// removeRaftVoter takes a controller out of the quorum (version 0, KIP-853),
// with the checks of Kafka's RemoveVoterHandler in its order.
func (b *Broker) removeRaftVoter(ctx context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.RemoveRaftVoterRequest)
	resp := req.ResponseKind().(*kmsg.RemoveRaftVoterResponse)
	ctx, cancel := context.WithTimeout(ctx, alterWait)
	defer cancel()
	err := b.rightCluster(req.ClusterID, req.VoterID, req.VoterDirectoryID)
	if err == nil {
		voters := b.Current(ctx).Voters()
		at := slices.IndexFunc(voters, func(v image.Voter) bool { return v.NodeID == req.VoterID && v.DirectoryID == req.VoterDirectoryID })
		if at < 0 {
			err = &control.Refusal{Code: control.VoterNotFound, Message: fmt.Sprintf("no controller has id %d and directory %s", req.VoterID, image.UUID(req.VoterDirectoryID))}
		} else {
			_, err = b.one(ctx, r, &control.RemoveVoter{RaftID: voters[at].RaftID})
		}
	}
	resp.ErrorCode, resp.ErrorMessage = failure(err)
	done(&protocol.Response{Body: resp})
}

// rightCluster checks what both requests about a voter begin with.
func (b *Broker) rightCluster(cluster *string, voter int32, dir image.UUID) error {
	if own := b.Image().ClusterID(); cluster != nil && *cluster != own {
		return &control.Refusal{Code: control.WrongCluster, Message: fmt.Sprintf("the request is for cluster %q, and this is cluster %s", *cluster, own)}
	}
	if voter < 0 || dir.IsZero() {
		return errNoVoter
	}
	return nil
}

// one carries out one command for a request.
func (b *Broker) one(ctx context.Context, r *protocol.Request, cmd control.Command) (reply any, err error) {
	var x submission
	x.add(cmd, func(o Outcome) { reply, err = o.Reply, o.Err })
	x.run(ctx, b, r)
	return reply, err
}
