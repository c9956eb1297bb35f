package handler

import (
	"context"
	"errors"

	"github.com/streambus/streambus/broker/fetch"
	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/storage/batch"
)

var (
	errUnknownTopic       = errors.New("the topic does not exist")
	errUnknownTopicID     = errors.New("no topic has this id")
	errRequiredAcks       = errors.New("acks must be 0, 1 or -1")
	errTransactionalBatch = errors.New("a transactional batch, and transactions are not served by this release")
	errNoTransactions     = errors.New("transactions are not served by this release")
	errNoCoordinator      = errors.New("nobody coordinates this group at the moment")
	errInternalTopic      = errors.New("only the brokers write to internal topics")
	errNoShareGroups      = errors.New("share groups are not served by this release")
	errDeletionDisabled   = errors.New("topic deletion is disabled: delete.topic.enable=false")
	errTimestamp          = errors.New("no such special timestamp in this version")
	errTransactionalID    = errors.New("transactional producers are not served")
	errVersion            = errors.New("versions of Produce before 3 are not served")
	errZstdVersion        = errors.New("zstd needs Produce version 7")
)

// codes says which Kafka error an error is. The first that matches counts.
var codes = []struct {
	err  error
	code protocol.ErrorCode
}{
	{errUnknownTopic, protocol.UnknownTopicOrPartition},
	{errUnknownTopicID, protocol.UnknownTopicID},
	{errRequiredAcks, protocol.InvalidRequiredAcks},
	{errTransactionalBatch, protocol.TransactionalIDAuthorizationFailed},
	{errNoTransactions, protocol.UnsupportedVersion},
	{errNoCoordinator, protocol.CoordinatorNotAvailable},
	{errInternalTopic, protocol.InvalidTopic},
	{errNoShareGroups, protocol.UnsupportedVersion},
	{errDeletionDisabled, protocol.TopicDeletionDisabled},
	{errTimestamp, protocol.UnsupportedVersion},
	{errTransactionalID, protocol.TransactionalIDAuthorizationFailed},
	{errVersion, protocol.UnsupportedVersion},
	{errZstdVersion, protocol.UnsupportedCompression},
	{fetch.ErrNoSession, protocol.FetchSessionIDNotFound},
	{fetch.ErrSessionEpoch, protocol.InvalidFetchSessionEpoch},
	{fetch.ErrSessionNames, protocol.FetchSessionTopicIDError},
	{replica.ErrUnknownPartition, protocol.UnknownTopicOrPartition},
	{replica.ErrTimedOut, protocol.RequestTimedOut},
	{replica.ErrSegmentTooSmall, protocol.RecordListTooLarge},
	{replica.ErrOffsetOutOfRange, protocol.OffsetOutOfRange},
	{replica.ErrOffsetNotAvailable, protocol.OffsetNotAvailable},
	{replica.ErrCompacted, protocol.PolicyViolation},
	{replica.ErrOutOfOrder, protocol.OutOfOrderSequence},
	{replica.ErrProducerEpoch, protocol.InvalidProducerEpoch},
	{replica.ErrStorage, protocol.KafkaStorageError},
	{partition.ErrNotLeader, protocol.NotLeaderOrFollower},
	{partition.ErrNotEnoughReplicas, protocol.NotEnoughReplicas},
	{partition.ErrNotEnoughAfter, protocol.NotEnoughReplicasAfterAppend},
	{partition.ErrNotReplica, protocol.NotLeaderOrFollower},
	{partition.ErrFencedEpoch, protocol.FencedLeaderEpoch},
	{partition.ErrUnknownEpoch, protocol.UnknownLeaderEpoch},
	{ErrNoController, protocol.RequestTimedOut},
	{ErrOtherController, protocol.InvalidRequest},
	{context.DeadlineExceeded, protocol.RequestTimedOut},
	// No controller decided in time, or nobody knows what it decided: the client asks again.
	{raftmeta.ErrNotLeader, protocol.RequestTimedOut},
	{raftmeta.ErrUnknown, protocol.RequestTimedOut},
}

var refusals = map[control.Code]protocol.ErrorCode{
	control.TopicExists:                 protocol.TopicAlreadyExists,
	control.InvalidTopicName:            protocol.InvalidTopic,
	control.InvalidPartitions:           protocol.InvalidPartitions,
	control.InvalidReplicationFactor:    protocol.InvalidReplicationFactor,
	control.InvalidReplicaAssignment:    protocol.InvalidReplicaAssignment,
	control.InvalidConfig:               protocol.InvalidConfig,
	control.PolicyViolation:             protocol.PolicyViolation,
	control.StaleBrokerEpoch:            protocol.StaleBrokerEpoch,
	control.WrongCluster:                protocol.InconsistentClusterID,
	control.TooManyDirectories:          protocol.InvalidRegistration,
	control.UnknownTopic:                protocol.UnknownTopicOrPartition,
	control.UnknownTopicID:              protocol.UnknownTopicID,
	control.UnknownPartition:            protocol.UnknownTopicOrPartition,
	control.NotController:               protocol.NotController,
	control.FencedLeaderEpoch:           protocol.FencedLeaderEpoch,
	control.InvalidRequest:              protocol.InvalidRequest,
	control.InvalidUpdateVersion:        protocol.InvalidUpdateVersion,
	control.IneligibleReplica:           protocol.IneligibleReplica,
	control.DuplicateBrokerRegistration: protocol.DuplicateBrokerRegistration,
	control.InvalidRegistration:         protocol.InvalidRegistration,
	control.UnsupportedVersion:          protocol.UnsupportedVersion,
	control.BrokerNotRegistered:         protocol.BrokerIDNotRegistered,
	control.ElectionNotNeeded:           protocol.ElectionNotNeeded,
	control.PreferredLeaderNotAvailable: protocol.PreferredLeaderNotAvailable,
	control.EligibleLeadersNotAvailable: protocol.EligibleLeadersNotAvailable,
	control.NewLeaderElected:            protocol.NewLeaderElected,
	control.NoReassignmentInProgress:    protocol.NoReassignmentInProgress,
	control.ReassignmentInProgress:      protocol.ReassignmentInProgress,
	control.DuplicateVoter:              protocol.DuplicateVoter,
	control.VoterNotFound:               protocol.VoterNotFound,
	// Whether it was carried out nobody knows any more: clients look, and ask again.
	control.Superseded: protocol.RequestTimedOut,
}

// errorCode is the one place where errors become Kafka error codes. What it
// does not know is UNKNOWN_SERVER_ERROR: a wrong code would be acted upon.
func errorCode(err error) protocol.ErrorCode {
	if err == nil {
		return protocol.None
	}
	if r, ok := errors.AsType[*control.Refusal](err); ok {
		if code, known := refusals[r.Code]; known {
			return code
		}
	}
	if is[invalidError](err) {
		return protocol.InvalidRequest
	}
	if is[*batch.CorruptError](err) {
		return protocol.CorruptMessage
	}
	if is[*batch.TooLargeError](err) {
		return protocol.MessageTooLarge
	}
	if wrong, ok := errors.AsType[*batch.RecordsError](err); ok && wrong.Timestamps {
		return protocol.InvalidTimestamp
	}
	if is[*batch.InvalidError](err) || is[*batch.RecordsError](err) {
		return protocol.InvalidRecord
	}
	for _, c := range codes {
		if errors.Is(err, c.err) {
			return c.code
		}
	}
	return protocol.UnknownServerError
}

func is[T error](err error) bool {
	_, ok := errors.AsType[T](err)
	return ok
}
