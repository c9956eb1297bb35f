package vfs_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	iofs "io/fs"
	"math/rand/v2"
	"net"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/streambus/streambus/storage/vfs"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t *testing.T, fs vfs.FS, name string, content []byte) vfs.File {
	t.Helper()
	f, err := fs.Create(name)
	must(t, err)
	_, err = f.WriteAt(content, 0)
	must(t, err)
	return f
}

func content(t *testing.T, fs vfs.FS, name string) []byte {
	t.Helper()
	f, err := fs.Open(name)
	must(t, err)
	defer f.Close()
	size, err := f.Size()
	must(t, err)
	b := make([]byte, size)
	if n, err := f.ReadAt(b, 0); n < len(b) {
		t.Fatal(err)
	}
	return b
}

// TestSameOnBoth runs one script on the machine's file system and on Mem.
func TestSameOnBoth(t *testing.T) {
	for name, fs := range map[string]vfs.FS{"os": vfs.OS(), "mem": vfs.NewMem()} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "a", "b")
			path := func(base string) string { return filepath.Join(dir, base) }
			if err := fs.Mkdir(dir); !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("a directory in none: %v", err)
			}
			must(t, fs.MkdirAll(dir))
			must(t, fs.MkdirAll(dir))
			must(t, fs.Mkdir(path("d")))
			if info, err := fs.Stat(path("d")); err != nil || !info.IsDir {
				t.Errorf("a directory: %+v, %v", info, err)
			}
			if err := fs.Mkdir(path("d")); !errors.Is(err, iofs.ErrExist) {
				t.Errorf("a directory twice: %v", err)
			}
			must(t, fs.Remove(path("d")))
			_, err := fs.Open(path("x"))
			if !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("open of nothing: %v", err)
			}
			if _, err := fs.Stat(path("x")); !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("stat of nothing: %v", err)
			}
			f := create(t, fs, path("x"), []byte("hello"))
			_, err = f.WriteAt([]byte("!"), 7)
			must(t, err)
			if got := content(t, fs, path("x")); string(got) != "hello\x00\x00!" {
				t.Errorf("content %q", got)
			}
			must(t, f.Truncate(3))
			must(t, f.StartWriteback(0, 3))
			must(t, f.Sync())
			if n, err := f.ReadAt(make([]byte, 5), 0); n != 3 || err != io.EOF {
				t.Errorf("read over the end: %d, %v", n, err)
			}
			var sent bytes.Buffer
			if n, err := f.SendTo(&sent, 1, 2); n != 2 || err != nil || sent.String() != "el" {
				t.Errorf("sent %d %q, %v", n, sent.String(), err)
			}
			if _, err := f.SendTo(&sent, 1, 5); !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("sent over the end: %v", err)
			}
			must(t, f.Close())
			if f.Sync() == nil {
				t.Error("a closed file was synced")
			}
			create(t, fs, path("y"), []byte("other")).Close()
			must(t, fs.Rename(path("x"), path("y")))
			names, err := fs.List(dir)
			if err != nil || !slices.Equal(names, []string{"y"}) {
				t.Errorf("names %q, %v", names, err)
			}
			if got := content(t, fs, path("y")); string(got) != "hel" {
				t.Errorf("content %q", got)
			}
			if err := fs.Remove(dir); err == nil {
				t.Error("a directory with a file was removed")
			}
			must(t, fs.SyncDir(dir))
			must(t, fs.SyncAll(dir))
			create(t, fs, path("y"), nil).Close()
			if info, err := fs.Stat(path("y")); err != nil || info.Size != 0 || info.IsDir {
				t.Errorf("created again: %+v, %v", info, err)
			}
			must(t, fs.Remove(path("y")))
			must(t, fs.Remove(dir))
			if _, err := fs.List(dir); !errors.Is(err, iofs.ErrNotExist) {
				t.Errorf("list of nothing: %v", err)
			}
		})
	}
}

func TestLock(t *testing.T) {
	for name, fs := range map[string]vfs.FS{"os": vfs.OS(), "mem": vfs.NewMem()} {
		path := filepath.Join(t.TempDir(), "lock")
		must(t, fs.MkdirAll(filepath.Dir(path)))
		first, err := fs.Lock(path)
		must(t, err)
		if _, err := fs.Lock(path); !errors.Is(err, vfs.ErrLocked) {
			t.Errorf("%s: second owner: %v", name, err)
		}
		must(t, first.Close())
		second, err := fs.Lock(path)
		must(t, err)
		must(t, second.Close())
	}
}

// crashes returns what show says of many disks after a power cut, and how often.
func crashes(m *vfs.Mem, show func(after *vfs.Mem) string) map[string]int {
	seen := make(map[string]int)
	for seed := range uint64(400) {
		seen[show(m.Crash(rand.New(rand.NewPCG(seed, 1))))]++
	}
	return seen
}

func names(dir string) func(*vfs.Mem) string {
	return func(m *vfs.Mem) string {
		list, err := m.List(dir)
		if err != nil {
			return "no directory"
		}
		return fmt.Sprint(list)
	}
}

func wantExactly(t *testing.T, seen map[string]int, want ...string) {
	t.Helper()
	for _, w := range want {
		if seen[w] == 0 {
			t.Errorf("no crash left %q", w)
		}
		delete(seen, w)
	}
	for s, n := range seen {
		t.Errorf("%d crashes left %q", n, s)
	}
}

func TestCrashOfNames(t *testing.T) {
	m := vfs.NewMem()
	must(t, m.MkdirAll("/d"))
	create(t, m, "/d/a", nil)
	wantExactly(t, crashes(m, names("/d")), "no directory", "[]", "[a]")
	must(t, m.SyncDir("/"))
	wantExactly(t, crashes(m, names("/d")), "[]", "[a]")
	must(t, m.SyncDir("/d"))
	wantExactly(t, crashes(m, names("/d")), "[a]")
	must(t, m.Rename("/d/a", "/d/b"))
	wantExactly(t, crashes(m, names("/d")), "[a]", "[b]")
	must(t, m.Remove("/d/b")) // cannot survive without the rename
	wantExactly(t, crashes(m, names("/d")), "[a]", "[b]", "[]")
	must(t, m.SyncAll("/"))
	wantExactly(t, crashes(m, names("/d")), "[]")
}

func TestCrashOfContent(t *testing.T) {
	m := vfs.NewMem()
	old, fresh := bytes.Repeat([]byte("o"), 8192), bytes.Repeat([]byte("n"), 8192)
	f := create(t, m, "/f", old)
	must(t, m.SyncDir("/"))
	must(t, f.Sync())
	_, err := f.WriteAt(fresh, 0)
	must(t, err)
	// One letter per sector; a page is eight.
	seen := crashes(m, func(after *vfs.Mem) string {
		b := content(t, after, "/f")
		var s []byte
		for ; len(b) > 0; b = b[512:] {
			if c := bytes.Count(b[:512], b[:1]); c != 512 {
				t.Fatalf("torn inside a sector: %d equal bytes", c)
			}
			s = append(s, b[0])
		}
		return string(s)
	})
	for _, want := range []string{"oooooooooooooooo", "nnnnnnnnnnnnnnnn", "oooooooonnnnnnnn", "nnnnnnnnoooooooo", "nnnnnnnnnnoooooo"} {
		if seen[want] == 0 {
			t.Errorf("no crash left %q: %v", want, seen)
		}
	}
	must(t, f.Sync())
	wantExactly(t, crashes(m, func(after *vfs.Mem) string { return string(content(t, after, "/f")[:1]) }), "n")
}

func TestCrashOfSize(t *testing.T) {
	m := vfs.NewMem()
	f := create(t, m, "/f", make([]byte, 1000))
	must(t, m.SyncAll("/"))
	size := func(after *vfs.Mem) string { return fmt.Sprint(len(content(t, after, "/f"))) }
	wantExactly(t, crashes(m, size), "1000")
	_, err := f.WriteAt(make([]byte, 3000), 1000)
	must(t, err)
	must(t, f.Truncate(2000))
	seen := crashes(m, size)
	if seen["1000"] == 0 || seen["2000"] == 0 || len(seen) < 50 {
		t.Errorf("sizes %v", seen)
	}
	for s := range seen {
		var n int
		fmt.Sscan(s, &n)
		if n < 1000 || n > 4000 {
			t.Errorf("size %d, the file never had it", n)
		}
	}
	must(t, f.Sync())
	wantExactly(t, crashes(m, size), "2000")
}

func TestCrashLeavesTheOwner(t *testing.T) {
	m := vfs.NewMem()
	f := create(t, m, "/f", []byte("before"))
	must(t, m.SyncAll("/"))
	after := m.Crash(rand.New(rand.NewPCG(1, 1)))
	_, err := f.WriteAt([]byte("later!"), 0)
	must(t, err)
	must(t, m.SyncAll("/"))
	if got := content(t, after, "/f"); string(got) != "before" {
		t.Errorf("a write after the power cut reached the disk: %q", got)
	}
	if got := content(t, m, "/f"); string(got) != "later!" {
		t.Errorf("the owner reads %q", got)
	}
}

func TestFaulty(t *testing.T) {
	boom := errors.New("boom")
	var fail vfs.Op
	var calls []string
	m := vfs.NewMem()
	fs := vfs.NewFaulty(m, func(op vfs.Op, name string) error {
		calls = append(calls, op.String()+" "+name)
		if op == fail {
			return boom
		}
		if op == vfs.OpWriteAt {
			return &vfs.ShortWrite{Bytes: 2, Err: boom}
		}
		return nil
	})
	fail = vfs.OpCreate
	if _, err := fs.Create("/f"); err != boom {
		t.Errorf("create: %v", err)
	}
	fail = vfs.OpSync
	f, err := fs.Create("/f")
	must(t, err)
	if n, err := f.WriteAt([]byte("abc"), 0); n != 2 || !errors.Is(err, boom) {
		t.Errorf("short write: %d, %v", n, err)
	}
	if err := f.Sync(); err != boom {
		t.Errorf("sync: %v", err)
	}
	must(t, f.Close())
	if got := content(t, m, "/f"); string(got) != "ab" {
		t.Errorf("content %q", got)
	}
	want := []string{"create /f", "create /f", "write /f", "sync /f", "close /f"}
	if !slices.Equal(calls, want) {
		t.Errorf("calls %q", calls)
	}
}

// TestSendToSharesAFile: many connections send from one open file at once, each
// from places of its own. Every 8 bytes of the file say where they are.
func TestSendToSharesAFile(t *testing.T) {
	const size, readers, sends = 1 << 20, 16, 60
	data := make([]byte, size)
	for i := 0; i < size; i += 8 {
		binary.BigEndian.PutUint64(data[i:], uint64(i))
	}
	f := create(t, vfs.OS(), filepath.Join(t.TempDir(), "f"), data)
	defer f.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	var wg sync.WaitGroup
	for seed := range uint64(readers) {
		rng := rand.New(rand.NewPCG(seed, 2))
		type part struct{ off, n int64 }
		var parts []part
		for range sends {
			off := 8 * rng.Int64N(size/8)
			parts = append(parts, part{off, rng.Int64N(size - off + 1)})
		}
		out, err := net.Dial("tcp", ln.Addr().String())
		must(t, err)
		in, err := ln.Accept()
		must(t, err)
		wg.Go(func() {
			defer out.Close()
			for _, p := range parts {
				if n, err := f.SendTo(out, p.off, p.n); n != p.n || err != nil {
					t.Errorf("sent %d of %d: %v", n, p.n, err)
				}
			}
		})
		wg.Go(func() {
			defer in.Close()
			for _, p := range parts {
				got := make([]byte, p.n)
				if _, err := io.ReadFull(in, got); err != nil {
					t.Error(err)
					return
				}
				if !bytes.Equal(got, data[p.off:p.off+p.n]) {
					t.Errorf("wrong bytes for %d at %d", p.n, p.off)
				}
			}
		})
	}
	wg.Wait()
}

func TestSendToClosedPeer(t *testing.T) {
	f := create(t, vfs.OS(), filepath.Join(t.TempDir(), "f"), make([]byte, 1<<20))
	defer f.Close()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer ln.Close()
	out, err := net.Dial("tcp", ln.Addr().String())
	must(t, err)
	in, err := ln.Accept()
	must(t, err)
	must(t, in.Close())
	for range 100 {
		if _, err = f.SendTo(out, 0, 1<<20); err != nil {
			return
		}
	}
	t.Error("a megabyte was sent a hundred times to nobody")
}

// TestModTime: a write is at the time the machine, or the test, says.
func TestModTime(t *testing.T) {
	mem, hour := vfs.NewMem(), time.UnixMilli(3_600_000)
	mem.SetTime(hour)
	for path, fs := range map[string]vfs.FS{t.TempDir(): vfs.OS(), "/": mem} {
		name := filepath.Join(path, "file")
		f, err := fs.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteAt([]byte("x"), 0); err != nil {
			t.Fatal(err)
		}
		info, err := fs.Stat(name)
		if err != nil || info.ModTime.IsZero() || fs == vfs.FS(mem) && info.ModTime != hour {
			t.Errorf("%T: %v, %v", fs, info.ModTime, err)
		}
		f.Close()
	}
}
