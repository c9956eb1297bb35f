package quorum_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"testing"
	"time"

	"go.etcd.io/raft/v3"

	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/raftmeta/quorum"
	"github.com/streambus/streambus/raftmeta/wal"
	"github.com/streambus/streambus/raftmeta/wal/memwal"
)

var now = time.Unix(1_700_000_000, 0)

// life is a core on its log.
type life struct {
	t    *testing.T
	log  *memwal.Log
	core *quorum.Core
	left int // writes of the log until the crash
}

func begin(t *testing.T, l *memwal.Log, origin byte) *life {
	t.Helper()
	s, err := l.Load()
	if err != nil {
		t.Fatal(err)
	}
	if s.RaftID == 0 {
		hs, snap := quorum.Genesis("c", image.Voter{RaftID: 7, NodeID: 1})
		if err := l.Form(7, hs, snap); err != nil {
			t.Fatal(err)
		}
		if s, err = l.Load(); err != nil {
			t.Fatal(err)
		}
	}
	core, err := quorum.New(quorum.Config{
		RaftID: s.RaftID, ClusterID: "c", Origin: image.UUID{origin},
		HardState: s.HardState, Snapshot: s.Snapshot, Entries: s.Entries,
		Logger: &raft.DefaultLogger{Logger: log.New(io.Discard, "", 0)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &life{t: t, log: l, core: core, left: 1 << 30}
}

// settle runs until nothing is left to do, or until the crash: then it returns
// false.
func (l *life) settle() (answers []quorum.Answer, alive bool) {
	l.t.Helper()
	for {
		answers = append(answers, l.core.Propose(now)...)
		p, ok, err := l.core.Ready()
		if err != nil {
			l.t.Fatal(err)
		}
		if !ok {
			return answers, true
		}
		if l.left == 0 {
			return answers, false
		}
		l.left--
		if err := l.log.Save(wal.Write(p)); err != nil {
			l.t.Fatal(err)
		}
		done, err := l.core.Advance()
		if err != nil {
			l.t.Fatal(err)
		}
		answers = append(answers, done.Answers...)
	}
}

// commands are given batch by batch.
func commands() [][]control.Command {
	var cmds []control.Command
	for i := range 6 {
		// Some of these together are too large for one entry.
		cmds = append(cmds, &control.CreateTopic{Name: fmt.Sprint("t", i), ID: image.UUID{byte(i + 1)}, Partitions: control.MaxPartitionsPerCommand, ReplicationFactor: 1})
		// A refusal must hold up nothing that comes after it.
		cmds = append(cmds, &control.CreateTopic{Name: fmt.Sprint("t", i), ID: image.UUID{100, byte(i)}, Partitions: 1, ReplicationFactor: 1})
	}
	return [][]control.Command{
		{&control.FormCluster{ClusterID: "c", Voters: []image.Voter{{RaftID: 7, NodeID: 1}}}},
		{&control.RegisterBroker{ID: 1, Incarnation: image.UUID{1}, Levels: image.OwnLevels, Dirs: []image.UUID{{9}}}},
		{unfence{1}},
		cmds,
	}
}

// The power goes at every write of the log in turn. What was answered is there
// afterwards, whole topics only, and the rest can still be asked for.
func TestCrashAtEveryWrite(t *testing.T) {
	for at := 0; ; at++ {
		l := begin(t, memwal.New(), 1)
		l.left = at
		answered := map[string]bool{}
		alive := true
		for _, batch := range commands() {
			if !alive {
				break
			}
			for _, cmd := range batch {
				l.core.Enqueue(quorum.Proposal{Token: cmd, Request: control.Request{Command: cmd}})
			}
			var answers []quorum.Answer
			answers, alive = l.settle()
			for _, a := range answers {
				if create, ok := a.Token.(*control.CreateTopic); ok && a.Err == nil {
					answered[create.Name] = true
				}
			}
		}
		before := l.core.Image().Index()
		l = begin(t, l.log.Crash(rand.New(rand.NewPCG(uint64(at), 0))), 2)
		if _, ok := l.settle(); !ok {
			t.Fatal("the second life has no crash")
		}
		img := l.core.Image()
		if img.Index() < before {
			t.Fatalf("crash at write %d: the image went from %d to %d", at, before, img.Index())
		}
		for name := range answered {
			if _, ok := img.Topic(name); !ok {
				t.Fatalf("crash at write %d: %s was answered and is gone", at, name)
			}
		}
		for big := range img.Topics() {
			if big.NumPartitions() != control.MaxPartitionsPerCommand {
				t.Fatalf("crash at write %d: a topic of %d partitions", at, big.NumPartitions())
			}
		}
		restored, err := image.DecodeImage(img.Encode())
		if err != nil || !bytes.Equal(restored.Encode(), img.Encode()) {
			t.Fatalf("crash at write %d: a snapshot is not its image: %v", at, err)
		}
		for _, batch := range commands() {
			for i, cmd := range batch {
				l.core.Enqueue(quorum.Proposal{Token: i, Request: control.Request{Command: cmd}})
			}
			answers, _ := l.settle()
			if len(answers) != len(batch) {
				t.Fatalf("crash at write %d: %d of %d commands were answered after it", at, len(answers), len(batch))
			}
			for _, a := range answers {
				if r, refused := errors.AsType[*control.Refusal](a.Err); a.Err != nil && (!refused || r.Code != control.TopicExists) {
					t.Fatalf("crash at write %d: %T %v: %v", at, batch[0], a.Token, a.Err)
				}
			}
		}
		if n := l.core.Image().NumTopics(); n != 6 {
			t.Fatalf("crash at write %d: %d topics in the end", at, n)
		}
		if alive {
			t.Logf("%d crashes", at)
			return
		}
	}
}
