package office

import (
	"fmt"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
	"github.com/streambus/streambus/raftmeta/quorum"
)

// bench is an office over brokers 1 and 2, which are there.
type bench struct {
	t    *testing.T
	core *quorum.Core
	o    *Office
}

func newBench(t *testing.T, cfg Config) *bench {
	core, _ := alone(t)
	cfg.NodeID, cfg.RaftID, cfg.Session = 1, 1, time.Hour
	b := &bench{t, core, New(cfg, core)}
	settle(t, core, b.o)
	for id := range int32(2) {
		b.do(&control.RegisterBroker{ID: id + 1, Incarnation: image.UUID{byte(id + 1)}, Dirs: []image.UUID{{2, byte(id)}}, Levels: image.OwnLevels, PreviousBrokerEpoch: -1})
		b.unfence(id + 1)
	}
	return b
}

// do carries out a command of somebody, with all its steps.
func (b *bench) do(cmd control.Command) {
	b.t.Helper()
	for more := true; more; {
		b.o.Enqueue(now, quorum.Proposal{Token: "do", Request: control.Request{Command: cmd}})
		answers := settle(b.t, b.core, b.o)
		if len(answers) != 1 || answers[0].Err != nil {
			b.t.Fatalf("%+v: %+v", cmd, answers)
		}
		reply, steps := answers[0].Reply.(*control.BrokerProgress)
		more = steps && reply.More
	}
}

func (b *bench) unfence(id int32) {
	b.t.Helper()
	x, _ := b.core.Image().Broker(id)
	b.do(&control.UnfenceBroker{ID: id, Epoch: x.Epoch})
}

func (b *bench) fence(id int32) {
	b.t.Helper()
	x, _ := b.core.Image().Broker(id)
	b.do(&control.FenceBroker{ID: id, Epoch: x.Epoch})
}

// topic has partitions at broker 1 and 2, led by 1.
func (b *bench) topic(n int, configs map[string]string) {
	b.t.Helper()
	replicas := make([][]int32, n)
	for i := range replicas {
		replicas[i] = []int32{1, 2}
	}
	b.do(&control.CreateTopic{Name: "t", ID: image.UUID{1, 1}, Partitions: -1, ReplicationFactor: -1, Assignments: replicas, Configs: configs})
}

// follow has broker 2, which leads them, say that both are in sync.
func (b *bench) follow(n int) {
	b.t.Helper()
	x, _ := b.core.Image().Broker(2)
	topic, _ := b.core.Image().Topic("t")
	c := &control.AlterPartition{BrokerID: 2, BrokerEpoch: x.Epoch}
	for i := range int32(n) {
		p, _ := topic.Partition(i)
		c.Partitions = append(c.Partitions, control.ISRChange{Topic: topic.ID, Partition: i, LeaderEpoch: p.LeaderEpoch, PartitionEpoch: p.PartitionEpoch, ISR: []control.ISRMember{{ID: 1, Epoch: -1}, {ID: 2, Epoch: -1}}})
	}
	b.do(c)
}

// look supervises at a time until there is nothing more to do then. It returns how many units that took, and when to come
// again, after the start.
func (b *bench) look(at time.Duration) (units int, wake string) {
	b.t.Helper()
	for _, x := range b.core.Image().Brokers() { // who is not heard of is probed
		if _, err := b.o.Heartbeat(now.Add(at), liveness.Heartbeat{Node: x.ID, Incarnation: x.Incarnation, Epoch: x.Epoch, WantFence: x.Fenced}); err != nil {
			b.t.Fatal(err)
		}
	}
	for range 100 {
		was := b.core.Image().Index()
		e := b.o.Supervise(now.Add(at))
		settle(b.t, b.core, b.o)
		if b.core.Image().Index() > was {
			units++
		}
		if !e.Wake.IsZero() && !e.Wake.After(now.Add(at)) {
			continue
		}
		if wake = "never"; !e.Wake.IsZero() && e.Wake.Before(now.Add(time.Hour)) { // else for the sake of their sessions
			wake = e.Wake.Sub(now).String()
		}
		return units, wake
	}
	b.t.Fatalf("after %s it has something to do for ever", at)
	return units, wake
}

func (b *bench) expect(at time.Duration, units int, wake string, leads1 int) {
	b.t.Helper()
	gotUnits, gotWake := b.look(at)
	got, want := fmt.Sprint(gotUnits, gotWake, b.core.Image().Count(1, image.Leads)), fmt.Sprint(units, wake, leads1)
	if got != want {
		b.t.Fatalf("after %s: units, next time, partitions that broker 1 leads: %s, want %s", at, got, want)
	}
}

// Leaders go back to their first replicas by themselves, in steps, and nothing is written where none can or need.
func TestLeadersGoBack(t *testing.T) {
	const many = control.MaxChanges + 50
	b := newBench(t, Config{Balance: 10 * time.Second})
	b.topic(many, nil)
	b.expect(0, 0, "never", many)
	b.fence(1)
	b.expect(time.Second, 0, "11s", 0)
	b.expect(10*time.Second, 0, "11s", 0)
	b.expect(11*time.Second, 0, "21s", 0) // broker 1 is not there
	b.unfence(1)
	b.expect(21*time.Second, 0, "31s", 0) // it is in sync with nothing
	b.follow(many)
	b.expect(30*time.Second, 0, "31s", 0)
	b.expect(31*time.Second, 2, "never", many)
	b.expect(60*time.Second, 0, "never", many)

	b.fence(1) // the time begins anew
	b.unfence(1)
	b.follow(many)
	b.expect(70*time.Second, 0, "1m20s", 0)

	b.o.Leave() // and so it does for whoever is in office next
	settle(t, b.core, b.o)
	b.look(75 * time.Second) // the search for partitions without a leader
	b.expect(80*time.Second, 0, "1m25s", 0)
	b.expect(85*time.Second, 2, "never", many)

	b = newBench(t, Config{})
	b.topic(1, nil)
	b.fence(1)
	b.unfence(1)
	b.follow(1)
	b.expect(time.Hour-time.Second, 0, "never", 0)
}

// A topic that comes to allow unclean elections gets leaders the next time that somebody looks.
func TestUncleanElectionsComeToBeAllowed(t *testing.T) {
	for _, cmd := range []*control.AlterConfigs{
		{Topic: "t", Changes: []control.ConfigChange{{Key: "unclean.leader.election.enable", Value: "true"}}},
		{Node: image.EveryBroker, Changes: []control.ConfigChange{{Key: "unclean.leader.election.enable", Value: "true"}}},
	} {
		const many = control.MaxChanges + 50
		b := newBench(t, Config{Unclean: 10 * time.Second, Balance: 10 * time.Second}) // neither is in the way of the other
		b.topic(many, nil)
		b.fence(1)
		b.fence(2)
		b.unfence(1)
		b.expect(0, 0, "10s", 0)
		b.expect(10*time.Second, 0, "20s", 0)
		b.do(cmd)
		b.expect(19*time.Second, 0, "20s", 0)
		b.expect(20*time.Second, 2, "never", many)
	}
}
