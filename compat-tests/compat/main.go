// Command compat runs this project's broker and Apache Kafka beside each other,
// does the same with both, with Kafka's own clients and tools, and compares.
// It also has Kafka's tools read this broker's files, and this broker Kafka's.
//
//	go run ./compat -broker ../bin/streambus
//
// It prints one table, and the checks that failed with what was expected and
// what was seen. A difference is a failure unless expected.go says why it is
// right. A part that could not run has failed.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/streambus/streambus/compat-tests/server"
)

// A part is a family of checks. The brokers run when it begins.
type part struct {
	name string
	run  func(context.Context, *bench, *result) error
}

// The one before the last stops Kafka, and the last has brokers of its own.
var parts = []part{
	{"Java client", javaClient},
	{"Java producer, kills", javaKills},
	{"command-line tools", commandLine},
	{"kcat", kcat},
	{"files read by Kafka", filesRead},
	{"Kafka's directories", adopted},
	{"raw requests", conformance},
}

// bench is what the parts work with.
type bench struct {
	bin        string // of this project's broker
	dir        string // for files of the run
	markdown   string // file for the report of the raw requests, "" for none
	ours       *server.Server
	kafka      *server.Server
	brokerJars string
	toolsJars  string
	classes    string // compiled from ../java
}

// result is what came of a part.
type result struct {
	name     string
	checks   int
	failures []string
	took     time.Duration
	met      map[int]bool // of expected
}

// check compares what was seen with what was expected.
func (r *result) check(what, expected, seen string) {
	r.checks++
	if expected == seen {
		return
	}
	if i := reason(r.name, what, expected, seen); i >= 0 {
		r.met[i] = true
		return
	}
	r.failures = append(r.failures, fmt.Sprintf("%s\n  expected: %s\n  seen:     %s", what, indent(expected), indent(seen)))
}

// ok is a check of something that did not work if err is not nil.
func (r *result) ok(what string, err error) {
	seen := "it works"
	if err != nil {
		seen = err.Error()
	}
	r.check(what, "it works", seen)
}

func indent(s string) string {
	return strings.ReplaceAll(strings.TrimRight(s, "\n"), "\n", "\n            ")
}

// settings are those that both brokers are given.
var settings = map[string]string{
	// Records have old timestamps, and are still needed after retention's first look.
	"log.retention.check.interval.ms":         "36000000",
	"log.flush.offset.checkpoint.interval.ms": "1000",
	"log.cleaner.backoff.ms":                  "200",
	"log.cleaner.dedupe.buffer.size":          "10485760",
	// Groups begin soon, and those who are gone are found out soon.
	"group.initial.rebalance.delay.ms": "50",
	"group.min.session.timeout.ms":     "500",
}

// kafkaSettings make Kafka do soon what the parts wait for, and are none of ours.
var kafkaSettings = map[string]string{
	"log.flush.start.offset.checkpoint.interval.ms": "500",
	"log.initial.task.delay.ms":                     "500",
	// A target is computed at once, by who asks.
	"group.consumer.assignment.interval.ms":     "0",
	"group.consumer.min.assignment.interval.ms": "0",
	"group.consumer.assignor.offload.enable":    "false",
}

func main() {
	bin := flag.String("broker", "../bin/streambus", "the broker's binary")
	only := flag.String("run", "", "regular expression: run the parts whose names match")
	markdown := flag.String("markdown", "", "file to write the report of the raw requests to")
	flag.Parse()
	wanted, err := regexp.Compile(*only)
	if err != nil || flag.NArg() > 0 {
		flag.Usage()
		os.Exit(2)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer cancel()
	results, err := compare(ctx, *bin, *markdown, wanted)
	failed := report(results, wanted.String() == "")
	if err != nil {
		fmt.Fprintln(os.Stderr, "compat:", err)
	}
	if err != nil || failed {
		os.Exit(1)
	}
}

// compare starts the brokers and runs the parts.
func compare(ctx context.Context, bin, markdown string, wanted *regexp.Regexp) (results []*result, err error) {
	dir, err := os.MkdirTemp("", "streambus-compat-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	b := &bench{bin: bin, dir: dir, markdown: markdown}
	defer b.stop()
	if err := b.start(ctx); err != nil {
		return nil, err
	}
	for _, p := range parts {
		if !wanted.MatchString(p.name) {
			continue
		}
		r := &result{name: p.name, met: map[int]bool{}}
		results = append(results, r)
		fmt.Fprintln(os.Stderr, "==", p.name)
		begun := time.Now()
		if err := run(ctx, p, b, r); err != nil {
			r.checks++
			r.failures = append(r.failures, fmt.Sprintf("the part ended early: %v", err))
		}
		if len(r.failures) > 0 && !b.ours.Running() {
			r.failures = append(r.failures, "this broker does not run any more; the end of what it printed:\n"+b.ours.Output())
		}
		r.took = time.Since(begun)
	}
	return results, nil
}

// run does not let a part take the others with it.
func run(ctx context.Context, p part, b *bench, r *result) (err error) {
	defer func() {
		if x := recover(); x != nil {
			err = fmt.Errorf("%v\n%s", x, debug.Stack())
		}
	}()
	if err := ctx.Err(); err != nil {
		return err
	}
	for _, s := range []*server.Server{b.ours, b.kafka} {
		if !s.Running() {
			if err := s.Start(ctx); err != nil {
				return err
			}
		}
	}
	return p.run(ctx, b, r)
}

func (b *bench) start(ctx context.Context) (err error) {
	if b.brokerJars, err = server.BrokerJars(ctx); err != nil {
		return err
	}
	if b.toolsJars, err = server.ToolsJars(ctx); err != nil {
		return err
	}
	if err := b.compile(ctx); err != nil {
		return err
	}
	b.ours, b.kafka, err = b.pair(ctx, b.dir)
	return err
}

// pair starts both brokers on new directories.
func (b *bench) pair(ctx context.Context, dir string) (ours, kafka *server.Server, err error) {
	if ours, err = server.StreamBus(ctx, b.bin, dir, settings); err != nil {
		return nil, nil, err
	}
	all := map[string]string{}
	for _, m := range []map[string]string{settings, kafkaSettings} {
		for k, v := range m {
			all[k] = v
		}
	}
	kafka, err = server.Kafka(ctx, b.brokerJars, dir, "1g", all)
	return ours, kafka, err
}

// stop ends what still runs. Parts that judge how a broker stops do it themselves.
func (b *bench) stop() {
	for _, s := range []*server.Server{b.ours, b.kafka} {
		if s != nil && s.Running() {
			s.Kill()
		}
	}
}

// report prints the table and what failed.
func report(results []*result, all bool) (failed bool) {
	met := map[int]bool{}
	for _, r := range results {
		for i := range r.met {
			met[i] = true
		}
	}
	var faults []string
	if len(results) == 0 {
		faults = append(faults, "no part was run")
	}
	for i, e := range expected {
		ran := false
		for _, r := range results {
			ran = ran || r.name == e.part
		}
		if !met[i] && ran {
			faults = append(faults, fmt.Sprintf("a difference is expected that is not there (expected.go): %s, %s", e.part, e.what))
		}
	}
	for _, r := range results {
		if r.checks == 0 {
			faults = append(faults, r.name+": nothing was checked")
		}
		for _, f := range r.failures {
			fmt.Printf("FAILED %s: %s\n\n", r.name, f)
		}
	}
	for _, f := range faults {
		fmt.Printf("FAILED %s\n\n", f)
	}
	total := &result{name: "all"}
	row := func(r *result) {
		fmt.Printf("%-24s %7d %7d %7d %7.0f s\n", r.name, r.checks, r.checks-len(r.failures), len(r.failures), r.took.Seconds())
	}
	fmt.Printf("%-24s %7s %7s %7s %9s\n", "part", "checks", "passed", "failed", "took")
	for _, r := range results {
		row(r)
		total.checks += r.checks
		total.failures = append(total.failures, r.failures...)
		total.took += r.took
	}
	row(total)
	fmt.Printf("%d differences are expected and explained in expected.go\n", len(met))
	if !all {
		fmt.Println("not run: the parts that -run left out")
	}
	return len(total.failures)+len(faults) > 0
}
