package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// begin starts a tool that goes on until it is ended.
func (b *served) begin(t *testing.T, args ...string) *begun {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	p := &begun{cmd: command(ctx, t, append(args, "--bootstrap", b.address)...)}
	p.cmd.Stderr = &p.errs
	var err error
	if p.stdin, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if p.stdout, err = p.cmd.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cmd.Process.Kill(); p.cmd.Wait() })
	return p
}

type begun struct {
	cmd    *exec.Cmd
	stdin  io.WriteCloser
	stdout io.ReadCloser
	errs   strings.Builder
}

func (p *begun) end() int {
	p.cmd.Wait()
	return p.cmd.ProcessState.ExitCode()
}

func TestProduce(t *testing.T) {
	b := newBroker(t)
	b.must(t, "", "topic", "create", "lines", "--partitions", "3")
	file := filepath.Join(t.TempDir(), "lines")
	if err := os.WriteFile(file, []byte("from a file\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		stdin  string
		args   []string
		errs   string
		stored string // partition 2
	}{
		{"one\n\ntwo", nil, "3 records written to lines\n", "||one\n||\n||two\n"},
		{"", nil, "0 records written to lines\n", ""},
		{"a=1\nb=\n=3=4\n", []string{"-K", "="}, "3 records written to lines\n", "a||1\nb||\n||3=4\n"},
		{"x\n", []string{"-H", "k=v=w", "--header", "l="}, "1 record written to lines\n", "|k:v=w,l:,|x\n"},
		{"", []string{"-f", file}, "1 record written to lines\n", "||from a file\n"},
		{"one\n", []string{"--acks", "1"}, "1 record written to lines\n", "||one\n"},
		{"one\n", []string{"--acks", "0"}, "1 record sent, unconfirmed, to lines\n", "||one\n"},
	} {
		r := b.tool(t, c.stdin, append([]string{"produce", "lines", "--partition", "2"}, c.args...)...)
		if r.code != 0 || r.errs != c.errs || r.out != "" {
			t.Errorf("%q: %+v", c.args, r)
		}
		n := strings.Count(c.stored, "\n")
		if n == 0 {
			continue
		}
		out := b.must(t, "", "consume", "lines", "-p", "2", "--from", fmt.Sprint(-n), "-c", fmt.Sprint(n), "-f", `%k|%h{%k:%v,}|%v\n`)
		if out != c.stored {
			t.Errorf("%q: stored %q", c.args, out)
		}
	}
	// An empty line is an empty value, and not null.
	b.must(t, "\n", "produce", "lines", "-p", "2")
	if out := b.must(t, "", "consume", "lines", "-p", "2", "--from", "-1", "-e", "-o", "json"); !strings.Contains(out, `"key":null,"value":""`) {
		t.Errorf("an empty line: %s", out)
	}
	for _, codec := range []string{"none", "gzip", "snappy", "lz4", "zstd"} {
		b.must(t, strings.Repeat("x", 1000), "produce", "lines", "-p", "1", "-z", codec)
		if out := b.must(t, "", "consume", "lines", "-p", "1", "--from", "-1", "-e", "-f", "%a{compression} %V"); out != codec+" 1000" {
			t.Errorf("%s: %q", codec, out)
		}
	}
	// Keys go where Kafka's own clients send them.
	b.must(t, "alice:\nbob:\ncarol:\n", "produce", "lines", "--key-separator", ":")
	for key, partition := range map[string]string{"alice": "0", "bob": "0", "carol": "2"} {
		if out := b.must(t, "", "consume", "lines", "-e", "-f", `%k %p\n`); !strings.Contains(out, key+" "+partition+"\n") {
			t.Errorf("%s is not in partition %s: %s", key, partition, out)
		}
	}
}

func TestProduceRefusals(t *testing.T) {
	b := newBroker(t)
	b.must(t, "", "topic", "create", "orders", "--partitions", "2")
	b.must(t, "", "topic", "create", "small", "--config", "max.message.bytes=1000")
	b.must(t, "", "topic", "create", "large", "--config", "max.message.bytes=3000000")
	b.refuses(t, map[string]refusal{
		"no such topic":     {"x\n", []string{"produce", "nowhere"}, 1, `topic nowhere does not exist: "streambus topic create nowhere" creates it`},
		"no such partition": {"x\n", []string{"produce", "orders", "-p", "2"}, 1, "topic orders has no partition 2: it has 2, from 0 to 1"},
		"no such file":      {"", []string{"produce", "orders", "-f", "/nowhere"}, 1, "--file: open /nowhere: no such file"},
	})
	long := strings.Repeat("x", 1<<20)
	for name, c := range map[string]struct {
		stdin string
		args  []string
		errs  string
	}{
		"a directory":        {"", []string{"orders", "-f", os.TempDir()}, "0 records written to orders\nstreambus: line 1: read " + os.TempDir() + ": is a directory\n"},
		"too long":           {"one\n" + long + "0123456789abc\nthree\n", []string{"orders"}, "2 records written to orders\nstreambus: line 2: 1048589 bytes: more than topic orders takes"},
		"too long a last":    {"one\n" + long + long, []string{"orders"}, "1 record written to orders\nstreambus: line 2: 2097152 bytes: more than"},
		"a little too long":  {"one\n" + long[:990] + "\n" + strings.Repeat("x\n", 100_000), []string{"small"}, "100001 records written to small\nstreambus: line 2: more than topic small takes: a record with its batch may have 1000 bytes (max.message.bytes)\n"},
		"no key":             {"a:1\nb\nc\n", []string{"orders", "-K", ":"}, "1 record written to orders\nstreambus: line 2: there is no key separator \":\" in it\nstreambus: line 3: there"},
		"more than are told": {strings.Repeat("x\n", 12), []string{"orders", "-K", ":"}, "streambus: line 10: there is no key separator \":\" in it\nstreambus: 2 lines more failed\n"},
	} {
		t.Run(name, func(t *testing.T) {
			r := b.tool(t, c.stdin, append([]string{"produce"}, c.args...)...)
			if r.code != 1 || !strings.Contains(r.errs, c.errs) {
				t.Errorf("exit code %d, %s", r.code, r.errs)
			}
		})
	}
	// A topic's own limit holds in both directions.
	if r := b.tool(t, long+long+"\n", "produce", "large"); r.code != 0 {
		t.Errorf("large: %+v", r)
	}
	if r := b.tool(t, strings.Repeat("0123456789\n", 1000), "produce", "small"); r.code != 0 {
		t.Errorf("many small ones: %+v", r)
	}
}

// What was read is written when an interrupt ends the reading.
func TestProduceInterrupted(t *testing.T) {
	b := newBroker(t)
	b.must(t, "", "topic", "create", "lines")
	p := b.begin(t, "produce", "lines")
	io.WriteString(p.stdin, "one\ntwo\n")
	if out := b.must(t, "", "consume", "lines", "--count", "2"); out != "one\ntwo\n" {
		t.Errorf("%q", out)
	}
	p.cmd.Process.Signal(os.Interrupt)
	if code := p.end(); code != 0 || p.errs.String() != "2 records written to lines\n" {
		t.Errorf("exit code %d, %s", code, p.errs.String())
	}
}

// A broker that dies ends the command, which names the lines that are in doubt.
func TestProduceBrokerGone(t *testing.T) {
	b := newBroker(t)
	b.must(t, "", "topic", "create", "lines")
	p := b.begin(t, "produce", "lines", "--timeout", "3s") // more than a sync takes on a busy disk
	io.WriteString(p.stdin, "one\n")
	b.must(t, "", "consume", "lines", "--count", "1")
	b.cmd.Process.Kill()
	b.cmd.Wait()
	io.WriteString(p.stdin, "two\n")
	if code := p.end(); code != 1 || !strings.HasPrefix(p.errs.String(), "1 record written to lines\nstreambus: line 2: ") {
		t.Errorf("exit code %d, %s", code, p.errs.String())
	}
}
