package control

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// One partition of [1 2 3 4], led by 1 in epoch 5; broker 4 is fenced and out of sync, broker 5 has no replica.
func TestAlterPartition(t *testing.T) {
	img := apply(t, cluster(t, 6), &CreateTopic{Name: "t", ID: id(1), Assignments: on(1, 2, 3, 4), Configs: map[string]string{"min.insync.replicas": "3"}})
	img = apply(t, fence(t, img, 4), &UnregisterBroker{6})
	img = change(t, img, "t", 0, func(p *image.Partition) {
		p.ISR, p.ELR, p.LeaderEpoch, p.PartitionEpoch = []int32{1, 2}, []int32{3}, 5, 9
	})
	stopping := apply(t, img, &BeginControlledShutdown{ID: 3, Epoch: epoch(img, 3)})
	gone := apply(t, img, &UnregisterBroker{3})
	leaving := change(t, img, "t", 0, func(p *image.Partition) { p.ISR, p.ELR = []int32{1}, nil })
	leaving = apply(t, leaving, &BeginControlledShutdown{ID: 1, Epoch: epoch(img, 1)})
	member := func(id int32) ISRMember { return ISRMember{id, epoch(img, id)} }
	ask := ISRChange{Topic: id(1), LeaderEpoch: 5, PartitionEpoch: 9, ISR: []ISRMember{member(1), member(2)}}
	with := func(edit func(*ISRChange)) ISRChange {
		x := ask
		edit(&x)
		return x
	}
	for name, c := range map[string]struct {
		img    *image.Image
		sender int32
		ask    ISRChange
		code   Code // 0 for none
		want   string
	}{
		"the same":             {img, 1, ask, 0, "1/5 [1 2] [3]"},
		"shrink":               {img, 1, with(func(x *ISRChange) { x.ISR = x.ISR[:1] }), 0, "1/5 [1] [2 3]"},
		"grow":                 {img, 1, with(func(x *ISRChange) { x.ISR = []ISRMember{member(3), member(1), member(2)} }), 0, "1/5 [1 2 3] []"},
		"exchange":             {img, 1, with(func(x *ISRChange) { x.ISR = []ISRMember{member(3), member(1)} }), 0, "1/5 [1 3] [2]"},
		"any epoch":            {img, 1, with(func(x *ISRChange) { x.ISR = []ISRMember{{1, -1}, {3, -1}} }), 0, "1/5 [1 3] [2]"},
		"unknown topic":        {img, 1, with(func(x *ISRChange) { x.Topic = id(2) }), UnknownTopicID, ""},
		"unknown partition":    {img, 1, with(func(x *ISRChange) { x.Partition = 1 }), UnknownPartition, ""},
		"negative partition":   {img, 1, with(func(x *ISRChange) { x.Partition = -1 }), UnknownPartition, ""},
		"later leader epoch":   {img, 2, with(func(x *ISRChange) { x.LeaderEpoch, x.PartitionEpoch = 6, 1 }), NotController, ""},
		"later epoch":          {img, 2, with(func(x *ISRChange) { x.LeaderEpoch, x.PartitionEpoch = 4, 10 }), NotController, ""},
		"earlier leader epoch": {img, 2, with(func(x *ISRChange) { x.LeaderEpoch, x.PartitionEpoch = 4, 8 }), FencedLeaderEpoch, ""},
		"not the leader":       {img, 2, with(func(x *ISRChange) { x.PartitionEpoch = 8 }), InvalidRequest, "broker 1, not broker 2"},
		"earlier epoch":        {img, 1, with(func(x *ISRChange) { x.PartitionEpoch, x.ISR = 8, nil }), InvalidUpdateVersion, ""},
		"no replica":           {img, 1, with(func(x *ISRChange) { x.ISR = []ISRMember{member(1), {5, 1}} }), InvalidRequest, "broker 5"},
		"member twice":         {img, 1, with(func(x *ISRChange) { x.ISR = []ISRMember{member(1), member(2), {2, 1}} }), InvalidRequest, "broker 2"},
		"without itself":       {img, 1, with(func(x *ISRChange) { x.ISR = []ISRMember{{2, 1}} }), InvalidRequest, "without its leader"},
		"nobody":               {img, 1, with(func(x *ISRChange) { x.ISR = nil }), InvalidRequest, "without its leader"},
		"recovering":           {img, 1, with(func(x *ISRChange) { x.Recovering, x.ISR = true, []ISRMember{{1, 3}} }), InvalidRequest, "RECOVERING"},
		"fenced":               {img, 1, with(func(x *ISRChange) { x.ISR = []ISRMember{member(1), member(4)} }), IneligibleReplica, "fenced"},
		"stopping":             {stopping, 1, with(func(x *ISRChange) { x.ISR = []ISRMember{member(1), member(3)} }), IneligibleReplica, "shutting down"},
		"gone":                 {gone, 1, with(func(x *ISRChange) { x.PartitionEpoch, x.ISR = 10, []ISRMember{member(1), member(3)} }), IneligibleReplica, "not registered"},
		"earlier incarnation":  {img, 1, with(func(x *ISRChange) { x.ISR = []ISRMember{member(1), {2, epoch(img, 2) - 1}} }), IneligibleReplica, "epoch"},
		"itself stopping":      {leaving, 1, with(func(x *ISRChange) { x.PartitionEpoch, x.ISR = 10, []ISRMember{member(1), member(3)} }), NewLeaderElected, "broker 3 leads"},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := (&AlterPartition{BrokerID: c.sender, BrokerEpoch: epoch(c.img, c.sender), Partitions: []ISRChange{c.ask}}).Eval(c.img, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			got := r.Reply.(*AlteredPartitions).Partitions[0]
			if c.code != 0 {
				if got.Refusal == nil || got.Refusal.Code != c.code || !strings.Contains(got.Refusal.Message, c.want) || (r.Records != nil) != (c.code == NewLeaderElected) {
					t.Fatalf("answer %+v %v, records %v", got, got.Refusal, r.Records)
				}
				return
			}
			next := c.img
			if len(r.Records) > 0 {
				next, _ = image.Apply(c.img, 99, r.Records)
			}
			tp, _ := next.Topic("t")
			p, _ := tp.Partition(0)
			if state(t, next, "t", 0) != c.want || got.Refusal != nil || got.Leader != p.Leader || got.LeaderEpoch != p.LeaderEpoch || got.PartitionEpoch != p.PartitionEpoch || !slices.Equal(got.ISR, p.ISR) {
				t.Fatalf("answer %+v, partition %+v, want %s", got, p, c.want)
			}
			if up := p.PartitionEpoch - 9; up != int32(len(r.Records)) {
				t.Fatalf("the partition epoch went up by %d with %d records", up, len(r.Records))
			}
		})
	}
}

// Each partition is answered for itself. The second change of one does not stand on the state before the first.
func TestAlterPartitionsTogether(t *testing.T) {
	img := apply(t, cluster(t, 2), &CreateTopic{Name: "t", ID: id(1), Assignments: [][]int32{{1, 2}, {1, 2}}})
	one := []ISRMember{{1, epoch(img, 1)}}
	two := append(slices.Clone(one), ISRMember{2, epoch(img, 2)})
	c := &AlterPartition{BrokerID: 1, BrokerEpoch: epoch(img, 1), Partitions: []ISRChange{
		{Topic: id(1), Partition: 0, ISR: one}, {Topic: id(9), ISR: one}, {Topic: id(1), Partition: 0, ISR: two},
		{Topic: id(1), Partition: 0, PartitionEpoch: 1, ISR: two}, {Topic: id(1), Partition: 1, ISR: one}}}
	r, err := c.Eval(img, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	var codes []Code
	for _, p := range r.Reply.(*AlteredPartitions).Partitions {
		if p.Refusal == nil {
			p.Refusal = &Refusal{}
		}
		codes = append(codes, p.Refusal.Code)
	}
	if !slices.Equal(codes, []Code{0, UnknownTopicID, InvalidUpdateVersion, 0, 0}) {
		t.Fatalf("codes %v", codes)
	}
	img, _ = image.Apply(img, 99, r.Records)
	if a, b := state(t, img, "t", 0), state(t, img, "t", 1); a != "1/0 [1 2] []" || b != "1/0 [1] []" {
		t.Fatalf("%s, %s", a, b)
	}
}

func TestElectLeaders(t *testing.T) {
	img := apply(t, cluster(t, 3), &CreateTopic{Name: "t", ID: id(1), Assignments: [][]int32{{1, 2}, {1, 2}, {2, 1}, {3, 1}}})
	img = unfence(t, fence(t, img, 1), 1) // led by 2, 2, 2, 3; in sync without 1
	img = change(t, img, "t", 0, func(p *image.Partition) { p.ISR = []int32{1, 2} })
	down := fence(t, img, 3)
	named := func(ps ...int32) (all []TopicPartition) {
		for _, p := range ps {
			all = append(all, TopicPartition{"t", p})
		}
		return all
	}
	for name, c := range map[string]struct {
		img  *image.Image
		cmd  ElectLeaders
		want string // codes by partition
		then []string
	}{
		"preferred":     {img, ElectLeaders{Partitions: named(0, 1, 2, 0, 7)}, fmt.Sprint([]Code{0, PreferredLeaderNotAvailable, ElectionNotNeeded, ElectionNotNeeded, UnknownPartition}), []string{"1/2 [1 2] []", "2/1 [2] []"}},
		"unknown topic": {img, ElectLeaders{Partitions: []TopicPartition{{"u", 0}}}, fmt.Sprint([]Code{UnknownTopic}), nil},
		"all preferred": {img, ElectLeaders{}, fmt.Sprint([]Code{0, PreferredLeaderNotAvailable}), []string{"1/2 [1 2] []", "2/1 [2] []"}},
		"none":          {img, ElectLeaders{Partitions: []TopicPartition{}}, "[]", nil},
		"unclean":       {down, ElectLeaders{Unclean: true, Partitions: named(0, 3)}, fmt.Sprint([]Code{ElectionNotNeeded, 0}), []string{3: "1/2 [1] []"}},
		"all unclean":   {down, ElectLeaders{Unclean: true}, fmt.Sprint([]Code{0}), []string{3: "1/2 [1] []"}},
		"leaderless":    {down, ElectLeaders{Leaderless: true}, "[]", []string{3: "-1/1 [3] []"}},
		"allowed":       {apply(t, down, &AlterConfigs{Topic: "t", Changes: []ConfigChange{{Key: "unclean.leader.election.enable", Value: "true"}}}), ElectLeaders{Leaderless: true}, fmt.Sprint([]Code{0}), []string{"2/1 [1 2] []", 3: "1/2 [1] []"}},
		"nobody there":  {fence(t, down, 1), ElectLeaders{Unclean: true, Partitions: named(3)}, fmt.Sprint([]Code{EligibleLeadersNotAvailable}), []string{3: "-1/1 [3] []"}},
	} {
		t.Run(name, func(t *testing.T) {
			r, err := c.cmd.Eval(c.img, time.Time{})
			if err != nil {
				t.Fatal(err)
			}
			codes := []Code{}
			for _, p := range r.Reply.(*ElectedLeaders).Partitions {
				if p.Refusal == nil {
					p.Refusal = &Refusal{}
				}
				codes = append(codes, p.Refusal.Code)
			}
			if fmt.Sprint(codes) != c.want {
				t.Fatalf("codes %v, want %s", codes, c.want)
			}
			next, _ := image.Apply(c.img, 99, r.Records)
			for i, want := range c.then {
				if got := state(t, next, "t", int32(i)); want != "" && got != want {
					t.Errorf("partition %d: %s, want %s", i, got, want)
				}
			}
		})
	}
}

// All partitions are gone through in pieces, each once, also those for which nothing can be done.
func TestElectAllLeadersInPieces(t *testing.T) {
	img := cluster(t, 2)
	for n := range 2 {
		img = apply(t, img, &CreateTopic{Name: fmt.Sprint("t", n), ID: id(n + 1), Partitions: 9_000, ReplicationFactor: 2})
	}
	img, _ = steps(t, img, &FenceBroker{ID: 1, Epoch: epoch(img, 1)}, func(*image.Image, *BrokerProgress) {})
	img = unfence(t, img, 1) // in sync with nothing: 9,000 are not led by their first replica, and cannot be
	seen := map[TopicPartition]bool{}
	c := &ElectLeaders{}
	for more := true; more; {
		r, err := c.Eval(img, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		reply := r.Reply.(*ElectedLeaders)
		for _, p := range reply.Partitions {
			if seen[p.TopicPartition] || p.Refusal.Code != PreferredLeaderNotAvailable {
				t.Fatalf("%+v: %v", p, p.Refusal)
			}
			seen[p.TopicPartition] = true
		}
		if len(reply.Partitions) > MaxChanges {
			t.Fatalf("%d at once", len(reply.Partitions))
		}
		c.From, more = reply.Next, reply.More
	}
	if len(seen) != 9_000 {
		t.Fatalf("%d partitions", len(seen))
	}
}

func TestFeatures(t *testing.T) {
	old, _ := image.Apply(cluster(t, 2), 99, []image.Record{&image.ClusterRecord{ClusterID: "c", Level: 1},
		&image.VoterRecord{Voter: image.Voter{RaftID: 7, NodeID: 1, Levels: image.OwnLevels}}})
	able, _ := image.Apply(old, 100, []image.Record{&image.BrokerRecord{ID: 2, Levels: image.Levels{Min: 1, Max: 1}}})
	unknown, _ := image.Apply(old, 100, []image.Record{&image.VoterRecord{Voter: image.Voter{RaftID: 7, NodeID: 1}}})
	to := func(level int16) FeatureUpdate { return FeatureUpdate{MetadataVersion, level, Upgrade} }
	for name, c := range map[string]struct {
		img   *image.Image
		cmd   UpdateFeatures
		text  string // of the refusal
		level uint32
	}{
		"raise":             {old, UpdateFeatures{Updates: []FeatureUpdate{to(2)}}, "", 2},
		"only asked":        {old, UpdateFeatures{Updates: []FeatureUpdate{to(2)}, ValidateOnly: true}, "", 1},
		"stay":              {old, UpdateFeatures{Updates: []FeatureUpdate{to(1)}}, "", 1},
		"nothing":           {old, UpdateFeatures{}, "", 1},
		"beyond":            {old, UpdateFeatures{Updates: []FeatureUpdate{to(3)}}, "Invalid update version 3 for feature streambus.metadata.version. The controller only supports versions 1-2", 1},
		"a broker cannot":   {able, UpdateFeatures{Updates: []FeatureUpdate{to(2)}}, "Broker 2 only supports versions 1-1", 1},
		"a controller":      {unknown, UpdateFeatures{Updates: []FeatureUpdate{to(2)}}, "controller 1 has not registered", 1},
		"lower":             {cluster(t, 1), UpdateFeatures{Updates: []FeatureUpdate{to(1)}}, "Can't downgrade", 2},
		"lower on purpose":  {cluster(t, 1), UpdateFeatures{Updates: []FeatureUpdate{{MetadataVersion, 1, SafeDowngrade}}}, "Refusing to perform", 2},
		"raise by lowering": {old, UpdateFeatures{Updates: []FeatureUpdate{{MetadataVersion, 2, UnsafeDowngrade}}}, "Can't downgrade to a newer version", 1},
		"negative":          {old, UpdateFeatures{Updates: []FeatureUpdate{to(-1)}}, "less than 0", 1},
		"unknown":           {old, UpdateFeatures{Updates: []FeatureUpdate{to(2), {"share.version", 1, Upgrade}}}, "does not support this feature", 1},
		"groups":            {old, UpdateFeatures{Updates: []FeatureUpdate{to(2), {GroupVersion, 1, Upgrade}}}, "", 2},
		"no groups":         {old, UpdateFeatures{Updates: []FeatureUpdate{{GroupVersion, 0, UnsafeDowngrade}}}, "only supports versions 1-1", 1},
		"unknown type":      {old, UpdateFeatures{Updates: []FeatureUpdate{{MetadataVersion, 2, 0}}}, "upgrade type", 1},
	} {
		r, err := c.cmd.Eval(c.img, time.Time{})
		if c.text != "" {
			if err == nil || err.(*Refusal).Code != InvalidUpdateVersion || !strings.Contains(err.Error(), c.text) {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if next, _ := image.Apply(c.img, 200, r.Records); next.Level() != c.level {
			t.Errorf("%s: level %d", name, next.Level())
		}
	}
	// A cluster of one node is raised by that node.
	one, _ := image.Apply(image.Empty(), 1, []image.Record{&image.ClusterRecord{ClusterID: "c", Level: 1}})
	if one = apply(t, one, &FormCluster{ClusterID: "c"}); one.Level() != 2 {
		t.Errorf("level %d", one.Level())
	}
}

func TestVoters(t *testing.T) {
	img := cluster(t, 1)
	v := image.Voter{RaftID: 8, NodeID: 2, DirectoryID: id(3), Endpoints: []image.Endpoint{{Name: "C", Host: "h", Port: 1}}, Levels: image.OwnLevels}
	img = apply(t, img, &PutVoter{Voter: v, New: true})
	if r, err := (&PutVoter{Voter: v, New: true}).Eval(img, time.Time{}); err != nil || r.Records != nil {
		t.Fatalf("the same again: %v, %v", r.Records, err)
	}
	v.Endpoints = nil
	img = apply(t, img, &PutVoter{Voter: v, New: true})
	if got, _ := img.Voter(8); len(got.Endpoints) > 0 || got.DirectoryID != id(3) || len(img.Voters()) != 2 {
		t.Fatalf("voters %+v", img.Voters())
	}
	if img = apply(t, img, &RemoveVoter{8}); len(img.Voters()) != 1 {
		t.Fatalf("voters %+v", img.Voters())
	}
}
