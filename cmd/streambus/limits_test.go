package main

import (
	"bufio"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// startedUnder starts a broker behind a command of the shell and gives what it
// logs until it has started.
func startedUnder(t *testing.T, shell string) string {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	args := append([]string{"-c", shell + ` && exec "$0" "$@"`, self}, serveArgs(filepath.Join(t.TempDir(), "data"))...)
	cmd := exec.CommandContext(ctx, "sh", args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	pipe, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Skipf("no shell: %v", err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	text := ""
	for log := bufio.NewScanner(pipe); log.Scan(); {
		text += log.Text() + "\n"
		if strings.Contains(log.Text(), "msg=started") {
			return text
		}
	}
	t.Fatalf("it has not started:\n%s", text)
	return ""
}

// A low soft limit of open files is raised; a low hard one is explained.
func TestLimitOfOpenFiles(t *testing.T) {
	if log := startedUnder(t, "ulimit -Sn 64 && test $(ulimit -Hn) -ge 10000"); strings.Contains(log, "few files") {
		t.Errorf("the soft limit was not raised:\n%s", log)
	}
	log := startedUnder(t, "ulimit -n 512")
	for _, want := range []string{"few files may be open", "limit=512", "connections=128", "ulimit -Hn"} {
		if !strings.Contains(log, want) {
			t.Errorf("no %q in\n%s", want, log)
		}
	}
}

// What cannot be bound or advertised names the setting and the way out.
func TestAddressesThatAreRefused(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	data := filepath.Join(t.TempDir(), "data")
	for name, c := range map[string]struct {
		listeners, advertised string
		want                  []string
	}{
		"a port in use":  {"PLAINTEXT://" + taken.Addr().String(), "", []string{"listener PLAINTEXT://" + taken.Addr().String(), "set listeners to a free port"}},
		"every address":  {"PLAINTEXT://0.0.0.0:0", "", []string{"PLAINTEXT://0.0.0.0:", "cannot be advertised", "set advertised.listeners"}},
		"no host":        {"PLAINTEXT://:0", "", []string{"cannot be advertised", "set advertised.listeners"}},
		"every IPv6 one": {"PLAINTEXT://127.0.0.1:0", "PLAINTEXT://[::]:9092", []string{"PLAINTEXT://[::]:9092", "set advertised.listeners"}},
	} {
		t.Run(name, func(t *testing.T) {
			args := serveArgs(data, "--listeners", c.listeners)
			if c.advertised != "" {
				args = append(args, "--advertised-listeners", c.advertised)
			}
			_, errs, code := run(t, args...)
			for _, want := range c.want {
				if code != 1 || !strings.Contains(errs, want) {
					t.Errorf("exit code %d, no %q in\n%s", code, want, errs)
				}
			}
		})
	}
}
