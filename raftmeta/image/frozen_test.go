package image

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"
)

func frozen(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// testdata holds what the last release before clusters of several nodes wrote. It opens, and means what it meant.
func TestUnitOfFormat1Opens(t *testing.T) {
	u, err := DecodeUnit(frozen(t, "unit-1"), hash)
	if err != nil {
		t.Fatal(err)
	}
	tags := []Tag{{ID: 3, Data: []byte("three")}, {ID: 300}}
	if u.ID != uuid(9) || u.Base != 12 || u.Awaited || len(u.Records) != 12 {
		t.Fatalf("unit %+v", u)
	}
	for i, want := range []Record{
		&OperationRecord{Actor: "me", Cause: "a test"},
		&ClusterRecord{ClusterID: "cluster", Level: 1, Tags: tags},
		&VoterRecord{Voter: Voter{RaftID: 1<<63 | 5, NodeID: 1}, Tags: tags},
		&BrokerRecord{ID: 1, Incarnation: uuid(1), Listeners: []Endpoint{{"PLAIN", "host", 9092}, {"X", "::1", 65535}}, Rack: "r",
			Dirs: []UUID{uuid(2), uuid(3)}, Levels: Levels{1, 1}, Fenced: true, Tags: tags},
		&TopicRecord{Name: "a.topic", ID: uuid(4), Configs: []Setting{{"a", "1"}, {"b", ""}}, Tags: tags},
	} {
		if !reflect.DeepEqual(u.Records[i], want) {
			t.Errorf("record %d is\n%+v, want\n%+v", i, u.Records[i], want)
		}
	}
	change := u.Records[6].(*PartitionChangeRecord)
	if want := (Partition{Replicas: []int32{3, 1, 2}, ISR: []int32{3, 2}, ELR: []int32{1}, Dirs: "\x00\xff\x01", Leader: 2, LeaderEpoch: 4, PartitionEpoch: 9}); !reflect.DeepEqual(change.Partition, want) {
		t.Errorf("partition %+v, want %+v", change.Partition, want)
	}
}

func TestSnapshotOfFormat1Opens(t *testing.T) {
	img, err := DecodeImage(frozen(t, "snapshot-1"))
	if err != nil {
		t.Fatal(err)
	}
	want, _ := Apply(Empty(), 3, []Record{
		&ClusterRecord{ClusterID: "cluster", Level: 1}, &VoterRecord{Voter: Voter{RaftID: 77, NodeID: 1}},
		&BrokerRecord{ID: 1, Dirs: []UUID{uuid(2), uuid(3)}},
		&ProducerIDsRecord{Next: 1000},
		&TopicRecord{Name: "a.topic", ID: uuid(4), Configs: []Setting{{"retention.ms", "5"}}},
		&PartitionsRecord{Topic: uuid(4), Partitions: []Partition{
			{Replicas: []int32{1, 2}, ISR: []int32{1}, ELR: []int32{2}, Dirs: "\x01\xff", Leader: 1, LeaderEpoch: 2, PartitionEpoch: 3},
			{Replicas: []int32{1}, ISR: []int32{1}, Dirs: "\x00", Leader: NoLeader}}},
		&TopicRecord{Name: "empty", ID: uuid(5)},
		&BrokerConfigsRecord{Node: EveryBroker, Configs: []Setting{{"log.retention.ms", "6"}}},
	})
	want.voters[0].Since = 0 // that format does not say
	want, _ = Apply(want, 8, []Record{&BrokerRecord{ID: 1, Incarnation: uuid(10), Dirs: []UUID{uuid(3), uuid(6)}, Levels: Levels{1, 1}}})
	if !bytes.Equal(img.Encode(), want.Encode()) {
		t.Fatalf("the snapshot became\n%x, want\n%x", img.Encode(), want.Encode())
	}
	checkHolders(t, img)
}
