package control

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/image"
)

// state is how a partition stands, as "leader/epoch isr elr".
func state(t *testing.T, img *image.Image, topic string, i int32) string {
	t.Helper()
	tp, ok := img.Topic(topic)
	if !ok {
		t.Fatalf("no topic %s", topic)
	}
	p, _ := tp.Partition(i)
	return fmt.Sprintf("%d/%d %v %v", p.Leader, p.LeaderEpoch, p.ISR, p.ELR)
}

func fence(t *testing.T, img *image.Image, id int32) *image.Image {
	return apply(t, img, &FenceBroker{ID: id, Epoch: epoch(img, id)})
}

func unfence(t *testing.T, img *image.Image, id int32) *image.Image {
	return apply(t, img, &UnfenceBroker{ID: id, Epoch: epoch(img, id)})
}

func on(replicas ...int32) [][]int32 { return [][]int32{replicas} }

// Brokers go one after the other and come back in another order. Two replicas must be in sync.
func TestFencing(t *testing.T) {
	img := apply(t, cluster(t, 3), &CreateTopic{Name: "t", ID: id(1), Assignments: on(1, 2, 3), Configs: map[string]string{"min.insync.replicas": "2"}})
	was := epoch(img, 1)
	for _, step := range []struct {
		do   func(*testing.T, *image.Image, int32) *image.Image
		id   int32
		want string
	}{
		{fence, 1, "2/1 [2 3] []"},
		{fence, 1, "2/1 [2 3] []"},
		{fence, 2, "3/2 [3] [2]"},
		{unfence, 1, "3/2 [3] [2]"}, // nothing for it to lead: it may lack what 2 and 3 acknowledged
		{fence, 3, "-1/3 [3] [2]"},
		{unfence, 2, "2/4 [2] [3]"}, // eligible
		{fence, 2, "-1/5 [2] [3]"},
		{unfence, 3, "3/6 [3] [2]"},
		{fence, 3, "-1/7 [3] [2]"},
		{unfence, 3, "3/8 [3] [2]"}, // the last one in sync
	} {
		img = step.do(t, img, step.id)
		if got := state(t, img, "t", 0); got != step.want {
			t.Fatalf("after a step with broker %d: %s, want %s", step.id, got, step.want)
		}
	}
	if b, _ := img.Broker(1); b.Epoch != was || b.Fenced {
		t.Fatalf("broker %+v, epoch %d before", b, was)
	}
}

// One in sync is enough: who is not in sync falls behind, and is not eligible.
func TestNobodyIsEligibleWhereOneIsEnough(t *testing.T) {
	img := apply(t, cluster(t, 2), &CreateTopic{Name: "t", ID: id(1), Assignments: on(1, 2)})
	img = fence(t, fence(t, img, 1), 2)
	if got := state(t, unfence(t, img, 1), "t", 0); got != "-1/2 [2] []" {
		t.Fatal(got)
	}
}

func TestUncleanElection(t *testing.T) {
	unclean := []ConfigChange{{Key: "unclean.leader.election.enable", Value: "true"}}
	create := &CreateTopic{Name: "t", ID: id(1), Assignments: on(1, 2)}
	img := fence(t, apply(t, cluster(t, 3), create), 2) // in sync: 1
	img = unfence(t, img, 2)
	for name, c := range map[string]struct {
		change *AlterConfigs
		want   string
	}{
		"as it is":         {nil, "-1/1 [1] []"},
		"by the topic":     {&AlterConfigs{Topic: "t", Changes: unclean}, "2/1 [2] []"},
		"for all brokers":  {&AlterConfigs{Node: image.EveryBroker, Changes: unclean}, "2/1 [2] []"},
		"for one of them":  {&AlterConfigs{Node: 1, Changes: unclean}, "-1/1 [1] []"},
		"the topic is not": {&AlterConfigs{Topic: "t", Changes: []ConfigChange{{Key: "unclean.leader.election.enable", Value: "false"}}}, "-1/1 [1] []"},
	} {
		start := img
		if c.change != nil {
			start = apply(t, start, c.change)
		}
		if got := state(t, fence(t, start, 1), "t", 0); got != c.want {
			t.Errorf("%s: %s, want %s", name, got, c.want)
		}
	}
	down := fence(t, img, 1)
	elected := apply(t, down, &ElectLeaders{Unclean: true, Partitions: []TopicPartition{{"t", 0}}})
	if got := state(t, elected, "t", 0); got != "2/2 [2] []" {
		t.Errorf("asked for: %s", got)
	}
	// The last one in sync comes before all others, also where others are allowed.
	both := apply(t, unfence(t, down, 1), &AlterConfigs{Topic: "t", Changes: unclean})
	if got := state(t, both, "t", 0); got != "1/2 [1] []" {
		t.Errorf("back again: %s", got)
	}
}

func TestControlledShutdown(t *testing.T) {
	img := apply(t, cluster(t, 3), &CreateTopic{Name: "t", ID: id(1), Assignments: [][]int32{{1, 2}, {1, 3}, {2, 1}}, Configs: map[string]string{
		"unclean.leader.election.enable": "true", "min.insync.replicas": "2"}})
	img = change(t, img, "t", 1, func(p *image.Partition) { p.ISR = []int32{1} })
	stop := &BeginControlledShutdown{ID: 1, Epoch: epoch(img, 1)}
	leads := func() int {
		r, err := stop.Eval(img, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Records) > 0 {
			img, _ = image.Apply(img, img.Index()+1, r.Records)
		}
		return r.Reply.(*BrokerProgress).Leads
	}
	check := func(want ...string) {
		t.Helper()
		for i, w := range want {
			if got := state(t, img, "t", int32(i)); got != w {
				t.Fatalf("partition %d: %s, want %s", i, got, w)
			}
		}
	}
	// What nobody else can lead stays with it, though an unclean election is allowed.
	if n := leads(); n != 1 {
		t.Fatalf("it leads %d partitions", n)
	}
	check("2/1 [2] [1]", "1/0 [1] []", "2/0 [2] [1]")
	at := img.Index()
	if n := leads(); n != 1 || img.Index() != at {
		t.Fatalf("asked again: %d partitions, index %d to %d", n, at, img.Index())
	}
	// A broker on its way out gets nothing new, and what it leads it may still get others in sync for.
	made := apply(t, img, &CreateTopic{Name: "u", ID: id(2), Partitions: 4, ReplicationFactor: 2})
	if n := made.Count(1, image.Holds); n != 3 {
		t.Fatalf("new replicas were placed on it: it has %d", n)
	}
	tp, _ := img.Topic("t")
	p, _ := tp.Partition(1)
	img = apply(t, img, &AlterPartition{BrokerID: 1, BrokerEpoch: epoch(img, 1), Partitions: []ISRChange{{
		Topic: id(1), Partition: 1, PartitionEpoch: p.PartitionEpoch, ISR: []ISRMember{{1, -1}, {3, epoch(img, 3)}}}}})
	check("2/1 [2] [1]", "3/1 [1 3] []")
	if n := leads(); n != 0 {
		t.Fatalf("it leads %d partitions", n)
	}
	check("2/1 [2] [1]", "3/1 [3] [1]")
	img = fence(t, img, 1)
	if n := leads(); n != 0 {
		t.Fatalf("fenced, it leads %d partitions", n)
	}
	img = unfence(t, img, 1)
	if b, _ := img.Broker(1); !b.Active() {
		t.Fatalf("unfenced: %+v", b)
	}
}

// The follower of a broker on its way out is fenced: the broker leads on.
func TestTheLastOneLeadsOnUntilItIsGone(t *testing.T) {
	img := apply(t, cluster(t, 2), &CreateTopic{Name: "t", ID: id(1), Assignments: on(1, 2)})
	img, _ = image.Apply(img, img.Index()+1, []image.Record{&image.BrokerChangeRecord{ID: 1, Epoch: epoch(img, 1), InControlledShutdown: true}})
	img = fence(t, img, 2)
	if got := state(t, img, "t", 0); got != "1/0 [1] []" {
		t.Fatal(got)
	}
	if got := state(t, fence(t, img, 1), "t", 0); got != "-1/1 [1] []" {
		t.Fatal(got)
	}
}

func TestUnregister(t *testing.T) {
	img := apply(t, cluster(t, 3), &CreateTopic{Name: "t", ID: id(1), Assignments: [][]int32{{1, 2}, {2, 1}, {1, 3}}, Configs: map[string]string{"min.insync.replicas": "2"}})
	img = change(t, img, "t", 1, func(p *image.Partition) { p.ISR, p.ELR = []int32{2}, []int32{1} })
	img = change(t, img, "t", 2, func(p *image.Partition) { p.ISR = []int32{1} })
	img = apply(t, img, &UnregisterBroker{1})
	for i, want := range []string{"2/1 [2] []", "2/0 [2] []", "-1/1 [1] []"} {
		if got := state(t, img, "t", int32(i)); got != want {
			t.Errorf("partition %d: %s, want %s", i, got, want)
		}
	}
	if _, known := img.Broker(1); known || img.Count(1, image.Holds) != 3 {
		t.Fatal("the broker is there, or its replicas are not")
	}
	// It comes back with the directory it had, which is known by the place it had.
	img = apply(t, img, &RegisterBroker{ID: 1, Incarnation: id(9), Levels: image.OwnLevels, Dirs: []image.UUID{id(200), id(101)}})
	img = unfence(t, img, 1)
	if got := state(t, img, "t", 2); got != "1/2 [1] []" {
		t.Error(got)
	}
}

// A broker that was forgotten, and has all that was acknowledged, is registered again after its topic came to allow that others
// lead without that. The registration elects none of them: it is the broker that leads.
func TestForgottenBrokerIsNotOvertaken(t *testing.T) {
	img := apply(t, cluster(t, 2), &CreateTopic{Name: "t", ID: id(1), Assignments: on(1, 2)})
	img = change(t, img, "t", 0, func(p *image.Partition) { p.ISR = []int32{1} })
	img = apply(t, img, &UnregisterBroker{1})
	img = apply(t, img, &AlterConfigs{Topic: "t", Changes: []ConfigChange{{Key: "unclean.leader.election.enable", Value: "true"}}})
	img = apply(t, img, &RegisterBroker{ID: 1, Incarnation: id(9), Levels: image.OwnLevels, Dirs: []image.UUID{id(101)}})
	if got := state(t, img, "t", 0); got != "-1/1 [1] []" {
		t.Errorf("registered: %s", got)
	}
	if got := state(t, unfence(t, img, 1), "t", 0); got != "1/2 [1] []" {
		t.Errorf("unfenced: %s", got)
	}
}

// steps gives a command until it is done, and looks at each cut.
func steps(t *testing.T, img *image.Image, c Command, cut func(*image.Image, *BrokerProgress)) (*image.Image, int) {
	t.Helper()
	for n := 1; n < 100; n++ {
		r, err := c.Eval(img, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if len(r.Records) > MaxChanges+1 {
			t.Fatalf("%d records in one step", len(r.Records))
		}
		if len(r.Records) > 0 {
			img, _ = image.Apply(img, img.Index()+1, r.Records)
		}
		p := r.Reply.(*BrokerProgress)
		for _, b := range img.Brokers() {
			if b.Fenced && img.Count(b.ID, image.Leads) > 0 {
				t.Fatalf("step %d: broker %d is fenced and leads", n, b.ID)
			}
		}
		cut(img, p)
		if !p.More {
			return img, n
		}
	}
	t.Fatal("it does not end")
	return nil, 0
}

func TestLargeBrokersGoInSteps(t *testing.T) {
	start := cluster(t, 3)
	for n := range 3 {
		start = apply(t, start, &CreateTopic{Name: fmt.Sprint("t", n), ID: id(n + 1), Partitions: 9_000, ReplicationFactor: 2})
	}
	const leads, holds = 9_000, 18_000
	if start.Count(1, image.Leads) != leads || start.Count(1, image.Holds) != holds {
		t.Fatalf("broker 1 leads %d of %d", start.Count(1, image.Leads), start.Count(1, image.Holds))
	}
	for name, c := range map[string]struct {
		command Command
		after   func(*image.Image) bool
	}{
		"fence":      {&FenceBroker{ID: 1, Epoch: epoch(start, 1)}, func(m *image.Image) bool { b, _ := m.Broker(1); return b.Fenced }},
		"unregister": {&UnregisterBroker{1}, func(m *image.Image) bool { _, ok := m.Broker(1); return !ok }},
		"register": {&RegisterBroker{ID: 1, Incarnation: id(99), Levels: image.OwnLevels, Dirs: []image.UUID{id(101)}},
			func(m *image.Image) bool { b, _ := m.Broker(1); return b.Incarnation == id(99) && b.Fenced }},
		"stop": {&BeginControlledShutdown{ID: 1, Epoch: epoch(start, 1)}, func(m *image.Image) bool { b, _ := m.Broker(1); return b.InControlledShutdown && !b.Fenced }},
	} {
		t.Run(name, func(t *testing.T) {
			n := 0
			img, all := steps(t, start, c.command, func(img *image.Image, p *BrokerProgress) {
				n++
				led := max(0, leads-n*MaxChanges) // they go first
				if p.Leads != led || img.Count(1, image.Leads) != led || img.Count(1, image.InSync) != max(0, holds-n*MaxChanges) {
					t.Fatalf("after step %d it leads %d, in sync with %d, and the reply says %+v", n, img.Count(1, image.Leads), img.Count(1, image.InSync), p)
				}
				if !p.More {
					return
				}
				if c.after(img) != (name == "stop") {
					t.Fatalf("after step %d of some the end is reached", n)
				}
				if _, err := (&CreateTopic{Name: "x", ID: id(50), Partitions: 1, ReplicationFactor: 3}).Eval(img, time.Time{}); err == nil {
					t.Fatal("a replica was placed on a broker that is on its way out")
				}
			})
			if all != holds/MaxChanges || !c.after(img) {
				t.Fatalf("%d steps; the end is reached: %v", all, c.after(img))
			}
		})
	}
}

// A node that is the whole cluster has more partitions than one command changes.
func TestLargeNodeComesBack(t *testing.T) {
	start := cluster(t, 1)
	for n := range 2 {
		start = apply(t, start, &CreateTopic{Name: fmt.Sprint("t", n), ID: id(n + 1), Partitions: 6_000, ReplicationFactor: 1})
	}
	all := func(img *image.Image) {
		t.Helper()
		for tp := range img.Topics() {
			for i := range tp.NumPartitions() {
				if p, _ := tp.Partition(i); p.Leader != 1 || p.LeaderEpoch == 0 || !slices.Equal(p.ISR, []int32{1}) {
					t.Fatalf("%s-%d is %+v", tp.Name, i, p)
				}
			}
		}
	}
	whatever := func(*image.Image, *BrokerProgress) {}
	back := func(img *image.Image) {
		t.Helper()
		if img.NumLeaderless() != 12_000 {
			t.Fatalf("%d without a leader", img.NumLeaderless())
		}
		img, n := steps(t, img, &UnfenceBroker{ID: 1, Epoch: epoch(img, 1)}, func(img *image.Image, p *BrokerProgress) {
			if b, _ := img.Broker(1); !b.Active() || p.Leads != 12_000-img.NumLeaderless() {
				t.Fatalf("broker %+v, leads %d", b, p.Leads)
			}
		})
		if all(img); n != 12_000/MaxChanges {
			t.Fatalf("%d steps", n)
		}
	}
	again := RegisterBroker{ID: 1, Incarnation: id(9), Levels: image.OwnLevels, Dirs: []image.UUID{id(101)}, PreviousBrokerEpoch: -1}
	for _, again.PreviousBrokerEpoch = range []int64{-1, epoch(start, 1)} {
		img, n := steps(t, start, &again, func(img *image.Image, p *BrokerProgress) {
			if b, _ := img.Broker(1); b.Incarnation != id(9) && p.Leads != 12_000 && b.Active() {
				t.Fatalf("the incarnation before lost something and can still gain: %+v", b)
			}
		})
		if back(img); n != 12_000/MaxChanges {
			t.Fatalf("%d steps", n)
		}
	}
	forgotten, _ := steps(t, start, &UnregisterBroker{1}, whatever)
	known, n := steps(t, forgotten, &again, whatever)
	if back(known); n != 1 {
		t.Fatalf("%d steps for a broker that had nothing to lose", n)
	}
	fenced, _ := steps(t, start, &FenceBroker{ID: 1, Epoch: epoch(start, 1)}, whatever)
	back(fenced)
}

// Who is eligible under two in sync falls behind where one is enough, and is not eligible from the moment on that it is.
func TestEligibilityEndsWithItsRule(t *testing.T) {
	min := func(n string) []ConfigChange { return []ConfigChange{{Key: "min.insync.replicas", Value: n}} }
	img := apply(t, cluster(t, 2), &AlterConfigs{Node: image.EveryBroker, Changes: min("2")})
	img = apply(t, img, &CreateTopic{Name: "t", ID: id(1), Assignments: on(1, 2)})
	img = apply(t, img, &CreateTopic{Name: "u", ID: id(2), Assignments: on(1, 2)})
	img = fence(t, img, 2)
	for name, c := range map[string]struct {
		change *AlterConfigs
		t, u   string
	}{
		"of the topic":    {&AlterConfigs{Topic: "t", Changes: min("1")}, "1/0 [1] []", "1/0 [1] [2]"},
		"of all brokers":  {&AlterConfigs{Node: image.EveryBroker, Changes: min("1")}, "1/0 [1] []", "1/0 [1] []"},
		"of one":          {&AlterConfigs{Node: 1, Changes: min("1")}, "1/0 [1] [2]", "1/0 [1] [2]"},
		"another setting": {&AlterConfigs{Topic: "t", Changes: []ConfigChange{{Key: "retention.ms", Value: "1"}}}, "1/0 [1] [2]", "1/0 [1] [2]"},
	} {
		next := apply(t, img, c.change)
		if a, b := state(t, next, "t", 0), state(t, next, "u", 0); a != c.t || b != c.u {
			t.Errorf("%s: %s and %s, want %s and %s", name, a, b, c.t, c.u)
		}
	}
	down := apply(t, fence(t, img, 1), &AlterConfigs{Topic: "t", Changes: min("1")})
	if got := state(t, down, "t", 0); got != "-1/1 [1] [2]" { // nobody leads, so nobody falls behind
		t.Error(got)
	}
}
