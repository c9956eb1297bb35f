package main

import (
	"bufio"
	"encoding/json"
	"io"
	"os"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

// days puts three records into partition 0 of a topic of two, a day apart, and
// one into partition 1.
func days(t *testing.T) *served {
	t.Helper()
	b := newBroker(t)
	b.must(t, "", "topic", "create", "days", "--partitions", "2", "--config", "retention.ms=-1")
	at := time.Date(2020, 1, 1, 12, 0, 0, 0, time.UTC)
	b.put(t,
		&kgo.Record{Topic: "days", Key: []byte("k1"), Value: []byte("first"), Timestamp: at},
		&kgo.Record{Topic: "days", Value: []byte("\xff\x00"), Timestamp: at.AddDate(0, 0, 1), Headers: []kgo.RecordHeader{{Key: "h", Value: []byte("<v>")}, {Key: "h"}}},
		&kgo.Record{Topic: "days", Key: []byte("k3"), Timestamp: at.AddDate(0, 0, 2)},
		&kgo.Record{Topic: "days", Partition: 1, Value: []byte("other"), Timestamp: at.AddDate(0, 0, 1).Add(time.Hour)},
	)
	return b
}

func TestConsume(t *testing.T) {
	b := days(t)
	const offsets = `%p:%o `
	for _, c := range []struct {
		args string
		want string
	}{
		{"-e -p 0", "0:0 0:1 0:2 "},
		{"-e -p 1", "1:0 "},
		{"-e -p 0,0 -p 0", "0:0 0:1 0:2 "},
		{"-p all -c 4", "0:0 0:1 0:2 1:0 "},
		{"-e", "0:0 0:1 0:2 1:0 "},
		{"--from start --until end -p 0", "0:0 0:1 0:2 "},
		{"-p 0 -e --from 1", "0:1 0:2 "},
		{"-p 0 -e --from 3", ""},
		{"-p 0 --until 2", "0:0 0:1 "},
		{"-p 0 --from 2 --until 2", ""},
		{"-p 0 --from 2 --until 1", ""},
		{"-p 0 -e --from -2", "0:1 0:2 "},
		{"-p 0 -e --from -9", "0:0 0:1 0:2 "},
		{"-p 0 --until -1", "0:0 0:1 "},
		{"-p 0 -e --from end", ""},
		{"-p 0 --count 2", "0:0 0:1 "},
		{"-p 0 -e -c 9", "0:0 0:1 0:2 "},
		{"-e --from 2020-01-02T12:00:00Z", "0:1 0:2 1:0 "},
		{"-e --from 2020-01-02T12:30:00Z", "0:2 1:0 "},
		{"-e --from 2020-01-02T14:30:00+02:00", "0:2 1:0 "},
		{"-e --from 2020-01-02T12:00:00.001Z", "0:2 1:0 "},
		{"--until 2020-01-02T12:30:00Z", "0:0 0:1 "},
		{"--from 2020-01-02T00:00:00Z --until 2020-01-03T00:00:00Z", "0:1 1:0 "},
		{"-e --from -1h", ""},
		{"--until -1h", "0:0 0:1 0:2 1:0 "},
	} {
		r := b.tool(t, "", append([]string{"consume", "days", "-f", offsets}, strings.Fields(c.args)...)...)
		if r.code != 0 || r.out != c.want && reversed(r.out) != c.want || r.errs != "" {
			t.Errorf("%s: %+v, want %q", c.args, r, c.want)
		}
	}
	if out, want := b.must(t, "", "consume", "days", "-p", "0", "-c", "1", "-f", `%t %p %o %e %K %V %T %H %d{go{2006-01-02T15:04:05Z07:00}} %k=%v{hex}%%\n`), "days 0 0 0 2 5 4 0 2020-01-01T12:00:00Z k1=6669727374%\n"; out != want {
		t.Errorf("%q, want %q", out, want)
	}
}

// reversed puts partition 1 behind partition 0: answers may come in either order.
func reversed(out string) string {
	if rest, ok := strings.CutPrefix(out, "1:0 "); ok {
		return rest + "1:0 "
	}
	return out
}

func TestConsumeJSON(t *testing.T) {
	b := days(t)
	out := b.must(t, "", "consume", "days", "-p", "0", "-e", "-o", "json")
	want := `{"topic":"days","partition":0,"offset":0,"time":"2020-01-01T12:00:00.000Z","key":"k1","value":"first"}
{"topic":"days","partition":0,"offset":1,"time":"2020-01-02T12:00:00.000Z","key":null,"value":null,"valueBase64":"/wA=","headers":[{"key":"h","value":"<v>"},{"key":"h","value":null}]}
{"topic":"days","partition":0,"offset":2,"time":"2020-01-03T12:00:00.000Z","key":"k3","value":null}
`
	if out != want {
		t.Errorf("%s\nwant\n%s", out, want)
	}
	for line := range strings.Lines(out) {
		if !json.Valid([]byte(line)) {
			t.Errorf("no JSON: %s", line)
		}
	}
}

func TestConsumeRefusals(t *testing.T) {
	b := days(t)
	b.refuses(t, map[string]refusal{
		"no such topic":     {"", []string{"consume", "nowhere", "-e"}, 1, `topic nowhere does not exist: "streambus topic create nowhere" creates it`},
		"no such partition": {"", []string{"consume", "days", "-p", "0,2"}, 1, "topic days has no partition 2: it has 2, from 0 to 1"},
		"beyond the end":    {"", []string{"consume", "days", "-p", "0", "--from", "4"}, 1, "partition 0 ends at 3: there is no offset 4 to begin at yet"},
		"not in all":        {"", []string{"consume", "days", "--from", "3"}, 1, "partition 1 ends at 1"},
	})
	b.must(t, "", "topic", "delete-records", "days", "--partition", "0", "--before", "2")
	r := b.tool(t, "", "consume", "days", "-p", "0", "--from", "0", "-e", "-f", "%o")
	if r.code != 0 || r.out != "2" || r.errs != "streambus: topic days: partition 0 starts at 2: what was before is deleted\n" {
		t.Errorf("deleted: %+v", r)
	}
}

// Without an end it waits for more, until an interrupt ends it.
func TestConsumeWaits(t *testing.T) {
	for _, sig := range []os.Signal{os.Interrupt, syscall.SIGTERM} {
		b := newBroker(t)
		b.must(t, "", "topic", "create", "lines")
		p := b.begin(t, "consume", "lines")
		lines := bufio.NewScanner(p.stdout)
		var got []string
		for _, line := range []string{"one", "two", "three"} {
			b.must(t, line, "produce", "lines")
			if !lines.Scan() {
				t.Fatalf("it has ended: %s", p.errs.String())
			}
			got = append(got, lines.Text())
		}
		if want := []string{"one", "two", "three"}; !reflect.DeepEqual(got, want) {
			t.Errorf("%q", got)
		}
		p.cmd.Process.Signal(sig)
		if code := p.end(); code != 0 || p.errs.String() != "" {
			t.Errorf("%v: exit code %d, %s", sig, code, p.errs.String())
		}
	}
}

// An end that is not there yet is waited for.
func TestConsumeWaitsForItsEnd(t *testing.T) {
	b := newBroker(t)
	b.must(t, "", "topic", "create", "lines")
	b.must(t, "one\n", "produce", "lines")
	p := b.begin(t, "consume", "lines", "--until", "3")
	first := make([]byte, 4)
	if _, err := io.ReadFull(p.stdout, first); err != nil {
		t.Fatal(err)
	}
	b.must(t, "two\nthree\nfour\n", "produce", "lines")
	rest, err := io.ReadAll(p.stdout)
	if code := p.end(); code != 0 || string(first)+string(rest) != "one\ntwo\nthree\n" {
		t.Errorf("exit code %d, %q, %v, %s", code, rest, err, p.errs.String())
	}
}

// A reader that has seen enough is no failure.
func TestConsumeBrokenPipe(t *testing.T) {
	b := newBroker(t)
	b.must(t, "", "topic", "create", "lines")
	b.must(t, strings.Repeat("a line of some length\n", 50_000), "produce", "lines")
	p := b.begin(t, "consume", "lines")
	if !bufio.NewScanner(p.stdout).Scan() {
		t.Fatal("nothing")
	}
	p.stdout.Close()
	if code := p.end(); code != 0 || p.errs.String() != "" {
		t.Errorf("exit code %d, %s", code, p.errs.String())
	}
}

// A broker that dies, a broker that stops and a topic that is deleted end a
// command that waits.
func TestConsumeLosesItsBroker(t *testing.T) {
	for name, c := range map[string]struct {
		lose func(t *testing.T, b *served)
		want string
	}{
		"killed":  {func(t *testing.T, b *served) { b.cmd.Process.Kill() }, "has not answered for 1s"},
		"stopped": {func(t *testing.T, b *served) { b.cmd.Process.Signal(syscall.SIGSTOP) }, "has not answered for 1s"},
		"deleted": {func(t *testing.T, b *served) { b.must(t, "", "topic", "delete", "lines") }, "topic lines does not exist"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBroker(t)
			b.must(t, "", "topic", "create", "lines")
			b.must(t, "one\n", "produce", "lines")
			p := b.begin(t, "consume", "lines", "--timeout", "1s")
			first := make([]byte, 4)
			if _, err := io.ReadFull(p.stdout, first); err != nil {
				t.Fatal(err)
			}
			c.lose(t, b)
			if code := p.end(); code != 1 || !strings.HasPrefix(p.errs.String(), "streambus: topic lines") || !strings.Contains(p.errs.String(), c.want) {
				t.Errorf("exit code %d, %s", code, p.errs.String())
			}
		})
	}
}

// Records that are deleted before they are read do not hold up the end.
func TestConsumeOvertakenByDeletion(t *testing.T) {
	b := newBroker(t)
	b.must(t, "", "topic", "create", "lines")
	// More than a client reads ahead.
	b.must(t, strings.Repeat(strings.Repeat("x", 999)+"\n", 8000), "produce", "lines")
	p := b.begin(t, "consume", "lines", "-e", "--timeout", "1s")
	if _, err := io.ReadFull(p.stdout, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	b.must(t, "", "topic", "delete-records", "lines", "--partition", "0", "--before", "end")
	rest, err := io.ReadAll(p.stdout)
	if code := p.end(); code != 0 || err != nil || len(rest)%1000 != 0 || len(rest) > 7000*1000 ||
		p.errs.String() != "streambus: topic lines: partition 0 starts at 8000: what was before is deleted\n" {
		t.Errorf("exit code %d, %d more bytes, %v, %s", code, len(rest), err, p.errs.String())
	}
}
