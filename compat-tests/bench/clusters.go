package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/streambus/streambus/compat-tests/server"
)

// Two clusters of three nodes are compared, Apache Kafka's and this broker's, with
// both flush settings of each: they are the topics'. All nodes share the machine.

// nodeHeap is that of each of Kafka's nodes.
const nodeHeap = "512m"

// clusterContests have a replica of each partition on every node, and two of them must
// have a record before it is acknowledged. The session of a broker is 9 s on both
// sides, which is the default of both: after so much silence it is taken for gone.
var clusterContests = []contest{
	{name: "3 replicas, produce 1 KiB, acks=all, idempotent", measure: produce("", incompressible)},
	{name: "3 replicas, produce 100 B, acks=all, idempotent", measure: produce("", small)},
	{name: "3 replicas, 1 in flight", measure: active(1, "")},
	{name: "3 replicas, kill -9 of a leader", measure: leaderEnds(false, killed), rare: true},
	{name: "3 replicas, orderly stop of a leader", measure: leaderEnds(false, stopped), rare: true},
	{name: "3 replicas, pause of a leader, its session 9 s", measure: leaderEnds(false, paused), rare: true},
	{name: "3 nodes, kill -9 of a coordinator, client's defaults", measure: coordinatorEnds(withDefaults), rare: true},
	{name: "3 nodes, kill -9 of a coordinator, short pauses", measure: coordinatorEnds(withShortPauses), rare: true},
	{name: "3 nodes, 10^6 committed offsets, kill -9 of a coordinator", measure: manyElsewhere, rare: true},
	{name: "3 replicas, a follower returns", measure: followerReturns, rare: true},
}

// compareClusters has three nodes of each.
func compareClusters(bin, jars, dir string, rounds int, span, warm time.Duration, rows []contest) (err error) {
	settings := with(removal, "min.insync.replicas", "2")
	kafka, err := startMany(func(dir string) ([]*server.Server, error) {
		return server.KafkaCluster(context.Background(), jars, dir, nodeHeap, clusterSize, settings)
	}, dir, span)
	if err != nil {
		return fmt.Errorf("starting Kafka: %w", err)
	}
	defer func() { err = errors.Join(err, kafka.stop()) }()
	own, err := startMany(streamBuses(bin, settings), dir, span)
	if err != nil {
		return fmt.Errorf("StreamBus: %w", err)
	}
	defer func() { err = errors.Join(err, own.stop()) }()
	all := [contestants]*bench{
		kafka, kafka.withTopics("flush.messages", "1"),
		own, own.withTopics("streambus.flush", "os"),
	}
	work := []measure{produce("", incompressible), produce("", small), active(1, "")}
	return newComparison(all, rows).run(rounds, warm, work)
}

// withTopics is the same cluster, on which topics are made with a setting.
func (b *bench) withTopics(key, value string) *bench {
	other := *b
	other.settings = with(b.settings, key, value)
	return &other
}
