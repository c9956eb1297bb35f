package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The exit code says whether something is damaged, also beside a broker at work; nothing in the directory changes.
func TestInspect(t *testing.T) {
	data := filepath.Join(t.TempDir(), "data")
	b := serving(t, data)
	if out, errs, code := run(t, "inspect", "dir", data); code != 0 || !strings.Contains(out, "clean_shutdown=false logs=0 damaged=0") {
		t.Errorf("beside the broker: exit code %d\n%s%s", code, out, errs)
	}
	if code := b.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	before := contents(t, data)
	raft := filepath.Join(data, "raftmeta", "log.db")
	for name, args := range map[string][]string{
		"dir": {"dir", data, "--verify"}, "raft": {"raft", raft}, "snapshot": {"snapshot", raft},
		"checkpoint": {"checkpoint", filepath.Join(data, "meta.properties")},
	} {
		out, errs, code := run(t, append([]string{"inspect", args[0], "-o", "json"}, args[1:]...)...)
		if code != 0 || errs != "" || out == "" {
			t.Errorf("%s: exit code %d\n%s%s", name, code, out, errs)
		}
		for line := range strings.Lines(out) {
			if !json.Valid([]byte(line)) {
				t.Errorf("%s: %s", name, line)
			}
		}
	}
	if after := contents(t, data); after != before {
		t.Error("the directory has changed")
	}
	reserve := filepath.Join(data, "raftmeta", "reserve")
	if out, _, _ := run(t, "inspect", "dir", data); !strings.Contains(out, "kind=reserve file="+reserve+" bytes=67108864") {
		t.Errorf("nothing is said of %s:\n%s", reserve, out)
	}
	if err := os.Remove(reserve); err != nil {
		t.Fatal(err)
	}
	if out, _, code := run(t, "inspect", "dir", data); code != 0 || !strings.Contains(out, "kind=note file="+reserve) {
		t.Errorf("without a reserve: exit code %d\n%s", code, out)
	}
	page, err := os.ReadFile(raft)
	if err == nil {
		page[20] ^= 1
		err = os.WriteFile(raft, page, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	if out, _, code := run(t, "inspect", "dir", data); code != 1 || !strings.Contains(out, "kind=damage file="+raft) || !strings.Contains(out, "page 0") {
		t.Errorf("damaged: exit code %d\n%s", code, out)
	}
	if _, errs, code := run(t, "inspect", "raft", filepath.Join(data, "nothing")); code != 1 || !strings.Contains(errs, "no such file") {
		t.Errorf("no file: exit code %d, %s", code, errs)
	}
	for _, args := range [][]string{{"inspect", "wal"}, {"inspect", "raft"}, {"inspect", "raft", raft, raft}, {"inspect", "raft", "--what", raft}, {"inspect", "raft", raft, "-o", "xml"}} {
		if out, errs, code := run(t, args...); code != 2 || out != "" || !strings.Contains(errs, "streambus inspect") {
			t.Errorf("%q: exit code %d, %s%s", args, code, out, errs)
		}
	}
}

// contents is all names and files below a directory.
func contents(t *testing.T, dir string) string {
	t.Helper()
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := os.ReadFile(path)
		all.WriteString(path + "\n" + string(b))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all.String()
}
