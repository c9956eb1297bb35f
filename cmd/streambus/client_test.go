package main

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func newBroker(t *testing.T, more ...string) *served {
	t.Helper()
	return serving(t, filepath.Join(t.TempDir(), "data"), more...)
}

type result struct {
	out, errs string
	code      int
}

// tool runs a command against the broker, with stdin if it is not empty.
func (b *served) tool(t *testing.T, stdin string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var r result
	var out, errs bytes.Buffer
	cmd := command(ctx, t, append(args, "--bootstrap", b.address)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &out, &errs
	cmd.Run()
	r.out, r.errs, r.code = out.String(), errs.String(), cmd.ProcessState.ExitCode()
	return r
}

// must is tool for what has to succeed; it gives what was printed.
func (b *served) must(t *testing.T, stdin string, args ...string) string {
	t.Helper()
	r := b.tool(t, stdin, args...)
	if r.code != 0 {
		t.Fatalf("%q: exit code %d: %s", args, r.code, r.errs)
	}
	return r.out
}

// put writes records that the produce command cannot.
func (b *served) put(t *testing.T, records ...*kgo.Record) {
	t.Helper()
	client, err := kgo.NewClient(kgo.SeedBrokers(b.address), kgo.RecordPartitioner(kgo.ManualPartitioner()))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if err := client.ProduceSync(t.Context(), records...).FirstErr(); err != nil {
		t.Fatal(err)
	}
}

type refusal struct {
	stdin string
	args  []string
	code  int
	want  string // in the only line on stderr
}

func (b *served) refuses(t *testing.T, cases map[string]refusal) {
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			r := b.tool(t, c.stdin, c.args...)
			said, ours := strings.CutPrefix(r.errs, "streambus: ")
			if r.code != c.code || !ours || !strings.Contains(said, c.want) || strings.Count(said, "\n") != 1 || r.out != "" {
				t.Errorf("exit code %d, %q, %s", r.code, r.out, r.errs)
			}
		})
	}
}

// Nothing waits for ever for a broker that is not there, or says nothing.
func TestNoBroker(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	rude, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { rude.Close() })
	go func() {
		for {
			c, err := rude.Accept()
			if err != nil {
				return
			}
			c.Read(make([]byte, 1000)) // what is unread at the close would reset the connection
			c.Close()
		}
	}()
	for name, c := range map[string]struct{ address, want string }{
		"rude":   {rude.Addr().String(), "it closes connections before it answers"},
		"closed": {closed.Addr().String(), "connection refused"},
		"silent": {silent.Addr().String(), "nothing said within 300ms"},
		"two":    {closed.Addr().String() + "," + silent.Addr().String(), "nothing said within 300ms"},
	} {
		b := &served{address: c.address}
		for _, args := range [][]string{{"topic", "list"}, {"topic", "create", "x"}, {"produce", "x"}, {"consume", "x", "-e"}} {
			t.Run(name+" "+strings.Join(args, " "), func(t *testing.T) {
				t.Parallel()
				began := time.Now()
				r := b.tool(t, "line\n", append(args, "--timeout", "300ms")...)
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
				if r.code != 1 || !strings.HasPrefix(r.errs, "streambus: no broker answers at "+c.address) || !strings.Contains(r.errs, c.want) || !strings.Contains(r.errs, `"streambus serve" starts one`) {
					t.Errorf("exit code %d, %s", r.code, r.errs)
				}
			})
		}
	}
	t.Run("not Kafka", func(t *testing.T) {
		b := newBroker(t)
		(&served{address: b.admin}).refuses(t, map[string]refusal{
			"the admin listener": {"", []string{"topic", "list"}, 1, "HTTP"},
		})
	})
}

// A broker that dies over the first request of a connection is not one that wants
// SASL, as the client guesses.
func TestBrokerHangsUp(t *testing.T) {
	s := &session{remote: &remote{bootstrap: "b:1"}}
	err := s.failed("deleting topics", fmt.Errorf("asking: %w", &kgo.ErrFirstReadEOF{}))
	if text := err.Error(); !strings.Contains(text, "it may have been done or not") || strings.Contains(text, "TLS") {
		t.Error(text)
	}
	if text := (&producer{topic: "t"}).explain(&kgo.ErrFirstReadEOF{}).Error(); !strings.Contains(text, "it may be written or not") || strings.Contains(text, "TLS") {
		t.Error(text)
	}
}

func TestWrongUsage(t *testing.T) {
	b := &served{address: "127.0.0.1:1"}
	b.refuses(t, map[string]refusal{
		"no such command":      {"", []string{"topic", "lsit"}, 2, `"streambus topic" has no command "lsit": did you mean list?`},
		"no such shell":        {"", []string{"completion", "tcsh"}, 2, `has no command "tcsh"`},
		"no name":              {"", []string{"topic", "create"}, 2, "requires at least 1 arg"},
		"a name too many":      {"", []string{"topic", "alter", "a", "b"}, 2, "accepts 1 arg(s), received 2 (streambus topic alter --help says more)"},
		"no such flag":         {"", []string{"topic", "list", "--zookeeper", "x"}, 2, "unknown flag: --zookeeper"},
		"no such form":         {"", []string{"topic", "list", "-o", "xml"}, 2, "must be one of text, json"},
		"no time":              {"", []string{"topic", "list", "--timeout", "0"}, 2, "--timeout 0s: must be more than nothing"},
		"partitions":           {"", []string{"topic", "create", "x", "--partitions", "0"}, 2, "--partitions 0: must be at least 1"},
		"factor":               {"", []string{"topic", "create", "x", "--replication-factor", "-1"}, 2, "--replication-factor -1: must be at least 1"},
		"config":               {"", []string{"topic", "create", "x", "--config", "retention.ms"}, 2, "--config retention.ms: must be of the form key=value"},
		"nothing to alter":     {"", []string{"topic", "alter", "x"}, 2, "nothing to alter"},
		"alter to none":        {"", []string{"topic", "alter", "x", "--partitions", "0"}, 2, "--partitions 0: must be at least 1"},
		"which records":        {"", []string{"topic", "delete-records", "x", "--before", "end"}, 2, "--partition is needed"},
		"how many records":     {"", []string{"topic", "delete-records", "x", "--partition", "all"}, 2, "--before is needed"},
		"compression":          {"", []string{"produce", "x", "--compression", "brotli"}, 2, "must be one of none, gzip, snappy, lz4, zstd"},
		"acks":                 {"", []string{"produce", "x", "--acks", "2"}, 2, "must be one of all, 1, 0"},
		"header":               {"", []string{"produce", "x", "--header", "k"}, 2, "--header k: must be of the form key=value"},
		"no separator":         {"", []string{"produce", "x", "--key-separator", ""}, 2, "must not be empty"},
		"partition below 0":    {"", []string{"produce", "x", "--partition", "-1"}, 2, "--partition -1: must be 0 or more"},
		"from nowhere":         {"", []string{"consume", "x", "--from", "yesterday"}, 2, `invalid argument "yesterday" for "--from"`},
		"from the future":      {"", []string{"consume", "x", "--from", "1h"}, 2, "a time ago as -1h30m"},
		"from a date":          {"", []string{"consume", "x", "--from", "2026-01-31"}, 2, "2006-01-02T15:04:05Z"},
		"from before time":     {"", []string{"consume", "x", "--from", "1969-01-31T00:00:00Z"}, 2, "before 1970"},
		"until the start":      {"", []string{"consume", "x", "--until", "start"}, 2, "nothing comes before it"},
		"two ends":             {"", []string{"consume", "x", "--until", "5", "-e"}, 2, "give one of them"},
		"two forms":            {"", []string{"consume", "x", "-o", "json", "-f", "%v"}, 2, "give one of them"},
		"format":               {"", []string{"consume", "x", "-f", "%s"}, 2, "--format '%s': unknown escape sequence %s"},
		"count":                {"", []string{"consume", "x", "-c", "0"}, 2, "--count 0: must be at least 1"},
		"partition, no number": {"", []string{"consume", "x", "-p", "0,x"}, 2, "must be numbers with commas between them, or all"},
		"log format":           {"", []string{"serve", "--log-format", "xml", "--set", "a"}, 2, "must be one of text, json"},
	})
	for _, address := range []string{"localhost", "localhost:", "localhost:kafka", "a:1,,b:1"} {
		(&served{address: address}).refuses(t, map[string]refusal{
			address: {"", []string{"topic", "list"}, 2, "--bootstrap"},
		})
	}
}

// Shells get a script, and from a broker the names of topics; without one they
// get nothing, soon.
func TestCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		if out, errs, code := run(t, "completion", shell); code != 0 || !strings.Contains(out, "__complete") || errs != "" {
			t.Errorf("%s: exit code %d, %d bytes, %s", shell, code, len(out), errs)
		}
	}
	b := newBroker(t)
	b.must(t, "", "topic", "create", "orders", "payments")
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"topic", "delete", "-b", b.address, ""}, "orders\npayments\n:4\n"},
		{[]string{"topic", "delete", "-b", b.address, "orders", ""}, "payments\n:4\n"},
		{[]string{"consume", "-b", b.address, ""}, "orders\npayments\n:4\n"},
		{[]string{"consume", "-b", b.address, "orders", ""}, ":4\n"},
		{[]string{"consume", "-b", "127.0.0.1:1", ""}, ":4\n"},
		{[]string{"produce", "--acks", ""}, "all\n1\n0\n:4\n"},
	} {
		if out, _, code := run(t, append([]string{"__complete"}, c.args...)...); code != 0 || out != c.want {
			t.Errorf("%q: exit code %d, %q", c.args, code, out)
		}
	}
}
