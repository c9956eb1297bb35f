package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/storage/batch"
	"github.com/streambus/streambus/storage/batch/batchtest"
)

// produceBatch produces a batch to partition 0 of topic t.
func produceBatch(r *raw, b []byte) kmsg.ProduceResponseTopicPartition {
	r.t.Helper()
	return ask[*kmsg.ProduceResponse](r, produceRequest("t", 0, -1, b)).Topics[0].Partitions[0]
}

// offsetAt is a ListOffsets request for partition 0 of topic t.
func offsetAt(r *raw, version int16, timestamp int64) kmsg.ListOffsetsResponseTopicPartition {
	r.t.Helper()
	req := kmsg.NewPtrListOffsetsRequest()
	req.Version, req.ReplicaID = version, -1
	p := kmsg.NewListOffsetsRequestTopicPartition()
	p.Timestamp = timestamp
	req.Topics = []kmsg.ListOffsetsRequestTopic{{Topic: "t", Partitions: []kmsg.ListOffsetsRequestTopicPartition{p}}}
	return ask[*kmsg.ListOffsetsResponse](r, req).Topics[0].Partitions[0]
}

func deleteRecords(r *raw, version int16, topic string, partition int32, offset int64) (low int64, code int16) {
	r.t.Helper()
	req := kmsg.NewPtrDeleteRecordsRequest()
	req.Version, req.TimeoutMillis = version, 5000
	req.Topics = []kmsg.DeleteRecordsRequestTopic{{Topic: topic, Partitions: []kmsg.DeleteRecordsRequestTopicPartition{{Partition: partition, Offset: offset}}}}
	row := ask[*kmsg.DeleteRecordsResponse](r, req).Topics[0].Partitions[0]
	return row.LowWatermark, row.ErrorCode
}

func TestListOffsetsByTime(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	eachVersion(t, protocol.KeyListOffsets, func(v int16) {
		if at := offsetAt(r, v, 5); at.Offset != -1 || at.Timestamp != -1 || at.ErrorCode != 0 {
			t.Errorf("version %d: an empty log has %+v", v, at)
		}
	})
	if code := alter(r, 1, topicResource, "t", change("message.timestamp.before.max.ms", kmsg.IncrementalAlterConfigOpDelete, "")); code != 0 {
		t.Fatal(code)
	}
	b := batchtest.Values("a", "b", "c").At(1000)
	b.Records[1].TimestampDelta, b.Records[2].TimestampDelta = 20, 10
	for _, c := range []batch.Codec{batch.None, batch.Gzip, batch.Snappy, batch.LZ4, batch.Zstd} {
		if at := produceBatch(r, batchtest.Compressed(b.Encode(), batch.Compression{Codec: c, Level: 3})); at.ErrorCode != 0 {
			t.Fatalf("%s: error %d", c, at.ErrorCode)
		}
		b = b.At(b.BaseTimestamp + 1000)
	}
	for _, c := range []struct {
		timestamp, offset, found int64
		since                    int16
	}{
		{0, 0, 1000, 1}, {1000, 0, 1000, 1}, {1001, 1, 1020, 1}, {1011, 1, 1020, 1}, {1021, 3, 2000, 1},
		{2005, 4, 2020, 1}, {3005, 7, 3020, 1}, {4011, 10, 4020, 1}, {5020, 13, 5020, 1}, {5021, -1, -1, 1},
		{-1, 15, -1, 1}, {-2, 0, -1, 1}, {-3, 13, 5020, 7}, {-4, 0, -1, 8}, {-5, -1, -1, 9}, {-6, -1, -1, 11}, {-7, -1, -1, 99},
	} {
		eachVersion(t, protocol.KeyListOffsets, func(v int16) {
			at := offsetAt(r, v, c.timestamp)
			if v < c.since {
				if at.ErrorCode != 35 {
					t.Errorf("version %d, %d: error %d, want 35", v, c.timestamp, at.ErrorCode)
				}
				return
			}
			epoch := int32(-1)
			if v >= 4 && c.offset >= 0 {
				epoch = 0
			}
			if at.Offset != c.offset || at.Timestamp != c.found || at.ErrorCode != 0 || at.LeaderEpoch != epoch {
				t.Errorf("version %d, %d: %+v, want offset %d of %d", v, c.timestamp, at, c.offset, c.found)
			}
		})
	}
	if low, code := deleteRecords(r, 2, "t", 0, 4); low != 4 || code != 0 {
		t.Fatalf("low watermark %d, error %d", low, code)
	}
	if at := offsetAt(r, 9, 0); at.Offset != 4 || at.Timestamp != 2020 {
		t.Errorf("after deleting up to 4: %+v", at)
	}
}

func TestDeleteRecords(t *testing.T) {
	eachVersion(t, protocol.KeyDeleteRecords, func(v int16) {
		r := newRaw(t, memoryNode(t))
		createTopic(r, "t")
		for range 3 {
			if at := produceBatch(r, batchtest.Values("a", "b", "c").Encode()); at.ErrorCode != 0 {
				t.Fatal(at.ErrorCode)
			}
		}
		for _, c := range []struct {
			topic     string
			partition int32
			offset    int64
			low       int64
			code      int16
		}{
			{"t", 0, 4, 4, 0}, {"t", 0, 4, 4, 0}, {"t", 0, 0, 4, 0}, {"t", 0, 10, -1, 1}, {"t", 0, -2, -1, 1},
			{"t", 1, 0, -1, 3}, {"t", -1, 0, -1, 3}, {"nothing", 0, 0, -1, 3}, {"t", 0, -1, 9, 0},
		} {
			if low, code := deleteRecords(r, v, c.topic, c.partition, c.offset); low != c.low || code != c.code {
				t.Errorf("version %d, %+v: low watermark %d, error %d", v, c, low, code)
			}
		}
		row := ask[*kmsg.FetchResponse](r, fetchRequest("t", 0, 5)).Topics[0].Partitions[0]
		if row.ErrorCode != 1 || row.LogStartOffset != -1 || row.HighWatermark != -1 {
			t.Errorf("version %d: a fetch of what was deleted: %+v", v, row)
		}
		if at := produceBatch(r, batchtest.Values("d").Encode()); at.BaseOffset != 9 || at.LogStartOffset != 9 {
			t.Errorf("version %d: the next record: %+v", v, at)
		}
		if code := alter(r, 1, topicResource, "t", change("cleanup.policy", kmsg.IncrementalAlterConfigOpSet, "compact")); code != 0 {
			t.Fatal(code)
		}
		if _, code := deleteRecords(r, v, "t", 0, -1); code != 44 {
			t.Errorf("version %d: a compacted topic: error %d, want 44", v, code)
		}
	})
}

func TestOffsetForLeaderEpoch(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	if at := produceBatch(r, batchtest.Values("a", "b", "c").Encode()); at.ErrorCode != 0 {
		t.Fatal(at.ErrorCode)
	}
	eachVersion(t, protocol.KeyOffsetForLeaderEpoch, func(v int16) {
		for _, c := range []struct {
			topic          string
			partition      int32
			current, epoch int32
			want           kmsg.OffsetForLeaderEpochResponseTopicPartition
		}{
			{"t", 0, -1, 0, kmsg.OffsetForLeaderEpochResponseTopicPartition{LeaderEpoch: 0, EndOffset: 3}},
			{"t", 0, 0, 0, kmsg.OffsetForLeaderEpochResponseTopicPartition{LeaderEpoch: 0, EndOffset: 3}},
			{"t", 0, -1, 1, kmsg.OffsetForLeaderEpochResponseTopicPartition{LeaderEpoch: -1, EndOffset: -1}},
			{"t", 0, -1, -1, kmsg.OffsetForLeaderEpochResponseTopicPartition{LeaderEpoch: -1, EndOffset: -1}},
			{"t", 0, 7, 0, kmsg.OffsetForLeaderEpochResponseTopicPartition{ErrorCode: 75, LeaderEpoch: -1, EndOffset: -1}},
			{"t", 9, -1, 0, kmsg.OffsetForLeaderEpochResponseTopicPartition{ErrorCode: 3, LeaderEpoch: -1, EndOffset: -1}},
			{"no", 0, -1, 0, kmsg.OffsetForLeaderEpochResponseTopicPartition{ErrorCode: 3, LeaderEpoch: -1, EndOffset: -1}},
		} {
			for _, replica := range []int32{-1, -2} {
				req := kmsg.NewPtrOffsetForLeaderEpochRequest()
				req.Version, req.ReplicaID = v, replica
				req.Topics = []kmsg.OffsetForLeaderEpochRequestTopic{{Topic: c.topic, Partitions: []kmsg.OffsetForLeaderEpochRequestTopicPartition{
					{Partition: c.partition, CurrentLeaderEpoch: c.current, LeaderEpoch: c.epoch},
				}}}
				got := ask[*kmsg.OffsetForLeaderEpochResponse](r, req).Topics[0].Partitions[0]
				if got.ErrorCode != c.want.ErrorCode || got.LeaderEpoch != c.want.LeaderEpoch || got.EndOffset != c.want.EndOffset || got.Partition != c.partition {
					t.Errorf("version %d, %+v: %+v", v, c, got)
				}
			}
		}
	})
}

func TestDescribeProducers(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	for sequence := range int32(3) {
		if at := produceBatch(r, batchtest.Values("a").From(7, 2, sequence).Encode()); at.ErrorCode != 0 {
			t.Fatal(at.ErrorCode)
		}
	}
	req := kmsg.NewPtrDescribeProducersRequest()
	req.Topics = []kmsg.DescribeProducersRequestTopic{{Topic: "t", Partitions: []int32{0, 1}}, {Topic: "no", Partitions: []int32{0}}}
	resp := ask[*kmsg.DescribeProducersResponse](r, req)
	p := resp.Topics[0].Partitions[0]
	if p.ErrorCode != 0 || len(p.ActiveProducers) != 1 {
		t.Fatalf("%+v", p)
	}
	if a := p.ActiveProducers[0]; a.ProducerID != 7 || a.ProducerEpoch != 2 || a.LastSequence != 2 || a.LastTimestamp <= 0 || a.CoordinatorEpoch != -1 || a.CurrentTxnStartOffset != -1 {
		t.Errorf("%+v", a)
	}
	if resp.Topics[0].Partitions[1].ErrorCode != 3 || resp.Topics[1].Partitions[0].ErrorCode != 3 {
		t.Errorf("%+v", resp.Topics)
	}
}

func TestDescribeLogDirs(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	createTopic(r, "u")
	b := batchtest.Values("a").Encode()
	if at := produceBatch(r, b); at.ErrorCode != 0 {
		t.Fatal(at.ErrorCode)
	}
	eachVersion(t, protocol.KeyDescribeLogDirs, func(v int16) {
		req := kmsg.NewPtrDescribeLogDirsRequest()
		req.Version = v
		for _, topics := range [][]kmsg.DescribeLogDirsRequestTopic{nil, {{Topic: "t", Partitions: []int32{0, 5}}, {Topic: "no", Partitions: []int32{0}}}, {}} {
			req.Topics = topics
			resp := ask[*kmsg.DescribeLogDirsResponse](r, req)
			if resp.ErrorCode != 0 || len(resp.Dirs) != 1 || resp.Dirs[0].ErrorCode != 0 || resp.Dirs[0].Dir == "" {
				t.Fatalf("version %d: %+v", v, resp)
			}
			sizes := map[string]int64{}
			for _, topic := range resp.Dirs[0].Topics {
				for _, p := range topic.Partitions {
					sizes[topic.Topic] += p.Size
				}
			}
			want := map[int]int{0: 2, 2: 1}[len(topics)]
			if topics != nil && len(topics) == 0 {
				want = 0
			}
			if len(sizes) != want || want > 0 && sizes["t"] != int64(len(b)) {
				t.Errorf("version %d, %v: %v", v, topics, sizes)
			}
		}
	})
}

// What a topic does not take is named record by record.
func TestRejectedRecords(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	if code := alter(r, 1, topicResource, "t", change("message.timestamp.before.max.ms", kmsg.IncrementalAlterConfigOpSet, "1000"), change("cleanup.policy", kmsg.IncrementalAlterConfigOpSet, "compact")); code != 0 {
		t.Fatal(code)
	}
	old := batchtest.Values("a", "b").At(5)
	for i := range old.Records {
		old.Records[i].Key = []byte("k")
	}
	keyless := batchtest.Values("a", "b").At(-1)
	keyless.MaxTimestamp = -1
	for _, c := range []struct {
		batch batchtest.Batch
		want  int16
	}{{old, 32}, {keyless, 87}} {
		for v := int16(8); v <= 12; v++ {
			req := produceRequest("t", 0, -1, c.batch.Encode())
			req.Version = v
			row := ask[*kmsg.ProduceResponse](r, req).Topics[0].Partitions[0]
			if row.ErrorCode != c.want || row.ErrorMessage == nil || len(row.ErrorRecords) != 2 || row.ErrorRecords[1].RelativeOffset != 1 || row.ErrorRecords[1].ErrorMessage == nil {
				t.Errorf("version %d: %+v", v, row)
			}
		}
	}
}

func TestCompressionOfTheTopic(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	createTopic(r, "t")
	offset := int64(0)
	for _, name := range []string{"producer", "uncompressed", "gzip", "snappy", "lz4", "zstd"} {
		if code := alter(r, 1, topicResource, "t", change("compression.type", kmsg.IncrementalAlterConfigOpSet, name), change("message.timestamp.type", kmsg.IncrementalAlterConfigOpSet, "LogAppendTime")); code != 0 {
			t.Fatal(code)
		}
		for codec := batch.None; codec <= batch.Zstd; codec++ {
			sent := batchtest.Values("a", "bb", "ccc")
			at := produceBatch(r, batchtest.Compressed(sent.Encode(), batch.Compression{Codec: codec, Level: 3}))
			if at.ErrorCode != 0 || at.BaseOffset != offset || at.LogAppendTime <= 0 {
				t.Fatalf("%s as %s: %+v", codec, name, at)
			}
			stored := ask[*kmsg.FetchResponse](r, fetchRequest("t", 0, offset)).Topics[0].Partitions[0].RecordBatches
			offset += 3
			h, err := batch.Verify(stored)
			want := map[string]string{"producer": codec.String(), "uncompressed": "none"}[name]
			if want == "" {
				want = name
			}
			if err != nil || h.Codec().String() != want || h.MaxTimestamp != at.LogAppendTime || !h.IsLogAppendTime() {
				t.Errorf("%s as %s: %+v, %v", codec, name, h, err)
			}
			plain := batchtest.Any()
			plain.KeepCodec = false
			batch.Stamp(stored, 0, -1) // as if a producer had sent it
			stored[22] &^= byte(batch.LogAppendTimeBit)
			if stored, err = plain.Accept(batchtest.Seal(stored), h.MaxTimestamp); err != nil {
				t.Fatal(err)
			}
			if records, err := batchtest.Records(stored); err != nil || len(records) != 3 || string(records[2].Value) != "ccc" {
				t.Errorf("%s as %s: %v, %v", codec, name, records, err)
			}
		}
	}
}
