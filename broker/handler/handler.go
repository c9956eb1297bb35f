// Package handler answers Kafka requests, one file per API. A handler reads the
// request, asks the parts of the broker that own the state, and builds the
// answer; it owns nothing itself.
package handler

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/broker/coordinator"
	"github.com/streambus/streambus/broker/fetch"
	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// Broker is what handlers need of the rest: a few functions and values, filled
// where the broker is put together.
type Broker struct {
	NodeID int32
	Config *config.Config
	Image  func() *image.Image // the newest one here
	// Current is an image that holds every change that was answered with success,
	// at this broker or another.
	Current  func(ctx context.Context) *image.Image
	Replicas *replica.Manager
	Groups   *coordinator.Manager
	Fetcher  *fetch.Fetcher
	// RackAware sends consumers to a replica in their rack (replica.selector.class).
	RackAware bool
	Now       func() time.Time
	Log       *slog.Logger
	// CountError counts an error in an answer to a request of the API with this
	// key.
	CountError func(key int16, code protocol.ErrorCode)
	// Unpacking holds a place for each request that may decompress records at
	// the same time.
	Unpacking chan struct{}
	// Propose submits commands to the controllers, to be decided in their order,
	// for an actor and because of a cause. It returns when what came of each is to
	// be seen at every broker. A refusal is a *control.Refusal.
	Propose func(ctx context.Context, actor, cause string, cmds ...control.Command) []Outcome
	// Usage is how full the data directory is.
	Usage func() Usage
	// NewTopicID draws a topic id that was never used.
	NewTopicID func() image.UUID
	// Quorum is where the quorum stands, as the active controller sees it.
	Quorum func(ctx context.Context) (raftmeta.Info, error)
	// ActiveController is the node that is the active controller, as far as this
	// one knows, -1 for none. It is asked of controllers.
	ActiveController func() int32
	// FindController asks the node at an endpoint who it is; it must be a
	// controller of this id and directory. The error says what it is
	// otherwise: ErrNoController or ErrOtherController.
	FindController func(ctx context.Context, node int32, dir image.UUID, at image.Endpoint) (image.Voter, error)
	// ProducerIDs hands out producer ids, each once for ever.
	ProducerIDs func(ctx context.Context) (int64, error)

	warned sync.Map // listeners of which warnLoopback has told
}

// Usage is how full a data directory is, in bytes.
type Usage struct {
	Dir         string
	Total, Free int64
	Err         error
}

// Outcome is what came of a command.
type Outcome struct {
	Reply any
	Err   error
}

// Func is the form of every handler; see server.Handler for its contract.
type Func = func(ctx context.Context, r *protocol.Request, done func(*protocol.Response))

// Handlers is the handler of each API.
func (b *Broker) Handlers() map[int16]Func {
	routes := map[int16]Func{
		protocol.KeyProduce:                     b.produce,
		protocol.KeyFetch:                       b.fetch,
		protocol.KeyListOffsets:                 b.listOffsets,
		protocol.KeyMetadata:                    b.metadata,
		protocol.KeyFindCoordinator:             b.findCoordinator,
		protocol.KeyJoinGroup:                   b.joinGroup,
		protocol.KeySyncGroup:                   b.syncGroup,
		protocol.KeyHeartbeatGroup:              b.heartbeat,
		protocol.KeyLeaveGroup:                  b.leaveGroup,
		protocol.KeyOffsetCommit:                b.offsetCommit,
		protocol.KeyOffsetFetch:                 b.offsetFetch,
		protocol.KeyOffsetDelete:                b.offsetDelete,
		protocol.KeyDescribeGroups:              b.describeGroups,
		protocol.KeyDeleteGroups:                b.deleteGroups,
		protocol.KeyListGroups:                  b.listGroups,
		protocol.KeyApiVersions:                 b.apiVersions,
		protocol.KeyCreateTopics:                b.createTopics,
		protocol.KeyDeleteTopics:                b.deleteTopics,
		protocol.KeyInitProducerId:              b.initProducerID,
		protocol.KeyDeleteRecords:               b.deleteRecords,
		protocol.KeyOffsetForLeaderEpoch:        b.offsetForLeaderEpoch,
		protocol.KeyDescribeLogDirs:             b.describeLogDirs,
		protocol.KeyDescribeProducers:           b.describeProducers,
		protocol.KeyDescribeConfigs:             b.describeConfigs,
		protocol.KeyAlterConfigs:                b.alterConfigs,
		protocol.KeyCreatePartitions:            b.createPartitions,
		protocol.KeyIncrementalAlterConfigs:     b.incrementalAlterConfigs,
		protocol.KeyConsumerGroupHeartbeat:      b.consumerGroupHeartbeat,
		protocol.KeyConsumerGroupDescribe:       b.consumerGroupDescribe,
		protocol.KeyListConfigResources:         b.listConfigResources,
		protocol.KeyDescribeTopicPartitions:     b.describeTopicPartitions,
		protocol.KeyElectLeaders:                b.electLeaders,
		protocol.KeyAlterPartitionReassignments: b.alterPartitionReassignments,
		protocol.KeyListPartitionReassignments:  b.listPartitionReassignments,
	}
	maps.Copy(routes, b.aboutCluster())
	for key, f := range routes {
		if key != protocol.KeyFetch { // which has no body to look at
			routes[key] = b.counted(key, f)
		}
	}
	return routes
}

// ControllerHandlers is the handler of each API of Kafka's that the controller
// listener serves as well (KIP-919): for a cluster of which no broker is there.
func (b *Broker) ControllerHandlers() map[int16]Func {
	routes := b.aboutCluster()
	routes[protocol.KeyApiVersions] = b.apiVersions
	for key, f := range routes {
		routes[key] = b.counted(key, f)
	}
	return routes
}

func (b *Broker) aboutCluster() map[int16]Func {
	return map[int16]Func{
		protocol.KeyDescribeCluster:  b.describeCluster,
		protocol.KeyDescribeQuorum:   b.describeQuorum,
		protocol.KeyUpdateFeatures:   b.updateFeatures,
		protocol.KeyUnregisterBroker: b.unregisterBroker,
		protocol.KeyAddRaftVoter:     b.addRaftVoter,
		protocol.KeyRemoveRaftVoter:  b.removeRaftVoter,
	}
}

// find resolves a partition by topic name, or by topic id where byID is set.
// An unknown partition of a known topic is ErrUnknownPartition as well.
func (b *Broker) find(img *image.Image, name string, id image.UUID, byID bool, index int32) (*replica.Replica, error) {
	t, ok := img.Topic(name)
	if byID {
		if t, ok = img.TopicByID(id); !ok {
			return nil, errUnknownTopicID
		}
	}
	if !ok {
		return nil, errUnknownTopic
	}
	rep, err := b.Replicas.Find(t.ID, index)
	if _, known := t.Partition(index); err != nil && known {
		err = partition.ErrNotLeader // others have it
	}
	return rep, err
}
