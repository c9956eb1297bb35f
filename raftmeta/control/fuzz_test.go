package control

import (
	"bytes"
	"testing"

	"github.com/streambus/streambus/raftmeta/image"
)

// FuzzDecodeRequest: whatever another node sends is refused, or is a request that says the same when it is sent on.
func FuzzDecodeRequest(f *testing.F) {
	for _, c := range []Command{
		&CreateTopic{Name: "t", ID: id(1), Partitions: 3, ReplicationFactor: 1, Assignments: [][]int32{{1}}, Configs: map[string]string{"k": "v"}},
		&FenceBroker{ID: 1, Epoch: 2, Reason: "r"}, &PutVoter{Voter: image.Voter{RaftID: 1 << 62, NodeID: 1}}, &AlterConfigs{Replace: true},
	} {
		r := Request{Operation: image.Operation{Node: 1, Incarnation: id(2), Seq: 3}, Actor: "a", Cause: "c", Awaited: true, Command: c}
		b, err := r.Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Add([]byte(`{"Command":{"Type":"CreateTopic","Value":null}}`))
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
	})
}
