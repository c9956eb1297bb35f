package broker

import (
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/protocol"
	"github.com/streambus/streambus/storage/batch/batchtest"
)

func ptr[T any](v T) *T { return &v }

func metadataOf(r *raw, topic string) kmsg.MetadataResponseTopic {
	r.t.Helper()
	req := kmsg.NewPtrMetadataRequest()
	req.Version = 12
	req.Topics = []kmsg.MetadataRequestTopic{{Topic: &topic}}
	return ask[*kmsg.MetadataResponse](r, req).Topics[0]
}

func TestDeleteTopics(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	eachVersion(t, protocol.KeyDeleteTopics, func(v int16) {
		createTopic(r, "a")
		createTopic(r, "b")
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.Version, req.TimeoutMillis = v, 5000
		want := []int16{0, 3, 42} // one answer for a topic that is named twice
		names := []string{"a", "nothing", "b", "b"}
		if v < 6 {
			req.TopicNames = names
		} else {
			id := metadataOf(r, "a").TopicID
			req.Topics = []kmsg.DeleteTopicsRequestTopic{
				{TopicID: id}, {Topic: ptr("nothing")}, {Topic: ptr("b")}, {TopicID: metadataOf(r, "b").TopicID},
				{TopicID: [16]byte{9}}, {}, {Topic: ptr("b"), TopicID: id},
			}
			want = append(want, 100, 42)
		}
		resp := ask[*kmsg.DeleteTopicsResponse](r, req)
		for i := range want {
			if got := resp.Topics[i].ErrorCode; got != want[i] {
				t.Errorf("version %d, item %d: error %d, want %d", v, i, got, want[i])
			}
		}
		if len(resp.Topics) != len(want) || *resp.Topics[0].Topic != "a" || v >= 5 && resp.Topics[1].ErrorMessage == nil {
			t.Errorf("version %d: %+v", v, resp.Topics)
		}
		if got := partitionsOf(r, "a"); got != -3 {
			t.Errorf("version %d: the deleted topic has %d partitions", v, got)
		}
		req.TopicNames, req.Topics = []string{"b"}, []kmsg.DeleteTopicsRequestTopic{{Topic: ptr("b")}}
		if code := ask[*kmsg.DeleteTopicsResponse](r, req).Topics[0].ErrorCode; code != 0 {
			t.Errorf("version %d: deleting once fails with %d", v, code)
		}
	})
}

// A topic of a name that was used before begins empty, and knows nothing of the producers of the one before.
func TestRecreatedTopicIsEmpty(t *testing.T) {
	r := newRaw(t, memoryNode(t))
	for round := range 3 {
		createTopic(r, "t")
		records := batchtest.Values("value").From(5, 0, 0).Encode()
		if at := ask[*kmsg.ProduceResponse](r, produceRequest("t", 0, -1, records)).Topics[0].Partitions[0]; at.ErrorCode != 0 || at.BaseOffset != 0 {
			t.Fatalf("round %d: the first batch has offset %d, error %d", round, at.BaseOffset, at.ErrorCode)
		}
		id := metadataOf(r, "t").TopicID
		req := kmsg.NewPtrDeleteTopicsRequest()
		req.Version, req.TimeoutMillis, req.Topics = 6, 5000, []kmsg.DeleteTopicsRequestTopic{{Topic: ptr("t")}}
		if code := ask[*kmsg.DeleteTopicsResponse](r, req).Topics[0].ErrorCode; code != 0 {
			t.Fatalf("error %d", code)
		}
		fetch := kmsg.NewPtrFetchRequest()
		fetch.Version, fetch.MaxBytes = 13, 1<<20
		fetch.Topics = []kmsg.FetchRequestTopic{{TopicID: id, Partitions: []kmsg.FetchRequestTopicPartition{{CurrentLeaderEpoch: -1, LastFetchedEpoch: -1, LogStartOffset: -1, PartitionMaxBytes: 1 << 20}}}}
		if code := ask[*kmsg.FetchResponse](r, fetch).Topics[0].Partitions[0].ErrorCode; code != 100 {
			t.Fatalf("a fetch from a deleted topic: error %d, want 100", code)
		}
	}
}
