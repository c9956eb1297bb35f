// Package control decides. A command is evaluated on an image and comes to records, or to a refusal that changes
// nothing. Time, ids and randomness are fields of the command, chosen by whoever makes it, so that evaluating is a
// function. Records are replicated, commands are not: what was decided once is never decided again.
package control

import (
	"fmt"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// Command is a change that somebody asks for.
type Command interface {
	Eval(m *image.Image, now time.Time) (Result, error)
}

// Request is a command with who asks for it. Its operation makes asking again safe: the repeat of one that was carried out
// gets the first answer.
type Request struct {
	Operation image.Operation
	Actor     string
	Cause     string
	// Awaited says that the answer waits until every broker has applied the change.
	Awaited bool
	Command Command
}

// Result is what a command comes to. Without records nothing is written, and the reply holds as of the image.
type Result struct {
	Records []image.Record
	Reply   any
}

// Code says why a command is refused. The names are Kafka's, the numbers are not.
type Code int

// Reasons to refuse.
const (
	TopicExists Code = iota + 1
	InvalidTopicName
	InvalidPartitions
	InvalidReplicationFactor
	InvalidReplicaAssignment
	InvalidConfig
	PolicyViolation
	StaleBrokerEpoch
	WrongCluster
	TooManyDirectories
	UnknownTopic
	UnknownTopicID
	UnknownPartition // Kafka's UNKNOWN_TOPIC_OR_PARTITION, as UnknownTopic
	NotController
	FencedLeaderEpoch
	InvalidRequest
	InvalidUpdateVersion
	IneligibleReplica
	DuplicateBrokerRegistration
	InvalidRegistration
	UnsupportedVersion
	BrokerNotRegistered // Kafka's BROKER_ID_NOT_REGISTERED
	ElectionNotNeeded
	PreferredLeaderNotAvailable
	EligibleLeadersNotAvailable
	NewLeaderElected
	DuplicateVoter
	VoterNotFound
	Superseded
	NoReassignmentInProgress
	ReassignmentInProgress
)

// Refusal is a command that is not carried out. It is final: nothing was written.
type Refusal struct {
	Code    Code
	Message string
}

func (r *Refusal) Error() string { return r.Message }

func refuse(code Code, format string, args ...any) (Result, error) {
	return Result{}, &Refusal{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Repeat finds the result of a request that was carried out before: nil if it was not. It refuses one that nobody can be
// waiting for any more.
func Repeat(m *image.Image, r *Request) (*image.Result, error) {
	op := r.Operation
	if op.Seq == 0 {
		return nil, nil
	}
	if result, ok := m.Result(op); ok {
		return &result, nil
	}
	if done, ok := m.Done(op.Node, op.Incarnation); ok && op.Seq < done {
		_, err := refuse(Superseded, "operation %d of node %d is over: the node has gone on to %d", op.Seq, op.Node, done)
		return nil, err
	}
	if m.NumResults(op.Node, op.Incarnation) >= image.MaxResults {
		_, err := refuse(PolicyViolation, "node %d has %d operations whose answers it has not confirmed", op.Node, image.MaxResults)
		return nil, err
	}
	switch r.Command.(type) {
	case *RegisterBroker, *PutVoter: // the first that a process asks for
		return nil, nil
	}
	if b, ok := m.Broker(op.Node); ok && b.Incarnation != op.Incarnation {
		_, err := refuse(Superseded, "node %d has been started anew since it asked for this", op.Node)
		return nil, err
	}
	return nil, nil
}
