package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/streambus/streambus/compat-tests/server"
)

// compile compiles the Java programs. Clients are Kafka's newest, the tools'
// class path has its own.
func (b *bench) compile(ctx context.Context) error {
	b.classes = filepath.Join(b.dir, "classes")
	for file, jars := range map[string]string{"Scripted.java": b.brokerJars, "Tools.java": b.toolsJars, "Checkpoints.java": b.brokerJars} {
		out, err := exec.CommandContext(ctx, "javac", "-nowarn", "-cp", filepath.Join(jars, "*"), "-d", b.classes, filepath.Join("java", file)).CombinedOutput()
		if err != nil {
			return fmt.Errorf("compiling java/%s: %w (a JDK of version 17 or later is needed, and this directory as the working directory)\n%s", file, err, out)
		}
	}
	return nil
}

// java is a command of the Java virtual machine, small enough to run beside the brokers.
func (b *bench) java(ctx context.Context, jars, class string, args ...string) *exec.Cmd {
	all := append([]string{"-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dorg.slf4j.simpleLogger.defaultLogLevel=off",
		"-cp", b.classes + string(os.PathListSeparator) + filepath.Join(jars, "*"), class}, args...)
	return exec.CommandContext(ctx, "java", all...)
}

// javaClient has the same script run against both brokers.
func javaClient(ctx context.Context, b *bench, r *result) error {
	type outcome struct {
		out string
		err error
	}
	ctx, cancel := context.WithTimeout(ctx, 4*time.Minute)
	defer cancel()
	outcomes := map[string]chan outcome{}
	for _, s := range []*server.Server{b.kafka, b.ours} {
		done := make(chan outcome, 1)
		outcomes[s.Name] = done
		go func() {
			var stderr strings.Builder
			cmd := b.java(ctx, b.brokerJars, "Scripted", s.Addr)
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				err = fmt.Errorf("the script against %s: %w\n%s", s.Name, err, stderr.String())
			}
			done <- outcome{string(out), err}
		}()
	}
	kafka, ours := <-outcomes[b.kafka.Name], <-outcomes[b.ours.Name]
	if err := errors.Join(kafka.err, ours.err); err != nil {
		return err
	}
	compareScripts(r, kafka.out, ours.out)
	return nil
}

// compareScripts holds two printed scripts against each other, by what their
// lines are about: a line more or less is one difference, and does not move all
// that come after it.
func compareScripts(r *result, kafka, ours string) {
	order, theirs := about(kafka)
	more, mine := about(ours)
	seen := map[string]bool{}
	for _, what := range append(order, more...) {
		if seen[what] {
			continue
		}
		seen[what] = true
		r.check(what, orNothing(theirs, what), orNothing(mine, what))
	}
	if _, ended := theirs["end, end"]; !ended {
		r.check("the script's end", "end", "nothing")
	}
}

func orNothing(m map[string]string, k string) string {
	if v, ok := m[k]; ok {
		return v
	}
	return "nothing"
}

// about splits lines into what they are about and what they say of it. What is
// said twice is numbered.
func about(text string) (order []string, says map[string]string) {
	says = map[string]string{}
	for line := range strings.Lines(text) {
		fields := strings.SplitN(strings.TrimRight(line, "\n"), "\t", 3)
		if len(fields) != 3 {
			fields = []string{"output", strings.TrimSpace(line), ""}
		}
		what := fields[0] + ", " + fields[1]
		for n := 2; ; n++ {
			if _, again := says[what]; !again {
				break
			}
			what = fmt.Sprintf("%s, %s #%d", fields[0], fields[1], n)
		}
		order = append(order, what)
		says[what] = fields[2]
	}
	return order, says
}

// killRecords are produced while the broker is killed, at each of these counts
// of acknowledgements.
const killRecords = 60000

var killsAt = []int{3000, 10000, 20000, 30000, 40000, 50000}

// javaKills kills a broker while Kafka's idempotent producer writes to it: what
// it was told to be written must be there once, in order.
func javaKills(ctx context.Context, b *bench, r *result) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	s, err := server.StreamBus(ctx, b.bin, filepath.Join(b.dir, "kills"), nil)
	if err != nil {
		return err
	}
	defer func() {
		if s.Running() {
			s.Kill()
		}
	}()
	if err := createTopic(ctx, s.Addr, "killed", 2, nil); err != nil {
		return err
	}
	cmd := b.java(ctx, b.brokerJars, "Scripted", s.Addr, "--until-done", "killed", strconv.Itoa(killRecords))
	cmd.Stderr = io.Discard
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	acked := map[string]string{} // value, by partition and offset
	kills, failed, ended := 0, 0, false
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		f := strings.Split(lines.Text(), "\t")
		switch {
		case len(f) != 4:
			return fmt.Errorf("the producer printed %q", lines.Text())
		case f[0] == "end":
			ended = true
		case f[0] == "failed":
			failed++
			r.check("record "+f[1], "acknowledged", f[2])
		case acked[f[2]+"/"+f[3]] != "":
			r.check("offset "+f[2]+"/"+f[3], "acknowledged for one record", "for "+acked[f[2]+"/"+f[3]]+" and "+f[1])
		default:
			acked[f[2]+"/"+f[3]] = f[1]
		}
		if kills < len(killsAt) && len(acked) >= killsAt[kills] {
			kills++
			if err := s.Kill(); err != nil {
				return err
			}
			if err := s.Start(ctx); err != nil {
				return err
			}
		}
	}
	r.ok("the producer's end", cmd.Wait())
	r.check("the producer came to its end", "true", strconv.FormatBool(ended))
	r.check("kills", strconv.Itoa(len(killsAt)), strconv.Itoa(kills))
	r.check("acknowledged records", strconv.Itoa(killRecords), strconv.Itoa(len(acked)+failed))
	return onceInOrder(ctx, r, s.Addr, acked)
}

// onceInOrder reads what killed has and compares it with the acknowledgements.
func onceInOrder(ctx context.Context, r *result, addr string, acked map[string]string) error {
	all, err := readAll(ctx, addr, "killed", 2)
	if err != nil {
		return err
	}
	seen := map[string]int{}
	latest := map[int32]int{}
	found := 0
	for _, rec := range all {
		value := string(rec.Value)
		seen[value]++
		n, err := strconv.Atoi(value)
		if err != nil {
			return fmt.Errorf("a record with value %q at %d/%d", value, rec.Partition, rec.Offset)
		}
		if last, ok := latest[rec.Partition]; ok && n <= last {
			r.check(fmt.Sprintf("the order at offset %d/%d", rec.Partition, rec.Offset), "after "+strconv.Itoa(last), value)
		}
		latest[rec.Partition] = n
		at := fmt.Sprintf("%d/%d", rec.Partition, rec.Offset)
		if want, ok := acked[at]; ok {
			found++
			if want != value {
				r.check("the record at "+at, want, value)
			}
		}
	}
	twice := 0
	for _, n := range seen {
		if n > 1 {
			twice++
		}
	}
	r.check("acknowledged records that are there", strconv.Itoa(len(acked)), strconv.Itoa(found))
	r.check("records that are there twice", "0", strconv.Itoa(twice))
	return nil
}
