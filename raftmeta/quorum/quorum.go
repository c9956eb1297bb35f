// Package quorum is the controller's core: it drives a raft node, turns waiting commands into units, and applies what
// is committed. It has no goroutine, clock, file or socket.
//
// # Duties of the caller
//
//  1. [Core.Enqueue] what is asked for, then [Core.Propose].
//  2. While [Core.Ready] gives something: make it durable, then [Core.Advance]. Nothing may come between the two that
//     can block, and there is no third way: what cannot be made durable ends the node.
//  3. Publish the units that Advance returns, and hand out its answers.
//
// # One unit in flight
//
// All waiting commands are evaluated in order on the applied image plus what the earlier ones of the batch decided. The
// records of the batch are one unit, and nothing else is evaluated before it is applied. So nothing is ever decided on
// state that is not committed, and no state has to be taken back. A unit that does not fit one entry is proposed as a
// begin, chunks and an end; it exists for nobody before its end is applied.
package quorum

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
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

const (
	maxEntry       = 256 << 10 // bytes of a unit in one entry; larger ones are cut
	maxUnit        = 48 << 20  // bytes of the records of a whole unit
	maxUncommitted = 64 << 20  // what raft holds of entries that are not committed
)

// Entries are tagged with what part of a unit they are.
const (
	entryWhole = iota + 1
	entryBegin
	entryChunk
	entryEnd
)

// Snapshot is what is kept of a snapshot: raft's form, by a name for those who must not know raft.
type Snapshot = pb.Snapshot

// Genesis is the state that a new cluster of one voter begins with: an empty image at index 1.
func Genesis(raftID uint64) (*pb.HardState, *pb.Snapshot) {
	one := uint64(1)
	img, _ := image.Apply(image.Empty(), one, nil)
	return &pb.HardState{Term: &one, Commit: &one}, &pb.Snapshot{
		Data:     img.Encode(),
		Metadata: &pb.SnapshotMetadata{Index: &one, Term: &one, ConfState: &pb.ConfState{Voters: []uint64{raftID}}},
	}
}

// Config is what a core starts from. The state is what the raft log holds.
type Config struct {
	RaftID    uint64
	ClusterID string
	// Origin makes operation ids unique: no two cores ever run with the same.
	Origin    image.UUID
	HardState *pb.HardState
	Snapshot  *pb.Snapshot
	Entries   []*pb.Entry
	Logger    raft.Logger
}

// Core is the raft node and the metadata as applied. One goroutine owns it.
type Core struct {
	node    *raft.RawNode
	storage *raft.MemoryStorage
	hash    uint32
	origin  image.UUID
	units   uint64 // proposed since the start
	conf    *pb.ConfState

	ready *raft.Ready // given to the caller and not advanced
	image *image.Image
	// applied and its term move with every entry, the image's index with whole units only.
	applied, appliedTerm uint64
	assembler            Assembler

	leader bool
	// barrier is up until an entry of the own term is applied: before that the image may lack what was committed.
	barrier bool

	waiting []Proposal
	flight  *flight
}

// Proposal is a command that waits. The token comes back with its answer.
type Proposal struct {
	Token   any
	Command control.Command
}

// Answer is the outcome of a command. Index is what a reader must have applied to see it.
type Answer struct {
	Token any
	Index uint64
	Reply any
	Err   error // nil, a *control.Refusal, or ErrUnknown
}

type flight struct {
	id      image.UUID
	answers []Answer
}

// Persist is what must be durable before Advance.
type Persist struct {
	HardState *pb.HardState // nil when unchanged
	Entries   []*pb.Entry
	Sync      bool
}

// Committed is a unit that is applied, in its form in the log.
type Committed struct {
	Index uint64
	Bytes []byte
}

// Applied is what an Advance did.
type Applied struct {
	Units   []Committed
	Answers []Answer
}

// New restores a core from its log. A quorum of one elects itself at once.
func New(cfg Config) (*Core, error) {
	img, err := image.DecodeImage(cfg.Snapshot.GetData())
	if err != nil {
		return nil, fmt.Errorf("snapshot %d: %w", cfg.Snapshot.GetMetadata().GetIndex(), err)
	}
	meta := cfg.Snapshot.GetMetadata()
	c := &Core{
		storage: raft.NewMemoryStorage(), hash: image.ClusterHash(cfg.ClusterID), origin: cfg.Origin,
		conf: meta.GetConfState(), image: img, applied: meta.GetIndex(), appliedTerm: meta.GetTerm(), barrier: true,
	}
	// A commit index alone is never synced, so the stored one may lie before the snapshot. Raft panics at that, and the
	// snapshot vouches for what it holds.
	hs := proto.Clone(cfg.HardState).(*pb.HardState)
	hs.Commit = new(max(hs.GetCommit(), meta.GetIndex()))
	// The data of the snapshot is in the image; raft needs only where it stands.
	err = errors.Join(
		c.storage.ApplySnapshot(&pb.Snapshot{Metadata: meta}),
		c.storage.SetHardState(hs),
		c.storage.Append(cfg.Entries))
	if err != nil {
		return nil, err
	}
	c.node, err = raft.NewRawNode(&raft.Config{
		ID: cfg.RaftID, Storage: c.storage, Applied: c.applied,
		ElectionTick: 10, HeartbeatTick: 1, PreVote: true, CheckQuorum: true,
		MaxSizePerMsg: 1 << 20, MaxCommittedSizePerReady: 16 << 20, MaxUncommittedEntriesSize: maxUncommitted,
		MaxInflightMsgs: 256, MaxInflightBytes: 16 << 20,
		DisableProposalForwarding: true, StepDownOnRemoval: true, Logger: cfg.Logger,
	})
	if err != nil {
		return nil, err
	}
	if len(c.conf.GetVoters()) == 1 {
		err = c.node.Campaign()
	}
	return c, err
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

// Image is the metadata as applied.
func (c *Core) Image() *image.Image { return c.image }

// Enqueue adds a command to those that wait.
func (c *Core) Enqueue(p Proposal) { c.waiting = append(c.waiting, p) }

// Waiting counts the commands that wait for their answers.
func (c *Core) Waiting() int {
	n := len(c.waiting)
	if c.flight != nil {
		n += len(c.flight.answers)
	}
	return n
}

// Propose evaluates what waits, if it may, and proposes the unit. Answers that need no unit come back at once.
func (c *Core) Propose(now time.Time) []Answer {
	if !c.leader || c.barrier || c.flight != nil || len(c.waiting) == 0 {
		return nil
	}
	c.units++
	unit := &image.Unit{ID: c.operationID(), Base: c.image.Index()}
	answers := c.evaluate(unit, now)
	if len(unit.Records) == 0 {
		for i := range answers {
			answers[i].Index = c.image.Index()
		}
		return answers
	}
	for _, data := range cut(unit.Encode(c.hash)) {
		if err := c.node.Propose(data); err != nil {
			return unknown(answers)
		}
	}
	c.flight = &flight{unit.ID, answers}
	return nil
}

// evaluate takes waiting commands, in order, as long as their records fit one entry. Only a command that alone is larger
// than that makes a unit of several entries.
func (c *Core) evaluate(unit *image.Unit, now time.Time) []Answer {
	var answers []Answer
	img, size, n := c.image, 0, 0
	for n < len(c.waiting) && size < maxEntry {
		p := c.waiting[n]
		a := Answer{Token: p.Token}
		result, err := p.Command.Eval(img, now)
		grown := 0
		if err == nil {
			if grown = image.RecordsSize(result.Records); grown > maxUnit {
				err = &control.Refusal{Code: control.PolicyViolation, Message: fmt.Sprintf("the change takes %d bytes, at most %d are possible: split it", grown, maxUnit)}
			}
		}
		if size > 0 && size+grown > maxEntry {
			break // it is evaluated again, for a unit of its own
		}
		n++
		if err != nil {
			// It may have been refused for what an earlier command of this batch decided, so it is answered with them.
			a.Err = err
		} else {
			a.Reply = result.Reply
			img, _ = image.Apply(img, c.image.Index()+1, result.Records)
			unit.Records = append(unit.Records, result.Records...)
			size += grown
		}
		answers = append(answers, a)
	}
	left := copy(c.waiting, c.waiting[n:])
	clear(c.waiting[left:])
	c.waiting = c.waiting[:left]
	return answers
}

// operationID is unique as long as Origin is: half of it and a counter.
func (c *Core) operationID() image.UUID {
	id := c.origin
	binary.BigEndian.PutUint64(id[8:], c.units)
	return id
}

// cut makes the entries of a unit.
func cut(unit []byte) [][]byte {
	if len(unit) <= maxEntry {
		return [][]byte{append([]byte{entryWhole}, unit...)}
	}
	entries := [][]byte{binary.AppendUvarint([]byte{entryBegin}, uint64(len(unit)))}
	for len(unit) > 0 {
		n := min(len(unit), maxEntry)
		entries = append(entries, append([]byte{entryChunk}, unit[:n]...))
		unit = unit[n:]
	}
	return append(entries, []byte{entryEnd})
}

// Ready is what has to be made durable next; false when there is nothing to do.
func (c *Core) Ready() (Persist, bool) {
	if !c.node.HasReady() {
		return Persist{}, false
	}
	rd := c.node.Ready()
	c.ready = &rd
	return Persist{HardState: rd.HardState, Entries: rd.Entries, Sync: rd.MustSync}, true
}

// Advance follows when what Ready gave is durable. An error means that the log holds what this release cannot have
// written or does not understand; the node must stop.
func (c *Core) Advance() (Applied, error) {
	rd := c.ready
	c.ready = nil
	if rd.HardState != nil {
		if err := c.storage.SetHardState(rd.HardState); err != nil {
			return Applied{}, err
		}
	}
	if err := c.storage.Append(rd.Entries); err != nil {
		return Applied{}, err
	}
	var done Applied
	c.lead(rd, &done)
	for _, e := range rd.CommittedEntries {
		if err := c.apply(e, &done); err != nil {
			return done, fmt.Errorf("raft entry %d: %w", e.GetIndex(), err)
		}
	}
	c.node.Advance(*rd)
	return done, nil
}

// lead follows changes of leadership. What waits when it is lost is answered: nobody here will hear of it.
func (c *Core) lead(rd *raft.Ready, done *Applied) {
	if rd.SoftState == nil {
		return
	}
	leads := rd.SoftState.RaftState == raft.StateLeader
	if c.leader && !leads {
		done.Answers = append(done.Answers, c.Abandon()...)
	}
	if leads && !c.leader {
		c.barrier = true
	}
	c.leader = leads
}

// Abandon answers what is not decided: the node stops, or does not lead.
func (c *Core) Abandon() []Answer {
	var answers []Answer
	if c.flight != nil {
		answers = unknown(c.flight.answers)
		c.flight = nil
	}
	for _, p := range c.waiting {
		answers = append(answers, Answer{Token: p.Token, Err: ErrUnknown})
	}
	c.waiting = nil
	return answers
}

func unknown(answers []Answer) []Answer {
	for i := range answers {
		answers[i] = Answer{Token: answers[i].Token, Err: ErrUnknown}
	}
	return answers
}

func (c *Core) apply(e *pb.Entry, done *Applied) error {
	c.applied, c.appliedTerm = e.GetIndex(), e.GetTerm()
	if e.GetType() != pb.EntryNormal {
		return fmt.Errorf("a change of membership, which this release does not make")
	}
	if len(e.GetData()) == 0 { // every leader begins its term with such an entry
		if c.leader && e.GetTerm() == c.node.BasicStatus().GetTerm() {
			c.barrier = false
		}
		return nil
	}
	unit, err := c.assembler.Add(e.GetData())
	if unit == nil || err != nil {
		return err
	}
	u, err := image.DecodeUnit(unit, c.hash)
	if err != nil {
		return err
	}
	if u.Base != c.image.Index() {
		return fmt.Errorf("the unit was decided on index %d, the image is at %d", u.Base, c.image.Index())
	}
	c.image, _ = image.Apply(c.image, e.GetIndex(), u.Records)
	done.Units = append(done.Units, Committed{e.GetIndex(), unit})
	if c.flight != nil && c.flight.id == u.ID {
		for _, a := range c.flight.answers {
			a.Index = e.GetIndex()
			done.Answers = append(done.Answers, a)
		}
		c.flight = nil
	}
	return nil
}

// Assembler puts the units together that entries hold parts of.
type Assembler struct {
	partial []byte // of a unit whose end was not added
	inUnit  bool
}

// Add takes the data of the next entry, which is not empty, and returns a unit once it is whole. One whose leader never
// finished it is dropped when the next begins.
func (a *Assembler) Add(data []byte) ([]byte, error) {
	kind, data := data[0], data[1:]
	switch kind {
	case entryWhole:
		a.partial, a.inUnit = nil, false
		return data, nil
	case entryBegin:
		a.partial, a.inUnit = nil, true
		return nil, nil
	case entryChunk:
		if a.inUnit {
			a.partial = append(a.partial, data...)
		}
		if len(a.partial) > maxUnit+maxEntry { // maxUnit is that of the records
			return nil, fmt.Errorf("a unit of more than %d bytes", maxUnit+maxEntry)
		}
		return nil, nil
	case entryEnd:
		unit := a.partial
		if !a.inUnit {
			unit = nil
		}
		a.partial, a.inUnit = nil, false
		return unit, nil
	default:
		return nil, &image.UnknownFormatError{What: "entry", Version: uint64(kind)}
	}
}

// InUnit tells whether the last entry was a part of a unit and not its end.
func (a *Assembler) InUnit() bool { return a.inUnit }

// Snapshot is where a snapshot of the image as applied stands; the data is for the caller to add. It is nil in the
// middle of a unit: a snapshot there would cut the unit in two.
func (c *Core) Snapshot() *Snapshot {
	if c.assembler.inUnit {
		return nil
	}
	index, term := c.applied, c.appliedTerm
	return &pb.Snapshot{Metadata: &pb.SnapshotMetadata{Index: &index, Term: &term, ConfState: c.conf}}
}

// Compact forgets entries that a durable snapshot covers, but for the last ones: at most keep, and of at most keepBytes. It
// returns up to where, 0 for nothing to forget.
func (c *Core) Compact(snap *Snapshot, keep, keepBytes uint64) (uint64, error) {
	meta := snap.GetMetadata()
	if _, err := c.storage.CreateSnapshot(meta.GetIndex(), meta.GetConfState(), nil); err != nil {
		return 0, err
	}
	first, err := c.storage.FirstIndex()
	if err != nil {
		return 0, err
	}
	to := meta.GetIndex()
	for ; to >= first && keep > 0; to, keep = to-1, keep-1 {
		e, err := c.storage.Entries(to, to+1, math.MaxUint64)
		if err != nil {
			return 0, err
		}
		size := uint64(len(e[0].GetData()))
		if size > keepBytes {
			break
		}
		keepBytes -= size
	}
	if to < first {
		return 0, nil
	}
	return to, c.storage.Compact(to)
}
