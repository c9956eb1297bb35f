package peer

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"syscall"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
)

// The headers of what nodes ask each other. All of them name the cluster that
// the sender is of: a node of another one refuses.

// Hello asks who a node is. A node that belongs to no cluster yet is asked too.
type Hello struct{ ClusterID string }

// HelloAnswer is who a node is.
type HelloAnswer struct {
	NodeID      int32
	Incarnation image.UUID
	ClusterID   string // empty while the node belongs to none
	DirectoryID image.UUID
	// RaftID is that of a controller, 0 for a broker.
	RaftID uint64       `json:",omitempty"`
	Levels image.Levels `json:",omitzero"` // of the metadata that it can read
	// Formed tells whether the controller's log is that of a cluster. Until then
	// it waits for one, or for the others to make one.
	Formed bool
	// Controllers are those of the cluster, as far as this one knows.
	Controllers []image.Voter `json:",omitempty"`
	// Leads tells whether it is the leader of the quorum.
	Leads bool
}

// FetchUnits asks for committed units behind an index.
type FetchUnits struct {
	ClusterID string
	After     uint64
	MaxBytes  int
	WaitMs    int
	// Current asks for the index only that holds everything answered so far.
	Current bool
}

// FetchUnitsAnswer goes with units, or a snapshot, one after the other in the
// data.
type FetchUnitsAnswer struct {
	Error    *Failure `json:",omitempty"`
	Snapshot bool     `json:",omitempty"` // the data is one
	Indexes  []uint64 `json:",omitempty"` // of the units
	Sizes    []int    `json:",omitempty"`
	Index    uint64   `json:",omitempty"` // where Current was asked
}

// NewUnitsAnswer puts a batch into an answer and its data.
func NewUnitsAnswer(b follow.Batch) (FetchUnitsAnswer, []byte) {
	if b.Snapshot != nil {
		return FetchUnitsAnswer{Snapshot: true}, b.Snapshot
	}
	var a FetchUnitsAnswer
	var data []byte
	for _, u := range b.Units {
		a.Indexes, a.Sizes = append(a.Indexes, u.Index), append(a.Sizes, len(u.Bytes))
		data = append(data, u.Bytes...)
	}
	return a, data
}

// Batch takes the batch out of an answer and its data.
func (a *FetchUnitsAnswer) Batch(data []byte) (follow.Batch, error) {
	if a.Snapshot {
		return follow.Batch{Snapshot: data}, nil
	}
	if len(a.Indexes) != len(a.Sizes) {
		return follow.Batch{}, fmt.Errorf("%d units with %d sizes", len(a.Indexes), len(a.Sizes))
	}
	var b follow.Batch
	for i, n := range a.Sizes {
		if n < 0 || n > len(data) {
			return follow.Batch{}, fmt.Errorf("a unit of %d bytes in %d", n, len(data))
		}
		b.Units = append(b.Units, follow.Unit{Index: a.Indexes[i], Bytes: data[:n:n]})
		data = data[n:]
	}
	return b, nil
}

// Submit hands requests to the active controller, in their order.
type Submit struct {
	ClusterID string
	TimeoutMs int
	Requests  []json.RawMessage // see control.Request.Encode
}

// SubmitAnswer has an outcome for each request.
type SubmitAnswer struct {
	Error    *Failure `json:",omitempty"`
	Outcomes []Outcome
}

// Outcome is a raftmeta.Outcome on the wire.
type Outcome struct {
	Index uint64
	Reply json.RawMessage `json:",omitempty"`
	Error *Failure        `json:",omitempty"`
}

// NewOutcome is an outcome for the wire.
func NewOutcome(o raftmeta.Outcome) (Outcome, error) {
	reply, err := control.EncodeReply(o.Reply)
	return Outcome{o.Index, reply, NewFailure(o.Err, -1)}, err
}

func (o *Outcome) decode() raftmeta.Outcome {
	reply, err := control.DecodeReply(o.Reply)
	if err == nil {
		err = o.Error.err()
	}
	return raftmeta.Outcome{Index: o.Index, Reply: reply, Err: err}
}

// Heartbeat is a broker's.
type Heartbeat struct {
	ClusterID string
	liveness.Heartbeat
}

// HeartbeatAnswer is the active controller's.
type HeartbeatAnswer struct {
	Error *Failure `json:",omitempty"`
	liveness.Reply
}

// Quorum asks where the quorum stands.
type Quorum struct{ ClusterID string }

// QuorumAnswer is what the controller that was asked knows.
type QuorumAnswer struct {
	Error *Failure `json:",omitempty"`
	Info  raftmeta.Info
}

// Failure is an error on the wire.
type Failure struct {
	Kind    string       // of failureKinds, or empty for what has no name
	Code    control.Code `json:",omitempty"` // of a refusal
	Message string
	// Leader is the node to ask instead, -1 for not known.
	Leader int32
}

const kindRefusal = "refusal"

var failureKinds = map[string]error{
	"not leader":     raftmeta.ErrNotLeader,
	"unknown":        raftmeta.ErrUnknown,
	"not registered": liveness.ErrNotRegistered,
	"stale":          liveness.ErrStale,
	"dead":           liveness.ErrDead,
	"ahead":          raftmeta.ErrAhead,
}

// NewFailure is an error for the wire, nil for none.
func NewFailure(err error, leader int32) *Failure {
	if err == nil {
		return nil
	}
	f := &Failure{Message: err.Error(), Leader: leader}
	if r, ok := errors.AsType[*control.Refusal](err); ok {
		f.Kind, f.Code = kindRefusal, r.Code
		return f
	}
	for kind, x := range failureKinds {
		if errors.Is(err, x) {
			f.Kind = kind
		}
	}
	return f
}

func (f *Failure) err() error {
	switch x, known := failureKinds[f.kind()]; {
	case f == nil:
		return nil
	case f.Kind == kindRefusal:
		return &control.Refusal{Code: f.Code, Message: f.Message}
	case known:
		return fmt.Errorf("%w (%s)", x, f.Message)
	}
	return errors.New(f.Message)
}

// whole is the error of a request that was not taken at all. Without a name it
// says that this node cannot answer, where another may.
func (f *Failure) whole() error {
	if f != nil && f.Kind == "" {
		return fmt.Errorf("%w: %s", ErrNoController, f.Message)
	}
	return f.err()
}

func (f *Failure) kind() string {
	if f == nil {
		return ""
	}
	return f.Kind
}

// SayHello asks a node who it is.
func SayHello(ctx context.Context, addr string, cfg Config, clusterID string) (HelloAnswer, error) {
	conn, err := Dial(ctx, addr, cfg)
	if err != nil {
		return HelloAnswer{}, err
	}
	defer conn.Close()
	head, _, err := conn.Call(ctx, protocol.KeyHello, Hello{clusterID}, nil)
	if err != nil {
		return HelloAnswer{}, err
	}
	var a HelloAnswer
	if err := json.Unmarshal(head, &a); err != nil {
		return HelloAnswer{}, fmt.Errorf("node at %s: its hello: %w", addr, err)
	}
	return a, nil
}

// Refused tells whether an error says that nobody listens: the process is gone.
func Refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }
