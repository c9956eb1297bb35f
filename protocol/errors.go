package protocol

// ErrorCode is a Kafka error code, in Kafka's numbering. Only codes that are
// answered somewhere are named.
type ErrorCode int16

// Error codes.
const (
	UnknownServerError                 ErrorCode = -1
	None                               ErrorCode = 0
	OffsetOutOfRange                   ErrorCode = 1
	CorruptMessage                     ErrorCode = 2
	UnknownTopicOrPartition            ErrorCode = 3
	LeaderNotAvailable                 ErrorCode = 5
	NotLeaderOrFollower                ErrorCode = 6
	RequestTimedOut                    ErrorCode = 7
	MessageTooLarge                    ErrorCode = 10
	InvalidTopic                       ErrorCode = 17
	RecordListTooLarge                 ErrorCode = 18
	NotEnoughReplicas                  ErrorCode = 19
	InvalidRequiredAcks                ErrorCode = 21
	InvalidTimestamp                   ErrorCode = 32
	UnsupportedVersion                 ErrorCode = 35
	TopicAlreadyExists                 ErrorCode = 36
	InvalidPartitions                  ErrorCode = 37
	InvalidReplicationFactor           ErrorCode = 38
	InvalidReplicaAssignment           ErrorCode = 39
	InvalidConfig                      ErrorCode = 40
	NotController                      ErrorCode = 41
	InvalidRequest                     ErrorCode = 42
	PolicyViolation                    ErrorCode = 44
	OutOfOrderSequence                 ErrorCode = 45
	InvalidProducerEpoch               ErrorCode = 47
	InvalidTxnState                    ErrorCode = 48
	KafkaStorageError                  ErrorCode = 56
	TransactionalIDAuthorizationFailed ErrorCode = 53
	FetchSessionIDNotFound             ErrorCode = 70
	TopicDeletionDisabled              ErrorCode = 73
	InvalidFetchSessionEpoch           ErrorCode = 71
	ListenerNotFound                   ErrorCode = 72
	FencedLeaderEpoch                  ErrorCode = 74
	UnknownLeaderEpoch                 ErrorCode = 75
	UnsupportedCompression             ErrorCode = 76
	InvalidRecord                      ErrorCode = 87
	UnknownTopicID                     ErrorCode = 100
	FetchSessionTopicIDError           ErrorCode = 106
	MismatchedEndpointType             ErrorCode = 114
	UnsupportedEndpointType            ErrorCode = 115
)
