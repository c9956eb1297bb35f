package wal_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	pb "go.etcd.io/raft/v3/raftpb"

	"github.com/streambus/streambus/raftmeta/wal"
	"github.com/streambus/streambus/raftmeta/wal/memwal"
)

// logs are the two implementations. Reopen ends a log, orderly or not, and opens what is left of it.
var logs = map[string]func(t *testing.T) (open wal.Log, reopen func(wal.Log) wal.Log){
	"bbolt, closed": func(t *testing.T) (wal.Log, func(wal.Log) wal.Log) {
		dir := filepath.Join(t.TempDir(), "raft")
		return openBolt(t, dir), func(l wal.Log) wal.Log {
			if err := l.Close(); err != nil {
				t.Fatal(err)
			}
			return openBolt(t, dir)
		}
	},
	"bbolt, copied while open": func(t *testing.T) (wal.Log, func(wal.Log) wal.Log) {
		dir := filepath.Join(t.TempDir(), "raft")
		return openBolt(t, dir), func(wal.Log) wal.Log {
			next := t.TempDir()
			if err := os.CopyFS(next, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			dir = next
			return openBolt(t, dir)
		}
	},
	"memory, power cut": func(t *testing.T) (wal.Log, func(wal.Log) wal.Log) {
		rng := rand.New(rand.NewPCG(1, 2))
		return memwal.New(), func(l wal.Log) wal.Log { return l.(*memwal.Log).Crash(rng) }
	},
}

func openBolt(t *testing.T, dir string) wal.Log {
	t.Helper()
	l, err := wal.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func each(t *testing.T, test func(t *testing.T, l wal.Log, reopen func(wal.Log) wal.Log)) {
	for name, open := range logs {
		t.Run(name, func(t *testing.T) {
			l, reopen := open(t)
			test(t, l, reopen)
		})
	}
}

func entries(term, from, to uint64) (es []*pb.Entry) {
	for i := from; i <= to; i++ {
		es = append(es, &pb.Entry{Term: new(term), Index: new(i), Data: fmt.Appendf(nil, "entry %d of term %d", i, term)})
	}
	return es
}

func hard(term, commit uint64) *pb.HardState {
	return &pb.HardState{Term: new(term), Vote: new(uint64(7)), Commit: new(commit)}
}

func snapshot(index, term uint64) *pb.Snapshot {
	return &pb.Snapshot{
		Data:     fmt.Appendf(nil, "the state at %d", index),
		Metadata: &pb.SnapshotMetadata{Index: new(index), Term: new(term), ConfState: &pb.ConfState{Voters: []uint64{7}}},
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T, l wal.Log) wal.State {
	t.Helper()
	s, err := l.Load()
	must(t, err)
	return s
}

// describe is a state in a line.
func describe(s wal.State) string {
	var es []string
	for _, e := range s.Entries {
		es = append(es, fmt.Sprintf("%d/%d", e.GetIndex(), e.GetTerm()))
		switch data := e.GetData(); {
		case string(data) == fmt.Sprintf("entry %d of term %d", e.GetIndex(), e.GetTerm()):
		case len(data) > 100:
			es = append(es, fmt.Sprintf("with %d bytes of sum %x", len(data), sha256.Sum256(data)))
		default:
			es = append(es, fmt.Sprintf("with %q", data))
		}
	}
	return fmt.Sprintf("id %d, term %d vote %d commit %d, snapshot %d/%d %q voters %v, %s", s.RaftID,
		s.HardState.GetTerm(), s.HardState.GetVote(), s.HardState.GetCommit(),
		s.Snapshot.GetMetadata().GetIndex(), s.Snapshot.GetMetadata().GetTerm(), s.Snapshot.GetData(),
		s.Snapshot.GetMetadata().GetConfState().GetVoters(), strings.Join(es, " "))
}

func want(t *testing.T, l wal.Log, text string) {
	t.Helper()
	if got := describe(load(t, l)); got != text {
		t.Fatalf("loaded\n  %s, want\n  %s", got, text)
	}
}

func form(t *testing.T, l wal.Log) {
	t.Helper()
	must(t, l.Form(7, &pb.HardState{Term: new(uint64(1)), Commit: new(uint64(1))}, snapshot(1, 1)))
}

func TestNewLogIsEmpty(t *testing.T) {
	each(t, func(t *testing.T, l wal.Log, reopen func(wal.Log) wal.Log) {
		for range 2 {
			if s := load(t, l); s.RaftID != 0 || len(s.Entries) > 0 {
				t.Fatalf("a new log holds %s", describe(s))
			}
			l = reopen(l)
		}
		form(t, l)
		want(t, reopen(l), `id 7, term 1 vote 0 commit 1, snapshot 1/1 "the state at 1" voters [7], `)
	})
}

func TestAppendReplacesWhatStandsBehind(t *testing.T) {
	each(t, func(t *testing.T, l wal.Log, reopen func(wal.Log) wal.Log) {
		form(t, l)
		must(t, l.Save(write(hard(2, 1), entries(2, 2, 6), true)))
		must(t, l.Save(write(hard(3, 3), entries(3, 4, 4), true)))
		want(t, reopen(l), `id 7, term 3 vote 7 commit 3, snapshot 1/1 "the state at 1" voters [7], 2/2 3/2 4/3`)
	})
}

func TestCommitAloneMayBeForgottenAndTermMayNot(t *testing.T) {
	each(t, func(t *testing.T, l wal.Log, reopen func(wal.Log) wal.Log) {
		form(t, l)
		must(t, l.Save(write(hard(2, 1), entries(2, 2, 4), true)))
		must(t, l.Save(write(hard(2, 4), nil, false)))
		must(t, l.Save(write(nil, entries(2, 5, 5), true))) // takes the commit index along
		want(t, reopen(l), `id 7, term 2 vote 7 commit 4, snapshot 1/1 "the state at 1" voters [7], 2/2 3/2 4/2 5/2`)
	})
	each(t, func(t *testing.T, l wal.Log, reopen func(wal.Log) wal.Log) {
		form(t, l)
		must(t, l.Save(write(hard(2, 1), entries(2, 2, 4), true)))
		must(t, l.Save(write(hard(2, 4), nil, false)))
		l = reopen(l)
		if s := load(t, l); s.HardState.GetTerm() != 2 || s.HardState.GetVote() != 7 {
			t.Fatalf("after the end there is %s", describe(s))
		}
	})
}

func TestSnapshotAndCompaction(t *testing.T) {
	each(t, func(t *testing.T, l wal.Log, reopen func(wal.Log) wal.Log) {
		form(t, l)
		must(t, l.Save(write(hard(2, 1), entries(2, 2, 12_000), true))) // more than one step of compaction
		must(t, l.SaveSnapshot(snapshot(11_000, 2)))
		l = reopen(l)
		if s := load(t, l); len(s.Entries) != 11_999 {
			t.Fatalf("a snapshot alone left %d entries", len(s.Entries))
		}
		must(t, l.Compact(10_998))
		must(t, l.Save(write(nil, entries(2, 12_001, 12_001), true)))
		l = reopen(l)
		if s := load(t, l); s.Entries[0].GetIndex() != 10_999 || len(s.Entries) != 1_003 {
			t.Fatalf("compaction left %d entries from %d", len(s.Entries), s.Entries[0].GetIndex())
		}
		must(t, l.Compact(11_000))
		must(t, l.Save(write(hard(2, 12_001), entries(3, 11_001, 11_002), true)))
		must(t, l.Save(write(nil, entries(3, 11_003, 11_003), true)))
		if _, err := l.Load(); !errors.As(err, new(*wal.CorruptError)) {
			t.Fatalf("committed entries were replaced: %v", err)
		}
	})
}

// A loaded state and what is saved belong to the caller again: nothing may reach the log through them.
func TestLogSharesNothing(t *testing.T) {
	each(t, func(t *testing.T, l wal.Log, reopen func(wal.Log) wal.Log) {
		form(t, l)
		hs := hard(2, 1)
		must(t, l.Save(write(hs, entries(2, 2, 3), true)))
		s := load(t, l)
		s.HardState.Term = new(uint64(9))
		s.Entries[0] = nil
		want(t, reopen(l), `id 7, term 2 vote 7 commit 1, snapshot 1/1 "the state at 1" voters [7], 2/2 3/2`)
	})
}

func TestPowerCutEndsTheOldLog(t *testing.T) {
	l := memwal.New()
	form(t, l)
	next := l.Crash(rand.New(rand.NewPCG(1, 1)))
	if err := l.Save(write(hard(5, 1), nil, true)); !errors.Is(err, memwal.ErrPowerCut) {
		t.Fatalf("after a power cut: %v", err)
	}
	want(t, next, `id 7, term 1 vote 0 commit 1, snapshot 1/1 "the state at 1" voters [7], `)
}

func TestTwoSnapshotFilesAreKept(t *testing.T) {
	dir := t.TempDir()
	l := openBolt(t, dir)
	form(t, l)
	must(t, l.Save(write(hard(1, 1), entries(1, 2, 9), true)))
	for i := uint64(3); i < 8; i++ {
		must(t, l.SaveSnapshot(snapshot(i, 1)))
	}
	names, err := filepath.Glob(filepath.Join(dir, "*.snapshot*"))
	must(t, err)
	if len(names) != 2 || filepath.Base(names[1]) != "00000000000000000007-00000000000000000001.snapshot" {
		t.Fatalf("snapshots %q", names)
	}
}

func TestNewerFormatIsRefused(t *testing.T) {
	dir := t.TempDir()
	l := openBolt(t, dir)
	must(t, wal.SetFormat(l, 2))
	must(t, l.Close())
	_, err := wal.Open(dir)
	if err == nil || !strings.Contains(err.Error(), "has format 2, this release knows 1: start") {
		t.Fatalf("a newer format: %v", err)
	}
}

func TestLogInUse(t *testing.T) {
	dir := t.TempDir()
	openBolt(t, dir)
	if _, err := wal.Open(dir); err == nil || !strings.Contains(err.Error(), "in use by another process") {
		t.Fatalf("opened twice: %v", err)
	}
}

// An interrupted creation leaves a file under another name, and is begun again.
func TestCreationIsBegunAgain(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "log.db.tmp"), make([]byte, 5000), 0o644))
	form(t, openBolt(t, dir))
}

// grown is a log with branch pages, long values and an inline bucket, and its directory. The number of its transactions
// is odd or even: that decides which of the two meta pages is in force.
func grown(t *testing.T, odd bool) (dir, state string) {
	dir = t.TempDir()
	l := openBolt(t, dir)
	form(t, l)
	for i := uint64(2); i < 250; i += 10 {
		must(t, l.Save(write(hard(2, i-1), entries(2, i, i+9), true)))
	}
	long := entries(2, 252, 252)
	long[0].Data = make([]byte, 20_000)
	must(t, l.Save(write(hard(2, 251), long, true)))
	must(t, l.SaveSnapshot(snapshot(50, 2)))
	must(t, l.Compact(20))
	if odd {
		must(t, l.Compact(30))
	}
	must(t, l.Compact(40))
	must(t, l.Close())
	return dir, stateOf(t, dir)
}

// stateOf reloads and puts the files back.
func stateOf(t *testing.T, dir string) string {
	t.Helper()
	name := filepath.Join(dir, "log.db")
	orig, err := os.ReadFile(name)
	must(t, err)
	state, err := reload(dir)
	must(t, err)
	must(t, os.WriteFile(name, orig, 0o644))
	return state
}

// flipsOf opens a copy of the log with each of the given bits turned over. It must be refused with an error that names the
// file, or hold exactly what it held. A panic or a fault ends the test.
func flipsOf(t *testing.T, dir, state, name string, offsets []int) {
	orig, err := os.ReadFile(filepath.Join(dir, name))
	must(t, err)
	refused := 0
	for i, at := range offsets {
		bad := append([]byte(nil), orig...)
		bad[at/8] ^= 1 << (at % 8)
		must(t, os.WriteFile(filepath.Join(dir, name), bad, 0o644))
		if i%4 == 0 { // under the race detector it costs as much as the rest
			inspectionOf(t, filepath.Join(dir, "log.db"), name, state, at)
		}
		got, err := reload(dir)
		switch {
		case err != nil && !strings.Contains(err.Error(), name):
			t.Errorf("byte %d bit %d: the error does not name %s: %v", at/8, at%8, name, err)
		case err != nil:
			refused++
		case got != state:
			t.Errorf("byte %d bit %d: silently wrong:\n  %s, was\n  %s", at/8, at%8, got, state)
		}
	}
	must(t, os.WriteFile(filepath.Join(dir, name), orig, 0o644))
	t.Logf("%s: %d of %d flips refused, the others harmless", name, refused, len(offsets))
	if refused == 0 {
		t.Error("no flip was noticed")
	}
}

// inspectionOf wants the same of Inspect.
func inspectionOf(t *testing.T, file, name, state string, at int) {
	t.Helper()
	s, err := wal.Inspect(file)
	switch {
	case err != nil && !strings.Contains(err.Error(), name):
		t.Errorf("byte %d bit %d: the inspection does not name %s: %v", at/8, at%8, name, err)
	case err == nil && state != describe(s.State) && !strings.HasPrefix(state, describe(s.State)+"\n  then "):
		t.Errorf("byte %d bit %d: the inspection is silently wrong:\n  %s, was\n  %s", at/8, at%8, describe(s.State), state)
	}
}

// reload is what the log holds, and what it holds after pages were freed and used again: a page that claims to be longer
// than it is does harm only then.
func reload(dir string) (string, error) {
	l, err := wal.Open(dir)
	if err != nil {
		return "", err
	}
	defer l.Close()
	wal.NoSync(l) // no power cut is in play here
	first, err := l.Load()
	if err != nil || len(first.Entries) == 0 {
		return describe(first), err
	}
	next := first.Entries[len(first.Entries)-1].GetIndex() + 1
	for i := next; i < next+20; i += 10 {
		if err := errors.Join(l.Compact(40+i-next), l.Save(write(hard(3, 1), entries(3, i, i+9), true))); err != nil {
			return "", err
		}
	}
	second, err := l.Load()
	return describe(first) + "\n  then " + describe(second), err
}

// keysIn finds the bits of all names, in the pages in force and in those that were.
func keysIn(t *testing.T, dir string) (bits []int) {
	text, err := os.ReadFile(filepath.Join(dir, "log.db"))
	must(t, err)
	for _, key := range []string{"format", "hard-state", "raft-id", "snapshot", "meta", "log"} {
		for at := 0; ; at++ {
			i := bytes.Index(text[at:], []byte(key))
			if i < 0 {
				break
			}
			at += i
			for bit := range len(key) * 8 {
				bits = append(bits, at*8+bit)
			}
		}
	}
	return bits
}

func TestBitFlips(t *testing.T) {
	dir, state := grown(t, false)
	info, err := os.Stat(filepath.Join(dir, "log.db"))
	must(t, err)
	var headers, metas, anywhere []int
	page := os.Getpagesize()
	for p := 0; p < int(info.Size()); p += page {
		for bit := p / page % 5; bit < 16*8; bit += 5 { // a fifth of the bits of each page, another fifth in the next
			headers = append(headers, p*8+bit)
		}
	}
	for bit := range 80 * 8 {
		metas = append(metas, bit, page*8+bit)
	}
	rng := rand.New(rand.NewPCG(3, 4))
	for range 300 {
		anywhere = append(anywhere, rng.IntN(int(info.Size())*8))
	}
	t.Run("headers", func(t *testing.T) { flipsOf(t, dir, state, "log.db", headers) })
	t.Run("keys", func(t *testing.T) { flipsOf(t, dir, state, "log.db", keysIn(t, dir)) })
	t.Run("keys of a new cluster", func(t *testing.T) {
		dir := t.TempDir()
		l := openBolt(t, dir)
		form(t, l)
		must(t, l.Close())
		flipsOf(t, dir, stateOf(t, dir), "log.db", keysIn(t, dir))
	})
	t.Run("metas", func(t *testing.T) {
		flipsOf(t, dir, state, "log.db", metas)
		dir, state := grown(t, true)
		flipsOf(t, dir, state, "log.db", metas)
	})
	t.Run("anywhere", func(t *testing.T) { flipsOf(t, dir, state, "log.db", anywhere) })
	t.Run("snapshot", func(t *testing.T) {
		name := "00000000000000000050-00000000000000000002.snapshot"
		var all []int
		for bit := range (len("the state at 50") + 4) * 8 {
			all = append(all, bit)
		}
		flipsOf(t, dir, state, name, all)
	})
}

// Beside the process that has the log open, Inspect finds what Load does there.
func TestInspectBesideAWriter(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "raft")
	file := filepath.Join(dir, "log.db")
	if _, err := wal.Inspect(file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no log: %v", err)
	}
	l := openBolt(t, dir)
	if s, err := wal.Inspect(file); err != nil || s.RaftID != 0 {
		t.Errorf("a log that is not formed: %+v, %v", s, err)
	}
	form(t, l)
	stop, done := make(chan struct{}), make(chan error, 1)
	go func() {
		for i := uint64(2); ; i++ {
			select {
			case <-stop:
				done <- nil
				return
			default:
			}
			if err := l.Save(write(hard(2, i-1), entries(2, i, i), true)); err != nil {
				done <- err
				return
			}
			if i%50 == 0 {
				if err := errors.Join(l.SaveSnapshot(snapshot(i, 2)), l.Compact(i-5)); err != nil {
					done <- err
					return
				}
			}
		}
	}()
	read := 0
	for last := uint64(0); last < 300; {
		s, err := wal.Inspect(file)
		if err != nil && strings.Contains(err.Error(), "try again") {
			continue
		}
		if err != nil || s.RaftID != 7 || s.Format != 1 {
			t.Fatalf("%+v, %v", s, err)
		}
		read++
		if n := len(s.Entries); n > 0 {
			last = s.Entries[n-1].GetIndex()
		}
	}
	close(stop)
	must(t, <-done)
	s, err := wal.Inspect(file)
	must(t, err)
	want(t, l, describe(s.State))
	t.Logf("read %d times while it was written", read)
}

func TestCutFile(t *testing.T) {
	dir, state := grown(t, false)
	name := filepath.Join(dir, "log.db")
	orig, err := os.ReadFile(name)
	must(t, err)
	for n := 0; n < len(orig); n += 512 {
		must(t, os.WriteFile(name, orig[:n], 0o644))
		if got, err := reload(dir); err == nil && got != state {
			t.Fatalf("cut to %d bytes it holds %s", n, got)
		}
	}
	must(t, os.WriteFile(name, orig, 0o644))
	must(t, os.Remove(filepath.Join(dir, "00000000000000000050-00000000000000000002.snapshot")))
	if _, err := reload(dir); err == nil || !strings.Contains(err.Error(), "missing") {
		t.Fatalf("without its snapshot: %v", err)
	}
}

func TestStateCheck(t *testing.T) {
	sound := func() wal.State {
		return wal.State{RaftID: 7, HardState: hard(2, 5), Snapshot: snapshot(3, 1), Entries: entries(2, 4, 6)}
	}
	for name, c := range map[string]struct {
		damage func(*wal.State)
		index  uint64
	}{
		"sound":                      {func(*wal.State) {}, 0},
		"kept entries":               {func(s *wal.State) { s.Entries = entries(2, 2, 6) }, 0},
		"nothing behind snapshot":    {func(s *wal.State) { s.Entries, s.HardState = nil, hard(2, 3) }, 0},
		"hole behind snapshot":       {func(s *wal.State) { s.Entries = s.Entries[1:] }, 4},
		"hole":                       {func(s *wal.State) { s.Entries = append(s.Entries[:1:1], s.Entries[2]) }, 5},
		"committed entry is missing": {func(s *wal.State) { s.HardState = hard(2, 9) }, 7},
	} {
		s := sound()
		c.damage(&s)
		err := s.Check("the file")
		var corrupt *wal.CorruptError
		if c.index == 0 && err != nil || c.index > 0 && (!errors.As(err, &corrupt) || corrupt.Index != c.index || corrupt.File != "the file") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func write(hs *pb.HardState, es []*pb.Entry, sync bool) wal.Write {
	return wal.Write{HardState: hs, Entries: es, Sync: sync}
}

func TestLeadersSnapshotReplacesTheLog(t *testing.T) {
	each(t, func(t *testing.T, l wal.Log, reopen func(wal.Log) wal.Log) {
		form(t, l)
		must(t, l.Save(write(hard(2, 1), entries(2, 2, 6), true)))
		must(t, l.Save(wal.Write{HardState: hard(3, 20), Snapshot: snapshot(20, 3), Entries: entries(3, 21, 22), Sync: true}))
		must(t, l.SaveSnapshot(snapshot(5, 2))) // was being written meanwhile
		want(t, reopen(l), `id 7, term 3 vote 7 commit 20, snapshot 20/3 "the state at 20" voters [7], 21/3 22/3`)
	})
}

func TestDrawnIdStays(t *testing.T) {
	each(t, func(t *testing.T, l wal.Log, reopen func(wal.Log) wal.Log) {
		if s := load(t, l); s.RaftID != 0 || s.Formed() {
			t.Fatalf("a new log: %+v", s)
		}
		must(t, l.Draw(7))
		l = reopen(l)
		if s := load(t, l); s.RaftID != 7 || s.Formed() {
			t.Fatalf("after the draw: %+v", s)
		}
		form(t, l)
		if s := load(t, reopen(l)); s.RaftID != 7 || !s.Formed() {
			t.Fatalf("after forming: %+v", s)
		}
	})
}

// The log in memory is read by the code that reads the file: a changed bit is found wherever it is, and the place is named.
func TestFlipsInMemory(t *testing.T) {
	found := map[string]bool{}
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		l := memwal.New()
		form(t, l)
		must(t, l.Save(write(hard(2, 1), entries(2, 2, 9), true)))
		must(t, l.SaveSnapshot(snapshot(5, 2)))
		next, whole := l.Crash(rng), l.Crash(rng) // which share what was not flipped
		want := next.Flip(rng)
		_, err := next.Load()
		var got *wal.CorruptError
		if !errors.As(err, &got) || got.File != want.File || got.Index != want.Index || !strings.HasPrefix(got.Reason, want.Reason) {
			t.Fatalf("seed %d: %v where %v belongs", seed, err, want)
		}
		load(t, whole)
		found[want.File+want.Reason] = true
	}
	if len(found) != 5 {
		t.Fatalf("flips of %v only", found)
	}
}

// A Save that failed may be on the disk or not, and no later one succeeds.
func TestFailedSave(t *testing.T) {
	const before = `id 7, term 1 vote 0 commit 1, snapshot 1/1 "the state at 1" voters [7], `
	const after = `id 7, term 2 vote 7 commit 1, snapshot 1/1 "the state at 1" voters [7], 2/2 3/2`
	full := errors.New("no room")
	found := map[string]int{}
	for seed := range uint64(20) {
		l := memwal.New()
		form(t, l)
		l.Fail(full)
		must(t, l.Save(write(nil, nil, false))) // which the file would not write
		if err := errors.Join(l.SaveSnapshot(snapshot(2, 2)), l.Compact(1)); !errors.Is(err, full) {
			t.Fatal(err)
		}
		for _, fault := range []error{full, nil} {
			if l.Fail(fault); !errors.Is(l.Save(write(hard(2, 1), entries(2, 2, 3), true)), full) {
				t.Fatalf("a save behind one that failed succeeds, the fault is now %v", fault)
			}
		}
		found[describe(load(t, l.Crash(rand.New(rand.NewPCG(seed, 1)))))]++
	}
	if found[before] == 0 || found[after] == 0 || len(found) != 2 {
		t.Fatalf("after the crash there was %v", found)
	}
}
