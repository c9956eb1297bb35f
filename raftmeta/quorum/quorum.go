// Package quorum is the controller's core: it drives a raft node, turns waiting commands into units, and applies what
// is committed. It has no goroutine, clock, file or socket.
//
// # Duties of the caller
//
//  1. Hand in what happens: [Core.Tick], [Core.Step], [Core.Enqueue]; then [Core.Propose].
//  2. While [Core.Ready] gives something: make it durable, then [Core.Advance]. Nothing may come between the two that
//     can block, and there is no third way: what cannot be made durable ends the node.
//  3. Send the messages that Advance returns, publish its units, hand out its answers. No message may leave before the
//     Persist of its Ready is durable: it vouches for what is in there.
//
// # One unit in flight
//
// All waiting commands are evaluated in order on the applied image plus what the earlier ones of the batch decided. The
// records of the batch are one unit, and nothing else is evaluated before it is applied. So nothing is ever decided on
// state that is not committed, and no state has to be taken back. A unit that does not fit one entry is proposed as a
// begin, chunks and an end; it exists for nobody before its end is applied, and if its leader does not finish it, never.
package quorum

import (
	"errors"
	"fmt"
	"time"

	"go.etcd.io/raft/v3"
	pb "go.etcd.io/raft/v3/raftpb"
	"google.golang.org/protobuf/proto"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// ErrUnknown is the outcome of a command that may or may not be carried out: it was handed over, and then this node
// ceased to hear of it.
var ErrUnknown = errors.New("the outcome is unknown: the change may or may not have been made")

// ErrNotLeader says that this node does not decide. Nothing was done.
var ErrNotLeader = errors.New("this controller is not the active one")

const (
	maxEntry       = 256 << 10 // bytes of a unit in one entry; larger ones are cut
	maxUnit        = 48 << 20  // bytes of the records of a whole unit
	maxUncommitted = 64 << 20  // what raft holds of entries that are not committed
	maxReads       = 1024      // that wait for their index
)

// formed is the term of a cluster that nobody has led.
const formed = 1

// ElectionTicks without a word from the leader make a follower stand for election.
const ElectionTicks = 10

// Snapshot is what is kept of a snapshot: raft's form, by a name for those who must not know raft.
type Snapshot = pb.Snapshot

// Genesis is the state that a new cluster begins with at the node that forms it; the other voters begin as strangers.
func Genesis(clusterID string, voters ...image.Voter) (*pb.HardState, *pb.Snapshot) {
	one := uint64(formed)
	form := &control.FormCluster{ClusterID: clusterID, Voters: voters}
	made, _ := form.Eval(image.Empty(), time.Time{}) // an empty image refuses nothing
	img, _ := image.Apply(image.Empty(), one, made.Records)
	conf := &pb.ConfState{}
	for _, v := range img.Voters() {
		conf.Voters = append(conf.Voters, v.RaftID)
	}
	return &pb.HardState{Term: &one, Commit: &one}, &pb.Snapshot{
		Data:     img.Encode(),
		Metadata: &pb.SnapshotMetadata{Index: &one, Term: &one, ConfState: conf},
	}
}

// Stranger is the state of a node that belongs to a cluster and knows nothing of it yet. It may vote, since it never
// vouched for anything under its raft id, and stands for election once a leader has sent it a snapshot with it as a voter.
func Stranger() (*pb.HardState, *pb.Snapshot) {
	return &pb.HardState{}, &pb.Snapshot{Data: image.Empty().Encode(), Metadata: &pb.SnapshotMetadata{ConfState: &pb.ConfState{}}}
}

// Config is what a core starts from. The state is what the raft log holds.
type Config struct {
	RaftID    uint64
	ClusterID string
	// Origin makes unit ids unique: no two cores ever run with the same.
	Origin    image.UUID
	HardState *pb.HardState
	Snapshot  *pb.Snapshot
	Entries   []*pb.Entry
	Logger    raft.Logger
}

// Core is the raft node and the metadata as applied. One goroutine owns it.
type Core struct {
	id      uint64
	node    *raft.RawNode
	storage *storage
	hash    uint32
	origin  image.UUID
	units   uint64 // proposed since the start
	conf    *pb.ConfState

	ready    *raft.Ready // given to the caller and not advanced
	outgoing []Message   // of ready
	image    *image.Image
	// applied and its term move with every entry, the image's index with whole units only.
	applied, appliedTerm uint64
	assembler            Assembler
	reported             bool // brokers report the image as soon as they have applied it: its unit was awaited

	leader bool
	term   uint64 // in which leader was last looked at
	// barrier is up until an entry of the own term is applied: before that the image may lack what was committed.
	barrier bool

	changing bool // a change of members was proposed and is not applied

	waiting []Proposal
	flight  *flight
	reads   map[uint64]read // by the number that raft knows them by
	asked   uint64          // the last such number
	due     []read          // whose index is known and not applied
	ticks   uint64
}

// New restores a core from its log. A quorum of one elects itself at once.
func New(cfg Config) (*Core, error) {
	img, err := image.DecodeImage(cfg.Snapshot.GetData())
	if err != nil {
		return nil, fmt.Errorf("snapshot %d: %w", cfg.Snapshot.GetMetadata().GetIndex(), err)
	}
	meta := cfg.Snapshot.GetMetadata()
	c := &Core{
		id: cfg.RaftID, hash: image.ClusterHash(cfg.ClusterID), origin: cfg.Origin,
		conf: meta.GetConfState(), image: img, applied: meta.GetIndex(), appliedTerm: meta.GetTerm(), barrier: true,
		reads: map[uint64]read{},
	}
	c.storage = newStorage()
	// A commit index alone is never synced, so the stored one may lie before the snapshot. Raft panics at that, and the
	// snapshot vouches for what it holds.
	hs := proto.Clone(cfg.HardState).(*pb.HardState)
	hs.Commit = new(max(hs.GetCommit(), meta.GetIndex()))
	if meta.GetIndex() > 0 { // the data of the snapshot is in the image; raft needs only where it stands
		err = c.storage.ApplySnapshot(&pb.Snapshot{Metadata: meta})
	}
	if err = errors.Join(err, c.storage.SetHardState(hs), c.storage.Append(cfg.Entries)); err != nil {
		return nil, err
	}
	c.mark()
	c.node, err = raft.NewRawNode(&raft.Config{
		ID: cfg.RaftID, Storage: c.storage, Applied: c.applied,
		ElectionTick: ElectionTicks, HeartbeatTick: 1, PreVote: true, CheckQuorum: true,
		MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: 16 << 20, MaxUncommittedEntriesSize: maxUncommitted,
		MaxInflightMsgs: 256, MaxInflightBytes: 16 << 20,
		DisableProposalForwarding: true, StepDownOnRemoval: true, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	if c.Alone() {
		err = c.node.Campaign()
	}
	return c, err
}

// Alone tells whether this node is the whole quorum.
func (c *Core) Alone() bool {
	return len(c.conf.GetVoters()) == 1 && c.conf.GetVoters()[0] == c.id && len(c.conf.GetVotersOutgoing()) == 0
}

// Image is the metadata as applied.
func (c *Core) Image() *image.Image { return c.image }

// Active tells whether this node decides: it leads, and has applied whatever its predecessors committed.
func (c *Core) Active() bool { return c.leader && !c.barrier }

// Tick is a tenth of the time after which a silent leader is given up. It ends reads that are older than that.
func (c *Core) Tick() []Answer {
	c.ticks++
	c.node.Tick()
	if s := c.node.BasicStatus(); s.GetTerm() == formed && s.Lead == raft.None {
		_ = c.node.Campaign() // nobody else can stand yet, so there is nothing to wait for; an error: the next tick tries again
	}
	return c.abandonReads(c.ticks - min(c.ticks, ElectionTicks))
}

// Campaign stands for election now. Without a reason to think that the leader is gone the others refuse.
func (c *Core) Campaign() error { return c.node.Campaign() }

// ForgetLeader is told when it is known that the leader's process is gone: this node then votes for another at once,
// instead of waiting out the time-out that protects a leader who lives.
func (c *Core) ForgetLeader(raftID uint64) error {
	if c.node.BasicStatus().Lead != raftID || c.leader {
		return nil
	}
	return c.node.ForgetLeader()
}

// Step takes a message from another node. An error says that the message is not for this node or means nothing to it;
// nothing has changed then.
func (c *Core) Step(data []byte) error { return c.step(data, nil) }

// StepSnapshot is Step for a message whose snapshot came apart from it.
func (c *Core) StepSnapshot(data, snapshot []byte) error { return c.step(data, snapshot) }

func (c *Core) step(data, snapshot []byte) error {
	m := &pb.Message{}
	if err := proto.Unmarshal(data, m); err != nil {
		return fmt.Errorf("a raft message: %w", err)
	}
	if m.GetTo() != c.id {
		return fmt.Errorf("a raft message for the raft id %d reached %d: that node's directory was replaced, or another node has its address", m.GetTo(), c.id)
	}
	if raft.IsLocalMsg(m.GetType()) {
		return fmt.Errorf("a raft message of type %s, which nodes do not send", m.GetType())
	}
	if m.GetSnapshot() != nil {
		m.Snapshot.Data = snapshot
	}
	return c.node.Step(m)
}

// Unreachable says that messages to a node were lost.
func (c *Core) Unreachable(raftID uint64) { c.node.ReportUnreachable(raftID) }

// SnapshotSent ends every snapshot that was given out in a Message: the node has it, or it failed.
func (c *Core) SnapshotSent(raftID uint64, ok bool) {
	status := raft.SnapshotFinish
	if !ok {
		status = raft.SnapshotFailure
	}
	c.node.ReportSnapshot(raftID, status)
}

// Message is for another node.
type Message struct {
	To uint64
	// Urgent ones keep leaders alive or elect them: they go ahead of the others, and must not wait behind them.
	Urgent bool
	Data   []byte
	// Snapshot is what Data lacks: its Encode goes to the other node's StepSnapshot. Nil in all but snapshots.
	Snapshot *image.Image
}

func (c *Core) messages(ms []*pb.Message) (out []Message, err error) {
	for _, m := range ms {
		x := Message{To: m.GetTo()}
		switch m.GetType() {
		case pb.MsgSnap:
			at := m.GetSnapshot().GetMetadata().GetIndex()
			if x.Snapshot = c.storage.image(at); x.Snapshot == nil {
				return nil, fmt.Errorf("raft sends a snapshot of index %d that it was not given", at)
			}
		case pb.MsgApp, pb.MsgAppResp, pb.MsgReadIndex, pb.MsgReadIndexResp:
		default:
			x.Urgent = true
		}
		if x.Data, err = proto.Marshal(m); err != nil {
			return nil, err
		}
		out = append(out, x)
	}
	return out, nil
}

// Status is where the raft node stands.
type Status struct {
	Term, Commit, Applied, Last uint64
	State                       string // leader, follower, candidate, pre-candidate
	Leader                      uint64 // a raft id, 0 for none
}

// Status tells where the raft node stands.
func (c *Core) Status() Status {
	s := c.node.BasicStatus()
	last, _ := c.storage.LastIndex() // a log in memory has no errors
	return Status{
		Term: s.GetTerm(), Commit: s.GetCommit(), Applied: c.applied, Last: last,
		State: states[s.RaftState], Leader: s.Lead,
	}
}

var states = map[raft.StateType]string{
	raft.StateLeader: "leader", raft.StateFollower: "follower",
	raft.StateCandidate: "candidate", raft.StatePreCandidate: "pre-candidate",
}
