package replica

import (
	"errors"
	"testing"
	"time"

	"github.com/streambus/streambus/broker/partition"
	"github.com/streambus/streambus/broker/peer"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage"
	"github.com/streambus/streambus/storage/batch/batchtest"
)

// givenUp tells whether damaged replicas are to be given up, once.
func (l *led) givenUp() bool {
	select {
	case <-l.m.Damage():
		return true
	default:
		return false
	}
}

// A replica that is found damaged serves while it is counted on. When it is not any
// more it begins anew, and nothing that was under way for the old log comes to the new
// one: not who waits for it, what was flushed of it, nor what was fetched for it.
func TestDamageWhileRunning(t *testing.T) {
	l := newLed(t)
	l.append("a", "b")
	damage := &storage.CorruptError{File: "f", Reason: "a test"}
	had := l.r.log

	l.r.found(had, storage.ErrOffsetOutOfRange)
	if l.givenUp() {
		t.Fatal("given up for what is no damage")
	}
	l.r.found(had, damage)
	if !l.givenUp() || len(l.m.Damaged()) != 1 {
		t.Fatal("it is not given up")
	}
	l.r.found(had, damage)
	if l.givenUp() {
		t.Fatal("it is given up twice")
	}
	w := NewWait(1)
	if _, err := l.r.Append(batchtest.Values("c").Encode(), partition.AcksAll, &w.Items[0], time.Now()); err != nil {
		t.Fatal(err)
	}
	over := false
	w.Begin(time.Hour, func() { over = true })

	// It is alone, and then it is not.
	l.changed(partitionOf(1, 1))
	if l.givenUp() {
		t.Error("given up while nobody else stands for it")
	}
	l.changed(partitionOf(2, 1, 2))
	if !l.givenUp() || over || l.r.log != had {
		t.Errorf("with another in sync: waiting ended %v", over)
	}

	follows := partitionOf(3, 2)
	follows.Leader, follows.LeaderEpoch = 2, 1
	l.changed(follows)
	if !over || !errors.Is(w.Items[0].Err, partition.ErrNotLeader) {
		t.Errorf("who waited for the old log has %v", w.Items[0].Err)
	}
	if l.r.log == had || len(l.m.Damaged()) != 0 || l.r.log.EndOffset() != 0 {
		t.Fatal("it does not begin anew")
	}
	l.r.flushed(had, 3)
	if at, ok := l.r.position(2); !ok || at.Offset != 0 || at.FlushedEnd != 0 {
		t.Errorf("it vouches for %+v", at)
	}
	source := l.r.source.Load()
	old := *source
	answer := &peer.FetchedPartition{PartitionID: l.r.id(), DivergingEpoch: -1, Records: batchtest.Values("d").Encode()}
	if _, err := l.r.fetched(&old, answer, 1, time.Now()); err != nil || l.r.log.EndOffset() != 0 {
		t.Errorf("what was fetched for the old log is taken: %v", err)
	}
	if _, err := l.r.fetched(source, answer, 1, time.Now()); err != nil || l.r.log.EndOffset() != 1 {
		t.Errorf("what is fetched now is not taken: %v", err)
	}
	l.r.found(had, damage)
	if l.givenUp() {
		t.Error("it is given up for what the old log had")
	}
}

// A replica that is alone stays as it is.
func TestDamageOfTheOnlyReplica(t *testing.T) {
	l := newLed(t)
	l.changed(image.Partition{Replicas: []int32{1}, ISR: []int32{1}, Dirs: "\x00", Leader: 1, PartitionEpoch: 1})
	l.append("a")
	l.r.found(l.r.log, &storage.CorruptError{File: "f", Reason: "a test"})
	if l.givenUp() || len(l.m.Damaged()) != 0 {
		t.Error("it is given up")
	}
}
