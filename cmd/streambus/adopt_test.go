package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestAdopt copies a topic out of another directory. That Apache Kafka writes
// such directories is what make compat looks at.
func TestAdopt(t *testing.T) {
	base := t.TempDir()
	from, to := filepath.Join(base, "from"), filepath.Join(base, "to")
	want := func(code int, out, errs, says string, wanted int) {
		t.Helper()
		if code != wanted || !strings.Contains(out+errs, says) {
			t.Errorf("exit code %d, want %d and %q\n%s%s", code, wanted, says, out, errs)
		}
	}
	client := func(b *served, args ...string) string {
		t.Helper()
		out, errs, code := run(t, append(args, "--bootstrap", b.address)...)
		if code != 0 {
			t.Fatalf("%s: exit code %d\n%s%s", args, code, out, errs)
		}
		return out
	}
	for _, dir := range []string{from, to} {
		b := serving(t, dir)
		client(b, "topic", "create", "orders", "wide", "--partitions", "1")
		if dir == from {
			client(b, "topic", "create", "lone")
			file := filepath.Join(base, "lines")
			if err := os.WriteFile(file, []byte("one\ntwo\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			client(b, "produce", "orders", "--file", file)
		} else {
			client(b, "topic", "alter", "wide", "--partitions", "2")
		}
		if code := b.stop(); code != 0 {
			t.Fatalf("exit code %d", code)
		}
	}
	adopt := func(args ...string) (out, errs string, code int) {
		return run(t, append([]string{"adopt", "--data-dir", to}, args...)...)
	}
	out, errs, code := run(t, "adopt", from, "orders", "--data-dir", filepath.Join(base, "nothing"))
	want(code, out, errs, "is no data directory of StreamBus", 1)
	out, errs, code = adopt(from)
	want(code, out, errs, "requires at least 2 arg(s)", 2)
	out, errs, code = adopt(from, "lone")
	want(code, out, errs, "StreamBus has no topic lone", 1)
	out, errs, code = adopt(from, "wide")
	want(code, out, errs, "topic wide has 2 partitions in StreamBus and 0 in Kafka's directory", 1)
	out, errs, code = adopt(from, "orders")
	want(code, out, errs, "adopted orders-0: offsets 0 to 2", 0)
	out, errs, code = adopt(from, "orders")
	want(code, out, errs, "is there already", 1)
	out, errs, code = run(t, "inspect", "dir", to, "--verify")
	want(code, out, errs, "clean_shutdown=true logs=1 damaged=0", 0)

	b := serving(t, to)
	defer b.stop()
	out, errs, code = adopt(from, "orders")
	want(code, out, errs, "is in use", 1)
	if got := client(b, "consume", "orders", "--exit-at-end"); got != "one\ntwo\n" {
		t.Errorf("%q", got)
	}
}
