package office

import (
	"reflect"
	"testing"

	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
)

func TestNextStepOfMembership(t *testing.T) {
	v := func(raftID uint64, node int32, since uint64) image.Voter {
		return image.Voter{RaftID: raftID, NodeID: node, Since: since}
	}
	three := []image.Voter{v(11, 1, 1), v(12, 2, 1), v(13, 3, 1)}
	all := []uint64{11, 12, 13}
	caught := func(id, match uint64, active bool) []quorum.Progress {
		return []quorum.Progress{{RaftID: id, Learner: true, Match: match, Active: active}}
	}
	for name, c := range map[string]struct {
		wanted   []image.Voter
		members  quorum.Members
		progress []quorum.Progress
		want     quorum.Change
	}{
		"nothing to do":          {three, quorum.Members{Voters: all}, nil, quorum.Change{}},
		"a fourth learns":        {append(three, v(14, 4, 9)), quorum.Members{Voters: all}, nil, quorum.Change{AddLearner: []uint64{14}}},
		"it is behind":           {append(three, v(14, 4, 9)), quorum.Members{Voters: all, Learners: []uint64{14}}, caught(14, 3999, true), quorum.Change{}},
		"it was not heard of":    {append(three, v(14, 4, 9)), quorum.Members{Voters: all, Learners: []uint64{14}}, caught(14, 5000, false), quorum.Change{}},
		"it has caught up":       {append(three, v(14, 4, 9)), quorum.Members{Voters: all, Learners: []uint64{14}}, caught(14, 4000, true), quorum.Change{Promote: []uint64{14}}},
		"a wiped one learns":     {append(three, v(23, 3, 9)), quorum.Members{Voters: all}, nil, quorum.Change{AddLearner: []uint64{23}}},
		"and replaces the old":   {append(three, v(23, 3, 9)), quorum.Members{Voters: all, Learners: []uint64{23}}, caught(23, 5000, true), quorum.Change{Promote: []uint64{23}, Remove: []uint64{13}}},
		"and the old stays away": {append(three, v(23, 3, 9)), quorum.Members{Voters: []uint64{11, 12, 23}}, nil, quorum.Change{}},
		"wiped while it learned": {append(three, v(23, 3, 9), v(33, 3, 10)), quorum.Members{Voters: all, Learners: []uint64{23, 33}}, caught(33, 5000, true), quorum.Change{Promote: []uint64{33}, Remove: []uint64{13, 23}}},
		"one is taken away":      {three[:2], quorum.Members{Voters: all}, nil, quorum.Change{Remove: []uint64{13}}},
	} {
		if got := next(c.wanted, c.members, c.progress, 5000); !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
