package control

import (
	"bytes"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// FuzzDecodeRequest: whatever another node sends is refused, or is a request that says the same when it is sent on.
func FuzzDecodeRequest(f *testing.F) {
	for _, c := range []Command{
		&CreateTopic{Name: "t", ID: id(1), Partitions: 3, ReplicationFactor: 1, Assignments: [][]int32{{1}}, Configs: map[string]string{"k": "v"}},
		&FenceBroker{ID: 1, Epoch: 2, Reason: "r"}, &PutVoter{Voter: image.Voter{RaftID: 1 << 62, NodeID: 1}}, &AlterConfigs{Replace: true},
		&RegisterBroker{ID: 1, Incarnation: id(5), Dirs: []image.UUID{id(6)}, Levels: image.OwnLevels, Listeners: []image.Endpoint{{Name: "P", Host: "h", Port: 1}}},
		&AllocateProducerIDs{BrokerID: 1, BrokerEpoch: 1, Count: 5}, &CreatePartitions{Topic: "t", Count: 3}, &DeleteTopic{Name: "t"},
		&AlterPartition{BrokerID: 1, BrokerEpoch: 1, Partitions: []ISRChange{{Topic: id(1), ISR: []ISRMember{{ID: 1, Epoch: -1}}}}},
		&ElectLeaders{Partitions: []TopicPartition{{Topic: "t"}}}, &UnregisterBroker{ID: 2}, &RemoveVoter{RaftID: 7},
		&UpdateFeatures{Updates: []FeatureUpdate{{Feature: MetadataVersion, Level: 2, Type: Upgrade}}}, &UnfenceBroker{ID: 1, Epoch: 1},
		&BeginControlledShutdown{ID: 1, Epoch: 1}, &FormCluster{ClusterID: "c"},
	} {
		r := Request{Operation: image.Operation{Node: 1, Incarnation: id(2), Seq: 3}, Actor: "a", Cause: "c", Awaited: true, Command: c}
		b, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	for _, r := range []Request{
		{Operation: image.Operation{Node: -1, Seq: 1}, Command: &DeleteTopic{Name: "t"}},
		{Command: &RegisterBroker{ID: -1, Incarnation: id(5), Levels: image.OwnLevels}},
		{Command: &PutVoter{Voter: image.Voter{RaftID: 9, NodeID: -1}, New: true}},
		{Command: &AlterConfigs{Node: -2, Changes: []ConfigChange{{Key: "k", Value: "v"}}}},
		{Command: &FormCluster{}},
		{Command: &AlterConfigs{Node: 1, Changes: []ConfigChange{{Key: "k", Op: 9, Value: "v"}}}},
	} {
		b, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"Command":{"Type":"CreateTopic","Value":null}}`))
	base, _ := image.Apply(image.Empty(), 1, []image.Record{
		&image.ClusterRecord{ClusterID: "c", Level: image.Level}, &image.VoterRecord{Voter: image.Voter{RaftID: 7, NodeID: 1, Levels: image.OwnLevels}},
		&image.BrokerRecord{ID: 1, Incarnation: id(2), Dirs: []image.UUID{id(3)}, Levels: image.OwnLevels}, &image.BrokerRecord{ID: 2, Incarnation: id(4), Levels: image.OwnLevels},
		&image.TopicRecord{Name: "t", ID: id(1)}, &image.PartitionsRecord{Topic: id(1), Partitions: []image.Partition{
			{Replicas: []int32{1, 2}, ISR: []int32{1, 2}, Dirs: "\x00\xff", Leader: 1}, {Replicas: []int32{2}, ISR: []int32{2}, Dirs: "\xff", Leader: 2}}},
	})
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := DecodeRequest(b)
		if err != nil {
			return
		}
		once, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := DecodeRequest(once)
		if err != nil {
			t.Fatalf("%s: %v", once, err)
		}
		twice, err := again.Encode()
		if err != nil || !bytes.Equal(once, twice) {
			t.Fatalf("%s became %s, %v", once, twice, err)
		}
		// And whatever it asks for is refused, or comes to records that can be written, read and replayed.
		if repeat, err := Repeat(base, &r); err != nil || repeat != nil {
			return
		}
		result, err := r.Command.Eval(base, time.Time{})
		if err != nil {
			return
		}
		if _, err := EncodeReply(result.Reply); err != nil {
			t.Fatal(err)
		}
		records := append([]image.Record{&image.OperationRecord{Operation: r.Operation, Actor: r.Actor, Cause: r.Cause}}, result.Records...)
		unit, err := image.DecodeUnit((&image.Unit{Base: base.Index(), Records: records}).Encode(7), 7)
		if err != nil {
			t.Fatal(err)
		}
		next, _ := image.Apply(base, base.Index()+1, unit.Records)
		if _, err := image.DecodeImage(next.Encode()); err != nil {
			t.Fatal(err)
		}
	})
}
