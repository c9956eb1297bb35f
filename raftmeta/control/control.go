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
