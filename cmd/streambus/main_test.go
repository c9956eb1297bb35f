package main

import (
	"bufio"
	"bytes"
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// The test binary is the command when it is called with this in its
// environment: exit codes are those of a real process.
const asCommand = "RUN_TEST_AS_COMMAND"

func TestMain(m *testing.M) {
	if os.Getenv(asCommand) != "" {
		main()
		return
	}
	// Under the race detector each process waits a second before it ends, unless it
	// is told not to, and these tests start hundreds.
	if os.Getenv("GORACE") == "" {
		os.Setenv("GORACE", "atexit_sleep_ms=0")
	}
	os.Exit(m.Run())
}

func command(ctx context.Context, t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), asCommand+"=1")
	return cmd
}

// run runs a command to its end.
func run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := command(ctx, t, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.Run()
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

var (
	adminAddress  = regexp.MustCompile(`metrics=http://(\S+)/metrics`)
	clientAddress = regexp.MustCompile(`msg=listening .*advertised=(\S+)`)
)

// served is a broker in a process of its own.
type served struct {
	cmd            *exec.Cmd
	log            *bufio.Scanner
	address, admin string
}

// serving starts a broker.
func serving(t *testing.T, data string, more ...string) *served {
	t.Helper()
	b := &served{cmd: command(t.Context(), t, serveArgs(data, more...)...)}
	pipe, err := b.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := b.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.cmd.Process.Kill(); b.cmd.Wait() })
	b.log = bufio.NewScanner(pipe)
	started, text := false, ""
	for !started && b.log.Scan() {
		text += b.log.Text() + "\n"
		if m := adminAddress.FindStringSubmatch(b.log.Text()); m != nil {
			b.admin = m[1]
		}
		if m := clientAddress.FindStringSubmatch(b.log.Text()); m != nil {
			b.address = m[1]
		}
		started = strings.Contains(b.log.Text(), "msg=started")
	}
	if !started {
		t.Fatalf("it has not started:\n%s", text)
	}
	return b
}

// stop ends it with SIGINT and gives its exit code.
func (b *served) stop() int {
	b.cmd.Process.Signal(os.Interrupt)
	for b.log.Scan() {
	}
	b.cmd.Wait()
	return b.cmd.ProcessState.ExitCode()
}

func serveArgs(data string, more ...string) []string {
	return append([]string{"serve", "--data-dir", data, "--listeners", "PLAINTEXT://127.0.0.1:0", "--admin-listen", "127.0.0.1:0"}, more...)
}

func TestVersion(t *testing.T) {
	if out, errs, code := run(t, "version"); code != 0 || out != "streambus "+version+"\n" || errs != "" {
		t.Errorf("exit code %d, %q, %q", code, out, errs)
	}
}

func TestHealth(t *testing.T) {
	b := serving(t, filepath.Join(t.TempDir(), "data"))
	if out, _, code := run(t, "health", "--admin-listen", b.admin); code != 0 || out != "ready\n" {
		t.Errorf("ready: exit code %d, %q", code, out)
	}
	_, port, err := net.SplitHostPort(b.admin)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("HTTP_PROXY", "http://127.0.0.1:1") // as Docker passes it on to containers
	for variable, want := range map[string]struct {
		code int
		says string
	}{
		"KAFKA_STREAMBUS_ADMIN_LISTEN=" + b.admin:      {0, "ready\n"},
		"KAFKA_STREAMBUS_ADMIN_LISTEN=0.0.0.0:" + port: {0, "ready\n"},
		"KAFKA_STREAMBUS_ADMIN_LISTEN=:" + port:        {0, "ready\n"},
		"KAFKA_STREAMBUS_ADMIN_LISTEN=[::]:" + port:    {0, "ready\n"},
		"KAFKA_STREAMBUS_ADMIN_LISTEN=127.0.0.1:1":     {1, "no broker answers"},
		"KAFKA_STREAMBUS_ADMIN_LISTEN=" + port:         {2, "must be of the form host:port"},
		"KAFKA_NUM_PARTITIONS=many":                    {2, "configuration num.partitions"},
	} {
		t.Run(variable, func(t *testing.T) {
			name, text, _ := strings.Cut(variable, "=")
			t.Setenv(name, text)
			if out, errs, code := run(t, "health"); code != want.code || !strings.Contains(out+errs, want.says) {
				t.Errorf("exit code %d, %q, %s", code, out, errs)
			}
			if out, _, code := run(t, "health", "--admin-listen", b.admin); code != 0 || out != "ready\n" {
				t.Errorf("the flag wins: exit code %d, %q", code, out)
			}
		})
	}
	if code := b.stop(); code != 0 {
		t.Errorf("SIGINT: exit code %d", code)
	}
	if _, errs, code := run(t, "health", "--admin-listen", b.admin); code != 1 || !strings.Contains(errs, "no broker answers") {
		t.Errorf("stopped: exit code %d, %s", code, errs)
	}
	starting := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Error(w, "starting: "+r.URL.Path, http.StatusServiceUnavailable)
	}))
	defer starting.Close()
	if _, errs, code := run(t, "health", "--admin-listen", strings.TrimPrefix(starting.URL, "http://")); code != 1 || !strings.Contains(errs, "not ready: starting: /health/ready") {
		t.Errorf("starting: exit code %d, %s", code, errs)
	}
}

// Each refusal says what is wrong, as the last thing it says: with exit code 2 if
// it takes another command line, else with 1.
func TestRefusals(t *testing.T) {
	base := t.TempDir()
	data, foreign := filepath.Join(base, "data"), filepath.Join(base, "foreign")
	for _, dir := range []string{data, foreign} {
		if serving(t, dir).stop() != 0 {
			t.Fatal("a clean stop")
		}
	}
	file := filepath.Join(base, "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { taken.Close() })
	inUse := filepath.Join(base, "in-use")
	serving(t, inUse)
	// The metadata of one cluster beside the identity of another.
	mixed := filepath.Join(base, "mixed")
	if err := os.CopyFS(mixed, os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	identity, err := os.ReadFile(filepath.Join(foreign, "meta.properties"))
	if err == nil {
		err = os.WriteFile(filepath.Join(mixed, "meta.properties"), identity, 0o644)
	}
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		args []string
		code int
		want string
	}{
		"no command of ours":   {[]string{"frobnicate"}, 2, `has no command "frobnicate"`},
		"an argument too many": {[]string{"serve", "now"}, 2, "now"},
		"a flag that is none":  {[]string{"serve", "--port=1"}, 2, "unknown flag"},
		"a setting without =":  {serveArgs(data, "--set", "node.id"), 2, "key=value"},
		"a value that is none": {serveArgs(data, "--set", "num.partitions=x"), 2, "num.partitions"},
		"a file":               {serveArgs(file), 1, file},
		"below a file":         {serveArgs(filepath.Join(file, "data")), 1, "not a directory"},
		"a directory in use":   {serveArgs(inUse), 1, "in use"},
		"another node's":       {serveArgs(data, "--set", "node.id=2"), 1, "belongs to node 1"},
		"another cluster's":    {serveArgs(mixed), 1, "put together from two"},
		"a port in use":        {[]string{"serve", "--data-dir", filepath.Join(base, "x"), "--listeners", "PLAINTEXT://" + taken.Addr().String(), "--admin-listen", "127.0.0.1:0"}, 1, "address already in use"},
		"an admin port in use": {[]string{"serve", "--data-dir", filepath.Join(base, "y"), "--listeners", "PLAINTEXT://127.0.0.1:0", "--admin-listen", taken.Addr().String()}, 1, "admin listener"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, errs, code := run(t, c.args...)
			_, said, _ := strings.Cut("\n"+errs, "\nstreambus: ")
			if code != c.code || !strings.Contains(said, c.want) || out != "" {
				t.Errorf("exit code %d\n%s%s", code, out, errs)
			}
		})
	}
}
