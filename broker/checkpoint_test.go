package broker

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/streambus/streambus/raftmeta"
	"github.com/streambus/streambus/raftmeta/control"
	"github.com/streambus/streambus/raftmeta/follow"
	"github.com/streambus/streambus/raftmeta/image"
	"github.com/streambus/streambus/storage/vfs"
)

// someImage is metadata of a cluster with some of everything.
func someImage(index uint64, cluster string) *image.Image {
	img, _ := image.Apply(image.Empty(), index, []image.Record{
		&image.ClusterRecord{ClusterID: cluster, Level: 1},
		&image.TopicRecord{Name: "t", ID: image.UUID{1}},
	})
	return img
}

func newTestCheckpoint(fs vfs.FS) (*checkpoint, *bytes.Buffer) {
	said := &bytes.Buffer{}
	return newCheckpoint(fs, "/data", slog.New(slog.NewTextHandler(said, nil))), said
}

func memWith(t *testing.T, content []byte) *vfs.Mem {
	t.Helper()
	fs := vfs.NewMem()
	if err := fs.MkdirAll("/data/raftmeta"); err != nil {
		t.Fatal(err)
	}
	if content != nil {
		f, err := fs.Create("/data/" + checkpointFile)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt(content, 0); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return fs
}

// A checkpoint that is not what was written is removed, whichever bit changed and
// wherever it ends, and so is one that is not of here.
func TestUnusableCheckpoint(t *testing.T) {
	good := someImage(7, "here").Encode()
	c, said := newTestCheckpoint(memWith(t, good))
	if state := c.load("here"); state.Index() != 7 || c.index != 7 || !bytes.Equal(state.Image().Encode(), good) || !strings.Contains(said.String(), "index=7") {
		t.Fatalf("a good one is read up to %d: %s", state.Index(), said)
	}
	bad := map[string][]byte{"of another cluster": someImage(7, "there").Encode(), "empty": {}}
	for at := range good {
		for bit := range 8 {
			b := bytes.Clone(good)
			b[at] ^= 1 << bit
			bad[fmt.Sprintf("bit %d of byte %d is another", bit, at)] = b
		}
		bad[fmt.Sprintf("it ends at byte %d", at)] = good[:at:at]
	}
	newer := bytes.Clone(good[:len(good)-4])
	newer[0] = 120
	bad["of a newer format"] = binary.LittleEndian.AppendUint32(newer, crc32.Checksum(newer, crc32.MakeTable(crc32.Castagnoli)))
	for what, content := range bad {
		fs := memWith(t, content)
		c, said := newTestCheckpoint(fs)
		if state := c.load("here"); state.Index() != 0 || c.index != 0 {
			t.Errorf("%s: it goes on from %d", what, state.Index())
		}
		if _, err := fs.Stat("/data/" + checkpointFile); err == nil {
			t.Errorf("%s: it is still there", what)
		}
		if !strings.Contains(said.String(), "level=WARN") || !strings.Contains(said.String(), checkpointFile) {
			t.Errorf("%s: %s", what, said)
		}
	}
	c, said = newTestCheckpoint(memWith(t, nil))
	if state := c.load("here"); state.Index() != 0 || said.Len() > 0 {
		t.Errorf("without one it goes on from %d: %s", state.Index(), said)
	}
}

// A checkpoint is due once enough came, of what is applied by then; never of less
// than there is, and a failed one leaves the one before.
func TestCheckpointIsWritten(t *testing.T) {
	mem := memWith(t, nil)
	var full atomic.Bool
	fs := vfs.NewFaulty(mem, func(op vfs.Op, name string) error {
		if op == vfs.OpWriteAt && full.Load() {
			return &vfs.ShortWrite{Bytes: 5, Err: errors.New("no space")}
		}
		return nil
	})
	c, said := newTestCheckpoint(fs)
	c.every = 100
	unit := follow.Batch{Units: []follow.Unit{{Index: 1, Bytes: make([]byte, 30)}, {Index: 2, Bytes: make([]byte, 30)}}}
	next := func(b follow.Batch) {
		t.Helper()
		source := func(context.Context, uint64, int) (follow.Batch, error) { return b, nil }
		newest := func() *image.Image { return someImage(5, "here") }
		if got, err := c.counted(source, newest)(t.Context(), 1, 1); err != nil || len(got.Units) != len(b.Units) {
			t.Fatal(got, err)
		}
	}
	next(unit) // 60 bytes are asked for
	next(unit) // 120
	if len(c.due) != 0 {
		t.Fatal("it is due before what came is applied")
	}
	next(unit)
	if len(c.due) != 1 || c.bytes != 60 {
		t.Fatalf("%d are due, and %d bytes came since", len(c.due), c.bytes)
	}
	next(follow.Batch{Snapshot: make([]byte, 100)})
	next(unit) // one is due already: nobody waits for the disk
	if len(c.due) != 1 || c.bytes != 220 {
		t.Fatalf("%d are due, and %d bytes came since", len(c.due), c.bytes)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); c.run(ctx) }()
	c.due <- someImage(6, "here") // it has the one before
	c.due <- someImage(4, "here") // it has this one
	cancel()
	<-done
	holds := func(want uint64) {
		t.Helper()
		c, said := newTestCheckpoint(mem)
		if got := c.load("here").Index(); got != want {
			t.Errorf("the checkpoint holds %d, want %d: %s", got, want, said)
		}
	}
	holds(6)
	c.write(someImage(4, "here"))
	holds(6)
	full.Store(true)
	c.write(someImage(8, "here"))
	holds(6)
	if c.index != 6 || !strings.Contains(said.String(), "no space") {
		t.Errorf("index %d after a failed write: %s", c.index, said)
	}
	full.Store(false)
	c.write(someImage(8, "here"))
	holds(8)
}

// A broker that is no controller goes on from its checkpoint; damaged, it takes
// everything from a controller; and when the controllers have lost what it has, it
// ends, and touches nothing.
func TestBrokerGoesOnFromItsCheckpoint(t *testing.T) {
	c := startNodes(t, asController, asBroker)
	cluster := c.clusterID()
	one, p := c.nodes[0], c.nodes[1]
	file := filepath.Join(p.data, checkpointFile)
	by := c.as(900, cluster)
	topics := 0
	create := func(n int) {
		t.Helper()
		for range n {
			c.submit(by, &control.CreateTopic{Name: fmt.Sprint("t-", topics), ID: newUUID(), Partitions: 1, ReplicationFactor: 1})
			topics++
		}
	}
	shows := func() {
		t.Helper()
		c.eventually("the broker shows the newest topic", func() error {
			row, err := metadata(p, fmt.Sprint("t-", topics-1), 2*time.Second)
			if err == nil && len(row.Partitions) != 1 {
				err = fmt.Errorf("error %d", row.ErrorCode)
			}
			return err
		})
	}
	goesOn := func(from string) {
		t.Helper()
		c.launch(p)
		c.started(p)
		if said := p.out.text(); !strings.Contains(said, from) {
			t.Errorf("it says nothing of %q:\n%s", from, said)
		}
		shows()
	}
	create(10)
	shows()
	p.signal(os.Kill)
	if _, err := os.Stat(file); err == nil {
		t.Error("a checkpoint was written before it was due")
	}
	c.launch(p)
	c.started(p)
	c.terminate(p)
	for n := range 10 {
		c.submit(by, setRetention(n))
	}
	goesOn("goes on from its checkpoint")
	create(1)
	shows()
	c.terminate(p)

	good, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, slices.Concat(good[:20], []byte{good[20] + 1}, good[21:]), 0o644); err != nil {
		t.Fatal(err)
	}
	goesOn("cannot be used and is removed")
	c.terminate(p)

	// Back to what the controller was before.
	c.terminate(one)
	old := t.TempDir()
	if err := os.CopyFS(old, os.DirFS(one.data)); err != nil {
		t.Fatal(err)
	}
	c.launch(one)
	c.started(one)
	goesOn("goes on from its checkpoint")
	create(30)
	shows()
	c.terminate(p)
	c.terminate(one)
	newest := one.data
	one.data = old
	c.launch(one)
	c.started(one)
	before, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	c.launch(p)
	select {
	case <-p.exited:
	case <-time.After(patience):
		t.Fatalf("it goes on with controllers that have lost data:\n%s", p.out.text())
	}
	if said := p.out.text(); p.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(said, "the controllers have lost data") {
		t.Errorf("it ends with %v:\n%s", p.cmd.ProcessState, said)
	}
	if after, err := os.ReadFile(file); err != nil || !bytes.Equal(before, after) {
		t.Errorf("its checkpoint has changed: %v", err)
	}
	c.terminate(one)
	one.data = newest
	c.launch(one)
	c.started(one)
	goesOn("goes on from its checkpoint")

	// So does one that runs, when it asks for what comes next.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if b, err := by.Units(ctx, 1<<40, 1); !errors.Is(err, raftmeta.ErrAhead) {
		t.Errorf("who is far ahead gets %d units, %v", len(b.Units), err)
	}
}
