package broker

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/raftmeta/control"
)

// alterTime is what a request for other in-sync replicas waits for its answer. It
// is repeated then, on what is known by that time.
const alterTime = 10 * time.Second

// dialBroker connects to another broker, to follow what it leads.
func (b *Broker) dialBroker(ctx context.Context, id int32) (*peer.Conn, error) {
	x, ok := b.view.Image().Broker(id)
	if !ok || len(x.Listeners) == 0 {
		return nil, fmt.Errorf("broker %d is not registered", id)
	}
	e, _ := b.endpointOf(x)
	cfg := b.peerConfig()
	cfg.AnswerTimeout = b.cfg.Millis("replica.socket.timeout.ms") + b.cfg.Millis("replica.fetch.wait.max.ms")
	cfg.MaxAnswerBytes = followerAnswer
	return peer.Dial(ctx, net.JoinHostPort(e.Host, strconv.Itoa(int(e.Port))), cfg)
}

// followerAnswer is the largest answer of a leader: replica.fetch.response.max.bytes
// gives way to a batch that is larger.
const followerAnswer = 1 << 30

// alterISR asks the active controller for other in-sync replicas.
func (b *Broker) alterISR(ctx context.Context, changes []replica.ISRChange) []replica.ISRAnswer {
	answers := make([]replica.ISRAnswer, len(changes))
	me, ok := b.view.Image().Broker(b.cfg.NodeID())
	if !ok {
		return answers
	}
	cmd := &control.AlterPartition{BrokerID: me.ID, BrokerEpoch: me.Epoch}
	for _, c := range changes {
		change := control.ISRChange{Topic: c.Topic, Partition: c.Partition, LeaderEpoch: c.LeaderEpoch, PartitionEpoch: c.PartitionEpoch}
		for _, m := range c.ISR {
			change.ISR = append(change.ISR, control.ISRMember{ID: m.ID, Epoch: m.Epoch})
		}
		cmd.Partitions = append(cmd.Partitions, change)
	}
	ctx, cancel := context.WithTimeout(ctx, alterTime)
	defer cancel()
	o := b.controllers.Submit(ctx, []control.Request{{
		Actor: b.session.actor, Cause: "followers keep up, or do not", Command: cmd,
	}})[0]
	reply, ok := o.Reply.(*control.AlteredPartitions)
	if o.Err != nil || !ok {
		b.log.Debug("a change of in-sync replicas was not answered", "partitions", len(changes), "error", errors.Join(o.Err))
		return answers
	}
	for i, p := range reply.Partitions {
		answers[i] = isrAnswer(p)
	}
	return answers
}

// isrAnswer tells what an answer means for the leader, as Kafka's Partition.scala
// has it.
func isrAnswer(p control.AlteredPartition) replica.ISRAnswer {
	if p.Refusal == nil {
		return replica.ISRAnswer{Verdict: replica.Made, PartitionEpoch: p.PartitionEpoch, ISR: p.ISR}
	}
	switch p.Refusal.Code {
	case control.IneligibleReplica:
		return replica.ISRAnswer{Verdict: replica.Declined}
	case control.NotController: // it was deposed, and knows less than this broker
		return replica.ISRAnswer{Verdict: replica.Unanswered}
	}
	return replica.ISRAnswer{Verdict: replica.Superseded}
}

// giveUpWhatIsFound gives up replicas whose damage is found while the broker runs, by
// the scrub or by a reader.
func (b *Broker) giveUpWhatIsFound(ctx context.Context) {
	for {
		select {
		case <-b.replicas.Damage():
			b.giveUpDamaged(ctx)
		case <-ctx.Done():
			return
		}
	}
}

// giveUpDamaged has others stand for what this broker's replicas vouched for whose
// files are damaged. At a start it does so before the broker may lead: without it one
// of them could be elected.
func (b *Broker) giveUpDamaged(ctx context.Context) {
	damaged := b.replicas.Damaged()
	if len(damaged) == 0 {
		return
	}
	cmd := &control.LoseReplicas{BrokerID: b.cfg.NodeID(), BrokerEpoch: b.session.currentEpoch()}
	for _, p := range damaged[:min(len(damaged), control.MaxPartitionsPerCommand)] {
		cmd.Partitions = append(cmd.Partitions, control.LostReplica{Topic: p.Topic, Partition: p.Index})
	}
	o := b.controllers.Submit(ctx, []control.Request{{Actor: b.session.actor, Cause: "its files are damaged", Command: cmd}})[0]
	err := o.Err
	if err == nil {
		err = b.view.Wait(ctx, o.Index)
	}
	if err != nil && ctx.Err() == nil {
		b.log.Error("partitions whose files are damaged here could not be left to others", "partitions", len(damaged), "error", err)
	}
}
