package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// wrapper stands where the page has the binary, and sends it to the test's
// broker.
const wrapper = `#!/bin/sh
case $1 in
topic | produce | consume | group) exec "$SELF" "$@" --bootstrap "$BOOTSTRAP" ;;
*) exec "$SELF" "$@" ;;
esac
`

type step struct {
	command, output string
}

// steps are the commands of the fenced blocks, each with the lines below it.
func steps(page string) []step {
	var all []step
	fenced := false
	for line := range strings.Lines(page) {
		command, isCommand := strings.CutPrefix(line, "$ ")
		switch {
		case strings.HasPrefix(line, "```"):
			fenced = !fenced
		case fenced && isCommand:
			all = append(all, step{command: strings.TrimSpace(command)})
		case fenced:
			all[len(all)-1].output += line
		}
	}
	return all
}

// What differs from one session to the next.
var (
	shownTime = regexp.MustCompile(`\d{4}-\d\d-\d\dT[\d:.]+Z`)
	shownID   = regexp.MustCompile(`(?m)^(id: +)[\w-]{22}$`)
)

func timeless(s string) string {
	return shownID.ReplaceAllString(shownTime.ReplaceAllString(s, "TIME"), "${1}ID")
}

// The page's commands print what the page shows.
func TestQuickstart(t *testing.T) {
	page, err := os.ReadFile("../../docs/quickstart.md")
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "bin", "streambus"), []byte(wrapper), 0o755); err != nil {
		t.Fatal(err)
	}
	_, noKcat := exec.LookPath("kcat")
	var b *served
	ran := 0
	for _, s := range steps(string(page)) {
		switch {
		case s.command == "make build":
			continue
		case s.command == "bin/streambus serve":
			// Once more is after Ctrl-C.
			if b != nil && b.stop() != 0 {
				t.Fatal("Ctrl-C")
			}
			b = serving(t, filepath.Join(dir, "data"), "--set", "group.initial.rebalance.delay.ms=0") // Kafka's 3 s
			continue
		case noKcat != nil && (strings.HasPrefix(s.command, "kcat ") || strings.HasPrefix(s.command, "bin/streambus group ")):
			continue // it is kcat that makes the group
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		cmd := exec.CommandContext(ctx, "sh", "-c", strings.ReplaceAll(s.command, "127.0.0.1:9092", b.address))
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), asCommand+"=1", "SELF="+self, "BOOTSTRAP="+b.address)
		out, err := cmd.CombinedOutput()
		if ctx.Err() != nil {
			t.Errorf("$ %s\nhas no end", s.command)
		}
		cancel()
		if got, want := timeless(string(out)), timeless(s.output); got != want {
			t.Errorf("$ %s (%v)\n%swhere the page shows\n%s", s.command, err, got, want)
		}
		ran++
	}
	if ran < 10 {
		t.Errorf("the page has %d commands", ran)
	}
}
