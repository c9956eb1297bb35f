package handler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/coordinator"
	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/replica"
	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage/batch"
)

// produce appends one batch to each partition named and answers when all of
// them are as durable as acks asks.
//
// Versions 0-2 are advertised, since librdkafka reads compression support off
// them, and refused in every partition as Apache Kafka 4 does; 5 adds the log
// start offset, 8 record errors, 10 the current leader (KIP-951), 13 topic ids.
func (b *Broker) produce(_ context.Context, r *protocol.Request, done func(*protocol.Response)) {
	req := r.Body.(*kmsg.ProduceRequest)
	// Of what nothing is asked nothing is said.
	req.Topics = slices.DeleteFunc(req.Topics, func(t kmsg.ProduceRequestTopic) bool { return len(t.Partitions) == 0 })
	p := &produce{req: req, clientID: r.ClientID, resp: req.ResponseKind().(*kmsg.ProduceResponse)}
	for i := range req.Topics {
		t := &req.Topics[i]
		rt := kmsg.NewProduceResponseTopic()
		rt.Topic, rt.TopicID = t.Topic, t.TopicID
		rt.Partitions = make([]kmsg.ProduceResponseTopicPartition, len(t.Partitions))
		p.resp.Topics = append(p.resp.Topics, rt)
		p.partitions += len(t.Partitions)
	}
	p.wait = replica.NewWait(p.partitions)
	now, img, n := b.Now(), b.Image(), 0
	for i := range req.Topics {
		for j := range req.Topics[i].Partitions {
			p.append(b, img, &req.Topics[i], j, &p.resp.Topics[i].Partitions[j], &p.wait.Items[n], now)
			n++
		}
	}
	timeout := time.Duration(max(req.TimeoutMillis, 0)) * time.Millisecond
	p.wait.Begin(timeout, func() { done(p.answer(&leaders{img: b.Image(), listener: r.Conn.Listener})) })
}

// produce is a request under way. It holds nothing of the records.
type produce struct {
	req        *kmsg.ProduceRequest
	clientID   string
	resp       *kmsg.ProduceResponse
	partitions int
	wait       *replica.Wait
}

func (p *produce) append(b *Broker, img *image.Image, t *kmsg.ProduceRequestTopic, j int,
	row *kmsg.ProduceResponseTopicPartition, item *replica.WaitItem, now time.Time) {
	rp := &t.Partitions[j]
	row.Default()
	row.Partition = rp.Partition
	at, err := p.write(b, img, t, rp, row, item, now)
	rp.Records = nil // they alias the frame, which is reused from here on
	if err != nil {
		item.Err = err
		return
	}
	row.BaseOffset, row.LogStartOffset = at.Base, at.LogStart
}

func (p *produce) write(b *Broker, img *image.Image, t *kmsg.ProduceRequestTopic, rp *kmsg.ProduceRequestTopicPartition,
	row *kmsg.ProduceResponseTopicPartition, item *replica.WaitItem, now time.Time) (replica.Appended, error) {
	acks := partition.Acks(p.req.Acks)
	if p.req.Version < 3 {
		return replica.Appended{}, errVersion
	}
	if topic, ok := b.internal(img, t); ok && p.clientID != adminClient {
		return replica.Appended{}, fmt.Errorf("%w: %s", errInternalTopic, topic)
	}
	if acks < partition.AcksAll || acks > partition.AcksLeader {
		return replica.Appended{}, errRequiredAcks
	}
	rep, err := b.find(img, t.Topic, t.TopicID, p.req.Version >= 13, rp.Partition)
	if err != nil {
		b.Replicas.CountProduce(nil, err)
		return replica.Appended{}, err
	}
	at, err := p.writeTo(b, rep, acks, rp, row, item, now)
	b.Replicas.CountProduce(rep, err)
	return at, err
}

// adminClient is who may write to internal topics, as in Apache Kafka.
const adminClient = "__admin_client"

// internal tells whether a topic is one that coordinators write.
func (b *Broker) internal(img *image.Image, t *kmsg.ProduceRequestTopic) (name string, is bool) {
	name = t.Topic
	if topic, ok := img.TopicByID(t.TopicID); ok && name == "" {
		name = topic.Name
	}
	return name, name == coordinator.OffsetsTopic
}

func (p *produce) writeTo(b *Broker, rep *replica.Replica, acks partition.Acks, rp *kmsg.ProduceRequestTopicPartition,
	row *kmsg.ProduceResponseTopicPartition, item *replica.WaitItem, now time.Time) (at replica.Appended, err error) {
	rules, err := rep.Rules(acks)
	if err != nil {
		return replica.Appended{}, err
	}
	h, err := batch.Frame(rp.Records)
	switch {
	case err != nil:
		return replica.Appended{}, err
	case h.IsTransactional():
		return replica.Appended{}, errTransactionalBatch
	case h.Codec() == batch.Zstd && p.req.Version < 7:
		return replica.Appended{}, errZstdVersion
	}
	if h.Codec() != batch.None || !rules.KeepCodec {
		// What decompressing takes is bounded by how many do it.
		b.Unpacking <- struct{}{}
		defer func() { <-b.Unpacking }()
	}
	defer func() {
		if tellsStart(errorCode(err)) {
			row.LogStartOffset = rep.LogStart()
		}
	}()
	records, err := rules.Accept(rp.Records, now.UnixMilli())
	if err != nil {
		return replica.Appended{}, err
	}
	if rules.LogAppendTime {
		row.LogAppendTime = now.UnixMilli()
	}
	return rep.Append(records, acks, item, now)
}

// tellsStart tells with which errors Apache Kafka says where the log starts:
// those found by looking at records and their order.
func tellsStart(code protocol.ErrorCode) bool {
	switch code {
	case protocol.InvalidRecord, protocol.InvalidTimestamp, protocol.OutOfOrderSequence, protocol.InvalidProducerEpoch:
		return true
	}
	return false
}

// answer is built when nothing is pending any more. With acks=0 there is none;
// a failure ends the connection, which is all that such a producer can notice.
func (p *produce) answer(l *leaders) *protocol.Response {
	n, failed := 0, false
	for i := range p.resp.Topics {
		t := &p.resp.Topics[i]
		for j := range t.Partitions {
			row := &t.Partitions[j]
			if err := p.wait.Items[n].Err; err != nil {
				refuse(row, err)
				failed = true
			}
			if row.ErrorCode == int16(protocol.NotLeaderOrFollower) {
				if leader, ok := l.of(t.Topic, t.TopicID, p.req.Version >= 13, row.Partition); ok {
					row.CurrentLeader.LeaderID, row.CurrentLeader.LeaderEpoch = leader.ID, leader.Epoch
				}
			}
			n++
		}
	}
	for _, x := range l.nodes {
		node := kmsg.NewProduceResponseBroker()
		node.NodeID, node.Host, node.Port = x.ID, x.Host, x.Port
		if x.Rack != "" {
			node.Rack = &x.Rack
		}
		p.resp.Brokers = append(p.resp.Brokers, node)
	}
	if p.req.Acks == 0 {
		if failed {
			return &protocol.Response{Close: true}
		}
		return nil
	}
	return &protocol.Response{Body: p.resp, Weight: p.weight()}
}

// weight is about what the answer takes in memory.
func (p *produce) weight() int {
	const row, detail = 128, 48 // of a partition, of a record's error
	n := row * p.partitions
	for i := range p.resp.Topics {
		for j := range p.resp.Topics[i].Partitions {
			for _, e := range p.resp.Topics[i].Partitions[j].ErrorRecords {
				n += detail + len(*e.ErrorMessage)
			}
		}
	}
	return n
}

func refuse(row *kmsg.ProduceResponseTopicPartition, err error) {
	index, start := row.Partition, row.LogStartOffset
	row.Default()
	row.Partition, row.BaseOffset, row.LogStartOffset = index, -1, start
	row.ErrorCode = int16(errorCode(err))
	if corrupt, ok := errors.AsType[*batch.CorruptError](err); ok {
		message := corrupt.Error()
		row.ErrorMessage = &message
	}
	if invalid, ok := errors.AsType[*batch.InvalidError](err); ok {
		message := invalid.Error()
		row.ErrorMessage = &message
		if invalid.Record >= 0 {
			row.ErrorRecords = append(row.ErrorRecords, errorRecord(int32(invalid.Record), message))
		}
	}
	if wrong, ok := errors.AsType[*batch.RecordsError](err); ok {
		message := wrong.Error()
		row.ErrorMessage = &message
		for _, r := range wrong.Records {
			row.ErrorRecords = append(row.ErrorRecords, errorRecord(r.Record, r.Reason))
		}
	}
}

func errorRecord(index int32, message string) kmsg.ProduceResponseTopicPartitionErrorRecord {
	e := kmsg.NewProduceResponseTopicPartitionErrorRecord()
	e.RelativeOffset, e.ErrorMessage = index, &message
	return e
}
