package main

import (
	"encoding/binary"
	"math"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kmsg"
)

func init() {
	eachVersion(kmsg.Produce, "a batch", func(s *session, v int16) {
		topic := s.create(1)
		ask[*kmsg.ProduceResponse](s, s.produce(v, topic, batch(values("a", "b"))))
		ask[*kmsg.ProduceResponse](s, s.produce(v, topic, batch(values("c"))))
		ask[*kmsg.FetchResponse](s, s.fetch(12, topic, 0))
	})
	eachVersion(kmsg.Produce, "acks", func(s *session, v int16) {
		topic := s.create(1)
		for _, acks := range []int16{1, -1, 2, -2, math.MaxInt16} {
			req := s.produce(v, topic, batch(values("a")))
			req.Acks = acks
			ask[*kmsg.ProduceResponse](s, req)
		}
	})
	// Nothing is answered, and requests behind it are not held up.
	eachVersion(kmsg.Produce, "acks 0", func(s *session, v int16) {
		topic := s.create(1)
		req := s.produce(v, topic, batch(values("a")))
		req.Acks = 0
		s.pipeline(2, req, metadata(9, topic), req, listOffsets(6, topic, -2))
	})
	eachVersion(kmsg.Produce, "unknown", func(s *session, v int16) {
		topic := s.create(1)
		ask[*kmsg.ProduceResponse](s, s.produce(v, s.topic(), batch(values("a"))))
		for _, p := range []int32{1, -1, math.MaxInt32, math.MinInt32} {
			ask[*kmsg.ProduceResponse](s, s.produceTo(v, topic, p, batch(values("a"))))
		}
		ask[*kmsg.ProduceResponse](s, s.produce(v, "bad/name", batch(values("a"))))
		ask[*kmsg.ProduceResponse](s, s.produce(v, "", batch(values("a"))))
		req := s.produce(v, topic, nil)
		req.Topics = nil
		ask[*kmsg.ProduceResponse](s, req)
		req = s.produce(v, topic, nil)
		req.Topics[0].Partitions = nil
		ask[*kmsg.ProduceResponse](s, req)
	})
	eachVersion(kmsg.Produce, "several", func(s *session, v int16) {
		a, b := s.create(3), s.create(1)
		req := s.produceTo(v, a, 2, batch(values("1")))
		for _, p := range []int32{0, 7, 1} {
			more := kmsg.NewProduceRequestTopicPartition()
			more.Partition, more.Records = p, batch(values("x", "y"))
			req.Topics[0].Partitions = append(req.Topics[0].Partitions, more)
		}
		req.Topics = append(req.Topics, s.produce(v, b, batch(values("z"))).Topics...)
		req.Topics = append(req.Topics, s.produce(v, s.topic(), batch(values("z"))).Topics...)
		ask[*kmsg.ProduceResponse](s, req)
		ask[*kmsg.ListOffsetsResponse](s, listOffsets(6, a, -1, -1, -1))
	})
	// The order of checks and their codes, batch by batch.
	eachVersion(kmsg.Produce, "batches that are refused", func(s *session, v int16) {
		topic := s.create(1)
		for _, c := range refusedBatches() {
			s.note(c.what, -1, -1, "sent")
			if s.try(s.produce(v, topic, c.raw)) == nil {
				continue
			}
		}
		ask[*kmsg.ListOffsetsResponse](s, listOffsets(6, topic, -1))
	})
	register("Produce/batches that only one refuses", func(s *session) {
		topic := s.create(1)
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a", "b"), from(1, -1, 0))))
		twice := func(b *kmsg.RecordBatch) {
			b.Records = append(encodeRecords(values("a")), encodeRecords(values("b"))...)
		}
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a", "b"), twice)))
	})
	register("Produce/decompressed size", func(s *session) {
		rs := values(strings.Repeat("x", 900))
		for _, limit := range []string{"100", "800", "1000"} {
			topic := s.create(1, "max.decompressed.message.bytes="+limit)
			for _, codec := range []int16{0, 1, 4} {
				ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(rs, compressed(codec))))
			}
		}
	})
	// What is no batch is refused partition by partition, or not decoded at all.
	eachVersion(kmsg.Produce, "bytes that are no batch", func(s *session, v int16) {
		topic := s.create(1)
		good := batch(values("a", "b"))
		for _, n := range []int{0, 1, 12, 16, 17, 60, 61, len(good) - 1} {
			s.try(s.produce(v, topic, good[:n]))
		}
		s.try(s.produce(v, topic, append(batch(values("a")), 0)))
		s.try(s.produce(v, topic, append(batch(values("a")), batch(values("b"))...)))
		ask[*kmsg.ListOffsetsResponse](s, listOffsets(6, topic, -1))
	})
	// Apache Kafka never answers, so this is asked once only.
	register("Produce/null for a batch", func(s *session) { s.try(s.produce(9, s.create(1), nil)) })
	// librdkafka reads off the lowest version what compression there is, so
	// these are told; nobody may send them.
	register("Produce/versions that are only told", func(s *session) {
		topic := s.create(1)
		for v := range int16(3) {
			s.try(s.produce(v, topic, batch(values("a"))))
		}
	})
	register("Produce/twice the same", func(s *session) {
		topic := s.create(1)
		req := s.produce(9, topic, batch(values("a")))
		req.Topics[0].Partitions = append(req.Topics[0].Partitions, s.produce(9, topic, batch(values("b"))).Topics[0].Partitions...)
		ask[*kmsg.ProduceResponse](s, req)
		ask[*kmsg.FetchResponse](s, s.fetch(12, topic, 0))
	})
	eachVersion(kmsg.Produce, "codecs", func(s *session, v int16) {
		rs := values(strings.Repeat("text ", 100), "b", strings.Repeat("text ", 50))
		for codec := range int16(5) {
			topic := s.create(1)
			ask[*kmsg.ProduceResponse](s, s.produce(v, topic, batch(rs, compressed(codec))))
			ask[*kmsg.FetchResponse](s, s.fetch(12, topic, 0))
		}
	})
	register("Produce/codec of the topic", func(s *session) {
		rs := []record{{key: []byte("k"), value: []byte(strings.Repeat("text ", 100)), headers: []kmsg.Header{{Key: "h", Value: []byte("v")}, {Key: "", Value: nil}}}, {delta: 5}}
		for _, want := range []string{"uncompressed", "gzip", "snappy", "lz4", "zstd", "producer"} {
			topic := s.create(1, "compression.type="+want)
			for codec := range int16(5) {
				ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(rs, compressed(codec))))
			}
			ask[*kmsg.FetchResponse](s, s.fetch(12, topic, 0))
		}
	})
	register("Produce/xerial and raw snappy", func(s *session) {
		topic := s.create(1)
		framed := batch(values("a"), func(b *kmsg.RecordBatch) {
			compressed(2)(b)
			if len(b.Records) > 8 && b.Records[0] == 0x82 {
				return
			}
			framed := append([]byte{0x82, 'S', 'N', 'A', 'P', 'P', 'Y', 0, 0, 0, 0, 1, 0, 0, 0, 1}, binary.BigEndian.AppendUint32(nil, uint32(len(b.Records)))...)
			b.Records = append(framed, b.Records...)
		})
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, framed))
		ask[*kmsg.FetchResponse](s, s.fetch(12, topic, 0))
	})
	register("Produce/time of the broker", func(s *session) {
		for _, codec := range []int16{0, 1, 4} {
			topic := s.create(1, "message.timestamp.type=LogAppendTime")
			for _, edit := range []func(*kmsg.RecordBatch){made(someTime), made(0), made(math.MaxInt64 / 2), attributes(8)} {
				ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch([]record{{value: []byte("a")}, {delta: 7, value: []byte("b")}}, edit, compressed(codec))))
			}
			ask[*kmsg.FetchResponse](s, s.fetch(12, topic, 0))
		}
	})
	register("Produce/times that are refused", func(s *session) {
		topic := s.create(1, "message.timestamp.before.max.ms=86400000", "message.timestamp.after.max.ms=3600000")
		nowMillis := time.Now().UnixMilli()
		for _, at := range []int64{nowMillis, nowMillis - 3*86400000, nowMillis + 3*3600000, -1, -2, 0, math.MaxInt64, math.MinInt64} {
			ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a", "b"), made(at))))
		}
		// Two of three records, and a batch that lies about its maximum.
		rs := []record{{value: []byte("a")}, {delta: -3 * 86400000}, {delta: 3 * 3600000}}
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(rs, made(nowMillis))))
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a"), made(someTime))))
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a"), attributes(8), made(nowMillis))))
	})
	register("Produce/maximum time that is not the records'", func(s *session) {
		topic := s.create(1)
		for _, max := range []int64{0, someTime - 1, someTime + 1, -1} {
			ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a", "b"), func(b *kmsg.RecordBatch) { b.MaxTimestamp = max })))
		}
		ask[*kmsg.FetchResponse](s, s.fetch(12, topic, 0))
	})
	eachVersion(kmsg.Produce, "keys of compacted topics", func(s *session, v int16) {
		for _, policy := range []string{"compact", "compact,delete", "delete"} {
			topic := s.create(1, "cleanup.policy="+policy)
			ask[*kmsg.ProduceResponse](s, s.produce(v, topic, batch([]record{{key: []byte("k")}, {value: []byte("no key")}, {key: []byte{}}, {}})))
			ask[*kmsg.ProduceResponse](s, s.produce(v, topic, batch([]record{{key: []byte("k")}})))
		}
	})
	eachVersion(kmsg.Produce, "size", func(s *session, v int16) {
		topic := s.create(1, "max.message.bytes=200")
		for _, n := range []int{100, 130, 131, 132, 133, 134, 135, 140, 5000} {
			ask[*kmsg.ProduceResponse](s, s.produce(v, topic, batch(values(strings.Repeat("x", n)))))
		}
	})
	register("Produce/size after compression", func(s *session) {
		topic := s.create(1, "max.message.bytes=200", "compression.type=uncompressed")
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values(strings.Repeat("x", 1000)), compressed(1))))
	})
	register("Produce/size of the segment", func(s *session) {
		topic := s.create(1, "segment.bytes=1048576", "max.message.bytes=2000000")
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values(strings.Repeat("x", 1_100_000)))))
	})
	register("Produce/leader epoch of the producer", func(s *session) {
		topic := s.create(1)
		for _, epoch := range []int32{0, -1, 99, math.MinInt32} {
			ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a"), func(b *kmsg.RecordBatch) { b.PartitionLeaderEpoch = epoch })))
		}
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a"), func(b *kmsg.RecordBatch) { b.FirstOffset = 77 })))
		ask[*kmsg.FetchResponse](s, s.fetch(12, topic, 0))
	})
	eachVersion(kmsg.Produce, "min.insync.replicas", func(s *session, v int16) {
		topic := s.create(1, "min.insync.replicas=2")
		for _, acks := range []int16{-1, 1} {
			req := s.produce(v, topic, batch(values("a")))
			req.Acks = acks
			ask[*kmsg.ProduceResponse](s, req)
		}
	})
	eachVersion(kmsg.Produce, "transactional", func(s *session, v int16) {
		topic := s.create(1)
		req := s.produce(v, topic, batch(values("a")))
		req.TransactionID = ptr("tx")
		ask[*kmsg.ProduceResponse](s, req)
	})
	register("Produce/headers and nulls", func(s *session) {
		topic := s.create(1)
		rs := []record{
			{}, {key: []byte{}, value: []byte{}}, {key: []byte("k")}, {value: []byte("v")},
			{headers: []kmsg.Header{{Key: "a"}, {Key: "a", Value: []byte{}}, {Key: "b", Value: []byte("2")}}},
		}
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(rs)))
		ask[*kmsg.FetchResponse](s, s.fetch(12, topic, 0))
	})
	register("Produce/order of a connection", func(s *session) {
		topic := s.create(2)
		s.pipeline(6,
			s.produceTo(9, topic, 0, batch(values("1"))), s.produceTo(9, topic, 1, batch(values("1"))),
			metadata(9, topic), s.produceTo(9, topic, 0, batch(values("2"))),
			listOffsets(6, topic, -2, -2), s.produceTo(9, topic, 0, batch(values("3"))))
	})

	idempotence()
}

type refusedBatch struct {
	what string
	raw  []byte
}

// refusedBatches are batches with one thing wrong each.
func refusedBatches() []refusedBatch {
	edit := func(f func(*kmsg.RecordBatch)) []byte { return batch(values("a", "b"), f) }
	wrongCRC := batch(values("a"))
	wrongCRC[len(wrongCRC)-1] ^= 1
	longer := batch(values("a"))
	binary.BigEndian.PutUint32(longer[8:], uint32(len(longer)))
	return []refusedBatch{
		{"CRC", wrongCRC},
		{"length", longer},
		{"magic 0", edit(func(b *kmsg.RecordBatch) { b.Magic = 0 })},
		{"magic 1", edit(func(b *kmsg.RecordBatch) { b.Magic = 1 })},
		{"magic 3", edit(func(b *kmsg.RecordBatch) { b.Magic = 3 })},
		{"magic -1", edit(func(b *kmsg.RecordBatch) { b.Magic = -1 })},
		{"count 0", edit(func(b *kmsg.RecordBatch) { b.NumRecords, b.LastOffsetDelta = 0, -1 })},
		{"count 0 of two", edit(func(b *kmsg.RecordBatch) { b.NumRecords = 0 })},
		{"count 1 of two", edit(func(b *kmsg.RecordBatch) { b.NumRecords, b.LastOffsetDelta = 1, 0 })},
		{"count 3 of two", edit(func(b *kmsg.RecordBatch) { b.NumRecords, b.LastOffsetDelta = 3, 2 })},
		{"count -1", edit(func(b *kmsg.RecordBatch) { b.NumRecords = -1 })},
		{"count of millions", edit(func(b *kmsg.RecordBatch) { b.NumRecords, b.LastOffsetDelta = math.MaxInt32, math.MaxInt32-1 })},
		{"last offset delta", edit(func(b *kmsg.RecordBatch) { b.LastOffsetDelta = 5 })},
		{"last offset delta -1", edit(func(b *kmsg.RecordBatch) { b.LastOffsetDelta = -1 })},
		{"empty", batch(nil)},
		{"control", edit(attributes(32))},
		{"transactional", edit(attributes(16))},
		{"transactional of a producer", edit(func(b *kmsg.RecordBatch) { attributes(16)(b); from(5, 0, 0)(b) })},
		{"control and transactional", edit(attributes(48))},
		{"codec 5", edit(attributes(5))},
		{"codec 7", edit(attributes(7))},
		{"unused bits", edit(attributes(64))},
		{"more unused bits", edit(attributes(1 << 10))},
		{"says gzip", edit(attributes(1))},
		{"says snappy", edit(attributes(2))},
		{"says lz4", edit(attributes(3))},
		{"says zstd", edit(attributes(4))},
		{"cut gzip", edit(func(b *kmsg.RecordBatch) { compressed(1)(b); b.Records = b.Records[:len(b.Records)-9] })},
		{"cut zstd", edit(func(b *kmsg.RecordBatch) { compressed(4)(b); b.Records = b.Records[:len(b.Records)-3] })},
		{"compressed, count 1 of two", edit(func(b *kmsg.RecordBatch) { compressed(1)(b); b.NumRecords, b.LastOffsetDelta = 1, 0 })},
		{"compressed, count 3 of two", edit(func(b *kmsg.RecordBatch) { compressed(1)(b); b.NumRecords, b.LastOffsetDelta = 3, 2 })},
		{"producer without sequence", edit(from(1, 0, -1))},
		{"sequence without producer", edit(from(-1, -1, 0))},
		{"producer -2", edit(from(-2, 0, 0))},
		{"record cut", edit(func(b *kmsg.RecordBatch) { b.Records = b.Records[:len(b.Records)-1] })},
		{"bytes behind records", edit(func(b *kmsg.RecordBatch) { b.Records = append(b.Records, 0, 0) })},
		{"compressed bytes behind records", edit(func(b *kmsg.RecordBatch) { b.Records = append(b.Records, 0); compressed(1)(b) })},
		{"compressed offset delta", edit(func(b *kmsg.RecordBatch) {
			b.Records = append(encodeRecords(values("a")), encodeRecords(values("b"))...)
			compressed(1)(b)
		})},
		{"record of length -1", edit(func(b *kmsg.RecordBatch) { b.Records[0] = 1 })},
	}
}

// idempotence is about producers that number their batches.
func idempotence() {
	register("Produce/sequences", func(s *session) {
		topic, p := s.create(1), s.newProducer()
		send := func(epoch int16, sequence int32, n int) {
			rs := make([]record, n)
			ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(rs, from(p, epoch, sequence))))
		}
		send(0, 0, 2)
		send(0, 2, 3)
		send(0, 2, 3) // again
		send(0, 0, 2) // again
		send(0, 2, 2) // the start of one
		send(0, 7, 1) // too far
		send(0, 4, 1) // behind
		send(0, 5, 1)
		for i := int32(6); i < 12; i++ {
			send(0, i, 1)
		}
		send(0, 6, 1)  // sixth from the end
		send(0, 7, 1)  // fifth
		send(1, 12, 1) // a new epoch begins at 0
		send(1, 0, 1)
		send(0, 12, 1) // the old one is over
		send(1, 1, 1)
		send(3, 0, 1)
		ask[*kmsg.FetchResponse](s, s.fetch(12, topic, 0))
		ask[*kmsg.DescribeProducersResponse](s, describeProducers(topic, 0))
	})
	register("Produce/first sequence of an unknown producer", func(s *session) {
		topic := s.create(1)
		for i, sequence := range []int32{5, 0, math.MaxInt32} {
			ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a"), from(1_000_000+int64(i), 3, sequence))))
		}
	})
	register("Produce/sequences wrap", func(s *session) {
		topic := s.create(1)
		for _, sequence := range []int32{math.MaxInt32 - 1, 1, 0, 2} {
			ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a", "b"), from(2_000_000, 0, sequence))))
		}
	})
	register("Produce/sequences of a topic made again", func(s *session) {
		name, p := s.create(1), s.newProducer()
		ask[*kmsg.ProduceResponse](s, s.produce(9, name, batch(values("a", "b"), from(p, 0, 0))))
		s.remove(name)
		s.createAs(name, 1)
		ask[*kmsg.ProduceResponse](s, s.produce(9, name, batch(values("c"), from(p, 0, 0))))
		ask[*kmsg.ProduceResponse](s, s.produce(9, name, batch(values("d"), from(p, 0, 2))))
	})
	register("Produce/id of a topic that was deleted", func(s *session) {
		name := s.create(1)
		old := s.produce(13, name, batch(values("a")))
		s.remove(name)
		ask[*kmsg.ProduceResponse](s, old)
		s.createAs(name, 1)
		ask[*kmsg.ProduceResponse](s, old)
	})
	register("Produce/sequences across batches deleted", func(s *session) {
		topic, p := s.create(1), s.newProducer()
		for i := range int32(3) {
			ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a"), from(p, 0, i))))
		}
		ask[*kmsg.DeleteRecordsResponse](s, deleteRecords(2, topic, -1))
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a"), from(p, 0, 2))))
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a"), from(p, 0, 3))))
		ask[*kmsg.ProduceResponse](s, s.produce(9, topic, batch(values("a"), from(p, 0, 5))))
	})
	eachVersion(kmsg.InitProducerID, "producers", func(s *session, v int16) {
		for _, c := range []struct {
			tx    *string
			id    int64
			epoch int16
		}{{nil, -1, -1}, {nil, -1, -1}, {nil, 5, 0}, {nil, 5, -1}, {nil, -1, 3}, {nil, -1, -1}} {
			req := at(kmsg.NewPtrInitProducerIDRequest(), v)
			req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.TransactionTimeoutMillis = c.tx, c.id, c.epoch, 1000
			ask[*kmsg.InitProducerIDResponse](s, req)
		}
	})
	eachVersion(kmsg.InitProducerID, "empty transactional id", func(s *session, v int16) {
		req := at(kmsg.NewPtrInitProducerIDRequest(), v)
		req.TransactionalID, req.ProducerID, req.ProducerEpoch, req.TransactionTimeoutMillis = ptr(""), -1, -1, 1000
		ask[*kmsg.InitProducerIDResponse](s, req)
	})
}

func describeProducers(topic string, partitions ...int32) *kmsg.DescribeProducersRequest {
	req := kmsg.NewPtrDescribeProducersRequest()
	t := kmsg.NewDescribeProducersRequestTopic()
	t.Topic, t.Partitions = topic, partitions
	req.Topics = append(req.Topics, t)
	return req
}
