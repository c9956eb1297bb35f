package adopt

import (
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
)

// What is copied into the directory of one node must be all there is of a topic.
func TestTopicsOfOtherNodes(t *testing.T) {
	img := image.Empty()
	do := func(cmd control.Command) {
		t.Helper()
		r, err := cmd.Eval(img, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		img, _ = image.Apply(img, img.Index()+1, r.Records)
	}
	do(&control.FormCluster{ClusterID: "c", Voters: []image.Voter{{RaftID: 1, NodeID: 1, Levels: image.OwnLevels}}})
	for id := int32(1); id <= 2; id++ {
		do(&control.RegisterBroker{ID: id, Incarnation: image.UUID{byte(id)}, Levels: image.OwnLevels, Dirs: []image.UUID{{1, byte(id)}}})
		do(&control.UnfenceBroker{ID: id, Epoch: int64(img.Index())})
	}
	for name, assignments := range map[string][][]int32{"here": {{1}, {1}}, "there": {{1}, {2}}, "both": {{1, 2}}} {
		do(&control.CreateTopic{Name: name, ID: image.UUID{2, name[0]}, Partitions: -1, ReplicationFactor: -1, Assignments: assignments})
	}
	for name, want := range map[string]string{"here": "", "there": "there-1 is on brokers [2], and would be copied to broker 1 alone", "both": "both-0 is on brokers [1 2]", "none": "no topic none"} {
		err := onlyHere(img, name, 1)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", name, err, want)
		}
	}
}
