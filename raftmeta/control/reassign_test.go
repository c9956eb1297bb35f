package control

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// moves is how a partition stands, as "replicas +adding -removing leader/epoch isr elr".
func moves(t *testing.T, img *image.Image, i int32) string {
	t.Helper()
	tp, _ := img.Topic("t")
	p, _ := tp.Partition(i)
	text := fmt.Sprint(p.Replicas)
	if p.Moving != nil {
		text += fmt.Sprintf(" +%v -%v", p.Moving.Adding, p.Moving.Removing)
	}
	return fmt.Sprintf("%s %s", text, state(t, img, "t", i))
}

// reassign gives partition 0 of t other replicas, or none to take that back.
func reassign(replicas ...int32) *AlterPartitionReassignments {
	return &AlterPartitionReassignments{Partitions: []Reassign{{TopicPartition{"t", 0}, replicas}}}
}

// do gives a command that must be accepted for each partition that it is about.
func do(t *testing.T, img *image.Image, c Command) *image.Image {
	t.Helper()
	r, err := c.Eval(img, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	if reply, ok := r.Reply.(*AlteredReassignments); ok && reply.Partitions[0].Refusal != nil {
		t.Fatal(reply.Partitions[0].Refusal)
	}
	img, _ = image.Apply(img, img.Index()+1, r.Records)
	return img
}

// follow has the leader of partition 0 of t say who is in sync.
func follow(t *testing.T, img *image.Image, isr ...int32) *image.Image {
	t.Helper()
	tp, _ := img.Topic("t")
	p, _ := tp.Partition(0)
	c := &AlterPartition{BrokerID: p.Leader, BrokerEpoch: epoch(img, p.Leader), Partitions: []ISRChange{
		{Topic: tp.ID, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch}}}
	for _, id := range isr {
		c.Partitions[0].ISR = append(c.Partitions[0].ISR, ISRMember{id, epoch(img, id)})
	}
	r, err := c.Eval(img, time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	next, _ := image.Apply(img, img.Index()+1, r.Records)
	got := r.Reply.(*AlteredPartitions).Partitions[0]
	now, _ := next.Topic("t")
	after, _ := now.Partition(0)
	if deposed := after.Leader != p.Leader; got.Refusal != nil && !deposed || deposed && (got.Refusal == nil || got.Refusal.Code != NewLeaderElected) {
		t.Fatalf("the answer is %+v, of %+v", got, after)
	}
	return next
}

// Each line is what is done to a partition of [1 2 3], all in sync, among six brokers, and how it stands then.
func TestReassignment(t *testing.T) {
	type step struct {
		do   func(*testing.T, *image.Image) *image.Image
		want string
	}
	to := func(replicas ...int32) func(*testing.T, *image.Image) *image.Image {
		return func(t *testing.T, img *image.Image) *image.Image { return do(t, img, reassign(replicas...)) }
	}
	inSync := func(isr ...int32) func(*testing.T, *image.Image) *image.Image {
		return func(t *testing.T, img *image.Image) *image.Image { return follow(t, img, isr...) }
	}
	down := func(id int32) func(*testing.T, *image.Image) *image.Image {
		return func(t *testing.T, img *image.Image) *image.Image { return fence(t, img, id) }
	}
	up := func(id int32) func(*testing.T, *image.Image) *image.Image {
		return func(t *testing.T, img *image.Image) *image.Image { return unfence(t, img, id) }
	}
	cancel := to()
	for name, steps := range map[string][]step{
		"one is exchanged": {
			{to(1, 2, 4), "[1 2 4 3] +[4] -[3] 1/0 [1 2 3] []"},
			{inSync(1, 2), "[1 2 4 3] +[4] -[3] 1/0 [1 2] []"},
			{inSync(1, 2, 4), "[1 2 4] 1/1 [1 2 4] []"},
		},
		"the leader goes": {
			{to(4, 5), "[4 5 1 2 3] +[4 5] -[1 2 3] 1/0 [1 2 3] []"},
			{inSync(1, 2, 3, 5), "[4 5 1 2 3] +[4 5] -[1 2 3] 1/0 [5 1 2 3] []"},
			{inSync(1, 4, 5), "[4 5] 4/1 [4 5] []"},
		},
		"an order":        {{to(3, 1, 2), "[3 1 2] 1/0 [3 1 2] []"}},
		"the same":        {{to(1, 2, 3), "[1 2 3] 1/0 [1 2 3] []"}},
		"fewer at once":   {{to(2, 1), "[2 1] 1/1 [2 1] []"}},
		"without leader":  {{to(3, 2), "[3 2] 3/1 [3 2] []"}},
		"fewer and later": {{inSync(1, 3), "[1 2 3] 1/0 [1 3] []"}, {to(2, 1), "[2 1 3] +[] -[3] 1/0 [1 3] []"}, {inSync(1, 2), "[2 1] 1/1 [2 1] []"}},
		"more": {
			{to(1, 2, 3, 4, 5), "[1 2 3 4 5] +[4 5] -[] 1/0 [1 2 3] []"},
			{inSync(1, 2, 3, 5), "[1 2 3 4 5] +[4 5] -[] 1/0 [1 2 3 5] []"},
			{inSync(1, 2, 3, 4, 5), "[1 2 3 4 5] 1/0 [1 2 3 4 5] []"},
		},
		"it is taken back": {
			{to(4, 5, 1), "[4 5 1 2 3] +[4 5] -[2 3] 1/0 [1 2 3] []"},
			{inSync(1, 2, 4), "[4 5 1 2 3] +[4 5] -[2 3] 1/0 [4 1 2] []"},
			{cancel, "[1 2 3] 1/1 [1 2] []"},
		},
		"it is taken back under a new leader": {
			{to(4, 5), "[4 5 1 2 3] +[4 5] -[1 2 3] 1/0 [1 2 3] []"},
			{inSync(1, 2, 4), "[4 5 1 2 3] +[4 5] -[1 2 3] 1/0 [4 1 2] []"},
			{down(1), "[4 5 1 2 3] +[4 5] -[1 2 3] 4/1 [4 2] []"},
			{cancel, "[1 2 3] 2/2 [2] []"},
		},
		"it is asked for again": {
			{to(1, 2, 4), "[1 2 4 3] +[4] -[3] 1/0 [1 2 3] []"},
			{to(1, 2, 4), "[1 2 4 3] +[4] -[3] 1/0 [1 2 3] []"},
			{to(1, 2, 3, 4), "[1 2 3 4] +[4] -[] 1/0 [1 2 3] []"},
			{cancel, "[1 2 3] 1/1 [1 2 3] []"},
		},
		"something else is asked for": {
			{to(1, 2, 4), "[1 2 4 3] +[4] -[3] 1/0 [1 2 3] []"},
			{inSync(1, 2), "[1 2 4 3] +[4] -[3] 1/0 [1 2] []"},
			{to(5, 1, 2), "[5 1 2 3 4] +[5] -[3 4] 1/0 [1 2] []"},
			{inSync(1, 2, 5), "[5 1 2] 1/1 [5 1 2] []"},
		},
		"the target is elected": { // 5 and 4 follow; the last in sync goes, and comes back
			{to(4), "[4 1 2 3] +[4] -[1 2 3] 1/0 [1 2 3] []"},
			{inSync(1), "[4 1 2 3] +[4] -[1 2 3] 1/0 [1] []"},
			{down(1), "[4 1 2 3] +[4] -[1 2 3] -1/1 [1] []"},
			{up(1), "[4 1 2 3] +[4] -[1 2 3] 1/2 [1] []"},
			{inSync(1, 4), "[4] 4/3 [4] []"},
		},
		"a fenced one is wanted": {
			{down(4), "[1 2 3] 1/0 [1 2 3] []"},
			{to(1, 4), "[1 4 2 3] +[4] -[2 3] 1/0 [1 2 3] []"},
			{down(3), "[1 4 2 3] +[4] -[2 3] 1/0 [1 2] []"},
			{up(4), "[1 4 2 3] +[4] -[2 3] 1/0 [1 2] []"},
			{inSync(1, 4), "[1 4] 1/1 [1 4] []"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			img := apply(t, cluster(t, 6), &CreateTopic{Name: "t", ID: id(1), Assignments: on(1, 2, 3)})
			for i, s := range steps {
				before := img
				img = s.do(t, img)
				if got := moves(t, img, 0); got != s.want {
					t.Fatalf("step %d: %s, want %s", i, got, s.want)
				}
				a, _ := before.Topic("t")
				b, _ := img.Topic("t")
				was, _ := a.Partition(0)
				is, _ := b.Partition(0)
				if same := moves(t, before, 0) == moves(t, img, 0); same != (was.PartitionEpoch == is.PartitionEpoch) {
					t.Fatalf("step %d: the epoch was %d and is %d", i, was.PartitionEpoch, is.PartitionEpoch)
				}
				for j, id := range is.Replicas { // each at the directory of its own broker, or at the one that it had
					if b, _ := img.Broker(id); b.Dir(is.Dirs[j]) != b.Dirs[0] {
						t.Fatalf("step %d: replica %d is in directory %s", i, id, b.Dir(is.Dirs[j]))
					}
				}
			}
		})
	}
}

// Who was in sync when two were needed holds everything: an election among those completes the move in the same change.
func TestElectionCompletes(t *testing.T) {
	img := apply(t, cluster(t, 3), &CreateTopic{Name: "t", ID: id(1), Assignments: on(1, 2), Configs: map[string]string{"min.insync.replicas": "2"}})
	img = fence(t, fence(t, img, 2), 1)
	img = do(t, img, reassign(2))
	if got := moves(t, img, 0); got != "[2 1] +[] -[1] -1/1 [1] [2]" {
		t.Fatal(got)
	}
	if got := moves(t, unfence(t, img, 2), 0); got != "[2] 2/2 [2] []" {
		t.Fatal(got)
	}
}

// Where those that a partition had are all out of sync, taking back comes to an unclean election.
func TestRevertingUncleanly(t *testing.T) {
	img := apply(t, cluster(t, 4), &CreateTopic{Name: "t", ID: id(1), Assignments: on(1, 2)})
	img = follow(t, do(t, img, reassign(3, 4)), 1, 3)
	img = fence(t, img, 1)
	refused := func(img *image.Image) {
		t.Helper()
		r, err := reassign().Eval(img, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		refusal := r.Reply.(*AlteredReassignments).Partitions[0].Refusal
		if refusal == nil || refusal.Code != InvalidReplicaAssignment || !strings.Contains(refusal.Message, "t:0 because it would require an unclean leader election") || len(r.Records) > 0 {
			t.Fatalf("%v, records %v", refusal, r.Records)
		}
	}
	refused(img)
	img = apply(t, img, &AlterConfigs{Topic: "t", Changes: []ConfigChange{{Key: "unclean.leader.election.enable", Value: "true"}}})
	if got := moves(t, do(t, img, reassign()), 0); got != "[1 2] 2/2 [2] []" {
		t.Error(got)
	}
	refused(fence(t, img, 2)) // nobody is there, and 3 leads with everything
	// One that is being added and has nothing is taken last.
	img = apply(t, cluster(t, 4), &CreateTopic{Name: "t", ID: id(1), Assignments: on(1, 2), Configs: map[string]string{"unclean.leader.election.enable": "true"}})
	img = fence(t, follow(t, do(t, img, reassign(3, 4)), 1), 1)
	if got := moves(t, img, 0); got != "[3 4 1 2] +[3 4] -[1 2] 2/1 [2] []" {
		t.Error(got)
	}
	if got := moves(t, fence(t, img, 2), 0); got != "[3 4 1 2] +[3 4] -[1 2] 3/2 [3] []" {
		t.Error(got)
	}
}

func TestReassignmentRefusals(t *testing.T) {
	img := apply(t, cluster(t, image.MaxReplicas+2), &CreateTopic{Name: "t", ID: id(1), Assignments: [][]int32{{1, 2}, {1, 2}}})
	img = do(t, img, &AlterPartitionReassignments{Partitions: []Reassign{{TopicPartition{"t", 1}, []int32{1, 2, 3}}}})
	var all []int32
	for i := range int32(image.MaxReplicas) {
		all = append(all, i+2)
	}
	at := func(i int32, replicas ...int32) Reassign { return Reassign{TopicPartition{"t", i}, replicas} }
	for name, c := range map[string]struct {
		ask  Reassign
		keep bool
		code Code
		text string
	}{
		"unknown topic":        {Reassign{TopicPartition{"u", 0}, []int32{1}}, false, UnknownTopic, "Unable to find a topic named u."},
		"unknown partition":    {at(2, 1), false, UnknownPartition, "Unable to find partition t:2."},
		"nothing to take back": {at(0), false, NoReassignmentInProgress, "No partition reassignment is in progress."},
		"no replica":           {Reassign{TopicPartition{"t", 0}, []int32{}}, false, InvalidReplicaAssignment, "empty replica list"},
		"a broker twice":       {at(0, 1, 2, 1), false, InvalidReplicaAssignment, "the broker 1 more than once"},
		"a negative one":       {at(0, 1, -2), false, InvalidReplicaAssignment, "includes broker -2, but no such broker is registered"},
		"an unknown one":       {at(0, 1, 99), false, InvalidReplicaAssignment, "includes broker 99, but no such broker is registered"},
		"too many":             {at(0, slices.Repeat([]int32{1}, 65)...), false, InvalidReplicaAssignment, "65"},
		"too many for a while": {at(0, all...), false, InvalidReplicaAssignment, "65 replica(s) for a while"},
		"more":                 {at(0, 1, 2, 3), true, InvalidReplicationFactor, "The replication factor is changed from 2 to 3"},
		"fewer":                {at(0, 1), true, InvalidReplicationFactor, "The replication factor is changed from 2 to 1"},
		"as before the move":   {at(1, 1, 4), true, InvalidReplicationFactor, "The replication factor is changed from 3 to 2"},
		"as many":              {at(0, 1, 3), true, 0, ""},
		"as in the move":       {at(1, 1, 4, 5), true, 0, ""},
	} {
		r, err := (&AlterPartitionReassignments{KeepFactor: c.keep, Partitions: []Reassign{c.ask, at(0, 2, 1)}}).Eval(img, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		reply := r.Reply.(*AlteredReassignments).Partitions
		if got := reply[0]; got.TopicPartition != c.ask.TopicPartition || (got.Refusal != nil) != (c.code != 0) || got.Refusal != nil && (got.Refusal.Code != c.code || !strings.Contains(got.Refusal.Message, c.text)) {
			t.Errorf("%s: %+v %v", name, got, got.Refusal)
		}
		if other := reply[1]; other.Refusal != nil { // for itself
			t.Errorf("%s: beside it %v", name, other.Refusal)
		}
	}
	if _, err := (&AlterPartitionReassignments{Partitions: make([]Reassign, MaxChanges+1)}).Eval(img, time.Time{}); err == nil {
		t.Error("more than can be changed at once")
	}
	_, err := (&CreatePartitions{Topic: "t", Count: 3}).Eval(img, time.Time{})
	if refusal, ok := err.(*Refusal); !ok || refusal.Code != ReassignmentInProgress {
		t.Errorf("more partitions while one is moving: %v", err)
	}
	apply(t, img, &DeleteTopic{Name: "t"})
	img = do(t, img, &AlterPartitionReassignments{Partitions: []Reassign{at(1)}})
	apply(t, img, &CreatePartitions{Topic: "t", Count: 3})
}

// A broker whose last replica went elsewhere is forgotten, and one that was forgotten before loses its replica.
func TestReassignmentFromForgottenBrokers(t *testing.T) {
	img := apply(t, cluster(t, 4), &CreateTopic{Name: "t", ID: id(1), Assignments: on(1, 2)})
	img = follow(t, do(t, img, reassign(1, 3)), 1, 3)
	if img.Count(2, image.Holds) != 0 {
		t.Fatalf("broker 2 has %d replicas", img.Count(2, image.Holds))
	}
	img = apply(t, img, &UnregisterBroker{2})
	img = apply(t, fence(t, img, 3), &UnregisterBroker{3})
	img = follow(t, do(t, img, reassign(1, 4)), 1, 4)
	if got := moves(t, img, 0); got != "[1 4] 1/2 [1 4] []" {
		t.Fatal(got)
	}
	img = join(t, img, &RegisterBroker{ID: 2, Incarnation: id(222), Levels: image.OwnLevels, Dirs: []image.UUID{id(222)}})
	img = do(t, img, reassign(2, 1))
	tp, _ := img.Topic("t")
	p, _ := tp.Partition(0)
	if b, _ := img.Broker(2); b.Dir(p.Dirs[0]) != id(222) {
		t.Fatalf("%+v, of a broker with directories %v", p, b.Dirs)
	}
}
