package protocol

import "github.com/twmb/franz-go/pkg/kmsg"

// API keys, in Kafka's numbering.
const (
	KeyProduce                     int16 = 0
	KeyFetch                       int16 = 1
	KeyListOffsets                 int16 = 2
	KeyMetadata                    int16 = 3
	KeyOffsetCommit                int16 = 8
	KeyOffsetFetch                 int16 = 9
	KeyFindCoordinator             int16 = 10
	KeyJoinGroup                   int16 = 11
	KeyHeartbeatGroup              int16 = 12
	KeyLeaveGroup                  int16 = 13
	KeySyncGroup                   int16 = 14
	KeyDescribeGroups              int16 = 15
	KeyListGroups                  int16 = 16
	KeyApiVersions                 int16 = 18
	KeyCreateTopics                int16 = 19
	KeyDeleteTopics                int16 = 20
	KeyInitProducerId              int16 = 22
	KeyDeleteRecords               int16 = 21
	KeyOffsetForLeaderEpoch        int16 = 23
	KeyDescribeConfigs             int16 = 32
	KeyAlterConfigs                int16 = 33
	KeyDescribeLogDirs             int16 = 35
	KeyCreatePartitions            int16 = 37
	KeyDeleteGroups                int16 = 42
	KeyElectLeaders                int16 = 43
	KeyIncrementalAlterConfigs     int16 = 44
	KeyAlterPartitionReassignments int16 = 45
	KeyListPartitionReassignments  int16 = 46
	KeyOffsetDelete                int16 = 47
	KeyDescribeQuorum              int16 = 55
	KeyUpdateFeatures              int16 = 57
	KeyDescribeCluster             int16 = 60
	KeyDescribeProducers           int16 = 61
	KeyUnregisterBroker            int16 = 64
	KeyConsumerGroupHeartbeat      int16 = 68
	KeyConsumerGroupDescribe       int16 = 69
	KeyListConfigResources         int16 = 74
	KeyDescribeTopicPartitions     int16 = 75
	KeyAddRaftVoter                int16 = 80
	KeyRemoveRaftVoter             int16 = 81
)

// API keys of our own, for what nodes say to each other. Kafka's numbers are
// far below.
const (
	KeyRaft         int16 = 20000 // messages of the quorum; one way, never answered
	KeyRaftSnapshot int16 = 20001 // a piece of a snapshot of the quorum's state
	KeyFetchUnits   int16 = 20002 // committed units of the metadata
	KeySubmit       int16 = 20003 // commands for the active controller
	KeyHeartbeat    int16 = 20004 // a broker tells the active controller that it lives
	KeyHello        int16 = 20005 // who are you
	KeyQuorum       int16 = 20006 // where the quorum stands
)

// Side is whom a listener is for. An API that is not served on a listener's
// side does not exist there: it is not in ApiVersions, and a request of it ends
// the connection.
type Side uint8

// Sides.
const (
	Clients     Side = iota // clients, and brokers that replicate
	Controllers             // the nodes of the cluster
)

func (s Side) String() string { return [...]string{"client", "controller"}[s] }

// sides is where an API is served.
type sides uint8

const (
	forClients sides = iota
	forControllers
	forBoth
)

func (s sides) has(side Side) bool {
	return s == forBoth || (s == forControllers) == (side == Controllers)
}

// API is one row of the table of what is served. ApiVersions is generated from
// these rows, so what is not here does not exist for a client.
type API struct {
	Key      int16
	Min, Max int16 // versions served, inclusive
	// Advertised is the lowest version that ApiVersions tells where that is
	// below Min. Only Produce needs it: librdkafka reads compression support
	// off the lowest Produce version (KAFKA-18659).
	Advertised int16
	on         sides // where it is served
	hidden     bool  // not told to clients, which have no use for it
	flexible   int16 // first flexible version
	bulk       bool  // a request may be as large as the listener takes any
	shape      Shape
}

// smallFrame bounds requests that carry no records. CreateTopics with 10,000
// explicit assignments is 500 KiB; nothing honest comes near it.
const smallFrame = 8 << 20

// apis is ordered by key. Version notes stand with the handlers.
var apis = []API{
	{Key: KeyProduce, Min: 3, Max: 13, Advertised: 0, flexible: 9, bulk: true,
		shape: shape(`s@3+ h i [s@0-12 u@13+ [i r]]`)},
	{Key: KeyFetch, Min: 4, Max: 18, Advertised: 4, flexible: 12,
		shape: shape(`i@0-14 i i i@3+ b@4+ i@7+ i@7+
			[s@0-12 u@13+ [i i@9+ l i@12+ l@5+ i]]
			[s@7-12 u@13+ [i]]@7+ s@11+
			%1{i l}`)},
	{Key: KeyListOffsets, Min: 1, Max: 11, Advertised: 1, flexible: 6,
		shape: shape(`i b@2+ [s [i i@4+ l i@0-0]] i@10+`)},
	{Key: KeyMetadata, Min: 0, Max: 13, Advertised: 0, flexible: 9,
		shape: shape(`[u@10+ s] b@4+ b@8-10 b@8+`)},
	{Key: KeyOffsetCommit, Min: 2, Max: 10, Advertised: 2, flexible: 8,
		shape: shape(`s i s s@7+ l@2-4 [s@0-9 u@10+ [i l i@6+ s]]`)},
	{Key: KeyOffsetFetch, Min: 1, Max: 10, Advertised: 1, flexible: 6,
		shape: shape(`s@0-7 [s [i]]@0-7 [s s@9+ i@9+ [s@0-9 u@10+ [i]]]@8+ b@7+`)},
	{Key: KeyFindCoordinator, Min: 0, Max: 6, Advertised: 0, flexible: 3,
		shape: shape(`s@0-3 b@1+ [s]@4+`)},
	{Key: KeyJoinGroup, Min: 0, Max: 9, Advertised: 0, flexible: 6,
		shape: shape(`s i i@1+ s s@5+ s [s r] s@8+`)},
	{Key: KeyHeartbeatGroup, Min: 0, Max: 4, Advertised: 0, flexible: 4,
		shape: shape(`s i s s@3+`)},
	{Key: KeyLeaveGroup, Min: 0, Max: 5, Advertised: 0, flexible: 4,
		shape: shape(`s s@0-2 [s s s@5+]@3+`)},
	{Key: KeySyncGroup, Min: 0, Max: 5, Advertised: 0, flexible: 4,
		shape: shape(`s i s s@3+ s@5+ s@5+ [s r]`)},
	{Key: KeyDescribeGroups, Min: 0, Max: 6, Advertised: 0, flexible: 5,
		shape: shape(`[s] b@3+`)},
	{Key: KeyListGroups, Min: 0, Max: 5, Advertised: 0, flexible: 3,
		shape: shape(`[s]@4+ [s]@5+`)},
	{Key: KeyApiVersions, Min: 0, Max: 5, Advertised: 0, flexible: 3, on: forBoth,
		shape: shape(`s@3+ s@3+ s@5+ i@5+`)},
	{Key: KeyCreateTopics, Min: 2, Max: 7, Advertised: 2, flexible: 5,
		shape: shape(`[s i h [i [i]] [s s]] i b@1+`)},
	{Key: KeyDeleteTopics, Min: 1, Max: 6, Advertised: 1, flexible: 4,
		shape: shape(`[s]@0-5 [s u]@6+ i`)},
	{Key: KeyDeleteRecords, Min: 0, Max: 2, Advertised: 0, flexible: 2,
		shape: shape(`[s [i l]] i`)},
	{Key: KeyInitProducerId, Min: 0, Max: 5, Advertised: 0, flexible: 2,
		shape: shape(`s i l@3+ h@3+`)},
	{Key: KeyOffsetForLeaderEpoch, Min: 2, Max: 4, Advertised: 2, flexible: 4,
		shape: shape(`i@3+ [s [i i i]]`)},
	{Key: KeyDescribeConfigs, Min: 1, Max: 4, Advertised: 1, flexible: 4,
		shape: shape(`[b s [s]] b b@3+`)},
	{Key: KeyAlterConfigs, Min: 0, Max: 2, Advertised: 0, flexible: 2,
		shape: shape(`[b s [s s]] b`)},
	{Key: KeyDescribeLogDirs, Min: 1, Max: 5, Advertised: 1, flexible: 2,
		shape: shape(`[s [i]]`)},
	{Key: KeyCreatePartitions, Min: 0, Max: 3, Advertised: 0, flexible: 2,
		shape: shape(`[s i [[i]]] i b`)},
	{Key: KeyDeleteGroups, Min: 0, Max: 3, Advertised: 0, flexible: 2,
		shape: shape(`[s]`)},
	{Key: KeyElectLeaders, Min: 0, Max: 2, Advertised: 0, flexible: 2,
		shape: shape(`b@1+ [s [i]] i`)},
	{Key: KeyIncrementalAlterConfigs, Min: 0, Max: 1, Advertised: 0, flexible: 1,
		shape: shape(`[b s [s b s]] b`)},
	{Key: KeyAlterPartitionReassignments, Min: 0, Max: 1, Advertised: 0, flexible: 0,
		shape: shape(`i b@1+ [s [i [i]]]`)},
	{Key: KeyListPartitionReassignments, Min: 0, Max: 0, Advertised: 0, flexible: 0,
		shape: shape(`i [s [i]]`)},
	{Key: KeyOffsetDelete, Min: 0, Max: 0, Advertised: 0, flexible: 1,
		shape: shape(`s [s [i]]`)},
	{Key: KeyDescribeQuorum, Min: 0, Max: 2, Advertised: 0, flexible: 0, on: forBoth,
		shape: shape(`[s [i .]]`)},
	{Key: KeyUpdateFeatures, Min: 0, Max: 2, Advertised: 0, flexible: 0, on: forBoth,
		shape: shape(`i [s h b@0-0 b@1+] b@1+`)},
	{Key: KeyDescribeCluster, Min: 0, Max: 2, Advertised: 0, flexible: 0, on: forBoth,
		shape: shape(`b b@1+ b@2+`)},
	{Key: KeyDescribeProducers, Min: 0, Max: 0, Advertised: 0, flexible: 0,
		shape: shape(`[s [i]]`)},
	{Key: KeyUnregisterBroker, Min: 0, Max: 0, Advertised: 0, flexible: 0, on: forBoth,
		shape: shape(`i`)},
	{Key: KeyConsumerGroupHeartbeat, Min: 0, Max: 1, Advertised: 0, flexible: 0,
		shape: shape(`s s i s s i [s] s@1+ s [u [i]]`)},
	{Key: KeyConsumerGroupDescribe, Min: 0, Max: 1, Advertised: 0, flexible: 0,
		shape: shape(`[s] b`)},
	{Key: KeyListConfigResources, Min: 0, Max: 1, Advertised: 0, flexible: 0,
		shape: shape(`[b]@1+`)},
	{Key: KeyDescribeTopicPartitions, Min: 0, Max: 0, Advertised: 0, flexible: 0,
		shape: shape(`[s .] i ?s i;`)},
	{Key: KeyAddRaftVoter, Min: 0, Max: 1, Advertised: 0, flexible: 0, on: forBoth,
		shape: shape(`s i i u [s s h] b@1+`)},
	{Key: KeyRemoveRaftVoter, Min: 0, Max: 0, Advertised: 0, flexible: 0, on: forBoth,
		shape: shape(`s i u`)},
	{Key: KeyRaft, on: forControllers, bulk: true, shape: nodeShape},
	{Key: KeyRaftSnapshot, on: forControllers, bulk: true, shape: nodeShape},
	{Key: KeyFetchUnits, on: forControllers, shape: nodeShape},
	{Key: KeySubmit, on: forControllers, bulk: true, shape: nodeShape},
	{Key: KeyHeartbeat, on: forControllers, shape: nodeShape},
	{Key: KeyHello, on: forBoth, hidden: true, shape: nodeShape},
	{Key: KeyQuorum, on: forControllers, shape: nodeShape},
}

// APIs lists what is served on one side, by key.
func APIs(side Side) []API {
	var served []API
	for _, a := range apis {
		if a.on.has(side) {
			served = append(served, a)
		}
	}
	return served
}

// Versions is the same as ApiVersions tells it: without what only nodes ask for.
func Versions(side Side) []kmsg.ApiVersionsResponseApiKey {
	var keys []kmsg.ApiVersionsResponseApiKey
	for _, a := range APIs(side) {
		if a.hidden && side == Clients {
			continue
		}
		k := kmsg.NewApiVersionsResponseApiKey()
		k.ApiKey, k.MinVersion, k.MaxVersion = a.Key, a.Advertised, a.Max
		keys = append(keys, k)
	}
	return keys
}

func lookup(key int16) (*API, bool) {
	for i := range apis {
		if apis[i].Key == key {
			return &apis[i], true
		}
	}
	return nil, false
}

// isFlexible is false for what is not served: such a request is not parsed
// beyond its correlation id.
func isFlexible(key, version int16) bool {
	a, ok := lookup(key)
	return ok && version >= a.flexible && version <= a.Max
}

// Name is the API's name, for logs and metrics.
func (a *API) Name() string { return Name(a.Key) }

var nodeNames = map[int16]string{
	KeyRaft: "Raft", KeyRaftSnapshot: "RaftSnapshot", KeyFetchUnits: "FetchUnits",
	KeySubmit: "Submit", KeyHeartbeat: "Heartbeat", KeyHello: "Hello", KeyQuorum: "Quorum",
}

// Name is the name of the API with this key, "Unknown" if neither Kafka nor
// this broker has one.
func Name(key int16) string {
	if name, ok := nodeNames[key]; ok {
		return name
	}
	return kmsg.NameForKey(key)
}
