package raftmeta_test

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/liveness"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/wal"
	"github.com/streambus/streambus/raftmeta/wal/memwal"
)

// hooked is a log that tells of each write.
type hooked struct {
	wal.Log
	saved func(wal.Write)
}

func (l hooked) Save(w wal.Write) error {
	l.saved(w)
	return l.Log.Save(w)
}

// refusals counts the messages that a controller refuses.
type refusals struct {
	slog.Handler
	n *atomic.Int32
}

func (r refusals) Enabled(context.Context, slog.Level) bool { return true }

func (r refusals) Handle(_ context.Context, rec slog.Record) error {
	if rec.Message == "a raft message was refused" {
		r.n.Add(1)
	}
	return nil
}

// Who asks for something while a large broker is fenced has a turn before the next step, not after the last.
func TestOthersHaveATurnBetweenSteps(t *testing.T) {
	var (
		c       *raftmeta.Controller
		refused atomic.Int32
		fencing atomic.Bool
		steps   int32
		log     = memwal.New()
	)
	id, err := raftmeta.DrawRaftID(log)
	if err == nil {
		err = raftmeta.Form(log, id, cluster, image.Voter{RaftID: id, NodeID: 1})
	}
	if err != nil {
		t.Fatal(err)
	}
	saved := func(w wal.Write) {
		if len(w.Entries) == 0 || !fencing.Load() {
			return
		}
		if n := refused.Load(); n < steps {
			t.Errorf("step %d comes before what was asked at step %d", steps+1, n+1)
		}
		steps++
		c.Receive([]byte("no message")) // it waits in the inbox until the loop comes round
	}
	c, err = raftmeta.Open(raftmeta.Config{
		NodeID: 1, ClusterID: cluster, Logger: slog.New(refusals{slog.DiscardHandler, &refused}), Registerer: prometheus.NewRegistry(),
		Members: func([]image.Voter) {}, Send: func(quorum.Message) {},
		Probe: func(_ context.Context, x *image.Broker) (liveness.Finding, image.UUID) {
			if x.ID == 2 && fencing.Load() {
				return liveness.Refused, image.UUID{}
			}
			return liveness.Alive, x.Incarnation
		},
	}, hooked{log, saved})
	if err != nil {
		t.Fatal(err)
	}
	view, stop := run(t, c)
	join(t, c, &control.RegisterBroker{ID: 1, Incarnation: image.UUID{1}, Levels: image.OwnLevels, Dirs: []image.UUID{{1}}})
	join(t, c, &control.RegisterBroker{ID: 2, Incarnation: image.UUID{2}, Levels: image.OwnLevels, Dirs: []image.UUID{{2}}})
	mustSubmit(t, c, &control.CreateTopic{Name: "t", ID: image.UUID{3}, Partitions: 5 * control.MaxChanges, ReplicationFactor: 2})
	fencing.Store(true)
	c.BrokerClosed(2, image.UUID{2})
	for {
		if x, ok := view.Image().Broker(2); ok && x.Fenced {
			break
		}
		if err := view.Wait(t.Context(), view.Image().Index()+1); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	if steps != 5 {
		t.Errorf("%d steps", steps)
	}
}
