package broker

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/streambus/streambus/broker/config"
	"github.com/streambus/streambus/broker/inspect"
	"github.com/streambus/streambus/storage/batch/batchtest"
	"github.com/streambus/streambus/storage/vfs"
)

// settled is a data directory of a broker that has stopped.
func settled(t *testing.T) string {
	t.Helper()
	data := t.TempDir()
	n := startNodeAt(t, Disk{FS: vfs.OS(), RaftLog: OpenRaftLog}, data, "0")
	r := newRaw(t, n.addr())
	for _, name := range []string{"t", "u", "v"} {
		createTopic(r, name)
	}
	large := batchtest.Values(string(make([]byte, 300_000))).At(1000).Encode()
	for range 5 { // more than one segment
		if at := produceBatch(r, large); at.ErrorCode != 0 {
			t.Fatal(at.ErrorCode)
		}
	}
	n.stop()
	if err := <-n.done; err != nil {
		t.Fatal(err)
	}
	wantSound(t, vfs.ReadOnly(), data)
	return data
}

// damagedStart starts a broker on a copy with one bit turned over, and ends it.
func damagedStart(t *testing.T, data, file string, bit int) error {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "data")
	if err := os.CopyFS(copied, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	flip(t, filepath.Join(copied, file), bit)
	cfg := config.New()
	set(t, cfg, "log.dirs", copied)
	set(t, cfg, "streambus.admin.listen", "127.0.0.1:0")
	set(t, cfg, "listeners", "PLAINTEXT://127.0.0.1:0")
	b, err := New(cfg, Disk{FS: vfs.OS(), RaftLog: OpenRaftLog}, slog.New(slog.NewTextHandler(io.Discard, nil)))
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	select {
	case <-b.Ready():
		stop()
		return <-done
	case err := <-done:
		return err
	}
}

func flip(t *testing.T, file string, bit int) {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	b[bit/8] ^= 1 << (bit % 8)
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
}

// What a start needs and finds damaged ends it, with the file and the place; never with a panic. What does no harm is a
// page that nothing refers to.
func TestStartsOnDamage(t *testing.T) {
	data := settled(t)
	rng := rand.New(rand.NewPCG(5, 6))
	const log, snapshot = "raftmeta/log.db", "raftmeta/00000000000000000001-00000000000000000001.snapshot"
	content, err := os.ReadFile(filepath.Join(data, log))
	if err != nil {
		t.Fatal(err)
	}
	page := os.Getpagesize()
	bits := []int{16*8 + 3, (page+16)*8 + 3} // the meta pages
	for at := 2 * page; at < len(content); at += page {
		bits = append(bits, at*8+rng.IntN(64), at*8+80+rng.IntN(16)) // a page's number and its count of keys
	}
	for at := 0; ; { // entries
		i := bytes.Index(content[at:], []byte("CreateTopic"))
		if i < 0 {
			break
		}
		at += i + 1
		bits = append(bits, at*8)
	}
	refused := 0
	for _, bit := range bits {
		err := damagedStart(t, data, log, bit)
		if err == nil {
			continue
		}
		refused++
		if said := err.Error(); !strings.Contains(said, log) || !strings.Contains(said, "page ") && !strings.Contains(said, "entry ") {
			t.Errorf("byte %d of %s: %v", bit/8, log, err)
		}
	}
	t.Logf("%d of %d flips refused", refused, len(bits))
	if refused < len(bits)/4 {
		t.Error("most of the flips do no harm")
	}
	for file, at := range map[string]int{snapshot: 5, "meta.properties": 2, "recovery-point-offset-checkpoint": 0} {
		if err := damagedStart(t, data, file, at*8); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v", file, err)
		}
	}
}

// A damaged index is made anew by whoever reads there, and counted.
func TestDamagedIndexIsRebuilt(t *testing.T) {
	data := settled(t)
	const base = "t-0/00000000000000000000"
	flip(t, filepath.Join(data, base+".index"), 3*8)
	flip(t, filepath.Join(data, base+".timeindex"), 7*8)
	n := startNodeAt(t, Disk{FS: vfs.OS(), RaftLog: OpenRaftLog}, data, "0")
	t.Cleanup(n.stop)
	r := newRaw(t, n.addr())
	if records := ask[*kmsg.FetchResponse](r, fetchRequest("t", 0, 2)).Topics[0].Partitions[0].RecordBatches; len(records) == 0 {
		t.Error("nothing was read")
	}
	if at := offsetAt(r, 4, 1000); at.Offset != 0 || at.ErrorCode != 0 {
		t.Errorf("by time: %+v", at)
	}
	if n := counted(t, n, "streambus_index_rebuilds_total"); n < 1 {
		t.Errorf("%v rebuilds counted", n)
	}
	n.stop()
	if err := <-n.done; err != nil {
		t.Fatal(err)
	}
	wantSound(t, vfs.ReadOnly(), data)
}

func counted(t *testing.T, n *node, name string) float64 {
	t.Helper()
	families, err := n.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range families {
		if m.GetName() == name {
			return m.GetMetric()[0].GetCounter().GetValue()
		}
	}
	return 0
}

// Damage planted in any file is found by an inspection of the directory, which names it and changes nothing.
func TestInspectionFindsDamage(t *testing.T) {
	data := settled(t)
	for _, file := range []string{"t-0/00000000000000000000.log", "t-0/00000000000000000000.index", "t-0/00000000000000000000.timeindex",
		"t-0/leader-epoch-checkpoint", "t-0/partition.metadata", "recovery-point-offset-checkpoint", "meta.properties", "raftmeta/log.db"} {
		whole, err := os.ReadFile(filepath.Join(data, file))
		if err != nil {
			t.Fatal(err)
		}
		flip(t, filepath.Join(data, file), 3*8)
		var said bytes.Buffer
		i := inspect.New(vfs.ReadOnly(), &said, true)
		if err := i.Dir(data); err != nil || i.Damaged == 0 || !strings.Contains(said.String(), file) {
			t.Errorf("%s: %v\n%s", file, err, said.String())
		}
		if err := os.WriteFile(filepath.Join(data, file), whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	wantSound(t, vfs.ReadOnly(), data)
}
