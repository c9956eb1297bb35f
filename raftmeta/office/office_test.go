package office

import (
	"errors"
	"io"
	stdlog "log"
	"testing"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
	"github.com/streambus/streambus/raftmeta/quorum"
)

var now = time.Unix(1_700_000_000, 0)

// alone is a controller that is the whole quorum, and its office.
func alone(t *testing.T) (*quorum.Core, *Office) {
	t.Helper()
	hs, snap := quorum.Genesis("a cluster", image.Voter{RaftID: 1, NodeID: 1})
	core, err := quorum.New(quorum.Config{
		RaftID: 1, ClusterID: "a cluster", Origin: image.UUID{1}, HardState: hs, Snapshot: snap,
		Logger: &raft.DefaultLogger{Logger: stdlog.New(io.Discard, "", 0)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return core, New(Config{NodeID: 1, RaftID: 1}, core)
}

// settle is what a caller does, with a log that needs no time.
func settle(t *testing.T, core *quorum.Core, o *Office) (answers []quorum.Answer) {
	t.Helper()
	for {
		answers = append(answers, o.Hold(now, core.Propose(now))...)
		_, ok, err := core.Ready()
		if err != nil {
			t.Fatal(err)
		}
		if !ok {
			return append(answers, o.Take(now)...)
		}
		done, err := core.Advance()
		if err != nil {
			t.Fatal(err)
		}
		answers = append(answers, o.Take(now)...)
		answers = append(answers, o.Hold(now, done.Answers)...)
	}
}

func registration(incarnation byte) quorum.Proposal {
	return quorum.Proposal{Token: incarnation, Request: control.Request{Command: &control.RegisterBroker{
		ID: 7, Incarnation: image.UUID{incarnation}, Dirs: []image.UUID{{1}}, Levels: image.OwnLevels, PreviousBrokerEpoch: -1,
	}}}
}

// Whether the incarnation that is registered may be alive only an office can tell: before it is held and behind its end
// nobody registers.
func TestRegistrationsComeToTheOffice(t *testing.T) {
	core, o := alone(t)
	turnedAway := func(answers []quorum.Answer) {
		t.Helper()
		if len(answers) != 1 || !errors.Is(answers[0].Err, quorum.ErrNotLeader) || core.Waiting() != 0 {
			t.Fatalf("%+v, and %d wait", answers, core.Waiting())
		}
	}
	turnedAway(o.Enqueue(now, registration(1)))
	settle(t, core, o)
	if !o.Held() {
		t.Fatal("nobody holds the office")
	}
	if answers := o.Enqueue(now, registration(1)); len(answers) != 0 {
		t.Fatalf("%+v", answers)
	}
	turnedAway(o.Leave())
	settle(t, core, o)
	o.Enqueue(now, registration(1))
	if a := settle(t, core, o); len(a) != 1 || a[0].Err != nil {
		t.Fatalf("%+v", a)
	}
}

// A controller that was deposed does not know what changed since: it sends a broker that does elsewhere, instead of telling
// it that it is not registered, that another is, or that it may stop.
func TestHeartbeatFromAhead(t *testing.T) {
	core, o := alone(t)
	settle(t, core, o)
	o.Enqueue(now, registration(1))
	settle(t, core, o)
	b, _ := core.Image().Broker(7)
	at := core.Image().Index()
	beat := func(incarnation byte, epoch int64, applied uint64) error {
		_, err := o.Heartbeat(now, liveness.Heartbeat{Node: 7, Incarnation: image.UUID{incarnation}, Epoch: epoch, Applied: applied})
		return err
	}
	if err := beat(1, b.Epoch, at); err != nil {
		t.Error(err)
	}
	if err := beat(2, b.Epoch-1, at); !errors.Is(err, liveness.ErrStale) {
		t.Errorf("one that was replaced: %v", err)
	}
	if err := beat(2, int64(at)+1, at); !errors.Is(err, quorum.ErrNotLeader) {
		t.Errorf("one that registered elsewhere: %v", err)
	}
	if err := beat(1, b.Epoch, at+1); !errors.Is(err, quorum.ErrNotLeader) {
		t.Errorf("one that has applied more: %v", err)
	}
}

// A broker that is fenced may stop, unless it is on its way back.
func TestNobodyStopsWhoIsAboutToLead(t *testing.T) {
	for _, back := range []bool{false, true} {
		core, o := alone(t)
		settle(t, core, o)
		o.Enqueue(now, registration(1))
		settle(t, core, o)
		b, _ := core.Image().Broker(7)
		beat := func(stops bool) liveness.Reply {
			t.Helper()
			r, err := o.Heartbeat(now, liveness.Heartbeat{Node: 7, Incarnation: image.UUID{1}, Epoch: b.Epoch, Applied: core.Image().Index(), WantShutdown: stops})
			if err != nil {
				t.Fatal(err)
			}
			return r
		}
		if back {
			beat(false)
			o.Supervise(now)
		}
		if r := beat(true); !r.Fenced || r.ShouldShutDown == back {
			t.Errorf("on its way back %v: %+v", back, r)
		}
	}
}

// What the quorum did not take, as while leadership is being handed over, is given again if nobody asks for it once more:
// the rest of a command that is begun, and the search for partitions without a leader.
func TestWhatIsBegunGoesOn(t *testing.T) {
	core, o := alone(t)
	settle(t, core, o)
	given := func() []quorum.Answer { return core.Withdraw(func(control.Command) bool { return true }) }
	lost := func(again bool) {
		t.Helper()
		o.Hold(now, given())
		if e := o.Supervise(now); core.Waiting() != 0 || again != e.Wake.Equal(now.Add(pause)) {
			t.Fatalf("%d wait, and the next time is %s", core.Waiting(), e.Wake)
		}
		if o.Supervise(now.Add(pause)); again != (core.Waiting() == 1) {
			t.Fatalf("%d wait", core.Waiting())
		}
	}
	unfence := &control.UnfenceBroker{ID: 7}
	o.ask(now, "", unfence)
	o.Supervise(now)
	lost(false)
	o.ask(now.Add(pause), "", unfence)
	o.Supervise(now)
	step := given()
	step[0].Err, step[0].Reply = nil, &control.BrokerProgress{More: true}
	o.Hold(now, step)
	o.Supervise(now)
	lost(true)
	lost(true)
	given()

	o.Leave()
	o.Take(now)
	o.Supervise(now)
	lost(true)
}
